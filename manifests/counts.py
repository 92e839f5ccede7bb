"""Counts over the ledger: the funnel of the rules and the histogram of every measure, in one pass of SQL each.

The functions take a connection of `manifests.query`, so they read Arrow tables at hand and Parquet files of any size alike.
Verdicts are counted as recorded in `decisions`, by the latest run that decided a subject; nothing is decided again here.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from manifests import records
from manifests.query import rows
from manifests.rules import Rule

Subject = Literal["asset", "clip"]

_RECORDS: dict[str, type] = {"asset": records.Asset, "clip": records.Clip}
_TABLE = {"asset": "assets", "clip": "clips"}
_TIME_US = {"asset": "coalesce(s.duration_us, 0)", "clip": "s.end_us - s.start_us"}
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
class Amount:
    """A number of assets or clips, and their playing time in microseconds."""

    n: int = 0
    time_us: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(n=self.n + other.n, time_us=self.time_us + other.time_us)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(n=self.n - other.n, time_us=self.time_us - other.time_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule of a funnel. before = met + skipped; met = passed + rejected + unknown; left = before - rejected - unknown it drops."""

    rule_no: int
    name: str
    stage: str
    measure: str
    op: str
    threshold: float
    unit: str
    set_name: str
    on_unknown: str
    before: Amount
    met: Amount
    skipped: Amount
    passed: Amount
    rejected: Amount
    unknown: Amount
    left: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """What happened to all assets, or to all clips of one kind. `kept` is counted from the table, `left` from the ledger."""

    name: str
    subject: Subject
    start: Amount
    undecided: Amount
    steps: tuple[Step, ...]
    left: Amount
    kept: Amount


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


