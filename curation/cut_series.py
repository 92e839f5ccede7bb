"""What is measured of every frame so that hard cuts can be found afterwards: the observer behind the tracks "shots" and "transitions".

Every frame is compared with the one before. Only where the change stands out a little (one frame in a hundred, on real media) more is
measured: whether the old picture comes back at once (a flash), and whether both pictures show the same place, by matching corners: a
whip pan, a zoom, another lens, a change of light and a coder's refresh keep the place, a cut does not.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from curation.observe import Frame
from curation.tracks import Recorder, Track
from curation.transitions import TransitionSampler

FIELDS = ("change", "back", "back_s", "same", "overlap", "kept")
"""change: mean |dY|/2 + |dU| + |dV| to the frame before, levels; nan at the first frame. Where it stands out, else nan:

back: about the smallest such change between the frame before this one and the frames of the next FLASH_US, back_s: seconds from this
frame to where that is; same: share of the picture's parts with corners in which they are found again, moved, turned or scaled as one; overlap: correlation of half of
one picture with the other where it fits best (blurred pictures have no corners); kept: how much of the edges of one picture is also in
the other, the larger of both ways (an overlay that comes or goes keeps all of one of them). Where the change goes on in the next two
frames (a cut between blended frames), the picture after those is the one that is looked at.
"""

LEAST_CHANGE = 3.0  # levels: below it nothing more is measured
STANDS_OUT = 1.8  # times the mean of the largest of two changes before and of two after; before alone, once
SETS_IN = 3.0  # times the largest of two changes before
CLEAR_CHANGE = 8.0  # levels: corners are matched from here …
CLEAR_RATIO = 20.0  # … or where the change stands out so many times
REPEATED = 0.15  # levels, or of the last change: less is the same picture again …
CADENCE_US = 130_000  # … if the last change is no longer ago: it says nothing about what is usual
FLASH_US = 250_000
_CLEARLY_NEARER = 0.8  # of two times at which the old picture is back, the first is meant
_GOES_ON = 0.5  # share of a change that one of the next two frames has too
_LONGEST_FLASH = 16  # frames, at high frame rates
_MATCH_US = 250_000  # corners are matched so often at most, on average: a strobing video costs no more …
_MATCHES_SAVED = 8.0  # … and so many may follow each other at once


class _Planes(NamedTuple):
    """What is kept of a frame: its small planes, not the decoder's picture."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray


@dataclass(slots=True)
class _Jump:
    """A frame that may begin a shot, until what follows it is known."""

    row: int
    pts_us: int
    change: float
    before: _Planes
    at: _Planes
    before_most: float  # the largest change of the two frames before …
    back: float
    back_us: int
    after_most: float = 0.0  # … and of the two after
    same: float = float("nan")
    overlap: float = float("nan")
    kept: float = float("nan")
    frames: int = 0  # since, and of these …
    seen: int = 0  # … new pictures, or so late that nothing moves

    def stands_out(self, times: float) -> bool:
        """Whether the change is so many times what is usual around it."""
        return 2 * self.change >= times * (self.before_most + self.after_most)

    def sets_in(self) -> bool:
        """Whether the change comes out of quiet and goes on: motion, or a cut between blended frames."""
        return self.change >= SETS_IN * self.before_most and self.after_most >= _GOES_ON * self.change


class ShotObserver:
    """Watches for shot boundaries: the tracks "shots" (each frame, FIELDS) and "transitions" (`curation.transitions`)."""

    def __init__(self) -> None:
        self._recorder = Recorder("shots", ("change",))
        self._transitions = TransitionSampler()
        self._last: _Planes | None = None
        self._recent: deque[float] = deque(maxlen=2)  # changes of the last two frames that were new pictures
        self._moved_us = 0
        self._open: list[_Jump] = []
        self._found: list[tuple[float, ...]] = []  # row of the frame and its further fields
        self._corners: Any = None
        self._matches, self._matched_us = _MATCHES_SAVED, 0

    def push(self, frame: Frame) -> None:
        """The next frame, in order of presentation."""
        self._transitions.push(frame)
        planes = _Planes(frame.y, frame.u, frame.v)
        last, self._last = self._last, planes
        if last is None:
            self._recorder.add(frame.pts_us, float("nan"))
            return
        change = 0.0 if frame.repeats else frame.change / 2 + _chroma_change(planes, last)
        self._recorder.add(frame.pts_us, change)
        again = frame.pts_us - self._moved_us < CADENCE_US and change < REPEATED * max(1.0, self._recent[-1] if self._recent else 0.0)
        if self._open:
            self._follow(planes, frame.pts_us, change, again)
        most = max(self._recent, default=0.0)
        if change >= max(LEAST_CHANGE, most):
            row = len(self._recorder.pts_us) - 1
            self._open.append(_Jump(row, frame.pts_us, change, last, planes, most, change, frame.pts_us))
        if not again:
            self._recent.append(change)
            self._moved_us = frame.pts_us

    def finish(self) -> list[Track]:
        """Both tracks."""
        for jump in self._open:
            self._close(jump)
        changes = self._recorder.track()
        values = np.full((len(changes), len(FIELDS)), np.nan, np.float32)
        values[:, 0] = changes["change"]
        for row, *more in self._found:
            values[int(row), 1:] = more
        return [Track(name="shots", fields=FIELDS, pts_us=changes.pts_us, values=values), self._transitions.finish()]

    def _follow(self, planes: _Planes, pts_us: int, change: float, again: bool) -> None:
        """The open jumps are compared with a frame that comes after them; those that are known enough are closed."""
        still = []
        for jump in self._open:
            jump.frames += 1
            jump.seen += not again
            if jump.seen <= 2:
                jump.after_most = max(jump.after_most, change)
            if jump.seen == 2 and not again:
                if not (jump.stands_out(STANDS_OUT) or jump.sets_in()):
                    continue
                if jump.change >= CLEAR_CHANGE or jump.stands_out(CLEAR_RATIO):
                    self._match(jump, planes if jump.after_most >= _GOES_ON * jump.change else jump.at)
            if jump.seen > 2 and (pts_us - jump.pts_us > FLASH_US or jump.frames > _LONGEST_FLASH):
                self._close(jump)
                continue
            back = _change(planes, jump.before)
            if back < _CLEARLY_NEARER * jump.back:
                jump.back, jump.back_us = back, pts_us
            still.append(jump)
        self._open = still

    def _match(self, jump: _Jump, after: _Planes) -> None:
        """Fills in whether the pictures before and after show the same place, if that was not asked too often of late."""
        self._matches = min(_MATCHES_SAVED, self._matches + (jump.pts_us - self._matched_us) / _MATCH_US)
        self._matched_us = jump.pts_us
        if self._matches < 1:
            return
        self._matches -= 1
        if self._corners is None:
            self._corners = cv2.ORB_create(nfeatures=300, edgeThreshold=8, patchSize=16, fastThreshold=8)  # type: ignore[attr-defined]
        jump.same = same_place(jump.before.y, after.y, self._corners)
        jump.overlap = best_overlap(jump.before.y, after.y)
        jump.kept = edges_kept(jump.before.y, after.y)

    def _close(self, jump: _Jump) -> None:
        if jump.seen < 2:  # the last frames of the video
            self._match(jump, jump.at)
        self._found.append((jump.row, jump.back, (jump.back_us - jump.pts_us) / 1e6, jump.same, jump.overlap, jump.kept))


