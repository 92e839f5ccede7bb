"""Shards have the same bytes for the same samples, an index that is right, and nothing that is half written."""

import hashlib
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.shards import Payload, list_members, read_payload, write_shard

payloads = st.lists(st.binary(max_size=2000), min_size=1, max_size=6).map(
    lambda data: [Payload(clip_id=f"{i // 2:032x}", extension=("mp4", "txt")[i % 2], data=d) for i, d in enumerate(data)]
)


@settings(deadline=None, max_examples=40)
@given(payloads)
def test_the_index_finds_every_payload(tmp_path_factory: pytest.TempPathFactory, payloads: list[Payload]) -> None:
    """Reading at an offset of the index gives the payload; tarfile sees the same names, offsets and sizes; hashes hold."""
    path = tmp_path_factory.mktemp("shard") / "s.tar"
    written = write_shard(path, payloads)
    assert [read_payload(path, m.offset, m.size_bytes) for m in written.members] == [p.data for p in payloads]
    with path.open("rb") as stream:
        assert list(list_members(stream)) == [(f"{m.clip_id}.{m.extension}", m.offset, m.size_bytes) for m in written.members]
    assert written.sha256 == hashlib.sha256(path.read_bytes()).digest()
    assert written.size_bytes == path.stat().st_size


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    """No time, owner or path is in a shard."""
    some = [Payload(clip_id="a" * 32, extension="mp4", data=b"x" * 700)]
    assert write_shard(tmp_path / "one.tar", some).sha256 == write_shard(tmp_path / "two.tar", some).sha256
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert [(m.mtime, m.uid, m.uname) for m in tar] == [(0, 0, "")]


def test_webdataset_reads_them(tmp_path: Path) -> None:
    """The WebDataset library groups the members of a sample under its clip id."""
    write_shard(
        tmp_path / "s.tar",
        [Payload(clip_id="a" * 32, extension="mp4", data=b"video"), Payload(clip_id="a" * 32, extension="txt", data=b"a caption")],
    )
    (sample,) = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False))
    assert sample["__key__"] == "a" * 32
    assert (sample["mp4"], sample["txt"]) == (b"video", b"a caption")


def test_a_failing_source_of_payloads_leaves_no_shard(tmp_path: Path) -> None:
    """When the payloads end in an error, as on a full disk, no file has the shard's name and none takes room."""

    def broken():
        yield Payload(clip_id="a" * 32, extension="mp4", data=b"x")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_shard(tmp_path / "s.tar", broken())
    assert list(tmp_path.iterdir()) == []


def test_reading_past_the_end_names_the_file(tmp_path: Path) -> None:
    """A tar that is shorter than its index gives an error with file, expected and found."""
    (tmp_path / "s.tar").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"s\.tar: expected 10 bytes at 2, found 3"):
        read_payload(tmp_path / "s.tar", 2, 10)
