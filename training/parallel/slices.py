"""Which part of a parameter each rank holds, and how any number of ranks reads what another number wrote.

ZeRO-3 flattens a parameter of n values, pads it to a multiple of the world size and gives rank r the r-th equal piece. On disk the
padding is left out: rank r of W holds values [r*p, min((r+1)*p, n)), p = ceil(n / W). So a file is readable by any W.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def span(numel: int, rank: int, world: int) -> tuple[int, int]:
    """The half-open range of flat indices that the rank holds, without padding; empty for the last ranks of a tiny parameter."""
    piece = -(-numel // world)
    start = min(rank * piece, numel)
    return start, min(start + piece, numel)


def read_span(start: int, end: int, numel: int, saved_world: int, read: Callable[[int, int, int], Tensor]) -> Tensor:
    """Values [start, end) of a parameter that `saved_world` ranks wrote; `read(rank, i, j)` gives values i..j-1 of a rank's piece."""
    parts, piece = [], max(1, -(-numel // saved_world))
    for rank in range(start // piece, min(saved_world, -(-end // piece))):
        low, high = span(numel, rank, saved_world)
        if (first := max(start, low)) < (last := min(end, high)):
            parts.append(read(rank, first - low, last - low))
    return join(parts)


def join(parts: Sequence[Tensor]) -> Tensor:
    """The flat pieces one after the other; an empty float32 tensor when there are none."""
    return torch.cat(list(parts)) if parts else torch.empty(0)
