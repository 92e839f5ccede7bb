"""SemDeDup (Abbas et al. 2023, arXiv 2303.09540): inside a leaf of like content, a clip is dropped that repeats one before it.

Clips stand farthest from the centroid first, of equally far ones the smaller clip_id: the outlying ones are kept, as the paper does by
default. A clip is dropped when one before it, dropped or not, is within the cosine. Quadratic in the size of a leaf.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from curation.near_hashes import whole_blocks
from curation.near_vectors import from_binary, near_pairs

LEAVES = pa.schema([("clip_id", pa.string()), ("leaf", pa.int32()), ("near", pa.int64()), ("short", pa.binary())])
"""A clip in its leaf; `near` is the product with the leaf's centroid (less is farther), `short` the vector as `cells.to_short` gives it."""

DROPPED = pa.schema([("clip_id", pa.string())])


def drop(leaves: pa.Table, max_cosine: float) -> list[str]:
    """The clip_ids that are dropped, of LEAVES sorted by leaf."""
    return [i for batch in drop_batches(max_cosine)(leaves.to_batches()) for i in batch["clip_id"].to_pylist()]


def drop_batches(max_cosine: float) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for mapInArrow over LEAVES sorted by leaf: DROPPED."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for leaf in whole_blocks(batches, ("leaf",)):
            yield pa.RecordBatch.from_arrays(
                [leaf["clip_id"].combine_chunks().filter(pa.array(_repeats(leaf, max_cosine)))], schema=DROPPED
            )

    return run


def _repeats(leaf: pa.Table, max_cosine: float) -> np.ndarray:
    by_id = np.argsort(np.array(leaf["clip_id"].to_pylist(), object), kind="stable")
    order = by_id[np.argsort(leaf["near"].to_numpy()[by_id], kind="stable")]
    short = from_binary(leaf["short"].combine_chunks())[order]
    out = np.zeros(len(order), bool)
    for i, j in near_pairs(short, short, max_cosine):
        out[order[np.maximum(i, j)[i != j]]] = True
    return out
