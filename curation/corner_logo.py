"""A mark without letters in a corner (a channel's logo, a stock agency's sign): edges that stay while the picture moves. Map, on key frames.

Gradients of luma at one place differ from key frame to key frame where the picture moves; those of a mark keep their direction, also
where it is seen through. Places whose gradients agree are gathered; a dense, small group of them in a corner, off the edges, with nothing
alike around it, is a mark. Where the picture stands so do its own edges, and nobody can tell: then there is no score.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_CORNER = 0.36
"""Share of the width and of the height that is looked at in each corner: the reach of a mark's centre and half its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoConfig:
    """How marks are told. All values are ours, chosen on generated marks over one half of the clips (benchmarks/accuracy_logo.py)."""

    long_side_px: int = 384  # 256 loses more of the thin and faint ones
    most_frames: int = 8  # key frames compared, spread evenly: more tell little more
    least_frames: int = 4
    moved_levels: float = 8.0  # a cell of 24 x 16 moved when its mean changes by as much …
    moved_share: float = 0.25  # … and a key frame counts when so many moved since the last that counted
    least_slope: float = 2.0  # levels a px, of the median gradient over the key frames
    direction: float = 0.7  # cosine between a gradient and the median one from which they agree …
    least_part: float = 0.25  # … if it is at least so long, of the median's length
    agree: float = 0.85  # share of the key frames that agree at a place of a mark
    line: float = 0.5  # a row or column of which so much agrees is the edge of a border
    reach_x: float = 0.25  # a mark's centre lies within so much of the width from a side …
    reach_y: float = 0.25
    widest: float = 0.2  # … and it is at most so wide and high
    highest: float = 0.3
    gap_px: int = 5  # places of one mark are no farther apart
    places: int = 50  # of so many agreeing places a mark is sure …
    thick_px: int = 6  # … when its box is so thick: less is a line of the scene along which it moves …
    dense: float = 0.3  # … and they fill so much of it
    stands: float = 0.25  # share of all edges outside the corners that agree, from which the picture stands


def corner_logo_score(pictures: Sequence[np.ndarray], cfg: LogoConfig) -> float | None:
    """0 … 1 of the surest mark in a clip's key frames, RGB uint8 in order of time; 0 for none; None where the picture hardly moves."""
    frames = _moving(pictures, cfg)
    if len(frames) < cfg.least_frames:
        return None
    still = _still_share(frames, cfg)
    if still >= cfg.stands:
        return None
    height, width = frames[0].shape
    high, wide = round(_CORNER * height), round(_CORNER * width)
    sure = 0.0
    for low, right in itertools.product((False, True), repeat=2):
        y, x = (height - high if low else 0), (width - wide if right else 0)
        agree, _ = _agreement([f[y : y + high, x : x + wide] for f in frames], cfg)
        # Edges of borders run along the picture; a mark on one must not become part of it.
        agree = agree & ~_widened(agree.mean(1) >= cfg.line)[:, None] & ~_widened(agree.mean(0) >= cfg.line)
        sure = max([sure, *(_sureness(agree, box, cfg) for box in _groups(agree, (width, height), (low, right), cfg))])
    return (1 - still / cfg.stands) * sure


def _still_share(frames: list[np.ndarray], cfg: LogoConfig) -> float:
    """The share of all edges outside the corners that stay, seen coarsely."""
    agree, slope = _agreement([cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for f in frames], cfg)
    height, width = agree.shape
    middle = np.ones_like(agree)
    for rows in (slice(0, height // 4), slice(height - height // 4, height)):
        middle[rows, : width // 4] = middle[rows, width - width // 4 :] = False
    return float((agree & middle).sum()) / max(1, int(((slope > cfg.least_slope) & middle).sum()))


def _moving(pictures: Sequence[np.ndarray], cfg: LogoConfig) -> list[np.ndarray]:
    """Small luma of key frames, each of which shows another picture than the one before."""
    if len(pictures) < cfg.least_frames:
        return []
    moving: list[int] = []
    cells = [cv2.cvtColor(cv2.resize(p, (24, 16), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for p in pictures]
    for i in range(len(cells)):
        if not moving or (cv2.absdiff(cells[i], cells[moving[-1]]) >= cfg.moved_levels).mean() >= cfg.moved_share:
            moving.append(i)
    height, width = pictures[0].shape[:2]
    scale = min(1.0, cfg.long_side_px / max(height, width))
    size = max(16, round(width * scale)), max(16, round(height * scale))
    wanted = np.linspace(0, len(moving) - 1, min(len(moving), cfg.most_frames)).round().astype(int)
    return [cv2.cvtColor(cv2.resize(pictures[moving[i]], size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for i in wanted]


def _agreement(frames: list[np.ndarray], cfg: LogoConfig) -> tuple[np.ndarray, np.ndarray]:
    """Where the gradients agree, bool [h, w], and their mean length in levels a px."""
    across, down = (np.stack([cv2.Sobel(f, cv2.CV_32F, *axis, scale=1 / 8) for f in frames]) for axis in ((1, 0), (0, 1)))
    length = np.sqrt(across * across + down * down)
    half = len(frames) // 2
    middle_x, middle_y = (np.partition(slopes, half, axis=0)[half] for slopes in (across, down))
    middle = np.hypot(middle_x, middle_y)
    along = across * middle_x + down * middle_y
    alike = (along >= cfg.direction * length * middle) & (length >= cfg.least_part * middle)
    return (middle >= cfg.least_slope) & (alike.mean(axis=0) >= cfg.agree), length.mean(axis=0)


def _widened(lines: np.ndarray) -> np.ndarray:
    """Lines, bool [n], with two more on either side."""
    return np.asarray(np.convolve(lines, np.ones(5), "same") > 0)


def _groups(agree: np.ndarray, size: tuple[int, int], corner: tuple[bool, bool], cfg: LogoConfig) -> list[tuple[int, int, int, int]]:
    """Boxes (x, y, width, height) of groups of agreeing places that lie in the corner (low, right) and off its edges, and are small enough."""
    high, wide = agree.shape
    closed = cv2.morphologyEx(agree.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((cfg.gap_px, cfg.gap_px), np.uint8))
    found = []
    for x, y, w, h, _ in cv2.connectedComponentsWithStats(closed, connectivity=8)[2][1:].tolist():
        from_side = wide - x - w / 2 if corner[1] else x + w / 2
        from_end = high - y - h / 2 if corner[0] else y + h / 2
        near = from_side <= cfg.reach_x * size[0] and from_end <= cfg.reach_y * size[1]
        touches = x == 0 or y == 0 or x + w == wide or y + h == high
        if near and not touches and w <= cfg.widest * size[0] and h <= cfg.highest * size[1]:
            found.append((x, y, w, h))
    return found


def _sureness(agree: np.ndarray, box: tuple[int, int, int, int], cfg: LogoConfig) -> float:
    """How much a group is a mark: of enough places, thick, dense, and alone."""
    x, y, w, h = box
    places, reach = int(agree[y : y + h, x : x + w].sum()), max(4, max(w, h) // 2)
    around = int(agree[max(0, y - reach) : y + h + reach, max(0, x - reach) : x + w + reach].sum()) - places
    shape = min(1.0, min(w, h) / cfg.thick_px) * min(1.0, places / (w * h) / cfg.dense)
    return min(1.0, places / cfg.places) * shape * places / (places + around)