def content_change(y: np.ndarray, u: np.ndarray, v: np.ndarray, y0: np.ndarray, u0: np.ndarray, v0: np.ndarray) -> float:
    """Mean |dY|/2 + |dU| + |dV| between two small frames, in levels of 255; chroma planes are averaged over their own size."""
    return cv2.norm(y, y0, cv2.NORM_L1) / y.size / 2 + (cv2.norm(u, u0, cv2.NORM_L1) + cv2.norm(v, v0, cv2.NORM_L1)) / u.size


def _change(a: _Planes, b: _Planes) -> float:
    return content_change(*a, *b)


def _chroma_change(a: _Planes, b: _Planes) -> float:
    return (cv2.norm(a.u, b.u, cv2.NORM_L1) + cv2.norm(a.v, b.v, cv2.NORM_L1)) / a.u.size


_FEWEST_CORNERS = 12
_NEAR_BITS = 50  # of 256: descriptors that differ by less may show the same corner


def same_place(a: np.ndarray, b: np.ndarray, corners: Any) -> float:
    """In what share of the parts (8 x 5) of picture a that have corners b has them too, under one shift, turn and scale (RANSAC, 3 px).

    Parts, not corners, are counted, as an overlay that stays over a cut has many corners in few parts. nan where there are too few.
    """
    points_a, seen_a = corners.detectAndCompute(a, None)
    points_b, seen_b = corners.detectAndCompute(b, None)
    if min(len(points_a), len(points_b)) < _FEWEST_CORNERS:
        return float("nan")
    pairs = [m for m in cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(seen_a, seen_b) if m.distance < _NEAR_BITS]
    if len(pairs) < 6:
        return 0.0
    from_a = np.array([points_a[m.queryIdx].pt for m in pairs], np.float32)
    to_b = np.array([points_b[m.trainIdx].pt for m in pairs], np.float32)
    _, inliers = cv2.estimateAffinePartial2D(from_a, to_b, ransacReprojThreshold=3)
    if inliers is None:
        return 0.0
    there = _by_part(np.array([k.pt for k in points_a], np.float32), a.shape)
    again = _by_part(from_a[inliers[:, 0] > 0], a.shape)
    return float((again >= np.maximum(1, 0.1 * there))[there > 0].mean())


def _by_part(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How many of the points (x, y) lie in each of 8 x 5 parts of a picture, int [40]."""
    columns, rows = (points[:, 0] * 8 / shape[1]).astype(int), (points[:, 1] * 5 / shape[0]).astype(int)
    return np.bincount(rows * 8 + columns, minlength=40)


_TINY = (80, 44)


def best_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Highest correlation of the left, middle or right half of a with b wherever it fits in, a tenth beyond at top and bottom; -1 to 1."""
    small_a, small_b = (cv2.resize(x, _TINY, interpolation=cv2.INTER_AREA) for x in (a, b))
    field = cv2.copyMakeBorder(small_b, 4, 4, 0, 0, cv2.BORDER_REPLICATE)
    halves = [small_a[:, x : x + 40] for x in (0, 20, 40)]
    # A plain half fits everywhere.
    found = [float(cv2.matchTemplate(field, half, cv2.TM_CCOEFF_NORMED).max()) for half in halves if half.std() >= 5]
    return max(found, default=0.0)


def edges_kept(a: np.ndarray, b: np.ndarray) -> float:
    """Share of one picture's edge strength that is also in the other at the same place; the larger of both ways, 0 to 1."""
    strength_a, strength_b = _edges(a), _edges(b)
    both = float(cv2.min(strength_a, strength_b).sum())
    return both / max(1.0, min(float(strength_a.sum()), float(strength_b.sum())))


def _edges(y: np.ndarray) -> np.ndarray:
    """Strength of edges, smeared by a pixel, with coding noise taken off."""
    strength = cv2.blur(np.abs(cv2.Laplacian(cv2.blur(y, (3, 3)), cv2.CV_32F)), (3, 3))
    return np.maximum(strength - 2, 0)
