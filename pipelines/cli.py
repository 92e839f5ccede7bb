"""The `dailies` command: a thin layer that parses, calls one function, prints, and chooses an exit status.

0 done · 1 the thing asked about does not hold (verify, doctor) · 2 the command was wrong · 3 a run ended without any clip.
"""

import dataclasses
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines import (
    cli_audit,
    cli_backtranslate,
    cli_curriculum,
    cli_encode,
    cli_generate,
    cli_ledger,
    cli_plan,
    cli_quarantine,
    cli_release,
    cli_takedown,
    cli_train,
    cli_verify,
)
from pipelines.console import AsJson, Overrides, errors, need_file, print_table, tell_unreadable

app = typer.Typer(
    name="dailies",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw video, image and audio collections in; audited training sets and Movie Gen models out.\n\n"
    "Start with:  dailies samples media  ->  dailies curate media --out dataset  ->  dailies report dataset  ->  "
    "dailies train tae --data dataset --out run",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from pipelines.provenance import code_version

        print(f"dailies {code_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and leave.")] = False,
) -> None:
    """What every command takes before its name."""


def main() -> None:
    """The console script."""
    leave_pandas_out()
    from pipelines.provenance import check_packages

    check_packages()
    try:
        app()
    except Exception as error:
        sys.exit(tell_unreadable(error))


def leave_pandas_out() -> None:
    """pyarrow has looked for pandas, as it does at its first array, and found none: no array of ours is one of pandas, and importing it takes
    as long as everything else that most commands do. Tables still become frames for who imports pandas; `pa.array` of a series does not know
    its missing values any more, and times in nanoseconds have no Python value (`manifests.parquet.plain_rows`)."""
    absent = _NoPandas()
    sys.meta_path.insert(0, absent)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(absent)


class _NoPandas(MetaPathFinder):
    """Finds that there is no pandas, and leaves all else to others."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Nothing. ModuleNotFoundError for pandas."""
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=fullname)


@app.command()
def samples(folder: Annotated[Path, typer.Argument(help="Folder to write the sample media to.")]) -> None:
    """Write some 40 short sample files with known truth (truth.json): what the demo and many tests run on."""
    from curation.samples import SamplesError, generate
    from pipelines.progress import Progress

    names: list[str] = []
    with errors(SamplesError, OSError), Progress().stage("samples", 1) as advance:
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
    config: Annotated[str, typer.Option("--config", help="tiny, paper, hd, audio, or the path of a YAML file.")] = "tiny",
    rights: Annotated[
        Path | None,
        typer.Option("--rights", help="Rights table (CSV): file or sha256, and fields as in a sidecar; goes before all others."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Curate media into audited shards: ingest, probe, scan, clips, measures, rules, duplicates, concepts, captions, shards, report.

    The same command again continues where a killed run stopped, or says that nothing is left. A changed threshold decides again
    without decoding anything.

      dailies curate media --out dataset --config tiny rules.motion.threshold=3
    """
    from curation.listed import InputError
    from pipelines.config import ConfigError, load
    from pipelines.curate import curate as run
    from pipelines.one_run import DatasetBusy
    from pipelines.progress import Progress
    from pipelines.reporting import update_report
    from pipelines.settings import CurateConfig

    paths, overrides = _split_overrides(inputs)
    if rights is not None:
        overrides.append(f"ingest.rights_csv={json.dumps(str(rights.absolute()))}")
    with errors(ConfigError, InputError, DatasetBusy):
        settings = load(CurateConfig, "curate", config, overrides)
        progress = Progress(quiet=as_json)
        summary = run(paths, out, settings, progress)
        report = update_report(out)
    if as_json:
        print(json.dumps(dataclasses.asdict(summary) | {"report": str(report)}))
    else:
        _print_summary(summary, report)
    if summary.listed == 0:
        print("nothing was found in the inputs: no file that may be media", file=sys.stderr)
        raise typer.Exit(3)
    if summary.kept == 0:
        print(f"no clip passed: `dailies report {out}` shows which rule dropped what", file=sys.stderr)
        raise typer.Exit(3)


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
    config: Annotated[str, typer.Option("--config", help="tiny, paper, hd, audio, or the path of a YAML file.")] = "tiny",
    overrides: Overrides = None,
) -> None:
    """Follow one file through every stage in plain Python, and print what each step made of it."""
    from curation.listed import InputError
    from pipelines.config import ConfigError, load
    from pipelines.settings import CurateConfig
    from pipelines.walkthrough import walk

    need_file(file)
    with errors(ConfigError, InputError):
        settings = load(CurateConfig, "curate", config, overrides or [])
        for line in walk(file, settings):
            print(line)


def _split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments with '=' that name no file are overrides; one that is a key alone is told as such, and not taken for a file."""
    from pipelines.settings import CurateConfig

    sections = {f.name for f in dataclasses.fields(CurateConfig)}
    if key := next(
        (a for a in arguments if a.partition(".")[0] in sections and "." in a and not {"=", "/"} & set(a) and not Path(a).exists()), None
    ):
        raise typer.BadParameter(f"expected an override key=value, found {key} without a value")
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
        ["compared", f"{summary.copies_looked_for:,} clips for copies ({summary.copies_known:,} known among themselves)"],
        ["version", str(summary.version)],
        ["seconds", f"{summary.seconds:.1f}"],
        ["report", str(report)],
    ]
    print_table(["", "nothing left to do" if summary.nothing_left else "curated"], rows)


for _part in (
    cli_audit.app,
    cli_verify.app,
    cli_curriculum.app,
    cli_backtranslate.app,
    cli_encode.app,
    cli_generate.app,
    cli_ledger.app,
    cli_plan.app,
    cli_quarantine.app,
    cli_release.app,
    cli_takedown.app,
    cli_train.app,
):
    app.registered_commands += _part.registered_commands
    app.registered_groups += _part.registered_groups


if __name__ == "__main__":
    main()
