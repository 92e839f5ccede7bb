"""The jobs of the stages: input rows -> output tables, each the thin skin over one function of `curation`."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation import analyse as analysis
from curation import buckets, captions, embeddings, facts, ingest, keyframes, text
from curation.captions import CaptionText
from curation.ingest import Listing
from curation.media import MediaError
from manifests import ids
from manifests.records import Asset, Clip
from manifests.schema import arrow_schema, from_row, from_table, to_table
from pipelines.settings import CurateConfig
from pipelines.stage import Job, Place, canonical

_ASSET, _CLIP = arrow_schema(Asset), arrow_schema(Clip)
ERRORS = ("error_code", "error_detail")

FACT_COLUMNS = (
    "kind",
    "container",
    "vcodec",
    "acodec",
    "duration_us",
    "start_us",
    "width",
    "height",
    "rotation",
    "fps_num",
    "fps_den",
    "time_base_num",
    "time_base_den",
    "n_frames",
    "is_vfr",
    "has_audio",
    "sample_rate_hz",
    "channels",
    "readable",
    "short_side_px",
    "aspect_ratio",
    "duration_s",
    "error_stage",
    "error_code",
    "error_detail",
)
"""What probing tells of an asset."""

ANALYSED_COLUMNS = ("duration_us", "n_frames", "is_vfr", "duration_s", "n_clips", "error_stage", *ERRORS)
"""What decoding tells of an asset, better than its container did."""

_DERIVED = (*FACT_COLUMNS, "n_clips", "first_fail_rule")


def without_facts(asset: Asset) -> Asset:
    """The asset as ingest left it: identity, rights, and the error of an ingest that failed."""
    if asset.error_stage == "ingest":
        return dataclasses.replace(asset, decision="pending", first_fail_rule=None)
    nothing: dict[str, Any] = dict.fromkeys(_DERIVED)
    return dataclasses.replace(asset, decision="pending", **nothing)


def with_asset_columns(clips: pa.Table, assets: pa.Table) -> pa.Table:
    """Rows for stages that need a clip and its asset: columns clip_id, clip and asset (structs)."""
    import pyarrow.compute as pc

    rows = pc.index_in(clips.column("asset_id"), value_set=assets.column("asset_id").combine_chunks())
    return pa.table([clips.column("clip_id"), _struct(clips, _CLIP), _struct(assets.take(rows), _ASSET)], schema=CLIP_AND_ASSET)


def _struct(table: pa.Table, schema: pa.Schema) -> pa.StructArray:
    columns = [table.column(f.name).combine_chunks() for f in schema]
    return pa.StructArray.from_arrays(columns, fields=[f.with_nullable(True) for f in schema])


CLIP_AND_ASSET = pa.schema(
    [
        ("clip_id", pa.string()),
        ("clip", pa.struct([f.with_nullable(True) for f in _CLIP])),
        ("asset", pa.struct([f.with_nullable(True) for f in _ASSET])),
    ]
)


_GRACE_S = 30.0
"""What a decode gets beyond its own time limit before its process is ended from outside."""

# Jobs: input rows -> output tables. Each is the thin skin over one function of `curation`.


def make_ingest(config: CurateConfig, place: Place) -> Job:
    """Listings become assets, hashed and with their rights."""

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        listings = from_table(Listing, rows)
        assets = to_table(Asset, [ingest.ingest(listing, config.ingest, place.fetched) for listing in listings])
        return {"rows": assets.append_column("key", pa.array([x.key for x in listings], pa.string()))}

    return job


def make_probe(config: CurateConfig, place: Place) -> Job:
    """Assets get their container facts; what a decoder cannot survive is the asset's error."""
    from curation.isolate import Sandbox
    from curation.media import probe_asset

    limits = config.analyse.media
    sandbox = Sandbox(limits.max_wall_s + _GRACE_S, limits.memory_bytes)

    def probe(asset: Asset) -> Asset:
        try:
            found = sandbox.call(probe_asset, asset, str(ingest.local_path(asset, place.fetched)), limits)
        except MediaError as lost:  # the child crashed, hung or grew: the file's fault, and its row says so
            found = dataclasses.replace(asset, error_stage="probe", error_code=lost.code, error_detail=lost.detail)
        return facts.derive_asset(found)

    return lambda rows, part: {"rows": to_table(Asset, [probe(a) for a in from_table(Asset, rows)])}


