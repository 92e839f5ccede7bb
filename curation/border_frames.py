"""Still graphics around a picture: the largest evidence for a rectangle in the middle whose edges are lasting steps along their whole
length, within which the picture moves and outside of which nothing does.

A resting camera shows lasting steps everywhere, but hardly ever straight ones as long as the picture, as far from one edge as from the
other, around all that moves.
"""

import math

import numpy as np

from curation.border_lines import BANDS, BordersConfig, Lines, Maps, Sides, median, steps_at


def find_frame(maps: Maps, cfg: BordersConfig) -> Sides:
    """Top, bottom, left and right of a still graphic in small px; zeros when there is none."""
    rows, columns = maps
    h, w = len(rows.level), len(columns.level)
    tops, lefts = _sizes(h, cfg), _sizes(w, cfg)
    seen = (rows, rows.reversed(), columns, columns.reversed())
    found = [_edges(s, tops, lefts, w) for s in seen[:2]] + [tuple(m.T for m in _edges(s, lefts, tops, h)) for s in seen[2:]]
    steps, clear = (np.stack(m) for m in zip(*found, strict=True))
    there = np.stack(np.broadcast_arrays(tops[:, None] > 0, tops[:, None] > 0, lefts > 0, lefts > 0))
    count = np.maximum(1, there.sum(0))
    noise = median(np.concatenate([rows.motion[[0, -1]].ravel(), columns.motion[[0, -1]].ravel()]))
    inside, outside = _moving(maps, tops, lefts, cfg.frame_motion + 1.3 * noise)
    score = (np.where(there, steps, 0).sum(0) + cfg.frame_clear_weight * np.where(there, clear, 0).sum(0)) / count
    score += cfg.frame_weakest_weight * np.where(there, steps, 1).min(0) - cfg.frame_motion_weight * outside
    length = 1 - tops[:, None] / h - lefts / w  # of the edges, the mean share of the picture's side
    sure = np.where(count > 2, score - cfg.frame_short_weight * (1 - length) >= cfg.frame_sure_four, score >= cfg.frame_sure_score)
    score = np.where((count > 1) & ((inside >= cfg.frame_active_share) | sure), score, 0)
    if noise > cfg.frame_noise or score.max() < cfg.frame_score:
        return 0.0, 0.0, 0.0, 0.0
    row, column = np.unravel_index(int((score + cfg.frame_four_favour * (count > 2)).argmax()), score.shape)
    down, across = int(tops[row]), int(lefts[column])
    ends = ((down, across, w), (down, across, w), (across, down, h), (across, down, h))
    top, bottom, left, right = (_refined(s, *where) for s, where in zip(seen, ends, strict=True))
    return top, bottom, left, right


def is_plain(maps: Maps, sides: Sides, cfg: BordersConfig) -> bool:
    """Whether what lies outside is of one level without texture: bars that are no graphic."""
    rows, columns = maps
    seen = (rows, rows.reversed(), columns, columns.reversed())
    strips = [(s, max(1, int(size) - 1)) for s, size in zip(seen, sides, strict=True) if size]
    level = np.concatenate([s.level[:end].ravel() for s, end in strips])
    texture = np.concatenate([s.texture[:end].ravel() for s, end in strips])
    plain = (np.abs(level - median(level)) <= cfg.plain_levels) & (texture <= 2 * cfg.plain_texture)
    return float(plain.mean()) >= cfg.plain_favoured_share


def _sizes(n: int, cfg: BordersConfig) -> np.ndarray:
    """None, and every size in lines that a border may have."""
    return np.asarray(np.r_[0, np.arange(max(3, math.ceil(cfg.least_share * n)), int(cfg.frame_most_share * n) + 1)])


def _edges(s: Lines, sizes: np.ndarray, ends: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of steps along the edge of borders of so many lines, between others of so many px at both its ends [sizes, ends]; and how
    much more that is than beside the edge."""
    first = _first_band(ends, length)
    starts, which = np.unique(first, return_inverse=True)
    summed = np.pad(np.cumsum(s.step, axis=1), ((0, 0), (1, 0)))
    edge, clear = steps_at((summed[:, BANDS - starts] - summed[:, starts]) / (BANDS - 2 * starts), sizes)
    return edge[:, which], clear[:, which]


def _first_band(ends: np.ndarray, length: int) -> np.ndarray:
    """The first band that lies wholly beyond a border of so many px at a line's end; as many are left out at the other end."""
    return np.asarray(np.minimum(np.ceil(ends * BANDS / length - 0.01).astype(int), BANDS // 2 - 1))


def _moving(maps: Maps, tops: np.ndarray, lefts: np.ndarray, levels: float) -> tuple[np.ndarray, np.ndarray]:
    """The shares that move, by more than so many levels, inside borders of every size and outside [tops, lefts]."""
    rows, columns = ((m.motion > levels).mean(1) for m in maps)
    h, w = len(rows), len(columns)
    down, across = np.r_[0, np.cumsum(rows)], np.r_[0, np.cumsum(columns)]
    strip, side = np.maximum(0, tops - 1), np.maximum(0, lefts - 1)  # the last line of a border may hold some of the picture
    upper = (down[strip] + down[h] - down[h - strip]) * w
    beside = (across[side] + across[w] - across[w - side]) * h
    # Corners lie in both strips.
    outside = (upper[:, None] + beside) / np.maximum(1, 2 * tops[:, None] * w + 2 * lefts * h)
    area = (h - 2 * tops[:, None]) * (w - 2 * lefts)
    return (down[h] * w - outside * (h * w - area)) / area, outside


def _refined(s: Lines, size: int, end: int, length: int) -> float:
    """The size with a fraction: a step shows in the line before and the line after it."""
    if not size:
        return 0.0
    first = int(_first_band(np.array(end), length))
    lines = np.arange(max(1, size - 2), min(len(s.step), size + 3))
    steps = s.step[lines, first : BANDS - first].mean(1)
    weight = (steps - steps.min()) ** 4
    return float((lines * weight).sum() / weight.sum() + 0.5) if weight.any() else float(size)
