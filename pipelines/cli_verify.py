"""The command that checks whether what lies on disk is what was written: of datasets, releases, proofs, receipts and films."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.wording import visible
from pipelines.console import AsJson, Version, cell, errors, need_file, print_table, store_of, tell_unreadable

if TYPE_CHECKING:
    from manifests.release_file import Release
    from manifests.tables import ManifestStore

app = typer.Typer()

_LOOK_S = 300.0
"""For reading the Content Credentials of a film, which hashes all of it."""


@app.command()
def verify(
    target: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a dataset, or of a release of it (dataset/releases/NAME); a takedown's receipt "
            "(dataset/takedowns/000001.json); or a film of `dailies generate`."
        ),
    ] = None,
    version: Version = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Release, proof, receipt or film: the provider's public key, which has to have signed it.")
    ] = None,
    latest_known: Annotated[
        str | None, typer.Option("--latest-known", help="Release: Merkle root of the newest release you know of.")
    ] = None,
    after: Annotated[
        Path | None, typer.Option("--after", help="Release: a release.json or release.dsse.json that you kept; older is refused.")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", help="A proof from `dailies prove`; needs the release's folder, or --key.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Release: folder of its dataset, if it was moved away from it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that what lies on disk is what was written: of a dataset, release, receipt or proof. Offline; says which file or row is not.

    A dataset: every shard's hash, every member's offset, size and hash, every count against the manifest, every table file's size.
    A release: signature, every file, every row, every shard, and that it is no older one than you know.
    A takedown's receipt (takedowns/000001.json): that its bytes are those that 000001.dsse.json beside it signs.
    A film (FILE.mp4): that its note speaks of these pictures and this sound as they are shown, which models made them, who signed that, and
    the state of its Content Credentials.
    """
    from manifests.release_check import is_release

    given = {"--version": version, "--key": key, "--latest-known": latest_known, "--after": after, "--data": data}

    def is_a(what: str, *fitting: str) -> None:
        """BadParameter where an option was given that is not looked at: who gave it would take it for checked."""
        if extra := [name for name, value in given.items() if value is not None and name not in fitting]:
            raise typer.BadParameter(f"expected {what} without {', '.join(extra)}, which says nothing of it")

    if proof is not None:
        is_a("a proof", "--key")
        if target is None and key is None:
            raise typer.BadParameter("expected --proof with the folder of its release, or with --key, found neither")
        _verify_proof(need_file(proof), target, key, as_json)
    elif target is None:
        raise typer.BadParameter("expected the folder of a dataset or release, or --proof FILE, found none")
    elif target.suffix == ".mp4":
        is_a("a film", "--key")
        _verify_film(need_file(target), key, as_json)
    elif target.suffix == ".json":
        is_a("a receipt", "--key")
        _verify_receipt(need_file(target), key, as_json)
    elif is_release(target):
        is_a("a release", "--key", "--latest-known", "--after", "--data")
        _verify_release(target, key, latest_known, after, data, as_json)
    elif not (target / "manifest").is_dir():
        raise typer.BadParameter(
            f"{target}: expected a dataset (a folder with manifest/), a release (with release.json), a receipt or a film, found none"
        )
    else:
        is_a("a dataset", "--version")
        _verify_dataset(target, version, as_json)


def _verify_film(film: Path, key: Path | None, as_json: bool) -> None:
    from manifests.signing import SigningError, load_public
    from training.film_note import note_signers, read_note

    with errors(SigningError):
        public = load_public(key) if key is not None else None
    credentials = _credentials_of(film)
    try:
        note, signers = read_note(film, public), note_signers(film)
    except SigningError as error:
        said = visible(f"{film}: does not hold: {error}")
        print(json.dumps({"holds": False, "reason": str(error), **credentials}) if as_json else said)
        raise typer.Exit(1) from error
    if as_json:
        by = None if public is None else public.keyid
        print(json.dumps({"holds": True, "signed_by": by, "signers": signers, **credentials, "note": note}))
        return
    if public is not None:
        signed = f"signed by {public.keyid}"
    elif signers:
        signed = f"which names {', '.join(signers)} as its signer: give the maker's key (--key) to check that"
    else:
        signed = "not signed: anyone could have written it"
    print(visible(f"{film}: its note holds, {signed}"))
    print(visible(f"Content Credentials: {', '.join(v for v in credentials.values() if v) or 'not looked for'}"))
    print_table(["model", "stage", "step", "weights"], _model_rows(note.get("models")))


