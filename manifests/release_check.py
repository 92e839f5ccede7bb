"""Whether a release is still what was released, offline: signature, every file, every row, every shard, and whether it is the newest.

Each layer finds what the one before cannot: the signature that release.json was exchanged, the hashes that a file was, the trees which
row of it, the chain of roots that all of it was exchanged for an older release.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from manifests import leaves, signing, treefile
from manifests.amendments import Amended, read_amendments
from manifests.integrity import Fault
from manifests.leaves import TREES, Files, Tree
from manifests.records import Member, Shard
from manifests.release_file import (
    AMENDMENTS,
    PREDICATE,
    RELEASE_JSON,
    RELEASES,
    SIGNATURE,
    Entry,
    Release,
    ReleaseError,
    combined_root,
    hash_file,
    plain,
    predicate_of,
    read_release,
)
from manifests.schema import arrow_schema
from manifests.signing import SigningError, Statement

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

MAX_NAMED = 20
"""Rows of one tree that are named; beyond it their number is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the person who verifies knows from elsewhere: a public key, and the root of the newest release they know of."""

    key: "SSlibKey | None" = None
    latest_known: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was looked at, and every fault. `signed_by` is the key whose signature holds, None without one.

    `rows` are those compared with their leaves: not the erased ones, and none of a tree whose tables a takedown removed.
    """

    release: Release
    signed_by: str | None
    trusted: bool
    amendments: int
    files: int
    rows: int
    faults: tuple[Fault, ...]


def is_release(folder: Path) -> bool:
    """Whether a folder is that of a release and not of a dataset."""
    return (folder / RELEASE_JSON).is_file()


def check_release(folder: Path, trust: Trust, dataset: Path | None = None, advance: Callable[[int], None] = lambda n: None) -> Checked:
    """Everything that does not hold. `dataset` is where the tables and shards lie: the release's own dataset if not given.

    `advance` is called with 1 for every file that is done.
    """
    release = read_release(folder)
    dataset = folder.absolute().parent.parent if dataset is None else dataset
    faults = list(check_root(release))
    signed_by, of_signature = check_signature(folder, release, trust.key)
    faults += of_signature
    try:
        amended = read_amendments(folder, release, _amending_key(release, trust))
    except ReleaseError as error:
        faults.append(Fault(AMENDMENTS, "amendments that follow from one another, signed as the release is", str(error)))
        amended = read_amendments(folder.parent / ".none", release, None)  # as if there were none: what was amended then shows
    faults += _check_chain(folder, release, trust.latest_known)
    faults += _check_files(folder, dataset, release, amended, advance)
    compared = _comparable(release, amended)
    faults += _check_trees(folder, dataset, release, amended, compared)
    return Checked(
        release=release,
        signed_by=signed_by,
        trusted=trust.key is not None and signed_by is not None,
        amendments=amended.count,
        files=len(amended.files),
        rows=sum(release.trees[tree.name].rows - len(amended.erased[tree.name]) for tree in compared),
        faults=tuple(faults),
    )


def check_signature(folder: Path, release: Release, key: "SSlibKey | None") -> tuple[str | None, list[Fault]]:
    """The id of the key whose signature over this release.json holds, and what does not hold.

    Without a key from elsewhere the release's own is taken: then the signature shows that the parts belong together, not who made them.
    """
    path = folder / SIGNATURE
    if not path.is_file():
        if release.public_key is None and key is None:
            return None, []
        return None, [Fault(SIGNATURE, f"a signature by key {key.keyid if key else 'named in ' + RELEASE_JSON}", "no such file")]
    try:
        own = None if release.public_key is None else signing.public_from_pem(release.public_key.encode())
        by = key or own
        if by is None:
            return None, [Fault(RELEASE_JSON, "the public key of its signer", "none, though there is a signature")]
        statement = signing.unseal(json.loads(path.read_bytes()), by)
    except (SigningError, ValueError, RecursionError) as error:
        return None, [Fault(SIGNATURE, "a signature that holds", str(error))]
    return str(by.keyid), list(_check_statement(statement, release))


