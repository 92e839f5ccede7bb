"""Shots: spans between camera changes, found while the frames go by, and the clips planned inside them.

Hard cuts: PySceneDetect's `AdaptiveDetector` decides on our own frame score, the mean change of luma and chroma on the small planes
(on real media it separates cuts better than its HSV score and needs no colour conversion). A flash is not a cut: what returns within a
few frames stays one shot. Gradual transitions: during a dissolve or fade each frame is a mixture of the frames before and after, which
motion is not, so a least-squares fit of the middle frame tells them apart. All times are presentation times in us.
"""

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import cv2
import numpy as np

_US = Fraction(1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotsConfig:
    """How boundaries are found. Values are ours, tuned on 85 real videos (`benchmarks/accuracy.py`), unless said otherwise."""

    adaptive_threshold: float = 3.0  # PySceneDetect's default
    window_frames: int = 2  # PySceneDetect's default
    min_content: float = 12.0  # on our score: |dY|/2 + |dU| + |dV|, levels of 255
    min_shot_us: int = 200_000  # two cuts closer than this count as the first one
    flash_frames: int = 5  # a picture that is back within so many frames was a flash
    flash_return: float = 0.4  # … back = differs by less than this share of the jump
    gradual: bool = True
    sample_us: int = 125_000  # spacing of the frames that are tested for dissolves
    half_windows: tuple[int, ...] = (2, 4, 8)  # samples on each side: transitions of 0.5, 1 and 2 s
    gradual_change: float = 14.0  # least mean luma difference, levels, between the two sides
    gradual_residual: float = 0.3  # largest misfit of the mixture, as a share of that difference
    dissolve_residual: float = 0.3  # the same misfit on an 8 x 5 picture, for dissolves between moving shots …
    dissolve_dip: float = 0.65  # … which also lose variance against the shots around them
    gradual_dip: float = 0.85  # a mixture keeps less than this share of the variance around it
    gradual_correlation: float = 0.6  # above this both sides show the same scene: light changed, not the shot


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """Which spans of a shot become clips (movie-gen 1.1 and 1.2: 4 to 16 s of one shot, opening dropped)."""

    min_us: int = 4_000_000
    max_us: int = 16_000_000
    opening_us: int = 1_000_000  # the paper drops "the first few seconds" without a figure; ours, and it gives way in short shots
    margin_us: int = 100_000  # ours: kept clear of a boundary, where encoders smear the neighbours
    max_clips_per_shot: int = 8  # ours; the paper takes one random clip a scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """The half-open span [start_us, end_us) of shot number `shot_no`; how it is bounded. Frames of a gradual transition are in no shot."""

    shot_no: int
    start_us: int
    end_us: int
    opens: Literal["start", "hard", "gradual"]
    closes: Literal["hard", "gradual", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The half-open span [start_us, end_us) of a planned clip, inside shot `shot_no`."""

    shot_no: int
    start_us: int
    end_us: int


def plan_clips(shots: list[Shot], cfg: ClipConfig) -> list[Span]:
    """The clips of the shots, in order: inside one shot each, min_us to max_us long, never overlapping."""
    return [span for shot in shots for span in clips_of_shot(shot, cfg)]


def clips_of_shot(shot: Shot, cfg: ClipConfig) -> list[Span]:
    """Clips laid end to end from the start of the shot, each as long as allowed; a rest shorter than min_us is left out."""
    start = shot.start_us + (0 if shot.opens == "start" else cfg.margin_us)
    end = shot.end_us - (0 if shot.closes == "end" else cfg.margin_us)
    if shot.opens == "start":
        # The opening gives way where it would cost a short video its only clip.
        start += max(0, min(cfg.opening_us, end - start - cfg.min_us))
    spans: list[Span] = []
    while end - start >= cfg.min_us and len(spans) < cfg.max_clips_per_shot:
        stop = min(start + cfg.max_us, end)
        spans.append(Span(shot_no=shot.shot_no, start_us=start, end_us=stop))
        start = stop
    return spans


class ShotFinder:
    """Takes small frames in order and gives back finished shots, some 3 s behind the newest frame."""

    def __init__(self, cfg: ShotsConfig) -> None:
        self._cfg = cfg
        self._cuts = CutDetector(cfg)
        self._gradual = GradualDetector(cfg)
        self._start: int | None = None
        self._opens: Literal["start", "hard", "gradual"] = "start"
        self._number = 0

    def push(self, y: np.ndarray, u: np.ndarray, v: np.ndarray, pts_us: int) -> tuple[float, list[Shot]]:
        """The frame's cut score, and the shots that are now complete."""
        if self._start is None:
            self._start = pts_us
        score, cut = self._cuts.push(y, u, v, pts_us)
        shots: list[Shot] = []
        if self._cfg.gradual:
            for first, end in self._gradual.push(y, pts_us):
                shots += self._close(first, end, "gradual")
        if cut is not None:
            for first, end in self._gradual.cut(cut):
                shots += self._close(first, end, "gradual")
            shots += self._close(cut, cut, "hard")
        return score, shots

    def finish(self, end_us: int) -> list[Shot]:
        """The remaining shots, the last ending at `end_us`."""
        shots: list[Shot] = []
        for first, end in self._gradual.cut(end_us):
            shots += self._close(first, end, "gradual")
        return shots + self._close(end_us, end_us, "end")

    def _close(self, end: int, next_start: int, how: Literal["hard", "gradual", "end"]) -> list[Shot]:
        start, opens = self._start, self._opens
        if start is None:
            return []
        self._start, self._opens = next_start, "gradual" if how == "gradual" else "hard"
        if end <= start:
            return []
        shot = Shot(shot_no=self._number, start_us=start, end_us=end, opens=opens, closes=how)
        self._number += 1
        return [shot]


class CutDetector:
    """Hard cuts by PySceneDetect's adaptive rule on our score, reported a few frames later, flashes taken out."""

    def __init__(self, cfg: ShotsConfig) -> None:
        self._cfg = cfg
        self._detector = _score_fed_detector(cfg)
        self._recent: deque[tuple[int, np.ndarray, np.ndarray, np.ndarray, float]] = deque(maxlen=cfg.flash_frames + cfg.window_frames + 3)
        self._waiting: deque[tuple[int, int]] = deque()  # (pts, frame number at which enough is known about it)
        self._frame = 0
        self._last_cut = -(1 << 62)
        self._no_cut_before = -(1 << 62)

    def push(self, y: np.ndarray, u: np.ndarray, v: np.ndarray, pts_us: int) -> tuple[float, int | None]:
        """The frame's score in levels, and the time of a cut that is now certain, or None."""
        score = 0.0
        if self._recent:
            _, y0, u0, v0, _ = self._recent[-1]
            score = content_change(y, u, v, y0, u0, v0)
        self._recent.append((pts_us, y, u, v, score))
        self._frame += 1
        found = self._detector(pts_us, score)
        if found is not None and found - self._last_cut >= self._cfg.min_shot_us:
            self._waiting.append((found, self._frame + self._cfg.flash_frames - self._cfg.window_frames))
        if self._waiting and self._waiting[0][1] <= self._frame:
            return score, self._settle(self._waiting.popleft()[0])
        return score, None

    def _settle(self, cut: int) -> int | None:
        if cut < self._no_cut_before or cut - self._last_cut < self._cfg.min_shot_us:
            return None
        back = self._back_at(cut)
        if back is not None:
            self._no_cut_before = back + 1  # the way back is no cut either
            return None
        self._last_cut = cut
        return cut

    def _back_at(self, cut: int) -> int | None:
        """The time at which the picture before the candidate is back, or None when it is not: a cut."""
        frames = list(self._recent)
        at = next((i for i, f in enumerate(frames) if f[0] == cut), None)
        if at is None or at == 0:
            return None
        _, y0, u0, v0, _ = frames[at - 1]
        for pts, y, u, v, _ in frames[at + 1 : at + 1 + self._cfg.flash_frames]:
            if content_change(y, u, v, y0, u0, v0) < self._cfg.flash_return * frames[at][4]:
                return pts
        return None


class GradualDetector:
    """Dissolves and fades, as half-open spans of time, from luma samples a fixed time apart."""

    def __init__(self, cfg: ShotsConfig) -> None:
        self._cfg = cfg
        self._reach = max(cfg.half_windows)
        # Cuts are reported late: a sample is trusted once as many more have come.
        self._delay = cfg.flash_frames + 2 * cfg.window_frames
        self._samples: list[tuple[int, np.ndarray]] = []
        self._tested = -1  # index of the last sample tested as the middle of a transition
        self._due = -(1 << 62)
        self._open: tuple[int, int] | None = None  # index of the first and last sample of the transition that is being seen

    def push(self, y: np.ndarray, pts_us: int) -> list[tuple[int, int]]:
        """The transitions that are now known to be over."""
        if pts_us < self._due:
            return []
        self._due = max(self._due + self._cfg.sample_us, pts_us + self._cfg.sample_us // 2)
        self._samples.append((pts_us, cv2.resize(y, (64, 40), interpolation=cv2.INTER_LINEAR)))
        known = len(self._samples) - self._delay
        found = self._advance(known - self._reach, known)
        self._drop(max(0, (self._open[0] if self._open else self._tested) - self._reach - 1))
        return found

    def cut(self, pts_us: int) -> list[tuple[int, int]]:
        """The transitions before a hard cut (or the end); no transition spans it."""
        last = next((i for i, s in enumerate(self._samples) if s[0] >= pts_us), len(self._samples))
        before, after = self._samples[:last], self._samples[last:]
        self._samples = before
        found = self._advance(last, last)
        if self._open:
            found.append(self._span())
        self._samples, self._open, self._tested = after, None, -1
        return found

    def _advance(self, stop: int, known: int) -> list[tuple[int, int]]:
        """Samples before number `stop` are tested in windows of the first `known` samples; a transition ends when none continues it."""
        found: list[tuple[int, int]] = []
        for middle in range(self._tested + 1, stop):
            self._tested = middle
            half = self._half_window(middle, known)
            if half:
                low, high = self._open or (middle - half, middle + half)
                self._open = (min(low, middle - half), max(high, middle + half))
            elif self._open and middle > self._open[1]:
                found.append(self._span())
                self._open = None
        return found

    def _half_window(self, middle: int, known: int) -> int | None:
        """The half-width of the shortest window in which the sample is a mixture of its ends, or None."""
        for half in self._cfg.half_windows:
            if middle >= half and middle + half < known and self._is_mixture(middle - half, middle, middle + half):
                return half
        return None

    def _is_mixture(self, first: int, middle: int, last: int) -> bool:
        cfg = self._cfg
        a8, m8, b8 = (self._samples[i][1] for i in (first, middle, last))
        if cv2.norm(a8, b8, cv2.NORM_L1) < cfg.gradual_change * a8.size:
            return False
        a, m, b = (x.astype(np.float32) for x in (a8, m8, b8))
        share, misfit = mixture(a, m, b)
        if misfit > cfg.gradual_residual:
            return self._dips(a, m, b)
        if not 0.2 < share < 0.8:
            return False
        if min(a.std(), b.std()) < 6:  # one side is plain: a fade
            return True
        # Soft pictures that move a little mix as well, but only two pictures on top of each other lose contrast.
        correlation = float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
        return correlation < cfg.gradual_correlation and contrast_left(a, m, b, share) < cfg.gradual_dip

    def _dips(self, a: np.ndarray, m: np.ndarray, b: np.ndarray) -> bool:
        """Whether it is a dissolve between moving shots: only the coarse picture mixes, and contrast is lost."""
        share, misfit = mixture(*(cv2.resize(x, (8, 5), interpolation=cv2.INTER_AREA) for x in (a, m, b)))
        if not 0.25 < share < 0.75 or misfit > self._cfg.dissolve_residual:
            return False
        return contrast_left(a, m, b, share) < self._cfg.dissolve_dip

    def _span(self) -> tuple[int, int]:
        """The open transition's time, cut down to where the picture really changes: 8 % of the way from its ends."""
        first, last = self._open or (0, 0)
        frames = [s[1] for s in self._samples[first : last + 1]]
        whole = cv2.norm(frames[0], frames[-1], cv2.NORM_L1)
        near = [cv2.norm(frames[0], f, cv2.NORM_L1) < 0.08 * whole for f in frames]
        far = [cv2.norm(frames[-1], f, cv2.NORM_L1) < 0.08 * whole for f in frames]
        low = max((i for i, n in enumerate(near) if n), default=0)
        high = min((i for i, n in enumerate(far) if n), default=len(frames) - 1)
        if low >= high:
            low, high = 0, len(frames) - 1
        return self._samples[first + low][0], self._samples[first + high][0]

    def _drop(self, count: int) -> None:
        """The first samples are forgotten; memory stays bounded however long the shot."""
        if count <= 0:
            return
        del self._samples[:count]
        self._tested -= count
        if self._open:
            self._open = (self._open[0] - count, self._open[1] - count)


def mixture(a: np.ndarray, m: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The share of b in m, by least squares, and the misfit of that mixture of a and b as a share of their difference."""
    d = b - a
    # Sums of products, not dot products: BLAS would wake threads for 2,560 numbers.
    share = float((d * (m - a)).sum() / max(float((d * d).sum()), 1e-6))
    return share, float(np.abs(m - a - share * d).mean() / max(float(np.abs(d).mean()), 1e-6))


def contrast_left(a: np.ndarray, m: np.ndarray, b: np.ndarray, share: float) -> float:
    """Variance of m as a share of what it would be between a and b without mixing: 0.5 for an even mixture of unrelated pictures."""
    return float(m.var() / max((1 - share) * a.var() + share * b.var(), 1e-6))


def content_change(y: np.ndarray, u: np.ndarray, v: np.ndarray, y0: np.ndarray, u0: np.ndarray, v0: np.ndarray) -> float:
    """Mean |dY|/2 + |dU| + |dV| between two small frames, in levels of 255; chroma planes are averaged over their own size."""
    luma = cv2.norm(y, y0, cv2.NORM_L1) / y.size
    return luma / 2 + (cv2.norm(u, u0, cv2.NORM_L1) + cv2.norm(v, v0, cv2.NORM_L1)) / u.size


_AROUND_US = 250_000


def false_cuts(score: np.ndarray, pts_us: np.ndarray, threshold: float, gap_us: int) -> int:
    """How many cuts a sensitive detector would see: score peaks of at least the threshold, at least gap_us apart.

    A peak also stands out to twice the median of the half second around it: a smooth pan over fine texture changes much, but evenly.
    """
    high = np.flatnonzero(score >= threshold)
    first, end = (np.searchsorted(pts_us, pts_us[high] + d) for d in (-_AROUND_US, _AROUND_US + 1))
    # The median of a window is wanted only where the score is high at all: rarely.
    peaks = [i for i, a, b in zip(high, first, end, strict=True) if score[i] >= 2 * np.median(score[a:b])]
    count, last = 0, -(1 << 62)
    for i in peaks:
        if pts_us[i] - last >= gap_us:
            count, last = count + 1, int(pts_us[i])
    return count


def _score_fed_detector(cfg: ShotsConfig) -> Any:
    """A function (pts_us, score) -> time of a cut or None: PySceneDetect's adaptive rule, given our score instead of its own."""
    from scenedetect import AdaptiveDetector, FrameTimecode
    from scenedetect.common import Timecode

    class ScoreFed(AdaptiveDetector):  # type: ignore[misc]  # the library has no types
        """The frame handed in *is* the score."""

        def _calculate_frame_score(self, timecode: Any, frame_img: Any) -> float:
            return float(frame_img)

    detector = ScoreFed(
        adaptive_threshold=cfg.adaptive_threshold,
        min_scene_len=0,  # we keep our own minimum, in time
        window_width=cfg.window_frames,
        min_content_val=cfg.min_content,
    )
    rate = Fraction(24)  # required, unused: every time is a PTS in us

    def push(pts_us: int, score: float) -> int | None:
        cuts = detector.process_frame(FrameTimecode(Timecode(pts_us, _US), rate), score)
        return int(cuts[0].pts) if cuts else None

    return push
