"""Still graphics around a picture: the largest evidence for a rectangle in the middle whose edges are lasting steps along their whole
length, within which the picture moves and outside of which nothing does.

A resting camera shows lasting steps everywhere, but hardly ever straight ones as long as the picture, as far from one edge as from the
other, around all that moves. Two kinds of evidence: steps of luma with few beside them; and steps of luma or colour that are whole, where
the picture begins to move.
"""

import math

import numpy as np

from curation.border_lines import BANDS, BordersConfig, Lines, Maps, Sides, steps_at
from curation.ranks import median

_LUMA, _CLEAR_LUMA, _ANY, _CLEAR_ONE, _CLEAR_BOTH, _BEGINS = range(6)
"""What is known of an edge: the share of steps of luma, and how much more that is than on both sides of it; the share of steps of luma or
colour, and how much more that is than on one side and on both; and the share of its bands that begin to move there."""


def find_frame(maps: Maps, cfg: BordersConfig) -> Sides:
    """Top, bottom, left and right of a still graphic in small px; zeros when there is none."""
    rows, columns = maps
    h, w = len(rows.level), len(columns.level)
    tops, lefts = _sizes(h, cfg), _sizes(w, cfg)
    seen = (rows, rows.reversed(), columns, columns.reversed())
    noise = median(np.concatenate([rows.motion[[0, -1]].ravel(), columns.motion[[0, -1]].ravel()]))
    if noise > cfg.frame_noise:
        return 0.0, 0.0, 0.0, 0.0
    found = [_edges(s, tops, lefts, w) for s in seen[:2]] + [np.swapaxes(_edges(s, lefts, tops, h), 1, 2) for s in seen[2:]]
    there = np.stack(np.broadcast_arrays(tops[:, None] > 0, tops[:, None] > 0, lefts > 0, lefts > 0))
    edges = np.where(there, np.stack(found, axis=1), np.nan)
    inside, outside = _moving(maps, tops, lefts, cfg.frame_motion + 1.3 * noise)
    short = tops[:, None] / h + lefts / w  # edges are so much shorter than the picture's side, in the mean
    score = np.maximum(_luma_score(edges, inside, outside, short, cfg), _colour_score(edges, inside, outside, cfg))
    score[0, 0] = -np.inf  # no edge at all
    if score.max() < 0:
        return 0.0, 0.0, 0.0, 0.0
    row, column = np.unravel_index(int(score.argmax()), score.shape)
    down, across = int(tops[row]), int(lefts[column])
    ends = ((down, across, w), (down, across, w), (across, down, h), (across, down, h))
    top, bottom, left, right = (_refined(s, *where) for s, where in zip(seen, ends, strict=True))
    return top, bottom, left, right


def _luma_score(edges: np.ndarray, inside: np.ndarray, outside: np.ndarray, short: np.ndarray, cfg: BordersConfig) -> np.ndarray:
    """By how much steps of luma, with few beside them, tell of a graphic; from 0 on they do."""
    steps, clear = edges[_LUMA], edges[_CLEAR_LUMA]
    count = np.isfinite(steps).sum(0)
    score = _mean(steps + cfg.frame_clear_weight * clear) + cfg.frame_weakest_weight * _least(steps) - cfg.frame_motion_weight * outside
    still = np.where(count > 2, score - cfg.frame_short_weight * short - cfg.frame_still_four, score - cfg.frame_still_two)
    return np.asarray(np.where(inside >= cfg.frame_active_share, score - cfg.frame_score, still))


def _colour_score(edges: np.ndarray, inside: np.ndarray, outside: np.ndarray, cfg: BordersConfig) -> np.ndarray:
    """By how much whole steps of luma or colour, beyond which the picture begins to move, tell of a graphic; from 0 on they do."""
    still = 1 - np.minimum(inside / cfg.frame_active_share, 1)
    score = _mean(edges[_ANY]) + cfg.frame_colour_weakest_weight * _least(edges[_ANY])
    score += cfg.frame_colour_clear_weight * _least(edges[_CLEAR_ONE]) + cfg.frame_begin_weight * _least(edges[_BEGINS])
    score -= cfg.frame_colour_motion_weight * outside + cfg.frame_still_weight * still * (1 - _least(edges[_CLEAR_BOTH]))
    return np.asarray(score - cfg.frame_colour_score)


def _mean(edges: np.ndarray) -> np.ndarray:
    """The mean over the edges that are there."""
    return np.asarray(np.nansum(edges, axis=0) / np.maximum(1, np.isfinite(edges).sum(0)))


def _least(edges: np.ndarray) -> np.ndarray:
    """The least over the edges that are there."""
    return np.asarray(np.where(np.isnan(edges), 1, edges).min(0))


def is_plain(maps: Maps, sides: Sides, cfg: BordersConfig) -> bool:
    """Whether what lies outside is of one colour without texture, and so no graphic."""
    rows, columns = maps
    seen = (rows, rows.reversed(), columns, columns.reversed())
    strips = [Lines(*(m[: max(1, int(size) - 1)] for m in s.maps())) for s, size in zip(seen, sides, strict=True) if size]
    texture, *colour = (
        np.concatenate([m.ravel() for m in parts]) for parts in zip(*((s.texture, s.level, s.blue, s.red) for s in strips), strict=True)
    )
    far = np.max([np.abs(levels - median(levels)) for levels in colour], axis=0)
    plain = (texture <= 2 * cfg.plain_texture) & (far <= cfg.plain_levels)
    return float(plain.mean()) >= cfg.plain_favoured_share


def _sizes(n: int, cfg: BordersConfig) -> np.ndarray:
    """None, and every size in lines that a border may have."""
    return np.asarray(np.r_[0, np.arange(max(3, math.ceil(cfg.least_share * n)), int(cfg.frame_most_share * n) + 1)])


def _edges(s: Lines, sizes: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """What is known of the edge of borders of so many lines, between others of so many px at both its ends [6, sizes, ends]."""
    starts, which = np.unique(_first_band(ends, length), return_inverse=True)
    luma, both, begin = (steps_at(_between(m, starts), sizes) for m in (s.step, s.edge, _begins_to_move(s.motion)))
    outer, inner = np.maximum(luma[1], both[1]), np.maximum(luma[2], both[2])
    known = luma[0], np.minimum(*luma[1:]), both[0], np.maximum(outer, inner), np.minimum(outer, inner), begin[0]
    return np.stack(known)[:, :, which]


def _between(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The mean of each line without so many bands at both ends [lines, starts]."""
    summed = np.zeros((len(values), BANDS + 1), values.dtype)
    np.cumsum(values, axis=1, out=summed[:, 1:])
    return np.asarray((summed[:, BANDS - starts] - summed[:, starts]) / (BANDS - 2 * starts))


def _begins_to_move(motion: np.ndarray) -> np.ndarray:
    """Where the three lines behind one move clearly more than the lines before it: 0 or 1 [lines, bands]."""
    lines, last = np.arange(len(motion)), len(motion) - 1
    before = np.maximum(motion[np.maximum(0, lines - 3)], motion[np.maximum(0, lines - 2)])
    behind = np.max([motion[np.minimum(last, lines + k)] for k in (1, 2, 3)], axis=0)
    return np.asarray(behind > 2 * before + 2, np.float32)


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
    lines = np.arange(max(1, size - 2), min(len(s.edge), size + 3))
    steps = s.edge[lines, first : BANDS - first].mean(1)
    weight = (steps - steps.min()) ** 4
    return float((lines * weight).sum() / weight.sum() + 0.5) if weight.any() else float(size)
