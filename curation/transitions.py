"""Gradual transitions (dissolve, fade, wipe): what is measured on samples of a video, and a small network that finds them in it.

While a picture dissolves or fades into another, each frame is a mixture of one before and one after; while it is wiped, each part of the
frame is one or the other. Motion is neither. So every sample is compared with samples before and after it, at four distances: how much
changes, how well a mixture explains the middle, in the whole picture and in each of 40 blocks, and how much contrast is lost. These
numbers are the track "transitions". Which of them mean a transition is learned: a temporal convolution of 15,000 weights, trained on
generated joins of real clips (`benchmarks/train_transitions.py`), reads the track and gives a probability for each sample.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from curation.observe import Frame
from curation.tracks import Recorder, Track

SAMPLE_US = 125_000
"""Spacing of the samples."""

HALF_WINDOWS = (1, 2, 4, 8)
"""How many samples before and after the middle one it is compared with: transitions of 0.25 to 2 s."""

WEIGHTS = Path(__file__).with_suffix(".npz")

_FINE = (64, 40)
_COARSE = (16, 10)  # times three planes: blocks of 2 x 2 x 3 numbers, 40 of them
_BLOCKS = 40
_TINY = 1e-3
_BATCH = 32  # samples compared at once
_PER_WINDOW = ("change", "share", "misfit", "contrast", "likeness", "coarse_share", "spread", "local_misfit", "decided", "detour")

FIELDS = ("level", "deviation", *(f"{name}_{half}" for half in HALF_WINDOWS for name in _PER_WINDOW))
"""Of the sample itself: mean luma, and its standard deviation. In each window between a (before) and b (after), m the sample:

