"""What a film shows and lets hear, as a player would: by the container's time, turned as it says, with square pixels, in its own colours.

Time is counted from t_0, the presentation time of the first picture, for the sound too: whatever the two streams' own beginnings are, sample
k is what is heard at t_0 + k / 48000, and what lies between two packets that do not join is silence.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.decode import MAX_PIXELS, Pixels
from training.errors import TrainingError

SAMPLE_RATE_HZ = 48_000

MAX_S = 4 * 3600
"""Length of a film that is read: time stamps can promise years in a few bytes."""

HD_PX = 720
"""From this height on players take colours that nothing is said of as BT.709, below it as BT.601."""

Fit = Callable[[int, int], tuple[int, int]]
"""From (width, height) as shown to the size that is wanted; the picture covers it, and its middle is taken."""


def opened(data: bytes) -> Any:
    """The container over the bytes, with the demuxer named: no probing, so a playlist in disguise opens nothing."""
    import av

    return av.open(io.BytesIO(data), format="mp4")


def rate_of(stream: Any) -> Fraction:
    """Pictures a second, the mean of a varying rate; 24 where nothing says it."""
    return Fraction(stream.average_rate or 24)


def start_s(frame: Any) -> Fraction:
    """When the frame is presented, by the container's clock; TypeError where nothing says it."""
    return Fraction(frame.pts) * Fraction(frame.time_base)


def first_s(container: Any) -> Fraction:
    """When the first picture is presented; IndexError where there is none. The container stands at its beginning again."""
    frame = next(container.decode(container.streams.video[0]), None)
    container.seek(0)
    if frame is None:
        raise IndexError("no picture")
    return start_s(frame)


def spans(container: Any, path: Path) -> Iterator[tuple[Any, Fraction]]:
    """(picture, when it ceases to be shown, in s after t_0), in order; TrainingError where that is over `MAX_S`."""
    stream = container.streams.video[0]
    first, held = None, None
    for frame in container.decode(stream):
        first = start_s(frame) if first is None else first
        if held is not None:
            yield held, _within(start_s(frame) - first, path)
        held = frame
    if held is not None and first is not None:
        lasts = held.duration * Fraction(held.time_base) if held.duration else 1 / rate_of(stream)
        yield held, _within(start_s(held) - first + lasts, path)


def moments(end_s: Fraction, fps: Fraction, stream: Any) -> int:
    """How many of the times k / fps lie before the end; half a tick of tolerance, because containers round time stamps to ticks."""
    return max(0, math.ceil((end_s - Fraction(stream.time_base) / 2) * fps))


def _within(at_s: Fraction, path: Path) -> Fraction:
    if at_s > MAX_S:
        raise TrainingError(f"{path}: expected a film of at most {MAX_S} s, found a picture at {float(at_s):.0f} s")
    return at_s


@dataclass(frozen=True, slots=True)
class Turn:
    """How a picture is turned for showing: transposed first, then mirrored in x, then in y. All eight cases of a display matrix."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, picture: Pixels) -> Pixels:
        """The picture (H, W, 3) as shown; a view."""
        turned = picture.swapaxes(0, 1) if self.transpose else picture
        return turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def display_matrix(frame: Any) -> tuple[int, ...]:
    """The nine numbers of the frame's display matrix; none where it has none."""
    from av.sidedata.sidedata import SideDataContainer

    container: Any = SideDataContainer  # `frame.side_data` and its frame hold each other: megabytes until Python looks for cycles
    side = container(frame).get("DISPLAYMATRIX")
    return () if side is None else tuple(np.frombuffer(memoryview(side), np.int32)[:9].tolist())


def turn_of(frame: Any) -> Turn:
    """How the frame is turned for showing, to the nearest quarter."""
    if not (matrix := display_matrix(frame)):
        return Turn()
    a, b, _, c, d, *_ = matrix
    return Turn(False, a < 0, d < 0) if abs(a) + abs(d) >= abs(b) + abs(c) else Turn(True, c < 0, b < 0)


class Painter:
    """Frames as RGB as they are shown, at their own size or at what `fit` makes of it. One for a film: setting up the conversion anew costs
    as much as decoding a frame."""

    def __init__(self, stream: Any, path: Path, fit: Fit | None = None) -> None:
        from av.video.reformatter import VideoReformatter

        self._aspect, self._path, self._fit = stream.sample_aspect_ratio or Fraction(1), path, fit
        self._reformatter: Any = VideoReformatter()

    def paint(self, frame: Any) -> Pixels:
        """(H, W, 3) of the frame, scaled by areas; TrainingError where it is larger than `MAX_PIXELS`."""
        self._check(frame.width, frame.height)
        turn = turn_of(frame)
        width, height = self._square_pixels(frame.width, frame.height)
        width, height = (height, width) if turn.transpose else (width, height)
        wide, high = (width, height) if self._fit is None else self._fit(width, height)
        scale = max(Fraction(wide, width), Fraction(high, height))
        width, height = max(wide, round(width * scale)), max(high, round(height * scale))
        self._check(width, height)
        turned = turn.apply(self._converted(frame, *((height, width) if turn.transpose else (width, height))))
        top, left = (height - high) // 2, (width - wide) // 2
        return np.ascontiguousarray(turned[top : top + high, left : left + wide])

    def _converted(self, frame: Any, width: int, height: int) -> Pixels:
        from av.video.reformatter import Colorspace

        untold = Colorspace.ITU709 if frame.height >= HD_PX else Colorspace.ITU601
        how = "BILINEAR" if (width, height) == (frame.width, frame.height) else "AREA"
        made: Pixels = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=how,
            src_colorspace=untold if frame.colorspace == _UNSPECIFIED else None,
        ).to_ndarray()
        return made

    def _square_pixels(self, width: int, height: int) -> tuple[int, int]:
        """The size with square pixels: the short way is stretched, none is shrunk. Aspects that no camera has are left."""
        if not Fraction(1, 8) <= self._aspect <= 8:
            return width, height
        return max(width, round(width * self._aspect)), max(height, round(height / self._aspect))

    def _check(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise TrainingError(f"{self._path}: expected frames of at most {MAX_PIXELS} pixels, found {width}x{height}")


_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED."""


def heard(container: Any, first: Fraction, longest_s: Fraction | None) -> NDArray[np.float32] | None:
    """Mono samples at 48 kHz of the first sound, from t_0 = `first` to its end, or for so long; None where a track holds none."""
    container.seek(0)
    end = round((MAX_S if longest_s is None else longest_s) * SAMPLE_RATE_HZ)
    parts: list[tuple[int, NDArray[np.float32]]] = []
    next_at = 0
    for piece in resampled(container):
        at = next_at if piece.pts is None else round((start_s(piece) - first) * SAMPLE_RATE_HZ)
        if at >= end:
            break
        parts.append((at, piece.to_ndarray()[0]))
        next_at = at + len(parts[-1][1])
    if not parts:
        return None
    samples = np.zeros(max(0, min(end, max(at + len(values) for at, values in parts))), np.float32)
    for at, values in parts:
        low, high = max(0, -at), min(len(values), len(samples) - at)
        if low < high:
            samples[at + low : at + high] = values[low:high]
    return samples


def resampled(container: Any) -> Iterator[Any]:
    """The first sound as mono frames at 48 kHz."""
    import av

    resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE_HZ)
    for frame in (*container.decode(audio=0), None):
        yield from resampler.resample(frame)
