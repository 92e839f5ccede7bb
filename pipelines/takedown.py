"""`dailies takedown --execute`: what was named is quarantined at once, then scrubbed from everything under the dataset, then receipted.

    takedowns/000001.case.json       what is being done, written first: ids and hashes, no text; a killed run continues from it
    deny.txt, manifest version       the clips may not be trained on, the files may not enter again
    shards                           the members' bytes are filler of the same length
    media, work/, tables             rows, texts, vectors, pictures, sound and copies are gone, in every version
    caches, training runs            latents, text tokens, fetched payloads and prompts are gone from where the manifest says they are
    releases/<name>                  amended
    takedowns/000001.json, .dsse.json    the receipt, last, and what signs it

Every step can be done twice, so the same command after a kill does all of them again and finds most of it done.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests import deny, ids, scrub
from manifests.amendments import Amendment, amend
from manifests.cubes import recount, with_earlier
from manifests.events import Block, Run, Takedown
from manifests.files import write_atomic
from manifests.integrity import RECEIPT
from manifests.policy import policy_at
from manifests.records import Asset, Source
from manifests.schema import from_table, to_table
from manifests.tables import LOOKED_UP, ManifestStore
from manifests.takedown import Radius, Selector, TakedownError, signer_of, survey
from pipelines import provenance
from pipelines.backtranslate import derived_datasets, derived_folders, forget_work
from pipelines.exposures import first_step, record_registered
from pipelines.one_run import LOCK, VERSIONS, alone
from pipelines.stage import Place
from pipelines.takedown_caches import scrub_caches
from pipelines.takedown_case import Case, Request, all_clips, near_copies, open_case
from pipelines.takedown_media import remove_media
from pipelines.work import set_column
from pipelines.work_scrub import scrub_work

STEPS = ("quarantine", "shards", "media", "work", "caches", "tables", "versions", "releases", "receipt")
_REMOVED = {"decision": "removed", "shard_no": None, "caption_no": None, "keyframe_part": None, "scan_part": None}
"""What is left of a clip's state."""
_ABANDONED = re.compile(r"\.(?:.*\.)?(\d+)\.tmp")

Said = Callable[[str], None]


@contextmanager
def to_itself(store: ManifestStore) -> Iterator[None]:
    """Inside, nothing else changes, freezes or purges the dataset or any that was made of it. Raises DatasetBusy."""
    with ExitStack() as held:
        waiting = [store.root]
        while waiting:
            folder = waiting.pop()
            held.enter_context(alone(folder, "takedown", LOCK, VERSIONS))
            if (held_store := ManifestStore(folder)).version() >= 0:
                waiting += derived_datasets(held_store)
        yield


def execute(dataset: Path, request: Request, radius: Radius, key: Path | None, said: Said) -> tuple[Case, Path]:
    """Nothing of what the request names is left under the dataset but hashes and numbers; returns the case and its receipt.

    The same request again continues a case that was killed, or does a finished one again, which finds nothing left to do. What the
    inputs brought since, and the request names too, is a case of its own. Whoever calls has the dataset to itself (`to_itself`) since before
    the radius was surveyed: what a curation wrote meanwhile would stay.
    """
    place, store = Place(dataset.absolute()), ManifestStore(dataset)
    store.recover()
    case = open_case(place, store, request, radius)
    if not case.asset_ids and not case.blocks:
        raise TakedownError(
            f"{', '.join(case.selectors)}: expected something in this dataset, or an address, a hash or a file to be blocked; found neither"
        )
    write_atomic(dataset / case.path, json.dumps(dataclasses.asdict(case), indent=1, sort_keys=True).encode())
    done: dict[str, Any] = {}
    quarantine(store, case)
    said("quarantine")
    _check_key(dataset, case, key)  # a key that is not at hand does not keep anybody training
    hashes = {p: scrub.overwrite(dataset / p, members) for p, members in sorted(scrub.members_of(store, set(case.clip_ids)).items())}
    done["shards"] = {p: h.hex() for p, h in hashes.items()}
    said("shards")
    assets = store.read("assets")
    mine: list[Asset] = from_table(Asset, assets.filter(_among(assets, "asset_no", case.asset_nos)))
    done["media_copies"] = remove_media(place, mine)  # before the work area, which knows where copies were listed
    said("media")
    done["work_parts"] = scrub_work(place, set(case.asset_ids), set(case.clip_ids), set(hashes))
    said("work")
    done["caches"] = scrub_caches(store, case.clip_ids)
    if derived := _take_down_derived(store, request, case, key):
        done["derived"] = derived
    if missed := [str(f) for f in derived_folders(store) if f not in derived_datasets(store)]:
        done["derived_not_found"] = missed
    said("caches")
    done["manifest_version"] = commit_removal(store, case, hashes)
    said("tables")
    changed = scrub_versions(store, case, hashes)
    done["table_files"] = len(changed)
    said("versions")
    done["releases"] = _amend(dataset, case, [*hashes, *changed], key)
    said("releases")
    receipt = write_receipt(dataset, case, done, key)
    said("receipt")
    return case, receipt


