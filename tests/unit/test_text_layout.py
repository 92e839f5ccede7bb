"""Kinds of text are told by how lines stand over time."""

import numpy as np
import pytest

from curation.text_layout import LayoutConfig, Line, Look, alike, is_level, overlap, same_reading, sort_lines

WIDTH, HEIGHT = 512, 288
GLYPHS = np.random.Generator(np.random.Philox(key=[7, 0])).integers(0, 2, (64, 8, 32), dtype=np.uint8) * 255
SCENE = np.repeat(np.repeat(np.random.Generator(np.random.Philox(key=[8, 0])).integers(40, 200, (40, 120), dtype=np.uint8), 8, 0), 8, 1)


def _look(second: int, pan: int, lines: dict[str, tuple[int, int]], turn: float = 0.0) -> Look:
    """A window on the scene `pan` px to the right, with 128 x 16 px lines whose upper left corners are given."""
    grey, found = SCENE[:HEIGHT, pan : pan + WIDTH].copy(), []
    for text, (x, y) in lines.items():
        grey[y : y + 16, x : x + 128] = np.kron(GLYPHS[sum(map(ord, text)) % 64], np.ones((2, 4), np.uint8))
        corners = np.array([[x, y], [x + 128, y + turn * 128], [x + 128, y + 16 + turn * 128], [x, y + 16]]) / (WIDTH, HEIGHT)
        found.append(Line(text=text, score=0.8, corners=corners))
    return Look(pts_us=second * 1_000_000, grey=grey, lines=found)


def _kinds(looks: list[Look]) -> dict[str, float | None]:
    got = sort_lines(looks, LayoutConfig())
    return {"overlay": got.overlay, "subtitle": got.subtitle, "mark": got.corner_mark, "scene": got.scene}


def test_a_line_that_stands_while_the_picture_moves_is_laid_over() -> None:
    """A title in the middle over a pan is an overlay and nothing else."""
    assert _kinds([_look(i, 40 * i, {"title": (150, 100)}) for i in range(6)]) == {"overlay": 0.8, "subtitle": 0, "mark": 0, "scene": 0}


def test_a_line_that_moves_with_the_picture_is_scene_text() -> None:
    """A sign that pans with the scene is scene text, even level."""
    assert _kinds([_look(i, 40 * i, {"sign": (330 - 40 * i, 100)}) for i in range(6)]) == {
        "overlay": 0,
        "subtitle": 0,
        "mark": 0,
        "scene": 0.8,
    }


def test_changing_lines_low_in_the_middle_are_subtitles() -> None:
    """Two lines, four seconds each, low and centred; the same line for ten seconds is a title."""
    spoken = [_look(i, 40 * (i % 8), {("first", "second")[i // 4]: (192, 250)}) for i in range(8)]
    assert _kinds(spoken) == {"overlay": 0.8, "subtitle": 0.8, "mark": 0, "scene": 0}
    assert _kinds([_look(i, 40 * (i % 8), {"first": (192, 250)}) for i in range(11)])["subtitle"] == 0


def test_a_small_line_that_stays_in_a_corner_is_a_mark() -> None:
    """All the time in the corner: a mark. In the corner for two of eight seconds: an overlay."""
    assert _kinds([_look(i, 40 * i, {"logo": (370, 15)}) for i in range(8)]) == {"overlay": 0.8, "subtitle": 0, "mark": 0.8, "scene": 0}
    assert _kinds([_look(i, 40 * i, {"logo": (370, 15)} if 2 < i < 5 else {}) for i in range(8)])["mark"] == 0


def test_in_a_standing_picture_level_lines_count_as_laid_over() -> None:
    """Where nothing moves, level lines are a screen or slide and slanted ones a scene."""
    assert _kinds([_look(i, 0, {"slide": (100, 100)}) for i in range(3)])["overlay"] == 0.8
    assert _kinds([_look(i, 0, {"sign": (100, 100)}, turn=0.1) for i in range(3)]) == {"overlay": 0, "subtitle": 0, "mark": 0, "scene": 0.8}


def test_a_line_that_comes_while_the_picture_stands_was_laid_over() -> None:
    """A slanted line that appears on a standing picture is an overlay all the same."""
    assert _kinds([_look(i, 0, {"title": (100, 100)} if i > 2 else {}, turn=0.1) for i in range(6)])["overlay"] == 0.8


def test_unknown_is_null_and_nothing_is_zero() -> None:
    """One look with a line tells no kind; any number of looks without a line tell that there is none."""
    assert set(_kinds([_look(0, 0, {"title": (100, 100)})]).values()) == {None}
    assert set(_kinds([_look(0, 0, {})]).values()) == {0.0}


def test_parts() -> None:
    """Correlation of plain and textured patches, overlap of rectangles, level lines and equal readings."""
    plain, texture = np.full((8, 8), 90, np.uint8), GLYPHS[0]
    assert (alike(plain, plain), alike(texture, texture), alike(plain, plain + np.uint8(20))) == (1.0, pytest.approx(1.0), 0.0)
    assert overlap((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    line = Line(text="", score=1, corners=np.array([[0.1, 0.1], [0.5, 0.1], [0.5, 0.2], [0.1, 0.2]]))
    assert is_level(line, (288, 512), LayoutConfig())
    assert same_reading("Channel 24", "Channe1 24") and not same_reading("Channel", "Weather") and not same_reading("", "")
