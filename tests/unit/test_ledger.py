"""The ledger holds what changed, and the state is what its newest rows say."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import ledger, parquet
from manifests.events import Decision, RuleRow, Run
from manifests.policy import numbers_in_force, rules_in_force
from manifests.query import connection
from manifests.records import Asset, Clip
from manifests.rules import Rule
from manifests.schema import to_table
from manifests.tables import ManifestStore

RULES = [
    Rule(name="motion", stage="analysed", subject="clip", measure="motion", op=">", threshold=2.0, kinds=("video",)),
    Rule(name="text", stage="content", subject="clip", measure="text_score", op="<", threshold=0.6, kinds=("video", "image")),
    Rule(name="fit", stage="sets", subject="clip", measure="mix_keep", op="==", threshold=1, set_name="hd", on_unknown="accept"),
]

maybe = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]))
versions = st.lists(
    st.tuples(
        st.lists(st.tuples(st.booleans(), st.sampled_from(["video", "image"]), maybe, maybe, maybe, st.sampled_from([None, "hd"])), min_size=6, max_size=6),
        st.permutations([0, 1, 2]).map(lambda p: sorted(p[:2])),
        st.sampled_from([1.0, 2.0]),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def _clip(number: int, kind: str, motion: float | None, text: float | None, mix: float | None, set_name: str | None) -> Clip:
    return Clip(
        clip_id=f"{number:032x}", clip_no=number, asset_id="a" * 32, asset_no=number // 2, kind=kind, start_us=0, end_us=4,
        motion=motion, text_score=text, mix_keep=mix, set_name=set_name,
    )  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(versions)
def test_the_state_follows_from_the_changes_alone(history: list) -> None:
    """Whatever runs did (other scores, thresholds, rules, sets, clips that come and go), the newest rows give each run's verdicts exactly."""
    import tempfile

    kinds: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, numbers = ManifestStore(folder), {}
        for run_no, (rows, chosen, threshold) in enumerate(history):
            policy = [dataclasses.replace(RULES[i], threshold=threshold if i == 0 else RULES[i].threshold) for i in chosen]
            numbered = [(numbers.setdefault((r.name, r.threshold), len(numbers)), r) for r in policy]
            clips = to_table(Clip, [_clip(i, kinds.setdefault(i, k), *rest) for i, (there, k, *rest) in enumerate(rows) if there])
            decided = ledger.decide(numbered, clips)
            before = ledger.read_newest(store.files("decisions"), "clip", 0, 6, [n for n, _ in numbered])
            added = ledger.changes(decided, clips, before, run_no)
            store.commit(f"run{run_no}", append={"decisions": added}, replace={"clips": ledger.with_state(clips, decided.first_fail)})
            newest = ledger.read_newest(store.files("decisions"), "clip", 0, 6, [n for n, _ in numbered])
            at = clips.column("clip_no").to_numpy()
            assert ledger.first_fails(numbered, newest)[at].tolist() == decided.first_fail.tolist()
            for v in decided.verdicts:
                codes, scores = newest.of(v.rule_no)
                expected = np.full(6, -1)
                expected[at[v.rows]] = v.codes
                found = np.where(codes[at] == ledger.NOT_APPLICABLE, -1, codes[at])
                assert found.tolist() == expected[at].tolist()
                assert np.array_equal(scores[at[v.rows]], v.scores, equal_nan=True)
            assert ledger.changes(decided, clips, newest, run_no + 1).num_rows == 0


def test_a_run_appends_what_changed_only(tmp_path: Path) -> None:
    """The same run again appends nothing; a changed score appends its row and those whose reason it changes, no others."""
    store = ManifestStore(tmp_path)
    numbered = list(enumerate(RULES[:2]))
    clips = to_table(Clip, [_clip(i, "video", 3.0, None if i else 0.1, None, None) for i in range(4)])

    def run(table: pa.Table, run_no: int) -> pa.Table:
        before = ledger.read_newest(store.files("decisions"), "clip", 0, 4, [0, 1])
        added = ledger.changes(ledger.decide(numbered, table), table, before, run_no)
        store.commit(f"run{run_no}", append={"decisions": added})
        return added

    assert run(clips, 0).num_rows == 8
    assert run(clips, 1).num_rows == 0
    slower = to_table(Clip, [_clip(i, "video", 1.0 if i == 2 else 3.0, None if i else 0.1, None, None) for i in range(4)])
    added = run(slower, 2).to_pylist()
    assert [(r["rule_no"], r["clip_no"], r["passed"], r["reason_code"]) for r in added] == [
        (0, 2, False, "threshold"),
        (1, 2, None, "failed_earlier"),
    ]


