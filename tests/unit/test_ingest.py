"""Whatever is named as input becomes listings and assets; rights are read as stated and the strictest statement wins."""

import dataclasses
import io
import json
import os
import re
import tarfile
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import rights
from curation.ingest import (
    MAX_SOURCES,
    IngestConfig,
    bring,
    complete,
    ingest,
    local_path,
    merge_copies,
    with_sources,
)
from curation.licences import parse_licence
from curation.listing import InputError, list_inputs
from curation.media import MediaError
from manifests.records import Asset
from manifests.takedown import sources_of

CONFIG = IngestConfig()


def _assets(tmp_path: Path, *inputs: Path | str, config: IngestConfig = CONFIG) -> list[Asset]:
    fetched = tmp_path / "fetched"
    listings = list_inputs([str(i) for i in inputs])
    return merge_copies(complete(ingest(listing, config, fetched), listing.source, config) for listing in listings)


def _write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


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
    members = {"../../evil.mp4": b"video", "../../evil.json": b'{"licence": "CC0-1.0"}', "../../evil.txt": b"text"}
    (asset,) = _assets(tmp_path, _write_tar(tmp_path / "w.tar", members))
    assert (asset.licence_expr, asset.supplied_caption, asset.size_bytes) == ("CC0-1.0", "text", 5)
    assert local_path(asset, tmp_path / "fetched").read_bytes() == b"video"
    assert local_path(asset, tmp_path / "fetched").parent == tmp_path / "fetched"


@pytest.mark.parametrize(
    ("fields", "reserved"),
    [
        ({"tdm_reservation": 1.0}, 1),
        ({"training": None}, 1),
        ({"training": ["no"]}, 1),
        ({"x_robots_tag": ["noai"]}, 1),
        ({"content_usage": {"train-ai": "n"}}, 1),
        ({"minors_flag": 1.0, "licence_confidence": 0.5, "title": "t", "annotations": [[1.5]]}, 0),
        ({"title": None, "caption": 7, "training": "allowed"}, 0),
    ],
)
def test_a_tar_states_what_a_sidecar_states(tmp_path: Path, fields: dict[str, object], reserved: int) -> None:
    """The same JSON gives the same rights in a tar as beside a file, of whatever type its values are: no opt-out is lost."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"video")
    (tmp_path / "in" / "a.json").write_text(json.dumps(fields))
    _write_tar(tmp_path / "w.tar", {"a.mp4": b"video", "a.json": json.dumps(fields).encode()})
    (beside,), (inside,) = _assets(tmp_path, tmp_path / "in"), _assets(tmp_path, tmp_path / "w.tar")
    assert beside.optout_state == reserved
    for name in set(rights.STORED) - {"title", "licence_evidence"}:
        assert getattr(inside, name) == getattr(beside, name), name


def test_a_parquet_table_states_what_its_types_allow(tmp_path: Path) -> None:
    """Fractions, lists, bytes and days of a Parquet table are statements too; an empty cell is none."""
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    columns = {
        "uri": ["a.mp4", "b.mp4"],
        "tdm_reservation": [1.0, None],
        "training": [None, ["no"]],
        "minors_flag": [1.0, None],
        "licence_confidence": [0.5, None],
        "creator": [b"Zo\xc3\xab", None],
        "consent": ["given", "given"],
        "consent_expires": [date(2030, 1, 2), None],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    a, b = sorted(_assets(tmp_path, tmp_path / "t.parquet"), key=lambda x: x.uri)
    assert (a.optout_state, a.tdm_reservation, a.minors_flag, a.licence_confidence) == (1, 1, 1, 0.5)
    assert (a.creator, a.consent_expires, a.training_permission) == ("Zoë", "2030-01-02", None)
    assert (b.optout_state, b.tdm_reservation, b.training_permission) == (1, None, "['no']")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"uri,training,training\na.mp4,reserved,allowed\n", "t.csv: expected every column once, found training more than once"),
        (b"uri,creator\na.mp4,Zo\xeb\n", "t.csv line 2: expected a list in CSV as UTF-8, found the byte 0xeb"),
        (b"uri,caption\na.mp4," + b"x" * 200_000 + b"\n", r"t.csv line 2: expected a list in CSV, .* field limit \(131072\)"),
        (b"uri,training\na.mp4,reserved,allowed\n", "t.csv line 2: expected as many values as columns, found 3 for 2"),
        (b"uri,training\na.mp4\n", "t.csv line 2: expected as many values as columns, found 1 for 2"),
        (b'uri,training\n"a.mp4"x,reserved\n', "t.csv line 2: expected a list in CSV"),
        (b"name\na.mp4\n", "t.csv: expected a column named one of uri, path, file, url; found name"),
        (b"", "t.csv: expected a column named .* found none"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """A CSV with a column twice, in another encoding, or with rows of another length stops the run and names the file and line."""
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=message):
        list_inputs([str(tmp_path / "t.csv")])


@pytest.mark.parametrize("columns", [None, ["uri", "training", "training"], ["uri"]])
def test_a_parquet_table_that_cannot_be_read_is_refused(tmp_path: Path, columns: list[str] | None) -> None:
    """A table with a column twice, that is no Parquet, or whose texts are no Unicode, stops the run and names the file."""
    if columns is None:
        (tmp_path / "t.parquet").write_bytes(b"uri,training")
    else:
        latin = pa.array([b"Zo\xeb.mp4"]).view(pa.string())
        pq.write_table(pa.Table.from_arrays([latin] * len(columns), names=columns), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: expected"):
        list_inputs([str(tmp_path / "t.parquet")])


def test_a_list_saved_by_excel_is_read(tmp_path: Path) -> None:
    """The mark that Excel puts before UTF-8, its line ends, blank lines and unnamed columns at the end change nothing."""
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "t.csv").write_bytes("\ufeffuri,creator,training,minors_flag,,\r\n\r\na.mp4,Zoë,reserved,1.0,,\r\n".encode())
    (asset,) = _assets(tmp_path, tmp_path / "t.csv")
    assert (asset.creator, asset.optout_state, asset.minors_flag) == ("Zoë", 1, 1)


def test_remote_addresses_go_through_fsspec(tmp_path: Path) -> None:
    """An address with a scheme is fetched by fsspec and kept under its content's id; one that fails is a row with a reason."""
    (tmp_path / "x.bin").write_bytes(b"remote")
    (tmp_path / "list.txt").write_text(f"file://{tmp_path}/x.bin\nfile://{tmp_path}/gone.bin\n")
    good, bad = sorted(_assets(tmp_path, tmp_path / "list.txt"), key=lambda a: a.error_code or "")
    assert local_path(good, tmp_path / "fetched").read_bytes() == b"remote"
    assert (bad.error_stage, bad.error_code, bad.readable) == ("ingest", "unreadable", 0.0)


