"""Films of others are read as players show them: by their clock, turned, with square pixels, in their own colours."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media_makers import write_video
from training.errors import TrainingError
from training.film import Film, check_dubbing, dubbed, encode_film, glance, preview, read_film

CORNERS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 200))
"""Red, green, blue and white: of the four quarters of a picture, from the top left by rows."""


def quarters(height: int = 64, width: int = 96) -> np.ndarray:
    """A picture whose four quarters tell how it is turned."""
    picture = np.zeros((height, width, 3), np.uint8)
    for i, colour in enumerate(CORNERS):
        picture[i // 2 * height // 2 :, i % 2 * width // 2 :] = colour
    return picture


def shades(levels: list[int], height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Plain pictures of these levels."""
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


def levels_of(frames: np.ndarray) -> list[int]:
    """Mean level of each picture, to the nearest ten."""
    return [round(float(level) / 10) * 10 for level in frames.mean((1, 2, 3))]


def click(at_s: float, seconds: float = 2.0) -> np.ndarray:
    """Silence with a burst of 20 ms."""
    sound = np.zeros(round(seconds * 48_000), np.float32)
    sound[round(at_s * 48_000) :][:960] = 0.8
    return sound


def onset_s(sound: np.ndarray) -> float:
    """When the sound is first loud."""
    return float(np.argmax(np.abs(sound) > 0.3)) / 48_000


