"""PDQ hashes at hand, asked which of them lie near others: complete within 31 bits, without comparing all pairs. In memory, on one core.

The search of `near_hashes` the other way round: of 16 bands of 16 bits two hashes within 31 bits share one but for at most one bit. So for
every band the hashes lie sorted by it, and a hash that asks looks up its own value and the 16 values one bit away: 272 look-ups and one
comparison in 241 where hashes are evenly spread.
"""

from collections.abc import Iterator

import numpy as np

from curation.near_hashes import MAX_DISTANCE

_BANDS = 16
_VALUES = 1 << 16
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.int64)
_ASKED_AT_ONCE = 1024
_PAIRS_AT_ONCE = 1 << 20  # 1 M pairs x 32 bytes, twice: 64 MB of working memory

Near = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Places of the asked hashes and of those here, int64 [k], and their distances in bits, int64 [k]."""


class HashIndex:
    """An index over hashes given as uint64 words [n, 4]. Costs 160 bytes a hash, and 8 MB."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = np.ascontiguousarray(words)
        bands = _bands(self._words)
        self._order = np.argsort(bands, axis=0, kind="stable")
        values = np.arange(_VALUES + 1)
        self._starts = np.stack([np.searchsorted(bands[self._order[:, b], b], values) for b in range(_BANDS)])

    def __len__(self) -> int:
        return len(self._words)

    def near_pairs(self, asked: np.ndarray, max_distance: int) -> Iterator[Near]:
        """All pairs within max_distance of the asked hashes, uint64 words [m, 4], and those here, each once, in pieces.

        Raises ValueError for more than 31 bits: beyond, pairs would be missed.
        """
        if not 0 <= max_distance <= MAX_DISTANCE:
            raise ValueError(f"hash index: expected a distance of 0 to {MAX_DISTANCE} bits, found {max_distance}")
        for first in range(0, len(asked), _ASKED_AT_ONCE):
            words = np.ascontiguousarray(asked[first : first + _ASKED_AT_ONCE])
            for row, here, band in self._candidates(words):
                differing = words[row] ^ self._words[here]
                bits = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
                near = np.flatnonzero(bits <= max_distance)
                # A pair that meets in several bands is told in the first of them.
                told = near[(np.bitwise_count(_bands(differing[near])) <= 1).argmax(axis=1) == band[near]]
                yield row[told] + first, here[told], bits[told]

    def nearest(self, asked: np.ndarray) -> np.ndarray:
        """The distance in bits, int64 [m], of each asked hash to the nearest one here; 32 where none is within 31."""
        found = np.full(len(asked), MAX_DISTANCE + 1, np.int64)
        for row, _, bits in self.near_pairs(asked, MAX_DISTANCE):
            np.minimum.at(found, row, bits)
        return found

    def _candidates(self, words: np.ndarray) -> Iterator[Near]:
        """(row, here, band) of the pairs that share a band but for at most one bit, in pieces."""
        band = np.arange(_BANDS)[None, :, None]
        value = _bands(words).astype(np.int64)[:, :, None] ^ _FLIPS
        start, end = self._starts[band, value].ravel(), self._starts[band, value + 1].ravel()
        met = np.flatnonzero(end > start)
        reached = np.cumsum(end[met] - start[met])
        piece = reached // _PAIRS_AT_ONCE
        for looked_up in np.split(met, np.flatnonzero(np.diff(piece)) + 1):
            count = end[looked_up] - start[looked_up]
            nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            where = np.repeat(looked_up, count)
            bands = where // len(_FLIPS) % _BANDS
            yield where // (len(_FLIPS) * _BANDS), self._order[start[where] + nth, bands], bands


def _bands(words: np.ndarray) -> np.ndarray:
    """The 16 bands, uint16 [n, 16], of hashes as words [n, 4]."""
    return np.asarray(words.view(np.uint16).reshape(len(words), _BANDS))