def deny_meanwhile(store: ManifestStore, request: Request, radius: Radius) -> int:
    """While another command has the dataset: nobody may train on the clips that the request names, or on others that show the same, from now
    on; how many. Nothing else is done, and the takedown is still to be given."""
    place = Place(store.root.absolute())
    mine = {a.asset_id for a in radius.assets if a.state != "removed"}
    clips = {*all_clips(place, store, mine), *(n.clip_id for n in near_copies(place, store, radius, request.pictures))}
    for folder in (store.root, *derived_datasets(store)) if clips else ():
        deny.deny(folder, clips, deny.WAITING)
    return len(clips)


def with_derived(store: ManifestStore, radius: Radius) -> Radius:
    """The radius with the checkpoints that saw edits of the clips, which lie in datasets that were made of this one."""
    found = [*radius.checkpoints]
    for folder in derived_datasets(store):
        theirs = ManifestStore(folder)
        if theirs.version() >= 0 and (selectors := _held(theirs, [a.asset_id for a in radius.assets])):
            record_registered(theirs)
            found += survey(theirs, selectors, first_step(folder)).checkpoints
    return dataclasses.replace(radius, checkpoints=tuple(found))


def quarantine(store: ManifestStore, case: Case) -> None:
    """Nobody may train on the clips, or on others that show the same, or take the files in again, from now on."""
    for folder in (store.root, *derived_datasets(store)):  # edits of a clip have its id
        deny.deny(folder, (*case.clip_ids, *(clip for clip, _ in case.near)), case.takedown_no)
    run_id = ids.digest("takedown/quarantine/v1", case.takedown_no, case.digest)
    if store.version_of_run(run_id) is not None:
        return
    parent = store.version()
    assets, clips = store.read("assets"), store.read("clips")
    blocks: list[Block] = from_table(Block, store.read("blocklist"))
    known = {(b.kind, b.value) for b in blocks}
    run = _run(store, case, run_id)
    blocks += [Block(kind=k, value=v, takedown_no=case.takedown_no) for k, v in case.blocks if (k, v) not in known]
    assets = _put(assets, _among(assets, "asset_no", case.asset_nos), {"state": "quarantined"})
    # Here and not at the end: it is the largest table, written once.
    clips = _put(scrub.forget_clips(case.clip_ids)(clips), _among(clips, "clip_no", case.clip_nos), _REMOVED)
    clips = _nearer(clips, case)
    store.commit(
        run_id,
        append={"takedowns": to_table(Takedown, [_row(case, "open")]), "runs": to_table(Run, [run])},
        replace={
            "assets": assets,
            "clips": clips,
            "blocklist": to_table(Block, blocks),
            "cubes": with_earlier(recount(run.run_no, policy_at(store, parent), assets, clips), store.read("cubes", parent)),
        },
        parent=parent,
    )


def commit_removal(store: ManifestStore, case: Case, hashes: dict[str, bytes]) -> int:
    """The newest version holds the assets without text, no captions of theirs, and the hashes of the shards as they are now."""
    run_id = ids.digest("takedown/removal/v1", case.takedown_no, case.digest)
    if (done := store.version_of_run(run_id)) is not None:
        return done
    parent = store.version()
    assets = scrub.forget_assets(case.asset_ids)(store.read("assets"))
    captions = store.read("captions")
    now = datetime.now(UTC)
    return store.commit(
        run_id,
        append={
            "takedowns": to_table(Takedown, [_row(case, "executed", now)]),
            "runs": to_table(Run, [_run(store, case, run_id)]),
        },
        replace={
            "sources": scrub.forget_sources(_empty_sources(assets, case))(store.read("sources")),
            "assets": _put(
                assets, _among(assets, "asset_no", case.asset_nos), {"state": "removed", "decision": "removed", "scan_part": None}
            ),
            "captions": captions.filter(pc.invert(_among(captions, "clip_no", case.clip_nos))),
            "members": scrub.rehash_members(case.clip_ids)(store.read("members")),
            "shards": scrub.rehash_shards(hashes)(store.read("shards")),
        },
        parent=parent,
    )


