"""Taking things out of files that stay: rows of Parquet files in every version, members of shards. All of it can be done twice.

A data file keeps its name and, by filling up before its footer, its size, so that what Delta and the manifest say of it still holds;
time travel goes on to work, and shows the row without its text. A shard keeps every offset: a member's bytes become filler of its length.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.files import sync_folder
from manifests.parquet import write_rows
from manifests.purgeable import PURGEABLE, REMOVED_URI
from manifests.shards import list_members
from manifests.tables import ManifestError, ManifestStore


@dataclass(frozen=True, slots=True)
class Change:
    """An edit of the rows with these keys. Called with rows it gives them changed, or the very same object where nothing differs."""

    key: str
    values: pa.Array
    edit: Callable[[pa.Table], pa.Table]

    def meets(self, rows: pa.Table) -> bool:
        """Whether some of the rows, of which the key is enough, are meant."""
        return bool(pc.any(pc.is_in(rows.column(self.key), value_set=self.values)).as_py())

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows after the edit."""
        mask = pc.is_in(table.column(self.key), value_set=self.values)
        mine = table.filter(mask)
        if not mine.num_rows:
            return table
        changed = self.edit(mine)
        if changed.equals(mine):
            return table
        columns = [
            pc.replace_with_mask(table.column(n).combine_chunks(), mask.combine_chunks(), changed.column(n).combine_chunks())
            if not changed.column(n).equals(mine.column(n))
            else table.column(n)
            for n in table.schema.names
        ]
        return pa.table(columns, schema=table.schema)


class ScrubError(ManifestError):
    """A file that cannot be scrubbed where it stands."""


_PARQUET_TAIL = 8  # length of the footer and PAR1
_BLOCK = 1 << 20


def filler(extension: str, size_bytes: int) -> bytes:
    """What stands where a member's bytes stood: an empty JSON object, blanks for text, zeros for media."""
    if extension == "json" and size_bytes >= 2:
        return b"{}" + b" " * (size_bytes - 2)
    return (b" " if extension in ("json", "txt") else b"\0") * size_bytes


def overwrite(path: Path, members: Iterable[tuple[int, int, str]]) -> bytes:
    """The members at (offset, size, extension) of a tar hold filler, on disk; returns the tar's SHA-256."""
    with path.open("r+b") as tar:
        for offset, size, extension in members:
            tar.seek(offset)
            tar.write(filler(extension, size))
        tar.flush()
        os.fsync(tar.fileno())
    with path.open("rb") as tar:
        return hashlib.file_digest(tar, "sha256").digest()


def members_of(store: ManifestStore, clips: Collection[str]) -> dict[str, set[tuple[int, int, str]]]:
    """Where the clips lie, in every shard on disk: path under the dataset -> (offset, size, extension).

    Shards of readable versions are looked up in their members; a tar that no readable version names is listed.
    """
    found: dict[str, set[tuple[int, int, str]]] = {}
    known: set[str] = set()
    wanted = pa.array(sorted(clips), pa.string())
    for version in store.readable():
        shards = store.read("shards", version, ["shard_no", "path"])
        path_of = dict(zip(shards.column(0).to_pylist(), shards.column(1).to_pylist(), strict=True))
        known |= set(path_of.values())
        members = store.read("members", version, ["shard_no", "clip_id", "offset", "size_bytes", "extension"])
        for row in members.filter(pc.is_in(members.column("clip_id"), value_set=wanted)).to_pylist():
            if (path := path_of.get(row["shard_no"])) is not None:
                found.setdefault(path, set()).add((row["offset"], row["size_bytes"], row["extension"]))
    for tar in sorted((store.root / "shards").rglob("*.tar")):
        path = str(tar.relative_to(store.root))
        if path not in known:
            with tar.open("rb") as stream:
                for name, offset, size in list_members(stream):
                    clip, _, extension = name.partition(".")
                    if clip in clips:
                        found.setdefault(path, set()).add((offset, size, extension))
    return {path: places for path, places in found.items() if (store.root / path).is_file()}


def part_files(store: ManifestStore, table: str) -> list[Path]:
    """Every data file in a table's folder, also those of purged versions and of attempts that never committed."""
    folder = store.folder / table
    return sorted(folder.glob("part-*.parquet")) if folder.is_dir() else []