def test_ranges_read_only_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range of clips is read from the row groups that can hold it; assets' rows, which carry no clip, are a state of their own."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    store = ManifestStore(tmp_path)
    numbered = list(enumerate(RULES[:2]))
    clips = to_table(Clip, [_clip(i, "video", float(i), 0.1, None, None) for i in range(100)])
    rule = Rule(name="size", stage="facts", subject="asset", measure="short_side_px", op=">=", threshold=5)
    assets = to_table(
        Asset,
        [
            Asset(
                asset_id=f"{i:032x}",
                asset_no=i,
                asset_sha256=b"",
                asset_md5=b"",
                size_bytes=0,
                uri="",
                kind="video",
                short_side_px=float(i),
            )
            for i in range(10)
        ],
    )
    rows = pa.concat_tables([ledger.decide_table([(7, rule)], assets, 0)[0], ledger.decide_table(numbered, clips, 0)[0]])
    store.commit("run0", append={"decisions": rows})
    read: list[int] = []
    original = ledger._put_rows
    monkeypatch.setattr(ledger, "_put_rows", lambda newest, table, *a: (read.append(table.num_rows), original(newest, table, *a)))
    newest = ledger.read_newest(store.files("decisions"), "clip", 40, 20, [0, 1])
    assert newest.of(0)[1].tolist() == [float(i) for i in range(40, 60)]
    assert sum(read) <= 60
    of_assets = ledger.read_newest(store.files("decisions"), "asset", 0, 10, [7])
    assert ledger.first_fails([(7, rule)], of_assets).tolist() == [7] * 5 + [-1] * 5


def test_the_rules_in_force_are_those_of_the_last_run_that_decided() -> None:
    """A run says which rules it applied; where none says so, as in a manifest of before, they are those of the newest run's rows."""
    rows = [
        RuleRow(
            rule_no=n, position=9 - n, kinds="video", **{k: getattr(r, k) for k in (f.name for f in dataclasses.fields(Rule)) if k != "kinds"}
        )
        for n, r in enumerate([*RULES[:2], dataclasses.replace(RULES[0], threshold=5.0)])
    ]  # fmt: skip
    said = [
        Decision(run_no=run, rule_no=rule, asset_no=0, clip_no=0, passed=True, reason_code="pass")
        for run, rule in ((0, 0), (0, 1), (1, 2), (1, 1))
    ]
    tables = {"rules": to_table(RuleRow, rows), "decisions": to_table(Decision, said)}
    assert numbers_in_force(connection(tables)) == [2, 1]
    run = {"run_id": "", "inputs_digest": "", "code_version": "", "config_sha256": "", "config_json": ""}
    runs = [
        Run(run_no=0, command="curate", **run),
        Run(run_no=2, command="decide", policy=[1, 0], **run),
        Run(run_no=3, command="train tae", **run),
    ]
    con = connection(tables | {"runs": to_table(Run, runs)})
    assert [(n, r.name, r.threshold) for n, r in rules_in_force(con, "clip")] == [(1, "text", 0.6), (0, "motion", 2.0)]


def test_numbers_of_clips_that_are_gone_are_not_used_again(tmp_path: Path) -> None:
    """The next number lies beyond every number that the ledger ever had, so a new clip never inherits another's decisions."""
    store = ManifestStore(tmp_path)
    assert ledger.next_number(store.files("decisions"), "clip") == 0
    clips = to_table(Clip, [_clip(i, "video", 3.0, None, None, None) for i in (3, 41, 7)])
    store.commit("run0", append={"decisions": ledger.decide_table([(0, RULES[0])], clips, 0)[0]})
    assert ledger.next_number(store.files("decisions"), "clip") == 42


def test_nan_is_no_score() -> None:
    """A NaN is refused by the rule in Python, by the ledger and by SQL; it is neither pass nor unknown."""
    import duckdb

    clips = to_table(Clip, [_clip(0, "video", float("nan"), None, None, None)])
    with pytest.raises(ValueError, match="motion is NaN"):
        RULES[0].verdict(float("nan"))
    with pytest.raises(ValueError, match="motion is NaN"):
        ledger.decide([(0, RULES[0])], clips)
    with pytest.raises(duckdb.InvalidInputException, match="motion is NaN"):
        duckdb.sql(f"SELECT {RULES[0].sql()} FROM clips").fetchall()  # noqa: S608
    with pytest.raises(ValueError, match="threshold is NaN"):
        dataclasses.replace(RULES[0], threshold=float("nan"))
