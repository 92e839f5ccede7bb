"""Key frames: what is written is read back, and hostile pictures are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.keyframes import KeyFrame, KeyFrameError, decode_all, decode_jpeg, encode_jpeg, read_keyframes, write_keyframes


def _frame(clip_id: str, index: int, jpeg: bytes = b"x") -> KeyFrame:
    return KeyFrame(clip_id=clip_id, index=index, pts_us=1000 * index, width=4, height=3, jpeg=jpeg)


def test_written_frames_come_back_by_clip_in_order(tmp_path: Path) -> None:
    """Frames written in any order are read back whole, grouped by clip and sorted by index; a clip without frames has an empty list."""
    frames = [_frame(c, i, bytes([i])) for c in ("b", "a") for i in (2, 0, 1)]
    path = write_keyframes(tmp_path / "part" / "0.parquet", frames)
    assert read_keyframes(path, ["a", "none"]) == {"a": sorted((f for f in frames if f.clip_id == "a"), key=lambda f: f.index), "none": []}
    assert list(read_keyframes(path)) == ["a", "b"]
    assert read_keyframes(path, []) == {}
    assert [p.name for p in path.parent.iterdir()] == ["0.parquet"]


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    """A file depends on its frames alone, not on the order in which they came."""
    frames = [_frame("a", i) for i in range(5)]
    first, second = write_keyframes(tmp_path / "1", frames), write_keyframes(tmp_path / "2", frames[::-1])
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """When writing fails, the file that was there is untouched and nothing else is left behind."""
    path = write_keyframes(tmp_path / "k.parquet", [_frame("a", 0)])
    with pytest.raises(Exception, match="int"):
        write_keyframes(path, [_frame("a", 1 << 40)])
    assert list(read_keyframes(path)) == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["k.parquet"]


def test_a_missing_or_foreign_file_is_a_named_error(tmp_path: Path) -> None:
    """A file that is not there and one that is not ours are errors that name the file."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.parquet"):
        read_keyframes(tmp_path / "nothing.parquet", ["a"])
    (tmp_path / "foreign.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(KeyFrameError, match=r"foreign\.parquet"):
        read_keyframes(tmp_path / "foreign.parquet", ["a"])


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
