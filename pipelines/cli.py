"""The `dailies` command: a thin layer that parses, calls one function, prints, and chooses an exit status.

0 done · 1 the thing asked about does not hold (verify, doctor) · 2 the command was wrong · 3 a run ended without any clip.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from manifests.tables import ManifestError, ManifestStore

app = typer.Typer(
    name="dailies",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw video, image and audio collections in; audited training sets and Movie Gen models out.\n\n"
    "Start with:  dailies samples media  ->  dailies curate media --out dataset  ->  dailies report dataset  ->  "
    "dailies train tae --data dataset --out run",
)
train_app = typer.Typer(no_args_is_help=True, help="Train one stage on the shards of a dataset, with DeepSpeed ZeRO-3.")
app.add_typer(train_app, name="train")

Dataset = Annotated[Path, typer.Argument(help="Folder of the dataset, as given to `dailies curate --out`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value overrides of the configuration, e.g. rules.motion.threshold=3")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Version = Annotated[int | None, typer.Option("--version", help="Version of the manifest; the newest if not given.")]


def main() -> None:
    """The console script."""
    from pipelines.provenance import check_packages

    check_packages()
    app()


@app.command()
def samples(folder: Annotated[Path, typer.Argument(help="Folder to write the sample media to.")]) -> None:
    """Write about 30 short sample files with known truth (truth.json): what the demo and many tests run on."""
    from curation.samples import generate
    from pipelines.progress import Progress

    names: list[str] = []
    with _errors(), Progress().stage("samples", 1) as advance:
        truth = generate(folder, names.append)
        advance(1)
    print(f"{folder}: {len(names) or 'all'} files {'written' if names else 'were there already'}; their truth is in {truth}")


@app.command()
def curate(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Folders, files, globs, file lists (.txt), tables (.csv, .parquet), .tar archives; then key=value overrides."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the dataset, made or continued.")],
    config: Annotated[str, typer.Option("--config", help="tiny, paper, or the path of a YAML file.")] = "tiny",
    as_json: AsJson = False,
) -> None:
    """Curate media into audited shards: ingest, probe, scan, clips, measures, rules, duplicates, concepts, captions, shards, report.

    The same command again continues where a killed run stopped, or says that nothing is left. A changed threshold decides again
    without decoding anything.

      dailies curate media --out dataset --config tiny rules.motion.threshold=3
    """
    from curation.ingest import InputError
    from pipelines.config import ConfigError, load
    from pipelines.curate import curate as run
    from pipelines.progress import Progress
    from pipelines.reporting import write_report
    from pipelines.settings import CurateConfig

    paths, overrides = _split_overrides(inputs)
    with _errors(ConfigError, InputError):
        settings = load(CurateConfig, "curate", config, overrides)
        progress = Progress(quiet=as_json)
        summary = run(paths, out, settings, progress)
        report = write_report(out)
    if as_json:
        print(json.dumps(dataclasses.asdict(summary) | {"report": str(report)}))
    else:
        _print_summary(summary, report)
    if summary.kept == 0:
        print(f"no clip passed: `dailies report {out}` shows which rule dropped what", file=sys.stderr)
        raise typer.Exit(3)


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

    with _errors(QueryError):
        table = ask(_store(dataset), sql, version)
    if as_json:
        print(json.dumps(table.to_pylist(), default=_plain))
    else:
        _print_table(table.schema.names, [[_cell(v) for v in row.values()] for row in table.to_pylist()])


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

    store = _store(dataset)
    with _errors(LookupFailed):
        found = look(store, id, exposed=first_step(dataset), version=version)
    print(json.dumps(to_dict(found), default=_plain) if as_json else to_text(found))


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

    _store(dataset)
    with _errors(ReplayError, LookupFailed, ConfigError):
        found = run(dataset, stage, asset, overrides)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print(f"{found.stage} of {found.uri}: {found.rows_in} in, {found.rows_out} out, {found.seconds:.2f} s")
        if found.differences:
            _print_table(
                ["output", "key", "column", "stored", "now"], [[str(v) for v in dataclasses.astuple(d)] for d in found.differences]
            )
        print(f"{len(found.differences)} values differ" if found.differences else "nothing differs from what is stored")
    raise typer.Exit(1 if found.differences else 0)


@app.command()
def report(dataset: Dataset) -> None:
    """Write report.html and report.json of the newest version: funnel, histograms with examples, duplicates, rights, errors."""
    from pipelines.reporting import write_report

    with _errors():
        _store(dataset)
        print(write_report(dataset))


@app.command()
def verify(dataset: Dataset, version: Version = None, as_json: AsJson = False) -> None:
    """Check every shard's hash, every member's offset, size and hash, and every count against the manifest."""
    from manifests.integrity import verify as check
    from pipelines.progress import Progress

    store = _store(dataset)
    with _errors(), Progress(quiet=as_json).stage("verify", store.read("shards", version, ["shard_no"]).num_rows) as advance:
        faults = check(store, version, lambda shard: advance(1))
    counts = {"shards": store.read("shards", version).num_rows, "members": store.read("members", version).num_rows, "faults": len(faults)}
    if as_json:
        print(json.dumps(counts | {"details": [str(f) for f in faults]}))
    else:
        for fault in faults:
            print(fault)
        print(f"{counts['shards']} shards, {counts['members']} members: " + (f"{len(faults)} FAULTS" if faults else "all hold"))
    raise typer.Exit(1 if faults else 0)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option("--out", help="Folder that a run would write to.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Check what a run needs (Java, codecs, encoder, packages, disk, write access) and name the remedy of what is missing."""
    from pipelines.doctor import examine

    findings = examine(out)
    if as_json:
        print(json.dumps([dataclasses.asdict(f) for f in findings]))
    else:
        for f in findings:
            print(f"{'ok  ' if f.ok else 'FAIL'}  {f.name:<12} {f.found}" + ("" if f.ok else f"\n      remedy: {f.remedy}"))
    raise typer.Exit(0 if all(f.ok for f in findings) else 1)


