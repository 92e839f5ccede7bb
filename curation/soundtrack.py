"""A small copy of an asset's sound for networks: 16 kHz mono FLAC, so that no later stage opens the medium again.

It rides beside the records, as key frames do: rows of at most a minute, so that a clip of 16 s reads two at most. Speech and general
sound need no more than 16 kHz (AudioSet taggers and voice detectors are trained at it); a longer pause starts a new row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

RATE_HZ = 16_000
ROW_US = 60_000_000
"""Longest row. FLAC is decoded from its start, so a clip pays for the rows that it touches."""
FILL_US = 2_000_000
"""Shorter gaps in the sound are filled with zeros; a longer one ends the row."""
MOST_HELD_BYTES = 128 << 20
"""FLAC bytes held of one asset, some two hours or more of sound; what comes after is not kept, and measures on it are unknown."""
LEVEL, FRAME_SAMPLES = 5, 4608
"""FLAC's compression, and samples a frame: with the 1,152 that FFmpeg takes at this rate it is 1 % smaller and takes half as long again."""

Samples = npt.NDArray[np.float32]
"""Mono at RATE_HZ, full scale at 1, [n]."""

SCHEMA = pa.schema(
    [
        pa.field("asset_id", pa.string(), False),
        pa.field("index", pa.int32(), False),
        pa.field("start_us", pa.int64(), False),
        pa.field("end_us", pa.int64(), False),
        pa.field("rate_hz", pa.int32(), False),
        pa.field("n_samples", pa.int32(), False),
        pa.field("flac", pa.binary(), False),
    ]
)


class SoundtrackError(ValueError):
    """A sound copy, or a file of them, is not what was written: names the subject, what was expected and what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Soundtrack:
    """A row: sound of an asset in [start_us, end_us), mono, 16 bit, as one FLAC stream."""

    asset_id: str
    index: int
    start_us: int
    end_us: int
    rate_hz: int
    n_samples: int
    flac: bytes


def to_table(rows: Iterable[Soundtrack]) -> pa.Table:
    """The rows as a table of SCHEMA, sorted by asset and index."""
    ordered = sorted(rows, key=lambda r: (r.asset_id, r.index))
    columns = [pa.array([getattr(r, name) for r in ordered], SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def read_soundtrack(path: str | Path, start_us: int | None = None, end_us: int | None = None) -> list[Soundtrack]:
    """The rows in the file, in order of time; only those that overlap [start_us, end_us) where a span is given.

    Raises FileNotFoundError where there is no file and SoundtrackError where the file does not hold sound.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"sound: expected a Parquet file at {path}, found none")
    span: Any = None if start_us is None or end_us is None else [("end_us", ">", start_us), ("start_us", "<", end_us)]
    try:
        table = pq.read_table(path, columns=SCHEMA.names, filters=span, partitioning=None).cast(SCHEMA)
    except (pa.ArrowException, ValueError, OSError) as e:
        raise SoundtrackError(f"sound {path}: expected the columns {', '.join(SCHEMA.names)}, found {e}") from e
    return sorted((Soundtrack(**row) for row in table.to_pylist()), key=lambda r: (r.asset_id, r.start_us))


def samples_between(rows: Sequence[Soundtrack], start_us: int, end_us: int) -> Samples | None:
    """The sound in [start_us, end_us) at RATE_HZ, zeros where there is none; None where no row reaches into the span.

    Raises SoundtrackError where a row does not decode to what it says.
    """
    touching = [r for r in rows if r.start_us < end_us and r.end_us > start_us]
    if not touching:
        return None
    sound = np.zeros(max(0, round((end_us - start_us) * RATE_HZ / 1_000_000)), np.float32)
    for row in touching:
        at = round((row.start_us - start_us) * RATE_HZ / 1_000_000)
        source = _decoded(row)
        first, end = max(0, at), min(len(sound), at + len(source))
        if end > first:
            sound[first:end] = source[first - at : end - at]
    return sound


