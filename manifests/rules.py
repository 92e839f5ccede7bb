"""Rules compare a score with a threshold and give a verdict; a policy is an ordered tuple of rules.

The same rule as a Python predicate and, in `manifests.rule_sql`, as SQL for DuckDB and Spark: one contract test keeps them equal. Unknown is never a pass:
a rule on a score that is null says unknown, and the subject is dropped unless the rule was told to accept unknowns.
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from manifests.rule_sql import identifier, verdict_sql

Verdict = bool | None
"""True pass, False reject, None unknown."""

_OPS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One comparison. `measure` is a column of assets or clips; `reason` says in words what the measure means."""

    name: str
    stage: str
    subject: Literal["asset", "clip"]
    measure: str
    op: str
    threshold: float
    unit: str = ""
    kinds: tuple[str, ...] = ("video", "image", "audio")
    set_name: str = ""
    on_unknown: Literal["reject", "accept"] = "reject"
    version: int = 1
    measure_version: str = "1"
    reason: str = ""

    def __post_init__(self) -> None:
        if self.op not in _OPS:
            raise ValueError(f"rule {self.name}: op is {self.op!r}, expected one of {', '.join(_OPS)}")
        if math.isnan(self.threshold):
            raise ValueError(f"rule {self.name}: threshold is NaN, expected a number")
        identifier(self.measure)

    def verdict(self, score: float | int | bool | None) -> Verdict:
        """The verdict on a score. Scores are compared as float32, the type in which they are stored; thresholds too.

        ValueError for NaN, which is no score: what was not measured is None.
        """
        if score is None:
            return None
        # Through int64, as Arrow and SQL do it: Python's own way rounds a large integer twice.
        value = float(np.int64(score).astype(np.float32) if isinstance(score, int) else np.float32(score))
        if math.isnan(value):
            raise ValueError(f"rule {self.name}: {self.measure} is NaN, expected a number or null")
        return bool(_OPS[self.op](value, float(np.float32(self.threshold))))

    def survives(self, verdict: Verdict) -> bool:
        """Whether a subject with this verdict goes on to the next rule."""
        return verdict is True or (verdict is None and self.on_unknown == "accept")

    def sql(self) -> str:
        """The verdict as a DuckDB expression over the measure's column, null when unknown; `manifests.rule_sql` has the rest."""
        return verdict_sql(self)

    def sentence(self, score: float | None) -> str:
        """What happened, for a person: 'motion 1.2 is not > 2.0'."""
        shown = "not measured" if score is None else f"{score:.4g}"
        outcome = {True: "is", False: "is not", None: "so it is unknown whether it is"}[self.verdict(score)]
        said = f"{self.measure} {shown} {outcome} {self.op} {self.threshold:g} {self.unit}".rstrip()
        return f"{said} ({self.reason})" if self.reason else said


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one rule said about one subject."""

    rule: int
    score: float | None
    passed: Verdict
    reason_code: str


def decide(rules: Iterable[tuple[int, Rule]], subject: Any) -> Iterator[Outcome]:
    """The outcome of every rule that applies to the subject, in order: a record of assets or clips.

    Rules after the first that the subject does not survive still get an outcome: their own verdict where the score exists, else
    unknown with reason `failed_earlier`, because a dropped subject is not measured further.
    """
    dropped = False
    for number, rule in rules:
        if not applies(rule, subject):
            continue
        score = getattr(subject, rule.measure)
        passed = rule.verdict(score)
        yield Outcome(number, None if score is None else float(score), passed, reason_code(passed, dropped, subject.error_code))
        dropped = dropped or not rule.survives(passed)


def applies(rule: Rule, subject: Any) -> bool:
    """Whether the rule speaks about this kind of medium and this set. A subject of unknown kind is met by every rule."""
    if subject.kind is not None and subject.kind not in rule.kinds:
        return False
    return not rule.set_name or getattr(subject, "set_name", None) == rule.set_name


def reason_code(passed: Verdict, dropped: bool, error: str | None) -> str:
    """pass, threshold, failed_earlier (not measured as an earlier rule dropped it), measure_failed or not_run."""
    if passed is not None:
        return "pass" if passed else "threshold"
    if dropped:
        return "failed_earlier"
    return "measure_failed" if error else "not_run"
