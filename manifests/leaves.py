"""What a leaf of a release says: clips and assets as rows of fixed bytes, sorted by their key, and salted.

    leaf       = SHA-256(0x00 || key commitment || field commitment)
    key        = SHA-256(0x02 || key salt   || key)        the clip's 128-bit id, or the asset's SHA-256
    fields     = SHA-256(0x03 || field salt || fields)     everything else, big-endian, in the order of the tables below

Two commitments, so that a neighbour's key can be shown (to prove that something is absent) without showing its row, and so that
the fields of a row can be made unprovable for ever by destroying 16 bytes while every other proof goes on to hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from manifests import merkle
from manifests.merkle import Bytes2
from manifests.schema import TABLES, arrow_schema

SALT_BYTES = 16
KINDS = ("video", "image", "audio")
DECISIONS = ("pending", "keep", "drop", "quarantine", "removed")

_HASH = (np.uint8, 32)
CLIP_FIELDS = np.dtype(
    [
        ("asset_sha256", *_HASH),
        ("start_us", ">i8"),
        ("end_us", ">i8"),
        ("kind", "u1"),
        ("decision", "u1"),
        ("first_fail_rule", ">i4"),
        ("licence_class", ">i4"),
        ("optout_state", ">i4"),
        ("licence_sha256", *_HASH),
        ("shard_no", ">i4"),
        ("offset", ">i8"),
        ("size_bytes", ">i8"),
        ("payload_sha256", *_HASH),
    ]
)
"""Fields of a clip, 146 bytes. Integers that are null are -1; hashes that are null are zeros; `licence_sha256` is that of the
licence expression's text; shard, offset, size and hash are those of its medium's payload."""

ASSET_FIELDS = np.dtype(
    [
        ("size_bytes", ">i8"),
        ("kind", "u1"),
        ("decision", "u1"),
        ("first_fail_rule", ">i4"),
        ("licence_class", ">i4"),
        ("optout_state", ">i4"),
        ("licence_sha256", *_HASH),
        ("source_no", ">i4"),
        ("n_copies", ">i4"),
    ]
)
"""Fields of an asset, 62 bytes, by the same conventions."""

Files = Mapping[str, Sequence[Path]]
"""The Parquet files of each table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A kind of row that has a tree of its own."""

    name: str
    key_bytes: int
    fields: np.dtype[Any]
    tables: tuple[str, ...]


CLIPS = Tree(name="clips", key_bytes=16, fields=CLIP_FIELDS, tables=("clips", "assets", "members"))
ASSETS = Tree(name="assets", key_bytes=32, fields=ASSET_FIELDS, tables=("assets",))
TREES = (CLIPS, ASSETS)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a tree, sorted by key: (n, key_bytes) keys and (n, width) fields."""

    keys: Bytes2
    fields: Bytes2


def rows_of(tree: Tree, files: Files) -> Rows:
    """Every row of the tree, from the Parquet files of a version, sorted by key."""
    keys, fields = _clip_rows(files) if tree is CLIPS else _asset_rows(files)
    order = np.lexsort([keys[:, i : i + 8].copy().view(">u8")[:, 0] for i in range(0, tree.key_bytes, 8)][::-1])
    return Rows(keys[order], fields[order].view(np.uint8).reshape(len(order), tree.fields.itemsize))


def one_row(tree: Tree, files: Files, key: bytes) -> Rows:
    """The row of one key, read without the others: no row where there is none, or more where a table holds it twice."""
    keys, fields = _clip_rows(files, key) if tree is CLIPS else _asset_rows(files, key)
    return Rows(keys, fields.view(np.uint8).reshape(len(fields), tree.fields.itemsize))


