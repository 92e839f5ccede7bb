"""What the loop asks of a training task. No task overrides the loop's step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from training.data.batch import Batch


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """The loss of each sample, (B,), with gradient, and named parts of it, each (B,), without."""

    total: Tensor
    parts: dict[str, Tensor]


class Task(Protocol):
    """One training stage: what is trained, against what, and how it is shown."""

    name: str
    updates: tuple[str, ...]
    """Optimiser updates of a step, in order; one for everything without an adversary."""

    blocks: tuple[type[nn.Module], ...]
    """Classes of the module's building blocks: what is gathered, and later compiled or recomputed, as one."""

    def module(self) -> nn.Module:
        """The module to train, initialised, on the CPU."""

    def loss(self, model: Callable[..., Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """The loss of each sample; `model` is the engine around `module()`, `pixels` are the batch's on its device."""

    def sample(self, model: Callable[..., Any], pixels: Tensor) -> Tensor:
        """What the model makes of held-out pixels, in [-1, 1], same shape; no randomness."""

    def flops(self, shape: tuple[int, int, int, int, int]) -> int:
        """Floating-point operations of forward and backward on pixels of this shape, for the whole batch."""
