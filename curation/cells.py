"""An inverted file: space cut into cells around centroids, so that only vectors of one cell or of neighbouring ones are compared.

Vectors are unit vectors as whole numbers (`to_short`), so which cell a vector falls in is exact: no rounding, no dependence on batches.
Cells lie in two levels, some sqrt(k) groups of some sqrt(k) cells: finding a vector's cell costs 2 sqrt(k) products instead of k, so
that the number of cells can follow the number of vectors and the cost of a vector stays what it is.

A vector is at home in the nearest cell of its nearest group. Two vectors at most a distance delta apart whose homes differ lie on two sides
of the plane between two centroids, so one of the two is within delta / 2 of it: each vector therefore also visits the cells whose plane is
that near (in a foreign group twice as near, as there it has no home). Comparing home x home and home x visitors then finds every pair. The
worst case, both vectors straight across the plane, hardly occurs in many dimensions: `reach` says for which part of delta the planes are
visited, and `max_visits` bounds the copies. What that costs in recall is in `benchmarks/content.py`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests import ids

SHORT = 32767
"""Length of a unit vector in the whole numbers of `to_short`: components are resolved to 3e-5 and fit in 16 bits."""

_SMALL = 4000
"""Length at which any part of a dot product is a whole number below 2^24, where float32 is exact."""

MAX_DIMENSIONS = 4096
VERSION = "1"
Homes = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsConfig:
    """How space is cut. All ours, chosen for speed at 64 dimensions on two cores."""

    rows_per_cell: int = 1000  # comparing costs as much as spreading at about this size
    max_cells: int = 65_536
    sample_per_cell: int = 64
    max_sample: int = 262_144  # vectors that centroids are trained on, held by the driver: 64 MB at 64 dimensions
    iterations: int = 15
    reach: float = 0.5  # 1: no pair is missed, at twice the copies and more
    max_visits: int = 12  # further cells that a vector is sent to
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rows_per_cell, self.max_cells, self.sample_per_cell, self.max_sample, self.iterations) < 1:
            raise ValueError(f"cells: numbers of at least 1 expected, found {self}")
        if not 0 <= self.reach <= 1 or self.max_visits < 0:
            raise ValueError(f"cells: reach from 0 to 1 and max_visits of at least 0 expected, found {self.reach}, {self.max_visits}")

    def k(self, n: int) -> int:
        """How many cells n vectors are spread over."""
        return max(1, min(self.max_cells, -(-n // self.rows_per_cell)))

    def n_sample(self, n: int) -> int:
        """How many of n vectors the centroids are trained on."""
        return min(n, self.max_sample, self.sample_per_cell * self.k(n))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Centroids as whole numbers of length 4000, float32: of the groups [g, d], and of all cells [k, d], group i from starts[i] on."""

    groups: np.ndarray
    cells: np.ndarray
    starts: np.ndarray

    @property
    def version(self) -> str:
        """A digest that changes with any centroid."""
        parts = [a.astype(np.int32).tobytes().hex() for a in (self.groups, self.cells, self.starts)]
        return ids.digest("cells/v1", VERSION, *parts)


def to_short(vectors: np.ndarray) -> np.ndarray:
    """The vectors [n, d] scaled to length 32767 and rounded, int16; zero vectors stay zero. Cosines are off by some 1e-5."""
    x = np.ascontiguousarray(vectors, np.float64)
    # cumsum adds strictly from left to right, so that a row's length does not depend on how numpy splits the sum.
    length = np.sqrt(np.cumsum(x * x, axis=1)[:, -1:])
    return np.rint(x / np.where(length == 0, 1, length) * SHORT).astype(np.int16)


def train_cells(sample: np.ndarray, n: int, cfg: CellsConfig) -> Cells:
    """Cells for n vectors, from a sample int16 [m, d] of them in an order of its own. faiss trains; its result is rounded."""
    x = sample.astype(np.float32) / SHORT
    d, k = (x.shape[1] if x.ndim == 2 and len(x) else 1), min(cfg.k(n), max(1, len(sample)))
    if not len(x):
        return Cells(groups=np.zeros((1, d), np.float32), cells=np.zeros((1, d), np.float32), starts=np.array([0, 1]))
    n_groups = max(1, round(math.sqrt(k))) if k > 16 else 1
    groups = _whole(_train(x, n_groups, cfg))
    home = (_small(sample) @ groups.T).argmax(axis=1)
    found, starts = [], [0]
    for i in range(len(groups)):
        own = x[home == i]
        share = max(1, round(k * len(own) / len(x)))
        found.append(_whole(_train(own, min(share, len(own)), cfg)) if len(own) else groups[i : i + 1])
        starts.append(starts[-1] + len(found[-1]))
    return Cells(groups=groups, cells=np.concatenate(found), starts=np.array(starts))


