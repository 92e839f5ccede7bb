"""Two curations of one dataset do not run at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import one_run
from pipelines.one_run import DatasetBusy, alone
from tests.conftest import ROOT

HOLD = "import sys, time, pathlib; from pipelines.one_run import alone\nwith alone(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_second_run_says_who_holds_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with dataset, process and remedy; once the first is gone, killed or not, the next has the dataset at once."""
    monkeypatch.setattr(one_run, "_WAIT_S", 0.1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "work")], stdout=subprocess.PIPE, env=environment) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        said = rf"{tmp_path}: expected no other run .* found one: process {first.pid} on .*; wait for it"
        with pytest.raises(DatasetBusy, match=said), alone(tmp_path / "work"):
            pass
        first.kill()
    monkeypatch.undo()
    for _ in range(2):
        with alone(tmp_path / "work"):
            assert str(os.getpid()) in (tmp_path / "work" / one_run.LOCK).read_text()
