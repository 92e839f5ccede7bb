"""A row of a rights table finds the file it spells, also where the name looks like a glob."""

from pathlib import Path

import pytest

from curation.listed import uri_of
from curation.rights_table import RightsTable
from manifests.records import Asset


def _asset(path: Path, sha256: bytes = b"") -> Asset:
    return Asset(asset_id="a" * 32, asset_sha256=sha256, asset_md5=b"", size_bytes=1, uri=uri_of(path))


@pytest.mark.parametrize("file", ["Title [id].mp4", "in/Title [id].mp4", "{}/in/Title [id].mp4", "*.mp4", "Title [[]id].mp4"])
@pytest.mark.parametrize("digest", ["", "ab" * 32])
def test_a_name_with_brackets_names_itself(tmp_path: Path, file: str, digest: str) -> None:
    """yt-dlp's `Title [id].mp4` is found by its name, by a path and by a glob, with a hash and without."""
    (tmp_path / "t.csv").write_text(f"file,sha256,training\n{file.format(tmp_path)},{digest},reserved\n")
    table = RightsTable(tmp_path / "t.csv")
    assert [r.optout_state for r in table.of(_asset(tmp_path / "in" / "Title [id].mp4", bytes.fromhex(digest)))] == [1]
    assert not table.unused() and not table.of(_asset(tmp_path / "in" / "Title.mov", bytes.fromhex(digest)))


@pytest.mark.parametrize("file", ["x.tar#1+2", "in/x.tar#1+2"])
def test_a_name_like_a_member_s_address_is_found(tmp_path: Path, file: str) -> None:
    """A file whose address is percent-encoded is found by the name it has."""
    (tmp_path / "t.csv").write_text(f"file,Training\n{file},reserved\n")
    assert len(RightsTable(tmp_path / "t.csv").of(_asset(tmp_path / "in" / "x.tar#1+2"))) == 1
