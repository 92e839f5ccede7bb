"""The commands of encoding beforehand."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipelines.console import AsJson, Dataset, Overrides, errors

app = typer.Typer()
encode_app = typer.Typer(no_args_is_help=True, help="Encode clips or prompts once, so that training a generator reads latents and tokens.")
app.add_typer(encode_app, name="encode")

Out = Annotated[
    Path,
    typer.Option("--out", help="Folder of the cache, made or continued; what training names as flow.latents_folder or flow.text_cache."),
]
Tae = Annotated[Path, typer.Option("--tae", help="Folder of a finished `dailies train tae`, or of its export.")]
Stage = Annotated[
    Literal["t2i_256", "t2v_256", "t2v_768", "video_sft"],
    typer.Option("--stage", help="The stage whose frames, sizes and encoders are used."),
]
Config = Annotated[str, typer.Option("--config", help="Its configuration: tiny, paper, or the path of a YAML file.")]
Engine = Annotated[Literal["ray", "local"], typer.Option("--engine", help="ray, or local for this process.")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster to join; a local one if not given.")]


@encode_app.command("latents")
def encode_latents(
    dataset: Dataset,
    out: Out,
    tae: Tae,
    overrides: Overrides = None,
    stage: Stage = "t2v_256",
    config: Config = "tiny",
    engine: Engine = "ray",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Encode the first window and centre crop of every kept clip with a trained autoencoder.

    Train with data.augment=false and flow.latents_folder=OUT to read them. The same command again continues; a clip that cannot be
    encoded is a row of the record with its reason.
    """
    from pipelines import encode

    _run(
        lambda settings, where, progress: encode.encode_latents(dataset, out, tae, settings, where, progress),
        stage,
        config,
        overrides,
        engine,
        address,
        as_json,
    )


@encode_app.command("text")
def encode_text(
    dataset: Dataset,
    out: Out,
    overrides: Overrides = None,
    stage: Stage = "t2v_256",
    config: Config = "paper",
    engine: Engine = "ray",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Encode the prompt of every kept clip with the stage's text encoders: flow.text.ul2, flow.text.byt5, flow.text.metaclip.

    Train with flow.text_cache=OUT to read them. The same command again continues.
    """
    from pipelines import encode

    _run(
        lambda settings, where, progress: encode.encode_text(dataset, out, settings, where, progress),
        stage,
        config,
        overrides,
        engine,
        address,
        as_json,
    )


def _run(work: Any, stage: str, config: str, overrides: list[str] | None, engine: Engine, address: str | None, as_json: bool) -> None:
    from pipelines.config import ConfigError, load
    from pipelines.on_ray import EngineConfig
    from pipelines.progress import Progress
    from training.config import TrainConfig
    from training.errors import TrainingError

    with errors(ConfigError, TrainingError):
        settings = load(TrainConfig, f"train/{stage}", config, overrides or [])
        result = work(settings, EngineConfig(name=engine, address=address), Progress(quiet=as_json))
    print(json.dumps(result) if as_json else "\n".join(f"{k:<16} {v}" for k, v in result.items()))
    if not result["encoded"] + result["known"]:
        raise typer.Exit(3)
