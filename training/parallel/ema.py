"""The exponential moving average of the weights, sharded as the weights are: each rank averages its own piece, without talking."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.parallel.engine import Engine


class ShardedEMA:
    """Float32 averages of this rank's pieces. After t steps: a <- a + (1 - d)(w - a), d = min(decay, t / (t + 9)).

    The ramp lets the average leave the initial weights behind: at t = 1, d is 0.1; at t = 900 it is 0.99. Decay 0 keeps the weights.
    """

    def __init__(self, engine: Engine, decay: float) -> None:
        self._engine, self._decay = engine, decay
        self._average = {name: engine.local_weight(name).detach().clone() for name in engine.parameters}

    def update(self, steps_done: int) -> None:
        """The average has taken in the weights after `steps_done` steps."""
        keep = min(self._decay, steps_done / (steps_done + 9))
        weights = [self._engine.local_weight(name) for name in self._average]
        torch._foreach_lerp_(list(self._average.values()), weights, 1.0 - keep)  # one call: a small model has hundreds of small pieces

    def piece(self, name: str) -> Tensor:
        """This rank's piece of a parameter's average."""
        return self._average[name]

    def local_state(self) -> dict[str, Tensor]:
        """Copies of this rank's pieces as 'ema/<name>', on the CPU."""
        return {f"ema/{name}": average.cpu().clone() for name, average in self._average.items()}

    def load_local_state(self, read: Callable[[str, str], Tensor]) -> None:
        """The averages are those of a checkpoint; `read(kind, name)` gives this rank's piece."""
        for name, average in self._average.items():
            average.copy_(read("ema", name))
