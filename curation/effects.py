"""Special motion effects: still pictures shown as video, loops, strobing, speed ramps, and the cuts that a sensitive detector sees.

Movie Gen drops static, slideshow-like, jittery and special-effect clips (Data, three filter stages) by classifiers that it does not
describe; these are ours, on tracks that other observers leave and a small signature of the picture.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from curation.observe import Frame
from curation.shots import false_cuts
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "1"
COLUMNS = ("shots_per_s", "slideshow_score", "loop_score", "strobe_per_s", "speed_ramp")

SIGNATURE_US = 83_333
"""Spacing of the signatures: each second frame at 24 a second, so that a period is met within one."""
_CELLS = (16, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsConfig:
    """How effects are measured. Values are ours, chosen on generated effects of one half of the clips (benchmarks/accuracy_effects.py)."""

    sensitive_cut: float = 10.0  # levels; separates shaky from steady videos of our test media
    sensitive_gap_us: int = 200_000
    still_inliers: float = 0.93  # of a still picture so many points go along with one movement …
    still_px: float = 0.16  # … and the others deviate by so little, small px a look
    slow_widths: float = 0.1  # a still picture is shown with slow movement: picture widths a second
    slow_zoom: float = 0.1  # 1/s
    even_px: float = 0.12  # … and evenly: what changes in speed from look to look, small px
    least_loop_us: int = 650_000
    loop_noise: float = 0.3  # levels by which equal pictures differ once coded
    strobe_levels: float = 8.0  # mean luma jumps by as much, and back
    ramp_window_us: int = 600_000  # speeds before and after are medians over so long
    ramp_least: float = 0.5  # motion at 1/24 s steps below which speed is not compared


class SignatureObserver:
    """Track `signature`: the luma of 16 x 9 cells twelve times a second; 1.7 KB a second."""

    def __init__(self) -> None:
        self._recorder = Recorder("signature", ())
        self._due = -(1 << 62)

    def push(self, frame: Frame) -> None:
        """The frame's cells are kept when it is due."""
        if frame.pts_us < self._due:
            return
        self._due = max(self._due + SIGNATURE_US, frame.pts_us + SIGNATURE_US // 2)
        self._recorder.add(frame.pts_us, picture=cv2.resize(frame.y, _CELLS, interpolation=cv2.INTER_AREA))

    def finish(self) -> list[Track]:
        """The one track."""
        return [self._recorder.track()]


def measure_effects(clip: Clip, tracks: Tracks, cfg: EffectsConfig) -> dict[str, Any]:
    """The effect columns of a clip that lies inside one shot; null where it is too short, or shows too little, to tell."""
    shots, motion, camera, signature = (tracks[n].between(clip.start_us, clip.end_us) for n in ("shots", "motion", "camera", "signature"))
    seconds = (clip.end_us - clip.start_us) / 1e6
    # The first frame's change is to a frame outside the clip.
    cuts = false_cuts(shots["change"][1:], shots.pts_us[1:], cfg.sensitive_cut, cfg.sensitive_gap_us)
    return {
        "shots_per_s": (1 + cuts) / seconds,
        "slideshow_score": slideshow_score(camera, cfg),
        "loop_score": loop_score(signature, cfg),
        "strobe_per_s": strobe_per_s(motion["luma"], seconds, cfg),
        "speed_ramp": speed_ramp(motion, cfg),
    }


def slideshow_score(camera: Track, cfg: EffectsConfig) -> float | None:
    """The share of looks that show a still picture moved slowly and evenly as one; None where too few looks show any texture.

    In a filmed scene leaves, people, depth or the hand that holds the camera move besides.
    """
    seen = ~np.isnan(camera["dx"])
    if seen.sum() < 8:
        return None
    dt, dx, dy, zoom, inliers, residual, width = (
        camera[n][seen].astype(np.float64) for n in ("dt_s", "dx", "dy", "zoom", "inliers", "residual", "width")
    )
    whole = (inliers >= cfg.still_inliers) & (residual * dt * width <= cfg.still_px)
    slow = (np.hypot(dx, dy) <= cfg.slow_widths) & (np.abs(zoom) <= cfg.slow_zoom)
    even = np.hypot(_unevenness(dx * dt * width), _unevenness(dy * dt * width)) <= cfg.even_px
    return float((whole & slow & even).mean())


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(a, b) / np.minimum(a, b))


def _unevenness(step_px: np.ndarray) -> np.ndarray:
    """How far each step is from the mean of the steps beside it."""
    around = np.convolve(np.pad(step_px, 1, "edge"), [0.5, 0, 0.5], "valid")
    return np.asarray(np.abs(step_px - around))


def loop_score(signature: Track, cfg: EffectsConfig) -> float | None:
    """How much better pictures agree one period later than a quarter to three quarters of it later: 0 not at all, 1 a perfect loop.

    For the best period of at least `least_loop_us` that fits twice; None where none does. A picture that stands agrees always, so it
    scores low; one that drifts on agrees ever less.
    """
    cells = signature.pictures.reshape(len(signature), -1).astype(np.float32)
    least, longest = round(cfg.least_loop_us / SIGNATURE_US), len(cells) // 2
    if longest < least:
        return None
    apart = [float(np.median(np.abs(cells[lag:] - cells[:-lag]).mean(1))) for lag in range(1, longest + 1)]
    agreement = [
        1 - (apart[p - 1] + cfg.loop_noise) / (float(np.median(apart[p // 4 - 1 : 3 * p // 4])) + cfg.loop_noise)
        for p in range(least, longest + 1)
    ]
    return max(0.0, *agreement)


def strobe_per_s(luma: np.ndarray, seconds: float, cfg: EffectsConfig) -> float | None:
    """How often a second the mean luma jumps one way and at once back, each time by `strobe_levels`; None for fewer than 8 frames."""
    if len(luma) < 8:
        return None
    jumps = np.diff(luma)
    large = jumps[np.abs(jumps) >= cfg.strobe_levels]
    return float((np.sign(large[1:]) != np.sign(large[:-1])).sum() / seconds) if len(large) > 1 else 0.0


def speed_ramp(motion: Track, cfg: EffectsConfig) -> float | None:
    """The largest ratio between the pace of neighbouring stretches of `ramp_window_us`, both of which move; 1 for an even pace.

    None for clips shorter than two stretches. A scene that begins to move is no ramp: both stretches must hold `ramp_least`.
    """
    pts = motion.pts_us
    if len(pts) < 4 or pts[-1] - pts[0] < 2 * cfg.ramp_window_us:
        return None
    total = np.cumsum(np.nan_to_num(motion["motion"]).astype(np.float64))
    middles = np.arange(pts[0] + cfg.ramp_window_us, pts[-1] - cfg.ramp_window_us + 1, cfg.ramp_window_us // 4)
    half = cfg.ramp_window_us / 2
    at = [np.interp(middles + d * half, pts, total) for d in (-2, -1, 0, 1, 2)]
    pace = np.diff(at, axis=0) / (half * 24 / 1e6) + 1e-6  # of the four half stretches
    before, after = (pace[0] + pace[1]) / 2, (pace[2] + pace[3]) / 2
    # What begins or comes to rest within a stretch is no other pace.
    even = np.maximum(_ratio(pace[0], pace[1]), _ratio(pace[2], pace[3])) <= 2
    both = even & (np.minimum(before, after) >= cfg.ramp_least)
    return float(np.exp(np.abs(np.log(after[both] / before[both])).max())) if both.any() else 1.0
