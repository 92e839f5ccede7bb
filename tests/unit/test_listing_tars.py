"""Of a tar nothing is left out, and no member takes the statements of another sample."""

import json
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from curation.ingest import IngestConfig, ingest
from curation.listed import Listing
from curation.listing import list_inputs
from manifests.records import Asset
from manifests.shards import MAX_HEADER_BYTES, list_entries, list_members
from tests.media_makers import tar_of

RESERVED, ALLOWED = b'{"training": "reserved"}', b'{"licence": "CC0-1.0", "training": "allowed"}'


def _listed(path: Path) -> dict[str, Listing]:
    """The listings of a tar by the name of their member."""
    return {x.title or x.uri: x for x in list_inputs([str(path)])}


def _taken(path: Path, tmp_path: Path) -> list[Asset]:
    return [ingest(x, IngestConfig(), tmp_path / "fetched") for x in list_inputs([str(path)])]


def test_links_in_a_tar_are_rows(tmp_path: Path) -> None:
    """As GNU tar writes hard links: a linked medium is a row that says so, and so is a medium whose sidecar is a link; others are taken."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in (("a.mp4", b"a"), ("a.json", RESERVED), ("b.mp4", b"b"), ("e.mp4", b"e")):
        (folder / name).write_bytes(data)
    (folder / "b.json").hardlink_to(folder / "a.json")
    (folder / "d.mp4").hardlink_to(folder / "a.mp4")
    (folder / "f.mp4").symlink_to("a.mp4")
    (folder / "e.txt").symlink_to("a.json")
    names = ["a.mp4", "a.json", "b.mp4", "b.json", "d.mp4", "e.mp4", "e.txt", "f.mp4"]
    subprocess.run(["tar", "-C", folder, "-cf", tmp_path / "w.tar", *names], check=True)
    listed = _listed(tmp_path / "w.tar")
    assert set(listed) == {"a.mp4", "b.mp4", "d.mp4", "e.mp4", "f.mp4"} and listed["a.mp4"].trouble is None
    for name, link in (("b.mp4", "b.json: expected a plain member, found a link to 'a.json'"), ("d.mp4", "found a link to 'a.mp4'"),
                       ("e.mp4", "e.txt: expected a plain member"), ("f.mp4", "found a link to 'a.mp4'")):  # fmt: skip
        assert link in (listed[name].trouble or "")
    with (tmp_path / "w.tar").open("rb") as stream:
        assert [name for name, _, _ in list_members(stream)] == ["a.mp4", "a.json", "b.mp4", "e.mp4"]


def test_members_of_other_kinds_are_rows(tmp_path: Path) -> None:
    """A pipe, or what a type that nobody knows makes of a member, is a row; a folder and the archive's label are none."""
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, kind in (("pipe.mp4", tarfile.FIFOTYPE), ("odd.mp4", b"Z"), ("label", b"V"), ("folder.mp4", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    listed = _listed(tmp_path / "w.tar")
    assert set(listed) == {"pipe.mp4", "odd.mp4"} and "found one of type 'Z'" in (listed["odd.mp4"].trouble or "")


@pytest.mark.parametrize("gap", [0, 512, 4 << 20])
def test_a_tar_that_goes_on_after_its_end_is_broken(tmp_path: Path, gap: int) -> None:
    """Two tars in one file are a broken one, however many zeros lie between them: what the second holds is not left out in silence."""
    one, two = (tar_of(tmp_path / f"{n}.tar", (f"{n}.mp4", n.encode())).read_bytes() for n in "ab")
    both = tmp_path / "both.tar"
    both.write_bytes(one + bytes(gap) + two)
    ((_, listing),) = _listed(both).items()
    assert f"expected a header or the end at byte {len(one) + gap}, found b'b.mp4" in (listing.trouble or "")
    both.write_bytes(one + bytes(gap))
    assert [x.trouble for x in _listed(both).values()] == [None]


def test_shards_put_together_keep_their_statements_apart(tmp_path: Path) -> None:
    """Where names repeat, no member takes a statement that may be of another: each whose name, sidecar or sample comes twice is a row."""
    members = [("0.mp4", b"a"), ("0.json", ALLOWED), ("1.mp4", b"b"), ("1.json", RESERVED), ("2.mp4", b"c"), ("2.json", ALLOWED)]
    again = [
        ("0.mp4", b"d"),
        ("0.json", RESERVED),
        ("1.webm", b"e"),
        ("2.webm", b"f"),
        ("2.json", RESERVED),
        ("3.mp4", b"g"),
        ("3.json", ALLOWED),
    ]
    listings = list_inputs([str(tar_of(tmp_path / "w.tar", *members, *again))])
    assert len(listings) == 7
    assert [x.title for x in listings if x.trouble is None] == ["3.mp4"]
    said = {x.title: x.trouble or "" for x in listings}
    assert "expected one member of this name, found 2" in said["0.mp4"]
    assert "expected its sample's members side by side" in said["1.webm"] and said["1.mp4"]
    assert said["2.mp4"] and said["2.webm"]


def test_members_in_any_order_find_their_sidecars(tmp_path: Path) -> None:
    """Where no name repeats, a sample's members may stand anywhere, and `./a.json` speaks of `a.mp4`."""
    path = tar_of(tmp_path / "w.tar", ("./a.json", RESERVED), ("b.mp4", b"b"), ("a.mp4", b"a"), ("b.json", ALLOWED))
    assert {a.title: a.optout_state for a in _taken(path, tmp_path)} == {"a.mp4": 1, "b.mp4": 0}
    path = tar_of(tmp_path / "v.tar", ("./a.json", RESERVED), ("a.mp4", b"a"), ("a.json", ALLOWED))
    assert "expected one member that states its rights, found ./a.json and a.json" in (_listed(path)["a.mp4"].trouble or "")


def test_a_name_with_dots_finds_its_sidecar(tmp_path: Path) -> None:
    """`IMG.2020.json` states the rights of `IMG.2020.mp4` in a tar as in a folder, and goes before that of the sample `IMG`."""
    path = tar_of(tmp_path / "w.tar", ("IMG.2020.mp4", b"a"), ("IMG.2020.json", RESERVED), ("IMG.json", ALLOWED), ("IMG.mp4", b"b"))
    assert {a.title: a.optout_state for a in _taken(path, tmp_path)} == {"IMG.2020.mp4": 1, "IMG.mp4": 0}


def test_a_name_without_end_is_a_broken_tar(tmp_path: Path) -> None:
    """A name or a pax header of many MiB is not read: the tar is a row."""
    for name, kind in (("gnu", tarfile.GNUTYPE_LONGNAME), ("pax", tarfile.XHDTYPE)):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 64 << 20
        with (tmp_path / f"{name}.tar").open("wb") as sink:
            sink.write(info.tobuf(tarfile.GNU_FORMAT))
            sink.truncate(80 << 20)
        tracemalloc.start()
        ((_, listing),) = _listed(tmp_path / f"{name}.tar").items()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert f"at most {MAX_HEADER_BYTES} bytes of headers" in (listing.trouble or "") and peak < 8 << 20


def test_what_a_sample_states_is_held_once(tmp_path: Path) -> None:
    """A long text beside 300 members costs no 300 times its length; what is too long to keep whole reserves."""
    media = [(f"a.{n}", b"x") for n in range(300)]
    text = json.dumps({"caption": "c" * 900_000, "training": "reserved", "annotations": [1] * 1000}).encode()
    path = tar_of(tmp_path / "w.tar", *media, ("a.json", text))
    tracemalloc.start()
    listings = list_inputs([str(path)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20 and sum(len(x.fields_json or "") for x in listings) < 300 * 9000
    assert {ingest(x, IngestConfig(), tmp_path).optout_state for x in listings} == {1}
    for stated in ({"x_robots_tag": "x" * 9000 + "noai"}, {f"title{' ' * n}": "t" * 8000 for n in range(20)}):
        path = tar_of(tmp_path / "w.tar", ("a.mp4", b"x"), ("a.json", json.dumps(stated).encode()))
        (asset,) = _taken(path, tmp_path)
        assert asset.optout_state == 1 and "not read" in (asset.optout_signals or "")


@pytest.mark.parametrize("broken", [b"{", b"[1]", b"\xff", b"", b'{"training": "no", "training": "allowed"}', b" " * (1 << 20) + RESERVED])
def test_a_broken_json_reserves_in_a_tar_as_in_a_folder(tmp_path: Path, broken: bytes) -> None:
    """It may hold the opt-out: the row says so in the same words."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"a")
    (tmp_path / "in" / "a.json").write_bytes(broken)
    (inside,) = _taken(tar_of(tmp_path / "w.tar", ("a.mp4", b"a"), ("a.json", broken)), tmp_path)
    (beside,) = _taken(tmp_path / "in", tmp_path)
    assert (inside.optout_state, inside.optout_signals) == (1, beside.optout_signals) and inside.optout_signals


def test_both_sidecars_of_a_member_count(tmp_path: Path) -> None:
    """Whichever of `a.mp4.json` and `a.json` reserves, training is reserved; accents may be written in one sign or two."""
    for own, plain in ((RESERVED, ALLOWED), (ALLOWED, RESERVED)):
        path = tar_of(tmp_path / "w.tar", ("a.mp4", b"a"), ("a.mp4.json", own), ("a.json", plain))
        assert [a.optout_state for a in _taken(path, tmp_path)] == [1]
    path = tar_of(tmp_path / "w.tar", ("a.mp4", b"a"), ("a.json", b'{"creator": "far"}'), ("a.mp4.json", b'{"creator": "near"}'))
    assert [a.creator for a in _taken(path, tmp_path)] == ["near"]
    path = tar_of(tmp_path / "w.tar", ("\u00e9.mp4", b"a"), ("e\u0301.json", RESERVED))
    assert [a.optout_state for a in _taken(path, tmp_path)] == [1]


def test_names_of_fields_may_be_capital_in_a_tar(tmp_path: Path) -> None:
    """`Training` is `training`, and where both are stated the stricter counts, in whatever order."""
    for stated in ({"Training": "reserved"}, {"training": "allowed", "Training": "no"}, {"TDM-Reservation": 1, "tdm_reservation": 0}):
        for pairs in (stated, dict(reversed(stated.items()))):
            path = tar_of(tmp_path / "w.tar", ("a.mp4", b"a"), ("a.json", json.dumps(pairs).encode()))
            assert [a.optout_state for a in _taken(path, tmp_path)] == [1], pairs


@pytest.mark.parametrize("words", [("reserved", "allowed"), ("allowed", "reserved")])
def test_what_is_said_twice_counts_twice(tmp_path: Path, words: tuple[str, str]) -> None:
    """Of a name that stands twice in a JSON the stricter value counts."""
    path = tar_of(
        tmp_path / "w.tar", ("a.mp4", b"a"), ("a.json", b'{"training": "%s", "training": "%s"}' % tuple(w.encode() for w in words))
    )
    assert [a.optout_state for a in _taken(path, tmp_path)] == [1]


def test_entries_say_what_they_are(tmp_path: Path) -> None:
    """A plain member has no oddity."""
    with tar_of(tmp_path / "w.tar", ("a.mp4", b"a")).open("rb") as stream:
        assert [(e.name, e.offset, e.size_bytes, e.found) for e in list_entries(stream)] == [("a.mp4", 512, 1, None)]
