"""Technical quality: each degradation moves its own column, in order, and no other; combing and repeats are found; unknown stays unknown."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import frame_quality
from curation.observe import SmallFrames
from curation.quality import (
    COLUMNS,
    QualityConfig,
    QualityObserver,
    colourfulness,
    measure_clip_quality,
    quality_track_of_picture,
    repeated_share,
)
from curation.scan import tracks_of
from curation.tracks import Track, by_name
from manifests.records import Clip
from tests.media_makers import scene

CFG = QualityConfig()


def clip(kind: str = "video", start_us: int = 0, end_us: int = 10**9) -> Clip:
    """A clip of the whole asset."""
    return Clip(clip_id="c", asset_id="a", kind=kind, start_us=start_us, end_us=end_us)


def picture(seed: int = 1, width: int = 640, height: int = 480) -> np.ndarray:
    """Hard-edged discs of all sizes before a soft ground, luma uint8, with the falling spectrum of a photograph."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    luma = np.ascontiguousarray(scene(seed, width, height)[..., 1] // 4 + 80)
    for radius in np.exp(rng.uniform(np.log(2), np.log(50), 900)):
        x, y, level = rng.integers(0, width), rng.integers(0, height), int(rng.integers(40, 200))
        cv2.circle(luma, (int(x), int(y)), int(radius), level, -1, cv2.LINE_AA)
    return luma


def still(luma: np.ndarray) -> dict:
    """The columns of a still."""
    return measure_clip_quality(clip("image", 0, 0), {"quality": quality_track_of_picture(np.repeat(luma[..., None], 3, 2))}, CFG)


