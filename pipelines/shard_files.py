"""Shards: samples of one set and bucket gathered into tars.

A shard's name ends with a digest of what is in it, so a name never changes its bytes: older versions of the dataset stay
readable, and a shard that is wanted again is found.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests import ids
from manifests.columns import column
from manifests.records import Member, Shard
from manifests.schema import arrow_schema, from_table, to_table
from manifests.shards import Payload, write_shard
from pipelines import people_faces
from pipelines.stage import Job, Place
from pipelines.work import part_path


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig:
    """How samples are gathered. 64 samples of a few hundred kB make shards of some 20 MB: ours, small for a laptop; raise it on clusters."""

    samples_per_shard: int = 64
    faces: tuple[str, ...] = ("personal", "personal_sft")
    """Sets whose samples carry the face of their person, and whose clips of one person are paired, where people.identity has weights."""
    same_person: float = 0.5
    """Clips whose faces' mean vectors agree by more than this cosine show one person (Movie Gen, Data for personalisation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """A shard that should exist."""

    path: str = column(pa.string(), "path under the dataset; its digest names the content")
    samples_json: str = column(pa.string(), "its samples in order: clip, part and row of the payload, texts")


def plan_shards(samples: list[dict[str, Any]], config: ShardConfig) -> Iterator[PlannedShard]:
    """Samples arrive in clip order; a shard takes the next of its set and bucket, so new clips touch only the last shard of each."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault((sample["set_name"], sample["bucket"]), []).append(sample)
    for (set_name, bucket), group in sorted(groups.items()):
        for number, start in enumerate(range(0, len(group), config.samples_per_shard)):
            piece = group[start : start + config.samples_per_shard]
            content = json.dumps([_content(sample) for sample in piece], sort_keys=True)
            name = f"{set_name}-{bucket}-{number:06d}-{ids.digest('shard/v2', content)[:8]}.tar"
            yield PlannedShard(path=f"shards/{set_name}/{bucket}/{name}", samples_json=json.dumps(piece, sort_keys=True))


def _content(sample: dict[str, Any]) -> dict[str, Any]:
    """What the sample is, the payload by its hash: not in which parts of the work area it lies, which another run may have otherwise."""
    return {n: _content(v) if isinstance(v, dict) else v for n, v in sample.items() if n != "part"}


def make_write_shards(config: Any, place: Place) -> Job:
    """The job that writes planned shards: one tar each, and its rows for the shards and members tables."""

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        shards: list[Shard] = []
        members: list[dict[str, Any]] = []
        for planned in from_table(PlannedShard, rows):
            shard, placed = _write(planned, place)
            shards.append(shard)
            members += placed
        return {"rows": to_table(Shard, shards), "members": pa.Table.from_pylist(members, schema=MEMBER_PARTS)}

    return job


MEMBER_PARTS = pa.schema([("path", pa.string()), *((f.name, f.type) for f in arrow_schema(Member))])
"""Members before their shard and clip have numbers in the manifest, with the path of their shard."""


def _write(planned: PlannedShard, place: Place) -> tuple[Shard, list[dict[str, Any]]]:
    samples = json.loads(planned.samples_json)
    written = write_shard(place.dataset / planned.path, _payloads(samples, place))
    of_clip = {s["clip_id"]: s for s in samples}
    members = [
        {
            "path": planned.path,
            "shard_no": -1,
            "clip_no": -1,
            **{name: getattr(m, name) for name in ("clip_id", "extension", "offset", "size_bytes", "sha256")},
            **({n: of_clip[m.clip_id][n] for n in ("fps_num", "fps_den", "n_frames")} if m.extension in ("mp4", "jpg", "flac") else {}),
        }
        for m in written.members
    ]
    first = samples[0]
    shard = Shard(
        shard_no=-1,
        path=planned.path,
        **{n: first[n] for n in ("set_name", "bucket", "width", "height", "n_frames")},
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        n_samples=len(samples),
        encode_digest=first["encode_digest"],
        created_run_no=-1,
    )
    return shard, members


def _payloads(samples: list[dict[str, Any]], place: Place) -> Iterator[Payload]:
    for sample in samples:
        path = place.dataset / part_path(sample["part"], "payload")
        rows = pq.read_table(path, filters=[("clip_id", "=", sample["clip_id"])], columns=["data"])
        yield Payload(clip_id=sample["clip_id"], extension=sample["extension"], data=rows.column(0)[0].as_py())
        if "face" in sample and (face := people_faces.face_jpg(place, sample["face"])) is not None:
            yield Payload(clip_id=sample["clip_id"], extension="face.jpg", data=face)
        yield Payload(clip_id=sample["clip_id"], extension="json", data=sample["json"].encode())
        yield Payload(clip_id=sample["clip_id"], extension="txt", data=sample["txt"].encode())