def make_analyse(config: CurateConfig, place: Place) -> Job:
    """Assets become clips with scores, series and key frames, in one decode inside a sandbox."""
    from curation.analyse import analyse_asset, series_table
    from curation.isolate import Sandbox

    settings = config.analyse
    sandbox = Sandbox(settings.media.max_wall_s + _GRACE_S, settings.media.memory_bytes)

    def analyse(asset: Asset) -> analysis.Analysis:
        try:
            return sandbox.call(analyse_asset, asset, str(ingest.local_path(asset, place.fetched)), settings)
        except MediaError as lost:
            return analysis.Analysis(asset=analysis.failed(asset, lost), clips=[], series=None, keyframes=[])

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        assets, clips, series, frames = [], [], [], []
        for asset in from_table(Asset, rows):
            found = analyse(asset)
            assets.append(facts.derive_asset(dataclasses.replace(found.asset, n_clips=float(len(found.clips)))))
            pictured = {f.clip_id for f in found.keyframes}
            for clip in found.clips:
                where = f"{part}.keyframes.parquet" if clip.clip_id in pictured else None
                clips.append(facts.derive_clip(dataclasses.replace(clip, keyframe_part=where)))
            frames += found.keyframes
            if found.series is not None:
                series.append(series_table(asset.asset_id, found.series))
        return {
            "rows": to_table(Asset, assets),
            "clips": to_table(Clip, clips),
            "series": pa.concat_tables(series) if series else analysis.SERIES_SCHEMA.empty_table(),
            "keyframes": pa.Table.from_pylist([dataclasses.asdict(f) for f in frames], schema=keyframes.SCHEMA),
        }

    return job


def _pictures(place: Place, clips: Iterable[Clip]) -> dict[str, list[keyframes.KeyFrame]]:
    """The key frames of the clips, by clip."""
    clips = list(clips)
    found: dict[str, list[keyframes.KeyFrame]] = {}
    for part in sorted({c.keyframe_part for c in clips if c.keyframe_part}):
        found |= keyframes.read_keyframes(place.dataset / part, [c.clip_id for c in clips if c.keyframe_part == part])
    return found


def _batch_job(place: Place, stage: Callable[[list[Any]], list[Any]], schema: pa.Schema) -> Job:
    """The job of a batch stage over (clip, key frames)."""

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        clips = from_table(Clip, rows)
        frames = _pictures(place, clips)
        found = stage([(c, frames.get(c.clip_id, [])) for c in clips])
        if len(found) != len(clips):
            raise ValueError(f"{len(clips)} clips in, {len(found)} out: a batch stage keeps the length")
        return {"rows": pa.Table.from_pylist([_flat(r) for r in found], schema=schema)}

    return job


