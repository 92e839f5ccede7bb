"""What `verify` finds beside shards: receipts that are not those that were signed, and files that Delta says are of another size."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from manifests import signing
from manifests.integrity import RECEIPT, check_receipt, verify
from manifests.tables import ManifestStore
from pipelines import takedown
from pipelines.cli import app
from pipelines.takedown_case import Case
from tests.release_maker import make_dataset


def run(*arguments: object) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def make_receipt(root: Path, key: Path | None) -> Path:
    """The receipt of a made-up case, as a takedown writes it."""
    case = Case(
        takedown_no=1, digest="ab" * 16, selectors=("asset:cd",), basis="copyright", reason="test", received_at="2026-11-25T06:00:00+00:00",
        asset_ids=("cd" * 16,), asset_nos=(3,), asset_sha256=("ef" * 32,), clip_ids=("01" * 16,), clip_nos=(7,), blocks=(), releases=(),
        checkpoints=(),
    )  # fmt: skip
    (root / "takedowns").mkdir(parents=True)
    return takedown.write_receipt(root, case, {"shards": {}}, key)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public half lies beside it."""
    signing.generate_key(tmp_path / "key")
    return tmp_path / "key"


def test_a_signed_receipt_is_said_to_be(tmp_path: Path, key: Path) -> None:
    """With the key: signed by it, by either file's name. Without: whom it names. With another: status 1."""
    receipt, public = make_receipt(tmp_path / "set", key), tmp_path / "key.pub"
    keyid = str(signing.load_public(public).keyid)
    for path in (receipt, receipt.with_suffix(".dsse.json")):
        shown = run("verify", path, "--key", public)
        assert shown.exit_code == 0 and f"receipt of takedown 1, signed by key {keyid}: all hold" in shown.output
    unknown = run("verify", receipt)
    assert unknown.exit_code == 0 and "signed by" not in unknown.output and f"names {keyid} as its signer: give the" in unknown.output
    signing.generate_key(tmp_path / "other")
    wrong = run("verify", receipt, "--key", tmp_path / "other.pub")
    assert wrong.exit_code == 1 and "by another key" in wrong.output and "no signature that holds" in wrong.output
    found = json.loads(run("verify", receipt, "--key", public, "--json").output)
    assert (found["takedown_no"], found["signed_by"], found["faults"]) == (1, keyid, 0)


def test_a_receipt_without_a_signature_is_not_signed(tmp_path: Path, key: Path) -> None:
    """Its hash holds and it is said to be not signed; to whoever asks for a key it is a fault."""
    receipt = make_receipt(tmp_path / "set", None)
    shown = run("verify", receipt)
    assert shown.exit_code == 0 and "receipt of takedown 1, not signed: all hold" in shown.output
    asked = run("verify", receipt, "--key", tmp_path / "key.pub")
    assert asked.exit_code == 1 and "found no signature" in asked.output and "not signed: 1 FAULTS" in asked.output


@pytest.mark.parametrize("signed", [True, False])
def test_a_flipped_byte_of_a_receipt_is_found(tmp_path: Path, key: Path, signed: bool) -> None:
    """Any byte of the receipt, signed or not, with the key or without; the command has status 1."""
    receipt = make_receipt(tmp_path / "set", key if signed else None)
    public = signing.load_public(tmp_path / "key.pub") if signed else None
    data = receipt.read_bytes()
    for at in range(0, len(data), 7):
        receipt.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert check_receipt(receipt, None).faults and check_receipt(receipt, public).faults, at
    assert run("verify", receipt).exit_code == 1
    receipt.write_bytes(data)
    assert check_receipt(receipt, public).faults == ()


def test_a_changed_or_missing_envelope_is_found(tmp_path: Path, key: Path) -> None:
    """Another case's statement, another payload, another signature, junk, no file: each is a fault, none a traceback."""
    receipt, public = make_receipt(tmp_path / "set", key), signing.load_public(tmp_path / "key.pub")
    envelope = receipt.with_suffix(".dsse.json")
    good = json.loads(envelope.read_bytes())
    said = signing.unseal(good, None)
    signer = signing.load_signer(key)
    others = [
        signing.seal(signing.Statement(subject=s, sha256=said.sha256, predicate_type=t, predicate={"takedown_no": n}), signer)
        for s, t, n in ((said.subject, RECEIPT, 2), ("000002.json", RECEIPT, 1), (said.subject, "urn:x", 1))
    ]
    signature = {"keyid": good["signatures"][0]["keyid"], "sig": "A" * len(good["signatures"][0]["sig"])}
    for changed in [*others, good | {"payload": good["payload"][:-8]}, good | {"signatures": [signature]}, [], {}, "x", 3]:
        envelope.write_text(json.dumps(changed))
        assert check_receipt(receipt, public).faults, changed
    for junk in (b"", b"\xff", b"[" * 100_000):
        envelope.write_bytes(junk)
        assert check_receipt(receipt, None).faults, junk[:9]
    envelope.unlink()
    missing = run("verify", receipt)
    assert missing.exit_code == 1 and "000001.dsse.json" in missing.output


def test_what_is_no_receipt_is_told(tmp_path: Path) -> None:
    """Another JSON file: status 1, and what was expected; none: a wrong command."""
    (tmp_path / "x.json").write_text("{}")
    other = run("verify", tmp_path / "x.json")
    assert other.exit_code == 1 and "expected the receipt of a takedown, found something else" in other.output
    assert run("verify", tmp_path / "nothing.json").exit_code == 2


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two versions that differ in their clips. Nobody changes it."""
    root = tmp_path_factory.mktemp("sizes") / "a set"
    store = make_dataset(root, 12)
    store.commit("c" * 32, replace={"clips": store.read("clips")})
    return root


@pytest.fixture
def dataset(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(original, tmp_path / "a set")
    return tmp_path / "a set"


def test_a_table_file_that_grew_or_shrank_is_named(dataset: Path) -> None:
    """Of any table: a file filled up before its footer, which pyarrow goes on to read, and one cut off, which it does not."""
    store = ManifestStore(dataset)
    assert verify(store) == []
    for table in ("clips", "runs", "captions", "shards", "members"):
        (path, *_) = (Path(f) for f in store.files(table))
        data, name = path.read_bytes(), path.relative_to(dataset).as_posix()
        footer = int.from_bytes(data[-8:-4], "little") + 8
        path.write_bytes(data[:-footer] + bytes(100) + data[-footer:])
        (fault,) = verify(store)
        assert (fault.path, fault.expected, fault.found) == (name, f"{len(data)} bytes, as Delta's log says", f"{len(data) + 100} bytes")
        path.write_bytes(data[:-20])
        assert name in {f.path for f in verify(store)}
        shown = run("verify", dataset)
        assert shown.exit_code == 1 and name in shown.output and re.search(r"\d FAULTS", shown.output), shown.output
        path.write_bytes(data)
    assert run("verify", dataset).exit_code == 0


def test_a_file_of_an_older_version_is_looked_at_too(dataset: Path) -> None:
    """Without a version every readable one, with a version that one; what a purge took is not missed."""
    store = ManifestStore(dataset)
    (old,) = set(store.files("clips", 0)) - set(store.files("clips", 1))
    Path(old).write_bytes(Path(old).read_bytes() + b"x")
    name = Path(old).relative_to(dataset).as_posix()
    assert [f.path for f in verify(store)] == [name] and verify(store, 1) == []
    assert name in {f.path for f in verify(store, 0)}
    Path(old).unlink()
    assert [(f.path, f.found) for f in verify(store)] == [(name, "no file")]
    assert store.purge().versions == (0,)
    assert verify(store) == []
