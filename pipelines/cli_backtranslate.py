"""The command of backtranslation."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.console import AsJson, Dataset, errors

app = typer.Typer()


@app.command()
def backtranslate(
    dataset: Dataset,
    models: Annotated[
        list[Path],
        typer.Option(
            "--models", help="Folder of a curriculum, run or export: the editor and its autoencoder. May be given more than once."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new dataset, made or continued.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Set whose videos are edited; may be repeated. All if not given.")] = None,
    clips: Annotated[int, typer.Option("--clips", help="At most so many clips; 0 for all.", min=0)] = 0,
    release: Annotated[str, typer.Option("--release", help="Name of a release of the dataset; its newest version if not given.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Keys which clips, edits and noise.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 …")] = "cpu",
    share: Annotated[
        str, typer.Option("--share", help="K/N edits the K-th of N shares of the clips and stops: on as many GPUs, then once without it.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Let a trained editor edit real clips, and write what undoes its edits as a dataset: the last stage of editing trains on it.

    Rights and ids are those of the real clips; a takedown of them reaches it. The same command again continues.

      dailies backtranslate dataset --models curriculum --out edits

      dailies train edit_3 --data edits --out undo --tae tae --parent edit_2
    """
    from manifests.tables import ManifestError
    from pipelines.backtranslate import BacktranslateConfig
    from pipelines.backtranslate import backtranslate as run
    from pipelines.one_run import DatasetBusy
    from pipelines.progress import Progress
    from training.errors import TrainingError

    with errors(ManifestError, TrainingError, DatasetBusy):
        config = BacktranslateConfig(sets=tuple(sets or ()), clips=clips, seed=seed, release=release)
        result = run(dataset, models, out, config, device, Progress(quiet=as_json), _share(share) if share else None)
    print(json.dumps(result) if as_json else "\n".join(f"{k:<16} {v}" for k, v in result.items()))


def _share(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"expected K/N with 1 <= K <= N, found {text}", param_hint="--share")
    return int(number), int(count)
