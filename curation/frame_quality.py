"""What one frame's full-size luma says of its technical quality: numbers of a few tiles, so that a frame of any size costs the same.

Tiles of 128 px are read where the small luma says that there is most to see: one of the richest detail, one of the plainest (noise shows
there), one that moves most (combing shows there). A frame costs about a millisecond, most of it because nothing of it is in cache.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from curation.observe import Frame
from curation.orientation import Orientation
from curation.ranks import quantile

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

TILE_PX = 128
BANDS = 16
"""Bands of spatial frequency, evenly from 0 to the highest that the size can hold."""
GRID_PX = 8
"""The side of a transform block: JPEG, MPEG-2 and H.264 have edges on this grid."""

FIELDS = (
    "blur_ratio",
    "noise",
    "block_on",
    "block_off",
    "smear_on",
    "smear_off",
    "comb",
    "comb_energy",
    *(f"power_{i}" for i in range(BANDS)),
)

FINE_PX, COARSE_PX = 0.8, 2.0
"""Gaussian scales at which edges are compared."""


def _edge_kernels(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian's slope and the Gaussian, for edges of luma in levels a px."""
    reach = np.arange(-int(2.5 * sigma + 1), int(2.5 * sigma + 1) + 1, dtype=np.float64)
    smooth = np.exp(-(reach**2) / (2 * sigma**2))
    smooth /= smooth.sum()
    slope = reach * smooth
    return (slope / (slope * reach).sum()).astype(np.float32), smooth.astype(np.float32)


_FINE, _COARSE = _edge_kernels(FINE_PX), _edge_kernels(COARSE_PX)
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""Blind to planes and straight slopes; J. Immerkaer, Fast noise variance estimation, 1996."""
_WINDOW = np.hanning(TILE_PX)
_WAVES = np.exp(-2j * np.pi * np.outer(np.arange(TILE_PX), np.arange(1, TILE_PX // 2 + 1)) / TILE_PX) * _WINDOW[:, None]
_WAVES = np.concatenate([_WAVES.real, _WAVES.imag], axis=1).astype(np.float32)
"""A windowed Fourier transform as a matrix: a third of the time of one call to an FFT for a few lines."""
_CELLS = (8, 6)
"""Columns and rows of the cells among which tiles are chosen."""
_BITS = {"10le": 10, "12le": 12, "14le": 14, "16le": 16}


_LEAST_PX = 32
"""Pictures with a smaller side say nothing of grids and spectra."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Parts of the full-size luma, float32, in limited-range levels of 8 bits; each at most 128 px wide and high."""

    detailed: np.ndarray
    plain: np.ndarray
    moving: np.ndarray


def frame_tiles(frame: Frame, before: np.ndarray | None) -> Tiles | None:
    """The tiles of a frame; `before` is the small luma of the frame before. None where the format keeps no luma plane of its own, or a tiny one."""
    full = _luma_plane(frame.source)
    if full is None or min(full.shape) < _LEAST_PX:
        return None
    small = _as_stored(frame.y, frame.turn)
    return tiles_of(full, small, None if before is None else _as_stored(before, frame.turn), _to_levels(frame.source))


def tiles_of(full: np.ndarray, small: np.ndarray, before: np.ndarray | None, scale: float = 1.0) -> Tiles:
    """The tiles of a luma plane, chosen by its small copy; its values times `scale` are levels. Each begins on the block grid."""
    detail = cv2.resize(cv2.convertScaleAbs(cv2.Laplacian(small, cv2.CV_16S)), _CELLS, interpolation=cv2.INTER_AREA).ravel()
    # Cells at the clipping levels hide their noise, so the plainest is sought among the others.
    level = cv2.resize(small, _CELLS, interpolation=cv2.INTER_AREA).ravel()
    order = np.argsort(detail, kind="stable")
    unclipped = order[(level[order] > 30) & (level[order] < 222)]
    moved = order[-1:] if before is None else np.argmax(cv2.resize(cv2.absdiff(small, before), _CELLS, interpolation=cv2.INTER_AREA))

    def tile(cell: Any) -> np.ndarray:
        row, column = divmod(int(np.ravel(cell)[0]), _CELLS[0])
        y = _start(full.shape[0], (row + 0.5) / _CELLS[1])
        x = _start(full.shape[1], (column + 0.5) / _CELLS[0])
        part = full[y : y + TILE_PX, x : x + TILE_PX].astype(np.float32)
        return part if scale == 1 else part * np.float32(scale)

    return Tiles(tile(order[-1]), tile((unclipped if len(unclipped) else order)[0]), tile(moved))


