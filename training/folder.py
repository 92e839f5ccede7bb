"""A training run's folder: what lies where, and what is fixed at the first start.

run.json          configuration, dataset, manifest version, the release it is of
index.parquet     the samples the plan is made from, so that later changes of the dataset do not change the order
log.jsonl timing.jsonl tensorboard/ pictures/ checkpoints/ export/
done.json         written last: the run has reached this number of steps
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from manifests.files import write_atomic
from training.config import MAY_CHANGE, TrainConfig, from_json_value, to_json_value
from training.data.index import Sample, read_samples, write_samples
from training.errors import TrainingError

RUN, INDEX, DONE, WORKER_LOG = "run.json", "index.parquet", "done.json", "worker.log"
LOCK, WORKER_LOCK = ".lock", ".worker.lock"
"""Held by the command that trains, and by the first worker: on a cluster there is only the latter."""

_LOCK_S = 2.0
"""How long a lock is waited for: somebody may just be looking whether it is held, or a killed process not be gone yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What a run folder says of its run."""

    config: TrainConfig
    dataset: Path
    manifest_version: int
    samples: list[Sample]
    release: dict[str, str] | None = None
    """Name and Merkle root of the release that was asked for; None for a version without one."""


def has_run(out: Path) -> bool:
    """Whether the folder holds a run."""
    return (out / RUN).exists()


def write_run(
    config: TrainConfig,
    dataset: Path,
    out: Path,
    samples: list[Sample],
    manifest_version: int,
    release: dict[str, str] | None = None,
) -> None:
    """`out` holds a run that has not begun; `run.json` is written last."""
    write_samples(out / INDEX, samples)
    run = {"config": to_json_value(config), "dataset": str(dataset.resolve()), "manifest_version": manifest_version, "release": release}
    write_atomic(out / RUN, json.dumps(run, indent=1).encode())


def read_run(out: Path) -> RunFolder:
    """What the run folder holds."""
    run = json.loads((out / RUN).read_bytes())
    return RunFolder(
        config=_config(out, run),
        dataset=Path(run["dataset"]),
        manifest_version=run["manifest_version"],
        samples=read_samples(out / INDEX),
        release=run.get("release"),
    )


def read_config(out: Path) -> TrainConfig:
    """The configuration of the folder's run alone; its index, which may be large, is not read."""
    return _config(out, json.loads((out / RUN).read_bytes()))


def read_settings(out: Path) -> dict[str, Any]:
    """The settings of the folder's run as they were written, also by a version that knew others."""
    found: dict[str, Any] = json.loads((out / RUN).read_bytes())["config"]
    return found


def began_on(out: Path) -> Path:
    """The dataset that the folder's run began on."""
    return Path(json.loads((out / RUN).read_bytes())["dataset"])


def adopt(config: TrainConfig, dataset: Path, out: Path, release: dict[str, str] | None = None) -> None:
    """`run.json` holds this configuration; TrainingError when it is not the run's own but for fields that may change, or the run is of
    another release than this one, where one is given."""
    run: dict[str, Any] = json.loads((out / RUN).read_bytes())
    if run["dataset"] != str(dataset.resolve()):
        raise TrainingError(f"{out}: expected the dataset this run began with, {run['dataset']}, found {dataset.resolve()}")
    if release and release != run.get("release"):
        began = (
            "release {name}, root {merkle_root}".format(**run["release"]) if run.get("release") else f"version {run['manifest_version']}"
        )
        found = "release {name}, root {merkle_root}".format(**release)
        raise TrainingError(f"{out}: expected {began}, which this run began with, found {found}; use another folder")
    # read and written again: settings that came after the run began have their defaults
    old, new = (_flat(json.loads(json.dumps(to_json_value(c)))) for c in (_config(out, run), config))
    changed = [name for name in sorted(old | new) if new.get(name) != old.get(name) and name not in MAY_CHANGE]
    if changed:
        shown = ", ".join(f"{n} {old.get(n)} -> {new.get(n)}" for n in changed)
        raise TrainingError(f"{out}: expected the configuration this run began with, found {shown}; use another folder")
    write_atomic(out / RUN, json.dumps(run | {"config": to_json_value(config)}, indent=1).encode())


def mark_done(out: Path, steps: int) -> None:
    """`done.json` says that the run has reached `steps`."""
    write_atomic(out / DONE, json.dumps({"steps": steps}).encode())


def steps_done(out: Path) -> int:
    """The number of steps the run has been brought to an end at; 0 before."""
    path = out / DONE
    return int(json.loads(path.read_bytes())["steps"]) if path.exists() else 0


def _config(out: Path, run: dict[str, Any]) -> TrainConfig:
    try:
        return from_json_value(run["config"])
    except ValueError as error:
        raise TrainingError(f"{out / RUN}: expected the configuration of a run of this version, found {error}") from error


def _flat(value: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Dotted name -> value of all settings."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{where}{name}.") if isinstance(item, dict) else {where + name: item}
    return flat


@contextmanager
def locked(out: Path, name: str = LOCK) -> Iterator[None]:
    """Inside, no other process trains in this folder; TrainingError when one does. The lock ends with the process, however it ends."""
    with (out / name).open("w") as file:
        if not _lock(file, fcntl.LOCK_EX, _LOCK_S):
            raise TrainingError(f"{out}: expected no other training in this folder, found one running")
        yield


def is_training(out: Path) -> bool:
    """Whether a command or a worker is at the run now."""
    for name in (LOCK, WORKER_LOCK):
        if (out / name).exists():
            with (out / name).open() as file:
                if not _lock(file, fcntl.LOCK_SH, 0.0):
                    return True
    return False


def _lock(file: IO[str], kind: int, wait_s: float) -> bool:
    """The file is locked by this process until it is closed; False when another still has it after that time."""
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
