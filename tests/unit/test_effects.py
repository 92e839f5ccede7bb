"""Effects: each is told from a filmed scene on tracks whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from curation.effects import EffectsConfig, SignatureObserver, loop_score, slideshow_score, speed_ramp, strobe_per_s
from curation.global_motion import GlobalMotionObserver
from curation.scan import tracks_of
from curation.tracks import Track
from tests.media_makers import pan, scene, write_video

CFG = EffectsConfig()


def signature(pictures: np.ndarray) -> Track:
    """A signature track of these pictures."""
    times = np.arange(len(pictures)) * 83_333
    return Track(name="signature", fields=(), pts_us=times, values=np.zeros((len(pictures), 0), np.float32), pictures=pictures)


def motion(values: list[float]) -> Track:
    """A motion track of 24 frames a second."""
    times = np.arange(len(values)) * 41_667
    return Track(name="motion", fields=("motion",), pts_us=times, values=np.array(values, np.float32)[:, None])


def walk(n: int, seed: int = 1) -> np.ndarray:
    """Pictures that drift on and never come back."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    steps = rng.normal(0, 4, (n, 9, 16)) + 1.5
    return np.clip(60 + np.cumsum(steps, 0), 0, 255).astype(np.uint8)


def test_a_loop_is_told_from_what_drifts_and_what_stands() -> None:
    """A second shown four times scores above 0.9; a drift and a standing picture below 0.3; too short a clip is unknown."""
    piece = walk(12)
    assert loop_score(signature(np.concatenate([piece] * 4)), CFG) > 0.9
    assert loop_score(signature(walk(48)), CFG) < 0.3
    assert loop_score(signature(np.repeat(piece[:1], 48, 0)), CFG) < 0.3
    assert loop_score(signature(piece), CFG) is None


def test_a_strobe_is_counted_and_a_fade_is_not() -> None:
    """Light on and off every two frames turns twelve times a second; a fade to black never turns; few frames are unknown."""
    assert strobe_per_s(np.tile([50.0, 50, 120, 120], 30), 5.0, CFG) == pytest.approx(11.6, abs=0.5)
    assert strobe_per_s(np.linspace(200, 16, 120), 5.0, CFG) == 0
    assert strobe_per_s(np.array([1.0, 100, 1]), 0.1, CFG) is None


def test_a_ramp_is_a_change_of_pace_not_a_beginning() -> None:
    """A pace that is four times as high from one second to the next reads as 4; what starts from rest, and an even pace, as 1."""
    assert speed_ramp(motion([1.0] * 60 + [4.0] * 60), CFG) == pytest.approx(4, rel=0.1)
    assert speed_ramp(motion([0.1] * 60 + [4.0] * 60), CFG) < 2.5
    assert speed_ramp(motion([3.0] * 120), CFG) == pytest.approx(1)
    assert speed_ramp(motion([3.0] * 20), CFG) is None


def test_a_still_that_slides_is_a_slideshow_and_a_scene_with_depth_is_not(tmp_path: Path) -> None:
    """A picture that slides slowly as one scores high; the same slide with a second layer moving against it scores low."""
    slide = pan(1, 96, dx=1)
    layered = []
    for i, frame in enumerate(slide):
        frame = frame.copy()
        frame[60:130, 40 + i : 200 + i] = scene(9)[60:130, 40:200]
        layered.append(frame)
    scores = []
    for name, frames in (("slide", slide), ("layered", layered)):
        (track,) = tracks_of(str(write_video(tmp_path / f"{name}.mp4", frames)), [GlobalMotionObserver()])
        scores.append(slideshow_score(track, CFG))
    assert scores[0] > 0.8 > 0.3 > scores[1]


def test_signatures_are_small_and_evenly_spaced(tmp_path: Path) -> None:
    """Twelve pictures of 16 x 9 a second, whatever the frame rate."""
    for fps in (24, 60):
        (track,) = tracks_of(str(write_video(tmp_path / "v.mp4", pan(1, 2 * fps, dx=1), fps=fps)), [SignatureObserver()])
        assert track.pictures.shape[1:] == (9, 16)
        assert len(track) == pytest.approx(24, abs=1)
