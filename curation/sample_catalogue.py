"""What is in the sample set, file by file: plain data. No two shots or images show the same thing, except in the listed copies.

Films are 8 to 13 s and small. Most give at least one clip of 4 s or more after an opening trim of 1 s; the others are there to be
dropped: standing pictures, burnt-in words, borders, a slideshow, reserved rights, files that do not open.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from curation.pictures import Scene
from curation.sample_writers import Copy, Sound
from curation.synthesis import Bars, Camera, Film, Shot, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A still image, sized as shown; `rotation` is the clockwise turn its EXIF asks for."""

    name: str
    scene: Scene
    width: int
    height: int
    rotation: int = 0
    caption: str = ""


def _photo(photo: str, left: int, top: int, right: int, bottom: int) -> Scene:
    return Scene(key=f"{photo}/{left}/{top}", photo=photo, box=(left, top, right, bottom))


def _drawn(drawing: str, palette: str, number: int = 0) -> Scene:
    return Scene(key=f"{drawing}/{palette}/{number}", drawing=drawing, palette=palette)


def _shot(scene: Scene, n_frames: int, camera: Camera, enter: Literal["hard", "dissolve", "fade"] = "hard", overlap: int = 0) -> Shot:
    return Shot(scene=scene, n_frames=n_frames, camera=camera, enter=enter, overlap=overlap)


FILMS: tuple[Film, ...] = (
    Film(
        name="pan_right.mp4",
        caption="A cup of coffee on a wooden table, then a floor of autumn leaves, seen by a camera that pans right.",
        fps=Fraction(24),
        sound="tones",
        shots=(_shot(_photo("coffee.png", 0, 20, 600, 260), 150, "pan_right"), _shot(_drawn("leaves", "autumn"), 122, "pan_right")),
    ),
    Film(
        name="pan_left.mp4",
        fps=Fraction(50),
        shots=(_shot(_drawn("skyline", "dusk"), 290, "pan_left"), _shot(_photo("gravel.png", 0, 0, 512, 200), 240, "pan_left")),
    ),
    Film(
        name="tilt_up.mp4",
        caption="A tall stained-glass window in blue and gold, then heaped balls in bright colours.",
        width=360,
        height=640,
        fps=Fraction(30),
        sound="bursts",
        shots=(_shot(_drawn("glass", "sea"), 185, "tilt_up"), _shot(_drawn("bubbles", "candy"), 150, "tilt_up")),
    ),
    Film(
        name="tilt_down.mp4",
        width=480,
        height=480,
        fps=Fraction(25),
        codec="libx265",
        crf=27,
        shots=(_shot(_photo("brick.png", 0, 0, 256, 512), 155, "tilt_down"), _shot(_drawn("marble", "desert"), 120, "tilt_down")),
    ),
    Film(
        name="zoom_in.mp4",
        caption="Coming close to the face of a tabby cat, and then to leaves with red and yellow among the green.",
        fps=Fraction(25),
        sound="tones",
        shots=(_shot(_photo("chelsea.png", 0, 0, 451, 300), 150, "zoom_in"), _shot(_drawn("leaves", "meadow"), 125, "zoom_in")),
    ),
    Film(
        name="zoom_out.mp4",
        caption="A photographer bends over his camera on a lawn; a stained-glass window in red and orange.",
        fps=Fraction(30_000, 1001),
        sound="silence",
        shots=(_shot(_photo("camera.png", 40, 60, 340, 360), 180, "zoom_out"), _shot(_drawn("glass", "autumn"), 150, "zoom_out")),
    ),
    Film(
        name="handheld.mp4",
        fps=Fraction(60),
        shots=(_shot(_photo("rocket.jpg", 0, 0, 640, 427), 510, "handheld_shot"),),
    ),
    Film(
        name="static.mp4",
        caption="Pale towers, then hills in pink and green, each standing still.",
        fps=Fraction(25),
        noise=1.5,
        shots=(
            _shot(_drawn("skyline", "ice"), 145, "static_shot"),
            _shot(_drawn("ridges", "candy"), 120, "static_shot"),
        ),
    ),
    Film(
        name="quick_cuts.mp4",
        fps=Fraction(24),
        sound="bursts",
        shots=(
            _shot(_drawn("ridges", "dusk"), 48, "pan_right"),
            _shot(_photo("grass.png", 0, 0, 512, 200), 120, "pan_left"),
            _shot(_drawn("glass", "candy"), 36, "zoom_in"),
            _shot(_drawn("skyline", "sea"), 60, "pan_right"),
            _shot(_drawn("marble", "autumn"), 40, "zoom_out"),
        ),
    ),
    Film(
        name="dissolve.webm",
        caption="Green hills under a pale sky dissolve into leaves in evening colours.",
        fps=Fraction(24),
        codec="libvpx-vp9",
        crf=36,
        shots=(_shot(_drawn("ridges", "meadow"), 138, "pan_right"), _shot(_drawn("leaves", "dusk"), 122, "pan_left", "dissolve", 24)),
    ),
    Film(
        name="fades.mp4",
        fps=Fraction(30),
        shots=(_shot(_drawn("bubbles", "sea"), 175, "pan_left"), _shot(_drawn("skyline", "desert"), 145, "zoom_in", "fade", 30)),
    ),
    Film(
        name="title.mp4",
        caption="A blue stone with white veins under a title, then leaves the colour of sand.",
        fps=Fraction(24),
        shots=(_shot(_drawn("marble", "ice"), 144, "pan_right"), _shot(_drawn("leaves", "desert"), 120, "zoom_out")),
        words=(Words(text="THE QUIET HARBOUR", start_frame=12, end_frame=144, place="title"),),
    ),
    Film(
        name="subtitles.mp4",
        fps=Fraction(25),
        sound="tones",
        shots=(_shot(_drawn("ridges", "sea"), 150, "pan_left"), _shot(_drawn("bubbles", "autumn"), 120, "tilt_down")),
        words=(
            Words(text="We left before the sun was up.", start_frame=20, end_frame=90, place="subtitle"),
            Words(text="Nobody had told us about the road.", start_frame=95, end_frame=150, place="subtitle"),
            Words(text="It rained for three more days.", start_frame=150, end_frame=262, place="subtitle"),
        ),
    ),
    Film(
        name="letterbox.mp4",
        fps=Fraction(24),
        bars=Bars(top=46, bottom=46),
        shots=(_shot(_drawn("leaves", "sea"), 144, "pan_right"), _shot(_photo("brick.png", 256, 0, 512, 130), 120, "pan_right")),
    ),
    Film(
        name="pillarbox.mp4",
        fps=Fraction(30),
        bars=Bars(left=96, right=96),
        shots=(_shot(_photo("grass.png", 0, 256, 400, 512), 180, "tilt_up"), _shot(_drawn("skyline", "candy"), 150, "pan_left")),
    ),
    Film(
        name="slideshow.mp4",
        fps=Fraction(25),
        slideshow=True,
        shots=(
            _shot(_photo("gravel.png", 0, 270, 400, 500), 50, "static_shot"),
            _shot(_drawn("glass", "meadow"), 50, "static_shot"),
            _shot(_photo("hubble_deep_field.jpg", 0, 0, 500, 290), 125, "static_shot"),
            _shot(_drawn("ridges", "ice"), 50, "static_shot"),
        ),
    ),
    Film(
        name="vfr.mp4",
        caption="A stained-glass window in evening colours, hills of sand, heaped balls of ice.",
        vfr=True,
        shots=(
            _shot(_drawn("glass", "dusk"), 150, "pan_right"),
            _shot(_drawn("ridges", "desert"), 70, "pan_left"),
            _shot(_drawn("bubbles", "ice"), 40, "zoom_in"),
        ),
    ),
    Film(
        name="phone.mp4",
        caption="Towers in red and brown seen from a window, then polished stone in green and pink, filmed upright.",
        width=360,
        height=640,
        fps=Fraction(30),
        rotation=90,
        sound="bursts",
        shots=(_shot(_drawn("skyline", "autumn"), 180, "pan_right"), _shot(_drawn("marble", "meadow"), 150, "tilt_up")),
    ),
    Film(
        name="old_camera.avi",
        width=480,
        height=360,
        fps=Fraction(25),
        codec="mpeg4",
        shots=(_shot(_drawn("leaves", "ice"), 150, "zoom_out"), _shot(_drawn("bubbles", "meadow"), 115, "pan_left")),
    ),
)
TRUNCATED = Film(name="truncated.mp4", shots=(_shot(_drawn("marble", "sea"), 72, "pan_right"),))
"""Written whole, then cut off before its index."""

