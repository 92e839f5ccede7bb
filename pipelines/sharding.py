"""From kept clips to shards: encode each clip for its bucket, then gather samples of one set and bucket into tars.

A shard's name ends with a digest of what is in it, so a name never changes its bytes: older versions of the dataset stay
readable, and a shard that is wanted again is found.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import buckets
from curation.sets import SetConfig
from manifests import ids
from manifests.columns import column
from manifests.records import Caption, Member, Shard
from manifests.schema import arrow_schema, from_table, to_table
from manifests.shards import Payload, write_shard
from pipelines import people_faces
from pipelines.stage import Job, Place, Stage
from pipelines.work import merge_columns, part_path, set_column

if TYPE_CHECKING:
    from pipelines.curate import Curation


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


def encode(run: "Curation") -> None:
    """Every clip that the rules keep has an encoded payload, or `encoded` = 0 and the reason."""
    from pipelines import jobs, plan, row_keys

    kept = run.alive("analysed", "content", "tables", "sets")
    rows = jobs.with_noted(row_keys.encode_rows(kept, run.assets, run.config), run.noted)
    run.do(plan.ENCODE, inputs=rows)
    run.clips = merge_columns(run.clips, run.outputs(plan.ENCODE, rows), "clip_id", ("encoded", "error_code", "error_detail"))


def write_shards(run: "Curation", captions: list[Caption], run_no: int) -> tuple[pa.Table, pa.Table]:
    """The shards and members of this version: all kept clips, by set and bucket, in clip order. Clips know their shard."""
    from pipelines import plan, row_keys

    kept = run.clips.filter(pc.equal(run.clips.column("decision"), "keep"))
    encoded = {r["clip_id"]: r for r in run.outputs(plan.ENCODE, row_keys.encode_rows(kept, run.assets, run.config)).to_pylist()}
    texts = {c.clip_no: c for c in captions}
    assets = {a["asset_no"]: a for a in run.assets.to_pylist()}
    faces = people_faces.faces_of(run, kept)
    for clip in kept.to_pylist():
        check_form(clip, encoded[clip["clip_id"]], run.config.sets[clip["set_name"]])
    samples = [
        _sample(clip, assets[clip["asset_no"]], encoded[clip["clip_id"]], texts[clip["clip_no"]]) | faces.get(clip["clip_id"], {})
        for clip in kept.to_pylist()
    ]
    planned = to_table(PlannedShard, list(_plan(samples, run.config.shards)))
    for path in planned.column("path").to_pylist():
        if not (run.place.dataset / path).exists():
            _forget(run, plan.WRITE_SHARDS, path)
    run.do(plan.WRITE_SHARDS, inputs=planned)
    written = {s.path: s for s in from_table(Shard, run.outputs(plan.WRITE_SHARDS, planned))}
    numbers = _shard_numbers(run, planned.column("path").to_pylist())
    shards = [dataclasses.replace(written[p], shard_no=numbers[p], created_run_no=run_no) for p in planned.column("path").to_pylist()]
    members = _members(run, shards, kept)
    of_clip = {m.clip_no: m.shard_no for m in members}
    run.clips = set_column(run.clips, "shard_no", [of_clip.get(n) for n in run.clips.column("clip_no").to_pylist()])
    return to_table(Shard, _keep_creation(run, shards)), to_table(Member, members)


def check_form(clip: dict[str, Any], encoded: dict[str, Any], of_set: SetConfig) -> None:
    """The sample of the clip has the size and the frames of the bucket that the clip is in; ValueError names the clip, what was expected and found."""
    fit = buckets.bucket_of(SimpleNamespace(**clip), of_set)
    name = None if fit.bucket is None else fit.bucket.name
    wanted = None if fit.bucket is None else (fit.bucket.width, fit.bucket.height, fit.bucket.n_frames)
    found = (encoded["width"], encoded["height"], encoded["n_frames"])
    if (name, wanted) != (clip["bucket"], found):
        raise ValueError(
            f"shards: clip {clip['clip_id']} in set {clip['set_name']}, bucket {clip['bucket']}: expected a sample for {name} of (width, height, "
            f"frames) {wanted}, found one of {found} in {encoded['part']}; delete that part and its siblings, and it is encoded again"
        )


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


def _sample(clip: dict[str, Any], asset: dict[str, Any], encoded: dict[str, Any], caption: Caption) -> dict[str, Any]:
    """What the shard needs of one clip. `json` is what a reader of the tar alone should know: source, span, rights, caption's author."""
    facts = {
        "clip_id": clip["clip_id"],
        "asset_id": clip["asset_id"],
        "set": clip["set_name"],
        "bucket": clip["bucket"],
        "start_us": clip["start_us"],
        "end_us": clip["end_us"],
        "width": encoded["width"],
        "height": encoded["height"],
        "n_frames": encoded["n_frames"],
        "fps": f"{encoded['fps_num']}/{encoded['fps_den']}" if encoded["fps_num"] else None,
        "caption": {"text": caption.text, "captioner": caption.captioner, "version": caption.captioner_version},
        "rights": {n: asset[n] for n in ("licence_expr", "source_url", "title", "creator", "consent")},
    }
    names = ("width", "height", "n_frames", "fps_num", "fps_den", "extension", "part", "encode_digest")
    return {
        "clip_id": clip["clip_id"],
        "set_name": clip["set_name"],
        "bucket": clip["bucket"],
        **{n: encoded[n] for n in names},
        "json": json.dumps(facts, sort_keys=True, ensure_ascii=False),
        "txt": " ".join(t for t in (caption.camera_prefix, caption.text) if t),
    }


