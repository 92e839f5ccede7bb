"""The one decode of an asset: Asset -> Scan (map). Every frame is decoded once at most and shown to every observer; nothing is decoded again.

A scan holds what measures need, as tracks (numbers by presentation time), key frames (small pictures where the picture changed) and a
small copy of the sound; it knows nothing of shots, clips or thresholds, so that all of these can change without the medium being opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from curation import probe, stills
from curation.audio import SoundObserver
from curation.bends import BendObserver
from curation.borders import BordersObserver, border_track_of_picture
from curation.clock import is_variable
from curation.cut_series import ShotObserver
from curation.damage import DamageObserver
from curation.decode import DecodeLog, decode, decode_sound, note_error
from curation.effects import SignatureObserver
from curation.global_motion import GlobalMotionObserver
from curation.hash_observer import HashObserver
from curation.keyframe_observer import KeyFrameObserver, keyframe_of_picture
from curation.keyframes import KeyFrame
from curation.media import MediaConfig, MediaError
from curation.motion import MotionWatch
from curation.observe import Observer, SmallFrames
from curation.quality import QualityObserver, quality_track_of_picture
from curation.soundtrack import Soundtrack
from curation.spared_frames import Spare
from curation.tracks import Track
from curation.vectors import VectorWatch
from manifests.records import Asset

VERSION = "11"
"""Version of what is observed: a change of any observer is a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """What a scan looks at. Values are ours. Only these, never a measure's settings, ask for another decode."""

    media: MediaConfig = field(default_factory=MediaConfig)
    sound: bool = True  # also the sound of videos, in the same pass
    vectors: bool = True  # codec motion vectors, where the codec has them
    least_decoded: float = 0.9  # share of the indexed frames below which a file counts as broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one decode of an asset left. The asset has what only the decode could tell, or its error."""

    asset: Asset
    tracks: list[Track] = field(default_factory=list)
    keyframes: list[KeyFrame] = field(default_factory=list)
    soundtrack: list[Soundtrack] = field(default_factory=list)


def scan_asset(asset: Asset, path: str, cfg: ScanConfig) -> Scan:
    """The asset's tracks, key frames and sound. Never raises on bad media: the asset then has error_stage `scan`."""
    try:
        return scan(asset, path, cfg)
    except MediaError as e:
        return Scan(asset=failed(asset, e))


def failed(asset: Asset, error: MediaError) -> Asset:
    """The asset with the error of its scan."""
    return replace(asset, error_stage="scan", error_code=error.code, error_detail=error.detail)


def scan(asset: Asset, path: str, cfg: ScanConfig) -> Scan:
    """As `scan_asset`, but raises MediaError. An asset not yet probed is probed first; one that failed before comes back as it is."""
    if asset.kind is None and asset.error_code is None:
        asset = probe.probe_asset(asset, path, cfg.media)
    if asset.error_code is not None:
        return Scan(asset=asset)
    if asset.kind == "video":
        return _scan_video(asset, path, cfg)
    return _scan_picture(asset, path, cfg) if asset.kind == "image" else _scan_sound(asset, path, cfg)


def watch(
    path: str, asset: Asset, observers: Sequence[Observer], cfg: MediaConfig, spare: Spare | None = None, **hooks: Any
) -> list[Track]:
    """All tracks of the observers after one decode of the video; `asset` gives its size as shown. Raises MediaError.

    `hooks` are those of `decode`: what sees packets, and what hears the sound.
    """
    small, spare = SmallFrames(asset.width or 16, asset.height or 16), spare or Spare(DecodeLog())
    for source, pts_us in decode(path, cfg, log=spare.log, spare=spare, **hooks):
        try:
            frame = small(source, pts_us)
        except MediaError as e:  # one frame is lost, as one that does not decode is
            note_error(spare.log, e)
            continue
        spare.saw(frame)
        for observer in observers:
            observer.push(frame)
    return [track for observer in observers for track in observer.finish()]


def tracks_of(path: str, observers: Sequence[Observer], cfg: MediaConfig | None = None) -> list[Track]:
    """The tracks of a file that was not probed before: for tests, benchmarks and trying an observer out."""
    cfg = cfg or MediaConfig()
    asset = probe.with_facts(Asset(asset_id="", asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=path), probe.probe(path, cfg))
    return watch(path, asset, observers, cfg)


