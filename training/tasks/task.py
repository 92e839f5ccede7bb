"""What the loop asks of a training task. No task overrides the loop's step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from training.data.batch import Batch
from training.data.index import Sample


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """The loss of each sample, (B,), with gradient; named parts of it, each (B,), without; and the bin each is logged in too."""

    total: Tensor
    parts: dict[str, Tensor]
    bins: Tensor | None = None
    """Whole numbers from 0, (B,): for a flow, which part of [0, 1] the sample's time fell in."""


class Heard(NamedTuple):
    """Windows of sound, and what was shown in them, on the model's device."""

    sound: Tensor
    """Mono samples at 48 kHz in [-1, 1], (B, N)."""
    frames: Tensor
    """Pictures in [-1, 1], evenly spaced over the window, (B, 3, T, H, W)."""
    seen: Tensor
    """Whether there were pictures, (B, 1); black ones stand for none."""


class Task(Protocol):
    """One training stage: what is trained, against what, how it is measured, and how it is shown."""

    name: str
    updates: tuple[str, ...]
    """Optimiser updates of a step, in order, each of the module of that name; one for everything without an adversary."""

    blocks: tuple[type[nn.Module], ...]
    """Classes of the module's building blocks: what is gathered, and later compiled or recomputed, as one."""

    measures: tuple[str, ...]
    """Names of what `score` measures; `{}` in each stands for the kind of media ('', '_video', '_image')."""

    def modules(self, drawn: bool = True) -> dict[str, nn.Module]:
        """The modules to train, on the CPU, by their updates' names; the first is the model, which is averaged and exported.

        Initialised, or, not `drawn`, of the same shapes with nothing read or written: a process that gets its weights from another needs no
        memory for them."""

    def loss(self, update: str, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """The loss of each sample in an update; `engines` are around `modules()`, `pixels` are the batch's on its device."""

    def score(self, model: Callable[..., Any], sample: Sample, pixels: Any, dtype: torch.dtype) -> Tensor:
        """Each of `measures` on one held-out clip, float32 pixels (1, 3, T, H, W) on the model's device, which computes in `dtype`; the
        same draws at every measurement. A stage of sound gets a `Heard` in their place."""

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Any) -> Tensor:
        """What the model makes of (or in place of) held-out pixels, in [-1, 1], same shape; the same draws every time. A stage of sound
        makes samples (1, N) of a `Heard`."""

    def tokens(self, shape: tuple[int, int, int, int, int]) -> int:
        """Positions that the model works on, for pixels of this shape: latent positions, or a transformer's tokens."""

    def flops(self, shape: tuple[int, int, int, int, int], encoded: bool = False) -> int:
        """Floating-point operations of forward and backward on pixels of this shape, for the whole batch."""

    def description(self) -> dict[str, Any]:
        """What an export says beside the weights, as JSON values; `model` builds the module again."""
