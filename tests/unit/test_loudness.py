"""BS.1770 and EBU R 128: the filter's published coefficients, tones whose loudness is known, gates and gaps."""

import math

import numpy as np
import pytest

from curation.loudness import channel_weights, integrated, k_weighting, loudness_range, momentary, short_term
from curation.sound import Sound
from tests.sound_makers import STEREO, heard, tone


def test_the_filter_at_48_khz_is_the_published_one() -> None:
    """The coefficients are those of BS.1770-4, tables 1 and 2."""
    shelf, high_pass = k_weighting(48000)
    assert shelf[:3] == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-7)
    assert shelf[3:] == pytest.approx([1.0, -1.69065929318241, 0.73248077421585], abs=1e-7)
    assert high_pass[4:] == pytest.approx([-1.99004745483398, 0.99007225036621], abs=1e-7)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000, 96000])
def test_a_tone_of_23_db_reads_minus_23_at_any_rate(rate_hz: int) -> None:
    """EBU Tech 3341, case 1: a stereo 1 kHz sine of -23 dBFS peak in both channels is -23 LUFS (within 0.1 LU)."""
    wave = tone(1000, 5, rate_hz, 10 ** (-23 / 20))
    track = heard([Sound(samples=np.stack([wave, wave]), rate_hz=rate_hz, start_us=0, channels=STEREO)])
    assert integrated(track["k_power"]) == pytest.approx(-23, abs=0.1)
    assert short_term(track["k_power"]) == pytest.approx(-23, abs=0.1)
    assert momentary(track["k_power"]) == pytest.approx(-23, abs=0.1)


def test_quiet_parts_do_not_lower_the_integrated_loudness() -> None:
    """EBU Tech 3341, case 3: 10 s at -36, 60 s at -23, 10 s at -36 dBFS is -23 LUFS: the relative gate leaves the quiet out."""
    wave = np.concatenate([tone(1000, s, 16000, 10 ** (level / 20)) for s, level in ((10, -36), (60, -23), (10, -36))])
    track = heard([Sound(samples=np.stack([wave, wave]), rate_hz=16000, start_us=0, channels=STEREO)])
    assert integrated(track["k_power"]) == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize(("levels", "expected"), [((-20, -30), 10), ((-20, -15), 5), ((-40, -20), 20), ((-50, -35, -20, -35, -50), 15)])
def test_the_loudness_range_of_steps_is_known(levels: tuple[int, ...], expected: int) -> None:
    """EBU Tech 3342, cases 1 to 4: 20 s at each level give the range within 1 LU."""
    wave = np.concatenate([tone(1000, 20, 16000, 10 ** (level / 20)) for level in levels])
    track = heard([Sound(samples=np.stack([wave, wave]), rate_hz=16000, start_us=0, channels=STEREO)])
    assert loudness_range(track["k_power"]) == pytest.approx(expected, abs=1)


def test_what_is_too_short_or_silent_has_no_loudness() -> None:
    """Below 400 ms no loudness, below 3 s no range, in silence neither; a gap is bridged by no block."""
    assert integrated(np.full(3, 0.1)) is None
    assert loudness_range(np.full(29, 0.1)) is None
    assert integrated(np.zeros(100)) is None
    assert loudness_range(np.full(100, 1e-9)) is None
    assert integrated(np.array([0.1] * 3 + [math.nan] + [0.1] * 3)) is None


def test_rear_channels_count_more_and_the_low_one_nothing() -> None:
    """In 5.1 the surrounds weigh 1.41 (+1.5 dB), the low-frequency channel 0, an unknown name 1."""
    assert channel_weights(("FL", "FR", "FC", "LFE", "BL", "BR", "NEW")) == pytest.approx([1, 1, 1, 0, 1.41, 1.41, 1])


@pytest.mark.parametrize(("share", "phase"), [(1 / 4, 0.25), (1 / 6, 0.5), (1 / 12, 0.5), (0.4, 0.1)])
def test_the_peak_between_samples_is_found(share: float, phase: float) -> None:
    """EBU Tech 3341, cases 15 to 19: a sine of 0.5 sampled off its crests peaks at -6.0 dBTP (-0.4, +0.2) whatever its samples say."""
    n = 48000
    wave = (0.5 * np.sin(2 * np.pi * (share * np.arange(n) + phase * share))).astype(np.float32)
    wave *= np.minimum(1, np.minimum(np.arange(n), n - np.arange(n)) / 4800).astype(np.float32)
    track = heard([Sound(samples=np.stack([wave, 0 * wave]), rate_hz=48000, start_us=0, channels=STEREO)])
    assert -6.42 < 20 * math.log10(track["true_peak"].max()) < -5.82
    assert (track["true_peak"] >= track["peak"]).all()


def test_a_peak_between_pieces_is_found_too() -> None:
    """A crest that lies between two samples of two blocks, or of two windows, is as high as one inside a window."""
    burst = np.sinc(0.7 * (np.arange(-40, 40) + 0.5)).astype(np.float32) * 0.5  # its crest lies half-way between two samples
    found = []
    for at in (12_000, 24_000 - 40, 4_800 * 2 - 40):
        wave = np.zeros(48_000, np.float32)
        wave[at : at + 80] = burst
        found.append(float(heard([Sound(samples=wave[None], rate_hz=48000, start_us=0, channels=("FC",))])["true_peak"].max()))
    assert found == pytest.approx([0.5] * 3, rel=0.02)
