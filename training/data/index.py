"""What can be trained on: one `Sample` for each video or image member of a dataset's shards."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.files import write_atomic
from manifests.ids import digest, uniform
from training.errors import TrainingError

Kind = Literal["video", "image"]

KIND_OF_EXTENSION: dict[str, Kind] = {"mp4": "video", "jpg": "image"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One member of one shard, with all that is needed to read and decode it without the tar's own names."""

    clip_id: str
    clip_no: int
    kind: Kind
    set_name: str
    bucket: str
    shard_path: str
    offset: int
    size_bytes: int
    sha256: bytes
    width: int | None
    height: int | None
    n_frames: int | None
    fps_num: int | None
    fps_den: int | None
    group: str
    """Clips that must not be split between training and hold-out share it: those of one asset or one duplicate group."""


def load_samples(dataset: Path, version: int) -> list[Sample]:
    """The samples of a dataset at a manifest version, in index order: the members of the clips that it keeps.

    A clip that was decided again lies in its shard until the next curation writes that anew; it is no sample from then on.
    """
    from manifests.tables import ManifestStore

    store = ManifestStore(dataset)
    clips = store.read("clips", version)
    kept = clips.filter(pc.equal(clips.column("decision"), "keep")).column("clip_id").combine_chunks()
    members = store.read("members", version)
    return index_samples(store.read("shards", version), members.filter(pc.is_in(members.column("clip_id"), value_set=kept)), clips)


def index_samples(shards: pa.Table, members: pa.Table, clips: pa.Table | None = None) -> list[Sample]:
    """One sample a video or image member, ordered by (set, bucket, clip_id); columns as in `manifests.records`.

    With `clips`, the hold-out groups are the connected components of shared assets and duplicate groups; without, each clip is alone.
    """
    by_shard = {row["shard_no"]: row for row in shards.to_pylist()}
    groups = {} if clips is None else _groups(clips.select(["clip_id", "asset_no", "dup_group"]).to_pylist())
    samples = []
    for member in members.to_pylist():
        if kind := KIND_OF_EXTENSION.get(member["extension"]):
            shard = by_shard.get(member["shard_no"])
            if shard is None:
                raise TrainingError(f"members: clip {member['clip_id']}: expected shard {member['shard_no']} in shards, found none")
            samples.append(_sample(kind, shard, member, groups.get(member["clip_id"], member["clip_id"])))
    return sorted(samples, key=lambda s: (s.set_name, s.bucket, s.clip_id))


def split_holdout(samples: list[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """(training, held out): whole groups whose hash falls below the share, at least one; the same in every run and stage.

    Raises TrainingError when fewer than two groups exist, as nothing would be left to train on or to measure with.
    """
    draw = {g: uniform("holdout/v1", g) for g in {s.group for s in samples}}
    if len(draw) < 2:
        raise TrainingError(f"hold-out: expected clips of at least 2 unrelated assets, found {len(draw)}")
    held_groups = {g for g, u in draw.items() if u < share} or {min(draw, key=lambda g: draw[g])}
    if len(held_groups) == len(draw):
        raise TrainingError(f"hold-out: expected a share that leaves something to train on, found {share} of {len(draw)} groups")
    held = sorted((s for s in samples if s.group in held_groups), key=lambda s: (draw[s.group], s.clip_id))
    return [s for s in samples if s.group not in held_groups], held


def index_digest(samples: list[Sample], *, with_places: bool = False) -> str:
    """A digest of what a plan depends on: which clips, of which kind, in which bucket, in which order; `with_places` also their sizes
    and shards, on which `plan/v2` depends. Not where in a shard their bytes lie."""
    if with_places:
        return digest("index/v2", *(f"{s.clip_id} {_form(s)} {s.shard_path}" for s in samples))
    return digest("index/v1", *(f"{s.clip_id} {s.kind} {s.set_name} {s.bucket}" for s in samples))


def write_samples(path: Path, samples: list[Sample]) -> None:
    """The samples lie in a Parquet file that `read_samples` reads back, so that a run keeps the index it was planned from."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(s) for s in samples], schema=_SCHEMA), sink, compression="zstd")
    write_atomic(path, memoryview(sink.getvalue()))


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file that `write_samples` wrote."""
    return [Sample(**row) for row in pq.read_table(path, schema=_SCHEMA).to_pylist()]


def _form(sample: Sample) -> str:
    return f"{sample.kind} {sample.set_name} {sample.bucket} {sample.width}x{sample.height}x{sample.n_frames}"


def _sample(kind: Kind, shard: dict[str, Any], member: dict[str, Any], group: str) -> Sample:
    known = {name: member[name] for name in ("clip_id", "clip_no", "offset", "size_bytes", "sha256")}
    place = {"set_name": shard["set_name"], "bucket": shard["bucket"], "shard_path": shard["path"]}
    facts = {name: member[name] if member[name] is not None else shard[name] for name in ("n_frames", "fps_num", "fps_den")}
    return Sample(kind=kind, group=group, width=shard["width"], height=shard["height"], **known, **place, **facts)


def _groups(clips: list[dict[str, Any]]) -> dict[str, str]:
    """Clip id -> name of its component: clips are joined by a shared asset or a shared duplicate group (union-find)."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for clip in clips:
        for other in (f"asset {clip['asset_no']}", f"dup {clip['dup_group']}" if clip["dup_group"] else None):
            if other and not (other.startswith("asset") and clip["asset_no"] < 0):
                a, b = sorted((root(f"clip {clip['clip_id']}"), root(other)))
                parent[b] = a
    smallest: dict[str, str] = {}
    for name in sorted(clip["clip_id"] for clip in clips):
        smallest.setdefault(root(f"clip {name}"), name)
    return {clip["clip_id"]: smallest[root(f"clip {clip['clip_id']}")] for clip in clips}


_SCHEMA = pa.schema(
    [(f.name, pa.binary() if f.type is bytes else pa.int64() if f.type in (int, int | None) else pa.string()) for f in fields(Sample)]
)
