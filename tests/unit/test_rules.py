"""A rule says the same in Python, in tables, in DuckDB; unknown is never a pass."""

import dataclasses

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.ledger import decide_table, survivors
from manifests.records import Clip
from manifests.rules import Rule, decide
from manifests.schema import from_table, to_table

scores = st.one_of(st.none(), st.floats(-100, 100, width=32), st.sampled_from([0.0, 2.0, 0.6]))
rules = st.builds(
    Rule,
    name=st.just("r"),
    stage=st.just("analysed"),
    subject=st.just("clip"),
    measure=st.sampled_from(["motion", "text_score"]),
    op=st.sampled_from(["<", "<=", ">", ">=", "=="]),
    threshold=st.one_of(st.floats(-100, 100), st.sampled_from([0.1, 0.6, 2.0])),
    kinds=st.sampled_from([("video",), ("video", "image"), ("audio",)]),
    on_unknown=st.sampled_from(["reject", "accept"]),
)


def _clip(number: int, kind: str, motion: float | None, text: float | None) -> Clip:
    return Clip(
        clip_id=f"{number:032x}",
        clip_no=number,
        asset_id="a" * 32,
        asset_no=1,
        kind=kind,
        start_us=0,
        end_us=4,
        motion=motion,
        text_score=text,
    )


clips = st.lists(st.tuples(st.sampled_from(["video", "image", "audio"]), scores, scores), max_size=12).map(
    lambda rows: [_clip(i, *row) for i, row in enumerate(rows)]
)


@settings(deadline=None, max_examples=60)
@given(clips, st.lists(rules, max_size=5))
def test_the_ledger_equals_the_readable_definition(clips: list[Clip], policy: list[Rule]) -> None:
    """decide_table gives, for any clips and rules, exactly the outcomes of the one-record function, and counts balance."""
    numbered = list(enumerate(policy))
    decisions, decided = decide_table(numbered, to_table(Clip, clips), run_no=3)
    expected = {(o.rule, c.clip_no): (o.passed, o.reason_code) for c in clips for o in decide(numbered, c)}
    found = {(r["rule_no"], r["clip_no"]): (r["passed"], r["reason_code"]) for r in decisions.to_pylist()}
    assert found == expected
    kept = [c.decision == "keep" for c in from_table(Clip, decided)]
    assert kept == survivors(numbered, to_table(Clip, clips)).tolist()
    for number, rule in numbered:
        verdicts = [p for (n, _), (p, _) in found.items() if n == number]
        assert len(verdicts) == sum(c.kind in rule.kinds for c in clips)


@settings(deadline=None, max_examples=60)
@given(clips, rules)
def test_a_rule_is_the_same_in_sql(clips: list[Clip], rule: Rule) -> None:
    """The SQL of a rule, run by DuckDB, gives the verdict of the Python predicate, nulls included."""
    rows = to_table(Clip, clips)  # noqa: F841 (DuckDB finds it by name)
    found = [v for (v,) in duckdb.sql(f"select {rule.sql()} from rows order by clip_no").fetchall()]  # noqa: S608
    assert found == [rule.verdict(getattr(c, rule.measure)) for c in clips]


def test_unknown_is_never_a_pass() -> None:
    """A null score is unknown; the subject is dropped unless the rule accepts unknowns, and the verdict stays unknown either way."""
    rule = Rule(name="r", stage="analysed", subject="clip", measure="motion", op=">", threshold=2.0)
    assert rule.verdict(None) is None
    assert not rule.survives(None)
    assert dataclasses.replace(rule, on_unknown="accept").survives(None)


def test_a_dropped_clip_says_which_rule_dropped_it_first() -> None:
    """first_fail_rule is the first rule not survived; later rules on scores that were then never measured say failed_earlier."""
    policy = [
        (7, Rule(name="a", stage="analysed", subject="clip", measure="motion", op=">", threshold=2.0)),
        (9, Rule(name="b", stage="content", subject="clip", measure="text_score", op="<", threshold=0.6)),
    ]
    decisions, decided = decide_table(policy, to_table(Clip, [_clip(0, "video", 1.0, None)]), run_no=0)
    assert decisions.column("reason_code").to_pylist() == ["threshold", "failed_earlier"]
    assert decided.column("first_fail_rule").to_pylist() == [7]


def test_thresholds_compare_as_stored() -> None:
    """A score stored as float32 0.6 is not < 0.6: comparison happens in the stored type, so no verdict changes by rounding."""
    rule = Rule(name="text", stage="content", subject="clip", measure="text_score", op="<", threshold=0.6)
    stored = pa.array([np.float32(0.6)], pa.float32())[0].as_py()
    assert rule.verdict(stored) is False


def test_an_unknown_operator_is_refused() -> None:
    """A rule with an operator that does not exist cannot be made; the error lists those that do."""
    with pytest.raises(ValueError, match="expected one of"):
        Rule(name="r", stage="facts", subject="asset", measure="width", op="~", threshold=1)
