"""The camera measure of before the tracks: serves `curation/analyse.py` only, and goes with it."""

from bisect import bisect_left
from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("static_shot", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "handheld_shot")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig:
    """When a movement counts. Values are ours. Speeds are in picture widths (heights, scale) a second."""

    step_us: int = 80_000  # spacing of the frames that are compared
    reach: int = 10  # largest shift looked for, small px a step: a pan of 0.8 picture widths a second
    pan_speed: float = 0.02
    zoom_speed: float = 0.015
    still_speed: float = 0.004
    shake_speed: float = 0.012  # of the movement that changes direction from step to step
    agreement: float = 0.7  # share of steps that must go the same way
    least_texture: float = 1.0  # levels between neighbouring pixels: flatter pictures show no movement
    least_steps: int = 10
    flow_pairs: int = 12  # a clip, spread over it; a pair costs about 1 ms
    flow_pair_us: int = 400_000  # pairs further apart than this are not compared


class CameraObserver:
    """Keeps the profiles of small luma planes, about twelve a second; measures half-open spans."""

    def __init__(self, cfg: object = None) -> None:
        self._cfg = FlowConfig()
        self._due = -(1 << 62)
        self._pts: list[int] = []
        self._across: list[np.ndarray] = []
        self._down: list[np.ndarray] = []

    def push(self, luma: np.ndarray, pts_us: int) -> None:
        """The frame's profiles are kept when it is due."""
        if pts_us < self._due:
            return
        self._due = max(self._due + self._cfg.step_us, pts_us + self._cfg.step_us // 2)
        self._pts.append(pts_us)
        self._across.append(cv2.reduce(luma, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F)[0])
        self._down.append(cv2.reduce(luma, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F)[:, 0])

    def keep(self, from_us: int, until_us: int, again_us: int) -> None:
        """Only frames of [from_us, until_us) and from again_us on are still held."""
        first, stop, again = (bisect_left(self._pts, t) for t in (from_us, until_us, max(until_us, again_us)))
        if first or stop < again:
            self._pts = self._pts[first:stop] + self._pts[again:]
            self._across = self._across[first:stop] + self._across[again:]
            self._down = self._down[first:stop] + self._down[again:]

    def measure(self, start_us: int, end_us: int, pts_us: list[int], frames: list[np.ndarray]) -> dict[str, str | float | None]:
        """Class and confidence of the span, `frames` being its small luma [h, w] at pts_us; both None when there is too little to see."""
        first, end = bisect_left(self._pts, start_us), bisect_left(self._pts, end_us)
        label, confidence = classify(*flow_speeds(pts_us, frames, self._cfg), self._cfg)
        if label is None and end - first > self._cfg.least_steps:
            step = np.diff(np.array(self._pts[first:end], np.float64)) / 1e6
            x, y = (_speed(np.array(held[first:end]), step, self._cfg) for held in (self._across, self._down))
            label, confidence = _handheld(x, y, self._cfg)
        return {"camera": label, "camera_confidence": confidence}


def flow_speeds(pts_us: list[int], frames: list[np.ndarray], cfg: FlowConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Speed of the content to the right and down (pictures a second) and its growth (a second) between pairs of neighbouring frames.

    Pairs whose picture is too flat to follow are left out, so the arrays may be empty.
    """
    pairs = [i for i in range(len(frames) - 1) if pts_us[i + 1] - pts_us[i] <= cfg.flow_pair_us]
    speeds = []
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    for i in pairs[:: max(1, -(-len(pairs) // cfg.flow_pairs))]:
        before, after = (np.ascontiguousarray(frames[k]) for k in (i, i + 1))
        if cv2.norm(before[:, 1:], before[:, :-1], cv2.NORM_L1) < cfg.least_texture * before.size:
            continue
        moved = np.asarray(flow.calc(before, after, np.zeros((*before.shape, 2), np.float32)))
        speeds.append(_median_motion(moved) / ((pts_us[i + 1] - pts_us[i]) / 1e6))
    x, y, growth = np.array(speeds).reshape(-1, 3).T
    return x, y, growth


def _median_motion(moved: np.ndarray) -> np.ndarray:
    """Shift right and down in pictures, and growth, of a flow field [h, w, 2]."""
    height, width = moved.shape[:2]
    x, y = moved[::2, ::2, 0], moved[::2, ::2, 1]
    h, w = x.shape[0] // 2, x.shape[1] // 2
    # The centres of two halves lie half a picture apart: the difference of their shifts is half the growth.
    wider = (np.median(x[:, -w:]) - np.median(x[:, :w])) * 2 / width
    taller = (np.median(y[-h:]) - np.median(y[:h])) * 2 / height
    growth = 0.0 if wider * taller <= 0 else min(wider, taller, key=abs)
    return np.array([np.median(x) / width, np.median(y) / height, growth])


def classify(x: np.ndarray, y: np.ndarray, growth: np.ndarray, cfg: FlowConfig) -> tuple[str | None, float | None]:
    """The class and its confidence from the speeds [n]; None where nothing agrees, which may still be a handheld shot."""
    if not len(x):
        return None, None
    moves = {
        "pan": (x, cfg.pan_speed, ("pan_left", "pan_right")),  # content to the right: the camera turns left
        "tilt": (y, cfg.pan_speed, ("tilt_up", "tilt_down")),  # content downwards: the camera looks up
        "zoom": (growth, cfg.zoom_speed, ("zoom_in", "zoom_out")),  # halves apart: the camera zooms in
    }
    scored = [
        (abs(float(np.median(v))) / limit, _agreement(v), names[0] if np.median(v) > 0 else names[1]) for v, limit, names in moves.values()
    ]
    (second, _, _), (strength, agreement, label) = sorted(scored)[-2:]
    if strength >= 1:
        # Two movements at once are no single class: confidence falls as the second comes near.
        return (label, round(agreement * (1 - 0.5 * second / strength), 3)) if agreement >= cfg.agreement else (None, None)
    still = float(np.mean((np.abs(x) < cfg.still_speed) & (np.abs(y) < cfg.still_speed) & (np.abs(growth) < cfg.still_speed)))
    return ("static_shot", round(still, 3)) if still >= cfg.agreement else (None, None)


def _handheld(x: np.ndarray, y: np.ndarray, cfg: FlowConfig) -> tuple[str | None, float | None]:
    """Movement that keeps changing direction: the part left after a running mean over half a second."""
    shake = float(np.mean([np.abs(v - np.convolve(v, np.ones(7) / 7, "same")).mean() for v in (x, y)]))
    if shake < cfg.shake_speed:
        return None, None
    return "handheld_shot", round(min(1.0, 0.5 + 0.25 * (shake / cfg.shake_speed - 1)), 3)


def _agreement(speed: np.ndarray) -> float:
    """The share of steps that go the way of the median."""
    return float(np.mean(np.sign(speed) == np.sign(np.median(speed))))


def _speed(profiles: np.ndarray, step_s: np.ndarray, cfg: FlowConfig) -> np.ndarray:
    """Movement of the content between neighbouring profiles [n, w], in widths a second [n - 1]; positive to the right or down."""
    speed: np.ndarray = shifts(profiles, cfg.reach) / profiles.shape[1] / step_s
    return speed


def shifts(profiles: np.ndarray, reach: int) -> np.ndarray:
    """Shift in px [n - 1], to a fraction, that best maps each profile onto the next; 0 where the search ends at its edge."""
    reach = min(reach, profiles.shape[1] // 4)
    edges = np.diff(profiles, axis=1)  # brightness changes fall out
    before, after = edges[:-1, reach:-reach], edges[1:]
    width = before.shape[1]
    misfit = np.stack([((after[:, reach + s : reach + s + width] - before) ** 2).mean(1) for s in range(-reach, reach + 1)])
    best = misfit.argmin(0)
    inner = np.clip(best, 1, 2 * reach - 1)
    left, mid, right = (np.take_along_axis(misfit, (inner + k)[None], 0)[0] for k in (-1, 0, 1))
    bend = left - 2 * mid + right
    part = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend > 1e-9)
    return np.where(best == inner, inner - reach + np.clip(part, -0.5, 0.5), 0.0)