def _flat(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


def make_text(config: CurateConfig, place: Place) -> Job:
    """Clips get text scores."""
    return _batch_job(place, text.ScoreText(config.text), TEXT_SCHEMA)


def make_describe(config: CurateConfig, place: Place) -> Job:
    """Clips get PDQ hashes and a concept vector."""
    return _batch_job(place, embeddings.DescribeClips(config.descriptors), DESCRIPTOR_SCHEMA)


def make_aesthetics(config: CurateConfig, place: Place) -> Job:
    """Clips get an aesthetic score and the embedding behind it."""
    from curation.aesthetics import ScoreAesthetics

    stage = ScoreAesthetics(config.open_clip)

    def flat(batch: list[Any]) -> list[_Aesthetic]:
        return [
            _Aesthetic(
                r.clip_id, r.aesthetic, r.embedding.model if r.embedding else None, r.embedding.vector if r.embedding else None, r.error_code, r.error_detail
            )
            for r in stage(batch)
        ]  # fmt: skip

    return _batch_job(place, flat, AESTHETIC_SCHEMA)


@dataclass(frozen=True, slots=True)
class _Aesthetic:
    clip_id: str
    aesthetic: float | None
    model: str | None
    vector: list[float] | None
    error_code: str | None
    error_detail: str | None


def _pairs(rows: pa.Table) -> list[tuple[Clip, Asset]]:
    return [(from_row(Clip, r["clip"]), from_row(Asset, r["asset"])) for r in rows.to_pylist()]


def make_caption(config: CurateConfig, place: Place) -> Job:
    """Clips get a caption."""
    stage = captions.CaptionClips(config.captions)

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        pairs = _pairs(rows)
        frames = _pictures(place, [clip for clip, _ in pairs])
        found = stage([(clip, asset, frames.get(clip.clip_id, [])) for clip, asset in pairs])
        return {"rows": pa.Table.from_pylist([_flat(r) for r in found], schema=CAPTION_SCHEMA)}

    return job


def make_encode(config: CurateConfig, place: Place) -> Job:
    """Clips become payloads in the shape of their bucket; one that cannot is a row with the reason."""
    from curation.encode import EncodeError, encode_clip

    digest = ids.digest("encode/v1", canonical((config.encode, config.sets)))[:16]

    def encode(clip: Clip, asset: Asset, part: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        fit = buckets.bucket_of(clip, config.sets[clip.set_name or ""])
        if fit.bucket is None or fit.start_us is None or fit.end_us is None:
            raise ValueError(f"clip {clip.clip_id}: set {clip.set_name} has no bucket for it ({fit.reason}); compose_sets gave it one")
        path = str(ingest.local_path(asset, place.fetched))
        try:
            shape = (fit.bucket.width or 0, fit.bucket.height or 0, fit.bucket.n_frames or 0, fit.fps_num or 0, fit.fps_den or 0)
            made = encode_clip(path, clip, asset, *shape, config.encode, (fit.start_us, fit.end_us))
        except EncodeError as error:
            return {"clip_id": clip.clip_id, "encoded": 0.0, "error_code": error.code, "error_detail": error.detail[:2000]}, None
        row = {
            "clip_id": clip.clip_id,
            "encoded": 1.0,
            "extension": made.extension,
            "width": made.width,
            "height": made.height,
            "n_frames": made.n_frames,
            "fps_num": made.fps_num,
            "fps_den": made.fps_den,
            "part": part,
            "encode_digest": digest,
        }
        return row, {"clip_id": clip.clip_id, "data": made.data}

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        made = [encode(clip, asset, part) for clip, asset in _pairs(rows)]
        return {
            "rows": pa.Table.from_pylist([row for row, _ in made], schema=ENCODED_SCHEMA),
            "payload": pa.Table.from_pylist([data for _, data in made if data], schema=PAYLOAD_SCHEMA),
        }

    return job


_ERROR_FIELDS = [("error_code", pa.string()), ("error_detail", pa.string())]
TEXT_SCHEMA = pa.schema([("clip_id", pa.string()), ("text_score", pa.float32()), ("text_area", pa.float32()), *_ERROR_FIELDS])
DESCRIPTOR_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("pdq", pa.list_(pa.binary())),
        ("pdq_frame", pa.list_(pa.int32())),
        ("pdq_crop", pa.list_(pa.int32())),
        ("pdq_quality", pa.list_(pa.int32())),
        ("concept", pa.list_(pa.float32())),
        *_ERROR_FIELDS,
    ]
)
AESTHETIC_SCHEMA = pa.schema(
    [("clip_id", pa.string()), ("aesthetic", pa.float32()), ("model", pa.string()), ("vector", pa.list_(pa.float32())), *_ERROR_FIELDS]
)
CAPTION_SCHEMA = pa.schema([(f.name, pa.string()) for f in dataclasses.fields(CaptionText)])
ENCODED_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("encoded", pa.float32()),
        ("extension", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("n_frames", pa.int32()),
        ("fps_num", pa.int32()),
        ("fps_den", pa.int32()),
        ("part", pa.string()),
        ("encode_digest", pa.string()),
        *_ERROR_FIELDS,
    ]
)
PAYLOAD_SCHEMA = pa.schema([("clip_id", pa.string()), ("data", pa.binary())])
