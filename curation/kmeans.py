"""Spherical k-means whose result is a function of the vectors alone: not of row order, batch size, threads or machine.

Unit vectors are rounded to whole numbers of 2^-20. A dot product of two of them, and any part of its sum, is a whole number below
2^41 (Cauchy-Schwarz), far below the 2^53 up to which float64 is exact: the order in which BLAS adds does not matter. Sums of a
cluster's members are exact in the same way for fewer than 2^32 members.
"""

import math
from dataclasses import dataclass

import numpy as np

from manifests import ids

UNIT = 2.0**20
"""Length of a unit vector in whole numbers: components are resolved to 1e-6."""

BEAM = 4
"""Tops under which a row's leaf is looked for: under one alone, rows between two tops miss leaves that are nearer (2 % of 64-d clips did)."""

_CELLS_AT_ONCE = 1 << 24  # scores held at once: 128 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Centroids in two levels, from `to_whole`: tops [t, d], and leaves [k, d], those of top i from starts[i] on."""

    tops: np.ndarray
    leaves: np.ndarray
    starts: np.ndarray

    def paths(self) -> list[str]:
        """The path 'top/leaf' of every leaf, both counted from 0, the leaf within its top."""
        return [f"{t}/{n - first}" for t, first in enumerate(self.starts[:-1].tolist()) for n in range(first, int(self.starts[t + 1]))]


def to_whole(vectors: np.ndarray) -> np.ndarray:
    """The vectors [n, d] scaled to length UNIT and rounded, as float64 that holds whole numbers; zero vectors stay zero."""
    x = np.ascontiguousarray(vectors, np.float64)
    # cumsum adds strictly from left to right, so that a row's length does not depend on how numpy splits the sum.
    length = np.sqrt(np.cumsum(x * x, axis=1)[:, -1:])
    return np.asarray(np.rint(x / np.where(length == 0, 1, length) * UNIT))


def assign(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The index int64 [n] of the centroid with the largest cosine for each row of x, the lowest on a tie; both from `to_whole`."""
    out = np.empty(len(x), np.int64)
    step = max(1, _CELLS_AT_ONCE // len(centroids))
    for start in range(0, len(x), step):
        out[start : start + step] = (x[start : start + step] @ centroids.T).argmax(axis=1)
    return out


def train(x: np.ndarray, k: int, max_iterations: int, seed: int) -> np.ndarray:
    """At most k centroids [k, d] of the rows of x (from `to_whole`), by k-means++ seeding and Lloyd's iterations until nothing moves.

    The order of the rows decides the seeding: give them in an order of their own. Fewer come out when x has fewer distinct rows.
    """
    centroids = _seeds(x, k, seed)
    labels = np.full(len(x), -1)
    for _ in range(max_iterations):
        moved = assign(x, centroids)
        if np.array_equal(moved, labels):
            break
        labels = moved
        centroids = _means(x, labels, centroids)
    return centroids


def train_tree(x: np.ndarray, k: int, levels: int, max_iterations: int, seed: int) -> Tree:
    """About k leaves under one top (levels 1), or under some sqrt(k) tops, each with leaves in proportion to its rows (levels 2).

    Two levels find a row's leaf at 5 sqrt(k) products instead of k, and train in as much less time.
    """
    if levels == 1:
        leaves = train(x, k, max_iterations, seed)
        return Tree(tops=leaves[:1], leaves=leaves, starts=np.array([0, len(leaves)]))
    tops = train(x, max(1, round(math.sqrt(k))), max_iterations, seed)
    home = assign(x, tops)
    found, starts = [], [0]
    for top in range(len(tops)):
        own = x[home == top]
        share = max(1, round(k * len(own) / len(x)))
        found.append(train(own, min(share, len(own)), max_iterations, seed) if len(own) else tops[top : top + 1])
        starts.append(starts[-1] + len(found[-1]))
    return Tree(tops=tops, leaves=np.concatenate(found), starts=np.array(starts))


def assign_tree(x: np.ndarray, tree: Tree) -> np.ndarray:
    """The leaf int64 [n] of each row of x: the nearest of those under its nearest BEAM tops, of equally near ones the first."""
    beam = min(BEAM, len(tree.tops))
    tops = np.argsort(-(x @ tree.tops.T), axis=1, kind="stable")[:, :beam] if len(tree.tops) > 1 else np.zeros((len(x), 1), np.int64)
    best, out = np.full(len(x), -np.inf), np.zeros(len(x), np.int64)
    for top in range(len(tree.tops)):
        first, last = tree.starts[top], tree.starts[top + 1]
        own = np.flatnonzero((tops == top).any(axis=1))
        score = x[own] @ tree.leaves[first:last].T
        leaf, high = score.argmax(axis=1), score.max(axis=1)
        # Tops are looked at in order, so an equal score later does not take a row from an earlier leaf.
        nearer = high > best[own]
        best[own[nearer]], out[own[nearer]] = high[nearer], leaf[nearer] + first
    return out


def merge(centroids: np.ndarray, min_cosine: float) -> np.ndarray:
    """For each centroid the smallest index int64 [k] of those it is joined to by a chain of cosines >= min_cosine."""
    name = np.arange(len(centroids))
    step = max(1, _CELLS_AT_ONCE // len(centroids))
    for start in range(0, len(centroids), step):
        near = centroids[start : start + step] @ centroids.T >= min_cosine * UNIT * UNIT
        for i, row in enumerate(near, start):
            joined = np.unique(np.append(name[row], name[i]))
            if len(joined) > 1:
                name[np.isin(name, joined)] = joined[0]
    return name


def _seeds(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each next seed is drawn with probability proportional to its squared distance."""
    squared = np.einsum("nd,nd->n", x, x)
    chosen = [int(ids.uniform(seed, "kmeans", 0) * len(x))]
    nearest = np.full(len(x), np.inf)
    for i in range(1, k):
        last = chosen[-1]
        nearest = np.minimum(nearest, squared + squared[last] - 2 * (x @ x[last]))
        reach = np.cumsum(nearest)
        if reach[-1] == 0:
            break
        drawn = int(np.searchsorted(reach, ids.uniform(seed, "kmeans", i) * reach[-1], side="right"))
        chosen.append(min(drawn, int(np.flatnonzero(nearest)[-1])))  # the product may round up to the whole reach
    return x[chosen]


def _means(x: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The directions of the clusters' sums; a cluster without members, or whose members cancel out, keeps its centroid."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums = np.add.reduceat(x[order], starts, axis=0)
    out = centroids.copy()
    usable = sums.any(axis=1)
    out[present[usable]] = to_whole(sums[usable])
    return out
