"""The manifest under real processes: writers at the same time, and kills at every step of a commit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import parquet
from manifests.events import Block, Decision
from manifests.schema import to_table
from manifests.tables import ManifestStore

pytestmark = pytest.mark.engine

ROOT = Path(parquet.__file__).parent.parent

WRITER = """
import sys
from manifests.events import Block, Decision
from manifests.schema import to_table
from manifests.tables import ManifestStore
root, writer, commits = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = ManifestStore(root)
for i in range(commits):
    row = Decision(run_no=writer, rule_no=i, asset_no=writer * 1000 + i, passed=True, reason_code="pass")
    block = Block(kind="sha256", value=f"{writer}-{i}")
    store.commit(f"{writer:02d}{i:030d}", append={"decisions": to_table(Decision, [row])}, replace={"blocklist": to_table(Block, [block])})
"""


def _decision(rule: int) -> pa.Table:
    return to_table(Decision, [Decision(run_no=0, rule_no=rule, asset_no=0, passed=None, reason_code="not_run")])


def _block(*values: str) -> pa.Table:
    return to_table(Block, [Block(kind="sha256", value=v) for v in values])


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    """Four processes that commit 25 times each give 100 versions, each with exactly the rows of its commit on top of the one before."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(w), "25"], env=environment) for w in range(4)]
    assert [w.wait() for w in writers] == [0, 0, 0, 0]
    store = ManifestStore(tmp_path)
    assert store.version() == 99
    runs = [s["run_id"] for s in store.versions()]
    assert sorted(runs) == sorted(f"{w:02d}{i:030d}" for w in range(4) for i in range(25))
    assert sorted(store.read("decisions").column("asset_no").to_pylist()) == [w * 1000 + i for w in range(4) for i in range(25)]
    for version in (0, 50, 99):
        assert store.read("decisions", version).num_rows == version + 1
        writer, number = int(runs[version][:2]), int(runs[version][2:])
        assert store.read("blocklist", version).column("value").to_pylist() == [f"{writer}-{number}"]


KILLED = """
import os, signal, sys
from manifests import files, parquet, tables
from manifests.tables import ManifestStore
from manifests.events import Block, Decision
from manifests.schema import to_table
root, point = sys.argv[1], int(sys.argv[2])
calls = 0
def counted(function):
    def wrapped(*a, **k):
        global calls
        calls += 1
        if calls == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*a, **k)
    return wrapped
for name in ("replace", "link", "rename", "fsync", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
tables.DeltaTable.create_write_transaction = counted(tables.DeltaTable.create_write_transaction)
row = Decision(run_no=1, rule_no=1, asset_no=0, passed=True, reason_code="pass")
ManifestStore(root).commit("second", append={"decisions": to_table(Decision, [row])}, replace={"blocklist": to_table(Block, [Block(kind="sha256", value="new")])})
print(calls)
"""


def test_a_kill_at_any_point_of_a_commit_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    """Killed before every step that touches the disk in turn, a reader sees the old version whole; the next writer ends with both commits."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    point, died, shown = 1, True, set()
    while died:
        root = tmp_path / str(point)
        store = ManifestStore(root)
        store.commit("first", append={"decisions": _decision(0)}, replace={"blocklist": _block("old")})
        command = [sys.executable, "-c", KILLED, str(root), str(point)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        died = done.returncode != 0
        state = (store.version(), store.read("decisions").num_rows, *store.read("blocklist").column("value").to_pylist())
        assert state in {(0, 1, "old"), (1, 2, "new")}
        shown.add(state)
        assert store.commit("third", append={"decisions": _decision(3)}) == store.version()
        again = store.commit("second", append={"decisions": _decision(1)}, replace={"blocklist": _block("new")})
        assert again in (1, 2)
        assert sorted(store.read("decisions").column("rule_no").to_pylist()) == [0, 1, 3]
        assert store.read("blocklist").column("value").to_pylist() == ["new"]
        point += 1
    assert point > 8
    assert len(shown) == 2
