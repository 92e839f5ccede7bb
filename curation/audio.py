"""Loudness, silence and clipping of sound: an observer that keeps 100 ms windows, and the measure that reads them.

The true channels are measured before they are mixed: two channels of opposite sign are silent only in the mix, and R 128 sums powers.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.loudness import K_LEAST_RATE_HZ, TRUE_PEAK_REACH, WINDOW_US, KFilter, channel_weights, integrated, loudness_range, true_peaks
from curation.sound import Sound
from curation.soundtrack import Soundtrack, SoundtrackWriter
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "3"
"""Version of `measure_sound`."""
COLUMNS = ("loudness_db", "silence_fraction", "loudness_lufs", "loudness_range_lu", "peak_db", "true_peak_db", "clipped_fraction")
FIELDS = ("power", "mono_power", "peak", "clipped", "true_peak", "k_power")
"""Of a window: mean power of the channels, power of their mix, largest sample, share of clipped samples, largest value between samples
(0.25 ms late), K-weighted power (BS.1770)."""

FLOOR_DB = -100.0
"""Level given to digital silence, whose true level is minus infinity."""
FULL_SCALE = 0.999
"""A sample is clipped when it and its neighbour reach this: one sample at full scale is a normalised peak."""
SLACK_US = 40_000
"""Stamps may be off by as much before a gap or an overlap is believed: Matroska rounds to 1 ms, FLV drifts, AAC frames last 23 ms."""
MOST_CHANNELS = 24
LEAST_RATE_HZ = 1000
MOST_RATE_HZ = 768_000
"""Outside these (22.2 sound, the slowest codec, the fastest PCM) a header lies; it must not decide how much memory a window takes."""
MOST_US = 12 * 3600 * 1_000_000
"""Sound measured of one asset, the limit that a medium's duration has: a window costs 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """What counts as silence. The paper names no level; it is ours: a quiet room through a decent microphone is near -60."""

    silence_db: float = -50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundSpanConfig:
    """How sound files are cut into clips: as long as the clips of videos (paper: 4 s to 16 s)."""

    min_us: int = 4_000_000
    max_us: int = 16_000_000


