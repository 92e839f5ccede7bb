"""`dailies train …`: a typed configuration, the launcher, and the exposure of every checkpoint written to the manifest."""

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifests.tables import ManifestError, ManifestStore
from pipelines import config
from pipelines.config import ConfigError
from pipelines.exposures import record, register
from pipelines.one_run import DatasetBusy
from pipelines.progress import Progress

STAGES = config.CONF / "train"


def stages() -> list[str]:
    """The stages that can be trained: the folders of conf/train."""
    return sorted(path.name for path in STAGES.iterdir() if path.is_dir())


def train_stage(
    stage: str,
    data: Path,
    out: Path,
    config_name: str,
    overrides: list[str],
    quiet: bool,
    tae: Path | None = None,
    parent: Path | None = None,
    launcher: str = "local",
    codec: Path | None = None,
    artefacts: Path | None = None,
    release: str = "",
) -> dict[str, Any]:
    """The training run in `out` is finished and the dataset's manifest says what each checkpoint saw; returns where to look.

    `tae` and `parent` are folders of finished runs, or of their exports: what a generator encodes with, and what a stage begins from.
    `codec` is that of a finished `dailies train codec`, for a generator of sound; `artefacts` that of a temporal autoencoder whose traces
    an upsampler learns to remove. `release` names the release that is trained on; without, the newest version is.
    With the launcher `none` nothing is trained here: the run is prepared, and `launch` in the result is the command that trains it.
    """
    from training.checkpoint import list_complete
    from training.config import AUTOENCODERS, TrainConfig
    from training.folder import steps_done
    from training.launch import prepare_run, train

    store = ManifestStore(data)
    if store.version() < 0:
        raise ManifestError(f"{data}: expected a dataset with a manifest, found none; make one with `dailies curate INPUT --out {data}`")
    if stage not in stages():
        raise ConfigError(f"{stage}: expected a stage, one of {', '.join(stages())}")
    if launcher not in ("local", "none"):
        raise ConfigError(f"--launcher {launcher}: expected local or none")
    settings = config.load(TrainConfig, f"train/{stage}", config_name, overrides)
    if settings.stage != stage and (stage in AUTOENCODERS or settings.stage in AUTOENCODERS):
        raise ConfigError(f"{config_name}: expected a configuration for `dailies train {stage}`, found one of stage {settings.stage}")
    if settings.flow:
        given: dict[str, Any] = {n: str(p.resolve()) for n, p in (("tae", tae), ("parent", parent)) if p}
        if artefacts and settings.flow.upsample:
            given["upsample"] = dataclasses.replace(settings.flow.upsample, artefacts=str(artefacts.resolve()))
        settings = dataclasses.replace(settings, flow=dataclasses.replace(settings.flow, **given))
    elif settings.sound:
        given = {n: str(p.resolve()) for n, p in (("codec", codec), ("parent", parent)) if p}
        settings = dataclasses.replace(settings, sound=dataclasses.replace(settings.sound, **given))
    elif parent:
        settings = dataclasses.replace(settings, parent=str(parent.resolve()))
    settings = with_absolute_caches(settings)
    begun, started_at = time.monotonic(), datetime.now(UTC)
    register(data, out)
    if launcher == "none":
        prepare_run(settings, data, out, release)
        if steps_done(out) < settings.steps:
            return {"run": str(out), "launch": f"RUN={out.resolve()} docs/launch/torchrun.sh (or slurm.sbatch, kubernetes.yaml)"}
    status = 0 if launcher == "none" else train(settings, data, out, Progress(quiet=quiet).say, release)
    try:
        recorded = record(store, out, started_at)
    except DatasetBusy as busy:  # the folder is registered: whoever asks next records it
        Progress(quiet=quiet).say(f"its checkpoints are in the manifest as soon as somebody asks for them: {busy}")
        recorded = len(list_complete(out))
    if status != 0:
        raise ManifestError(f"{out}: training ended with status {status}; its log is in {out / 'worker.log'}; the same command resumes")
    return {
        "run": str(out),
        "checkpoints": recorded,
        "pictures": str(out / "pictures"),
        "log": str(out / "log.jsonl"),
        "export": str(out / "export"),
        "seconds": round(time.monotonic() - begun, 1),
    }


def with_absolute_caches(settings: Any) -> Any:
    """The run says where its caches are in a way that holds in any working folder: a takedown looks for them there."""

    def absolute(part: Any, *names: str) -> Any:
        given = {name: str(Path(folder).resolve()) for name in names if (folder := getattr(part, name))}
        return dataclasses.replace(part, **given)

    flow = settings.flow and absolute(settings.flow, "text_cache", "latents_folder")
    sound = settings.sound and absolute(settings.sound, "text_cache")
    return dataclasses.replace(settings, data=absolute(settings.data, "cache_folder"), flow=flow, sound=sound)