def spread(x: np.ndarray, cells: Cells, delta: float, cfg: CellsConfig) -> Homes:
    """(row, cell, at home) of every copy of the vectors int16 [n, d]: one at home each, and the visits to find what is delta apart."""
    small, near = _small(x), cfg.reach * delta / 2
    score = small @ cells.groups.T
    home = score.argmax(axis=1)
    beyond = _distances(score, home, _gaps(cells.groups))
    row, group = np.nonzero(beyond <= near)
    rows, places, far = [], [], []
    for g in np.unique(group):
        who = row[group == g]
        foreign = home[who] != g
        first, last = cells.starts[g], cells.starts[g + 1]
        inner = small[who] @ cells.cells[first:last].T
        apart = _distances(inner, inner.argmax(axis=1), _gaps(cells.cells[first:last]))
        i, c = np.nonzero(apart <= np.where(foreign, 2 * near, near)[:, None])
        rows.append(who[i])
        places.append(c + first)
        # At home is marked by -1: it sorts first, whatever max_visits is.
        far.append(np.where(foreign[i], beyond[who[i], g] + apart[i, c], np.where(c == inner[i].argmax(axis=1), -1.0, apart[i, c])))
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, bool)
    who, place, distance = (np.concatenate(a) for a in (rows, places, far))
    order = np.lexsort((place, distance, who))
    who, place, distance = who[order], place[order], distance[order]
    nth = np.arange(len(who)) - np.searchsorted(who, who)
    kept = nth <= cfg.max_visits
    return who[kept], place[kept].astype(np.int32), (distance == -1.0)[kept]


def write_cells(cells: Cells, folder: Path) -> None:
    """The cells lie in the folder, to be read by any later run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("groups", "cells"):
        values = getattr(cells, name).astype(np.int32)
        pq.write_table(pa.table({"centroid": pa.array(values.tolist(), pa.list_(pa.int32()))}), folder / f"{name}.parquet")
    stated = {"version": cells.version, "starts": cells.starts.tolist()}
    (folder / "cells.json").write_text(json.dumps(stated, sort_keys=True))


def read_cells(folder: Path) -> Cells:
    """The cells that lie in the folder. Raises ValueError when they are not those that its version names."""
    stated = json.loads((folder / "cells.json").read_text())
    groups, cells = (np.array(pq.read_table(folder / f"{n}.parquet")["centroid"].to_pylist(), np.float32) for n in ("groups", "cells"))
    found = Cells(groups=groups, cells=cells, starts=np.array(stated["starts"]))
    if found.version != stated["version"]:
        raise ValueError(f"{folder}: cells of version {stated['version']} expected, found {found.version}: build the index anew")
    return found


def _train(x: np.ndarray, k: int, cfg: CellsConfig) -> np.ndarray:
    """k unit centroids float32 of the unit vectors x, by faiss on one thread: the same on any number of cores."""
    import faiss

    if k == 1:
        return np.asarray(x.sum(axis=0, dtype=np.float64, keepdims=True))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        quiet = {"min_points_per_centroid": 1, "max_points_per_centroid": 1 << 30, "verbose": False}
        model = faiss.Kmeans(x.shape[1], k, niter=cfg.iterations, seed=cfg.seed, spherical=True, **quiet)
        model.train(np.ascontiguousarray(x))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(model.centroids, np.float64)


def _whole(centroids: np.ndarray) -> np.ndarray:
    return _small(to_short(centroids))


def _small(x: np.ndarray) -> np.ndarray:
    """The int16 vectors at length 4000, as float32 that holds whole numbers."""
    return np.asarray(np.rint(x.astype(np.float32) * np.float32(_SMALL / SHORT)))


def _gaps(centroids: np.ndarray) -> np.ndarray:
    """Distances float64 [k, k] between centroids, infinite where two are the same."""
    c = centroids.astype(np.float64)
    squared = np.einsum("kd,kd->k", c, c)
    gap = np.sqrt(np.maximum(squared[:, None] + squared[None, :] - 2 * (c @ c.T), 0))
    return np.asarray(np.where(gap == 0, np.inf, gap))


def _distances(score: np.ndarray, home: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """How far float64 [n, k] each unit vector lies from the plane between its home and every centroid; 0 at home."""
    best = np.take_along_axis(score, home[:, None], axis=1).astype(np.float64)
    away: np.ndarray = (best - score) / (gaps[home] * _SMALL)
    away[np.arange(len(home)), home] = 0.0
    return away
