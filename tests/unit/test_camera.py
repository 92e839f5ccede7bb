"""Camera classes on movements whose truth is known, and silence where nothing can be seen."""

from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from benchmarks.camera_truth import take
from curation.camera import COLUMNS, CameraConfig, measure_camera
from curation.global_motion import TRACK, GlobalMotionObserver
from curation.observe import Frame
from curation.tracks import Track
from manifests.records import Clip
from tests.media_makers import pan, scene

STEP_US = 41_667


def track_of(frames: list[np.ndarray], step_us: int = STEP_US) -> Track:
    """The track of small RGB frames at even times."""
    observer = GlobalMotionObserver()
    for i, frame in enumerate(frames):
        observer.push(cast(Frame, SimpleNamespace(pts_us=i * step_us, y=np.ascontiguousarray(frame[..., 1]), repeats=False)))
    return observer.finish()[0]


def measured(track: Track, start_us: int = 0, end_us: int = 1 << 40, **settings: Any) -> dict[str, Any]:
    """The columns of a span of the track."""
    clip = Clip(clip_id="", asset_id="", kind="video", start_us=start_us, end_us=end_us)
    return measure_camera(clip, {TRACK: track}, CameraConfig(**settings))


def zoom(rate: float, n_frames: int) -> list[np.ndarray]:
    """Frames that grow by a factor of `rate` each."""
    big = scene(4, 480, 288)
    frames = []
    for i in range(n_frames):
        size = 1.6 * rate**i if rate > 1 else 1.6 * rate ** (i - n_frames)
        matrix = cv2.getRotationMatrix2D((240, 144), 0, size / 1.6)
        frames.append(cv2.warpAffine(big, matrix, (480, 288))[99:189, 160:320])
    return frames


@pytest.mark.parametrize(
    ("dx", "dy", "name"), [(1, 0, "pan_right"), (-1, 0, "pan_left"), (0, 1, "tilt_down"), (0, -1, "tilt_up"), (0, 0, "static_shot")]
)
def test_pans_tilts_and_stillness(dx: int, dy: int, name: str) -> None:
    """A steady movement of 15 % of a flat picture a second, or none, is named, with high confidence; it is no truck and no pedestal."""
    found = measured(track_of(pan(6, 96, dx=dx, dy=dy, width=160, height=90)))
    assert found["camera"] == name
    assert found["camera_confidence"] > 0.85
    assert found["shake"] < 0.005


@pytest.mark.parametrize(("rate", "name"), [(1.004, "zoom_in"), (1 / 1.004, "zoom_out")])
def test_zooms(rate: float, name: str) -> None:
    """Growth or shrinking of a flat picture by 10 % a second is a zoom, no push and no pull."""
    assert measured(track_of(zoom(rate, 96)))["camera"] == name


def test_words_over_the_picture_do_not_stop_the_camera() -> None:
    """A pan under a standing title is still a pan."""
    frames = [f.copy() for f in pan(6, 96, dx=1, width=160, height=90)]
    for frame in frames:
        cv2.putText(frame, "HARBOUR", (20, 50), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2)
    assert measured(track_of(frames))["camera"] == "pan_right"


def test_shake_is_handheld() -> None:
    """Movement that keeps changing direction is a handheld shot, and its shake is its speed: here 3 px rms of jumps 83 ms apart."""
    rng = np.random.Generator(np.random.Philox(key=8))
    wide = scene(6, 220, 150)
    path = np.clip(rng.normal(30, 3, (96, 2)), 0, 59).astype(int)
    found = measured(track_of([wide[y : y + 90, x : x + 160] for x, y in path]))
    assert found["camera"] == "handheld_shot"
    assert 0.3 < found["shake"] < 0.9
    assert found["unsteadiness"] > 0.23  # the paper configuration's rule


def test_an_even_run_is_steady() -> None:
    """A pan of 15 % of the picture a second runs evenly: unsteadiness below 0.05; of a portrait it is told in heights, the longer side."""
    frames = pan(6, 96, dx=1, width=160, height=90)
    assert measured(track_of(frames))["unsteadiness"] < 0.05
    rng = np.random.Generator(np.random.Philox(key=8))
    wide = scene(6, 150, 220)
    path = np.clip(rng.normal(30, 3, (96, 2)), 0, 59).astype(int)
    upright = measured(track_of([wide[x : x + 160, y : y + 90] for x, y in path]))["unsteadiness"]
    across = measured(track_of([wide.transpose(1, 0, 2)[y : y + 90, x : x + 160] for x, y in path]))["unsteadiness"]
    assert upright == pytest.approx(across, rel=0.2)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (100_000 + i, n)
        for i, n in enumerate(("push_in", "pull_out", "truck_right", "truck_left", "pedestal_up", "pedestal_down", "arc_shot"))
    ],
)
def test_a_travelling_camera_is_told_by_depth(number: int, name: str) -> None:
    """Before things at several depths, a camera that travels is told from one that turns or zooms."""
    shot = take(number, name)
    observer = GlobalMotionObserver()
    for frame in shot.frames():
        observer.push(frame)
    assert measured(observer.finish()[0])["camera"] == name


def test_two_movements_are_not_sure() -> None:
    """A pan as fast as the tilt that goes with it is no class to rely on."""
    found = measured(track_of(pan(6, 96, dx=1, dy=1, width=160, height=90)))
    assert found["camera"] is None or found["camera_confidence"] < 0.8


def test_looks_across_the_start_of_a_clip_do_not_count() -> None:
    """A clip that begins at a cut is measured without the step over the cut."""
    frames = pan(6, 48, dx=-1, width=160, height=90) + [np.ascontiguousarray(f) for f in pan(9, 48, dx=1, width=160, height=90)]
    track = track_of(frames)
    assert measured(track, 0, 48 * STEP_US)["camera"] == "pan_left"
    later = measured(track, 48 * STEP_US)
    assert later["camera"] == "pan_right"
    assert later["shake"] < 0.005


def test_nothing_to_see_is_unknown() -> None:
    """A plain picture or too few frames: every column is null, which is not a static shot."""
    nothing = dict.fromkeys(COLUMNS)
    assert measured(track_of([np.full((90, 160, 3), 90, np.uint8)] * 60)) == nothing
    assert measured(track_of(pan(6, 3, width=160, height=90))) == nothing


def test_the_verdict_follows_the_settings() -> None:
    """A stricter setting changes the class from the same track: nothing is looked at again."""
    track = track_of(pan(6, 96, dx=1, width=160, height=90))
    assert measured(track, still_speed=1.0)["camera"] == "static_shot"
