"""The command of takedowns: what is derived from somebody's media, and taking it all out."""

import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.console import AsJson, Dataset, errors, need_file, print_table, store_of

if TYPE_CHECKING:  # commands start without what they do not need
    from manifests.tables import ManifestStore
    from manifests.takedown import Radius
    from pipelines.takedown_case import Request

app = typer.Typer()

Texts = list[str] | None


@app.command()
def takedown(
    dataset: Dataset,
    url: Annotated[
        Texts, typer.Option("--url", help="Address of the media or of its page, as the rights state it. May be repeated.")
    ] = None,
    asset: Annotated[Texts, typer.Option("--asset", help="Asset id, 6 or more digits. May be repeated.")] = None,
    hash: Annotated[Texts, typer.Option("--hash", help="SHA-256 or MD5 of the original file. May be repeated.")] = None,
    file: Annotated[list[Path] | None, typer.Option("--file", help="The original file itself. May be repeated.")] = None,
    channel: Annotated[Texts, typer.Option("--channel", help="Channel or creator, as the rights state it. May be repeated.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; goes into the receipt.")] = "not stated",
    basis: Annotated[
        Literal["copyright", "privacy", "contract", "opt-out", "unlawful"], typer.Option("--basis", help="Ground.")
    ] = "copyright",
    execute: Annotated[bool, typer.Option("--execute", help="Do it. Without this nothing is changed.")] = False,
    key: Annotated[
        Path | None, typer.Option("--key", help="Private key file from `dailies keygen`, to sign the receipt and releases' amendments.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List everything derived from somebody's media: clips, times, captions, scores, sets, shards, releases, checkpoints; or remove it.

    Without --execute nothing changes. With it: training refuses the clips at once, texts, vectors, pictures, sound and the shards' bytes
    are destroyed in every version, the files may not enter again, and a receipt says what was done. A killed run is continued by the
    same command.

      dailies takedown dataset --url https://example.org/film --reason "request of 2026-11-20" --execute --key lab.key
    """
    from manifests.release_file import ReleaseError
    from manifests.signing import SigningError
    from manifests.tables import ManifestError
    from manifests.takedown import Radius, Selector, TakedownError, survey
    from pipelines.exposures import first_step
    from pipelines.one_run import DatasetBusy
    from pipelines.takedown import deny_meanwhile, to_itself, with_derived
    from pipelines.takedown_case import Request, pictures_of

    store = store_of(dataset)
    store.recover()
    with errors(TakedownError, ManifestError, ReleaseError, SigningError, DatasetBusy, OSError):
        given: list[tuple[Any, list[str]]] = [("url", url or []), ("asset", asset or []), ("hash", hash or []), ("channel", channel or [])]
        selectors = [Selector(kind=k, value=v) for k, values in given for v in values]
        of_file = {path: _sha256(path) for path in file or []}
        selectors += [Selector(kind="hash", value=sha256) for sha256 in of_file.values()]
        if not selectors:
            raise TakedownError("expected something to take down, found nothing named; give --url, --asset, --hash, --file or --channel")

        def asked() -> tuple[Request, Radius]:
            radius = with_derived(store, survey(store, selectors, first_step(dataset)))
            known = {a.sha256 for a in radius.assets}
            pictures = tuple(p for path, sha256 in of_file.items() if sha256 not in known for p in pictures_of(path))
            return Request(selectors=tuple(selectors), basis=basis, reason=reason, pictures=pictures), radius

        try:
            # What is surveyed is what is executed: nothing may be added in between.
            with to_itself(store) if execute else nullcontext():
                _tell_of_elsewhere(store, holds=execute)
                request, radius = asked()
                facts = dataclasses.asdict(radius) | {"shards": radius.shards, "executed": execute}
                facts |= _remove(dataset, request, radius, key, quiet=as_json) if execute else _what_else(store, request, radius)
        except DatasetBusy as busy:
            denied = deny_meanwhile(store, *asked())
            raise DatasetBusy(
                f"{busy}. Until then nobody trains on what was named: {denied} clips are denied, nothing is removed"
            ) from None
    if execute:
        _rewrite_report(dataset)
    print(json.dumps(facts, default=str)) if as_json else _print(facts)


def _tell_of_elsewhere(store: "ManifestStore", holds: bool) -> None:
    """A line for people for each training run and each derived dataset that cannot be looked into from here."""
    from pipelines.backtranslate import derived_datasets, derived_folders
    from pipelines.exposures import record_registered

    for missed in record_registered(store, holds=holds):  # what is being trained has checkpoints too
        print(missed, file=sys.stderr)
    for folder in derived_folders(store):
        if folder not in derived_datasets(store):
            print(f"{folder}: a dataset made of this one that is not there: take it down where it is", file=sys.stderr)


def _remove(dataset: Path, request: "Request", radius: "Radius", key: Path | None, quiet: bool) -> dict[str, Any]:
    """The takedown is done; what it was, for people and programs."""
    from pipelines.progress import Progress
    from pipelines.takedown import STEPS, execute

    with Progress(quiet=quiet).stage("takedown", len(STEPS)) as advance:
        case, receipt = execute(dataset, request, radius, key, lambda step: advance(1))
    near = [{"clip_id": c, "distance": bits} for c, bits in case.near]
    facts = {"takedown_no": case.takedown_no, "receipt": str(receipt), "assets_removed": len(case.asset_ids)}
    return {**facts, "near_copies": near, "signed": key is not None}


def _what_else(store: "ManifestStore", request: "Request", radius: "Radius") -> dict[str, Any]:
    """What the request would touch beside the manifest, and whether it was made before."""
    from pipelines.stage import Place
    from pipelines.takedown_case import find_case, near_copies
    from pipelines.work_scrub import count_work

    earlier, place = find_case(store.root, request), Place(store.root.absolute())
    return {
        "work_rows": count_work(place, {a.asset_id for a in radius.assets}, {c.clip_id for c in radius.clips}),
        "near_copies": [dataclasses.asdict(n) for n in near_copies(place, store, radius, request.pictures)],
        "takedown_no": None if earlier is None else earlier.takedown_no,
    }


def _sha256(path: Path) -> str:
    from manifests.ids import hash_stream

    with need_file(path).open("rb") as source:
        return hash_stream(source)[0].hex()


def _rewrite_report(dataset: Path) -> None:
    """A report that shows what was taken down is one of before: it is made again."""
    from pipelines.reporting import write_report

    if (dataset / "report.html").exists() or (dataset / "report.json").exists():
        write_report(dataset)


def _print(facts: dict[str, Any]) -> None:
    assets, clips = facts["assets"], facts["clips"]
    if facts["executed"]:
        print(f"takedown {facts['takedown_no']}: {facts['assets_removed']} assets removed, receipt {facts['receipt']}")
        if not facts["signed"]:
            print("the receipt is not signed: a key given with --key, made by `dailies keygen`, signs it")
        if near := facts["near_copies"]:
            print(
                f"clips of other files that show the same are not trained on from now on: {len(near)}. `dailies decide DATASET --commit`, or the next"
            )
            print("curation, drops them: " + " ".join(n["clip_id"] for n in near))
        return
    if not assets and not facts["near_copies"]:
        print("nothing in this dataset is derived from what is named" + _again(facts))
        return
    if assets:
        print_table(["asset", "state", "address", "title"], [[a["asset_id"], a["state"], a["uri"], a["title"] or ""] for a in assets])
    rows = [[c["clip_id"], _seconds(c), c["decision"], c["set_name"] or "", c["bucket"] or "", " ".join(c["captions"])[:60]] for c in clips]
    if rows:
        print_table(["clip", "seconds", "decision", "set", "bucket", "caption"], rows)
    for c in clips:
        print(f"{c['clip_id']}  " + ", ".join(f"{n} {v:.4g}" for n, v in c["scores"].items()))
    rows = [["shard", path] for path in facts["shards"]]
    rows += [["release", f"{r['name']}: {r['clips']} clips, {r['assets']} files"] for r in facts["releases"]]
    rows += [["checkpoint", _checkpoint(c)] for c in facts["checkpoints"]]
    rows += [["work", f"{stage}: rows {n}"] for stage, n in facts["work_rows"].items()]
    near = facts["near_copies"]
    rows += [
        [
            "near copy",
            f"clip {n['clip_id']} of asset {n['asset_id']}, {n['distance']} bit away: not trained on afterwards, dropped when rules are asked again",
        ]
        for n in near
    ]
    print_table(["", "also touched"], rows)
    print(f"{len(assets)} assets, {len(clips)} clips; nothing was changed, --execute removes them" + _again(facts))


def _again(facts: dict[str, Any]) -> str:
    return "" if facts["takedown_no"] is None else f" (takedown {facts['takedown_no']} is the same request)"


def _seconds(clip: dict[str, Any]) -> str:
    return f"{clip['start_us'] / 1e6:.2f} to {clip['end_us'] / 1e6:.2f}"


def _checkpoint(found: dict[str, Any]) -> str:
    seen = ", ".join(f"{clip} at step {step}" for clip, step in sorted(found["first_steps"].items(), key=lambda item: item[1]))
    return f"{found['run_path']} {found['checkpoint']}: first saw {seen}"
