"""Releases: frozen whole or not at all, and every kind of tampering is found and named."""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import deny, leaves, signing, treefile
from manifests import release as releases
from manifests.integrity import Fault
from manifests.proofs import check_proof, prove_absent
from manifests.records import Asset
from manifests.release_check import Trust, check_release, known_root
from manifests.release_file import ReleaseError, parse_release, read_release
from manifests.schema import from_table, to_table
from manifests.signing import SigningError
from manifests.tables import ManifestStore
from tests.release_maker import kept_and_dropped, make_dataset, release


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with two signed releases, its key beside it. Nobody changes it."""
    root = tmp_path_factory.mktemp("pristine")
    signing.generate_key(root / "key")
    store = make_dataset(root / "set")
    release(store, "v1", root / "key")
    release(store, "v2", root / "key")
    return root


@pytest.fixture
def place(pristine: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    shutil.copytree(pristine, tmp_path / "p")
    return tmp_path / "p"


def faults(place: Path, name: str = "v2", **trust: object) -> tuple[Fault, ...]:
    """What does not hold of a release, judged with the provider's key."""
    given = {"key": signing.load_public(place / "key.pub")} | trust
    return check_release(place / "set" / "releases" / name, Trust(**given)).faults  # type: ignore[arg-type]


def said(found: tuple[Fault, ...]) -> str:
    """All faults as text."""
    return "\n".join(map(str, found))


def flip(path: Path, at: int) -> None:
    """One bit of one byte is another."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_release_that_nobody_touched_holds(pristine: Path) -> None:
    """No fault; the signature is by the trusted key; every file and row was looked at."""
    found = check_release(pristine / "set" / "releases" / "v2", Trust(key=signing.load_public(pristine / "key.pub")))
    assert found.faults == ()
    assert found.trusted and found.rows == 60 + 10 and found.amendments == 0
    assert found.files == len(found.release.entries())


def test_release_json_says_what_was_frozen(pristine: Path) -> None:
    """Every Parquet file with bytes, rows and hash; every shard; counts; rules with thresholds; code; run; the previous release."""
    store = ManifestStore(pristine / "set")
    raw = read_release(pristine / "set" / "releases" / "v2").raw
    for table, entries in raw["tables"].items():
        assert sum(e["rows"] for e in entries) == store.read(table).num_rows, table
    assert {s["path"] for s in raw["shards"]} == set(store.read("shards").column("path").to_pylist())
    assert raw["counts"]["kept"] == kept_and_dropped(store)[0].num_rows > 0
    assert {r["name"]: r["threshold"] for r in raw["policy"]}["moves"] == 2.0
    assert raw["code_version"] == "test" and raw["runs"][0]["run_no"] == 1
    assert raw["previous"]["name"] == "v1" and raw["earlier_roots"] == [read_release(pristine / "set" / "releases" / "v1").root]


def test_the_same_release_again_is_the_same(place: Path) -> None:
    """Nothing is written a second time; another content, or none of the key, under a name that is taken is refused."""
    store = ManifestStore(place / "set")
    before = read_release(place / "set" / "releases" / "v1")
    again = release(store, "v1", place / "key")
    assert again.already and again.release.sha256 == before.sha256
    with pytest.raises(ReleaseError, match="choose another name"):
        release(store, "v1", None)
    store.commit("f" * 32, replace={"captions": store.read("captions").slice(1)})
    with pytest.raises(ReleaseError, match="found one of version 0"):
        release(store, "v1", place / "key")


def test_a_release_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in its last step leaves no folder and no temporary one; what a killed attempt left is cleared by the next."""
    store = make_dataset(tmp_path, 12)
    left = tmp_path / "releases" / ".v1.1.tmp"
    left.mkdir(parents=True)
    with monkeypatch.context() as broken:
        broken.setattr(releases, "parse_release", lambda data: (_ for _ in ()).throw(ValueError("no")))
        with pytest.raises(ReleaseError, match="cannot be released"):
            release(store)
    assert list((tmp_path / "releases").iterdir()) == []
    assert not release(store).already


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "x" * 101, "v1\n"])
def test_a_name_cannot_be_a_path(tmp_path: Path, name: str) -> None:
    """Only plain names: the name becomes a folder."""
    with pytest.raises(ReleaseError, match="expected a release's name"):
        release(ManifestStore(tmp_path), name)


