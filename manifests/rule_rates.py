"""Pass rates of the rules from the cubes: over the runs (drift), and by source in the last one (bias).

A pass rate is the share of the measured that pass. The measured are those that earlier rules left, and what was measured in spite of
them; so another rule before this one, or other files, can move its rate too. The page says so.
"""

# SQL is put together from names of this file and of the schema; values are parameters.
# ruff: noqa: S608

import math
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb

from manifests.comparisons import SIGMAS, Drift, DriftPoint, DriftRun, Heading, RuleDrift, Said, SourceCell, SourceRates, SourceRow
from manifests.policy import numbers_in_force
from manifests.query import rows
from manifests.report_data import Check
from manifests.rights_summary import SOURCE_NAME
from manifests.wording import condition_text

MAX_COMPARED = 1000
"""Sources beyond the largest thousand are one, whatever they pass."""

_SAID = ", ".join(
    f"coalesce(sum(n) FILTER (WHERE verdict = '{verdict}'), 0)::BIGINT AS {name}"
    for name, verdict in (("passed", "pass"), ("rejected", "reject"), ("unknown", "unknown"))
)
_LAST = "run_no = (SELECT max(run_no) FROM cubes WHERE name = 'funnel')"


def rule_drift(con: duckdb.DuckDBPyConnection, max_runs: int) -> Drift:
    """Every rule of the last runs that left counts: its condition and verdicts in each, those in force first, in funnel order."""
    found = rows(
        con,
        f"""SELECT run_no, rule_no, {_SAID} FROM cubes WHERE name = 'funnel' AND rule_no IS NOT NULL
        AND run_no IN (SELECT DISTINCT run_no FROM cubes WHERE name = 'funnel' ORDER BY run_no DESC LIMIT ?) GROUP BY ALL ORDER BY 1, 2""",
        max_runs,
    )
    runs = list(dict.fromkeys(r["run_no"] for r in found))
    rules = {r["rule_no"]: r for r in rows(con, "SELECT * FROM rules ORDER BY position, rule_no")}
    in_force = numbers_in_force(con)
    points: dict[tuple[str, str, str], dict[int, DriftPoint]] = {_key(rules[n]): {} for n in [*in_force, *rules] if n in rules}
    for r in found:
        if (rule := rules.get(r["rule_no"])) is not None:
            points[_key(rule)][r["run_no"]] = _point(r, rule)
    current = {_key(rules[n]) for n in in_force if n in rules}
    return Drift(
        runs=_runs(con, runs),
        uncounted=_uncounted(con, runs),
        rules=tuple(_drift(key, key in current, [of_run.get(n) for n in runs]) for key, of_run in points.items() if of_run),
    )


def _key(rule: dict[str, Any]) -> tuple[str, str, str]:
    """What makes a rule the same rule over runs, whatever its threshold."""
    return rule["subject"], rule["name"], rule["set_name"]


def _point(row: dict[str, Any], rule: dict[str, Any]) -> DriftPoint:
    return DriftPoint(run_no=row["run_no"], said=_said(row), **{k: rule[k] for k in ("measure", "op", "threshold", "unit")})


def _said(row: dict[str, Any]) -> Said:
    return Said(**{k: row[k] for k in ("passed", "rejected", "unknown")})


def _drift(key: tuple[str, str, str], in_force: bool, points: Sequence[DriftPoint | None]) -> RuleDrift:
    now, before = points[-1], points[-2] if len(points) > 1 else None
    rates = [None if p is None else p.said.rate for p in (now, before)]
    changed = None if rates[0] is None or rates[1] is None else 100 * (rates[0] - rates[1])
    conditions = [None if p is None else (p.measure, p.op, p.threshold) for p in (now, before)]
    return RuleDrift(
        name=key[1],
        set_name=key[2],
        in_force=in_force,
        points=tuple(points),
        points_changed=changed,
        other_condition=len(points) > 1 and conditions[0] != conditions[1],
    )


def _runs(con: duckdb.DuckDBPyConnection, numbers: Sequence[int]) -> tuple[DriftRun, ...]:
    told = {
        r["run_no"]: r for r in rows(con, "SELECT run_no, command, started_at FROM runs WHERE list_contains(?::INTEGER[], run_no)", numbers)
    }
    out = []
    for n in numbers:
        r = told.get(n, {"command": "", "started_at": None})
        at = r["started_at"]
        out.append(DriftRun(run_no=n, command=r["command"], started_at=None if at is None else at.isoformat(timespec="seconds")))
    return tuple(out)


def _uncounted(con: duckdb.DuckDBPyConnection, numbers: Sequence[int]) -> int:
    """Deciding runs whose counts are not among these: older ones, and those of before funnels were kept."""
    found: int = rows(
        con,
        """SELECT count(*) AS n FROM (SELECT run_no FROM runs WHERE policy IS NOT NULL OR command = 'curate' UNION
        SELECT run_no FROM cubes WHERE name = 'funnel') WHERE NOT list_contains(?::INTEGER[], run_no)""",
        numbers,
    )[0]["n"]
    return found


