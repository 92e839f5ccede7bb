"""The one place that knows which stages there are, in which order, and which part of the configuration each depends on."""

from functools import partial
from typing import Any

import pyarrow as pa

from curation import captions, credentials, encode, keyframes, quarantine, scan, soundtrack, split, tracks
from curation.listed import Listing
from manifests.records import Asset, Clip, Shard
from manifests.schema import arrow_schema
from pipelines import jobs, shard_files
from pipelines.batches import BATCHES, Batch, make_batch
from pipelines.batches import schema_of as batch_schema
from pipelines.measures import MEASURES, Measure, make_measure, schema_of
from pipelines.settings import CurateConfig
from pipelines.shard_files import PlannedShard
from pipelines.stage import Place, Stage, names_gpu
from pipelines.weight_files import by_content

_ASSET, _CLIP = arrow_schema(Asset), arrow_schema(Clip)


MAY_PASS = frozenset({"missing", "unreadable", "changed", *quarantine.LOSSES})
"""Error codes of files that may be there, or be readable, in another run: they are tried again, and a lost process as often as the quarantine allows."""


def may_pass(row: dict[str, Any]) -> bool:
    """Whether the row failed for a reason that may be gone in another run."""
    return row["error_code"] in MAY_PASS


def _asset_rests(stage: str, row: dict[str, Any], config: CurateConfig, place: Place) -> bool:
    """Whether the asset has cost the stage as many processes as it may: until its settings change or it is released, it is left alone."""
    return quarantine.is_quarantined(place.quarantine, row["asset_id"], jobs.counted_under(stage, config), config.quarantine)


def _clip_rests(row: dict[str, Any], config: CurateConfig, place: Place) -> bool:
    """As `_asset_rests`, of the encoding of one clip: its failures lie beside those of its asset, and say nothing of it."""
    return quarantine.is_quarantined(place.quarantine, row["asset_id"], jobs.counted_of_clip(row["clip_id"], config), config.quarantine)


def _caption_rests(row: dict[str, Any], config: CurateConfig, place: Place) -> bool:
    """As `_clip_rests`, of a clip that an endpoint refuses. Rows of before these were counted do not say whose clip it is."""
    if row["asset_id"] is None or not captions.is_refusal(row["error_code"]):
        return False
    return quarantine.is_quarantined(place.quarantine, row["asset_id"], jobs.counted_of_caption(row["clip_id"], config), config.quarantine)


def _seconds_to_scan(row: dict[str, Any]) -> float:
    """Predicted seconds of a core for decoding and measuring an asset: 0.8 ns a pixel, twice that of HEVC, VP9 and AV1, and what a frame
    and a file cost whatever their size (a fit to what 91 real videos took; rank correlation 0.90)."""
    frames = max(row["n_frames"] or (row["duration_us"] or 0) / 1e6 * 30, 1)
    pixels = frames * (row["width"] or 1) * (row["height"] or 1)
    return 0.06 + 1.7e-4 * frames + 0.8e-9 * pixels * (2 if row["vcodec"] in ("hevc", "vp9", "av1", "libdav1d") else 1)


INGEST = Stage(
    name="ingest", shape="map", version="3", reads=arrow_schema(Listing), key="key", make=jobs.make_ingest,
    writes={"rows": _ASSET.append(pa.field("key", pa.string())).append(pa.field(jobs.NOTED, pa.int64()))},
    # Rights tables and defaults are added later, so that another of them hashes nothing again.
    depends_on=lambda c: (c.ingest.max_bytes, credentials.VERSION, credentials.library_version(), credentials.trust_digest(c.ingest.trust_anchors)),
    unit_rows=lambda c: 64,
    # A file beyond the limit of bytes says so again, and would be fetched for it.
    again=lambda row: may_pass(row) and not (row["error_detail"] or "").startswith("ValueError"),
)  # fmt: skip
PROBE = Stage(
    name="probe", shape="map", version="2", reads=_ASSET, key="asset_id", make=jobs.make_probe, writes={"rows": _ASSET},
    depends_on=lambda c: c.scan.media, unit_rows=lambda c: 16, again=may_pass, rests=partial(_asset_rests, "probe"),
)  # fmt: skip
SCAN = Stage(
    name="scan", shape="map", version=scan.VERSION, reads=_ASSET, key="asset_id", make=jobs.make_scan,
    writes={"rows": _ASSET, "tracks": tracks.SCHEMA, "keyframes": keyframes.SCHEMA, "sound": soundtrack.SCHEMA},
    # One asset a unit: decoding is the dearest step, and a crash may cost no more than the asset at hand.
    depends_on=lambda c: (c.scan, PROBE.version), unit_rows=lambda c: 1, cost=_seconds_to_scan, again=may_pass, rests=partial(_asset_rests, "scan"),
)  # fmt: skip


