"""Whether what lies on disk is what the manifest says: every shard's hash, every member's offset, size and hash, every count.

And whether the tables' own files have the sizes that Delta's log says: by them Delta's readers find a file's footer.
Also whether a takedown's receipt is the one that was written and signed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from manifests import signing
from manifests.rebuild import compare
from manifests.records import Member, Shard
from manifests.schema import from_table
from manifests.shards import list_members
from manifests.signing import SigningError, Statement
from manifests.tables import ManifestStore

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

RECEIPT = "urn:dailies:takedown:v1"
"""Type of the statement that signs a takedown's receipt."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that does not hold, for a person: which file, what was expected, what was found."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a takedown's receipt is. `signers` are the keys its envelope names, `signed_by` the one whose signature was seen to hold."""

    takedown_no: int | None
    sha256: str
    signers: tuple[str, ...]
    signed_by: str | None
    faults: tuple[Fault, ...]


def verify(store: ManifestStore, version: int | None = None, on_shard: Callable[[Shard], None] | None = None) -> list[Fault]:
    """Every fault of the version's shards, and of the tables' files (of every readable version if none is given); none where all holds."""
    try:
        rows = _verify_rows(store, version, on_shard)
    except (pa.ArrowException, OSError) as error:  # of a file that was cut off, for instance: its size names it
        rows = [Fault(f"{store.folder.name}/", "tables that can be read", str(error).splitlines()[0])]
    return [*_verify_sizes(store, version), *rows]


def _verify_sizes(store: ManifestStore, version: int | None) -> Iterator[Fault]:
    """Every file that Delta's log adds is there, in the size it says. Pyarrow looks for a footer at the real end and notices nothing."""
    states = [s for s in store.versions() if not s.get("purged") and version in (None, s["version"])]
    expected: dict[str, int] = {}
    for table, delta_version in sorted({pair for s in states for pair in s["tables"].items()}):
        actions = pa.table(DeltaTable((store.folder / table).absolute().as_uri(), version=delta_version).get_add_actions())
        for name, size in zip(actions.column("path").to_pylist(), actions.column("size_bytes").to_pylist(), strict=True):
            expected[f"{store.folder.name}/{table}/{unquote(name)}"] = size
    for path, size in sorted(expected.items()):
        file = store.root / path
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            yield Fault(path, f"{size} bytes, as Delta's log says", "no file" if found is None else f"{found} bytes")


def _verify_rows(store: ManifestStore, version: int | None, on_shard: Callable[[Shard], None] | None) -> list[Fault]:
    members: dict[int, list[Member]] = {}
    for member in from_table(Member, store.read("members", version)):
        members.setdefault(member.shard_no, []).append(member)
    shards: list[Shard] = from_table(Shard, store.read("shards", version))
    faults: list[Fault] = []
    for shard in shards:
        faults += _verify_shard(store.root, shard, members.pop(shard.shard_no, []))
        if on_shard:
            on_shard(shard)
    faults += [Fault(f"shard {n}", "a row in the shards table", "members only") for n in sorted(members)]
    return [*faults, *_verify_clips(store, version, {s.shard_no for s in shards}), *_verify_ledger(store, version)]


def _verify_shard(root: Path, shard: Shard, members: list[Member]) -> Iterator[Fault]:
    path = root / shard.path
    if not path.is_file():
        yield Fault(shard.path, f"a file of {shard.size_bytes} bytes", "no file")
        return
    size = path.stat().st_size
    if size != shard.size_bytes:
        yield Fault(shard.path, f"{shard.size_bytes} bytes", f"{size} bytes")
    if (found := _sha256(path)) != shard.sha256:
        yield Fault(shard.path, f"sha256 {shard.sha256.hex()}", found.hex())
    if (samples := len({m.clip_no for m in members})) != shard.n_samples:
        yield Fault(shard.path, f"{shard.n_samples} samples", f"{samples} in the members table")
    yield from _verify_members(path, shard, members)


def _verify_members(path: Path, shard: Shard, members: list[Member]) -> Iterator[Fault]:
    with path.open("rb") as tar:
        try:
            found = {name: (offset, size) for name, offset, size in list_members(tar)}
        except Exception as error:  # whatever tarfile makes of a damaged archive is a fault of the archive
            yield Fault(shard.path, "a readable tar", f"{type(error).__name__}: {error}")
            return
        for member in members:
            name = f"{member.clip_id}.{member.extension}"
            place = found.pop(name, None)
            if place != (member.offset, member.size_bytes):
                yield Fault(
                    f"{shard.path}/{name}",
                    f"{member.size_bytes} bytes at {member.offset}",
                    f"{place[1]} at {place[0]}" if place else "no such member",
                )
                continue
            tar.seek(member.offset)
            if hashlib.sha256(tar.read(member.size_bytes)).digest() != member.sha256:
                yield Fault(f"{shard.path}/{name}", f"sha256 {member.sha256.hex()}", "other bytes")
    for name in sorted(found):
        yield Fault(f"{shard.path}/{name}", "a row in the members table", "none")


