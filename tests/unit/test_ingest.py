"""Whatever is named as input becomes listings and assets; rights are read as stated and the strictest statement wins."""

import dataclasses
import io
import json
import os
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import rights
from curation.ingest import (
    MAX_SOURCES,
    IngestConfig,
    _keep,
    bring,
    bytes_of,
    complete,
    ingest,
    local_path,
    merge_copies,
    take_in,
    with_sources,
)
from curation.licences import parse_licence
from curation.listed import InputError, Listing
from curation.listing import list_inputs
from curation.media import MediaError
from curation.plain_text import MAX_TEXT
from manifests.files import temporary_name
from manifests.records import Asset
from manifests.schema import to_table
from manifests.takedown import sources_of

CONFIG = IngestConfig()


def _assets(tmp_path: Path, *inputs: Path | str, config: IngestConfig = CONFIG) -> list[Asset]:
    fetched = tmp_path / "fetched"
    listings = list_inputs([str(i) for i in inputs])
    return merge_copies(complete(ingest(listing, config, fetched), listing.sources, config) for listing in listings)


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


def test_times_finer_than_python_s_are_no_obstacle(tmp_path: Path) -> None:
    """Nanoseconds of a Parquet table, in a column that nobody asks for or in one that states something, break nothing."""
    (tmp_path / "a.mp4").write_bytes(b"a")
    fine = pa.array([1_900_000_000_123_456_789], pa.timestamp("ns"))
    columns = {
        "uri": ["a.mp4"],
        "mtime": fine,
        "seen": pa.array([[1_700_000_000_123_456_789]], pa.list_(pa.timestamp("ns"))),
        "consent_expires": fine,
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (asset,) = _assets(tmp_path, tmp_path / "t.parquet")
    assert (asset.consent_expires or "").startswith("2030-03-17")


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


@pytest.mark.parametrize("suffixes", [(".json", ".txt"), (".JSON", ".TXT"), (".Json", ".tXt")])
@pytest.mark.parametrize("fields", [None, {}, {"training": "reserved"}, {"licence": "CC0-1.0", "training": "allowed"}])
def test_a_tar_is_no_statement_in_itself(tmp_path: Path, fields: dict[str, object] | None, suffixes: tuple[str, str]) -> None:
    """The same bytes say the same of training in a tar and beside their sidecars, whatever the case of the suffixes: nothing, where none does.
    A member's name is its title, and a text beside it its caption."""
    members = {"a.mp4": b"video", f"a{suffixes[1]}": b"a cat"}
    if fields is not None:
        members[f"a{suffixes[0]}"] = json.dumps(fields).encode()
    (tmp_path / "in").mkdir()
    for name, data in members.items():
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "list.lst").write_text("in/a.mp4\n")
    (inside,) = _assets(tmp_path, _write_tar(tmp_path / "w.tar", members))
    expected = None if fields is None else int(fields.get("training") == "reserved")
    for given_input in (tmp_path / "in", tmp_path / "list.lst", tmp_path / "in" / "a.mp4"):
        (beside,) = _assets(tmp_path, given_input)
        assert (beside.optout_state, beside.supplied_caption) == (inside.optout_state, inside.supplied_caption) == (expected, "a cat")
        assert beside.licence_expr == inside.licence_expr
    assert inside.title == "a.mp4"


def _row(tmp_path: Path, *inputs: Path | str, code: str = "unreadable") -> tuple[str, list[Asset]]:
    """The reason of the one input that cannot be taken in, whose row a table holds, and the assets of the others."""
    to_table(Listing, list_inputs([str(i) for i in inputs]))
    assets = _assets(tmp_path, *inputs)
    to_table(Asset, assets)
    (bad,) = [a for a in assets if a.error_code is not None]
    assert (bad.error_stage, bad.error_code, bad.readable) == ("ingest", code, 0.0)
    return bad.error_detail or "", [a for a in assets if a is not bad]


