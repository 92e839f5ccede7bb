"""Effects: each is told from a filmed scene on tracks whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from curation.effects import EffectsConfig, SignatureObserver, loop_score, slideshow_score, speed_ramp, strobe_per_s
from curation.global_motion import FIELDS, STEP_PX, GlobalMotionObserver
from curation.motion import MotionWatch
from curation.observe import Frame, after
from curation.orientation import Orientation
from curation.scan import tracks_of
from curation.tracks import Track, by_name
from tests.media_makers import pan, scene, write_video

CFG = EffectsConfig()


def signature(pictures: np.ndarray) -> Track:
    """A signature track of these pictures."""
    times = np.arange(len(pictures)) * 83_333
    return Track(name="signature", fields=(), pts_us=times, values=np.zeros((len(pictures), 0), np.float32), pictures=pictures)


def walk(n: int, seed: int = 1) -> np.ndarray:
    """Pictures that drift on and never come back."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    steps = rng.normal(0, 4, (n, 9, 16)) + 1.5
    return np.clip(60 + np.cumsum(steps, 0), 0, 255).astype(np.uint8)


def test_a_loop_is_told_from_what_drifts_and_what_stands() -> None:
    """A second shown four times scores above 0.9; a drift and a standing picture below 0.3; too short a clip is unknown."""
    piece = walk(12)
    assert loop_score(signature(np.concatenate([piece] * 4)), CFG) > 0.9
    assert loop_score(signature(walk(48)), CFG) < 0.3
    assert loop_score(signature(np.repeat(piece[:1], 48, 0)), CFG) < 0.3
    assert loop_score(signature(piece), CFG) is None


def test_a_loop_of_few_things_in_a_still_picture_is_seen() -> None:
    """A tenth of the cells coming back after a second scores above 0.7, though all others, which only flicker by a level, never do."""
    rng = np.random.Generator(np.random.Philox(key=3))
    pictures = 60 + rng.integers(0, 2, (48, 9, 16)).astype(np.uint8)
    pictures[:, 4] = np.concatenate([walk(12)[:, 4]] * 4)
    assert loop_score(signature(pictures), CFG) > 0.7


def test_a_loop_may_end_between_two_signatures() -> None:
    """A turn of 12.5 signatures that fits twice but not four times scores above 0.8, though within half of them no signature comes back."""
    rng = np.random.Generator(np.random.Philox(key=1))
    turn = np.clip(120 + np.cumsum(rng.normal(0, 6, (25, 9, 16)), 0), 0, 255).astype(np.uint8)
    assert loop_score(signature(np.concatenate([turn] * 4)[:96:2]), CFG) > 0.8


def test_a_strobe_is_counted_and_a_fade_is_not() -> None:
    """Light on and off every two frames turns twelve times a second; a fade to black never turns; few frames are unknown."""
    assert strobe_per_s(np.tile([50.0, 50, 120, 120], 30), 5.0, CFG) == pytest.approx(11.6, abs=0.5)
    assert strobe_per_s(np.linspace(200, 16, 120), 5.0, CFG) == 0
    assert strobe_per_s(np.tile([27.0, 27, 24, 24], 30), 5.0, CFG) == pytest.approx(11.6, abs=0.5), "a quarter of what is above black"
    assert strobe_per_s(np.tile([127.0, 127, 124, 124], 30), 5.0, CFG) == 0, "the same levels of a bright picture"
    assert strobe_per_s(np.tile([17.0, 17, 16, 16], 30), 5.0, CFG) == 0, "noise of black"
    assert strobe_per_s(np.array([1.0, 100, 1]), 0.1, CFG) is None


def ramp_of(tmp_path: Path, frames: list[np.ndarray], fps: int = 24) -> float | None:
    """The score of the frames as a video."""
    path = str(write_video(tmp_path / "ramp.mp4", frames, fps=fps))
    found = by_name(tracks_of(path, [SignatureObserver(), MotionWatch()]))
    return speed_ramp(found["bends"], found["motion"], CFG)


def ramp_score(step: np.ndarray, bend: np.ndarray, cfg: EffectsConfig = CFG) -> float | None:
    """The score of these steps and bends at 24 frames a second."""
    times = np.arange(len(step)) * 41_667
    motion, bends = (
        Track(name=name, fields=(name,), pts_us=times, values=v[:, None].astype(np.float32), pictures=np.zeros(0))
        for name, v in (("motion", step), ("bend", bend))
    )
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


def test_rest_and_a_slower_camera_are_no_ramps(tmp_path: Path) -> None:
    """A camera that comes to rest, and one that goes on at a third of its pace, have no cadence and score below 0.2."""
    source, slow = pan(1, 60, dx=3), pan(1, 240, dx=1)[177:237]
    assert ramp_of(tmp_path, source + source[-1:] * 60) < 0.2
    assert ramp_of(tmp_path, source + slow) < 0.2


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
    alone = [ramp_score(step, bend, EffectsConfig(ramp_windows_us=(us,))) for us in CFG.ramp_windows_us]
    assert ramp_score(step, bend) == float(np.median(alone))
    assert max(alone) >= 0.33 > float(np.median(alone))


