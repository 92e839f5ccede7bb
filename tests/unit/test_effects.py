"""Effects: each is told from a filmed scene on tracks whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from curation.effects import EffectsConfig, SignatureObserver, loop_score, slideshow_score, strobe_per_s
from curation.global_motion import FIELDS, STEP_PX, GlobalMotionObserver
from curation.scan import tracks_of
from curation.tracks import Track
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
    """Twelve pictures of 16 x 9 a second, whatever the frame rate."""
    for fps in (24, 60):
        (track,) = tracks_of(str(write_video(tmp_path / "v.mp4", pan(1, 2 * fps, dx=1), fps=fps)), [SignatureObserver()])
        assert track.pictures.shape[1:] == (9, 16)
        assert len(track) == pytest.approx(24, abs=1)
