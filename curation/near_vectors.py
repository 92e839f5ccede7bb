"""Descriptors (SSCD or any float vectors) that lie near one another by cosine, found cell by cell. Arrow batches in and out.

Cosines are those of vectors rounded to 16 bits (`cells.to_short`) and exact on them: candidates come from float32 products with room for
their error, and are judged in whole numbers. So whether two vectors are near depends on the two alone, and on no batch, core or machine.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.cells import MAX_DIMENSIONS, SHORT, Cells, CellsConfig, spread, to_short, train_cells
from curation.components import spark_schema
from curation.draws import take_sample
from curation.near_hashes import whole_blocks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COPIES = pa.schema(
    [
        ("kind", pa.string()),
        ("block", pa.int32()),
        ("clip_id", pa.string()),
        ("own", pa.bool_()),
        ("fresh", pa.bool_()),
        ("short", pa.binary()),
    ]
)
"""A vector in a cell (`block`), at home there or visiting; fresh in this batch, or kept from an earlier one."""

PAIRS = pa.schema([("u", pa.string()), ("v", pa.string())])

COLLAPSE_ROWS = 4096
"""Rows of a cell from which on equal vectors are joined first: a million black frames cost their number, not its square."""

ROWS_PER_PARTITION = 250_000
"""Copies of vectors sorted at once: 50 MB at 64 dimensions."""

_ROOM = 1e-3
"""More than the error of a float32 product of two unit vectors of 4096 values."""

_AT_ONCE = 1 << 20  # scores held at once: 4 MB, which fits in a core's cache
_ROWS_OUT = 16_384


class VectorError(ValueError):
    """A vector is not what the stage can read; names the clip, the expected and the found."""


def delta_of(min_cosine: float) -> float:
    """The distance of two unit vectors of that cosine: 0.1414 for 0.99."""
    return float(np.sqrt(max(0.0, 2 - 2 * min_cosine)))


def read_vectors(clip_ids: pa.Array, vectors: pa.Array, stage: str, n_dimensions: int | None = None) -> np.ndarray:
    """Vectors without nulls as float64 [n, d]; one of another length, or with a value that is not finite, raises VectorError."""
    wanted = n_dimensions or len(vectors[0])
    if not 1 <= wanted <= MAX_DIMENSIONS:
        raise VectorError(f"clip {clip_ids[0]}: {stage}: a vector of 1 to {MAX_DIMENSIONS} values expected, found {wanted}")
    lengths = pc.list_value_length(vectors).to_numpy()
    odd = np.flatnonzero(lengths != wanted)
    if len(odd):
        raise VectorError(f"clip {clip_ids[int(odd[0])]}: {stage}: a vector of {wanted} values expected, found {lengths[odd[0]]}")
    x = np.asarray(pc.list_flatten(vectors).to_numpy(zero_copy_only=False), np.float64).reshape(-1, wanted)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise VectorError(f"clip {clip_ids[int(bad[0])]}: {stage}: finite values expected, found null, NaN or infinity")
    return x


def near_pairs(a: np.ndarray, b: np.ndarray, min_cosine: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index arrays (i, j) of the pairs of a[i] and b[j], int16 [n, d] and [m, d], of at least that cosine, in pieces."""
    if not len(a) or not len(b):
        return
    x, y = (v.astype(np.float32) / np.float32(SHORT) for v in (a, b))
    least, room = round(min_cosine * SHORT * SHORT), np.float32(min_cosine - _ROOM)
    wide = min(len(b), 2048)
    step = max(1, _AT_ONCE // wide)
    for top in range(0, len(a), step):
        for left in range(0, len(b), wide):
            i, j = np.nonzero(x[top : top + step] @ y[left : left + wide].T >= room)
            if len(i):
                near = _products(a[i + top], b[j + left]) >= least
                yield i[near] + top, j[near] + left


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine float64 [n] of each row of a with that of b, int16 [n, d], at most 1."""
    return np.minimum(_products(a, b) / SHORT**2, 1.0)


def spread_batches(cells: Cells, min_cosine: float, cfg: CellsConfig) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for mapInArrow: rows (clip_id, kind, vector, fresh) without nulls -> COPIES. Zero vectors are like nothing and left out."""
    delta = delta_of(min_cosine)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            short = to_short(read_vectors(batch["clip_id"], batch["vector"], "duplicates", cells.cells.shape[1]))
            some = np.flatnonzero(short.any(axis=1))
            row, cell, own = spread(short[some], cells, delta, cfg)
            take = pa.array(some[row])
            columns = [
                batch["kind"].take(take),
                pa.array(cell),
                batch["clip_id"].take(take),
                pa.array(own),
                batch["fresh"].take(take),
            ]
            yield pa.RecordBatch.from_arrays([*columns, to_binary(short).take(take)], schema=COPIES)

    return run


def match_batches(min_cosine: float) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for mapInArrow over COPIES sorted by (kind, block): pairs (u, v) that join all near clips of a cell, fresh ones at least.

    In a cell of which many are near one another, not every near pair comes out, but as many as connect the same clips.
    """

    def match(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        held: list[pa.RecordBatch] = []
        for block in whole_blocks(batches):
            held += [_joined(block["clip_id"].combine_chunks(), pairs) for pairs in [block_pairs(block, min_cosine)] if len(pairs[0])]
            if sum(h.num_rows for h in held) >= _ROWS_OUT:
                yield from pa.Table.from_batches(held).combine_chunks().to_batches()
                held = []
        if held:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()

    return match


def block_pairs(block: pa.Table, min_cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Index arrays (i, j) of near pairs in one cell, none of two visitors, none of two kept clips; equal fresh ones as a star."""
    short = from_binary(block["short"].combine_chunks())
    own, fresh = (block[n].combine_chunks().to_numpy(zero_copy_only=False).astype(bool) for n in ("own", "fresh"))
    every = np.arange(len(short))
    left, right = [every[:0]], [every[:0]]
    if len(short) >= COLLAPSE_ROWS:
        every, heads = _heads(block, short, own, fresh)
        again = np.flatnonzero(own & fresh & (heads != np.arange(len(short))))
        left, right = [again], [heads[again]]
    home, guests, old, old_guests = (every[m[every]] for m in (own & fresh, ~own & fresh, own & ~fresh, ~own & ~fresh))
    for i, j in near_pairs(short[home], short[home], min_cosine):
        left.append(home[i[i < j]])
        right.append(home[j[i < j]])
    for first, second in ((home, np.concatenate([guests, old, old_guests])), (guests, old)):
        for i, j in near_pairs(short[first], short[second], min_cosine):
            left.append(first[i])
            right.append(second[j])
    return np.concatenate(left), np.concatenate(right)


def edges_on_spark(clips: "DataFrame", min_cosine: float, cfg: CellsConfig, cells: Cells | None = None) -> "DataFrame":
    """Edges (u, v) that join all clips (clip_id, kind, vector, fresh) whose vectors are near, found cell by cell, but pairs of two old ones.

    Cells are trained on the clips where none are given.
    """
    known = clips.where("vector IS NOT NULL").select("clip_id", "kind", "vector", "fresh")
    n_clips = known.count()
    cells = cells or train_on_spark(known, n_clips, cfg)
    return match_on_spark(copies_on_spark(known, cells, min_cosine, cfg), n_clips, min_cosine)


def train_on_spark(known: "DataFrame", n_clips: int, cfg: CellsConfig) -> Cells:
    """Cells for the vectors, trained on those with the smallest keyed draws."""
    sample = take_sample(known.select("clip_id", "vector"), n_clips, cfg.n_sample(n_clips), cfg.seed, "copy-cells")
    if not sample.num_rows:
        return train_cells(np.zeros((0, 1), np.int16), 0, cfg)
    vectors = read_vectors(sample["clip_id"].combine_chunks(), sample["vector"].combine_chunks(), "duplicates")
    return train_cells(to_short(vectors), n_clips, cfg)


def copies_on_spark(known: "DataFrame", cells: Cells, min_cosine: float, cfg: CellsConfig) -> "DataFrame":
    """COPIES of the rows (clip_id, kind, vector, fresh)."""
    shared = known.sparkSession.sparkContext.broadcast(cells)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from spread_batches(shared.value, min_cosine, cfg)(batches)

    return known.mapInArrow(run, spark_schema(COPIES))


def match_on_spark(copies: "DataFrame", n_clips: int, min_cosine: float) -> "DataFrame":
    """Edges (u, v) between near clips of a cell, of which at least one is fresh."""
    # The number is given so that Spark does not merge partitions by bytes: this step is bound by comparing, not by volume.
    n = max(int(str(copies.sparkSession.conf.get("spark.sql.shuffle.partitions"))), -(-n_clips // ROWS_PER_PARTITION))
    cells = copies.repartition(n, "kind", "block").sortWithinPartitions("kind", "block")
    return cells.mapInArrow(match_batches(min_cosine), spark_schema(PAIRS))


def to_binary(short: np.ndarray) -> pa.Array:
    """int16 [n, d] as n binary values."""
    n, width = short.shape[0], short.shape[1] * 2
    offsets = pa.py_buffer(np.arange(0, (n + 1) * width, width, dtype=np.int32).tobytes()) if n else pa.py_buffer(bytes(4))
    return pa.Array.from_buffers(pa.binary(), n, [None, offsets, pa.py_buffer(np.ascontiguousarray(short).tobytes())])


def from_binary(values: pa.Array) -> np.ndarray:
    """int16 [n, d] from n binary values of one length."""
    if not len(values):
        return np.zeros((0, 1), np.int16)
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return np.frombuffer(data, np.int16)[ends[0] // 2 : ends[-1] // 2].reshape(len(values), -1)


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products of rows: whole numbers below 2^53, so exact in float64 in any order."""
    return np.asarray(np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64)))


def _heads(block: pa.Table, short: np.ndarray, own: np.ndarray, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows to compare, and for each row the one that stands for it: of fresh rows with equal vectors, at home alike, the smallest id."""
    by_id = np.argsort(np.array(block["clip_id"].to_pylist(), object), kind="stable")
    group = np.stack([own[by_id], fresh[by_id]], axis=1).astype(np.int16)
    _, first, member = np.unique(np.concatenate([short[by_id], group], axis=1), axis=0, return_index=True, return_inverse=True)
    heads = np.empty(len(short), np.int64)
    heads[by_id] = by_id[first[member.ravel()]]
    heads[~fresh] = np.flatnonzero(~fresh)
    return np.flatnonzero(heads == np.arange(len(short))), heads


def _joined(clip_ids: pa.Array, pairs: tuple[np.ndarray, np.ndarray]) -> pa.RecordBatch:
    """The pairs as edges, at most one a clip: to the first of those it hangs together with in this cell."""
    ends, at = np.unique(np.concatenate(pairs), return_inverse=True)
    i, j = at.reshape(2, -1)
    name = np.arange(len(ends))
    while True:
        low = np.minimum(name[i], name[j])
        after = name.copy()
        np.minimum.at(after, i, low)
        np.minimum.at(after, j, low)
        after = after[after]
        if np.array_equal(after, name):
            break
        name = after
    others = np.flatnonzero(name != np.arange(len(ends)))
    sides = [clip_ids.take(pa.array(ends[others])), clip_ids.take(pa.array(ends[name[others]]))]
    return pa.RecordBatch.from_arrays(sides, schema=PAIRS)