class SoundObserver:
    """Hears an asset's sound go by: `finish` gives the track "sound", `soundtracks` the copy for networks.

    Rows have true presentation times: a gap in the sound is a gap between rows; what lies before the end of what was heard is left out.
    A last, partial window has no loudness (nan). Costs about 2 ms of CPU a second of stereo, the copy included.
    """

    def __init__(self, asset_id: str = "") -> None:
        self._rows = Recorder("sound", FIELDS)
        self._copy = SoundtrackWriter(asset_id)
        self._run: _Run | None = None
        self._end_us: int | None = None  # of what was heard
        self._heard_us = 0

    def push(self, sound: Sound) -> None:
        """The next piece, in the order of the file."""
        if not LEAST_RATE_HZ <= sound.rate_hz <= MOST_RATE_HZ or self._heard_us > MOST_US:
            return
        samples, channels, start_us = sound.samples[:MOST_CHANNELS], sound.channels[:MOST_CHANNELS], sound.start_us
        ahead_us = 0 if self._end_us is None else start_us - self._end_us
        if ahead_us < -SLACK_US:  # a stamp that went back
            start_us, samples = start_us - ahead_us, samples[:, -ahead_us * sound.rate_hz // 1_000_000 :]
        if self._run is not None and (ahead_us > SLACK_US or (self._run.rate_hz, self._run.channels) != (sound.rate_hz, channels)):
            self._end_run()
        if self._run is None:
            last_us = self._rows.pts_us[-1] if self._rows.pts_us else start_us - 1
            self._run = _Run(sound.rate_hz, channels, max(start_us, last_us + 1))
        self._heard_us += samples.shape[1] * 1_000_000 // sound.rate_hz
        self._keep(self._run, self._run.add(samples))
        self._end_us = self._run.end_us

    def finish(self) -> list[Track]:
        """The track "sound"; without rows where nothing was heard."""
        self._end_run()
        self._copy.finish()
        return [self._rows.track()]

    @property
    def end_us(self) -> int | None:
        """The end of what was heard so far; None before anything was."""
        return self._end_us

    @property
    def soundtracks(self) -> list[Soundtrack]:
        """The 16 kHz copy, in order of time; complete after `finish`."""
        return self._copy.rows

    def _end_run(self) -> None:
        if self._run is not None:
            self._keep(self._run, self._run.rest())
            self._copy.end_run()
            self._run = None

    def _keep(self, run: "_Run", block: "_Block | None") -> None:
        if block is None:
            return
        for i, values in enumerate(block.values):
            self._rows.add(block.start_us + round(i * run.window * 1_000_000 / run.rate_hz), *values)
        self._copy.push(block.mono, run.rate_hz, block.start_us)


@dataclass(frozen=True, slots=True)
class _Block:
    """Some windows of a run: their values [windows, fields] and the mix of the channels, [n]."""

    start_us: int
    values: list[list[float]]
    mono: np.ndarray


class _Run:
    """Sound without a gap, of one rate and one set of channels. Samples are held until they fill half a second: fewer, larger sums."""

    def __init__(self, rate_hz: int, channels: tuple[str, ...], start_us: int) -> None:
        self.rate_hz, self.channels, self.start_us = rate_hz, channels, start_us
        self.window = max(1, round(rate_hz * WINDOW_US / 1_000_000))
        self._weights = channel_weights(channels)
        heard = self._weights > 0 if (self._weights > 0).any() else np.ones(len(channels), bool)
        self._mix = (heard / heard.sum()).astype(np.float32)  # the mean of the channels that are heard
        self._filters = [KFilter(rate_hz) for _ in channels] if rate_hz >= K_LEAST_RATE_HZ else []
        self._last = np.zeros((len(channels), 2 * TRUE_PEAK_REACH), np.float32)  # samples of what was measured before
        self._held: list[np.ndarray] = []
        self._n_held = self._n_done = 0
        self._least = self.window * (5 if self.window * len(channels) < 40_000 else 1)

    @property
    def end_us(self) -> int:
        """Time of the sample after the last one."""
        return self._time(self._n_done + self._n_held)

    def add(self, samples: np.ndarray) -> _Block | None:
        """The windows that are full now, where there are enough of them."""
        if samples.shape[1]:
            self._held.append(samples)
            self._n_held += samples.shape[1]
        if self._n_held < self._least:
            return None
        sound = np.concatenate(self._held, axis=1)
        n = sound.shape[1] // self.window * self.window
        self._held, self._n_held = [sound[:, n:]], sound.shape[1] - n
        return self._measure(sound[:, :n], self.window)

    def rest(self) -> _Block | None:
        """All windows that are left; the last one may be partial: it counts when half full, or when it is all there is."""
        if not self._n_held:
            return None
        sound = _finite(np.concatenate(self._held, axis=1))
        n = sound.shape[1] // self.window * self.window
        tail = sound.shape[1] - n
        start, values = self._time(self._n_done), []
        mono = self._mix @ sound
        if n:
            block = self._measure(sound[:, :n], self.window)
            values, mono = block.values, np.concatenate([block.mono, mono[n:]])
        if tail and (tail * 2 >= self.window or not self._n_done):
            values = values + [[*row[:-1], math.nan] for row in self._measure(sound[:, n:], tail).values]
        self._held, self._n_held = [], 0
        return _Block(start, values, mono)

    def _time(self, n: int) -> int:
        return self.start_us + round(n * 1_000_000 / self.rate_hz)

    def _measure(self, sound: np.ndarray, window: int) -> _Block:
        """The values of each window of sound [channels, windows x window]."""
        shape = (len(sound), -1, window)
        size = np.abs(sound).reshape(shape).max(axis=2)
        if not size.max() <= 8:  # floats may hold anything, nan too
            sound = _finite(sound)
            size = np.abs(sound).reshape(shape).max(axis=2)
        power = _power(sound.reshape(shape))
        mono = self._mix @ sound
        k_power = np.full(power.shape[1], np.nan)
        if self._filters:
            k_power = np.zeros(power.shape[1])
            for weight, weigh, channel in zip(self._weights, self._filters, sound, strict=True):
                if weight:  # the low-frequency channel counts for nothing
                    k_power += weight * _power(weigh(channel).reshape(1, -1, window))[0]
        largest = size.max(axis=0)
        sound_and_last = np.concatenate([self._last, sound], axis=1)
        self._last = sound_and_last[:, -2 * TRUE_PEAK_REACH :].copy()
        columns = [
            self._mix @ power,
            _power(mono.reshape(1, -1, window))[0],
            largest,
            _clipped(sound, largest, window),
            np.maximum(largest, true_peaks(sound_and_last, window)),
            k_power,
        ]
        start = self._time(self._n_done)
        self._n_done += sound.shape[1]
        return _Block(start, np.stack(columns, axis=1).tolist(), mono)


def measure_sound(clip: Clip, tracks: Tracks, cfg: AudioConfig) -> dict[str, Any]:
    """The sound columns of a clip; None where it has no sound, and the loudness also where too little of it is heard.

    Time in the clip without sound counts as silence: a clip whose sound stops half-way is half silent.
    """
    track = tracks["sound"].between(clip.start_us, clip.end_us)
    if not len(track):
        return dict.fromkeys(COLUMNS)
    power = track["power"].astype(np.float64)
    missing = max(0, (clip.end_us - clip.start_us) // WINDOW_US - len(power) - 1)  # the grid of windows need not begin with the clip
    silent = int((10 * np.log10(np.maximum(power, 1e-12)) < cfg.silence_db).sum()) + missing
    k_power = _with_gaps(track)
    return {
        "loudness_db": _decibel(float(power.mean())),
        "silence_fraction": silent / (len(power) + missing),
        "loudness_lufs": integrated(k_power),
        "loudness_range_lu": loudness_range(k_power),
        "peak_db": max(FLOOR_DB, 2 * _decibel(float(track["peak"].max()))),
        "true_peak_db": max(FLOOR_DB, 2 * _decibel(float(track["true_peak"].max()))),
        "clipped_fraction": float(track["clipped"].mean(dtype=np.float64)),
    }


def plan_sound(start_us: int, duration_us: int, cfg: SoundSpanConfig) -> list[tuple[int, int]]:
    """Half-open spans laid end to end, each max_us long; a rest of at least min_us is one more; a short file is one span whole."""
    end = start_us + duration_us
    if duration_us <= cfg.max_us:
        return [(start_us, end)] if duration_us > 0 else []
    spans = [(t, min(t + cfg.max_us, end)) for t in range(start_us, end, cfg.max_us)]
    return [s for s in spans if s[1] - s[0] >= cfg.min_us]


def _with_gaps(track: Track) -> np.ndarray:
    """The K-weighted powers, nan put in wherever the next window does not follow: no block of R 128 reaches over a gap."""
    breaks = np.flatnonzero(np.diff(track.pts_us) > WINDOW_US * 3 // 2) + 1
    return np.insert(track["k_power"].astype(np.float64), breaks, np.nan)


def _finite(sound: np.ndarray) -> np.ndarray:
    """The samples, those that are no number 0, and none beyond 8 (18 dB over full scale)."""
    return np.asarray(np.clip(np.nan_to_num(sound, nan=0.0, posinf=0.0, neginf=0.0), -8, 8))


def _power(sound: np.ndarray) -> np.ndarray:
    """Mean square of each window: [channels, windows, n] -> [channels, windows]."""
    return np.asarray(np.einsum("cwn,cwn->cw", sound, sound) / sound.shape[2])


def _clipped(sound: np.ndarray, largest: np.ndarray, window: int) -> np.ndarray:
    """Share of the samples of each window that are clipped in some channel; `largest` is the largest sample of each window."""
    share = np.zeros(len(largest))
    for i in np.flatnonzero(largest >= FULL_SCALE):
        full = np.abs(sound[:, i * window : (i + 1) * window]) >= FULL_SCALE
        pairs = full[:, 1:] & full[:, :-1]
        share[i] = (np.pad(pairs, ((0, 0), (1, 0))) | np.pad(pairs, ((0, 0), (0, 1)))).any(axis=0).mean()
    return share


def _decibel(power: float) -> float:
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB
