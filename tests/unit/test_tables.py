"""A manifest version spans all tables; crashes leave it whole; history stays readable."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from manifests import tables
from manifests.events import Block, Decision
from manifests.records import Clip
from manifests.schema import TABLES, arrow_schema, from_table, to_table
from manifests.tables import ManifestError, ManifestStore

ALLOWED = {"string", "binary", "bool", "int32", "int64", "float", "double", "timestamp[us, tz=UTC]", "list<item: int32>"}


def _block(*values: str) -> pa.Table:
    return to_table(Block, [Block(kind="sha256", value=v) for v in values])


def _decision(rule: int) -> pa.Table:
    return to_table(Decision, [Decision(run_no=0, rule_no=rule, asset_no=0, passed=None, reason_code="not_run")])


def test_every_column_has_a_type_that_all_readers_share_and_a_description() -> None:
    """Schemas use only types that Delta, DuckDB and Spark read alike, and every column says what it means."""
    for record in TABLES.values():
        for field in arrow_schema(record):
            assert str(field.type) in ALLOWED
            assert len(field.metadata[b"doc"]) > 2


def test_records_survive_the_tables() -> None:
    """A record written and read again is the same record."""
    clip = Clip(clip_id="c", asset_id="a", kind="video", start_us=1, end_us=2, motion=0.5)
    assert from_table(Clip, to_table(Clip, [clip])) == [clip]


def test_versions_are_whole_and_stay_readable(tmp_path: Path) -> None:
    """Each commit is one version over all its tables; an old version reads as it was; absent tables are empty, not errors."""
    store = ManifestStore(tmp_path)
    assert store.version() == -1
    assert store.read("clips").num_rows == 0
    assert store.commit("run0", append={"decisions": _decision(0)}, replace={"blocklist": _block("a", "b")}) == 0
    assert store.commit("run1", append={"decisions": _decision(1)}, replace={"blocklist": _block("c")}) == 1
    assert store.read("blocklist", 0).column("value").to_pylist() == ["a", "b"]
    assert store.read("blocklist").column("value").to_pylist() == ["c"]
    assert store.read("decisions").column("rule_no").to_pylist() == [0, 1]
    with pytest.raises(ManifestError, match="versions on disk: 0 to 1"):
        store.read("clips", 7)
    with pytest.raises(ManifestError, match="no table 'clip'"):
        store.read("clip")


@pytest.mark.parametrize("name", ["a b", "ü", "a#b?c", "100%"])
def test_a_dataset_may_have_any_name_that_people_give_it(tmp_path: Path, name: str) -> None:
    """Spaces, letters beyond ASCII and marks of addresses in the dataset's path are read back as they are."""
    store = ManifestStore(tmp_path / name)
    store.commit("run", replace={"blocklist": _block("x")})
    assert store.read("blocklist").num_rows == 1
    assert all(Path(f).is_file() for f in store.files("blocklist"))


def test_a_name_that_delta_takes_for_another_is_refused(tmp_path: Path) -> None:
    """`a%20b` would open the folder `a b`: the error says so, and nothing is written there."""
    with pytest.raises(ManifestError, match="rename the folder"):
        ManifestStore(tmp_path / "a%20b").commit("run", replace={"blocklist": _block("x")})
    assert not (tmp_path / "a b").exists()


def test_a_retried_run_commits_once(tmp_path: Path) -> None:
    """Committing again under the same run id changes nothing and names the version that run made."""
    store = ManifestStore(tmp_path)
    store.commit("run0", append={"decisions": _decision(0)})
    assert store.commit("run0", append={"decisions": _decision(0)}) == 0
    assert store.read("decisions").num_rows == 1


def test_append_only_tables_cannot_be_replaced(tmp_path: Path) -> None:
    """The ledger refuses replacement, in our code and in Delta itself."""
    store = ManifestStore(tmp_path)
    store.commit("run0", append={"decisions": _decision(0)})
    with pytest.raises(ManifestError, match="append only"):
        store.commit("run1", replace={"decisions": _decision(1)})
    with pytest.raises(Exception, match=r"(?i)append.?only"):
        DeltaTable(store.folder / "decisions").delete()