def _credentials_of(film: Path) -> dict[str, str | None]:
    """What the film's Content Credentials are, as curation would find them; nothing where it cannot be read or their library is absent."""
    from curation.credentials import library_version, read_credentials
    from curation.isolate import Sandbox, SandboxError
    from curation.media import MediaConfig, MediaError

    state, source_type = None, None
    if library_version() is not None and film.is_file():
        try:
            with Sandbox(_LOOK_S, MediaConfig().memory_bytes) as sandbox:
                found = sandbox.call(read_credentials, str(film.absolute()), "")
            state, source_type = found.c2pa_state, found.c2pa_source_type
        except (MediaError, SandboxError):
            state = "unreadable"
    return {"c2pa_state": state, "c2pa_source_type": source_type}


def _model_rows(models: Any) -> list[list[str]]:
    """Role, stage, step and weights of each model; a note may hold anything."""
    rows = []
    for role, model in models.items() if isinstance(models, dict) else []:
        said = model if isinstance(model, dict) else {}
        rows.append([str(role), *(str(said.get(name, "")) for name in ("stage", "step")), str(said.get("sha256", ""))[:16]])
    return rows


def _verify_receipt(path: Path, key: Path | None, as_json: bool) -> None:
    from manifests.integrity import check_receipt
    from manifests.signing import SigningError, load_public

    with errors(SigningError):
        public = None if key is None else load_public(key)
    found = check_receipt(path, public)
    if found.signed_by:
        signed = f"{'its envelope ' if found.faults else ''}signed by key {found.signed_by}"
    elif not found.signers:
        signed = "not signed"
    elif public is not None:
        signed = "no signature that holds"
    else:  # unlike a release, a receipt does not hold the key that would check it
        signed = f"which names {', '.join(found.signers)} as its signer: give the provider's key (--key) to check that"
    counts = {
        "takedown_no": found.takedown_no,
        "sha256": found.sha256,
        "signers": found.signers,
        "signed_by": found.signed_by,
        "faults": len(found.faults),
    }
    text = f"{path}, receipt of takedown {found.takedown_no}, {signed}"
    _tell_faults(counts, [str(f) for f in found.faults], text if found.takedown_no is not None else str(path), as_json)


def _verify_dataset(dataset: Path, version: int | None, as_json: bool) -> None:
    from manifests.integrity import verify as check
    from pipelines.progress import Progress

    store = store_of(dataset)
    with errors():
        counts = {table: _count_rows(store, table, version) for table in ("shards", "members")}
        with Progress(quiet=as_json).stage("verify", counts["shards"]) as advance:
            unfinished: list[int] = []
            try:
                faults = [str(f) for f in check(store, version, lambda shard: advance(1))]
                unfinished = _open_takedowns(store)
            except Exception as error:  # what the check itself needs cannot be read
                tell_unreadable(error)
                faults = [f"manifest: {type(error).__name__}: {error}"]
    text = f"{counts['shards']} shards, {counts['members']} members"
    if unfinished:
        text += f"; takedown {', '.join(map(str, unfinished))} was begun and not ended: the command that began it goes on with it"
    _tell_faults(counts | {"open_takedowns": unfinished, "faults": len(faults)}, faults, text, as_json)


def _open_takedowns(store: "ManifestStore") -> list[int]:
    """The numbers of takedowns that are not done: no fault of the data, but somebody waits."""
    rows = store.read("takedowns", columns=["takedown_no", "state"]).to_pylist()
    newest = {r["takedown_no"]: r["state"] for r in rows}  # append only: the last row of a number holds
    return sorted(n for n, state in newest.items() if state == "open")


