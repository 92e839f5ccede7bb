"""The one decode of an asset: Asset -> Analysis (split). Every frame is decoded once and feeds every observer; nothing is decoded again.

A video's frames are made small once (yuv420p, at most 160 px) and handed to cuts, motion, camera, borders and quality. Shots come back
some 3 s behind the newest frame; the clips planned in a finished shot are measured from what the observers still hold and get their key
frames from candidates kept since the shot began, so memory stays bounded however long the file.
"""

import gc
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Any, cast

import cv2
import numpy as np
import pyarrow as pa

from curation import media
from curation.audio import AudioConfig, Loudness, plan_sound
from curation.borders import BordersConfig, measure_borders
from curation.camera import CameraConfig, CameraObserver
from curation.clock import is_variable
from curation.keyframes import KeyFrame
from curation.media import DecodeLog, MediaConfig, MediaError
from curation.motion import VECTOR_CODECS, MotionConfig, MotionObserver, mean_vector_px
from curation.orientation import Orientation, orientation
from curation.probe import MediaFacts, probe_asset, with_facts
from curation.quality import colourfulness, measure_luma
from curation.shots import ClipConfig, Shot, ShotFinder, ShotsConfig, Span, clips_of_shot, false_cuts
from curation.stills import load_picture
from manifests.ids import clip_id
from manifests.records import Asset, Clip

VERSION = "1"
"""Version of the measures; a changed meaning is a new version."""

_LAG_US = 8_000_000
"""What is newer than this is always held: shots are reported later than they end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyseConfig:
    """What the analysis measures. Values of its own are ours; the observers' configs say theirs."""

    media: MediaConfig = field(default_factory=MediaConfig)
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    borders: BordersConfig = field(default_factory=BordersConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    small_px: int = 160  # long side of the small frames; half the scaling cost of 240 px at the same cuts
    sample_us: int = 250_000  # spacing of the small frames held for borders and quality
    keyframes: int = 3  # a clip, at 1/6, 3/6 and 5/6 of it
    keyframe_px: int = 512  # long side: text of 3 % of the height can still be read
    keyframe_us: int = 1_000_000  # spacing of the candidates
    keyframe_quality: int = 90
    sensitive_cut: float = 10.0  # levels; separates the shaky from the steady videos of our test media
    sensitive_gap_us: int = 200_000
    video_sound: bool = False  # also measure the sound of a video: a second pass over the file, without its pictures
    least_decoded: float = 0.9  # share of the indexed frames below which a file counts as broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Per-frame measures of a video, one value a frame, keyed by presentation time: new bounds and thresholds are queries on them."""

    pts_us: np.ndarray  # int64, rising
    cut_score: np.ndarray  # change of luma and chroma from the frame before, levels
    motion: np.ndarray  # on the scale of vmafmotion, for the frame's own step
    change: np.ndarray  # largest blurred luma change anywhere, levels
    luma: np.ndarray  # mean luma level
    vector_px: np.ndarray  # mean motion vector, px; nan where none was read, null once stored
    shots: tuple[Shot, ...]  # in order; frames of a gradual transition are in none


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What one decode of an asset gave."""

    asset: Asset
    clips: list[Clip]
    series: Series | None
    keyframes: list[KeyFrame]


def analyse_asset(asset: Asset, path: str, cfg: AnalyseConfig) -> Analysis:
    """The asset's clips with scores, its series and key frames. Never raises on bad media: the asset then has error_stage `analyse`."""
    try:
        return analyse(asset, path, cfg)
    except MediaError as e:
        return Analysis(asset=failed(asset, e), clips=[], series=None, keyframes=[])


def failed(asset: Asset, error: MediaError) -> Asset:
    """The asset with the error of its analysis."""
    return replace(asset, error_stage="analyse", error_code=error.code, error_detail=error.detail)


def analyse(asset: Asset, path: str, cfg: AnalyseConfig) -> Analysis:
    """As `analyse_asset`, but raises MediaError. An asset not yet probed is probed first; one that failed before comes back as it is."""
    if asset.kind is None and asset.error_code is None:
        asset = probe_asset(asset, path, cfg.media)
    if asset.error_code is not None:
        return Analysis(asset=asset, clips=[], series=None, keyframes=[])
    if asset.kind == "video":
        return _VideoAnalysis(asset, path, cfg).run()
    return _analyse_picture(asset, path, cfg) if asset.kind == "image" else _analyse_sound(asset, path, cfg)


def find_shots(path: str, facts: MediaFacts, cfg: AnalyseConfig) -> tuple[list[Shot], np.ndarray]:
    """The shots of a video and the presentation times of its frames in us, by the same decode as `analyse`. Raises MediaError."""
    asset = with_facts(Asset(asset_id="", asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=path), facts)
    video = _VideoAnalysis(asset, path, cfg)
    analysis = video.run()
    return video.shots, np.array([]) if analysis.series is None else analysis.series.pts_us


SERIES_SCHEMA = pa.schema(
    [pa.field("asset_id", pa.string(), False), pa.field("pts_us", pa.list_(pa.int64()), False)]
    + [pa.field(name, pa.list_(pa.float32()), False) for name in ("cut_score", "motion", "change", "luma", "vector_px")]
    + [pa.field(name, pa.list_(pa.int64()), False) for name in ("shot_start_us", "shot_end_us")]
    + [pa.field("shot_opens", pa.list_(pa.string()), False)]
)
"""One row an asset: the per-frame series as lists of equal length, and its shots with how each one opens: start, hard or gradual."""


def series_table(asset_id: str, series: Series) -> pa.Table:
    """The series as a table of one row; nan becomes null."""
    shots = {name: [getattr(shot, name.removeprefix("shot_")) for shot in series.shots] for name in SERIES_SCHEMA.names[-3:]}
    row: dict[str, Any] = {"asset_id": [asset_id]}
    for f in list(SERIES_SCHEMA)[1:]:
        values = shots[f.name] if f.name in shots else getattr(series, f.name)
        flat = pa.array(values, f.type.value_type, from_pandas=True)
        row[f.name] = pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat)
    return pa.table(row, schema=SERIES_SCHEMA)


