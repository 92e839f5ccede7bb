"""Killing everything at random moments loses nothing: the same command ends with the same tables and the same shard bytes."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from manifests.schema import TABLES
from manifests.tables import ManifestStore

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
CLOCKS = {"started_at", "ended_at"}


@pytest.mark.engine
@pytest.mark.timeout(1500)
def test_ten_kills_leave_the_dataset_of_an_uninterrupted_run(samples: Path, curated, tmp_path: Path) -> None:
    """kill -9 of the whole process tree at ten random moments, then the same command: equal tables (but for clocks), equal shards."""
    out = tmp_path / "dataset"
    draw = random.Random(20241)
    kills = 0
    while kills < KILLS:
        process = _start(samples, out)
        if _ended(process, draw.uniform(1.0, 16.0)):
            _assert_equal(out, curated.path)
            shutil.rmtree(out)  # it got through between two kills: the remaining ones hit a new run
        else:
            _kill_tree(process)
            kills += 1
    assert _start(samples, out).wait(900) == 0
    _assert_equal(out, curated.path)


def _assert_equal(one: Path, other: Path) -> None:
    assert _shards(one) == _shards(other)
    for table in TABLES:
        assert _rows(one, table) == _rows(other, table), table


def _start(samples: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pipelines.cli", "curate", str(samples), "--out", str(out), "--config", "tiny", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ended(process: "subprocess.Popen[bytes]", after_s: float) -> bool:
    end = time.monotonic() + after_s
    while time.monotonic() < end:
        if process.poll() is not None:
            return True
        time.sleep(0.05)
    return False


def _kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """Every process of the command dies at once: Ray's daemons and workers, Spark's JVM, decoders, the driver."""
    tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in tree:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(tree, timeout=20)


def _shards(dataset: Path) -> dict[str, str]:
    return {str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((dataset / "shards").rglob("*.tar"))}


def _rows(dataset: Path, table: str) -> list[dict[str, Any]]:
    rows = ManifestStore(dataset).read(table).to_pylist()
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]
