"""Watches a video's pictures as hashes: eight a second, so that a copy with other key frames, trimmed or at another speed, is still met.

`benchmarks/copies_cost.py` has what it costs; 32 bytes each are 256 a second.
"""

import numpy as np

from curation.observe import Frame
from curation.pdq import PDQ_BYTES, cells, frequencies, hashes, qualities
from curation.tracks import Recorder, Track

LEAST_US = 120_000
"""Least spacing. Of a moving picture two hashes half as far apart are still within 31 bit; at 250 ms a third of trimmed copies were not."""
TRACK = "hashes"
_AT_ONCE = 32  # grids of 4 KB: calls are paid once
_LEVELS = 219.0  # limited range: 16 black, 235 white


class HashObserver:
    """Fills the track `hashes`: `quality` 0..100, and as its pictures [4, 8] the 32 bytes of the PDQ hash of the whole picture."""

    def __init__(self, least_us: int = LEAST_US) -> None:
        self._least_us = least_us
        self._recorder = Recorder(TRACK, ("quality",))
        self._due = -(1 << 62)
        self._held: list[tuple[int, np.ndarray]] = []
        self._cells: np.ndarray | None = None  # of the picture that stands

    def push(self, frame: Frame) -> None:
        """The frame is hashed when it is due."""
        if not frame.repeats:
            self._cells = None
        if frame.pts_us < self._due:
            return
        self._due = frame.pts_us + self._least_us
        self._cells = cells(frame.y) if self._cells is None else self._cells
        self._held.append((frame.pts_us, self._cells))
        if len(self._held) == _AT_ONCE:
            self._flush()

    def finish(self) -> list[Track]:
        """The track."""
        self._flush()
        return [self._recorder.track()]

    def _flush(self) -> None:
        if not self._held:
            return
        grids = np.stack([grid for _, grid in self._held])
        found = zip(self._held, qualities(grids, _LEVELS).tolist(), hashes(frequencies(grids)), strict=True)
        for (pts_us, _), quality, value in found:
            self._recorder.add(pts_us, quality, picture=np.frombuffer(value, np.uint8).reshape(4, PDQ_BYTES // 4))
        self._held = []


def hashes_of(track: Track) -> list[bytes]:
    """The hashes of the track's rows."""
    return [picture.tobytes() for picture in track.pictures]
