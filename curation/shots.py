"""Shots: spans between camera changes, found on the tracks a scan left, and the clips planned inside them. Opens no medium.

Hard cuts: PySceneDetect's adaptive rule on our frame score, the mean change of luma and chroma on the small planes (on real media it
separates cuts better than its HSV score and needs no colour conversion). Our corrections: frames shown twice are no stillness; what
returns at once was a flash; where both pictures show the same place, the camera moved or the light changed; and between still pictures a
small change counts. Gradual transitions: `curation.transitions`. All times are presentation times in us, and windows are times.
"""

import math
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import cv2
import numpy as np

from curation import transitions
from curation.cut_series import content_change
from curation.tracks import Track, Tracks

_US = Fraction(1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotsConfig:
    """How boundaries are found. Values are ours, tuned on half of the labelled real videos (`benchmarks/accuracy_shots.py`), unless noted."""

    adaptive_threshold: float = 3.0  # PySceneDetect's default
    window_frames: int = 2  # PySceneDetect's default: frames before and after that a change is compared with …
    window_us: int = 75_000  # … and at least so much time
    min_content: float = 12.0  # on our score: |dY|/2 + |dU| + |dV|, levels of 255
    min_shot_us: int = 200_000  # two cuts closer than this count as the first one
    repeat_change: float = 0.15  # a frame that changes by less is the one before again
    repeat_share: float = 0.15  # … or by less than this share of what both its neighbours do
    cadence_us: int = 130_000  # repeats between two changes no further apart are a cadence (30 in 60, animation on threes), not stillness
    flash_us: int = 250_000  # a picture that is back within this was a flash
    flash_return: float = 0.4  # … back = differs by less than this share of the jump
    same_place: float = 0.6  # from this share of parts found again it is the same place, whatever else
    # Evidence that a jump is a cut: a logistic regression on the tune half's jumps (668 cuts, 235 others).
    for_ratio: float = 2.1  # times the logarithm of how many times it stands out from the busier side (at most 30)
    for_change: float = 2.0  # times the logarithm of its change over 30 levels (8 to 80)
    against_same: float = 2.4  # times the share of parts found again
    against_overlap: float = 2.9  # times the correlation of the better half beyond 0.4
    against_plain: float = 0.5  # too few corners to tell
    against_unseen: float = 3.5  # nobody looked: one jump of many
    evidence: float = 1.6  # what is needed
    quiet_content: float = 3.0  # between still pictures (of a talk) so small a change is a cut …
    quiet_ratio: float = 50.0  # … if it stands out so many times …
    quiet_same: float = 0.4  # … and less is found again …
    quiet_kept: float = 0.9  # … and less of the edges stays: it is no overlay
    blend_us: int = 150_000  # a cut between blended frames (converted frame rates) is over in this …
    blend_ratio: float = 3.0  # … each change in it so many times those on the busier side …
    blend_content: float = 24.0  # … this much together …
    blend_same: float = 0.15  # … fewer parts found again …
    blend_overlap: float = 0.72  # … and halves that fit worse
    gradual: bool = True
    gradual_peak: float = 0.7  # the network's probability somewhere in a transition …
    gradual_edge: float = 0.35  # … and at its ends
    gradual_min_us: int = 150_000
    gradual_likeness: float = 0.7  # from this correlation of both ends on only the light changed
    gradual_jump: float = 1.7  # a cut that changes so many times what the next largest step of the transition does is none of its steps


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


def find_shots(tracks: Tracks, end_us: int, cfg: ShotsConfig) -> list[Shot]:
    """The shots of a video that ends at `end_us`, in order, from its tracks "shots" and "transitions". No shot is empty."""
    shots = tracks["shots"]
    if not len(shots):
        return []
    changes = moving_changes(shots, cfg)
    cuts = hard_cuts(changes, cfg)
    gradual = blended_cuts(changes, cuts, cfg)
    if cfg.gradual:
        # Where both found something, the frames say it more exactly than the samples.
        found_in_samples = gradual_spans(tracks["transitions"], shots, cuts, cfg)
        gradual = gradual + [s for s in found_in_samples if not any(a <= s[1] and s[0] <= b for a, b in gradual)]
    borders = [(a, b, "gradual") for a, b in gradual]
    borders += [(t, t, "hard") for t in cuts if not any(a <= t <= b for a, b in gradual)]
    found: list[Shot] = []
    start, opens = int(shots.pts_us[0]), "start"
    for stop, after, how in [*sorted(borders), (end_us, end_us, "end")]:
        if stop > start:
            found.append(Shot(shot_no=len(found), start_us=start, end_us=stop, opens=opens, closes=how))  # type: ignore[arg-type]
        start, opens = after, how
    return found


@dataclass(frozen=True, slots=True)
class Changes:
    """The frames that show a new picture, and how much of the neighbourhood each is compared with."""

    shots: Track  # of these frames only
    change: np.ndarray  # levels, float64 [n]; 0 at the first
    width: int  # frames before and after


def moving_changes(shots: Track, cfg: ShotsConfig) -> Changes:
    """The track without repeated frames, and the width of the window in its frames."""
    rows = ~repeats(shots, cfg)
    kept = Track(name=shots.name, fields=shots.fields, pts_us=shots.pts_us[rows], values=shots.values[rows])
    step = float(np.median(np.diff(kept.pts_us))) if len(kept) > 1 else float(cfg.window_us)
    return Changes(kept, np.nan_to_num(kept["change"]).astype(np.float64), max(cfg.window_frames, round(cfg.window_us / step)))


def hard_cuts(changes: Changes, cfg: ShotsConfig) -> list[int]:
    """Times of the first frames after hard cuts, rising."""
    shots, change, pts = changes.shots, changes.change, changes.shots.pts_us
    back, back_s = shots["back"], shots["back_s"]
    quiet = quiet_cuts(changes, cfg)
    cuts: list[int] = []
    not_before = -(1 << 62)
    for i in sorted(adaptive_cuts(by_time(change, pts), pts, changes.width, cfg) | quiet):
        t = int(pts[i])
        if t < not_before or (cuts and t - cuts[-1] < cfg.min_shot_us):
            continue
        if back[i] < cfg.flash_return * change[i] and back_s[i] * 1e6 <= cfg.flash_us:
            not_before = t + round(float(back_s[i]) * 1e6) + 1  # the way back is no cut either
            continue
        ratio = stands_out(change, i, i, changes.width)
        if i in quiet or (not shots["same"][i] >= cfg.same_place and evidence(shots, i, change[i], ratio, cfg) > 0):
            cuts.append(t)
    return cuts


def by_time(change: np.ndarray, pts_us: np.ndarray) -> np.ndarray:
    """The changes as they would be at an even rate: motion changes more over a longer step, about with its root; a cut stands out still."""
    if len(change) < 3:
        return change
    steps = np.diff(pts_us, prepend=pts_us[0])
    usual = float(np.median(steps[1:]))
    return np.asarray(change * np.sqrt(np.clip(usual / np.maximum(steps, 1), 0.4, 1)))


def evidence(shots: Track, row: int, change: float, ratio: float, cfg: ShotsConfig) -> float:
    """How much more than needed speaks for another place after the jump at this row of that change, which stands out so many times."""
    same, overlap = float(shots["same"][row]), float(shots["overlap"][row])
    total = cfg.for_ratio * math.log(min(max(ratio, 1.0), 30.0)) + cfg.for_change * math.log(min(max(change, 8.0), 80.0) / 30)
    if math.isnan(overlap):
        return total - cfg.against_unseen - cfg.evidence
    total -= cfg.against_plain if math.isnan(same) else cfg.against_same * same
    return total - cfg.against_overlap * max(0.0, overlap - 0.4) - cfg.evidence


def blended_cuts(changes: Changes, cuts: list[int], cfg: ShotsConfig) -> list[tuple[int, int]]:
    """Cuts over two or three frames, as (first mixed frame, first of the new shot): frames that stand out together, between two places."""
    shots, change, pts = changes.shots, changes.change, changes.shots.pts_us
    found: list[tuple[int, int]] = []
    for i in np.flatnonzero(~np.isnan(shots["kept"])).tolist():
        for last in (i + 1, i + 2):
            if last >= len(change) or pts[last] - pts[i] > cfg.blend_us:
                break
            run = change[i : last + 1]
            busy = change[i] / max(1e-3, stands_out(change, i, last, changes.width))
            flash = shots["back"][i] < cfg.flash_return * run.max()
            if flash or run.min() < cfg.blend_ratio * busy or run.sum() < cfg.blend_content:
                continue
            if not (shots["same"][i] < cfg.blend_same and shots["overlap"][i] < cfg.blend_overlap):
                continue
            if not any(pts[i] <= t <= pts[last] for t in cuts) and not (found and pts[i] - found[-1][1] < cfg.min_shot_us):
                found.append((int(pts[i]), int(pts[last])))
                break
    return found


def stands_out(change: np.ndarray, first: int, last: int, width: int) -> float:
    """How many times the mean change on the busier side of changes first … last the first of them is. Where motion sets in, one is quiet."""
    sides = [side.mean() for side in (change[max(0, first - width) : first], change[last + 1 : last + 1 + width]) if len(side)]
    return float(change[first] / max(1e-3, *sides)) if sides else 0.0


def repeats(shots: Track, cfg: ShotsConfig) -> np.ndarray:
    """Which frames only show the one before again in the cadence of a film with fewer pictures than frames, bool [n].

    They change next to nothing, or little beside both neighbours (a coder's touch on the repeated picture).
    """
    change = shots["change"]
    neighbours = np.minimum(np.concatenate([[0], change[:-1]]), np.concatenate([change[1:], [0]]))
    moves = ~(change < np.maximum(cfg.repeat_change, cfg.repeat_share * np.nan_to_num(neighbours)))
    at = np.flatnonzero(moves)
    still = np.flatnonzero(~moves)
    after = np.searchsorted(at, still)
    inner = (after > 0) & (after < len(at))
    still, after = still[inner], after[inner]
    dense = shots.pts_us[at[after]] - shots.pts_us[at[after - 1]] <= cfg.cadence_us
    found = np.zeros(len(shots), bool)
    found[still[dense]] = True
    return found


def adaptive_cuts(change: np.ndarray, pts_us: np.ndarray, width: int, cfg: ShotsConfig) -> set[int]:
    """Indices at which PySceneDetect's `AdaptiveDetector` finds a cut in the whole series; it is shown only what surrounds high ratios."""
    n = len(change)
    if n < 2 * width + 1:
        return set()
    total = np.concatenate([[0.0], np.cumsum(change)])
    middle = np.arange(width, n - width)
    around = total[middle + width + 1] - total[middle - width] - change[middle]
    # A little less than the detector's own threshold: its sums may round otherwise.
    likely = (change[middle] >= cfg.min_content) & (change[middle] * 2 * width >= 0.99 * cfg.adaptive_threshold * around)
    candidates = middle[likely]
    if not len(candidates):
        return set()
    push = _score_fed_detector(cfg, width)
    found = set()
    for i in candidates.tolist():
        # After a full window its decision is about the middle frame of this window alone.
        cut = None
        for k in range(i - width, i + width + 1):
            cut = push(int(pts_us[k]), float(change[k]))
        if cut == pts_us[i]:
            found.add(i)
    return found


def quiet_cuts(changes: Changes, cfg: ShotsConfig) -> set[int]:
    """Indices of changes that are small but stand alone between still pictures, and keep neither place nor edges: slides of a talk."""
    shots, change, width = changes.shots, changes.change, changes.width
    found = set()
    for i in np.flatnonzero((change >= cfg.quiet_content) & (shots["same"] < cfg.quiet_same) & (shots["kept"] < cfg.quiet_kept)).tolist():
        around = np.concatenate([change[max(0, i - width) : i], change[i + 1 : i + 1 + width]])
        if len(around) and change[i] >= cfg.quiet_ratio * around.mean():
            found.add(i)
    return found


def gradual_spans(samples: Track, shots: Track, cuts: list[int], cfg: ShotsConfig) -> list[tuple[int, int]]:
    """Gradual transitions, as (last time of the old shot, first time of the new one), rising and apart; none holds a real hard cut."""
    p = transitions.probabilities(transitions.inputs(samples, shots), transitions.load_weights())
    found: list[tuple[int, int]] = []
    for first, end in transitions.spans(p, samples.pts_us, cfg.gradual_peak, cfg.gradual_edge):
        inside = shots.between(first + 1, end + 1)
        change = np.sort(np.nan_to_num(inside["change"]))[::-1]
        # A mixture changes at an even pace: what jumps far ahead of the next largest change is a cut, and the network saw its shadow.
        jumped = len(change) > 1 and change[0] >= cfg.gradual_jump * change[1] and any(first < t <= end for t in cuts)
        relit = transitions.likeness(samples, first, end) >= cfg.gradual_likeness
        if not jumped and not relit and end - first >= cfg.gradual_min_us:
            found.append((first, end))
    return found


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


def _score_fed_detector(cfg: ShotsConfig, width: int) -> Any:
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
        window_width=width,
        min_content_val=cfg.min_content,
    )
    rate = Fraction(24)  # required, unused: every time is a PTS in us

    def push(pts_us: int, score: float) -> int | None:
        cuts = detector.process_frame(FrameTimecode(Timecode(pts_us, _US), rate), score)
        return int(cuts[0].pts) if cuts else None

    return push


