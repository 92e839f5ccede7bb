"""Knots: the frames at which footage that was slowed down afterwards changes its motion, as it reaches the next picture of its source.

Between two pictures of the source a made frame is a part of the way; so motion keeps from frame to frame, and changes where the way to the
next picture begins. At a pace of r pictures a frame knots come 1/r frames apart, a pattern that film does not have. Three evidences follow
from it: of where motion changes, of where the way over some frames turns, and of how motion keeps in between. Even pans show little: what is
made between two of their pictures is what a slower pan would have shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view as windows

from curation.bends import cells_motion, turns
from curation.tracks import Track

_SPIKE = 1.3
"""So many times what is usual around it the motion of one frame may weigh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnotsConfig:
    """How knots are sought. Values are ours, chosen on generated ramps and on films (benchmarks/accuracy_effects.py)."""

    paces: tuple[float, float] = (0.17, 0.56)  # pictures of the source a frame, from, to …
    n_paces: int = 60  # … in so many steps, each by the same factor …
    n_phases: int = 8  # … and with the first knot in so many places
    change_frames: tuple[int, ...] = (30, 42, 54)  # motion is to change at the knots of so many frames …
    change_beside: int = 48  # … and no longer at those of so many frames before and after
    change_usual: int = 12  # what a frame shows is ranked among so many before and after …
    turn_faint: float = 0.02  # … turns only where they differ by more: those of an even pan do by less, in the encoder's order
    keep_frames: int = 48  # motion is to keep between the knots of so many frames …
    keep_every: int = 4  # … looked at from each so many frames on …
    keep_error: float = 0.01  # … but for so much of it, squared …
    keep_faint_px: float = 0.01  # … of so much in the mean over cells at least …
    keep_cap: float = 6.0  # … no frame's change counting more than so many times the usual one's
    fast_frames: int = 12  # a stretch of so many frames …
    fast_near: int = 24  # … among so many before or after …
    fast_ratio: float = 1.8  # … moves so many times as much at least …
    fast_agrees: tuple[float, float] = (0.5, 1.6)  # … and from, to, so many times what the pace says …
    moving: float = 0.1  # … of the slower one, levels a frame on the small plane: what moves less shows nothing …
    even: float = 3.0  # … and no half of which moves so many times as much as the other: what comes to rest has no pace


def changes_at_knots(bends: Track, step: np.ndarray, cfg: KnotsConfig) -> float:
    """How far motion changes at the knots of a slower pace, in a stretch beside a faster one and not outside of it.

    A z-score, the largest over stretches, paces and places of the first knot; 0 where nothing is slower. `step` [n]: levels a frame.
    """
    return _at_knots(lambda: (bends["unlike"], bends["turn"], _unevenness(cells_motion(bends))), step, 0.0, cfg)


def turns_at_knots(bends: Track, step: np.ndarray, cfg: KnotsConfig) -> float:
    """How far the way over two and three frames turns there, a z-score as above: mixtures at a slow pace differ by less than coding does from
    one to the next."""
    return _at_knots(lambda: (turns(bends, 2), turns(bends, 3)), step, cfg.turn_faint, cfg)


def _at_knots(signals: Callable[[], Sequence[np.ndarray]], step: np.ndarray, faint: float, cfg: KnotsConfig) -> float:
    """How much larger the signals, ranked and added, are at knots."""
    n, paces, best = len(step), _paces(cfg), 0.0
    fits = {f: _fits(step, f, paces, cfg) for f in cfg.change_frames if n >= f + cfg.fast_frames}
    sought = np.any([f.any(1) for f in fits.values()], 0) if fits else np.zeros(len(paces), bool)
    if not sought.any():
        return 0.0
    change = np.sum([_ranked(s.astype(np.float64), cfg.change_usual, faint) for s in signals()], 0)
    if not change.any():
        return 0.0
    change = (change / change.std()).astype(np.float32)
    for some in _portions(np.flatnonzero(sought), cfg.n_phases * n):
        sums = np.zeros((len(some), cfg.n_phases, n + 1), np.float32)
        np.cumsum(_knots(paces[some], n, cfg.n_phases) * change, 2, out=sums[..., 1:])
        for frames, fit in fits.items():
            at = np.flatnonzero(fit[some].any(0))
            if not len(at):
                continue
            first, end = np.maximum(0, at - cfg.change_beside), np.minimum(n, at + frames + cfg.change_beside)
            inside = sums[..., at + frames] - sums[..., at]
            outside = (sums[..., end] - sums[..., first] - inside) / np.maximum(end - first - frames, 1)
            z = (inside / frames - np.maximum(outside, 0)).max(1) * np.sqrt(frames)
            best = max(best, float(z[fit[some][:, at]].max()))
    return best


