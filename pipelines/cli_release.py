"""The commands of releases: keys, freezing and signing a version, and proofs about what is in it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.console import AsJson, Dataset, Version, errors, print_table, store_of

app = typer.Typer()

ReleaseFolder = Annotated[Path, typer.Argument(help="Folder of the release, e.g. dataset/releases/v1.")]


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="File of the private key; the public key goes to FILE.pub.")],
    as_json: AsJson = False,
) -> None:
    """Make an Ed25519 key pair to sign releases with: FILE (keep it to yourself) and FILE.pub (give it to everybody).

    A key is never overwritten. Whoever has FILE.pub from you can tell your releases from anybody else's:

      dailies verify dataset/releases/v1 --key FILE.pub
    """
    from manifests.signing import SigningError, generate_key, public_path_of

    with errors(SigningError, OSError):
        keyid = generate_key(file)
    if as_json:
        print(json.dumps({"private": str(file), "public": str(public_path_of(file)), "keyid": keyid}))
    else:
        print(f"{file}: private key, readable by you alone\n{public_path_of(file)}: public key {keyid}")


@app.command()
def release(
    dataset: Dataset,
    name: Annotated[str, typer.Argument(help="Name of the release: letters, digits, '.', '_' and '-'.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="Private key file from `dailies keygen`; without it the release is not signed.")
    ] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Freeze a version: hashes of all tables and shards, Merkle root, signature, data card, Croissant, EU summary, lineage, credits.

    The folder dataset/releases/NAME appears whole or not at all. A release never changes; the same command again says it is there.
    """
    from manifests.release import STEPS
    from manifests.release_file import ReleaseError
    from manifests.signing import SigningError
    from pipelines.one_run import DatasetBusy
    from pipelines.progress import Progress
    from pipelines.release import release as make

    store_of(dataset)
    with errors(ReleaseError, SigningError, DatasetBusy), Progress(quiet=as_json).stage("release", len(STEPS)) as advance:
        made = make(dataset, name, version, key, lambda step: advance(1))
    found = made.release
    if as_json:
        facts = {
            "folder": str(made.folder),
            "merkle_root": found.root,
            "version": found.version,
            "already": made.already,
            "signed": found.public_key is not None,
        }
        print(json.dumps(facts | {"files": len(found.entries())}))
        return
    rows = [
        ["folder", str(made.folder)],
        ["version", str(found.version)],
        ["clips", f"{found.trees['clips'].rows:,}, of which {found.raw['counts']['kept']:,} in the set"],
        ["shards", f"{len(found.shards):,}"],
        ["Merkle root", found.root],
        ["signature", "none; `--key` signs" if found.public_key is None else f"key {found.raw['signer']['keyid']}"],
    ]
    print_table(["", "this release is there already" if made.already else "released"], rows)


@app.command()
def prove(
    release: ReleaseFolder,
    id: Annotated[
        str | None, typer.Argument(help="Clip id (32 hexadecimal digits), SHA-256 of an original file (64), or a file to hash.")
    ] = None,
    absent: Annotated[str | None, typer.Option("--absent", help="The same, to prove that it is not in the release.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the proof; printed if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a clip or file is in a release, and what it says of it, or that it is absent: as JSON that `verify --proof` accepts.

    Anybody checks it without the dataset, with release.json or with the provider's public key alone; it holds after a takedown too.
    """
    from manifests.files import write_atomic
    from manifests.proofs import ProofError, prove_absent, prove_included
    from manifests.release_file import ReleaseError

    with errors(ProofError, ReleaseError, OSError):
        if (id is None) == (absent is None):
            raise ProofError("expected either an id to prove or --absent ID, found " + ("both" if id else "neither"))
        proof = prove_included(release, _key(id)) if id is not None else prove_absent(release, _key(str(absent)))
        text = json.dumps(proof, indent=1)
        if out is not None:
            write_atomic(out, text.encode() + b"\n")
    said = f"{out}: {proof['key']} is {proof['claim']} {'in' if absent is None else 'from'} release {proof['release']}"
    print(json.dumps(proof) if as_json else text if out is None else said)


def _key(text: str) -> str:
    """The key that is meant: of a file, the SHA-256 of its bytes."""
    from manifests.ids import hash_stream

    path = Path(text)
    if not path.is_file():
        return text.lower()
    with path.open("rb") as source:
        return hash_stream(source)[0].hex()