# What follows serves `curation/analyse.py` only, and goes with it.
_OLD_SAMPLE_US, _OLD_HALF_WINDOWS, _OLD_GRADUAL_CHANGE, _OLD_GRADUAL_RESIDUAL = 125_000, (2, 4, 8), 14.0, 0.3
_OLD_DISSOLVE_RESIDUAL, _OLD_DISSOLVE_DIP, _OLD_GRADUAL_DIP, _OLD_GRADUAL_CORRELATION, _OLD_FLASH_FRAMES = 0.3, 0.65, 0.85, 0.6, 5


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
        self._detector = _score_fed_detector(cfg, cfg.window_frames)
        self._recent: deque[tuple[int, np.ndarray, np.ndarray, np.ndarray, float]] = deque(maxlen=_OLD_FLASH_FRAMES + cfg.window_frames + 3)
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
            self._waiting.append((found, self._frame + _OLD_FLASH_FRAMES - self._cfg.window_frames))
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
        for pts, y, u, v, _ in frames[at + 1 : at + 1 + _OLD_FLASH_FRAMES]:
            if content_change(y, u, v, y0, u0, v0) < self._cfg.flash_return * frames[at][4]:
                return pts
        return None


class GradualDetector:
    """Dissolves and fades, as half-open spans of time, from luma samples a fixed time apart."""

    def __init__(self, cfg: ShotsConfig) -> None:
        self._cfg = cfg
        self._reach = max(_OLD_HALF_WINDOWS)
        # Cuts are reported late: a sample is trusted once as many more have come.
        self._delay = _OLD_FLASH_FRAMES + 2 * cfg.window_frames
        self._samples: list[tuple[int, np.ndarray]] = []
        self._tested = -1  # index of the last sample tested as the middle of a transition
        self._due = -(1 << 62)
        self._open: tuple[int, int] | None = None  # index of the first and last sample of the transition that is being seen

    def push(self, y: np.ndarray, pts_us: int) -> list[tuple[int, int]]:
        """The transitions that are now known to be over."""
        if pts_us < self._due:
            return []
        self._due = max(self._due + _OLD_SAMPLE_US, pts_us + _OLD_SAMPLE_US // 2)
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
        for half in _OLD_HALF_WINDOWS:
            if middle >= half and middle + half < known and self._is_mixture(middle - half, middle, middle + half):
                return half
        return None

    def _is_mixture(self, first: int, middle: int, last: int) -> bool:
        a8, m8, b8 = (self._samples[i][1] for i in (first, middle, last))
        if cv2.norm(a8, b8, cv2.NORM_L1) < _OLD_GRADUAL_CHANGE * a8.size:
            return False
        a, m, b = (x.astype(np.float32) for x in (a8, m8, b8))
        share, misfit = mixture(a, m, b)
        if misfit > _OLD_GRADUAL_RESIDUAL:
            return self._dips(a, m, b)
        if not 0.2 < share < 0.8:
            return False
        if min(a.std(), b.std()) < 6:  # one side is plain: a fade
            return True
        # Soft pictures that move a little mix as well, but only two pictures on top of each other lose contrast.
        correlation = float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
        return correlation < _OLD_GRADUAL_CORRELATION and contrast_left(a, m, b, share) < _OLD_GRADUAL_DIP

    def _dips(self, a: np.ndarray, m: np.ndarray, b: np.ndarray) -> bool:
        """Whether it is a dissolve between moving shots: only the coarse picture mixes, and contrast is lost."""
        share, misfit = mixture(*(cv2.resize(x, (8, 5), interpolation=cv2.INTER_AREA) for x in (a, m, b)))
        if not 0.25 < share < 0.75 or misfit > _OLD_DISSOLVE_RESIDUAL:
            return False
        return contrast_left(a, m, b, share) < _OLD_DISSOLVE_DIP

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