class _Held:
    """Pictures with their times, in order, of which old ones are let go."""

    def __init__(self, every_us: int) -> None:
        self.every_us = every_us
        self.pts_us: list[int] = []
        self.pictures: list[Any] = []
        self._due = -(1 << 62)

    def due(self, pts_us: int) -> bool:
        return pts_us >= self._due

    def add(self, pts_us: int, picture: Any) -> None:
        self._due = max(self._due + self.every_us, pts_us + self.every_us // 2)
        self.pts_us.append(pts_us)
        self.pictures.append(picture)

    def keep(self, from_us: int, until_us: int, again_us: int) -> None:
        """Only pictures of [from_us, until_us) and from again_us on are still held."""
        first, stop, again = (bisect_left(self.pts_us, t) for t in (from_us, until_us, max(until_us, again_us)))
        if first or stop < again:
            self.pts_us = self.pts_us[first:stop] + self.pts_us[again:]
            self.pictures = self.pictures[first:stop] + self.pictures[again:]

    def between(self, start_us: int, end_us: int) -> tuple[list[int], list[Any]]:
        first, end = bisect_left(self.pts_us, start_us), bisect_left(self.pts_us, end_us)
        return self.pts_us[first:end], self.pictures[first:end]


class _VideoAnalysis:
    """One video's decode: state that lives as long as the file is open."""

    def __init__(self, asset: Asset, path: str, cfg: AnalyseConfig) -> None:
        from av.video.reformatter import VideoReformatter

        self._asset, self._path, self._cfg = asset, path, cfg
        width, height = asset.width or 16, asset.height or 16
        self._turn: Orientation | None = None
        self._small = _fit(width, height, cfg.small_px)
        self._large = _fit(width, height, cfg.keyframe_px)
        # One reformatter each: a new one per frame costs megabytes (FFmpeg 8).
        self._to_small, self._to_large = VideoReformatter(), VideoReformatter()
        self._finder = ShotFinder(cfg.shots)
        self.shots: list[Shot] = []
        self._motion = MotionObserver(cfg.motion, max(width, height), max(self._small))
        self._camera = CameraObserver(cfg.camera)
        self._samples, self._candidates = _Held(cfg.sample_us), _Held(cfg.keyframe_us)
        self._scores: list[float] = []
        self._luma: list[float] = []
        self._shot_start: int | None = None
        self._seen: list[Shot] = []
        self._clips: list[Clip] = []
        self._keyframes: list[KeyFrame] = []
        # What a shot can need: its opening and all its clips.
        self._reach_us = cfg.clips.opening_us + cfg.clips.max_clips_per_shot * cfg.clips.max_us + 2 * cfg.keyframe_us

    def run(self) -> Analysis:
        cfg, log = self._cfg, DecodeLog()
        vectors = cfg.motion.vectors and self._asset.vcodec in VECTOR_CODECS
        for frame, pts_us in media.decode(self._path, cfg.media, vectors=vectors, log=log):
            self._push(frame, pts_us, vectors)
        pts = np.array(self._motion.pts_us, np.int64)
        if not len(pts):
            raise MediaError("decode_error", f"{self._path}: expected frames, found none; {log.n_errors} errors, first {log.first_error}")
        end_us = int(pts[-1]) + _last_step(pts, self._asset)
        for shot in self._finder.finish(end_us):
            self._close(shot)
        if cfg.video_sound and self._asset.has_audio:
            self._clips = _with_sound(self._clips, self._path, cfg)
        return Analysis(asset=self._finished(pts, end_us, log), clips=self._clips, series=self._series(pts), keyframes=self._keyframes)

    def _push(self, frame: Any, pts_us: int, vectors: bool) -> None:
        if self._turn is None:
            self._turn = orientation(frame)
            if self._turn.transpose:  # sizes are as shown; the decoder gives frames as stored
                self._small, self._large = self._small[::-1], self._large[::-1]
            self._shot_start = pts_us
        y, u, v = self._planes(frame)
        score, finished = self._finder.push(y, u, v, pts_us)
        vector = self._vector(frame) if vectors else None
        self._scores.append(score)
        self._motion.push(y, pts_us, vector)
        self._luma.append(cv2.mean(y)[0])
        self._camera.push(y, pts_us)
        if self._samples.due(pts_us):
            self._samples.add(pts_us, y.copy())  # the scaler's frame carries along the source's motion vectors
            self._forget(pts_us)
        if self._candidates.due(pts_us):
            self._candidates.add(pts_us, self._candidate(frame))
        for shot in finished:
            self._close(shot)

    def _vector(self, frame: Any) -> float | None:
        """The frame's mean motion vector when it is one of those that are read."""
        every, number = self._cfg.motion.vector_every, len(self._scores)
        if number % every == 0:
            # PyAV's side data and its frame hold each other; megabytes of vectors would wait for a full collection.
            gc.collect(0)
        return mean_vector_px(frame) if number % every == every - 1 else None

    def _planes(self, frame: Any) -> list[np.ndarray]:
        """The small frame's luma and chroma planes [h, w], [h/2, w/2] twice, turned as shown; views on the scaler's memory."""
        width, height = self._small
        small = self._to_small.reformat(frame, width, height, "yuv420p", interpolation="FAST_BILINEAR", threads=1)
        planes = []
        for plane, shift in zip(small.planes, (0, 1, 1), strict=True):
            picture = np.frombuffer(memoryview(cast(Any, plane)), np.uint8).reshape(-1, plane.line_size)[
                : height >> shift, : width >> shift
            ]
            planes.append(picture if self._turn == Orientation() or self._turn is None else np.ascontiguousarray(self._turn.apply(picture)))
        return planes

    def _candidate(self, frame: Any) -> np.ndarray:
        """The frame at key-frame size as RGB [h, w, 3], not yet coded: most candidates are never used."""
        width, height = self._large
        return cast(np.ndarray, self._to_large.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1).to_ndarray())

    def _forget(self, now_us: int) -> None:
        """Beyond a shot's reach only the newest seconds are held, in case a new shot has begun there."""
        start = now_us if self._shot_start is None else self._shot_start
        for held in (self._samples, self._candidates, self._camera):
            held.keep(start, start + self._reach_us, now_us - _LAG_US)

    def _close(self, shot: Shot) -> None:
        self._seen.append(shot)
        self.shots.append(shot)
        for span in clips_of_shot(shot, self._cfg.clips):
            self._clip(span)
        self._shot_start = shot.end_us

    def _clip(self, span: Span) -> None:
        """One clip, from the first frame of the span on, with its scores and key frames."""
        pts, asset = self._motion.pts_us, self._asset
        first, end = bisect_left(pts, span.start_us), bisect_left(pts, span.end_us)
        if end <= first:
            return
        start_us = pts[first]
        times_held, frames = self._samples.between(start_us, span.end_us)
        name = clip_id(asset.asset_id, "video", start_us, span.end_us)
        pictures = self._pick(name, start_us, span.end_us)
        times, scores = np.array(pts[first + 1 : end]), np.array(self._scores[first + 1 : end])
        seen = 1 + false_cuts(scores, times, self._cfg.sensitive_cut, self._cfg.sensitive_gap_us)
        scored: dict[str, Any] = {
            **self._motion.measure(start_us, span.end_us),
            **self._camera.measure(start_us, span.end_us, times_held, frames),
            **measure_borders(frames, asset.width or 0, asset.height or 0, self._cfg.borders),
            **measure_luma(frames),
            "shots_per_s": seen * 1e6 / (span.end_us - start_us),
            "colourfulness": float(np.mean([colourfulness(p) for p in pictures])) if pictures else None,
        }
        self._clips.append(
            Clip(
                clip_id=name,
                asset_id=asset.asset_id,
                asset_no=asset.asset_no,
                kind="video",
                start_us=start_us,
                end_us=span.end_us,
                shot_no=span.shot_no,
                n_frames=end - first,
                width=asset.width,
                height=asset.height,
                fps_num=asset.fps_num,
                fps_den=asset.fps_den,
                has_audio=asset.has_audio,
                **scored,
            )
        )

    def _pick(self, name: str, start_us: int, end_us: int) -> list[np.ndarray]:
        """The clip's key frames are kept, as JPEG: the candidates nearest to 1/6, 3/6, 5/6 …; given back as RGB [h, w, 3]."""
        held, n = self._candidates, self._cfg.keyframes
        inside = range(bisect_left(held.pts_us, start_us), bisect_left(held.pts_us, end_us))
        wanted = [start_us + (end_us - start_us) * (2 * i + 1) // (2 * n) for i in range(n)]
        chosen = sorted({min(inside, key=lambda i: abs(held.pts_us[i] - t)) for t in wanted}) if inside else []
        pictures = [np.ascontiguousarray((self._turn or Orientation()).apply(held.pictures[i])) for i in chosen]
        for index, (i, picture) in enumerate(zip(chosen, pictures, strict=True)):
            self._keyframes.append(_keyframe(name, index, held.pts_us[i], picture, self._cfg.keyframe_quality))
        return pictures

    def _series(self, pts: np.ndarray) -> Series:
        as_float = [np.array(values, np.float32) for values in (self._scores, self._motion.motion, self._motion.change, self._luma)]
        cut_score, motion, change, luma = as_float
        vector = np.array(self._motion.vector_px, np.float32)
        return Series(pts_us=pts, cut_score=cut_score, motion=motion, change=change, luma=luma, vector_px=vector, shots=tuple(self._seen))

    def _finished(self, pts: np.ndarray, end_us: int, log: DecodeLog) -> Asset:
        """The asset with what only the decode could tell, and its error when too little came out or no clip could be made."""
        indexed = self._asset.n_frames
        asset = replace(
            self._asset, n_frames=len(pts), start_us=int(pts[0]), duration_us=end_us - int(pts[0]), is_vfr=is_variable(pts)
        )
        if indexed and len(pts) < self._cfg.least_decoded * indexed:
            return failed(asset, MediaError("decode_error", f"expected {indexed} frames, found {len(pts)}; {_troubles(log)}"))
        if not self._clips:
            wanted = self._cfg.clips
            return failed(
                asset,
                MediaError(
                    "no_clip", f"expected a shot of at least {wanted.min_us} us, found {max(s.end_us - s.start_us for s in self.shots)} us"
                ),
            )
        if log.n_errors or log.n_undated:
            return replace(asset, error_detail=f"{len(pts)} frames decoded; {_troubles(log)}")
        return asset


def _troubles(log: DecodeLog) -> str:
    return f"{log.n_errors} broken packets, {log.n_undated} frames out of time, first error {log.first_error or 'none'}"


def _fit(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Even sizes of at least 16 px with the picture's aspect, not larger than the picture (of at least 16 px) or the long side."""
    scale = min(1.0, long_side / max(width, height))
    return max(16, round(width * scale / 2) * 2), max(16, round(height * scale / 2) * 2)


def _last_step(pts: np.ndarray, asset: Asset) -> int:
    """How long the last frame stands: as long as the median one; a single frame as long as the container says."""
    if len(pts) > 1:
        return int(np.median(np.diff(pts)))
    return asset.duration_us or 1


def _keyframe(name: str, index: int, pts_us: int, rgb: np.ndarray, quality: int) -> KeyFrame:
    from curation.keyframes import encode_jpeg

    height, width = rgb.shape[:2]
    return KeyFrame(clip_id=name, index=index, pts_us=pts_us, width=width, height=height, jpeg=encode_jpeg(rgb, quality))


def _with_sound(clips: list[Clip], path: str, cfg: AnalyseConfig) -> list[Clip]:
    """The clips with loudness and silence of the sound under them."""
    loudness = Loudness()
    for sound, rate, start_us in media.decode_audio(path, cfg.media):
        loudness.push(sound, rate, start_us)
    loudness.finish()
    return [replace(c, **loudness.measure(c.start_us, c.end_us, cfg.audio)) for c in clips]


def _analyse_picture(asset: Asset, path: str, cfg: AnalyseConfig) -> Analysis:
    """A picture is one clip of no length."""
    rgb = load_picture(path, cfg.media, cfg.keyframe_px)
    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, _fit(width, height, cfg.small_px), interpolation=cv2.INTER_AREA)
    luma = cv2.cvtColor(small, cv2.COLOR_RGB2YUV)[..., 0]
    luma = (luma * ((235 - 16) / 255) + 16.5).astype(np.uint8)  # the range of the video frames
    name = clip_id(asset.asset_id, "image", 0, 0)
    clip = Clip(
        clip_id=name,
        asset_id=asset.asset_id,
        asset_no=asset.asset_no,
        kind="image",
        start_us=0,
        end_us=0,
        shot_no=0,
        n_frames=1,
        width=asset.width,
        height=asset.height,
        has_audio=False,
        colourfulness=colourfulness(rgb),
        **measure_borders([luma], asset.width or 0, asset.height or 0, cfg.borders),
        **measure_luma([luma]),
    )
    return Analysis(asset=asset, clips=[clip], series=None, keyframes=[_keyframe(name, 0, 0, rgb, cfg.keyframe_quality)])


def _analyse_sound(asset: Asset, path: str, cfg: AnalyseConfig) -> Analysis:
    """Sound is cut into spans of at most 16 s."""
    loudness, log = Loudness(), DecodeLog()
    for sound, rate, start_us in media.decode_audio(path, cfg.media, log=log):
        loudness.push(sound, rate, start_us)
    duration_us = loudness.finish()
    if not duration_us:
        raise MediaError("decode_error", f"{path}: expected sound, found none; {_troubles(log)}")
    start_us = loudness.start_us or 0
    asset = replace(asset, start_us=start_us, duration_us=duration_us, error_detail=_troubles(log) if log.n_errors else None)
    clips = [
        Clip(
            clip_id=clip_id(asset.asset_id, "audio", first, end),
            asset_id=asset.asset_id,
            asset_no=asset.asset_no,
            kind="audio",
            start_us=first,
            end_us=end,
            shot_no=0,
            has_audio=True,
            **loudness.measure(first, end, cfg.audio),
        )
        for first, end in plan_sound(start_us, duration_us, cfg.audio)
    ]
    return Analysis(asset=asset, clips=clips, series=None, keyframes=[])
