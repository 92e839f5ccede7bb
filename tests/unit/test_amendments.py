"""Amendments: a release holds again after a takedown, and nobody can use one to hide tampering."""

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests import signing
from manifests.amendments import Amendment, amend, read_amendments, releases_with
from manifests.integrity import Fault
from manifests.release_check import Trust, check_release
from manifests.release_file import AMENDMENTS, ReleaseError, read_release
from manifests.tables import ManifestStore
from tests.release_maker import CREATED, make_dataset, release


def folder(place: Path) -> Path:
    """The release."""
    return place / "set" / "releases" / "v1"


def faults(place: Path) -> tuple[Fault, ...]:
    """What does not hold, judged with the provider's key."""
    return check_release(folder(place), Trust(key=signing.load_public(place / "key.pub"))).faults


def take_down(place: Path, number: int = 1, at: int = 0) -> Amendment:
    """A kept clip's asset: members overwritten with zeros of the same length, its clips gone from the tables; what is left to amend."""
    store = ManifestStore(place / "set")
    kept = [c for c in store.read("clips").to_pylist() if c["decision"] == "keep"]
    asset_no = kept[at]["asset_no"]
    clips = [c for c in store.read("clips").to_pylist() if c["asset_no"] == asset_no]
    asset = next(a for a in store.read("assets").to_pylist() if a["asset_no"] == asset_no)
    shards = {s["shard_no"]: s["path"] for s in store.read("shards").to_pylist()}
    touched = set()
    for m in store.read("members").to_pylist():
        if m["clip_no"] in {c["clip_no"] for c in clips}:
            with (place / "set" / shards[m["shard_no"]]).open("r+b") as tar:
                tar.seek(m["offset"])
                tar.write(bytes(m["size_bytes"]))
            touched.add(shards[m["shard_no"]])
    for table in ("clips", "captions", "members"):
        path = Path(store.files(table)[0])
        rows = pq.read_table(path)
        mask = [n not in {c["clip_no"] for c in clips} for n in rows.column("clip_no").to_pylist()]
        pq.write_table(rows.filter(mask), path)
        touched.add(path.relative_to(place / "set").as_posix())
    return Amendment(
        takedown_no=number,
        reason_code="copyright",
        at=CREATED,
        paths=(*sorted(touched), "manifest/clips/of-another-version.parquet"),
        clip_ids=tuple(c["clip_id"] for c in clips),
        asset_sha256=(asset["asset_sha256"],),
    )


def test_a_release_holds_again_after_a_takedown(place: Path) -> None:
    """Faults before the amendment, none after; two in a row; the amendment again adds nothing."""
    for number in (1, 2):
        amendment = take_down(place, number, at=0)
        assert faults(place)
        assert amend(folder(place), amendment, place / "key")
        assert faults(place) == ()
        assert not amend(folder(place), amendment, place / "key")
    found = check_release(folder(place), Trust(key=signing.load_public(place / "key.pub")))
    assert found.amendments == 2 and found.trusted


def test_the_releases_own_texts_forget_what_went(place: Path) -> None:
    """Credits without the asset, its hash among the removals, the report withdrawn."""
    amendment = take_down(place)
    digest = amendment.asset_sha256[0].hex()
    assert digest in (folder(place) / "attribution.csv").read_text()
    amend(folder(place), amendment, place / "key")
    assert digest not in (folder(place) / "attribution.csv").read_text()
    removed = [json.loads(line) for line in (folder(place) / "removals.jsonl").read_text().splitlines()]
    assert {"kind": "sha256", "value": digest, "takedown_no": 1, "reason": "copyright"} in removed
    assert "withdrawn" in (folder(place) / "report.html").read_text()


def test_texts_that_name_a_source_go_with_its_last_file(place: Path) -> None:
    """Where nothing is left of a source, data card and EU summary no longer say its name; the release holds."""
    sources = ManifestStore(place / "set").read("sources").to_pylist()
    names = [text.encode() for s in sources for text in (s["name"], s["supplier"]) if text]
    texts = ("README.md", "eu-ai-act-summary.md", "eu-ai-act-summary.json")
    assert any(n in (folder(place) / t).read_bytes() for n in names for t in texts)
    amend(folder(place), dataclasses.replace(take_down(place), sources_gone=True), place / "key")
    assert not any(n in (folder(place) / t).read_bytes() for n in names for t in texts)
    assert faults(place) == ()


def test_an_amendment_says_what_changed(place: Path) -> None:
    """Old and new hash of every file, the places of the erased rows, the case and its reason; chained and signed."""
    release_, amendment = read_release(folder(place)), take_down(place)
    amend(folder(place), amendment, place / "key")
    line = (folder(place) / AMENDMENTS).read_text().splitlines()[0]
    said = signing.unseal(json.loads(line), signing.load_public(place / "key.pub")).predicate
    before = {e.path: e.sha256 for e in release_.entries().values()}
    assert {f["path"] for f in said["files"]} > set(amendment.paths[:-1])
    assert all(before[f["path"]] == f["old_sha256"] != f["new_sha256"] for f in said["files"])
    assert len(said["erased"]["clips"]) == len(amendment.clip_ids) and len(said["erased"]["assets"]) == 1
    assert (said["takedown_no"], said["reason_code"], said["number"], said["previous"]) == (1, "copyright", 0, release_.sha256)


