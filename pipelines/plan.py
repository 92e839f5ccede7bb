"""The one place that knows which stages there are, in which order, and which part of the configuration each depends on."""

from typing import Any

import pyarrow as pa

from curation import analyse as analysis
from curation import keyframes
from curation.ingest import Listing
from manifests.records import Asset, Clip, Shard
from manifests.schema import arrow_schema
from pipelines import jobs, sharding
from pipelines.settings import CurateConfig
from pipelines.sharding import PlannedShard
from pipelines.stage import Stage

_ASSET, _CLIP = arrow_schema(Asset), arrow_schema(Clip)


def _pixels_to_decode(row: dict[str, Any]) -> float:
    """Predicted cost of decoding an asset: pixels x frames; HEVC, VP9 and AV1 cost about twice H.264."""
    frames = row["n_frames"] or (row["duration_us"] or 0) / 1e6 * 30
    return float((row["width"] or 1) * (row["height"] or 1) * max(frames, 1)) * (2.0 if row["vcodec"] in ("hevc", "vp9", "av1") else 1.0)


INGEST = Stage(
    name="ingest", shape="map", version="1", reads=arrow_schema(Listing), key="key", make=jobs.make_ingest,
    writes={"rows": _ASSET.append(pa.field("key", pa.string()))},
    depends_on=lambda c: c.ingest, unit_rows=lambda c: 64,
)  # fmt: skip
PROBE = Stage(
    name="probe", shape="map", version="1", reads=_ASSET, key="asset_id", make=jobs.make_probe, writes={"rows": _ASSET},
    depends_on=lambda c: c.analyse.media, unit_rows=lambda c: 16,
)  # fmt: skip
ANALYSE = Stage(
    name="analyse", shape="split", version="1", reads=_ASSET, key="asset_id", make=jobs.make_analyse,
    writes={"rows": _ASSET, "clips": _CLIP, "series": analysis.SERIES_SCHEMA, "keyframes": keyframes.SCHEMA},
    # One asset a unit: decoding is the dearest step, and a crash may cost no more than the asset at hand.
    depends_on=lambda c: c.analyse, unit_rows=lambda c: 1, cost=_pixels_to_decode,
)  # fmt: skip
READ_TEXT = Stage(
    name="text", shape="batch", version="1", reads=_CLIP, key="clip_id", make=jobs.make_text, writes={"rows": jobs.TEXT_SCHEMA},
    depends_on=lambda c: (c.text, c.analyse), unit_rows=lambda c: 8, group_by="keyframe_part", weights=True,
)  # fmt: skip
DESCRIBE = Stage(
    name="describe", shape="batch", version="1", reads=_CLIP, key="clip_id", make=jobs.make_describe, writes={"rows": jobs.DESCRIPTOR_SCHEMA},
    depends_on=lambda c: (c.descriptors, c.analyse), unit_rows=lambda c: 8, group_by="keyframe_part",
)  # fmt: skip
AESTHETICS = Stage(
    name="aesthetics", shape="batch", version="1", reads=_CLIP, key="clip_id", make=jobs.make_aesthetics, writes={"rows": jobs.AESTHETIC_SCHEMA},
    depends_on=lambda c: (c.open_clip, c.analyse), unit_rows=lambda c: 8, group_by="keyframe_part", weights=True,
)  # fmt: skip
CAPTION = Stage(
    name="caption", shape="batch", version="1", reads=jobs.CLIP_AND_ASSET, key="clip_id", make=jobs.make_caption, writes={"rows": jobs.CAPTION_SCHEMA},
    depends_on=lambda c: (c.captions, c.analyse), unit_rows=lambda c: 64,
)  # fmt: skip
ENCODE = Stage(
    name="encode", shape="map", version="1", reads=jobs.CLIP_AND_ASSET, key="clip_id", make=jobs.make_encode,
    writes={"rows": jobs.ENCODED_SCHEMA, "payload": jobs.PAYLOAD_SCHEMA},
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
    measures: list[tuple[Stage, tuple[str, ...]]] = [(READ_TEXT, ("text_score", "text_area", *jobs.ERRORS)), (DESCRIBE, jobs.ERRORS)]
    if config.open_clip.weights is not None:
        measures.append((AESTHETICS, ("aesthetic", *jobs.ERRORS)))
    return measures


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(s for s in STAGES if s.name == name)
