"""Motion: FFmpeg's scale at full size, independence of frame rate, blindness across cuts, and still steps."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from curation.motion import MotionConfig, MotionWatch, measure_motion
from curation.observe import Frame
from curation.orientation import Orientation
from curation.scan import tracks_of
from curation.tracks import Tracks, by_name
from manifests.records import Clip
from tests.media_makers import pan, scene, write_video

NO_SOURCE = cast(Any, SimpleNamespace(format=SimpleNamespace(name="none")))


@cache
def wide_scene(seed: int) -> np.ndarray:
    """One scene, 400 px wide."""
    return scene(seed, 400, 90)[..., 1].astype(np.float32)


def view(x: float, seed: int = 1) -> np.ndarray:
    """The small luma of a camera that stands x px to the right over one scene, uint8 [90, 160]; x need not be whole."""
    return cv2.warpAffine(wide_scene(seed), np.array([[1, 0, -x], [0, 1, 0]], np.float32), (160, 90)).round().astype(np.uint8)


def tracks_from(frames: list[np.ndarray], times_us: list[int]) -> Tracks:
    """What a watch leaves of small frames alone, without anything at full size."""
    watch = MotionWatch()
    for luma, pts_us in zip(frames, times_us, strict=True):
        watch.push(Frame(pts_us, luma, luma, luma, NO_SOURCE, Orientation()))
    return by_name(watch.finish())


def clip(start_us: int, end_us: int, width: int = 160, height: int = 90) -> Clip:
    """A clip of the span."""
    return Clip(clip_id="c", asset_id="a", asset_no=0, kind="video", start_us=start_us, end_us=end_us, width=width, height=height)


def measured(frames: list[np.ndarray], times_us: list[int]) -> dict[str, Any]:
    """The columns of a clip of all frames."""
    return measure_motion(clip(times_us[0], times_us[-1] + 1), tracks_from(frames, times_us), MotionConfig())


def even(fps: float, seconds: float = 4.0) -> list[int]:
    """Times of a constant rate, us."""
    return [round(i * 1e6 / fps) for i in range(round(seconds * fps))]


def test_a_still_picture_does_not_move() -> None:
    """Motion 0 and every step still."""
    assert measured([view(0)] * 30, even(24)[:30]) == {"motion": 0.0, "static_fraction": 1.0}


@pytest.mark.parametrize("speed", [10.0, 30.0, 50.0])
def test_motion_does_not_depend_on_frame_rate(speed: float) -> None:
    """A pan at 12, 30, 50 and 60 frames a second, at random times, and with every frame repeated is within 4 % of what it is at 24."""
    rng = np.random.Generator(np.random.Philox(key=7))
    random = sorted({int(t) for t in rng.uniform(0, 4e6, 110)})
    at_24 = measured([view(speed * t / 1e6) for t in even(24)], even(24))["motion"]
    for times in (even(12), even(30), even(50), even(60), random):
        assert measured([view(speed * t / 1e6) for t in times], times)["motion"] == pytest.approx(at_24, rel=0.04)
    twice = [view(speed * t / 1e6) for t in even(24) for _ in (0, 1)]
    assert measured(twice, even(48)[: len(twice)])["motion"] == pytest.approx(at_24, rel=0.04)


def test_motion_follows_speed() -> None:
    """Half the speed is half the motion."""
    slow, fast = (measured([view(v * t / 1e6) for t in even(24)], even(24))["motion"] for v in (15, 30))
    assert fast / slow == pytest.approx(2, rel=0.05)


def test_noise_is_as_large_at_every_frame_rate() -> None:
    """Noise over a standing picture does not grow with the time step: at 60 frames a second it scores less than 1.5 times 24's, not 2.5."""
    rng = np.random.Generator(np.random.Philox(key=3))
    noisy = [np.clip(view(0) + rng.normal(0, 6, (90, 160)), 0, 255).astype(np.uint8) for _ in range(240)]
    at_24, at_60 = measured(noisy[:96], even(24))["motion"], measured(noisy, even(60))["motion"]
    assert 0.67 < at_60 / at_24 < 1.5


def test_steps_into_a_clip_do_not_count() -> None:
    """The cut on which a clip starts and the one on which it ends are not motion of the clip."""
    frames, times = [view(0, seed) for seed in (1, 2, 3) for _ in range(20)], even(24)[:60]
    tracks = tracks_from(frames, times)
    assert measure_motion(clip(times[20], times[40]), tracks, MotionConfig())["motion"] == 0
    assert measure_motion(clip(0, times[59] + 1), tracks, MotionConfig())["motion"] > 1


