"""From kept clips to shards: encode each clip for its bucket, then say which sample goes into which tar, and what readers learn of it."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import buckets
from curation.sets import SetConfig
from manifests.records import Caption, Member, Shard
from manifests.schema import from_table, to_table
from pipelines import jobs, people_faces, plan, row_keys
from pipelines.curation_run import Curation
from pipelines.shard_files import PlannedShard, plan_shards
from pipelines.stage import Stage
from pipelines.work import merge_columns, set_column


def encode(run: Curation) -> None:
    """Every clip that the rules keep has an encoded payload, or `encoded` = 0 and the reason."""
    kept = run.alive("analysed", "content", "tables", "sets")
    rows = jobs.with_noted(row_keys.encode_rows(kept, run.assets, run.config), run.noted)
    run.do(plan.ENCODE, inputs=rows)
    run.clips = merge_columns(run.clips, run.outputs(plan.ENCODE, rows), "clip_id", ("encoded", "error_code", "error_detail"))


def write_shards(run: Curation, captions: list[Caption], run_no: int) -> tuple[pa.Table, pa.Table]:
    """The shards and members of this version: all kept clips, by set and bucket, in clip order. Clips know their shard."""
    kept = run.clips.filter(pc.equal(run.clips.column("decision"), "keep"))
    encoded = {r["clip_id"]: r for r in run.outputs(plan.ENCODE, row_keys.encode_rows(kept, run.assets, run.config)).to_pylist()}
    texts = {c.clip_no: c for c in captions}
    assets = {a["asset_no"]: a for a in run.assets.to_pylist()}
    faces = faces_of(run, kept)
    for clip in kept.to_pylist():
        check_form(clip, encoded[clip["clip_id"]], run.config.sets[clip["set_name"]])
    samples = [
        _sample(clip, assets[clip["asset_no"]], encoded[clip["clip_id"]], texts[clip["clip_no"]]) | faces.get(clip["clip_id"], {})
        for clip in kept.to_pylist()
    ]
    planned = to_table(PlannedShard, list(plan_shards(samples, run.config.shards)))
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


def faces_of(run: Curation, kept: pa.Table) -> dict[str, dict[str, Any]]:
    """Clip id -> where its face is, of the kept clips of the sets that want faces; the pairs among them are written."""
    wanted = kept.filter(pc.is_in(kept.column("set_name"), value_set=pa.array(run.config.shards.faces, pa.string())))
    if not wanted.num_rows or run.config.people.identity.weights is None:
        return {}
    rows = run.outputs(plan.stage_named("people"), wanted).to_pylist()
    named = [row for row in rows if row["identity"]]
    people_faces.write_pairs(run.place, named, run.config.shards.same_person)
    parts = dict(zip(wanted.column("clip_id").to_pylist(), wanted.column("keyframe_part").to_pylist(), strict=True))
    assets = dict(zip(wanted.column("clip_id").to_pylist(), wanted.column("asset_id").to_pylist(), strict=True))
    return {
        row["clip_id"]: {"face": {"part": part, "asset_id": assets[row["clip_id"]], **people_faces.middle_face(row)}}
        for row in named
        if (part := parts[row["clip_id"]])
    }


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
    names = ("width", "height", "n_frames", "fps_num", "fps_den", "extension", "part", "encode_digest", "payload_sha256")
    return {
        "clip_id": clip["clip_id"],
        "set_name": clip["set_name"],
        "bucket": clip["bucket"],
        **{n: encoded[n] for n in names},
        "json": json.dumps(facts, sort_keys=True, ensure_ascii=False),
        "txt": " ".join(t for t in (caption.camera_prefix, caption.text) if t),
    }


def _forget(run: Curation, stage: Stage, path: str) -> None:
    """A shard whose tar is gone is planned anew: the part that says it was written is removed."""
    for part in (run.place.work / stage.name / stage.digest(run.config)).glob("*.parquet"):
        if part.name.count(".") == 1 and path in pq.read_table(part, columns=["path"]).column(0).to_pylist():
            part.unlink()


def _shard_numbers(run: Curation, paths: list[str]) -> dict[str, int]:
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


def _keep_creation(run: Curation, shards: list[Shard]) -> list[Shard]:
    created = {s.path: s.created_run_no for s in from_table(Shard, run.store.read("shards"))}
    return [dataclasses.replace(s, created_run_no=created.get(s.path, s.created_run_no)) for s in shards]


def _members(run: Curation, shards: list[Shard], kept: pa.Table) -> list[Member]:
    numbers = dict(zip(kept.column("clip_id").to_pylist(), kept.column("clip_no").to_pylist(), strict=True))
    of_path = {s.path: s.shard_no for s in shards}
    planned = pa.table({"path": list(of_path)}, schema=pa.schema([("path", pa.string())]))
    rows = run.outputs(plan.WRITE_SHARDS, planned, "members", key="path").to_pylist()
    names = [f.name for f in dataclasses.fields(Member) if f.name not in ("shard_no", "clip_no")]
    found = [Member(shard_no=of_path[r["path"]], clip_no=numbers[r["clip_id"]], **{n: r[n] for n in names}) for r in rows]
    return sorted(found, key=lambda m: (m.shard_no, m.offset))