def _start(full: int, centre: float) -> int:
    """Where a tile begins, a multiple of 16 px, so that it lies inside and near the centre."""
    return max(0, min(full - TILE_PX, round(full * centre) - TILE_PX // 2)) // 16 * 16


def _as_stored(small: np.ndarray, turn: Orientation) -> np.ndarray:
    """A small plane turned back to how the decoder stores it."""
    small = small[:: -1 if turn.flip_y else 1, :: -1 if turn.flip_x else 1]
    return np.ascontiguousarray(small.T if turn.transpose else small)


def _luma_plane(source: "VideoFrame") -> np.ndarray | None:
    """The luma plane as stored, uint8 or uint16 [height, width]; a view. None for formats without one, as RGB."""
    name = source.format.name
    if not name.startswith(("yuv", "nv12", "gray", "p010le")) or name in ("yuyv422", "yuv410p"):
        return None
    deep = name == "p010le" or name.endswith(tuple(_BITS))
    if not deep and name.endswith(("be", "10", "12", "14", "16")):
        return None
    plane = source.planes[0]
    rows = np.frombuffer(memoryview(cast(Any, plane)), np.uint16 if deep else np.uint8).reshape(-1, plane.line_size // (2 if deep else 1))
    return rows[: source.height, : source.width]


def _to_levels(source: "VideoFrame") -> float:
    """What a stored value is times to be a level of 8 bits in limited range. Full range (JPEG, many phones) is 16 % wider."""
    name = source.format.name
    bits = 16 if name == "p010le" else next((b for end, b in _BITS.items() if name.endswith(end)), 8)
    full = name.startswith("yuvj") or int(source.color_range) == 2
    return (219 / 255 if full else 1.0) / float(2 ** (bits - 8))


def numbers(tiles: Tiles) -> list[float]:
    """The values of FIELDS; nan where the tiles do not tell."""
    grid = grid_changes((tiles.detailed, tiles.plain, tiles.moving))
    return [blur_ratio(tiles.detailed), noise((tiles.plain, tiles.detailed)), *grid, *combing(tiles.moving), *spectrum(tiles.detailed)]


def blur_ratio(tile: np.ndarray) -> float:
    """How much steeper the strongest edges are at scale 0.8 than at scale 2 px: 2.5 for ideal steps, 1 for edges that are wide.

    Only the part of the fine slope along the coarse one counts, so noise, which has no direction, adds nothing on average.
    An edge of standard width b gives sqrt((2^2 + b^2) / (0.8^2 + b^2)).
    """
    fine_x, fine_y = _slopes(tile, _FINE)
    coarse_x, coarse_y = _slopes(tile, _COARSE)
    size = cv2.magnitude(coarse_x, coarse_y)
    sample = size[::3, ::3].ravel()
    least = max(1.0, float(np.partition(sample, -1 - sample.size // 20)[-1 - sample.size // 20]))
    strong = (size >= least).astype(np.uint8)
    along = cv2.divide(cv2.add(cv2.multiply(fine_x, coarse_x), cv2.multiply(fine_y, coarse_y)), size)
    whole = float(cv2.mean(size, strong)[0])
    return float(cv2.mean(along, strong)[0]) / whole if whole else float("nan")


def _slopes(tile: np.ndarray, kernels: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    slope, smooth = kernels
    return cv2.sepFilter2D(tile, cv2.CV_32F, slope, smooth), cv2.sepFilter2D(tile, cv2.CV_32F, smooth, slope)


def noise(tiles: tuple[np.ndarray, ...]) -> float:
    """Standard deviation of the noise, levels: of the plainest tenth of 8 px blocks that are neither black nor white; nan without any."""
    sizes = []
    for tile in tiles:
        height, width = (n // GRID_PX for n in tile.shape)
        if not height or not width:
            continue
        response = np.abs(cv2.filter2D(tile, cv2.CV_32F, _IMMERKAER))
        mean = cv2.resize(tile[: height * GRID_PX, : width * GRID_PX], (width, height), interpolation=cv2.INTER_AREA)
        size = cv2.resize(response[: height * GRID_PX, : width * GRID_PX], (width, height), interpolation=cv2.INTER_AREA)
        sizes.append(size[(mean > 24) & (mean < 228)])
    found = np.concatenate(sizes) if sizes else np.array([])
    return float(np.sqrt(np.pi / 2) / 6 * quantile(found, 0.1)) if found.size else float("nan")


def grid_changes(tiles: tuple[np.ndarray, ...]) -> tuple[float, float, float, float]:
    """Mean change of luma between neighbours, levels: across the lines of the 8 px grid and in the middle of the blocks, up to 8 levels a
    change, so that the picture's own edges do not decide; then within 2 px of the lines and in the middle, up to half a level.

    Alike in a picture that was never coded. A loop filter spreads the step at a line over the px beside it, but the middle of a block of
    which little was coded stands still: so the last two tell what the first two do not.
    """
    found = np.zeros(4)
    for tile in tiles:
        beside, below = cv2.absdiff(tile[:, 1:], tile[:, :-1]), cv2.absdiff(tile[1:], tile[:-1])
        for steps, axis in ((beside, 0), (below, 1)):
            for most, first in ((8.0, 0), (0.5, 2)):
                change = cv2.reduce(cv2.threshold(steps, most, most, cv2.THRESH_TRUNC)[1], axis, cv2.REDUCE_AVG)
                found[first : first + 2] += _places(change.size)[first : first + 2] @ change.ravel()
    on, off, smear_on, smear_off = (float(v) for v in found / (2 * len(tiles)))
    return on, off, smear_on, smear_off


@lru_cache(maxsize=64)
def _places(n: int) -> np.ndarray:
    """Weights [4, n] that average n changes along a tile over the four kinds of places of `grid_changes`; nothing for less than a block."""
    place = (np.arange(n) + 1) % GRID_PX
    kinds = np.stack([place == 0, abs(place - 4) <= 1, abs(place - 4) >= 2, place == 4]).astype(np.float32)
    return kinds / kinds.sum(1, keepdims=True) if n >= GRID_PX else kinds * 0


def combing(tile: np.ndarray) -> tuple[float, float]:
    """(bends of a column over neighbouring lines against those over lines of the same field, mean bend in levels).

    Of one time, a picture bends less over shorter distances; two fields of two times bend more from line to line than within a field.
    """
    if len(tile) < 8:
        return float("nan"), 0.0
    middle = tile[2:-2]
    near = np.abs(2 * middle - tile[1:-3] - tile[3:-1])
    far = np.abs(2 * middle - tile[:-4] - tile[4:])
    bend = near.mean()
    return float(bend / (far.mean() + 0.5)), float(bend)


def spectrum(tile: np.ndarray) -> list[float]:
    """Power of luma along rows and columns in 16 even bands of frequency, log10 of levels squared; nan for a picture below 128 px."""
    if tile.shape != (TILE_PX, TILE_PX):
        return [float("nan")] * BANDS
    lines = np.concatenate([tile[::8], tile[:, ::8].T])
    waves = (lines - lines.mean(1, keepdims=True)) @ _WAVES
    # Power of white noise of deviation s comes out as s^2 in every band.
    power = (waves * waves).mean(0).reshape(2, BANDS, -1).sum(0).mean(1) / float((_WINDOW**2).sum())
    return [float(v) for v in np.log10(power + 1e-4)]
