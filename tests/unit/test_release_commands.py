"""keygen, release, prove and verify as commands: exit status, text, JSON, and errors in a sentence."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines.cli import app
from tests.release_maker import make_dataset


def run(*arguments: object) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def told(result: Result) -> dict[str, object]:
    """The last line as JSON."""
    found: dict[str, object] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a key, and a release made by the command."""
    root = tmp_path_factory.mktemp("commands")
    make_dataset(root / "set")
    assert run("keygen", root / "key").exit_code == 0
    done = run("release", root / "set", "v1", "--key", root / "key")
    assert done.exit_code == 0, done.output
    return root


def test_a_key_is_made_once(place: Path) -> None:
    """Status 2 and a sentence when the file is there."""
    again = run("keygen", place / "key")
    assert again.exit_code == 2 and "never overwritten" in again.output
    assert set(told(run("keygen", place / "second", "--json"))) == {"private", "public", "keyid"}


def test_a_release_is_made_and_verified(place: Path) -> None:
    """Made, there already, verified with the key, refused with another, unknown key file told."""
    assert told(run("release", place / "set", "v1", "--key", place / "key", "--json"))["already"] is True
    found = told(run("verify", place / "set" / "releases" / "v1", "--key", place / "key.pub", "--json"))
    assert found["faults"] == 0 and found["trusted"] is True
    text = run("verify", place / "set" / "releases" / "v1")
    assert text.exit_code == 0 and "compare it with one from the provider" in text.output
    run("keygen", place / "other")
    wrong = run("verify", place / "set" / "releases" / "v1", "--key", place / "other.pub")
    assert wrong.exit_code == 1 and "by another key" in wrong.output and "1 FAULTS" in wrong.output
    assert run("verify", place / "set" / "releases" / "v1", "--key", place / "nothing").exit_code == 2
    assert run("release", place / "set", "../x").exit_code == 2


def test_an_older_release_fails_to_verify(place: Path) -> None:
    """Status 1 for the older one, given the newer's root or its release.json."""
    root = told(run("release", place / "set", "v2", "--key", place / "key", "--json"))["merkle_root"]
    old = place / "set" / "releases" / "v1"
    assert run("verify", old, "--latest-known", root).exit_code == 1
    assert run("verify", old, "--after", place / "set" / "releases" / "v2" / "release.json").exit_code == 1
    assert run("verify", place / "set" / "releases" / "v2", "--after", old / "release.json").exit_code == 0
    assert run("verify", old, "--after", place / "key").exit_code == 2


def test_proofs_go_from_command_to_command(place: Path, tmp_path: Path) -> None:
    """By clip id, by hash, of a file; absent; checked with the key alone or with the folder; a forged one has status 1; with neither
    nothing can be checked, which is a wrong command."""
    clip = told(run("query", place / "set", "select clip_id from clips limit 1", "--json"))[0]["clip_id"]  # type: ignore[index]
    folder, key = place / "set" / "releases" / "v1", place / "key.pub"
    (tmp_path / "film.mp4").write_bytes(b"not in it")
    absent = hashlib.sha256(b"not in it").hexdigest()
    for arguments, claim in (((clip,), "included"), (("--absent", absent), "absent"), (("--absent", tmp_path / "film.mp4"), "absent")):
        done = run("prove", folder, *arguments, "--out", tmp_path / "proof.json")
        assert done.exit_code == 0, done.output
        for known in ((folder,), ("--key", key)):
            shown = told(run("verify", *known, "--proof", tmp_path / "proof.json", "--json"))
            assert (shown["claim"], shown["faults"]) == (claim, 0)
    assert run("verify", "--proof", tmp_path / "proof.json").exit_code == 2
    forged = json.loads((tmp_path / "proof.json").read_text()) | {"key": "00" * 32}
    (tmp_path / "proof.json").write_text(json.dumps(forged))
    assert run("verify", "--proof", tmp_path / "proof.json", "--key", key).exit_code == 1
    assert json.loads(run("prove", folder, clip, "--json").stdout)["key"] == clip


