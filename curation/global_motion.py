"""How the whole picture moves: shift, growth and turn some ten times a second, and how single places move besides.

A grid of some 60 points is followed from one look to the next by pyramidal Lucas-Kanade on the small luma planes, looks being 95 ms
apart so that a slow camera has moved by more than the 0.02 px to which a point is found. A similarity (shift, growth, turn) is fitted to
the points, sure against a third of them moving by themselves. What each point does besides is kept in a byte a direction: depth shows in
it, and with depth a push can be told from a zoom.

Measured: 130 to 200 us a look, so some 50 us a frame of 30 a second. 2 KB a second of video.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from curation.observe import Frame
from curation.ranks import held_medians
from curation.tracks import Recorder, Track

TRACK = "camera"
FIELDS = ("dt_s", "dx", "dy", "zoom", "roll", "inliers", "residual", "texture", "width", "height")
"""Per look, since the look before, `dt_s` earlier:

    dx, dy    speed of the content to the right and down at the centre, picture widths and heights a second
    zoom      growth of the content, 1/s
    roll      turn of the content, clockwise as shown, rad/s
    inliers   share of the points with texture that go along with these four
    residual  mean speed of these points against the four, picture widths a second
    texture   share of the grid's points that show enough texture to be followed
    width     of the small picture in px; and height

The six speeds and shares are nan where fewer than LEAST_POINTS points can be followed: nothing to see is not stillness.
"""

LOOK_US = 95_000
"""Looks are at least so far apart: each third frame at 24 to 30 a second."""
MOST_US = 260_000
"""Frames further apart are not compared; those of a video of 5 a second still are."""
CELL_PX = 16
"""Points are so far apart on the small plane, at the middle of square cells."""
LEAST_POINTS = 8
LEAST_TEXTURE = 0.002
"""Smallest eigenvalue of the gradient matrix (OpenCV's scale) of a point that can be followed; grain of 2 levels reaches 0.0005."""
STEP_PX = 1 / 16
"""A point's own motion is stored in such steps, up to 7.9 px to each side."""

_WINDOW = (9, 9)
_LEVELS = 2
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 8, 0.03)
_FLUSH = 64
_ALONG_PX, _ALONG_SHARE = 0.3, 0.1
"""A point goes along with the model within 0.3 px and a tenth of its motion."""


