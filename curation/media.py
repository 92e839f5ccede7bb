"""The only file that opens media: frames and sound, within limits; `probe` reads facts and `stills` pictures through it.

Media is hostile. FFmpeg is handed an open descriptor and no protocol but that one, so nothing inside a medium can name another file or
address; containers are an allow-list; sizes are limited before anything is allocated; every failure is a `MediaError` with a code. Times
are the container's presentation timestamps, as integers in microseconds; nothing here divides a frame number by a frame rate.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from curation.clock import Clock
from curation.containers import head_of, is_container, is_cut_off
from curation.plain_text import clean_text

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

    from curation.sound import Ears, Listener

MEDIA_LOG_VARIABLE = "DAILIES_MEDIA_LOG"
"""Environment variable naming a file to which every opening of a medium is appended, so that decodes can be counted."""

DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,mxf,nut,ivf,dv,"
    "wav,w64,mp3,aac,flac,aiff,caf,amr,ac3,eac3,au,wv"
)
"""Demuxers that read one self-contained file. Playlists (hls, dash, concat, sdp, image2 …) are absent on purpose."""

MAX_TIME_US = 1 << 53
"""285 years: a time beyond it is damage, and its microseconds would not fit a column."""

FOREIGN = (ValueError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, NotImplementedError)
"""What PyAV raises beside FFmpeg's errors when a medium leads it astray: in a call of its own, the medium's fault."""

Purpose = Literal["probe", "decode", "encode"]


CODES = (
    "missing", "changed", "empty", "not_media", "truncated", "no_streams", "unsupported", "limit_pixels", "limit_frames", "limit_duration", "limit_audio",
    "decode_error", "timeout", "memory", "crashed",
)  # fmt: skip
"""All reasons for which a medium cannot be used."""

PASSING = ("missing", "changed")
"""Those that lie in where its file is, not in what it is: the same bytes may be there again in another run."""


class MediaError(Exception):
    """A medium could not be used. `code` is one of CODES, `detail` says what was expected and found, as text that a table can hold."""

    def __init__(self, code: str, detail: str) -> None:
        # Names of files and what decoders say come from outside: a name need not be Unicode, and a column is.
        self.code, self.detail = code, clean_text(detail)
        super().__init__(f"{code}: {self.detail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaConfig:
    """Limits on a medium. All are ours: the paper states none; they only have to be above anything worth training on."""

    max_pixels: int = 8192 * 4352  # 8K with padding; one such frame in yuv420p is 53 MB
    max_image_pixels: int = 120_000_000
    max_frames: int = 4_000_000
    max_jpeg_scans: int = 500  # each scan of a progressive JPEG may cost a pass over all pixels for a few bytes
    max_duration_us: int = 12 * 3600 * 1_000_000
    max_wall_s: float = 3600.0  # for one decode; a hang inside the decoder is the sandbox's to end
    max_errors: int = 500  # broken packets after which the rest of a file is not worth the time
    memory_bytes: int = 4 << 30  # address space of the process that decodes, when it runs in a sandbox
    probe_packets: int = 2000  # packets within which the first frame must appear
    max_sample_rate_hz: int = 768_000
    min_sample_rate_hz: int = 1_000  # below there is no sound to measure, and filters divide by it
    max_channels: int = 64


@dataclass(slots=True)
class DecodeLog:
    """What happened while a file was decoded: filled by `decode` and `decode_sound` as they go."""

    n_frames: int = 0
    n_packets: int = 0  # packets that the decoder took
    n_errors: int = 0
    n_undated: int = 0  # frames without a usable presentation time: not delivered
    n_corrupt: int = 0  # frames delivered in which the decoder had to guess a part
    first_error: str = ""
    n_sound_errors: int = 0  # the sound of a video is counted apart: it never ends the pictures
    first_sound_error: str = ""


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


def open_file(path: str) -> BinaryIO:
    """The file, open for reading and unbuffered. Raises MediaError for what is missing, empty, or no regular file."""
    file = open_regular(path)
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise MediaError("empty", f"{path}: expected a medium, found 0 bytes")
    return file


def open_regular(path: str) -> BinaryIO:
    """The file, which may be empty, open for reading and unbuffered: never a pipe or a device, which may have no end. Raises MediaError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe would otherwise wait for a writer
    except (OSError, ValueError) as e:
        said = f": {e.strerror}" if isinstance(e, OSError) and e.strerror else ""
        raise MediaError("missing", f"{path}: expected a readable file, found {type(e).__name__}{said}") from e
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise MediaError("not_media", f"{path}: expected a regular file, found mode {stat.filemode(found.st_mode)}")
    return os.fdopen(fd, "rb", buffering=0)