def scrub_versions(store: ManifestStore, case: Case, hashes: dict[str, bytes]) -> list[str]:
    """No version holds the texts any more, and all have the shards' hashes of now; returns the files that changed, under the dataset."""
    sources = [s.source_no for s in from_table(Source, store.read("sources")) if s.name == f"removed:{s.source_no}"]
    changes = {
        "assets": scrub.forget_assets(case.asset_ids),
        "clips": scrub.forget_clips(case.clip_ids),
        "captions": scrub.forget_captions(case.clip_nos),
        "picks": scrub.forget_picks(case.clip_ids),
        "members": scrub.rehash_members(case.clip_ids),
        "shards": scrub.rehash_shards(hashes),
        "sources": scrub.forget_sources(sources),
    }
    _remove_abandoned(store.root)
    for table, change in changes.items():
        for path in scrub.part_files(store, table):
            scrub.rewrite_in_place(path, change, LOOKED_UP.get(table, ()), store.folder / "_scrub")
    # All of them, not only those changed now: a run that was killed changed some before.
    return [str(p.relative_to(store.root)) for table in changes for p in scrub.part_files(store, table)]


def write_receipt(dataset: Path, case: Case, done: dict[str, Any], key: Path | None) -> Path:
    """The receipt and its envelope stand in `takedowns/`, signed where a key is given; one that is there already stays."""
    from manifests import signing

    path = dataset / case.receipt
    if not path.exists():
        said = {
            **{n: v for n, v in dataclasses.asdict(case).items() if n not in ("blocks", "digest")},
            "executed_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "code_version": provenance.code_version(),
            "blocked": _counts(case.blocks),
            "done": done,
            "not_undone": "What was trained keeps what it learnt: for each checkpoint above somebody has to decide (retrain, unlearn, "
            "accept, withdraw). Copies outside this dataset, backups and freed disk blocks are out of reach of this command.",
        }
        write_atomic(path, json.dumps(said, indent=1, sort_keys=True).encode() + b"\n")
    envelope = path.with_suffix(".dsse.json")
    if not envelope.exists():
        data = path.read_bytes()
        statement = signing.Statement(
            subject=path.name,
            sha256=hashlib.sha256(data).hexdigest(),
            predicate_type=RECEIPT,
            predicate={"takedown_no": case.takedown_no},
        )
        write_atomic(envelope, json.dumps(signing.seal(statement, None if key is None else signing.load_signer(key)), indent=1).encode())
    return path


def _nearer(clips: pa.Table, case: Case) -> pa.Table:
    """The near copies are as far from what is blocked as they are: the rule `blocked_copy` drops them when it is asked again."""
    near = pa.table({"clip_id": [c for c, _ in case.near], "bits": pa.array([b for _, b in case.near], pa.int32())})
    at = pc.index_in(clips.column("clip_id"), value_set=near.column("clip_id").combine_chunks().cast(pa.string()))
    bits = near.column("bits").combine_chunks().take(at.combine_chunks())
    return set_column(clips, "block_distance", pc.min_element_wise(clips.column("block_distance").combine_chunks(), bits))


def _check_key(dataset: Path, case: Case, key: Path | None) -> None:
    """A signed release can be amended: said before anything is removed."""
    from manifests.signing import load_signer

    mine = None if key is None else str(load_signer(key).public_key.keyid)
    for name in case.releases:
        wanted = signer_of(dataset / "releases" / name)
        if wanted is not None and wanted != mine:
            raise TakedownError(
                f"release {name}: expected the key that signed it ({wanted}), because its amendment has to be signed too; found "
                f"{mine or 'none'}; give the same command with its --key, or this takedown stays open. Until then the clips are quarantined: nobody trains on them, nothing is removed"
            )