def test_a_key_that_stands_twice_is_not_released(tmp_path: Path) -> None:
    """Two rows of one clip id: no release of that, as its tree could prove nothing absent; the id is named, nothing is left behind."""
    store = make_dataset(tmp_path, 12)
    clips = store.read("clips")
    store.commit("e" * 32, replace={"clips": pa.concat_tables([clips, clips.slice(3, 1)])})
    with pytest.raises(ReleaseError, match=f"found {clips.column('clip_id')[3]} twice"):
        release(store)
    assert list((tmp_path / "releases").iterdir()) == []


def test_a_missing_shard_is_not_released(tmp_path: Path) -> None:
    """A shard that is not there, or has another size, is named before anything is written."""
    store = make_dataset(tmp_path, 12)
    path = store.read("shards").column("path").to_pylist()[0]
    (tmp_path / path).unlink()
    with pytest.raises(ReleaseError, match=path):
        release(store)


def test_a_flipped_byte_in_any_file_is_found_and_named(place: Path) -> None:
    """Each file of the release, each table, each shard: one flipped bit, and the fault names that file."""
    entries = read_release(place / "set" / "releases" / "v2").entries()
    folder = place / "set" / "releases" / "v2"
    for path, entry in entries.items():
        file = folder / path if (folder / path).is_file() else place / "set" / path
        if not entry.size_bytes:
            continue
        flip(file, entry.size_bytes // 2)
        assert path in {f.path for f in faults(place)}, path
        flip(file, entry.size_bytes // 2)
    assert faults(place) == ()


def test_a_flipped_byte_in_release_json_or_signature_is_found(place: Path) -> None:
    """Any bit of what is signed, and of the signature."""
    folder = place / "set" / "releases" / "v2"
    text = (folder / "release.json").read_text()
    (folder / "release.json").write_text(text.replace('"code_version": "test"', '"code_version": "tesT"', 1))
    assert "signed SHA-256" in said(faults(place))
    (folder / "release.json").write_text(text)
    envelope = json.loads((folder / "release.dsse.json").read_text())
    for change in ({"payload": envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]}, {"payloadType": "text/plain"}):
        (folder / "release.dsse.json").write_text(json.dumps(envelope | change))
        assert "release.dsse.json" in {f.path for f in faults(place)}


def test_a_damaged_shard_is_told_by_sample(place: Path) -> None:
    """The fault names the member whose bytes are others."""
    member = next(m for m in ManifestStore(place / "set").read("members").to_pylist() if m["extension"] == "mp4")
    shard = ManifestStore(place / "set").read("shards").to_pylist()[member["shard_no"]]
    flip(place / "set" / shard["path"], member["offset"] + 5)
    assert f"{shard['path']}/{member['clip_id']}.mp4" in {f.path for f in faults(place)}


@pytest.mark.parametrize("table", ["clips", "assets", "members"])
def test_a_dropped_row_is_named(place: Path, table: str) -> None:
    """A row left out of a table's file: the fault names the file, and the clip or asset that it was."""
    path = Path(ManifestStore(place / "set").files(table)[0])
    rows = pq.read_table(path)
    gone = next(i for i, e in enumerate(rows.column("extension").to_pylist()) if e == "mp4") if table == "members" else 3
    pq.write_table(pa.concat_tables([rows.slice(0, gone), rows.slice(gone + 1)]), path)
    text = said(faults(place))
    assert f"{path.relative_to(place / 'set')}: expected {rows.num_rows} rows, found {rows.num_rows - 1}" in text
    row = rows.slice(gone, 1).to_pylist()[0]
    assert f"asset {row['asset_sha256'].hex()}: expected its row" in text if table == "assets" else f"clip {row['clip_id']}" in text


def test_a_changed_value_is_named_by_clip(place: Path) -> None:
    """A verdict turned round in the table: the fault names the clip, and only that one."""
    path = Path(ManifestStore(place / "set").files("clips")[0])
    rows = pq.read_table(path)
    decisions = rows.column("decision").to_pylist()
    decisions[7] = "drop" if decisions[7] == "keep" else "keep"
    pq.write_table(rows.set_column(rows.schema.get_field_index("decision"), rows.schema.field("decision"), pa.array(decisions)), path)
    named = [f for f in faults(place) if f.path.startswith("clip ")]
    assert [f.path for f in named] == [f"clip {rows.column('clip_id')[7]}"]
    assert "the row that was released" in named[0].expected


def test_an_added_row_is_named(place: Path) -> None:
    """A clip that was not released and stands in the table."""
    path = Path(ManifestStore(place / "set").files("clips")[0])
    rows = pq.read_table(path)
    new = rows.slice(0, 1).set_column(rows.schema.get_field_index("clip_id"), rows.schema.field("clip_id"), pa.array(["ab" * 16]))
    pq.write_table(pa.concat_tables([rows, new]), path)
    assert f"clip {'ab' * 16}: expected no row" in said(faults(place))


def test_swapped_shards_are_named_as_swapped(place: Path) -> None:
    """Two shards under one another's names: each fault says whose bytes it found."""
    a, b = sorted(ManifestStore(place / "set").read("shards").column("path").to_pylist())[:2]
    os.rename(place / "set" / a, place / "x")
    os.rename(place / "set" / b, place / "set" / a)
    os.rename(place / "x", place / "set" / b)
    found = {f.path: f.found for f in faults(place)}
    assert found == {a: f"the bytes of {b}", b: f"the bytes of {a}"}


def test_a_missing_and_a_strange_file_are_named(place: Path) -> None:
    """A shard that is gone; a file in the folder that the release does not know."""
    gone = ManifestStore(place / "set").read("shards").column("path").to_pylist()[0]
    (place / "set" / gone).unlink()
    (place / "set" / "releases" / "v2" / "extra.json").write_text("{}")
    assert {f.path for f in faults(place)} == {gone, "extra.json"}


def test_an_older_release_is_refused_to_those_who_know_a_newer(place: Path) -> None:
    """By root or by a kept release.json: the older one is refused, the newer one that follows what is known is not."""
    old, new = (read_release(place / "set" / "releases" / n).root for n in ("v1", "v2"))
    assert f"root {new}" in said(faults(place, "v1", latest_known=new))
    assert faults(place, "v1", latest_known=old) == faults(place, "v2", latest_known=old) == ()
    assert known_root(place / "set" / "releases" / "v1" / "release.json") == old
    assert known_root(place / "set" / "releases" / "v1" / "release.dsse.json") == old


def test_a_replayed_folder_is_refused(place: Path) -> None:
    """The older release under the newer one's name: signed and whole, but not what is known."""
    folder, new = place / "set" / "releases", read_release(place / "set" / "releases" / "v2").root
    shutil.rmtree(folder / "v2")
    os.rename(folder / "v1", folder / "v2")
    assert faults(place) == ()  # by itself it is a perfect release
    assert "an older or foreign release" in said(faults(place, latest_known=new))


def test_an_exchanged_previous_release_is_found(place: Path) -> None:
    """The chain: a previous release that was made anew is not the one that the next one names."""
    shutil.rmtree(place / "set" / "releases" / "v1")
    (place / "aside").mkdir()
    os.rename(place / "set" / "releases" / "v2", place / "aside" / "v2")
    release(ManifestStore(place / "set"), "v1", place / "key")
    os.rename(place / "aside" / "v2", place / "set" / "releases" / "v2")
    assert "releases/v1/release.json" in said(faults(place))


def test_a_wrong_key_is_refused(place: Path) -> None:
    """Another key is told apart; so is a release that somebody else made and signed, and one whose signature was taken away."""
    signing.generate_key(place / "other")
    other = signing.load_public(place / "other.pub")
    assert "one by another key" in said(faults(place, key=other))
    forged = release(ManifestStore(place / "set"), "v3", place / "other")
    assert check_release(forged.folder, Trust()).faults == ()  # it holds together, and says that nobody vouches for its key
    assert not check_release(forged.folder, Trust()).trusted
    assert "one by another key" in said(faults(place, "v3"))
    (place / "set" / "releases" / "v2" / "release.dsse.json").unlink()
    assert "no such file" in said(faults(place))


def test_a_leaf_out_of_order_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider who moves a clip's leaf to the end and signs can prove that released clip absent; verify names the leaf."""
    rows_of = leaves.rows_of

    def moved(tree: leaves.Tree, files: leaves.Files) -> leaves.Rows:
        rows = rows_of(tree, files)
        order = [*range(5), *range(6, len(rows.keys)), 5] if tree is leaves.CLIPS else [*range(len(rows.keys))]
        return leaves.Rows(rows.keys[order], rows.fields[order])

    with monkeypatch.context() as lying:
        lying.setattr(releases.leaves, "rows_of", moved)
        lying.setattr(releases, "_check_keys", lambda tree, keys: None)
        made = release(ManifestStore(place / "set"), "v3", place / "key")
    clip = sorted(ManifestStore(place / "set").read("clips").column("clip_id").to_pylist())[5]
    assert check_proof(prove_absent(made.folder, clip), made.release, None).claim == "absent"
    (fault,) = faults(place, "v3")
    assert fault.path == f"clip {clip}" and "above the one before it" in fault.expected


def test_a_row_erased_without_an_amendment_is_named(place: Path) -> None:
    """Erased fields cannot be compared and an erased key has no order: both are faults unless an amendment says why."""
    folder = place / "set" / "releases" / "v2"
    clips = sorted(ManifestStore(place / "set").read("clips").column("clip_id").to_pylist())
    treefile.erase(folder, leaves.CLIPS, [4], keys_too=False)
    treefile.erase(folder, leaves.CLIPS, [7], keys_too=True)
    named = {f.path for f in faults(place) if "no amendment names it" in f.expected}
    assert named == {f"clip {clips[4]}", "clip (key erased)"}


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.binary(min_size=16, max_size=16) | st.sampled_from([bytes(16), b"\xff" * 16, bytes(8) + b"\1" * 8]), max_size=8))
def test_keys_out_of_order_are_those_not_above_the_one_before(rows: list[bytes]) -> None:
    """Of keys as bytes, compared from the front: the same places as by Python's own comparison; equal keys are out of order too."""
    keys = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)
    assert leaves.out_of_order(keys).tolist() == [i for i in range(1, len(rows)) if rows[i] <= rows[i - 1]]


