"""Motion: its scale, its independence of frame rate, its blindness across cuts, and still steps."""

import numpy as np
import pytest

from curation.motion import MotionConfig, MotionObserver
from tests.media_makers import pan, still


def measured(frames: list[np.ndarray], step_us: int, start: int = 0, end: int | None = None) -> dict[str, float]:
    """The motion columns of grey frames step_us apart, between two frame numbers."""
    observer = MotionObserver(MotionConfig(), 160, 160)
    for i, frame in enumerate(frames):
        observer.push(np.ascontiguousarray(frame[::2, ::2, 1]), i * step_us, None)
    return observer.measure(start * step_us, (len(frames) if end is None else end) * step_us)


def test_a_still_picture_does_not_move() -> None:
    """Motion 0 and every step still."""
    assert measured(still(1, 30), 41_667) | {} == {
        "motion": 0.0, "static_fraction": 1.0, "motion_vector_px": None, "motion_vector_source": None,
    }  # fmt: skip


def test_motion_follows_speed_and_not_frame_rate() -> None:
    """The same movement at 24, at 48 frames a second and with every frame shown twice is the same motion; at half speed it is less."""
    slow, fast = pan(1, 97, dx=2), pan(1, 49, dx=4)
    at_24, at_48 = measured(fast, 41_666)["motion"], measured(slow, 20_833)["motion"]
    doubled = measured([f for f in fast for _ in (0, 1)], 20_833)["motion"]
    assert at_48 == pytest.approx(at_24, rel=0.15)
    assert doubled == pytest.approx(at_24, rel=0.05)
    assert measured(slow, 41_666)["motion"] == pytest.approx(at_24 / 2, rel=0.2)


def test_steps_into_a_clip_do_not_count() -> None:
    """The cut on which a clip starts and the one on which it ends are not motion of the clip."""
    frames = still(1, 20) + still(2, 20) + still(3, 20)
    assert measured(frames, 41_667, 20, 40)["motion"] == 0
    assert measured(frames, 41_667)["motion"] > 1


def test_repeated_frames_are_still_steps() -> None:
    """Every second frame repeated: half of the steps are still."""
    frames = [f for f in pan(1, 20, dx=8) for _ in (0, 1)]
    assert measured(frames, 41_667)["static_fraction"] == pytest.approx(20 / 39)


def test_one_frame_has_no_motion() -> None:
    """Fewer than two frames: not measured, which is not zero."""
    assert measured(still(1, 1), 41_667)["motion"] is None
    assert measured(still(1, 1), 41_667)["static_fraction"] is None


def test_vectors_are_averaged_over_the_frames_that_have_them() -> None:
    """The mean of the frames read, null when none was."""
    observer = MotionObserver(MotionConfig(), 160, 160)
    for i, vector in enumerate((None, 2.0, None, 4.0)):
        observer.push(np.zeros((90, 160), np.uint8), i, vector)
    assert observer.measure(0, 4)["motion_vector_px"] == 3.0
    assert observer.measure(0, 1)["motion_vector_source"] is None
