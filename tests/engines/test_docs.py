"""The documents tell the truth: every command in them runs, and every command and configuration appears in them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pipelines.cli import app
from pipelines.settings import CurateConfig

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _commands(document: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", document.read_text(), re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, samples: Path, curated) -> Path:
    """A folder in which the documents' names exist: media, and a dataset curated before, and a rights table."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(samples, folder / "media")
    shutil.copytree(curated.path, folder / "dataset")
    (folder / "rights.csv").write_text("file,rights_holder,licence_verified_by\n*.mp4,the sample generator,rights desk\n")
    return folder


@pytest.fixture(scope="module")
def done_before() -> set[str]:
    """Commands that were run."""
    return set()


@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_of_the_documents_runs(document: Path, workplace: Path, done_before: set[str]) -> None:
    """Each `$ dailies …` line of the document ends with status 0, in order (training with few steps); what another document has made is not
    made again."""
    for command in _commands(document):
        if command in done_before and command.split()[1] in ("samples", "curate", "train"):
            continue
        done_before.add(command)
        words = shlex.split(command)
        assert words[0] == "dailies"
        short = ["steps=2", "validate_every=2", "checkpoint_every=2"] if words[1] == "train" else []
        if words[1] == "train":
            shutil.rmtree(workplace / "run", ignore_errors=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-m", "pipelines.cli", *words[1:], *short]
        done = subprocess.run(line, cwd=workplace, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"


def test_every_command_is_documented() -> None:
    """Each command of `dailies` appears in some document and has a help text of more than a few words."""
    text = "\n".join(d.read_text() for d in DOCUMENTS)
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert re.search(rf"dailies {name}\b", text), name
        assert len(command.help or "") > 30, name


def test_every_configuration_group_is_documented() -> None:
    """Each group of CurateConfig and its dataclass stand in the data engineers' guide."""
    text = (ROOT / "docs" / "data-engineers.md").read_text()
    for name, field in CurateConfig.__dataclass_fields__.items():
        if name != "seed":
            assert f"`{name}`" in text, name
            dataclass_name = re.search(r"(\w+Config)", str(field.type))
            assert dataclass_name is None or f"`{dataclass_name[1]}`" in text, field.type
