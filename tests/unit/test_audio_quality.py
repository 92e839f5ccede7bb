"""Loudness, silence, brightness, contrast, sharpness and colourfulness on signals whose values can be worked out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.audio import FLOOR_DB, AudioConfig, Loudness, plan_sound
from curation.quality import colourfulness, measure_luma
from tests.media_makers import scene


def test_a_sine_of_half_amplitude_is_9_db_below_full_scale() -> None:
    """RMS of 0.5 / sqrt(2) is -9.03 dBFS, whatever the pieces it comes in; nothing is silent."""
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000).astype(np.float32)
    loudness = Loudness()
    for part in np.array_split(sine, 7):
        loudness.push(part, 48000, 0)
    assert loudness.finish() == 1_000_000
    fields = loudness.measure(0, 1_000_000, AudioConfig())
    assert fields["loudness_db"] == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.01)
    assert fields["silence_fraction"] == 0


def test_silence_is_counted_in_windows() -> None:
    """Three silent tenths of a second in ten are 0.3; digital silence has a floor, and no sound no value."""
    sound = np.full(16000, 0.1, np.float32)
    sound[4800:9600] = 0
    loudness = Loudness()
    loudness.push(sound, 16000, 5_000_000)
    loudness.finish()
    assert loudness.measure(5_000_000, 6_000_000, AudioConfig())["silence_fraction"] == pytest.approx(0.3)
    assert loudness.measure(5_300_000, 5_600_000, AudioConfig()) == {"loudness_db": FLOOR_DB, "silence_fraction": 1.0}
    assert loudness.measure(9_000_000, 9_500_000, AudioConfig()) == {"loudness_db": None, "silence_fraction": None}


@given(st.integers(-(10**6), 10**9), st.integers(0, 10**8))
def test_sound_is_cut_into_spans_of_at_most_16_s(start: int, duration: int) -> None:
    """Spans lie end to end from the start; what is left out at the end is shorter than 4 s; any sound gives a span."""
    spans = plan_sound(start, duration, AudioConfig())
    assert bool(spans) == (duration > 0)
    at = start
    for first, end in spans:
        assert first == at and 0 < end - first <= 16_000_000
        at = end
    assert start + duration - at < 4_000_000


def test_brightness_contrast_and_sharpness_of_known_pictures() -> None:
    """Black is 0, white 1, half black half white has contrast 0.5; blur lowers sharpness; no frame has no value."""
    half = np.full((90, 160), 16, np.uint8)
    assert measure_luma([half])["brightness"] == 0
    half[:, 80:] = 235
    fields = measure_luma([half, half])
    assert (fields["brightness"], fields["contrast"]) == (pytest.approx(0.5), pytest.approx(0.5))
    sharp = np.tile(np.array([[60, 180], [180, 60]], np.uint8), (45, 80))
    assert measure_luma([sharp])["sharpness"] > 10 * measure_luma([half])["sharpness"]
    assert set(measure_luma([]).values()) == {None}


def test_colourfulness_of_grey_and_colour() -> None:
    """Grey has none, blobs of all colours have much."""
    assert colourfulness(np.full((50, 50, 3), 90, np.uint8)) == 0
    assert colourfulness(scene(1)) > 59
