"""Clips of an asset from what its scan left: shots found on the tracks, clips planned inside them (split). Opens no medium.

A new clip length or another threshold of the cut detector cuts the same scan anew.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

import pyarrow as pa

from curation.audio import SoundSpanConfig, plan_sound
from curation.shots import ClipConfig, Shot, ShotsConfig, clips_of_shot, find_shots
from curation.tracks import Tracks
from manifests.ids import clip_id
from manifests.records import Asset, Clip

VERSION = "3"
"""Version of how shots are found and clips planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """How an asset becomes clips."""

    shots: ShotsConfig = field(default_factory=ShotsConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    sound: SoundSpanConfig = field(default_factory=SoundSpanConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The clips of an asset, and for a video the shots they lie in."""

    clips: list[Clip]
    shots: list[Shot]


SHOTS_SCHEMA = pa.schema(
    [
        pa.field("asset_id", pa.string(), False),
        pa.field("shot_no", pa.int32(), False),
        pa.field("start_us", pa.int64(), False),
        pa.field("end_us", pa.int64(), False),
        pa.field("opens", pa.string(), False),
        pa.field("closes", pa.string(), False),
    ]
)
"""Shots of videos: start, hard or gradual at the opening; hard, gradual or end at the close. Frames of a transition are in no shot."""


def split_asset(asset: Asset, tracks: Tracks, cfg: SplitConfig) -> Split:
    """The clips of a scanned asset: spans of one shot, one picture, or spans of sound; none where nothing is long enough."""
    if asset.kind == "video":
        return _split_video(asset, tracks, cfg)
    if asset.kind == "audio":
        spans = plan_sound(asset.start_us or 0, asset.duration_us or 0, cfg.sound)
        return Split(clips=[_clip(asset, "audio", a, b, 0, None) for a, b in spans], shots=[])
    return Split(clips=[_clip(asset, "image", 0, 0, 0, 1)], shots=[])


def shots_table(asset_id: str, shots: list[Shot]) -> pa.Table:
    """The shots as rows of SHOTS_SCHEMA."""
    names = SHOTS_SCHEMA.names[1:]
    return pa.Table.from_pylist([{"asset_id": asset_id} | {n: getattr(s, n) for n in names} for s in shots], schema=SHOTS_SCHEMA)


def _split_video(asset: Asset, tracks: Tracks, cfg: SplitConfig) -> Split:
    pts = tracks["shots"].pts_us
    shots = find_shots(tracks, (asset.start_us or 0) + (asset.duration_us or 0), cfg.shots)
    clips = []
    for shot in shots:
        for span in clips_of_shot(shot, pts, cfg.clips):
            n_frames = bisect_left(pts, span.end_us) - bisect_left(pts, span.start_us)
            clips.append(_clip(asset, "video", span.start_us, span.end_us, shot.shot_no, n_frames))
    return Split(clips=clips, shots=shots)


def _clip(asset: Asset, kind: str, start_us: int, end_us: int, shot_no: int, n_frames: int | None) -> Clip:
    return Clip(
        clip_id=clip_id(asset.asset_id, kind, start_us, end_us),
        asset_id=asset.asset_id,
        asset_no=asset.asset_no,
        kind=kind,
        start_us=start_us,
        end_us=end_us,
        shot_no=shot_no,
        n_frames=n_frames,
        width=asset.width,
        height=asset.height,
        fps_num=asset.fps_num,
        fps_den=asset.fps_den,
        has_audio=asset.has_audio,
        scan_part=asset.scan_part,
        keyframe_part=None if kind == "audio" or asset.scan_part is None else f"{asset.scan_part}.keyframes.parquet",
        duration_s=(end_us - start_us) / 1e6,
    )