COPIES: tuple[Copy, ...] = (
    Copy(name="pan_right_again.mp4", of="pan_right.mp4", edit="exact"),
    Copy(name="pan_right_lowrate.mp4", of="pan_right.mp4", edit="lowrate"),
    Copy(name="pan_right_crop.mp4", of="pan_right.mp4", edit="crop"),
    Copy(name="tilt_up_logo.mp4", of="tilt_up.mp4", edit="logo"),
    Copy(name="tilt_up_small.mp4", of="tilt_up.mp4", edit="small"),
    Copy(name="zoom_in_lowrate.mp4", of="zoom_in.mp4", edit="lowrate"),
    Copy(name="zoom_in_logo.mp4", of="zoom_in.mp4", edit="logo"),
)

IMAGES: tuple[Image, ...] = (
    Image(name="upright.jpg", scene=_photo("astronaut.png", 130, 0, 330, 250), width=480, height=600, rotation=90),
    Image(name="stars.webp", scene=_photo("hubble_deep_field.jpg", 460, 400, 1000, 872), width=720, height=480),
    Image(name="window.png", scene=_drawn("glass", "ice"), width=480, height=480, caption="A pale stained-glass window."),
    Image(name="coins.jpg", scene=_photo("coins.png", 0, 0, 384, 216), width=640, height=360),  # of no stated licence
    Image(name="picture.mp4", scene=_drawn("bubbles", "dusk"), width=640, height=400),  # a JPEG under a video's name
)

SOUNDS: tuple[tuple[str, Sound, float], ...] = (("melody.wav", "tones", 7.0), ("bursts.flac", "bursts", 6.0), ("quiet.mp3", "quiet", 6.0))

BROKEN = (TRUNCATED.name, "empty.mp4", "notes.mp4", "noise.jpg")
NO_SIDECAR = ("window.png", "bursts.flac")
RESERVED = ("pan_left.mp4", "stars.webp")