def _scanned(config: CurateConfig) -> tuple[Any, ...]:
    """What the tracks and key frames of a clip depend on; its span is in its id."""
    return (SCAN.version, PROBE.version, config.scan)


SPLIT = Stage(
    name="split", shape="split", version=split.VERSION, reads=_ASSET, key="asset_id", make=jobs.make_split,
    writes={"rows": jobs.SPLIT_SCHEMA, "clips": _CLIP, "shots": split.SHOTS_SCHEMA},
    depends_on=lambda c: (c.split, *_scanned(c)), unit_rows=lambda c: 64,
)  # fmt: skip


def _measure_stage(measure: Measure) -> Stage:
    return Stage(
        name=f"measure-{measure.name}", shape="map", version=measure.version, reads=_CLIP, key="clip_id",
        make=partial(make_measure, measure), writes={"rows": schema_of(measure)},
        depends_on=lambda c: (getattr(c.measures, measure.name), *_scanned(c)), unit_rows=lambda c: 64, group_by="scan_part",
    )  # fmt: skip


MEASURE = tuple(_measure_stage(m) for m in MEASURES)
"""One stage a measure on tracks."""


def _batch_stage(batch: Batch) -> Stage:
    read = tuple(m for m in MEASURES if m.name in batch.measures)

    def depends_on(config: CurateConfig) -> Any:
        return (by_content(batch.settings(config)), *((m.version, getattr(config.measures, m.name)) for m in read), *_scanned(config))

    return Stage(
        name=batch.name, shape="batch", version=batch.version, reads=_CLIP, key="clip_id", make=partial(make_batch, batch),
        writes={"rows": batch_schema(batch)}, depends_on=depends_on, unit_rows=lambda c: 8,
        group_by="scan_part", weights=batch.weights, on_gpu=lambda c: names_gpu(batch.settings(c)),
    )  # fmt: skip


BATCH = tuple(_batch_stage(b) for b in BATCHES)
"""One stage a batch class on key frames or sound."""

CAPTION = Stage(
    name="caption", shape="batch", version="3", reads=jobs.CLIP_AND_ASSET, key="key", make=jobs.make_caption, writes={"rows": jobs.CAPTION_SCHEMA},
    # What it reads of a clip's measures and texts is in the row's key: a changed setting asks only about clips whose values it changed.
    depends_on=lambda c: (by_content(captions.identity(c.captions)), *_scanned(c)), unit_rows=lambda c: 64,
    again=lambda row: captions.is_transient(row["error_code"] or ""), rests=_caption_rests,
    weights=lambda c: bool(c.captions.local or c.captions.endpoints),  # models are heavy, and an endpoint's budget holds for one object
    on_gpu=lambda c: names_gpu(c.captions),
)  # fmt: skip
ENCODE = Stage(
    name="encode", shape="map", version="5", reads=jobs.CLIP_AND_ASSET, key="key", make=jobs.make_encode,
    writes={"rows": jobs.ENCODED_SCHEMA, "payload": jobs.PAYLOAD_SCHEMA},
    # The shape that its set wants is in the row's key: another set, or another shape of one, encodes the clips that are in it.
    depends_on=lambda c: encode.made_by(c.encode, c.scan.media), unit_rows=lambda c: 2,
    cost=lambda row: _seconds_to_scan(row["asset"]),
    again=lambda row: may_pass(row) or row["error_code"] == "ffmpeg_failed", rests=_clip_rests,
)  # fmt: skip
WRITE_SHARDS = Stage(
    name="shards", shape="batch", version="1", reads=arrow_schema(PlannedShard), key="path", make=shard_files.make_write_shards,
    writes={"rows": arrow_schema(Shard), "members": shard_files.MEMBER_PARTS},
    depends_on=lambda c: "shards", unit_rows=lambda c: 1,
)  # fmt: skip

STAGES = (INGEST, PROBE, SCAN, SPLIT, *MEASURE, *BATCH, CAPTION, ENCODE, WRITE_SHARDS)
"""All map, split and batch stages, in order; the table stages (duplicates, concepts, sets, mix) run between BATCH and CAPTION."""


def wanted_batches(config: CurateConfig) -> list[tuple[Stage, Batch]]:
    """The batch stages that can run: a network without weights is not wanted."""
    return [(stage, batch) for stage, batch in zip(BATCH, BATCHES, strict=True) if batch.wanted(config)]


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(s for s in STAGES if s.name == name)


DESCRIBE = stage_named("describe")
