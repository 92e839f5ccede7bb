"""Technical quality of a clip: exposure, sharpness, noise, blockiness, combing, repeated frames, effective resolution; colourfulness.

The observer looks at a frame every 1.1 s at most, at full size but only at a few tiles (`frame_quality`), and notes how far each frame
differs from the one before. Columns are averages over a clip's looks; all read levels of 8-bit luma in limited range.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from curation import frame_quality
from curation.hdr import shown_luma
from curation.observe import FILTERED_WITHIN_US, SMALL_PX, Frame, fit
from curation.ranks import median, quantile
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "4"

LOOK_US = 1_100_000
LOOK_FRAMES = 24
"""A look costs about a millisecond: so often, and of slow video not more than each 24th frame, is 40 us a frame at most."""

CADENCE_FRAMES = 10
"""The longest cadence: 240 frames made of 24."""

SETTLE_FRAMES = 4
"""A coder takes up to so many frames to settle on what no longer changes: small steps, none of them a repeat."""
SWING_FRAMES = 12
"""Half a second at 24 frames a second: a picture that stands for so long stands for long; so many steps tell how fast a scene moves."""

BLACK, WHITE = 16, 235
"""Luma levels of black and white in the small frames (limited range)."""
_DARK, _BRIGHT = 18, 232
"""Luma at or beyond these is clipped, give or take coding noise."""

COLUMNS = (
    "brightness", "contrast", "dark_fraction", "bright_fraction", "sharpness", "noise", "blockiness", "interlaced", "effective_resolution",
    "duplicate_fraction",
)  # fmt: skip

_LOOKS, _STEPS = "quality", "steps"
_FIELDS = ("brightness", "contrast", "dark", "bright", *frame_quality.FIELDS)
_POWERS = [f"power_{i}" for i in range(frame_quality.BANDS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """How looks and steps become columns. Values are ours, chosen on degraded copies of real clips."""

    smear_weight: float = 0.3  # of blocks that the loop filter made soft, against those whose edges stand
    comb_ratio: float = 1.2  # a look is combed when lines differ so much more from their neighbours than from those of their field …
    comb_levels: float = 3.0  # … and bend by so many levels; less is a plain or resting tile
    fall: float = 1.0  # powers of ten by which the spectrum lies below a natural one where the picture holds no detail
    natural_slope: float = -1.6  # of log power over log frequency, in natural pictures
    moving_levels: float = 0.4  # largest steps of a clip below this: it rests, and no frame is a repeat
    repeat_levels: float = 0.06  # a repeated frame differs by less: it was coded again …
    repeat_share: float = 0.06  # … or by less than this share of the clip's large steps
    cadence_spread: float = 0.7  # deviation of the steps' logarithm from its running mean: less is motion of any kind …
    cadence_likeness: float = 0.5  # … and its correlation with itself some frames later: less is no cadence
    weak_share: float = 0.4  # of the strongest place in a cadence: a repeat's steps are smaller
    abrupt_share: float = 0.25  # of the large steps, before and after a repeat: motion that dies down is none …
    swing_share: float = 0.5  # … or so much of the median step of the half second beside it …
    freeze_ratio: float = 10.0  # … where the run's first step is so many times smaller than the last before it


class QualityObserver:
    """Fills the tracks `quality`, a row a look, and `steps`, a row a frame: its mean absolute change of small luma, levels."""

    def __init__(self) -> None:
        self._looks, self._steps = Recorder(_LOOKS, _FIELDS), Recorder(_STEPS, ("step",))
        self._before: np.ndarray | None = None
        self._since, self._last_us = LOOK_FRAMES, 0
        self._found: list[float] | None = None  # of the picture that stands

    def push(self, frame: Frame) -> None:
        """Notes the change since the last frame; looks closer when it is time."""
        before, self._before = self._before, frame.y
        if not frame.repeats:
            self._found = None
        self._steps.add(frame.pts_us, frame.change)
        self._since += 1
        if before is not None and (self._since < LOOK_FRAMES or 0 <= frame.pts_us - self._last_us < LOOK_US):
            return
        late = frame.pts_us - self._last_us >= LOOK_US + FILTERED_WITHIN_US
        if (
            before is not None and not late and not frame.is_filtered()
        ):  # blocks that the loop filter would have smoothed are not the coder's
            return
        self._since, self._last_us = 0, frame.pts_us
        if self._found is None:
            tiles = frame_quality.frame_tiles(frame, before)
            closer = [float("nan")] * len(frame_quality.FIELDS) if tiles is None else frame_quality.numbers(tiles)
            self._found = [*_exposure(shown_luma(frame.y, int(frame.source.color_trc or 0))), *closer]
        self._looks.add(frame.pts_us, *self._found)

    def finish(self) -> list[Track]:
        """Both tracks, empty when no frame came."""
        return [self._looks.track(), self._steps.track()]


def quality_track_of_picture(rgb: np.ndarray) -> Track:
    """The track `quality` of a still picture, RGB uint8 [height, width, 3]: one look. It has no steps, so no repeats either."""
    width, height = fit(rgb.shape[1], rgb.shape[0], SMALL_PX)
    luma = _limited(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    small = cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
    recorder = Recorder(_LOOKS, _FIELDS)
    recorder.add(0, *_exposure(small), *frame_quality.numbers(frame_quality.tiles_of(luma, small, None)))
    return recorder.track()


def measure_clip_quality(clip: Clip, tracks: Tracks, cfg: QualityConfig) -> dict[str, Any]:
    """The quality columns of a clip from the tracks `quality` and `steps`; null where no look or step of it tells."""
    looks = tracks[_LOOKS].between(clip.start_us, clip.end_us if clip.kind == "video" else 1)
    columns: dict[str, Any] = dict.fromkeys(COLUMNS)
    if len(looks):
        columns |= {name: _mean(looks[field]) for name, field in _AVERAGED.items()}
        columns["blockiness"] = _blockiness(looks, cfg)
        columns["sharpness"] = _sharpness(_mean(looks["blur_ratio"]))
        columns["interlaced"] = _combed(looks, cfg) if clip.kind == "video" else None
        columns["effective_resolution"] = _resolution([_mean(looks[p]) for p in _POWERS], columns["noise"], cfg)
    if _STEPS in tracks and clip.kind == "video":
        columns["duplicate_fraction"] = repeated_share(tracks[_STEPS].between(clip.start_us, clip.end_us)["step"], cfg)
    return columns


_AVERAGED = {"brightness": "brightness", "contrast": "contrast", "dark_fraction": "dark", "bright_fraction": "bright", "noise": "noise"}


def repeated_share(steps: np.ndarray, cfg: QualityConfig) -> float | None:
    """The share of a clip's frames that repeat the one before though the clip moves; `steps` [frames], the first from before the clip.

    A run of repeats counts when motion is in full swing on the sides of it that lie in the clip: repeated frames of a converted rate, a
    frozen end. A scene that comes to rest slows down first. None below two frames.
    """
    steps = steps[1:]
    if not len(steps) or np.isnan(steps).any():
        return None
    large = quantile(steps, 0.95)
    if large < cfg.moving_levels:
        return 0.0
    repeats = steps <= max(cfg.repeat_levels, cfg.repeat_share * large)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], repeats, [False]]).astype(int)))
    counted = 0
    for first, end in edges.reshape(-1, 2):
        run, before, after = steps[first:end], steps[max(0, first - SWING_FRAMES) : first], steps[end : end + SWING_FRAMES]
        sides = [(side, inner) for side, inner in ((before[::-1], run), (after, run[::-1])) if len(side)]
        if sides and all(_in_swing(side, inner, large, cfg) for side, inner in sides):
            counted += end - first
    return max(float(counted) / len(steps), _cadence_share(steps, cfg))


def _in_swing(side: np.ndarray, run: np.ndarray, large: float, cfg: QualityConfig) -> bool:
    """Whether motion is in full swing beside a run of repeats; both from their common edge on.

    A picture that stands for long, and from one frame to the next, may end a swing smaller than the clip's, or some frames before.
    """
    if side[:2].max() >= cfg.abrupt_share * large:
        return True
    if len(run) < SWING_FRAMES or cfg.freeze_ratio * run[0] > side[0]:
        return False
    return bool(side[:2].max() >= cfg.swing_share * median(side) or side[:SETTLE_FRAMES].max() >= cfg.abrupt_share * large)


def _cadence_share(steps: np.ndarray, cfg: QualityConfig) -> float:
    """The share of weak steps where strong ones come back after a fixed number of frames: repeats that were coded again are not still."""
    if len(steps) < 2 * CADENCE_FRAMES:
        return 0.0
    size = np.log(steps + 0.03)  # the coder's own changes are of that size
    around = np.ones(CADENCE_FRAMES + 1) / (CADENCE_FRAMES + 1)
    size = size - np.convolve(np.pad(size, CADENCE_FRAMES // 2, mode="edge"), around, "valid")
    if size.std() < cfg.cadence_spread:
        return 0.0
    likeness = {lag: float(np.corrcoef(size[lag:], size[:-lag])[0, 1]) for lag in range(2, CADENCE_FRAMES + 1)}
    lag = max(likeness, key=lambda k: likeness[k])
    if likeness[lag] < cfg.cadence_likeness:
        return 0.0
    # Weak at its place in every round, which a change of speed is not.
    usual = np.array([median(steps[place::lag]) for place in range(lag)])
    weak = usual <= cfg.weak_share * usual.max()
    if weak.mean() >= 0.5:
        weak |= np.roll(~weak, 1)  # of two strong places on end one is the coder's: it spreads a new picture over two frames
    return float(weak.mean())


def _blockiness(looks: Track, cfg: QualityConfig) -> float | None:
    """How much more luma changes at the lines of the coding grid than in the middle of its blocks: about 0.5 at H.264 crf 50.

    About 0 for none, and below 0 where the picture's own lines, or blocks of before it was cropped, lie in the middle.
    """
    on, off, smear_on, smear_off = (_mean(looks[name]) for name in ("block_on", "block_off", "smear_on", "smear_off"))
    if on is None or off is None or smear_on is None or smear_off is None:
        return None
    return (on + 1) / (off + 1) - 1 + cfg.smear_weight * ((smear_on + 0.125) / (smear_off + 0.125) - 1)


def _sharpness(ratio: float | None) -> float | None:
    """0 … 1 from how much steeper edges are when seen finely: 1 for ideal steps, 0 for edges far wider than 2 px."""
    ideal = frame_quality.COARSE_PX / frame_quality.FINE_PX
    return None if ratio is None else min(1.0, max(0.0, (ratio - 1) / (ideal - 1)))


def _combed(looks: Track, cfg: QualityConfig) -> float | None:
    """The share of combed looks among those whose tile has lines to tell by; 0 when none has; null when none was seen at full size."""
    energy, ratio = looks["comb_energy"], looks["comb"]
    seen = ~np.isnan(energy) & ~np.isnan(ratio)
    if not seen.any():
        return None
    telling = seen & (energy >= cfg.comb_levels)
    return float((ratio[telling] >= cfg.comb_ratio).mean()) if telling.any() else 0.0


def _resolution(powers: list[float | None], noise: float | None, cfg: QualityConfig) -> float | None:
    """Where the spectrum falls far below a natural one, as a share of the highest frequency: about 0.5 for a picture enlarged twofold."""
    known = [p for p in powers if p is not None]
    if len(known) < len(powers) or noise is None:
        return None
    frequency = (np.arange(len(known)) + 0.5) / len(known)
    power = np.log10(np.maximum(10 ** np.array(known) - 1.5 * noise**2, 1e-4 + 0.02 * noise**2))
    natural = cfg.natural_slope * np.log10(frequency)
    above = power - natural - float(np.mean((power - natural)[1:3])) + cfg.fall
    for k in range(2, len(above)):
        if above[k] < 0 and above[min(k + 1, len(above) - 1)] < 0:
            return float(
                frequency[k - 1] + (frequency[k] - frequency[k - 1]) * max(0.0, above[k - 1]) / (max(0.0, above[k - 1]) - above[k])
            )
    return 1.0


def _mean(values: np.ndarray) -> float | None:
    """The mean of what was measured; None when nothing was."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _exposure(small: np.ndarray) -> tuple[float, float, float, float]:
    """Brightness 0 … 1, contrast 0 … 0.5, shares of clipped dark and bright px of small luma."""
    mean, deviation = _mean_and_deviation(small)
    counts = cv2.calcHist([small], [0], None, [256], [0, 256]).ravel()
    brightness = min(1.0, max(0.0, (mean - BLACK) / (WHITE - BLACK)))
    return (
        brightness,
        min(0.5, deviation / (WHITE - BLACK)),
        float(counts[: _DARK + 1].sum() / small.size),
        float(counts[_BRIGHT:].sum() / small.size),
    )


def _limited(grey: np.ndarray) -> np.ndarray:
    """Full-range uint8 luma in the limited range of video."""
    return np.asarray(cv2.convertScaleAbs(grey, alpha=(WHITE - BLACK) / 255, beta=BLACK), np.uint8)


def colourfulness(rgb: np.ndarray) -> float:
    """Colourfulness of an RGB uint8 picture (Hasler and Suesstrunk 2003): 0 grey, 15 slight, 59 quite, 109 extreme."""
    small = cv2.resize(rgb, (160, 160), interpolation=cv2.INTER_AREA).astype(np.float32)
    r, g, b = small[..., 0], small[..., 1], small[..., 2]
    red_green, yellow_blue = r - g, (r + g) / 2 - b
    spread = float(np.hypot(red_green.std(), yellow_blue.std()))
    return spread + 0.3 * float(np.hypot(red_green.mean(), yellow_blue.mean()))


def _mean_and_deviation(picture: np.ndarray) -> tuple[float, float]:
    """Ten times cheaper on small pictures than numpy's, and this runs at every look."""
    mean, deviation = cv2.meanStdDev(picture)
    return float(mean[0, 0]), float(deviation[0, 0])
