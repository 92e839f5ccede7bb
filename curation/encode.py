"""Cuts, scales and encodes one clip for a set. Batch work, one `EncodedClip` a clip: mp4 (H.264, AAC 48 kHz), jpg, or flac (48 kHz).

Cuts are made by presentation time: FFmpeg seeks well before the clip, keeps the container's own timestamps, and a trim filter takes what
lies in the span, so that variable rates, rotation, B-frames, edit lists and odd start times need no case of their own. Which source
frame every encoded frame came from is read back from FFmpeg and checked. The same input gives the same bytes: one thread, bit-exact
filters and muxers, no metadata.
"""

import io
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from curation.ffmpeg_program import EncodeError, Limits, ffmpeg_binary, h264_encoder, run_ffmpeg
from curation.hdr import TABLE_FILTERS, is_hdr, write_table
from curation.media import MediaConfig, MediaError, note_open, open_container, sound_stream, video_stream
from manifests.records import Asset, Clip

AUDIO_RATE_HZ = 48_000
"""Rate of all sound in a dataset: Movie Gen Audio works at 48 kHz."""

# A time rounded to 1 us may lie just after the true one; a millisecond is far below any frame interval.
_ROUNDING_US = 500

# Seen before the span starts, so that the frame on screen at its first instant is known even when it began earlier.
_LEAD_US = 1_000_000

FOLDER = "dailies-encode-"
"""How the names of folders begin in which FFmpeg writes."""

_TABLE = "standard-range.cube"  # what brings high dynamic range to standard range, in the folder

MOST_RUNS = 3
"""Of FFmpeg for a clip: the first, the same from the beginning, and once more with the last frame repeated."""

