"""Laws of sampling in windows: they cover, their shares sum to one, and one window is plain sampling."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import flow, keyed
from training.windows import Axis, Window, blending, covering, joined, triangle, uniform, windows

LENGTHS = st.integers(1, 200)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """(length, size, overlap) that `windows` takes."""
    size = draw(st.integers(1, 60))
    return draw(LENGTHS), size, draw(st.integers(0, size - 1))


@given(cuts())
@settings(deadline=None)
def test_windows_cover_with_equal_sizes_and_overlap(cut: tuple[int, int, int]) -> None:
    """Every place is in a window, all are equally long, in order, and neighbours share at least the overlap."""
    length, size, overlap = cut
    parts = windows(*cut)
    assert parts[0][0] == 0 and parts[-1][1] == length
    assert {end - start for start, end in parts} == {min(size, length)}
    for (a, b), (c, _) in itertools.pairwise(parts):
        assert a < c and b - c >= overlap


@given(cuts(), st.sampled_from([uniform, triangle]))
@settings(deadline=None)
def test_shares_of_every_place_sum_to_one(cut: tuple[int, int, int], weight) -> None:
    """Over all windows the shares of a place are positive and sum to one, for both weights."""
    parts = windows(*cut)
    total = torch.zeros(cut[0])
    for (start, end), share in zip(parts, blending(cut[0], parts, weight), strict=True):
        assert bool((share > 0).all())
        total[start:end] += share
    torch.testing.assert_close(total, torch.ones(cut[0]))


@pytest.mark.parametrize(("length", "size", "overlap"), [(0, 4, 1), (5, 4, 4), (5, 4, -1)])
def test_windows_that_make_no_sense_are_refused(length: int, size: int, overlap: int) -> None:
    """No length, or an overlap that is not below the size, is an error that says what was found."""
    with pytest.raises(ValueError, match=r"expected length >= 1 and 0 <= overlap < size, found"):
        windows(length, size, overlap)


def test_places_that_no_window_covers_are_refused() -> None:
    """A gap between windows is an error and not a division by zero."""
    with pytest.raises(ValueError, match="expected every place to be covered"):
        blending(6, [(0, 2), (3, 6)], uniform)


def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
    """A flow that looks at its neighbours, as attention does."""
    return torch.tanh(x + x.mean(-1, keepdim=True)) * (1 + t)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_one_window_is_plain_sampling(solver) -> None:
    """Where the window holds the whole, every step is that of the model alone, bit for bit, for either weight."""
    x_0, config = keyed.normal((1, 3, 17), "windows"), flow.SamplerConfig(solver=solver, steps=6, linear_steps=6)
    plain = flow.solve(velocity, x_0, config)
    for weight in (uniform, triangle):
        made = flow.solve(covering(lambda box: velocity, [Axis(2, 17, 20, 4)], weight), x_0, config)
        assert torch.equal(made, plain)


def test_what_windows_agree_on_is_what_the_whole_says() -> None:
    """A flow that looks at each place alone is the same in windows as at once, along one axis and along two."""
    x_0, config = keyed.normal((1, 2, 23, 9), "windows"), flow.SamplerConfig(steps=4, linear_steps=4)

    def alone(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.cos(x) - t

    def make(box: dict[int, Window]) -> flow.Velocity:
        assert set(box) == {2, 3}
        return alone

    made = flow.solve(covering(make, [Axis(2, 23, 8, 3), Axis(3, 9, 4, 1)], triangle), x_0, config)
    torch.testing.assert_close(made, flow.solve(alone, x_0, config))


def test_windows_meet_in_proportion_to_their_weight() -> None:
    """Where two windows overlap, their velocities are averaged by the triangle: each speaks most where it sees as far on both sides."""
    parts: list[Window] = [(0, 4), (2, 6)]
    dx_dt = joined([lambda x, t: torch.zeros_like(x), lambda x, t: torch.ones_like(x)], parts, blending(6, parts, triangle), 1)
    expected = torch.tensor([[0.0, 0.0, 0.25, 0.75, 1.0, 1.0]])
    torch.testing.assert_close(dx_dt(torch.zeros(1, 6), 0.0), expected)
