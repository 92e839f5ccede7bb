"""From a sample's bytes to pixels: the frames shown at exact times, scaled and cropped.

Time is the container's. The clip's k-th training frame is the picture shown at t_k = t_0 + k / fps, t_0 the presentation time of its
first frame: the last frame whose timestamp is <= t_k, with half a tick of tolerance because containers round timestamps to ticks.
At a constant rate these are consecutive frames; at a varying one they are what a viewer would have seen.

A picture is scaled to a `Fit`: a shorter side in pixels, or the least size of its own aspect that covers width x height.
"""

import io
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import SampleError

Pixels = NDArray[np.uint8]
"""One frame as (H, W, 3) or several as (T, H, W, 3), RGB, 0..255."""

Fit = int | tuple[int, int]
"""Shorter side in pixels, or (width, height) to cover."""

MAX_PIXELS = 1 << 26
"""A frame larger than this (8192 x 8192) is refused before it is decoded: a few bytes can announce gigabytes."""

MAX_SECONDS_AHEAD = 600
"""Decoding goes from the key frame before the first wanted frame to the last; a clip that asks for a later one than this was not cut by us (clips are 4-16 s)."""


def decode_video(
    data: bytes, where: str, start_frame: int, n_frames: int, fps: Fraction, fit: Fit, every: Fraction = Fraction(1)
) -> list[Pixels]:
    """The `n_frames` pictures (H, W, 3) shown at t_0 + (start_frame + k * every) / fps, scaled to `fit`."""
    last = start_frame + n_frames * every
    if fps <= 0 or last / fps > MAX_SECONDS_AHEAD:
        raise SampleError(where, "decode", f"frames within {MAX_SECONDS_AHEAD} s", f"{start_frame}+{n_frames * every} at {fps} fps")
    with _open(data, where, "mp4") as container:
        stream = _stream(container, where)
        ticks = (start_frame + (n_frames - 1) * every) / (fps * stream.time_base)
        packets = _packets(container, stream, where, math.ceil(ticks) + 1)
        shown = sorted(p.pts for p in packets if _is_shown(p))
        return _decode(stream, where, packets, _shown(shown, stream.time_base, fps, where, start_frame, every, n_frames), fit)


def decode_image(data: bytes, where: str, fit: Fit) -> list[Pixels]:
    """The one picture (H, W, 3), scaled to `fit`."""
    with _open(data, where, "jpeg_pipe") as container:
        stream = _stream(container, where)
        frame = next(_frames(stream, where, (p for p in container.demux(stream) if p.size)), None)
        if frame is None:
            raise SampleError(where, "decode", "one picture", "none")
        return [_Scaler(where, fit).scale(frame)]


def _packets(container: Any, stream: Any, where: str, ticks: int) -> list[Any]:
    """The stream's packets in the order of decoding, to one more picture than so many ticks after the first or to the end. Nothing is decoded,
    and no packet is read twice: each read gives way to the other threads, who are waited for then."""
    import av

    packets: list[Any] = []
    first: int | None = None
    try:
        for p in container.demux(stream):
            if not p.size:  # the end is told by one without data, which the decoder would take for the end, too
                continue
            packets.append(p)
            if _is_shown(p):
                first = p.pts if first is None else min(first, p.pts)
            # None is shown before it is decoded: all that are still to come are shown after this one was decoded.
            if first is not None and p.dts is not None and p.dts > first + ticks:
                break
    except (av.FFmpegError, ValueError) as error:
        raise SampleError(where, "read", "pictures in the container", str(error)) from error
    if first is None:
        raise SampleError(where, "read", "pictures with timestamps", "none")
    return packets


def _is_shown(packet: Any) -> bool:
    """Whether the packet's picture has a place in the clip; others are there for pictures that are coded as what differs from them."""
    return packet.pts is not None and packet.dts is not None and not packet.is_discard


