"""What other rules would keep: the funnel before and after, counted by DuckDB on stored scores. No medium is opened, nothing is written.

Before is the stored state; after, each clip gets its first rejecting and its first unknown rule. All that is told is a sum over groups.
"""

# SQL is put together by manifests.rule_sql and from names of the schema; file lists are parameters.
# ruff: noqa: S608

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from manifests.funnel import Amount
from manifests.policy import Numbered
from manifests.query import Snapshot
from manifests.rule_sql import applies_sql, first_place_sql, identifier, survives_all_sql, verdict_sql
from manifests.rules import Rule
from manifests.schema import TABLES, arrow_schema
from manifests.tables import ManifestStore

Policy = Sequence[Numbered]
ASSET_STAGES = ("rights", "facts", "assets")
"""Rules of these stages decide an asset, and so `asset_kept` of its clips."""

_TABLE = {"asset": "assets", "clip": "clips"}
_TIME = {"asset": "coalesce(duration_us, 0)", "clip": "end_us - start_us"}
_END = 1 << 20  # the place behind all rules: of a subject that none drops


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a count may take. 10 million clips need some 3 GB: ours, for a machine of two cores."""

    threads: int = 2
    memory_limit: str = "8GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule: of those that met it, how many pass, are rejected, or have no score. met = passed + rejected + unknown."""

    name: str
    op: str
    threshold: float
    on_unknown: str
    met: Amount
    passed: Amount
    rejected: Amount
    unknown: Amount
    left: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A funnel under one policy: start - what each step drops = kept + withheld, which a takedown or a quarantine keeps back."""

    start: Amount
    steps: tuple[Step, ...]
    withheld: Amount
    kept: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Assets, or clips of one kind and set, before and after. `set_name` is empty for those that belong to none.

    gained and lost make up the difference of kept. `to_encode` is kept without a sample in a shard; `to_measure` fails no rule but
    lacks a score, as an earlier rule had dropped it: unknown is no pass, so it is not kept until a curation measures it.
    """

    subject: Literal["asset", "clip"]
    kind: str
    set_name: str
    before: Side
    after: Side
    gained: Amount
    lost: Amount
    lost_in_shards: Amount
    to_encode: Amount
    to_measure: Amount


def preview(store: ManifestStore, before: Policy, after: Policy, version: int, limits: Limits | None = None) -> tuple[Change, ...]:
    """The change from one policy to another at a version: assets first, then clips by kind and set."""
    con = open_files(store, version, ("assets", "clips"), limits or Limits())
    try:
        return (*_count(con, "asset", before, after), *_count(con, "clip", before, after))
    finally:
        con.close()


def open_files(store: Snapshot, version: int, tables: Sequence[str], limits: Limits, suffix: str = "") -> duckdb.DuckDBPyConnection:
    """A connection in which these tables are views over the Parquet files themselves: for our own SQL, never for that of others."""
    con = duckdb.connect(":memory:", config={"threads": limits.threads, "memory_limit": limits.memory_limit, "temp_directory": ""})
    add_files(con, store, version, tables, suffix)
    return con


def add_files(con: duckdb.DuckDBPyConnection, store: Snapshot, version: int, tables: Sequence[str], suffix: str = "") -> None:
    """The tables of a version are views named `<table><suffix>`. A column that no file has yet is null."""
    for table in tables:
        schema, files = arrow_schema(TABLES[table]), store.files(table, version)
        if not files:
            con.register(table + suffix, schema.empty_table())
            continue
        found = con.read_parquet(files, union_by_name=True)
        names = [
            identifier(n) if n in found.columns else f"NULL::{_sql_type(schema.field(n).type)} AS {identifier(n)}" for n in schema.names
        ]
        found.select(", ".join(names)).create_view(table + suffix)


def _count(con: duckdb.DuckDBPyConnection, subject: Literal["asset", "clip"], before: Policy, after: Policy) -> list[Change]:
    of_subject = [[(n, r) for n, r in policy if r.subject == subject] for policy in (before, after)]
    sides = [[r for _, r in policy] for policy in of_subject]
    groups = "kind" if subject == "asset" else "kind, set_name"
    # Who was let through without a score is told by bits of one number: a group key is cheaper than two filtered sums a rule.
    bits = [(side, place) for side, rules in enumerate(sides) for place, rule in enumerate(rules) if rule.on_unknown == "accept"]
    accepted = " + ".join(f"(f{side} > {place} AND x{side}_{place})::BIGINT * {1 << i}" for i, (side, place) in enumerate(bits)) or "0"
    rows = _rows(
        con,
        f"""SELECT {groups}, f0, is_unknown0, f1, is_unknown1, unmeasured, held, placed,
            f0 = {_END} AND NOT held AS kept0, f1 = {_END} AND NOT held AS kept1, count(*) AS n, sum(t)::BIGINT AS us, {accepted} AS accepted
        FROM ({_judged(subject, of_subject[0], of_subject[1], [r for _, r in after if r.stage in ASSET_STAGES])}) GROUP BY ALL""",
    )
    keys = sorted({(r["kind"] or "unknown", r.get("set_name") or "") for r in rows})
    return [
        _change(subject, kind, name, sides, bits, [r for r in rows if (r["kind"] or "unknown", r.get("set_name") or "") == (kind, name)])
        for kind, name in keys
    ]