def _check_statement(statement: Statement, release: Release) -> Iterator[Fault]:
    if statement.predicate_type != PREDICATE or statement.subject != RELEASE_JSON:
        yield Fault(SIGNATURE, f"a statement about {RELEASE_JSON}", f"one about {statement.subject} ({statement.predicate_type})")
    elif statement.sha256 != release.sha256:
        yield Fault(RELEASE_JSON, f"the signed SHA-256 {statement.sha256}", release.sha256)
    elif statement.predicate != predicate_of(release.raw):
        yield Fault(SIGNATURE, f"what {RELEASE_JSON} says", "something else")


def _amending_key(release: Release, trust: Trust) -> "SSlibKey | None":
    """Amendments of a signed release are signed by the same key."""
    if trust.key is not None or release.public_key is None:
        return trust.key
    try:
        return signing.public_from_pem(release.public_key.encode())
    except ValueError as error:
        raise ReleaseError(f"{RELEASE_JSON}: expected an Ed25519 public key as its signer's, found something else ({error})") from error


def check_root(release: Release) -> Iterator[Fault]:
    """The root follows from the parts, and the previous release is the last of the earlier ones."""
    tables = {name: plain(entries) for name, entries in release.tables.items()}
    roots = {name: tree.root for name, tree in release.trees.items()}
    found = combined_root(release.chain, roots, tables, plain(release.shards))
    if found != release.root:
        yield Fault(RELEASE_JSON, f"the Merkle root {release.root}", f"{found} from its own trees, tables and shards")
    previous = release.raw.get("previous")
    last = release.chain[-1] if release.chain else None
    if (previous.get("merkle_root") if isinstance(previous, dict) else previous) != last:
        yield Fault(RELEASE_JSON, f"the previous release to have the root {last}", str(previous))


def _check_chain(folder: Path, release: Release, latest_known: str | None) -> Iterator[Fault]:
    """It is the newest known release or one after it, and the previous release, where it is there, is the one it names."""
    if latest_known is not None and latest_known not in (release.root, *release.chain):
        yield Fault(
            RELEASE_JSON,
            f"the release with root {latest_known} or one that follows it",
            f"root {release.root}, which neither is nor follows it: an older or foreign release",
        )
    previous = release.raw.get("previous")
    if isinstance(previous, dict) and folder.absolute().parent.name == RELEASES:
        for other in sorted(p for p in folder.absolute().parent.iterdir() if p.name == previous.get("name")):
            try:
                there = read_release(other)
            except ReleaseError as error:
                yield Fault(f"{RELEASES}/{other.name}", "the previous release", str(error))
                continue
            if there.sha256 != previous.get("sha256"):
                yield Fault(
                    f"{RELEASES}/{other.name}/{RELEASE_JSON}", f"SHA-256 {previous.get('sha256')}, as the next release says", there.sha256
                )


def _check_files(folder: Path, dataset: Path, release: Release, amended: Amended, advance: Callable[[int], None]) -> Iterator[Fault]:
    own = {e.path for e in release.files}
    wrong: list[tuple[Entry, Entry]] = []
    for path, expected in amended.files.items():
        root = folder if path in own else dataset
        found = _look(root, path)
        advance(1)
        if expected is None:
            if found is not None:
                yield Fault(path, "no file, since a takedown removed it", f"{found.size_bytes} bytes")
        elif found is None:
            yield Fault(path, f"a file of {expected.size_bytes} bytes", "no file")
        elif (found.size_bytes, found.sha256) != (expected.size_bytes, expected.sha256):
            wrong.append((expected, found))
    names = {e.sha256: path for path, e in amended.files.items() if e is not None}
    for expected, found in wrong:
        yield from _say_wrong(folder if expected.path in own else dataset, release, expected, found, names.get(found.sha256))
    known = own | {RELEASE_JSON, SIGNATURE, AMENDMENTS}
    for stranger in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()):
        if stranger not in known:
            yield Fault(stranger, f"no file that {RELEASE_JSON} does not name", "one")


