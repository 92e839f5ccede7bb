"""PDQ hashes that lie near one another, found block by block: complete, without comparing all pairs. Arrow batches in and out.

Multi-index hashing (Norouzi, Punjani and Fleet 2012, arXiv 1307.2982) for distances up to 31 of 256 bits. Cut the bits into 16 bands
of 16. Were every band to differ by 2 bits or more, the distance would be at least 32; so some band differs by at most 1 bit, and
then one of its two bytes is equal and the other differs by at most 1 bit. Each hash is therefore sent to 32 of 32 x 256 blocks (place
of a byte, its value), and inside a large block only hashes whose sibling byte differs by at most 1 bit are compared. One pair in 230
is compared where hashes are evenly spread, and 32 rows a hash are shuffled instead of the 288 of bands with sent-out probes. The work is
still quadratic in the number of hashes, divided by 230; for 10^8 hashes and more, wider bands would pay.

Hashes are own ones or probes (see `embeddings`); two probes are never compared. With three probes to an own hash that saves 9 pairs of 16.
Nor are two hashes that are both of before (not `fresh`): of a collection that grew, the pairs within the old part are known (`known_pairs`).

Of few hashes all are compared in one block a kind (`one_block_batches`): 32 rows each cost more than the comparing they save.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HASH_BYTES = 32
MAX_DISTANCE = 31
"""Largest Hamming distance in bits for which the blocks are complete: 16 bands x 2 bits, less one."""

SMALL_BLOCK = 1024
"""Rows of a block up to which comparing all pairs is cheaper than sorting them by sibling byte (measured)."""

FEW_HASHES = 1 << 14
"""Hashes up to which all are compared in one block: at most some five seconds of one core, where 32 rows each take many seconds to shuffle (measured)."""

MOST_PARTNERS = 256
"""Matches of a row with rows of smaller clip_id that one block tells. A picture that k clips share (an intro, a logo on black) would be k^2 / 2 of
them; told with its first partners only, which are the same for all that share it, its clips are still joined, by k times as many."""

_WHOLE = -1
"""The number of the one block that holds all hashes of a kind."""

_PAIRS_AT_ONCE = 1 << 21  # 2 M pairs x 4 words of 8 bytes: 64 MB of working memory
_FLIPS = np.array([1 << k for k in range(8)], np.int32)

BLOCK_ROWS = pa.schema(
    [
        ("kind", pa.string()),
        ("block", pa.int32()),
        ("hash", pa.binary()),
        ("clip_id", pa.string()),
        ("frame", pa.int32()),
        ("n", pa.int32()),
        ("own", pa.bool_()),
        ("fresh", pa.bool_()),
    ]
)
MATCHES = pa.schema(
    [("a", pa.string()), ("b", pa.string()), ("fa", pa.int32()), ("fb", pa.int32()), ("na", pa.int32()), ("nb", pa.int32())]
)
"""Frame fa of clip a matches frame fb of clip b, a < b; na and nb are the clips' numbers of frames."""


class HashError(ValueError):
    """A row of hashes is not what the stage can read; names the clip, the expected and the found."""