def _judged(subject: str, before: Policy, after: Policy, of_assets: Sequence[Rule]) -> str:
    """One row a subject: the place of the first rule that drops it (f) and whether for want of a score, before as stored and after as judged.

    `of_assets` are the new rules that make `asset_kept`. `unmeasured`: no rule rejects it, some lack a score. x<side>_<place>: the rule accepts it without a score.
    """
    policies = (before, after)
    applies = list(dict.fromkeys(applies_sql(r) for p in policies for _, r in p))
    rules = [r for _, r in after]
    rejects = [f"a{applies.index(applies_sql(r))} AND NOT {verdict_sql(r, may_be_nan=False)}" for r in rules]
    unknown = [
        f"a{applies.index(applies_sql(r))} AND {identifier(r.measure)} IS NULL" if r.on_unknown == "reject" else "FALSE" for r in rules
    ]
    stored = " ".join(f"WHEN {number} THEN {place}" for place, (number, _) in enumerate(before))
    missing = " ".join(f"WHEN {number} THEN {identifier(r.measure)} IS NULL" for number, r in before)
    accepted = ", ".join(
        f"a{applies.index(applies_sql(r))} AND {identifier(r.measure)} IS NULL AS x{side}_{place}"
        for side, policy in enumerate(policies)
        for place, (_, r) in enumerate(policy)
        if r.on_unknown == "accept"
    )
    judged = f"""SELECT *, {first_place_sql(rejects)} AS r1, {first_place_sql(unknown)} AS u1
        FROM ({_subjects(subject, applies, survives_all_sql(of_assets))})"""
    return f"""SELECT *, coalesce(CASE first_fail_rule {stored or "WHEN -1 THEN 0"} END, {_END}) AS f0,
            coalesce(CASE first_fail_rule {missing or "WHEN -1 THEN false"} END, false) AS is_unknown0,
            coalesce(least(r1, u1), {_END}) AS f1, coalesce(u1 < coalesce(r1, {_END}), false) AS is_unknown1,
            r1 IS NULL AND u1 IS NOT NULL AS unmeasured{", " + accepted if accepted else ""}
        FROM ({judged})"""


def _subjects(subject: str, applies: list[str], asset_kept: str) -> str:
    """The rows of assets or clips with time, placement, which rules apply, and whether a takedown or quarantine holds them back."""
    flags = ", ".join(f"{a} AS a{i}" for i, a in enumerate(applies)) or "true AS a0"
    ruled = "decision NOT IN ('keep', 'drop', 'pending')"
    if subject == "asset":
        return (
            f"SELECT *, NULL AS set_name, {_TIME[subject]} AS t, {ruled} OR state <> 'live' AS held, false AS placed, {flags} FROM assets"
        )
    return f"""SELECT *, {_TIME[subject]} AS t, {ruled} OR asset_held AS held, shard_no IS NOT NULL AS placed, {flags}
        FROM (SELECT c.* REPLACE (coalesce(a.kept::FLOAT, c.asset_kept) AS asset_kept), coalesce(a.held, false) AS asset_held
            FROM clips c LEFT JOIN (SELECT asset_no, {asset_kept} AS kept, state <> 'live' AS held FROM assets) a USING (asset_no))"""


def _change(
    subject: Literal["asset", "clip"],
    kind: str,
    name: str,
    sides: list[list[Rule]],
    bits: list[tuple[int, int]],
    rows: list[dict[str, Any]],
) -> Change:
    return Change(
        subject=subject,
        kind=kind,
        set_name=name,
        before=_side(0, sides[0], kind, name, bits, rows),
        after=_side(1, sides[1], kind, name, bits, rows),
        gained=_sum(r for r in rows if r["kept1"] and not r["kept0"]),
        lost=_sum(r for r in rows if r["kept0"] and not r["kept1"]),
        lost_in_shards=_sum(r for r in rows if r["kept0"] and not r["kept1"] and r["placed"]),
        to_encode=_sum(r for r in rows if r["kept1"] and not r["placed"]) if subject == "clip" else Amount(),
        to_measure=_sum(r for r in rows if r["unmeasured"] and not r["held"]),
    )


def _side(side: int, rules: list[Rule], kind: str, name: str, bits: list[tuple[int, int]], rows: list[dict[str, Any]]) -> Side:
    start = left = _sum(rows)
    steps = []
    for place, rule in enumerate(rules):
        applies = (kind in rule.kinds or kind == "unknown") and (not rule.set_name or name == rule.set_name)
        met = _sum(r for r in rows if r[f"f{side}"] >= place) if applies else Amount()
        here = [r for r in rows if r[f"f{side}"] == place]
        rejected = _sum(r for r in here if not r[f"is_unknown{side}"])
        dropped = _sum(r for r in here if r[f"is_unknown{side}"])
        accepted = Amount()
        if rule.on_unknown == "accept":
            accepted = _sum(r for r in rows if r["accepted"] >> bits.index((side, place)) & 1)
        left = left - rejected - dropped
        unknown = dropped + accepted
        steps.append(
            Step(
                name=rule.name, op=rule.op, threshold=rule.threshold, on_unknown=rule.on_unknown, met=met,
                passed=met - rejected - unknown, rejected=rejected, unknown=unknown, left=left,
            )
        )  # fmt: skip
    withheld = _sum(r for r in rows if r["held"] and r[f"f{side}"] == _END)
    return Side(start=start, steps=tuple(steps), withheld=withheld, kept=left - withheld)


def _sum(rows: Any) -> Amount:
    return sum((Amount(n=r["n"], time_us=r["us"]) for r in rows), Amount())


def _rows(con: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = con.sql(sql).to_arrow_table().to_pylist()
    return found


def _sql_type(type_: pa.DataType) -> str:
    names = {
        "string": "VARCHAR",
        "binary": "BLOB",
        "bool": "BOOLEAN",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "float": "FLOAT",
        "double": "DOUBLE",
    }
    return names.get(str(type_), "INTEGER[]" if pa.types.is_list(type_) else "TIMESTAMPTZ")
