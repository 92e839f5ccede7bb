"""The sound observer and its measure: levels, silence, clipping and times on sounds whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.audio import COLUMNS, FLOOR_DB, AudioConfig, SoundObserver, SoundSpanConfig, measure_sound, plan_sound
from curation.sound import Sound
from curation.soundtrack import samples_between
from tests.sound_makers import MONO, STEREO, heard, mono, noise, sound_clip, tone

CFG = AudioConfig()


def measured(pieces: list[Sound], start_us: int, end_us: int) -> dict[str, float | None]:
    """The columns of the span."""
    return measure_sound(sound_clip(start_us, end_us), {"sound": heard(pieces)}, CFG)


@given(st.lists(st.integers(1, 20000), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_pieces_do_not_matter(sizes: list[int]) -> None:
    """The same sound in any pieces gives the same track."""
    wave = noise(1, 1.3)
    pieces, at = [], 0
    for size in [*sizes, len(wave)]:
        if at < len(wave):
            pieces.append(mono(wave[at : at + size], start_us=round(at * 1e6 / 48000)))
            at += size
    whole, parts = heard([mono(wave)]), heard(pieces)
    assert parts.pts_us.tolist() == whole.pts_us.tolist()
    assert np.allclose(parts.values, whole.values, rtol=1e-4, equal_nan=True)


def test_a_sine_of_half_amplitude_is_9_db_below_full_scale() -> None:
    """RMS of 0.5 / sqrt(2) is -9.03 dBFS, its peak -6.02; nothing is silent or clipped."""
    found = measured([mono(tone(440, 1))], 0, 1_000_000)
    assert set(found) == set(COLUMNS)
    assert found["loudness_db"] == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.01)
    assert found["peak_db"] == pytest.approx(-6.02, abs=0.01)
    assert (found["silence_fraction"], found["clipped_fraction"]) == (0, 0)


def test_silence_is_counted_in_windows() -> None:
    """Three silent tenths of a second in ten are 0.3; digital silence has a floor and no loudness, and no sound no value."""
    wave = np.full(16000, 0.1, np.float32)
    wave[4800:9600] = 0
    pieces = [mono(wave, 16000, 5_000_000)]
    assert measured(pieces, 5_000_000, 6_000_000)["silence_fraction"] == pytest.approx(0.3)
    found = measured(pieces, 5_300_000, 5_600_000)
    assert (found["loudness_db"], found["silence_fraction"], found["loudness_lufs"]) == (FLOOR_DB, 1.0, None)
    assert measured(pieces, 9_000_000, 9_500_000) == dict.fromkeys(COLUMNS)


def test_time_without_sound_is_silent() -> None:
    """A clip of 8 s whose sound lasts 2 s is three quarters silent, not loud throughout."""
    assert measured([mono(tone(440, 2))], 0, 8_000_000)["silence_fraction"] == pytest.approx(0.75, abs=0.02)


def test_channels_of_opposite_sign_are_not_silent() -> None:
    """Their mix is silent, they are not: levels come from the channels."""
    wave = tone(440, 1)
    piece = Sound(samples=np.stack([wave, -wave]), rate_hz=48000, start_us=0, channels=STEREO)
    track = heard([piece])
    assert track["mono_power"].max() < 1e-12
    found = measure_sound(sound_clip(0, 1_000_000), {"sound": track}, CFG)
    assert found["loudness_db"] == pytest.approx(-9.03, abs=0.01)
    assert found["silence_fraction"] == 0


def test_clipping_is_runs_at_full_scale() -> None:
    """A sine driven 6 dB over and cut is clipped two thirds of the time; one that just reaches full scale is not."""
    over = np.clip(tone(440, 1, amplitude=2), -1, 1)
    assert measured([mono(over)], 0, 1_000_000)["clipped_fraction"] == pytest.approx(2 / 3, abs=0.02)
    assert measured([mono(tone(1000.7, 1, amplitude=0.998))], 0, 1_000_000)["clipped_fraction"] == 0
    single = np.zeros(48000, np.float32)
    single[::100] = 1.0
    assert measured([mono(single)], 0, 1_000_000)["clipped_fraction"] == 0


def test_gaps_keep_their_time() -> None:
    """Sound that stops for a second and goes on has rows at its true times, none in the gap, and begins where it begins."""
    track = heard([mono(tone(440, 1), start_us=-250_000), mono(tone(440, 1), start_us=1_750_000)])
    assert track.pts_us.tolist() == [-250_000 + 100_000 * i for i in range(10)] + [1_750_000 + 100_000 * i for i in range(10)]


def test_stamps_that_round_are_no_gaps() -> None:
    """Stamps rounded to milliseconds, as in Matroska, leave one sound without a break; those that go back add nothing twice."""
    wave, pieces = tone(440, 3), []
    for at in range(0, len(wave), 1024):
        pieces.append(mono(wave[at : at + 1024], start_us=round(at / 48) * 1000))
    track = heard(pieces)
    assert np.diff(track.pts_us).tolist() == [100_000] * 29
    again = heard([*pieces, mono(wave[:48000], start_us=1_000_000)])
    assert again.pts_us.tolist() == track.pts_us.tolist()


def test_a_change_of_rate_goes_on_where_it_was() -> None:
    """A stream that turns from 48 kHz stereo to 16 kHz mono keeps rising times and the right levels."""
    wave = tone(440, 1)
    first = Sound(samples=np.stack([wave, wave]), rate_hz=48000, start_us=0, channels=STEREO)
    track = heard([first, mono(tone(440, 1, 16000), 16000, 1_000_000)])
    assert track.pts_us.tolist() == [100_000 * i for i in range(20)]
    assert track["power"] == pytest.approx(0.125, rel=0.01)


def test_hostile_samples_give_finite_numbers() -> None:
    """Not-a-number, infinity and huge floats, impossible rates and empty pieces leave no nan but the loudness of a partial window."""
    wave = np.array([math.nan, math.inf, -math.inf, 1e38, 0.5] * 2000, np.float32)
    track = heard([mono(wave, 8000), mono(wave, 2_000_000_000, 5_000_000), mono(wave, 8, 5_000_000), mono(wave[:0], 8000, 2_000_000)])
    assert len(track) == 13
    assert np.isfinite(track.values[:12]).all()
    assert np.isfinite(track.values[12, :4]).all()


def test_very_short_sound_is_one_window() -> None:
    """50 ms are one row without loudness: level and silence are still known."""
    found = measured([mono(tone(440, 0.05))], 0, 50_000)
    assert found["loudness_db"] == pytest.approx(-9.03, abs=0.1)
    assert found["silence_fraction"] == 0
    assert found["loudness_lufs"] is None


def test_the_copy_has_the_same_sound_at_the_same_time() -> None:
    """The 16 kHz copy of a tone is that tone, from its start to its end within a sample, with zeros in a short gap."""
    observer = SoundObserver("a")
    observer.push(mono(tone(440, 1), start_us=500_000))
    observer.push(mono(tone(440, 1), start_us=2_000_000))
    observer.finish()
    assert [(r.start_us, r.end_us) for r in observer.soundtracks] == [(500_000, 3_000_000)]
    sound = samples_between(observer.soundtracks, 0, 3_000_000)
    assert sound is not None and len(sound) == 48000
    assert np.abs(sound[:7900]).max() == 0 and np.abs(sound[24100:31900]).max() < 1e-3
    assert np.allclose(sound[8200:23800], tone(440, 1, 16000)[200:15800], atol=2e-3)


@given(st.integers(-(10**6), 10**9), st.integers(0, 10**8))
def test_sound_is_cut_into_spans_of_at_most_16_s(start: int, duration: int) -> None:
    """Spans lie end to end from the start; what is left out at the end is shorter than 4 s; any sound gives a span."""
    spans = plan_sound(start, duration, SoundSpanConfig())
    assert bool(spans) == (duration > 0)
    at = start
    for first, end in spans:
        assert first == at and 0 < end - first <= 16_000_000
        at = end
    assert start + duration - at < 4_000_000


def test_one_channel_has_the_loudness_of_one_channel() -> None:
    """Mono is 3 LU below the same sound in two channels, as BS.1770 and FFmpeg count it."""
    wave = noise(2, 3)
    one = measured([Sound(samples=wave[None], rate_hz=48000, start_us=0, channels=MONO)], 0, 3_000_000)
    two = measured([Sound(samples=np.stack([wave, wave]), rate_hz=48000, start_us=0, channels=STEREO)], 0, 3_000_000)
    assert two["loudness_lufs"] - one["loudness_lufs"] == pytest.approx(3.01, abs=0.01)  # type: ignore[operator]
    assert two["loudness_db"] == pytest.approx(one["loudness_db"], abs=1e-4)