def remuxed(source: bytes, path: Path, late_s: float = 0.0, sound_late_s: float = 0.0) -> Path:
    """The same packets, the streams beginning later."""
    with av.open(io.BytesIO(source)) as read, av.open(str(path), "w", format="mp4") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                late = late_s if packet.stream.type == "video" else sound_late_s
                shift = round(late / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, streams[packet.stream.index]
                out.mux(packet)
    return path


def write_prores(path: Path) -> Path:
    """A QuickTime film of a codec that mp4 has no place for."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("prores_ks", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv422p10le"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(shades([40])[0], format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_turned_as_the_container_says(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    """Each of the eight ways a display matrix can turn a picture gives the one that players show; looking at it and previewing it as well."""
    path, picture = tmp_path / "a.mp4", quarters()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
        stream.set_display_rotation(degrees, hflip=mirrored)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    shown = np.rot90(picture, degrees // 90)
    shown = shown[:, ::-1] if mirrored else shown
    found = read_film(path).frames[0]
    assert found.shape == shown.shape and np.abs(found.astype(int) - shown).mean() < 6
    assert preview(path, 1).frames[0].shape == shown.shape
    square, _ = glance(path, 24, 16)
    assert all(np.abs(square[0, y, x].astype(int) - shown[-y and -1, -x and -1]).max() < 30 for y in (0, 15) for x in (0, 15))


def test_pixels_are_square(tmp_path: Path) -> None:
    """A film of 48 x 32 pixels that are twice as wide as high is read at 96 x 32."""
    data = encode_film(Film(frames=np.stack(shades([100] * 3)), fps=Fraction(24)))
    with av.open(io.BytesIO(data)) as read, av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream_from_template(read.streams.video[0])
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = Fraction(2)
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    assert read_film(tmp_path / "a.mp4").frames.shape == (3, 32, 96, 3)


def test_a_varying_rate_becomes_a_constant_one(tmp_path: Path) -> None:
    """Pictures shown at 0, 100, 200 and 900 ms stand as long as they are shown: the third for 0.7 s, whatever their number."""
    path = write_video(tmp_path / "a.mp4", shades([40, 90, 140, 190]), times_ms=[0, 100, 200, 900])
    found = read_film(path)
    at = [levels_of(found.frames)[int(t * found.fps)] for t in (0.0, 0.3, 0.5, 0.85)]
    assert at[0] == 40 and at[1:3] == [140, 140] and 0.9 < found.duration_s < 1.4
    squares, seconds = glance(path, 20.0, 16)
    assert levels_of(squares[:18]) == [40, 40, 90, 90, *[140] * 14] and set(levels_of(squares[18:])) == {190}
    assert abs(len(squares) / 20 - seconds) < 0.05


def test_a_constant_rate_keeps_every_picture(tmp_path: Path) -> None:
    """Films of 24, 29.97 and 12 pictures a second come back picture by picture."""
    levels = list(range(20, 240, 10))
    for fps in (Fraction(24), Fraction(30_000, 1001), Fraction(12)):
        Film(frames=np.stack(shades(levels)), fps=fps).save(tmp_path / "a.mp4")
        found = read_film(tmp_path / "a.mp4")
        assert found.fps == fps and levels_of(found.frames) == levels


def test_time_is_counted_from_the_first_picture(tmp_path: Path) -> None:
    """Where pictures begin half a second after the container's clock, sound and pictures are still heard and seen together; where the sound
    begins later than they do, silence stands before it."""
    film = Film(frames=np.stack(shades([40] * 24 + [200] * 24)), fps=Fraction(24), sound=click(1.0))
    late = remuxed(encode_film(film), tmp_path / "late.mp4", 0.5, 0.5)
    found = read_film(late)
    assert found.sound is not None and onset_s(found.sound) == pytest.approx(1.0, abs=0.03)
    assert len(found.frames) == 48 and levels_of(found.frames[[23, 24]]) == [40, 200]
    squares, seconds = glance(late, 4.0, 16)
    assert levels_of(squares) == [40] * 4 + [200] * 4 and seconds == pytest.approx(2.0)
    for picture_s, sound_s, at_s in ((0.5, 0.0, 0.5), (0.0, 0.25, 1.25)):
        found = read_film(remuxed(encode_film(film), tmp_path / "apart.mp4", picture_s, sound_s))
        assert found.sound is not None and onset_s(found.sound) == pytest.approx(at_s, abs=0.03)


def test_a_dubbed_film_is_in_sync(tmp_path: Path) -> None:
    """A sound made for the pictures begins with the first of them, however late they are; how they are turned stays."""
    silent = Film(frames=np.stack(shades([40] * 48)), fps=Fraction(24))
    late = remuxed(encode_film(silent), tmp_path / "late.mp4", 0.75)
    (tmp_path / "heard.mp4").write_bytes(dubbed(late, click(1.0)))
    found = read_film(tmp_path / "heard.mp4")
    assert found.sound is not None and onset_s(found.sound) == pytest.approx(1.0, abs=0.03)
    with av.open(str(tmp_path / "heard.mp4")) as heard:
        assert float(heard.streams.video[0].start_time * heard.streams.video[0].time_base) == pytest.approx(0.75)
    turned = write_video(tmp_path / "turned.mp4", [quarters()] * 24, rotation=90)
    (tmp_path / "heard.mp4").write_bytes(dubbed(turned, click(0.5, 1.0)))
    assert read_film(tmp_path / "heard.mp4").frames.shape[1:3] == (96, 64)


@pytest.mark.parametrize("size", [(64, 96), (720, 1280)])
def test_saturated_colours_come_back(tmp_path: Path, size: tuple[int, int]) -> None:
    """Red, green and blue come back within a few levels from small films and from 720p, and the file says BT.709 in limited range, so that
    every player shows them so."""
    for colour in ((250, 10, 10), (10, 250, 10), (10, 10, 250)):
        Film(frames=np.broadcast_to(np.array(colour, np.uint8), (2, *size, 3)), fps=Fraction(24)).save(tmp_path / "a.mp4")
        assert np.abs(read_film(tmp_path / "a.mp4").frames.astype(int) - colour).max() <= 4
    with av.open(str(tmp_path / "a.mp4")) as film:
        context = film.streams.video[0].codec_context
        assert [int(v) for v in (context.color_primaries, context.color_trc, context.colorspace, context.color_range)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("height", "said", "matrix"), [(64, 1, "ITU709"), (64, 5, "ITU601"), (64, 2, "ITU601"), (720, 2, "ITU709")])
def test_colours_are_read_as_they_are_said_to_be(tmp_path: Path, height: int, said: int, matrix: str) -> None:
    """The matrix that the film names is used; where it names none, that which players take for its size."""
    colour = np.array((230, 30, 60), np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = height, 96, "yuv420p"
        stream.codec_context.colorspace = said
        rgb = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (height, 96, 3)).copy(), format="rgb24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace=matrix, src_color_range="JPEG", dst_color_range="MPEG")
        frame.colorspace = said
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert np.abs(read_film(tmp_path / "a.mp4").frames.astype(int) - colour).max() <= 4


def test_pictures_are_scaled_as_they_are_decoded(tmp_path: Path) -> None:
    """With `fit` frames come at the size it makes of the shown one, covered and cut to the middle; a turned film is fitted as shown."""
    turned, asked = write_video(tmp_path / "a.mp4", [quarters(64, 96)] * 6, rotation=90), []

    def fit(width: int, height: int) -> tuple[int, int]:
        asked.append((width, height))
        return 32, 32

    found = read_film(turned, 4, fit)
    assert found.frames.shape == (4, 32, 32, 3) and found.frames.dtype == np.uint8 and set(asked) == {(64, 96)}
    assert np.abs(found.frames[0, 2, 2].astype(int) - np.rot90(quarters(), -1)[40, 2]).max() < 25


def test_a_film_that_mp4_cannot_hold_is_said_before_its_sound_is_made(tmp_path: Path) -> None:
    """Pictures in ProRes cannot be put in an mp4 as they are; a file without pictures has none to dub."""
    write_video(tmp_path / "a.mp4", shades([40]))
    check_dubbing(tmp_path / "a.mp4")
    write_prores(tmp_path / "b.mov")
    (tmp_path / "c.mp4").write_bytes(b"no film")
    for name in ("b.mov", "c.mp4"):
        with pytest.raises(TrainingError, match=f"{name}: soundtrack: expected pictures that an mp4 can hold"):
            check_dubbing(tmp_path / name)
