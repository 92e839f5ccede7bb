"""Motion vectors: the codec's at a few packets, our estimate beside them, on one scale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation import decode
from curation.media import MediaConfig
from curation.motion import MotionWatch
from curation.observe import SmallFrames
from curation.probe import probe
from curation.tracks import Recorder, Tracks, by_name
from curation.vectors import VectorsConfig, VectorWatch, measure_vectors, reference_steps
from manifests.records import Clip
from tests.media_makers import pan, scene, still, write_video


def watched(path: Path, with_packets: bool = True) -> Tracks:
    """The tracks of both watches."""
    facts = probe(str(path), MediaConfig())
    small, motion, vectors = SmallFrames(facts.width or 16, facts.height or 16), MotionWatch(), VectorWatch()
    for source, pts_us in decode.decode(str(path), MediaConfig(), on_packet=vectors.packet if with_packets else None):
        frame = small(source, pts_us)
        motion.push(frame)
        vectors.push(frame)
    return by_name([*motion.finish(), *vectors.finish()])


def measured(tracks: Tracks, start_us: int = 0, end_us: int = 1 << 60) -> dict[str, Any]:
    """The columns of a clip."""
    clip = Clip(clip_id="c", asset_id="a", asset_no=0, kind="video", start_us=start_us, end_us=end_us)
    return measure_vectors(clip, tracks, VectorsConfig())


@pytest.fixture(scope="module")
def panned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 of a camera that moves 4 px a frame, 4 s."""
    return write_video(tmp_path_factory.mktemp("v") / "pan.mp4", pan(1, 96, dx=4))


def test_codec_vectors_are_as_long_as_the_movement(panned: Path) -> None:
    """A pan of 4 px a frame: every sampled frame's codec vectors are within 10 % of 4 px, and the source is `codec`."""
    tracks = watched(panned)
    codec = tracks["vectors"]["codec_px"]
    assert np.isfinite(codec).sum() >= 3
    assert np.nanmin(codec) > 3.6
    assert np.nanmax(codec) < 4.4
    assert measured(tracks)["motion_vector_source"] == "codec"


def test_estimate_is_as_long_as_the_movement(panned: Path) -> None:
    """Without packets the same pan is estimated within a third of 4 px, before the factor that makes it as restless as a codec's."""
    tracks = watched(panned, with_packets=False)
    assert np.nanmean(tracks["vectors"]["estimate_px"]) == pytest.approx(4, rel=0.34)
    assert measured(tracks)["motion_vector_source"] == "estimate"


def test_what_jumps_out_of_reach_is_left_out(tmp_path: Path) -> None:
    """A window of a quarter of the picture that moves by 10 px a frame counts; one that moves by 40, as text by lines, hardly."""
    found = {}
    for step in (10, 40):
        picture, text = scene(1, 640, 480), scene(2, 320, 240 + 32 * step)
        frames = [picture.copy() for _ in range(32)]
        for i, frame in enumerate(frames):
            frame[120:360, 160:480] = text[step * i : step * i + 240]
        tracks = watched(write_video(tmp_path / f"{step}.mp4", frames), with_packets=False)
        found[step] = float(np.nanmean(tracks["vectors"]["estimate_px"]))
    assert found[10] > 0.6 * 10 / 4 and found[40] < 0.1 * 40 / 4


def test_other_codecs_are_estimated(tmp_path: Path) -> None:
    """VP9's decoder gives no vectors: the source is `estimate`, whether packets are shown or not."""
    path = write_video(tmp_path / "pan.webm", pan(1, 40, dx=4), codec="libvpx-vp9")
    assert measured(watched(path))["motion_vector_source"] == "estimate"


def test_mpeg4_gives_its_vectors(tmp_path: Path) -> None:
    """MPEG-4 is sampled from a key frame on."""
    tracks = watched(write_video(tmp_path / "pan.avi", pan(1, 96, dx=4), codec="mpeg4"))
    assert np.nanmedian(tracks["vectors"]["codec_px"]) == pytest.approx(4, rel=0.15)


def test_still_picture_has_no_vectors(tmp_path: Path) -> None:
    """A standing picture scores 0."""
    assert measured(watched(write_video(tmp_path / "still.mp4", still(1, 72))))["motion_vector_px"] == pytest.approx(0, abs=0.01)


def test_few_packets_are_decoded_twice(panned: Path) -> None:
    """Of 96 packets the second decoder sees fewer than a tenth."""
    assert np.isfinite(watched(panned)["vectors"]["codec_px"]).sum() < 10


def test_a_picture_that_is_known_to_stand_is_not_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the picture stands its vectors are 0 and the codec's, as often as elsewhere, and no second decoder is opened for that."""
    monkeypatch.setattr("curation.vectors._decoder", None)
    path, vectors = write_video(tmp_path / "still.mp4", still(1, 400)), VectorWatch(lambda: True)
    for _ in decode.decode(str(path), MediaConfig(), on_packet=vectors.packet):
        pass
    (track,) = vectors.finish()
    assert track["codec_px"].tolist() == [0.0, 0.0]


