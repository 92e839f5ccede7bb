"""The commands of auditors: what is in a dataset, and why."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.console import (
    AsJson,
    Dataset,
    Overrides,
    Version,
    cell,
    errors,
    finite,
    need_file,
    plain,
    print_table,
    store_of,
)

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
    from manifests.parquet import plain_rows
    from manifests.query import QueryError
    from manifests.query import query as ask

    with errors(QueryError, ValueError):
        table = ask(store_of(dataset), sql, version)
        rows = plain_rows(table)
    if as_json:
        print(json.dumps([{n: finite(v) for n, v in row.items()} for row in rows], default=plain, allow_nan=False))
    else:
        print_table(table.schema.names, [[cell(v) for v in row.values()] for row in rows])


@app.command()
def explain(
    dataset: Dataset,
    id: Annotated[str, typer.Argument(help="Asset or clip id (6 or more digits), or the name of a file.")],
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Say everything about one asset or clip: measures, rules and verdicts, rights, shard, and the checkpoints that saw it."""
    from manifests.explain import explain as look
    from manifests.explain import to_dict
    from manifests.explain_text import to_text
    from manifests.find import LookupFailed
    from pipelines.exposures import first_step, record_registered

    store = store_of(dataset)
    for missed in record_registered(store):
        print(missed, file=sys.stderr)
    with errors(LookupFailed):
        found = look(store, id, exposed=first_step(dataset), version=version)
    print(json.dumps(to_dict(found), default=plain) if as_json else to_text(found))


@app.command()
def lookup(
    dataset: Dataset,
    file: Annotated[Path, typer.Argument(help="A video, image or audio file.", exists=True, dir_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Say whether a file, or a part of it, is in the dataset: its very bytes, spans of its pictures, edited copies. Exit status 1 if not.

    The file is decoded in a sandbox; the dataset's own media are not opened, and nothing is written.

      dailies lookup dataset film.mp4
    """
    from pipelines.lookup import look_up

    store_of(dataset)
    need_file(file)
    with errors(OSError):
        found = look_up(dataset, file)
    print(json.dumps(dataclasses.asdict(found))) if as_json else _tell_matches(found)
    raise typer.Exit(0 if found.found else 1)


def _tell_matches(found: Any) -> None:
    said = {"bytes": "the very file", "span": "a span of its pictures", "copy": "its pictures, perhaps edited"}
    print(f"{found.file}: sha256 {found.sha256}, compared: {found.compared}, version {found.version}")
    if found.blocked:
        print("its bytes are on the blocklist: they may not enter again")
    for m in found.matches:
        print(f"{m.asset_id} {m.uri} ({m.state}): {said[m.how]}, {_times(m.shown.start_us, m.shown.end_us)} of the file is "
              f"{_times(m.shown.there_start_us, m.shown.there_end_us)} there, {m.shown.distance} bits apart")  # fmt: skip
    rows = [
        [c.clip_id, c.decision, c.set_name or "", _times(c.file_start_us, c.file_end_us), _times(c.start_us, c.end_us)]
        for m in found.matches
        for c in m.clips
    ]
    if rows:
        print_table(["clip", "decision", "set", "seconds of the file", "seconds of its asset"], rows)
    nothing = (
        "what this is was removed from the dataset"
        if found.matches
        else "nothing in this dataset is this file or was seen to show a part of it"
    )
    print("found" if found.found else nothing)


def _times(start_us: int, end_us: int) -> str:
    return f"{start_us / 1e6:.2f} to {end_us / 1e6:.2f}"


@app.command()
def replay(
    dataset: Dataset,
    stage: Annotated[str, typer.Argument(help="Stage: probe, scan, split, measure-motion, measure-borders, text, caption, encode …")],
    asset: Annotated[str, typer.Option("--asset", help="Asset or clip id (6 or more digits), or the name of a file.")],
    overrides: Overrides = None,
    send: Annotated[bool, typer.Option("--send", help="Captions: ask the endpoints again, which may cost money.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run one stage of one asset again on its saved inputs, and show what differs from what is stored. Nothing is written.

    Captions of endpoints are asked for with --send only; without it the number of requests, and to whom, is told.

    With overrides it shows what other settings would give:

      dailies replay dataset measure-borders --asset letterbox.mp4 measures.borders.plain_levels=6
    """
    from manifests.find import LookupFailed
    from pipelines.config import ConfigError
    from pipelines.replay import ReplayError
    from pipelines.replay import replay as run

    store_of(dataset)
    with errors(ReplayError, LookupFailed, ConfigError):
        found = run(dataset, stage, asset, overrides, send)
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
