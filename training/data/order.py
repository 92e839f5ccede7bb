"""The order of one kind of media in numbers alone: which of a bucket's samples batch k takes, from the buckets' sizes and a key.

Nothing here knows a sample, so an order over a hundred million of them costs one number for each of their shards. Rules 2 to 4 of
`training.data.plan`, which says what they mean; a batch is reached without those before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.permutation import permute

Numbers = NDArray[np.int64]

V1, V2 = "plan/v1", "plan/v2"


@dataclass(frozen=True, slots=True)
class Stream:
    """A bucket as the order sees it: the samples of a batch, and how many of the bucket's samples lie in each of its shards, in turn."""

    name: str
    batch: int
    shards: Numbers

    @property
    def n_samples(self) -> int:
        """Samples of the bucket."""
        return int(self.shards.sum())


class Order:
    """The batches over some buckets, mixed in proportion to their batches in an epoch. `key` makes a permutation's key from its name."""

    def __init__(self, spec: str, kind: str, streams: Sequence[Stream], shuffle_shards: int, key: Callable[..., str]) -> None:
        self._spec, self._kind, self._streams, self._window, self._key = spec, kind, streams, shuffle_shards, key
        self._sizes = [s.n_samples for s in streams]
        self._batches = [s.batch for s in streams]
        self._passes: dict[tuple[int, int], tuple[Numbers, Numbers]] = {}

    def batch(self, number: int) -> tuple[int, list[tuple[int, int]]]:
        """Batch `number` (from 0): its bucket, and each member as (place in the bucket, pass over the bucket)."""
        epoch = _epoch_of(number, self._sizes, self._batches)
        first = [epoch * n // g for n, g in zip(self._sizes, self._batches, strict=True)]
        counts = [(epoch + 1) * n // g - f for n, g, f in zip(self._sizes, self._batches, first, strict=True)]
        slot = number - sum(first)
        i, j = self._shuffled(counts, slot, epoch) if self._spec == V1 else self._interleaved(counts, slot, epoch)
        return i, self._members(i, (first[i] + j) * self._batches[i], self._batches[i])

    def _shuffled(self, counts: list[int], slot: int, epoch: int) -> tuple[int, int]:
        place = int(permute(np.array([slot], np.int64), sum(counts), self._key("slots", self._kind, epoch))[0])
        i = 0
        while place >= counts[i]:
            place -= counts[i]
            i += 1
        return i, place

    def _interleaved(self, counts: list[int], slot: int, epoch: int) -> tuple[int, int]:
        """Batch j of bucket i stands at time (j + phase_i) / counts_i of the epoch; gives the one that comes as number `slot`.

        Up to time t lie t * sum(counts) batches, give or take one a bucket, so only those of a short span are sorted. Times are
        float64: IEEE 754 rounds them alike everywhere, and a bucket's own never change places.
        """
        n, k = np.array(counts, np.int64), len(counts)
        phase = np.array([int(self._key("phase", s.name, epoch)[:8], 16) for s in self._streams]) / 2.0**32
        low, high = ((slot + margin) / int(n.sum()) for margin in (-k - 2, k + 3))
        begin = np.clip(np.floor(low * n - phase).astype(np.int64), 0, n)
        end = np.clip(np.ceil(high * n - phase).astype(np.int64) + 1, begin, n)
        bucket = np.repeat(np.arange(k), end - begin)
        j = np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in zip(begin, end, strict=True)])
        chosen = np.lexsort((j, bucket, (j + phase[bucket]) / n[bucket]))[slot - int(begin.sum())]
        return int(bucket[chosen]), int(j[chosen])

    def _members(self, i: int, start: int, count: int) -> list[tuple[int, int]]:
        """`count` places of the bucket's endless stream, from place `start`."""
        n, members = self._sizes[i], []
        for pass_no in range(start // n, (start + count - 1) // n + 1):
            low, high = max(start, pass_no * n), min(start + count, (pass_no + 1) * n)
            order = self._of_pass(i, pass_no, np.arange(low, high, dtype=np.int64) - pass_no * n)
            members += [(int(p), pass_no) for p in order]
        return members

    def _of_pass(self, i: int, pass_no: int, places: Numbers) -> Numbers:
        """Where in the bucket the places of one pass lie: anywhere, or among the shards of their window."""
        stream = self._streams[i]
        if not self._window:
            return permute(places, self._sizes[i], self._key("members", stream.name, pass_no))
        shards, ends = self._shards_of_pass(i, pass_no)
        starts = ends - stream.shards[shards]
        first = np.cumsum(stream.shards) - stream.shards
        windows = starts[:: self._window]
        of_window = np.searchsorted(windows, places, "right") - 1
        found = np.empty_like(places)
        for w in np.unique(of_window):
            low, high = int(windows[w]), int(ends[min((w + 1) * self._window, len(ends)) - 1])
            key = self._key("window", stream.name, pass_no, int(w))
            at = low + permute(places[of_window == w] - low, high - low, key)
            turn = np.searchsorted(ends, at, "right")
            found[of_window == w] = first[shards[turn]] + at - starts[turn]
        return found

    def _shards_of_pass(self, i: int, pass_no: int) -> tuple[Numbers, Numbers]:
        """The bucket's shards in the order of this pass, and how many samples have passed when each is done."""
        if (known := self._passes.get((i, pass_no))) is not None:  # several threads may be here: nothing is looked up twice
            return known
        if len(self._passes) >= 2 * len(self._streams):  # a run is in one or two passes of each bucket at a time
            self._passes.clear()
        sizes = self._streams[i].shards
        shards = permute(np.arange(len(sizes), dtype=np.int64), len(sizes), self._key("shards", self._streams[i].name, pass_no))
        made = self._passes[i, pass_no] = shards, np.cumsum(sizes[shards])
        return made


def _epoch_of(number: int, sizes: list[int], batches: list[int]) -> int:
    """The epoch e with B(e) <= number < B(e+1), B(e) = sum of floor(e * n / g) over the buckets: by bisection, B never falls."""
    pairs = list(zip(sizes, batches, strict=True))
    low, high = 0, min(-(-(number + 1) * g // n) for n, g in pairs)  # where one bucket alone has given number + 1 batches
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(middle * n // g for n, g in pairs) <= number else (low, middle)
    return low