@contextmanager
def open_container(path: str, cfg: MediaConfig | None = None, max_pixels: int | None = None) -> Iterator["InputContainer"]:
    """The file, opened by PyAV under the allow-lists and always closed. FFmpeg errors inside the block become MediaError.

    `max_pixels` is the limit while its header is read, where it is not that of videos: some containers are opened by decoding from them.
    """
    import av

    _quiet()
    with open_file(path) as file:
        # FFmpeg gets a descriptor and knows no other protocol: it judges by content alone and cannot open anything by name.
        options = {"fd": str(file.fileno()), "protocol_whitelist": "fd", "format_whitelist": DEMUXERS}
        options |= _decoder_limits(cfg or MediaConfig(), max_pixels)
        try:
            container = av.open("fd:", "r", options=options, metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as e:
            raise _open_error(path, file, e) from e
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


def sound_stream(container: "InputContainer", cfg: MediaConfig) -> Any | None:
    """The stream whose sound is probed, measured and encoded: the first that has a decoder, and a rate and channels within limits."""
    for stream in container.streams.audio:
        context = stream.codec_context
        if context is not None and is_sound(context.sample_rate, context.channels, cfg):
            return stream
    return None


def decode(
    path: str,
    cfg: MediaConfig,
    *,
    vectors: bool = False,
    sound: "Listener | None" = None,
    on_packet: "Callable[[Packet], None] | None" = None,
    log: DecodeLog | None = None,
) -> Iterator[tuple["VideoFrame", int]]:
    """Every video frame of the file with its presentation time in us, rising; the file is closed afterwards, come what may.

    Broken packets are counted in `log` and passed over. `vectors` asks the decoder for codec motion vectors (H.264 and MPEG-1/2/4 only).
    `sound` is told the sound in the same pass, in the order of the file; what is wrong with it is counted apart and ends nothing.
    `on_packet` is shown every packet of the video before it is decoded.
    Raises MediaError (limits, timeout, or a file of which nothing decodes).
    """
    log = log if log is not None else DecodeLog()
    note_open(path, "decode")
    deadline = time.monotonic() + cfg.max_wall_s
    with open_container(path, cfg) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError("no_streams", f"{path}: expected a video stream, found none")
        # Saves a tenth of the decode. Nothing is predicted from such frames, so nothing drifts; `Frame.is_filtered` says which they may be.
        prepare(path, stream, cfg, vectors=vectors, unfiltered=True)
        us = Fraction(stream.time_base) * 1_000_000
        num, den, first, last, clock = us.numerator, us.denominator, None, -MAX_TIME_US, Clock()
        ears = None if sound is None else _ears(path, container, sound, cfg, log, deadline)
        for frame in _frames(path, container, stream, cfg, log, ears, on_packet):
            pts = clock.time(frame.pts, frame.dts)
            pts_us = last if pts is None else (2 * pts * num + den) // (2 * den)
            need_pixels(path, frame.width, frame.height, cfg.max_pixels)
            if not last < pts_us < MAX_TIME_US:
                log.n_undated += 1
                continue
            first, last = pts_us if first is None else first, pts_us
            if last - first > cfg.max_duration_us:
                raise MediaError("limit_duration", f"{path}: expected at most {cfg.max_duration_us} us, found {last - first}")
            log.n_frames += 1
            log.n_corrupt += bool(frame.is_corrupt)
            if not log.n_frames & 63:
                _check_limits(path, log.n_frames, deadline, cfg)
            yield frame, pts_us
        if ears is not None:
            ears.rest()


def decode_sound(path: str, cfg: MediaConfig, sound: "Listener", *, log: DecodeLog | None = None) -> None:
    """The listener has been told all sound of the file, all channels, as `decode` tells it of a video. Raises MediaError."""
    log = log if log is not None else DecodeLog()
    note_open(path, "decode")
    with open_container(path, cfg) as container:
        ears = _ears(path, container, sound, cfg, log, time.monotonic() + cfg.max_wall_s)
        if ears is None:
            raise MediaError("no_streams", f"{path}: expected an audio stream that has a decoder, found none")
        for packet in packets_of(path, container, cfg, log, ears.stream):
            ears.hear(packet)
            if ears.heard_us > cfg.max_duration_us:
                raise MediaError("limit_duration", f"{path}: expected at most {cfg.max_duration_us} us of sound")
        ears.rest()


def _attached_picture() -> int:
    from av.stream import Disposition

    return int(Disposition.attached_pic)


def _quiet() -> None:
    """FFmpeg does not log: a Python log callback can deadlock, and hostile files write pages to stderr. Errors come back as errors."""
    import av.logging

    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.PANIC)


