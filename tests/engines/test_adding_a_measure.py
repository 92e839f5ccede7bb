"""The guide docs/adding-a-measure.md, carried out word by word on a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.engine

STEP = re.compile(r"<!-- (new|after) (\S+?)(?: \| (.+?))? -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, configuration and test helpers with every step of the guide applied."""
    copy = tmp_path_factory.mktemp("guide") / "project"
    for name in ("manifests", "curation", "training", "pipelines", "conf", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    steps = STEP.findall((ROOT / "docs" / "adding-a-measure.md").read_text())
    assert len(steps) == 6
    for kind, name, anchor, text in steps:
        path = copy / name
        if kind == "new":
            path.write_text(text)
            continue
        lines = path.read_text().splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(anchor))
        path.write_text("".join([*lines[: at + 1], text, *lines[at + 1 :]]))
    return copy


def _run(project: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_the_guides_own_test_passes(project: Path) -> None:
    """The test that the guide writes for its measure passes in the changed copy."""
    assert "1 passed" in _run(project, "-m", "pytest", "tests/unit/test_flicker.py", "-o", "addopts=--import-mode=importlib").stdout


def test_the_new_measure_is_measured_ruled_and_replayed(project: Path, samples: Path, tmp_path: Path) -> None:
    """A curation with the changed copy fills the new column, its rule decides on it, and its own setting is known to the command line."""
    out = tmp_path / "dataset"
    curate = ("-m", "pipelines.cli", "curate", samples / "pan_right.mp4", "--out", out, "--json", "engine.name=local")
    _run(project, *curate)
    asked = _run(project, "-m", "pipelines.cli", "query", out, "select flicker from clips", "--json")
    assert all(row["flicker"] is not None for row in json.loads(asked.stdout))
    rules = _run(project, "-m", "pipelines.cli", "query", out, "select name from rules where measure = 'flicker'", "--json")
    assert json.loads(rules.stdout) == [{"name": "flicker"}]
    replayed = _run(project, "-m", "pipelines.cli", "replay", out, "measure-flicker", "--asset", "pan_right.mp4", "--json")
    assert json.loads(replayed.stdout)["differences"] == []
