"""Sets and buckets: which named training set a clip belongs to, and the shape it is encoded in. Table stage, one row out for one row in.

In:   clip_id string, kind string, width int, height int, start_us long, end_us long, and the columns that the sets' `needs` name
Out:  clip_id, set_name string, bucket string, n_tokens int, fits_sets string, set_reason string

A clip goes to the strictest set whose needs it meets and that has a bucket for it; `fits_sets` names all such sets, strictest first, comma
separated, as the subsets of the paper lie in one another. Needs are looked at in their order, after size and length: `set_reason` is `ok`
or the first thing that failed in the least strict set of its kind; a need that fails is named by its measure, with `not_run` behind
it when it was not measured. Whether a need takes clips that were not measured stands with it; by default it does not. Last, a set that is
`picked` takes only what people chose for it (column `picks`): `picked` is a no, `picked not_run` that nobody was asked.

A bucket is an aspect ratio and a number of frames (for sound a length): all its clips give one latent shape. Movie Gen, Multi-stage
subsets and buckets, gives the durations, five aspect ratios, and of these 1024 x 576 and 576 x 1024 by size; both are 768^2 pixels in
area, so sizes here follow from an area (or, for small sets, from a short side). 4:3, 1:1 and 3:4 are ours.

The encoded clip has exactly `n_frames` frames at a constant whole rate. The rate is n_frames / duration rounded up, so that the frames
fit in the clip (the paper prints 21 frames a second for 256 frames in 12 s, which is 21.33: here 22), bounded by the row's rates; the
frames then last n_frames / fps <= duration, taken from the middle of the clip, at their own speed. Where the source has fewer frames a
second than that, some are shown twice. No picture is enlarged.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.components import spark_schema
from curation.sets import FRAMES_PER_LATENT, DurationRow, SetConfig, parts, refusal, refused_by_people

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SIDE_MULTIPLE = 16
"""Sides are multiples of this: 8 x in the autoencoder, 2 x in the transformer's patches."""

AUDIO_LATENTS_PER_S = 25
"""Latents a second of the audio codec (Movie Gen, Codec)."""

