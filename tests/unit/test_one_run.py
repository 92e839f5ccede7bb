"""Two commands that change one dataset do not run at once; commands that read it run beside them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.ledger_manifest import build
from curation import quarantine
from curation.quarantine import note_failure
from manifests.deny import DenyList
from manifests.records import Asset, Clip
from manifests.schema import from_table
from manifests.tables import ManifestStore
from pipelines import one_run
from pipelines.backtranslate import register
from pipelines.cli import app
from pipelines.one_run import DatasetBusy, alone
from pipelines.stage import Place
from pipelines.takedown import to_itself
from tests.conftest import ROOT

HOLD = "import sys, time, pathlib; from pipelines.one_run import alone\nwith alone(pathlib.Path(sys.argv[1]), 'curate'): print('held', flush=True); time.sleep(60)"


def test_a_second_run_says_who_holds_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with dataset, command, process and remedy; once the first is gone, killed or not, the next has the dataset at once."""
    monkeypatch.setattr(one_run, "_WAIT_S", 0.1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=environment) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        said = rf"{tmp_path}: expected no other .* found `dailies curate`: process {first.pid} on .*; wait for it"
        with pytest.raises(DatasetBusy, match=said), alone(tmp_path, "curate"):
            pass
        first.kill()
    monkeypatch.undo()
    for _ in range(2):
        with alone(tmp_path, "decide"):
            assert str(os.getpid()) in (tmp_path / "work" / one_run.LOCK).read_text()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decided dataset of a few clips, of which one asset has cost a process."""
    root = tmp_path_factory.mktemp("dataset")
    build(root, 60, [])
    note_failure(Place(root).quarantine, _asset(root).asset_id, "scan-0", "crashed", "signal 11")
    return root


def _asset(dataset: Path) -> Asset:
    found: list[Asset] = from_table(Asset, ManifestStore(dataset).read("assets"))
    return found[0]


def test_what_changes_a_dataset_waits_for_a_curation(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While `curate` has it, `takedown --execute`, `decide --commit`, `pick --file`, `purge --execute` and `quarantine release` end with status
    2 and say who has it, and nothing is changed, but that nobody trains on what is to be taken down; the same commands without these options
    read on, and a release of a version is made."""
    monkeypatch.setattr(one_run, "_WAIT_S", 0.0)
    store, picks, asset = ManifestStore(dataset), dataset / "picks.csv", _asset(dataset).asset_id
    picks.write_text("clip_id,picked,reason\n")
    before = store.version()
    changing = [
        ["takedown", dataset, "--asset", asset, "--execute"],
        ["decide", dataset, "rules.motion.threshold=3", "--commit"],
        ["pick", dataset, "sft", "--file", picks],
        ["quarantine", "release", dataset, asset],
        ["purge", dataset, "--keep", "1", "--execute"],
    ]
    reading = [["takedown", dataset, "--asset", asset], ["decide", dataset, "rules.motion.threshold=3"], ["quarantine", "list", dataset]]
    reading += [["purge", dataset, "--keep", "1"], ["release", dataset, "beside"]]
    with alone(dataset, "curate"):
        for command in changing:
            result = CliRunner().invoke(app, [str(c) for c in command])
            assert result.exit_code == 2 and f"found `dailies curate`: process {os.getpid()}" in result.stderr, (command, result.output)
        for command in reading:
            result = CliRunner().invoke(app, [str(c) for c in command], catch_exceptions=False)
            assert result.exit_code == 0, (command, result.output)
    assert store.version() == before and not (dataset / "takedowns").exists()
    clips = [c.clip_id for c in from_table(Clip, store.read("clips")) if c.asset_id == asset]
    assert clips and DenyList(dataset).clips() == dict.fromkeys(clips, 0), "nobody trains on what was named"
    assert quarantine.attempts(Place(dataset).quarantine, asset, "scan-0")
    for command in (changing[0], changing[1]):
        assert CliRunner().invoke(app, [str(c) for c in command], catch_exceptions=False).exit_code == 0
    assert store.version() == before + 3 and DenyList(dataset).clips() == dict.fromkeys(clips, 1)


def test_a_release_does_not_freeze_what_a_takedown_rewrites(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a takedown has the dataset, or a purge, `release` ends with status 2, says who has it, and leaves no folder."""
    monkeypatch.setattr(one_run, "_WAIT_S", 0.0)
    with to_itself(ManifestStore(dataset)):
        result = CliRunner().invoke(app, ["release", str(dataset), "v9"])
    assert result.exit_code == 2 and f"found `dailies takedown`: process {os.getpid()}" in result.stderr
    assert not (dataset / "releases" / "v9").exists()


def test_a_takedown_has_what_was_made_of_the_dataset_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While edits of a dataset's clips are gathered, a takedown there does not begin; afterwards it holds both datasets."""
    monkeypatch.setattr(one_run, "_WAIT_S", 0.0)
    real, edits = tmp_path / "real", tmp_path / "edits"
    for root in (real, edits):
        build(root, 3, [])
    register(ManifestStore(real), edits, {})
    with alone(edits, "backtranslate"), pytest.raises(DatasetBusy, match="found `dailies backtranslate`"), to_itself(ManifestStore(real)):
        pass
    with to_itself(ManifestStore(real)):
        for root in (real, edits):
            with pytest.raises(DatasetBusy, match="found `dailies takedown`"), alone(root, "curate"):
                pass
