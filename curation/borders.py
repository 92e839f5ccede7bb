"""Plain borders around the picture: letterbox, pillarbox, window.

A border row (or column) holds one level over its whole length and over the whole clip, and ends in a straight line at which the picture
begins along most of its length (the paper: first derivative for strong lines, then a scan from the edge). A dark scene has no such line,
and a pan or slideshow moves the picture's own plain parts, so neither is a border.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class BordersConfig:
    """What counts as a border. Values are ours; levels of 255 on the small luma."""

    plain_levels: float = 12.0  # largest spread inside a border, over place and time: coding noise
    line_levels: float = 12.0  # the picture differs from the border by more …
    line_share: float = 0.6  # … along so much of the line
    soft_rows: int = 2  # rows within which the line may be blurred by scaling
    least_share: float = 0.015  # of the side: thinner strips are encoder padding
    most_share: float = 0.45  # of the side: wider ones are a plain scene


def measure_borders(frames: list[np.ndarray], width: int, height: int, cfg: BordersConfig) -> dict[str, Any]:
    """The border columns of a clip of width x height px as shown, from its small luma frames [h, w]; None without frames."""
    names = ("border_top", "border_bottom", "border_left", "border_right")
    if not frames:
        return dict.fromkeys((*names, "border_share"))
    high = np.maximum.reduce(frames).astype(np.float32)
    low = np.minimum.reduce(frames).astype(np.float32)
    rows, columns = high.shape
    top, bottom = plain_rows(high, low, cfg), plain_rows(high[::-1], low[::-1], cfg)
    # The sides are looked for between the bars, so that a window (bars on all four sides) is found too.
    inner_high, inner_low = high[top : rows - bottom].T, low[top : rows - bottom].T
    left, right = plain_rows(inner_high, inner_low, cfg), plain_rows(inner_high[::-1], inner_low[::-1], cfg)
    # Lines count along the picture only; every side is checked against what the others leave.
    across, down = slice(left, columns - right), slice(top, rows - bottom)
    top = top * _ends_in_line(high[:, across], low[:, across], top, cfg)
    bottom = bottom * _ends_in_line(high[::-1, across], low[::-1, across], bottom, cfg)
    left = left * _ends_in_line(high[down].T, low[down].T, left, cfg)
    right = right * _ends_in_line(high[down].T[::-1], low[down].T[::-1], right, cfg)
    share = 1 - (rows - top - bottom) * (columns - left - right) / (rows * columns)
    sizes = (top * height / rows, bottom * height / rows, left * width / columns, right * width / columns)
    return dict(zip(names, (round(s) for s in sizes), strict=True)) | {"border_share": share}


def plain_rows(high: np.ndarray, low: np.ndarray, cfg: BordersConfig) -> int:
    """How many rows at the top hold one level, given each pixel's highest and lowest over time [h, w]; 0 where too few or too many do."""
    rows = len(high)
    plain = high.max(1) - low.min(1) <= cfg.plain_levels
    count = int(np.argmin(plain)) if not plain.all() else rows
    # Neighbouring plain rows of another level are not the same border.
    level = (high[0].max() + low[0].min()) / 2
    same = np.abs((high[:count].max(1) + low[:count].min(1)) / 2 - level) <= cfg.plain_levels / 2
    if not same.all():
        count = int(np.argmin(same))
    return count if max(1.0, cfg.least_share * rows) <= count <= cfg.most_share * rows else 0


def _ends_in_line(high: np.ndarray, low: np.ndarray, count: int, cfg: BordersConfig) -> bool:
    """Whether the picture begins along most of the line below the first `count` rows."""
    if not count or not high.shape[1]:
        return False
    level = (high[0].max() + low[0].min()) / 2
    inside_high, inside_low = high[count : count + cfg.soft_rows].max(0), low[count : count + cfg.soft_rows].min(0)
    differs = np.maximum(inside_high - level, level - inside_low) > cfg.line_levels
    return bool(differs.mean() >= cfg.line_share)
