"""Shots: spans between camera changes, found on the tracks a scan left, and the clips planned inside them. Opens no medium.

Hard cuts: PySceneDetect's adaptive rule on our frame score, the mean change of luma and chroma on the small planes (on real media it
separates cuts better than its HSV score and needs no colour conversion). Our corrections: frames shown twice are no stillness; what
returns at once was a flash; where both pictures show the same place, the camera moved or the light changed; and between still pictures a
small change counts. Gradual transitions: `curation.transitions`. All times are presentation times in us, and windows are times.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from curation import transitions
from curation.ranks import median
from curation.tracks import Track, Tracks

_US = Fraction(1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotsConfig:
    """How boundaries are found. Values are ours, from half of the real and generated videos of `benchmarks/accuracy_shots.py`, unless noted."""

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
    gradual_likeness: float = 0.8  # from this correlation of both ends on only the light changed
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
    """The half-open span [start_us, end_us) of a planned clip, inside shot `shot_no`; a frame is shown at its start."""

    shot_no: int
    start_us: int
    end_us: int


def plan_clips(shots: list[Shot], pts_us: np.ndarray, cfg: ClipConfig) -> list[Span]:
    """The clips of the shots, in order: inside one shot each, min_us to max_us long from a frame on, never overlapping.

    `pts_us` are the times of all frames of the video, rising, int64 [n].
    """
    return [span for shot in shots for span in clips_of_shot(shot, pts_us, cfg)]


def clips_of_shot(shot: Shot, pts_us: np.ndarray, cfg: ClipConfig) -> list[Span]:
    """Clips laid end to end from the start of the shot, each as long as allowed; a rest shorter than min_us is left out.

    Each starts on a frame, and its length counts from there: counted from a time between two frames, it would be up to a frame shorter.
    """
    start = shot.start_us + (0 if shot.opens == "start" else cfg.margin_us)
    end = shot.end_us - (0 if shot.closes == "end" else cfg.margin_us)
    first = bisect_left(pts_us, start)
    if shot.opens == "start":
        # The opening gives way where it would cost a short video its only clip: to the last frame that leaves it min_us.
        after_opening, latest = bisect_left(pts_us, start + cfg.opening_us), bisect_right(pts_us, end - cfg.min_us) - 1
        first = max(first, min(after_opening, latest))
    spans: list[Span] = []
    while first < len(pts_us) and end - int(pts_us[first]) >= cfg.min_us and len(spans) < cfg.max_clips_per_shot:
        begin = int(pts_us[first])
        stop = min(begin + cfg.max_us, end)
        spans.append(Span(shot_no=shot.shot_no, start_us=begin, end_us=stop))
        first = bisect_left(pts_us, stop)
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
    timed = by_time(change, pts)
    adaptive = adaptive_cuts(timed, pts, changes.width, cfg) | cuts_at_end(timed, changes.width, cfg)
    cuts: list[int] = []
    not_before = -(1 << 62)
    for i in sorted(adaptive | quiet):
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


def cuts_at_end(change: np.ndarray, width: int, cfg: ShotsConfig) -> set[int]:
    """Indices of the last `width` changes at which the same rule holds for what there is of the window: the detector waits for all of it.

    Else the frame or two of the next shot with which trimmed files end would be the last ones of a clip. The first frames need none of
    this: the opening is dropped.
    """
    n = len(change)
    found = set()
    for i in range(max(1, n - width), n):
        around = np.concatenate([change[max(0, i - width) : i], change[i + 1 :]])
        if change[i] >= cfg.min_content and change[i] >= cfg.adaptive_threshold * around.mean():
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
    peaks = [i for i, a, b in zip(high, first, end, strict=True) if score[i] >= 2 * median(score[a:b])]
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
