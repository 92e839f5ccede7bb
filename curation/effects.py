"""Special motion effects: still pictures shown as video, loops, strobing, speed ramps, and the cuts that a sensitive detector sees.

Movie Gen drops static, slideshow-like, jittery and special-effect clips (Data, three filter stages) by classifiers that it does not
describe; these are ours, on tracks that other observers leave and a small signature of the picture.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from curation.global_motion import besides_model, grid_px, similarity_motion
from curation.observe import Frame
from curation.ranks import median
from curation.shots import false_cuts
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "6"
COLUMNS = ("shots_per_s", "slideshow_score", "loop_score", "strobe_per_s", "speed_ramp")
NEEDS = ("shots", "motion", "camera", "signature", "bends")

SIGNATURE_US = 83_333
"""Spacing of the signatures: each second frame at 24 a second, so that a period is met within one."""
_CELLS = (16, 9)
_BLACK = 16
"""Luma of black where range is limited, as in most video; of full range dark pictures need a little less to count as strobing."""
_FAINT = 0.004
"""A bend, or a share of a step, of a made frame once coded."""
DRIFT_LOOKS = 5
"""Half a second: a thing that moves by itself goes on for so long, an error of following a point does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsConfig:
    """How effects are measured. Values are ours, chosen on generated effects of seeds that its benchmark leaves out (benchmarks/accuracy_effects.py)."""

    sensitive_cut: float = 10.0  # levels; separates shaky from steady videos of our test media
    sensitive_gap_us: int = 200_000
    still_points: float = 0.85  # of a still picture so many points go along with one movement …
    still_faint_px: float = 0.08  # … but for so many small px a look over how well a point is seen …
    still_share: float = 1.2  # … and this share of what it moves: fine print glitters as it moves, and does not when it rests …
    drift_px: float = 0.09  # … and in the middle of half a second but for so many, one way …
    drift_faint_px: float = 0.05  # … and so many over how well it is seen …
    drift_share: float = 0.7  # … and this share of what the point moves: following falls short the more, the further it goes
    slow_widths: float = 0.15  # a still picture is shown with slow movement: picture widths a second
    slow_zoom: float = 0.15  # 1/s
    even_px: float = 0.12  # … and evenly: what changes in speed from look to look, small px
    least_loop_us: int = 650_000
    restless_share: float = 0.25  # of the cells: those that change most are compared
    loop_noise: float = 0.3  # levels by which equal pictures differ once coded
    strobe_levels: float = 8.0  # mean luma jumps by as much, and back …
    strobe_share: float = 0.15  # … or, in a dark picture, by this share of what it is above black …
    strobe_faint: float = 1.5  # … and so many levels
    ramp_windows_us: tuple[int, ...] = (400_000, 500_000, 550_000, 600_000, 650_000)  # cadences of stretches of so long are compared …
    ramp_apart: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)  # … so many stretches apart: changes of pace are eased, any film drifts
    ramp_pace: float = 1.25  # the faster one moves at least so many times as much …
    ramp_most: float = 3.0  # … and no more than so many times what its cadence says: else it came to rest
    ramp_even: float = 10.0  # no half of the slower one moves so many times as much as the other: what stops or fades has no pace
    ramp_moving: float = 0.1  # levels a frame on the small plane: what moves less shows no cadence
    between_bend: float = 0.04  # a frame is a mixture of its neighbours when it bends less than this …
    between_share: float = 0.5  # … and than this share of what a fifth of the frames around bend by, their knots …
    between_knots: float = 0.03  # … which are at least so strong; where they are not, or not in so large a share of a stretch …
    between_known: float = 0.8  # … it shows no absence of mixtures
    made_contrast: float = 2.5  # of a cadence the other frames bend, or move, so many times as much as the made ones
    repeat_share: float = 0.12  # a frame repeats when it moves by less than this share of what the frames around do
    cadence_made: int = 7  # a cadence has at most so many mixtures or repeats on end …
    cadence_new: int = 5  # … and so many others


