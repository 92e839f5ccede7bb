"""Motion of a clip: VMAF's motion at full size and a fixed time step, and the share of the time that is still, from one decode.

VMAF motion is the mean absolute luma difference of neighbouring frames after a 5-tap Gaussian blur, at full size (FFmpeg's `vmafmotion`).
Blurring every full frame costs more than decoding it. So the small plane, blurred and halved, says how motion goes from frame to frame, and
a few tiles of the full-size luma, some twice a second, say how much larger it is at full size (a ratio estimate; nothing in it is fitted to any videos).

It grows with the time step, as a power of it that differs from scene to scene: 1 for a slow pan, 0 for noise. That power is measured too,
on pairs of frames that lie further apart, and clips are given in levels a 1/24 s step whatever their frame rate. By the same power
stillness is judged over the same time at any rate, and frames that only repeat a picture in a cadence (24 in 60) are no stillness.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np

from curation.observe import SMALL_PX, Frame
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "5"
"""Version of the motion measure."""
COLUMNS = ("motion", "static_fraction")

VECTOR_CODECS = ("h264", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "h263", "flv", "wmv1", "wmv2")
"""Codecs whose FFmpeg decoders export motion vectors; HEVC, VP9 and AV1 export none."""

REFERENCE_STEP_US = 1_000_000 / 24
STILL_STEP_US = 33_000
"""Change over a shorter step is brought to this one before it is compared with `still_levels`, a level for 24 to 30 steps a second (33 ms)."""
FULL_SIZE_FACTOR = 1.22
FULL_SIZE_POWER = 0.13
"""Where no tile was seen: vmafmotion = FACTOR * small motion * (full long side / small long side) ** POWER. Least squares on 83 real videos."""

SAMPLE_US = 800_000
"""Spacing of the sampled pairs. A pair costs some 350 us, so 15 us a frame."""
FAR_US = 77_000
"""Pairs that tell how motion grows with the step are at least this far apart, and at least two moving steps."""
TILE_PX = 32
TILES = (6, 10)
"""Tiles down and across: 78,000 px with their rims, a twelfth of 720 lines. 3 x 6 left 8 % of spread against the reference, these 5 %."""
_RIM = 2  # of the 5-tap blur
_MOST_REACH = 24  # frames, a tenth of a second at 240: times that are a few us apart cost no more
_GOLDEN, _PLASTIC = 0.6180339887, 0.7548776662  # steps of evenly spread sequences

_DEEP = {f"{layout}{bits}le": 2.0 ** (8 - bits) for layout in ("yuv420p", "yuv422p", "yuv444p", "gray") for bits in (9, 10, 12, 14, 16)}
"""Formats of 16-bit words whose values have so many bits, and what brings them to levels of 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionConfig:
    """How motion is measured. Values are ours."""

    still_levels: float = 7.0  # a step is still when no place of the half plane changes by as much
    repeat_share: float = 0.1  # a step with less than this share of the mean motion (for stillness, of that around it) is a repeat
    longest_step_us: int = 100_000  # what moves more rarely is taken to move so often: an event, not a frame rate; the rest is still
    least_growth: float = 0.1  # bounds of the power of the time step with which motion grows
    growth_bend: float = 0.75  # of what the power lacks to 1 at twice the step, so much at the step: 74 real clips at half their rate
    small_motion: float = 0.02  # levels; sampled pairs that move less tell nothing about the ratio to full size


