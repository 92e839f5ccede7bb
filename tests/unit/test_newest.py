"""The file of newest verdicts says what the ledger says, whatever happened before, and keeps what is read from growing with history."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.ledger_manifest import build
from manifests import ledger, newest, rebuild
from manifests.newest import keep_newest, ledger_files
from manifests.tables import ManifestStore
from pipelines.decide import decide

N = 12
"""Subjects of each kind."""


def _commit(store: ManifestStore, run_no: int, rows: list[tuple[int, int, bool, int, float]]) -> None:
    """Rows (rule, number, on a clip, code, score) are appended to the ledger; NaN is no score."""
    rows = sorted(rows)
    codes = [ledger.REASONS[code] for *_, code, _ in rows]
    columns = {
        "run_no": [run_no] * len(rows),
        "rule_no": [r[0] for r in rows],
        "asset_no": [r[1] for r in rows],
        "clip_no": [r[1] if r[2] else None for r in rows],
        "score": [None if np.isnan(r[4]) else r[4] for r in rows],
        "passed": [c == "pass" if c in ("pass", "threshold") else None for c in codes],
        "reason_code": codes,
    }
    store.commit(f"run{run_no}", append={"decisions": pa.table(columns, schema=ledger.SCHEMA)})


def _same(store: ManifestStore, version: int | None = None) -> None:
    """The files to read say of every rule and subject what all files of the ledger say."""
    short, whole = ledger_files(store, version), store.files("decisions", version)
    for subject in ("asset", "clip"):
        for first, n, rules in ((0, N, range(5)), (3, 4, [1, 4])):
            a, b = (ledger.read_newest(files, subject, first, n, list(rules)) for files in (short, whole))
            for rule in rules:
                for x, y in zip(a.of(rule), b.of(rule), strict=True):
                    np.testing.assert_array_equal(x, y)


row = st.tuples(st.integers(0, 4), st.integers(0, N - 1), st.booleans(), st.integers(0, 5), st.sampled_from([float("nan"), 0.0, 2.5]))


@settings(max_examples=12)
@given(st.lists(st.lists(row, min_size=1, max_size=40, unique_by=lambda r: r[:3]), min_size=2, max_size=5))
def test_it_says_what_the_ledger_says(history: list[list[tuple[int, int, bool, int, float]]]) -> None:
    """After any history, in the newest and in older versions, for ranges and for some of the rules; deleted, the ledger is read again."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = ManifestStore(folder)
        for run_no, rows in enumerate(history):
            _commit(store, run_no, rows)
            keep_newest(store)
            for version in range(run_no + 1):
                _same(store, version)
        shutil.rmtree(store.folder / "_newest", ignore_errors=True)
        assert ledger_files(store) == store.files("decisions")


def test_what_is_read_does_not_grow_with_history(tmp_path: Path) -> None:
    """Thirty runs that change every verdict leave thirty times the rows in the ledger, and at most two and a half times one run's to be read; the
    newest file and the one before are left."""
    store, made, most = ManifestStore(tmp_path), 0, 0
    for run_no in range(30):
        _commit(store, run_no, [(rule, i, True, (run_no + rule) % 2, float(run_no)) for rule in range(5) for i in range(N)])
        made += keep_newest(store) is not None
        most = max(most, sum(pq.read_metadata(f).num_rows for f in ledger_files(store)))
        _same(store)
    every = sum(pq.read_metadata(f).num_rows for f in store.files("decisions"))
    assert (every, most <= 2.5 * 5 * N, len(list((store.folder / "_newest").iterdir()))) == (30 * 5 * N, True, 2)
    assert 10 <= made <= 30
    few = [(0, 0, True, 0, 1.0)]
    _commit(store, 30, few)
    assert keep_newest(store) is None, "one row is not worth it"
    _same(store)


def test_decisions_are_made_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history of decisions ends in the same rows with the file and without it, and the state rebuilt from the ledger alone is the stored one."""
    monkeypatch.setattr(newest, "_SHARE", 0.01)  # four decisions are no long history
    thresholds = (3, 1, 4, 2)
    ends = []
    for kept in (True, False):
        root = tmp_path / str(kept)
        store = build(root, 300, [])
        for value in thresholds:
            decide(root, [f"rules.motion.threshold={value}", f"rules.short_side.threshold={200 * value}"], commit=True)
            if not kept:
                shutil.rmtree(store.folder / "_newest", ignore_errors=True)
        assert rebuild.compare(store) == []
        assert (ledger_files(store) != store.files("decisions")) == kept
        ends.append(store.read("decisions"))
    assert ends[0].equals(ends[1])
