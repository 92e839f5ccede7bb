"""Every persistent column, as Arrow: the tables by name, and the two ways between records and Arrow."""

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from manifests import events, records

SCHEMA_VERSION = 1

TABLES: dict[str, type] = {
    "sources": records.Source,
    "assets": records.Asset,
    "clips": records.Clip,
    "decisions": events.Decision,
    "rules": events.RuleRow,
    "picks": events.Pick,
    "runs": events.Run,
    "captions": records.Caption,
    "shards": records.Shard,
    "members": records.Member,
    "exposures": events.Exposure,
    "takedowns": events.Takedown,
    "blocklist": events.Block,
    "cubes": events.Cube,
}

APPEND_ONLY = ("decisions", "rules", "picks", "runs", "exposures", "takedowns")
"""Tables whose rows are never changed: Delta enforces it."""


def arrow_schema(record: type) -> pa.Schema:
    """The Arrow schema of a record class; each field carries its unit and description as metadata."""
    return pa.schema([_arrow_field(f) for f in dataclasses.fields(record)])


def to_table(record: type, rows: Iterable[Any]) -> pa.Table:
    """The records as an Arrow table of the record class's schema."""
    schema = arrow_schema(record)
    rows = list(rows)
    columns = [pa.array([getattr(r, f.name) for r in rows], f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def from_table(record: type, table: pa.Table) -> list[Any]:
    """The rows of a table as records; columns the record does not know are ignored, missing ones take their default."""
    return [from_row(record, row) for row in table.to_pylist()]


def to_row(record: Any) -> dict[str, Any]:
    """The record as a flat dict, the form in which rows ride through Ray."""
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


def from_row(record: type, row: dict[str, Any]) -> Any:
    """The record held in a flat dict."""
    names = {f.name for f in dataclasses.fields(record)}
    return record(**{k: v for k, v in row.items() if k in names})


def _arrow_field(f: dataclasses.Field[Any]) -> pa.Field:
    nullable = types.NoneType in typing.get_args(f.type)
    return pa.field(f.name, f.metadata["type"], nullable, {"unit": f.metadata["unit"], "doc": f.metadata["doc"]})
