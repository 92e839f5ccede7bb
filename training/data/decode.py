"""From a sample's bytes to pixels: the frames shown at exact times, scaled and cropped.

Time is the container's. The clip's k-th training frame is the picture shown at t_k = t_0 + k / fps, t_0 the presentation time of its
first frame: the last frame whose timestamp is <= t_k, with half a tick of tolerance because containers round timestamps to ticks.
At a constant rate these are consecutive frames; at a varying one they are what a viewer would have seen.

A picture is scaled to a `Fit`: a shorter side in pixels, or the least size of its own aspect that covers width x height.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import floor
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
"""Decoding stops at the last wanted frame; a clip that asks for a later one than this was not cut by us (clips are 4-16 s)."""


def decode_video(
    data: bytes, where: str, start_frame: int, n_frames: int, fps: Fraction, fit: Fit, every: Fraction = Fraction(1)
) -> list[Pixels]:
    """The `n_frames` pictures (H, W, 3) shown at t_0 + (start_frame + k * every) / fps, scaled to `fit`."""
    last = start_frame + n_frames * every
    if fps <= 0 or last / fps > MAX_SECONDS_AHEAD:
        raise SampleError(where, "decode", f"frames within {MAX_SECONDS_AHEAD} s", f"{start_frame}+{n_frames * every} at {fps} fps")
    with _open(data, where, "mp4") as container:
        frames = _frames(container, where)
        return _pick(frames, where, [(start_frame + k * every) / fps for k in range(n_frames)], 1 / fps, fit)


def decode_image(data: bytes, where: str, fit: Fit) -> list[Pixels]:
    """The one picture (H, W, 3), scaled to `fit`."""
    with _open(data, where, "jpeg_pipe") as container:
        frame = next(_frames(container, where), None)
        if frame is None:
            raise SampleError(where, "decode", "one picture", "none")
        return [_scale(frame, where, fit)]


def _pick(frames: Iterator[Any], where: str, times_s: list[Fraction], step_s: Fraction, fit: Fit) -> list[Pixels]:
    """The frames shown at the times after the first frame's; the last frame is shown for one step.

    In whole ticks: frame and time are compared for every frame that is decoded, and fractions would cost a tenth of the decoding.
    """
    picked: list[Pixels] = []
    first = next(frames, None)
    if first is None or first.pts is None or first.time_base is None:
        raise SampleError(where, "decode", "a picture with a presentation timestamp", "none" if first is None else "a picture without one")
    origin, tick_s, n = first.pts, first.time_base, len(times_s)
    # the latest beginning, after the first frame's, of what is shown at each time
    last_ticks = [floor(t / tick_s + Fraction(1, 2)) for t in times_s]
    shown, shown_ticks = first, 0
    for frame in frames:
        if frame.pts is None:
            raise SampleError(where, "decode", "a presentation timestamp on every frame", "a frame without one")
        now = frame.pts - origin
        while len(picked) < n and last_ticks[len(picked)] < now:
            picked.append(_scale(shown, where, fit))
        if len(picked) == n:
            return picked
        shown, shown_ticks = frame, now
    shown_s = shown_ticks * tick_s
    while len(picked) < n and times_s[len(picked)] < shown_s + step_s:
        picked.append(_scale(shown, where, fit))
    if len(picked) < n:
        raise SampleError(where, "decode", f"a picture at {float(times_s[len(picked)]):.6f} s", f"the end after {float(shown_s):.6f} s")
    return picked


def _open(data: bytes, where: str, demuxer: str) -> Any:
    """The container over the bytes, with the demuxer named: no probing, so a playlist in disguise opens nothing."""
    import av

    try:
        return av.open(io.BytesIO(data), format=demuxer)
    except (av.FFmpegError, ValueError) as error:
        raise SampleError(where, "open", demuxer, str(error)) from error


def _frames(container: Any, where: str) -> Iterator[Any]:
    """The first video stream's frames in presentation order; every failure of the decoder is a SampleError."""
    import av

    if not container.streams.video:
        raise SampleError(where, "decode", "a video stream", "none")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise SampleError(where, "decode", "a codec that is known", "none")
    if context.width * context.height > MAX_PIXELS:
        raise SampleError(where, "decode", f"at most {MAX_PIXELS} pixels", f"{context.width}x{context.height}")
    context.thread_count = 1  # frame threads would make every small clip wait for a pipeline of frames it never uses
    try:
        yield from container.decode(stream)
    except (av.FFmpegError, ValueError) as error:
        raise SampleError(where, "decode", "decodable frames", str(error)) from error


def _scale(frame: Any, where: str, fit: Fit) -> Pixels:
    """The frame as RGB in the size that fits; a sliver that would grow past MAX_PIXELS is refused."""
    import av

    width, height = _fitted(frame.width, frame.height, fit)
    if width * height > MAX_PIXELS:
        raise SampleError(where, "scale", f"at most {MAX_PIXELS} pixels", f"{width}x{height}")
    try:
        pixels: Pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    except (av.FFmpegError, ValueError) as error:
        raise SampleError(where, "scale", f"{width}x{height} RGB", str(error)) from error
    return pixels


@lru_cache(maxsize=256)
def _fitted(width: int, height: int, fit: Fit) -> tuple[int, int]:
    """The size of a frame of this size that fits; kept, because a clip asks for each of its frames."""
    least = (fit, fit) if isinstance(fit, int) else fit
    scale = max(Fraction(least[0], width), Fraction(least[1], height))
    return max(least[0], round(width * scale)), max(least[1], round(height * scale))
