"""Whatever is named as input becomes listings and assets; rights are read as stated and the strictest statement wins."""

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import rights
from curation.ingest import IngestConfig, InputError, complete, ingest, list_inputs, local_path, merge_copies
from curation.licences import parse_licence
from manifests.records import Asset

CONFIG = IngestConfig()


def _assets(tmp_path: Path, *inputs: Path | str, config: IngestConfig = CONFIG) -> list[Asset]:
    fetched = tmp_path / "fetched"
    listings = list_inputs([str(i) for i in inputs])
    return merge_copies(complete(ingest(listing, config, fetched), listing.source, config) for listing in listings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files of the same bytes, one other, sidecars, a document and a hidden file."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"same")
    (folder / "deep" / "b.mp4").write_bytes(b"same")
    (folder / "c.mov").write_bytes(b"other")
    (folder / "a.mp4.json").write_text(
        json.dumps({"licence": "CC-BY-4.0", "creator": "someone", "training": "allowed", "caption": "a cat"})
    )
    (folder / "deep" / "b.json").write_text(json.dumps({"licence": "CC-BY-NC-4.0", "training": "reserved"}))
    (folder / "c.txt").write_text("a dog\u202e")
    (folder / "notes.md").write_text("not media")
    (folder / ".hidden.mp4").write_bytes(b"hidden")
    return folder


def test_a_folder_gives_each_content_once_with_its_strictest_rights(tmp_path: Path, folder: Path) -> None:
    """Exact copies become one asset that counts them; the strictest licence class and the reservation hold for all copies."""
    assets = {a.size_bytes: a for a in _assets(tmp_path, folder)}
    assert len(assets) == 2
    same = assets[4]
    assert (same.n_copies, same.licence_expr, same.licence_class, same.optout_state) == (2, "CC-BY-NC-4.0", 1, 1)
    assert same.uri.endswith("a.mp4")
    assert (same.creator, same.supplied_caption) == ("someone", "a cat")
    assert assets[5].supplied_caption == "a dog"
    assert assets[5].licence_class is None


def test_globs_lists_and_tables_name_the_same_files(tmp_path: Path, folder: Path) -> None:
    """A glob, a file list, a CSV and a Parquet table of paths list the same addresses; table columns state rights."""
    (tmp_path / "list.txt").write_text("in/a.mp4\nin/c.mov\n")
    (tmp_path / "t.csv").write_text("uri,licence\nin/a.mp4,CC0-1.0\nin/c.mov,CC0-1.0\n")
    pq.write_table(pa.table({"path": ["in/a.mp4", "in/c.mov"], "licence": ["CC0-1.0"] * 2}), tmp_path / "t.parquet")
    wanted = {str(folder / "a.mp4"), str(folder / "c.mov")}
    for given_input in (f"{folder}/*.m*", tmp_path / "list.txt", tmp_path / "t.csv", tmp_path / "t.parquet"):
        listed = {x.uri for x in list_inputs([str(given_input)])} - {str(folder / "notes.md")}
        assert listed - {str(folder / "notes.md")} >= wanted
    (asset,) = [a for a in _assets(tmp_path, tmp_path / "t.csv") if a.size_bytes == 5]
    assert (asset.licence_expr, asset.licence_class) == ("CC0-1.0", 0)


def test_webdataset_archives_are_read_by_offset(tmp_path: Path) -> None:
    """Members of a tar become assets with the rights their .json states; no member name becomes a path."""
    archive = tmp_path / "w.tar"
    with tarfile.open(archive, "w") as tar:
        for name, data in (("../../evil.mp4", b"video"), ("../../evil.json", b'{"licence": "CC0-1.0"}'), ("../../evil.txt", b"text")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (asset,) = _assets(tmp_path, archive)
    assert (asset.licence_expr, asset.supplied_caption, asset.size_bytes) == ("CC0-1.0", "text", 5)
    assert local_path(asset, tmp_path / "fetched").read_bytes() == b"video"
    assert local_path(asset, tmp_path / "fetched").parent == tmp_path / "fetched"


def test_remote_addresses_go_through_fsspec(tmp_path: Path) -> None:
    """An address with a scheme is fetched by fsspec and kept under its content's id; one that fails is a row with a reason."""
    (tmp_path / "x.bin").write_bytes(b"remote")
    (tmp_path / "list.txt").write_text(f"file://{tmp_path}/x.bin\nfile://{tmp_path}/gone.bin\n")
    good, bad = sorted(_assets(tmp_path, tmp_path / "list.txt"), key=lambda a: a.error_code or "")
    assert local_path(good, tmp_path / "fetched").read_bytes() == b"remote"
    assert (bad.error_stage, bad.error_code, bad.readable) == ("ingest", "unreadable", 0.0)


def test_an_input_that_is_not_there_is_an_error_that_says_what_was_expected() -> None:
    """A mistyped input stops the command at once."""
    with pytest.raises(InputError, match="nowhere: expected a folder"):
        list_inputs(["nowhere"])


def test_names_that_are_not_unicode_are_ingested(tmp_path: Path) -> None:
    """A file whose name is not valid UTF-8 gets a percent-encoded address and is found again by it."""
    (tmp_path / "in").mkdir()
    raw = os.fsencode(tmp_path / "in") + b"/\xff\xfe.mp4"
    with open(raw, "wb") as sink:
        sink.write(b"odd")
    (asset,) = _assets(tmp_path, tmp_path / "in")
    assert asset.uri.startswith("file:")
    assert local_path(asset, tmp_path).read_bytes() == b"odd"


@pytest.mark.parametrize("broken", [b"{", b"[1]", b"\xff\xfe", b'{"licence": 7}', b"[" * 100_000, b"x" * (2 << 20)])
def test_a_broken_sidecar_states_nothing(broken: bytes) -> None:
    """A sidecar that is not an object of texts leaves the licence unknown and never stops the run."""
    found = rights.read_sidecar(broken, "sidecar x.json")
    assert found.licence_class is None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("CC0-1.0", ("CC0-1.0", 0)),
        ("cc-by-4.0", ("CC-BY-4.0", 0)),
        ("CC-BY-NC-4.0", ("CC-BY-NC-4.0", 1)),
        ("MIT AND CC-BY-NC-4.0", ("MIT AND CC-BY-NC-4.0", 1)),
        ("MIT OR CC-BY-NC-4.0", ("MIT OR CC-BY-NC-4.0", 0)),
        ("LicenseRef-vendor-7", ("LicenseRef-vendor-7", 3)),
        ("free for all!! (", ("free for all!! (", 3)),
    ],
)
def test_licences_are_spdx_expressions_with_a_class(stated: str, expected: tuple[str, int]) -> None:
    """Known licences get their class, AND takes the strictest, OR the most open, anything else is unspecified as stated."""
    assert parse_licence(stated) == expected


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.text(), st.integers(), st.none()), max_size=5), st.text(max_size=30))
def test_any_sidecar_gives_clean_rights(fields: dict[str, object], training: str) -> None:
    """Whatever a sidecar holds, texts are bounded and free of control characters, and only 'allowed' is no reservation."""
    found = rights.from_fields(fields | {"training": training}, "x")
    assert (found.optout_state == 0) == (training.strip().lower() == "allowed")
    for text in (found.title, found.creator, found.supplied_caption):
        assert text is None or (len(text) <= rights.MAX_TEXT and not any(ord(c) < 32 and c not in "\t\n" for c in text))


def test_a_source_default_fills_only_what_is_missing(tmp_path: Path, folder: Path) -> None:
    """The default licence holds where no sidecar states one, and says so; stated licences and reservations stand."""
    assets = {a.size_bytes: a for a in _assets(tmp_path, folder, config=IngestConfig(default_licence="CC0-1.0"))}
    assert (assets[5].licence_expr, assets[5].licence_evidence, assets[5].optout_state) == ("CC0-1.0", "source default", 0)
    assert (assets[4].licence_class, assets[4].optout_state) == (1, 1)
