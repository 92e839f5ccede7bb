"""A rule as SQL expressions, for DuckDB and for Spark: the same verdicts as `Rule.verdict` and `manifests.rules.applies`.

Names become quoted identifiers after a check, values become literals; nothing that a configuration says is ever read as SQL.
A threshold is written as the float32 that it is, so that no engine rounds it in its own way; NaN is an error everywhere.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from manifests.rules import Rule

Dialect = Literal["duckdb", "spark"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_QUOTE = {"duckdb": '"', "spark": "`"}
_ERROR = {"duckdb": "error", "spark": "raise_error"}


def identifier(name: str, dialect: Dialect = "duckdb") -> str:
    """The column name, quoted; ValueError for what is no plain name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected the name of a column (letters, digits, _), found {name!r}")
    return f"{_QUOTE[dialect]}{name}{_QUOTE[dialect]}"


def literal(text: str, dialect: Dialect = "duckdb") -> str:
    """The text as a SQL string. Spark reads backslashes in strings and glues 'a''b' together, DuckDB does neither."""
    if dialect == "spark":
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "'" + text.replace("'", "''") + "'"


def verdict_sql(rule: "Rule", dialect: Dialect = "duckdb", alias: str = "", *, may_be_nan: bool = True) -> str:
    """The verdict over the measure's column: true, false, or null when there is no score.

    NaN raises an error, unless the rows come from a manifest, which holds none (`may_be_nan=False`): that compares twice as fast.
    """
    column = _column(rule.measure, dialect, alias)
    score = f"CAST({column} AS FLOAT)"
    compared = f"({score} {'=' if rule.op == '==' else rule.op} {_number(float(np.float32(rule.threshold)))})"
    if not may_be_nan:
        return compared
    message = literal(f"rule {rule.name}: {rule.measure} is NaN; what was not measured is null", dialect)
    return (
        f"(CASE WHEN isnan({score}) THEN CAST({_ERROR[dialect]}({message}) AS BOOLEAN) WHEN {column} IS NULL THEN NULL ELSE {compared} END)"
    )


def applies_sql(rule: "Rule", dialect: Dialect = "duckdb", alias: str = "") -> str:
    """True or false: whether the rule speaks about this subject's kind and set. A subject of unknown kind is met by every rule."""
    kind = _column("kind", dialect, alias)
    of_kind = f"({kind} IS NULL OR {kind} IN ({', '.join(literal(k, dialect) for k in rule.kinds)}))" if rule.kinds else f"({kind} IS NULL)"
    if not rule.set_name:
        return of_kind
    if rule.subject != "clip":
        return "(FALSE)"
    return f"({of_kind} AND coalesce({_column('set_name', dialect, alias)} = {literal(rule.set_name, dialect)}, FALSE))"


def drops_sql(rule: "Rule", dialect: Dialect = "duckdb", alias: str = "") -> str:
    """True or false: whether the rule speaks about the subject and the subject does not survive it."""
    survives = "TRUE" if rule.on_unknown == "accept" else "FALSE"
    return f"({applies_sql(rule, dialect, alias)} AND NOT coalesce({verdict_sql(rule, dialect, alias)}, {survives}))"


def first_place_sql(conditions: Sequence[str]) -> str:
    """The place, from 0, of the first condition that is true; null when none is."""
    whens = " ".join(f"WHEN {c} THEN {place}" for place, c in enumerate(conditions) if c != "FALSE")
    return f"(CASE {whens} END)" if whens else "CAST(NULL AS INTEGER)"


def survives_all_sql(rules: Sequence["Rule"], dialect: Dialect = "duckdb") -> str:
    """True or false: whether the subject survives all of the rules."""
    return "(" + " AND ".join(f"NOT {drops_sql(r, dialect)}" for r in rules) + ")" if rules else "(TRUE)"


def _column(name: str, dialect: Dialect, alias: str) -> str:
    return (f"{identifier(alias, dialect)}." if alias else "") + identifier(name, dialect)


def _number(value: float) -> str:
    """A float32 as text that both engines turn into exactly that float32."""
    text = {"inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    return f"CAST('{text}' AS FLOAT)"
