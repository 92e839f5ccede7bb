"""The commands of quarantine."""

import dataclasses
import json
from typing import Annotated, Literal

import typer

from pipelines.console import AsJson, Dataset, errors, need_dataset, print_table

app = typer.Typer()
quarantine_app = typer.Typer(
    no_args_is_help=True, help="Assets that cost a process, or were refused, more often than allowed: list them, have them tried again."
)
app.add_typer(quarantine_app, name="quarantine")


@quarantine_app.command("list")
def quarantine_list(dataset: Dataset, as_json: AsJson = False) -> None:
    """List the assets of which attempts are noted that cost a process or were refused: under which stage, how many, whether they are still tried, and the last reason."""
    from pipelines.config import ConfigError
    from pipelines.quarantine import held

    need_dataset(dataset)
    with errors(ConfigError):
        found = held(dataset)
    rows = [
        {
            "asset_id": c.asset_id,
            "under": c.under,
            "attempts": len(c.losses),
            "quarantined": c.verdict is not None,
            "code": c.losses[-1].code,
            "detail": c.losses[-1].detail,
        }
        for c in found
    ]
    if as_json:
        print(json.dumps(rows))
    elif rows:
        print_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows])
    else:
        print("no attempts are noted")


@quarantine_app.command("release")
def quarantine_release(
    dataset: Dataset,
    asset: Annotated[str | None, typer.Argument(help="Id of the asset (6 or more digits), or the name of its file.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every asset, as after a server that refused everything was set right.")] = False,
    stage: Annotated[
        Literal["probe", "scan", "encode", "caption"] | None, typer.Option("--stage", help="Only what this stage counts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forget what assets cost, or how often they were refused, so that the next `dailies curate` tries them again.

    dailies quarantine release dataset pan_right.mp4

    dailies quarantine release dataset --all --stage caption
    """
    from manifests.find import LookupFailed
    from pipelines.config import ConfigError
    from pipelines.one_run import DatasetBusy
    from pipelines.quarantine import release

    if (asset is None) != every:
        raise typer.BadParameter("expected an ASSET or --all, found " + ("both" if every else "neither"))
    need_dataset(dataset)
    with errors(ConfigError, LookupFailed, DatasetBusy):
        done = release(dataset, asset, stage)
    if as_json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        who = done.asset_ids[0] if len(done.asset_ids) == 1 else f"{len(done.asset_ids)} assets"
        print(f"{who}: {done.attempts} attempts forgotten, {done.units} units of work are done again by the next `dailies curate`")
