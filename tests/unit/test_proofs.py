"""Proofs about clips and files of a release: what is there, what is not, and that both hold after a takedown."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import leaves, merkle, proofs, signing, treefile
from manifests.amendments import Amendment, amend
from manifests.leaves import ASSETS, CLIPS, TREES
from manifests.proofs import ProofError, check_proof, prove_absent, prove_included
from manifests.release_file import RELEASE_JSON, read_release
from manifests.tables import ManifestStore
from tests.release_maker import CREATED, release


def keys(place: Path) -> tuple[list[str], list[str]]:
    """Clip ids and hashes of files."""
    store = ManifestStore(place / "set")
    hashes = [h.hex() for h in store.read("assets").column("asset_sha256").to_pylist()]
    return sorted(store.read("clips").column("clip_id").to_pylist()), sorted(hashes)


def folder(place: Path) -> Path:
    """The release."""
    return place / "set" / "releases" / "v1"


def test_every_clip_and_file_has_a_proof_that_its_release_accepts(released: Path) -> None:
    """With release.json alone, or with the provider's key alone; the fields are those of the manifest."""
    key, bare = signing.load_public(released / "key.pub"), read_release(folder(released))
    clips, assets = keys(released)
    rows = {r["clip_id"]: r for r in ManifestStore(released / "set").read("clips").to_pylist()}
    for wanted in [*clips[::7], *assets]:
        proof = json.loads(json.dumps(prove_included(folder(released), wanted)))
        for shown in (check_proof(proof, bare, None), check_proof(proof, None, key)):
            assert (shown.claim, shown.key, shown.root) == ("included", wanted, bare.root)
            if wanted in rows:
                assert shown.fields is not None
                for name in ("start_us", "end_us", "kind", "decision", "first_fail_rule", "shard_no"):
                    assert shown.fields[name] == rows[wanted][name], name


def test_the_payload_in_the_proof_is_the_sample_in_the_shard(released: Path) -> None:
    """Offset, size and hash of a kept clip lead to its bytes."""
    from hashlib import sha256

    store = ManifestStore(released / "set")
    clip = next(c for c in store.read("clips").to_pylist() if c["decision"] == "keep")
    fields = prove_included(folder(released), clip["clip_id"])["leaves"][0]["fields"]
    shard = store.read("shards").to_pylist()[fields["shard_no"]]
    data = (released / "set" / shard["path"]).read_bytes()[fields["offset"] : fields["offset"] + fields["size_bytes"]]
    assert sha256(data).hexdigest() == fields["payload_sha256"]


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(min_size=16, max_size=16), long=st.binary(min_size=32, max_size=32))
def test_what_is_absent_is_proved_absent(released: Path, raw: bytes, long: bytes) -> None:
    """Any id that is not there, at either end or between; the neighbours show their keys and none of their fields."""
    key = signing.load_public(released / "key.pub")
    for wanted in (raw.hex(), long.hex()):
        proof = prove_absent(folder(released), wanted)
        assert check_proof(proof, None, key).claim == "absent"
        assert not any("fields" in leaf or "field_salt" in leaf for leaf in proof["leaves"])


def test_neither_claim_can_be_made_of_the_other(released: Path) -> None:
    """What is there has no proof of absence, what is not has none of inclusion; junk is no id."""
    clips, assets = keys(released)
    for there in (clips[0], clips[-1], assets[3]):
        with pytest.raises(ProofError, match="expected it to be absent, found it"):
            prove_absent(folder(released), there)
    with pytest.raises(ProofError, match="expected one of the 60 clips"):
        prove_included(folder(released), "ab" * 16)
    for junk in ("", "ab", "AB" * 16, "zz" * 16, "../" * 10 + "ab"):
        with pytest.raises(ProofError, match="expected a clip id"):
            prove_absent(folder(released), junk)


