"""Whether what lies on disk is what the manifest says: every shard's hash, every member's offset, size and hash, every count."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.rebuild import compare
from manifests.records import Member, Shard
from manifests.schema import from_table
from manifests.shards import list_members
from manifests.tables import ManifestStore


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that does not hold, for a person: which file, what was expected, what was found."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}"


def verify(store: ManifestStore, version: int | None = None, on_shard: Callable[[Shard], None] | None = None) -> list[Fault]:
    """Every fault of the version's shards; an empty list says that all hashes, offsets and counts hold."""
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
