"""What a person gives amiss is told in a sentence with its remedy and exit status 2; nothing is read without end or passed over."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.ledger_manifest import build
from manifests import find
from manifests.events import Takedown
from manifests.schema import to_table
from manifests.tables import ManifestStore
from manifests.wording import visible
from pipelines import cli, console
from pipelines.cli import app


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decided dataset of a few clips."""
    root = tmp_path_factory.mktemp("dataset")
    build(root, 20, [])
    return root


def run(*arguments: object) -> Any:
    """The command's result."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe to which nobody writes, with a film's name."""
    os.mkfifo(tmp_path / "pipe.mp4")
    return tmp_path / "pipe.mp4"


@pytest.mark.timeout(60)
def test_a_pipe_is_no_file(dataset: Path, pipe: Path) -> None:
    """What would be waited for without end is refused by every command that takes a file."""
    for command in (["verify", pipe], ["lookup", dataset, pipe], ["takedown", dataset, "--file", pipe], ["walkthrough", pipe]):
        result = run(*command)
        assert result.exit_code == 2 and f"{pipe}: expected a file, found what is no regular file" in result.stderr, command


def test_a_file_that_is_not_there_is_named(dataset: Path) -> None:
    """Not as an error of the system, but by what was expected."""
    for command in (
        ["takedown", dataset, "--file", "nosuch.mp4"],
        ["verify", "nosuch.json"],
        ["verify", "--proof", "nosuch.json", dataset],
    ):
        result = run(*command)
        assert result.exit_code == 2 and "expected a file, found nothing there" in result.stderr, command


def test_a_version_is_not_negative(dataset: Path) -> None:
    """-1, which stands for no version within the manifest, is not read as an empty dataset."""
    for command in (["verify", dataset, "--version", "-1"], ["query", dataset, "select 1", "--version", "-1"]):
        assert run(*command).exit_code == 2


def test_verify_takes_no_option_that_it_does_not_look_at(dataset: Path) -> None:
    """A key with a dataset, which nobody signs, would pass for a signature that was checked."""
    for options in (["--key", "k"], ["--latest-known", "z"], ["--after", "r"], ["--data", "d"]):
        result = run("verify", dataset, *options)
        assert result.exit_code == 2 and options[0] in result.stderr


def test_columns_of_one_name_are_refused(dataset: Path) -> None:
    """Values are never told under another's name, or lost."""
    result = run("query", dataset, "select decision, decision from clips")
    assert result.exit_code == 2 and "decision more than once; give them others with AS" in result.stderr


def test_json_holds_nothing_that_is_no_json(dataset: Path) -> None:
    """Numbers that are none are null, within lists too; whole values go to a file, however long."""
    result = run("query", dataset, "select 'nan'::double a, ['inf'::double, 1] b", "--json")
    assert json.loads(result.stdout, parse_constant=pytest.fail) == [{"a": None, "b": [None, 1.0]}]
    assert "x" * 5000 in run("query", dataset, "select repeat('x', 5000) a").stdout


def test_a_typing_error_is_no_dataset(tmp_path: Path) -> None:
    """Quarantine finds nothing where there is nothing, and leaves nothing there."""
    for command in (["quarantine", "list", tmp_path / "nosuch"], ["quarantine", "release", tmp_path / "nosuch", "--all"]):
        result = run(*command)
        assert result.exit_code == 2 and "expected a dataset with a manifest, found none" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [b"rules: [1", b"\xff\xfe\x00"])
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, text: bytes) -> None:
    """YAML that does not parse, or is no text, is an error of that file."""
    (tmp_path / "bad.yaml").write_bytes(text)
    result = run("curate", tmp_path, "--out", tmp_path / "out", "--config", tmp_path / "bad.yaml")
    assert result.exit_code == 2 and f"{tmp_path / 'bad.yaml'}: " in result.stderr


def test_an_output_that_is_a_file_is_named(tmp_path: Path) -> None:
    """A dataset needs a folder."""
    (tmp_path / "out").write_text("")
    result = run("curate", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and f"{tmp_path / 'out'}: expected a folder that can be written to" in result.stderr


def test_a_wrong_rights_table_is_told_before_anything_is_read(tmp_path: Path) -> None:
    """No file is hashed for it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"x")
    (tmp_path / "rights.csv").write_text("nosuch,column\n1,2\n")
    result = run("curate", tmp_path / "in", "--out", tmp_path / "out", "--rights", tmp_path / "rights.csv")
    assert result.exit_code == 2 and "rights.csv" in result.stderr
    assert not list((tmp_path / "out" / "work").rglob("*.parquet"))


def test_a_damaged_manifest_is_a_fault_and_not_a_bug(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` says that it does not hold; other commands end with 2 and name `verify`. Other errors keep their traceback."""
    damaged = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    shutil.rmtree(damaged / "manifest" / "rules" / "_delta_log")
    result = run("verify", damaged)
    assert result.exit_code == 1 and "FAULT" in result.output
    told: list[str] = []
    monkeypatch.setattr(console, "_tell", told.append)
    with pytest.raises(SystemExit) as ended:
        _main(monkeypatch, "explain", damaged, "nosuch.mp4")
    assert ended.value.code == 2 and "`dailies verify DATASET` says which" in told[0]
    with pytest.raises(ZeroDivisionError):
        console.tell_unreadable(ZeroDivisionError())


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The console script in this process."""
    monkeypatch.setattr("sys.argv", ["dailies", *map(str, arguments)])
    cli.main()


def test_a_mistyped_rule_is_told_as_one(tmp_path: Path) -> None:
    """Not as a fault of the file that the override is laid over: the message names the rules that there are."""
    result = run("curate", tmp_path, "--out", tmp_path / "out", "rules.nosuch.threshold=4")
    assert result.exit_code == 2 and "there is no rules.nosuch" in result.stderr and "motion" in result.stderr


def test_a_key_without_a_value_is_no_file(tmp_path: Path) -> None:
    """Who leaves out `=3` is told so."""
    result = run("curate", tmp_path, "--out", tmp_path / "out", "rules.motion.threshold")
    assert result.exit_code == 2 and "key=value" in result.stderr


def test_a_stage_that_is_not_there_is_told_with_those_that_are() -> None:
    """Not as a configuration that is missing in a folder that nobody knows."""
    result = run("plan", "nosuch")
    assert result.exit_code == 2 and "'nosuch'; there are some of" in result.stderr and "tae" in result.stderr


def test_a_name_is_found_as_it_is_shown(dataset: Path) -> None:
    """What stands in the place of characters that a terminal would obey can be given back."""
    assert find._as_stored(visible("a\nb\u202e.mp4")) == "a\nb\u202e.mp4"


def test_a_takedown_that_was_not_ended_is_told(dataset: Path, tmp_path: Path) -> None:
    """`verify` holds, and says that somebody waits; once it is executed it says so no more."""
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    store = ManifestStore(copy)
    rows = [Takedown(takedown_no=n, basis="copyright", selector="hash", state=s) for n, s in ((1, "open"), (2, "open"), (2, "executed"))]
    store.commit("7" * 32, append={"takedowns": to_table(Takedown, rows)})
    assert json.loads(run("verify", copy, "--json").stdout)["open_takedowns"] == [1]
    assert "takedown 1 was begun and not ended" in run("verify", copy).stdout