def _forgeries(proof: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A proof changed in every way that a liar would try."""
    made = []

    def change(name: str) -> dict[str, Any]:
        made.append((name, copy.deepcopy(proof)))
        return made[-1][1]

    change("another key")["key"] = other["key"]
    change("another leaf")["leaves"] = other["leaves"]
    change("no leaves")["leaves"] = []
    change("another place")["leaves"][0]["index"] += 1
    change("a negative place")["leaves"][0]["index"] = -1
    change("a sibling less")["leaves"][0]["path"].pop()
    change("a sibling more")["leaves"][0]["path"].append("00" * 32)
    change("the other claim")["claim"] = "absent" if proof["claim"] == "included" else "included"
    change("another tree")["tree"] = "assets"
    change("an unknown tree")["tree"] = "x"
    change("an unknown claim")["claim"] = "maybe"
    change("another salt")["leaves"][0]["key_salt"] = "00" * 16
    if proof["claim"] == "included":
        change("another verdict")["leaves"][0]["fields"]["decision"] = "pending"
        change("a field less")["leaves"][0]["fields"].pop("kind")
        change("a text for a number")["leaves"][0]["fields"]["start_us"] = "0"
        change("another key in the leaf")["leaves"][0]["key"] = other["key"]
    return made


def test_a_forged_proof_is_refused(released: Path) -> None:
    """Every change to a proof of inclusion or absence is refused, by release.json and by the statement alike."""
    bare, public = read_release(folder(released)), signing.load_public(released / "key.pub")
    clips, _ = keys(released)
    included = [prove_included(folder(released), clips[i]) for i in (10, 20)]
    absent = [prove_absent(folder(released), k) for k in ("55" * 16, "aa" * 16)]
    for proof, other in (included, absent):
        for name, forged in _forgeries(proof, other):
            for release_, key in ((bare, None), (None, public)):
                with pytest.raises(ProofError):
                    check_proof(forged, release_, key)
                    pytest.fail(f"accepted: {name}")


def test_neighbours_with_a_gap_prove_nothing(released: Path) -> None:
    """Two true leaves that do not stand side by side do not prove that what lies between them is absent."""
    clips, _ = keys(released)
    proof = prove_absent(folder(released), "ff" * 16)
    low, high = (prove_included(folder(released), clips[i])["leaves"][0] for i in (4, 6))
    forged = proof | {"key": clips[5], "leaves": [low, high]}
    with pytest.raises(ProofError, match="side by side"):
        check_proof(forged, read_release(folder(released)), None)


def test_a_proof_by_another_key_is_refused(released: Path, tmp_path: Path) -> None:
    """Without the folder the provider's key decides; without either a proof shows nothing."""
    proof = prove_absent(folder(released), "ab" * 16)
    signing.generate_key(tmp_path / "other")
    with pytest.raises(ProofError, match="by another key"):
        check_proof(proof, None, signing.load_public(tmp_path / "other.pub"))
    with pytest.raises(ProofError, match="found none"):
        check_proof(proof, None, None)
    with pytest.raises(ProofError, match="not signed"):
        check_proof(proof | {"statement": None}, None, signing.load_public(released / "key.pub"))


@pytest.mark.parametrize("junk", [None, [], {}, "x", 3, {"format": "dailies.proof/1"}, {"tree": "clips", "format": [], "key": {}}])
def test_junk_is_no_proof(junk: object, released: Path) -> None:
    """Anything else gives the one typed error."""
    with pytest.raises(ProofError):
        check_proof(junk, read_release(folder(released)), None)


def test_proofs_need_two_small_files(released: Path, tmp_path: Path) -> None:
    """A folder with release.json and the signature is enough to check a proof."""
    for name in (RELEASE_JSON, "release.dsse.json"):
        shutil.copy(folder(released) / name, tmp_path)
    proof = prove_included(folder(released), keys(released)[0][0])
    assert check_proof(proof, read_release(tmp_path), None).claim == "included"


def test_proofs_survive_a_takedown(place: Path) -> None:
    """Old proofs of erased rows hold; new ones cannot be made; everything about other rows, and absence beside them, still can."""
    key = signing.load_public(place / "key.pub")
    clips, assets = keys(place)
    gone, near = clips[5], clips[6]
    before = [prove_included(folder(place), gone), prove_included(folder(place), near), prove_absent(folder(place), "ab" * 16)]
    beside = f"{int(gone, 16) + 1:032x}"
    amend(
        folder(place),
        Amendment(takedown_no=1, reason_code="copyright", at=CREATED, clip_ids=(gone,), asset_sha256=(bytes.fromhex(assets[2]),)),
        place / "key",
    )
    for proof in before:
        assert check_proof(proof, read_release(folder(place)), None).claim == proof["claim"]
    with pytest.raises(ProofError, match="erased by a takedown"):
        prove_included(folder(place), gone)
    with pytest.raises(ProofError, match="erased by a takedown"):
        prove_included(folder(place), assets[2])
    assert check_proof(prove_included(folder(place), near), None, key).key == near
    assert check_proof(prove_absent(folder(place), beside), None, key).claim == "absent"


def test_a_row_erased_with_its_key_leaves_nothing_to_link(place: Path) -> None:
    """Neither key nor salt is left in the release; nothing is proved absent right beside it; elsewhere all goes on."""
    clips, _ = keys(place)
    gone = clips[9]
    amend(folder(place), Amendment(takedown_no=2, reason_code="privacy", at=CREATED, clip_ids=(gone,), keys_too=True), place / "key")
    assert not any(bytes.fromhex(gone) in p.read_bytes() for p in (folder(place) / "tree").iterdir())
    for wanted in (gone, f"{int(gone, 16) + 1:032x}"):
        with pytest.raises(ProofError, match="erased with its key"):
            prove_absent(folder(place), wanted)
    assert prove_absent(folder(place), "00" * 16)["claim"] == "absent"
    assert prove_included(folder(place), clips[8])["key"] == clips[8]
    assert prove_included(folder(place), clips[10])["key"] == clips[10]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40), erased=st.sets(st.integers(0, 39)), keys_too=st.booleans(), tree=st.sampled_from(TREES), seed=st.integers(0, 99)
)
def test_erasing_never_moves_the_root(
    tmp_path_factory: pytest.TempPathFactory, n: int, erased: set[int], keys_too: bool, tree: leaves.Tree, seed: int
) -> None:
    """Whatever rows are erased, in whatever way, root and paths stay, and every key that is left is found at its place."""
    place = tmp_path_factory.mktemp("erase")
    draw = np.random.Generator(np.random.Philox(key=seed))
    all_keys = np.unique(draw.integers(0, 256, (n, tree.key_bytes), np.uint8), axis=0)
    rows = leaves.Rows(all_keys, draw.integers(0, 256, (len(all_keys), tree.fields.itemsize), np.uint8))
    root = treefile.write_tree(place, tree, rows, lambda size: draw.bytes(size))
    erased = {e for e in erased if e < len(all_keys)}
    treefile.erase(place, tree, erased, keys_too=keys_too)
    file = treefile.open_tree(place, tree)
    assert treefile.root_of_rows(file) == root
    for i, key in enumerate(all_keys):
        hidden = i in erased and keys_too
        assert file.find(key.tobytes()) == (None if hidden else i)
        leaf = file.leaves(i, i + 1)[0].tobytes()
        assert merkle.root_of_path(leaf, i, len(all_keys), file.path(i)) == root
        if i in erased:
            assert not file.rows["field_salt"][i].any()


