"""What the commands print for people: nothing that comes from a file reaches the terminal as anything but text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.console import errors, print_table, store_of
from pipelines.provenance import code_version
from tests.conftest import ROOT
from tests.fake_dataset import fake_tables, write_store

HOSTILE = "a\x1b]0;owned\x07\x1b[2Jb\x9bc\u202egpj.exe\u200b[bold]"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2Jb\\x9bc\\u202egpj.exe\\u200b[bold]"


def _obeyed(text: str) -> list[str]:
    return [c for c in text if c != "\n" and not c.isprintable()]


def test_cells_and_names_of_a_table_show_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    """Escapes, controls, bidi overrides and line ends in a cell or a column's name are written out; brackets are no markup."""
    print_table(["n", HOSTILE], [["1", HOSTILE], ["2", "two\nlines"], ["3", "plain é 漢"]])
    out = capsys.readouterr().out
    assert _obeyed(out) == []
    assert out.count(SHOWN) == 2 and "two\\x0alines" in out and "plain é 漢" in out
    assert len(out.splitlines()) == 4


def test_an_error_shows_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence of an error names the file as it is, with exit status 2; a further line is set in and passes for no message of its own."""
    with pytest.raises(typer.Exit) as stopped, errors(ValueError):
        raise ValueError(f"{HOSTILE}: expected a folder\ndailies: all is well")
    err = capsys.readouterr().err
    assert stopped.value.exit_code == 2 and _obeyed(err) == []
    assert err == f"dailies: {SHOWN}: expected a folder\n  dailies: all is well\n"


def test_a_dataset_that_is_not_there_is_named_visibly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder's name is told with its escapes written out."""
    with pytest.raises(typer.Exit):
        store_of(tmp_path / HOSTILE)
    err = capsys.readouterr().err
    assert _obeyed(err) == [] and err.count(SHOWN) == 2


def test_a_command_does_not_wait_for_pandas(tmp_path: Path) -> None:
    """`dailies query` gives its rows, those with times in nanoseconds too, without pandas; imported afterwards, tables become its frames."""
    write_store(tmp_path / "dataset", fake_tables(6, seed=1))
    script = """
import sys
from pipelines import cli
sys.argv = ["dailies", "query", sys.argv[1], "select clip_id, TIMESTAMP_NS '2024-01-01 00:00:00.123456789' t from clips"]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
import pyarrow as pa
table = pa.table({"a": [1, 2], "b": ["x", None]})
assert "pandas" not in sys.modules
frame = table.to_pandas()
assert frame.shape == (2, 2) and pa.Table.from_pandas(frame)["b"].to_pylist() == ["x", None]
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "dataset")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "2024-01-01 00:00:00.123456789" in done.stdout, done.stderr


def test_the_version_is_that_of_the_code() -> None:
    """`dailies --version` prints the version that runs and the ledger record, so that a bug report names the code."""
    found = CliRunner().invoke(app, ["--version"])
    assert found.exit_code == 0 and found.output == f"dailies {code_version()}\n"