def repeated(pictures_per_s: int, fps: int, speed: float, seconds: float = 4.0) -> tuple[list[np.ndarray], list[int]]:
    """A pan of so many pictures a second in a file of so many frames, and the times."""
    times = even(fps, seconds)
    return [view(speed * (i * pictures_per_s // fps) / pictures_per_s) for i in range(len(times))], times


@pytest.mark.parametrize(
    ("pictures_per_s", "fps"), [(24, 60), (25, 60), (30, 60), (12, 24), (15, 60), (24, 30), (24, 48), (60, 60), (50, 50)]
)
def test_a_pan_is_no_more_still_at_any_frame_rate(pictures_per_s: int, fps: int) -> None:
    """Slow and fast pans that are not still at 24 frames a second are not with repeated frames in a cadence, nor at 50 and 60 frames."""
    for speed in (24.0, 60.0):
        assert measured(*repeated(24, 24, speed))["static_fraction"] < 0.02
        assert measured(*repeated(pictures_per_s, fps, speed))["static_fraction"] < 0.02


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_what_is_still_at_24_is_still_at_60(speed: float) -> None:
    """A pan too slow to be seen, and noise over a standing picture, are as still at 60 frames a second as at 24."""
    rng = np.random.Generator(np.random.Philox(key=3))
    for fps in (24, 30, 60):
        assert measured(*repeated(fps, fps, speed))["static_fraction"] == 1.0
        noisy = [np.clip(view(0) + rng.normal(0, speed, (90, 160)), 0, 255).astype(np.uint8) for _ in even(fps)]
        assert measured(noisy, even(fps))["static_fraction"] == 1.0


def test_pictures_that_stand_are_still() -> None:
    """Pictures shown for a third of a second each are still nearly all of the time: that is no cadence."""
    assert measured(*repeated(3, 30, 60.0))["static_fraction"] > 0.85


def test_a_hole_in_the_picture_is_still() -> None:
    """Of 2.2 s without a frame in a pan of 4 s all but longest_step_us counts as still."""
    times = [t for t in even(24) if not 1_000_000 < t < 3_200_000]
    hole_us = max(b - a for a, b in pairwise(times)) - MotionConfig().longest_step_us
    found = measured([view(60 * t / 1e6) for t in times], times)["static_fraction"]
    assert found == pytest.approx(hole_us / (times[-1] - times[0]), abs=1e-6) and found > 0.5


def test_pairs_over_a_cut_tell_nothing_of_growth() -> None:
    """Frames that stand before a clip make a pair that reaches over its first cut; the clip's motion is as without anything before it."""
    before, after = [view(0, 2)] * 72, [view(8 * i / 24) for i in range(96)]
    tracks, times = tracks_from(before + after, even(24, 7)), even(24, 7)
    samples = tracks["motion_samples"]
    starts = samples.pts_us - np.round(np.nan_to_num(samples["far_s"]) * 1e6)
    assert ((starts < times[72]) & (samples.pts_us - times[72] > 0)).any()
    within = measure_motion(clip(times[72], times[-1] + 1), tracks, MotionConfig())["motion"]
    assert within == pytest.approx(measured(after, even(24))["motion"], rel=0.02)


def test_one_frame_has_no_motion() -> None:
    """Fewer than two frames: not measured, which is not zero."""
    assert measured([view(0)], [0]) == {"motion": None, "static_fraction": None}


@pytest.mark.parametrize("rotation", [0, 90])
def test_motion_is_that_of_the_full_size(tmp_path: Path, rotation: int) -> None:
    """Of a large textured video, also turned, it is within 5 % of vmafmotion's formula on the full luma; small frames alone miss by more."""
    rng = np.random.Generator(np.random.Philox(key=5))
    grain = cv2.GaussianBlur(rng.normal(0, 60, (480, 900, 1)).astype(np.float32), (0, 0), 1.5)[..., None]
    base = np.clip(128 + grain + 0.4 * (scene(2, 900, 480).astype(np.float32) - 128), 0, 255).astype(np.uint8)
    frames = [np.ascontiguousarray(base[:, i : i + 640]) for i in range(0, 240, 2)]
    path = write_video(tmp_path / "grain.mp4", frames, rotation=rotation)
    lumas: list[np.ndarray] = []

    class Eye:
        def push(self, frame: Frame) -> None:
            luma = frame.full_luma()
            assert luma is not None
            lumas.append(luma.astype(np.float32))

        def finish(self) -> list[Any]:
            return []

    tracks = by_name(tracks_of(str(path), [MotionWatch(), Eye()]))
    exact = np.mean([np.abs(cv2.GaussianBlur(b - a, (5, 5), 1.0)).mean() for a, b in pairwise(lumas)])
    end_us = int(tracks["motion"].pts_us[-1]) + 1
    assert measure_motion(clip(0, end_us, 640, 480), tracks, MotionConfig())["motion"] == pytest.approx(exact, rel=0.05)
    assert abs(tracks["motion"]["motion"][1:].mean() / exact - 1) > 0.05


def test_tracks_are_small(tmp_path: Path) -> None:
    """Under 1 KB of numbers a second."""
    tracks = tracks_of(str(write_video(tmp_path / "p.mp4", pan(1, 72))), [MotionWatch()])
    assert sum(t.values.nbytes + t.pts_us.nbytes for t in tracks) / 3 < 1000