def test_a_proof_needs_a_root_that_follows_from_the_release(place: Path, tmp_path: Path) -> None:
    """An unsigned release.json whose trees were exchanged below its root: the proof of what was added is not believed."""
    make_dataset(tmp_path / "set", 12)
    assert run("release", tmp_path / "set", "r").exit_code == 0
    real = tmp_path / "set" / "releases" / "r"
    other = place / "set" / "releases" / "v1"
    clip = told(run("query", place / "set", "select clip_id from clips limit 1", "--json"))[0]["clip_id"]  # type: ignore[index]
    assert run("prove", other, clip, "--out", tmp_path / "proof.json").exit_code == 0
    trees = json.loads((other / "release.json").read_text())["trees"]
    (real / "release.json").write_text(json.dumps(json.loads((real / "release.json").read_text()) | {"trees": trees}))
    shown = run("verify", real, "--proof", tmp_path / "proof.json")
    assert shown.exit_code == 1 and "the Merkle root" in shown.output and "1 FAULTS" in shown.output
    assert "is in release" not in shown.output and told(run("verify", real, "--proof", tmp_path / "proof.json", "--json"))["faults"] == 1


def test_a_proof_says_who_vouches_for_its_release(place: Path, tmp_path: Path) -> None:
    """A release with its own key only: said, as for the release itself; with --key it is trusted; without a signature 'not signed'."""
    clip = told(run("query", place / "set", "select clip_id from clips limit 1", "--json"))[0]["clip_id"]  # type: ignore[index]
    folder, proof = place / "set" / "releases" / "v1", tmp_path / "proof.json"
    assert run("prove", folder, clip, "--out", proof).exit_code == 0
    named = run("verify", folder, "--proof", proof)
    assert named.exit_code == 0 and "which the release names itself: compare it with one from the provider" in named.output
    vouched = run("verify", folder, "--proof", proof, "--key", place / "key.pub")
    assert vouched.exit_code == 0 and "names itself" not in vouched.output
    assert told(run("verify", folder, "--proof", proof, "--json"))["trusted"] is False
    assert told(run("verify", folder, "--proof", proof, "--key", place / "key.pub", "--json"))["trusted"] is True
    make_dataset(tmp_path / "set", 12)
    run("release", tmp_path / "set", "r")
    clip = told(run("query", tmp_path / "set", "select clip_id from clips limit 1", "--json"))[0]["clip_id"]  # type: ignore[index]
    run("prove", tmp_path / "set" / "releases" / "r", clip, "--out", proof)
    assert ", not signed: all hold" in run("verify", tmp_path / "set" / "releases" / "r", "--proof", proof).output


def test_a_release_without_a_signature_is_not_signed(place: Path, tmp_path: Path) -> None:
    """'not signed' for one made without a key; 'no signature that holds' for one whose signature was taken away."""
    make_dataset(tmp_path / "set", 12)
    run("release", tmp_path / "set", "r")
    assert ", not signed: all hold" in run("verify", tmp_path / "set" / "releases" / "r").output
    shutil.copytree(place / "set" / "releases" / "v1", tmp_path / "v1")
    (tmp_path / "v1" / "release.dsse.json").unlink()
    stripped = run("verify", tmp_path / "v1", "--data", place / "set")
    assert stripped.exit_code == 1 and "no signature that holds: 1 FAULTS" in stripped.output


def test_what_is_asked_wrongly_has_status_2(place: Path) -> None:
    """Neither or both of id and --absent; nothing to verify; no release there."""
    folder = place / "set" / "releases" / "v1"
    assert run("prove", folder).exit_code == run("prove", folder, "ab" * 16, "--absent", "ab" * 16).exit_code == 2
    assert run("verify").exit_code == 2
    assert run("prove", place, "ab" * 16).exit_code == 2
    assert run("prove", folder, "junk").exit_code == 2


def test_verify_still_takes_a_dataset(place: Path) -> None:
    """The same command on a dataset checks shards and members against the newest version."""
    assert told(run("verify", place / "set", "--json"))["faults"] == 0
