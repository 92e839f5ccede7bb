"""The decision ledger: every rule applied to every asset and clip, as tables, with the same verdicts as `manifests.rules.decide`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import Decision
from manifests.rules import Rule
from manifests.schema import arrow_schema

Mask = npt.NDArray[np.bool_]

_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal}


def survivors(rules: Sequence[tuple[int, Rule]], subjects: pa.Table) -> Mask:
    """Which subjects survive all of the rules that apply to them."""
    alive = np.ones(subjects.num_rows, bool)
    for _, rule in rules:
        alive &= ~_applicable(rule, subjects) | _surviving(rule, *_verdicts(rule, subjects))
    return alive


def decide_table(rules: Sequence[tuple[int, Rule]], subjects: pa.Table, run_no: int) -> tuple[pa.Table, pa.Table]:
    """The decisions of all rules on all subjects, and the subjects with `decision` and `first_fail_rule` filled.

    For each rule, applicable subjects = pass + reject + unknown. Subjects are the rows of `assets` or of `clips`.
    """
    n = subjects.num_rows
    alive, first_fail = np.ones(n, bool), np.full(n, -1, np.int32)
    failed = _column(subjects, "error_code").is_valid().to_numpy(zero_copy_only=False)
    pieces = []
    for number, rule in rules:
        applicable = _applicable(rule, subjects)
        known, passed = _verdicts(rule, subjects)
        pieces.append(_decisions(number, rule, subjects, applicable, known, passed, ~alive, failed, run_no))
        out = applicable & ~_surviving(rule, known, passed)
        first_fail[alive & out] = number
        alive &= ~out
    decided = subjects.set_column(
        subjects.schema.get_field_index("decision"), "decision", pa.array(np.where(alive, "keep", "drop").tolist())
    )
    index = subjects.schema.get_field_index("first_fail_rule")
    decided = decided.set_column(index, "first_fail_rule", pa.array(first_fail, pa.int32(), mask=first_fail < 0))
    return (pa.concat_tables(pieces) if pieces else arrow_schema(Decision).empty_table()), decided


def _applicable(rule: Rule, subjects: pa.Table) -> Mask:
    kind = _column(subjects, "kind")
    mask = pc.fill_null(pc.is_in(kind, value_set=pa.array(rule.kinds, pa.string())), True)
    mask = pc.or_(mask, pc.is_null(kind))
    if rule.set_name:
        mask = pc.and_(mask, pc.fill_null(pc.equal(_column(subjects, "set_name"), rule.set_name), False))
    return _mask(mask)


def _verdicts(rule: Rule, subjects: pa.Table) -> tuple[Mask, Mask]:
    """Which subjects have a score, and which of those pass; compared as float32 like the Python rule."""
    scores = _column(subjects, rule.measure)
    known = _mask(scores.is_valid())
    values = _floats(scores)
    return known, known & _COMPARE[rule.op](values, np.float32(rule.threshold))


def _surviving(rule: Rule, known: Mask, passed: Mask) -> Mask:
    return passed | ~known if rule.on_unknown == "accept" else passed


def _decisions(
    number: int, rule: Rule, subjects: pa.Table, applicable: Mask, known: Mask, passed: Mask, dropped: Mask, failed: Mask, run_no: int
) -> pa.Table:
    reasons = np.select([passed, known, dropped, failed], ["pass", "threshold", "failed_earlier", "measure_failed"], "not_run")
    rows = np.flatnonzero(applicable)
    clip_no = subjects.column("clip_no") if "clip_no" in subjects.schema.names else pa.nulls(subjects.num_rows, pa.int64())
    columns: dict[str, Any] = {
        "run_no": pa.array(np.full(len(rows), run_no), pa.int32()),
        "rule_no": pa.array(np.full(len(rows), number), pa.int32()),
        "asset_no": subjects.column("asset_no").take(rows),
        "clip_no": clip_no.take(pa.array(rows)),
        "score": _column(subjects, rule.measure).cast(pa.float32(), safe=False).take(rows),
        "passed": pa.array(passed[rows], pa.bool_(), mask=~known[rows]),
        "reason_code": pa.array(reasons[rows].tolist(), pa.string()),
    }
    schema = arrow_schema(Decision)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _floats(scores: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = pc.fill_null(scores.cast(pa.float32(), safe=False), 0).to_numpy()
    return values


def _column(subjects: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in subjects.schema.names:
        raise ValueError(f"no column {name!r} to decide on; there are {', '.join(subjects.schema.names)}")
    return subjects.column(name)


def _mask(values: pa.ChunkedArray) -> Mask:
    mask: Mask = values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    return mask.astype(bool)