def test_a_file_that_went_altogether_is_amended_too(place: Path) -> None:
    """A shard that was removed is expected to be absent from then on."""
    shard = read_release(folder(place)).shards[0].path
    (place / "set" / shard).unlink()
    amend(folder(place), Amendment(takedown_no=1, reason_code="privacy", at=CREATED, paths=(shard,)), place / "key")
    assert faults(place) == ()
    (place / "set" / shard).write_bytes(b"back again")
    assert [f.path for f in faults(place)] == [shard]


def test_a_signed_release_is_amended_with_its_own_key_alone(place: Path) -> None:
    """Without the key, or with another, nothing is touched."""
    amendment = take_down(place)
    rows = (folder(place) / "tree" / "clips.rows").read_bytes()
    signing.generate_key(place / "other")
    for key in (None, place / "other"):
        with pytest.raises(ReleaseError, match="give it with --key"):
            amend(folder(place), amendment, key)
    assert (folder(place) / "tree" / "clips.rows").read_bytes() == rows
    assert not (folder(place) / AMENDMENTS).exists()


def test_a_forged_amendment_is_refused(place: Path) -> None:
    """A shard swapped and an amendment that says so, unsigned or signed by somebody else: both are told."""
    shard = read_release(folder(place)).shards[0].path
    unsigned = place / "unsigned"
    shutil.copytree(place / "set", unsigned)
    raw = json.loads((unsigned / "releases" / "v1" / "release.json").read_text())
    raw["signer"] = None
    (unsigned / "releases" / "v1" / "release.json").write_text(json.dumps(raw))
    (unsigned / shard).write_bytes(b"other media")
    (place / "set" / shard).write_bytes(b"other media")
    amend(unsigned / "releases" / "v1", Amendment(takedown_no=1, reason_code="x", at=CREATED, paths=(shard,)))
    shutil.copy(unsigned / "releases" / "v1" / AMENDMENTS, folder(place) / AMENDMENTS)
    found = {f.path for f in faults(place)}
    assert {AMENDMENTS, shard} <= found


def test_amendments_cannot_be_dropped_or_reordered(place: Path) -> None:
    """The chain: without the last line its changes show as faults; without the first, or in another order, it does not follow."""
    for number in (1, 2):
        amend(folder(place), take_down(place, number), place / "key")
    path = folder(place) / AMENDMENTS
    first, second = path.read_bytes().splitlines(keepends=True)
    for text in (first, b"", second, second + first):
        path.write_bytes(text)
        assert faults(place), text[:20]
    path.write_bytes(first + second)
    assert faults(place) == ()


def test_an_unfinished_line_does_not_count(place: Path) -> None:
    """A crash while the line was written: the line is not there, and the takedown, done again, adds it."""
    amendment = take_down(place)
    amend(folder(place), amendment, place / "key")
    path = folder(place) / AMENDMENTS
    path.write_bytes(path.read_bytes()[:100])
    assert read_amendments(folder(place), read_release(folder(place)), None).count == 0
    assert faults(place)
    assert amend(folder(place), amendment, place / "key")
    assert faults(place) == ()


def test_an_unsigned_release_takes_unsigned_amendments(tmp_path: Path) -> None:
    """Without a key at hand a takedown of an unsigned release still leaves it whole."""
    (tmp_path / "set").mkdir()
    release(make_dataset(tmp_path / "set"), "v1")
    amendment = take_down(tmp_path)
    amend(folder(tmp_path), amendment)
    assert check_release(folder(tmp_path), Trust()).faults == ()


def test_a_purged_table_leaves_the_leaves_to_be_checked(place: Path) -> None:
    """Where a takedown removed a table's file, its trees are checked by their leaves alone, and the count of compared rows says so."""
    path = Path(ManifestStore(place / "set").files("members")[0])
    path.unlink()
    amend(
        folder(place),
        Amendment(takedown_no=1, reason_code="privacy", at=CREATED, paths=(path.relative_to(place / "set").as_posix(),)),
        place / "key",
    )
    found = check_release(folder(place), Trust(key=signing.load_public(place / "key.pub")))
    assert found.faults == () and found.rows == 10
    rows = folder(place) / "tree" / "clips.rows"
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)
    assert any("the root" in f.expected for f in faults(place))


def test_the_releases_of_a_clip_are_found(place: Path) -> None:
    """By clip or by file; none where neither stands."""
    release(ManifestStore(place / "set"), "v2", place / "key")
    clip = ManifestStore(place / "set").read("clips").to_pylist()[0]["clip_id"]
    digest = ManifestStore(place / "set").read("assets").to_pylist()[0]["asset_sha256"]
    both = [place / "set" / "releases" / n for n in ("v1", "v2")]
    assert releases_with(place / "set", [clip], []) == releases_with(place / "set", [], [digest]) == both
    assert releases_with(place / "set", ["00" * 16], [bytes(32)]) == []


@pytest.mark.parametrize("line", ["", "{}", "[]", "null", "x", '{"payload": "!", "payloadType": 1, "signatures": 3}', "[" * 50_000])
def test_junk_in_amendments_is_a_fault(place: Path, line: str) -> None:
    """Any line that is no amendment is told, and never raises."""
    (folder(place) / AMENDMENTS).write_text(line + "\n")
    assert AMENDMENTS in {f.path for f in faults(place)}
