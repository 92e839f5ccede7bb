"""Shared by all tests: where the real media lie, the generated samples (once a session), and how a command is run."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("dailies", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("dailies")

ROOT = Path(__file__).resolve().parent.parent
MEDIA = Path(os.environ.get("DAILIES_TEST_MEDIA", ROOT.parent / "shared" / "media"))


@dataclass(frozen=True)
class Done:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of stdout as JSON."""
        return json.loads(self.out.strip().splitlines()[-1])


def run_dailies(*arguments: object, env: dict[str, str] | None = None, timeout_s: float = 900) -> Done:
    """The `dailies` command in a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def dailies():
    """The `dailies` command."""
    return run_dailies


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real test media. Where it is absent the test is skipped, unless CI promised it."""
    if not MEDIA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"real test media expected at {MEDIA}, found nothing; set DAILIES_TEST_MEDIA")
        pytest.skip(f"no real test media at {MEDIA}; set DAILIES_TEST_MEDIA")
    return MEDIA


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated sample media with truth.json; DAILIES_SAMPLES names a folder that keeps them between sessions."""
    from curation.samples import generate

    kept = os.environ.get("DAILIES_SAMPLES")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("samples")
    with alone(folder):
        generate(folder)
    return folder


@pytest.fixture(scope="session")
def truth(samples: Path) -> dict[str, Any]:
    """What truth.json says."""
    return json.loads((samples / "truth.json").read_text())


@dataclass(frozen=True)
class Curated:
    """A dataset made by the command from the samples, once for all tests that only read it."""

    path: Path
    summary: dict[str, Any]
    media_log: list[tuple[str, str]]


@pytest.fixture(scope="session")
def curated(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """`dailies curate SAMPLES --config tiny`, with every opening of a medium logged; DAILIES_CURATED names a folder that test sessions share."""
    kept = os.environ.get("DAILIES_CURATED")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("curated")
    out, log, summary = folder / "dataset", folder / "media.log", folder / "summary.json"
    with alone(folder):
        if not summary.exists():
            done = run_dailies("curate", samples, "--out", out, "--config", "tiny", "--json", env={"DAILIES_MEDIA_LOG": str(log)})
            assert done.status == 0, done.err
            summary.write_text(json.dumps(done.json))
    return Curated(out, json.loads(summary.read_text()), read_media_log(log))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other test session fills the folder: what one made, the next finds."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_media_log(log: Path) -> list[tuple[str, str]]:
    """(purpose, path) of every opening of a medium."""
    if not log.exists():
        return []
    return [(p, f) for p, _, f in (line.partition("\t") for line in log.read_text().splitlines())]


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with one signed release, its key beside it."""
    from manifests import signing
    from tests.release_maker import make_dataset, release

    root = tmp_path_factory.mktemp("released")
    signing.generate_key(root / "key")
    release(make_dataset(root / "set"), "v1", root / "key")
    return root


@pytest.fixture
def place(released: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    shutil.copytree(released, tmp_path / "p")
    return tmp_path / "p"