class SignatureObserver:
    """Tracks `signature`, the luma of 16 x 9 cells twelve times a second, 1.7 KB a second; and `bends`, every frame.

    Bend: by how much the way from the frame before the last over the last to this one is longer than straight on, 1 - |c - a| / (|c - b|
    + |b - a|), in mean absolute luma. 0 where the frame between is a mixture of its neighbours, or repeats one.
    """

    def __init__(self) -> None:
        self._recorder, self._bends = Recorder("signature", ()), Recorder("bends", ("bend",))
        self._due = -(1 << 62)
        self._last: list[np.ndarray] = []  # the last two small planes
        self._step = 0.0

    def push(self, frame: Frame) -> None:
        """The frame's bend is noted, and its cells when it is due."""
        self._bends.add(frame.pts_us, self._bend(frame))
        if frame.pts_us < self._due:
            return
        self._due = max(self._due + SIGNATURE_US, frame.pts_us + SIGNATURE_US // 2)
        self._recorder.add(frame.pts_us, picture=cv2.resize(frame.half(), _CELLS, interpolation=cv2.INTER_AREA))

    def _bend(self, frame: Frame) -> float:
        last, self._last = self._last, [*self._last[-1:], frame.y]
        if last and last[-1].shape != frame.y.shape:
            self._last, last = [frame.y], []
        step_before, self._step = self._step, frame.change if last else 0.0
        way = step_before + self._step
        return 1 - cv2.norm(frame.y, last[0], cv2.NORM_L1) / (way * frame.y.size) if len(last) == 2 and way else float("nan")

    def finish(self) -> list[Track]:
        """Both tracks."""
        return [self._recorder.track(), self._bends.track()]


def measure_effects(clip: Clip, tracks: Tracks, cfg: EffectsConfig) -> dict[str, Any]:
    """The effect columns of a clip that lies inside one shot; null where it is too short, or shows too little, to tell."""
    shots, motion, camera, signature, bends = (tracks[n].between(clip.start_us, clip.end_us) for n in NEEDS)
    seconds = (clip.end_us - clip.start_us) / 1e6
    # The first frame's change is to a frame outside the clip.
    cuts = false_cuts(shots["change"][1:], shots.pts_us[1:], cfg.sensitive_cut, cfg.sensitive_gap_us)
    return {
        "shots_per_s": (1 + cuts) / seconds,
        "slideshow_score": slideshow_score(camera, cfg),
        "loop_score": loop_score(signature, cfg),
        "strobe_per_s": strobe_per_s(motion["luma"], seconds, cfg),
        "speed_ramp": speed_ramp(bends, motion, cfg),
    }


def slideshow_score(camera: Track, cfg: EffectsConfig) -> float | None:
    """The share of looks that show a still picture moved slowly and evenly as one; None where too few looks show any texture.

    In a filmed scene leaves, people, depth or the hand that holds the camera move besides. Slow ones do so by less a look than points of
    a still are followed amiss, but one way for half a second, while what is amiss comes and goes.
    """
    seen = ~np.isnan(camera["dx"])
    if seen.sum() < 8:
        return None
    dt, dx, dy, zoom, roll, texture = (camera[n][seen].astype(np.float64) for n in ("dt_s", "dx", "dy", "zoom", "roll", "texture"))
    width, height = float(camera["width"][0]), float(camera["height"][0])
    besides_px, weight = (v[seen] for v in besides_model(camera))
    faint = 1 / np.maximum(weight, 1e-3)
    at = grid_px(round(height), round(width)) - np.array([(width - 1) / 2, (height - 1) / 2])
    moved_px = _length(similarity_motion(np.stack([dx * width, dy * height, zoom, roll], 1) * dt[:, None], at))
    along = (_length(besides_px) <= cfg.still_faint_px * faint + cfg.still_share * moved_px) & (weight > 0)
    along &= _length(_drift(besides_px)) <= cfg.drift_px + cfg.drift_faint_px * faint + cfg.drift_share * moved_px
    whole = along.sum(1) >= cfg.still_points * texture * weight.shape[1]  # what runs too fast to be stored does not go along
    slow = (np.hypot(dx, dy) <= cfg.slow_widths) & (np.abs(zoom) <= cfg.slow_zoom)
    even = np.hypot(_unevenness(dx * dt * width), _unevenness(dy * dt * width)) <= cfg.even_px
    return float((whole & slow & even).mean())


def _length(motion: np.ndarray) -> np.ndarray:
    """Of motions [..., 2]."""
    return np.asarray(np.hypot(motion[..., 0], motion[..., 1]))


def _drift(besides_px: np.ndarray) -> np.ndarray:
    """The median of each point's motion over the five looks around each, [n, points, 2]; by comparisons, an eighth or less of what a sort takes."""
    padded = np.pad(besides_px, ((2, 2), (0, 0), (0, 0)), "reflect")
    a, b, c, d, e = (padded[k : k + len(besides_px)] for k in range(DRIFT_LOOKS))
    low = np.maximum(np.minimum(a, b), np.minimum(c, d))  # of four, the second and third in order are the middle of five with the fifth
    high = np.minimum(np.maximum(a, b), np.maximum(c, d))
    return np.asarray(np.maximum(np.minimum(low, high), np.minimum(np.maximum(low, high), e)))


def _unevenness(step_px: np.ndarray) -> np.ndarray:
    """How far each step is from the mean of the steps beside it."""
    around = np.convolve(np.pad(step_px, 1, "edge"), [0.5, 0, 0.5], "valid")
    return np.asarray(np.abs(step_px - around))


def loop_score(signature: Track, cfg: EffectsConfig) -> float | None:
    """How much better pictures agree one period later than a quarter to three quarters of it later: 0 not at all, 1 a perfect loop.

    For the best period of at least `least_loop_us` that fits twice; None where none does. A picture that stands agrees always, so it
    scores low; one that drifts on agrees ever less. Only cells that change much are compared: of a few fish in a large tank all others
    agree at any time.
    """
    cells = signature.pictures.reshape(len(signature), -1).astype(np.float32)
    least, longest = round(cfg.least_loop_us / SIGNATURE_US), len(cells) // 2
    if longest < least:
        return None
    restless = np.argsort(-cells.std(0), kind="stable")[: max(1, round(cfg.restless_share * cells.shape[1]))]
    cells = cells[:, restless]
    later = _apart(cells, cells, longest)
    between = _apart(cells, (cells[1:] + cells[:-1]) / 2, longest)  # half a place further: a period may end between two signatures
    agreement = [
        1
        - (min(later[p - 1], between[p - 1]) + cfg.loop_noise)
        / (median(np.array(later[max(0, p // 4 - 1) : max(1, 3 * p // 4)])) + cfg.loop_noise)
        for p in range(least, longest + 1)
    ]
    return max(0.0, *agreement)


def _apart(cells: np.ndarray, later: np.ndarray, longest: int) -> list[float]:
    """By how many levels cells differ from those 1 to `longest` places later, the median over time."""
    share = np.full(cells.shape[1], 1 / cells.shape[1], np.float32)
    return [median(np.abs(later[lag:] - cells[: len(later) - lag]) @ share) for lag in range(1, longest + 1)]


def strobe_per_s(luma: np.ndarray, seconds: float, cfg: EffectsConfig) -> float | None:
    """How often a second the mean luma jumps one way and at once back, each time by `strobe_levels`, in a dark picture by `strobe_share`
    of what it is above black; None for fewer than 8 frames."""
    if len(luma) < 8:
        return None
    jumps = np.diff(luma)
    least = np.clip(cfg.strobe_share * (np.maximum(luma[1:], luma[:-1]) - _BLACK), cfg.strobe_faint, cfg.strobe_levels)
    large = jumps[np.abs(jumps) >= least]
    return float((np.sign(large[1:]) != np.sign(large[:-1])).sum() / seconds) if len(large) > 1 else 0.0


def speed_ramp(bends: Track, motion: Track, cfg: EffectsConfig) -> float | None:
    """By how much the share of repeated or mixed frames falls from a stretch to a faster one near it, 0 to 1; 0 for an even cadence. The median
    over stretches of several lengths: a single one meets an accident now and then.

    Footage slowed down afterwards has fewer pictures than frames, at a regular cadence; film at an even rate that was converted has it
    throughout. A change of pace without a cadence (frames left out, a fast camera) looks as if the scene changed its pace: not seen here.
    None for clips shorter than two of the longest ones.
    """
    # The first two frames are compared with some outside the clip.
    step, bend = motion["motion"][2:].astype(np.float64), np.nan_to_num(bends["bend"][2:].astype(np.float64))
    usual_us = float(np.median(np.diff(motion.pts_us))) if len(motion) > 1 else 0.0
    widths = [max(6, round(us / usual_us)) for us in cfg.ramp_windows_us] if usual_us else []
    if not widths or len(step) < 2 * max(widths):
        return None
    return median(np.array([_fall_of_cadence(step, bend, width, cfg) for width in widths]))


def _fall_of_cadence(step: np.ndarray, bend: np.ndarray, width: int, cfg: EffectsConfig) -> float:
    """The largest fall between stretches of `width` frames; 0 where none of the slower ones has a cadence."""
    frames = made_frames(step, bend, width, cfg)
    regular = _windows(_run(frames.made), width).max(1) <= cfg.cadence_made
    regular &= _windows(_run(~frames.made), width).max(1) <= cfg.cadence_new
    regular &= _contrast(frames, width) >= cfg.made_contrast
    pace, halves = _windows(step, width).mean(1), _windows(step, width // 2).mean(1)
    halves = np.sort([halves[: len(pace)], halves[width - width // 2 :]], 0)
    slow = regular & (pace >= cfg.ramp_moving) & (halves[1] <= cfg.ramp_even * halves[0])
    if not slow.any():
        return 0.0
    share, repeats = _windows(frames.made, width).mean(1), _windows(frames.repeats, width).min(1)
    known = _windows(frames.known, width).mean(1) >= cfg.between_known
    falls = [0.0]
    for apart in cfg.ramp_apart:
        lag = width + round(apart * width)
        first, second = slice(0, max(0, len(share) - lag)), slice(lag, None)
        for one, other in ((first, second), (second, first)):
            ratio = pace[other] / np.maximum(pace[one], 1e-6)
            said = (1 - share[other]) / np.maximum(1 - share[one], 0.1)
            faster = (ratio >= cfg.ramp_pace) & (ratio <= cfg.ramp_most * said) & (known[other] | repeats[one])
            falls.append(float(np.where(slow[one] & faster, share[one] - share[other], 0.0).max(initial=0.0)))
    return max(falls)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFrames:
    """Which frames were made from others [n]; whether by repeats; whether mixtures are to be told there; and what is small for made ones."""

    made: np.ndarray
    repeats: np.ndarray
    known: np.ndarray
    sign: np.ndarray


def made_frames(step: np.ndarray, bend: np.ndarray, width: int, cfg: EffectsConfig) -> MadeFrames:
    """Repeats where they are frequent, told by the step as a share of the largest around; else mixtures of their neighbours, by the bend."""
    fifth = max(1, width // 5)
    around = [_windows(np.pad(v, (width // 2, width - 1 - width // 2), "edge"), width) for v in (step, bend)]
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
    made, sign = _windows(frames.made, width), _windows(frames.sign, width)
    of_made, of_others = (sign * made).sum(1) / np.maximum(made.sum(1), 1), (sign * ~made).sum(1) / np.maximum((~made).sum(1), 1)
    return np.asarray(of_others / (of_made + _FAINT))


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, width))


def _run(flags: np.ndarray) -> np.ndarray:
    """How many flags on end are set up to each place."""
    places = np.arange(len(flags))
    return np.asarray(places - np.maximum.accumulate(np.where(flags, -1, places)))
