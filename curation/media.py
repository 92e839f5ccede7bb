"""The only file that opens media: facts, frames, sound and pictures, within limits.

Media is hostile. Containers are an allow-list (a playlist or concat file never makes FFmpeg open another file or address), the only
protocol is `file`, sizes are limited before anything is allocated, and every failure is a `MediaError` with a code. Times are the
container's presentation timestamps, as integers in microseconds; nothing here divides a frame number by a frame rate.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from manifests.records import Asset

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

MEDIA_LOG_VARIABLE = "DAILIES_MEDIA_LOG"
"""Environment variable naming a file to which every opening of a medium is appended, so that decodes can be counted."""

DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,mxf,nut,ivf,dv,"
    "wav,w64,mp3,aac,flac,aiff,caf,amr,ac3,eac3,au,wv"
)
"""Demuxers that read one self-contained file. Playlists (hls, dash, concat, sdp, image2 …) are absent on purpose."""

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF")
"""Pillow decoders that are allowed; HEIC goes through PyAV."""

Purpose = Literal["probe", "decode", "encode"]


class MediaError(Exception):
    """A medium could not be used. `code` is machine-readable, `detail` says what was expected and found.

    Codes: missing, empty, not_media, truncated, no_streams, unsupported, limit_pixels, limit_frames, limit_duration, decode_error,
    timeout, memory, crashed.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaConfig:
    """Limits on a medium. All are ours: the paper states none; they only have to be above anything worth training on."""

    max_pixels: int = 8192 * 4352  # 8K with padding; one such frame in yuv420p is 53 MB
    max_image_pixels: int = 120_000_000
    max_frames: int = 4_000_000
    max_duration_us: int = 12 * 3600 * 1_000_000
    max_wall_s: float = 3600.0  # for one decode; a hang inside the decoder is the sandbox's to end
    max_errors: int = 500  # broken packets after which the rest of a file is not worth the time
    memory_bytes: int = 4 << 30  # address space of the process that decodes, when it runs in a sandbox
    probe_packets: int = 400  # packets within which the first frame must appear


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFacts:
    """The container-fact columns of `Asset`, by the same names; None where the container does not say."""

    kind: str
    container: str
    vcodec: str | None = None
    acodec: str | None = None
    duration_us: int | None = None
    start_us: int | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    fps_num: int | None = None
    fps_den: int | None = None
    time_base_num: int | None = None
    time_base_den: int | None = None
    n_frames: int | None = None
    is_vfr: bool | None = None
    has_audio: bool | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a decoded picture is turned for showing: transpose first, then mirror in x, then in y. All eight cases of a display matrix."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def clockwise_degrees(self) -> int:
        """The clockwise rotation, 0, 90, 180 or 270, of where the picture's x axis ends; as FFmpeg reports it."""
        if self.transpose:
            return 270 if self.flip_y else 90
        return 180 if self.flip_x else 0

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The picture [height, width, …] as shown; a view, no copy."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


@dataclass(slots=True)
class DecodeLog:
    """What happened while a file was decoded: filled by `decode` and `decode_audio` as they go."""

    n_frames: int = 0
    n_errors: int = 0
    n_undated: int = 0  # frames without a usable presentation time: not delivered
    first_error: str = ""


def note_open(path: str, purpose: Purpose) -> None:
    """One line `purpose, tab, path` is in the file that DAILIES_MEDIA_LOG names, if it is set: one atomic append."""
    target = os.environ.get(MEDIA_LOG_VARIABLE)
    if not target:
        return
    line = f"{purpose}\t{path}\n".encode("utf-8", "surrogateescape")
    fd = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def probe_asset(asset: Asset, path: str, cfg: MediaConfig) -> Asset:
    """The asset with its container facts, or with error_stage `probe`, code and detail. Never raises on bad media."""
    try:
        facts = probe(path, cfg)
    except MediaError as e:
        return replace(asset, error_stage="probe", error_code=e.code, error_detail=e.detail)
    return with_facts(asset, facts)


def with_facts(asset: Asset, facts: MediaFacts) -> Asset:
    """The asset with its container-fact columns taken from the facts."""
    return replace(asset, **asdict(facts))


