"""Films with known truth: a camera moves over pictures, shots meet in cuts, dissolves or fades, and words and bars lie on top.

A `Film` is only a description; from it follow, by integer arithmetic, the presentation time of every frame (`ticks`) and every
cut (`cuts`), and, by drawing, the frames themselves (`render`). Frames are RGB `[height, width, 3]` uint8, upright as shown.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curation.pictures import Picture, Scene, keyed, paint
from manifests.ids import uniform

Camera = Literal["pan_right", "pan_left", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "static_shot", "handheld_shot"]
"""Camera-motion classes, named as in Movie Gen, Camera-motion classes."""

VFR_TIME_BASE = Fraction(1, 90_000)
VFR_RATES = (30, 15, 24)
"""Nominal frames per second of the first, second, third shot of a film of variable rate, in turn."""

_SPEED = 0.16  # share of the picture's side that a pan or tilt crosses in a second
_BOB_PX = 8  # a pan also sways this far to each side: a rail is too smooth for a camera
_SHAKE_PX = 12
_WIDE, _NEAR = 1.6, 0.5  # picture pixels per frame pixel at the wide and the near end of a zoom
_NOISE_BANK = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A scene seen by a moving camera for `n_frames` frames that show it alone, entered by a cut or over `overlap` frames."""

    scene: Scene
    n_frames: int
    camera: Camera
    enter: Literal["hard", "dissolve", "fade"] = "hard"
    overlap: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Text burnt into the frames [start_frame, end_frame)."""

    text: str
    start_frame: int
    end_frame: int
    place: Literal["title", "subtitle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Black borders in px of the shown picture."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A synthetic video: what it shows, how it is coded and how it is labelled. Sizes are as shown, after rotation."""

    name: str
    shots: tuple[Shot, ...]
    caption: str = ""
    width: int = 640
    height: int = 360
    fps: Fraction = Fraction(24)
    vfr: bool = False
    words: tuple[Words, ...] = ()
    bars: Bars | None = None
    noise: float = 0.0
    slideshow: bool = False
    rotation: int = 0
    codec: str = "libx264"
    crf: int = 25
    sound: Literal["", "tones", "bursts", "silence"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """`frame`: the first that shows the new shot alone. `start_frame`: the first that a gradual change touches."""

    frame: int
    kind: Literal["hard", "dissolve", "fade"]
    start_frame: int


@dataclass(frozen=True, slots=True)
class _Span:
    shot: Shot
    first: int
    end: int


def cuts(film: Film) -> list[Cut]:
    """Every change of shot, in order."""
    out, at = [], film.shots[0].n_frames
    for shot in film.shots[1:]:
        out.append(Cut(frame=at + shot.overlap, kind=shot.enter, start_frame=at))
        at += shot.overlap + shot.n_frames
    return out


def n_frames(film: Film) -> int:
    """How many frames the film has."""
    return sum(shot.n_frames + shot.overlap for shot in film.shots)


def time_base(film: Film) -> Fraction:
    """Seconds per tick: one frame at a constant rate, 1/90000 at a variable one."""
    return VFR_TIME_BASE if film.vfr else 1 / film.fps


def ticks(film: Film) -> list[int]:
    """Presentation times of all frames, and last the end of the last frame, in `time_base`; strictly rising from 0."""
    if not film.vfr:
        return list(range(n_frames(film) + 1))
    out = [0]
    for number, shot in enumerate(film.shots):
        nominal = VFR_TIME_BASE.denominator // VFR_RATES[number % len(VFR_RATES)]
        # a fifth of jitter either way, as from a telephone that exposes longer in the dark
        jitter = (1 + 0.4 * (uniform(film.name, number, i) - 0.5) for i in range(shot.n_frames + shot.overlap))
        for factor in jitter:
            out.append(out[-1] + round(nominal * factor))
    out[-1] = out[-2] + VFR_TIME_BASE.denominator // VFR_RATES[0]  # the last frame lasts as long as the encoder's nominal rate says
    return out


def render(film: Film) -> Iterator[Picture]:
    """The frames of the film in presentation order."""
    bars = film.bars or Bars()
    width, height = film.width - bars.left - bars.right, film.height - bars.top - bars.bottom
    spans, times = _spans(film), [float(t * time_base(film)) for t in ticks(film)]
    films = [_look(span.shot, width, height, times[span.first : span.end + 1]) for span in spans]
    noise = _noise_bank(film, width, height)
    stamps = [(words, *_letter(words, film.width, film.height)) for words in film.words]
    for i in range(spans[-1].end):
        layers = [next(films[k]) for k, span in enumerate(spans) if span.first <= i < span.end]
        inner = layers[0] if len(layers) == 1 else _blend(film, i, layers[0], layers[1])
        if noise:
            inner = np.asarray(np.clip(inner + noise[i % _NOISE_BANK], 0, 255), np.uint8)
        frame = inner
        if film.bars:
            frame = np.zeros((film.height, film.width, 3), np.uint8)
            frame[bars.top : bars.top + height, bars.left : bars.left + width] = inner
        for words, place, ink, cover in stamps:
            if words.start_frame <= i < words.end_frame:
                frame = frame.copy()  # a standing camera gives the same array again and again
                frame[place] = frame[place] * (1 - cover) + ink * cover
        yield frame


def _spans(film: Film) -> list[_Span]:
    """Where each shot is seen at all, transitions included."""
    out, at = [], 0
    for k, shot in enumerate(film.shots):
        leave = film.shots[k + 1].overlap if k + 1 < len(film.shots) else 0
        out.append(_Span(shot, at, at + shot.overlap + shot.n_frames + leave))
        at += shot.overlap + shot.n_frames
    return out


def _look(shot: Shot, width: int, height: int, times: list[float]) -> Iterator[Picture]:
    """What the camera sees of the scene at each time but the last."""
    import cv2

    seconds = times[-1] - times[0]
    canvas_w, canvas_h = _canvas(shot.camera, width, height, seconds)
    canvas = paint(shot.scene, canvas_w, canvas_h)
    for t in (t - times[0] for t in times[:-1]):
        x, y, scale, angle = _pose(shot.camera, t, seconds, width, height, canvas_w, canvas_h)
        if shot.camera == "static_shot":
            yield canvas
            continue
        a, b = scale * math.cos(angle), scale * math.sin(angle)
        cx, cy = (width - 1) / 2, (height - 1) / 2
        matrix = np.array([[a, -b, x - a * cx + b * cy], [b, a, y - b * cx - a * cy]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        yield np.asarray(cv2.warpAffine(canvas, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT), np.uint8)


def _canvas(camera: Camera, width: int, height: int, seconds: float) -> tuple[int, int]:
    """Size in px of the picture that the camera's way needs."""
    sway = 2 * _BOB_PX + 2
    if camera in ("pan_left", "pan_right"):
        return width + math.ceil(_SPEED * width * seconds) + 2, height + sway
    if camera in ("tilt_up", "tilt_down"):
        return width + sway, height + math.ceil(_SPEED * height * seconds) + 2
    if camera in ("zoom_in", "zoom_out"):
        return math.ceil(width * _WIDE) + 2, math.ceil(height * _WIDE) + 2
    if camera == "handheld_shot":
        return width + 6 * _SHAKE_PX, height + 6 * _SHAKE_PX
    return width, height


def _pose(
    camera: Camera, t: float, seconds: float, width: int, height: int, canvas_w: int, canvas_h: int
) -> tuple[float, float, float, float]:
    """Where the camera looks at t seconds: centre x and y in picture px, picture px per frame px, roll in radians."""
    x, y, u = (canvas_w - 1) / 2, (canvas_h - 1) / 2, t / seconds
    bob = _BOB_PX * math.sin(2 * math.pi * t / 3.1)
    way_x, way_y = (canvas_w - width - 2) * (u - 0.5), (canvas_h - height - 2) * (u - 0.5)
    if camera in ("pan_left", "pan_right"):
        return x + (way_x if camera == "pan_right" else -way_x), y + bob, 1.0, 0.0
    if camera in ("tilt_up", "tilt_down"):
        return x + bob, y + (way_y if camera == "tilt_down" else -way_y), 1.0, 0.0
    if camera in ("zoom_in", "zoom_out"):
        return x, y, _WIDE * (_NEAR / _WIDE) ** (u if camera == "zoom_in" else 1 - u), 0.0
    if camera == "handheld_shot":
        dx = _SHAKE_PX * (math.sin(9.1 * t) + 0.7 * math.sin(14.3 * t + 1.3) + 0.4 * math.sin(23.9 * t + 0.4))
        dy = _SHAKE_PX * (math.sin(8.3 * t + 0.9) + 0.7 * math.sin(15.7 * t + 2.1) + 0.4 * math.sin(22.1 * t))
        return x + dx, y + dy, 1.0, 0.012 * math.sin(6.7 * t)
    return x, y, 1.0, 0.0


def _blend(film: Film, i: int, old: Picture, new: Picture) -> Picture:
    """Frame i of a gradual change: mixed for a dissolve; for a fade, the old shot down to black, then the new one up."""
    cut = next(c for c in cuts(film) if c.start_frame <= i < c.frame)
    share = (i - cut.start_frame + 1) / (cut.frame - cut.start_frame + 1)
    weights = (1 - share, share) if cut.kind == "dissolve" else (max(0.0, 1 - 2 * share), max(0.0, 2 * share - 1))
    return np.asarray(old * np.float32(weights[0]) + new * np.float32(weights[1]), np.uint8)


def _noise_bank(film: Film, width: int, height: int) -> list[NDArray[np.float32]]:
    """A few frames of sensor noise; taken in turn they never stand still."""
    if not film.noise:
        return []
    rng = keyed(film.name, "noise")
    return [rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(film.noise) for _ in range(_NOISE_BANK)]


def _letter(words: Words, width: int, height: int) -> tuple[tuple[slice, slice], NDArray[np.float32], NDArray[np.float32]]:
    """White letters with a black rim: where they lie (rows, columns), their ink `[h, w, 3]`, and its cover `[h, w, 1]` in 0..1."""
    from PIL import Image, ImageDraw, ImageFont

    size = height // 6 if words.place == "title" else height // 13
    font = ImageFont.load_default(size=size)
    ink, cover = Image.new("RGB", (width, height)), Image.new("L", (width, height))
    at = (width / 2, height * (0.45 if words.place == "title" else 0.9))
    ImageDraw.Draw(cover).text(at, words.text, 255, font, anchor="mm", stroke_width=max(2, size // 14))
    ImageDraw.Draw(ink).text(at, words.text, (255, 255, 255), font, anchor="mm")
    left, top, right, bottom = cover.getbbox() or (0, 0, width, height)
    place = slice(top, bottom), slice(left, right)
    share = np.asarray(np.asarray(cover, np.float32)[..., None] / np.float32(255), np.float32)
    return place, np.asarray(ink, np.float32)[place], share[place]
