"""Borders: bars on any side are measured, and what only looks like a bar is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.borders import BordersConfig, measure_borders
from tests.media_makers import pan, scene

CFG = BordersConfig()


def clip(top: int = 0, bottom: int = 0, left: int = 0, right: int = 0, level: int = 16) -> list[np.ndarray]:
    """Small luma frames of a pan [90, 160] behind bars."""
    rng = np.random.Generator(np.random.Philox(key=5))
    frames = []
    for picture in pan(1, 20, dx=3, width=160, height=90):
        luma = (picture[..., 1] * 0.8 + 24).astype(np.uint8)
        bars = np.ones_like(luma, bool)
        bars[top : 90 - bottom, left : 160 - right] = False
        frames.append(np.where(bars, level + rng.integers(0, 3, luma.shape), luma).astype(np.uint8))
    return frames


def sides(fields: dict) -> tuple[int, int, int, int]:
    """Top, bottom, left and right."""
    return tuple(fields[f"border_{s}"] for s in ("top", "bottom", "left", "right"))


@given(
    st.sampled_from([0, 3, 11, 25]),
    st.sampled_from([0, 3, 11, 25]),
    st.sampled_from([0, 4, 20, 50]),
    st.sampled_from([0, 4, 20, 50]),
    st.sampled_from([16, 128, 235]),
)
def test_bars_are_measured_on_every_side(top: int, bottom: int, left: int, right: int, level: int) -> None:
    """Letterbox, pillarbox and window, black, grey or white: within two small rows, scaled to the full size; the share follows."""
    fields = measure_borders(clip(top, bottom, left, right, level), 1600, 900, CFG)
    assert np.abs(np.array(sides(fields)) - 10 * np.array([top, bottom, left, right])).max() <= 20
    expected = 1 - (90 - top - bottom) * (160 - left - right) / (90 * 160)
    assert fields["border_share"] == pytest.approx(expected, abs=0.06)


def test_a_dark_scene_has_no_borders() -> None:
    """A small light on black is a scene."""
    y, x = np.mgrid[:90, :160]
    frames = [(16 + 180 * np.exp(-((x - 60 - i) ** 2 + (y - 45) ** 2) / 200)).astype(np.uint8) for i in range(20)]
    assert sides(measure_borders(frames, 1600, 900, CFG)) == (0, 0, 0, 0)
    assert measure_borders([np.full((90, 160), 16, np.uint8)], 1600, 900, CFG)["border_share"] == 0


def test_a_plain_sky_is_no_border() -> None:
    """A plain top that ends in a skyline, not in a line, is a scene."""
    frame = scene(1, 160, 90)[..., 1] // 2 + 40
    edge = 20 + (12 * np.sin(np.arange(160) / 9)).astype(int)
    frame[np.arange(90)[:, None] < edge] = 230
    assert sides(measure_borders([frame] * 8, 1600, 900, CFG)) == (0, 0, 0, 0)


def test_plain_parts_that_move_are_no_border() -> None:
    """Two slides, each with its own plain bar, have no border in common."""
    first, second = scene(1, 160, 90)[..., 1] // 2 + 60, scene(2, 160, 90)[..., 1] // 2 + 60
    first[:20] = 16
    second[:, :30] = 235
    assert sides(measure_borders([first, second], 1600, 900, CFG)) == (0, 0, 0, 0)


def test_no_frames_is_not_no_border() -> None:
    """Without frames every column is null."""
    assert set(measure_borders([], 1600, 900, CFG).values()) == {None}