def _plan(samples: list[dict[str, Any]], config: ShardConfig) -> Iterator[PlannedShard]:
    """Samples arrive in clip order; a shard takes the next of its set and bucket, so new clips touch only the last shard of each."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault((sample["set_name"], sample["bucket"]), []).append(sample)
    for (set_name, bucket), group in sorted(groups.items()):
        for number, start in enumerate(range(0, len(group), config.samples_per_shard)):
            piece = json.dumps(group[start : start + config.samples_per_shard], sort_keys=True)
            name = f"{set_name}-{bucket}-{number:06d}-{ids.digest('shard/v1', piece)[:8]}.tar"
            yield PlannedShard(path=f"shards/{set_name}/{bucket}/{name}", samples_json=piece)


def _forget(run: "Curation", stage: Stage, path: str) -> None:
    """A shard whose tar is gone is planned anew: the part that says it was written is removed."""
    for part in (run.place.work / stage.name / stage.digest(run.config)).glob("*.parquet"):
        if part.name.count(".") == 1 and path in pq.read_table(part, columns=["path"]).column(0).to_pylist():
            part.unlink()


def _shard_numbers(run: "Curation", paths: list[str]) -> dict[str, int]:
    """Known shards keep their number; a shard number is never used for two contents, in any version."""
    known: dict[str, int] = {}
    for version in run.store.readable():
        shards = run.store.read("shards", version, ["path", "shard_no"])
        known |= dict(zip(shards.column(0).to_pylist(), shards.column(1).to_pylist(), strict=True))
    following = max(known.values(), default=-1) + 1
    for path in paths:
        if path not in known:
            known[path], following = following, following + 1
    return known


def _keep_creation(run: "Curation", shards: list[Shard]) -> list[Shard]:
    created = {s.path: s.created_run_no for s in from_table(Shard, run.store.read("shards"))}
    return [dataclasses.replace(s, created_run_no=created.get(s.path, s.created_run_no)) for s in shards]


def _members(run: "Curation", shards: list[Shard], kept: pa.Table) -> list[Member]:
    from pipelines import plan

    numbers = dict(zip(kept.column("clip_id").to_pylist(), kept.column("clip_no").to_pylist(), strict=True))
    of_path = {s.path: s.shard_no for s in shards}
    planned = pa.table({"path": list(of_path)}, schema=pa.schema([("path", pa.string())]))
    rows = run.outputs(plan.WRITE_SHARDS, planned, "members", key="path").to_pylist()
    names = [f.name for f in dataclasses.fields(Member) if f.name not in ("shard_no", "clip_no")]
    found = [Member(shard_no=of_path[r["path"]], clip_no=numbers[r["clip_id"]], **{n: r[n] for n in names}) for r in rows]
    return sorted(found, key=lambda m: (m.shard_no, m.offset))
