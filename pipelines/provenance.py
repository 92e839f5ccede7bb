"""What a run is made with: the code's version, and the rules' numbers in the ledger."""

import dataclasses
import hashlib
from functools import cache
from pathlib import Path

import pyarrow as pa

from manifests.events import RuleRow
from manifests.rules import Rule
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore

PACKAGES = ("manifests", "curation", "training", "pipelines")


@cache
def code_version() -> str:
    """Distribution version and the first 12 digits of the hash of the code that curates: it changes with any line of it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        released = version("dailies")
    except PackageNotFoundError:
        released = "0+tree"
    root, whole = Path(__file__).resolve().parent.parent, hashlib.sha256()
    for package in ("manifests", "curation", "pipelines"):
        for path in sorted((root / package).rglob("*.py")):
            whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return f"{released}+{whole.hexdigest()[:12]}"


def check_packages() -> None:
    """The four generic package names belong to this distribution: all lie in one folder. RuntimeError names the stranger."""
    import importlib.util

    here = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        origin = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if origin != here:
            raise RuntimeError(f"package {name!r} is taken from {origin}, expected {here}; another distribution or PYTHONPATH shadows it")


def number_rules(store: ManifestStore, policy: tuple[Rule, ...]) -> tuple[list[int], pa.Table]:
    """The ledger's number of each rule, and the rows of those it does not know yet: a changed threshold is a new rule row."""
    rows: list[RuleRow] = sorted(from_table(RuleRow, store.read("rules")), key=lambda row: row.rule_no)
    first = rows[-1].rule_no + 1 if rows else 0
    known = {_identity(row): row.rule_no for row in rows}
    numbers: list[int] = []
    new: list[RuleRow] = []
    for position, rule in enumerate(policy):
        row = _row(rule, position, first + len(new))
        identity = _identity(row)
        if identity not in known:
            known[identity] = row.rule_no
            new.append(row)
        numbers.append(known[identity])
    return numbers, to_table(RuleRow, new)


def _row(rule: Rule, position: int, number: int) -> RuleRow:
    values = {f.name: getattr(rule, f.name) for f in dataclasses.fields(Rule)}
    return RuleRow(**values | {"rule_no": number, "position": position, "kinds": ",".join(rule.kinds)})


def _identity(row: RuleRow) -> tuple[object, ...]:
    """What makes two rules one: not their place in a funnel, which the runs keep, or a rule switched off would renumber all behind it."""
    return tuple(getattr(row, f.name) for f in dataclasses.fields(RuleRow) if f.name not in ("rule_no", "position"))