def probe(path: str, cfg: MediaConfig) -> MediaFacts:
    """The facts of the file, judged by content and never by name, with its first frame decoded as a proof that it plays.

    Raises MediaError.
    """
    note_open(path, "probe")
    if picture_kind(_head(path)):
        return _probe_picture(path, cfg)
    with open_container(path) as container:
        video = video_stream(container)
        if video is not None:
            return _probe_video(path, container, video, cfg)
        if container.streams.audio:
            return _probe_audio(path, container, cfg)
    raise MediaError("no_streams", f"{path}: expected a video or audio stream, found none")


@contextmanager
def open_container(path: str) -> Iterator["InputContainer"]:
    """The file, opened by PyAV under the allow-lists and always closed. FFmpeg errors inside the block become MediaError."""
    import av

    _quiet()
    head = _head(path)
    try:
        options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
        container = av.open(f"file:{Path(path).absolute()}", "r", options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as e:
        raise _open_error(path, head, e) from e
    try:
        yield container
    except av.error.FFmpegError as e:
        raise _decode_error(path, e) from e
    except MemoryError as e:
        raise MediaError("memory", f"{path}: not enough memory to decode") from e
    finally:
        container.close()


def video_stream(container: "InputContainer") -> Any | None:
    """The stream a player would show, or None: cover art of sound files is not a video."""
    shown = [s for s in container.streams.video if not int(s.disposition) & _attached_picture()]
    if not shown:
        return None
    best = container.streams.best("video")
    return best if best in shown else shown[0]


def decode(path: str, cfg: MediaConfig, *, vectors: bool = False, log: DecodeLog | None = None) -> Iterator[tuple["VideoFrame", int]]:
    """Every video frame of the file with its presentation time in us, rising; the file is closed afterwards, come what may.

    Broken packets are counted in `log` and passed over. `vectors` asks the decoder for codec motion vectors (H.264 and MPEG-1/2/4 only).
    Raises MediaError (limits, timeout, or a file of which nothing decodes).
    """
    log = log if log is not None else DecodeLog()
    note_open(path, "decode")
    deadline = time.monotonic() + cfg.max_wall_s
    with open_container(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError("no_streams", f"{path}: expected a video stream, found none")
        _prepare(path, stream, vectors)
        us = Fraction(stream.time_base) * 1_000_000
        num, den, last, clock = us.numerator, us.denominator, -(1 << 62), _Clock()
        for frame in _frames(path, container, stream, cfg, log):
            pts = clock.time(frame.pts, frame.dts)
            pts_us = last if pts is None else (2 * pts * num + den) // (2 * den)
            if pts_us <= last:
                log.n_undated += 1
                continue
            if frame.width * frame.height > cfg.max_pixels:
                raise MediaError("limit_pixels", f"{path}: expected at most {cfg.max_pixels} px, found {frame.width} x {frame.height}")
            last = pts_us
            log.n_frames += 1
            if not log.n_frames & 63:
                _check_limits(path, log.n_frames, deadline, cfg)
            yield frame, pts_us


def decode_audio(path: str, cfg: MediaConfig, *, log: DecodeLog | None = None) -> Iterator[tuple[np.ndarray, int, int]]:
    """The sound as pieces: mono float32 [n] in -1 … 1, sample rate in Hz, PTS of the first sample in us. Raises MediaError."""
    import av

    log = log if log is not None else DecodeLog()
    note_open(path, "decode")
    deadline = time.monotonic() + cfg.max_wall_s
    with open_container(path) as container:
        if not container.streams.audio:
            raise MediaError("no_streams", f"{path}: expected an audio stream, found none")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError("unsupported", f"{path}: no decoder for its audio stream")
        resampler, rate = None, 0
        for frame in _frames(path, container, stream, cfg, log):
            log.n_frames += 1
            if not log.n_frames & 255:
                _check_limits(path, 0, deadline, cfg)
            if frame.pts is None:
                log.n_undated += 1
                continue
            start_us = round(frame.pts * Fraction(frame.time_base) * 1_000_000)
            if resampler is None or rate != frame.sample_rate:
                rate = frame.sample_rate
                resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            for piece in resampler.resample(frame):
                yield piece.to_ndarray()[0], rate, start_us


def load_picture(path: str, cfg: MediaConfig, long_side_px: int | None = None, purpose: Purpose = "decode") -> np.ndarray:
    """The picture as shown (EXIF orientation applied), RGB uint8 [h, w, 3], shrunk to the long side if given. Raises MediaError."""
    note_open(path, purpose)
    image = _heic(path, cfg) if picture_kind(_head(path)) == "HEIC" else _pillow(path, cfg, long_side_px)
    if long_side_px and max(image.size) > long_side_px:
        image.thumbnail((long_side_px, long_side_px))
    return np.asarray(image)


def orientation(frame: "VideoFrame") -> Orientation:
    """How the frame is turned for showing, from its display matrix."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(memoryview(cast(Any, side)), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def shown_size(frame: "VideoFrame", stream: Any) -> tuple[int, int]:
    """Width and height in px as shown: the pixel aspect stretches the short way, never shrinks, then the display matrix turns."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = frame.width, frame.height
    if Fraction(1, 8) <= aspect <= 8 and aspect != 1:
        width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return (height, width) if orientation(frame).transpose else (width, height)


def picture_kind(head: bytes) -> str | None:
    """The picture format of a file that starts with these bytes (at least 32), or None when it is not a still picture."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if head[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}.get(head[8:12])
    return None


def is_variable(pts_us: np.ndarray) -> bool | None:
    """Whether the steps between presentation times (us, rising) vary by more than time-base rounding; None below three frames.

    The last step is left out: muxers stretch it to fill the sound.
    """
    steps = np.diff(pts_us)[:-1]
    if len(steps) < 2:
        return None
    # Matroska rounds to 1 ms, so two honest steps may differ by 1 ms.
    return bool(steps.max() - steps.min() > max(1500, 0.02 * float(np.median(steps))))


def _attached_picture() -> int:
    from av.stream import Disposition

    return int(Disposition.attached_pic)


def _quiet() -> None:
    """FFmpeg does not log: a Python log callback can deadlock, and hostile files write pages to stderr. Errors come back as errors."""
    import av.logging

    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.PANIC)


def _head(path: str) -> bytes:
    try:
        with Path(path).open("rb") as f:
            head = f.read(64)
    except OSError as e:
        raise MediaError("missing", f"{path}: expected a readable file, found {type(e).__name__}") from e
    if not head:
        raise MediaError("empty", f"{path}: expected a medium, found 0 bytes")
    return head


def _open_error(path: str, head: bytes, error: Exception) -> MediaError:
    """A container signature in front of unreadable contents means that the rest is missing; without one it is no medium."""
    known = head[4:8] in (b"ftyp", b"moov", b"mdat", b"free") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"fLaC", b"FLV\x01")
    if known:
        return MediaError("truncated", f"{path}: has a container's signature but its header does not parse ({_said(error)})")
    return MediaError("not_media", f"{path}: expected a container of the allow-list, found {head[:12]!r} ({_said(error)})")


def _decode_error(path: str, error: Exception) -> MediaError:
    import av

    if isinstance(error, av.error.MemoryError):
        return MediaError("memory", f"{path}: not enough memory to decode")
    if isinstance(error, av.error.PatchWelcomeError | av.error.DecoderNotFoundError):
        return MediaError("unsupported", f"{path}: {_said(error)}")
    return MediaError("decode_error", f"{path}: {_said(error)}")


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _prepare(path: str, stream: Any, vectors: bool) -> None:
    """The decoder is set to one thread and slices: frame threads plus an early stop can hang (vllm issue 53973)."""
    if stream.codec_context is None:
        raise MediaError("unsupported", f"{path}: no decoder for its video stream")
    stream.thread_count = 1
    stream.thread_type = "SLICE"
    if vectors:
        from av.codec.context import Flags2

        stream.codec_context.flags2 |= Flags2.export_mvs


def _frames(path: str, container: "InputContainer", stream: Any, cfg: MediaConfig, log: DecodeLog) -> Iterator[Any]:
    """Decoded frames in presentation order; broken packets are counted and skipped, a broken end ends the file."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as e:
            _note_error(log, e)
            return
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.MemoryError as e:
            raise _decode_error(path, e) from e
        except av.error.FFmpegError as e:
            _note_error(log, e)
            if log.n_errors > cfg.max_errors:
                return
            continue
        yield from frames


class _Clock:
    """A frame's time where a container's stamps are at odds (B-frames in AVI, VC-1 in ASF): FFmpeg's own best-effort rule.

    Frames come in presentation order, so of presentation and decoding stamps the kind that has gone backwards less often is believed.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = -(1 << 63)
        self._bad_pts = self._bad_dts = 0

    def time(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._bad_dts += dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._bad_pts += pts <= self._last_pts
            self._last_pts = pts
        return pts if pts is not None and (dts is None or self._bad_pts <= self._bad_dts) else dts


def _note_error(log: DecodeLog, error: Exception) -> None:
    log.n_errors += 1
    log.first_error = log.first_error or f"{type(error).__name__}: {_said(error)}"


def _check_limits(path: str, n_frames: int, deadline: float, cfg: MediaConfig) -> None:
    if n_frames > cfg.max_frames:
        raise MediaError("limit_frames", f"{path}: expected at most {cfg.max_frames} frames")
    if time.monotonic() > deadline:
        raise MediaError("timeout", f"{path}: expected a decode within {cfg.max_wall_s:g} s")


def _probe_video(path: str, container: "InputContainer", stream: Any, cfg: MediaConfig) -> MediaFacts:
    if stream.codec_context is None:
        raise MediaError("unsupported", f"{path}: no decoder for its video stream")
    _need_pixels(path, stream.codec_context.width, stream.codec_context.height, cfg.max_pixels)
    _prepare(path, stream, vectors=False)
    frame = _first_frame(path, container, stream, cfg)
    width, height = shown_size(frame, stream)
    _need_pixels(path, width, height, cfg.max_pixels)
    base = Fraction(stream.time_base)
    start = frame.pts if frame.pts is not None else stream.start_time
    n_frames, is_vfr = _index_facts(stream, base)
    if n_frames and n_frames > cfg.max_frames:
        raise MediaError("limit_frames", f"{path}: expected at most {cfg.max_frames} frames, found {n_frames}")
    rate = stream.average_rate or stream.guessed_rate
    # int32 columns: a bogus duration gives rates of 1/143165000
    rate = Fraction(rate).limit_denominator(1_000_000) if rate and rate < 100_000 else None
    audio = _audio_facts(container)
    return MediaFacts(
        kind="video",
        container=container.format.name,
        vcodec=stream.codec_context.name,
        duration_us=_duration_us(path, container, stream, base, start, cfg),
        start_us=None if start is None else round(start * base * 1_000_000),
        width=width,
        height=height,
        rotation=orientation(frame).clockwise_degrees,
        fps_num=rate.numerator if rate else None,
        fps_den=rate.denominator if rate else None,
        time_base_num=base.numerator,
        time_base_den=base.denominator,
        n_frames=n_frames,
        is_vfr=is_vfr,
        **audio,
    )


def _probe_audio(path: str, container: "InputContainer", cfg: MediaConfig) -> MediaFacts:
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise MediaError("unsupported", f"{path}: no decoder for its audio stream")
    base = Fraction(stream.time_base) if stream.time_base else Fraction(1, 1_000_000)
    frame = _first_frame(path, container, stream, cfg)
    start = frame.pts or 0
    duration = _duration_us(path, container, stream, base, start, cfg)
    facts = _audio_facts(container) | {"has_audio": True}
    return MediaFacts(
        kind="audio",
        container=container.format.name,
        duration_us=duration,
        start_us=round(start * base * 1_000_000),
        time_base_num=base.numerator,
        time_base_den=base.denominator,
        **facts,
    )


def _audio_facts(container: "InputContainer") -> dict[str, Any]:
    """The sound columns; a track that has no decoder or no sample rate does not open."""
    for stream in container.streams.audio:
        context = stream.codec_context
        if context is not None and context.sample_rate:
            return {"acodec": context.name, "has_audio": True, "sample_rate_hz": context.sample_rate, "channels": context.channels}
    return {"has_audio": False}


def _first_frame(path: str, container: "InputContainer", stream: Any, cfg: MediaConfig) -> Any:
    log = DecodeLog()
    limited = replace(cfg, max_errors=cfg.probe_packets)
    for frame in _frames(path, container, stream, limited, log):
        return frame
    if log.n_errors:
        raise MediaError("decode_error", f"{path}: no frame decodes; {log.n_errors} broken packets, first {log.first_error}")
    raise MediaError("truncated", f"{path}: the header parses but no frame follows")


def _index_facts(stream: Any, base: Fraction) -> tuple[int | None, bool | None]:
    """Number of frames and whether their steps vary, from a complete index (mp4, mov); decoding time stands for presentation time."""
    # An AVI index also counts fields and empty packets that repeat a frame.
    n_frames = stream.frames or None if "mp4" in stream.container.format.name else None
    if not n_frames or len(stream.index_entries) != n_frames or n_frames > 1_000_000:
        return n_frames, None
    times = np.array([e.timestamp for e in stream.index_entries], np.float64) * float(base * 1_000_000)
    return n_frames, is_variable(np.sort(times))


def _duration_us(path: str, container: "InputContainer", stream: Any, base: Fraction, start: int | None, cfg: MediaConfig) -> int | None:
    """The stream's own duration; where it has none or claims too much, its last packet's end is looked up by one seek."""
    duration_us = None if stream.duration is None else round(stream.duration * base * 1_000_000)
    if duration_us is None or not 0 < duration_us <= cfg.max_duration_us:
        end = _last_time(container, stream, cfg)
        duration_us = None if end is None else round((end - (start or 0)) * base * 1_000_000)
    if duration_us is not None and duration_us > cfg.max_duration_us:
        raise MediaError("limit_duration", f"{path}: expected at most {cfg.max_duration_us} us, found {duration_us}")
    return duration_us if duration_us and duration_us > 0 else None


def _last_time(container: "InputContainer", stream: Any, cfg: MediaConfig) -> int | None:
    """End of the last packet in the stream's time base, from packets alone."""
    import av

    end = None
    try:
        container.seek((1 << 62) // 1_000_000, backward=True, any_frame=False)
    except (av.error.FFmpegError, OverflowError, ValueError):
        container.seek(0)
    try:
        for packet in container.demux(stream):
            if packet.pts is not None:
                end = max(end or packet.pts, packet.pts + (packet.duration or 0))
    except av.error.FFmpegError:
        return end  # a broken tail: what was seen so far is the best estimate, and analysis replaces it by decoded time
    return end


def _need_pixels(path: str, width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise MediaError("limit_pixels", f"{path}: expected at most {limit} px, found {width} x {height}")


def _probe_picture(path: str, cfg: MediaConfig) -> MediaFacts:
    kind = picture_kind(_head(path)) or ""
    image = _heic(path, cfg) if kind == "HEIC" else _pillow(path, cfg)
    turned = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}.get(image.info.get("orientation", 1), 0)
    return MediaFacts(
        kind="image", container=kind.lower(), vcodec=kind.lower(), width=image.width, height=image.height, rotation=turned,
        n_frames=1, duration_us=0, start_us=0, has_audio=False,
    )  # fmt: skip


def _pillow(path: str, cfg: MediaConfig, long_side_px: int | None = None) -> Any:
    """The whole picture, decoded (a thumbnail of it where JPEG can decode one), upright RGB; `info["orientation"]` keeps the EXIF tag."""
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures are checked against our own limit on the next lines
            with Image.open(path, formats=PICTURE_FORMATS) as image:
                _need_pixels(path, image.width, image.height, cfg.max_image_pixels)
                turned = image.getexif().get(0x0112, 1)
                if long_side_px:
                    image.draft("RGB", (long_side_px, long_side_px))
                upright = ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError as e:
        raise MediaError("limit_pixels", f"{path}: {e}") from e
    except UnidentifiedImageError as e:
        raise MediaError("not_media", f"{path}: starts as a picture but is none") from e
    except (OSError, SyntaxError, ValueError, EOFError) as e:
        code = "truncated" if "truncated" in str(e).lower() else "decode_error"
        raise MediaError(code, f"{path}: the picture does not decode ({e})") from e
    upright.info["orientation"] = turned
    return upright


def _heic(path: str, cfg: MediaConfig) -> Any:
    """A HEIC picture of one tile; of a grid FFmpeg's Python binding shows single tiles only, so that is refused."""
    with open_container(path) as container:
        streams = container.streams.video
        if not streams:
            raise MediaError("no_streams", f"{path}: expected a picture, found no stream")
        largest = max(s.width * s.height for s in streams)
        same = [s for s in streams if s.width * s.height == largest]
        if len(same) > 1:
            raise MediaError("unsupported", f"{path}: expected a HEIC picture of one tile, found a grid of {len(same)}")
        _need_pixels(path, same[0].width, same[0].height, cfg.max_image_pixels)
        frame = _first_frame(path, container, same[0], cfg)
        turn = orientation(frame)
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(turn.apply(frame.to_ndarray(format="rgb24"))))
        image.info["orientation"] = {0: 1, 90: 6, 180: 3, 270: 8}[turn.clockwise_degrees]
        return image
