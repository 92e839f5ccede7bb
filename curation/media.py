"""The only file that opens media, within limits; `probe` reads facts, `decode` frames and sound, and `stills` pictures through it.

Media is hostile. FFmpeg is handed an open descriptor and no protocol but that one, so nothing inside a medium can name another file or
address; containers are an allow-list; sizes are limited before anything is allocated; every failure is a `MediaError` with a code.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from curation.containers import head_of, is_container, is_cut_off
from curation.plain_text import clean_text

if TYPE_CHECKING:
    from av.container import InputContainer


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
        options |= decoder_limits(cfg or MediaConfig(), max_pixels)
        try:
            container = av.open("fd:", "r", options=options, metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as e:
            raise _open_error(path, file, e) from e
    try:
        yield container
    except av.error.FFmpegError as e:
        raise decode_error(path, e) from e
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
        return MediaError("not_media", f"{path}: expected a container of the allow-list, found {head[:12]!r} ({said(error)})")
    if is_cut_off(file):
        return MediaError("truncated", f"{path}: expected the whole file, found a part without its index ({said(error)})")
    return MediaError("decode_error", f"{path}: has a container's signature but its header does not parse ({said(error)})")


def decode_error(path: str, error: Exception) -> MediaError:
    """What FFmpeg raised while decoding the file, as an error of ours."""
    import av

    if isinstance(error, av.error.MemoryError):
        return MediaError("memory", f"{path}: not enough memory to decode")
    if isinstance(error, av.error.PatchWelcomeError | av.error.DecoderNotFoundError):
        return MediaError("unsupported", f"{path}: {said(error)}")
    return MediaError("decode_error", f"{path}: {said(error)}")


def said(error: Exception) -> str:
    """The error in its own words, or its name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def decoder_limits(cfg: MediaConfig, max_pixels: int | None = None) -> dict[str, str]:
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
    context.options = decoder_limits(cfg, max_pixels) | ({"skip_loop_filter": "noref"} if unfiltered else {})
    stream.thread_count = 1
    if stream.type == "video":
        stream.thread_type = "SLICE"
    if vectors:
        from av.codec.context import Flags2

        context.flags2 |= Flags2.export_mvs


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
