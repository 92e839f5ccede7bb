"""The one place that knows which stages there are, in which order, and which part of the configuration each depends on."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from curation import analyse as analysis
from curation import buckets, captions, embeddings, facts, ingest, keyframes, text
from curation.adapters.open_clip import OpenClipConfig
from curation.analyse import AnalyseConfig
from curation.captions import CaptionConfig, CaptionText
from curation.concepts import ConceptsConfig
from curation.duplicates import DuplicatesConfig
from curation.embeddings import DescriptorConfig
from curation.encode import EncodeConfig
from curation.ingest import IngestConfig, Listing
from curation.media import MediaError
from curation.text import TextConfig
from manifests.records import Asset, Clip, Shard
from manifests.rules import Rule
from manifests.schema import arrow_schema, from_row, from_table, to_table
from pipelines import sharding
from pipelines.on_ray import EngineConfig
from pipelines.sharding import PlannedShard, ShardConfig
from pipelines.stage import Job, Place, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """A rule as it stands in `conf/rules/`, under its name."""

    stage: Literal["rights", "facts", "assets", "analysed", "content", "tables", "sets", "placed"]
    subject: Literal["asset", "clip"]
    measure: str
    op: str
    threshold: float
    unit: str = ""
    kinds: tuple[str, ...] = ("video", "image", "audio")
    set_name: str = ""
    on_unknown: Literal["reject", "accept"] = "reject"
    version: int = 1
    measure_version: str = "1"
    reason: str = ""
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig:
    """Everything that a curation depends on: the stages' own configurations, the rules in funnel order, and the sets."""

    rules: dict[str, RuleConfig]
    sets: dict[str, buckets.SetConfig]
    seed: int = 0
    ingest: IngestConfig = field(default_factory=IngestConfig)
    analyse: AnalyseConfig = field(default_factory=AnalyseConfig)
    text: TextConfig = field(default_factory=TextConfig)
    descriptors: DescriptorConfig = field(default_factory=DescriptorConfig)
    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    concepts: ConceptsConfig = field(default_factory=ConceptsConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    shards: ShardConfig = field(default_factory=ShardConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def policy(self) -> tuple[Rule, ...]:
        """The enabled rules, in order."""
        names = [f.name for f in dataclasses.fields(RuleConfig) if f.name != "enabled"]
        return tuple(Rule(name=k, **{n: getattr(r, n) for n in names}) for k, r in self.rules.items() if r.enabled)


_ASSET, _CLIP = arrow_schema(Asset), arrow_schema(Clip)
_ERRORS = ("error_code", "error_detail")

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

ANALYSED_COLUMNS = ("duration_us", "n_frames", "is_vfr", "duration_s", "n_clips", "error_stage", *_ERRORS)
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
    return pa.table([clips.column("clip_id"), _struct(clips, _CLIP), _struct(assets.take(rows), _ASSET)], schema=_CLIP_AND_ASSET)


def _struct(table: pa.Table, schema: pa.Schema) -> pa.StructArray:
    columns = [table.column(f.name).combine_chunks() for f in schema]
    return pa.StructArray.from_arrays(columns, fields=[f.with_nullable(True) for f in schema])


_CLIP_AND_ASSET = pa.schema(
    [
        ("clip_id", pa.string()),
        ("clip", pa.struct([f.with_nullable(True) for f in _CLIP])),
        ("asset", pa.struct([f.with_nullable(True) for f in _ASSET])),
    ]
)


_GRACE_S = 30.0
"""What a decode gets beyond its own time limit before its process is ended from outside."""

# Jobs: input rows -> output tables. Each is the thin skin over one function of `curation`.


def _make_ingest(config: CurateConfig, place: Place) -> Job:
    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        listings = from_table(Listing, rows)
        assets = to_table(Asset, [ingest.ingest(listing, config.ingest, place.fetched) for listing in listings])
        return {"rows": assets.append_column("key", pa.array([x.key for x in listings], pa.string()))}

    return job


def _make_probe(config: CurateConfig, place: Place) -> Job:
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


def _make_analyse(config: CurateConfig, place: Place) -> Job:
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


def _make_text(config: CurateConfig, place: Place) -> Job:
    return _batch_job(place, text.ScoreText(config.text), TEXT_SCHEMA)


def _make_describe(config: CurateConfig, place: Place) -> Job:
    return _batch_job(place, embeddings.DescribeClips(config.descriptors), DESCRIPTOR_SCHEMA)


def _make_aesthetics(config: CurateConfig, place: Place) -> Job:
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


def _make_caption(config: CurateConfig, place: Place) -> Job:
    stage = captions.CaptionClips(config.captions)

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        pairs = _pairs(rows)
        frames = _pictures(place, [clip for clip, _ in pairs])
        found = stage([(clip, asset, frames.get(clip.clip_id, [])) for clip, asset in pairs])
        return {"rows": pa.Table.from_pylist([_flat(r) for r in found], schema=CAPTION_SCHEMA)}

    return job


def _make_encode(config: CurateConfig, place: Place) -> Job:
    from curation.encode import EncodeError, encode_clip

    digest = ENCODE.digest(config)

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


def _pixels_to_decode(row: dict[str, Any]) -> float:
    """Predicted cost of decoding an asset: pixels x frames; HEVC, VP9 and AV1 cost about twice H.264."""
    frames = row["n_frames"] or (row["duration_us"] or 0) / 1e6 * 30
    return float((row["width"] or 1) * (row["height"] or 1) * max(frames, 1)) * (2.0 if row["vcodec"] in ("hevc", "vp9", "av1") else 1.0)


INGEST = Stage(
    name="ingest", shape="map", version="1", reads=arrow_schema(Listing), key="key", make=_make_ingest,
    writes={"rows": _ASSET.append(pa.field("key", pa.string()))},
    depends_on=lambda c: c.ingest, unit_rows=lambda c: 64,
)  # fmt: skip
PROBE = Stage(
    name="probe", shape="map", version="1", reads=_ASSET, key="asset_id", make=_make_probe, writes={"rows": _ASSET},
    depends_on=lambda c: c.analyse.media, unit_rows=lambda c: 16,
)  # fmt: skip
ANALYSE = Stage(
    name="analyse", shape="split", version="1", reads=_ASSET, key="asset_id", make=_make_analyse,
    writes={"rows": _ASSET, "clips": _CLIP, "series": analysis.SERIES_SCHEMA, "keyframes": keyframes.SCHEMA},
    # One asset a unit: decoding is the dearest step, and a crash may cost no more than the asset at hand.
    depends_on=lambda c: c.analyse, unit_rows=lambda c: 1, cost=_pixels_to_decode,
)  # fmt: skip
READ_TEXT = Stage(
    name="text", shape="batch", version="1", reads=_CLIP, key="clip_id", make=_make_text, writes={"rows": TEXT_SCHEMA},
    depends_on=lambda c: (c.text, c.analyse), unit_rows=lambda c: 8, group_by="keyframe_part", weights=True,
)  # fmt: skip
DESCRIBE = Stage(
    name="describe", shape="batch", version="1", reads=_CLIP, key="clip_id", make=_make_describe, writes={"rows": DESCRIPTOR_SCHEMA},
    depends_on=lambda c: (c.descriptors, c.analyse), unit_rows=lambda c: 8, group_by="keyframe_part",
)  # fmt: skip
AESTHETICS = Stage(
    name="aesthetics", shape="batch", version="1", reads=_CLIP, key="clip_id", make=_make_aesthetics, writes={"rows": AESTHETIC_SCHEMA},
    depends_on=lambda c: (c.open_clip, c.analyse), unit_rows=lambda c: 8, group_by="keyframe_part", weights=True,
)  # fmt: skip
CAPTION = Stage(
    name="caption", shape="batch", version="1", reads=_CLIP_AND_ASSET, key="clip_id", make=_make_caption, writes={"rows": CAPTION_SCHEMA},
    depends_on=lambda c: (c.captions, c.analyse), unit_rows=lambda c: 64,
)  # fmt: skip
ENCODE = Stage(
    name="encode", shape="map", version="1", reads=_CLIP_AND_ASSET, key="clip_id", make=_make_encode,
    writes={"rows": ENCODED_SCHEMA, "payload": PAYLOAD_SCHEMA},
    depends_on=lambda c: (c.encode, c.sets, c.analyse), unit_rows=lambda c: 2,
    cost=lambda row: _pixels_to_decode(row["asset"]),
)  # fmt: skip
WRITE_SHARDS = Stage(
    name="shards", shape="batch", version="1", reads=arrow_schema(PlannedShard), key="path", make=sharding.make_write_shards,
    writes={"rows": arrow_schema(Shard), "members": sharding.MEMBER_PARTS},
    depends_on=lambda c: "shards", unit_rows=lambda c: 1,
)  # fmt: skip

STAGES = (INGEST, PROBE, ANALYSE, READ_TEXT, DESCRIBE, AESTHETICS, CAPTION, ENCODE, WRITE_SHARDS)
"""All map, split and batch stages, in order; the table stages (duplicates, concepts, sets, mix) run between AESTHETICS and CAPTION."""


def clip_measures(config: CurateConfig) -> list[tuple[Stage, tuple[str, ...]]]:
    """Stages on key frames and the columns of clips that they fill; a network without weights is not run."""
    measures: list[tuple[Stage, tuple[str, ...]]] = [(READ_TEXT, ("text_score", "text_area", *_ERRORS)), (DESCRIBE, _ERRORS)]
    if config.open_clip.weights is not None:
        measures.append((AESTHETICS, ("aesthetic", *_ERRORS)))
    return measures


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(s for s in STAGES if s.name == name)
