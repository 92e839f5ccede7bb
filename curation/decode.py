"""The decode: every frame of a file with its time, and its sound in the same pass; broken packets are counted and passed over.

Times are the container's presentation timestamps, as integers in microseconds; nothing here divides a frame number by a frame rate.
"""

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from curation.clock import Clock
from curation.media import (
    FOREIGN,
    MAX_TIME_US,
    MediaConfig,
    MediaError,
    decode_error,
    decoder_limits,
    need_pixels,
    note_open,
    open_container,
    prepare,
    said,
    sound_stream,
    video_stream,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

    from curation.sound import Ears, Listener


@dataclass(slots=True)
class DecodeLog:
    """What happened while a file was decoded: filled by `decode` and `decode_sound` as they go."""

    n_frames: int = 0
    n_packets: int = 0  # packets that the decoder took
    n_spared: int = 0  # … and that it was spared
    n_errors: int = 0
    n_undated: int = 0  # frames without a usable presentation time: not delivered
    n_corrupt: int = 0  # frames delivered in which the decoder had to guess a part
    first_error: str = ""
    n_sound_errors: int = 0  # the sound of a video is counted apart: it never ends the pictures
    first_sound_error: str = ""


def decode(
    path: str,
    cfg: MediaConfig,
    *,
    vectors: bool = False,
    sound: "Listener | None" = None,
    on_packet: "Callable[[Packet], None] | None" = None,
    spare: "Callable[[Packet], bool] | None" = None,
    log: DecodeLog | None = None,
) -> Iterator[tuple["VideoFrame", int]]:
    """Every video frame of the file with its presentation time in us, rising; the file is closed afterwards, come what may.

    Broken packets are counted in `log` and passed over. `vectors` asks the decoder for codec motion vectors (H.264 and MPEG-1/2/4 only).
    `sound` is told the sound in the same pass, in the order of the file; what is wrong with it is counted apart and ends nothing.
    `spare` is asked of every packet of the video whether it need not be decoded: then the frame before it, the very object, stands for its
    frame. After it `on_packet` is shown the packet, before it is decoded.
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
        spared: list[int] = []
        for frame, pts, dts in _shown(_frames(path, container, stream, cfg, log, ears, on_packet, spare, spared), spared):
            pts = clock.time(pts, dts)
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


def _ears(path: str, container: "InputContainer", sound: "Listener", cfg: MediaConfig, log: DecodeLog, deadline: float) -> "Ears | None":
    """What hears the file's sound; None where it has none."""
    from curation.sound import Ears

    stream = sound_stream(container, cfg)
    if stream is None:
        return None
    stream.codec_context.options = decoder_limits(cfg)
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
            raise decode_error(path, e) from e
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
    spare: "Callable[[Packet], bool] | None" = None,
    spared: list[int] | None = None,
) -> Iterator[Any]:
    """Decoded frames in presentation order; broken packets are counted and skipped, a broken end ends the file.

    The stamps of packets that were spared are put on the heap `spared`.
    """
    import av

    n_frames, wanted = 0, av.VideoFrame if stream.type == "video" else av.AudioFrame
    for packet in packets_of(path, container, cfg, log, stream, *([] if ears is None else [ears.stream])):
        # Its stream, not its number: PyAV's last, empty packet, which fetches the decoder's last frames, says 0 for every stream.
        if ears is not None and packet.stream is ears.stream:
            ears.hear(packet)
            continue
        is_spared = spare is not None and spare(packet)
        if on_packet is not None:
            on_packet(packet)
        if is_spared and spared is not None:
            heappush(spared, packet.pts)
            log.n_spared += 1
            continue
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


def _shown(frames: Iterator[Any], spared: list[int]) -> Iterator[tuple[Any, int | None, int | None]]:
    """Each frame with its stamps, and between them, at each stamp on the heap `spared`, the frame before it."""
    before = None
    for frame in frames:
        while spared and before is not None and frame.pts is not None and spared[0] < frame.pts:
            yield before, heappop(spared), None
        before = frame
        yield frame, frame.pts, frame.dts
    while spared and before is not None:
        yield before, heappop(spared), None


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
    log.first_error = log.first_error or f"{type(error).__name__}: {said(error)}"


def _need_size(path: str, context: Any, width: int, error: Exception, cfg: MediaConfig) -> None:
    """Raises MediaError when a packet that does not decode was refused for the size of its picture, as each decoder says it in its own way.

    `width` is that before the packet. H.264 and HEVC keep the new size, dav1d answers ERANGE, the others EINVAL with no size at all.
    """
    need_pixels(path, context.width, context.height, cfg.max_pixels)
    code = getattr(error, "errno", None)
    if code == errno.ERANGE or (code == errno.EINVAL and width and not context.width):
        raise MediaError("limit_pixels", f"{path}: expected at most {cfg.max_pixels} px, found a stream that becomes larger") from error


def _check_limits(path: str, n_frames: int, deadline: float, cfg: MediaConfig) -> None:
    if n_frames > cfg.max_frames:
        raise MediaError("limit_frames", f"{path}: expected at most {cfg.max_frames} frames")
    if time.monotonic() > deadline:
        raise MediaError("timeout", f"{path}: expected a decode within {cfg.max_wall_s:g} s")