@settings(max_examples=80, deadline=None)
@given(data=st.data(), tree=st.sampled_from([CLIPS, ASSETS]))
def test_fields_are_the_same_bytes_after_they_were_read(data: st.DataObject, tree: leaves.Tree) -> None:
    """describe and undescribe are each other's inverse on rows that the tables can hold."""
    row = np.zeros(1, tree.fields)
    for name in tree.fields.names or ():
        if name in ("kind", "decision"):
            row[name] = data.draw(st.sampled_from([0, 1, 2, 255]))
        elif name.endswith("_sha256"):
            row[name] = np.frombuffer(data.draw(st.binary(min_size=32, max_size=32)), np.uint8)
        else:
            row[name] = data.draw(st.integers(-1, 2**31 - 1))
    told = json.loads(json.dumps(leaves.describe(tree, row.tobytes())))
    assert leaves.undescribe(tree, told) == row.tobytes()


def test_two_releases_of_the_same_rows_share_no_leaf(released: Path, tmp_path: Path) -> None:
    """Salts are drawn anew: nobody can match rows of one release with those of another by their leaves."""
    shutil.copytree(released / "set", tmp_path / "set")
    release(ManifestStore(tmp_path / "set"), "v2")
    one, two = (treefile.open_tree(tmp_path / "set" / "releases" / n, CLIPS).leaves() for n in ("v1", "v2"))
    assert not {r.tobytes() for r in one} & {r.tobytes() for r in two}
    assert proofs.tree_of("ab" * 32) is ASSETS
