"""Sub-clips: which span of one video is shown in which span of another, from two series of hashes (as vPDQ, Meta, ThreatExchange).

For clips that were cut differently from the same film. Two pictures match within `max_distance` bits; a run of matches that go forward in
both videos at about the same speed is a span. A still scene matches itself everywhere, so among all runs the one that keeps its offset
is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation import near_hashes
from curation.pdq import to_words
from curation.picture_hashes import UNBORDERED, WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class SubclipsConfig:
    """What a shared span is. Values are ours, but for the distance."""

    max_distance: int = 31  # bits of 256: what PDQ's authors recommend
    max_gap_us: int = 3_000_000  # between two matches of a span; more than the spacing of key frames
    slack_us: int = 500_000  # by which the offset may change between two matches …
    drift: float = 0.1  # … and by which share of the time between them, for changed speed
    min_matches: int = 2  # pictures of either video
    max_pairs: int = 20_000  # matches looked at; of more, evenly chosen ones

    def __post_init__(self) -> None:
        if self.max_gap_us <= 0 or self.slack_us < 0 or not 0 <= self.drift < 1 or self.min_matches < 1 or self.max_pairs < 1:
            raise ValueError(f"subclips: expected positive gaps and counts and a drift of 0 to 1, found {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Hashes of the whole picture at rising presentation times: int64 [n] and uint64 words [n, 4]."""

    pts_us: np.ndarray
    words: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Subclip:
    """Pictures from `start_a_us` to `end_a_us` of a are those from `start_b_us` to `end_b_us` of b, both inclusive.

    `offset_us` is the median of b's time less a's. `matched` is the smaller share of the times of the two spans at which a picture
    matches, 0..1.
    """

    start_a_us: int
    end_a_us: int
    start_b_us: int
    end_b_us: int
    offset_us: int
    matched: float


def series(pts_us: Sequence[int], hashes: Sequence[bytes], crops: Sequence[int] | None = None) -> Series:
    """The series of a clip, in order of time, from the lists of its `Descriptor`: of the hashes those of whole pictures."""
    whole = [i for i in range(len(hashes)) if crops is None or crops[i] % UNBORDERED == WHOLE]
    whole.sort(key=lambda i: pts_us[i])
    return Series(pts_us=np.array([pts_us[i] for i in whole], np.int64), words=to_words([hashes[i] for i in whole]))


def find_subclips(a: Series, b: Series, cfg: SubclipsConfig) -> list[Subclip]:
    """The shared spans, the longest first; no picture of a or of b lies in two of them."""
    pairs = [np.zeros((0, 2), np.int64)]
    pairs += [np.stack([i, j], 1) for i, j in near_hashes.near_pairs(a.words, b.words, cfg.max_distance)]
    near = np.concatenate(pairs)
    if len(near) > cfg.max_pairs:
        near = near[np.linspace(0, len(near) - 1, cfg.max_pairs).astype(np.int64)]
    found: list[Subclip] = []
    while len(near):
        run = _longest_run(a.pts_us[near[:, 0]], b.pts_us[near[:, 1]], cfg)
        rows, columns = near[run, 0], near[run, 1]
        if min(len(set(rows.tolist())), len(set(columns.tolist()))) < cfg.min_matches:
            break
        first_a, last_a, first_b, last_b = rows.min(), rows.max(), columns.min(), columns.max()
        inside_a, inside_b = ((near[:, k] >= lo) & (near[:, k] <= hi) for k, lo, hi in ((0, first_a, last_a), (1, first_b, last_b)))
        both = near[inside_a & inside_b]
        share_a = _share(a.pts_us, both[:, 0], first_a, last_a)
        share_b = _share(b.pts_us, both[:, 1], first_b, last_b)
        found.append(
            Subclip(
                start_a_us=int(a.pts_us[first_a]),
                end_a_us=int(a.pts_us[last_a]),
                start_b_us=int(b.pts_us[first_b]),
                end_b_us=int(b.pts_us[last_b]),
                offset_us=int(np.median(b.pts_us[columns] - a.pts_us[rows])),
                matched=min(share_a, share_b),
            )
        )
        near = near[~(inside_a | inside_b)]
    return sorted(found, key=lambda s: (s.start_a_us - s.end_a_us, s.start_a_us))


def _share(pts_us: np.ndarray, matched: np.ndarray, first: int, last: int) -> float:
    """The share of the times of pictures `first` to `last` at which one matches."""
    return len(np.unique(pts_us[matched])) / len(np.unique(pts_us[first : last + 1]))


def _longest_run(at_a: np.ndarray, at_b: np.ndarray, cfg: SubclipsConfig) -> np.ndarray:
    """Indices of the best run of matches at times [n] of a and b, a's in order: forward in both, and of those the one that covers most
    time for the least change of offset."""
    score = np.zeros(len(at_a))
    before = np.full(len(at_a), -1)
    for k in range(1, len(at_a)):
        first = int(np.searchsorted(at_a, at_a[k] - cfg.max_gap_us))
        step_a, step_b = at_a[k] - at_a[first:k], at_b[k] - at_b[first:k]
        changed = np.abs(step_b - step_a)
        allowed = (step_a > 0) & (step_b > 0) & (step_b <= cfg.max_gap_us) & (changed <= cfg.slack_us + cfg.drift * step_a)
        if allowed.any():
            gain = np.where(allowed, score[first:k] + np.minimum(step_a, step_b) - changed, -np.inf)
            best = int(gain.argmax())
            if gain[best] > 0:
                score[k], before[k] = gain[best], first + best
    at, run = int(score.argmax()), []
    while at >= 0:
        run.append(at)
        at = int(before[at])
    return np.array(run[::-1])