def coded(luma: np.ndarray, quality: int) -> np.ndarray:
    """The picture through JPEG."""
    return cv2.imdecode(cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def noisy(luma: np.ndarray, sigma: float) -> np.ndarray:
    """The picture with Gaussian noise."""
    rng = np.random.Generator(np.random.Philox(key=7))
    return np.clip(luma + rng.normal(0, sigma, luma.shape), 0, 255).astype(np.uint8)


def rescaled(luma: np.ndarray, factor: float) -> np.ndarray:
    """The picture made smaller and large again."""
    small = cv2.resize(luma, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, luma.shape[::-1], interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_degradation_orders_its_own_column(seed: int) -> None:
    """Blur lowers sharpness, noise raises noise, JPEG raises blockiness and enlarging lowers the effective resolution, step by step."""
    sharp = picture(seed)
    ladders = {
        "sharpness": [sharp, *(cv2.GaussianBlur(sharp, (0, 0), s) for s in (0.7, 1.2, 2, 3.5))],
        "effective_resolution": [sharp, *(rescaled(sharp, k) for k in (0.75, 0.5, 0.35, 0.25))],
        "noise": [noisy(sharp, s) for s in (16, 8, 4, 2, 0)],
        "blockiness": [*(coded(sharp, q) for q in (10, 25, 50, 80)), sharp],
    }
    for column, pictures in ladders.items():
        values = [still(p)[column] for p in pictures]
        assert values == sorted(values, reverse=True) and len(set(values)) == len(values), (column, values)


def test_noise_is_measured_in_levels_and_reads_as_nothing_else() -> None:
    """Noise of 8 levels (7 in limited range) is 4 to 8, leaves sharpness within 0.1 and blockiness near 0; blur is no noise."""
    sharp = picture()
    plain, grainy, soft = still(sharp), still(noisy(sharp, 8)), still(cv2.GaussianBlur(sharp, (0, 0), 2))
    assert 4 < grainy["noise"] < 8 and plain["noise"] < 1 and soft["noise"] < 1
    assert grainy["sharpness"] == pytest.approx(plain["sharpness"], abs=0.1)
    assert max(grainy["blockiness"], soft["blockiness"]) < 0.1


def test_blocks_without_edges_are_blocks() -> None:
    """Level blocks whose steps a loop filter has spread over 4 px still read as blocky; the same ramps everywhere do not."""
    rng = np.random.Generator(np.random.Philox(key=2))
    levels = np.cumsum(rng.choice([-2, 2], (60, 80)), axis=1) + 128
    blocks = np.repeat(np.repeat(levels, 8, 0), 8, 1).astype(np.float32)
    soft = cv2.blur(blocks, (4, 4), borderType=cv2.BORDER_REPLICATE)
    moved = np.roll(soft, 4, (0, 1))
    assert still(np.clip(soft, 0, 255).astype(np.uint8))["blockiness"] > 0.3
    assert still(np.clip(cv2.GaussianBlur(blocks, (0, 0), 6), 0, 255).astype(np.uint8))["blockiness"] < 0.1
    assert still(np.clip(moved, 0, 255).astype(np.uint8))["blockiness"] < 0


def test_effective_resolution_is_about_the_share_that_was_kept() -> None:
    """Half and quarter size enlarged again read as such within 40 %."""
    for share in (0.5, 0.25):
        assert share * 0.6 <= still(rescaled(picture(4), share))["effective_resolution"] <= share * 1.4


def test_exposure_counts_what_is_clipped() -> None:
    """A third black, a third white and a third grey: dark and bright fractions of a third, brightness a half; stills have no columns of time."""
    luma = np.repeat(np.array([0, 128, 255], np.uint8), 160)[None].repeat(300, 0)
    columns = still(luma)
    assert columns["dark_fraction"] == pytest.approx(1 / 3, abs=0.02) and columns["bright_fraction"] == pytest.approx(1 / 3, abs=0.02)
    assert columns["brightness"] == pytest.approx(0.5, abs=0.02)
    assert columns["interlaced"] is None and columns["duplicate_fraction"] is None


def watched(frames: list[np.ndarray], fps: int = 24, pixels: str = "gray") -> dict[str, Track]:
    """The observer's tracks of luma frames that the decoder would hand over as they are."""
    observer = QualityObserver()
    small = SmallFrames(frames[0].shape[1], frames[0].shape[0])
    for i, luma in enumerate(frames):
        source = av.VideoFrame.from_ndarray(luma, format=pixels)
        source.pts, source.time_base = i, Fraction(1, fps)
        observer.push(small(source, i * 1_000_000 // fps))
    return by_name(observer.finish())


def moving(n: int) -> list[np.ndarray]:
    """Luma of a camera that moves 7 px a frame over discs."""
    wide = picture(5, 320 + 7 * n, 256)
    return [np.ascontiguousarray(wide[:, 7 * i : 7 * i + 320]) for i in range(n)]


def test_woven_fields_are_interlaced() -> None:
    """Odd lines of the next frame in each moving frame: combed in every look but the first few at most; whole frames: in none."""
    frames = moving(100)
    woven = []
    for one, two in zip(frames[::2], frames[1::2], strict=True):
        both = one.copy()
        both[1::2] = two[1::2]
        woven.append(both)
    assert measure_clip_quality(clip(), watched(woven, 12), CFG)["interlaced"] > 0.5
    assert measure_clip_quality(clip(), watched(frames[:50], 12), CFG)["interlaced"] == 0


def test_deep_colour_is_measured_on_the_same_scale() -> None:
    """Ten bits give the columns of eight; a format without a luma plane gives nulls at full size, and exposure all the same."""
    eight = moving(3)
    ten = [luma.astype(np.uint16) * 4 for luma in eight]
    one = measure_clip_quality(clip(), watched(eight), CFG)
    two = measure_clip_quality(clip(), watched(ten, pixels="gray10le"), CFG)
    for column in ("sharpness", "noise", "blockiness", "effective_resolution"):
        assert two[column] == pytest.approx(one[column], abs=0.02), column
    observer = QualityObserver()
    source = av.VideoFrame.from_ndarray(np.repeat(eight[0][..., None], 3, 2), format="rgb24")
    observer.push(SmallFrames(320, 256)(source, 0))
    rgb = measure_clip_quality(clip(), by_name(observer.finish()), CFG)
    assert rgb["sharpness"] is None and rgb["noise"] is None and rgb["interlaced"] is None and rgb["brightness"] is not None


def steps(*pattern: float, n: int = 60) -> np.ndarray:
    """Steps in a pattern that returns, the first one unknown."""
    return np.array([np.nan, *np.resize(np.array(pattern, float), n)], np.float32)


@pytest.mark.parametrize(
    ("found", "share"),
    [
        (steps(3.0, 3.2, 2.9), 0.0),
        (steps(3.0, 0.0), 0.5),
        (steps(3.0, 0.01, 0.02, 0.0), 0.75),
        (steps(4.0, 3.0, 3.6, 2.9, 0.3), 0.2),  # coded again: the fifth frame is not quite still
        (steps(*[3.0] * 30, *[0.01] * 30), 0.5),  # a frozen end
        (steps(*[3.0] * 30, 0.3, *[0.1] * 29), 0.48),  # one that the coder settled on within a frame
        (steps(*[3.0] * 28, 0.5, 0.3, 0.25, *[0.01] * 29), 0.48),  # … or within three
        (steps(*[6.0] * 12, *[0.9] * 18, *[0.01] * 30), 0.5),  # … after a stretch that was slow by itself
        (steps(0.3, 0.4, 2.5, 3.0), 0.75),  # each picture four times: the coder spreads a new one over two frames
        (steps(*np.geomspace(3, 0.01, 60)), 0.0),  # a camera that comes to rest
        (steps(*[3.0] * 20, *np.linspace(3, 0, 20), *[0.0] * 20), 0.0),  # … evenly
        (steps(0.02, 0.05, 0.0), 0.0),  # a scene at rest
    ],
)
def test_repeats_are_frames_that_do_not_move_though_the_clip_does(found: np.ndarray, share: float) -> None:
    """Doubled frames, cadences even when coded again, and a frozen end count; rest and slowing down do not."""
    assert repeated_share(found, CFG) == pytest.approx(share, abs=0.04)


def test_the_observer_sees_repeats_and_looks_once_a_second() -> None:
    """Of frames shown twice, half are repeats; four seconds have four or five looks."""
    tracks = watched([f for f in moving(48) for _ in range(2)])
    assert measure_clip_quality(clip(), tracks, CFG)["duplicate_fraction"] == pytest.approx(0.5, abs=0.02)
    assert len(tracks["steps"]) == 96 and 4 <= len(tracks["quality"]) <= 5


def test_small_and_empty_pictures_have_no_value_rather_than_a_wrong_one() -> None:
    """No looks: all null. A picture below one tile has no spectrum, and a black one neither edges nor noise; nothing raises."""
    empty = by_name(QualityObserver().finish())
    assert measure_clip_quality(clip(), empty, CFG) == dict.fromkeys(COLUMNS)
    assert still(picture(1, 60, 40))["effective_resolution"] is None
    black = still(np.zeros((300, 400), np.uint8))
    assert black["noise"] is None and black["sharpness"] is None and black["brightness"] == 0
    assert still(np.zeros((2, 3), np.uint8))["dark_fraction"] == 1


@given(st.integers(0, 7), st.integers(16, 400), st.integers(16, 400))
def test_tiles_lie_inside_and_on_the_block_grid(seed: int, width: int, height: int) -> None:
    """Whatever the size, each tile is a part of the picture that begins at a multiple of 16 px."""
    luma = np.arange(width * height, dtype=np.int64).reshape(height, width)
    small = scene(seed, 48, 32)[..., 0]
    tiles = frame_quality.tiles_of(luma.astype(np.float64), small, None)
    for tile in (tiles.detailed, tiles.plain, tiles.moving):
        y, x = divmod(int(tile[0, 0]), width)
        assert y % 16 == x % 16 == 0 and tile.shape == (min(128, height - y), min(128, width - x))


def test_real_combing_and_repeats(media: Path) -> None:
    """The interlaced file is found and a progressive one is not; a frozen end and 240 frames a second made of 30 are repeats."""

    def of(name: str) -> dict:
        return measure_clip_quality(clip(end_us=10**12), by_name(tracks_of(str(media / name), [QualityObserver()])), CFG)

    assert of("hostile/made_interlaced_tff.mpg")["interlaced"] > 0.5
    assert of("hostile/made_frozen_tail.mp4")["duplicate_fraction"] > 0.5
    assert of("hostile/made_240fps.mp4")["duplicate_fraction"] == pytest.approx(7 / 8, abs=0.02)
    sea = of("video/sea_360p.mpg")
    assert sea["interlaced"] == 0 and sea["duplicate_fraction"] < 0.05


def test_brightness_and_contrast_of_known_pictures() -> None:
    """Black is 0, white 1, half black half white has contrast 0.5."""
    half = np.zeros((200, 320), np.uint8)
    assert still(half)["brightness"] == 0 and still(half + 255)["brightness"] == pytest.approx(1, abs=0.01)
    half[:, 160:] = 255
    assert (still(half)["brightness"], still(half)["contrast"]) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.5, abs=0.01))


def test_colourfulness_of_grey_and_colour() -> None:
    """Grey has none, blobs of all colours have much."""
    assert colourfulness(np.full((50, 50, 3), 90, np.uint8)) == 0
    assert colourfulness(scene(1)) > 59
