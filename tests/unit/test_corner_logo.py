"""Marks without letters: edges that stay in a corner while the picture moves; nothing else is one."""

import cv2
import numpy as np
import pytest

from curation.corner_logo import LogoConfig, corner_logo_score
from tests.media_makers import scene

CFG = LogoConfig()
WIDTH, HEIGHT = 512, 288


def looks(n: int = 8, step: int = 40) -> list[np.ndarray]:
    """Key frames of a camera that moves over coarse and fine texture, RGB."""
    rng = np.random.Generator(np.random.Philox(key=4))
    wide = scene(3, WIDTH + n * step, HEIGHT) // 2 + 64
    fine = cv2.GaussianBlur(rng.normal(0, 60, wide.shape[:2]).astype(np.float32), (0, 0), 2)
    wide = np.clip(wide + fine[..., None] * 2, 0, 255).astype(np.uint8)
    return [np.ascontiguousarray(wide[:, i * step : i * step + WIDTH]) for i in range(n)]


def ring(pictures: list[np.ndarray], x: float, y: float, opacity: float = 1.0, radius: int = 18) -> list[np.ndarray]:
    """The pictures with a white ring round (x, y) in shares."""
    out = []
    for picture in pictures:
        drawn = cv2.circle(picture.copy(), (round(x * WIDTH), round(y * HEIGHT)), radius, (255, 255, 255), 5, cv2.LINE_AA)
        out.append(cv2.addWeighted(drawn, opacity, picture, 1 - opacity, 0))
    return out


@pytest.mark.parametrize(("x", "y"), [(0.08, 0.12), (0.92, 0.12), (0.08, 0.88), (0.92, 0.88)])
@pytest.mark.parametrize("opacity", [0.5, 1.0])
def test_a_mark_in_any_corner_is_found(x: float, y: float, opacity: float) -> None:
    """A ring in each corner, opaque or half seen through, is a mark; the same picture without it has none."""
    assert (corner_logo_score(ring(looks(), x, y, opacity), CFG) or 0) >= 0.5
    assert corner_logo_score(looks(), CFG) == pytest.approx(0, abs=0.2)


def test_where_the_picture_stands_nobody_can_tell() -> None:
    """Equal key frames, a picture in which only a small part moves, and too few key frames have no score."""
    still = [looks()[0]] * 8
    assert corner_logo_score(ring(still, 0.92, 0.12), CFG) is None
    partly = [p.copy() for p in still]
    for picture, other in zip(partly, looks(), strict=True):
        picture[80:200, 150:400] = other[80:200, 150:400]
    assert corner_logo_score(partly, CFG) is None
    assert corner_logo_score(ring(looks(3), 0.92, 0.12), CFG) is None
    assert corner_logo_score([], CFG) is None


def test_only_small_marks_in_corners_count() -> None:
    """A ring in the middle or at the middle of a side, a large one, and one that moves with the picture are no marks."""
    for x, y, radius in ((0.5, 0.5, 18), (0.5, 0.1, 18), (0.2, 0.3, 80)):
        assert (corner_logo_score(ring(looks(), x, y, radius=radius), CFG) or 0) < 0.3
    moving = [ring([p], 0.95 - 0.07 * i, 0.12)[0] for i, p in enumerate(looks())]
    assert (corner_logo_score(moving, CFG) or 0) < 0.3


def test_a_border_is_no_mark_and_hides_none() -> None:
    """The edges of bars are not marks; a ring beside a bar's edge is found all the same."""
    barred = looks()
    for picture in barred:
        picture[:36], picture[-36:] = 0, 0
    assert (corner_logo_score(barred, CFG) or 0) < 0.3
    assert (corner_logo_score(ring(barred, 0.92, 0.22), CFG) or 0) >= 0.5
