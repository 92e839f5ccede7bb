"""Bytes come from where they were listed, whatever stands there now, and no store's failure ends a run."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from curation.ingest import IngestConfig, bring, complete, ingest, unused_defaults
from curation.listed import Listing
from curation.listing import list_inputs
from curation.media import MediaError
from manifests.records import Asset
from tests.media_makers import tar_of


def test_a_tar_that_was_replaced_since_it_was_listed_has_changed(tmp_path: Path) -> None:
    """Other bytes at the place of a member do not get its rights, even of the same size; the row says that it may be tried again."""
    path = tar_of(tmp_path / "w.tar", ("a.mp4", b"old"), ("a.json", b'{"training": "allowed"}'))
    (listing,) = list_inputs([str(path)])
    assert ingest(listing, IngestConfig(), tmp_path / "fetched").optout_state == 0
    was = path.stat().st_mtime_ns
    tar_of(path, ("a.mp4", b"new"), ("a.json", b'{"training": "reserve"}'))
    os.utime(path, ns=(0, was + 1000))
    asset = ingest(listing, IngestConfig(), tmp_path / "fetched")
    assert asset.error_code == "changed" and "expected the tar that was listed" in (asset.error_detail or "")
    (again,) = list_inputs([str(path)])
    assert ingest(again, IngestConfig(), tmp_path / "fetched").optout_state == 1


class _PayloadError(Exception):
    """What a store's library raises is not always an OSError."""


class _Failing(MemoryFileSystem):
    protocol = "failing"

    def open(self, *_: Any, **__: Any) -> Any:
        raise _PayloadError("half of it came")


def test_whatever_a_store_raises_is_a_row(tmp_path: Path) -> None:
    """An error of a library of its own is a row that names its type; fetching again says `missing`."""
    fsspec.register_implementation("failing", _Failing, clobber=True)
    listing = Listing(key="k", uri="failing://a.mp4", source="s")
    asset = ingest(listing, IngestConfig(), tmp_path)
    assert (asset.error_code, asset.error_detail) == ("unreadable", "_PayloadError: half of it came")
    with pytest.raises(MediaError, match=r"missing: .*_PayloadError: half of it came"):
        bring(Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri="failing://a.mp4"), tmp_path, IngestConfig())


@pytest.mark.parametrize(
    "uri",
    ["reference://a", "generic://a", "dir://a", "zip://a::file://{}/x", "tar://a", "simplecache::file://{}/x", "ZIP://a", "github://a"],
)
def test_an_address_that_leads_to_others_is_a_row(tmp_path: Path, uri: str) -> None:
    """Protocols that read other addresses are not followed, and one that lacks what it needs ends no run."""
    (tmp_path / "x").write_bytes(b"secret")
    (tmp_path / "list.txt").write_text(uri.format(tmp_path) + "\n")
    (listing,) = list_inputs([str(tmp_path / "list.txt")])
    asset = ingest(listing, IngestConfig(), tmp_path / "fetched")
    assert asset.error_code == "unreadable" and asset.error_detail
    assert ("expected the address of one store" in asset.error_detail) == (not uri.startswith("github"))
    assert not (tmp_path / "fetched").exists()


def test_a_remote_address_may_have_a_fragment(tmp_path: Path) -> None:
    """`#` in the address of a store is part of the name there."""
    with fsspec.open("memory://folder/a#1+2", "wb") as sink:
        sink.write(b"remote")
    for uri in ("memory://folder/a#1+2", "memory://folder/a#top"):
        asset = ingest(Listing(key="k", uri=uri, source="s"), IngestConfig(), tmp_path / "fetched")
        assert asset.size_bytes == (0 if "top" in uri else 6) and "invalid literal" not in (asset.error_detail or "")


def test_a_local_name_with_a_fragment_is_missing_when_it_went(tmp_path: Path) -> None:
    """`a#b.mp4` is a file like any other."""
    path = tmp_path / "a#b.mp4"
    path.write_bytes(b"a")
    (listing,) = list_inputs([str(path)])
    asset = ingest(listing, IngestConfig(), tmp_path / "fetched")
    assert asset.size_bytes == 1
    path.unlink()
    assert ingest(listing, IngestConfig(), tmp_path / "fetched").error_code == "missing"
    assert bring(asset, tmp_path / "fetched", IngestConfig()) == path


def test_a_source_default_finds_its_source_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/x/f`, `/x/f/` and `f` are one source; a default that names none is told."""
    monkeypatch.chdir(tmp_path)
    asset = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri="/a.mp4")
    for named in (str(tmp_path / "f"), f"{tmp_path}/f/", "f", "./f/"):
        config = IngestConfig(source_defaults={named: {"training": "reserved"}, "s3://b/": {"training": "reserved"}, "typo": {}})
        for given in (str(tmp_path / "f"), f"{tmp_path}/f/", "f", "s3://b"):
            assert complete(asset, [given], config).optout_state == 1
        assert complete(asset, ["g"], config).optout_state is None
        assert unused_defaults(config, ["f/", "s3://b"]) == ["typo"] and unused_defaults(config, ["g"]) == [named, "s3://b/", "typo"]


def test_a_file_found_under_two_sources_meets_the_defaults_of_both(tmp_path: Path) -> None:
    """What either source reserves is reserved, and the stricter licence of both holds, whichever input is named first."""
    inner = tmp_path / "films" / "lab"
    inner.mkdir(parents=True)
    (inner / "a.mp4").write_bytes(b"film")
    outer = str(tmp_path / "films")
    defaults: dict[str, dict[str, Any]] = {outer: {"training": "reserved", "licence": "CC0-1.0"}, str(inner): {"licence": "CC-BY-NC-4.0"}}
    config = IngestConfig(source_defaults=defaults)
    for inputs in ([outer, str(inner)], [str(inner), outer]):
        (listing,) = list_inputs(inputs)
        assert listing.sources == (outer, str(inner))
        asset = complete(ingest(listing, config, tmp_path / "fetched"), listing.sources, config)
        assert asset.optout_state == 1 and "NC" in (asset.licence_expr or "")
    (alone,) = list_inputs([str(inner)])
    assert alone.sources == (str(inner),)
    assert complete(ingest(alone, config, tmp_path / "fetched"), alone.sources, config).optout_state == 0
