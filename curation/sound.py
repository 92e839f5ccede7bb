"""Sound as it comes out of a decoder: pieces of all channels with their presentation times.

A video's sound is decoded in the same pass over the file as its pictures: `media.decode` hands each packet of the sound stream to
`Ears`. What is wrong with the sound is counted in the log apart from the pictures and never ends them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from curation.media import FOREIGN, MAX_TIME_US

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

    from curation.media import DecodeLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A piece of sound: float32 [channels, n], full scale at 1; rate in Hz; time of its first sample; FFmpeg's names of the channels."""

    samples: np.ndarray
    rate_hz: int
    start_us: int
    channels: tuple[str, ...]


Listener = Callable[[Sound], None]
"""Is told every piece of sound, in the order of the file."""


_USUAL = {
    1: ("FC",),
    2: ("FL", "FR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
"""The order of channels where a file (a plain WAV) gives only their number, as FFmpeg takes it."""


class Ears:
    """Decodes the packets of one sound stream and tells each piece to the listener."""

    def __init__(self, stream: Any, tell: Listener, log: "DecodeLog", max_errors: int, check: Callable[[], None]) -> None:
        """`check` raises where the file has had its time: it is asked now and then."""
        stream.thread_count = 1
        self.stream = stream
        self._tell, self._log, self._max_errors, self._check = tell, log, max_errors, check
        self._n_packets = 0
        self._base: Fraction | None = None  # of the last stamp, and …
        self._us = (1, 1)  # … how many us one of it is
        self._layout, self._names = "", tuple[str, ...]()
        self._end_us: int | None = None
        self.heard_us = 0  # length of all sound told so far

    def hear(self, packet: Any) -> None:
        """The packet's sound has been told. Broken packets are counted; after too many the rest of the sound is left."""
        import av

        self._n_packets += 1
        if not self._n_packets & 255:
            self._check()
        if self._log.n_sound_errors > self._max_errors:
            return
        try:
            pieces = [p for frame in packet.decode() if (p := self._placed(frame)) is not None]
        except av.error.EOFError:
            return  # a second flush: nothing is missing
        except (av.error.FFmpegError, *FOREIGN) as e:  # such as a sample format that has no numpy type, or pictures in a stream of sound
            self._note(f"{type(e).__name__}: {e}")
            return
        for piece in pieces:
            self._tell(piece)

    def _placed(self, frame: "AudioFrame") -> Sound | None:
        """The frame's sound with its time, or None. A frame without one (the decoder's last, often) follows the frame before it."""
        n, rate_hz = frame.samples, frame.sample_rate
        if not n or not rate_hz:
            return None
        start = self._start_us(frame)
        if start is None or abs(start) > MAX_TIME_US:
            self._note("sound without a usable presentation time")
            return None
        length_us = round(n * 1_000_000 / rate_hz)
        self._end_us, self.heard_us = start + length_us, self.heard_us + length_us
        layout = frame.layout
        if layout.name != self._layout or not self._names:  # asked for once: the names cost more than the samples
            names = tuple(c.name for c in layout.channels)
            self._layout, self._names = layout.name, _USUAL.get(len(names), names) if "NONE" in names else names
        return Sound(samples=planes(frame, len(self._names)), rate_hz=rate_hz, start_us=start, channels=self._names)

    def _start_us(self, frame: "AudioFrame") -> int | None:
        """The frame's time, rounded half up; the end of what came before where it has none."""
        pts, base = frame.pts, frame.time_base
        if pts is None or base is None:
            return self._end_us
        if base != self._base:
            self._base, us = base, base * 1_000_000
            self._us = us.numerator, us.denominator
        num, den = self._us
        return (2 * pts * num + den) // (2 * den)

    def _note(self, error: str) -> None:
        self._log.n_sound_errors += 1
        self._log.first_sound_error = self._log.first_sound_error or error


_PLAIN = {"flt": np.float32, "fltp": np.float32, "s16": np.int16, "s16p": np.int16}
"""Sample formats that lie in memory as numpy has them; PyAV's own way to an array takes five times as long a piece."""


def planes(frame: "AudioFrame", channels: int | None = None) -> np.ndarray:
    """The frame's samples as float32 [channels, n], full scale at 1, whatever its sample format. Raises ValueError for formats unknown."""
    format_, n = frame.format, frame.samples
    channels = channels or len(frame.layout.channels)
    kind = _PLAIN.get(format_.name)
    if kind is not None and channels < 8:
        parts = [np.frombuffer(cast(Any, plane), kind) for plane in frame.planes]
        if format_.is_planar and len(parts) == channels and all(len(p) >= n for p in parts):
            raw = np.stack([p[:n] for p in parts])
            return raw if kind is np.float32 else raw.astype(np.float32) * np.float32(1 / 32768)
        if not format_.is_planar and len(parts) == 1 and len(parts[0]) >= n * channels:
            raw = np.ascontiguousarray(parts[0][: n * channels].reshape(n, channels).T)
            return raw if kind is np.float32 else raw.astype(np.float32) * np.float32(1 / 32768)
    return _other_planes(frame)


def _other_planes(frame: "AudioFrame") -> np.ndarray:
    if frame.format.is_planar and len(frame.layout.channels) >= 8:
        frame = _interleaved(frame)
    raw = cast(Any, frame).to_ndarray()
    if not frame.format.is_planar:
        raw = raw.reshape(-1, len(frame.layout.channels)).T
    if raw.dtype.kind == "f":
        return np.asarray(raw, np.float32)
    if raw.dtype == np.uint8:
        return np.asarray((raw.astype(np.float32) - 128) / 128)
    return np.asarray(raw.astype(np.float32) * np.float32(1 / (1 << (8 * raw.dtype.itemsize - 1))))


def _interleaved(frame: "AudioFrame") -> "AudioFrame":
    """The frame in one plane: of eight planes and more, PyAV (18.1) reads past the end of FFmpeg's list of planes, and crashes or invents some."""
    import av

    pieces = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate).resample(frame)
    if len(pieces) != 1 or pieces[0].samples != frame.samples:
        raise ValueError(f"expected {frame.samples} samples in {frame.layout.name}, found {[p.samples for p in pieces]}")
    return pieces[0]
