"""Sound as it comes out of a decoder: pieces of all channels with their presentation times.

A video's sound is decoded in the same pass over the file as its pictures: `media.decode` hands each packet of the sound stream to
`Ears`. What is wrong with the sound is counted in the log apart from the pictures and never ends them.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
        if not frame.samples or not frame.sample_rate:
            return None
        start = self._end_us if frame.pts is None or frame.time_base is None else round(frame.pts * frame.time_base * 1_000_000)
        if start is None or abs(start) > MAX_TIME_US:
            self._note("sound without a usable presentation time")
            return None
        length_us = round(frame.samples * 1_000_000 / frame.sample_rate)
        self._end_us, self.heard_us = start + length_us, self.heard_us + length_us
        names = tuple(c.name for c in frame.layout.channels)
        names = _USUAL.get(len(names), names) if "NONE" in names else names
        return Sound(samples=planes(frame), rate_hz=frame.sample_rate, start_us=start, channels=names)

    def _note(self, error: str) -> None:
        self._log.n_sound_errors += 1
        self._log.first_sound_error = self._log.first_sound_error or error


def planes(frame: "AudioFrame") -> np.ndarray:
    """The frame's samples as float32 [channels, n], full scale at 1, whatever its sample format. Raises ValueError for formats unknown."""
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
