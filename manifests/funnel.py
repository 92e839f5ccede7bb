"""The funnel: what every rule left of the files and of the clips of each kind, counted from the ledger by SQL.

The functions take a connection of `manifests.query`, so they read Arrow tables at hand and Parquet files of any size alike.
Verdicts are counted as recorded in `decisions`, the newest row of each rule in force and subject; nothing is decided again here.
"""

# SQL is put together from names of this file and of the schema; values are parameters.
# ruff: noqa: S608

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from manifests.policy import numbers_in_force, rule_of
from manifests.query import rows

__all__ = ["Amount", "Funnel", "Step", "Subject", "count_funnels", "rule_of"]

Subject = Literal["asset", "clip"]

TABLE_OF = {"asset": "assets", "clip": "clips"}
_VERDICT = "CASE WHEN d.reason_code = 'not_applicable' THEN -1 WHEN d.passed THEN 1 WHEN NOT d.passed THEN 0 ELSE 2 END::TINYINT"
_TAKEN = "(SELECT asset_no FROM assets WHERE state <> 'live')"
_HELD = {"asset": "s.state <> 'live'", "clip": f"s.decision NOT IN ('keep', 'drop', 'pending') OR s.asset_no IN {_TAKEN}"}
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
    """What happened to all assets, or to all clips of one kind. `kept` is counted from the table, `left` from the ledger.

    `held` is what the rules leave and a takedown or a quarantine holds back: kept = left - undecided - held.
    """

    name: str
    subject: Subject
    start: Amount
    undecided: Amount
    held: Amount
    steps: tuple[Step, ...]
    left: Amount
    kept: Amount


def count_funnels(con: duckdb.DuckDBPyConnection) -> tuple[Funnel, ...]:
    """The funnel of the assets, then one for each kind of clip that exists."""
    kinds = [r["kind"] for r in rows(con, "SELECT DISTINCT kind FROM clips ORDER BY kind = 'audio', kind = 'image', kind")]
    of_assets, of_clips = _count(con, "asset"), _count(con, "clip")
    counted = [
        _funnel(con, "asset", "assets", of_assets, None),
        *(_funnel(con, "clip", kind or "unknown", of_clips, kind) for kind in kinds),
    ]
    return tuple(f for f in counted if f.start.n)


def _count(con: duckdb.DuckDBPyConnection, subject: Subject) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Totals by kind, and verdicts by kind, rule and whether the subject still met the rule; assets are of one kind, null.

    The newest row of each rule in force and subject counts.
    """
    of_subject = "d.clip_no IS NULL" if subject == "asset" else "d.clip_no IS NOT NULL"
    key, kind = f"{subject}_no", "s.kind" if subject == "clip" else "CAST(NULL AS VARCHAR)"
    ledger = f"""
        WITH told_of AS (SELECT s.{key} AS no, {kind} AS kind, {_TIME_US[subject]} AS t, s.decision, {_HELD[subject]} AS held
            FROM {TABLE_OF[subject]} s),
        subjects AS (SELECT no, kind, t, held, decision = 'keep' AND NOT held AS kept FROM told_of),
        places AS (SELECT unnest(?::INTEGER[]) AS rule_no, generate_subscripts(?::INTEGER[], 1) AS place),
        said AS (
            SELECT d.{key} AS no, p.place, arg_max({_VERDICT}, d.run_no) AS verdict
            FROM decisions d JOIN places p USING (rule_no) WHERE {of_subject} GROUP BY ALL),
        told AS (
            SELECT s.no, s.kind, s.t, p.rule_no, m.place, CASE m.verdict WHEN 1 THEN true WHEN 0 THEN false END AS passed,
                NOT coalesce(passed, r.on_unknown = 'accept') AS stops
            FROM said m JOIN places p USING (place) JOIN rules r USING (rule_no) JOIN subjects s USING (no)
            WHERE m.verdict >= 0),
        ends AS (SELECT no, min(place) FILTER (WHERE stops) AS place FROM told GROUP BY no)
    """
    policy = numbers_in_force(con)
    totals = rows(
        con,
        ledger
        + """SELECT s.kind, count(*) AS n, coalesce(sum(t), 0)::BIGINT AS time_us,
                count(*) FILTER (WHERE kept) AS kept_n, coalesce(sum(t) FILTER (WHERE kept), 0)::BIGINT AS kept_us,
                count(*) FILTER (WHERE held AND e.no IS NOT NULL AND e.place IS NULL) AS held_n,
                coalesce(sum(t) FILTER (WHERE held AND e.no IS NOT NULL AND e.place IS NULL), 0)::BIGINT AS held_us,
                count(*) FILTER (WHERE e.no IS NULL) AS undecided_n,
                coalesce(sum(t) FILTER (WHERE e.no IS NULL), 0)::BIGINT AS undecided_us
            FROM subjects s LEFT JOIN ends e USING (no) GROUP BY s.kind""",
        policy,
        policy,
    )
    verdicts = rows(
        con,
        ledger
        + """SELECT t.kind, t.place, t.rule_no, t.passed, coalesce(t.place <= coalesce(e.place, t.place), false) AS met,
                count(*) AS n, coalesce(sum(t), 0)::BIGINT AS time_us
            FROM told t JOIN ends e USING (no) GROUP BY ALL ORDER BY t.place""",
        policy,
        policy,
    )
    return totals, verdicts


def _funnel(
    con: duckdb.DuckDBPyConnection,
    subject: Subject,
    name: str,
    counted: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    kind: str | None,
) -> Funnel:
    totals, verdicts = ([r for r in found if r["kind"] == kind] for found in counted)
    total = totals[0] if totals else {f"{p}{u}": 0 for p in ("", "kept_", "undecided_", "held_") for u in ("n", "us", "time_us")}
    start, undecided = _amount(total, ""), _amount(total, "undecided_")
    steps = _steps(con, verdicts, start)
    left = steps[-1].left if steps else start
    kept, held = _amount(total, "kept_"), _amount(total, "held_")
    return Funnel(name=name, subject=subject, start=start, undecided=undecided, held=held, steps=steps, left=left, kept=kept)


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