def _take_down_derived(store: ManifestStore, request: Request, case: Case, key: Path | None) -> dict[str, int]:
    """The same is taken down in every dataset that was made of this one; returns how many assets went from each that had any."""
    gone = {}
    for folder in derived_datasets(store):
        forget_work(folder, case.clip_ids)
        theirs = ManifestStore(folder)
        if theirs.version() >= 0 and (selectors := _held(theirs, case.asset_ids)):
            record_registered(theirs, holds=True)
            there = Request(selectors=selectors, basis=request.basis, reason=request.reason)
            execute(folder, there, survey(theirs, selectors, first_step(folder)), key, lambda step: None)
            gone[str(folder)] = len(selectors)
    return gone


def _held(store: ManifestStore, asset_ids: Collection[str]) -> tuple[Selector, ...]:
    """Which of the assets the dataset has."""
    held = set(store.read("assets", columns=["asset_id"]).column(0).to_pylist()) & set(asset_ids)
    return tuple(Selector(kind="asset", value=asset) for asset in sorted(held))


def _amend(dataset: Path, case: Case, paths: Sequence[str], key: Path | None) -> list[str]:
    """Every release that holds some of it verifies again; returns the names of those that were amended."""
    amendment = Amendment(
        takedown_no=case.takedown_no,
        reason_code=case.basis,
        at=datetime.fromisoformat(case.received_at),
        paths=tuple(paths),
        clip_ids=case.clip_ids,
        asset_sha256=tuple(bytes.fromhex(h) for h in case.asset_sha256 if len(h) == 64),
        sources_gone=_names_a_source(ManifestStore(dataset), case),
    )
    folders = [dataset / "releases" / name for name in case.releases]
    return [f.name for f in folders if amend(f, amendment, key if signer_of(f) else None)]


def _remove_abandoned(root: Path) -> None:
    """Files and folders that a killed writer left half-written hold texts and media too: those whose process is gone are deleted."""
    for path in sorted(root.rglob(".*.tmp")):
        match = _ABANDONED.fullmatch(path.name)
        if match and not _writes(int(match[1]), path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _writes(pid: int, path: Path) -> bool:
    """Whether the process that the name says may be at work on it: one that began after it was last written to has another's number."""
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() <= path.lstat().st_mtime + 1)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True


def _empty_sources(assets: pa.Table, case: Case) -> list[int]:
    """The sources of which nothing but the case's assets and earlier removed ones came."""
    gone = pc.or_(_among(assets, "asset_no", case.asset_nos), pc.equal(assets.column("state"), "removed"))
    left = set(assets.filter(pc.invert(gone)).column("source_no").to_pylist())
    return sorted(set(assets.filter(gone).column("source_no").to_pylist()) - left)


def _names_a_source(store: ManifestStore, case: Case) -> bool:
    """Whether nothing is left of a source that some of it came from: the source's name, which may be a person's, goes too."""
    assets = store.read("assets", columns=["asset_no", "source_no", "state"])
    mine = set(assets.filter(_among(assets, "asset_no", case.asset_nos)).column("source_no").to_pylist())
    return bool(mine & set(_empty_sources(assets, case)))


def _among(table: pa.Table, name: str, values: Collection[int]) -> pa.ChunkedArray:
    return pc.is_in(table.column(name), value_set=pa.array(sorted(values), pa.int64()))


def _put(table: pa.Table, mask: pa.ChunkedArray, values: dict[str, Any]) -> pa.Table:
    for name, value in values.items():
        kind = table.schema.field(name).type
        table = set_column(table, name, pc.if_else(mask, pa.scalar(value, kind), table.column(name)))
    return table


def _row(case: Case, state: str, executed_at: datetime | None = None) -> Takedown:
    return Takedown(
        takedown_no=case.takedown_no,
        received_at=datetime.fromisoformat(case.received_at),
        basis=case.basis,
        selector=", ".join(case.selectors),
        state=state,
        reason=case.reason,
        n_assets=len(case.asset_ids),
        n_clips=len(case.clip_ids),
        executed_at=executed_at,
        receipt=case.receipt,
    )


def _run(store: ManifestStore, case: Case, run_id: str) -> Run:
    now = datetime.now(UTC)
    return Run(
        run_no=store.read("runs", columns=["run_no"]).num_rows,
        run_id=run_id,
        command="takedown",
        inputs_digest=case.digest,
        code_version=provenance.code_version(),
        config_sha256=ids.digest("takedown/none"),
        config_json="{}",
        parent_version=store.version(),
        started_at=now,
        ended_at=now,
    )


def _counts(blocks: Sequence[tuple[str, str]]) -> dict[str, int]:
    return {k: sum(kind == k for kind, _ in blocks) for k in sorted({kind for kind, _ in blocks})}
