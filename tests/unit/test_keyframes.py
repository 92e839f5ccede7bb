"""Key frames: what is written is read back, and hostile pictures are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import keyframe_observer
from curation.keyframe_observer import KeyFrameObserver
from curation.keyframes import KeyFrame, KeyFrameError, decode_all, decode_jpeg, encode_jpeg, of_clip, read_keyframes, spread, to_table
from curation.scan import tracks_of
from manifests.records import Clip
from tests.media_makers import MEDIA, pan, still, write_video


def _frame(asset_id: str, index: int, jpeg: bytes = b"x") -> KeyFrame:
    return KeyFrame(asset_id=asset_id, index=index, pts_us=1000 * index, width=4, height=3, jpeg=jpeg)


def _clip(start_us: int, end_us: int, kind: str = "video") -> Clip:
    return Clip(clip_id="c", asset_id="a", kind=kind, start_us=start_us, end_us=end_us)


def test_written_frames_come_back_in_order(tmp_path: Path) -> None:
    """Frames written in any order are read back whole in order of time, and only those of a span [start, end) when one is given."""
    frames = [_frame("a", i, bytes([i])) for i in (2, 0, 1)]
    pq.write_table(to_table(frames), tmp_path / "k.parquet")
    assert [f.index for f in read_keyframes(tmp_path / "k.parquet")] == [0, 1, 2]
    assert [f.index for f in read_keyframes(tmp_path / "k.parquet", 1000, 2000)] == [1]
    assert to_table(frames) == to_table(frames[::-1])


def test_a_missing_or_foreign_file_is_a_named_error(tmp_path: Path) -> None:
    """A file that is not there and one that is not ours are errors that name the file."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.parquet"):
        read_keyframes(tmp_path / "nothing.parquet")
    (tmp_path / "foreign.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(KeyFrameError, match=r"foreign\.parquet"):
        read_keyframes(tmp_path / "foreign.parquet")


def test_a_clip_has_the_frames_inside_it() -> None:
    """A frame belongs to the clip when its time lies in [start, end); a still picture has its one frame although it has no length."""
    frames = [_frame("a", i) for i in range(5)]
    assert [f.index for f in of_clip(frames, _clip(1000, 3000))] == [1, 2]
    assert [f.index for f in of_clip(frames[:1], _clip(0, 0, "image"))] == [0]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40, unique=True), st.integers(1, 12))
def test_spread_frames_are_a_few_in_order(times: list[int], n: int) -> None:
    """Of any frames at most n are taken, at least one, in order, each once; all when there are no more than n."""
    frames = [replace(_frame("a", i), pts_us=t) for i, t in enumerate(sorted(times))]
    taken = spread(frames, n)
    assert 1 <= len(taken) <= n and taken == sorted(taken, key=lambda f: f.pts_us) and len({f.index for f in taken}) == len(taken)
    assert taken == frames or len(frames) > n


def test_key_frames_follow_the_picture(tmp_path: Path) -> None:
    """A standing picture gives a key frame every 2 s, a moving one every 0.7 s, all within 512 px and upright as shown."""
    for frames, spacing in ((still(1, 240), 2.0), (pan(1, 240, dx=6), 0.7)):
        path = write_video(tmp_path / "v.mp4", frames, rotation=90)
        observer = KeyFrameObserver("a", 192, 320)
        list(tracks_of(str(path), [observer]))
        times = np.array([k.pts_us for k in observer.keyframes]) / 1e6
        assert np.allclose(np.diff(times), spacing, atol=1 / 24 + 1e-6)
        assert {(k.width, k.height) for k in observer.keyframes} == {(192, 320)}
        assert np.abs(decode_jpeg(observer.keyframes[0].jpeg).astype(int) - np.rot90(frames[0], -1)).mean() < 8


def test_a_long_video_has_fewer_key_frames_and_no_gap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beyond the limit frames go that no gap of more than 2 s needs, and new ones are taken every 2 s: memory grows slowly, and every span of
    the length of a clip keeps its key frames."""
    path = str(write_video(tmp_path / "v.mp4", pan(1, 960, dx=3)))  # 40 s
    all_of_them = KeyFrameObserver("a", 320, 192)
    list(tracks_of(path, [all_of_them]))
    monkeypatch.setattr(keyframe_observer, "MOST_HELD", 6)
    observer = KeyFrameObserver("a", 320, 192)
    list(tracks_of(path, [observer]))
    times = np.array([k.pts_us for k in observer.keyframes])
    assert len(times) < 0.5 * len(all_of_them.keyframes) and np.diff(times).max() <= 2_100_000 and times[-1] > 37_900_000
    assert [k.index for k in observer.keyframes] == list(range(len(times)))


@pytest.mark.skipif(not MEDIA.exists(), reason="the test media are not there")
def test_high_dynamic_range_is_shown_in_standard_range() -> None:
    """The key frames of an HDR10 film are as bright as a screen shows it, white clouds white; coded values read as they are would be grey."""
    observer = KeyFrameObserver("a", 720, 1280)
    list(tracks_of(str(MEDIA / "video" / "hdr10_av1_portrait.mp4"), [observer]))
    pictures = [decode_jpeg(k.jpeg) for k in observer.keyframes]
    low, middle, high = np.percentile(np.stack(pictures), [1, 50, 99])
    assert low < 60 and 130 < middle < 190 and high > 240


def test_decode_undoes_encode_up_to_jpeg_loss() -> None:
    """A smooth picture survives the round trip within a few levels, in RGB order."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :, 0] = np.linspace(50, 250, 64, dtype=np.uint8)
    assert np.abs(decode_jpeg(encode_jpeg(picture, 95)).astype(int) - picture).max() <= 8


@given(st.binary(max_size=200), st.integers(0, 600))
def test_no_bytes_crash_the_decoder(noise: bytes, cut: int) -> None:
    """Random bytes and a cut-off JPEG with noise behind it either decode or raise KeyFrameError."""
    whole = encode_jpeg(np.full((16, 16, 3), 99, np.uint8))
    for jpeg in (noise, whole[:cut] + noise):
        try:
            assert decode_jpeg(jpeg).shape[2] == 3
        except KeyFrameError:
            continue


def test_limits_and_other_formats_are_refused() -> None:
    """Too many pixels, a PNG, and a clip without frames are errors that say what was expected."""
    with pytest.raises(KeyFrameError, match="at most 100 pixels, found 20 x 10"):
        decode_jpeg(encode_jpeg(np.zeros((10, 20, 3), np.uint8)), max_pixels=100)
    with pytest.raises(KeyFrameError, match="complete JPEG"):
        decode_jpeg(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(KeyFrameError, match="clip c1: expected at least one"):
        decode_all("c1", [])
    with pytest.raises(KeyFrameError, match="clip c1, key frame 7"):
        decode_all("c1", [_frame("c1", 7, b"junk")])