class GlobalMotionObserver:
    """Fills the track `camera`: FIELDS, and as picture what each point does besides, [3 x rows, columns] (see `local_motion`)."""

    def __init__(self) -> None:
        self._recorder = Recorder(TRACK, FIELDS)
        self._before: np.ndarray | None = None
        self._light = (0.0, 0.0)  # its mean and spread
        self._still: tuple[np.ndarray, ...] | None = None  # what was found of the picture that stands
        self._last_us = 0
        self._grid = np.zeros((0, 1, 2), np.float32)
        self._shape = (0, 0)
        self._held: list[
            tuple[int, float, tuple[np.ndarray, ...]]
        ] = []  # time, dt_s; place px, whether it was found, texture, of each point

    def push(self, frame: Frame) -> None:
        """Looks at a frame that comes 95 ms after the last look, and at the first."""
        if not frame.repeats:
            self._still = None
        if self._before is not None and 0 <= frame.pts_us - self._last_us < LOOK_US:
            return
        before, y, step_us = self._before, frame.y, frame.pts_us - self._last_us
        self._before, self._last_us = y, frame.pts_us
        light_before = self._light
        if before is not y:
            mean, spread = cv2.meanStdDev(y)
            self._light = float(mean[0, 0]), float(spread[0, 0])
        if before is None or before.shape != y.shape or not 0 < step_us <= MOST_US:
            return
        if self._shape != y.shape:
            self._flush()
            self._shape, self._grid = y.shape, np.ascontiguousarray(grid_px(*y.shape)[:, None])
        if self._still is not None:
            self._hold(frame.pts_us, step_us, self._still)
            return
        found = cv2.calcOpticalFlowPyrLK(
            before, _same_light(y, self._light, light_before), self._grid, np.empty(0), winSize=_WINDOW, maxLevel=_LEVELS,
            criteria=_CRITERIA, flags=cv2.OPTFLOW_LK_GET_MIN_EIGENVALS,
        )  # fmt: skip
        if y is before:
            self._still = found
        self._hold(frame.pts_us, step_us, found)

    def _hold(self, pts_us: int, step_us: int, found: tuple[np.ndarray, ...]) -> None:
        self._held.append((pts_us, step_us / 1e6, found))
        if len(self._held) >= _FLUSH:
            self._flush()

    def finish(self) -> list[Track]:
        """The track; empty when no two frames were near enough."""
        self._flush()
        return [self._recorder.track()]

    def _flush(self) -> None:
        """Fits the models of what is held, all at once: one at a time costs more than following the points."""
        if not self._held:
            return
        height, width = self._shape
        dt = np.array([h[1] for h in self._held])
        place, seen, texture = (np.stack([h[2][k] for h in self._held]) for k in range(3))
        motion, texture = (place - self._grid)[:, :, 0].astype(np.float64), np.where(seen, texture, 0)[:, :, 0].astype(np.float64)
        at = self._grid[:, 0] - np.array([(width - 1) / 2, (height - 1) / 2])
        weight = (texture >= LEAST_TEXTURE).astype(np.float64)
        model = fit_similarity(at, motion, weight)
        besides = motion - similarity_motion(model, at)
        size = np.hypot(besides[..., 0], besides[..., 1])
        points = weight.sum(1)
        along = size <= _ALONG_PX + _ALONG_SHARE * np.hypot(*np.moveaxis(motion, 2, 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            inliers, residual = (weight * along).sum(1) / points, (weight * np.minimum(size, width)).sum(1) / points
        speeds = (
            np.stack([model[:, 0] / width, model[:, 1] / height, model[:, 2], model[:, 3], inliers * dt, residual / width], 1) / dt[:, None]
        )
        speeds[points < LEAST_POINTS] = np.nan
        pictures = _pictures(besides, texture, self._shape)
        for k, (pts_us, dt_s, _) in enumerate(self._held):
            self._recorder.add(pts_us, dt_s, *speeds[k], float(points[k] / len(at)), width, height, picture=pictures[k])
        self._held.clear()


@lru_cache(maxsize=8)
def grid_px(height: int, width: int) -> np.ndarray:
    """The points of a small plane, x and y in px [rows x columns, 2], row by row."""
    rows, columns = grid_shape(height, width)
    x, y = (np.arange(columns) + 0.5) * width / columns - 0.5, (np.arange(rows) + 0.5) * height / rows - 0.5
    return np.stack(np.meshgrid(x, y), 2).reshape(-1, 2).astype(np.float32)


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the grid, at least four each."""
    return max(4, round(height / CELL_PX)), max(4, round(width / CELL_PX))


def fit_similarity(at: np.ndarray, motion: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Shift right and down at the origin, growth and turn [n, 4] that most of the points follow.

    at [points, 2] relative to the origin; motion [n, points, 2]; weight [n, points]. Reweighted least squares (Cauchy) from the weighted
    median on, the scale narrowing to 0.1 px.
    """
    model = np.zeros((len(motion), 4))
    model[:, 0], model[:, 1] = (_weighted_median(motion[..., k], weight) for k in (0, 1))
    x, y = at[:, 0], at[:, 1]
    # Each way by itself and in one piece: what runs through every second number takes twice as long.
    right, down = np.ascontiguousarray(motion[..., 0]), np.ascontiguousarray(motion[..., 1])
    for scale in (2.0, 1.0, 0.5, 0.3, 0.2, 0.15, 0.1, 0.1):
        shift, lift, growth, turn = model.T[..., None]
        off_right, off_down = right - (shift + growth * x - turn * y), down - (lift + growth * y + turn * x)
        w = weight / (1 + (off_right * off_right + off_down * off_down) / scale**2)
        total = w.sum(1)[:, None] + 1e-12
        cx, cy, cu, cv = ((w * v).sum(1)[:, None] / total for v in (x, y, right, down))
        px, py, u, v = x - cx, y - cy, right - cu, down - cv
        spread = (w * (px * px + py * py)).sum(1) + 1e-9
        growth, turn = (w * (px * u + py * v)).sum(1) / spread, (w * (px * v - py * u)).sum(1) / spread
        model = np.stack([cu[:, 0] - growth * cx[:, 0] + turn * cy[:, 0], cv[:, 0] - growth * cy[:, 0] - turn * cx[:, 0], growth, turn], 1)
    return model


def similarity_motion(model: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Motion [n, points, 2] of the points [points, 2] under the models [n, 4]."""
    right, down, growth, turn = model.T[..., None]
    x, y = at[:, 0], at[:, 1]
    return np.stack([right + growth * x - turn * y, down + growth * y + turn * x], 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMotion:
    """Where the points lie and how fast each moves, lengths in picture widths. x, y [points] from the centre; the rest [n, points]."""

    x: np.ndarray
    y: np.ndarray
    right: np.ndarray  # widths a second
    down: np.ndarray
    weight: np.ndarray  # 0 where there is no texture or the motion is beyond what is stored, else up to 1
    rows: int


def local_motion(track: Track) -> LocalMotion:
    """The points of a track of one picture size."""
    width, height = float(track["width"][0]), float(track["height"][0])
    rows = grid_shape(round(height), round(width))[0]
    at = (grid_px(round(height), round(width)) - np.array([(width - 1) / 2, (height - 1) / 2])) / width
    model = np.stack([track["dx"], track["dy"] * (height / width), track["zoom"], track["roll"]], 1).astype(np.float64)
    besides_px, weight = besides_model(track)
    speed = similarity_motion(model, at) + besides_px / width / track["dt_s"][:, None, None].astype(np.float64)
    return LocalMotion(x=at[:, 0], y=at[:, 1], right=speed[..., 0], down=speed[..., 1], weight=weight, rows=rows)


def besides_model(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """What each point does besides the model in small px a look, [n, points, 2], and how well it is seen, [n, points].

    The latter is the root of the eigenvalue (LEAST_TEXTURE), up to 1; the error of a point grows as its inverse. 0 where nothing is stored.
    """
    raw = track.pictures.reshape(len(track), 3, -1).astype(np.float64)
    return np.moveaxis(raw[:, :2] - 128, 1, 2) * STEP_PX, raw[:, 2] / 255


def _pictures(besides: np.ndarray, texture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The bytes of each look, [n, 3 x rows, columns]: motion besides the model to the right, down, and how well the point is seen."""
    steps = np.rint(besides / STEP_PX)
    known = (np.abs(steps) < 128).all(2) & (texture >= LEAST_TEXTURE)
    sure = np.where(known, np.clip(np.sqrt(texture) * 800, 1, 255), 0)
    stacked = np.stack([np.where(known, steps[..., 0], 0) + 128, np.where(known, steps[..., 1], 0) + 128, sure], 1)
    rows, columns = grid_shape(*shape)
    return stacked.astype(np.uint8).reshape(len(besides), 3 * rows, columns)


def _same_light(y: np.ndarray, light: tuple[float, float], before: tuple[float, float]) -> np.ndarray:
    """The luma, of that mean and spread, with those of the plane before: a point is followed by its levels."""
    (mean, spread), (mean_before, spread_before) = light, before
    if abs(mean - mean_before) < 0.5 and abs(spread - spread_before) < 0.5:
        return y
    gain = min(2.0, max(0.5, spread_before / max(spread, 1.0)))
    return cv2.convertScaleAbs(y, alpha=gain, beta=mean_before - gain * mean)


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The median [n] over the points [n, points] whose weight is not 0; 0 where there are none."""
    held = weight > 0
    return np.where(held.any(1), held_medians(values, held), 0.0)