def video_observers(asset: Asset, log: DecodeLog) -> list[Observer]:
    """Everything that watches a video's pictures, one line an observer; sizes are as shown, `log` is that of the decode."""
    width, height = asset.width or 16, asset.height or 16
    return [
        ShotObserver(),
        MotionWatch(),
        GlobalMotionObserver(),
        SignatureObserver(),
        BendObserver(),
        BordersObserver(),
        QualityObserver(),
        HashObserver(),
        DamageObserver(log),
        KeyFrameObserver(asset.asset_id, width, height),
    ]


def _scan_video(asset: Asset, path: str, cfg: ScanConfig) -> Scan:
    log = DecodeLog()
    observers, spare = video_observers(asset, log), Spare(log)
    keyframes = next(o for o in observers if isinstance(o, KeyFrameObserver))
    vectors = VectorWatch(spare.stands)
    sound = SoundObserver(asset.asset_id) if cfg.sound and asset.has_audio else None
    on_packet, listener = (vectors.packet if cfg.vectors else None), (sound.push if sound else None)
    tracks = watch(path, asset, [*observers, vectors], cfg.media, spare, on_packet=on_packet, sound=listener)
    pts = next(t.pts_us for t in tracks if t.name == "shots")
    if not len(pts):
        raise MediaError("decode_error", f"{path}: expected frames, found none; {log.n_errors} errors, first {log.first_error}")
    heard = sound.finish() if sound else []
    asset = _finished(asset, pts, log, cfg)
    return Scan(asset=asset, tracks=tracks + heard, keyframes=keyframes.keyframes, soundtrack=sound.soundtracks if sound else [])


def _finished(asset: Asset, pts: np.ndarray, log: DecodeLog, cfg: ScanConfig) -> Asset:
    """The asset with what only the decode could tell, and its error when too little came out."""
    # The last frame stands as long as the median one; a single frame as long as the container says.
    last_us = int(np.median(np.diff(pts))) if len(pts) > 1 else asset.duration_us or 1
    indexed, duration_us = asset.n_frames, int(pts[-1] - pts[0]) + last_us
    asset = replace(asset, n_frames=len(pts), n_spared=log.n_spared, start_us=int(pts[0]), duration_us=duration_us, is_vfr=is_variable(pts))
    if indexed and len(pts) < cfg.least_decoded * indexed:
        return failed(asset, MediaError("decode_error", f"expected {indexed} frames, found {len(pts)}; {_troubles(log)}"))
    if log.n_errors or log.n_undated or log.n_sound_errors:
        return replace(asset, error_detail=f"{len(pts)} frames decoded; {_troubles(log)}")
    return asset


def _scan_picture(asset: Asset, path: str, cfg: ScanConfig) -> Scan:
    rgb = stills.load_picture(path, cfg.media)
    return Scan(
        asset=asset,
        tracks=[border_track_of_picture(rgb), quality_track_of_picture(rgb)],
        keyframes=[keyframe_of_picture(asset.asset_id, rgb)],
    )


def _scan_sound(asset: Asset, path: str, cfg: ScanConfig) -> Scan:
    log, sound = DecodeLog(), SoundObserver(asset.asset_id)
    decode_sound(path, cfg.media, sound.push, log=log)
    tracks = sound.finish()
    if sound.end_us is None or not len(tracks[0]):
        raise MediaError("decode_error", f"{path}: expected sound, found none; {_troubles(log)}")
    start_us = int(tracks[0].pts_us[0])
    detail = _troubles(log) if log.n_errors else None
    asset = replace(asset, start_us=start_us, duration_us=sound.end_us - start_us, error_detail=detail)
    return Scan(asset=asset, tracks=tracks, soundtrack=sound.soundtracks)


def _troubles(log: DecodeLog) -> str:
    told = f"{log.n_errors} broken packets, {log.n_undated} frames out of time, first error {log.first_error or 'none'}"
    return told + (f"; sound: {log.n_sound_errors} broken packets, first {log.first_sound_error}" if log.n_sound_errors else "")
