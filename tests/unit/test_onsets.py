"""When something begins, in sound and in pictures."""

import numpy as np
import pytest

from tests.sound_events import draw_bounces, frames_of, sound_of
from training.onsets import agreement, heard_s, seen_s


def test_what_is_drawn_is_seen_and_heard() -> None:
    """Of ten films of bouncing balls, bounces are heard exactly and seen within 0.12 s, at half the pictures a second as well; in another
    film's they are not."""
    films = draw_bounces(10, seed=3)
    for film in films:
        assert heard_s(sound_of(film)) == pytest.approx(film.times_s, abs=0.011)
    seen = [seen_s(frames_of(f), 24) for f in films]
    rare = [seen_s(frames_of(f)[::2], 12) for f in films]
    for found in (seen, rare):
        assert np.mean([agreement(s, f.times_s) for s, f in zip(found, films, strict=True)]) > 0.95
    assert np.mean([agreement(s, f.times_s) for s, f in zip(seen, films[1:], strict=False)]) < 0.6


def test_steady_motion_and_noise_are_no_events() -> None:
    """A square that moves evenly has no event where it goes on, a start and a stop are two, and grain of the encoder is none."""
    frames = np.zeros((48, 64, 64, 3), np.uint8)
    for i in range(48):
        x = 8 + min(max(i - 12, 0), 24)  # moves from picture 12 to 36
        frames[i, 24:40, x : x + 16] = 200
    assert seen_s(frames, 24) == pytest.approx([12 / 24, 36 / 24], abs=1 / 24 + 1e-6)
    grain = np.random.default_rng(0).integers(90, 93, (48, 64, 64, 3), np.uint8)
    assert seen_s(grain, 24) == [] and seen_s(frames[:2], 24) == []


def test_a_cut_is_seen_in_the_first_frame_after_it() -> None:
    """Another picture from frame 24 on is an event at frame 24, with grain on the pictures too; so it is in the second and the last."""
    for at in (1, 24, 47):
        frames = np.zeros((48, 64, 64, 3), np.uint8)
        frames[at:] = 200
        assert seen_s(frames, 24) == [at / 24]
    frames[24:] = 200
    for seed in range(4):
        grain = np.random.default_rng(seed).integers(0, 3, frames.shape, np.uint8)
        assert seen_s(frames + grain, 24) == [1.0]


def test_agreement_counts_each_once() -> None:
    """Two sounds at one event are one hit; nothing with nothing agrees, something with nothing does not; silence has no onset."""
    assert agreement([1.0, 1.05], [1.0]) == pytest.approx(2 / 3)
    assert agreement([], []) == 1.0 and agreement([0.5], []) == 0.0 == agreement([], [0.5])
    assert agreement([0.5, 2.0], [0.6, 2.2]) == pytest.approx(0.5)
    assert heard_s(np.zeros(48_000, np.float32)) == []
    for n in (0, 100, 1440):
        assert heard_s(np.full(n, 0.5, np.float32)) == ([0.0] if n >= 480 else [])