def test_an_unsigned_release_holds_by_its_hashes(tmp_path: Path) -> None:
    """Without a key there is no signature and every other check; a key that is asked for is missed."""
    made = release(make_dataset(tmp_path / "set", 12))
    found = check_release(made.folder, Trust())
    assert found.faults == () and found.signed_by is None
    signing.generate_key(tmp_path / "key")
    assert "release.dsse.json" in said(check_release(made.folder, Trust(key=signing.load_public(tmp_path / "key.pub"))).faults)


def test_an_empty_dataset_can_be_released(tmp_path: Path) -> None:
    """One broken asset, no clip, no shard."""
    made = release(make_dataset(tmp_path, 0))
    assert check_release(made.folder, Trust()).faults == ()
    assert made.release.trees["clips"].rows == 0


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"},
        {"shards": [{"path": "../../etc/passwd", "size_bytes": 1, "sha256": "0" * 64}]},
        {"shards": [{"path": "/etc/passwd", "size_bytes": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "a/../../b", "size_bytes": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "a", "size_bytes": -1, "sha256": "0" * 64}]},
        {"merkle_root": "zz"},
        {"trees": {}},
        {"tables": {"nonsense": []}},
        {"name": "../x"},
        {"signer": 3},
    ],
)
def test_a_hostile_release_json_is_refused(pristine: Path, tmp_path: Path, change: dict[str, object]) -> None:
    """No path leaves the dataset, no number is negative; the error is one sentence."""
    raw = read_release(pristine / "set" / "releases" / "v2").raw
    (tmp_path / "release.json").write_text(json.dumps(raw | change))
    with pytest.raises(ReleaseError, match=r"expected a release of format dailies.release/1"):
        read_release(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"null", b"[" * 100_000, b"\xff"])