def _verify_clips(store: ManifestStore, version: int | None, shards: set[int]) -> Iterator[Fault]:
    """Kept clips have a shard that exists, or wait for one since a run that only decided; dropped ones have none."""
    runs = store.read("runs", version, ["run_no", "command"])
    waiting = {n for n, command in zip(*(c.to_pylist() for c in runs.columns), strict=True) if command == "decide"}
    clips = store.read("clips", version, ["clip_id", "decision", "shard_no", "decided_run_no"])
    kept, placed = pc.equal(clips.column("decision"), "keep").to_numpy(), clips.column("shard_no").is_valid().to_numpy()
    may_wait = kept & pc.is_in(clips.column("decided_run_no"), value_set=pa.array(sorted(waiting), pa.int32())).to_numpy()
    known = pc.is_in(clips.column("shard_no"), value_set=pa.array(sorted(shards), pa.int32())).to_numpy()
    for row in clips.take(np.flatnonzero((kept != placed) & ~may_wait)).to_pylist():
        expected = "a" if row["decision"] == "keep" else "no"
        yield Fault(f"clip {row['clip_id']}", f"{expected} shard as it is '{row['decision']}'", f"shard {row['shard_no']}")
    for row in clips.take(np.flatnonzero((kept == placed) & placed & ~known)).to_pylist():
        yield Fault(f"clip {row['clip_id']}", f"shard {row['shard_no']} in the shards table", "none")


def _verify_ledger(store: ManifestStore, version: int | None) -> Iterator[Fault]:
    """The stored state of assets and clips is what the decisions give."""
    for d in compare(store, version):
        yield Fault(f"{d.table}: {d.n} rows, first {d.example}", f"{d.expected} by the ledger", d.found)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").digest()


def check_receipt(path: Path, key: "SSlibKey | None") -> Receipt:
    """Whether a receipt is the one its envelope speaks of; with a key given, only if that key signed it.

    `path` is the receipt or its envelope, which lie side by side: 000001.json and 000001.dsse.json.
    """
    stem = path.name.removesuffix(".json").removesuffix(".dsse")
    receipt, envelope = path.with_name(f"{stem}.json"), path.with_name(f"{stem}.dsse.json")
    faults: list[Fault] = []
    data, sealed = (_read(p, faults) for p in (receipt, envelope))
    number: int | None = None
    signers: tuple[str, ...] = ()
    signed_by: str | None = None
    if data is not None:
        number = _takedown_no(data)
        if number is None:
            faults.append(Fault(receipt.name, "the receipt of a takedown", "something else"))
    if sealed is not None:
        try:
            signers = tuple(signing.signers_of(json.loads(sealed)))
            if data is not None:
                faults += _check_said(signing.unseal(json.loads(sealed), None), receipt.name, envelope.name, data, number)
            if key is not None:
                signing.unseal(json.loads(sealed), key)
                signed_by = str(key.keyid)
        except (SigningError, ValueError, RecursionError) as error:
            faults.append(Fault(envelope.name, "a signature that holds" if key else "an envelope that can be read", str(error)))
    digest = "" if data is None else hashlib.sha256(data).hexdigest()
    return Receipt(takedown_no=number, sha256=digest, signers=signers, signed_by=signed_by, faults=tuple(faults))


def _read(path: Path, faults: list[Fault]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        faults.append(Fault(path.name, "a takedown's receipt and its envelope side by side", str(error.strerror)))
        return None


def _takedown_no(data: bytes) -> int | None:
    try:
        number = json.loads(data)["takedown_no"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return number if type(number) is int else None


def _check_said(said: Statement, receipt: str, envelope: str, data: bytes, number: int | None) -> Iterator[Fault]:
    """The statement is about these bytes. The subject's name is that of the case: a copy may be called otherwise."""
    if said.predicate_type != RECEIPT:
        yield Fault(envelope, "a statement about a takedown's receipt", f"one of type {said.predicate_type}")
    elif (found := hashlib.sha256(data).hexdigest()) != said.sha256:
        yield Fault(receipt, f"sha256 {said.sha256}, as {envelope} says", found)
    elif number is not None and (said.subject, said.predicate) != (f"{number:06d}.json", {"takedown_no": number}):
        yield Fault(envelope, f"a statement about {number:06d}.json of takedown {number}", f"one about {said.subject}: {said.predicate}")
