"""The commands of auditors: what is in a dataset, why, and whether it is what the manifest says."""

import dataclasses
import json
from typing import Annotated

import typer

from pipelines.console import AsJson, Dataset, Overrides, Version, cell, errors, plain, print_table, store_of

app = typer.Typer()


@app.command()
def query(
    dataset: Dataset,
    sql: Annotated[str, typer.Argument(help="A SELECT over the tables assets, clips, decisions, rules, runs, captions, shards, members …")],
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Ask the manifest with SQL (DuckDB, read-only, no other file is reachable).

    dailies query dataset "select decision, count(*) n from clips group by 1"
    """
    from manifests.query import QueryError
    from manifests.query import query as ask

    with errors(QueryError):
        table = ask(store_of(dataset), sql, version)
    if as_json:
        print(json.dumps(table.to_pylist(), default=plain))
    else:
        print_table(table.schema.names, [[cell(v) for v in row.values()] for row in table.to_pylist()])


@app.command()
def explain(
    dataset: Dataset,
    id: Annotated[str, typer.Argument(help="Asset or clip id (6 or more digits), or the name of a file.")],
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Say everything about one asset or clip: measures, rules and verdicts, rights, shard, and the checkpoints that saw it."""
    from manifests.explain import LookupFailed, to_dict
    from manifests.explain import explain as look
    from manifests.explain_text import to_text
    from pipelines.exposures import first_step

    store = store_of(dataset)
    with errors(LookupFailed):
        found = look(store, id, exposed=first_step(dataset), version=version)
    print(json.dumps(to_dict(found), default=plain) if as_json else to_text(found))


@app.command()
def replay(
    dataset: Dataset,
    stage: Annotated[str, typer.Argument(help="Stage: probe, scan, split, measure-motion, measure-borders, text, caption, encode …")],
    asset: Annotated[str, typer.Option("--asset", help="Asset or clip id (6 or more digits), or the name of a file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run one stage of one asset again on its saved inputs, and show what differs from what is stored. Nothing is written.

    With overrides it shows what other settings would give:

      dailies replay dataset measure-borders --asset letterbox.mp4 measures.borders.plain_levels=6
    """
    from manifests.explain import LookupFailed
    from pipelines.config import ConfigError
    from pipelines.replay import ReplayError
    from pipelines.replay import replay as run

    store_of(dataset)
    with errors(ReplayError, LookupFailed, ConfigError):
        found = run(dataset, stage, asset, overrides)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print(f"{found.stage} of {found.uri}: {found.rows_in} in, {found.rows_out} out, {found.seconds:.2f} s")
        if found.differences:
            print_table(["output", "key", "column", "stored", "now"], [[str(v) for v in dataclasses.astuple(d)] for d in found.differences])
        print(f"{len(found.differences)} values differ" if found.differences else "nothing differs from what is stored")
    raise typer.Exit(1 if found.differences else 0)


@app.command()
def report(dataset: Dataset) -> None:
    """Write report.html and report.json of the newest version: funnel, histograms with examples, duplicates, rights, errors."""
    from pipelines.reporting import write_report

    with errors():
        store_of(dataset)
        print(write_report(dataset))


@app.command()
def verify(dataset: Dataset, version: Version = None, as_json: AsJson = False) -> None:
    """Check every shard's hash, every member's offset, size and hash, and every count against the manifest."""
    from manifests.integrity import verify as check
    from pipelines.progress import Progress

    store = store_of(dataset)
    with errors(), Progress(quiet=as_json).stage("verify", store.read("shards", version, ["shard_no"]).num_rows) as advance:
        faults = check(store, version, lambda shard: advance(1))
    counts = {"shards": store.read("shards", version).num_rows, "members": store.read("members", version).num_rows, "faults": len(faults)}
    if as_json:
        print(json.dumps(counts | {"details": [str(f) for f in faults]}))
    else:
        for fault in faults:
            print(fault)
        print(f"{counts['shards']} shards, {counts['members']} members: " + (f"{len(faults)} FAULTS" if faults else "all hold"))
    raise typer.Exit(1 if faults else 0)
