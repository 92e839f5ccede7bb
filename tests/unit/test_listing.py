"""Whatever names a file, all that is stated of it is kept, and no file of a collection decides what else is listed."""

import json
import os
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.ingest import IngestConfig, ingest, local_path
from curation.listed import InputError, member_of, path_of, uri_of
from curation.listing import list_inputs
from manifests.records import Asset


def _assets(tmp_path: Path, *inputs: Path | str) -> dict[str, Asset]:
    """The assets of the inputs by the name of their file."""
    listings = list_inputs([str(i) for i in inputs])
    return {path_of(x.uri).name: ingest(x, IngestConfig(), tmp_path / "fetched") for x in listings}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one film."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"a")
    return tmp_path / "in"


def test_every_statement_about_a_file_counts(tmp_path: Path, folder: Path) -> None:
    """Where several inputs, or several rows of one, name a file, the strictest holds, in whatever order; equal inputs change nothing."""
    (tmp_path / "no.csv").write_text("uri,training,licence\nin/a.mp4,reserved,CC0-1.0\n")
    (tmp_path / "yes.csv").write_text("uri,training,creator\nin/a.mp4,allowed,Zoe\n")
    (tmp_path / "both.csv").write_text("uri,training\nin/a.mp4,allowed\nin/../in/a.mp4,reserved\n")
    given = {
        name: _assets(tmp_path, *order)["a.mp4"]
        for name, order in enumerate(permutations([folder, tmp_path / "no.csv", tmp_path / "yes.csv"]))
    }
    assert {(a.optout_state, a.creator, a.licence_expr) for a in given.values()} == {(1, "Zoe", "CC0-1.0")}
    assert len({tuple(list_inputs(map(str, order))) for order in permutations([folder, tmp_path / "no.csv", tmp_path / "yes.csv"])}) == 1
    assert _assets(tmp_path, tmp_path / "both.csv")["a.mp4"].optout_state == 1
    assert [x.key for x in list_inputs([str(folder), f"{folder}/"])] == [x.key for x in list_inputs([str(folder)])]


def test_a_reason_against_a_file_outlives_other_inputs(tmp_path: Path, folder: Path) -> None:
    """A file that one input cannot list is a row also where another can."""
    (folder / "a.json").write_text("{}")
    (folder / "a.JSON").write_text('{"training": "reserved"}')
    (tmp_path / "list.csv").write_text("uri,training\nin/a.mp4,allowed\n")
    for order in ([folder, tmp_path / "list.csv"], [tmp_path / "list.csv", folder]):
        assert _assets(tmp_path, *order)["a.mp4"].error_code == "unreadable"


def test_a_glob_runs_no_caption(tmp_path: Path, folder: Path) -> None:
    """Texts, lists and tables that a glob matches are documents, as in a folder; so are captions where the shell wrote the glob out."""
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    for name, text in (
        ("a.txt", "../secret.mp4"),
        ("a.json", '{"training": "reserved"}'),
        ("t.csv", "uri\n../secret.mp4\n"),
        ("o.txt", "../secret.mp4"),
    ):
        (folder / name).write_text(text)
    assert {n: a.optout_state for n, a in _assets(tmp_path, folder / "*").items()} == {"a.mp4": 1}
    assert {x.source for x in list_inputs([f"{folder}/*"])} == {f"{folder}/*"}
    written_out = _assets(tmp_path, *(folder / n for n in ("a.json", "a.mp4", "a.txt")))
    assert {n: (a.optout_state, a.supplied_caption) for n, a in written_out.items()} == {"a.mp4": (1, "../secret.mp4")}
    with pytest.raises(InputError, match=r"a\.txt: expected a file list, found a text beside a\.mp4"):
        list_inputs([str(folder / "a.txt")])
    (folder / "\u00e9.mp4").write_bytes(b"accent")
    (folder / "e\u0301.txt").write_text("../secret.mp4")
    assert set(_assets(tmp_path, *(folder / n for n in ("\u00e9.mp4", "e\u0301.txt")))) == {"\u00e9.mp4"}
    with pytest.raises(InputError, match="expected media among what it matches, found 3 documents"):
        list_inputs([f"{folder}/*.txt"])


