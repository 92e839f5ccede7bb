"""Sound as it comes out of a decoder: pieces of all channels with their presentation times.

A video's sound is decoded in the same pass over the file as its pictures: `decode` hands each packet of the sound stream to
`Ears`. What is wrong with the sound is counted in the log apart from the pictures and never ends them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from curation.media import FOREIGN, MAX_TIME_US

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

    from curation.decode import DecodeLog


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


PIECE_US = 500_000
"""Frames of the decoder, some 20 ms each, are told together until they are so long: a piece costs as much as a frame does."""
_MOST_VALUES = 1 << 20
"""… or hold so many samples of all channels, 4 MB."""
_JOIN_US = 20_000
"""By so much a frame's stamp may be off the end of what is held and still be told with it: Matroska and FLV round to 1 ms, and Vorbis' stamps
are off by half a block. Half of what a listener takes for no gap (`curation.audio`)."""


class Ears:
    """Decodes the packets of one sound stream and tells it to the listener, piece by piece."""

    def __init__(self, stream: Any, tell: Listener, log: "DecodeLog", max_errors: int, check: Callable[[], None]) -> None:
        """`check` raises where the file has had its time: it is asked now and then."""
        stream.thread_count = 1
        self.stream = stream
        self._tell, self._log, self._max_errors, self._check = tell, log, max_errors, check
        self._n_packets = 0
        self._us: tuple[int, int] | None = None  # how many us one of a stamp is
        self._held: list[AudioFrame] = []  # not yet told, one after the other and alike in …
        self._kind: tuple[int, str, str] = (1, "", "")  # … rate, layout and sample format
        self._n_held = self._start_us = 0
        self._end_us: int | None = None
        self.heard_us = 0  # length of all sound heard so far

    def hear(self, packet: Any) -> None:
        """The packet's sound is told, now or with a later one's. Broken packets are counted; after too many the rest of the sound is left."""
        import av

        self._n_packets += 1
        if not self._n_packets & 255:
            self._check()
        if self._log.n_sound_errors > self._max_errors:
            return
        try:
            for frame in packet.decode():
                self._take(frame)
        except av.error.EOFError:
            return  # a second flush: nothing is missing
        except (av.error.FFmpegError, *FOREIGN) as e:  # such as pictures in a stream of sound
            self._note(f"{type(e).__name__}: {e}")

    def rest(self) -> None:
        """What is still held is told."""
        frames, self._held = self._held, []
        if not frames:
            return
        try:
            names = channel_names(frames[0].layout)
            samples = planes(frames, len(names))
        except FOREIGN as e:  # such as a sample format that has no numpy type
            self._note(f"{type(e).__name__}: {e}")
            return
        self._tell(Sound(samples=samples, rate_hz=self._kind[0], start_us=self._start_us, channels=names))

    def _take(self, frame: "AudioFrame") -> None:
        """The frame is held. One without a time (the decoder's last, often) follows the frame before it."""
        n, rate_hz = frame.samples, frame.sample_rate
        if not n or not rate_hz:
            return
        start = self._time(frame)
        if start is None or abs(start) > MAX_TIME_US:
            self._note("sound without a usable presentation time")
            return
        kind = rate_hz, frame.layout.name, frame.format.name
        if self._held and (kind != self._kind or abs(start - self._end_held_us()) > _JOIN_US):
            self.rest()
        if not self._held:
            self._kind, self._start_us, self._n_held = kind, start, 0
        self._held.append(frame)
        self._n_held += n
        length_us = round(n * 1_000_000 / rate_hz)
        self._end_us, self.heard_us = start + length_us, self.heard_us + length_us
        if self._n_held * 1_000_000 >= PIECE_US * rate_hz or self._n_held * frame.layout.nb_channels >= _MOST_VALUES:
            self.rest()

    def _end_held_us(self) -> int:
        return self._start_us + round(self._n_held * 1_000_000 / self._kind[0])

    def _time(self, frame: "AudioFrame") -> int | None:
        """The frame's time, rounded half up; the end of what came before where it has none."""
        pts = frame.pts
        if pts is None:
            return self._end_us
        if self._us is None:  # one for all frames of a stream, and dear to ask for
            base = frame.time_base
            if base is None:
                return self._end_us
            us = base * 1_000_000
            self._us = us.numerator, us.denominator
        num, den = self._us
        return (2 * pts * num + den) // (2 * den)

    def _note(self, error: str) -> None:
        self._log.n_sound_errors += 1
        self._log.first_sound_error = self._log.first_sound_error or error


def channel_names(layout: Any) -> tuple[str, ...]:
    """FFmpeg's names of the layout's channels."""
    names = tuple(c.name for c in layout.channels)
    return _USUAL.get(len(names), names) if "NONE" in names else names


_PLAIN = {"flt": np.float32, "fltp": np.float32, "s16": np.int16, "s16p": np.int16}
"""Sample formats that lie in memory as numpy has them; PyAV's own way to an array takes five times as long a frame."""


def planes(frames: "Sequence[AudioFrame]", channels: int | None = None) -> np.ndarray:
    """The samples of frames of one format, one after the other, as float32 [channels, n], full scale at 1. Raises ValueError for formats unknown."""
    format_ = frames[0].format
    channels = channels or len(frames[0].layout.channels)
    kind = _PLAIN.get(format_.name)
    if kind is None or channels >= 8:
        return np.concatenate([_other_planes(f) for f in frames], axis=1)
    sizes = [f.samples for f in frames]
    width = 1 if format_.is_planar else channels
    by_plane = zip(*(cast(Any, f).planes for f in frames), strict=True)
    # A plane may be longer than the samples in it.
    joined = [np.concatenate([np.frombuffer(p, kind)[: n * width] for p, n in zip(ps, sizes, strict=True)]) for ps in by_plane]
    raw = np.stack(joined[:channels]) if format_.is_planar else np.ascontiguousarray(joined[0].reshape(-1, channels).T)
    if raw.shape != (channels, sum(sizes)):
        raise ValueError(f"expected {channels} x {sum(sizes)} samples of sound, found {raw.shape}")
    return raw if kind is np.float32 else raw.astype(np.float32) * np.float32(1 / 32768)


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