def _count_rows(store: "ManifestStore", table: str, version: int | None) -> int:
    """The table's rows; 0 where they cannot be read, which is a fault that `verify` names."""
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    try:
        return int(store.read(table, version, ["shard_no"]).num_rows)
    except (pa.ArrowException, DeltaError, OSError):
        return 0


def _verify_release(folder: Path, key: Path | None, latest: str | None, after: Path | None, data: Path | None, as_json: bool) -> None:
    from manifests.release_check import Trust, check_release, known_root
    from manifests.release_file import ReleaseError, read_release
    from manifests.signing import SigningError, load_public
    from pipelines.progress import Progress

    with errors(ReleaseError, SigningError):
        trust = Trust(key=None if key is None else load_public(key), latest_known=latest if after is None else known_root(after))
        with Progress(quiet=as_json).stage("verify", len(read_release(folder).entries())) as advance:
            found = check_release(folder, trust, data, advance)
    signed = _say_signed(found.signed_by, found.trusted, folder, found.release)
    counts = {
        "release": found.release.name,
        "merkle_root": found.release.root,
        "signed_by": found.signed_by,
        "trusted": found.trusted,
        "amendments": found.amendments,
        "files": found.files,
        "rows": found.rows,
        "faults": len(found.faults),
    }
    text = f"release {found.release.name}: {found.files:,} files, {found.rows:,} rows, {found.amendments} amendments, {signed}"
    _tell_faults(counts, [str(f) for f in found.faults], text, as_json)


def _say_signed(signed_by: str | None, trusted: bool, folder: Path | None, release: "Release | None") -> str:
    """Who signed a release, for a person. A key that the release names itself shows only that its parts belong together."""
    from manifests.release_file import SIGNATURE

    if signed_by:
        return f"signed by key {signed_by}" + (
            "" if trusted else ", which the release names itself: compare it with one from the provider (--key)"
        )
    meant = (release is not None and release.public_key is not None) or (folder is not None and (folder / SIGNATURE).is_file())
    return "no signature that holds" if meant else "not signed"


def _verify_proof(path: Path, folder: Path | None, key: Path | None, as_json: bool) -> None:
    """Reads nothing of the release but its release.json and signature; that its root follows from its parts is checked too."""
    from manifests.proofs import ProofError, check_proof
    from manifests.release_check import check_root, check_signature
    from manifests.release_file import ReleaseError, read_release
    from manifests.signing import SigningError, load_public

    faults: list[str] = []
    with errors(ReleaseError, SigningError):
        public = None if key is None else load_public(key)
        release = None if folder is None else read_release(folder)
        signed_by = None
        if release is not None and folder is not None:
            signed_by, of_signature = check_signature(folder, release, public)
            faults += [str(f) for f in (*check_root(release), *of_signature)]
        try:
            found = check_proof(json.loads(path.read_bytes()), release, public)
        except (ProofError, OSError, ValueError) as error:
            said = f"expected a proof as JSON, found {error}" if isinstance(error, json.JSONDecodeError) else str(error)
            _tell_faults({"faults": 1 + len(faults)}, [*faults, f"{path}: {said}"], f"{path}", as_json)
            return
    by = found.signed_by or signed_by
    trusted = by is not None and public is not None
    counts = dataclasses.asdict(found) | {"signed_by": by, "trusted": trusted, "faults": len(faults)}
    said = "is in" if found.claim == "included" else "is not in"
    text = f"{found.key} {said} release {found.release}, root {found.root}, {_say_signed(by, trusted, folder, release)}"
    if faults:
        text = str(path)  # what it claims is not repeated beside a release that does not hold together
    elif found.fields and not as_json:
        print_table(["field", "value"], [[name, cell(value)] for name, value in found.fields.items()])
    _tell_faults(counts, faults, text, as_json)


def _tell_faults(counts: dict[str, Any], faults: list[str], text: str, as_json: bool) -> None:
    """Every fault, a line that sums up, and exit status 1 where there is one."""
    if as_json:
        print(json.dumps(counts | {"details": faults}))
    else:
        for fault in faults:
            print(fault)
        print(f"{text}: " + (f"{len(faults)} FAULTS" if faults else "all hold"))
    raise typer.Exit(1 if faults else 0)
