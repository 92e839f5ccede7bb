"""The commands on the ledger: other thresholds without media, what changed between versions, and purging of old ones."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.console import AsJson, Dataset, errors, print_table, store_of

app = typer.Typer()

_SHOWN = 30
"""Lines of a diff that a person is shown."""


@app.command()
def decide(
    dataset: Dataset,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of rules, as for curate: rules.motion.threshold=3, rules.text.enabled=false")
    ] = None,
    commit: Annotated[bool, typer.Option("--commit", help="Make it the newest version; without, it is only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what other thresholds would keep, from stored scores alone: the funnel before and after. With --commit, decide so.

    No medium is opened and no shard is written. The next `dailies curate` with the same overrides measures and encodes what is missing.

      dailies decide dataset rules.motion.threshold=3
    """
    from pipelines.config import ConfigError
    from pipelines.decide import DecideError, to_dict
    from pipelines.decide import decide as run
    from pipelines.one_run import DatasetBusy
    from pipelines.progress import Progress

    store_of(dataset)
    with errors(ConfigError, DecideError, DatasetBusy):
        found = run(dataset, overrides or [], commit=commit, progress=Progress(quiet=as_json))
    if as_json:
        print(json.dumps(to_dict(found)))
    else:
        _print_decision(found, commit)


@app.command()
def pick(
    dataset: Dataset,
    set_name: Annotated[str, typer.Argument(help="A set whose configuration says picked: true, e.g. sft.", metavar="SET")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="CSV with clip_id, picked (yes or no) and reason. Without it, candidates are printed.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    seeds: Annotated[
        Path | None,
        typer.Option(
            "--seeds", help="CSV with clip_id and concept: candidates are the nearest of each concept's seeds.", exists=True, dir_okay=False
        ),
    ] = None,
    each: Annotated[int, typer.Option("--each", help="Candidates of each concept, with --seeds.", min=1)] = 50,
    reviewer_note: Annotated[str | None, typer.Option("--reviewer-note", help="Who looked, and how; kept with every pick.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take people's choice for a set into the ledger; without --file, print the clips to choose from as CSV. Nothing is ever overwritten.

    A picked set takes clips with a yes and no others, from the next `dailies curate` on: whoever changes their mind gives another file.

      dailies pick dataset sft > picks.csv
      dailies pick dataset sft --seeds seeds.csv --each 100 > picks.csv
      dailies pick dataset sft --file picks.csv --reviewer-note "two people, full clips"
    """
    import csv
    import dataclasses

    from pipelines.decide import DecideError
    from pipelines.one_run import DatasetBusy
    from pipelines.picks import COLUMNS, PickError, candidates
    from pipelines.picks import pick as run
    from pipelines.seeds import candidates_near

    if seeds is not None and file is not None:
        raise typer.BadParameter("expected --seeds, which prints candidates, or --file, which takes what people said; found both")
    store = store_of(dataset)
    with errors(PickError, DecideError, DatasetBusy, OSError):
        if file is None:
            rows = list(candidates(store, set_name)) if seeds is None else candidates_near(store, set_name, seeds, each)
            if as_json:
                print(json.dumps(rows))
                return
            near = () if seeds is None else ("concept", "seed", "cosine")
            sheet = csv.DictWriter(sys.stdout, [*COLUMNS, *near, "start_s", "end_s", "file"], lineterminator="\n")
            sheet.writeheader()
            sheet.writerows(rows)
            return
        found = run(dataset, set_name, file, reviewer_note)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    then = (
        "nothing was committed" if found.version is None else f"committed version {found.version}; the next curate composes the set of it"
    )
    print(f"{found.set_name}: {found.yes:,} yes, {found.no:,} no, {found.unchanged:,} as before; {then}")


@app.command()
def diff(
    dataset: Dataset,
    before: Annotated[int, typer.Argument(help="A version of the manifest.", metavar="V1")],
    after: Annotated[int, typer.Argument(help="Another one.", metavar="V2")],
    as_json: AsJson = False,
) -> None:
    """Show what changed between two versions: clips added, removed, and those whose verdict turned, by rule, with hours.

    dailies diff dataset 0 1
    """
    import dataclasses

    from manifests.diff import diff as compare

    store = store_of(dataset)
    with errors():
        found = compare(store, before, after)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    if found.rules:
        print_table(["rule", f"version {before}", f"version {after}"], [[r.name, r.before or "off", r.after or "off"] for r in found.rules])
        print()
    rows = [[t.change, t.kind, *_amount(t.clips), _turn(t)] for t in found.turned[:_SHOWN]]
    if rest := found.turned[_SHOWN:]:
        rows.append([f"{len(rest)} more, see --json", "", *_amount(_total(t.clips for t in rest)), ""])
    rows.append(["same", "", *_amount(found.same), ""])
    print_table(["change", "kind", "clips", "hours", "verdict or the rule that dropped it"], rows)
    print(f"kept: {_said(found.kept_before)} -> {_said(found.kept_after)}")


@app.command()
def purge(
    dataset: Dataset,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many of the newest versions stay.")],
    execute: Annotated[bool, typer.Option("--execute", help="Delete; without, it is only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the manifest's files that only old versions need. Versions that releases or checkpoints name stay; shards are not touched.

    dailies purge dataset --keep 10
    """
    from pipelines.one_run import LOCK, VERSIONS, DatasetBusy, alone

    store = store_of(dataset)
    with errors(DatasetBusy), alone(dataset, "purge", LOCK, VERSIONS) if execute else nullcontext():
        found = store.purge(store.readable()[-keep:], dry_run=not execute)
    if as_json:
        facts = {"versions": found.versions, "kept": found.kept, "pinned": found.pinned, "files": len(found.files)}
        print(json.dumps(facts | {"size_bytes": found.size_bytes, "deleted": execute}))
        return
    for version, why in sorted(found.pinned.items()):
        print(f"version {version} stays: {why}")
    what = f"{len(found.versions)} versions, {len(found.files)} files, {found.size_bytes / 1e6:.1f} MB"
    print(f"purged {what}" if execute else f"would purge {what}; --execute does it")


def _print_decision(found: Any, commit: bool) -> None:
    rules = [[r.name, r.before or "off", r.after or "off"] for r in found.rules]
    print_table(["rule", "now", "new"], rows=rules or [["none changes", "", ""]])
    for name, changes in _by_kind(found.changes).items():
        print()
        steps = _steps(changes)
        print_table([name, "left now", "hours", "left then", "hours", "passed", "rejected", "unknown"], steps)
    print()
    sets = [c for c in found.changes if c.subject == "clip" and c.set_name]
    names = ["set", "kept now", "hours", "kept then", "hours", "gained", "lost"]
    print_table(names, [[c.set_name, *_amount(c.before.kept), *_amount(c.after.kept), f"{c.gained.n:,}", f"{c.lost.n:,}"] for c in sets])
    print()
    clips = [c for c in found.changes if c.subject == "clip"]
    for text, amount in (
        ("kept, to be encoded by the next curate", _total(c.to_encode for c in clips)),
        ("fail no rule but were never measured to the end: not kept before the next curate measures them", _total(c.to_measure for c in clips)),
        ("no longer kept but in shards: training from this version on does not read them, the next curate writes shards without them",
         _total(c.lost_in_shards for c in clips)),
        ("held back by a takedown or a quarantine, whatever the rules say", _total(c.after.withheld for c in clips)),
    ):  # fmt: skip
        if amount.n:
            print(f"{_said(amount)}: {text}")
    if found.version is not None:
        print(f"committed version {found.version}")
    else:
        print(
            "nothing changes, nothing was committed"
            if commit
            else f"nothing was written ({found.query_seconds:.2f} s); --commit decides so"
        )


def _turn(turned: Any) -> str:
    return " -> ".join(dict.fromkeys(v for v in (turned.rule_was or turned.was, turned.rule_now or turned.now) if v))


def _by_kind(changes: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for c in changes:
        found.setdefault("assets" if c.subject == "asset" else c.kind, []).append(c)
    return found


def _steps(changes: list[Any]) -> list[list[str]]:
    """The steps that any of the subjects met, before and after, by rule: sums over kinds or sets."""
    before = {s.name: _total(c.before.steps[i].left for c in changes) for i, s in enumerate(changes[0].before.steps)}
    rows = [["in", *_amount(_total(c.before.start for c in changes)), *_amount(_total(c.after.start for c in changes)), "", "", ""]]
    for i, step in enumerate(changes[0].after.steps):
        now = [c.after.steps[i] for c in changes]
        met = _total(s.met for s in now)
        if met.n:
            verdicts = [f"{_total(getattr(s, v) for s in now).n:,}" for v in ("passed", "rejected", "unknown")]
            left = before.get(step.name)
            told = f"{step.name} {step.op} {step.threshold:g}"
            rows.append([told, *(_amount(left) if left else ("off", "")), *_amount(_total(s.left for s in now)), *verdicts])
    return rows


def _total(amounts: Any) -> Any:
    from manifests.funnel import Amount

    return sum(amounts, Amount())


def _amount(amount: Any) -> tuple[str, str]:
    return f"{amount.n:,}", f"{amount.time_us / 3.6e9:.4g}"


def _said(amount: Any) -> str:
    return f"{amount.n:,} clips ({amount.time_us / 3.6e9:.4g} h)"
