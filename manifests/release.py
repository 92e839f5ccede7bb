"""Makes a release: a version of the manifest frozen with its shards, hashed, signed, and told in the formats of others.

    releases/<name>/release.json        what it is (`manifests.release_file`)      release.dsse.json   in-toto statement, signed
                    tree/               Merkle trees of clips and assets           README.md, croissant.json, report.html …

The folder appears whole, by one rename, or not at all. Hashes of shards are those of the shards table, which were taken when they were
written: a release of 100 TB is then a matter of minutes, and `dailies verify` reads every byte.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from manifests import leaves, report, signing, treefile
from manifests.deny import WAITING, DenyList
from manifests.exports import attribution, croissant, data_card, eu_summary, openlineage, removals
from manifests.exports.facts import Facts, collect, hours
from manifests.exports.openlineage import StageRun
from manifests.files import sync_folder, temporary_name
from manifests.leaves import TREES, Tree
from manifests.merkle import Bytes2
from manifests.query import connect, rows
from manifests.release_check import check_root, check_signature
from manifests.release_file import (
    FORMAT,
    PREDICATE,
    RELEASE_JSON,
    RELEASES,
    SIGNATURE,
    Entry,
    Release,
    ReleaseError,
    checked_name,
    combined_root,
    hash_file,
    parse_release,
    plain,
    predicate_of,
    read_release,
)
from manifests.schema import SCHEMA_VERSION, TABLES
from manifests.signing import Statement
from manifests.summary import Images
from manifests.tables import ManifestStore

if TYPE_CHECKING:
    import duckdb
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

Said = Callable[[str], None]
"""Called with the name of each step as it begins."""

STEPS = ("tables", "clips", "assets", "facts", "exports", "sign")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to release. `key` is a private key file or None; `created_at` and `code_version` are told, not measured."""

    name: str
    version: int | None
    key: Path | None
    created_at: datetime
    code_version: str
    stages: Sequence[StageRun] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A release that stands in `folder`; `already` when it stood there before."""

    folder: Path
    release: Release
    already: bool


def make_release(store: ManifestStore, request: Request, images: Images, said: Said = lambda step: None) -> Made:
    """The release stands in `releases/<name>`. ReleaseError when another one does, or something of the version is not there."""
    name, root = _checked(request.name), store.root.absolute()
    version = store.version() if request.version is None else request.version
    signer = None if request.key is None else signing.load_signer(request.key)
    folder = root / RELEASES / name
    said("tables")
    tables = {table: _table_entries(store, root, table, version) for table in TABLES}
    shards = _shard_entries(store, root, version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder.parent):
        if folder.exists():
            return _same(folder, version, tables, shards, signer)
        _check_denied(root, [root / e.path for e in tables["clips"]])
        earlier = newest_release(root)
        temporary = _fresh(folder.parent, name)
        try:
            raw = _fill(temporary, store, request, version, tables, shards, earlier, signer, images, said)
            said("sign")
            release = _seal(temporary, raw, signer)
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # what could not be finished is not left behind
            raise
        sync_folder(folder.parent)
    return Made(folder=folder, release=release, already=False)


def _check_denied(root: Path, clips: list[Path]) -> None:
    """No clip that is released is one that nobody may train on."""
    denied = DenyList(root).clips()
    kept = pc.field("clip_id").isin(pa.array(sorted(denied), pa.string())) & (pc.field("decision") == "keep")
    if (
        denied
        and clips
        and (found := pds.dataset([str(p) for p in clips], format="parquet").to_table(["clip_id"], filter=kept).column(0).to_pylist())
    ):
        cases = ", ".join(str(n) if n != WAITING else "that is still to be done" for n in sorted({denied[c] for c in found}))
        raise ReleaseError(
            f"expected no kept clip that may not be trained on, found {len(found)}, the first {found[0]}, by takedown {cases}; "
            "`dailies decide DATASET --commit`, or the next curation, drops those that show the same as what was taken down"
        )


def newest_release(dataset: Path) -> Release | None:
    """The release with the longest chain of earlier ones, or None. ReleaseError when its release.json is not what was released."""
    folder = dataset / RELEASES
    found = [read_release(f) for f in sorted(folder.iterdir()) if (f / RELEASE_JSON).is_file()] if folder.is_dir() else []
    newest = max(found, key=lambda r: (len(r.chain), r.name), default=None)
    if newest is not None:
        _, faults = check_signature(folder / newest.name, newest, None)
        if faults := [*check_root(newest), *faults]:
            raise ReleaseError(f"{folder / newest.name}: expected the newest release to be as it was released, found: {faults[0]}")
    return newest


def _fill(
    folder: Path,
    store: ManifestStore,
    request: Request,
    version: int,
    tables: Mapping[str, Sequence[Entry]],
    shards: Sequence[Entry],
    earlier: Release | None,
    signer: "CryptoSigner | None",
    images: Images,
    said: Said,
) -> dict[str, Any]:
    """Everything of the release but its release.json stands in the folder; returns what that will say."""
    root = store.root.absolute()
    files = {name: [root / e.path for e in entries] for name, entries in tables.items()}
    trees: dict[str, dict[str, Any]] = {}
    for tree in TREES:
        said(tree.name)
        of_tree = leaves.rows_of(tree, files)
        _check_keys(tree, of_tree.keys)
        trees[tree.name] = {"rows": len(of_tree.keys), "root": treefile.write_tree(folder, tree, of_tree).hex()}
    chain = [*earlier.chain, earlier.root] if earlier else []
    told_tables, told_shards = {n: plain(e) for n, e in tables.items() if e}, plain(shards)
    merkle_root = combined_root(chain, {n: t["root"] for n, t in trees.items()}, told_tables, told_shards)
    said("facts")
    con = connect(store, version)
    try:
        facts = collect(
            con,
            name=request.name,
            dataset=root.name,
            version=version,
            created_at=request.created_at,
            code_version=request.code_version,
            root=merkle_root,
            signed=signer is not None,
        )
        said("exports")
        _write_exports(folder, con, facts, tables, request.stages)
    finally:
        con.close()
    page = report.render(report.collect_store(store, images, title=f"{root.name}, release {request.name}", version=version))
    (folder / "report.html").write_text(page)
    own = [hash_file(p, root=folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        "format": FORMAT,
        "name": request.name,
        "dataset": root.name,
        "manifest_version": version,
        "schema_version": SCHEMA_VERSION,
        "created_at": request.created_at.isoformat(timespec="seconds"),
        "code_version": request.code_version,
        "runs": [_plain_row(r) for r in facts.runs],
        "policy": [_plain_row(r) for r in facts.policy],
        "counts": _counts(facts),
        "signer": None if signer is None else {"keyid": signer.public_key.keyid, "public_key": signing.public_pem(signer)},
        "previous": None if earlier is None else {"name": earlier.name, "merkle_root": earlier.root, "sha256": earlier.sha256},
        "earlier_roots": chain,
        "merkle_root": merkle_root,
        "trees": trees,
        "tables": told_tables,
        "shards": told_shards,
        "files": plain(own),
    }


def _check_keys(tree: Tree, keys: Bytes2) -> None:
    """Each key stands once, in order: what a proof of absence relies on."""
    if len(places := leaves.out_of_order(keys)):
        raise ReleaseError(
            f"{tree.name}: expected each {tree.name[:-1]} to stand once in the tables, found {bytes(keys[places[0]]).hex()} twice; "
            "a release of that could prove nothing absent"
        )


def _write_exports(
    folder: Path, con: "duckdb.DuckDBPyConnection", facts: Facts, tables: Mapping[str, Sequence[Entry]], stages: Sequence[StageRun]
) -> None:
    reasons = {r["takedown_no"]: r["basis"] for r in rows(con, "SELECT takedown_no, basis FROM takedowns")}
    removed = removals.write_removals(rows(con, "SELECT kind, value, takedown_no FROM blocklist"), reasons)
    summary = eu_summary.write_summary(facts, removed.count(b"\n"))
    document = json.dumps(croissant.write_croissant(facts, tables), indent=1, ensure_ascii=False, allow_nan=False)
    for name, data in {
        removals.NAME: removed,
        attribution.NAME: attribution.write_attribution(_stream(con, attribution.SQL)),
        croissant.NAME: document.encode() + b"\n",
        data_card.NAME: data_card.write_card(facts).encode(),
        eu_summary.JSON_NAME: eu_summary.to_json(summary),
        eu_summary.MD_NAME: eu_summary.to_markdown(summary).encode(),
        openlineage.NAME: openlineage.write_lineage(facts, stages),
    }.items():
        (folder / name).write_bytes(data)


def _stream(con: "duckdb.DuckDBPyConnection", sql: str) -> Iterator[dict[str, Any]]:
    """The rows of our own SQL, a batch in memory at a time."""
    for batch in con.sql(sql).to_arrow_reader():
        yield from batch.to_pylist()


def _seal(folder: Path, raw: dict[str, Any], signer: "CryptoSigner | None") -> Release:
    """release.json and its signature stand in the folder, and all of it is on disk."""
    data = (json.dumps(raw, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        release = parse_release(data)
    except ValueError as error:  # a set or folder whose name cannot be a path in a release
        raise ReleaseError(f"{raw['name']}: this version cannot be released: {error}") from error
    (folder / RELEASE_JSON).write_bytes(data)
    if signer is not None:
        statement = Statement(subject=RELEASE_JSON, sha256=release.sha256, predicate_type=PREDICATE, predicate=predicate_of(raw))
        (folder / SIGNATURE).write_text(json.dumps(signing.seal(statement, signer), indent=1) + "\n")
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    return release


def _same(
    folder: Path, version: int, tables: Mapping[str, Sequence[Entry]], shards: Sequence[Entry], signer: "CryptoSigner | None"
) -> Made:
    """The release that is there already, if it is the one asked for."""
    there = read_release(folder)
    public = None if signer is None else signing.public_pem(signer)
    told = {n: tuple(e) for n, e in tables.items() if e}
    if (there.version, there.tables, there.shards, there.public_key) != (version, told, tuple(shards), public):
        key = "without a key" if there.public_key is None else "with its own key"
        raise ReleaseError(
            f"{folder}: expected no release of that name, found one of version {there.version} made {key}; a release never changes: choose another name"
        )
    return Made(folder=folder, release=there, already=True)


def _checked(name: str) -> str:
    try:
        return checked_name(name)
    except ValueError as error:
        raise ReleaseError(str(error)) from error


def _table_entries(store: ManifestStore, root: Path, table: str, version: int) -> list[Entry]:
    """The table's Parquet files at the version, hashed."""
    paths = [Path(p) for p in store.files(table, version)]
    return [hash_file(p, pq.read_metadata(p).num_rows, root=root) for p in paths]


