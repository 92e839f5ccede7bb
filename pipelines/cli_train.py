"""The commands of training."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.console import AsJson, Overrides, errors

app = typer.Typer()
train_app = typer.Typer(no_args_is_help=True, help="Train one stage on the shards of a dataset, with DeepSpeed ZeRO-3.")
app.add_typer(train_app, name="train")


@train_app.command("tae")
def train_tae(
    data: Annotated[Path, typer.Option("--data", help="Folder of the dataset.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the training run, made or continued.")],
    overrides: Overrides = None,
    config: Annotated[str, typer.Option("--config", help="tiny, paper, or the path of a YAML file.")] = "tiny",
    as_json: AsJson = False,
) -> None:
    """Train the temporal autoencoder (8x8x8, 16 channels) on the dataset's shards.

    The same command again resumes from the newest complete checkpoint. What each checkpoint has seen goes into the manifest.
    """
    from pipelines.config import ConfigError
    from pipelines.training import train_tae as run
    from training.errors import TrainingError

    with errors(ConfigError, TrainingError):
        result = run(data, out, config, overrides or [], quiet=as_json)
    print(json.dumps(result) if as_json else "\n".join(f"{k:<16} {v}" for k, v in result.items()))
