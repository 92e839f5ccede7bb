"""Medians and quantiles: NumPy's values, to the last bit."""

import numpy as np
import pytest

from curation.ranks import held_medians, median, medians, quantile

RANDOM = np.random.default_rng(5)
ROWS = [(RANDOM.normal(size=n) * 50).astype(kind) for n in (*range(1, 9), 20, 61) for kind in (np.float32, np.float64)]


@pytest.mark.parametrize("row", ROWS)
def test_medians_are_numpys(row: np.ndarray) -> None:
    """The median of an array, and of each of its rows, is the one that np.median gives."""
    assert median(row) == np.median(row)
    assert np.array_equal(medians(np.stack([row, row[::-1] * 2])), [np.median(row), 2 * np.median(row)])


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.9, 0.95, 1.0])
def test_quantiles_are_numpys(row: np.ndarray, share: float) -> None:
    """A quantile is the one that np.quantile gives, of either precision."""
    assert quantile(row, share) == np.quantile(row, share)


def test_what_is_not_held_is_left_out_of_a_median() -> None:
    """The medians of held values are those of np.nanmedian with nan for the others; a row that holds none has inf."""
    values, held = RANDOM.normal(size=(30, 7)), RANDOM.random((30, 7)) < 0.6
    held[:, 0], held[3] = True, False
    found, some = held_medians(values, held), held.any(1)
    assert np.array_equal(found[some], np.nanmedian(np.where(held, values, np.nan)[some], axis=1))
    assert np.isinf(found[3])