@pytest.mark.parametrize("form", ["", "*", "**/*"])
def test_a_medium_that_leads_out_of_its_collection_is_a_row(tmp_path: Path, folder: Path, form: str) -> None:
    """A link to a file elsewhere is not taken by the folder or a glob; one inside is, and one that is named itself."""
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "secret.tar").write_bytes(b"")
    (folder / "b.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "c.mp4").symlink_to("a.mp4")
    (folder / "d.tar").symlink_to(tmp_path / "secret.tar")
    found = _assets(tmp_path, f"{folder}/{form}")
    assert {n for n, a in found.items() if a.error_code is None} == {"a.mp4", "c.mp4"}
    for name in ("b.mp4", "d.tar"):
        assert f"expected a file inside {folder}" in (found[name].error_detail or "")
    assert _assets(tmp_path, folder / "b.mp4")["b.mp4"].error_code is None


def test_steps_up_are_taken_before_sidecars_are_looked_for(tmp_path: Path, folder: Path) -> None:
    """`link/../a.mp4` is one file: its bytes and its sidecar come from the same folder."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "a.json").write_text('{"training": "allowed"}')
    (folder / "link").symlink_to(tmp_path / "far" / "deep")
    (folder / "a.json").write_text('{"training": "reserved"}')
    (folder / "list.lst").write_text("link/../a.mp4\n")
    for given in (folder / "list.lst", f"{folder}/link/../a.mp4"):
        assert _assets(tmp_path, given)["a.mp4"].optout_state == 1


def test_a_list_with_a_byte_order_mark_keeps_its_first_file(tmp_path: Path, folder: Path) -> None:
    """As Notepad saves it."""
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfin/a.mp4\r\n")
    assert _assets(tmp_path, tmp_path / "list.txt")["a.mp4"].error_code is None


@pytest.mark.parametrize(
    "names", ["uri, training, licence", "URI,Training,LICENCE", "Path,TRAINING ,licence", "uri,TDM-Reservation,licence"]
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_of_columns_may_have_capitals_and_spaces(tmp_path: Path, folder: Path, names: str, kind: str) -> None:
    """A column is known whatever the case of its name and the spaces around it; two that are one by that are refused."""
    path = tmp_path / f"t.{kind}"

    def write(columns: list[str], values: list[str]) -> None:
        if kind == "csv":
            path.write_text(",".join(columns) + "\n" + ",".join(values) + "\n")
        else:
            pq.write_table(pa.Table.from_arrays([pa.array([v]) for v in values], names=columns), path)

    write(names.split(","), ["in/a.mp4", "1", "CC0-1.0"])
    found = _assets(tmp_path, path)["a.mp4"]
    assert (found.optout_state, found.licence_expr) == (1, "CC0-1.0")
    write(["uri", "Training", "training"], ["in/a.mp4", "allowed", "reserved"])
    with pytest.raises(InputError, match="expected every column once, found training more than once"):
        list_inputs([str(path)])


def _beside(folder: Path) -> str:
    return str(folder / "x.tar#512+12")


def _in_list(folder: Path) -> str:
    (folder.parent / "list.txt").write_text("in/x.tar#512+12\n")
    return str(folder.parent / "list.txt")


@pytest.mark.parametrize("given", [str, _beside, _in_list])
def test_a_name_like_a_member_s_address_is_a_file(tmp_path: Path, folder: Path, given: Callable[[Path], str]) -> None:
    """`x.tar#512+12` that is a file has an address of its own, under which its bytes are found, and it is missing when it went."""
    path = folder / "x.tar#512+12"
    path.write_bytes(b"plain file")
    (folder / "x.tar").write_bytes(b"")
    (found,) = [x for x in list_inputs([given(folder)]) if x.uri == uri_of(path)]
    assert member_of(found.uri) is None and path_of(found.uri) == path
    asset = ingest(found, IngestConfig(), tmp_path / "fetched")
    assert asset.size_bytes == 10 and local_path(asset, tmp_path / "fetched") == path
    path.unlink()
    assert ingest(found, IngestConfig(), tmp_path / "fetched").error_code == "missing"


def test_only_a_local_member_has_a_member_s_address() -> None:
    """A fragment of a remote address is none, nor is one with numbers beyond any file."""
    assert member_of("/x.tar#512+12") == ("/x.tar", 512) and member_of("/a#1+2/x#3.tar#512+12") == ("/a#1+2/x#3.tar", 512)
    for uri in ("https://e.org/x.tar#512+12", "https://e.org/a#top", "/a#b.mp4", "/x.tar#512+" + "9" * 5000, "/x.tar#٣+٤"):
        assert member_of(uri) is None


def test_a_file_address_finds_its_sidecar(tmp_path: Path, folder: Path) -> None:
    """`file:///…/a.mp4` in a list is the local file, with what stands beside it."""
    (folder / "a.json").write_text(json.dumps({"training": "reserved"}))
    (tmp_path / "list.txt").write_text(f"file://{os.fspath(folder)}/a.mp4\n")
    assert _assets(tmp_path, tmp_path / "list.txt")["a.mp4"].optout_state == 1


def test_a_glob_follows_no_linked_folder_out(tmp_path: Path, folder: Path) -> None:
    """What a glob finds through a link to a folder elsewhere is a row, whether it names the link or what is behind it."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.mp4").write_bytes(b"b")
    (folder / "link").symlink_to(tmp_path / "far")
    for form in ("*/*.mp4", "*"):
        found = _assets(tmp_path, f"{folder}/{form}")
        assert [a.error_code for n, a in found.items() if n != "a.mp4"] == ["unreadable"]


def test_what_is_no_file_is_a_row_with_its_reason(tmp_path: Path) -> None:
    """A pipe, a device, a link to nothing and one to itself, named as inputs."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    (tmp_path / "nothing.mp4").symlink_to(tmp_path / "gone.mp4")
    for path, what in (
        ("pipe.mp4", "mode p"),
        ("self.mp4", "a link to nothing"),
        ("nothing.mp4", "a link to nothing"),
        ("/dev/null", "mode c"),
    ):
        (listed,) = list_inputs([str(tmp_path / path)])
        assert f"expected a file, found {what}" in (listed.trouble or ""), path
