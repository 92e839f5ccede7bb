"""The commands of a curriculum."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.console import AsJson, Overrides, errors, print_table

if TYPE_CHECKING:
    from pipelines.curriculum import StageState

app = typer.Typer()
curriculum_app = typer.Typer(no_args_is_help=True, help="Train the stages of a curriculum one after the other, each from an earlier one.")
app.add_typer(curriculum_app, name="curriculum")

Out = Annotated[Path, typer.Option("--out", help="Folder of the curriculum: a folder a stage.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a curriculum that was begun.")]
Launcher = Annotated[str, typer.Option("--launcher", help="local trains here; none prepares the next stage and says how to launch it.")]


@curriculum_app.command()
def run(
    data: Annotated[Path, typer.Option("--data", help="Folder of the dataset.")],
    out: Out,
    overrides: Overrides = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="NAME=FOLDER, a dataset for the stages that name it (hd, audio); without it they take --data's."),
    ] = None,
    config: Annotated[str, typer.Option("--config", help="tiny, h200, paper, or the path of a YAML file.")] = "tiny",
    name: Annotated[str, typer.Option("--name", help="A folder of conf/curriculum.")] = "movie_gen",
    launcher: Launcher = "local",
    as_json: AsJson = False,
) -> None:
    """Train every stage in order; the same command again goes on where a killed one stopped. Exit status 1 when a gate holds a stage.

    dailies curriculum run --data dataset --out movie_gen --config tiny release=v1
    dailies curriculum run --data dataset --also hd=windows --also audio=sounds --out movie_gen --config paper
    """
    from pipelines import curriculum as pipeline
    from pipelines.config import ConfigError
    from training.errors import TrainingError

    with errors(ConfigError, TrainingError):
        loaded = pipeline.load_curriculum(name, config, overrides or [])
        datasets = pipeline.Datasets(main=data, named=_named(also or []))
        pipeline.begin(loaded, datasets, out)
        states = pipeline.run(loaded, datasets, out, as_json, launcher, lambda text: None if as_json else print(text, flush=True))
    _end(states, as_json)


@curriculum_app.command()
def resume(folder: Folder, launcher: Launcher = "local", as_json: AsJson = False) -> None:
    """Go on with a curriculum, with the settings and the dataset it was begun with."""
    from pipelines import curriculum as pipeline
    from pipelines.config import ConfigError
    from training.errors import TrainingError

    with errors(ConfigError, TrainingError):
        loaded, data = pipeline.reopen(folder)
        states = pipeline.run(loaded, data, folder, as_json, launcher, lambda text: None if as_json else print(text, flush=True))
    _end(states, as_json)


@curriculum_app.command()
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show how far each stage is, what its held-out measure was before and is now, and when it last gave a sign of life."""
    from pipelines import curriculum as pipeline
    from pipelines.config import ConfigError
    from training.errors import TrainingError

    with errors(ConfigError, TrainingError):
        states = pipeline.status(pipeline.reopen(folder)[0], folder)
    _show(states, as_json)


def _named(pairs: list[str]) -> dict[str, Path]:
    """The datasets of `--also`."""
    named = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder) or name in named:
            raise typer.BadParameter(f"expected NAME=FOLDER, each name once, found {pair!r}", param_hint="--also")
        named[name] = Path(folder)
    return named


def _end(states: "list[StageState]", as_json: bool) -> None:
    _show(states, as_json)
    if any(s.state == "failed" for s in states):
        raise typer.Exit(1)


def _show(states: "list[StageState]", as_json: bool) -> None:
    from pipelines.curriculum import as_rows

    if as_json:
        print(json.dumps(as_rows(states)))
        return
    rows = []
    for s in states:
        measured = "" if s.before is None else f"{s.measure} {s.before:.4g} -> {'' if s.after is None else f'{s.after:.4g}'}"
        rows.append(
            [
                s.name,
                s.state,
                f"{s.step:,}/{s.steps:,}" if s.steps else "",
                measured,
                "" if s.last_sign_s is None else f"{s.last_sign_s:,.0f} s ago",
            ]
        )
    print_table(["stage", "state", "step", "held out, before and after", "last sign"], rows)
