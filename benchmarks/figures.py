"""One figure of a benchmark beside its target, and the table of many."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that was reached, on what, and what the target is."""

    subject: str  # shots, motion, borders …
    what: str  # e.g. 'hard cuts, F1, real videos'
    value: float
    target: float | None  # None: told beside the others, nothing is promised
    on: str  # e.g. '85 labelled videos, 101 cuts'
    at_least: bool = True  # False: the value must be at most the target

    @property
    def holds(self) -> bool:
        """Whether the target, if there is one, is met."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


def as_table(figures: Iterable[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| subject | figure | reached | target | on |", "|---|---|---|---|---|"]
    for f in figures:
        sign = "≥" if f.at_least else "≤"
        mark = "" if f.holds else " **missed**"
        target = "–" if f.target is None else f"{sign} {f.target:g}"
        lines.append(f"| {f.subject} | {f.what} | {f.value:.3f}{mark} | {target} | {f.on} |")
    return "\n".join(lines)