@pytest.mark.parametrize("name", ["x" * 252, "x" * 248 + ".mp4", "b\udcffd.mp4", "a\nb\u202e.mp4"])
def test_any_name_that_a_file_can_have_is_listed(tmp_path: Path, name: str) -> None:
    """A name that leaves no room for a sidecar's suffix, is no Unicode or turns the direction of text is taken in, by folder, path and glob."""
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in" / name), "wb") as sink:
        sink.write(b"odd")
    for given_input in (tmp_path / "in", tmp_path / "in" / name, tmp_path / "in" / "*"):
        to_table(Listing, list_inputs([str(given_input)]))
        (asset,) = _assets(tmp_path, given_input)
        assert asset.size_bytes == 3 and asset.error_code is None


@pytest.mark.parametrize(
    ("line", "found"),
    [("/", "mode d"), ("y" * 300, "too long"), ("gone/x.mp4", "No such file"), ("a\0b.mp4", "ValueError"), ("/dev/zero", "mode c"),
     ("pipe", "mode p"), ("in", "mode d"), ("file:///dev/zero", "mode c"), ("file://{}/pipe", "mode p")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_a_line_that_names_no_file_is_a_row(tmp_path: Path, line: str, found: str, kind: str) -> None:
    """A folder, a name too long, a device without end or a pipe without a writer in a list is a row with the reason; the rest is taken in."""
    (tmp_path / "in").mkdir()
    (tmp_path / "good.mp4").write_bytes(b"good")
    os.mkfifo(tmp_path / "pipe")
    lines = ["good.mp4", line.format(tmp_path)]
    if kind == "txt":
        (tmp_path / "list.txt").write_text("\n".join(lines))
    else:
        pq.write_table(pa.table({"path": lines}), tmp_path / "list.parquet")
    reason, others = _row(tmp_path, tmp_path / f"list.{kind}", code="unreadable" if "mode" in found else "missing")
    assert "expected a re" in reason and found in reason
    assert [a.size_bytes for a in others] == [4]


def test_an_input_with_an_impossible_name_is_refused(tmp_path: Path) -> None:
    """A name too long on the command line stops the command with a sentence."""
    with pytest.raises(InputError, match="expected an input that can be looked at, found OSError"):
        list_inputs(["z" * 300])


def _cut(tar: bytes) -> bytes:
    return tar[:1200]


def _garbled(tar: bytes) -> bytes:
    """With the second member's header overwritten: tarfile ends there without a word."""
    return tar[:1024] + b"?" * 512 + tar[1536:]


@pytest.mark.parametrize("damage", [_cut, _garbled, lambda tar: b"no tar", lambda tar: b"", lambda tar: tar[:700]])
def test_a_broken_tar_is_one_row(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A tar that is none, breaks off or is damaged in the middle is a row that says so: none of its members is taken, as what states their
    rights may be lost. The rest of the folder is taken in."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.mp4").write_bytes(b"good")
    path = _write_tar(tmp_path / "in" / "w.tar", {"a.mp4": b"video", "a.json": b'{"training": "reserved"}', "b.mp4": b"other"})
    path.write_bytes(damage(path.read_bytes()))
    reason, others = _row(tmp_path, tmp_path / "in")
    assert "w.tar: expected a whole tar that can be read, found ReadError" in reason
    assert [a.size_bytes for a in others] == [4]


def _sparse_tar(path: Path, name: str, size: int) -> Path:
    """A tar of 10 KB with a sparse member of that size, as GNU tar writes it, and a plain one."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:482] = bytes(96)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    plain = tarfile.TarInfo("plain.mp4")
    plain.size = 5
    path.write_bytes(bytes(header) + plain.tobuf() + b"plain".ljust(512, b"\0") + bytes(8192))
    return path


@pytest.mark.parametrize("name", ["huge.mp4", "plain.json"])
def test_a_sparse_member_is_refused(tmp_path: Path, name: str) -> None:
    """A small tar may say that a member has 7 GB: it is a row with the reason, and so is a film whose sidecar does; nothing is read of it."""
    path = _sparse_tar(tmp_path / "s.tar", name, 7 << 30)
    if name == "huge.mp4":
        reason, (plain,) = _row(tmp_path, path)
        assert plain.size_bytes == 5
    else:
        reason, others = _row(tmp_path, path)
        assert not others
    assert "expected a plain member, found a sparse one; write the tar without --sparse" in reason


def test_large_members_go_through_memory_in_blocks(tmp_path: Path) -> None:
    """A member of 64 MB is hashed and kept with a few MB of memory; one beyond the limit is refused before it is read."""
    path = _write_tar(tmp_path / "w.tar", {"a.mp4": bytes(64 << 20)})
    (listing,) = list_inputs([str(path)])
    tracemalloc.start()
    asset = ingest(listing, CONFIG, tmp_path / "fetched")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert asset.size_bytes == 64 << 20 and peak < 8 << 20
    (small,) = _assets(tmp_path, path, config=IngestConfig(max_bytes=1 << 20))
    assert small.error_detail == f"ValueError: {64 << 20} bytes, more than the limit of {1 << 20}"


def test_a_member_that_is_no_longer_there_is_a_row(tmp_path: Path) -> None:
    """Of a tar cut off after it was listed, nothing shorter is taken for the member."""
    path = _write_tar(tmp_path / "w.tar", {"a.mp4": b"x" * 2000})
    (listing,) = list_inputs([str(path)])
    asset = ingest(listing, CONFIG, tmp_path / "fetched")
    (tmp_path / "fetched" / asset.asset_id).unlink()
    os.truncate(path, 1500)
    with pytest.raises(MediaError, match="found ValueError: expected 1012 bytes more, found the end of the file"):
        bring(asset, tmp_path / "fetched", CONFIG)
    assert ingest(listing, CONFIG, tmp_path / "fetched").error_code == "changed"


def test_a_sidecar_that_goes_before_it_is_read_is_a_row(tmp_path: Path) -> None:
    """What stood beside a file when it was listed is read, or the file is not taken: it may have held an opt-out."""
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "a.json").write_text('{"training": "reserved"}')
    (listing,) = list_inputs([str(tmp_path / "a.mp4")])
    (tmp_path / "a.json").unlink()
    asset = ingest(listing, CONFIG, tmp_path)
    assert asset.error_code == "missing" and "a.json: expected a readable file" in (asset.error_detail or "")


@pytest.mark.parametrize("suffix", [".json", ".txt", ".TXT"])
def test_a_sidecar_that_leads_elsewhere_is_not_read(tmp_path: Path, suffix: str) -> None:
    """A link out of the folder, to nowhere or to a device beside a file is a row with the reason; a medium may be a link that stays inside,
    and so may a sidecar."""
    (tmp_path / "secret").write_text('{"caption": "root:x:0:0"}')
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / ".store.mp4").write_bytes(b"video")
    (folder / "deep" / "a.mp4").symlink_to(folder / ".store.mp4")
    (folder / "kept.json").write_text('{"licence": "CC0-1.0", "caption": "a cat"}')
    sidecar = folder / "deep" / f"a{suffix}"
    for target, found in (
        (tmp_path / "secret", "found a link to"),
        (tmp_path / "gone", "FileNotFoundError"),
        (Path("/dev/null"), "mode c"),
    ):
        sidecar.symlink_to(target)
        for given_input in (folder, folder / "deep" / "a.mp4"):
            reason, others = _row(tmp_path, given_input)
            assert "expected a sidecar" in reason and found in reason and not others
        sidecar.unlink()
    sidecar.symlink_to(folder / "kept.json")
    (asset,) = _assets(tmp_path, folder)
    assert asset.error_code is None and "cat" in (asset.supplied_caption or "")


def test_links_that_lead_to_no_file_are_rows(tmp_path: Path) -> None:
    """A link to nothing, one to a folder, whose files would be missed without a word, and a pipe are rows with the reason; hidden ones and
    documents are none, and the files beside them are taken."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.mp4").write_bytes(b"video")
    (tmp_path / "elsewhere").mkdir()
    for name, target in (
        ("gone.mp4", tmp_path / "gone"),
        ("more", tmp_path / "elsewhere"),
        (".hidden", tmp_path / "gone"),
        ("b.txt", tmp_path / "gone"),
    ):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.mp4")
    said = {Path(a.uri).name: a.error_detail or "" for a in _assets(tmp_path, folder)}
    assert set(said) == {"a.mp4", "gone.mp4", "more", "pipe.mp4"} and not said["a.mp4"]
    assert "found a link to nothing" in said["gone.mp4"] and "found mode p" in said["pipe.mp4"]
    assert f"found a link to one; name {tmp_path / 'elsewhere'} as an input too" in said["more"]


def test_a_member_s_own_sidecar_in_a_tar_is_read(tmp_path: Path) -> None:
    """`a.mp4.json` states the rights of `a.mp4`, as it does in a folder, and comes before `a.json`; a member beside it keeps to its own."""
    reserved, free = b'{"training": "reserved"}', b'{"licence": "CC0-1.0", "training": "allowed"}'
    members = {"a.mp4": b"a", "a.mp4.json": reserved, "a.json": free, "b.mp4": b"b", "b.json": free}
    assets = {a.title: a for a in _assets(tmp_path, _write_tar(tmp_path / "x.tar", members))}
    assert (assets["a.mp4"].optout_state, assets["b.mp4"].optout_state) == (1, 0)


def test_two_sidecars_that_differ_in_case_are_a_row(tmp_path: Path) -> None:
    """Which of them counts would be a guess, beside a file and in a tar."""
    (tmp_path / "in").mkdir()
    for name, data in (("a.mp4", b"a"), ("a.json", b"{}"), ("a.JSON", b'{"training": "reserved"}')):
        (tmp_path / "in" / name).write_bytes(data)
    reason, _ = _row(tmp_path, tmp_path / "in")
    assert "expected one sidecar, found a.JSON and a.json" in reason
    members = {"a.mp4": b"a", "a.json": b"{}", "a.JSON": b'{"training": "reserved"}'}
    reason, _ = _row(tmp_path, _write_tar(tmp_path / "w.tar", members))
    assert "expected one member that states its rights, found a.JSON and a.json" in reason


def test_a_folder_that_is_locked_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subfolder that cannot be read is told with its name; what stands in the others is taken in."""
    for name in ("locked", "open"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.mp4").write_bytes(name.encode())
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root may read any folder, so its mode proves nothing
    reason, others = _row(tmp_path, tmp_path / "in")
    assert reason.endswith("in/locked: expected a folder that can be read, found PermissionError: Permission denied")
    assert [a.size_bytes for a in others] == [4]


def test_bytes_are_those_that_were_hashed(tmp_path: Path) -> None:
    """An asset is opened as long as its file holds its bytes, whatever its time; other bytes of the same size, of another, or none are an
    error that says what was expected and found."""
    path = tmp_path / "x.mp4"
    path.write_bytes(b"first")
    (listing,) = list_inputs([str(path)])
    taken = take_in(listing, CONFIG, tmp_path / "fetched")

    def refused(noted: int | None) -> str:
        with pytest.raises(MediaError) as error, bytes_of(taken.asset, tmp_path / "fetched", CONFIG, noted):
            raise AssertionError("opened")
        return str(error.value)

    assert taken.mtime_ns == path.stat().st_mtime_ns
    for noted in (taken.mtime_ns, None, 1):
        with bytes_of(taken.asset, tmp_path / "fetched", CONFIG, noted) as found:
            assert found == str(path)
    path.write_bytes(b"other")
    os.utime(path, ns=(0, (taken.mtime_ns or 0) + 5_000_000))
    for noted in (taken.mtime_ns, None):
        assert re.match(r"changed: .*x\.mp4: expected the bytes with SHA-256 .* found", refused(noted))
    path.write_bytes(b"longer")
    assert re.match(r"changed: .*expected the 5 bytes that were ingested, found 6 bytes", refused(taken.mtime_ns))
    path.unlink()
    assert refused(taken.mtime_ns).startswith("missing: ")


def test_a_file_written_while_it_is_open_is_changed(tmp_path: Path) -> None:
    """What was found of a file that somebody wrote to meanwhile, be it facts or an error, is not said of the asset."""
    path = tmp_path / "x.mp4"
    path.write_bytes(b"first")
    (listing,) = list_inputs([str(path)])
    taken = take_in(listing, CONFIG, tmp_path / "fetched")
    for error in (None, MediaError("decode_error", "broken")):
        path.write_bytes(b"first")
        with pytest.raises(MediaError, match=r"changed: .* all along"), bytes_of(taken.asset, tmp_path / "fetched", CONFIG):
            path.write_bytes(b"second")
            if error is not None:
                raise error


def test_remote_addresses_go_through_fsspec(tmp_path: Path) -> None:
    """An address with a scheme is fetched by fsspec and kept under its content's id; one that fails is a row with a reason."""
    (tmp_path / "x.bin").write_bytes(b"remote")
    (tmp_path / "list.txt").write_text(f"file://{tmp_path}/x.bin\nfile://{tmp_path}/gone.bin\n")
    good, bad = sorted(_assets(tmp_path, tmp_path / "list.txt"), key=lambda a: a.error_code or "")
    assert local_path(good, tmp_path / "fetched").read_bytes() == b"remote"
    assert (bad.error_stage, bad.error_code, bad.readable) == ("ingest", "missing", 0.0)


class _Watching:
    """A source that looks at the folder its bytes are kept in, and ends or fails."""

    def __init__(self, folder: Path, fails: bool) -> None:
        self.folder, self.fails, self.seen = folder, fails, list[str]()

    def read(self, size: int, /) -> bytes:
        """Nothing: it is empty, or cannot be read."""
        self.seen = [p.name for p in self.folder.iterdir()]
        if self.fails:
            raise OSError("the store went away")
        return b""


def test_what_a_killed_fetch_leaves_is_known_by_its_name(tmp_path: Path) -> None:
    """What a fetch writes is named after its machine and process, in the form that a takedown clears away; one that fails leaves nothing."""
    watching = _Watching(tmp_path, fails=False)
    _keep(watching, tmp_path, CONFIG)
    (name,) = watching.seen
    assert (match := re.fullmatch(r"\..*\.(\d+)\.tmp", name)) and int(match[1]) == os.getpid()
    assert name == temporary_name(tmp_path / "fetch").name and len(name.split(".")) == 5  # the machine stands before the process
    with pytest.raises(OSError, match="went away"):
        _keep(_Watching(tmp_path, fails=True), tmp_path, CONFIG)
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]
    _write_tar(tmp_path / "w.tar", {"a.mp4": b"video"})
    (asset,) = _assets(tmp_path, tmp_path / "w.tar", config=IngestConfig(max_bytes=1))
    assert asset.error_code == "unreadable" and not (tmp_path / "fetched").exists()


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
    with pytest.raises(MediaError, match=r"missing: .*again, .*found FileNotFoundError"):
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


@pytest.mark.parametrize(
    "broken", [b"{", b"[1]", b"\xff\xfe", b'{"training": "no", "training": "allowed"}', b"[" * 100_000, b"x" * (2 << 20)]
)
def test_a_broken_sidecar_reserves(broken: bytes) -> None:
    """A sidecar that is no object in which each name stands once leaves the licence unknown and never stops the run. It may hold the opt-out,
    so it reserves, says why, and no default makes that undone."""
    found = rights.read_sidecar(broken, "sidecar x.json")
    assert found.licence_class is None and found.optout_state == 1 and (found.optout_signals or "").startswith("sidecar=sidecar ")
    filled = rights.fill(found, rights.from_fields({"licence": "CC0-1.0", "training": "allowed"}, "source default"))
    assert filled.optout_state == 1


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
        assert text is None or (len(text) <= MAX_TEXT and not any(ord(c) < 32 and c not in "\t\n" for c in text))


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
