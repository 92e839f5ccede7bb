"""Parquet as the manifest writes it: an encoding for each column, bounded memory, several files for many rows.

The encoding follows from the column's type and from its first row group: few different values are a dictionary; else floats are split
into their bytes (BYTE_STREAM_SPLIT), whole numbers into differences, strings into lengths and bytes; zstd packs what is left. A column
that is looked up by value gets a Bloom filter. All of it is read by pyarrow, DuckDB and Spark.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.files import sync_folder, temporary_name

ROW_GROUP_ROWS = 250_000
"""Rows that are held and encoded at once; also how finely a reader can skip."""

FILE_ROWS = 50_000_000
FILE_BYTES = 256 << 20
"""A file ends with the row group that reaches one of these: what one task of an engine reads well."""

_LEVEL = 6  # of zstd: 2 % smaller than level 3 on clips; level 9 takes twice its time for another 1 %
_LEAST_LEVEL = 19
_FEW = 16  # a dictionary pays when each value is met that often
_SAMPLE_ROWS = 65_536


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The table's rows as Python values; times finer than Python's, which has no type for them, as text, lengths of time as nanoseconds.
    ValueError where such are within lists or structs."""
    for i, kind in enumerate(table.schema.types):
        if (pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns") or pa.types.is_duration(kind):
            table = table.set_column(i, table.schema.names[i], table.column(i).cast(pa.string()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


Rows: TypeAlias = pa.Table | pa.RecordBatchReader
"""Rows to write: a table, or a reader, which is consumed once and never held as a whole."""


@dataclass(slots=True)
class Written:
    """A file, its size, and what its statistics say: rows, nulls by column, and the range of every whole-number column."""

    path: Path
    size_bytes: int = 0
    n_rows: int = 0
    nulls: dict[str, int] = field(default_factory=dict)
    lowest: dict[str, int] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)

    def count(self, rows: pa.Table) -> None:
        """The statistics include these rows."""
        self.n_rows += rows.num_rows
        for column, values in zip(rows.schema, rows.columns, strict=True):
            name = column.name
            self.nulls[name] = self.nulls.get(name, 0) + values.null_count
            if pa.types.is_integer(column.type) and values.null_count < len(values):
                ends = pc.min_max(values).as_py()
                self.lowest[name] = min(ends["min"], self.lowest.get(name, ends["min"]))
                self.highest[name] = max(ends["max"], self.highest.get(name, ends["max"]))


def write_rows(
    folder: Path, stem: str, rows: Rows, schema: pa.Schema, looked_up: tuple[str, ...] = (), least: bool = False
) -> list[Written]:
    """The files `<stem>-<n>.parquet` that hold the rows in order, at least one; each appears whole or not at all.

    No more than a row group is held at once. `looked_up` are the columns that get a Bloom filter. The `least` file has neither those nor
    statistics, and is packed for as long as it takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Written] = []
    groups = _row_groups(rows, schema)
    group = next(groups, None)
    while group is not None or not written:
        written.append(Written(folder / f"{stem}-{len(written):03d}.parquet"))
        group = _write_file(written[-1], schema.empty_table() if group is None else group, groups, () if least else looked_up, least)
    sync_folder(folder)
    return written


def write_parquet(path: Path, data: pa.Table) -> None:
    """The table as a zstd Parquet file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        pq.write_table(data, temporary, compression="zstd", row_group_size=ROW_GROUP_ROWS)
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _write_file(written: Written, group: pa.Table, groups: Iterator[pa.Table], looked_up: tuple[str, ...], least: bool) -> pa.Table | None:
    """The file holds this row group and those that follow up to its limit; returns the first that belongs to the next file."""
    temporary = temporary_name(written.path)
    following: pa.Table | None = group
    try:
        with pq.ParquetWriter(temporary, group.schema, **_layout(group, looked_up, least)) as writer:
            while following is not None and written.n_rows + following.num_rows <= FILE_ROWS and written.size_bytes < FILE_BYTES:
                writer.write_table(following, row_group_size=ROW_GROUP_ROWS)
                written.count(following)
                written.size_bytes = temporary.stat().st_size
                following = next(groups, None)
        written.size_bytes = temporary.stat().st_size
        _publish(temporary, written.path)
    finally:
        temporary.unlink(missing_ok=True)
    return following


def _layout(group: pa.Table, looked_up: tuple[str, ...], least: bool) -> dict[str, Any]:
    """How a writer encodes rows like these."""
    encodings: dict[str, str] = {}
    dictionaries: list[str] = []
    for column, values in zip(group.schema, group.columns, strict=True):
        encoding = _encoding(column.type)
        if pa.types.is_nested(column.type):
            dictionaries.append(f"{column.name}.list.element")
        elif encoding and column.name not in looked_up and _is_few(values):
            dictionaries.append(column.name)
        elif encoding:
            encodings[column.name] = encoding
    options = {name: {"ndv": max(1, min(group.num_rows, ROW_GROUP_ROWS)), "fpp": 0.02} for name in looked_up}
    return {
        "compression": "zstd",
        "compression_level": _LEAST_LEVEL if least else _LEVEL,
        "write_statistics": not least,
        "use_dictionary": dictionaries or False,
        "column_encoding": encodings or None,
        "bloom_filter_options": options or None,
    }


def _encoding(type_: pa.DataType) -> str | None:
    """The encoding of a column with many different values; null where Parquet's own is as good."""
    if pa.types.is_floating(type_):
        return "BYTE_STREAM_SPLIT"
    if pa.types.is_integer(type_) or pa.types.is_timestamp(type_):
        return "DELTA_BINARY_PACKED"
    return "DELTA_LENGTH_BYTE_ARRAY" if pa.types.is_string(type_) or pa.types.is_binary(type_) else None


def _is_few(values: pa.ChunkedArray) -> bool:
    sample = values.slice(0, _SAMPLE_ROWS)
    known = len(sample) - sample.null_count
    distinct = pc.count_distinct(sample, mode="only_valid").as_py()
    return bool(distinct * _FEW <= known)


def _row_groups(rows: Rows, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows in tables of ROW_GROUP_ROWS, the last one shorter, in the schema's columns and types."""
    held: list[pa.RecordBatch] = []
    n = 0
    for batch in _batches(rows):
        while n + batch.num_rows >= ROW_GROUP_ROWS:
            cut = ROW_GROUP_ROWS - n
            yield _fitted([*held, batch.slice(0, cut)], schema)
            batch, held, n = batch.slice(cut), [], 0
        if batch.num_rows:
            held.append(batch)
            n += batch.num_rows
    if held:
        yield _fitted(held, schema)


def _batches(rows: Rows) -> Iterable[pa.RecordBatch]:
    found: Iterable[pa.RecordBatch] = rows.to_batches() if isinstance(rows, pa.Table) else rows
    return found


def _fitted(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches).select(schema.names).cast(schema)


def _publish(temporary: Path, path: Path) -> None:
    """The file's bytes are on disk before its name is."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