def to_words(hashes: list[bytes] | None, clip_id: str) -> np.ndarray:
    """PDQ hashes as uint64 words [n, 4]; a hash that is not 32 bytes raises HashError."""
    for h in hashes or []:
        if h is None or len(h) != HASH_BYTES:
            found = "null" if h is None else f"{len(h)} bytes"
            raise HashError(f"clip {clip_id}: duplicates: a PDQ hash of {HASH_BYTES} bytes expected, found {found}")
    return np.frombuffer(b"".join(hashes or []), np.uint64).reshape(-1, HASH_BYTES // 8)


def to_frames(numbers: list[int] | None, n: int, clip_id: str) -> np.ndarray:
    """The frame of each of n hashes, int32: as given, or 0 to n - 1. A list of another length raises HashError."""
    if numbers is None:
        return np.arange(n, dtype=np.int32)
    if len(numbers) != n or None in numbers:
        raise HashError(f"clip {clip_id}: duplicates: pdq_frame with a number for each of {n} hashes expected, found {numbers}")
    return np.array(numbers, np.int32)


def to_own(flags: list[bool] | None, n: int, clip_id: str) -> np.ndarray:
    """Which of n hashes are own ones, bool: as given, or all. A list of another length raises HashError."""
    if flags is None:
        return np.ones(n, bool)
    if len(flags) != n or None in flags:
        raise HashError(f"clip {clip_id}: duplicates: pdq_own with a flag for each of {n} hashes expected, found {flags}")
    return np.array(flags, bool)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamming distances in bits, uint16 [n, m], between hashes given as uint64 words [n, 4] and [m, 4]."""
    total = np.zeros((len(a), len(b)), np.uint16)
    for word in range(a.shape[1]):
        total += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return total


def near_pairs(a: np.ndarray, b: np.ndarray, max_distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index arrays (i, j) of the pairs of a[i] and b[j] within max_distance, in pieces that bound the memory."""
    if not len(b):
        return
    step = max(1, _PAIRS_AT_ONCE // len(b))
    for start in range(0, len(a), step):
        i, j = np.nonzero(distances(a[start : start + step], b) <= max_distance)
        yield i + start, j


def block_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For rows (clip_id, kind, pdq, pdq_frame, pdq_own, fresh), 32 rows a hash: one for each of its bytes, in the block of the byte's place
    and value."""
    yield from _rows_of(batches, HASH_BYTES)


def one_block_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For the same rows one row a hash, all in the one block of their kind."""
    yield from _rows_of(batches, 1)


def _rows_of(batches: Iterable[pa.RecordBatch], per_hash: int) -> Iterator[pa.RecordBatch]:
    places = np.arange(HASH_BYTES, dtype=np.int32) * 256
    for batch in batches:
        ids, hashes, numbers, flags = (batch.column(c).to_pylist() for c in ("clip_id", "pdq", "pdq_frame", "pdq_own"))
        words = [to_words(own, clip_id) for own, clip_id in zip(hashes, ids, strict=True)]
        frames = [to_frames(own, len(w), clip_id) for own, w, clip_id in zip(numbers, words, ids, strict=True)]
        own_ones = [to_own(f, len(w), clip_id) for f, w, clip_id in zip(flags, words, ids, strict=True)]
        if not sum(len(w) for w in words):
            continue
        flat = np.concatenate(words)
        owner = np.repeat(np.repeat(np.arange(len(ids)), [len(w) for w in words]), per_hash)
        spread = np.repeat(np.arange(len(flat)), per_hash)
        blocks = (flat.view(np.uint8).reshape(-1, HASH_BYTES).astype(np.int32) + places).ravel()
        n_frames = np.array([len(set(f.tolist())) for f in frames], np.int32)
        columns = [
            batch.column("kind").take(pa.array(owner)),
            pa.array(blocks if per_hash == HASH_BYTES else np.full(len(flat), _WHOLE, np.int32)),
            pa.array([h for own in hashes for h in own or []], pa.binary()).take(pa.array(spread)),
            batch.column("clip_id").take(pa.array(owner)),
            pa.array(np.concatenate(frames)[spread]),
            pa.array(n_frames[owner]),
            pa.array(np.concatenate(own_ones)[spread]),
            batch.column("fresh").take(pa.array(owner)),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=BLOCK_ROWS)


def match_batches(max_distance: int, small_block: int = SMALL_BLOCK) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for mapInArrow over block rows sorted by (kind, block): pairs of hashes of different clips that match, at least one
    of them fresh, each pair once; of what more than MOST_PARTNERS share, those with the first of these."""

    def match(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for block in whole_blocks(batches):
            yield from _match_block(block, max_distance, small_block)

    return match


def whole_blocks(batches: Iterable[pa.RecordBatch], keys: tuple[str, ...] = ("kind", "block"), least: int = 2) -> Iterator[pa.Table]:
    """The runs of equal keys of at least so many rows, from batches sorted by them; a run may span batches."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        n = batch.num_rows
        if not n:
            continue
        differs = np.zeros(n - 1, bool)
        for key in keys:
            differs |= pc.not_equal(batch[key].slice(1), batch[key].slice(0, n - 1)).to_numpy(zero_copy_only=False)
        for start, end in pairwise([0, *(np.flatnonzero(differs) + 1).tolist(), n]):
            piece = batch.slice(start, end - start)
            if held and any(held[-1][k][0].as_py() != piece[k][0].as_py() for k in keys):
                yield from _several(held, least)
                held = []
            held.append(piece)
    yield from _several(held, least)


def _several(pieces: list[pa.RecordBatch], least: int) -> Iterator[pa.Table]:
    if pieces and sum(p.num_rows for p in pieces) >= least:
        yield pa.Table.from_batches(pieces)


def _match_block(block: pa.Table, max_distance: int, small_block: int) -> Iterator[pa.RecordBatch]:
    """Matches within one block, each pair only in its home of all the blocks it meets in, if there is more than one."""
    number, block = block["block"][0].as_py(), block.sort_by("clip_id")
    place = max(number, 0) // 256
    small_block = block.num_rows if number == _WHOLE else small_block
    own, fresh = (block[n].combine_chunks().to_numpy(zero_copy_only=False).astype(bool) for n in ("own", "fresh"))
    if not fresh.any():
        return
    words = np.frombuffer(b"".join(block["hash"].to_pylist()), np.uint64).reshape(-1, 4)
    clip = block["clip_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    partners = np.zeros(len(words), np.int64)
    for left, right in _candidates(words, own, fresh, place, max_distance, small_block):
        told = clip[left] != clip[right]
        if number != _WHOLE:
            told &= _home(words[left] ^ words[right]) == place
        a, b = np.minimum(left, right)[told], np.maximum(left, right)[told]
        order = np.lexsort((a, b))
        a, b = a[order], b[order]
        # Which of its pairs here each is to its b, and how many b had before.
        nth = np.arange(len(b)) - np.searchsorted(b, b)
        few = partners[b] + nth < MOST_PARTNERS
        a, b = a[few], b[few]
        partners += np.bincount(b, minlength=len(partners))
        if len(a):
            yield _matches(block, a, b)


def _candidates(
    words: np.ndarray, own: np.ndarray, fresh: np.ndarray, place: int, max_distance: int, small_block: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index arrays of near pairs in a block, each once, but of two probes and of two old ones: of all pairs when it is small, else of near
    sibling bytes."""
    sibling = words.view(np.uint8).reshape(-1, HASH_BYTES)[:, place ^ 1]
    if len(words) <= small_block:
        sibling = np.zeros_like(sibling)
    order = np.argsort(sibling, kind="stable")
    starts = np.searchsorted(sibling[order], np.arange(257)).tolist()
    for value in np.unique(sibling).tolist():
        run = order[starts[value] : starts[value + 1]]
        further = np.concatenate([run[:0], *(order[starts[w] : starts[w + 1]] for w in (value ^ _FLIPS).tolist() if w > value)])
        mine, probes = run[own[run]], run[~own[run]]
        new, old = mine[fresh[mine]], mine[~fresh[mine]]
        for i, j in near_pairs(words[new], words[new], max_distance):
            yield new[i[j > i]], new[j[j > i]]
        for left, right in ((new, old), (mine, np.concatenate([probes, further])), (probes, further[own[further]])):
            for a, b in ((left[fresh[left]], right), (left[~fresh[left]], right[fresh[right]])):
                for i, j in near_pairs(words[a], words[b], max_distance):
                    yield a[i], b[j]


def _home(differing: np.ndarray) -> np.ndarray:
    """The place where a pair is reported, for its differing bits as words [n, 4]: in the first of the 16 bands with at most one bit set,
    the first byte with none. The pair meets there, because that byte is equal and its sibling differs by at most that bit."""
    octets = np.ascontiguousarray(differing).view(np.uint8).reshape(len(differing), HASH_BYTES // 2, 2)
    band = (np.bitwise_count(octets).sum(-1) <= 1).argmax(axis=1)
    second = octets[np.arange(len(octets)), band, 0] != 0
    home: np.ndarray = 2 * band + second
    return home


def _matches(block: pa.Table, a: np.ndarray, b: np.ndarray) -> pa.RecordBatch:
    """Matching rows as MATCHES."""
    sides = [block.take(pa.array(side)) for side in (a, b)]
    columns = [side[name].combine_chunks() for name in ("clip_id", "frame", "n") for side in sides]
    return pa.RecordBatch.from_arrays(columns, schema=MATCHES)
