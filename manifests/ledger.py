"""The decision ledger: every rule applied to every asset and clip, as tables, with the same verdicts as `manifests.rules.decide`.

`decisions` is append only and holds what changed: a run appends the rows that differ from the newest row of the same rule and subject
(`changes`). The state at a version is therefore, for each rule in force and each subject, the newest row (`read_newest`); a row with reason
`not_applicable` says that the rule no longer speaks about the subject. `manifests.rebuild` rebuilds `clips` and `assets` from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.events import Decision
from manifests.rules import Rule
from manifests.schema import arrow_schema

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int64]

REASONS = ("pass", "threshold", "not_run", "failed_earlier", "measure_failed", "not_applicable")
"""A code is a place in this list; -1 is no row at all."""
PASS, THRESHOLD, NOT_RUN, FAILED_EARLIER, MEASURE_FAILED, NOT_APPLICABLE = range(6)

SCHEMA = arrow_schema(Decision)
READ = ("rule_no", "asset_no", "clip_no", "score", "reason_code")
"""The columns that say what holds."""

_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What one rule said about the subjects it applies to: their places in the table, reason codes, and scores (NaN = not measured)."""

    rule_no: int
    rows: Numbers
    codes: Codes
    scores: Floats


@dataclass(frozen=True, slots=True)
class Decided:
    """All rules on a table of subjects: the verdicts, rule by rule, and for each subject the first rule it did not survive, or -1."""

    verdicts: tuple[Verdicts, ...]
    first_fail: npt.NDArray[np.int32]

    @property
    def kept(self) -> Mask:
        """Which subjects survive every rule."""
        return self.first_fail < 0


def survivors(rules: Sequence[tuple[int, Rule]], subjects: pa.Table) -> Mask:
    """Which subjects survive all of the rules that apply to them."""
    alive = np.ones(subjects.num_rows, bool)
    for _, rule in rules:
        alive &= ~_applicable(rule, subjects) | _surviving(rule, *_judge(rule, subjects)[:2])
    return alive


def decide(rules: Sequence[tuple[int, Rule]], subjects: pa.Table) -> Decided:
    """Every rule on every subject, the rows of `assets` or of `clips`. For each rule: applicable = pass + reject + unknown."""
    n = subjects.num_rows
    alive, first_fail = np.ones(n, bool), np.full(n, -1, np.int32)
    failed = _mask(_column(subjects, "error_code").is_valid())
    verdicts = []
    for number, rule in rules:
        applicable = _applicable(rule, subjects)
        known, passed, scores = _judge(rule, subjects)
        codes = np.full(n, NOT_RUN, np.int8)
        codes[failed] = MEASURE_FAILED
        codes[~alive] = FAILED_EARLIER
        codes[known] = THRESHOLD
        codes[passed] = PASS
        rows = np.flatnonzero(applicable)
        verdicts.append(Verdicts(number, rows, codes[rows], scores[rows]))
        out = applicable & ~_surviving(rule, known, passed)
        first_fail[alive & out] = number
        alive &= ~out
    return Decided(tuple(verdicts), first_fail)


def decide_table(rules: Sequence[tuple[int, Rule]], subjects: pa.Table, run_no: int) -> tuple[pa.Table, pa.Table]:
    """The decisions of all rules on all subjects, and the subjects with `decision` and `first_fail_rule` filled."""
    decided = decide(rules, subjects)
    pieces = [to_decisions(v, subjects, run_no) for v in decided.verdicts]
    return (pa.concat_tables(pieces) if pieces else SCHEMA.empty_table()), with_state(subjects, decided.first_fail)


def with_state(subjects: pa.Table, first_fail: npt.NDArray[np.int32]) -> pa.Table:
    """The subjects with `decision` keep or drop and `first_fail_rule` as said."""
    decision = pa.DictionaryArray.from_arrays(pa.array((first_fail >= 0).astype(np.int8)), pa.array(["keep", "drop"])).cast(pa.string())
    values = {"decision": decision, "first_fail_rule": pa.array(first_fail, pa.int32(), mask=first_fail < 0)}
    for name, column in values.items():
        index = subjects.schema.get_field_index(name)
        subjects = subjects.set_column(index, subjects.schema.field(index), column)
    return subjects


