"""A release's Merkle trees on disk: one fixed-width record a row, in key order, and the nodes above every 1,024 rows.

    tree/<name>.rows     state 1 byte · key and its salt (key bytes + 16) · field salt 16 · field commitment 32
    tree/<name>.nodes    32 bytes for every block of rows

81 bytes a clip, 97 an asset; a proof touches one block, so it takes milliseconds whatever the size. The state says what is left of
a row: everything, the key alone (fields erased), or nothing but its leaf (key erased too: its key commitment stands in their place).
Erasing overwrites in place. One core salts, hashes and writes 0.49 M clips a second, finds the root of 0.71 M and compares 0.30 M with
their table (benchmarks/releases.py, 2 M clips, CPU time).
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests import leaves, merkle
from manifests.leaves import SALT_BYTES, Rows, Tree
from manifests.merkle import BLOCK, HASH_BYTES, Bytes2

LIVE, FIELDS_GONE, GONE = 0, 1, 2
FOLDER = "tree"

Salts = Callable[[int], bytes]
"""That many unguessable bytes: os.urandom."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """An opened tree: `rows` has the fields state, key, key_salt, field_salt, commitment; `nodes` is (blocks, 32)."""

    tree: Tree
    rows: npt.NDArray[Any]
    nodes: Bytes2

    def __len__(self) -> int:
        return len(self.rows)

    def leaves(self, start: int = 0, end: int | None = None) -> Bytes2:
        """The leaf hashes of the rows [start, end)."""
        part = self.rows[start:end]
        keys = leaves.key_commitments(_plain(part["key_salt"]), _plain(part["key"]))
        gone = part["state"] == GONE
        if gone.any():
            keys[gone] = _slot(part)[gone, :HASH_BYTES]
        return merkle.hash_rows(0, keys, _plain(part["commitment"]))

    def path(self, index: int) -> list[bytes]:
        """The siblings of a row's leaf up to the root, found in one block and the nodes."""
        block = index // BLOCK
        inside = self.leaves(block * BLOCK, (block + 1) * BLOCK)
        return merkle.path(inside, index % BLOCK) + merkle.path(self.nodes, block)

    def find(self, key: bytes) -> int | None:
        """The place of a key, or None."""
        at = self.place(key)
        index = at if at < len(self.rows) else None
        return index if index is not None and self._key(index) == key else None

    def place(self, key: bytes) -> int:
        """How many rows have a smaller key, rows without one counting as their next neighbour above."""
        low, high = 0, len(self.rows)
        while low < high:
            middle = probe = (low + high) // 2
            while probe < high and self.rows["state"][probe] == GONE:
                probe += 1
            if probe < high and self._key(probe) < key:
                low = probe + 1
            else:
                high = middle
        while low < len(self.rows) and self.rows["state"][low] == GONE:
            low += 1
        return low

    def _key(self, index: int) -> bytes:
        return bytes(self.rows["key"][index])


def record_type(tree: Tree) -> np.dtype[Any]:
    """One record of a rows file."""
    u1 = np.uint8
    return np.dtype(
        [
            ("state", u1),
            ("key", u1, tree.key_bytes),
            ("key_salt", u1, SALT_BYTES),
            ("field_salt", u1, SALT_BYTES),
            ("commitment", u1, HASH_BYTES),
        ]
    )


def rows_path(tree: Tree) -> str:
    """Where the rows lie, in the release's folder."""
    return f"{FOLDER}/{tree.name}.rows"


def nodes_path(tree: Tree) -> str:
    """Where the nodes lie, in the release's folder."""
    return f"{FOLDER}/{tree.name}.nodes"


def write_tree(folder: Path, tree: Tree, rows: Rows, salts: Salts = os.urandom) -> bytes:
    """The tree's two files stand in the folder, on disk; returns its root. Rows are sorted by key, each key once."""
    n = len(rows.keys)
    records = np.zeros(n, record_type(tree))
    records["key"] = rows.keys
    for name in ("key_salt", "field_salt"):
        records[name] = np.frombuffer(salts(n * SALT_BYTES), np.uint8).reshape(n, SALT_BYTES)
    records["commitment"] = leaves.field_commitments(_plain(records["field_salt"]), rows.fields)
    nodes = _nodes(TreeFile(tree, records, np.empty((0, HASH_BYTES), np.uint8)))
    _write(folder / rows_path(tree), records)
    _write(folder / nodes_path(tree), nodes)
    return merkle.root(nodes)


def open_tree(folder: Path, tree: Tree) -> TreeFile:
    """The tree of a release's folder, mapped and not read. ValueError when a file's size cannot be right."""
    record = record_type(tree)
    rows = _map(folder / rows_path(tree), record)
    nodes = _map(folder / nodes_path(tree), np.dtype((np.uint8, HASH_BYTES))).reshape(-1, HASH_BYTES)
    if len(nodes) != -(-len(rows) // BLOCK):
        raise ValueError(f"{nodes_path(tree)}: expected {-(-len(rows) // BLOCK)} nodes above {len(rows)} rows, found {len(nodes)}")
    return TreeFile(tree, rows, nodes)


def root_of_rows(file: TreeFile) -> bytes:
    """The root as the rows give it, the stored nodes aside."""
    return merkle.root(_nodes(file))


def erase(folder: Path, tree: Tree, indices: Iterable[int], *, keys_too: bool) -> None:
    """The fields of these rows can never be proved again, and with `keys_too` nor can their keys; every leaf stays as it is."""
    path = folder / rows_path(tree)
    file = open_tree(folder, tree)
    record = record_type(tree)
    with path.open("r+b") as sink:
        for index in sorted(set(indices)):
            row = np.array(file.rows[index : index + 1])
            row["field_salt"] = 0
            if keys_too and row["state"][0] != GONE:
                commitment = leaves.key_commitments(row["key_salt"], row["key"])
                slot = np.zeros((1, tree.key_bytes + SALT_BYTES), np.uint8)
                slot[:, :HASH_BYTES] = commitment
                row["key"], row["key_salt"] = slot[:, : tree.key_bytes], slot[:, tree.key_bytes :]
                row["state"] = GONE
            row["state"] = np.maximum(row["state"], FIELDS_GONE)
            sink.seek(index * record.itemsize)
            sink.write(row.tobytes())
        sink.flush()
        os.fsync(sink.fileno())


def _nodes(file: TreeFile) -> Bytes2:
    """The nodes over all rows, 256 blocks at a time."""
    step = 256 * BLOCK
    pieces = [merkle.block_nodes(file.leaves(i, i + step)) for i in range(0, len(file), step)]
    return np.concatenate(pieces) if pieces else np.empty((0, HASH_BYTES), np.uint8)


def _slot(rows: npt.NDArray[Any]) -> Bytes2:
    return np.concatenate([rows["key"], rows["key_salt"]], axis=1)


def _plain(column: npt.NDArray[Any]) -> Bytes2:
    return np.ascontiguousarray(column, np.uint8)


def _write(path: Path, array: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink:
        array.tofile(sink)
        sink.flush()
        os.fsync(sink.fileno())


def _map(path: Path, record: np.dtype[Any]) -> npt.NDArray[Any]:
    size = path.stat().st_size
    if size % record.itemsize:
        raise ValueError(f"{path.name}: expected records of {record.itemsize} bytes, found {size} bytes")
    return np.memmap(path, record, "r") if size else np.empty(0, record)
