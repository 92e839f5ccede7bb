"""How a picture changes from frame to frame, finely enough to show where footage that was slowed down afterwards changes its motion.

Measured: 50 us a frame, 4 KB a second of video at 24 frames a second.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from curation.observe import Frame
from curation.tracks import Recorder, Track

TRACK = "bends"
FIELDS = ("bend", "turn", "unlike")
GRID = (8, 5)
"""Cells across and down."""
_FLAT = 4.0
"""Levels² a px²: a cell whose gradients are much smaller shows no motion, and none is said of it."""
_STILL = 0.05
"""Levels by which a cell at rest changes once coded."""
_FLUSH = 64


class _Plane(NamedTuple):
    """A frame's small luma and its half, the latter's slopes to the right and down, and the step to it: mean |d| and the sum of squares."""

    y: np.ndarray
    half: np.ndarray
    slopes: Sequence[np.ndarray]
    change: float
    square: float


class BendObserver:
    """Fills the track `bends`, a row a frame, with its two steps: from the frame before the last to the last, and to this one.

    bend    by how much both are longer than the way straight on, in mean absolute luma: 0 where the frame between is a mixture of its
            neighbours, or repeats one; 1 where the picture comes back
    turn    minus the cosine between them: -1 straight on, 1 back again
    unlike  by how much the changes of the cells of GRID differ between them, as a share of both

    nan where there are no two steps yet, or nothing changes. Picture [cells, 4]: the motion of each cell in the last step, see `cells_motion`.
    """

    def __init__(self) -> None:
        self._recorder = Recorder(TRACK, FIELDS)
        self._last: list[_Plane] = []  # the last two
        self._changes: np.ndarray | None = None  # of the cells, in the step before those that wait
        self._waiting: list[tuple[int, float, float]] = []
        self._cells: list[np.ndarray] = []

    def push(self, frame: Frame) -> None:
        """The frame's row is noted; it is worked out with others."""
        if self._last and self._last[-1].y.shape != frame.y.shape:
            self._last = []
        last, bend, turn = self._last, float("nan"), float("nan")
        square = cv2.norm(frame.y, last[-1].y, cv2.NORM_L2SQR) if last else 0.0
        now = _Plane(frame.y, frame.half(), cv2.spatialGradient(frame.half()), frame.change, square)
        if len(last) == 2 and square and last[-1].square:
            bend = 1 - cv2.norm(frame.y, last[0].y, cv2.NORM_L1) / ((last[-1].change + frame.change) * frame.y.size)
            turn = (last[-1].square + square - cv2.norm(frame.y, last[0].y, cv2.NORM_L2SQR)) / (2 * (last[-1].square * square) ** 0.5)
        self._waiting.append((frame.pts_us, bend, turn))
        self._cells.append(_products(last[-1], now) if square else _NOTHING)
        self._last = [*last[-1:], now]
        if len(self._waiting) == _FLUSH:
            self._flush()

    def _flush(self) -> None:
        cells = np.stack(self._cells)
        motion = _motion(cells).astype("<f2").view(np.uint8)
        changes = cells[..., 5] if self._changes is None else np.concatenate([self._changes[None], cells[..., 5]])
        unlike = np.abs(np.diff(changes, axis=0)).sum(1) / (changes[1:] + changes[:-1] + _STILL).sum(1)
        unlike = np.concatenate([[np.nan] * (len(cells) - len(unlike)), unlike])
        for k, (pts_us, bend, turn) in enumerate(self._waiting):
            self._recorder.add(pts_us, bend, turn, float(unlike[k]) if turn == turn else float("nan"), picture=motion[k])
        self._changes, self._waiting, self._cells = cells[-1, :, 5], [], []

    def finish(self) -> list[Track]:
        """The track."""
        if self._waiting:
            self._flush()
        return [self._recorder.track()]


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
