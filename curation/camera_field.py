"""What a clip's followed points show of its camera: their mean motion by window, its shake, and the signs that tell classes apart.

All of it comes from the track `camera`; the classes themselves are decided in `curation/camera.py`.
"""

import math
from dataclasses import dataclass

import numpy as np

from curation.global_motion import LEAST_POINTS, MOST_US, LocalMotion
from curation.ranks import held_medians, median, medians, quantile
from curation.tracks import Track

_LENSES = (0.7, 1.0, 1.5, 1e3)
"""Focal lengths in picture widths that are tried: from a wide lens to none at all, as when a flat picture is moved."""
RESTING = 0.0035
"""Picture widths a second: a point moves by less when the camera stands; 0.05 small px from look to look."""
MEAN_RADIUS = 0.27
"""Picture widths: by its distance from the centre a mean point turns growth and turn into speed."""
_NOISE = 0.003
"""Picture widths a second by which the mean motion of a point is off."""
_SHARED, _UNSURE, _WHIP = 0.75, 0.01, 0.6
"""A change of speed is shared where half the points deviate from it by less than so much of it, given so much of doubt; larger ones count
as the last, long sides a second: the jump of a fit at a cut is no shake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Mean motion of the grid's points by window: x, y [points] from the centre; right, down, weight [windows, points]; picture widths."""

    x: np.ndarray
    y: np.ndarray
    right: np.ndarray
    down: np.ndarray
    weight: np.ndarray
    aspect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the classes are told apart by. Speeds in picture widths a second; shares are of all motion."""

    speed: float  # that most points reach
    resting: float  # share of the points that stand for the whole clip
    seen: float  # share of the grid's points with texture, where it is least: in one half of the picture
    agree: float  # share of the windows in which the same movement of the turning camera is the strongest …
    agree_ahead: float  # … and the same mean motion
    steady: float  # motion of the whole clip over that of its windows
    shake: float
    flutter: float  # what points do from look to look each for itself
    shift: float  # of the turning camera that explains most: right, down, growth and turn
    lift: float
    growth: float
    turn: float
    across: float  # share that goes along the rows, each its own way
    right: float  # mean motion to the right, down, away from the centre, as a share
    down: float
    outward: float
    depth: float  # share of the motion that no turning camera explains
    fall: float  # log of lower over upper third: sideways speed, up and down, growth
    fall_upright: float
    fall_outward: float
    stands: float  # share of a middle column that stands while its rows move across …
    stands_ahead: float  # … or outwards
    low_over_high: float  # sideways speed of the lower third over the upper's


def shake_of(local: LocalMotion) -> tuple[float, float]:
    """Shake and flutter, picture widths a second.

    Each point's speed is taken beside its running mean of five looks (0.5 s). What the points have in common then is shake (rms over the
    looks): no jump from one depth to another comes into it. What they do each for itself is flutter (mean): noise, or water and leaves.
    """
    seen = (local.weight > 0).mean(0) >= 0.5
    if not seen.any():
        return 0.0, 0.0
    common, own = [], []
    for speed in (local.right[:, seen], local.down[:, seen]):
        padded = np.concatenate([speed[:1], speed[:1], speed, speed[-1:], speed[-1:]])
        beside = speed - sum(padded[k : k + len(speed)] for k in range(5)) / 5
        middle = medians(beside)
        common.append(middle)
        own.append(np.abs(beside - middle[:, None]))
    return float(np.sqrt(np.square(common).sum(0).mean())), median(np.hypot(*own).mean(0))


def unsteadiness_of(track: Track, local: LocalMotion) -> float | None:
    """How fast the picture runs and how abruptly it changes its run: root of the product, long sides of the picture a second.

    The speed is the 0.9 quantile over the looks of what the points have in common; the change is the mean from look to look, up to `_WHIP`,
    of those changes that most points share: things that move before the camera change each by itself. A whip has the speed, a shaking
    hand the change, an even pan only the speed; None for fewer than four looks that follow one another.
    """
    speed = np.stack([local.right, local.down]) * min(1.0, float(track["width"][0] / track["height"][0]))
    seen = local.weight > 0
    known = seen.sum(1) >= LEAST_POINTS
    follows = (seen[1:] & seen[:-1]).sum(1) >= LEAST_POINTS
    follows &= np.diff(track.pts_us) <= MOST_US
    if follows.sum() < 4:
        return None
    run = np.hypot(*(held_medians(part[known], seen[known]) for part in speed))
    change, both = np.diff(speed, axis=1)[:, follows], (seen[1:] & seen[:-1])[follows]
    common = np.stack([held_medians(part, both) for part in change])
    size = np.hypot(*common)
    own = held_medians(np.hypot(*(change - common[..., None])), both)
    shared = np.where(own < _SHARED * (size + _UNSURE), np.minimum(size, _WHIP), 0)
    return float(np.sqrt(quantile(run, 0.9) * shared.mean()))


def field_of(track: Track, local: LocalMotion, window_s: float) -> Field:
    """The mean motion of the points in windows of about window_s."""
    t = (track.pts_us - track.pts_us[0]) / 1e6
    stuck = _stuck(local)
    count = max(1, round((float(t[-1]) + float(track["dt_s"][0])) / window_s))
    window = np.minimum((t / (t[-1] + 1e-6) * count).astype(int), count - 1)
    seen = local.weight > 0
    parts = []
    for k in range(count):
        here = window == k
        if here.sum() < 3 and count > 1:
            continue
        often = seen[here].mean(0) >= 0.5
        middle = [held_medians(v[here].T, (seen[here] | ~often).T) for v in (local.right, local.down)]
        parts.append((*middle, np.where(often & ~stuck, np.minimum(10 * local.weight[here].mean(0), 1), 0)))
    if not parts:  # frames come in fits and starts
        return field_of(track, local, np.inf)
    right, down, weight = (np.stack([p[i] for p in parts]) for i in range(3))
    return Field(x=local.x, y=local.y, right=right, down=down, weight=weight, aspect=float(track["height"][0] / track["width"][0]))


def _stuck(local: LocalMotion) -> np.ndarray:
    """Points [points] that stand from look to look while most move: titles and logos, no part of what the camera sees."""
    still = (np.hypot(local.right, local.down) < 2 * RESTING) & (local.weight > 0)
    stuck = still.sum(0) > 0.7 * np.maximum((local.weight > 0).sum(0), 1)
    return stuck if stuck.sum() < 0.3 * (local.weight > 0).any(0).sum() else np.zeros_like(stuck)


def signs(field: Field, shake: float, flutter: float) -> Signs:
    """What the field shows."""
    x, y, w, radius = field.x, field.y, field.weight, np.hypot(field.x, field.y) + 1e-6
    speed = np.hypot(field.right, field.down)
    level = _quantile(speed, w, 0.6)
    # a fast passer-by counts no more than what moves with the camera
    cap = np.minimum(1, 2.5 * (level + 1e-4) / (speed + 1e-9))
    u, v, p = field.right * cap, field.down * cap, speed * cap
    total = float((w * p).sum()) + 1e-9

    def share(part: np.ndarray) -> float:
        return float((w * part).sum()) / total

    models, shown, left = turning_camera(field)
    model = medians(models.T)
    pace = np.hypot(*shown)
    rest = np.maximum(0, np.hypot(*left) - _NOISE) / (np.maximum(pace, speed) + 1e-9)
    ways = np.stack([(w * a).sum(1) for a in (u, v, (u * x + v * y) / radius)], 1)
    often = w.mean(0)
    resting = float((often * (speed.mean(0) < RESTING)).sum() / (often.sum() + 1e-9))
    seen = min(float((often[half] > 0).mean()) for half in (x < 0, x > 0, y < 0, y > 0))
    along_rows = sum(abs(float((w * u)[:, y == at].sum())) for at in np.unique(y)) / total
    across, ahead = _standing(field)
    steady = np.hypot(*shown.mean(1)).sum() / (pace.mean(0).sum() + 1e-9)
    return Signs(
        speed=level, resting=resting, seen=seen, steady=float(steady), shake=shake, flutter=flutter,
        agree=_agree(models * np.array([1, 1, MEAN_RADIUS, MEAN_RADIUS])), agree_ahead=_agree(ways),
        shift=float(model[0]), lift=float(model[1]), growth=float(model[2]), turn=float(model[3]),
        across=along_rows, right=share(u), down=share(v), outward=share((u * x + v * y) / radius),
        depth=_quantile(rest, w * (np.minimum(pace, 2.5 * level) + 0.005), 0.6),
        fall=_fall(field, np.abs(field.right)), fall_upright=_fall(field, np.abs(field.down)),
        fall_outward=_fall(field, np.abs((field.right - model[0]) * x + (field.down - model[1]) * y) / radius**2),
        stands=across, stands_ahead=ahead, low_over_high=_low_over_high(field),
    )  # fmt: skip


def _agree(movements: np.ndarray) -> float:
    """The share of the rows [windows, movements] whose largest entry is the most frequent one, with the same sign."""
    largest = np.abs(movements).argmax(1)
    signed = (largest + 1) * np.sign(movements[np.arange(len(movements)), largest])
    return float(np.unique(signed, return_counts=True)[1].max() / len(movements))


def _fall(field: Field, pace: np.ndarray) -> float:
    """Log of the ratio of the paces [windows, points] in the lower and the upper third of the picture, medians; 0 where one has no points."""
    medians = []
    for third in (field.y > field.aspect / 6, field.y < -field.aspect / 6):
        w = field.weight[:, third]
        if (w > 0).sum() < 4:
            return 0.0
        medians.append(_quantile(pace[:, third], w, 0.5))
    return math.log((medians[0] + 0.004) / (medians[1] + 0.004))


def _low_over_high(field: Field) -> float:
    """Sideways speed of the lower third over that of the upper: under 0 where they run against each other."""
    low, high = (
        _quantile(field.right[:, third], field.weight[:, third], 0.5) for third in (field.y > field.aspect / 6, field.y < -field.aspect / 6)
    )
    return max(-9.0, min(9.0, low / high)) if abs(high) > 1e-6 else 9.0


def turning_camera(field: Field) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift, lift, growth, turn [windows, 4] of the turning or zooming camera that explains most; the motion that it
    gives the points and what it leaves, [2, windows, points] each. The lens is the same in all windows."""
    motion = np.concatenate([field.right, field.down], 1)
    start = np.zeros((len(motion), 4))
    for k, way in enumerate((field.right, field.down)):
        start[:, k] = [_quantile(m, w, 0.5) for m, w in zip(way, field.weight, strict=True)]
    models, lefts = _robust(np.stack([_bend(field.x, field.y, focal) for focal in _LENSES]), motion, field.weight, start)
    best = np.inf, start, np.zeros((2, *field.right.shape))
    for focal, model, left in zip(_LENSES, models, lefts, strict=True):
        cost = float((field.weight * np.log1p((left**2).sum(0) / 0.01**2)).sum())
        if cost < best[0] * (0.97 if focal > 100 else 1.0):
            best = cost, model, left
    return best[1], np.stack([field.right, field.down]) - best[2], best[2]


