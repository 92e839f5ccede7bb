"""Shots and clips: cuts to the frame, flashes and motion are no cuts, dissolves are kept out, clips obey their bounds."""

import itertools
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.cut_series import ShotObserver
from curation.observe import Frame, after
from curation.orientation import Orientation
from curation.shots import (
    ClipConfig,
    Shot,
    ShotsConfig,
    adaptive_cuts,
    clips_of_shot,
    false_cuts,
    find_shots,
    plan_clips,
)
from curation.tracks import Tracks, by_name, from_table, to_table
from tests.media_makers import pan, still

STEP_US = 41_667


def watched(frames: list[np.ndarray], pts_us: list[int]) -> Tracks:
    """The tracks of RGB frames at the given times."""
    observer, last = ShotObserver(), None
    for frame, t in zip(frames, pts_us, strict=True):
        planes = cv2.cvtColor(cv2.resize(frame, (160, 96), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2YUV_I420)
        chroma = planes[96:].reshape(2, 48, 80)
        observer.push(after(last, Frame(t, planes[:96], chroma[0], chroma[1], None, Orientation())))  # type: ignore[arg-type]
        last = planes[:96], chroma[0], chroma[1]
    return by_name(observer.finish())


def find(frames: list[np.ndarray], pts_us: list[int] | None = None, cfg: ShotsConfig | None = None) -> list[Shot]:
    """The shots of RGB frames at 24 a second, or at the given times."""
    times = pts_us or [i * STEP_US for i in range(len(frames))]
    return find_shots(watched(frames, times), times[-1] + STEP_US, cfg or ShotsConfig())


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


@pytest.mark.parametrize("fps", [12, 15, 25, 30, 50, 60, 120])
def test_cuts_and_pans_are_told_apart_at_any_rate(fps: int) -> None:
    """The same two seconds of pan, cut and pan give the same two shots at every frame rate."""
    a, b = pan(1, 2 * fps, dx=45 / fps), pan(2, 2 * fps, dx=45 / fps)
    times = [round(Fraction(i * 1_000_000, fps)) for i in range(4 * fps)]
    assert [s.start_us for s in find(a + b, times)] == [0, times[2 * fps]]


@pytest.mark.parametrize("times_shown", [2, 3, 4])
def test_repeated_frames_are_not_stillness(times_shown: int) -> None:
    """A pan of which every picture is shown two to four times over is one shot, and a cut in it is still exact."""
    a, b = pan(1, 40, dx=3), pan(2, 40, dx=3)
    frames = [f for f in a + b for _ in range(times_shown)]
    times = [i * 1_000_000 // (24 * times_shown) for i in range(len(frames))]
    assert [s.start_us for s in find(frames, times)] == [0, times[40 * times_shown]]


def test_a_change_of_zoom_is_not_a_cut() -> None:
    """A jump of the lens by a tenth, within one frame and with a pause before, stays one shot: both pictures show the same place."""
    rng = np.random.Generator(np.random.Philox(key=5))
    wide = np.full((384, 640, 3), 120, np.uint8)
    for x, y, w, h, *colour in rng.integers((0, 0, 10, 10, 0, 0, 0), (600, 360, 70, 60, 255, 255, 255), (120, 7)).tolist():
        cv2.rectangle(wide, (x, y), (x + w, y + h), colour, -1)
    near = cv2.resize(wide[18:366, 30:610], (640, 384), interpolation=cv2.INTER_LINEAR)
    assert len(find([wide] * 40 + [near] * 40)) == 1


def test_a_slide_of_a_talk_is_a_cut_and_a_caption_on_it_is_not() -> None:
    """Between still pictures a small change counts when what was there goes away, not when something is only laid over it."""

    def slide(words: list[str]) -> np.ndarray:
        picture = np.full((192, 320, 3), 235, np.uint8)
        for i, word in enumerate(words):
            cv2.putText(picture, word, (8, 30 + 32 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (40, 40, 40), 3)
        return picture

    first = slide(["Results here", "one of many", "items listed", "and still more"])
    second = slide(["Outlook", "we will see what", "comes of it", "in the next year"])
    more = slide(["Results here", "one of many", "items listed", "and still more", "AND ONE AT LAST"])
    assert [s.start_us // STEP_US for s in find([first] * 60 + [second] * 60)] == [0, 60]
    assert len(find([first] * 60 + [more] * 60)) == 1


def test_a_cut_between_blended_frames_is_found() -> None:
    """A cut of which two frames are mixtures (a converted frame rate) parts two shots, and the mixtures are in neither."""
    a, b = pan(1, 60), pan(2, 60)
    shots = find([*a, mixed(a[-1], b[0], 0.33), mixed(a[-1], b[0], 0.67), *b])
    assert [(s.start_us // STEP_US, s.opens) for s in shots] == [(0, "start"), (62, "gradual")]
    assert shots[0].end_us == 60 * STEP_US


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.floats(0, 4), st.floats(0, 90), st.just(0.0)), max_size=80),
    st.integers(1, 5),
    st.floats(1.5, 5),
)
def test_adaptive_cuts_are_those_of_the_library_fed_with_everything(change: list[float], width: int, threshold: float) -> None:
    """Showing PySceneDetect's detector only what surrounds high scores finds what it finds in the whole series."""
    from scenedetect import AdaptiveDetector, FrameTimecode
    from scenedetect.common import Timecode

    class Fed(AdaptiveDetector):
        def _calculate_frame_score(self, timecode, frame_img):
            return float(frame_img)

    cfg = ShotsConfig(adaptive_threshold=threshold)
    detector = Fed(adaptive_threshold=threshold, min_scene_len=0, window_width=width, min_content_val=cfg.min_content)
    whole = set()
    for i, value in enumerate(change):
        for cut in detector.process_frame(FrameTimecode(Timecode(i * 1000, Fraction(1, 1_000_000)), Fraction(24)), value):
            whole.add(cut.pts // 1000)
    assert adaptive_cuts(np.array(change), np.arange(len(change)) * 1000, width, cfg) == whole


def test_shots_are_the_same_from_stored_tracks() -> None:
    """Tracks written as Parquet rows and read back give the same shots: what was not measured stays so."""
    frames = pan(1, 50) + pan(2, 50)
    tracks = watched(frames, [i * STEP_US for i in range(100)])
    stored = from_table(to_table("a", tracks.values()))["a"]
    end = 100 * STEP_US
    assert find_shots(stored, end, ShotsConfig()) == find_shots(tracks, end, ShotsConfig())


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_the_shortest_videos_are_at_most_one_shot(length: int) -> None:
    """No frame gives no shot; one to three frames give one."""
    times = [i * STEP_US for i in range(length)]
    shots = find_shots(watched(pan(1, length) if length else [], times), length * STEP_US, ShotsConfig())
    assert [(s.start_us, s.end_us) for s in shots] == ([(0, length * STEP_US)] if length else [])


def test_thresholds_are_a_query() -> None:
    """With a threshold above the jump the same tracks hold one shot."""
    tracks = watched(pan(1, 50) + pan(2, 50), [i * STEP_US for i in range(100)])
    assert len(find_shots(tracks, 100 * STEP_US, ShotsConfig())) == 2
    assert len(find_shots(tracks, 100 * STEP_US, ShotsConfig(min_content=200.0, gradual=False, blend_content=900.0))) == 1


@pytest.mark.parametrize("length", [12, 24, 36])
def test_a_dissolve_is_kept_out_of_both_shots(length: int) -> None:
    """Between two still shots the transition is found with an error of at most 0.4 s at either end."""
    a, b = still(1, 80 + length), still(2, 80 + length)
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
    spans = plan_clips(shots, np.arange(origin, at, 33_367), cfg)
    for span in spans:
        shot = shots[span.shot_no]
        assert shot.start_us <= span.start_us < span.end_us <= shot.end_us
        assert cfg.min_us <= span.end_us - span.start_us <= cfg.max_us
    assert all(a.end_us <= b.start_us for a, b in itertools.pairwise(spans))
    for shot in shots:
        assert len(clips_of_shot(shot, np.arange(origin, at, 33_367), cfg)) <= cfg.max_clips_per_shot


def test_the_opening_is_dropped_and_gives_way_in_short_shots() -> None:
    """1 s is trimmed from the first shot only; a first shot of 4.5 s gives its last 4 s, one of 4 s is kept whole, a shorter one gives none."""
    cfg, pts_us = ClipConfig(), np.arange(0, 21_000_000, 20_000)
    first = [
        clips_of_shot(Shot(shot_no=0, start_us=0, end_us=e, opens="start", closes="end"), pts_us, cfg)
        for e in (20_000_000, 4_500_000, 4_000_000, 3_999_999)
    ]
    assert [[(s.start_us, s.end_us) for s in spans] for spans in first] == [
        [(1_000_000, 17_000_000)],
        [(500_000, 4_500_000)],
        [(0, 4_000_000)],
        [],
    ]
    later = clips_of_shot(Shot(shot_no=1, start_us=0, end_us=20_300_000, opens="hard", closes="hard"), pts_us, cfg)
    assert [(s.start_us, s.end_us) for s in later] == [(100_000, 16_100_000), (16_100_000, 20_200_000)]


_RATES = (24, 25, 30, Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), None)


@given(
    st.sampled_from(_RATES), st.integers(3_900_000, 45_000_000), st.integers(0, 10**9), st.sampled_from(["start", "hard"]), st.booleans()
)
def test_no_clip_is_shorter_than_planned(rate: Fraction | None, length_us: int, seed: int, opens: str, at_end: bool) -> None:
    """At any rate, NTSC's and uneven ones too, clips start on a frame, last 4 s or more, and fill 16 s where there are so many.

    A shot of which a frame has 4 s before it ends gives a clip; where the opening gives way, it gives way by less than a frame more than needed.
    """
    cfg, origin = ClipConfig(), seed % 977_777
    steps = np.random.Generator(np.random.Philox(key=seed)).integers(5_000, 90_000, 9000) if rate is None else None
    times = np.cumsum(steps) if steps is not None else np.array([round(i * 1_000_000 / Fraction(rate or 1)) for i in range(3000)])
    pts_us = origin + times[times < length_us]
    shot = Shot(shot_no=0, start_us=int(pts_us[0]), end_us=origin + length_us, opens=opens, closes="end" if at_end else "hard")  # type: ignore[arg-type]
    begin, end = shot.start_us + (0 if opens == "start" else cfg.margin_us), shot.end_us - (0 if at_end else cfg.margin_us)
    spans = clips_of_shot(shot, pts_us, cfg)
    assert all(span.start_us in pts_us and span.end_us - span.start_us >= cfg.min_us for span in spans)
    assert all(span.end_us - span.start_us == cfg.max_us for span in spans[:-1])
    starts = pts_us[(pts_us >= begin) & (pts_us <= end - cfg.min_us)]
    assert bool(spans) == bool(len(starts))
    if opens == "start" and spans:
        assert spans[0].start_us == min(starts[-1], pts_us[np.searchsorted(pts_us, begin + cfg.opening_us)])


@pytest.mark.parametrize("fps", [24, 30, 60])
@pytest.mark.parametrize("strays", [1, 2, 3, 4])
def test_frames_of_the_next_shot_at_the_end_are_in_no_clip(fps: int, strays: int) -> None:
    """A video that ends with up to four frames of another shot gives clips that end before them, whatever the frame rate."""
    frames = pan(1, 5 * fps, dx=45 / fps) + pan(2, strays, dx=45 / fps)
    times = [round(Fraction(i * 1_000_000, fps)) for i in range(len(frames))]
    shots = find(frames, times)
    assert [s.start_us for s in shots] == [0, times[5 * fps]]
    (clip,) = plan_clips(shots, np.array(times), ClipConfig())
    assert clip.end_us <= times[5 * fps] - ClipConfig().margin_us


def test_motion_that_sets_in_at_the_end_is_no_cut() -> None:
    """A camera that stands and whips in its last frames, or a light that goes on there, leaves one shot."""
    whip = pan(1, 4, dx=24, width=640, height=384)
    frames = [whip[0]] * 100
    assert len(find(frames + whip[1:3])) == 1
    lit = [np.clip(f.astype(int) + 40, 0, 255).astype(np.uint8) for f in frames[:2]]
    assert len(find(frames + lit)) == 1


def test_false_cuts_counts_jumps_a_fifth_of_a_second_apart() -> None:
    """Neighbouring jumps count once; small changes never."""
    score = np.array([0, 20, 20, 1, 1, 1, 1, 20, 5.0])
    assert false_cuts(score, np.arange(9) * 50_000, 10.0, 200_000) == 2
