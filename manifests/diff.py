"""What changed between two versions: clips added and removed, verdicts that turned, and the rules behind it, counted by DuckDB."""

# SQL is put together from names of this file.
# ruff: noqa: S608

from dataclasses import dataclass
from typing import Literal

from manifests.funnel import Amount
from manifests.policy import policy_at
from manifests.tables import ManifestError, ManifestStore
from manifests.whatif import Limits, add_files, open_files

Turn = Literal["added", "removed", "now kept", "now dropped", "dropped by another rule", "taken down", "other"]

_TURN = """CASE
    WHEN b.clip_id IS NULL THEN 'removed'
    WHEN a.clip_id IS NULL THEN 'added'
    WHEN a.decision = 'drop' AND b.decision = 'keep' THEN 'now kept'
    WHEN a.decision = 'keep' AND b.decision = 'drop' THEN 'now dropped'
    WHEN a.decision = 'drop' AND b.decision = 'drop' THEN 'dropped by another rule'
    WHEN b.decision NOT IN ('keep', 'drop', 'pending') THEN 'taken down'
    ELSE 'other' END"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """Clips whose place changed in the same way. The rules are those that dropped them in each version; empty where none did."""

    change: Turn
    kind: str
    was: str
    now: str
    rule_was: str
    rule_now: str
    clips: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTurn:
    """A rule of either version that the other has not, or not so."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """From one version to another. `same` are the clips in both with the same verdict by a rule of the same name."""

    before: int
    after: int
    rules: tuple[RuleTurn, ...]
    turned: tuple[Turned, ...]
    same: Amount
    kept_before: Amount
    kept_after: Amount


def diff(store: ManifestStore, before: int, after: int, limits: Limits | None = None) -> Diff:
    """What lies between two versions. ManifestError where one of them does not exist or was purged."""
    for version in (before, after):
        if version < 0:
            raise ManifestError(f"{store.root}: expected versions from 0 on, found {version}")
    con = open_files(store, before, ("clips",), limits or Limits(), suffix="_before")
    try:
        add_files(con, store, after, ("clips",), suffix="_after")
        names = dict(zip(*(c.to_pylist() for c in store.read("rules", max(before, after), ["rule_no", "name"]).columns), strict=True))
        span = "coalesce(b.end_us - b.start_us, a.end_us - a.start_us)"
        rows = con.sql(
            f"""SELECT {_TURN},
                coalesce(b.kind, a.kind), coalesce(a.decision, ''), coalesce(b.decision, ''), a.first_fail_rule, b.first_fail_rule,
                count(*), coalesce(sum({span}), 0)::BIGINT
            FROM clips_before a FULL JOIN clips_after b USING (clip_id) GROUP BY ALL"""
        ).fetchall()
    finally:
        con.close()
    told = [
        Turned(
            change=turn, kind=kind, was=was, now=now, rule_was=_name(names, old), rule_now=_name(names, new), clips=Amount(n=n, time_us=us)
        )
        for turn, kind, was, now, old, new, n, us in rows
    ]  # fmt: skip
    same = [t for t in told if t.was == t.now and t.rule_was == t.rule_now]
    turned = _merged([t for t in told if not (t.was == t.now and t.rule_was == t.rule_now)])
    return Diff(
        before=before,
        after=after,
        rules=_rules(store, before, after),
        turned=turned,
        same=sum((t.clips for t in same), Amount()),
        kept_before=sum((t.clips for t in told if t.was == "keep"), Amount()),
        kept_after=sum((t.clips for t in told if t.now == "keep"), Amount()),
    )


def _merged(told: list[Turned]) -> tuple[Turned, ...]:
    """One row for rules of the same name, whose thresholds may differ."""
    merged: dict[tuple[str, ...], Amount] = {}
    for t in told:
        key = (t.change, t.kind, t.was, t.now, t.rule_was, t.rule_now)
        merged[key] = merged.get(key, Amount()) + t.clips
    order = ("now kept", "now dropped", "added", "removed", "taken down", "dropped by another rule", "other")
    rows = sorted(merged.items(), key=lambda item: (order.index(item[0][0]), -item[1].n, item[0]))
    return tuple(
        Turned(change=change, kind=kind, was=was, now=now, rule_was=old, rule_now=new, clips=clips)  # type: ignore[arg-type]
        for (change, kind, was, now, old, new), clips in rows
    )


def _name(names: dict[int, str], number: int | None) -> str:
    return "" if number is None else names.get(number, f"rule {number}")


def _rules(store: ManifestStore, before: int, after: int) -> tuple[RuleTurn, ...]:
    told = [
        {r.name: (number, f"{r.measure} {r.op} {r.threshold:g} {r.unit}".rstrip()) for number, r in policy_at(store, v)}
        for v in (before, after)
    ]
    none = (-1, "")
    names = dict.fromkeys([*told[0], *told[1]])
    pairs = [(name, told[0].get(name, none), told[1].get(name, none)) for name in names]
    return tuple(RuleTurn(name=name, before=old[1], after=new[1]) for name, old, new in pairs if old != new)
