"""Special motion effects: still pictures shown as video, loops, strobing, speed ramps, and the cuts that a sensitive detector sees.

Movie Gen drops static, slideshow-like, jittery and special-effect clips (Data, three filter stages) by classifiers that it does not
describe; these are ours, on tracks that other observers leave and a small signature of the picture.
"""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from curation.global_motion import besides_model, grid_px, similarity_motion
from curation.observe import Frame
from curation.ramps import RampConfig, speed_ramp
from curation.ranks import median
from curation.shots import false_cuts
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "8"
COLUMNS = ("shots_per_s", "slideshow_score", "loop_score", "strobe_per_s", "speed_ramp")
NEEDS = ("shots", "motion", "camera", "signature", "bends")

SIGNATURE_US = 83_333
"""Spacing of the signatures: each second frame at 24 a second, so that a period is met within one."""
_CELLS = (16, 9)
_BLACK = 16
"""Luma of black where range is limited, as in most video; of full range dark pictures need a little less to count as strobing."""
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
    ramp: RampConfig = field(default_factory=RampConfig)


class SignatureObserver:
    """Track `signature`, the luma of 16 x 9 cells twelve times a second, 1.7 KB a second."""

    def __init__(self) -> None:
        self._recorder = Recorder("signature", ())
        self._due = -(1 << 62)

    def push(self, frame: Frame) -> None:
        """The frame's cells are noted when it is due."""
        if frame.pts_us < self._due:
            return
        self._due = max(self._due + SIGNATURE_US, frame.pts_us + SIGNATURE_US // 2)
        self._recorder.add(frame.pts_us, picture=cv2.resize(frame.half(), _CELLS, interpolation=cv2.INTER_AREA))

    def finish(self) -> list[Track]:
        """The track."""
        return [self._recorder.track()]


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
        "speed_ramp": speed_ramp(bends, motion, cfg.ramp),
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
