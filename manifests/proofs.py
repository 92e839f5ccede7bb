"""Proofs about one clip or file of a release, as JSON that holds for ever: with release.json, or with its signed statement inside.

    {"format": "dailies.proof/1", "claim": "included" | "absent", "tree": "clips" | "assets", "key": …, "rows": n, "root": …,
     "leaves": [{"index", "key", "key_salt", "fields", "field_salt", "field_commitment", "path"}], "statement": DSSE envelope or null}

Included: one leaf with that key and its fields. Absent: the two neighbours between which it would stand (one at an end), by their keys
alone: their fields stay private. What was erased by a takedown cannot be proved any more; a proof made before, and every proof about
other rows, goes on to hold, because no leaf ever changes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests import leaves, merkle, signing, treefile
from manifests.leaves import TREES, Tree
from manifests.release_file import PREDICATE, SIGNATURE, Release, read_release
from manifests.signing import SigningError

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

FORMAT = "dailies.proof/1"
INCLUDED, ABSENT = "included", "absent"


class ProofError(Exception):
    """A proof cannot be made, or does not hold; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """What a proof shows, of which release. `fields` of the row where it is included."""

    claim: str
    tree: str
    key: str
    release: str
    root: str
    signed_by: str | None
    fields: dict[str, Any] | None


def tree_of(key: str) -> Tree:
    """The tree that a key belongs to: 32 hexadecimal digits are a clip's id, 64 the SHA-256 of a file. ProofError for anything else."""
    found = next((t for t in TREES if len(key) == 2 * t.key_bytes), None)
    if found is None or key.strip("0123456789abcdef"):
        raise ProofError(f"{key!r}: expected a clip id (32 hexadecimal digits, lower case) or the SHA-256 of a file (64)")
    return found


def prove_included(folder: Path, key: str, dataset: Path | None = None) -> dict[str, Any]:
    """The proof that a clip or file stands in a release, with what it says of it. ProofError when it does not, or was erased."""
    release, tree = read_release(folder), tree_of(key)
    file = _open(folder, tree)
    index = file.find(bytes.fromhex(key))
    if index is None:
        raise ProofError(
            f"{key}: expected one of the {len(file)} {tree.name} of release {release.name}, found none; `--absent` proves that"
        )
    if file.rows["state"][index] != treefile.LIVE:
        raise ProofError(f"{key}: its row was erased by a takedown and cannot be proved any more; a proof made before still holds")
    dataset = folder.absolute().parent.parent if dataset is None else dataset
    rows = leaves.one_row(tree, release.table_files(dataset), bytes.fromhex(key))
    if len(rows.fields) != 1:
        raise ProofError(
            f"{key}: expected its row in the tables of version {release.version}, found {len(rows.fields)}; `dailies verify {folder}` says more"
        )
    leaf = _leaf(file, index) | {
        "fields": leaves.describe(tree, bytes(rows.fields[0])),
        "field_salt": bytes(file.rows["field_salt"][index]).hex(),
    }
    return _proof(folder, release, tree, INCLUDED, key, [leaf])


def prove_absent(folder: Path, key: str) -> dict[str, Any]:
    """The proof that no clip or file of this key stands in a release. ProofError when one does, or when a neighbour was erased whole."""
    release, tree = read_release(folder), tree_of(key)
    file = _open(folder, tree)
    wanted = bytes.fromhex(key)
    if file.find(wanted) is not None:
        raise ProofError(
            f"{key}: expected it to be absent, found it among the {tree.name} of release {release.name}; prove that without --absent"
        )
    above = file.place(wanted)
    found = []
    for index in (above - 1, above):
        if 0 <= index < len(file):
            if file.rows["state"][index] == treefile.GONE:
                raise ProofError(
                    f"{key}: a row that would stand beside it was erased with its key, so nothing can be proved absent there; ask of another release"
                )
            found.append(_leaf(file, index))
    return _proof(folder, release, tree, ABSENT, key, found)


def check_proof(proof: Any, release: Release | None, key: "SSlibKey | None") -> Proved:
    """What a proof shows. The root is the release's, or that of the statement inside; with a key given its signature must hold.

    ProofError names the first thing that does not hold.
    """
    try:
        tree = next(t for t in TREES if t.name == proof["tree"])
        if proof["format"] != FORMAT or tree_of(proof["key"]) is not tree:
            raise ProofError(f"expected a proof of format {FORMAT} about one of the {tree.name}, found another")
        name, root, trees, signed_by = _said(proof, release, key)
        rows, tree_root = int(trees[tree.name]["rows"]), str(trees[tree.name]["root"])
        places = [_check_leaf(tree, leaf, rows, tree_root) for leaf in proof["leaves"]]
        fields = None
        if proof["claim"] == INCLUDED:
            fields = _check_included(tree, proof["key"], proof["leaves"])
        elif proof["claim"] == ABSENT:
            _check_absent(proof["key"], proof["leaves"], places, rows)
        else:
            raise ProofError(f"expected the claim included or absent, found {proof['claim']!r}")
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError, RecursionError) as error:
        raise ProofError(f"expected a proof of format {FORMAT}, found something else ({type(error).__name__}: {error})") from error
    return Proved(claim=proof["claim"], tree=tree.name, key=proof["key"], release=name, root=root, signed_by=signed_by, fields=fields)