def _shown(pts: list[int], tick_s: Fraction, fps: Fraction, where: str, start: int, every: Fraction, n: int) -> list[int]:
    """The timestamps of the pictures shown at (start + k * every) / fps after the first one; the last picture is shown for one frame.

    In whole numbers: fractions for each frame of a clip would cost a tenth of decoding it.
    """
    ticks = 1 / (fps * tick_s)  # of a frame
    per, unit = ticks.numerator, ticks.denominator * every.denominator
    places = [per * (start * every.denominator + k * every.numerator) for k in range(n)]  # in ticks of 1 / unit
    end = (pts[-1] - pts[0]) * unit + per * every.denominator
    if places[-1] >= end:
        late_s, last_s = float(next(p for p in places if p >= end) * tick_s / unit), float((pts[-1] - pts[0]) * tick_s)
        raise SampleError(where, "decode", f"a picture at {late_s:.6f} s", f"the end after {last_s:.6f} s")
    return [pts[bisect_right(pts, pts[0] + (2 * place + unit) // (2 * unit)) - 1] for place in places]


def _decode(stream: Any, where: str, packets: list[Any], wanted: list[int], fit: Fit) -> list[Pixels]:
    """The wanted pictures, decoded from the last key frame before them; from the beginning where that was not enough."""
    keys = [(p.pts, i) for i, p in enumerate(packets) if p.is_keyframe and _is_shown(p) and p.pts <= wanted[0]]
    scaler, found = _Scaler(where, fit), dict.fromkeys(wanted, np.empty(0, np.uint8))
    for begin in dict.fromkeys((max(keys, default=(0, 0))[1], 0)):
        for frame in _frames(stream, where, packets[begin:]):
            if frame.pts in found:
                found[frame.pts] = scaler.scale(frame)
            if frame.pts is not None and frame.pts >= wanted[-1]:
                break
        if all(pixels.size for pixels in found.values()):
            return [found[pts] for pts in wanted]
        stream.codec_context.flush_buffers()
    lost = next(pts for pts in wanted if not found[pts].size) - min(p.pts for p in packets if _is_shown(p))
    raise SampleError(where, "decode", f"a picture at {float(lost * stream.time_base):.6f} s", "one that cannot be decoded")


def _open(data: bytes, where: str, demuxer: str) -> Any:
    """The container over the bytes, with the demuxer named: no probing, so a playlist in disguise opens nothing. Its pictures are not
    decoded to learn their format, which costs a twentieth of a small clip and which the decoder finds out anyway."""
    import av

    undecoded: Any = [{"skip_frame": "all"}]
    try:
        return av.open(io.BytesIO(data), format=demuxer, stream_options=undecoded)
    except (av.FFmpegError, ValueError) as error:
        raise SampleError(where, "open", demuxer, str(error)) from error


def _stream(container: Any, where: str) -> Any:
    """The first video stream, if its pictures are of a size that may be decoded."""
    if not container.streams.video:
        raise SampleError(where, "decode", "a video stream", "none")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise SampleError(where, "decode", "a codec that is known", "none")
    if context.width * context.height > MAX_PIXELS:
        raise SampleError(where, "decode", f"at most {MAX_PIXELS} pixels", f"{context.width}x{context.height}")
    context.options = {"max_pixels": str(MAX_PIXELS)}  # what the pictures say themselves counts, too
    context.thread_count = 1  # frame threads would make every small clip wait for a pipeline of frames it never uses
    return stream


def _frames(stream: Any, where: str, packets: Iterable[Any]) -> Iterator[Any]:
    """The packets' frames in order of showing; every failure of the decoder is a SampleError."""
    import av

    try:
        for packet in packets:
            yield from stream.decode(packet)
        yield from stream.decode(None)
    except (av.FFmpegError, ValueError) as error:
        raise SampleError(where, "decode", "decodable frames", str(error)) from error


class _Scaler:
    """Frames as RGB in the size that fits. One for a clip: setting up the conversion anew costs as much as decoding the frame."""

    def __init__(self, where: str, fit: Fit) -> None:
        from av.video.reformatter import VideoReformatter

        self._where, self._fit, self._reformatter = where, fit, VideoReformatter()
        self._size: tuple[int, int] | None = None

    def scale(self, frame: Any) -> Pixels:
        """(H, W, 3) of the frame; a sliver that would grow past MAX_PIXELS is refused."""
        import av

        width, height = _fitted(frame.width, frame.height, self._fit)
        if width * height > MAX_PIXELS:
            raise SampleError(self._where, "scale", f"at most {MAX_PIXELS} pixels", f"{width}x{height}")
        self._size = self._size or (width, height)
        if (width, height) != self._size:
            raise SampleError(self._where, "scale", f"frames of one size, {self._size[0]}x{self._size[1]}", f"{width}x{height}")
        try:
            # one thread: the loader's threads are busy with other clips
            made: Any = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation="AREA", threads=1)
            # its rows as they lie: PyAV's own array would be another copy of each, a fortieth of the time a clip takes
            plane = made.planes[0]
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, : width * 3]
            pixels: Pixels = rows.reshape(height, width, 3)
        except (av.FFmpegError, ValueError) as error:
            raise SampleError(self._where, "scale", f"{width}x{height} RGB", str(error)) from error
        return pixels


@lru_cache(maxsize=256)
def _fitted(width: int, height: int, fit: Fit) -> tuple[int, int]:
    """The size of a frame of this size that fits; kept, because a clip asks for each of its frames."""
    least = (fit, fit) if isinstance(fit, int) else fit
    scale = max(Fraction(least[0], width), Fraction(least[1], height))
    return max(least[0], round(width * scale)), max(least[1], round(height * scale))