def test_nothing_seen_is_not_measured() -> None:
    """Without a sampled moment inside the clip both columns are null."""
    tracks = by_name([Recorder("vectors", ("codec_px", "estimate_px")).track(), Recorder("motion", ("motion", "change", "luma")).track()])
    assert measured(tracks) == {"motion_vector_px": None, "motion_vector_source": None}


def test_moments_stand_for_the_whole_clip() -> None:
    """Vectors seen only where the clip moves half as much as on average count twice."""
    motion, vectors = Recorder("motion", ("motion", "change", "luma")), Recorder("vectors", ("codec_px", "estimate_px"))
    for i in range(100):
        motion.add(i * 40_000, 50.0 if i < 50 else 150.0, 0.0, 0.0)
    vectors.add(400_000, np.nan, 1.0)
    px = measured(by_name([motion.track(), vectors.track()]))["motion_vector_px"]
    assert px == pytest.approx(2 * VectorsConfig().estimate_factor, rel=0.02)


@pytest.mark.parametrize(("fps", "like"), [(24, 24), (25, 25), (30, 30), (60, 30), (50, 30), (120, 30), (12, 24)])
def test_vectors_do_not_depend_on_frame_rate(fps: int, like: int) -> None:
    """What goes 60 px a second scores alike at every rate: as 24 frames a second at fewer, as 30 at more, and in between as it is."""
    motion, vectors = Recorder("motion", ("motion", "change", "luma")), Recorder("vectors", ("codec_px", "estimate_px"))
    for i in range(4 * fps):
        motion.add(round(i * 1e6 / fps), 50.0, 0.0, 0.0)
        vectors.add(round(i * 1e6 / fps), 60 / fps, 60 / fps / VectorsConfig().estimate_factor)
    px = measured(by_name([motion.track(), vectors.track()]))["motion_vector_px"]
    assert px == pytest.approx(60 / like, rel=0.001 if fps in (24, 25, 30) else 0.015)


def test_frames_left_out_do_not_change_the_scale() -> None:
    """A file of 25 frames a second that lacks every fifth is on the scale of one that lacks none: its usual step is the same."""
    found = []
    for frames in (range(100), [i for i in range(100) if i % 5]):
        motion, vectors = Recorder("motion", ("motion", "change", "luma")), Recorder("vectors", ("codec_px", "estimate_px"))
        for i in frames:
            motion.add(i * 40_000, 50.0, 0.0, 0.0)
            vectors.add(i * 40_000, 3.0, np.nan)
        found.append(measured(by_name([motion.track(), vectors.track()]))["motion_vector_px"])
    assert found == [pytest.approx(3.0)] * 2


def test_repeated_frames_do_not_make_vectors_shorter() -> None:
    """24 pictures a second in a file of 60 frames score within a few hundredths as in one of 30, repeats counting as frames without motion."""
    found = {}
    for fps in (30, 60):
        motion, vectors = Recorder("motion", ("motion", "change", "luma")), Recorder("vectors", ("codec_px", "estimate_px"))
        for i in range(4 * fps):
            moves = i * 24 // fps != (i - 1) * 24 // fps
            motion.add(round(i * 1e6 / fps), 50.0 * moves, 0.0, 0.0)
            vectors.add(round(i * 1e6 / fps), 5.0 * moves, np.nan)
        found[fps] = measured(by_name([motion.track(), vectors.track()]))["motion_vector_px"]
    assert found[60] == pytest.approx(found[30], rel=0.03)


def test_references_of_a_pyramid_and_of_plain_b_frames() -> None:
    """Distances follow from types and the order of decoding: I b B b P as a pyramid, I B B P plainly."""
    i, p, b = 1, 2, 3
    frames = [(0, i), (1, b), (2, b), (3, b), (4, p)]
    assert reference_steps(frames, {0: 0, 4: 1, 2: 2, 1: 3, 3: 4}) == [(0, 0), (1, 1), (2, 2), (1, 1), (4, 1)]
    assert reference_steps([(0, i), (1, b), (2, b), (3, p)], {0: 0, 3: 1, 1: 2, 2: 3}) == [(0, 0), (1, 2), (2, 1), (3, 1)]
    assert reference_steps([(0, b), (1, p), (2, p)], {}) == [(0, 0), (0, 0), (1, 1)]


@pytest.mark.parametrize("name", ["made_mid_corruption.mp4", "made_truncated_moov_first.mp4", "made_interlaced_tff.mpg"])
def test_broken_media_cost_no_vector_more_than_their_own(media: Path, name: str) -> None:
    """With packets shown to the sampler, a broken file gives the same frames as without."""
    from curation.decode import decode

    path, watch = str(media / "hostile" / name), VectorWatch()
    with_sampler = [pts for _, pts in decode(path, MediaConfig(), on_packet=watch.packet)]
    assert with_sampler == [pts for _, pts in decode(path, MediaConfig())]
