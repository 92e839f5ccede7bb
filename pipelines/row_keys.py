"""What a caption and an encoded sample are of: keys of rows that change with all that such a row is made from, beside the stage's settings.

A clip's id says which span of which bytes it is, and no more. Its caption also depends on the text that came with the file and on what was
measured; its sample on the shape of the bucket it is in now. So these stages' rows are found again by clip and by that: a clip that
moves to another set is encoded anew, one whose text changed is captioned anew, and all others are not.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from curation import buckets, captions
from curation.caption_facts import FACTS_READ
from manifests import ids
from pipelines import jobs

if TYPE_CHECKING:
    from pipelines.settings import CurateConfig

Key = Callable[[Any, Any, "CurateConfig"], str]

_OF_CLIP = ("clip_id", "kind", "set_name", "start_us", "end_us", "camera", "camera_confidence", *FACTS_READ)
_OF_ASSET = ("supplied_caption", "width", "height", "has_audio")
"""The columns that keys are made of: few, since every run makes the keys of all clips."""


def caption_rows(clips: pa.Table, assets: pa.Table, config: "CurateConfig") -> pa.Table:
    """The clips with their assets, as the captioners read them."""
    return _keyed(clips, assets, config, caption_key)


def encode_rows(clips: pa.Table, assets: pa.Table, config: "CurateConfig") -> pa.Table:
    """The clips, each in its set, with their assets, as encoding reads them."""
    return _keyed(clips, assets, config, encode_key)


def caption_key(clip: Any, asset: Any, config: "CurateConfig") -> str:
    """Changes with the clip, with the text that came with it, and with the measured values that its captioner reads."""
    return ids.digest("caption/v1", clip.clip_id, *captions.read_of(clip, asset, config.captions))


def encode_key(clip: Any, asset: Any, config: "CurateConfig") -> str:
    """Changes with the clip, the shape, rate and span in which its set wants it, and the picture that it is cut from."""
    fit = buckets.bucket_of(clip, config.sets[clip.set_name or ""])
    shape = () if fit.bucket is None else (fit.bucket.width, fit.bucket.height, fit.bucket.n_frames)
    wanted = (fit.reason, *shape, fit.fps_num, fit.fps_den, fit.start_us, fit.end_us)
    return ids.digest("encode/v1", clip.clip_id, *wanted, asset.width, asset.height, asset.has_audio)


def _keyed(clips: pa.Table, assets: pa.Table, config: "CurateConfig", key: Key) -> pa.Table:
    rows = jobs.with_asset_columns(clips, assets)
    at = pc.index_in(clips.column("asset_id"), value_set=assets.column("asset_id").combine_chunks())
    pairs = zip(clips.select(_OF_CLIP).to_pylist(), assets.select(_OF_ASSET).take(at).to_pylist(), strict=True)
    keys = [key(SimpleNamespace(**clip), SimpleNamespace(**asset), config) for clip, asset in pairs]
    return rows.set_column(0, rows.schema.field(0), pa.array(keys, pa.string()))