def _shard_entries(store: ManifestStore, root: Path, version: int) -> list[Entry]:
    """The shards as their table has them, sorted by path; each must be there in its size."""
    shards = store.read("shards", version, ["path", "size_bytes", "sha256", "n_samples"])
    found = [
        Entry(path=path, size_bytes=size, sha256=digest.hex(), rows=samples)
        for path, size, digest, samples in sorted(zip(*(c.to_pylist() for c in shards.columns), strict=True))
    ]
    for e in found:
        path = root / e.path
        size = path.stat().st_size if path.is_file() else None
        if size != e.size_bytes:
            raise ReleaseError(
                f"{e.path}: expected a shard of {e.size_bytes} bytes, found {'none' if size is None else f'{size} bytes'}; `dailies verify {root}` says more"
            )
    return found


def _counts(facts: Facts) -> dict[str, Any]:
    return {
        "tables": facts.tables,
        "kinds": [dict(k) for k in facts.kinds],
        "sets": [dict(s) for s in facts.sets],
        "kept": facts.kept,
        "hours_kept": hours(facts.kept_us),
        "shards": facts.shards,
        "shard_bytes": facts.shard_bytes,
        "samples": facts.samples,
    }


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """No other process makes a release here meanwhile: two at once would both follow the same one, and the chain would fork."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fresh(folder: Path, name: str) -> Path:
    """An empty folder that no reader takes for a release; what a killed attempt at the same name left is gone."""
    for left in folder.glob(f".{name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = temporary_name(folder / name)
    temporary.mkdir()
    return temporary


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
