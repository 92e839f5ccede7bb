"""Cells and near vectors: nothing is missed where it is promised, and nothing depends on batches or order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import near_vectors
from curation.cells import SHORT, Cells, CellsConfig, read_cells, spread, to_short, train_cells, write_cells
from curation.near_vectors import (
    COPIES,
    VectorError,
    block_pairs,
    delta_of,
    from_binary,
    match_batches,
    near_pairs,
    spread_batches,
    to_binary,
)

SMALL = CellsConfig(rows_per_cell=40, reach=1.0, max_visits=1000)


def vectors(n: int, seed: int = 0, d: int = 16) -> np.ndarray:
    """n unit vectors, of which a third are near others at all distances around cosine 0.99."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    x = rng.normal(size=(n, d)) + 2 * np.eye(d)[rng.integers(0, 4, n)]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    near = rng.integers(0, n, n // 3)
    push = rng.normal(size=(n // 3, d))
    x[: n // 3] = x[near] + push / np.linalg.norm(push, axis=1, keepdims=True) * rng.uniform(0, 0.2, (n // 3, 1))
    return to_short(x)


def all_pairs(short: np.ndarray, min_cosine: float = 0.99) -> set[tuple[int, int]]:
    x = short.astype(np.int64)
    return {(i, j) for i, j in zip(*np.nonzero(x @ x.T >= round(min_cosine * SHORT * SHORT)), strict=True) if i < j}


def by_cells(short: np.ndarray, cells: Cells, cfg: CellsConfig, batch_rows: int = 100) -> set[tuple[int, int]]:
    """The pairs that cells find, before they are thinned to what joins the same clips."""
    found = set()
    for block in blocks_of(short, cells, cfg, batch_rows):
        ids = block["clip_id"].to_pylist()
        i, j = block_pairs(block, 0.99)
        found |= {tuple(sorted((int(ids[a]), int(ids[b])))) for a, b in zip(i.tolist(), j.tolist(), strict=True)}
    return {(a, b) for a, b in found if a != b}


def blocks_of(short: np.ndarray, cells: Cells, cfg: CellsConfig, batch_rows: int) -> Iterator[pa.Table]:
    table = pa.table(
        {
            "clip_id": [f"{i:05}" for i in range(len(short))],
            "kind": ["image"] * len(short),
            "vector": pa.array((short / SHORT).tolist(), pa.list_(pa.float32())),
            "fresh": [True] * len(short),
        }
    )
    copies = pa.Table.from_batches(spread_batches(cells, 0.99, cfg)(table.to_batches(max_chunksize=batch_rows)), COPIES)
    yield from near_vectors.whole_blocks(
        copies.sort_by([("kind", "ascending"), ("block", "ascending")]).to_batches(max_chunksize=batch_rows)
    )


@given(st.integers(0, 2**32), st.sampled_from([7, 100, 1000]))
@settings(max_examples=15, deadline=None)
def test_full_reach_finds_every_pair_of_one_level(seed: int, batch_rows: int) -> None:
    """With reach 1 and no bound on visits, cells of one level find exactly the pairs that all pairs show, however rows are batched."""
    short = vectors(400, seed)
    cells = train_cells(short[:200], 400, SMALL)
    assert len(cells.cells) == 10 and len(cells.groups) == 1
    assert by_cells(short, cells, SMALL, batch_rows) == all_pairs(short)


def test_two_levels_find_what_they_promise() -> None:
    """Two levels with reach 1 find all pairs too; the default reach finds 98 of 100 at least, here of hard pairs in 16 dimensions."""
    short = vectors(3000, 1)
    wanted = all_pairs(short)
    for reach, least in ((1.0, 1.0), (0.5, 0.98)):
        cfg = CellsConfig(rows_per_cell=60, reach=reach, max_visits=1000)
        cells = train_cells(short, 3000, cfg)
        assert len(cells.groups) > 4
        assert len(by_cells(short, cells, cfg) & wanted) >= least * len(wanted) > 100


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_vector_is_placed_alone(seed: int) -> None:
    """Each vector is at home in exactly one cell, and goes to the same cells whatever rows are with it."""
    short, cfg = vectors(300, seed), CellsConfig(rows_per_cell=10, max_visits=3)
    cells = train_cells(short, 300, cfg)
    row, cell, own = spread(short, cells, delta_of(0.99), cfg)
    assert np.bincount(row[own], minlength=300).tolist() == [1] * 300
    assert np.bincount(row).max() <= 4
    for i in (0, 17, 299):
        alone = spread(short[i : i + 1], cells, delta_of(0.99), cfg)
        assert (alone[1].tolist(), alone[2].tolist()) == (cell[row == i].tolist(), own[row == i].tolist())


def test_cells_are_kept_with_their_version(tmp_path: Path) -> None:
    """Cells read again are the same; a changed centroid is met by its version."""
    cells = train_cells(vectors(200), 400, SMALL)
    write_cells(cells, tmp_path)
    again = read_cells(tmp_path)
    assert again.version == cells.version
    assert (again.cells == cells.cells).all() and (again.starts == cells.starts).all()
    stated = (tmp_path / "cells.json").read_text()
    (tmp_path / "cells.json").write_text(stated.replace(cells.version, "0" * 32))
    with pytest.raises(ValueError, match=f"version {'0' * 32} expected, found {cells.version}: build the index anew"):
        read_cells(tmp_path)


def test_a_large_cell_of_equal_vectors_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal vectors of a large cell are joined to one of them first, and the groups stay what all pairs make of them."""
    short = np.repeat(vectors(40, 3), 5, axis=0)
    cells = train_cells(short, 1, CellsConfig())
    plain = groups(short, cells)
    monkeypatch.setattr(near_vectors, "COLLAPSE_ROWS", 10)
    compared: list[int] = []
    real = near_vectors.near_pairs
    monkeypatch.setattr(near_vectors, "near_pairs", lambda a, b, c: compared.append(len(a) * len(b)) or real(a, b, c))
    assert groups(short, cells) == plain
    assert sum(compared) == 40 * 40


def groups(short: np.ndarray, cells: Cells) -> dict[str, str]:
    """The smallest clip of the group of each clip that is in one."""
    (block,) = blocks_of(short, cells, CellsConfig(), 1000)
    name: dict[str, str] = {}
    edges = [(r["u"], r["v"]) for b in match_batches(0.99)(block.to_batches()) for r in b.to_pylist()]
    for _ in edges:
        for u, v in edges:
            low = min(name.get(u, u), name.get(v, v))
            name[u] = name[v] = low
    assert len({u for u, _ in edges}) == len(edges), "one edge a clip"
    return name


def test_old_clips_are_not_compared_again() -> None:
    """Of kept and fresh copies in a cell, pairs of two kept ones and of two visitors are left out."""
    short = np.repeat(vectors(1, 4), 5, axis=0)
    flags = {"own": [True, True, False, False, True], "fresh": [False, False, True, False, True]}
    block = pa.table({"clip_id": list("abcde"), **flags, "short": to_binary(short)})
    i, j = block_pairs(block, 0.99)
    found = {"".join(sorted("abcde"[k] for k in pair)) for pair in zip(i.tolist(), j.tolist(), strict=True)}
    assert found == {"ae", "be", "ce", "de", "ac", "bc"}


def test_vectors_ride_as_bytes() -> None:
    """16-bit vectors come back from binary columns, also from a slice of one, and none from an empty one."""
    short = vectors(20)
    assert (from_binary(to_binary(short)[3:9]) == short[3:9]).all()
    assert len(from_binary(to_binary(short[:0]))) == 0


def test_cosines_are_judged_exactly() -> None:
    """Pairs a millionth of a degree on either side of the threshold, by whole numbers, are told apart."""
    short = vectors(500, 5)
    assert {(a, b) for i, j in near_pairs(short, short, 0.97) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b} == all_pairs(
        short, 0.97
    )


@pytest.mark.parametrize(
    ("bad", "said"), [([1.0], "a vector of 2 values expected, found 1"), ([1.0, None], "finite"), ([np.nan, 1.0], "finite")]
)
def test_broken_vectors_are_named(bad: list[float], said: str) -> None:
    """A vector of another length, or that is not finite, raises an error that names its clip."""
    rows = pa.array([[1.0, 0.0], bad], pa.list_(pa.float32()))
    with pytest.raises(VectorError, match=f"clip b: duplicates: .*{said}"):
        near_vectors.read_vectors(pa.array(["a", "b"]), rows, "duplicates")


@pytest.mark.parametrize("bad", [{"rows_per_cell": 0}, {"reach": 1.5}, {"max_visits": -1}])
def test_impossible_configs_are_refused(bad: dict[str, float]) -> None:
    """Cells of nothing, or a reach beyond the worst case, are refused at once."""
    with pytest.raises(ValueError, match="cells: "):
        CellsConfig(**bad)