def rule_of(row: dict[str, Any] | records.RuleRow) -> Rule:
    """The rule as it stood, from its row of `rules`."""
    r = row if isinstance(row, dict) else {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    names = {f.name for f in dataclasses.fields(Rule)}
    kinds = tuple(k for k in r["kinds"].split(",") if k)
    return Rule(**{**{k: v for k, v in r.items() if k in names}, "kinds": kinds})


def measures(subject: Subject) -> dict[str, "dataclasses.Field[Any]"]:
    """The numeric columns of a subject that say something about it: not keys, not halves of a fraction."""
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return {
        f.name: f
        for f in dataclasses.fields(_RECORDS[subject])
        if any(is_(f.metadata["type"]) for is_ in numeric) and not f.name.endswith(_DENSE_KEYS) and f.name != "first_fail_rule"
    }


def count_funnels(con: duckdb.DuckDBPyConnection) -> tuple[Funnel, ...]:
    """The funnel of the assets, then one for each kind of clip that exists."""
    kinds = [r["kind"] for r in rows(con, "SELECT DISTINCT kind FROM clips ORDER BY kind = 'audio', kind = 'image', kind")]
    counted = [_count_funnel(con, "asset", None), *(_count_funnel(con, "clip", kind) for kind in kinds)]
    return tuple(f for f in counted if f.start.n)


def _count_funnel(con: duckdb.DuckDBPyConnection, subject: Subject, kind: str | None) -> Funnel:
    of_subject = "d.clip_no IS NULL" if subject == "asset" else "d.clip_no IS NOT NULL"
    key = f"{subject}_no"
    ledger = f"""
        WITH subjects AS (
            SELECT s.{key} AS no, {_TIME_US[subject]} AS t, s.decision FROM {_TABLE[subject]} s WHERE ?::VARCHAR IS NULL OR s.kind = ?),
        mine AS (SELECT d.{key} AS no, d.run_no, d.rule_no, d.passed FROM decisions d WHERE {of_subject}),
        latest AS (SELECT no, max(run_no) AS run_no FROM mine GROUP BY no),
        places AS (SELECT rule_no, on_unknown, row_number() OVER (ORDER BY position, rule_no) AS place FROM rules),
        told AS (
            SELECT s.no, s.t, p.rule_no, p.place, m.passed, NOT coalesce(m.passed, p.on_unknown = 'accept') AS stops
            FROM mine m JOIN latest USING (no, run_no) JOIN places p USING (rule_no) JOIN subjects s USING (no)),
        ends AS (SELECT no, min(place) FILTER (WHERE stops) AS place FROM told GROUP BY no)
    """  # noqa: S608  names from this file only
    total = rows(
        con,
        ledger
        + """SELECT count(*) AS n, coalesce(sum(t), 0)::BIGINT AS time_us,
                count(*) FILTER (WHERE decision = 'keep') AS kept_n,
                coalesce(sum(t) FILTER (WHERE decision = 'keep'), 0)::BIGINT AS kept_us,
                count(*) FILTER (WHERE no NOT IN (SELECT no FROM latest)) AS undecided_n,
                coalesce(sum(t) FILTER (WHERE no NOT IN (SELECT no FROM latest)), 0)::BIGINT AS undecided_us FROM subjects""",
        kind,
        kind,
    )[0]
    verdicts = rows(
        con,
        ledger
        + """SELECT t.place, t.rule_no, t.passed, coalesce(t.place <= coalesce(e.place, t.place), false) AS met,
                count(*) AS n, coalesce(sum(t), 0)::BIGINT AS time_us
            FROM told t JOIN ends e USING (no) GROUP BY ALL ORDER BY t.place""",
        kind,
        kind,
    )
    start, undecided = _amount(total, ""), _amount(total, "undecided_")
    steps = _steps(con, verdicts, start)
    left = steps[-1].left if steps else start
    name = "assets" if subject == "asset" else kind or "unknown"
    return Funnel(name=name, subject=subject, start=start, undecided=undecided, steps=steps, left=left, kept=_amount(total, "kept_"))


def _amount(row: dict[str, Any], prefix: str) -> Amount:
    return Amount(n=row[f"{prefix}n"], time_us=row["time_us" if not prefix else f"{prefix}us"])


def _steps(con: duckdb.DuckDBPyConnection, verdicts: Sequence[dict[str, Any]], start: Amount) -> tuple[Step, ...]:
    steps: list[Step] = []
    before = start
    for no in dict.fromkeys(v["rule_no"] for v in verdicts):
        row = rows(con, "SELECT * FROM rules WHERE rule_no = ? LIMIT 1", no)[0]
        seen = {v["passed"]: Amount(n=v["n"], time_us=v["time_us"]) for v in verdicts if v["rule_no"] == no and v["met"]}
        passed, rejected, unknown = (seen.get(v, Amount()) for v in (True, False, None))
        met = passed + rejected + unknown
        left = before - rejected - (Amount() if row["on_unknown"] == "accept" else unknown)
        steps.append(
            Step(
                rule_no=no,
                name=row["name"],
                stage=row["stage"],
                measure=row["measure"],
                op=row["op"],
                threshold=row["threshold"],
                unit=row["unit"],
                set_name=row["set_name"],
                on_unknown=row["on_unknown"],
                before=before,
                met=met,
                skipped=before - met,
                passed=passed,
                rejected=rejected,
                unknown=unknown,
                left=left,
            )
        )
        before = left
    return tuple(steps)


def rules_in_force(con: duckdb.DuckDBPyConnection) -> tuple[tuple[int, Rule], ...]:
    """The row of each rule that was used last, in funnel order: a changed threshold is a new row of the same name."""
    found = rows(
        con,
        """SELECT r.* FROM rules r LEFT JOIN (SELECT rule_no, max(run_no) AS used FROM decisions GROUP BY rule_no) d USING (rule_no)
        QUALIFY row_number() OVER (PARTITION BY name, subject, set_name, kinds ORDER BY used DESC NULLS LAST, rule_no DESC) = 1
        ORDER BY subject, position, rule_no""",
    )
    return tuple((r["rule_no"], rule_of(r)) for r in found)


def count_histograms(con: duckdb.DuckDBPyConnection) -> tuple[Histogram, ...]:
    """One histogram for every rule on a numeric column, in funnel order, then one for every other measured score of the clips."""
    known: dict[str, dict[str, dataclasses.Field[Any]]] = {"asset": measures("asset"), "clip": measures("clip")}
    ruled = [(no, r) for no, r in rules_in_force(con) if r.measure in known[r.subject]]
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
    source = f"{_TABLE[subject]} s WHERE {where}"
    facts = rows(
        con,
        f"""SELECT count({x}) AS n, count(*) - count({x}) AS missing, min({x}) AS lo, max({x}) AS hi,
            quantile_cont({x}, [0.01, 0.5, 0.99]) AS q FROM {source}""",  # noqa: S608  names from the schema
    )[0]
    if not facts["n"]:
        return None
    values = [r["x"] for r in rows(con, f"SELECT DISTINCT {x} AS x FROM {source} AND x IS NOT NULL LIMIT {MAX_VALUES + 1}")]  # noqa: S608
    fails = "false" if rule is None else f"NOT {rule.sql()}"
    stacks = f"""count(*) FILTER (WHERE {fails}) AS fails, count(*) FILTER (WHERE NOT {fails} AND s.decision = 'keep') AS kept,
        count(*) FILTER (WHERE NOT {fails} AND s.decision <> 'keep') AS elsewhere"""
    if _by_value(values, rule):
        scale: Literal["linear", "log", "values"] = "values"
        found = rows(con, f"SELECT {x} AS x, {stacks} FROM {source} AND {x} IS NOT NULL GROUP BY 1 ORDER BY 1")  # noqa: S608
        bins = tuple(_bin(r, r["x"], r["x"]) for r in found)
    else:
        bins_wanted = min(max(round(2 * math.sqrt(facts["n"])), MIN_BINS), BINS)
        scale, edges = bin_edges(facts["lo"], facts["q"], facts["hi"], rule.threshold if rule else None, bins_wanted)
        place = _place_sql(x, scale, edges)
        counted = rows(con, f"SELECT {place} AS i, {stacks} FROM {source} AND {x} IS NOT NULL GROUP BY 1")  # noqa: S608
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
    """SQL that is true for the subjects `s` the rule speaks about: `manifests.rules.applies` for whole tables."""
    if rule is None:
        return "true"
    kinds = ", ".join(_literal(k) for k in rule.kinds) or "''"
    of_set = f" AND s.set_name = {_literal(rule.set_name)}" if rule.set_name and rule.subject == "clip" else ""
    return f"(s.kind IS NULL OR s.kind IN ({kinds})){of_set}"


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


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
