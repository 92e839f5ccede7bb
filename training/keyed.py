"""Randomness by key: every draw is a function of what it is for, so nothing random has to be saved or restored.

A key is any list of integers and strings, by habit (seed, stage, purpose, sample, epoch). The stream is Philox with the first 128
bits of the key's SHA-256. Torch's own CPU generator is not used: it keeps 32 bits of a seed, so 2**40 + 5 draws what 5 draws.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from manifests.ids import digest

if TYPE_CHECKING:
    import torch


class _Key(ISeedSequence):
    """What Philox takes for its key. Given as `key=`, numpy asks the system for a seed that is then not used, which costs more than the rest."""

    def __init__(self, key: str) -> None:
        self._words = np.frombuffer(bytes.fromhex(key)[::-1], "<u8")

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return self._words.astype(dtype)[:n_words]


def stream(*key: object) -> np.random.Generator:
    """A generator whose draws depend on the key alone."""
    seed: Any = _Key(digest("keyed/v1", *key))
    return np.random.Generator(np.random.Philox(seed))


def normal(shape: tuple[int, ...], *key: object) -> "torch.Tensor":
    """Standard normal float32 values of the shape, on the CPU, the same for the same key on any machine."""
    import torch

    return torch.from_numpy(stream(*key).standard_normal(shape, dtype=np.float32))


def integer(low: int, high: int, *key: object) -> int:
    """A whole number, low <= n < high, uniform over keys."""
    if high <= low:
        raise ValueError(f"integer: expected low < high, found {low} and {high}")
    return low + int(stream(*key).integers(high - low))