def test_what_is_no_release_json_is_refused(tmp_path: Path, data: bytes) -> None:
    """Any bytes give the one typed error."""
    (tmp_path / "release.json").write_bytes(data)
    with pytest.raises(ReleaseError):
        read_release(tmp_path)


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    """Mode 0600, PKCS 8, never overwritten; a private key given as a public one is not accepted, nor is anything else."""
    keyid = signing.generate_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert b"BEGIN PRIVATE KEY" in (tmp_path / "key").read_bytes()
    assert signing.load_public(tmp_path / "key.pub").keyid == signing.load_signer(tmp_path / "key").public_key.keyid == keyid
    with pytest.raises(SigningError, match="never overwritten"):
        signing.generate_key(tmp_path / "key")
    with pytest.raises(SigningError, match="found a private one"):
        signing.load_public(tmp_path / "key")
    with pytest.raises(SigningError, match="dailies keygen"):
        signing.load_signer(tmp_path / "key.pub")
    (tmp_path / "junk").write_bytes(b"junk")
    for load in (signing.load_public, signing.load_signer):
        for name in ("junk", "absent"):
            with pytest.raises(SigningError):
                load(tmp_path / name)


def test_parsing_keeps_every_entry(pristine: Path) -> None:
    """A parsed release.json tells the same files again."""
    data = (pristine / "set" / "releases" / "v1" / "release.json").read_bytes()
    parsed = parse_release(data)
    assert len(parsed.entries()) == sum(map(len, parsed.raw["tables"].values())) + len(parsed.raw["shards"]) + len(parsed.raw["files"])


