"""Where a file's pictures are shown in a collection: spans of its series of hashes in those of other videos, and edited copies of clips.

Spans come from hashes of the whole picture, of the file all, of the others eight a second (`hash_observer`), so they survive another cut,
re-encoding, scaling and another speed. Edited copies (crops, logos, mirrored pictures, stills) come from the many ways in which key frames are hashed (`picture_hashes`) and
are judged as near-duplicates are. Both ask an index of the file's hashes, so the collection streams by once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation.blocklist import MIN_QUALITY
from curation.duplicates import DuplicatesConfig
from curation.embeddings import Descriptor
from curation.hash_index import HashIndex
from curation.hash_observer import hashes_of
from curation.near_hashes import distances, to_words
from curation.subclips import Series, SubclipsConfig, find_subclips
from curation.tracks import Track


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Pictures of the file at [start_us, end_us] are those of the other at [there_start_us, there_end_us], both ends inclusive.

    `distance` is in bits of 256: of a span the median over the other's pictures, of an edited copy that of the nearest two. `matched` is the
    share that matches of the other's pictures in the span, or of the seconds of the shorter one of two copies.
    """

    start_us: int
    end_us: int
    there_start_us: int
    there_end_us: int
    distance: int
    matched: float


def series_of(track: Track | None) -> Series:
    """The series of a track `hashes`, without pictures too flat to be told apart; empty without a track."""
    if track is None:
        return Series(pts_us=np.zeros(0, np.int64), words=to_words(None, ""))
    good = np.flatnonzero(track["quality"] >= MIN_QUALITY)
    every = hashes_of(track)
    return Series(pts_us=track.pts_us[good], words=to_words([every[i] for i in good], ""))


class FileSeries:
    """The series of a file, ready to be looked for in others."""

    def __init__(self, own: Series, cfg: SubclipsConfig) -> None:
        self._own, self._cfg, self._index = own, cfg, HashIndex(own.words)

    def spans(self, other: Series) -> list[Shown]:
        """The spans that both show, the longest first."""
        met = {int(row) for there, _, _ in self._index.near_pairs(other.words, self._cfg.max_distance) for row in there}
        if len(met) < self._cfg.min_matches:  # nearly every other video: cheap
            return []
        out = []
        for s in find_subclips(self._own, other, self._cfg):
            a, b = (
                x.words[(x.pts_us >= first) & (x.pts_us <= last)]
                for x, first, last in ((self._own, s.start_a_us, s.end_a_us), (other, s.start_b_us, s.end_b_us))
            )
            nearest = distances(b, a).min(axis=1)
            out.append(
                Shown(
                    start_us=s.start_a_us,
                    end_us=s.end_a_us,
                    there_start_us=s.start_b_us,
                    there_end_us=s.end_b_us,
                    distance=int(np.median(nearest)),
                    matched=float((nearest <= self._cfg.max_distance).mean()),
                )
            )
        return out


class FileCopies:
    """The descriptor of a file, ready to be compared with those of clips."""

    def __init__(self, own: Descriptor, cfg: DuplicatesConfig) -> None:
        self._own, self._cfg = own, cfg
        self._index = HashIndex(to_words(own.pdq, own.clip_id))
        self._frame, self._pts = np.array(own.pdq_frame, np.int64), np.array(own.pdq_pts_us, np.int64)
        self._is_own = np.array(own.pdq_own, bool)

    def near(self, described: pa.Table) -> Iterator[tuple[str, Shown]]:
        """The clips, as `embeddings` describes them, that are near-duplicates of the file."""
        names = ("clip_id", "pdq", "pdq_frame", "pdq_own", "pdq_pts_us")
        for clip_id, pdq, frames, own, times in zip(*(described.column(n).to_pylist() for n in names), strict=True):
            if pdq and (shown := self._compare(to_words(pdq, clip_id), *(np.array(x) for x in (frames, own, times)))):
                yield clip_id, shown

    def _compare(self, words: np.ndarray, frame: np.ndarray, own: np.ndarray, pts_us: np.ndarray) -> Shown | None:
        pieces = list(self._index.near_pairs(words, self._cfg.max_distance))
        there, here, bits = (np.concatenate(column) for column in zip(*pieces, strict=True)) if pieces else (np.zeros(0, np.int64),) * 3
        compared = own[there] | self._is_own[here]
        there, here, bits = there[compared], here[compared], bits[compared]
        n_here, n_there = len(np.unique(self._frame)), len(np.unique(frame))
        matched = min(len(np.unique(self._frame[here])), len(np.unique(frame[there])))
        if not len(there) or not self._cfg.enough(matched, n_here, n_there):
            return None
        return Shown(
            start_us=int(self._pts[here].min()),
            end_us=int(self._pts[here].max()),
            there_start_us=int(pts_us[there].min()),
            there_end_us=int(pts_us[there].max()),
            distance=int(bits.min()),
            matched=matched / min(n_here, n_there),
        )
