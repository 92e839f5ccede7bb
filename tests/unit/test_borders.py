"""Borders: every kind is found with its size, from tracks alone, and what only looks like a border is not."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.border_truth import Variant, track_of
from curation.borders import COLUMNS, BordersConfig, BordersObserver, border_track_of_picture, measure_clip_borders
from curation.observe import Frame
from curation.orientation import Orientation
from curation.probe import probe
from curation.scan import tracks_of
from curation.tracks import Track
from manifests.records import Clip
from tests.media_makers import pan, scene

CFG = BordersConfig()
TRUTH = Path(__file__).parent.parent / "data" / "border_truth.json"


def clip(width: int, height: int, start_us: int = 0, end_us: int = 60_000_000) -> Clip:
    """A clip of the size."""
    return Clip(clip_id="c", asset_id="a", kind="video", start_us=start_us, end_us=end_us, width=width, height=height)


def measured(track: Track, width: int, height: int, **span: int) -> dict:
    """The columns from a track."""
    return measure_clip_borders(clip(width, height, **span), {"borders": track}, CFG)


def sides(fields: dict) -> tuple[int, int, int, int]:
    """Top, bottom, left and right."""
    return tuple(fields[f"border_{s}"] for s in ("top", "bottom", "left", "right"))


def behind_bars(top: int = 0, bottom: int = 0, left: int = 0, right: int = 0, level: int = 16) -> list[np.ndarray]:
    """Small luma frames of a pan [90, 160] behind bars."""
    rng = np.random.Generator(np.random.Philox(key=5))
    frames = []
    for picture in pan(1, 20, dx=3, width=160, height=90):
        luma = (picture[..., 1] * 0.8 + 24).astype(np.uint8)
        bars = np.ones_like(luma, bool)
        bars[top : 90 - bottom, left : 160 - right] = False
        frames.append(np.where(bars, level + rng.integers(0, 3, luma.shape), luma).astype(np.uint8))
    return frames


def watched(frames: list[np.ndarray], turn: Orientation | None = None) -> Track:
    """The observer's track of small luma frames, five a second."""
    observer = BordersObserver()
    for i, y in enumerate(frames):
        half = y[::2, ::2]
        observer.push(Frame(i * 200_000, y, half, half, None, turn or Orientation()))  # type: ignore[arg-type]
    (track,) = observer.finish()
    return track


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([0, 3, 11, 25]),
    st.sampled_from([0, 3, 11, 25]),
    st.sampled_from([0, 4, 20, 50]),
    st.sampled_from([0, 4, 20, 50]),
    st.sampled_from([16, 235]),
)
def test_bars_are_measured_on_every_side(top: int, bottom: int, left: int, right: int, level: int) -> None:
    """Letterbox, pillarbox and window, black or white: within two small rows, scaled to the full size; the share follows."""
    fields = measured(watched(behind_bars(top, bottom, left, right, level)), 1600, 900)
    assert np.abs(np.array(sides(fields)) - 10 * np.array([top, bottom, left, right])).max() <= 20
    expected = 1 - (90 - top - bottom) * (160 - left - right) / (90 * 160)
    assert fields["border_share"] == pytest.approx(expected, abs=0.06)
    flat, upright = bool(top or bottom), bool(left or right)
    assert fields["border_kind"] == [["none", "pillarbox"], ["letterbox", "window"]][flat][upright]


