"""Shots and clips: cuts to the frame, flashes and motion are no cuts, dissolves are kept out, clips obey their bounds."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.shots import ClipConfig, Shot, ShotFinder, ShotsConfig, clips_of_shot, false_cuts, plan_clips
from tests.media_makers import pan, still

STEP_US = 41_667


def find(frames: list[np.ndarray], pts_us: list[int] | None = None) -> list[Shot]:
    """The shots of RGB frames at 24 a second, or at the given times."""
    finder, shots = ShotFinder(ShotsConfig()), []
    times = pts_us or [i * STEP_US for i in range(len(frames))]
    for frame, t in zip(frames, times, strict=True):
        planes = cv2.cvtColor(cv2.resize(frame, (160, 96), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2YUV_I420)
        chroma = planes[96:].reshape(2, 48, 80)
        shots += finder.push(planes[:96], chroma[0], chroma[1], t)[1]
    return shots + finder.finish(times[-1] + STEP_US)


def mixed(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """A picture with that share of b."""
    return (a * (1 - share) + b * share).astype(np.uint8)


def test_hard_cuts_are_found_to_the_frame() -> None:
    """Five cuts between moving and still shots, at uneven places: every one exact, none too many."""
    lengths = (30, 47, 61, 20, 90, 33)
    frames = list(itertools.chain(*(pan(k, n, dx=k % 3) for k, n in enumerate(lengths))))
    shots = find(frames)
    assert [s.start_us // STEP_US for s in shots] == list(itertools.accumulate(lengths, initial=0))[:-1]
    assert {s.opens for s in shots[1:]} == {"hard"}


def test_cuts_on_uneven_and_negative_times_keep_their_time() -> None:
    """In a file of variable rate that starts before zero, a cut's time is the presentation time of its first frame."""
    rng = np.random.Generator(np.random.Philox(key=3))
    times = (np.cumsum(rng.integers(10_000, 200_000, 120)) - 3_000_000).tolist()
    shots = find(pan(1, 50) + pan(2, 70), times)
    assert [s.start_us for s in shots] == [times[0], times[50]]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_flash_is_not_a_cut(length: int) -> None:
    """White frames inside a shot, back within five frames, leave it one shot."""
    frames = pan(1, 100)
    frames[40 : 40 + length] = [np.full_like(frames[0], 250)] * length
    assert len(find(frames)) == 1


def test_motion_is_not_a_cut() -> None:
    """A fast pan and a still picture are one shot each."""
    assert len(find(pan(1, 120, dx=9))) == 1
    assert len(find(still(1, 120))) == 1


@pytest.mark.parametrize(("length", "moving"), [(12, False), (24, False), (36, False), (12, True), (24, True)])
def test_a_dissolve_is_kept_out_of_both_shots(length: int, moving: bool) -> None:
    """Between two shots, still or moving, the transition is found with an error of at most 0.4 s at either end."""
    make = pan if moving else still
    a, b = make(1, 80 + length), make(2, 80 + length)
    frames = a[:80] + [mixed(a[80 + i], b[i], (i + 1) / (length + 1)) for i in range(length)] + b[length:]
    shots = find(frames)
    assert [s.opens for s in shots] == ["start", "gradual"]
    assert abs(shots[0].end_us - 80 * STEP_US) < 400_000
    assert abs(shots[1].start_us - (80 + length) * STEP_US) < 400_000


def test_a_fade_to_black_is_a_gradual_transition() -> None:
    """Out to black and in to another scene are no hard cuts, and the scenes are two shots."""
    black = np.zeros_like(still(1, 1)[0])
    out, back = still(1, 100), still(2, 100)
    frames = out[:80] + [mixed(out[0], black, i / 18) for i in range(18)] + [mixed(black, back[0], i / 18) for i in range(18)] + back[:80]
    shots = [s for s in find(frames) if s.end_us - s.start_us > 1_000_000]
    assert len(shots) == 2
    assert "hard" not in {s.opens for s in shots}


def test_a_change_of_light_is_not_a_transition() -> None:
    """The same scene growing darker by half over a second stays one shot."""
    base = pan(1, 120)
    gain = np.interp(np.arange(120), [48, 72], [1.0, 0.5])
    assert len(find([(f * g).astype(np.uint8) for f, g in zip(base, gain, strict=True)])) == 1


@given(
    st.lists(st.tuples(st.integers(1, 40_000_000), st.sampled_from(["hard", "gradual"])), min_size=1, max_size=6),
    st.integers(-5_000_000, 10**9),
)
def test_clips_lie_inside_one_shot_and_keep_their_bounds(lengths: list[tuple[int, str]], origin: int) -> None:
    """For any shots: 4 to 16 s, in order, not overlapping, inside their shot, at most eight a shot."""
    cfg, shots, at, opens = ClipConfig(), [], origin, "start"
    for number, (length, how) in enumerate(lengths):
        closes = "end" if number == len(lengths) - 1 else how
        shots.append(Shot(shot_no=number, start_us=at, end_us=at + length, opens=opens, closes=closes))
        at, opens = at + length + (500_000 if how == "gradual" else 0), how
    spans = plan_clips(shots, cfg)
    for span in spans:
        shot = shots[span.shot_no]
        assert shot.start_us <= span.start_us < span.end_us <= shot.end_us
        assert cfg.min_us <= span.end_us - span.start_us <= cfg.max_us
    assert all(a.end_us <= b.start_us for a, b in itertools.pairwise(spans))
    for shot in shots:
        assert len(clips_of_shot(shot, cfg)) <= cfg.max_clips_per_shot


def test_the_opening_is_dropped_and_gives_way_in_short_shots() -> None:
    """1 s is trimmed from the first shot only; a first shot of 4.5 s gives its last 4 s, one of 4 s is kept whole, a shorter one gives none."""
    cfg = ClipConfig()
    first = [
        clips_of_shot(Shot(shot_no=0, start_us=0, end_us=e, opens="start", closes="end"), cfg)
        for e in (20_000_000, 4_500_000, 4_000_000, 3_999_999)
    ]
    assert [[(s.start_us, s.end_us) for s in spans] for spans in first] == [
        [(1_000_000, 17_000_000)],
        [(500_000, 4_500_000)],
        [(0, 4_000_000)],
        [],
    ]
    later = clips_of_shot(Shot(shot_no=1, start_us=0, end_us=20_300_000, opens="hard", closes="hard"), cfg)
    assert [(s.start_us, s.end_us) for s in later] == [(100_000, 16_100_000), (16_100_000, 20_200_000)]


def test_false_cuts_counts_jumps_a_fifth_of_a_second_apart() -> None:
    """Neighbouring jumps count once; small changes never."""
    score = np.array([0, 20, 20, 1, 1, 1, 1, 20, 5.0])
    assert false_cuts(score, np.arange(9) * 50_000, 10.0, 200_000) == 2