change: mean |b - a| of luma, levels; share: of b in m by least squares; misfit: |m - mixture| as a share of |b - a|; contrast: variance
of m over that of a and b weighted by share; likeness: correlation of a and b. On a coarse colour picture: coarse_share; spread: squared
misfit of one mixture for all that goes away with a mixture of its own for each block; local_misfit: what is left; decided: mean distance
of the blocks' shares from one half, 0 to 1; detour: (|m - a| + |b - m|) / |b - a|, 1 for anything on the way from a to b.
"""


class TransitionSampler:
    """Takes every frame's small planes, samples them, and records FIELDS of every sample: the track "transitions"."""

    def __init__(self) -> None:
        self._recorder = Recorder("transitions", FIELDS)
        self._due = -(1 << 62)
        self._pts: list[int] = []
        self._fine: list[np.ndarray] = []
        self._coarse: list[np.ndarray] = []
        self._moved: list[bool] = []  # since the sample before
        self._moves = True
        self._next = 0  # index in the lists of the next sample to be recorded

    def push(self, frame: Frame) -> None:
        """The next frame, in order of presentation."""
        self._moves = self._moves or not frame.repeats
        if frame.pts_us < self._due:
            return
        self._due = max(self._due + SAMPLE_US, frame.pts_us + SAMPLE_US // 2)
        self._sample(frame)
        if len(self._pts) - self._next >= _BATCH + HALF_WINDOWS[-1]:
            self._record(_BATCH)

    def _sample(self, frame: Frame) -> None:
        self._pts.append(frame.pts_us)
        self._moved.append(self._moves)
        if not self._moves:
            self._fine.append(self._fine[-1])
            self._coarse.append(self._coarse[-1])
            return
        self._moves = False
        fine = cv2.resize(frame.half(), _FINE, interpolation=cv2.INTER_AREA)
        self._fine.append(fine)
        self._coarse.append(cv2.merge([cv2.resize(p, _COARSE, interpolation=cv2.INTER_AREA) for p in (fine, frame.u, frame.v)]))

    def finish(self) -> Track:
        """The track, with the last samples compared within what there is."""
        self._record(len(self._pts) - self._next)
        return self._recorder.track()

    def _record(self, count: int) -> None:
        """The next `count` samples are compared and recorded at once: many small ones cost mostly the calls."""
        if not count:
            return
        first, end, known = self._next, self._next + count, len(self._pts)
        stands = not any(self._moved[max(0, first - HALF_WINDOWS[-1]) + 1 :])
        # Where nothing moves one row tells of all.
        fine, coarse = (np.array(rows[:1] if stands else rows, np.float32) for rows in (self._fine, self._coarse))
        fine = fine.reshape(len(fine), -1)
        # [n, 5, 2, 8, 2, planes] -> [n, 40 blocks, 12 numbers]
        coarse = coarse.reshape(-1, 5, 2, 8, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, _BLOCKS, 12)
        mean, variance = fine.mean(1), fine.var(1)
        values = np.full((count, len(FIELDS)), np.nan, np.float32)
        own = slice(0, 1) if stands else slice(first, end)
        values[:, 0], values[:, 1] = mean[own], np.sqrt(variance[own])
        for i, half in enumerate(HALF_WINDOWS):
            low, high = max(first, half), min(end, known - half)
            if low < high:
                rows = [own] * 3 if stands else [slice(low + shift, high + shift) for shift in (-half, 0, half)]
                compared = (*_whole(fine, mean, variance, *rows), *_by_blocks(*(coarse[r] for r in rows)))
                at = 2 + i * len(_PER_WINDOW)
                values[low - first : high - first, at : at + len(_PER_WINDOW)] = np.stack(compared, 1)
        for t, row in zip(self._pts[first:end], values.tolist(), strict=True):
            self._recorder.add(t, *row)
        self._next = end
        spare = self._next - HALF_WINDOWS[-1]
        if spare > 0:
            del self._pts[:spare], self._fine[:spare], self._coarse[:spare], self._moved[:spare]
            self._next -= spare


def _whole(fine: np.ndarray, mean: np.ndarray, variance: np.ndarray, before: slice, middle: slice, after: slice) -> tuple[np.ndarray, ...]:
    """change, share, misfit, contrast and likeness of rows of fine pictures [n, numbers]; each [rows]."""
    d, e = fine[after] - fine[before], fine[middle] - fine[before]
    size = fine.shape[1]
    square = np.einsum("ij,ij->i", d, d) + _TINY * size
    share = np.einsum("ij,ij->i", d, e) / square
    change = np.abs(d).mean(1)
    e -= share[:, None] * d
    misfit = np.abs(e).mean(1) / (change + 0.1)
    bounded = np.clip(share, 0, 1)
    contrast = variance[middle] / ((1 - bounded) * variance[before] + bounded * variance[after] + 1)
    shared = (variance[before] + variance[after] - square / size + (mean[after] - mean[before]) ** 2) / 2
    likeness = shared / np.sqrt((variance[before] + 1) * (variance[after] + 1))
    return change, share, misfit, contrast, likeness


def _by_blocks(a: np.ndarray, m: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """coarse_share, spread, local_misfit, decided and detour of m between a and b, all [n, blocks, numbers]; each [n]."""
    d, e = b - a, m - a
    square = np.einsum("ijk,ijk->ij", d, d) + _TINY
    along = np.einsum("ijk,ijk->ij", d, e)
    left = np.einsum("ijk,ijk->ij", e, e)
    whole = square.sum(1) + 4 * _BLOCKS
    share = along.sum(1) / whole
    block_share = along / square
    # What mixing explains: with one share for all, and with a share for each block.
    local = np.maximum(left.sum(1) - (along * block_share).sum(1), 0) / whole
    spread = (square * (block_share - share[:, None]) ** 2).sum(1) / whole
    decided = (square * np.abs(2 * np.clip(block_share, 0, 1) - 1)).sum(1) / whole
    length = np.abs(d).sum((1, 2)) + 2 * _BLOCKS
    detour = (np.abs(e).sum((1, 2)) + np.abs(d - e).sum((1, 2))) / length
    return share, spread, local, decided, detour


def inputs(samples: Track, shots: Track) -> np.ndarray:
    """What the network reads, float32 [samples, features], about -3 to 3: the fields and the frames' changes around each sample."""
    known = ~np.isnan(samples.values[:, 2 :: len(_PER_WINDOW)])
    values = np.nan_to_num(samples.values)
    columns = [_scaled(name.split("_")[0], values[:, i]) for i, name in enumerate(FIELDS)]
    return np.column_stack([*columns, *known.T, *_changes_around(samples.pts_us, shots)]).astype(np.float32)


def _scaled(kind: str, column: np.ndarray) -> np.ndarray:
    if kind == "change":
        return np.asarray(np.log1p(column) / 2)
    if kind == "spread":
        return np.asarray(np.log1p(np.clip(column, 0, 50)))
    if kind in ("level", "deviation"):
        return np.asarray(column / 64 - 1)
    return np.asarray(np.clip(column, -2, 3))


def _changes_around(samples_us: np.ndarray, shots: Track) -> tuple[np.ndarray, ...]:
    """Largest and summed change of the frames within one sample, and the largest within four, in logarithms."""
    change = np.nan_to_num(shots["change"])
    total = np.concatenate([[0.0], np.cumsum(change, dtype=np.float64)])
    near, around = (np.searchsorted(shots.pts_us, (samples_us - reach, samples_us + reach + 1)) for reach in (SAMPLE_US, 4 * SAMPLE_US))
    found = np.stack([_largest(change, *near), total[near[1]] - total[near[0]], _largest(change, *around)])
    return tuple(np.log1p(found) / 2)


def _largest(change: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The largest change from each first frame to before its end, float64; 0 where there is none."""
    each = np.maximum.reduceat(np.append(change, 0.0), np.stack([first, end], 1).ravel())[::2]
    return np.where(end > first, each, 0.0)


LAYERS = ((1, True), (2, True), (4, True), (1, False))
"""Dilation of each layer of the network, and whether it is a convolution over three samples (else over one)."""


def probabilities(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The probability that each sample lies inside a transition, float32 [samples], for inputs [samples, features]."""
    if not len(x):
        return np.zeros(0, np.float32)
    for i, (dilation, wide) in enumerate(LAYERS):
        w, b = weights[f"w{i}"], weights[f"b{i}"]  # [out, in, taps], [out]
        if wide:
            edge = np.zeros((dilation, x.shape[1]), x.dtype)
            padded = np.concatenate([edge, x, edge])
            taps = [padded[k * dilation : k * dilation + len(x)] @ w[:, :, k].T for k in range(3)]
            x = np.maximum(taps[0] + taps[1] + taps[2] + b, 0)
        else:
            x = x @ w[:, :, 0].T + b
    return np.asarray(1 / (1 + np.exp(-np.clip(x[:, 0], -30, 30))), np.float32)


@cache
def load_weights() -> dict[str, np.ndarray]:
    """The weights that come with the code."""
    with np.load(WEIGHTS, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


def spans(p: np.ndarray, pts_us: np.ndarray, peak: float, edge: float) -> list[tuple[int, int]]:
    """The half-open spans of time, as (first, last) sample times, in which p stays above `edge` and reaches `peak`."""
    inside = np.concatenate([[False], p >= edge, [False]])
    starts, ends = np.flatnonzero(inside[1:] & ~inside[:-1]), np.flatnonzero(inside[:-1] & ~inside[1:])
    found = []
    for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
        if p[a:b].max() >= peak:
            found.append((int(pts_us[max(0, a - 1)]), int(pts_us[min(len(p) - 1, b)])))
    return found


def likeness(samples: Track, start_us: int, end_us: int) -> float:
    """Correlation of the pictures on both sides of a span, from the narrowest window around its middle that holds it; nan if unknown."""
    middle = int(np.abs(samples.pts_us - (start_us + end_us) // 2).argmin())
    half = next((h for h in HALF_WINDOWS if 2 * h * SAMPLE_US >= end_us - start_us), HALF_WINDOWS[-1])
    return float(samples[f"likeness_{half}"][middle])