def source_rates(con: duckdb.DuckDBPyConnection, max_sources: int) -> SourceRates:
    """What every rule of the last run passes of each source, those that are not shown in one column. Empty where nothing was counted."""
    found = rows(
        con,
        f"""WITH cells AS (SELECT * FROM cubes WHERE name = 'source' AND {_LAST}),
        places AS (SELECT source_no, row_number() OVER (ORDER BY sum(n) DESC, source_no) AS place, count(*) OVER () AS every
            FROM cells GROUP BY source_no)
        SELECT rule_no, least(place, {MAX_COMPARED}) AS place, max(every) AS every, {_SAID} FROM cells c
        JOIN places p ON p.source_no IS NOT DISTINCT FROM c.source_no GROUP BY 1, 2 ORDER BY 2""",
    )
    rules = {r["rule_no"]: r for r in rows(con, "SELECT * FROM rules")}
    of_rule: dict[int | None, dict[int, Said]] = {}
    for r in found:
        of_rule.setdefault(r["rule_no"], {})[r["place"]] = _said(r)
    order = [n for n in (None, *numbers_in_force(con)) if n in of_rule and (n is None or n in rules)]
    every = found[0]["every"] if found else 0
    shown = _most_telling([of_rule[n] for n in order], min(every, MAX_COMPARED - 1), max_sources)
    names = {r["place"]: r["name"] for r in _names(con)}
    headings = [Heading(label=names[p]) for p in shown] + [Heading(label=None, others=every - len(shown))] * (every > len(shown))
    return SourceRates(sources=tuple(headings), rows=tuple(_source_row(n, rules, of_rule[n], shown, len(headings)) for n in order))


def _names(con: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    return rows(
        con,
        f"""SELECT row_number() OVER (ORDER BY sum(n) DESC, source_no) AS place, {SOURCE_NAME.format("c")} AS name FROM cubes c
        WHERE name = 'source' AND {_LAST} GROUP BY source_no ORDER BY 1 LIMIT {MAX_COMPARED}""",
    )


def _most_telling(of_rule: Sequence[dict[int, Said]], every: int, n: int) -> list[int]:
    """The places of the sources to show: first those that differ most by some rule, then the largest."""
    furthest = dict.fromkeys(range(1, every + 1), 0.0)
    for said in of_rule:
        whole = _together(said.values())
        for place in furthest:
            if place in said:
                furthest[place] = max(furthest[place], abs(_source_cell(said[place], whole).sigmas or 0.0))
    return sorted(furthest, key=lambda p: (-furthest[p] if furthest[p] > SIGMAS else 0.0, p))[:n]


def _source_row(
    number: int | None, rules: dict[int, dict[str, Any]], said: dict[int, Said], shown: Sequence[int], columns: int
) -> SourceRow:
    whole = _together(said.values())
    parts = [said.get(place, _together(())) for place in shown]
    if columns > len(shown):
        parts.append(_together(s for place, s in said.items() if place not in shown))
    cells = tuple(_source_cell(part, whole) for part in parts)
    if number is None:
        return SourceRow(rule_no=None, name="all rules together", set_name="", subject="clip", condition="", whole=whole, cells=cells)
    rule = rules[number]
    condition = condition_text(rule["measure"], rule["op"], rule["threshold"], rule["unit"])
    about = {k: rule[k] for k in ("name", "set_name", "subject")}
    return SourceRow(rule_no=number, condition=condition, whole=whole, cells=cells, **about)


def _together(said: Iterable[Said]) -> Said:
    every = list(said)
    return Said(**{k: sum(getattr(s, k) for s in every) for k in ("passed", "rejected", "unknown")})


def _source_cell(said: Said, whole: Said) -> SourceCell:
    if said.rate is None or whole.rate is None:
        return SourceCell(said=said, points=None, sigmas=None)
    rest = whole.measured - said.measured
    error = math.sqrt(whole.rate * (1 - whole.rate) * (1 / said.measured + 1 / rest)) if rest else 0.0
    sigmas = (said.rate - (whole.passed - said.passed) / rest) / error if error else None
    return SourceCell(said=said, points=100 * (said.rate - whole.rate), sigmas=sigmas)


def counted_by_source(con: duckdb.DuckDBPyConnection) -> list[Check]:
    """The counts by source of the last run sum to its counts by rule; no check where there are none."""
    found = rows(
        con,
        f"""SELECT count(*) FILTER (WHERE name = 'source') AS there, coalesce(sum(n) FILTER (WHERE name = 'funnel'), 0)::BIGINT AS whole,
        coalesce(sum(n) FILTER (WHERE name = 'source' AND rule_no IS NOT NULL), 0)::BIGINT AS parts FROM cubes WHERE {_LAST}""",
    )[0]
    if not found["there"]:
        return []
    return [Check(name="verdicts of the last run by source = verdicts by rule", expected=found["whole"], found=found["parts"])]