def _look(root: Path, path: str) -> Entry | None:
    try:
        return hash_file(root / path, root=root)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _say_wrong(root: Path, release: Release, expected: Entry, found: Entry, other: str | None) -> Iterator[Fault]:
    """Other bytes than expected: whose they are, or which samples of a shard they touch."""
    if other is not None:
        yield Fault(expected.path, f"sha256 {expected.sha256}", f"the bytes of {other}")
        return
    if expected.size_bytes != found.size_bytes:
        yield Fault(expected.path, f"{expected.size_bytes} bytes", f"{found.size_bytes} bytes")
    yield Fault(expected.path, f"sha256 {expected.sha256}", found.sha256)
    if expected.path in {e.path for e in release.shards}:
        yield from _samples(root, release, expected.path)


def _samples(dataset: Path, release: Release, path: str) -> Iterator[Fault]:
    """Which members of a damaged shard have other bytes, where the tables that say so can be read."""
    files = release.table_files(dataset)
    try:
        shards = _dataset(Shard, files.get("shards", ())).to_table(["shard_no"], filter=pc.field("path") == path)
        rows = _dataset(Member, files.get("members", ())).to_table(filter=pc.field("shard_no").isin(shards.column(0).combine_chunks()))
    except (pa.ArrowException, OSError, ValueError):
        return  # the table's own fault is told beside this one
    with (dataset / path).open("rb") as tar:
        for m in rows.to_pylist():
            tar.seek(m["offset"])
            if hashlib.sha256(tar.read(m["size_bytes"])).digest() != m["sha256"]:
                yield Fault(f"{path}/{m['clip_id']}.{m['extension']}", f"sha256 {m['sha256'].hex()}", "other bytes")


def _dataset(record: type, paths: Sequence[Path]) -> pds.Dataset:
    return pds.dataset([str(p) for p in paths], schema=arrow_schema(record), format="parquet")


def _comparable(release: Release, amended: Amended) -> tuple[Tree, ...]:
    """The trees whose tables are all still there; of the others the leaves alone can be checked."""
    removed = {name for name, entries in release.tables.items() if any(amended.files[e.path] is None for e in entries)}
    return tuple(tree for tree in TREES if not removed & set(tree.tables))


def _check_trees(folder: Path, dataset: Path, release: Release, amended: Amended, compared: Sequence[Tree]) -> Iterator[Fault]:
    files = release.table_files(dataset)
    yield from _check_row_counts(dataset, release, amended)
    for tree in TREES:
        said = release.trees[tree.name]
        try:
            file = treefile.open_tree(folder, tree)
        except (OSError, ValueError) as error:
            yield Fault(treefile.rows_path(tree), f"{said.rows} rows of the tree of {tree.name}", str(error))
            continue
        if len(file) != said.rows:
            yield Fault(treefile.rows_path(tree), f"{said.rows} rows", f"{len(file)}")
        if (root := treefile.root_of_rows(file).hex()) != said.root:
            yield Fault(treefile.rows_path(tree), f"the root {said.root} over {tree.name}", root)
        yield from _check_order(tree, file)
        yield from _check_states(tree, file, amended)
        if tree in compared:
            yield from _check_rows(tree, file, files)


def _check_order(tree: Tree, file: treefile.TreeFile) -> Iterator[Fault]:
    """Keys ascend, each of them once: out of order, a leaf could stand where no proof of absence meets it.

    Rows whose key was erased are passed over: what is left of them is the commitment to a key, which has no order.
    """
    keys = file.rows["key"][file.rows["state"] != treefile.GONE]
    places = leaves.out_of_order(keys)
    named = [bytes(keys[i]).hex() for i in places[:MAX_NAMED]]
    yield from _name(tree, named, len(places), "a leaf above the one before it", "one that is not: nothing is proved absent by this tree")


