"""The funnel: what every rule left of the files and of the clips of each kind, counted from the ledger by SQL.

The functions take a connection of `manifests.query`, so they read Arrow tables at hand and Parquet files of any size alike.
Verdicts are counted as recorded in `decisions`, by the latest run that decided a subject; nothing is decided again here.
"""

# SQL is put together from names of this file and of the schema; values are parameters.
# ruff: noqa: S608

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from manifests import records
from manifests.query import rows
from manifests.rules import Rule

Subject = Literal["asset", "clip"]

TABLE_OF = {"asset": "assets", "clip": "clips"}
_TIME_US = {"asset": "coalesce(s.duration_us, 0)", "clip": "s.end_us - s.start_us"}


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


def rule_of(row: dict[str, Any] | records.RuleRow) -> Rule:
    """The rule as it stood, from its row of `rules`."""
    r = row if isinstance(row, dict) else {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    names = {f.name for f in dataclasses.fields(Rule)}
    kinds = tuple(k for k in r["kinds"].split(",") if k)
    return Rule(**{**{k: v for k, v in r.items() if k in names}, "kinds": kinds})


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
            SELECT s.{key} AS no, {_TIME_US[subject]} AS t, s.decision FROM {TABLE_OF[subject]} s WHERE ?::VARCHAR IS NULL OR s.kind = ?),
        mine AS (SELECT d.{key} AS no, d.run_no, d.rule_no, d.passed FROM decisions d WHERE {of_subject}),
        latest AS (SELECT no, max(run_no) AS run_no FROM mine GROUP BY no),
        places AS (SELECT rule_no, on_unknown, row_number() OVER (ORDER BY position, rule_no) AS place FROM rules),
        told AS (
            SELECT s.no, s.t, p.rule_no, p.place, m.passed, NOT coalesce(m.passed, p.on_unknown = 'accept') AS stops
            FROM mine m JOIN latest USING (no, run_no) JOIN places p USING (rule_no) JOIN subjects s USING (no)),
        ends AS (SELECT no, min(place) FILTER (WHERE stops) AS place FROM told GROUP BY no)
    """
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