def _bend(x: np.ndarray, y: np.ndarray, focal: float) -> np.ndarray:
    """How each point moves [4, 2 x points], to the right and then down, when a camera of that lens shifts, lifts, grows and turns."""
    one, across = np.ones_like(x), x * y / focal**2
    return np.concatenate([np.stack([one + x * x / focal**2, across, x, -y]), np.stack([across, one + y * y / focal**2, y, x])], 1)


def _robust(bases: np.ndarray, motion: np.ndarray, weight: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each basis [4, 2 x points] the four numbers [windows, 4] that most points follow, from `start` on, and what is left
    [2, windows, points]; Cauchy weights, scale to 0.01. All at once, as it is the calls that cost."""
    points, model = weight.shape[1], start
    turned = bases.swapaxes(1, 2)
    squares = (bases[:, :, None] * bases[:, None]).reshape(len(bases), 16, -1).swapaxes(1, 2)
    for scale in (0.08, 0.04, 0.02, 0.01, 0.01, 0.01, 0.01):
        off = motion - model @ bases
        w = weight / (1 + (off[..., :points] ** 2 + off[..., points:] ** 2) / scale**2)
        w = np.concatenate([w, w], 2)
        square = (w @ squares).reshape(*w.shape[:2], 4, 4) + 1e-9 * np.eye(4)
        model = np.linalg.solve(square, ((w * motion) @ turned)[..., None])[..., 0]
    off = motion - model @ bases
    return model, np.stack([off[..., :points], off[..., points:]], 1)


def _standing(field: Field) -> tuple[float, float]:
    """The largest share of a middle column's lower points that stand while their rows move across; and while they move outwards.

    Lower points, as the distance above stands nearly too when a camera travels.
    """
    w = field.weight.mean(0)
    u, v = (_mean_over_windows(a, field.weight) for a in (field.right, field.down))
    outward = (u * field.x + v * field.y) / (field.x**2 + field.y**2 + 1e-6)
    rows = (np.abs(field.x) < 0.2) & (field.y > -0.12 * field.aspect) & (field.y < 0.3 * field.aspect) & (w > 0)
    sides = (np.abs(field.x) > 0.25) & (w > 0)
    found = []
    for pace, least, far_share in ((np.hypot(u, v), 0.012, 0.5), (np.abs(outward), 0.03, 0.35)):
        far = quantile(pace[sides], far_share) if sides.any() else 0.0
        shares = [0.0]
        for column in np.unique(field.x[rows]):
            slow = []
            for i in np.flatnonzero(rows & (field.x == column)):
                row = sides & (field.y == field.y[i])
                typical = median(pace[row]) if row.any() else 0.0
                if typical > least:
                    slow.append(pace[i] / max(min(typical, far), 0.004))
            best = sorted(np.clip(1.4 - 2 * np.array(slow), 0, 1), reverse=True)
            count = max(2, math.ceil(0.67 * len(best)))  # the lowest may be the floor before the feet
            shares.append(float(sum(best[:count])) / count)
        found.append(max(shares))
    return found[0], found[1]


def _mean_over_windows(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.asarray((weight * values).sum(0) / (weight.sum(0) + 1e-9))


def _quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The value below which that share of the weight lies; 0 without weight."""
    order = np.argsort(values, axis=None)
    total = np.cumsum(weight.ravel()[order])
    if not len(total) or total[-1] <= 0:
        return 0.0
    return float(values.ravel()[order][min(int(np.searchsorted(total, share * total[-1])), len(order) - 1)])