def test_a_bend_is_none_for_mixtures_and_repeats(tmp_path: Path) -> None:
    """The bend at a frame between two is 0 where it is their mixture or a repeat, large where the picture goes and comes back; nan at first."""
    a, b = np.full((90, 160), 40, np.uint8), np.full((90, 160), 80, np.uint8)
    b[:, ::2] = 20
    middle = (a.astype(int) + b).astype(int) // 2
    watch, last, grey = SignatureObserver(), None, np.full((45, 80), 128, np.uint8)
    for i, y in enumerate((a, middle.astype(np.uint8), b, b, a, b)):
        watch.push(after(last, Frame(i * 41_667, y, grey, grey, None, Orientation())))  # type: ignore[arg-type]
        last = y, grey, grey
    bends = by_name(watch.finish())["bends"]["bend"]
    assert np.isnan(bends[:2]).all()
    assert bends[2:5] == pytest.approx([0, 0, 0], abs=0.02)
    assert bends[5] == pytest.approx(1)


def test_a_still_that_slides_is_a_slideshow_and_a_scene_with_depth_is_not(tmp_path: Path) -> None:
    """A picture that slides slowly as one scores high; the same slide with a second layer moving against it scores low."""
    slide = pan(1, 96, dx=1)
    layered = []
    for i, frame in enumerate(slide):
        frame = frame.copy()
        frame[60:130, 40 + i : 200 + i] = scene(9)[60:130, 40:200]
        layered.append(frame)
    scores = []
    for name, frames in (("slide", slide), ("layered", layered)):
        (track,) = tracks_of(str(write_video(tmp_path / f"{name}.mp4", frames)), [GlobalMotionObserver()])
        scores.append(slideshow_score(track, CFG))
    assert scores[0] > 0.8 > 0.3 > scores[1]


def camera_of(besides_px: np.ndarray, weight: np.ndarray | int = 200, dx: float = 0.02) -> Track:
    """A camera track of looks 0.1 s apart at 6 x 10 points that go `besides_px` [n, 6, 10] to the right besides a pan of dx widths a second."""
    n = len(besides_px)
    pictures = np.full((n, 3, 6, 10), 128, np.uint8)
    pictures[:, 2] = weight
    pictures[:, 0] += np.rint(besides_px / STEP_PX).astype(np.int8).view(np.uint8)
    row = {"dt_s": 0.1, "dx": dx, "texture": 1.0, "width": 160, "height": 90}
    values = np.tile(np.array([row.get(name, 0.0) for name in FIELDS], np.float32), (n, 1))
    return Track(name="camera", fields=FIELDS, pts_us=np.arange(n) * 100_000, values=values, pictures=pictures.reshape(n, 18, 10))


def test_faint_points_of_a_still_need_not_be_followed_as_well() -> None:
    """Half of the points 0.6 px off, to and fro: a still where these are faint; where they are as well seen as the others none in these looks."""
    fro = np.zeros((12, 6, 10))
    fro[::4, :3], fro[2::4, :3] = 0.6, -0.6
    weight = np.full((6, 10), 200)
    for faint, score in ((40, 1.0), (200, 0.5)):
        weight[:3] = faint
        assert slideshow_score(camera_of(fro, weight), CFG) == score


def test_what_goes_one_way_moves_by_itself_though_a_look_does_not_tell() -> None:
    """A fifth of the points 0.35 px off in a slow pan: a still where they come back or are off now and then, a scene where they go on one way.

    In a pan by 1.6 px a look so much is an error of following; where the camera rests, what comes back moves by itself too.
    """
    one_way = np.zeros((20, 6, 10))
    one_way[:, 2:5, 3:7] = 0.35
    fro, rarely = np.zeros_like(one_way), np.zeros_like(one_way)
    fro[::4], fro[2::4] = one_way[::4], -one_way[2::4]
    rarely[::4] = one_way[::4]
    assert [slideshow_score(camera_of(px, dx=0.015), CFG) for px in (one_way, fro, rarely)] == [0, 1, 1]
    assert slideshow_score(camera_of(one_way, dx=0.1), CFG) == 1
    assert slideshow_score(camera_of(fro, dx=0.0), CFG) == 0.5


def test_signatures_are_small_and_evenly_spaced(tmp_path: Path) -> None:
    """Twelve pictures of 16 x 9 a second, whatever the frame rate; a bend every frame."""
    for fps in (24, 60):
        track, bends = tracks_of(str(write_video(tmp_path / "v.mp4", pan(1, 2 * fps, dx=1), fps=fps)), [SignatureObserver()])
        assert len(bends) == 2 * fps
        assert track.pictures.shape[1:] == (9, 16)
        assert len(track) == pytest.approx(24, abs=1)
