"""Flow matching as pure maths in the paper's symbols: path, target, times, solvers, schedule, guidance.

t = 0 is noise x_0 ~ N(0, I), t = 1 is data x_1. Shapes: B samples; x_B... is a latent of any shape, t_B one time a sample.
The noising of training, validation and sampling is here and nowhere else. Source: Movie Gen, Flow matching and sampling.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from training import keyed

SIGMA_MIN = 1e-5
"""What is left of the noise at t = 1."""

Velocity = Callable[[Tensor, float], Tensor]
"""dx/dt at (x_t, t), the same t for all samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """How latents are drawn. Defaults are the paper's: Euler, 50 linear-quadratic steps with N = 250, guidance 7.5."""

    solver: Literal["euler", "midpoint"] = "euler"
    steps: int = 50
    linear_steps: int = 250
    """N: the first half of the steps are the first of an N-step linear grid. The paper sets 250 and compares with 1000."""
    guidance: float = 7.5

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps % 2 or self.linear_steps < self.steps:
            raise ValueError(f"sampler: expected an even number of steps >= 2 and <= linear_steps, found {self.steps}, {self.linear_steps}")


def x_at(x_0: Tensor, x_1: Tensor, t_B: Tensor, sigma_min: float = SIGMA_MIN) -> Tensor:
    """x_t = t x_1 + (1 - (1 - sigma_min) t) x_0: a straight line from noise to data. At t = 0 it is pure noise."""
    t = t_B.reshape(-1, *[1] * (x_1.ndim - 1)).to(x_1.dtype)
    return t * x_1 + (1 - (1 - sigma_min) * t) * x_0


def velocity(x_0: Tensor, x_1: Tensor, sigma_min: float = SIGMA_MIN) -> Tensor:
    """dx_t/dt = x_1 - (1 - sigma_min) x_0: what the model learns to say at any t."""
    return x_1 - (1 - sigma_min) * x_0


def logit_normal(mean: float, std: float, *key: object) -> float:
    """A time in (0, 1): the sigmoid of a normal draw of the key. The paper takes mean 0 and deviation 1."""
    z = keyed.stream(*key).normal(mean, std)
    return float(1 / (1 + np.exp(-z)))


def dropped(rate: float, *key: object) -> bool:
    """Whether this draw's condition is replaced by the empty one: true with probability `rate`, by key."""
    return bool(keyed.stream(*key).random() < rate)


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: u + scale (c - u). Scale 1 is the conditional velocity, 0 the unconditional."""
    return unconditional + scale * (conditional - unconditional)


def linear_grid(steps: int) -> list[float]:
    """steps + 1 evenly spaced times from 0 to 1."""
    return [i / steps for i in range(steps + 1)]


def linear_quadratic_grid(steps: int = 50, linear_steps: int = 250) -> list[float]:
    """steps + 1 times from 0 to 1: the first half as in a `linear_steps` linear grid, the second half quadratically spaced.

    With L = steps / 2, tau = L / N, S = steps: f(i) = i / N for i < L; f(i) = a i^2 + b i + c from L on, where d = L - tau S,
    a = d / (L (S - L)^2), b = tau / L - 2 d / (S - L)^2, c = a L^2. Then f(L) = tau, f(S) = 1 and the spacing joins smoothly.
    """
    if steps < 2 or steps % 2 or linear_steps < steps:
        raise ValueError(f"schedule: expected an even number of steps >= 2 and <= N, found {steps} steps and N = {linear_steps}")
    low = steps // 2
    tau = low / linear_steps
    d = low - tau * steps
    a, b = d / (low * (steps - low) ** 2), tau / low - 2 * d / (steps - low) ** 2
    c = a * low**2
    curve = [a * i * i + b * i + c for i in range(low, steps)]
    return [i / linear_steps for i in range(low)] + curve + [1.0]


def euler(dx_dt: Velocity, x_0: Tensor, grid: Sequence[float]) -> Tensor:
    """x at the grid's end by Euler's steps, one evaluation each; first order."""
    x = x_0
    for t, t_next in itertools.pairwise(grid):
        x = x + (t_next - t) * dx_dt(x, t)
    return x


def midpoint(dx_dt: Velocity, x_0: Tensor, grid: Sequence[float]) -> Tensor:
    """x at the grid's end by midpoint steps, two evaluations each; second order."""
    x = x_0
    for t, t_next in itertools.pairwise(grid):
        h = t_next - t
        x = x + h * dx_dt(x + h / 2 * dx_dt(x, t), t + h / 2)
    return x


def solve(dx_dt: Velocity, x_0: Tensor, config: SamplerConfig) -> Tensor:
    """The latent at t = 1 that the flow leads to from noise `x_0`, without gradient."""
    step = euler if config.solver == "euler" else midpoint
    with torch.no_grad():
        return step(dx_dt, x_0, linear_quadratic_grid(config.steps, config.linear_steps))