def to_decisions(verdicts: Verdicts, subjects: pa.Table, run_no: int) -> pa.Table:
    """The verdicts as rows of `decisions`."""
    n = len(verdicts.rows)
    rows = pa.array(verdicts.rows)
    clip_no = subjects.column("clip_no").take(rows) if "clip_no" in subjects.schema.names else pa.nulls(n, pa.int64())
    columns: dict[str, Any] = {
        "run_no": pa.array(np.full(n, run_no, np.int32)),
        "rule_no": pa.array(np.full(n, verdicts.rule_no, np.int32)),
        "asset_no": subjects.column("asset_no").take(rows),
        "clip_no": clip_no,
        "score": pa.array(verdicts.scores, pa.float32(), mask=np.isnan(verdicts.scores)),
        "passed": pa.array(verdicts.codes == PASS, pa.bool_(), mask=verdicts.codes > THRESHOLD),
        "reason_code": pa.DictionaryArray.from_arrays(pa.array(verdicts.codes), pa.array(REASONS)).cast(pa.string()),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


class Newest:
    """The newest row of each rule for the subjects numbered [first, first + n): reason codes (-1 = no row) and scores by place."""

    def __init__(self, first: int, n: int) -> None:
        self.first, self.n = first, n
        self.codes: dict[int, Codes] = {}
        self.scores: dict[int, Floats] = {}

    def put(self, rule_no: int, places: Numbers, codes: Codes, scores: Floats) -> None:
        """These rows are the newest of the rule for these subjects."""
        if rule_no not in self.codes:
            self.codes[rule_no] = np.full(self.n, -1, np.int8)
            self.scores[rule_no] = np.full(self.n, np.nan, np.float32)
        self.codes[rule_no][places] = codes
        self.scores[rule_no][places] = scores

    def of(self, rule_no: int) -> tuple[Codes, Floats]:
        """Codes and scores of a rule; all -1 and NaN for one that has no rows."""
        if rule_no in self.codes:
            return self.codes[rule_no], self.scores[rule_no]
        return np.full(self.n, -1, np.int8), np.full(self.n, np.nan, np.float32)


def read_newest(files: Sequence[str], subject: str, first: int, n: int, rule_nos: Sequence[int]) -> Newest:
    """The state of the ledger for a range of asset or clip numbers. `files` are those of `decisions`, in commit order.

    Only row groups that can hold such rows are read, one at a time; the state costs 5 bytes a rule and subject.
    """
    newest = Newest(first, n)
    key = f"{subject}_no"
    for path in files if rule_nos else ():
        with pq.ParquetFile(path) as file:
            for group in range(file.metadata.num_row_groups):
                # Rule by rule: between the least and the greatest number lie those of every threshold there ever was.
                if _may_hold(file, group, key, first, first + n - 1) and any(_may_hold(file, group, "rule_no", r, r) for r in rule_nos):
                    _put_rows(newest, file.read_row_group(group, list(READ)), subject, set(rule_nos))
    return newest


def changes(decided: Decided, subjects: pa.Table, newest: Newest, run_no: int) -> pa.Table:
    """The rows that a run must append so that the newest rows are its verdicts: those that differ, and withdrawals."""
    numbers = subjects.column("clip_no" if "clip_no" in subjects.schema.names else "asset_no").to_numpy() - newest.first
    pieces = [SCHEMA.empty_table()]
    for verdicts in decided.verdicts:
        codes, scores = newest.of(verdicts.rule_no)
        at = numbers[verdicts.rows]
        same = (codes[at] == verdicts.codes) & ((scores[at] == verdicts.scores) | (np.isnan(scores[at]) & np.isnan(verdicts.scores)))
        different = ~same
        pieces.append(to_decisions(_pick(verdicts, different), subjects, run_no))
        held = (codes[numbers] >= 0) & (codes[numbers] != NOT_APPLICABLE)
        held[verdicts.rows] = False
        gone = np.flatnonzero(held)
        if len(gone):
            none = Verdicts(verdicts.rule_no, gone, np.full(len(gone), NOT_APPLICABLE, np.int8), np.full(len(gone), np.nan, np.float32))
            pieces.append(to_decisions(none, subjects, run_no))
    return pa.concat_tables(pieces)


def append_to(
    files: Sequence[str], rules: Sequence[tuple[int, Rule]], subjects: pa.Table, run_no: int, decided: Decided | None = None
) -> tuple[pa.Table, Decided]:
    """The rows that a run must append to the ledger in `files` so that it says what the rules say of all these subjects."""
    decided = decided or decide(rules, subjects)
    if not subjects.num_rows or not rules:
        return SCHEMA.empty_table(), decided
    subject = "clip" if "clip_no" in subjects.schema.names else "asset"
    ends = pc.min_max(subjects.column(f"{subject}_no")).as_py()
    newest = read_newest(files, subject, ends["min"], ends["max"] - ends["min"] + 1, [number for number, _ in rules])
    return changes(decided, subjects, newest, run_no), decided


def next_number(files: Sequence[str], subject: str) -> int:
    """A number that no subject in the ledger ever had, so that rows of one that is gone are never taken for those of a new one."""
    highest = -1
    for path in files:
        with pq.ParquetFile(path) as file:
            column = file.schema_arrow.get_field_index(f"{subject}_no")
            for group in range(file.metadata.num_row_groups):
                stats = file.metadata.row_group(group).column(column).statistics
                if stats is not None and stats.has_min_max:
                    highest = max(highest, stats.max)
    return highest + 1


def first_fails(rules: Sequence[tuple[int, Rule]], newest: Newest) -> npt.NDArray[np.int32]:
    """For each subject of the range the first rule, in order, whose newest row it does not survive; -1 where it survives all."""
    first_fail = np.full(newest.n, -1, np.int32)
    for number, rule in reversed(rules):
        codes, _ = newest.of(number)
        dropped = (codes == THRESHOLD) if rule.on_unknown == "accept" else (codes >= THRESHOLD) & (codes < NOT_APPLICABLE)
        first_fail[dropped] = number
    return first_fail


def undecided(rules: Sequence[tuple[int, Rule]], newest: Newest) -> Mask:
    """The subjects of the range of which the ledger says nothing at all."""
    silent = np.ones(newest.n, bool)
    for number, _ in rules:
        silent &= newest.of(number)[0] < 0
    return silent


def _pick(verdicts: Verdicts, mask: Mask) -> Verdicts:
    return Verdicts(verdicts.rule_no, verdicts.rows[mask], verdicts.codes[mask], verdicts.scores[mask])


def _may_hold(file: pq.ParquetFile, group: int, column: str, low: int, high: int) -> bool:
    """Whether a row group can hold a value of the range; true where the file says nothing."""
    stats = file.metadata.row_group(group).column(file.schema_arrow.get_field_index(column)).statistics
    if stats is None:
        return True
    if not stats.has_min_max:
        return bool(stats.num_values)
    return bool(stats.min <= high and stats.max >= low)


def _put_rows(newest: Newest, rows: pa.Table, subject: str, wanted: set[int]) -> None:
    """The rows of one row group enter the state; they are sorted by rule, or nearly."""
    numbers = rows.column(f"{subject}_no").fill_null(-1).to_numpy() - newest.first
    mine = (numbers >= 0) & (numbers < newest.n)
    if subject == "asset":
        mine &= _mask(rows.column("clip_no").is_null())
    codes = pc.index_in(rows.column("reason_code"), value_set=pa.array(REASONS)).to_numpy().astype(np.int8)
    scores = _floats(rows.column("score"))
    rules = rows.column("rule_no").to_numpy()
    starts = np.concatenate(([0], np.flatnonzero(np.diff(rules)) + 1, [len(rules)]))
    for start, end in pairwise(starts.tolist()):
        if end > start and (number := int(rules[start])) in wanted:
            keep = mine[start:end]
            newest.put(number, numbers[start:end][keep], codes[start:end][keep], scores[start:end][keep])


def _applicable(rule: Rule, subjects: pa.Table) -> Mask:
    kind = _column(subjects, "kind")
    mask = pc.fill_null(pc.is_in(kind, value_set=pa.array(rule.kinds, pa.string())), True)
    mask = pc.or_(mask, pc.is_null(kind))
    if rule.set_name:
        if "set_name" not in subjects.schema.names:  # assets are of no set
            return np.zeros(subjects.num_rows, bool)
        mask = pc.and_(mask, pc.fill_null(pc.equal(_column(subjects, "set_name"), rule.set_name), False))
    return _mask(mask)


def _judge(rule: Rule, subjects: pa.Table) -> tuple[Mask, Mask, Floats]:
    """Which subjects have a score, which of those pass, and the scores; compared as float32 like the Python rule."""
    column = _column(subjects, rule.measure)
    known, scores = _mask(column.is_valid()), _floats(column)
    if np.isnan(scores[known]).any():
        raise ValueError(f"rule {rule.name}: {rule.measure} is NaN, expected a number or null")
    return known, known & _COMPARE[rule.op](scores, np.float32(rule.threshold)), scores


def _surviving(rule: Rule, known: Mask, passed: Mask) -> Mask:
    return passed | ~known if rule.on_unknown == "accept" else passed


def _floats(scores: pa.ChunkedArray) -> Floats:
    """The scores as float32, NaN where there is none."""
    values: Floats = pc.fill_null(scores.cast(pa.float32(), safe=False), np.nan).to_numpy()
    return values


def _column(subjects: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in subjects.schema.names:
        raise ValueError(f"no column {name!r} to decide on; there are {', '.join(subjects.schema.names)}")
    return subjects.column(name)


def _mask(values: pa.ChunkedArray) -> Mask:
    mask: Mask = values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    return mask.astype(bool)


def ranges(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """[first, last] in half-open pieces of at most `size` numbers."""
    for start in range(first, last + 1, size):
        yield start, min(start + size, last + 1)
