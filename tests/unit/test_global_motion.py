"""Global motion: speeds in pictures a second, points that move by themselves, and what is not measured."""

from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np

from curation.global_motion import FIELDS, GlobalMotionObserver, local_motion
from curation.observe import Frame
from curation.tracks import Track, from_table, to_table
from tests.media_makers import pan, scene


def track_of(frames: list[np.ndarray], step_us: int = 40_000) -> Track:
    """The track of luma frames at even times."""
    observer = GlobalMotionObserver()
    for i, frame in enumerate(frames):
        observer.push(cast(Frame, SimpleNamespace(pts_us=i * step_us, y=np.ascontiguousarray(frame), repeats=False)))
    return observer.finish()[0]


def luma(frames: list[np.ndarray]) -> list[np.ndarray]:
    """The green plane, as luma."""
    return [f[..., 1] for f in frames]


def turned(degrees: float, growth: float, n: int) -> list[np.ndarray]:
    """A picture that turns clockwise by so many degrees a frame and grows by so much."""
    big = scene(4, 480, 288)[..., 1]
    return [
        cv2.warpAffine(big, cv2.getRotationMatrix2D((239.5, 143.5), -degrees * i, (1 + growth) ** i), (480, 288))[99:189, 160:320]
        for i in range(n)
    ]


def test_speeds_are_pictures_a_second() -> None:
    """A camera that goes 1 px right and half a px down a frame of 160 x 90 at 25 a second: content 0.156 widths left, 0.139 heights up."""
    track = track_of(luma(pan(3, 50, dx=1, dy=0.5, width=160, height=90)))
    np.testing.assert_allclose(np.median(track["dx"]), -25 / 160, atol=0.004)
    np.testing.assert_allclose(np.median(track["dy"]), -12.5 / 90, atol=0.02)
    assert np.median(track["inliers"]) > 0.95
    assert np.abs(np.median(track["zoom"])) < 0.005


def test_growth_and_turn() -> None:
    """Half a degree a frame clockwise is 0.218 rad/s at 25 a second, and a growth of 0.4 % a frame is 0.1 a second."""
    track = track_of(turned(0.5, 0.004, 40))
    np.testing.assert_allclose(np.median(track["roll"]), np.radians(12.5), atol=0.01)
    np.testing.assert_allclose(np.median(track["zoom"]), 0.1, atol=0.01)


def test_a_thing_that_moves_by_itself_does_not_move_the_picture() -> None:
    """A fifth of the picture crosses it: the global speed stays 0, and its own points show its speed."""
    back, thing = scene(5, 160, 90)[..., 1], scene(11, 64, 46)[..., 1]
    frames = []
    for i in range(30):
        frame = back.copy()
        frame[22:68, 10 + 2 * i : 74 + 2 * i] = thing
        frames.append(frame)
    track = track_of(frames)
    assert np.abs(np.median(track["dx"])) < 0.01
    assert 0.45 < np.median(track["inliers"]) < 0.9
    local = local_motion(track)
    np.testing.assert_allclose(np.max(np.median(local.right, axis=0)), 2 * 25 / 160, atol=0.05)


def test_local_motion_is_what_was_measured() -> None:
    """The bytes of the points give their whole motion back, to a sixteenth of a px a look, also after the track was stored."""
    stored = from_table(to_table("a", [track_of(luma(pan(3, 30, dx=1, width=160, height=90)))]))["a"]["camera"]
    local = local_motion(stored)
    assert stored.fields == FIELDS
    assert local.right.shape == (len(stored), 60)
    np.testing.assert_allclose(np.median(local.right), -25 / 160, atol=1 / 16 / 160 / 0.08)
    np.testing.assert_allclose([local.x.mean(), local.y.mean()], 0, atol=1e-6)


def test_a_change_of_light_is_no_motion() -> None:
    """A picture that grows a quarter darker in a second stands still."""
    still = scene(3, 160, 90)[..., 1].astype(float)
    track = track_of([(still * (1 - 0.01 * i)).astype(np.uint8) for i in range(25)])
    assert np.nanmax(np.abs(track["dx"])) < 0.01
    assert np.nanmax(np.abs(track["zoom"])) < 0.02


def test_nothing_to_follow_is_not_stillness() -> None:
    """Without texture the speeds are nan and the texture is 0."""
    track = track_of([np.full((90, 160), 80, np.uint8)] * 20)
    assert len(track) > 5
    assert np.isnan(track["dx"]).all()
    assert (track["texture"] == 0).all()


def test_looks_are_spaced_by_time() -> None:
    """Ten looks a second whatever the rate, down to pairs of neighbours; frames further apart than 260 ms are not compared."""
    frames = luma(pan(3, 61, dx=0.2, width=160, height=90))
    assert [len(track_of(frames[:n], step)) for n, step in ((61, 16_667), (25, 41_667), (11, 100_000))] == [10, 8, 10]
    assert len(track_of(frames[:5], 300_000)) == 0


def test_a_track_is_small() -> None:
    """A second of video leaves less than 3 KB."""
    track = track_of(luma(pan(3, 26, width=160, height=90)))
    assert track.values.nbytes + track.pictures.nbytes + track.pts_us.nbytes < 3000