OUTPUT = pa.schema(
    [
        ("clip_id", pa.string()),
        ("set_name", pa.string()),
        ("bucket", pa.string()),
        ("n_tokens", pa.int32()),
        ("fits_sets", pa.string()),
        ("set_reason", pa.string()),
    ]
)
_SHAPE = ("clip_id", "kind", "width", "height", "start_us", "end_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A shape: size in pixels and frames (1 for images); null where sound has none. `name` is e.g. 16x9_128f, or 8s for sound."""

    name: str
    width: int | None = None
    height: int | None = None
    n_frames: int | None = None
    latents: str = "tae"
    seconds: float | None = None  # of sound, or of a video of whose sound the tokens are made

    @property
    def n_latent_frames(self) -> int | None:
        """Frames after the temporal autoencoder: n_frames / 8, and 1 for an image; n_frames where each is its own latent."""
        if self.n_frames is None or self.latents == "frames":
            return self.n_frames
        return max(1, self.n_frames // FRAMES_PER_LATENT)

    @property
    def n_tokens(self) -> int:
        """Tokens a sample has in the transformer: latent frames x height / 16 x width / 16, and 25 a second for sound.

        256 frames of 1024 x 576 are 32 x 36 x 64 = 73,728 (Movie Gen, Architecture, tokens).
        """
        if self.latents == "audio" and self.seconds is not None:
            return round(self.seconds * AUDIO_LATENTS_PER_S)
        side = SIDE_MULTIPLE  # 8 x in the autoencoder, patches of 2
        return (self.n_latent_frames or 0) * ((self.height or 0) // side) * ((self.width or 0) // side)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A clip in a bucket: frames a second (null but for video), the span [start_us, end_us) that is encoded, and the share cut away.

    Without a bucket, `reason` says why: kind, size_unknown, too_small, crop, too_short, too_long. Else it is `ok`.
    """

    reason: str
    bucket: Bucket | None = None
    fps_num: int | None = None
    fps_den: int | None = None
    start_us: int | None = None
    end_us: int | None = None
    crop_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The set of a clip, how it fits, and all sets it fits; without a set, `fit.reason` is that of the least strict set of its kind."""

    set_name: str | None
    fit: Fit
    fits_sets: tuple[str, ...] = ()


def bucket_of(clip: Any, cfg: SetConfig) -> Fit:
    """The bucket of a clip in a set, or the reason why it has none. A clip has kind, width, height, start_us, end_us."""
    return _bucket_of(clip, cfg, {})


def _bucket_of(clip: Any, cfg: SetConfig, pictures: dict[tuple[str, int, int], Fit]) -> Fit:
    """As `bucket_of`; `pictures` keeps how pictures of a size fit a set, the dear part, for the next clip."""
    if clip.kind != cfg.kind:
        return Fit(reason="kind")
    if cfg.kind == "audio":
        return _fit_sound(clip, cfg)
    if not clip.width or not clip.height:
        return Fit(reason="size_unknown")
    key = (cfg.name, clip.width, clip.height)
    if key not in pictures:
        pictures[key] = _fit_picture(clip.width, clip.height, cfg)
    shape = pictures[key]
    if shape.bucket is None:
        return shape
    row = None if cfg.kind == "image" else _row_of(clip, cfg)
    if isinstance(row, str):
        return Fit(reason=row, crop_share=shape.crop_share)
    n_frames = row.n_frames if row else 1
    name = f"{shape.bucket.name}_{n_frames}f"
    bucket = Bucket(name=name, width=shape.bucket.width, height=shape.bucket.height, n_frames=n_frames, latents=cfg.latents)
    if row is None:
        return Fit(reason="ok", bucket=bucket, start_us=clip.start_us, end_us=clip.end_us, crop_share=shape.crop_share)
    return _fit_video(clip, row, bucket, shape.crop_share or 0.0)


def _fit_picture(width: int, height: int, cfg: SetConfig) -> Fit:
    """The size in which pictures of a size enter the set, as a bucket named by its aspect, or why they do not."""
    if min(width, height) < cfg.min_side_px:
        return Fit(reason="too_small")
    crop, aspect = min((crop_share(width, height, *parts(a)), a) for a in cfg.aspects)
    if crop > cfg.max_crop_share:
        return Fit(reason="crop", crop_share=crop)
    across, down = size_of(aspect, cfg)
    if width < across or height < down:
        return Fit(reason="too_small", crop_share=crop)
    return Fit(reason="ok", bucket=Bucket(name=aspect.replace(":", "x"), width=across, height=down), crop_share=crop)


def assign_set(clip: Any, sets: Sequence[SetConfig]) -> Membership:
    """The strictest set that takes the clip and has a bucket for it, or none and why the least strict one refused it."""
    return _placed(clip, sorted(sets, key=lambda s: s.strictness), {})


def _placed(clip: Any, sets: Sequence[SetConfig], pictures: dict[tuple[str, int, int], Fit]) -> Membership:
    first, fits, last = None, [], Fit(reason="kind")
    for cfg in sets:
        if clip.kind != cfg.kind:
            continue
        last = _bucket_of(clip, cfg, pictures)
        if last.bucket is not None and (refused := refusal(clip, cfg.needs)) is not None:
            last = Fit(reason=refused, crop_share=last.crop_share)
        if last.bucket is not None and (refused := refused_by_people(clip, cfg)) is not None:
            last = Fit(reason=refused, crop_share=last.crop_share)
        if last.bucket is not None:
            first = first or (cfg.name, last)
            fits.append(cfg.name)
    name, fit = first or (None, last)
    return Membership(set_name=name, fit=fit, fits_sets=tuple(fits))


def size_of(aspect: str, cfg: SetConfig) -> tuple[int, int]:
    """Width and height in pixels of an aspect's bucket: multiples of 16 nearest in shape, then in area. 9:16 is 16:9 turned."""
    across, down = parts(aspect)
    if across < down:
        height, width = size_of(f"{down}:{across}", cfg)
        return width, height
    ratio = across / down
    if cfg.short_side_px is not None:
        height = _multiple(cfg.short_side_px)
        return _multiple(height * ratio), height
    side = cfg.area_side_px or 0
    widths, heights = _around(side * ratio**0.5), _around(side / ratio**0.5)
    return min(product(widths, heights), key=lambda s: (abs(s[0] / s[1] / ratio - 1), abs(s[0] * s[1] - side**2)))


def crop_share(width: int, height: int, across: int, down: int) -> float:
    """The share of a picture, 0 to 1, that is cut away to give it the aspect across:down."""
    kept, whole = sorted((width * down, height * across))
    return 1 - kept / whole


def _fit_video(clip: Any, row: DurationRow, bucket: Bucket, crop: float) -> Fit:
    """The rate n / duration rounded up within the row's bounds, and the middle n / rate seconds."""
    duration_us, n = clip.end_us - clip.start_us, row.n_frames or 0
    fps = max(row.min_fps or 1, -(-n * 1_000_000 // duration_us))
    if fps > (row.max_fps or fps):
        return Fit(reason="too_short", crop_share=crop)
    start, end = _middle(clip, n * 1_000_000 // fps)
    bucket = replace(bucket, seconds=n / fps)
    return Fit(reason="ok", bucket=bucket, fps_num=fps, fps_den=1, start_us=start, end_us=end, crop_share=crop)


def _fit_sound(clip: Any, cfg: SetConfig) -> Fit:
    row = _row_of(clip, cfg)
    if isinstance(row, str):
        return Fit(reason=row)
    start, end = _middle(clip, round(row.min_s * 1_000_000))
    return Fit(reason="ok", bucket=Bucket(name=f"{row.min_s:g}s", latents="audio", seconds=row.min_s), start_us=start, end_us=end)


def _middle(clip: Any, length_us: int) -> tuple[int, int]:
    start = clip.start_us + (clip.end_us - clip.start_us - length_us) // 2
    return start, start + length_us


def _row_of(clip: Any, cfg: SetConfig) -> DurationRow | str:
    """The first duration row that holds the clip, or too_short or too_long."""
    duration_us = clip.end_us - clip.start_us
    for row in cfg.durations:
        if round(row.min_s * 1e6) <= duration_us and (row.max_s is None or duration_us < round(row.max_s * 1e6)):
            return row
    return "too_short" if duration_us < round(min(r.min_s for r in cfg.durations) * 1e6) else "too_long"


def _around(length: float) -> tuple[int, int]:
    """The multiples of 16 below or at a length, and above it."""
    below = int(length // SIDE_MULTIPLE) * SIDE_MULTIPLE
    return max(SIDE_MULTIPLE, below), below + SIDE_MULTIPLE


def _multiple(length: float) -> int:
    return max(1, round(length / SIDE_MULTIPLE)) * SIDE_MULTIPLE


def columns_of(sets: Sequence[SetConfig]) -> tuple[str, ...]:
    """The columns that the table of clips must have for these sets."""
    picked = ("picks",) if any(cfg.picked for cfg in sets) else ()
    return tuple(dict.fromkeys((*_SHAPE, *(need.measure for cfg in sets for need in cfg.needs), *picked)))


def assign_sets(table: pa.Table, sets: Sequence[SetConfig]) -> pa.Table:
    """Every clip has its set, bucket and tokens, or null and the reason, in the order of the rows."""
    return pa.Table.from_batches([_assigned(batch, sets, {}) for batch in table.select(columns_of(sets)).to_batches()], OUTPUT)


def assign_sets_on_spark(rows: "DataFrame", sets: Sequence[SetConfig]) -> "DataFrame":
    """The rows of `assign_sets` in any order; nothing is shuffled."""
    return rows.select(*columns_of(sets)).mapInArrow(_assign(tuple(sets)), spark_schema(OUTPUT))


def _assign(sets: Sequence[SetConfig]) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pictures: dict[tuple[str, int, int], Fit] = {}
        for batch in batches:
            yield _assigned(batch, sets, pictures)

    return assign


def _assigned(batch: pa.RecordBatch, sets: Sequence[SetConfig], pictures: dict[tuple[str, int, int], Fit]) -> pa.RecordBatch:
    ordered = sorted(sets, key=lambda s: s.strictness)
    names = [n for n in batch.schema.names if n != "clip_id"]
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    found = []
    # Where a clip begins changes nothing here but its length does: clips alike in all else are placed once.
    for values in zip(*(batch[n].to_pylist() for n in names), strict=True):
        clip = dict(zip(names, values, strict=True))
        clip["start_us"], clip["end_us"] = 0, clip["end_us"] - clip["start_us"]
        key = tuple(clip.values())
        if key not in known:
            known[key] = _row_out(_placed(SimpleNamespace(**clip), ordered, pictures))
        found.append(known[key])
    columns = [pa.array(c, f.type) for c, f in zip(zip(*found, strict=True) if found else [()] * 5, list(OUTPUT)[1:], strict=True)]
    return pa.RecordBatch.from_arrays([batch["clip_id"], *columns], schema=OUTPUT)


def _row_out(m: Membership) -> tuple[Any, ...]:
    bucket = m.fit.bucket
    return m.set_name, bucket and bucket.name, bucket and bucket.n_tokens, ",".join(m.fits_sets) or None, m.fit.reason