def test_what_a_stopped_fetch_leaves_is_known_by_its_name(tmp_path: Path) -> None:
    """A fetch that ends early leaves one file named after its process, in the form that a takedown clears away."""
    _write_tar(tmp_path / "w.tar", {"a.mp4": b"video"})
    (asset,) = _assets(tmp_path, tmp_path / "w.tar", config=IngestConfig(max_bytes=1))
    (left,) = (tmp_path / "fetched").iterdir()
    assert asset.error_code == "unreadable" and (match := re.fullmatch(r"\..*\.(\d+)\.tmp", left.name)) and int(match[1]) == os.getpid()


def test_what_was_fetched_is_fetched_again(tmp_path: Path) -> None:
    """Bytes of an archive that are kept no more come out of it again; where others stand there now, or none, the error says so and nothing is kept."""
    fetched, archive = tmp_path / "fetched", _write_tar(tmp_path / "w.tar", {"a.mp4": b"video"})
    (asset,) = _assets(tmp_path, archive)
    for _ in range(2):
        assert bring(asset, fetched, CONFIG).read_bytes() == b"video"
        (fetched / asset.asset_id).unlink(missing_ok=True)
    _write_tar(archive, {"a.mp4": b"other"})
    with pytest.raises(MediaError, match=rf"missing: .*w.tar#\d+\+5: expected the bytes of asset {asset.asset_id}, found those of"):
        bring(asset, fetched, CONFIG)
    archive.unlink()
    with pytest.raises(MediaError, match=r"missing: .*again, found FileNotFoundError"):
        bring(asset, fetched, CONFIG)
    assert not list(fetched.iterdir())


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


def _copies(n: int, **stated: str) -> list[Asset]:
    named = {"asset_id": "a" * 32, "asset_sha256": b"s" * 32, "asset_md5": b"m" * 16, "size_bytes": 1}
    return [Asset(**named, uri=f"/in/{i:05d}.mp4", **{k: v.format(i) for k, v in stated.items()}) for i in range(n)]  # type: ignore[arg-type]


def test_where_every_copy_was_found_is_kept(tmp_path: Path, folder: Path) -> None:
    """Of copies the paths, addresses, channels and creators of all are known, beside those of the first; a single file has none."""
    (folder / "deep" / "b.json").write_text(json.dumps({"url": "https://e.org/b", "channel_id": "UC-b", "creator": "B; lab"}))
    assets = {a.size_bytes: a for a in _assets(tmp_path, folder)}
    assert assets[5].other_sources is None
    assert assets[4].creator == "someone" and assets[4].source_url == "https://e.org/b"
    assert json.loads(assets[4].other_sources or "") == {"addresses": [str(folder / "deep" / "b.mp4")], "creators": ["B; lab"]}
    found = sources_of(assets[4])
    assert set(found["addresses"]) == {str(folder / "a.mp4"), str(folder / "deep" / "b.mp4"), "https://e.org/b"}
    assert (found["channels"], found["creators"]) == (["UC-b"], ["someone", "B; lab"])


def test_what_is_kept_of_copies_is_bounded_and_says_so() -> None:
    """Of very many copies all channels and as many addresses as fit are kept, the rest is counted; merging again changes nothing."""
    (merged,) = merge_copies(_copies(5000, source_url="https://example.org/a/long/address/{}", channel_id="c{}"))
    text = merged.other_sources or ""
    told = json.loads(text)
    assert len(text) <= MAX_SOURCES + 100 and len(told["channels"]) == 4999
    assert told["left_out"] == 3 * 4999 - sum(len(told[kind]) for kind in ("addresses", "channels"))
    assert with_sources(merged, []) == merged == with_sources(merged, [merged, *_copies(1)])
    (few,) = merge_copies(_copies(2, creator="by {}"))
    later = with_sources(few, [dataclasses.replace(few, uri="/later.mp4", other_sources=None)])
    assert sources_of(later)["addresses"] == ["/in/00000.mp4", "/in/00001.mp4", "/later.mp4"]


@given(st.permutations(range(4)))
def test_the_order_of_copies_does_not_matter(order: list[int]) -> None:
    """However copies are listed, they become the same asset."""
    copies = _copies(4, creator="by {}", page_url="https://e.org/{}")
    assert merge_copies(copies) == merge_copies([copies[i] for i in order])
