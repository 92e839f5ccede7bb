"""Blurred fills at two opposite sides: the picture itself, enlarged and soft, up to a straight line beyond which it is sharp."""

import math

import cv2
import numpy as np

from curation.border_lines import BANDS, BordersConfig, Lines, Maps, Sides, steps_at


def find_soft(maps: Maps, cfg: BordersConfig) -> Sides:
    """A blurred fill: at top and bottom, or at left and right."""
    top, bottom = _soft_line(maps[0], cfg)
    left, right = _soft_line(maps[1], cfg) if not top else (0.0, 0.0)
    return top, bottom, left, right


def _soft_line(first: Lines, cfg: BordersConfig) -> tuple[float, float]:
    """Lines of a soft border, alike at two opposite edges, beyond which the picture is sharp; 0 and 0 when there is none."""
    n, second = len(first.along), first.reversed()
    sizes = np.arange(max(3, math.ceil(cfg.least_share * n)), int(cfg.most_share * n) + 1)
    (edge, sharper), (other_edge, other_sharper) = _softness(first, sizes, cfg), _softness(second, sizes, cfg)
    steps, *clear_of = np.stack([steps_at(s.step.mean(1), sizes) for s in (first, second)], axis=1)
    steps, clear = steps.mean(0), np.minimum(*clear_of).mean(0)
    score = (
        cfg.fill_edge_weight * (edge + other_edge) / 2
        + cfg.fill_weaker_weight * np.minimum(edge, other_edge)
        + cfg.fill_sharp_weight * (sharper + other_sharper) / 2
        + cfg.fill_step_weight * steps
        + cfg.fill_clear_weight * clear
    )
    best, best_score = 0, cfg.fill_score
    # Likeness costs most: only where it could still make the best.
    for i in np.argsort(-score, kind="stable"):
        most = 1 + 3 * cfg.fill_content_weight
        if score[i] + most <= best_score:
            break
        r = int(sizes[i])
        before, after = first.level[: r - 1], first.level[n - r + 1 :]
        if min(before.std(), after.std()) < cfg.fill_least_levels:  # a bar at one side only
            continue
        content = float(np.clip(np.log2(np.concatenate([before, after]).std() + 0.25), -2, 3))
        whole = float(score[i]) + _likeness(first, r) + cfg.fill_content_weight * content
        if whole > best_score:
            best, best_score = r, whole
    return float(best), float(best)


def _softness(s: Lines, sizes: np.ndarray, cfg: BordersConfig) -> tuple[np.ndarray, np.ndarray]:
    """For borders of so many lines, shares of the bands: with an edge between soft and sharp at the line, and with a sharper picture
    beyond it."""
    r = sizes[:, None]
    outside = _mean_until(s.along, sizes - 1) + 0.25
    line, soft = np.maximum(s.across[sizes - 1], s.across[sizes]), _mean_until(s.across[1:], np.maximum(1, sizes - 3))
    inside, sharp = _mean_of(s.along, sizes + 1, 6), _mean_of(s.across, sizes + 2, 5)
    before = np.max([np.where(r >= k, s.along[np.maximum(0, sizes - k)], 0) for k in range(2, 6)], axis=0)
    edge = (line > 2 * soft + 0.5) & ((line > 1.2 * sharp) | (_mean_of(s.along, sizes, 3) > cfg.soft_ratio * before + 0.5))
    return edge.mean(1), (inside > cfg.soft_ratio * outside).mean(1)


def _mean_until(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The mean of the lines before each end, [ends, bands]."""
    return np.asarray(np.cumsum(values, axis=0)[ends - 1] / ends[:, None].astype(np.float32))


def _mean_of(values: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
    """The mean of so many lines from each start on, [starts, bands]."""
    return np.asarray(sum(values[starts + k] for k in range(count)) / np.float32(count))


def _likeness(s: Lines, r: int) -> float:
    """How much the strips of r lines at both edges look, or move, like the picture between them enlarged to the whole size: -1 … 1. The
    mean of what both strips together and each by itself tell: a sky above and a ground below are alike without any detail."""
    n = len(s.level)
    scale = (n - 2 * r) / n
    outside = np.r_[0 : r - 1, n - r + 1 : n]
    middle = (BANDS - 1) / 2
    x, y = np.meshgrid(middle + (np.arange(BANDS) - middle) * scale, r + (outside + 0.5) * scale - 0.5)
    together, apart = -1.0, -1.0
    for values in (s.level, s.motion):
        enlarged = cv2.remap(np.ascontiguousarray(values, np.float32), x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
        a, b = enlarged.reshape(2, -1), values[outside].reshape(2, -1)
        together = max(together, _correlation(a - a.mean(), b - b.mean()))
        apart = max(apart, _correlation(a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)))
    return (together + apart) / 2


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of values without their mean; low where both hardly vary."""
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1.0))
