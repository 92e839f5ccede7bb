"""How a picture changes from frame to frame, finely enough to show where footage that was slowed down afterwards changes its motion.

Measured: 60 us a frame, 4 KB a second of video at 24 frames a second.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from curation.observe import Frame
from curation.tracks import Recorder, Track

TRACK = "bends"
FIELDS = ("bend", "turn", "turn_2", "turn_3", "unlike")
_LAGS = (1, 2, 3)
"""Frames a step of each turn is long …"""
_APART = (1, 2, 3, 4, 6)
"""… and how far apart those frames are that are compared for it."""
GRID = (8, 5)
"""Cells across and down."""
_FLAT = 4.0
"""Levels² a px²: a cell whose gradients are much smaller shows no motion, and none is said of it."""
_STILL = 0.05
"""Levels by which a cell at rest changes once coded."""
_FLUSH = 64
_NAN = float("nan")


class _Plane(NamedTuple):
    """The half of a frame's small luma and its slopes to the right and down, and the step to it, mean |d|."""

    half: np.ndarray
    slopes: Sequence[np.ndarray]
    change: float


class BendObserver:
    """Fills the track `bends`, a row a frame, with its two steps: from the frame before the last to the last, and to this one.

    bend    by how much both are longer than the way straight on, in mean absolute luma: 0 where the frame between is a mixture of its
            neighbours, or repeats one; 1 where the picture comes back
    turn    minus the cosine between them: -1 straight on, 1 back again
    turn_2  that of steps two frames long, from four frames before; turn_3 of steps of three: see `turns`
    unlike  by how much the changes of the cells of GRID differ between them, as a share of both

    nan where there are no two steps yet, or nothing changes. Picture [cells, 4]: the motion of each cell in the last step, see `cells_motion`.
    """

    def __init__(self) -> None:
        self._recorder = Recorder(TRACK, FIELDS)
        self._past: deque[np.ndarray] = deque(maxlen=max(_APART))  # small luma
        self._squares: deque[Mapping[int, float]] = deque(maxlen=max(_LAGS))  # of each past frame, of the steps to it that are so long
        self._last: _Plane | None = None
        self._changes: np.ndarray | None = None  # of the cells, in the step before those that wait
        self._waiting: list[tuple[int, float, list[float]]] = []
        self._cells: list[np.ndarray] = []

    def push(self, frame: Frame) -> None:
        """The frame's row is noted; it is worked out with others."""
        if self._past and self._past[-1].shape != frame.y.shape:
            self._past.clear()
            self._squares.clear()
        squares = {n: cv2.norm(frame.y, self._past[-n], cv2.NORM_L2SQR) for n in _APART if n <= len(self._past)}
        turned = [_turn(self._squares[-lag].get(lag), squares[lag], squares.get(2 * lag)) if lag in squares else _NAN for lag in _LAGS]
        now, bend = _Plane(frame.half(), cv2.spatialGradient(frame.half()), frame.change), _NAN
        if self._last and turned[0] == turned[0]:
            bend = 1 - cv2.norm(frame.y, self._past[-2], cv2.NORM_L1) / ((self._last.change + frame.change) * frame.y.size)
        self._waiting.append((frame.pts_us, bend, turned))
        self._cells.append(_products(self._last, now) if self._last and squares.get(1) else _NOTHING)
        self._past.append(frame.y)
        self._squares.append(squares)
        self._last = now
        if len(self._waiting) == _FLUSH:
            self._flush()

    def _flush(self) -> None:
        cells = np.stack(self._cells)
        motion = _motion(cells).astype("<f2").view(np.uint8)
        changes = cells[..., 5] if self._changes is None else np.concatenate([self._changes[None], cells[..., 5]])
        unlike = np.abs(np.diff(changes, axis=0)).sum(1) / (changes[1:] + changes[:-1] + _STILL).sum(1)
        unlike = np.concatenate([[np.nan] * (len(cells) - len(unlike)), unlike])
        for k, (pts_us, bend, turned) in enumerate(self._waiting):
            self._recorder.add(pts_us, bend, *turned, float(unlike[k]) if turned[0] == turned[0] else _NAN, picture=motion[k])
        self._changes, self._waiting, self._cells = cells[-1, :, 5], [], []

    def finish(self) -> list[Track]:
        """The track."""
        if self._waiting:
            self._flush()
        return [self._recorder.track()]


def turns(bends: Track, lag: int) -> np.ndarray:
    """The turn of steps of two or three frames about the frame that `turn` of the same row is about [n]; nan where one would begin before
    these rows, or two frames before the first, or end after them. A slow pace's made frames differ by less than coding does from one to the next."""
    found = bends[f"turn_{lag}"].astype(np.float64)
    found[: 2 * lag - 2] = np.nan
    return np.concatenate([found[lag - 1 :], np.full(min(len(found), lag - 1), np.nan)])


def _turn(first: float | None, second: float, both: float | None) -> float:
    """Minus the cosine between two steps, from the squares of their lengths and of that of both together; nan where there is none."""
    return _NAN if not first or not second or both is None else (first + second - both) / (2 * (first * second) ** 0.5)


def cells_motion(bends: Track) -> np.ndarray:
    """How each cell of GRID moved since the frame before, px of the half plane a frame to the right and down, [n, cells, 2]; 0 where it
    shows nothing. By one step of Lucas and Kanade (1981), right for up to a px or so."""
    return np.ascontiguousarray(bends.pictures).view("<f2").astype(np.float64).reshape(len(bends), -1, 2)


_SCALE = np.array([256, 256, 256, 16, 16], np.float32)
_NOTHING = np.zeros((GRID[0] * GRID[1], 6), np.float32)


def _products(before: _Plane, now: _Plane) -> np.ndarray:
    """Means over each cell, [cells, 6], of the products of slopes x, y and change t: xx, xy, yy, xt, yt; and of |t|. Slopes are 16 times as large."""
    x, y = (np.add(a, b, dtype=np.float32) for a, b in zip(before.slopes, now.slopes, strict=True))
    t = np.subtract(now.half, before.half, dtype=np.float32)
    parts = (cv2.merge([x * x, x * y, y * y]), cv2.merge([x * t, y * t, np.abs(t)]))
    return np.concatenate([cv2.resize(p, GRID, interpolation=cv2.INTER_AREA).reshape(-1, 3) for p in parts], 1)


def _motion(products: np.ndarray) -> np.ndarray:
    """The motion that explains these changes best, drawn to none where slopes are flat, [n, cells, 2]."""
    xx, xy, yy, xt, yt = np.moveaxis(products[..., :5] / _SCALE, 2, 0)
    xx, yy = xx + _FLAT, yy + _FLAT
    return np.asarray(np.stack([xy * yt - yy * xt, xy * xt - xx * yt], 2) / (xx * yy - xy * xy)[..., None])
