"""The rules in force at a version: a run says which rules it applied, so that a rule that was switched off no longer counts."""

import dataclasses
from typing import Any

import duckdb

from manifests import events
from manifests.query import Snapshot, connect, rows
from manifests.rules import Rule

Numbered = tuple[int, Rule]
"""A rule with its number in the ledger."""

PICKED = "picked"
"""The rule whose verdicts people give, by `dailies pick`; it is in no policy: it says which clips a set that is picked may take."""

DECIDING = ("curate", "decide")
"""The commands whose runs apply a whole policy to everything."""


def rule_of(row: dict[str, Any] | events.RuleRow) -> Rule:
    """The rule as it stood, from its row of `rules`."""
    r = row if isinstance(row, dict) else {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    names = {f.name for f in dataclasses.fields(Rule)}
    kinds = tuple(k for k in r["kinds"].split(",") if k)
    return Rule(**{**{k: v for k, v in r.items() if k in names}, "kinds": kinds})


def numbers_in_force(con: duckdb.DuckDBPyConnection) -> list[int]:
    """The rule numbers that the newest deciding run applied, in funnel order.

    A run of before `policy` was kept appended all of its decisions, so there the rules are those that its rows name.
    """
    said = rows(con, "SELECT policy FROM runs WHERE policy IS NOT NULL ORDER BY run_no DESC LIMIT 1")
    if said:
        return list(said[0]["policy"])
    found = rows(
        con,
        """SELECT rule_no FROM rules WHERE rule_no IN (SELECT rule_no FROM decisions WHERE run_no = (SELECT max(run_no) FROM decisions))
        ORDER BY position, rule_no""",
    )
    return [r["rule_no"] for r in found]


def rules_in_force(con: duckdb.DuckDBPyConnection, subject: str | None = None) -> list[Numbered]:
    """The rules that the newest deciding run applied, in funnel order; those on assets or on clips only where one is named."""
    by_number = {r["rule_no"]: rule_of(r) for r in rows(con, "SELECT * FROM rules")}
    found = [(n, by_number[n]) for n in numbers_in_force(con)]
    return [(n, r) for n, r in found if subject in (None, r.subject)]


def policy_at(store: Snapshot, version: int | None = None) -> list[Numbered]:
    """The rules in force at a version of the manifest, in funnel order."""
    con = connect(store, version)
    try:
        return rules_in_force(con)
    finally:
        con.close()
