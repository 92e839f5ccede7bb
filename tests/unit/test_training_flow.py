"""Flow matching's laws: the target is the path's derivative, the schedule is the paper's, the solvers have their order, draws are keyed."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import flow


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two double tensors (2, 3, 4)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((2, 3, 4))), torch.from_numpy(rng.standard_normal((2, 3, 4)))


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_target_is_the_derivative_of_the_path(t: float, u: float, seed: int) -> None:
    """d/dt x_t by automatic differentiation, in a random direction, is `velocity`, at any time of each sample."""
    x_0, x_1 = pair(seed)
    direction, _ = pair(seed + 100)
    t_B = torch.tensor([t, u], dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad((flow.x_at(x_0, x_1, t_B) * direction).sum(), t_B)
    assert torch.allclose(derivative, (flow.velocity(x_0, x_1) * direction).sum((1, 2)), atol=1e-12)


def test_the_path_ends_in_noise_and_data() -> None:
    """At t = 0 there is pure noise (no signal leaks), at t = 1 the data with sigma_min of the noise."""
    x_0, x_1 = pair(0)
    assert torch.equal(flow.x_at(x_0, x_1, torch.zeros(2)), x_0)
    assert torch.allclose(flow.x_at(x_0, x_1, torch.ones(2)), x_1 + flow.SIGMA_MIN * x_0, atol=1e-12)


@pytest.mark.parametrize("linear_steps", [250, 1000])
def test_the_papers_schedule(linear_steps: int) -> None:
    """50 steps: 25 of an N-step linear grid, then 25 that grow quadratically; from 0 to 1, rising, each step at least the one before."""
    grid = flow.linear_quadratic_grid(50, linear_steps)
    steps = [b - a for a, b in itertools.pairwise(grid)]
    assert len(grid) == 51 and grid[0] == 0 and grid[-1] == 1
    assert grid[:26] == pytest.approx([i / linear_steps for i in range(26)], abs=1e-12)
    assert all(b >= a - 1e-12 > 0 for a, b in itertools.pairwise(steps))
    assert np.diff(steps[25:]) == pytest.approx(np.full(24, steps[26] - steps[25]), abs=1e-9)


def test_the_papers_schedule_in_figures() -> None:
    """With N = 250: t(25) 0.100, t(30) 0.152, t(40) 0.448, t(49) 0.933 (Movie Gen, schedule); with N = 1000 the linear part ends at 0.025."""
    grid = flow.linear_quadratic_grid(50, 250)
    assert [round(grid[i], 3) for i in (25, 30, 40, 49)] == [0.1, 0.152, 0.448, 0.933]
    assert flow.linear_quadratic_grid(50, 1000)[25] == pytest.approx(0.025)


@given(st.integers(1, 40).map(lambda n: 2 * n), st.integers(1, 40))
def test_any_schedule_rises_from_0_to_1(steps: int, factor: int) -> None:
    """Endpoints and order hold for any even number of steps and any N at least as large."""
    grid = flow.linear_quadratic_grid(steps, steps * factor)
    assert grid[0] == 0 and grid[-1] == 1 and len(grid) == steps + 1
    assert all(a < b for a, b in itertools.pairwise(grid))


def test_impossible_schedules_are_refused() -> None:
    """An odd number of steps and an N below it are named."""
    for steps, n in ((7, 100), (50, 20), (0, 10)):
        with pytest.raises(ValueError, match="expected an even number of steps"):
            flow.linear_quadratic_grid(steps, n)
    with pytest.raises(ValueError, match="expected an even number of steps"):
        flow.SamplerConfig(steps=3)


@pytest.mark.parametrize(("solver", "order"), [(flow.euler, 1), (flow.midpoint, 2)])
def test_solvers_have_their_order(solver, order: int) -> None:
    """On dx/dt = x cos t, whose solution is x_0 exp(sin t), half the step divides the error by 2 (Euler) or 4 (midpoint)."""
    x_0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
    exact = x_0 * math.exp(math.sin(1.0))
    errors = [float((solver(lambda x, t: x * math.cos(t), x_0, flow.linear_grid(n)) - exact).abs().max()) for n in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


def test_the_true_velocity_leads_to_the_data() -> None:
    """Both solvers follow the straight path from x_0 to its end exactly, on the paper's schedule."""
    x_0, x_1 = pair(3)
    for solver in ("euler", "midpoint"):
        end = flow.solve(lambda x, t: flow.velocity(x_0, x_1), x_0, flow.SamplerConfig(solver=solver))
        assert torch.allclose(end, x_1 + flow.SIGMA_MIN * x_0, atol=1e-12)


def test_guidance_extrapolates() -> None:
    """Scale 1 is the conditional, 0 the unconditional, 7.5 lies beyond on the line through both."""
    c, u = pair(4)
    assert torch.allclose(flow.guided(c, u, 1.0), c) and torch.equal(flow.guided(c, u, 0.0), u)
    assert torch.allclose(flow.guided(c, u, 7.5) - u, 7.5 * (c - u))


def test_times_are_logit_normal_and_keyed() -> None:
    """The logits of many draws have mean 0 and deviation 1; the same key draws the same time, another key another."""
    times = np.array([flow.logit_normal(0.0, 1.0, 7, "t", i) for i in range(2000)])
    logits = np.log(times / (1 - times))
    assert ((times > 0) & (times < 1)).all()
    assert abs(logits.mean()) < 0.08 and abs(logits.std() - 1) < 0.06
    assert flow.logit_normal(0, 1, "a", 1) == flow.logit_normal(0, 1, "a", 1) != flow.logit_normal(0, 1, "a", 2)


def test_dropout_is_keyed_and_has_its_rate() -> None:
    """A tenth of many keys is dropped at rate 0.1, always the same ones; rates 0 and 1 drop none and all."""
    once, again = ([flow.dropped(0.1, "d", i) for i in range(3000)] for _ in range(2))
    assert once == again and 0.08 < sum(once) / 3000 < 0.12
    assert not any(flow.dropped(0.0, i) for i in range(50)) and all(flow.dropped(1.0, i) for i in range(50))