def test_tables_stay_in_the_plain_parquet_profile(tmp_path: Path) -> None:
    """The Delta protocol is reader version 1 and the file list of a version, read as plain Parquet, is the table."""
    store = ManifestStore(tmp_path)
    store.commit("run0", replace={"blocklist": _block("a")})
    store.commit("run1", replace={"blocklist": _block("b")})
    assert DeltaTable(store.folder / "blocklist").protocol().min_reader_version == 1
    assert pq.read_table(store.files("blocklist")[0]).column("value").to_pylist() == ["b"]
    assert len(store.files("blocklist")) == 1


def test_a_column_added_later_is_null_in_older_files(tmp_path: Path) -> None:
    """A table written before a column existed reads with that column null, and takes new rows that have it."""
    store = ManifestStore(tmp_path)
    store.commit("run0", replace={"blocklist": _block("a")})
    old = store.folder / "blocklist"
    narrow = pa.schema([f for f in arrow_schema(Block) if f.name != "takedown_no"])
    for path in store.files("blocklist"):
        tables.write_parquet(Path(path), pq.read_table(path).select(narrow.names))
    assert store.read("blocklist").column("takedown_no").to_pylist() == [None]
    assert old.is_dir()


@pytest.mark.parametrize("stop", ["_stage", "_apply_write", "before_version"])
def test_a_crash_anywhere_in_a_commit_leaves_no_half(tmp_path: Path, stop: str) -> None:
    """Killed while staging: no trace. Killed after the commit point: the next writer completes exactly that commit."""
    script = f"""
import os, signal, sys
from manifests import tables
from manifests.tables import ManifestStore
from tests_support import block, decision
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
if {stop!r} == "before_version":
    original = tables.publish
    tables.publish = lambda path, data: die() if path.parent.name == "_versions" else original(path, data)
else:
    original = getattr(ManifestStore, {stop!r}); calls = []
    def second(*a, **k):
        calls.append(1)
        return die() if len(calls) == 2 else original(*a, **k)
    setattr(ManifestStore, {stop!r}, second)
ManifestStore({str(tmp_path)!r}).commit("run1", append={{"decisions": decision(1)}}, replace={{"blocklist": block("new")}})
"""
    support = tmp_path / "support"
    support.mkdir()
    (support / "tests_support.py").write_text(
        "from manifests.events import Block, Decision\nfrom manifests.schema import to_table\n"
        "def block(*v): return to_table(Block, [Block(kind='sha256', value=x) for x in v])\n"
        "def decision(r): return to_table(Decision, [Decision(run_no=0, rule_no=r, asset_no=0, passed=None, reason_code='not_run')])\n"
    )
    store = ManifestStore(tmp_path)
    store.commit("run0", append={"decisions": _decision(0)}, replace={"blocklist": _block("old")})
    root = Path(tables.__file__).parent.parent
    died = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": f"{root}:{support}"}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert store.read("blocklist").column("value").to_pylist() == ["old"]
    assert store.read("decisions").num_rows == 1
    store.recover()
    done = stop != "_stage"
    assert store.version() == (1 if done else 0)
    assert store.read("blocklist").column("value").to_pylist() == (["new"] if done else ["old"])
    assert store.commit("run1", append={"decisions": _decision(1)}, replace={"blocklist": _block("new")}) == 1
    assert store.read("decisions").column("rule_no").to_pylist() == [0, 1]


def test_versions_say_what_they_hold(tmp_path: Path) -> None:
    """The list of versions names each run and the Delta version of every table, as plain JSON."""
    store = ManifestStore(tmp_path)
    store.commit("run0", replace={"blocklist": _block("a")})
    state = json.loads((store.folder / "_versions" / "000000000000.json").read_text())
    assert store.versions() == [state]
    assert state["run_id"] == "run0"
