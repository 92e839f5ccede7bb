"""Sampling what is longer than a model's window: every step moves all windows, and what they say where they overlap is averaged.

MultiDiffusion (Bar-Tal et al. 2023): dx/dt at a place is the weighted mean of what each window over it says. The spatial
upsampler takes windows of 14 frames that overlap by 4, all places alike (Movie Gen, Spatial Upsampler); sound takes a triangle, so that a
window speaks most where it sees as much on both sides (Movie Gen Audio, extension).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.flow import Velocity

Window = tuple[int, int]
"""First place and the one after the last."""


def windows(length: int, size: int, overlap: int) -> list[Window]:
    """Windows of `size` that cover 0 <= i < length, each sharing at least `overlap` places with the one before; the last is moved back to
    end where the length does, so that all are equally long. One window of `length` where that is no more than `size`."""
    if not 0 <= overlap < size or length < 1:
        raise ValueError(f"windows: expected length >= 1 and 0 <= overlap < size, found {length}, {overlap} and {size}")
    if length <= size:
        return [(0, length)]
    starts = [*range(0, length - size, size - overlap), length - size]
    return [(start, start + size) for start in starts]


def uniform(size: int) -> Tensor:
    """Every place of a window counts alike, (size,)."""
    return torch.ones(size)


def triangle(size: int) -> Tensor:
    """A window's places count less towards its ends, (size,): (i + 1/2) / (size / 2) up to the middle, and down again."""
    places = torch.arange(size) + 0.5
    return torch.minimum(places, size - places) / (size / 2)


def blending(length: int, parts: Sequence[Window], weight: Callable[[int], Tensor]) -> list[Tensor]:
    """Each window's share of every place it covers, (its length,); over all windows the shares of a place sum to one."""
    raw = [weight(end - start) for start, end in parts]
    total = torch.zeros(length)
    for (start, end), share in zip(parts, raw, strict=True):
        total[start:end] += share
    if not bool((total > 0).all()):
        raise ValueError("windows: expected every place to be covered, found one that is not")
    return [share / total[start:end] for (start, end), share in zip(parts, raw, strict=True)]


def joined(velocities: Sequence[Velocity], parts: Sequence[Window], shares: Sequence[Tensor], dim: int) -> Velocity:
    """dx/dt of the whole, of which `velocities[i]` says that of window i; `dim` is the axis that windows lie on."""

    def dx_dt(x: Tensor, t: float) -> Tensor:
        if len(parts) == 1:
            return velocities[0](x, t)
        total = torch.zeros_like(x)
        shape = [1] * x.ndim
        for velocity, (start, end), share in zip(velocities, parts, shares, strict=True):
            shape[dim] = end - start
            part = velocity(x.narrow(dim, start, end - start), t)
            total.narrow(dim, start, end - start).add_(part * share.to(x.device, x.dtype).view(shape))
        return total

    return dx_dt


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a latent that windows of `size` lie on, sharing at least `overlap` places; one is enough where the axis is no longer."""

    dim: int
    length: int
    size: int
    overlap: int


def covering(
    make: Callable[[Mapping[int, Window]], Velocity],
    axes: Sequence[Axis],
    weight: Callable[[int], Tensor],
    box: Mapping[int, Window] | None = None,
) -> Velocity:
    """dx/dt of a latent that is covered by windows along several axes; `make(box)` says that of one, box = axis -> window."""
    chosen = dict(box or {})
    if not axes:
        return make(chosen)
    first, *rest = axes
    parts = windows(first.length, first.size, first.overlap)
    velocities = [covering(make, rest, weight, chosen | {first.dim: part}) for part in parts]
    return joined(velocities, parts, blending(first.length, parts, weight), first.dim)
