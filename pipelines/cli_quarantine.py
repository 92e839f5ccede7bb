"""The commands of quarantine."""

import json
from typing import Annotated

import typer

from pipelines.console import AsJson, Dataset, errors, print_table

app = typer.Typer()
quarantine_app = typer.Typer(
    no_args_is_help=True, help="Assets that cost a process more often than allowed: list them, have one tried again."
)
app.add_typer(quarantine_app, name="quarantine")


@quarantine_app.command("list")
def quarantine_list(dataset: Dataset, as_json: AsJson = False) -> None:
    """List the assets of which attempts are noted that cost a process or were refused: under which stage, how many, whether they are still tried, and the last reason."""
    from pipelines.config import ConfigError
    from pipelines.quarantine import held

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
    asset: Annotated[str, typer.Argument(help="Id of the asset (6 or more digits), or the name of its file.")],
    as_json: AsJson = False,
) -> None:
    """Forget what an asset cost, so that the next `dailies curate` tries it again."""
    from manifests.find import LookupFailed
    from pipelines.config import ConfigError
    from pipelines.one_run import DatasetBusy
    from pipelines.quarantine import release

    with errors(ConfigError, LookupFailed, DatasetBusy):
        asset_id, n_attempts, n_units = release(dataset, asset)
    if as_json:
        print(json.dumps({"asset_id": asset_id, "attempts": n_attempts, "units": n_units}))
    else:
        print(f"{asset_id}: {n_attempts} attempts forgotten, {n_units} units of work are done again by the next `dailies curate`")