@pytest.mark.parametrize(
    ("number", "kind", "size", "borders"),
    [
        (1, "letterbox", (640, 360), {"top": 45, "bottom": 45, "subtitles": True}),
        (2, "pillarbox", (640, 360), {"left": 219, "right": 219, "colour": (30, 60, 200)}),
        (3, "window", (480, 270), {"top": 27, "bottom": 27, "left": 48, "right": 48, "colour": (255, 255, 255), "logo": True}),
        (4, "one", (480, 270), {"bottom": 40, "crf": 40}),
        (5, "blurred", (640, 360), {"left": 220, "right": 220}),
        (6, "blurred", (270, 480), {"top": 120, "bottom": 120, "still": True}),
        (7, "frame", (480, 270), {"top": 30, "bottom": 30, "left": 50, "right": 50}),
    ],
)
def test_every_kind_survives_compression(number: int, kind: str, size: tuple[int, int], borders: dict) -> None:
    """A moving picture with letterbox, bars of any colour, a blurred fill or a patterned frame, coded as H.264: right kind, sides within 2 %."""
    width, height = size
    v = Variant(number=number, kind=kind, width=width, height=height, **borders)
    fields = measured(track_of(v, pan(9, 16, dx=9, dy=4, width=640, height=480)), width, height)
    assert fields["border_kind"] == {"one": "letterbox"}.get(kind, kind)
    assert np.all(np.abs(np.array(sides(fields)) - v.sides) <= 0.02 * np.array([height, height, width, width]) + 1)
    assert fields["border_share"] == pytest.approx(v.share, abs=0.03)


@pytest.mark.parametrize("kind", ["clip", "vignette", "fade", "title", "skyline", "horizon", "dark", "logo"])
def test_what_is_no_border(kind: str) -> None:
    """A moving picture as it is, vignetted, faded in, dark but for a spot, under a plain sky or with a logo, and a title card have none."""
    v = Variant(number=11, kind=kind, width=480, height=270, crf=30, logo=kind == "logo")
    fields = measured(track_of(v, pan(9, 16, dx=9, dy=4, width=640, height=480)), 480, 270)
    assert (fields["border_share"], fields["border_kind"], sides(fields)) == (0.0, "none", (0, 0, 0, 0))


def test_a_dark_scene_has_no_borders() -> None:
    """A small light on black is a scene, and so is black."""
    y, x = np.mgrid[:90, :160]
    frames = [(16 + 180 * np.exp(-((x - 60 - i) ** 2 + (y - 45) ** 2) / 200)).astype(np.uint8) for i in range(20)]
    assert sides(measured(watched(frames), 1600, 900)) == (0, 0, 0, 0)
    assert measured(watched([np.full((90, 160), 16, np.uint8)]), 1600, 900)["border_share"] == 0


def test_plain_parts_that_move_are_no_border() -> None:
    """Two slides, each with its own plain bar, have no border in common; a clip of one slide has its own."""
    first, second = scene(1, 160, 90)[..., 1] // 2 + 60, scene(2, 160, 90)[..., 1] // 2 + 60
    first[:20] = 16
    second[:, :30] = 235
    track = watched([first] * 25 + [second] * 25)
    assert len(track) > 2, "a cut ends a span"
    assert measured(track, 160, 90)["border_share"] == 0
    assert measured(track, 160, 90, end_us=5_000_000)["border_top"] == pytest.approx(20, abs=1)
    assert measured(track, 160, 90, start_us=5_000_000)["border_left"] == pytest.approx(30, abs=1)


def test_clip_bounds_need_no_spans_of_their_own() -> None:
    """Any clip of a letterboxed video has its letterbox, even one that lies inside a span; a clip beside the video has nulls."""
    track = watched(behind_bars(top=11, bottom=11) * 3)
    for start, end in ((0, 12_000_000), (1_300_000, 5_900_000), (4_100_000, 4_900_000)):
        assert measured(track, 1600, 900, start_us=start, end_us=end)["border_top"] == pytest.approx(110, abs=10)
    assert measured(track, 1600, 900, start_us=60_000_000, end_us=61_000_000) == dict.fromkeys(COLUMNS)


