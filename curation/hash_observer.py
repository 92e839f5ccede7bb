"""Watches a video's pictures as hashes: eight a second, so that a copy with other key frames, trimmed or at another speed, is still met.

A hash of the small luma plane costs some 0.04 ms, so eight a second add about 1 % to a decode; 32 bytes each are 256 a second.
"""

import numpy as np

from curation.observe import Frame
from curation.pdq import PDQ_BYTES, hash_plane
from curation.tracks import Recorder, Track

LEAST_US = 120_000
"""Least spacing. Of a moving picture two hashes half as far apart are still within 31 bit; at 250 ms a third of trimmed copies were not."""
TRACK = "hashes"
_LEVELS = 219.0  # limited range: 16 black, 235 white


class HashObserver:
    """Fills the track `hashes`: `quality` 0..100, and as its pictures [4, 8] the 32 bytes of the PDQ hash of the whole picture."""

    def __init__(self) -> None:
        self._recorder = Recorder(TRACK, ("quality",))
        self._due = -(1 << 62)

    def push(self, frame: Frame) -> None:
        """The frame is hashed when it is due."""
        if frame.pts_us < self._due:
            return
        self._due = frame.pts_us + LEAST_US
        value, quality = hash_plane(frame.y, _LEVELS)
        self._recorder.add(frame.pts_us, quality, picture=np.frombuffer(value, np.uint8).reshape(4, PDQ_BYTES // 4))

    def finish(self) -> list[Track]:
        """The track."""
        return [self._recorder.track()]


def hashes_of(track: Track) -> list[bytes]:
    """The hashes of the track's rows."""
    return [picture.tobytes() for picture in track.pictures]