class MotionWatch:
    """Watches motion: track `motion` (every frame: motion against the frame before in levels on the small plane's half, largest
    change there in levels, mean luma) and track `motion_samples`.

    A sample has, where known, the motion of sampled tiles at full size (`full`) and of the same places on the half plane (`small`), for
    one pair of neighbours; and of one pair of frames further apart the motion (`far`), the sum (`near`) and number (`steps`) of the moving
    steps between them, and the seconds (`far_s`).
    """

    def __init__(self) -> None:
        self._rows = Recorder("motion", ("motion", "change", "luma"))
        self._samples = Recorder("motion_samples", ("full", "small", "far", "near", "steps", "far_s"))
        self._before: np.ndarray | None = None
        self._level = 0.0
        self._tiles = _Tiles()
        self._due = -(1 << 62)
        self._number = 0
        self._far: tuple[np.ndarray, int] | None = None
        self._near, self._steps = 0.0, 0

    def push(self, frame: Frame) -> None:
        """The frame's motion against the frame before is known."""
        half, before = frame.half(), self._before
        self._before = half
        if before is None:
            self._level = cv2.mean(half)[0]
            self._rows.add(frame.pts_us, np.nan, np.nan, self._level)
            self._start(frame)
            return
        motion = 0.0
        if frame.repeats:
            self._before = before
            self._rows.add(frame.pts_us, 0.0, 0.0, self._level)
        else:
            motion, self._level = _motion(half, before), cv2.mean(half)[0]
            self._rows.add(frame.pts_us, motion, cv2.norm(half, before, cv2.NORM_INF), self._level)
            if self._tiles.held and motion:  # a repeated frame says nothing; the tiles of its twin still hold
                self._look(frame, before)
        if self._far is not None:
            self._look_far(frame, motion)
        if frame.pts_us >= self._due:
            self._start(frame)

    def finish(self) -> list[Track]:
        """Both tracks."""
        return [self._rows.track(), self._samples.track()]

    def _start(self, frame: Frame) -> None:
        """A pair of each kind begins at the frame; starts are spread unevenly, so that no rhythm of repeated frames is always met alike."""
        self._number += 1
        self._due = frame.pts_us + int(SAMPLE_US * (0.5 + self._number * _GOLDEN % 1))
        self._far, self._near, self._steps = (frame.half(), frame.pts_us), 0.0, 0
        if not (self._tiles.held and frame.repeats):
            self._tiles.take(frame, self._number)

    def _look(self, frame: Frame, before: np.ndarray) -> None:
        found = self._tiles.compare(frame, before)
        if found is not None:
            self._samples.add(frame.pts_us, *found, np.nan, np.nan, np.nan, np.nan)

    def _look_far(self, frame: Frame, motion: float) -> None:
        start, pts_us = cast(tuple[np.ndarray, int], self._far)
        self._near += motion
        self._steps += motion > 0
        if frame.pts_us - pts_us >= FAR_US and self._steps >= 2:
            self._samples.add(
                frame.pts_us, np.nan, np.nan, _motion(frame.half(), start), self._near, self._steps, (frame.pts_us - pts_us) / 1e6
            )
            self._far = None


