"""A made-up dataset with real shards, and releases of it: small, whole, and the same every time but for the salts."""

import dataclasses
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from manifests.records import Member, Shard
from manifests.release import Made, Request, make_release
from manifests.schema import from_table, to_table
from manifests.shards import Payload, write_shard
from manifests.tables import ManifestStore
from tests.fake_dataset import fake_tables, make, write_store

CREATED = datetime(2026, 11, 25, 6, 0, tzinfo=UTC)


def make_dataset(root: Path, n_clips: int = 60) -> ManifestStore:
    """A dataset of `n_clips` clips whose shards lie on disk: a medium, a caption and facts for every kept clip."""
    tables = fake_tables(n_clips)
    members: list[Member] = from_table(Member, tables["members"])
    shards, placed = [], []
    for shard in from_table(Shard, tables["shards"]):
        mine = [m for m in members if m.shard_no == shard.shard_no]
        payloads = [Payload(clip_id=m.clip_id, extension=m.extension, data=payload(m.clip_id, m.extension)) for m in mine]
        written = write_shard(root / shard.path, payloads)
        shards.append(dataclasses.replace(shard, size_bytes=written.size_bytes, sha256=written.sha256))
        for m, p in zip(mine, written.members, strict=True):
            placed.append(
                make(
                    Member, shard_no=m.shard_no, clip_no=m.clip_no, clip_id=m.clip_id, extension=m.extension,
                    offset=p.offset, size_bytes=p.size_bytes, sha256=p.sha256,
                )
            )  # fmt: skip
    write_store(root, tables | {"shards": to_table(Shard, shards), "members": to_table(Member, placed)})
    return ManifestStore(root)


def payload(clip_id: str, extension: str) -> bytes:
    """The made-up bytes of a member."""
    return hashlib.sha256(f"{clip_id}.{extension}".encode()).digest() * (3 if extension == "txt" else 40)


def release(store: ManifestStore, name: str = "v1", key: Path | None = None, version: int | None = None) -> Made:
    """A release without pictures in its report."""
    request = Request(name=name, version=version, key=key, created_at=CREATED, code_version="test")
    return make_release(store, request, lambda clip_id, part: None)


def kept_and_dropped(store: ManifestStore) -> tuple[pa.Table, pa.Table]:
    """The clips in the set and the others."""
    clips = store.read("clips")
    kept = pa.compute.equal(clips.column("decision"), "keep")
    return clips.filter(kept), clips.filter(pa.compute.invert(kept))
