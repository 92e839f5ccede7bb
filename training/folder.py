"""A training run's folder: what lies where, and what is fixed at the first start.

run.json          configuration, dataset, manifest version
index.parquet     the samples the plan is made from, so that later changes of the dataset do not change the order
log.jsonl timing.jsonl tensorboard/ pictures/ checkpoints/ export/
done.json         written last: the run has reached this number of steps
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.files import write_atomic
from training.config import MAY_CHANGE, TrainConfig, from_json_value, to_json_value
from training.data.index import Sample, read_samples, write_samples
from training.errors import TrainingError

RUN, INDEX, DONE, LOCK, WORKER_LOG = "run.json", "index.parquet", "done.json", ".lock", "worker.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What a run folder says of its run."""

    config: TrainConfig
    dataset: Path
    manifest_version: int
    samples: list[Sample]


def has_run(out: Path) -> bool:
    """Whether the folder holds a run."""
    return (out / RUN).exists()


def write_run(config: TrainConfig, dataset: Path, out: Path, samples: list[Sample], manifest_version: int) -> None:
    """`out` holds a run that has not begun; `run.json` is written last."""
    write_samples(out / INDEX, samples)
    run = {"config": to_json_value(config), "dataset": str(dataset.resolve()), "manifest_version": manifest_version}
    write_atomic(out / RUN, json.dumps(run, indent=1).encode())


def read_run(out: Path) -> RunFolder:
    """What the run folder holds."""
    run = json.loads((out / RUN).read_bytes())
    return RunFolder(
        config=from_json_value(run["config"]),
        dataset=Path(run["dataset"]),
        manifest_version=run["manifest_version"],
        samples=read_samples(out / INDEX),
    )


def adopt(config: TrainConfig, dataset: Path, out: Path) -> None:
    """`run.json` holds this configuration; TrainingError when it is not the run's own but for fields that may change."""
    run: dict[str, Any] = json.loads((out / RUN).read_bytes())
    if run["dataset"] != str(dataset.resolve()):
        raise TrainingError(f"{out}: expected the dataset this run began with, {run['dataset']}, found {dataset.resolve()}")
    # read and written again: settings that came after the run began have their defaults
    old, new = (_flat(json.loads(json.dumps(to_json_value(c)))) for c in (from_json_value(run["config"]), config))
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


def _flat(value: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Dotted name -> value of all settings."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{where}{name}.") if isinstance(item, dict) else {where + name: item}
    return flat


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Inside, no other process trains in this folder; TrainingError when one does. The lock ends with the process, however it ends."""
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"{out}: expected no other training in this folder, found one running") from error
        yield
