"""Camera classes on movements whose truth is known, and silence where nothing can be seen."""

import cv2
import numpy as np
import pytest

from curation.camera import CameraConfig, CameraObserver
from tests.media_makers import pan, scene

STEP_US = 41_667


def seen(frames: list[np.ndarray]) -> tuple[str | None, float | None]:
    """Class and confidence of small luma frames at 24 a second."""
    observer = CameraObserver(CameraConfig())
    luma = [np.ascontiguousarray(f[..., 1]) for f in frames]
    for i, frame in enumerate(luma):
        observer.push(frame, i * STEP_US)
    sampled = range(0, len(luma), 6)
    fields = observer.measure(0, len(luma) * STEP_US, [i * STEP_US for i in sampled], [luma[i] for i in sampled])
    return fields["camera"], fields["camera_confidence"]


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
    """A steady movement of 15 % of the picture a second, or none, is named, with high confidence."""
    label, confidence = seen(pan(6, 96, dx=dx, dy=dy, width=160, height=90))
    assert label == name
    assert confidence is not None and confidence > 0.8


@pytest.mark.parametrize(("rate", "name"), [(1.004, "zoom_in"), (1 / 1.004, "zoom_out")])
def test_zooms(rate: float, name: str) -> None:
    """Growth or shrinking of 10 % a second is a zoom."""
    assert seen(zoom(rate, 96))[0] == name


def test_words_over_the_picture_do_not_stop_the_camera() -> None:
    """A pan under a standing title is still a pan."""
    frames = [f.copy() for f in pan(6, 96, dx=1, width=160, height=90)]
    for frame in frames:
        cv2.putText(frame, "HARBOUR", (20, 50), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2)
    assert seen(frames)[0] == "pan_right"


def test_shake_is_handheld() -> None:
    """Movement that keeps changing direction is a handheld shot."""
    rng = np.random.Generator(np.random.Philox(key=8))
    wide = scene(6, 220, 150)
    path = np.clip(rng.normal(30, 3, (96, 2)), 0, 59).astype(int)
    assert seen([wide[y : y + 90, x : x + 160] for x, y in path])[0] == "handheld_shot"


def test_nothing_to_see_is_unknown() -> None:
    """A plain picture or too few frames: no class, which is not a static shot."""
    assert seen([np.full((90, 160, 3), 90, np.uint8)] * 60) == (None, None)
    assert seen(pan(6, 3, width=160, height=90)) == (None, None)