def _open_error(path: str, file: BinaryIO, error: Exception) -> MediaError:
    """A container's signature in front of contents that do not parse is a broken medium, cut off or damaged; without one it is none."""
    if isinstance(error, MemoryError):
        return MediaError("memory", f"{path}: not enough memory to open")
    head = head_of(file)
    if not is_container(head):
        return MediaError("not_media", f"{path}: expected a container of the allow-list, found {head[:12]!r} ({_said(error)})")
    if is_cut_off(file):
        return MediaError("truncated", f"{path}: expected the whole file, found a part without its index ({_said(error)})")
    return MediaError("decode_error", f"{path}: has a container's signature but its header does not parse ({_said(error)})")


def _decode_error(path: str, error: Exception) -> MediaError:
    import av

    if isinstance(error, av.error.MemoryError):
        return MediaError("memory", f"{path}: not enough memory to decode")
    if isinstance(error, av.error.PatchWelcomeError | av.error.DecoderNotFoundError):
        return MediaError("unsupported", f"{path}: {_said(error)}")
    return MediaError("decode_error", f"{path}: {_said(error)}")


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _decoder_limits(cfg: MediaConfig, max_pixels: int | None = None) -> dict[str, str]:
    """FFmpeg's own limits, so that a size in a header allocates nothing; they allow for padding, and decoded frames are checked exactly."""
    return {"max_pixels": str((max_pixels or cfg.max_pixels) * 9 // 8 + (1 << 16)), "max_samples": str(1 << 20)}


def prepare(
    path: str, stream: Any, cfg: MediaConfig, *, vectors: bool = False, unfiltered: bool = False, max_pixels: int | None = None
) -> None:
    """The stream's decoder has our limits and one thread (frame threads plus an early stop can hang, vllm issue 53973).

    `unfiltered` leaves out the loop filter on frames that no other frame refers to. Raises MediaError.
    """
    context = stream.codec_context
    if context is None:
        raise MediaError("unsupported", f"{path}: no decoder for its {stream.type} stream")
    if not stream.time_base:
        raise MediaError("decode_error", f"{path}: expected a time base, found none")
    context.options = _decoder_limits(cfg, max_pixels) | ({"skip_loop_filter": "noref"} if unfiltered else {})
    stream.thread_count = 1
    if stream.type == "video":
        stream.thread_type = "SLICE"
    if vectors:
        from av.codec.context import Flags2

        context.flags2 |= Flags2.export_mvs


def _ears(path: str, container: "InputContainer", sound: "Listener", cfg: MediaConfig, log: DecodeLog, deadline: float) -> "Ears | None":
    """What hears the file's sound; None where it has none."""
    from curation.sound import Ears

    stream = sound_stream(container, cfg)
    if stream is None:
        return None
    stream.codec_context.options = _decoder_limits(cfg)
    return Ears(stream, sound, log, cfg.max_errors, lambda: _check_limits(path, 0, deadline, cfg))


def packets_of(path: str, container: "InputContainer", cfg: MediaConfig, log: DecodeLog, *streams: Any) -> Iterator[Any]:
    """The packets of the streams in the order of the file; a broken end ends the file. Raises MediaError out of time."""
    import av

    deadline = time.monotonic() + cfg.max_wall_s
    packets = container.demux(*streams)
    while True:
        if time.monotonic() > deadline:  # asked here too, as a stream need not have a frame in any of its packets
            raise MediaError("timeout", f"{path}: expected a decode within {cfg.max_wall_s:g} s")
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.MemoryError as e:
            raise _decode_error(path, e) from e
        except av.error.FFmpegError as e:
            note_error(log, e)
            return
        except IndexError:  # a stream that began after the header was read: PyAV does not know it, and neither do we
            packets = container.demux(*streams)
            continue
        yield packet


def _frames(
    path: str,
    container: "InputContainer",
    stream: Any,
    cfg: MediaConfig,
    log: DecodeLog,
    ears: "Ears | None" = None,
    on_packet: "Callable[[Packet], None] | None" = None,
) -> Iterator[Any]:
    """Decoded frames in presentation order; broken packets are counted and skipped, a broken end ends the file."""
    import av

    n_frames, wanted = 0, av.VideoFrame if stream.type == "video" else av.AudioFrame
    for packet in packets_of(path, container, cfg, log, stream, *([] if ears is None else [ears.stream])):
        # Its stream, not its number: PyAV's last, empty packet, which fetches the decoder's last frames, says 0 for every stream.
        if ears is not None and packet.stream.index == ears.stream.index:
            ears.hear(packet)
            continue
        if on_packet is not None:
            on_packet(packet)
        width = stream.codec_context.width if stream.type == "video" else 0
        try:
            frames = [f for f in packet.decode() if isinstance(f, wanted)]  # damage can make a stream change its kind
        except av.error.EOFError:
            return
        except (av.error.FFmpegError, MemoryError, *FOREIGN) as e:
            if stream.type == "video":
                _need_size(path, stream.codec_context, width, e, cfg)
            if isinstance(e, MemoryError):
                raise MediaError("memory", f"{path}: not enough memory to decode") from e
            note_error(log, e)
            if log.n_errors > cfg.max_errors:
                return
            continue
        n_frames += len(frames)
        if stream.type == "video" and n_frames > cfg.max_frames:
            raise MediaError("limit_frames", f"{path}: expected at most {cfg.max_frames} frames")
        yield from frames
        log.n_packets += 1
        if not n_frames and log.n_packets >= cfg.probe_packets:
            raise MediaError("truncated", f"{path}: expected a frame within {cfg.probe_packets} packets, found none")


def first_frame(path: str, container: "InputContainer", stream: Any, cfg: MediaConfig) -> Any:
    """The first frame that decodes, of a stream that `prepare` has seen. Raises MediaError when none does."""
    log = DecodeLog()
    for frame in _frames(path, container, stream, cfg, log):
        return frame
    if log.n_errors:
        raise MediaError("decode_error", f"{path}: no frame decodes; {log.n_errors} broken packets, first {log.first_error}")
    raise MediaError("truncated", f"{path}: the header parses but no frame follows")


def note_error(log: DecodeLog, error: Exception) -> None:
    """The log has one more error of the pictures."""
    log.n_errors += 1
    log.first_error = log.first_error or f"{type(error).__name__}: {_said(error)}"


def _need_size(path: str, context: Any, width: int, error: Exception, cfg: MediaConfig) -> None:
    """Raises MediaError when a packet that does not decode was refused for the size of its picture, as each decoder says it in its own way.

    `width` is that before the packet. H.264 and HEVC keep the new size, dav1d answers ERANGE, the others EINVAL with no size at all.
    """
    need_pixels(path, context.width, context.height, cfg.max_pixels)
    code = getattr(error, "errno", None)
    if code == errno.ERANGE or (code == errno.EINVAL and width and not context.width):
        raise MediaError("limit_pixels", f"{path}: expected at most {cfg.max_pixels} px, found a stream that becomes larger") from error


def need_pixels(path: str, width: int, height: int, limit: int) -> None:
    """Raises MediaError when the picture has more pixels than the limit."""
    if width * height > limit:
        raise MediaError("limit_pixels", f"{path}: expected at most {limit} px, found {width} x {height}")


def is_sound(rate_hz: int, channels: int, cfg: MediaConfig) -> bool:
    """Whether the rate and the number of channels are within the limits."""
    return bool(cfg.min_sample_rate_hz <= rate_hz <= cfg.max_sample_rate_hz and 1 <= channels <= cfg.max_channels)


def need_sound(path: str, rate_hz: int, channels: int, cfg: MediaConfig) -> None:
    """Raises MediaError when the sound has a rate or a number of channels that nobody records."""
    if not is_sound(rate_hz, channels, cfg):
        raise MediaError("limit_audio", f"{path}: expected sound within limits, found {rate_hz} Hz in {channels} channels")


def _check_limits(path: str, n_frames: int, deadline: float, cfg: MediaConfig) -> None:
    if n_frames > cfg.max_frames:
        raise MediaError("limit_frames", f"{path}: expected at most {cfg.max_frames} frames")
    if time.monotonic() > deadline:
        raise MediaError("timeout", f"{path}: expected a decode within {cfg.max_wall_s:g} s")
