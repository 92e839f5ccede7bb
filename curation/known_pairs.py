"""Duplicates of a collection that grew: only pairs with a new clip are looked for, those found before are kept. On Spark, in a folder:

    state.json             what the pairs hold for and the name of the folder they lie in; written last, by rename
    <name>/clips.parquet   clip_id and mark, a digest of kind, hashes and vector, of every clip that was compared
    <name>/edges/          (u, v) that join the near-duplicates among them
    <name>/cells/          the cells in which vectors were looked for (`cells.write_cells`)

Groups are the connected components of all edges, so those of the old clips and those with a new one together give the groups, keepers,
ranks and distances that comparing everything anew gives. Edges are fewer than pairs, so that losing a clip may cut a group in two: when one of
before is gone, or its hashes changed, or the settings did, everything is compared anew. By hashes the result is then exactly the same. Vectors
are looked for in the cells of the first time, in which with a `reach` below 1 another pair in a million may be missed than in new cells;
when clips with a vector have become four times as many, cells are full and made anew too.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.cells import Cells, read_cells, write_cells
from curation.duplicates import DuplicatesConfig, find_edges, label_edges, prepared
from curation.near_vectors import train_on_spark
from manifests import ids
from manifests.files import write_atomic

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

VERSION = "1"
_GROWTH = 4
_STATE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPairs:
    """What is known of the pairs among some clips: which of them are fresh, in their order, and where the edges of the others lie."""

    folder: Path
    key: str
    clips: pa.Table
    """clip_id, mark."""
    fresh: npt.NDArray[np.bool_]
    name: str
    before: str | None
    """The folder's name of before; None where everything is compared anew."""
    n_trained: int
    """Clips with a vector for which the cells were, or are to be, trained."""

    @property
    def n_fresh(self) -> int:
        """Clips whose copies are looked for among all; those of the others are known among themselves."""
        return int(self.fresh.sum())


def open_pairs(folder: Path, key: str, table: pa.Table) -> KnownPairs:
    """What the folder knows of the clips of a table as `duplicates` takes it; `key` names the settings by which they were made and compared."""
    clips = pa.table({"clip_id": table["clip_id"], "mark": _marks(table)})
    anew = KnownPairs(
        folder=folder,
        key=key,
        clips=clips,
        fresh=np.ones(len(table), bool),
        name=ids.digest("pairs/v1", VERSION, key, *sorted(m.hex() for m in clips["mark"].to_pylist())),
        before=None,
        n_trained=len(table) - table["vector"].null_count if "vector" in table.column_names else 0,
    )
    path = folder / _STATE
    state = json.loads(path.read_text()) if path.exists() else {}
    if state.get("key") != key or anew.n_trained > _GROWTH * max(1, state["n_trained"]):
        return anew
    old = pq.read_table(folder / state["name"] / "clips.parquet")["mark"].combine_chunks()
    known = pc.is_in(clips["mark"], value_set=old).to_numpy()
    return replace(anew, fresh=~known, before=state["name"], n_trained=state["n_trained"]) if known.sum() == len(old) else anew


def label_known(rows: "DataFrame", cfg: DuplicatesConfig, pairs: KnownPairs) -> "DataFrame":
    """`duplicates.OUTPUT` of the rows, with the column `fresh` of the pairs; afterwards the folder knows them all. Runs eagerly.

    A crash leaves the folder as it was.
    """
    edges = _edges(rows, cfg, pairs)
    labelled = label_edges(rows, edges)
    if pairs.before != pairs.name:
        pq.write_table(pairs.clips, pairs.folder / pairs.name / "clips.parquet")
        state = {"key": pairs.key, "name": pairs.name, "n_trained": pairs.n_trained}
        write_atomic(pairs.folder / _STATE, json.dumps(state, sort_keys=True).encode())
        for path in pairs.folder.iterdir():
            if path.is_dir() and path.name != pairs.name:
                shutil.rmtree(path)
    return labelled


def _edges(rows: "DataFrame", cfg: DuplicatesConfig, pairs: KnownPairs) -> "DataFrame":
    """All edges, old and new, as they lie in the folder afterwards."""
    read, here = rows.sparkSession.read.schema("u string, v string"), pairs.folder / pairs.name
    if pairs.before != pairs.name:
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        edges = find_edges(rows, cfg, _cells(rows, cfg, pairs))
        if pairs.before is not None:
            edges = edges.unionByName(read.parquet(str(pairs.folder / pairs.before / "edges")))
        edges.write.parquet(str(here / "edges"))
    return read.parquet(str(here / "edges"))


def _cells(rows: "DataFrame", cfg: DuplicatesConfig, pairs: KnownPairs) -> Cells | None:
    """The cells of before, or new ones, which lie beside the edges afterwards; None without vectors."""
    if "vector" not in rows.columns:
        return None
    if pairs.before is not None:
        cells = read_cells(pairs.folder / pairs.before / "cells")
    else:
        cells = train_on_spark(prepared(rows).where("vector IS NOT NULL"), pairs.n_trained, cfg.cells)
    write_cells(cells, pairs.folder / pairs.name / "cells")
    return cells


def _marks(table: pa.Table) -> pa.Array:
    """16 bytes of SHA-256 over each clip's id, kind, hashes and vector."""
    names = [n for n in ("pdq", "pdq_frame", "pdq_own", "vector") if n in table.column_names]
    marks = []
    for batch in table.to_batches():
        lists = [_Lists(batch[n]) for n in names]
        for i, (clip_id, kind) in enumerate(zip(batch["clip_id"].to_pylist(), batch["kind"].to_pylist(), strict=True)):
            h = hashlib.sha256(f"{clip_id} {kind}".encode())
            for name, column in zip(names, lists, strict=True):
                data = column.bytes_of(i)
                h.update(f" {name} {len(data)} ".encode() + data)
            marks.append(h.digest()[:16])
    return pa.array(marks, pa.binary())


class _Lists:
    """A column of lists, whose bytes are taken where they lie: no Python object is made of a value."""

    def __init__(self, lists: pa.Array) -> None:
        self._first = np.concatenate(([0], np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy())))
        values = pc.list_flatten(lists)
        if pa.types.is_binary(values.type):
            _, ends, data = values.buffers()
            self._at = np.frombuffer(ends, np.int32)[values.offset : values.offset + len(values) + 1] if len(values) else np.zeros(1, int)
            self._data: memoryview | bytes = memoryview(data or b"")
        else:
            numbers = pc.fill_null(values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values, 0).to_numpy()
            self._at, self._data = np.arange(len(numbers) + 1) * numbers.itemsize, numbers.tobytes()

    def bytes_of(self, row: int) -> bytes:
        """The bytes of one row's values, one after the other; none where there is no list."""
        return bytes(self._data[self._at[self._first[row]] : self._at[self._first[row + 1]]])
