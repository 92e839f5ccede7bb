"""When something begins, in sound and in pictures, and how far the two agree: the measure of a soundtrack that follows its film.

Agreement of onsets is how models of sound for film are compared (CondFoleyGen, Du et al. 2023, there with the sound of the clip itself);
events in pictures need no sound to compare with. Both are found by plain signal processing: good for hits, bounces, starts and stops on a
quiet ground, not for rain.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 48_000
_SIDE_PX = 32
_APART_S = 0.25
_LEAST = 0.25
_LEVELS = 0.5
"""An event in pictures is at least this many levels (of 255, mean over the picture): less is noise of the encoder."""


def heard_s(sound_N: NDArray[np.float32], least: float = _LEAST, apart_s: float = _APART_S) -> list[float]:
    """When sound begins, in seconds: where the level, in frames of 10 ms, is highest above that of 40 ms before, at least `least` of the
    largest such rise, and the first within `apart_s`. None in silence."""
    hop = RATE_HZ // 100
    level = np.sqrt(np.square(sound_N[: len(sound_N) // hop * hop].reshape(-1, hop)).mean(1))
    before = np.concatenate([np.zeros(4), level])[: len(level)]
    return _peaks(np.maximum(level - before, 0), 100.0, least, apart_s, 1e-4)


def seen_s(frames_THW3: NDArray[np.uint8], fps: float, least: float = _LEAST, apart_s: float = _APART_S) -> list[float]:
    """When motion changes at once, in seconds: a turn, a start, a stop, a flash, a cut.

    With d(a, b) the mean difference of two frames, steady motion has d(t-1, t) = d(t, t+1) and d(t-1, t+1) their sum; a turn shows the same
    picture before and after, and a start or stop has one of the two at 0. An event's strength is what is missing to both. A step between
    two pictures that stand, a cut, is as much of an event in either; it counts in the later one, which is the first to show it. Frames are
    made small and blurred first, so that what moves overlaps itself from frame to frame.
    """
    if len(frames_THW3) < 3:
        return []
    x = _small(frames_THW3)
    step, leap = np.abs(np.diff(x, axis=0)).mean((1, 2)), np.abs(x[2:] - x[:-2]).mean((1, 2))
    strength = np.zeros(len(x))
    strength[1:-1] = (step[:-1] + step[1:] - leap) + np.abs(step[1:] - step[:-1])
    around = np.pad(step, 1)
    alone = np.maximum(step - around[:-2] - around[2:], 0)  # what of a step no motion leads to or goes on from
    strength[:-1] -= alone
    strength[1:] = np.maximum(strength[1:], alone)
    return _peaks(strength, fps, least, apart_s, _LEVELS)


def agreement(found_s: Sequence[float], wanted_s: Sequence[float], within_s: float = 0.12) -> float:
    """F1 of onsets: each counts once, matched to the nearest within that time. 0 where one side has none and the other has; 1 where both."""
    if not found_s and not wanted_s:
        return 1.0
    left, hits = list(wanted_s), 0
    for t in found_s:
        near = min(left, key=lambda w: abs(w - t), default=None)
        if near is not None and abs(near - t) <= within_s:
            left.remove(near)
            hits += 1
    return 2 * hits / (len(found_s) + len(wanted_s))


def _peaks(rise: NDArray[np.floating], rate_hz: float, least: float, apart_s: float, floor: float) -> list[float]:
    """Where the curve is highest, down to `least` of its maximum, but not below `floor`, in seconds; of peaks closer than that the higher."""
    found: list[float] = []
    for i in np.argsort(-rise, kind="stable"):
        if rise[i] < max(least * rise.max(), floor):
            break
        if all(abs(i / rate_hz - t) > apart_s for t in found):
            found.append(float(i / rate_hz))
    return sorted(found)


def _small(frames_THW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Luma (T, h, w) in levels, at most 32 pixels high and wide by areas, each pixel the mean of its neighbourhood of 5."""
    t, height, width, _ = frames_THW3.shape
    rows, columns = (np.unique(np.linspace(0, n, min(n, _SIDE_PX) + 1).astype(int)) for n in (height, width))
    made = np.empty((t, len(rows) - 1, len(columns) - 1), np.float32)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    for i, frame in enumerate(frames_THW3):
        sums = np.add.reduceat(np.add.reduceat(frame.astype(np.float32) @ weights, rows[:-1], 0), columns[:-1], 1)
        made[i] = sums / np.outer(np.diff(rows), np.diff(columns))
    for axis in (1, 2):
        size = made.shape[axis]
        pad = [(0, 0)] * 3
        pad[axis] = (2, 2)
        wide = np.pad(made, pad, mode="edge")
        made = sum(np.take(wide, np.arange(k, k + size), axis) for k in range(5)) / np.float32(5)  # type: ignore[assignment]
    return made