def out_of_order(keys: Bytes2) -> npt.NDArray[np.intp]:
    """The places of the keys that are not greater than the key before them; of keys in order, each of them once, there are none."""
    words = np.ascontiguousarray(keys).view(">u8").reshape(len(keys), keys.shape[1] // 8)
    above = np.zeros(max(len(keys) - 1, 0), bool)
    for word in range(words.shape[1] - 1, -1, -1):  # the first word counts most, so it is compared last
        low, high = words[:-1, word], words[1:, word]
        above = (low < high) | ((low == high) & above)
    return np.flatnonzero(~above) + 1


def key_commitments(salts: Bytes2, keys: Bytes2) -> Bytes2:
    """What stands in the leaf for the key."""
    return merkle.hash_rows(2, salts, keys)


def field_commitments(salts: Bytes2, fields: Bytes2) -> Bytes2:
    """What stands in the leaf for the fields."""
    return merkle.hash_rows(3, salts, fields)


def describe(tree: Tree, fields: bytes) -> dict[str, Any]:
    """The fields for a person: hashes in hexadecimal, names for codes, None for null."""
    row = np.frombuffer(fields, tree.fields)[0]
    return {name: _describe(name, row[name]) for name in tree.fields.names or ()}


def undescribe(tree: Tree, values: Mapping[str, Any]) -> bytes:
    """The bytes that were described. ValueError names a field that is missing, unknown or no value of its kind."""
    names = tree.fields.names or ()
    if set(values) != set(names):
        raise ValueError(f"{tree.name}: expected the fields {', '.join(names)}, found {', '.join(map(str, values))}")
    row = np.zeros(1, tree.fields)
    for name in names:
        try:
            row[name] = _undescribe(name, values[name])
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{tree.name}: {name}: {values[name]!r} is no value of it: {error}") from error
    return row.tobytes()


def _describe(name: str, value: Any) -> Any:
    if name == "kind":
        return _name(KINDS, int(value))
    if name == "decision":
        return _name(DECISIONS, int(value))
    if isinstance(value, np.ndarray):
        return value.tobytes().hex() if value.any() else None
    return None if int(value) == -1 else int(value)


def _undescribe(name: str, value: Any) -> Any:
    if name in ("kind", "decision"):
        names = KINDS if name == "kind" else DECISIONS
        return 255 if value is None else names.index(value)
    if name.endswith("_sha256"):
        data = bytes(32) if value is None else bytes.fromhex(value)
        if len(data) != 32:
            raise ValueError("expected 64 hexadecimal digits")
        return np.frombuffer(data, np.uint8)
    if value is not None and type(value) is not int:
        raise ValueError("expected a whole number or null")
    return -1 if value is None else value


def _name(names: Sequence[str], code: int) -> str | None:
    return names[code] if code < len(names) else None


def _clip_rows(files: Files, key: bytes | None = None) -> tuple[Bytes2, npt.NDArray[Any]]:
    where = None if key is None else pc.field("clip_id") == key.hex()
    names = ["clip_id", "clip_no", "asset_no", "kind", "start_us", "end_us", "decision", "first_fail_rule", "shard_no"]
    clips = _read("clips", files, names, where)
    mine = None if key is None else clips.column("asset_no").combine_chunks().unique()
    assets = _read(
        "assets",
        files,
        ["asset_no", "asset_sha256", "licence_class", "licence_expr", "optout_state"],
        None if mine is None else pc.field("asset_no").isin(mine),
    )
    at = pc.index_in(clips.column("asset_no"), value_set=assets.column("asset_no").combine_chunks())
    out = np.zeros(clips.num_rows, CLIP_FIELDS)
    out["asset_sha256"] = _fixed(assets.column("asset_sha256").take(at), 32)
    for name in ("start_us", "end_us", "first_fail_rule", "shard_no"):
        out[name] = _numbers(clips.column(name))
    _fill_common(out, clips, assets, at)
    media = _read("members", files, ["clip_no", "extension", "offset", "size_bytes", "sha256"], _media(clips, key))
    media = media.sort_by([("clip_no", "ascending"), ("offset", "descending")])  # of several, the one that comes first in the tar
    place = pc.index_in(clips.column("clip_no"), value_set=media.column("clip_no").combine_chunks())
    out["offset"], out["size_bytes"] = (_numbers(media.column(n).take(place)) for n in ("offset", "size_bytes"))
    out["payload_sha256"] = _fixed(media.column("sha256").take(place), 32)
    return _unhex(clips.column("clip_id")), out


def _media(clips: pa.Table, key: bytes | None) -> pc.Expression:
    payloads = ~pc.field("extension").isin(["json", "txt"])
    return payloads if key is None else payloads & pc.field("clip_no").isin(clips.column("clip_no").combine_chunks())


def _asset_rows(files: Files, key: bytes | None = None) -> tuple[Bytes2, npt.NDArray[Any]]:
    names = ["asset_sha256", "size_bytes", "kind", "decision", "first_fail_rule", "licence_class", "licence_expr"]
    # What could not be read at all has no bytes to be known by, and no clips: it stands in the tables, not in the tree.
    where = (
        pc.field("asset_sha256") != pa.scalar(b"", pa.binary()) if key is None else pc.field("asset_sha256") == pa.scalar(key, pa.binary())
    )
    assets = _read("assets", files, [*names, "optout_state", "source_no", "n_copies"], where)
    out = np.zeros(assets.num_rows, ASSET_FIELDS)
    for name in ("size_bytes", "first_fail_rule", "source_no", "n_copies"):
        out[name] = _numbers(assets.column(name))
    _fill_common(out, assets, assets, pa.array(np.arange(assets.num_rows)))
    return _fixed(assets.column("asset_sha256"), 32), out


def _fill_common(out: npt.NDArray[Any], subjects: pa.Table, assets: pa.Table, at: Any) -> None:
    """Kind and verdict of the subjects; rights of their assets."""
    for name, codes in (("kind", KINDS), ("decision", DECISIONS)):
        codes_of = pc.index_in(subjects.column(name), value_set=pa.array(codes))
        out[name] = pc.fill_null(codes_of, 255).to_numpy().astype(np.uint8)
    for name in ("licence_class", "optout_state"):
        out[name] = _numbers(assets.column(name).take(at))
    encoded = assets.column("licence_expr").combine_chunks().dictionary_encode()
    digests = [sha256(text.encode()).digest() for text in encoded.dictionary.to_pylist()]
    table = np.frombuffer(b"".join([*digests, bytes(32)]), np.uint8).reshape(-1, 32)
    # null twice over: no licence is stated, or (of a damaged dataset) there is no such asset
    out["licence_sha256"] = table[pc.fill_null(encoded.indices.take(at), len(digests)).to_numpy()]


def _read(table: str, files: Files, columns: list[str], where: pc.Expression | None = None) -> pa.Table:
    schema = arrow_schema(TABLES[table])
    paths = [str(p) for p in files.get(table, ())]
    if not paths:
        return schema.empty_table().select(columns)
    return pds.dataset(paths, schema=schema, format="parquet").to_table(columns, filter=where)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), -1).to_numpy()
    return numbers