def resting(seed: int, height: int, width: int) -> list[np.ndarray]:
    """Luma frames of a resting camera: a textured scene before which a small thing moves."""
    picture = scene(seed, width, height)[..., 1] // 2 + 60
    frames = []
    for i in range(20):
        frame = picture.copy()
        frame[height // 3 : height // 2, 2 * i : 2 * i + width // 3] = 200
        frames.append(frame.astype(np.uint8))
    return frames


@pytest.mark.parametrize(("top", "left", "moves"), [(15, 24, True), (0, 30, True), (20, 0, True), (0, 6, True), (15, 24, False)])
def test_a_graphic_around_a_resting_camera(top: int, left: int, moves: bool) -> None:
    """A striped graphic is found by its edges where little inside it moves, on four sides or on two, and if it is narrow; on four sides also
    where nothing moves."""
    y, x = np.mgrid[:90, :160]
    graphic = np.where((x + y) // 7 % 2, 180, 90).astype(np.uint8)
    frames = []
    pictures = resting(2, 90 - 2 * top, 160 - 2 * left)
    for inner in pictures if moves else pictures[:1] * 20:
        frame = graphic.copy()
        frame[top : 90 - top, left : 160 - left] = inner
        frames.append(frame)
    fields = measured(watched(frames), 160, 90)
    assert fields["border_kind"] == "frame"
    assert np.abs(np.array(sides(fields)) - (top, top, left, left)).max() <= 2


@pytest.mark.parametrize("seed", range(8))
def test_a_resting_camera_alone_has_no_borders(seed: int) -> None:
    """What stands still has edges everywhere, but no straight ones around all that moves, nor long ones where nothing does."""
    frames = resting(seed, 90, 160)
    assert measured(watched(frames), 160, 90)["border_kind"] == "none"
    assert measured(watched(frames[:1] * 20), 160, 90)["border_kind"] == "none"


def coloured(luma: list[np.ndarray], blue: np.ndarray) -> Track:
    """The observer's track of small luma frames under one colour plane, five a second."""
    observer = BordersObserver()
    for i, y in enumerate(luma):
        observer.push(Frame(i * 200_000, y, blue, np.full_like(blue, 128), None, Orientation()))  # type: ignore[arg-type]
    return observer.finish()[0]


@pytest.mark.parametrize(("share", "kind"), [(0, "none"), (1, "frame")])
def test_a_graphic_that_differs_in_colour_alone(share: int, kind: str) -> None:
    """Two-coloured strips at the sides, of the very luma of the resting scene that goes on in them, are found by their colour."""
    blue = np.full((45, 80), 128, np.uint8)
    blue[:, :15] = blue[:, -15:] = 128 + share * np.where(np.arange(45) // 6 % 2, 40, 70)[:, None]
    luma = [y.copy() for y in resting(5, 90, 160)]
    for y in luma:
        y[:, :30], y[:, -30:] = luma[0][:, :30], luma[0][:, -30:]
    fields = measured(coloured(luma, blue), 160, 90)
    assert fields["border_kind"] == kind
    assert np.abs(np.array(sides(fields)) - share * np.array([0, 0, 30, 30])).max() <= 2


def test_a_bar_that_differs_in_colour_alone() -> None:
    """Blue pillars of the luma of the even picture between them are found."""
    rng = np.random.Generator(np.random.Philox(key=6))
    luma = [(100 + rng.integers(0, 3, (90, 160))).astype(np.uint8) for _ in range(20)]
    blue = np.full((45, 80), 110, np.uint8)
    blue[:, :10] = blue[:, -10:] = 180
    fields = measured(coloured(luma, blue), 160, 90)
    assert fields["border_kind"] == "pillarbox"
    assert np.abs(np.array(sides(fields)) - (0, 0, 20, 20)).max() <= 2


def test_a_small_video_has_maps_too() -> None:
    """The smallest frame, of fewer colour px than there are bands, leaves numbers."""
    track = watched([np.full((16, 16), 40 + i, np.uint8) for i in range(8)])
    assert measured(track, 16, 16)["border_kind"] == "none"


def test_the_margin_of_a_page_is_no_border() -> None:
    """The empty end of a table, of the level between its lines, is no border though a line ends the table."""
    rng = np.random.Generator(np.random.Philox(key=3))
    page = np.full((90, 160), 220, np.uint8)
    for row in range(0, 68, 5):
        page[row : row + 2] = rng.integers(200, 220, 160)
    page[70:72] = 190
    frames = [page.copy() for _ in range(20)]
    for i, frame in enumerate(frames):
        frame[30:34, 4 * i : 4 * i + 10] = 150
    assert measured(watched(frames), 160, 90)["border_kind"] == "none"
    track, easy = watched(frames), BordersConfig(lone_empty_share=1.0)
    assert measure_clip_borders(clip(160, 90), {"borders": track}, easy)["border_bottom"] == pytest.approx(18, abs=2)


def test_noise_does_not_hide_a_lone_bar() -> None:
    """A bar at one side that changes as noise does, evenly and up to a lasting edge, is a border; a sky that moves is none."""
    rng = np.random.Generator(np.random.Philox(key=4))
    noisy = [np.clip(f + rng.normal(0, 4.5, f.shape), 0, 255).astype(np.uint8) for f in behind_bars(left=20, level=120)]
    assert measured(watched(noisy), 160, 90)["border_left"] == pytest.approx(20, abs=2)


def test_turned_video_is_measured_as_shown() -> None:
    """The scan's scaler leans to one end of a stored line; pillars of an upright, mirrored or turned video come out alike on both sides."""
    for turn in (Orientation(), Orientation(flip_x=True), Orientation(transpose=True), Orientation(transpose=True, flip_x=True)):
        # as the scaler leaves it: small px i shows full px i * (full - 2) / (small - 2)
        stored = np.arange(160) * (1600 - 2) / (160 - 2)
        bars = (stored < 200) | (stored >= 1400)
        frames = [np.where(bars, 16, f).astype(np.uint8) for f in behind_bars()]
        fields = measured(
            watched([np.ascontiguousarray(turn.apply(f)) for f in frames], turn), *((900, 1600) if turn.transpose else (1600, 900))
        )
        pair = ("border_top", "border_bottom") if turn.transpose else ("border_left", "border_right")
        assert [fields[name] for name in pair] == [pytest.approx(200, abs=6)] * 2


def test_stills_go_the_same_way() -> None:
    """A picture on a white page has a window of its size; a picture alone has none."""
    page = np.full((800, 1200, 3), 255, np.uint8)
    page[100:700, 150:1050] = scene(3, 900, 600)
    fields = measured(border_track_of_picture(page), 1200, 800)
    assert fields["border_kind"] == "window" and np.abs(np.array(sides(fields)) - (100, 100, 150, 150)).max() <= 8
    assert measured(border_track_of_picture(scene(3, 900, 600)), 900, 600)["border_kind"] == "none"


def test_no_frames_is_not_no_border() -> None:
    """Without frames every column is null."""
    assert measured(watched([]), 1600, 900) == dict.fromkeys(COLUMNS)


def test_a_span_is_small_and_so_is_memory() -> None:
    """A minute of video leaves 15 spans of 27 KB each, 7 KB a second, whatever its size."""
    track = watched(behind_bars(left=20) * 15)
    assert len(track) == 15 and track.pictures.nbytes <= 27_000 * 15


@pytest.mark.parametrize(
    "name", ["hostile/made_letterboxed.mp4", "hostile/made_pillarboxed_portrait.mp4", "video/bbb_rabbit_240p_13s.mp4", "video/sea_360p.mpg"]
)
def test_real_videos(media: Path, name: str) -> None:
    """The verdict and the sides that were looked up by eye."""
    path = str(media / name)
    from curation.media import MediaConfig

    facts = probe(path, MediaConfig())
    (track,) = tracks_of(path, [BordersObserver()])
    fields = measured(track, facts.width, facts.height)
    expected = json.loads(TRUTH.read_text())["sides"][name]
    assert np.all(np.abs(np.array(sides(fields)) - expected) <= 0.02 * np.array([facts.height] * 2 + [facts.width] * 2) + 1)
