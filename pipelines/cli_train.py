"""The commands of training: a stage, and what a checkpoint has seen."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.console import AsJson, Overrides, errors, print_table

if TYPE_CHECKING:
    from pipelines.trace import CheckpointTrace, Sighting

app = typer.Typer()


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help="image_ae, tae, t2i_256, t2v_256, t2v_768, video_sft: a folder of conf/train.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the dataset.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the training run, made or continued.")],
    overrides: Overrides = None,
    tae: Annotated[
        Path | None, typer.Option("--tae", help="Folder of a finished `dailies train tae`, or of its export: a generator's latents.")
    ] = None,
    parent: Annotated[Path | None, typer.Option("--parent", help="Folder of the finished stage that this one begins from.")] = None,
    codec: Annotated[
        Path | None, typer.Option("--codec", help="Folder of a finished `dailies train codec`, or of its export: the latents of sound.")
    ] = None,
    artefacts: Annotated[
        Path | None,
        typer.Option("--artefacts", help="Of an upsampler: folder of the temporal autoencoder whose traces it learns to remove."),
    ] = None,
    release: Annotated[
        str, typer.Option("--release", help="Name of a release of the dataset to train on; the newest version if not given.")
    ] = "",
    config: Annotated[str, typer.Option("--config", help="tiny, h200, paper, or the path of a YAML file.")] = "tiny",
    launcher: Annotated[
        str, typer.Option("--launcher", help="local trains here; none prepares the run and prints how to launch it on a cluster.")
    ] = "local",
    as_json: AsJson = False,
) -> None:
    """Train one stage on the shards of a dataset, with DeepSpeed ZeRO-3.

    The same command again resumes from the newest complete checkpoint. What each checkpoint has seen goes into the manifest.

      dailies train tae --data dataset --out run --config tiny

      dailies train t2v_256 --data dataset --out videos --tae run --parent pictures optim.lr=0.0003

    On a cluster: --launcher none, then one of docs/launch, then the same command again, which records what was seen.
    """
    from pipelines.config import ConfigError
    from pipelines.training import train_stage
    from training.errors import TrainingError

    with errors(ConfigError, TrainingError):
        result = train_stage(stage, data, out, config, overrides or [], as_json, tae, parent, launcher, codec, artefacts, release)
    print(json.dumps(result) if as_json else "\n".join(f"{k:<16} {v}" for k, v in result.items()))


@app.command()
def trace(
    dataset: Annotated[Path | None, typer.Argument(help="Folder of the dataset; for a checkpoint, by default that of its run.")] = None,
    clip: Annotated[str | None, typer.Option("--clip", help="Clip id (6 or more digits): which checkpoints saw it, and from when.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder of a checkpoint: which clips it saw, hours by source and licence.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """From a clip to the checkpoints that saw it, or from a checkpoint to its clips, by replaying the recorded plan.

    Exit status 1 when the replayed order is not the one that the checkpoint recorded.

      dailies trace dataset --clip 3f2a9c

      dailies trace --checkpoint run/checkpoints/step-00000400
    """
    from manifests.find import LookupFailed
    from pipelines import trace as pipeline
    from training.errors import CheckpointError, TrainingError

    if (clip is None) == (checkpoint is None) or (clip and dataset is None):
        raise typer.BadParameter("expected DATASET --clip ID, or --checkpoint FOLDER")
    with errors(LookupFailed, CheckpointError, TrainingError):
        if clip is not None and dataset is not None:
            id, seen = pipeline.trace_clip(dataset, clip)
            _show_clip(id, seen, as_json)
        elif checkpoint is not None:
            found = pipeline.trace_checkpoint(checkpoint, dataset)
            _show_checkpoint(found, as_json)
            raise typer.Exit(0 if found.holds else 1)


def _show_clip(id: str, seen: "list[Sighting]", as_json: bool) -> None:
    if as_json:
        print(json.dumps({"clip_id": id, "checkpoints": [dataclasses.asdict(s) for s in seen]}))
    elif not seen:
        print(f"clip {id}: no checkpoint on record has seen it")
    else:
        rows = [
            [s.stage, f"{s.run}/{s.checkpoint}", "" if s.through else f"{s.first_step:,}", f"{s.end_step:,}", s.through or ""] for s in seen
        ]
        print_table(["stage", "checkpoint", "first step", "steps", "inherited from"], rows)


def _show_checkpoint(found: "CheckpointTrace", as_json: bool) -> None:
    from pipelines.trace import to_dict

    if as_json:
        print(json.dumps(to_dict(found)))
        return
    verdict = "is the recorded one" if found.holds else f"IS NOT the recorded one ({found.replayed_digest} for {found.recorded_digest})"
    print(f"{found.checkpoint}: stage {found.stage}, {found.end_step:,} steps, manifest version {found.manifest_version}")
    print(f"{len(found.clips):,} clips, {found.exceptions:,} replaced; the replayed order {verdict}")
    print_table(["source", "licence", "clips", "hours"], [[s.source, s.licence, f"{s.clips:,}", f"{s.hours:.4f}"] for s in found.shares])