def keeps_between_knots(bends: Track, step: np.ndarray, cfg: KnotsConfig) -> float:
    """How much better the cells' motion keeps between the knots of a slower pace than between the same ones set elsewhere.

    The share of what is left of it that the best place of the first knot explains and the usual one does not, times the root of the frames
    (a z-score of its size); the largest over stretches beside a faster one and paces; 0 where nothing is slower. `step` [n]: levels a frame.
    """
    frames, paces = cfg.keep_frames, _paces(cfg)
    if len(step) < frames + cfg.fast_frames:
        return 0.0
    fits = _fits(step, frames, paces, cfg)[:, :: cfg.keep_every]
    known, looked = fits.any(1), np.flatnonzero(fits.any(0))
    if not known.any():
        return 0.0
    motion = cells_motion(bends).reshape(len(step), -1)
    size = np.linalg.norm(motion, axis=1)
    usual = np.maximum(np.median(windows(np.pad(size, 4, "edge"), 9), 1), cfg.keep_faint_px * np.sqrt(motion.shape[1]))
    motion *= (np.minimum(1, _SPIKE * usual / np.maximum(size, 1e-9)) / usual)[:, None]  # frames of size 1
    kept, freedom = (v[known] for v in _keeping(cfg))
    best = 0.0
    for some in _portions(looked, motion[:frames].size + kept.shape[0] * kept.shape[1]):
        parts = np.stack([motion[i : i + frames] for i in some * cfg.keep_every])
        best = _largest_gain(parts, kept, freedom, fits[known][:, some], best, cfg)
    return float(best * np.sqrt(frames))


def _largest_gain(parts: np.ndarray, kept: np.ndarray, freedom: np.ndarray, fits: np.ndarray, best: float, cfg: KnotsConfig) -> float:
    """The largest gain of these stretches [n, frames, motion], or `best` where it is larger."""
    n, frames = parts.shape[:2]
    alike = (parts @ parts.transpose(0, 2, 1)).astype(np.float32)
    whole = np.trace(alike, axis1=1, axis2=2)
    left = whole - (kept.reshape(-1, frames * frames) @ alike.reshape(n, -1).T).reshape(len(kept), cfg.n_phases, n)
    left = left / (frames - freedom)[..., None] + cfg.keep_error
    gain = np.where(fits, 1 - left.min(1) / np.median(left, 1), 0)
    pace = np.argmax(gain, 0)
    for w in np.argsort(-gain.max(0)):  # no sure gain is over the plain one
        if gain[pace[w], w] <= best:
            break
        best = max(best, min(gain[pace[w], w], _sure_gain(parts[w], kept[pace[w]].reshape(-1, frames, frames), cfg)))
    return best


def _sure_gain(motion: np.ndarray, kept: np.ndarray, cfg: KnotsConfig) -> float:
    """The gain of the best place of the first knot where no frame weighs more than `keep_cap` times the usual one: a single jolt explains nothing."""
    left = np.square(motion - kept @ motion).sum(2)
    usual = np.median(left, 0)
    left = np.minimum(left, cfg.keep_cap * np.median(usual)).sum(1) + cfg.keep_error * len(motion)
    return float(1 - left.min() / np.median(left))


def _portions(items: np.ndarray, size: int) -> list[np.ndarray]:
    """The items in portions that take some megabytes where each takes `size` numbers: a clip may be hours long."""
    return np.array_split(items, max(1, -(-len(items) * size >> 20)))


def _paces(cfg: KnotsConfig) -> np.ndarray:
    return np.geomspace(*cfg.paces, cfg.n_paces)