def test_a_release_follows_only_one_that_is_whole(place: Path) -> None:
    """A changed release.json of the newest release is found when the next would be made: the chain never takes a false root in."""
    path = place / "set" / "releases" / "v2" / "release.json"
    path.write_text(path.read_text().replace('"code_version": "test"', '"code_version": "tesT"', 1))
    with pytest.raises(ReleaseError, match="expected the newest release to be as it was released"):
        release(ManifestStore(place / "set"), "v3", place / "key")


def test_releases_made_at_once_form_one_chain(place: Path) -> None:
    """Three at the same time: three releases, each after another."""
    store = ManifestStore(place / "set")
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda n: release(store, f"w{n}"), range(3)))
    assert sorted(len(m.release.chain) for m in made) == [2, 3, 4]
    assert len({m.release.root for m in made}) == 3


def test_the_signature_is_plain_dsse_and_in_toto(pristine: Path) -> None:
    """Checked by hand, as any other tool would: Ed25519 over the DSSE pre-authentication encoding, a Statement v1 inside."""
    folder = pristine / "set" / "releases" / "v1"
    envelope = json.loads((folder / "release.dsse.json").read_text())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    public = load_pem_public_key((pristine / "key.pub").read_bytes())
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)  # type: ignore[union-attr,call-arg]
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1" and kind == b"application/vnd.in-toto+json"
    assert statement["subject"][0]["digest"]["sha256"] == hashlib.sha256((folder / "release.json").read_bytes()).hexdigest()
    assert statement["predicate"]["merkle_root"] == read_release(folder).root


def test_what_may_not_be_trained_on_is_not_released(tmp_path: Path) -> None:
    """A kept clip on the deny list stops the release by name and takedown, and leaves nothing behind; dropped ones do not."""
    store = make_dataset(tmp_path / "set")
    kept, dropped = kept_and_dropped(store)
    clip = kept.column("clip_id").to_pylist()[0]
    deny.deny(store.root, dropped.column("clip_id").to_pylist(), 6)
    release(store, "v1")
    deny.deny(store.root, [clip], 7)
    with pytest.raises(ReleaseError, match=rf"found 1, the first {clip}, by takedown 7"):
        release(store, "v2")
    assert [p.name for p in (store.root / "releases").iterdir() if not p.name.startswith(".")] == ["v1"]


def test_a_file_that_could_not_be_read_is_no_hindrance(tmp_path: Path) -> None:
    """Assets without bytes stand in the released tables; the tree has a leaf for every other; the release holds."""
    store = make_dataset(tmp_path / "set")
    assets: list[Asset] = from_table(Asset, store.read("assets"))
    missing: dict[str, Any] = {"asset_sha256": b"", "asset_md5": b"", "size_bytes": 0, "kind": None, "readable": 0.0, "decision": "drop"}
    more = [dataclasses.replace(assets[0], asset_id=f"{i:032x}", asset_no=len(assets) + i, uri=f"gone-{i}", **missing) for i in range(2)]
    store.commit("f" * 32, replace={"assets": to_table(Asset, [*assets, *more])})
    made = release(store)
    assert check_release(made.folder, Trust(key=None)).faults == ()
    assert treefile.open_tree(made.folder, leaves.ASSETS).rows["key"].shape[0] == len(assets)