_NO_PTS = -(1 << 63)  # FFmpeg's AV_NOPTS_VALUE


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeConfig:
    """How clips are written. All values are ours: the paper stores latents and names no codec."""

    crf: int = 18  # x264: visually near lossless, so that the autoencoder learns the world rather than the codec
    preset: str = "medium"
    bit_rate_per_px: float = 0.2  # bits a pixel, for libopenh264, which has no crf
    gop_frames: int = 32  # key frame distance: a training window is reached after decoding at most this many
    audio_bit_rate: int = 192_000
    jpeg_quality: int = 95
    max_crop_share: float = 0.3  # of the picture that may be cut away; above it the picture is padded with black
    max_cloned: int = 3  # frames missing at the end that may be filled with the last one
    max_late_us: int = 250_000  # the first picture of the clip may begin this much after the span
    seek_margin_us: int = 5_000_000  # what an inexact seek may overshoot
    timeout_s: float = 600.0
    max_pixels: int = 8192 * 4352  # a decoder refuses larger frames before it allocates them
    max_alloc_bytes: int = 1 << 30  # largest single allocation inside FFmpeg

    @property
    def limits(self) -> Limits:
        """What one run of FFmpeg may use."""
        return Limits(timeout_s=self.timeout_s, max_alloc_bytes=self.max_alloc_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedClip:
    """One encoded file. `n_cloned` frames at the end repeat the last one; `crop_share` of the picture was cut away, negative when padded
    instead (the share of black). Sizes and rates are null for sound."""

    clip_id: str
    extension: str
    data: bytes
    width: int | None = None
    height: int | None = None
    n_frames: int | None = None
    fps_num: int | None = None
    fps_den: int | None = None
    n_cloned: int = 0
    crop_share: float | None = None
    has_audio: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a picture reaches its size: scaled to (scaled_width, scaled_height), then cropped or padded to the target at the centre."""

    scaled_width: int
    scaled_height: int
    pad: bool
    share: float


def encode_clip(
    src_path: str,
    clip: Clip,
    asset: Asset,
    width: int,
    height: int,
    n_frames: int,
    fps_num: int,
    fps_den: int,
    cfg: EncodeConfig,
    span_us: tuple[int, int] | None = None,
    media: MediaConfig | None = None,
) -> EncodedClip:
    """The clip, encoded at exactly this size, frame count and constant rate (all ignored for sound; frames and rate for images).

    `span_us` is the part [start, end) that is wanted, the clip's own span by default; a video starts at its start and lasts
    n_frames / rate. `media` has the limits under which the asset was scanned. Raises EncodeError.
    """
    span, media = span_us or (clip.start_us, clip.end_us), media or MediaConfig()
    if clip.kind == "audio":
        return _encode_sound(src_path, clip, span, cfg, media)
    if width <= 0 or height <= 0 or (clip.kind == "video" and (width % 2 or height % 2 or n_frames <= 0 or fps_num <= 0 or fps_den <= 0)):
        found = f"{width} x {height}, {n_frames} frames at {fps_num}/{fps_den}"
        raise EncodeError("bad_target", f"clip {clip.clip_id}: expected a positive size (even for video), frames and rate, found {found}")
    if clip.kind == "image":
        return _encode_image(src_path, clip, width, height, cfg, media)
    return _encode_video(src_path, clip, asset, (width, height), n_frames, Fraction(fps_num, fps_den), span[0], cfg, media)


def made_by(cfg: EncodeConfig, media: MediaConfig) -> tuple[EncodeConfig, tuple[int, int, int]]:
    """The settings that decide a payload's bytes: of the limits those that choose among a file's sounds, as all others only refuse files."""
    return cfg, (media.min_sample_rate_hz, media.max_sample_rate_hz, media.max_channels)


def fit_picture(shown: tuple[int, int], target: tuple[int, int], max_crop_share: float) -> Fitting:
    """How a picture of the shown size (px) fills the target: covered and cropped if at most `max_crop_share` is lost, else padded."""
    ratios = [Fraction(t, s) for t, s in zip(target, shown, strict=True)]
    cover, inside = max(ratios), min(ratios)
    lost = 1 - float(inside / cover)
    pad = lost > max_crop_share
    sides = [_even(s * (inside if pad else cover)) for s in shown]
    # Rounding to even may fall short of the target when covering, or pass it when padding.
    sides = [min(a, b) if pad else max(a, b) for a, b in zip(sides, target, strict=True)]
    return Fitting(scaled_width=sides[0], scaled_height=sides[1], pad=pad, share=-lost if pad else lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What one video clip is made of and into."""

    path: str
    clip: Clip
    size: tuple[int, int]
    fitting: Fitting
    n_frames: int
    fps: Fraction
    start_us: int
    video_index: int
    audio_index: int | None
    hdr: tuple[int, int] | None  # transfer and primaries of a source of high dynamic range
    cfg: EncodeConfig

    def __str__(self) -> str:
        return f"clip {self.clip.clip_id} of {self.path}"


def _encode_video(
    path: str,
    clip: Clip,
    asset: Asset,
    size: tuple[int, int],
    n_frames: int,
    fps: Fraction,
    start_us: int,
    cfg: EncodeConfig,
    media: MediaConfig,
) -> EncodedClip:
    video_index, audio_index, hdr = _streams(path, clip, media)
    if video_index is None:
        raise EncodeError("no_streams", f"clip {clip.clip_id} of {path}: expected a video stream, found none")
    job = _Job(
        path=path,
        clip=clip,
        size=size,
        fitting=fit_picture(_shown(clip, asset), size, cfg.max_crop_share),
        n_frames=n_frames,
        fps=fps,
        start_us=start_us,
        video_index=video_index,
        audio_index=audio_index if asset.has_audio else None,
        hdr=hdr,
        cfg=cfg,
    )
    with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
        if hdr:
            write_table(Path(folder, _TABLE), *hdr)
        n_cloned = _cut(job, folder)
        data = Path(folder, "clip.mp4").read_bytes()
    return EncodedClip(
        clip_id=clip.clip_id,
        extension="mp4",
        data=data,
        width=size[0],
        height=size[1],
        n_frames=n_frames,
        fps_num=fps.numerator,
        fps_den=fps.denominator,
        n_cloned=n_cloned,
        crop_share=job.fitting.share,
        has_audio=job.audio_index is not None,
    )


def _cut(job: _Job, folder: str) -> int:
    """clip.mp4 stands in the folder with exactly the frames asked for; returns how many of them repeat the last one."""
    seek = True
    times = _write_mp4(job, folder, seek, 0)
    # The rate filter rounds to the nearest: a first frame within half an interval is the right one whatever came before it.
    latest_us = job.start_us + 500_000 / job.fps + _ROUNDING_US
    if not times or times[0] is None or times[0] > latest_us:
        # The frame on screen at the start is not there: the container's seek went past it (no index, open GOP; in MPEG-TS by a few frames
        # only). Or frames carry no times of their own (AVI, MPEG-PS) and nobody can tell. Read from the beginning instead.
        seek = False
        times = _write_mp4(job, folder, seek, 0)
    _check_times(job, times)
    n_cloned = job.n_frames - len(times)
    if n_cloned:
        times = _write_mp4(job, folder, seek, n_cloned)
        if len(times) != job.n_frames:
            raise EncodeError("frames_missing", f"{job}: expected {job.n_frames} frames, found {len(times)}")
    return n_cloned


def _write_mp4(job: _Job, folder: str, seek: bool, n_clones: int) -> list[int | None]:
    """One run of FFmpeg; returns when, in the source, each encoded frame is from (us; None where its frames carry no time)."""
    reading = _reading(job.start_us if seek else None, job.cfg, max_pixels=job.cfg.max_pixels)
    streams, options = [job.video_index], _mp4_options(job) | {"vf": _video_filters(job, n_clones)}
    if job.audio_index is not None:
        streams.append(job.audio_index)
        options |= _exact("a") | {"c:a": "aac", "b:a": job.cfg.audio_bit_rate, "ac": 2}
        options |= {"af": _audio_filters(job.start_us, Fraction(job.n_frames) / job.fps)}
    options |= {"stats_enc_pre:v": f"{folder}/frames"}
    run_ffmpeg(job.path, streams, f"{folder}/clip.mp4", reading, options, job.cfg.limits, str(job))
    return _source_times(f"{folder}/frames")


def _encode_image(path: str, clip: Clip, width: int, height: int, cfg: EncodeConfig, media: MediaConfig) -> EncodedClip:
    """A JPEG of exactly this size, 4:4:4, from the upright picture."""
    from PIL import Image

    from curation.stills import load_picture

    try:
        image = Image.fromarray(load_picture(path, media, purpose="encode"))
    except MediaError as e:
        raise EncodeError(e.code, f"clip {clip.clip_id} of {path}: expected a picture, found {e.detail}") from e
    fitting = fit_picture(image.size, (width, height), cfg.max_crop_share)
    scaled = image.resize((fitting.scaled_width, fitting.scaled_height), Image.Resampling.BICUBIC)
    left, top = (fitting.scaled_width - width) // 2, (fitting.scaled_height - height) // 2
    out = io.BytesIO()
    # Outside the picture a crop is black: one call both crops and pads.
    scaled.crop((left, top, left + width, top + height)).save(out, "JPEG", quality=cfg.jpeg_quality, subsampling=0, optimize=True)
    return EncodedClip(
        clip_id=clip.clip_id, extension="jpg", data=out.getvalue(), width=width, height=height, n_frames=1, crop_share=fitting.share
    )


def _encode_sound(path: str, clip: Clip, span_us: tuple[int, int], cfg: EncodeConfig, media: MediaConfig) -> EncodedClip:
    """A FLAC of the span, 16 bit stereo at 48 kHz, silence where the source has none."""
    _, audio_index, _ = _streams(path, clip, media)
    if audio_index is None:
        raise EncodeError("no_streams", f"clip {clip.clip_id} of {path}: expected an audio stream, found none")
    length = Fraction(span_us[1] - span_us[0], 1_000_000)
    if length <= 0:
        raise EncodeError("bad_target", f"clip {clip.clip_id}: expected a span with a length, found {span_us}")
    with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
        options = _exact("a") | {"c:a": "flac", "sample_fmt": "s16", "ac": 2, "f": "flac", "af": _audio_filters(span_us[0], length)}
        subject = f"clip {clip.clip_id} of {path}"
        run_ffmpeg(path, [audio_index], f"{folder}/clip.flac", _reading(span_us[0], cfg), options, cfg.limits, subject)
        data = Path(folder, "clip.flac").read_bytes()
    return EncodedClip(clip_id=clip.clip_id, extension="flac", data=data, has_audio=True)


def _streams(path: str, clip: Clip, media: MediaConfig) -> tuple[int | None, int | None, tuple[int, int] | None]:
    """Indices of the streams of pictures and of sound that the analysis saw and heard, None where there is none; and transfer and primaries
    of pictures of high dynamic range."""
    note_open(path, "encode")
    try:
        with open_container(path, media) as container:
            video, sound = video_stream(container), sound_stream(container, media)
            indices = (None if video is None else int(video.index), None if sound is None else int(sound.index))
            context = None if video is None else video.codec_context
            hdr = (int(context.color_trc), int(context.color_primaries)) if context is not None and is_hdr(context) else None
    except MediaError as e:
        raise EncodeError(e.code, f"clip {clip.clip_id} of {path}: expected a medium that opens, found {e.detail}") from e
    return *indices, hdr


def _reading(start_us: int | None, cfg: EncodeConfig, **options: Any) -> dict[str, Any]:
    """FFmpeg's options for the source: it keeps its own timestamps, and is read from well before `start_us`, or from its beginning."""
    # A stream that changes its size midway would otherwise restart the filters, and with them the count of frames.
    options |= {"reinit_filter": 0, "copyts": None, "threads": 1}
    seek_us = 0 if start_us is None else start_us - cfg.seek_margin_us
    if seek_us > 0:
        # Absolute time, and nothing dropped by the seek itself: the trim filter alone decides.
        options |= {"ss": _seconds(seek_us), "seek_timestamp": 1, "noaccurate_seek": None}
    return options


def _video_filters(job: _Job, n_clones: int) -> str:
    """The filter chain: the clip's frames, at the constant rate from `start_us` on, at the target size."""
    fitting, (width, height) = job.fitting, job.size
    first_us = max(job.clip.start_us, job.start_us - _LEAD_US) - _ROUNDING_US
    chain = [
        f"trim=start={_seconds(first_us)}:end={_seconds(job.clip.end_us - _ROUNDING_US)}",
        f"setpts=PTS-({_seconds(job.start_us)})/TB",
        f"fps=fps={job.fps}:start_time=0:round=near",
        # The scaled size comes from the size as shown, so this also makes pixels square. BT.709 for every sample, whatever the source used.
        f"scale={fitting.scaled_width}:{fitting.scaled_height}:flags=bicubic+accurate_rnd+full_chroma_int+bitexact"
        + (f",{TABLE_FILTERS.format(table=_TABLE)}" if job.hdr else ":out_color_matrix=bt709:out_range=tv"),
        f"pad={width}:{height}:(ow-iw)/2:(oh-ih)/2" if fitting.pad else f"crop={width}:{height}",
        "setsar=1",
        "format=yuv420p",
    ]
    if n_clones:
        chain.append(f"tpad=stop={n_clones}:stop_mode=clone")
    return ",".join(chain)


def _audio_filters(start_us: int, length: Fraction) -> str:
    """The filter chain: the sound of [start, start + length) at 48 kHz, gaps and a missing end filled with silence."""
    end_us, seconds = start_us + round(length * 1_000_000), _seconds(round(length * 1_000_000))
    return (
        f"atrim=start={_seconds(start_us)}:end={_seconds(end_us)},asetpts=PTS-({_seconds(start_us)})/TB,"
        f"aresample={AUDIO_RATE_HZ}:async=1:first_pts=0,apad=whole_dur={seconds},atrim=end={seconds}"
    )


def _mp4_options(job: _Job) -> dict[str, Any]:
    cfg, encoder = job.cfg, h264_encoder(ffmpeg_binary())
    options = _exact("v") | {
        "c:v": encoder,
        "frames:v": job.n_frames,
        "fps_mode": "passthrough",
        "g": cfg.gop_frames,
        "movflags": "+faststart",
        "stats_enc_pre_fmt:v": "{ptsi} {tbi}",
        "f": "mp4",
    }
    if encoder == "libx264":
        # No scene-cut key frames: with a fixed distance, random access costs the same everywhere.
        return options | {"preset": cfg.preset, "crf": cfg.crf, "sc_threshold": 0}
    return options | {"b:v": int(cfg.bit_rate_per_px * job.size[0] * job.size[1] * job.fps)}


def _exact(stream: str) -> dict[str, Any]:
    """Options that make the output depend on the input alone."""
    return {"fflags": "+bitexact", f"flags:{stream}": "+bitexact", "threads": 1, "map_metadata": -1, "map_chapters": -1}


def _source_times(path: str) -> list[int | None]:
    lines = Path(path).read_text().splitlines() if Path(path).is_file() else []
    pairs = (line.split() for line in lines)
    return [None if int(pts) == _NO_PTS else round(int(pts) * Fraction(base) * 1_000_000) for pts, base in pairs]


def _check_times(job: _Job, times: list[int | None]) -> None:
    """The frames are those of the clip, from the start of the span on, and nearly all there; else EncodeError."""
    known, clip, cfg = [t for t in times if t is not None], job.clip, job.cfg
    if not times:
        raise EncodeError("frames_missing", f"{job}: expected frames from {job.start_us} us on, found none")
    if times[0] is not None and times[0] > job.start_us + cfg.max_late_us:
        raise EncodeError("frames_missing", f"{job}: expected a frame at {job.start_us} us, found the first at {times[0]} us")
    if known and (min(known) < clip.start_us - 2 * _ROUNDING_US or max(known) >= clip.end_us):
        raise EncodeError(
            "wrong_frames", f"{job}: expected frames of [{clip.start_us}, {clip.end_us}), found {min(known)} to {max(known)} us"
        )
    if len(times) < job.n_frames - cfg.max_cloned:
        raise EncodeError("frames_missing", f"{job}: expected {job.n_frames} frames, at most {cfg.max_cloned} missing, found {len(times)}")


def _shown(clip: Clip, asset: Asset) -> tuple[int, int]:
    width, height = asset.width or clip.width, asset.height or clip.height
    if not width or not height:
        raise EncodeError("size_unknown", f"clip {clip.clip_id}: expected the asset's size as shown, found {width} x {height}")
    return width, height


def _even(side: Fraction) -> int:
    return max(2, 2 * round(side / 2))


def _seconds(us: int) -> str:
    """Microseconds as decimal seconds, exactly."""
    sign, whole = "-" if us < 0 else "", abs(us)
    return f"{sign}{whole // 1_000_000}.{whole % 1_000_000:06d}"