def _fits(step: np.ndarray, frames: int, paces: np.ndarray, cfg: KnotsConfig) -> np.ndarray:
    """Where stretches of so many frames are slower than one near them by what each pace says, [paces, n - frames + 1]."""
    reach = cfg.fast_near - cfg.fast_frames + 1
    fast = np.pad(windows(step, cfg.fast_frames).mean(1), cfg.fast_near)
    most, slow = windows(fast, reach).max(1), windows(step, frames).mean(1)
    ratio = np.maximum(most[: len(slow)], most[frames + cfg.fast_near :][: len(slow)]) / np.maximum(slow, 1e-6)
    agrees = paces[:, None] * ratio
    fit = (agrees >= cfg.fast_agrees[0]) & (agrees <= cfg.fast_agrees[1]) & (ratio >= cfg.fast_ratio)
    return np.asarray(fit & steady(step, frames, cfg.moving, cfg.even))


def steady(step: np.ndarray, frames: int, moving: float, even: float) -> np.ndarray:
    """Which stretches of so many frames have a pace, [n - frames + 1]: they move by `moving` a frame, and no half `even` times as much as the other."""
    halves = windows(step, frames // 2).mean(1)
    halves = np.sort([halves[: len(step) - frames + 1], halves[frames - frames // 2 :]], 0)
    return np.asarray((windows(step, frames).mean(1) >= moving) & (halves[1] <= even * halves[0]))


def _knots(paces: np.ndarray, n: int, n_phases: int) -> np.ndarray:
    """How near each of n frames is to a knot, [paces, phases, n], of mean 0 and variance 1: what a change of motion at one gives to frames of
    the pace, a hat that ends where the next and the last frame are in the same part of the source."""
    pace = paces.astype(np.float32)[:, None, None]
    at = pace * np.arange(n, dtype=np.float32) + np.arange(n_phases, dtype=np.float32)[:, None] / n_phases
    hat = np.maximum(0, 1 - np.abs(at - np.round(at)) / pace)
    return np.asarray((hat - pace) / np.sqrt(2 * pace / 3 - pace * pace))


@lru_cache(maxsize=2)
def _keeping(cfg: KnotsConfig) -> tuple[np.ndarray, np.ndarray]:
    """What projects the steps of `keep_frames` frames onto those that keep between knots, [paces, phases, frames²], and its dimensions."""
    frames, steps = cfg.keep_frames, np.arange(cfg.keep_frames + 1)
    onto = np.empty((cfg.n_paces, cfg.n_phases, frames, frames), np.float32)
    for i, pace in enumerate(_paces(cfg)):
        at = pace * steps + np.arange(cfg.n_phases)[:, None] / cfg.n_phases
        part = np.arange(int(at.max()) + 1)
        share = np.clip(np.minimum(at[:, 1:, None], part + 1) - np.maximum(at[:, :-1, None], part), 0, None)
        turned = share.transpose(0, 2, 1)
        onto[i] = share @ np.linalg.solve(turned @ share + 1e-6 * np.eye(len(part)), turned)
    return onto.reshape(cfg.n_paces, cfg.n_phases, -1), np.trace(onto, axis1=2, axis2=3)


def _unevenness(motion: np.ndarray) -> np.ndarray:
    """By how much the motion of cells [n, cells, 2] differs from that of the frame before, as a share of both [n]; nan at the first."""
    size = np.linalg.norm(motion, axis=2).sum(1)
    changes = np.linalg.norm(np.diff(motion, axis=0), axis=2).sum(1) / np.maximum(size[1:] + size[:-1], 1e-6)
    return np.concatenate([[np.nan], changes])


def _ranked(values: np.ndarray, beside: int, faint: float) -> np.ndarray:
    """Where each is among those of so many places before and after, -1 the least to 1 the most; what differs by up to `faint` is alike. 0 for nan."""
    around = windows(np.pad(values, beside, constant_values=np.nan), 2 * beside + 1)
    less, more = (around < values[:, None] - faint).sum(1), (around > values[:, None] + faint).sum(1)
    return np.asarray(np.where(np.isnan(values), 0, (less - more) / np.maximum(1, (~np.isnan(around)).sum(1) - 1)))