class SoundtrackWriter:
    """Takes mono sound in order and keeps it as rows; `rows` has them after `finish`."""

    def __init__(self, asset_id: str) -> None:
        self._asset_id = asset_id
        self._resampler: Any = None
        self._rate = 0
        self._pieces: list[np.ndarray] = []  # int16, of the row that is open
        self._n = self._start_us = self._held = 0
        self.rows: list[Soundtrack] = []

    def push(self, mono: np.ndarray, rate_hz: int, start_us: int) -> None:
        """More sound, float32 [n] at rate_hz; it follows what came before unless `end_run` was called in between."""
        from av import AudioFrame, AudioResampler

        if self._resampler is None:
            self._resampler, self._rate = AudioResampler("s16", "mono", RATE_HZ), rate_hz
            self._place(start_us)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(mono[None]), format="fltp", layout="mono")
        frame.sample_rate = self._rate
        for piece in self._resampler.resample(frame):
            self._append(piece.to_ndarray()[0])

    def end_run(self) -> None:
        """What the resampler still holds is kept; the next push says where it belongs."""
        if self._resampler is not None:
            for piece in self._resampler.resample(None):
                self._append(piece.to_ndarray()[0])
            self._resampler = None

    def finish(self) -> None:
        """The open row is closed."""
        self.end_run()
        self._close()

    def _place(self, start_us: int) -> None:
        gap = round((start_us - self._start_us) * RATE_HZ / 1_000_000) - self._n
        if self._n and abs(gap) <= FILL_US * RATE_HZ // 1_000_000:
            if gap > 0:
                self._append(np.zeros(gap, np.int16))
            return
        self._close()
        self._start_us = start_us

    def _append(self, samples: np.ndarray) -> None:
        most = ROW_US * RATE_HZ // 1_000_000
        while len(samples):
            part = samples[: most - self._n]
            self._pieces.append(part)
            self._n += len(part)
            samples = samples[len(part) :]
            if self._n >= most:
                end = self._end_us()
                self._close()
                self._start_us = end

    def _end_us(self) -> int:
        return self._start_us + round(self._n * 1_000_000 / RATE_HZ)

    def _close(self) -> None:
        if self._n and self._held < MOST_HELD_BYTES:
            flac = encode_flac(np.concatenate(self._pieces))
            self._held += len(flac)
            row = Soundtrack(
                asset_id=self._asset_id, index=len(self.rows), start_us=self._start_us, end_us=self._end_us(),
                rate_hz=RATE_HZ, n_samples=self._n, flac=flac,
            )  # fmt: skip
            self.rows.append(row)
        self._pieces, self._n = [], 0


def encode_flac(samples: np.ndarray) -> bytes:
    """Mono int16 [n] at RATE_HZ as a FLAC file: the marker, the stream's description, the frames. No container is written."""
    from av import AudioFrame
    from av.audio.codeccontext import AudioCodecContext

    codec = AudioCodecContext.create("flac", "w")
    codec.sample_rate, codec.layout, codec.format = RATE_HZ, "mono", "s16"  # type: ignore[assignment]
    codec.options = {"compression_level": str(LEVEL), "frame_size": str(FRAME_SAMPLES)}
    codec.open()
    frames: list[bytes] = []
    for at in range(0, len(samples), FRAME_SAMPLES):
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None, at : at + FRAME_SAMPLES]), format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, at
        frames += [bytes(p) for p in codec.encode(frame)]
    frames += [bytes(p) for p in codec.encode(None)]
    description = bytes(codec.extradata or b"")
    # one metadata block, the last (0x80), of type 0: STREAMINFO
    return b"fLaC" + bytes([0x80]) + len(description).to_bytes(3, "big") + description + b"".join(frames)


def decode_flac(flac: bytes, n_samples: int) -> Samples:
    """The samples of `encode_flac`'s bytes, full scale at 1. Raises SoundtrackError where they are not n_samples of mono FLAC."""
    import av.error
    from av.audio.codeccontext import AudioCodecContext

    most = ROW_US * RATE_HZ // 1_000_000
    if flac[:4] != b"fLaC" or len(flac) < 42 or not 0 < n_samples <= most:
        raise SoundtrackError(f"sound: expected FLAC of 1 to {most} samples, found {len(flac)} bytes that claim {n_samples}")
    codec = AudioCodecContext.create("flac", "r")
    codec.extradata = flac[8:42]
    pieces: list[np.ndarray] = []
    try:
        packets = codec.parse(flac[42:])
        while last := codec.parse(None):  # the parser holds several frames back and gives one a call
            packets += last
        for packet in packets:
            pieces += [f.to_ndarray()[0] for f in codec.decode(packet)]
            if sum(map(len, pieces)) > n_samples:
                break
        pieces += [f.to_ndarray()[0] for f in codec.decode(None)]
    except av.error.FFmpegError as e:
        raise SoundtrackError(f"sound: expected {n_samples} samples of FLAC, found {len(flac)} bytes that do not decode ({e})") from e
    found = sum(map(len, pieces))
    if found != n_samples or any(p.dtype != np.int16 for p in pieces):
        raise SoundtrackError(f"sound: expected {n_samples} samples of 16 bit FLAC, found {found}")
    return np.concatenate(pieces).astype(np.float32) / np.float32(32768)


@lru_cache(maxsize=4)
def _decoded(row: Soundtrack) -> Samples:
    """Clips of one asset come one after the other: four rows, 15 MB, serve them all."""
    return decode_flac(row.flac, row.n_samples)