@app.command()
def walkthrough(
    file: Annotated[Path, typer.Argument(help="One video, image or audio file.")],
    config: Annotated[str, typer.Option("--config", help="tiny, paper, or the path of a YAML file.")] = "tiny",
    overrides: Overrides = None,
) -> None:
    """Follow one file through every stage in plain Python, and print what each step made of it."""
    from pipelines.config import ConfigError, load
    from pipelines.settings import CurateConfig
    from pipelines.walkthrough import walk

    with _errors(ConfigError):
        settings = load(CurateConfig, "curate", config, overrides or [])
        for line in walk(file, settings):
            print(line)


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

    with _errors(ConfigError, TrainingError):
        result = run(data, out, config, overrides or [], quiet=as_json)
    print(json.dumps(result) if as_json else "\n".join(f"{k:<16} {v}" for k, v in result.items()))


@contextmanager
def _errors(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds are told in a sentence, with exit status 2; others are bugs and keep their traceback."""
    told: tuple[type[Exception], ...] = (ManifestError, *kinds)
    try:
        yield
    except told as error:
        print(f"dailies: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


def _store(dataset: Path) -> ManifestStore:
    store = ManifestStore(dataset)
    if store.version() < 0:
        print(
            f"dailies: {dataset}: expected a dataset with a manifest, found none; make one with `dailies curate INPUT --out {dataset}`",
            file=sys.stderr,
        )
        raise typer.Exit(2)
    return store


def _split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments with '=' that name no file are overrides."""
    overrides = [a for a in arguments if "=" in a and not Path(a).exists()]
    paths = [a for a in arguments if a not in overrides]
    if not paths:
        print("dailies: curate needs at least one input: a folder, file, glob, list or table", file=sys.stderr)
        raise typer.Exit(2)
    return paths, overrides


def _print_summary(summary: Any, report: Path) -> None:
    rows = [
        ["listed files", f"{summary.listed:,}"],
        ["assets", f"{summary.assets:,}  ({summary.unreadable:,} unreadable, with reasons)"],
        ["clips", f"{summary.clips:,}"],
        ["kept", f"{summary.kept:,}  ({summary.hours_kept:.4f} h)"],
        ["shards", f"{summary.shards:,}"],
        ["version", str(summary.version)],
        ["seconds", f"{summary.seconds:.1f}"],
        ["report", str(report)],
    ]
    _print_table(["", "nothing left to do" if summary.nothing_left else "curated"], rows)


def _print_table(names: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(v) for v in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(value: Any) -> str:
    return "" if value is None else value.hex() if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main()