def _said(proof: Any, release: Release | None, key: "SSlibKey | None") -> tuple[str, str, Mapping[str, Any], str | None]:
    """Name, root and trees of the release, from its release.json or from the statement inside the proof."""
    if release is not None:
        return release.name, release.root, release.raw["trees"], None
    if proof["statement"] is None:
        raise ProofError("expected a signed statement inside, found none, as the release is not signed: give its folder too")
    if key is None:
        raise ProofError(
            "expected --key with the provider's public key, found none: without it, or the release's folder, a proof shows nothing"
        )
    try:
        statement = signing.unseal(proof["statement"], key)
    except SigningError as error:
        raise ProofError(f"statement: {error}") from error
    if statement.predicate_type != PREDICATE:
        raise ProofError(f"expected a statement about a release, found one of type {statement.predicate_type}")
    said = statement.predicate
    return str(said["name"]), str(said["merkle_root"]), said["trees"], str(key.keyid)


def _check_leaf(tree: Tree, leaf: Mapping[str, Any], rows: int, root: str) -> int:
    """The leaf's place, after its path was followed to the root."""
    index = leaf["index"]
    if type(index) is not int:
        raise ValueError(f"index is {index!r}")
    key, salt, commitment = (
        _bytes(leaf[n], size) for n, size in (("key", tree.key_bytes), ("key_salt", leaves.SALT_BYTES), ("field_commitment", 32))
    )
    of_key = sha256(b"\2" + salt + key).digest()
    hashed = sha256(b"\0" + of_key + commitment).digest()
    found = merkle.root_of_path(hashed, index, rows, [_bytes(p, merkle.HASH_BYTES) for p in leaf["path"]])
    if found is None or found.hex() != root:
        raise ProofError(
            f"leaf {index}: expected its path to end at the root {root} of {tree.name}, found {'no root' if found is None else found.hex()}"
        )
    return index


def _check_included(tree: Tree, key: str, found: list[Any]) -> dict[str, Any]:
    (leaf,) = found
    if leaf["key"] != key:
        raise ProofError(f"expected the leaf of {key}, found that of {leaf['key']}")
    data = leaves.undescribe(tree, leaf["fields"])
    if sha256(b"\3" + _bytes(leaf["field_salt"], leaves.SALT_BYTES) + data).hexdigest() != leaf["field_commitment"]:
        raise ProofError("expected the fields that the leaf commits to, found others")
    return dict(leaf["fields"])


def _check_absent(key: str, found: list[Any], places: list[int], rows: int) -> None:
    """The neighbours stand side by side, or at an end, and the key between them."""
    below = [(i, leaf["key"]) for i, leaf in zip(places, found, strict=True) if leaf["key"] < key]
    above = [(i, leaf["key"]) for i, leaf in zip(places, found, strict=True) if leaf["key"] > key]
    if len(below) + len(above) != len(found) or len(below) > 1 or len(above) > 1:
        raise ProofError("expected one neighbour below and one above, found others")
    low, high = below[0][0] if below else -1, above[0][0] if above else rows
    if high != low + 1:
        raise ProofError(f"expected neighbours side by side, found places {low} and {high} of {rows}")


def _leaf(file: treefile.TreeFile, index: int) -> dict[str, Any]:
    row = file.rows[index]
    opened = {name: bytes(row[name]).hex() for name in ("key", "key_salt")}
    path = [p.hex() for p in file.path(index)]
    return {"index": index, **opened, "field_commitment": bytes(row["commitment"]).hex(), "path": path}


def _proof(folder: Path, release: Release, tree: Tree, claim: str, key: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    said = release.trees[tree.name]
    signature = folder / SIGNATURE
    proof = {
        "format": FORMAT,
        "claim": claim,
        "tree": tree.name,
        "key": key,
        "release": release.name,
        "merkle_root": release.root,
        "rows": said.rows,
        "root": said.root,
        "leaves": found,
        "statement": json.loads(signature.read_bytes()) if signature.is_file() else None,
    }
    check_proof(proof, release, None)  # a damaged tree makes a proof that nobody would accept: say so here
    return proof


def _open(folder: Path, tree: Tree) -> treefile.TreeFile:
    try:
        return treefile.open_tree(folder, tree)
    except (OSError, ValueError) as error:
        raise ProofError(
            f"{folder}: expected the tree of {tree.name}, found none that can be read ({error}); `dailies verify {folder}` says more"
        ) from error


def _bytes(value: Any, size: int) -> bytes:
    data = bytes.fromhex(value)
    if len(data) != size or data.hex() != value:
        raise ValueError(f"expected {2 * size} hexadecimal digits, found {value!r}")
    return data