class _Tiles:
    """Small tiles of the full-size luma, evenly spread and elsewhere at every sample; nothing where the picture is not made smaller."""

    def __init__(self) -> None:
        self.held = False
        self._mosaic: np.ndarray = np.zeros((0, 0), np.uint8)
        self._offset = (0, 0)
        self._levels = 1.0

    def take(self, frame: Frame, number: int) -> None:
        """The frame's tiles are held."""
        self.held = False
        luma = self._luma(frame)
        if luma is None or max(luma.shape) <= SMALL_PX or min(luma.shape) < TILE_PX + 2 * _RIM:
            return
        free = [pitch - TILE_PX - 2 * _RIM for pitch in _pitch(luma.shape)[:2]]
        self._offset = int(free[0] * (number * _GOLDEN % 1)), int(free[1] * (number * _PLASTIC % 1))
        self._mosaic = _mosaic(luma, self._offset)
        self.held = True

    def compare(self, frame: Frame, before: np.ndarray) -> tuple[float, float] | None:
        """(motion of the tiles at full size, motion of the same places on the half plane since the one before), in levels."""
        self.held = False
        luma = self._luma(frame)
        mosaic = None if luma is None else _mosaic(luma, self._offset)
        if luma is None or mosaic is None or mosaic.shape != self._mosaic.shape or mosaic.dtype != self._mosaic.dtype:
            return None  # the format changed within the video
        rows, columns = (n // (TILE_PX + 2 * _RIM) for n in mosaic.shape)
        full = cv2.norm(_blurred(mosaic, self._mosaic), cv2.NORM_L1, _inside(rows, columns)) / (rows * columns * TILE_PX**2)
        places = np.ix_(*(_small_places(luma.shape[i], before.shape[i], self._offset[i], (rows, columns)[i]) for i in (0, 1)))
        return full * self._levels, _motion(frame.half()[places], before[places])

    def _luma(self, frame: Frame) -> np.ndarray | None:
        luma, self._levels = frame.full_luma(), 1.0
        if luma is None:
            luma, self._levels = _deep_luma(frame), _DEEP.get(frame.source.format.name, 1.0)
        return None if luma is None else frame.turn.apply(luma)


def measure_motion(clip: Clip, tracks: Tracks, cfg: MotionConfig) -> dict[str, Any]:
    """The columns motion and static_fraction of a clip that lies inside one shot; None where fewer than two frames are in it.

    motion = vmafmotion's mean a step at full size, brought to 1/24 s steps. The first frame's difference is to a frame outside the clip
    and does not count. Sums over elapsed time, so that repeated frames and uneven steps cancel out.
    """
    track = tracks["motion"].between(clip.start_us, clip.end_us)
    if len(track) < 2:
        return {"motion": None, "static_fraction": None}
    steps = track["motion"][1:].astype(np.float64)
    elapsed_us = float(track.pts_us[-1] - track.pts_us[0])
    # Of pairs that reach back over the start of the clip nothing counts either.
    samples = tracks["motion_samples"].between(int(track.pts_us[1]), clip.end_us)
    moving = int((steps > cfg.repeat_share * steps.mean()).sum())
    step_us = min(elapsed_us / max(moving, 1), cfg.longest_step_us)
    at_own_step = full_size_ratio(clip, samples, tracks["motion_samples"], cfg) * steps.sum() / elapsed_us * REFERENCE_STEP_US
    power = growth(samples, clip.start_us, cfg)
    bend = cfg.growth_bend * (1 - (1.0 if power is None else power))
    return {
        "motion": float(at_own_step * (step_us / REFERENCE_STEP_US) ** bend),
        # What hardly moves may be noise, which is as large over any step.
        "static_fraction": static_fraction(track, 0.0 if power is None else 1 - bend, cfg),
    }


def static_fraction(track: Track, power: float, cfg: MotionConfig) -> float:
    """The share of the time of a track `motion` in which nothing changes visibly, 0 to 1, whatever the frame rate.

    `power` is that of the time step with which the change grows. A frame that repeats a picture shown for at most longest_step_us is as
    little still as the change to the next picture; what is longer without a frame is still beyond that time.
    """
    pts, change = track.pts_us, track["change"][1:].astype(np.float64)
    step_us = np.maximum(np.diff(pts), 1).astype(np.float64)
    rows = np.flatnonzero(~_repeats(track["motion"][1:].astype(np.float64), step_us, cfg))
    level = change * np.maximum(1.0, STILL_STEP_US / step_us) ** power
    before = 0  # of the steps after the last picture
    for row in rows.tolist():
        shown_us = float(pts[row + 1] - pts[before])
        if shown_us <= cfg.longest_step_us:
            level[before : row + 1] = np.maximum(change[before : row + 1], change[row] * max(1.0, STILL_STEP_US / shown_us) ** power)
        before = row + 1
    still_us = np.where(level < cfg.still_levels, step_us, np.maximum(step_us - cfg.longest_step_us, 0.0))
    return float(still_us.sum() / step_us.sum())


def _repeats(motion: np.ndarray, step_us: np.ndarray, cfg: MotionConfig) -> np.ndarray:
    """Which steps move next to nothing beside the largest step of both the longest_step_us before and those after, bool [n]."""
    reach = min(max(1, round(cfg.longest_step_us / float(np.median(step_us)))), _MOST_REACH)
    largest = np.lib.stride_tricks.sliding_window_view(np.pad(motion, reach), reach).max(axis=1)
    return np.asarray(motion <= cfg.repeat_share * np.minimum(largest[: len(motion)], largest[reach + 1 :]))


def full_size_ratio(clip: Clip, samples: Track, of_asset: Track, cfg: MotionConfig) -> float:
    """Motion at full size over motion on the small plane: from the clip's samples, else the asset's, else from the picture's size."""
    for track in (samples, of_asset):
        full, small = track["full"].astype(np.float64), track["small"].astype(np.float64)
        tells = small > cfg.small_motion  # False for nan
        if tells.any():
            return float(full[tells].sum() / small[tells].sum())
    shrunk = max(clip.width or 0, clip.height or 0) / SMALL_PX
    return FULL_SIZE_FACTOR * shrunk**FULL_SIZE_POWER if shrunk > 1 else 1.0


def growth(samples: Track, start_us: int, cfg: MotionConfig) -> float | None:
    """The power of the time step with which the clip's motion grows, least_growth to 1; None where no pair of far frames tells.

    far = near / steps * steps ** power, for pairs that lie inside the clip: one that begins before it may reach over a cut.
    """
    far, near, steps, far_s = (samples[name].astype(np.float64) for name in ("far", "near", "steps", "far_s"))
    tells = (near > cfg.small_motion * steps) & (samples.pts_us - np.round(np.nan_to_num(far_s) * 1e6) >= start_us)
    if not tells.any():
        return None
    own, n = (near[tells] / steps[tells]).sum(), steps[tells].mean()
    return float(np.clip(np.log(max(far[tells].sum(), 1e-6) / own) / np.log(n), cfg.least_growth, 1.0))


def _motion(after: np.ndarray, before: np.ndarray) -> float:
    """Mean absolute difference, levels."""
    return cv2.norm(after, before, cv2.NORM_L1) / after.size


def _blurred(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The difference after VMAF's 5-tap blur, float32: blurring is linear, so one blur serves both frames, and nothing is rounded."""
    return cv2.GaussianBlur(cv2.subtract(after, before, dtype=cv2.CV_32F), (5, 5), 1.0)


def _pitch(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Distance of tiles down and across in px, and their numbers."""
    n = [min(TILES[i], shape[i] // (TILE_PX + 2 * _RIM)) for i in (0, 1)]
    return shape[0] // n[0], shape[1] // n[1], n[0], n[1]


def _mosaic(luma: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """The tiles side by side, each with its rim: one copy."""
    down, across, rows, columns = _pitch(luma.shape)
    side, (y, x) = TILE_PX + 2 * _RIM, luma.strides
    corner = luma[offset[0] :, offset[1] :]
    tiles = np.lib.stride_tricks.as_strided(corner, (rows, side, columns, side), (down * y, y, across * x, x), writeable=False)
    return tiles.reshape(rows * side, columns * side)


@lru_cache(maxsize=4)
def _inside(rows: int, columns: int) -> np.ndarray:
    """Which px of a mosaic lie in tiles and not in their rims, uint8."""
    tile = np.pad(np.ones((TILE_PX, TILE_PX), np.uint8), _RIM)
    return np.tile(tile, (rows, columns))


def _small_places(full: int, small: int, offset: int, n: int) -> np.ndarray:
    """The small plane's rows (or columns) that n tiles cover."""
    each = range(max(1, round(TILE_PX * small / full)))
    firsts = (round((k * (full // n) + offset + _RIM) * small / full) for k in range(n))
    return np.array([min(first + i, small - 1) for first in firsts for i in each])


def _deep_luma(frame: Frame) -> np.ndarray | None:
    """The luma plane of more than 8 bits, uint16 [height, width], a view."""
    if frame.source.format.name not in _DEEP:
        return None
    plane = frame.source.planes[0]
    rows = np.frombuffer(memoryview(cast(Any, plane)), np.uint8).reshape(-1, plane.line_size).view(np.uint16)
    return rows[: frame.source.height, : frame.source.width]
