"""A keyed permutation of 0..n-1 that gives any element without the others, and will give the same one for ever.

Specification `feistel/v1`. Let h be the smallest whole number >= 1 with 4**h >= n. A number below 4**h is split in two halves of
h bits, left and right. Eight rounds: (left, right) <- (right, left XOR F(right, k_r)), with

    k_r     = first 8 bytes, big endian, of SHA-256(key, then the byte r), r = 0..7
    F(x, k) = lowest h bits of mix(x XOR k)
    mix     = the finaliser of splitmix64 (Steele, Lea and Flood 2014), on 64-bit words

Results >= n are put through again until one falls below n (cycle walking): fewer than four times on average. Written out because
library permutations are not promised to stay the same, and a plan must be replayable years later.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8

Words = NDArray[np.uint64]


def permute(indices: NDArray[np.int64], n: int, key: str) -> NDArray[np.int64]:
    """Where each index lands: a bijection of 0..n-1 that depends on n and key alone. Indices outside 0..n-1 are an error."""
    if n < 1 or n > 1 << 62:
        raise ValueError(f"permute: expected 1 <= n <= 2**62, found {n}")
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= n):
        raise ValueError(f"permute: expected indices in [0, {n}), found {int(indices.min())}..{int(indices.max())}")
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = [_round_key(key, r) for r in range(_ROUNDS)]
    values = indices.astype(np.uint64)
    outside = np.ones(values.shape, bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= n
    return values.astype(np.int64)


def _feistel(values: Words, half_bits: int, keys: list[np.uint64]) -> Words:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for k in keys:
        left, right = right, left ^ (_mix(right ^ k) & mask)
    return (left << shift) | right


def _mix(x: Words) -> Words:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _round_key(key: str, r: int) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(key.encode() + bytes([r])).digest()[:8], "big"))
