"""The histogram of every measure, with what its rule fails, what other rules drop and what is kept; counted by SQL in one pass each."""

# SQL is put together from names of the schema and by manifests.rule_sql.
# ruff: noqa: S608

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from manifests import records, rule_sql
from manifests.funnel import TABLE_OF, Subject
from manifests.policy import rules_in_force
from manifests.query import rows
from manifests.rules import Rule

_RECORDS: dict[str, type] = {"asset": records.Asset, "clip": records.Clip}
_DENSE_KEYS = ("_no", "_num", "_den")

BINS = 48
"""Most bins of a histogram: about 10 px each at the width it is drawn."""

MIN_BINS = 12
"""Fewest bins; between the two the number grows with the square root of the count."""

MAX_VALUES = 12
"""A measure with at most this many different values is shown by value, not by range."""

_LONG_TAIL = 8.0
"""A positive measure whose 99th percentile is more than this many times its median is binned by its logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Half-open range [low, high) of a measure, or one value (low = high). fails: by this rule; elsewhere: dropped by another."""

    low: float
    high: float
    kept: int
    fails: int
    elsewhere: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How a measure is spread over the subjects a rule applies to, or over all where no rule compares it.

    The first and last bin also hold what lies beyond them: `lowest` and `highest` are the true ends.
    """

    measure: str
    doc: str
    unit: str
    subject: Subject
    rule_no: int | None
    rule: Rule | None
    scale: Literal["linear", "log", "values"]
    bins: tuple[Bin, ...]
    n_measured: int
    n_missing: int
    n_fails: int
    lowest: float
    median: float
    highest: float


def measures(subject: Subject) -> dict[str, "dataclasses.Field[Any]"]:
    """The numeric columns of a subject that say something about it: not keys, not halves of a fraction."""
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return {
        f.name: f
        for f in dataclasses.fields(_RECORDS[subject])
        if any(is_(f.metadata["type"]) for is_ in numeric) and not f.name.endswith(_DENSE_KEYS) and f.name != "first_fail_rule"
    }


def count_histograms(con: duckdb.DuckDBPyConnection) -> tuple[Histogram, ...]:
    """One histogram for every rule on a numeric column, in funnel order, then one for every other measured score of the clips."""
    known: dict[str, dict[str, dataclasses.Field[Any]]] = {"asset": measures("asset"), "clip": measures("clip")}
    ruled = [(no, r) for no, r in sorted(rules_in_force(con), key=lambda found: found[1].subject) if r.measure in known[r.subject]]
    shown = [_count_histogram(con, r.subject, known[r.subject][r.measure], no, r) for no, r in ruled]
    compared = {r.measure for _, r in ruled if r.subject == "clip"}
    scores = [f for name, f in known["clip"].items() if pa.types.is_floating(f.metadata["type"]) and name not in compared]
    shown += [_count_histogram(con, "clip", f, None, None) for f in scores]
    return tuple(h for h in shown if h is not None)


def _count_histogram(
    con: duckdb.DuckDBPyConnection, subject: Subject, column: "dataclasses.Field[Any]", rule_no: int | None, rule: Rule | None
) -> Histogram | None:
    """The histogram, or None when nothing was measured."""
    value, where = f"s.{column.name}::DOUBLE", applies_sql(rule)
    x = f"(CASE WHEN isfinite({value}) THEN {value} END)"
    source = f"{TABLE_OF[subject]} s WHERE {where}"
    facts = rows(
        con,
        f"""SELECT count({x}) AS n, count(*) - count({x}) AS missing, min({x}) AS lo, max({x}) AS hi,
            quantile_cont({x}, [0.01, 0.5, 0.99]) AS q FROM {source}""",
    )[0]
    if not facts["n"]:
        return None
    values = [r["x"] for r in rows(con, f"SELECT DISTINCT {x} AS x FROM {source} AND x IS NOT NULL LIMIT {MAX_VALUES + 1}")]
    fails = "false" if rule is None else f"NOT {rule.sql()}"
    stacks = f"""count(*) FILTER (WHERE {fails}) AS fails, count(*) FILTER (WHERE NOT {fails} AND s.decision = 'keep') AS kept,
        count(*) FILTER (WHERE NOT {fails} AND s.decision <> 'keep') AS elsewhere"""
    if _by_value(values, rule):
        scale: Literal["linear", "log", "values"] = "values"
        found = rows(con, f"SELECT {x} AS x, {stacks} FROM {source} AND {x} IS NOT NULL GROUP BY 1 ORDER BY 1")
        bins = tuple(_bin(r, r["x"], r["x"]) for r in found)
    else:
        bins_wanted = min(max(round(2 * math.sqrt(facts["n"])), MIN_BINS), BINS)
        scale, edges = bin_edges(facts["lo"], facts["q"], facts["hi"], rule.threshold if rule else None, bins_wanted)
        place = _place_sql(x, scale, edges)
        counted = rows(con, f"SELECT {place} AS i, {stacks} FROM {source} AND {x} IS NOT NULL GROUP BY 1")
        at = {r["i"]: r for r in counted}
        empty = {"kept": 0, "fails": 0, "elsewhere": 0}
        bins = tuple(_bin(at.get(i, empty), edges[i], edges[i + 1]) for i in range(len(edges) - 1))
    return Histogram(
        measure=column.name,
        doc=column.metadata["doc"],
        unit=(rule.unit if rule else "") or column.metadata["unit"],
        subject=subject,
        rule_no=rule_no,
        rule=rule,
        scale=scale,
        bins=bins,
        n_measured=facts["n"],
        n_missing=facts["missing"],
        n_fails=sum(b.fails for b in bins),
        lowest=facts["lo"],
        median=facts["q"][1],
        highest=facts["hi"],
    )


def _by_value(values: Sequence[float], rule: Rule | None) -> bool:
    """Whether a bar for every value says more than ranges: few whole numbers, and near the threshold."""
    ends = [*values, *([] if rule is None else [rule.threshold])]
    return len(values) <= MAX_VALUES and all(float(v).is_integer() for v in ends) and max(ends) - min(ends) <= 2 * MAX_VALUES


def applies_sql(rule: Rule | None) -> str:
    """SQL that is true for the subjects `s` the rule speaks about."""
    return "true" if rule is None else rule_sql.applies_sql(rule, alias="s")


def bin_edges(
    lowest: float, quantiles: Sequence[float], highest: float, threshold: float | None, bins: int = BINS
) -> tuple[Literal["linear", "log"], tuple[float, ...]]:
    """Edges of about `bins` equal bins between the 1st and 99th percentile and the threshold; the threshold is itself an edge.

    Bins are equal in the logarithm when the measure is positive with a long tail.
    """
    q01, median, q99 = quantiles
    log = lowest > 0 and q99 > _LONG_TAIL * median and (threshold is None or threshold > 0)
    to, back = (math.log, math.exp) if log else (float, float)
    ends = [q01, q99] + ([] if threshold is None else [threshold])
    low, high = to(min(ends)), to(max(ends))
    if high <= low:  # most values are equal: the percentiles say nothing about the spread
        low, high = to(min(lowest, *ends)), to(max(highest, *ends))
    if high <= low:  # all are
        low, high = low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05
    width = (high - low) / bins
    if threshold is not None:
        low = to(threshold) - math.ceil(round((to(threshold) - low) / width, 6)) * width
    n = max(1, math.ceil(round((high - low) / width, 6)))
    edges = [back(low + i * width) for i in range(n + 1)]
    if threshold is not None:  # exactly, not up to rounding: a score equal to the threshold belongs on its side
        nearest = min(range(n + 1), key=lambda i: abs(edges[i] - threshold))
        edges[nearest] = threshold
    return ("log" if log else "linear"), tuple(edges)


def _place_sql(x: str, scale: str, edges: Sequence[float]) -> str:
    """The bin of x, the ends taking what lies beyond them."""
    to = "ln" if scale == "log" else ""
    low, high = (math.log(e) if scale == "log" else e for e in (edges[0], edges[-1]))
    n = len(edges) - 1
    return f"least(greatest(floor(({to}({x}) - ({low!r})) / ({high - low!r}) * {n} + 1e-9), 0), {n - 1})::INTEGER"


def _bin(counts: dict[str, Any], low: float, high: float) -> Bin:
    return Bin(low=low, high=high, kept=counts["kept"], fails=counts["fails"], elsewhere=counts["elsewhere"])
