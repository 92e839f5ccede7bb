"""Speed ramps by the cadence of made frames: each is told from a change of pace that was filmed."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from curation.bends import FIELDS, GRID, BendObserver
from curation.motion import MotionWatch
from curation.ramps import RampConfig, speed_ramp
from curation.scan import tracks_of
from curation.tracks import Track, by_name
from tests.media_makers import pan, scene, write_video

CFG = RampConfig()
CADENCE = RampConfig(cadence_weight=1, cadence_turns=0, cadence_least=0, turns_weight=0, changes_weight=0, keeps_weight=0)
"""The fall of the cadence alone."""


def ramp_of(tmp_path: Path, frames: list[np.ndarray], cfg: RampConfig = CFG) -> float | None:
    """The score of the frames as a video of 24 a second."""
    path = str(write_video(tmp_path / "ramp.mp4", frames, fps=24))
    found = by_name(tracks_of(path, [BendObserver(), MotionWatch()]))
    return speed_ramp(found["bends"], found["motion"], cfg)


def ramp_score(step: np.ndarray, bend: np.ndarray, cfg: RampConfig = CADENCE) -> float | None:
    """The fall of the cadence of these steps and bends at 24 frames a second."""
    times, still = np.arange(len(step)) * 41_667, np.zeros((len(step), GRID[0] * GRID[1], 4), np.uint8)
    motion = Track(name="motion", fields=("motion",), pts_us=times, values=step[:, None].astype(np.float32))
    rows = np.stack([bend, *np.zeros((len(FIELDS) - 1, len(step)))], 1).astype(np.float32)
    bends = Track(name="bends", fields=FIELDS, pts_us=times, values=rows, pictures=still)
    return speed_ramp(bends, motion, cfg)


def mixture(frames: list[np.ndarray], at: float) -> np.ndarray:
    """The picture between two frames, as editors blend it."""
    before, part = int(at), at - int(at)
    return np.asarray(frames[before] * (1 - part) + frames[before + 1] * part).astype(np.uint8)


def test_a_ramp_is_a_cadence_in_the_slower_part_alone(tmp_path: Path) -> None:
    """A pan slowed to a third by repeats or by mixtures scores over the rule's 0.33; even, or slowed throughout, it scores low."""
    source = pan(1, 130, dx=3)
    turn = [float(t) for t in range(60)] + [60 + k / 3 for k in range(60)]
    assert ramp_of(tmp_path, [source[int(t)] for t in turn]) > 0.5
    assert ramp_of(tmp_path, [mixture(source, t) for t in turn]) > 0.4
    assert ramp_of(tmp_path, source[:120]) < 0.1
    assert ramp_of(tmp_path, [source[i // 3] for i in range(120)]) < 0.2
    assert ramp_of(tmp_path, source[:20]) is None


def hand_held(seed: int, n: int, pace: float = 1.0) -> np.ndarray:
    """Where a camera that pans by 4 px a frame and is held by hand looks [n, 2]; at a pace."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return np.array([5.0, 60.0]) + np.cumsum(pace * (np.array([4.0, 0.0]) + rng.normal(0, 1.0, (n, 2))), 0)


def looked_at(path_px: np.ndarray) -> list[np.ndarray]:
    """What is seen from these places."""
    picture = cv2.GaussianBlur(scene(1, 900, 400), (5, 5), 0)
    return [cv2.warpAffine(picture, np.float32([[1, 0, -x], [0, 1, -y]]), (320, 192)) for x, y in path_px]


def slow_by_itself(way: np.ndarray, seed: int, pace: float) -> np.ndarray:
    """The first 40 places of the way, then 80 of another camera at a pace."""
    return np.concatenate([way[:40], way[39] + hand_held(seed, 80, pace) - [5, 60]])


def test_made_frames_that_are_no_mixtures_are_told_once_coded(tmp_path: Path) -> None:
    """A hand-held pan slowed to 0.31 by frames moved a part of the way, coded as H.264: a ramp, though the cadence alone tells none; one that
    is filmed at that pace is none."""
    way, pace = hand_held(4, 80), 0.31
    at = np.concatenate([np.arange(40), 39 + pace * np.arange(1, 81)])
    ramp = np.stack([np.interp(at, np.arange(80), way[:, k]) for k in (0, 1)], 1)
    ramped, slow = looked_at(ramp), looked_at(slow_by_itself(way, 5, pace))
    assert ramp_of(tmp_path, ramped) >= 0.33 > max(ramp_of(tmp_path, ramped, CADENCE), ramp_of(tmp_path, slow))


def test_mixtures_at_a_slow_pace_are_told_once_coded(tmp_path: Path) -> None:
    """The same slowed to a fifth by mixtures, which differ by less than coding does from one to the next: told by longer turns alone."""
    way, pace = hand_held(1, 80), 0.2
    source = looked_at(way)
    ramped = [mixture(source, t) for t in np.concatenate([np.arange(40), 39 + pace * np.arange(1, 81)])]
    without = replace(CFG, turns_weight=0)
    assert ramp_of(tmp_path, ramped) >= 0.33 > ramp_of(tmp_path, ramped, without)
    assert ramp_of(tmp_path, looked_at(slow_by_itself(way, 5, pace))) < 0.33


def test_rest_and_a_slower_camera_are_no_ramps(tmp_path: Path) -> None:
    """A camera that comes to rest, and one that goes on at a third of its pace, have no cadence and score below the rule's 0.33."""
    source, slow = pan(1, 60, dx=3), pan(1, 240, dx=1)[177:237]
    assert ramp_of(tmp_path, source + source[-1:] * 60) < 0.2
    assert ramp_of(tmp_path, source + slow) < 0.33


def test_a_fade_that_ends_is_no_ramp() -> None:
    """A fade's frames are mixtures of their neighbours as those of slowed footage are; what it ends in hardly moves, so it scores 0."""
    step = np.array([5.0] * 48 + [0.25] * 40)
    bend = np.array([0.005] * 42 + [0.02] * 6 + [0.24] * 40)
    bend[45:47] = 0.03
    assert ramp_score(step, bend) == 0


def test_a_cadence_stands_out_and_is_gone_in_the_faster_part() -> None:
    """Mixtures that bend a tenth as much as the frames between, slower before a faster part that bends: a ramp; half as much: none.

    Nor is one told where the faster part does not bend, as in a fade: no mixtures can be told there.
    """
    step = np.array([1.0] * 40 + [2.5] * 40)
    fast = np.full(40, 0.08)
    assert ramp_score(step, np.concatenate([np.tile([0.01, 0.01, 0.1], 14)[:40], fast])) > 0.5
    assert ramp_score(step, np.concatenate([np.tile([0.03, 0.03, 0.07], 14)[:40], fast])) == 0
    assert ramp_score(step, np.concatenate([np.tile([0.01, 0.01, 0.1], 14)[:40], fast / 10])) < 0.1


def test_a_cadence_counts_where_the_way_turns_at_its_knots() -> None:
    """The same cadence without a turn at the knots of its pace, as an encoder's own mixtures show it, is no ramp: the fall of the cadence alone
    takes it for one."""
    step = np.array([1.0] * 40 + [2.5] * 40)
    bend = np.concatenate([np.tile([0.01, 0.01, 0.1], 14)[:40], np.full(40, 0.08)])
    assert ramp_score(step, bend, CADENCE) > 0.5 and ramp_score(step, bend, CFG) == 0


def test_a_slow_change_of_pace_is_no_ramp() -> None:
    """A zoom whose frames of one kind are coded as mixtures, and that gets faster over seconds while that cadence fades, scores below the
    rule's 0.33: what is a long time apart is not compared."""
    step = np.geomspace(0.8, 2.4, 240)
    strength = np.clip(np.linspace(0.1, 0.45, 240), 0, 0.4)
    bend = np.where(np.arange(240) % 2 == 0, 0.013 + (strength - 0.1) * 0.3, 0.1)
    assert ramp_score(step, bend) < 0.33


def test_one_length_of_stretch_decides_nothing() -> None:
    """Repeats of film at 16 pictures a second, interrupted by a splice: some lengths of stretch take that for a ramp, their median does not."""
    bend = np.tile([0.0, 0.0, 0.3], 20)
    step = np.tile([2.0, 0.05, 2.0], 20)
    step[24:33], bend[24:33] = 2.6, 0.2
    alone = [ramp_score(step, bend, replace(CADENCE, windows_us=(us,))) for us in CFG.windows_us]
    assert ramp_score(step, bend) == float(np.median(alone))
    assert max(alone) >= 0.33 > float(np.median(alone))
