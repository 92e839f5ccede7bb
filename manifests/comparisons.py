"""What the report compares, as records: licence by source, a run with earlier ones, a source with the others, the paper with us. All bounded."""

from dataclasses import dataclass

from manifests.funnel import Amount

SIGMAS = 3.0
"""A source differs when its rate is further from the others' than this many standard errors: one cell in some 400 does so by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A row or column of a matrix: a value (None = not stated), or the sum of `others` values that are not shown one by one."""

    label: str | None
    others: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RightsCell:
    """Files of one licence and source, those of them that gave no clip, and their clips; `held` are undecided or taken down."""

    licence: Heading
    source: Heading
    files: Amount
    uncut: Amount
    kept: Amount
    dropped: Amount
    held: Amount

    @property
    def clips(self) -> Amount:
        """All clips."""
        return self.kept + self.dropped + self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class RightsMatrix:
    """Licence by source, those with most files first; a pair without files has no cell."""

    licences: tuple[Heading, ...]
    sources: tuple[Heading, ...]
    cells: tuple[RightsCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a rule said of the subjects it applies to, counted."""

    passed: int
    rejected: int
    unknown: int

    @property
    def measured(self) -> int:
        """Those with a score."""
        return self.passed + self.rejected

    @property
    def rate(self) -> float | None:
        """Share of the measured that pass; None where nothing is measured."""
        return self.passed / self.measured if self.measured else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPoint:
    """A rule as it stood in one run, and what it said."""

    run_no: int
    measure: str
    op: str
    threshold: float
    unit: str
    said: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDrift:
    """One rule over the runs; a run that did not have it has no point. Points are shares of the measured, in percent.

    `points_changed` is the pass rate of the last run less that of the run before; None where either did not measure.
    """

    name: str
    set_name: str
    in_force: bool
    points: tuple[DriftPoint | None, ...]
    points_changed: float | None
    other_condition: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRun:
    """A run that decided."""

    run_no: int
    command: str
    started_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The rules over the last runs that decided, oldest first; `uncounted` runs before them are not shown or left no counts."""

    runs: tuple[DriftRun, ...]
    uncounted: int
    rules: tuple[RuleDrift, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCell:
    """A rule on one source: its pass rate less that of all sources in points, and less that of the others in standard errors."""

    said: Said
    points: float | None
    sigmas: float | None

    @property
    def differs(self) -> bool:
        """Whether its rate is further from that of the others than chance would have it."""
        return abs(self.sigmas or 0.0) > SIGMAS


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """A rule on every source; rule_no None: all rules on clips together."""

    rule_no: int | None
    name: str
    set_name: str
    subject: str
    condition: str
    whole: Said
    cells: tuple[SourceCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRates:
    """What each rule passes of each source, in the run that decided last; those that differ most first, then the largest."""

    sources: tuple[Heading, ...]
    rows: tuple[SourceRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperStep:
    """A filter of the paper, and our rules that stand for it: how many of the subjects that met them survived.

    `left_percent` is the paper's share of its pool, `share` the share that the step keeps of what reached it; None where not given.
    """

    stage: str
    name: str
    asks: str
    left_percent: float | None
    share: float | None
    rules: tuple[str, ...]
    subject: str
    entered: Amount
    survived: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFunnel:
    """The paper's funnel beside ours on video. Times are of video files found and of video clips kept."""

    steps: tuple[PaperStep, ...]
    ours_only: tuple[str, ...]
    left_percent: float
    found_us: int
    kept_us: int