def _fixed(column: pa.ChunkedArray, width: int) -> Bytes2:
    """(n, width) bytes of a binary column; zeros for null. ValueError when a value has another length."""
    column = pc.fill_null(column, pa.scalar(bytes(width), column.type))
    lengths = pc.unique(pc.binary_length(column)).to_pylist()
    if lengths not in ([], [width]):
        raise ValueError(f"expected values of {width} bytes, found {lengths}")
    pieces = [np.frombuffer(c.buffers()[2], np.uint8, len(c) * width, _start(c)) for c in column.chunks if len(c)]
    return np.concatenate(pieces).reshape(-1, width) if pieces else np.empty((0, width), np.uint8)


def _start(chunk: pa.Array) -> int:
    """Where the values of a binary or string array begin in its data buffer."""
    return int(np.frombuffer(chunk.buffers()[1], np.int32, chunk.offset + 1)[chunk.offset])


def _unhex(column: pa.ChunkedArray) -> Bytes2:
    """(n, 16) bytes of a column of 32 hexadecimal digits. ValueError when a value is something else."""
    digits = _fixed(column, 32)
    values = np.full(256, 255, np.uint8)
    values[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
    nibbles = values[digits]
    if (nibbles == 255).any():
        raise ValueError("expected ids of 32 lower-case hexadecimal digits")
    packed: Bytes2 = (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).astype(np.uint8)
    return packed
