"""Loudness and silence of sound, in 100 ms windows."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

WINDOW_US = 100_000
FLOOR_DB = -100.0
"""Level given to digital silence, whose true level is minus infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """What counts as silence and how sound files are cut. The paper names no silence level; the level is ours."""

    silence_db: float = -50.0
    min_us: int = 4_000_000
    max_us: int = 16_000_000


class Loudness:
    """Takes mono sound in order and keeps one power a 100 ms window."""

    def __init__(self) -> None:
        self._power: list[float] = []
        self._sum = 0.0
        self._count = 0
        self._window = 0
        self._length_us = Fraction(0)
        self.start_us: int | None = None

    def push(self, sound: np.ndarray, rate_hz: int, start_us: int) -> None:
        """The samples, float32 in -1 … 1, are counted; start_us is the time of the first."""
        if self.start_us is None:
            self.start_us = start_us
        self._length_us += Fraction(len(sound) * 1_000_000, rate_hz)
        self._window = window = max(1, rate_hz * WINDOW_US // 1_000_000)
        at = 0
        while at < len(sound):
            part = sound[at : at + window - self._count]
            self._sum += float(np.square(part, dtype=np.float64).sum())
            self._count += len(part)
            at += len(part)
            if self._count >= window:
                self._power.append(self._sum / self._count)
                self._sum, self._count = 0.0, 0

    def finish(self) -> int:
        """The duration in us; a last window counts when at least half of it is filled, or when it is all there is."""
        if self._count and (not self._power or self._count * 2 >= self._window):
            self._power.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        return round(self._length_us)

    def measure(self, start_us: int, end_us: int, cfg: AudioConfig) -> dict[str, Any]:
        """loudness_db (RMS, dBFS, at least FLOOR_DB) and silence_fraction of the windows in [start_us, end_us); None without any."""
        origin = self.start_us or 0
        windows = self._power[max(0, (start_us - origin) // WINDOW_US) : max(0, -(-(end_us - origin) // WINDOW_US))]
        if not windows:
            return {"loudness_db": None, "silence_fraction": None}
        levels = [_decibel(p) for p in windows]
        silent = sum(level < cfg.silence_db for level in levels)
        return {"loudness_db": _decibel(sum(windows) / len(windows)), "silence_fraction": silent / len(windows)}


def plan_sound(start_us: int, duration_us: int, cfg: AudioConfig) -> list[tuple[int, int]]:
    """Half-open spans laid end to end, each max_us long; a rest of at least min_us is one more; a short file is one span whole."""
    end = start_us + duration_us
    if duration_us <= cfg.max_us:
        return [(start_us, end)] if duration_us > 0 else []
    spans = [(t, min(t + cfg.max_us, end)) for t in range(start_us, end, cfg.max_us)]
    return [s for s in spans if s[1] - s[0] >= cfg.min_us]


def _decibel(power: float) -> float:
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB
