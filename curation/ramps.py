"""Speed ramps: footage whose pace changes because it was slowed down afterwards, told by the frames that were made for it.

Four evidences, of which the strongest counts: a cadence of repeats or mixtures in the slower part alone; a way that turns, and motion that
changes, at the knots of a slower pace, and motion that keeps between them (knots.py). The latter two see made frames that are no mixtures of
their neighbours, as those by optical flow. Encoders make mixtures of their own (B-frames), and conversions repeats; so a cadence counts with
how far the way turns at the knots of its pace.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view as windows

from curation.knots import KnotsConfig, changes_at_knots, keeps_between_knots, steady, turns_at_knots
from curation.ranks import median
from curation.tracks import Track

_FAINT = 0.004
"""A bend, or a share of a step, of a made frame once coded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RampConfig:
    """How ramps are measured. Values are ours, chosen on generated effects of seeds that the benchmark leaves out (benchmarks/accuracy_effects.py)."""

    windows_us: tuple[int, ...] = (400_000, 500_000, 550_000, 600_000, 650_000)  # cadences of stretches of so long are compared …
    apart: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)  # … so many stretches apart: changes of pace are eased, any film drifts
    pace: float = 1.25  # the faster one moves at least so many times as much …
    most: float = 3.0  # … and no more than so many times what its cadence says: else it came to rest
    even: float = 10.0  # no half of the slower one moves so many times as much as the other: what stops or fades has no pace
    moving: float = 0.16  # levels a frame on the small plane: what moves less shows no cadence
    between_bend: float = 0.04  # a frame is a mixture of its neighbours when it bends less than this …
    between_share: float = 0.5  # … and than this share of what a fifth of the frames around bend by, their knots …
    between_knots: float = 0.03  # … which are at least so strong; where they are not, or not in so large a share of a stretch …
    between_known: float = 0.8  # … it shows no absence of mixtures
    made_contrast: float = 3.0  # of a cadence the other frames bend, or move, so many times as much as the made ones
    repeat_share: float = 0.12  # a frame repeats when it moves by less than this share of what the frames around do
    cadence_made: int = 7  # a cadence has at most so many mixtures or repeats on end …
    cadence_new: int = 5  # … and so many others
    cadence_weight: float = 0.767  # a fall of a cadence counts so much …
    cadence_turns: float = 0.065  # … and with it so much a z-score of turns at knots …
    cadence_usual: float = 1.5  # … over what even pans show …
    cadence_least: float = 1.0  # … where it is as large as this: of the others none agrees with a change of pace
    turns_weight: float = 0.087  # alone, a z-score of turns at knots counts so much …
    changes_weight: float = 0.0667  # … one of changes at knots so much …
    keeps_weight: float = 0.12  # … and one of what keeps between them
    knots: KnotsConfig = field(default_factory=KnotsConfig)


def speed_ramp(bends: Track, motion: Track, cfg: RampConfig) -> float | None:
    """How surely a stretch was slowed down beside a faster one, 0 to 1; of the evidences the strongest counts.

    These are the fall of the share of repeated or mixed frames from the slower stretch to the faster (the median over stretches of several
    lengths, as a single one meets an accident now and then) together with turns at knots; such turns alone; motion that changes at knots; and
    motion that keeps between them (see `knots.py`).

    Footage slowed down afterwards has fewer pictures than frames, at a regular cadence; film at an even rate that was converted has it
    throughout. A change of pace without a cadence (frames left out, a fast camera) looks as if the scene changed its pace: not seen here.
    None for clips shorter than two of the longest stretches.
    """
    step = motion["motion"][2:].astype(np.float64)  # the first two frames are compared with some outside the clip
    usual_us = float(np.median(np.diff(motion.pts_us))) if len(motion) > 1 else 0.0
    widths = [max(6, round(us / usual_us)) for us in cfg.windows_us] if usual_us else []
    if not widths or len(step) < 2 * max(widths):
        return None
    bends = bends.between(int(motion.pts_us[2]), 1 << 62)
    bend = np.nan_to_num(bends["bend"].astype(np.float64))
    fall = median(np.array([_fall_of_cadence(step, bend, width, cfg) for width in widths]))
    turns = turns_at_knots(bends, step, cfg.knots)
    cadence = cfg.cadence_weight * fall + cfg.cadence_turns * (turns - cfg.cadence_usual) if fall and turns >= cfg.cadence_least else 0.0
    changes = cfg.changes_weight * changes_at_knots(bends, step, cfg.knots)
    keeps = cfg.keeps_weight * keeps_between_knots(bends, step, cfg.knots)
    return min(1.0, max(cadence, cfg.turns_weight * turns, changes, keeps))


def _fall_of_cadence(step: np.ndarray, bend: np.ndarray, width: int, cfg: RampConfig) -> float:
    """The largest fall between stretches of `width` frames; 0 where none of the slower ones has a cadence."""
    frames = made_frames(step, bend, width, cfg)
    regular = windows(_run(frames.made), width).max(1) <= cfg.cadence_made
    regular &= windows(_run(~frames.made), width).max(1) <= cfg.cadence_new
    regular &= _contrast(frames, width) >= cfg.made_contrast
    pace, slow = windows(step, width).mean(1), regular & steady(step, width, cfg.moving, cfg.even)
    if not slow.any():
        return 0.0
    share, repeats = windows(frames.made, width).mean(1), windows(frames.repeats, width).min(1)
    known = windows(frames.known, width).mean(1) >= cfg.between_known
    falls = [0.0]
    for apart in cfg.apart:
        lag = width + round(apart * width)
        first, second = slice(0, max(0, len(share) - lag)), slice(lag, None)
        for one, other in ((first, second), (second, first)):
            ratio = pace[other] / np.maximum(pace[one], 1e-6)
            said = (1 - share[other]) / np.maximum(1 - share[one], 0.1)
            faster = (ratio >= cfg.pace) & (ratio <= cfg.most * said) & (known[other] | repeats[one])
            falls.append(float(np.where(slow[one] & faster, share[one] - share[other], 0.0).max(initial=0.0)))
    return max(falls)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFrames:
    """Which frames were made from others [n]; whether by repeats; whether mixtures are to be told there; and what is small for made ones."""

    made: np.ndarray
    repeats: np.ndarray
    known: np.ndarray
    sign: np.ndarray


def made_frames(step: np.ndarray, bend: np.ndarray, width: int, cfg: RampConfig) -> MadeFrames:
    """Repeats where they are frequent, told by the step as a share of the largest around; else mixtures of their neighbours, by the bend."""
    fifth = max(1, width // 5)
    around = [windows(np.pad(v, (width // 2, width - 1 - width // 2), "edge"), width) for v in (step, bend)]
    most, knots = (np.partition(v, width - n, axis=1)[:, width - n] for v, n in zip(around, (fifth, max(2, fifth)), strict=True))
    repeats = step < cfg.repeat_share * most
    mixed = (bend < np.minimum(cfg.between_bend, cfg.between_share * knots)) & (knots >= cfg.between_knots) & ~repeats
    # Beside a repeat the way is straight by itself, so there bends tell nothing.
    often = np.convolve(repeats, np.ones(width), "same") >= 0.25 * width
    return MadeFrames(
        made=np.where(often, repeats, mixed),
        repeats=often,
        known=often | (knots >= cfg.between_knots),
        sign=np.where(often, step / np.maximum(most, 1e-6), bend),
    )


def _contrast(frames: MadeFrames, width: int) -> np.ndarray:
    """How many times as large the sign of the other frames is as that of the made ones, their means in each stretch."""
    made, sign = windows(frames.made, width), windows(frames.sign, width)
    of_made, of_others = (sign * made).sum(1) / np.maximum(made.sum(1), 1), (sign * ~made).sum(1) / np.maximum((~made).sum(1), 1)
    return np.asarray(of_others / (of_made + _FAINT))


def _run(flags: np.ndarray) -> np.ndarray:
    """How many flags on end are set up to each place."""
    places = np.arange(len(flags))
    return np.asarray(places - np.maximum.accumulate(np.where(flags, -1, places)))
