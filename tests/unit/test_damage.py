"""Frames that a decoder could not show right are found, from the broken packet to the next key frame."""

from pathlib import Path

import av
import numpy as np

from curation.damage import DamageObserver, measure_damage
from curation.decode import DecodeLog
from curation.media import MediaConfig
from curation.probe import probe_asset
from curation.scan import watch
from curation.spared_frames import Spare
from curation.tracks import Track, by_name
from manifests.records import Clip
from tests.media_makers import asset_for, pan

FPS = 25


def three_groups(path: Path, broken: int | None) -> Path:
    """36 frames with key frames at 0, 12 and 24; of the packet `broken` the beginning is noise."""
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        stream.options = {"g": "12", "keyint_min": "12", "sc_threshold": "0", "preset": "veryfast"}
        packets = []
        for i, picture in enumerate(pan(1, 36, dx=3)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            packets += stream.encode(frame)
        packets += stream.encode(None)
        out.mux(packets)
    if broken is not None:
        with av.open(str(path)) as container:
            places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
        data = bytearray(path.read_bytes())
        at, size = places[broken]
        data[at : at + size] = np.random.Generator(np.random.Philox(key=1)).bytes(size)
        path.write_bytes(data)
    return path


def damage_of(path: Path) -> Track:
    """The track of the file."""
    log = DecodeLog()
    asset = probe_asset(asset_for(path), str(path), MediaConfig())
    return by_name(watch(str(path), asset, [DamageObserver(log)], MediaConfig(), Spare(log)))["damage"]


def clip(first: int, end: int) -> Clip:
    """The clip of these frames."""
    start_us, end_us = round(first * 1e6 / FPS), round(end * 1e6 / FPS)
    return Clip(clip_id="c", asset_id="a", kind="video", start_us=start_us, end_us=end_us)


def test_a_whole_file_has_no_damage(tmp_path: Path) -> None:
    """No row, and a measure of 0: looked at, and nothing found."""
    track = damage_of(three_groups(tmp_path / "a.mp4", None))
    assert len(track) == 0
    assert measure_damage(clip(0, 36), {"damage": track})["damaged_frames"] == 0


def test_damage_lasts_until_the_next_key_frame(tmp_path: Path) -> None:
    """A broken packet in the second of three groups damages that group's frames and, at most by the reordering, its neighbour's last."""
    track = damage_of(three_groups(tmp_path / "a.mp4", 14))
    frames = set(np.round(track.pts_us * FPS / 1e6).astype(int).tolist())
    assert {20, 23} <= frames
    assert not frames & {*range(8), *range(24, 36)}
    tracks = {"damage": track}
    assert measure_damage(clip(24, 36), tracks)["damaged_frames"] == 0
    assert (measure_damage(clip(12, 24), tracks)["damaged_frames"] or 0) > 0


def test_damage_at_the_very_end_counts(tmp_path: Path) -> None:
    """A last packet that breaks after the last frame was shown marks the frames before it."""
    track = damage_of(three_groups(tmp_path / "a.mp4", 35))
    assert len(track) > 0 and track.pts_us.max() > 30 * 1e6 / FPS


def test_a_hole_is_as_long_as_no_picture_comes() -> None:
    """Frames that are not there are a gap between two times, at the clip's start and end too; elsewhere a gap is a frame long; a hole beside
    the clip is none of its."""
    times = np.array([i for i in range(100) if not 40 <= i < 75]) * 40_000
    motion = Track(name="motion", fields=("motion",), pts_us=times, values=np.ones((len(times), 1), np.float32))
    found = {
        part: measure_damage(clip(*part), {"motion": motion})["longest_gap_s"]
        for part in ((0, 40), (0, 100), (50, 100), (10, 60), (76, 100))
    }
    assert found == {(0, 40): 0.04, (0, 100): 1.44, (50, 100): 1.0, (10, 60): 0.84, (76, 100): 0.04}


def test_what_nobody_looked_at_is_unknown() -> None:
    """Without the track the measure is null, never 0."""
    assert measure_damage(clip(0, 36), {}) == {"damaged_frames": None, "longest_gap_s": None}


def test_the_broken_files_are_not_taken_for_whole(media: Path) -> None:
    """In each hostile file whose decode counts errors some frames are damaged; in whole ones none."""
    for name in ("corrupted_decord.mp4", "invalid_nalu.mp4", "made_mid_corruption.mp4", "made_truncated_moov_first.mp4"):
        assert len(damage_of(media / "hostile" / name)), name
    for name in ("counter_1080p_10fps.mp4", "made_vfr_dropped.mp4", "resolution_change.mp4", "made_long_gop_one_keyframe.mp4"):
        assert not len(damage_of(media / "hostile" / name)), name
