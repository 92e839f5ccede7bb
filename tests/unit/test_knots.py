"""Knots: footage slowed down by made frames, which are no mixtures of their neighbours, is told from footage that is slow."""

from dataclasses import replace

import numpy as np
import pytest

from curation.bends import FIELDS, GRID, BendObserver, cells_motion, turns
from curation.knots import KnotsConfig, changes_at_knots, keeps_between_knots, steady, turns_at_knots
from curation.observe import Frame, after
from curation.orientation import Orientation
from curation.ramps import RampConfig, speed_ramp
from curation.tracks import Track, by_name
from tests.media_makers import scene

CFG = KnotsConfig()
N_FAST, N_SLOW = 40, 80


def watched(frames: list[np.ndarray]) -> Track:
    """The track of these small luma planes at 24 frames a second."""
    watch, last = BendObserver(), None
    grey = np.full((frames[0].shape[0] // 2, frames[0].shape[1] // 2), 128, np.uint8)
    for i, y in enumerate(frames):
        frame = after(last, Frame(i * 41_667, y, grey, grey, None, Orientation()))  # type: ignore[arg-type]
        watch.push(frame)
        last = frame.y, frame.u, frame.v
    return by_name(watch.finish())["bends"]


def shaken(seed: int, n: int) -> np.ndarray:
    """Velocities of a hand-held camera [n, 2], cell px a frame: each picture's differ from the last one's."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return np.array([1.5, 0.5]) + rng.normal(0, 0.4, (n, 2))


def track_of(velocity: np.ndarray, noise: float = 0.02) -> tuple[Track, np.ndarray]:
    """The track of a camera of these velocities [n, 2], all cells alike but for errors of following; and the steps in levels."""
    n, cells = len(velocity), GRID[0] * GRID[1]
    rng = np.random.Generator(np.random.Philox(key=9))
    motion = (velocity[:, None] + rng.normal(0, noise, (n, cells, 2))).astype("<f2")
    steps = np.linalg.norm(velocity, axis=1)
    unlike = np.abs(np.diff(steps, prepend=steps[0])) / (steps + np.roll(steps, 1))
    turned = np.sum(velocity * np.roll(velocity, 1, 0), 1) / (steps * np.roll(steps, 1))
    way = np.concatenate([np.zeros((1, 2)), np.cumsum(velocity, 0)])
    values = np.stack([np.zeros(n), -turned, turned_over(way, 2), turned_over(way, 3), unlike], 1).astype(np.float32)
    pictures = motion.reshape(n, cells, 2).view(np.uint8).reshape(n, cells, 4)
    return Track(name="bends", fields=FIELDS, pts_us=np.arange(n) * 41_667, values=values, pictures=pictures), steps


def turned_over(way: np.ndarray, lag: int) -> np.ndarray:
    """Minus the cosine between steps so many frames long, from twice as many before each place of the way [n + 1, 2] but the first."""
    step = way[lag:] - way[:-lag]
    length = np.linalg.norm(step, axis=1)
    found = -np.sum(step[lag:] * step[:-lag], 1) / np.maximum(length[lag:] * length[:-lag], 1e-9)
    return np.concatenate([np.full(2 * lag - 1, np.nan), found])


def slowed(velocity: np.ndarray, pace: float) -> np.ndarray:
    """A stretch at full pace, then the rest at another, each made frame a part of the way to the source's next: velocities [n, 2]."""
    at = np.concatenate([np.arange(N_FAST), N_FAST - 1 + pace * np.arange(1, N_SLOW + 2)])
    way = np.concatenate([np.zeros((1, 2)), np.cumsum(velocity, 0)])
    return np.diff([[np.interp(t, np.arange(len(way)), way[:, k]) for k in (0, 1)] for t in at], axis=0)


@pytest.mark.parametrize("pace", [0.23, 0.31, 0.47])
def test_made_frames_keep_their_motion_and_change_it_at_knots(pace: float) -> None:
    """A shaken camera slowed down afterwards shows both evidences of motion, over what counts as a ramp; one that is slow by itself shows neither."""
    ramp, slow = slowed(shaken(1, 200), pace), np.concatenate([shaken(1, N_FAST), pace * shaken(2, N_SLOW)])
    weights = RampConfig()
    for velocity, is_ramp in ((ramp, True), (slow, False)):
        bends, steps = track_of(velocity)
        assert (weights.changes_weight * changes_at_knots(bends, steps, CFG) >= 0.33) is is_ramp
        assert (weights.keeps_weight * keeps_between_knots(bends, steps, CFG) >= 0.33) is is_ramp


def test_an_even_pan_and_an_even_pace_show_nothing() -> None:
    """Of an even pan made frames are what a slower pan shows, so nothing keeps better at some knots; without a faster stretch none is sought."""
    even = slowed(np.tile([1.5, 0.5], (200, 1)), 0.31)
    assert keeps_between_knots(*track_of(even), CFG) * RampConfig().keeps_weight < 0.33
    throughout = slowed(shaken(1, 200), 0.31)[N_FAST:]
    for evidence in (keeps_between_knots, changes_at_knots, turns_at_knots):
        assert evidence(*track_of(throughout), CFG) == 0


def test_faint_turns_are_alike() -> None:
    """An even pan that gets slower and turns by a hundredth at each third frame, as encoders make it: told as knots where so little counts, and
    not with the setting."""
    bends, steps = track_of(np.concatenate([np.tile([1.5, 0.5], (N_FAST, 1)), np.tile([0.5, 0.17], (N_SLOW, 1))]))
    values = bends.values.copy()
    for name in ("turn_2", "turn_3"):
        values[:, FIELDS.index(name)] = -0.9
        values[N_FAST::3, FIELDS.index(name)] += 0.01
    bends = replace(bends, values=values)
    assert RampConfig().turns_weight * turns_at_knots(bends, steps, replace(CFG, turn_faint=0)) >= 0.33
    assert turns_at_knots(bends, steps, CFG) == 0


def test_beside_a_rest_nothing_is_told() -> None:
    """The same slowed stretch after a rest: nothing near it is faster by what its knots say, and neither evidence reaches what is a ramp."""
    velocity = slowed(shaken(1, 200), 0.31)
    velocity[:N_FAST] = 1e-3
    bends, steps = track_of(velocity)
    assert RampConfig().keeps_weight * keeps_between_knots(bends, steps, CFG) < 0.33
    assert RampConfig().changes_weight * changes_at_knots(bends, steps, CFG) < 0.33


def test_one_frame_out_of_line_is_no_evidence() -> None:
    """A single jolt in an even slow pan fits some knots by accident: told if it may weigh as much as it does, and not with the setting."""
    velocity = np.tile([1.5, 0.5], (N_FAST + N_SLOW, 1))
    velocity[N_FAST:] *= 0.3
    velocity[N_FAST + 30] *= -3
    bends, steps = track_of(velocity, 0.002)
    jolt, capped = (
        RampConfig().keeps_weight * keeps_between_knots(bends, steps, replace(CFG, keep_cap=cap)) for cap in (1e9, CFG.keep_cap)
    )
    assert jolt >= 0.33 > capped


def test_what_comes_to_rest_has_no_pace() -> None:
    """A stretch is steady where both of its halves move alike, within a factor, and enough; one that comes to rest is not."""
    rest = np.concatenate([np.full(24, 8.0), np.full(24, 1.0)])
    assert steady(np.full(50, 2.0), 48, 0.1, 3.0).all() and steady(np.full(50, 2.0), 48, 0.1, 3.0).shape == (3,)
    assert not steady(rest, 48, 0.1, 3.0).any() and steady(rest, 48, 0.1, 10.0).all()
    assert not steady(np.full(48, 0.05), 48, 0.1, 3.0).any()


def test_short_clips_hold_no_evidence() -> None:
    """Fewer frames than a stretch and a faster one beside it: 0, whatever they show; the ramp's score is then that of its cadence, or none."""
    bends, steps = track_of(slowed(shaken(1, 200), 0.31)[:36])
    assert changes_at_knots(bends, steps, CFG) == turns_at_knots(bends, steps, CFG) == 0 == keeps_between_knots(bends, steps, CFG)
    motion = Track(name="motion", fields=("motion",), pts_us=bends.pts_us, values=steps[:, None].astype(np.float32))
    assert speed_ramp(bends, motion, RampConfig()) == 0
    assert speed_ramp(bends.between(0, 400_000), motion.between(0, 400_000), RampConfig()) is None


def test_a_ramp_in_a_long_clip_is_found() -> None:
    """After six minutes of film, which are worked on in portions, the same ramp shows as much as alone."""
    ramp = slowed(shaken(1, 200), 0.31)
    alone = keeps_between_knots(*track_of(ramp, 0), CFG), changes_at_knots(*track_of(ramp, 0), CFG)
    whole = track_of(np.concatenate([shaken(2, 8640), ramp]), 0)
    assert keeps_between_knots(*whole, CFG) >= alone[0] - 1e-3
    assert changes_at_knots(*whole, CFG) > 0.8 * alone[1]


def test_settings_reach_what_they_name() -> None:
    """Other paces find other ramps: those from 0.4 on do not find one of 0.23."""
    bends, steps = track_of(slowed(shaken(1, 200), 0.23))
    other = replace(CFG, paces=(0.4, 0.56), n_paces=20)
    assert keeps_between_knots(bends, steps, other) < 0.75 * keeps_between_knots(bends, steps, CFG)


def test_cells_say_how_they_move() -> None:
    """A picture shifted by a px of the half plane and less: the cells' mean motion is that to a tenth, and 0 where it repeats or is flat."""
    import cv2

    picture = cv2.GaussianBlur(cv2.resize(scene(3), (200, 130)), (9, 9), 0)[..., 0]
    shifts = [0.0, 0.6, 1.8, 1.8, 3.0]  # small px, to the left
    frames = [cv2.warpAffine(picture, np.float32([[1, 0, -s - 10], [0, 1, -10]]), (160, 90), flags=cv2.INTER_CUBIC) for s in shifts]
    track = watched(frames)
    moved = cells_motion(track).mean(1)
    assert moved[:, 0] == pytest.approx([0, -0.3, -0.6, 0, -0.6], abs=0.08)
    assert np.abs(moved[:, 1]).max() < 0.05
    flat = watched([np.full((90, 160), 90 + i, np.uint8) for i in range(4)])
    assert not cells_motion(flat).any()


def test_a_row_a_frame_whatever_waits() -> None:
    """130 frames, more than are worked out at once: a row each in their order, the same as of a part of them alone where both have two steps
    of every length; before that nothing is said."""
    rng = np.random.Generator(np.random.Philox(key=5))
    frames = [rng.integers(16, 235, (90, 160), dtype=np.uint8) for _ in range(130)]
    whole, part = watched(frames), watched(frames[60:])
    assert (whole.pts_us == np.arange(130) * 41_667).all()
    for name, n in {"bend": 2, "turn": 2, "turn_2": 4, "turn_3": 6, "unlike": 2}.items():
        assert np.isnan(whole[name][:n]).all() and not np.isnan(whole[name][n:]).any()
    np.testing.assert_array_equal(whole.values[66:], part.values[6:])
    np.testing.assert_array_equal(whole.pictures[61:], part.pictures[1:])


def test_a_bend_is_none_for_mixtures() -> None:
    """The bend at a frame between two is 0 where it is their mixture, large where the picture goes and comes back; nan at first and at repeats."""
    a, b = np.full((90, 160), 40, np.uint8), np.full((90, 160), 80, np.uint8)
    b[:, ::2] = 20
    middle = (a.astype(int) + b).astype(int) // 2
    bends = watched([a, middle.astype(np.uint8), b, b, a, b])["bend"]
    assert np.isnan(bends[[0, 1, 3, 4]]).all()
    assert bends[2] == pytest.approx(0, abs=0.02)
    assert bends[5] == pytest.approx(1)


def test_longer_turns_are_about_the_same_frame() -> None:
    """Light that rises up to the tenth frame and falls after it comes back about that frame whatever the length of the steps, and goes straight
    on elsewhere; near the ends, and where a step would begin more than two frames before the rows, nothing is known."""
    levels = [*range(20, 120, 10), *range(103, 30, -7)]
    track = watched([np.full((90, 160), v, np.uint8) for v in levels])
    rows = track.between(2 * 41_667, 1 << 62)  # as a measure has them: without the first two frames
    about = rows["turn"].argmax()
    assert rows["turn"][about] == pytest.approx(1) and about == 8  # the row after the tenth frame's
    for lag in (2, 3):
        found = turns(rows, lag)
        assert len(found) == len(rows) and found[about] == pytest.approx(1)
        known = ~np.isnan(found)
        assert np.flatnonzero(known).tolist() == list(range(lag - 1, len(rows) - lag + 1))
        far = known & (np.abs(np.arange(len(rows)) - about) >= lag)
        assert found[far] == pytest.approx(-1)
    later = track.between(6 * 41_667, 1 << 62)  # rows that look back to frames before them
    assert np.isnan(turns(later, 3)[:2]).all() and not np.isnan(turns(later, 3)[2:-2]).any()


def test_a_turn_is_straight_on_or_back() -> None:
    """A ramp of light goes straight on (-1) and unlike nothing; light that comes back turns (1) and bends (1); after a repeat nothing is known."""
    levels = [50, 60, 70, 60, 60, 70]
    rows = watched([np.full((90, 160), v, np.uint8) for v in levels])
    assert rows["turn"][2:4] == pytest.approx([-1, 1])
    assert rows["bend"][2:4] == pytest.approx([0, 1])
    assert rows["unlike"][2] == pytest.approx(0, abs=1e-6)
    assert np.isnan(rows["turn"][4:]).all()
