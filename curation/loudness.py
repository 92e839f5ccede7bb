"""Loudness as people hear it: ITU-R BS.1770-4 and EBU R 128 on stored 100 ms powers.

Sound is K-weighted (a shelf above 1.7 kHz for the head, a high-pass at 38 Hz), each channel's power is weighted (1, rear and side
channels 1.41, the low-frequency channel 0) and summed per 100 ms. From these powers follow, for any span and without the sound:
integrated loudness (400 ms blocks, gates at -70 LUFS and 10 LU below the mean) and loudness range (EBU Tech 3342: 3 s blocks, gates at
-70 LUFS and 20 LU below the mean, 10th to 95th percentile). A mono sound counts as one channel, as BS.1770 and FFmpeg have it: played
on two speakers it is 3 LU louder.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np

WINDOW_US = 100_000
"""Powers are stored for windows of this length: the step of R 128's blocks."""

K_LEAST_RATE_HZ = 4000
"""Below it the shelf lies above half the sample rate and loudness is not measured."""

_OFFSET_LU = -0.691  # BS.1770-4: a 997 Hz sine at full scale in one channel is -3.01 LUFS
_REAR = {"BL", "BR", "BC", "SL", "SR", "SDL", "SDR", "TBL", "TBC", "TBR", "TSL", "TSR", "BLC", "BRC"}


def k_weighting(rate_hz: int) -> np.ndarray:
    """The K-weighting filter at a sample rate as two second-order sections [2, 6]: b0, b1, b2, 1, a1, a2.

    BS.1770-4 prints coefficients for 48 kHz only; the analogue values behind them give every other rate.
    """
    shelf, q = math.tan(math.pi * 1681.974450955533 / rate_hz), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    norm = 1 + shelf / q + shelf * shelf
    first = [
        (high + band * shelf / q + shelf * shelf) / norm,
        2 * (shelf * shelf - high) / norm,
        (high - band * shelf / q + shelf * shelf) / norm,
        1.0,
        2 * (shelf * shelf - 1) / norm,
        (1 - shelf / q + shelf * shelf) / norm,
    ]
    low, q = math.tan(math.pi * 38.13547087602444 / rate_hz), 0.5003270373238773
    norm = 1 + low / q + low * low
    second = [1.0, -2.0, 1.0, 1.0, 2 * (low * low - 1) / norm, (1 - low / q + low * low) / norm]
    return np.array([first, second])


class KFilter:
    """K-weights one channel, in pieces that follow one another. FFmpeg's biquad: as fast as scipy's, whose import alone takes 2 s of CPU."""

    def __init__(self, rate_hz: int) -> None:
        from av.filter import Graph

        self._rate_hz, self._n = rate_hz, 0
        self._graph = Graph()
        last = self._graph.add_abuffer(sample_rate=rate_hz, format="fltp", layout="mono", time_base=Fraction(1, rate_hz))
        for b0, b1, b2, _, a1, a2 in k_weighting(rate_hz).tolist():
            section = self._graph.add("biquad", f"b0={b0!r}:b1={b1!r}:b2={b2!r}:a0=1:a1={a1!r}:a2={a2!r}:precision=f64")
            last.link_to(section)
            last = section
        sink = self._graph.add("abuffersink")
        last.link_to(sink)
        self._graph.configure()

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The weighted samples, [n], of float32 [n]."""
        from av import AudioFrame

        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate_hz, self._n, Fraction(1, self._rate_hz)
        self._n += len(samples)
        self._graph.push(frame)
        weighted: Any = self._graph.pull()
        # Precision f64 gives doubles; a view, which holds the frame.
        return np.frombuffer(weighted.planes[0], np.float64)[: weighted.samples]


TRUE_PEAK_REACH = 12
"""Samples on either side from which the signal between samples is interpolated."""
_NEAR = 0.7
"""Peaks between samples are sought beside samples that reach this share (3 dB) of their window's largest …"""
_MOST_SOUGHT = 64
"""… and at the largest of those only."""


