"""The commands of training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.console import AsJson, Overrides, errors

if TYPE_CHECKING:
    from pipelines.training import Stage

app = typer.Typer()
train_app = typer.Typer(no_args_is_help=True, help="Train one stage on the shards of a dataset, with DeepSpeed ZeRO-3.")
app.add_typer(train_app, name="train")

Data = Annotated[Path, typer.Option("--data", help="Folder of the dataset.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the training run, made or continued.")]
Config = Annotated[str, typer.Option("--config", help="tiny, paper, or the path of a YAML file.")]
Tae = Annotated[Path, typer.Option("--tae", help="Folder of a finished `dailies train tae`, or of its export.")]
Parent = Annotated[Path | None, typer.Option("--parent", help="Folder of the finished stage that this one begins from.")]


@train_app.command("image_ae")
def train_image_ae(data: Data, out: Out, overrides: Overrides = None, config: Config = "tiny", as_json: AsJson = False) -> None:
    """Train the image autoencoder (1x8x8, 16 channels) that the temporal one is inflated from.

    The same command again resumes from the newest complete checkpoint. What each checkpoint has seen goes into the manifest.
    """
    _train("image_ae", data, out, overrides, config, as_json)


@train_app.command("tae")
def train_tae(
    data: Data, out: Out, overrides: Overrides = None, parent: Parent = None, config: Config = "tiny", as_json: AsJson = False
) -> None:
    """Train the temporal autoencoder (8x8x8, 16 channels) on the dataset's shards, from a `dailies train image_ae` with --parent.

    The same command again resumes from the newest complete checkpoint. What each checkpoint has seen goes into the manifest.
    """
    _train("tae", data, out, overrides, config, as_json, parent=parent)


@train_app.command("t2i")
def train_t2i(
    data: Data, out: Out, tae: Tae, overrides: Overrides = None, parent: Parent = None, config: Config = "tiny", as_json: AsJson = False
) -> None:
    """Train the generator on pictures under their captions: flow matching on the autoencoder's latents.

    The same command again resumes from the newest complete checkpoint. What each checkpoint has seen goes into the manifest.
    """
    _train("t2i", data, out, overrides, config, as_json, tae, parent)


@train_app.command("t2v")
def train_t2v(
    data: Data, out: Out, tae: Tae, overrides: Overrides = None, parent: Parent = None, config: Config = "tiny", as_json: AsJson = False
) -> None:
    """Train the generator on videos and pictures together, from a `dailies train t2i` whose tables of positions are grown.

    The same command again resumes from the newest complete checkpoint. What each checkpoint has seen goes into the manifest.
    """
    _train("t2v", data, out, overrides, config, as_json, tae, parent)


def _train(
    stage: "Stage",
    data: Path,
    out: Path,
    overrides: Overrides,
    config: str,
    as_json: bool,
    tae: Path | None = None,
    parent: Path | None = None,
) -> None:
    from pipelines.config import ConfigError
    from pipelines.training import train_stage
    from training.errors import TrainingError

    with errors(ConfigError, TrainingError):
        result = train_stage(stage, data, out, config, overrides or [], as_json, tae, parent)
    print(json.dumps(result) if as_json else "\n".join(f"{k:<16} {v}" for k, v in result.items()))
