"""The cheap tests before the networks: what did not change is not looked at, what was examined is remembered, lines are cut out straight."""

from collections.abc import Sequence

import numpy as np
import pytest

from curation.keyframes import Picture
from curation.text_gate import Found, GateConfig, Sweep, TextBox, changed_part, cut_line


def _noise(key: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[key, 0])).integers(0, 255, (288, 512), dtype=np.uint8)


def test_an_unchanged_picture_has_no_changed_part() -> None:
    """Equal pictures, and ones that differ by coding noise, have nothing to look at; the first picture is looked at as a whole."""
    grey = _noise(1)
    assert changed_part(None, grey, 6.0) == (0, 0, 512, 288)
    assert changed_part(grey, grey, 6.0) is None
    assert changed_part(grey, np.clip(grey.astype(int) + 3, 0, 255).astype(np.uint8), 6.0) is None


def test_a_small_new_line_is_a_changed_part() -> None:
    """A line 10 px high that appears on a standing picture lies inside the changed part, which is far smaller than the picture."""
    grey = np.full((288, 512), 90, np.uint8)
    with_line = grey.copy()
    with_line[240:250, 200:300:3] = 220
    part = changed_part(grey, with_line, 6.0)
    assert part is not None
    left, top, right, bottom = part
    assert left <= 200 and right >= 300 and top <= 240 and bottom >= 250
    assert (right - left) * (bottom - top) < 0.25 * grey.size


class Counting:
    """Finds texture at one place: a hint that never is a line; counts hints and close looks."""

    def __init__(self) -> None:
        self.hints = self.close = 0

    def find(self, bgr: Picture, least: float) -> list[Found]:
        """A hint in the upper left at a low threshold, nothing at a higher one."""
        if least >= 0.5:
            self.close += 1
            return []
        self.hints += 1
        return [Found(corners=np.array([[20, 20], [80, 20], [80, 40], [20, 40]], np.float32), score=0.3)]

    def read(self, lines: Sequence[Picture]) -> list[tuple[str, float]]:
        """Nothing is ever to be read."""
        raise AssertionError("nothing to read")


def test_texture_that_was_examined_is_not_examined_again() -> None:
    """A hint that proved to be texture costs a close look once, as long as it looks the same while the rest of the picture changes."""
    reader, still = Counting(), _noise(2)
    sweep = Sweep(reader, GateConfig(close_every=100))
    for i in range(6):
        picture = _noise(10 + i)
        picture[:120, :220] = still[:120, :220]
        assert sweep.look(np.repeat(picture[..., None], 3, 2)) == []
    assert (reader.hints, reader.close) == (5, 2)  # the first look is close; the first hint is examined; the other four are known


def test_a_part_is_looked_at_when_only_a_part_changes() -> None:
    """When a corner changes the detector sees less than half of the picture."""
    seen: list[int] = []

    class Sizes(Counting):
        def find(self, bgr: Picture, least: float) -> list[Found]:
            seen.append(bgr.shape[0] * bgr.shape[1])
            return []

    sweep, grey = Sweep(Sizes(), GateConfig(detect_px=512, hint_px=512, close_every=100)), _noise(3)
    other = grey.copy()
    other[200:230, 400:480] = 0
    for picture in (grey, other):
        sweep.look(np.repeat(picture[..., None], 3, 2))
    assert seen[0] == 512 * 288 and seen[1] < 0.5 * seen[0]


def test_geometry_of_boxes() -> None:
    """The area of a quadrilateral is its share of the frame, and an upright box is cut out lying."""
    picture = np.zeros((100, 200, 3), np.uint8)
    corners = np.array([[10, 10], [20, 10], [20, 60], [10, 60]])
    box = TextBox(text="x", detection=1.0, recognition=1.0, corners=corners / (200, 100))
    assert box.area_share == pytest.approx(500 / 20_000)
    assert cut_line(picture, corners).shape == (10, 50, 3)
    assert Found(corners=corners.astype(np.float32), score=1.0).aspect == pytest.approx(5)