def _check_states(tree: Tree, file: treefile.TreeFile, amended: Amended) -> Iterator[Fault]:
    """Only rows that an amendment names were erased: of any other, row and order would go unchecked without a reason."""
    erased = np.flatnonzero(file.rows["state"] != treefile.LIVE)
    places = erased[~np.isin(erased, sorted(amended.erased[tree.name]))]
    said = ["(key erased)" if file.rows["state"][i] == treefile.GONE else bytes(file.rows["key"][i]).hex() for i in places[:MAX_NAMED]]
    yield from _name(tree, said, len(places), "a leaf that can be proved, as no amendment names it", "one that was erased")


def _check_row_counts(dataset: Path, release: Release, amended: Amended) -> Iterator[Fault]:
    for entries in release.tables.values():
        for path in (e.path for e in entries):
            expected = amended.files[path]
            if expected is None or not (dataset / path).is_file():
                continue
            try:
                rows = pq.read_metadata(dataset / path).num_rows
            except (pa.ArrowException, OSError) as error:
                yield Fault(path, "a readable Parquet file", str(error).splitlines()[0])
                continue
            if rows != expected.rows:
                yield Fault(path, f"{expected.rows} rows", f"{rows}")


def _check_rows(tree: Tree, file: treefile.TreeFile, files: Files) -> Iterator[Fault]:
    """Every row of the tables has the commitment that its leaf has; rows that were erased have nothing to be compared with."""
    try:
        rows = leaves.rows_of(tree, files)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Fault(f"tables {', '.join(tree.tables)}", "rows that can be read", str(error).splitlines()[0])
        return
    width = np.dtype((np.void, tree.key_bytes))
    have = np.ascontiguousarray(rows.keys).view(width)[:, 0]
    want = np.ascontiguousarray(file.rows["key"]).view(width)[:, 0]
    live = file.rows["state"] == treefile.LIVE
    _, at_want, at_have = np.intersect1d(want, have, assume_unique=False, return_indices=True)
    missing, extra = np.ones(len(want), bool), np.ones(len(have), bool)
    missing[at_want], extra[at_have] = False, False
    compare = live[at_want]
    at_want, at_have = at_want[compare], at_have[compare]
    found = leaves.field_commitments(np.ascontiguousarray(file.rows["field_salt"][at_want]), rows.fields[at_have])
    changed = (found != file.rows["commitment"][at_want]).any(axis=1)
    for places, expected, was in (
        (np.flatnonzero(missing & live), "its row", "none: it was dropped"),
        (at_want[changed], "the row that was released", "another"),
    ):
        yield from _name(tree, [bytes(file.rows["key"][i]).hex() for i in places[:MAX_NAMED]], len(places), expected, was)
    yield from _name(
        tree, [bytes(k).hex() for k in rows.keys[extra][:MAX_NAMED]], int(extra.sum()), "no row, as it was not released", "one"
    )


def _name(tree: Tree, keys: Sequence[str], n: int, expected: str, found: str) -> Iterator[Fault]:
    for key in keys:
        yield Fault(f"{tree.name[:-1]} {key}", expected, found)
    if n > len(keys):
        yield Fault(f"{n - len(keys)} more {tree.name}", expected, found)


def known_root(path: Path) -> str:
    """The root of the release that a file known before tells of: a release.json or its signed envelope. ReleaseError if it is neither."""
    try:
        data: Any = json.loads(path.read_bytes())
        raw = data if "merkle_root" in data else signing.unseal(data, None).predicate
        root = raw["merkle_root"]
        if not isinstance(root, str) or len(root) != 64:
            raise ValueError(f"its root is {root!r}")
        return root
    except (OSError, SigningError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReleaseError(f"{path}: expected a {RELEASE_JSON} or {SIGNATURE} known before, found something else ({error})") from error