def _between() -> np.ndarray:
    """Weights [25, 6] of the samples around one: the signal at 1, 2 and 3 quarters before and after it (a Kaiser-windowed sinc)."""
    reach = np.arange(-TRUE_PEAK_REACH, TRUE_PEAK_REACH + 1)[:, None]
    away = reach - np.array([-0.75, -0.5, -0.25, 0.25, 0.5, 0.75])
    inside = np.maximum(0, 1 - (away / (TRUE_PEAK_REACH + 0.25)) ** 2)
    weights = np.sinc(away) * np.i0(5 * np.sqrt(inside)) / np.i0(5.0)
    return np.asarray(weights / weights.sum(0), np.float32)


_BETWEEN = _between()


def true_peaks(sound: np.ndarray, window: int) -> np.ndarray:
    """Largest value between samples of each window of sound, any channel, as BS.1770-4 annex 2 has it (four-fold oversampling).

    sound is [channels, windows x window + 24]: 12 samples before the windows and 12 after. Where a window's signal reaches only
    between samples that are 3 dB below its largest one, as noise near half the sample rate may, a higher peak is missed.
    """
    size = np.abs(sound)
    here, before, after = (size[:, TRUE_PEAK_REACH + k : size.shape[1] - TRUE_PEAK_REACH + k] for k in (0, -1, 1))
    by_window = here.reshape(len(sound), -1, window)
    largest = by_window.max(axis=(0, 2))
    near = (by_window >= _NEAR * np.maximum(largest, 1e-9)[None, :, None]).reshape(here.shape)
    # One index for all three: numpy finds it five times as fast.
    tops = np.flatnonzero(near & (here >= before) & (here >= after))
    channel, inside = np.divmod(tops, here.shape[1])
    number = inside // window
    found = np.zeros(len(largest), np.float32)
    if len(tops) > _MOST_SOUGHT:
        order = np.lexsort((-here[channel, inside], number))
        first = np.searchsorted(number[order], np.arange(len(largest)))
        order = order[np.arange(len(order)) - first[number[order]] < _MOST_SOUGHT]
        channel, inside, number = channel[order], inside[order], number[order]
    if len(tops):
        around = sound[channel[:, None], inside[:, None] + np.arange(2 * TRUE_PEAK_REACH + 1)]
        np.maximum.at(found, number, np.abs(around @ _BETWEEN).max(axis=1))
    return found


def channel_weights(names: tuple[str, ...]) -> np.ndarray:
    """BS.1770's weight of each channel, by FFmpeg's names of channels; an unknown one counts like the front."""
    return np.array([0.0 if n in ("LFE", "LFE2") else 1.41 if n in _REAR else 1.0 for n in names])


def integrated(power: np.ndarray) -> float | None:
    """Integrated loudness in LUFS of 100 ms powers [n] in order (nan where there is a gap); None where no block passes the gates."""
    blocks = _blocks(power, 4)
    blocks = blocks[_lufs(blocks) > -70]
    if not len(blocks):
        return None
    blocks = blocks[_lufs(blocks) > _lufs(blocks.mean()) - 10]
    return float(_lufs(blocks.mean())) if len(blocks) else None


def loudness_range(power: np.ndarray) -> float | None:
    """Loudness range in LU of 100 ms powers [n] in order (nan where there is a gap); None for less than 3 s or silence."""
    blocks = _blocks(power, 30)
    blocks = blocks[_lufs(blocks) > -70]
    if not len(blocks):
        return None
    levels = _lufs(blocks[_lufs(blocks) > _lufs(blocks.mean()) - 20])
    low, high = np.percentile(levels, [10, 95], method="nearest")
    return float(high - low)


def momentary(power: np.ndarray) -> np.ndarray:
    """Momentary loudness in LUFS of each 400 ms block, float64 [n - 3]; nan over gaps, -inf in silence."""
    return np.asarray(_lufs(_sliding(power, 4)))


def short_term(power: np.ndarray) -> np.ndarray:
    """Short-term loudness in LUFS of each 3 s block, float64 [n - 29]; nan over gaps, -inf in silence."""
    return np.asarray(_lufs(_sliding(power, 30)))


def _blocks(power: np.ndarray, n: int) -> np.ndarray:
    """Mean powers of all blocks of n windows without a gap."""
    blocks = _sliding(power, n)
    return np.asarray(blocks[np.isfinite(blocks)])


def _sliding(power: np.ndarray, n: int) -> np.ndarray:
    if len(power) < n:
        return np.zeros(0)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(power.astype(np.float64), n).mean(axis=1))


def _lufs(power: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(_OFFSET_LU + 10 * np.log10(power))
