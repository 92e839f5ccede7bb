"""`dailies train …`: a typed configuration, the launcher, and the exposure of every checkpoint written to the manifest."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifests.tables import ManifestError, ManifestStore
from pipelines import config
from pipelines.exposures import record
from pipelines.progress import Progress


def train_tae(data: Path, out: Path, config_name: str, overrides: list[str], quiet: bool) -> dict[str, Any]:
    """The training run in `out` is finished and the dataset's manifest says what each checkpoint saw; returns where to look."""
    from training.config import TrainConfig
    from training.launch import train

    store = ManifestStore(data)
    if store.version() < 0:
        raise ManifestError(f"{data}: expected a dataset with a manifest, found none; make one with `dailies curate INPUT --out {data}`")
    settings = config.load(TrainConfig, "train/tae", config_name, overrides)
    begun, started_at = time.monotonic(), datetime.now(UTC)
    progress = Progress(quiet=quiet)
    status = train(settings, data, out, progress.say)
    recorded = record(store, out, settings, started_at)
    if status != 0:
        raise ManifestError(f"{out}: training ended with status {status}; its log is in {out / 'worker.log'}; the same command resumes")
    return {
        "run": str(out),
        "checkpoints": recorded,
        "pictures": str(out / "pictures"),
        "log": str(out / "log.jsonl"),
        "seconds": round(time.monotonic() - begun, 1),
    }
