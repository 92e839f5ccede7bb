"""How a stored column is declared: a dataclass field with Arrow type, unit and meaning.

Allowed Arrow types are those that Delta, DuckDB and Spark read alike: string, binary, bool, int32, int64, float32, float64,
timestamp(us, UTC), list, struct. `None` means "not measured"; NaN is never stored; 0 is a score.
"""

from dataclasses import field
from typing import Any

import pyarrow as pa

UTC = pa.timestamp("us", tz="UTC")


def column(type_: pa.DataType, doc: str, unit: str = "", default: Any = ...) -> Any:
    """A dataclass field that is also a stored column. Without a default it is required and never null."""
    meta = {"type": type_, "doc": doc, "unit": unit}
    return field(metadata=meta) if default is ... else field(metadata=meta, default=default)


def text(doc: str) -> Any:
    """A column of text that may be null."""
    return column(pa.string(), doc, default=None)


def whole(doc: str, unit: str = "") -> Any:
    """A column of whole numbers of 64 bit that may be null."""
    return column(pa.int64(), doc, unit, None)


def small(doc: str, unit: str = "") -> Any:
    """A column of whole numbers of 32 bit that may be null."""
    return column(pa.int32(), doc, unit, None)


def score(doc: str, unit: str = "") -> Any:
    """A column of float32 that may be null: what a measure writes and a rule compares."""
    return column(pa.float32(), doc, unit, None)


def flag(doc: str) -> Any:
    """A column of yes or no that may be null."""
    return column(pa.bool_(), doc, default=None)