def rewrite_in_place(path: Path, change: Change, looked_up: tuple[str, ...], scratch: Path) -> bool:
    """The file holds the changed rows under the same name and in as many bytes; False when there was nothing to change."""
    with pq.ParquetFile(path) as file:
        groups = range(file.metadata.num_row_groups)
        met = [g for g in groups if change.meets(file.read_row_group(g, columns=[change.key]))]
        if all(change(t) is t for t in map(file.read_row_group, met)):
            return False
        schema, size = file.schema_arrow, path.stat().st_size
        for least in (False, True):  # the second has no statistics: it is smaller, unless hardly anything was taken out
            shutil.rmtree(scratch, ignore_errors=True)
            batches = (batch for table in _groups(file) for batch in change(table).to_batches())
            (written,) = write_rows(scratch, path.stem, pa.RecordBatchReader.from_batches(schema, batches), schema, looked_up, least)
            if written.size_bytes <= size:
                break
        else:  # a larger file under this name would be none that Delta's readers can open
            raise ScrubError(f"{path}: expected the scrubbed rows to fit into {size} bytes, found {written.size_bytes}")
    made = written.path
    _fill_up(made, size)
    os.replace(made, path)
    sync_folder(path.parent)
    shutil.rmtree(scratch, ignore_errors=True)
    return True


def forget_assets(assets: Collection[str]) -> Change:
    """Rows of `assets` lose their text and address."""
    return Change("asset_id", _texts(assets), lambda t: _with(_without_text(t, "assets"), "uri", [REMOVED_URI] * t.num_rows))


def forget_captions(clips: Collection[int]) -> Change:
    """Rows of `captions` have empty texts."""
    return Change("clip_no", _numbers(clips, pa.int64()), lambda t: _with(_without_text(t, "captions"), "text", [""] * t.num_rows))


def forget_clips(clips: Collection[str]) -> Change:
    """Rows of `clips` lose what describes them in words."""
    return Change("clip_id", _texts(clips), lambda t: _without_text(t, "clips"))


def forget_picks(clips: Collection[str]) -> Change:
    """Rows of `picks` lose the reviewer's words."""
    return Change("clip_id", _texts(clips), lambda t: _without_text(t, "picks"))


def rehash_members(clips: Collection[str]) -> Change:
    """Rows of `members` have the hash of their filler."""

    def change(t: pa.Table) -> pa.Table:
        hashes = [hashlib.sha256(filler(e, n)).digest() for e, n in zip(_list(t, "extension"), _list(t, "size_bytes"), strict=True)]
        return _with(t, "sha256", hashes)

    return Change("clip_id", _texts(clips), change)


def rehash_shards(hashes: dict[str, bytes]) -> Change:
    """Rows of `shards` have the hash of the tar as it is now."""
    return Change("path", _texts(hashes.keys()), lambda t: _with(t, "sha256", [hashes[p] for p in _list(t, "path")]))


def forget_sources(sources: Collection[int]) -> Change:
    """Rows of `sources` of which nothing is left lose their name, which a single file's is its own, and who supplied them."""

    def change(t: pa.Table) -> pa.Table:
        return _with(_without_text(t, "sources"), "name", [f"removed:{n}" for n in _list(t, "source_no")])

    return Change("source_no", _numbers(sources, pa.int32()), change)


def _texts(values: Collection[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _numbers(values: Collection[int], kind: pa.DataType) -> pa.Array:
    return pa.array(sorted(values), kind)


def _without_text(table: pa.Table, name: str) -> pa.Table:
    for column in PURGEABLE[name]:
        if column in table.schema.names:
            table = _with(table, column, [None] * table.num_rows)
    return table


def _with(table: pa.Table, name: str, values: list[str] | list[bytes] | list[None]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def _list(table: pa.Table, name: str) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    return values


def _groups(file: pq.ParquetFile) -> Iterator[pa.Table]:
    for number in range(file.metadata.num_row_groups):
        yield file.read_row_group(number)


def _fill_up(path: Path, size: int) -> None:
    """The file has the size, by zeros before its footer: offsets in a footer count from the front, and no reader looks between."""
    missing = size - path.stat().st_size
    with path.open("r+b") as file:
        file.seek(-_PARQUET_TAIL, os.SEEK_END)
        footer = int.from_bytes(file.read(4), "little") + _PARQUET_TAIL
        if missing > 0:
            file.seek(-footer, os.SEEK_END)
            tail = file.read()
            file.seek(-footer, os.SEEK_END)
            for start in range(0, missing, _BLOCK):
                file.write(bytes(min(_BLOCK, missing - start)))
            file.write(tail)
        file.flush()
        os.fsync(file.fileno())
