"""What was changed in a release after it was made, because something in it had to go: appended, chained, signed, never rewritten.

`amendments.jsonl` holds one DSSE envelope a line. Each says which files of the release have other bytes now (old and new SHA-256)
and which rows were erased from its trees, under which takedown. The release itself, its root and its signature stay as they are.

    amend(folder, Amendment(takedown_no=3, reason_code="copyright", at=now, paths=(...), clip_ids=(...), asset_sha256=(...)), key)

is called after the media and tables were scrubbed. It does the rest inside the release's folder: it destroys the salts of the erased
rows, takes the assets out of `attribution.csv`, adds their hashes to `removals.jsonl` and withdraws `report.html`, and the texts that name sources
where one of those is gone.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from manifests import signing, treefile
from manifests.exports import attribution, data_card, eu_summary, removals
from manifests.files import write_atomic
from manifests.leaves import ASSETS, CLIPS, TREES
from manifests.release_file import AMENDMENTS, RELEASE_JSON, RELEASES, Entry, Release, ReleaseError, hash_file, read_release
from manifests.signing import SigningError, Statement

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

PREDICATE = "urn:dailies:amendment:v1"
REPORT = "report.html"

_WITHDRAWN = (
    "<!doctype html><meta charset=utf-8><title>Withdrawn</title><p>This report showed something that was taken down since and is "
    "withdrawn. <code>dailies report DATASET</code> writes one of the present state.\n"
)
_NAMED_A_SOURCE = "Withdrawn: it named a source of which nothing is left after a takedown. A new release says what there is now.\n"
_NAMES_SOURCES = {
    data_card.NAME: _NAMED_A_SOURCE,
    eu_summary.MD_NAME: _NAMED_A_SOURCE,
    eu_summary.JSON_NAME: json.dumps({"withdrawn": _NAMED_A_SOURCE}),
}
"""The texts that name every source, and what stands in them once one is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """What a takedown did to a release.

    `paths` are the tables' and shards' files that it changed or removed, under the dataset; those that are not of this release are
    passed over. `clip_ids` and `asset_sha256` are the rows whose fields are erased; with `keys_too` their keys as well, so that
    nobody who holds the file can see that it was there (then nothing can be proved absent right beside it any more).

    A table's file is best rewritten in place, without the rows or with their texts nulled: where one of clips, assets or members is
    removed altogether, the other rows of it can no longer be compared with their leaves.
    """

    takedown_no: int
    reason_code: str
    at: datetime
    paths: tuple[str, ...] = ()
    clip_ids: tuple[str, ...] = ()
    asset_sha256: tuple[bytes, ...] = ()
    keys_too: bool = False
    sources_gone: bool = False
    """Whether nothing is left of one of the sources: then what names sources is withdrawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amended:
    """The release's files and rows after all of its amendments. `files` maps a path to what it must be; removed ones are None."""

    files: dict[str, Entry | None]
    erased: dict[str, frozenset[int]]
    """For each tree the places of the rows that were erased."""
    count: int
    last_sha256: str
    """SHA-256 of the last line, or of release.json: what the next line names."""


def amend(release_folder: Path, amendment: Amendment, key: Path | None = None) -> bool:
    """The release's own verify holds again after a takedown. True when a line was added; the same amendment again adds nothing.

    `key` is a private key file: a signed release needs the key it was signed with, ReleaseError says so before anything is touched.
    """
    release = read_release(release_folder)
    signer = None if key is None else signing.load_signer(key)
    _check_key(release_folder, release, signer)
    before = read_amendments(release_folder, release, None)
    found = {
        CLIPS.name: _places(release_folder, CLIPS, [bytes.fromhex(i) for i in amendment.clip_ids]),
        ASSETS.name: _places(release_folder, ASSETS, list(amendment.asset_sha256)),
    }
    erased = {name: sorted(set(places) - before.erased[name]) for name, places in found.items()}
    for tree in TREES:
        treefile.erase(release_folder, tree, found[tree.name], keys_too=amendment.keys_too)
    _clean_exports(release_folder, amendment)
    own = [*(treefile.rows_path(t) for t in TREES), attribution.NAME, removals.NAME, REPORT, *_NAMES_SOURCES]
    candidates = [(release_folder.parent.parent, p) for p in amendment.paths] + [(release_folder, p) for p in own]
    changes = [c for root, path in candidates if path in before.files and (c := _change(root, path, before.files[path])) is not None]
    if not changes and not any(erased.values()):
        return False
    predicate = {
        "number": before.count,
        "previous": before.last_sha256,
        "takedown_no": amendment.takedown_no,
        "reason_code": amendment.reason_code,
        "at": amendment.at.isoformat(timespec="seconds"),
        "keys_too": amendment.keys_too,
        "files": changes,
        "erased": erased,
    }
    statement = Statement(subject=RELEASE_JSON, sha256=release.sha256, predicate_type=PREDICATE, predicate=predicate)
    _append(release_folder / AMENDMENTS, json.dumps(signing.seal(statement, signer), sort_keys=True))
    return True


def releases_with(dataset: Path, clip_ids: Sequence[str], asset_sha256: Sequence[bytes]) -> list[Path]:
    """The folders of the releases in which one of these clips or files stands, sorted by name: what a takedown has to amend."""
    folders = sorted(p.parent for p in (dataset / RELEASES).glob(f"*/{RELEASE_JSON}"))
    keys = [(CLIPS, [bytes.fromhex(i) for i in clip_ids]), (ASSETS, list(asset_sha256))]
    return [folder for folder in folders if any(_places(folder, tree, wanted) for tree, wanted in keys)]


def read_amendments(folder: Path, release: Release, key: "SSlibKey | None") -> Amended:
    """The state after all amendments. ReleaseError names a line that does not follow from the one before, or is not signed by `key`."""
    files: dict[str, Entry | None] = dict(release.entries())
    erased: dict[str, set[int]] = {t.name: set() for t in TREES}
    last, count = release.sha256, 0
    for number, line in enumerate(_lines(folder / AMENDMENTS)):
        where = f"{AMENDMENTS} line {number + 1}"
        try:
            said = signing.unseal(json.loads(line), key)
            _apply(said, release, last, number, files, erased)
        except (SigningError, ReleaseError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ReleaseError(f"{where}: {error}") from error
        last, count = hashlib.sha256(line).hexdigest(), number + 1
    return Amended(files=files, erased={n: frozenset(s) for n, s in erased.items()}, count=count, last_sha256=last)


def _apply(
    said: Statement, release: Release, previous: str, number: int, files: dict[str, Entry | None], erased: dict[str, set[int]]
) -> None:
    predicate = said.predicate
    if said.predicate_type != PREDICATE or said.sha256 != release.sha256:
        raise ReleaseError("expected an amendment of this release, found one of another")
    if predicate["number"] != number or predicate["previous"] != previous:
        raise ReleaseError(
            f"expected amendment {number} after {previous[:12]}, found number {predicate['number']} after {str(predicate['previous'])[:12]}"
        )
    for change in predicate["files"]:
        path, entry = change["path"], files.get(change["path"])
        if entry is None or entry.sha256 != change["old_sha256"]:
            raise ReleaseError(f"{path}: expected the SHA-256 before it to be {entry and entry.sha256}, found {change['old_sha256']}")
        new = change["new_sha256"]
        files[path] = (
            None if new is None else Entry(path=path, size_bytes=change["new_size_bytes"], sha256=new, rows=change.get("new_rows"))
        )
    for name, places in predicate["erased"].items():
        erased[name].update(int(p) for p in places)


def _check_key(folder: Path, release: Release, signer: Any) -> None:
    if release.public_key is None:
        return
    expected = signing.public_from_pem(release.public_key.encode()).keyid
    if signer is None or signer.public_key.keyid != expected:
        found = "none" if signer is None else f"key {signer.public_key.keyid}"
        raise ReleaseError(
            f"{folder}: expected the key that signed the release ({expected}) to sign its amendment, found {found}; give it with --key"
        )


def _places(folder: Path, tree: Any, keys: list[bytes]) -> list[int]:
    try:
        file = treefile.open_tree(folder, tree)
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"{folder}: expected the tree of {tree.name} to erase rows from, found none that can be read ({error})"
        ) from error
    return [place for key in keys if (place := file.find(key)) is not None]


def _clean_exports(folder: Path, amendment: Amendment) -> None:
    """The release's own texts no longer name or show what was taken down."""
    gone = [h.hex() for h in amendment.asset_sha256]
    for name, change in (
        (attribution.NAME, lambda data: attribution.without(data, gone)),
        (
            removals.NAME,
            lambda data: data if amendment.keys_too else removals.with_hashes(data, gone, amendment.takedown_no, amendment.reason_code),
        ),
        (REPORT, lambda data: _WITHDRAWN.encode() if gone or amendment.clip_ids else data),
    ):
        path = folder / name
        if path.is_file():
            data = path.read_bytes()
            new = change(data)
            if new != data:
                write_atomic(path, new)
    for name, text in _NAMES_SOURCES.items() if amendment.sources_gone else ():
        if (folder / name).is_file():
            write_atomic(folder / name, text.encode())


def _change(root: Path, path: str, entry: Entry | None) -> dict[str, Any] | None:
    """How a file differs from what it was, or None where it does not."""
    if entry is None:
        return None
    file = root / path
    if not file.exists():
        return {"path": path, "old_sha256": entry.sha256, "new_sha256": None, "new_size_bytes": None}
    now = hash_file(file, root=root)
    if now.sha256 == entry.sha256:
        return None
    rows = pq.read_metadata(file).num_rows if path.endswith(".parquet") else entry.rows
    changed = {"path": path, "old_sha256": entry.sha256, "new_sha256": now.sha256, "new_size_bytes": now.size_bytes}
    return changed if rows is None else changed | {"new_rows": rows}


def _append(path: Path, line: str) -> None:
    """The file holds its complete lines and this one; what a crash left of another is gone."""
    write_atomic(path, b"".join(old + b"\n" for old in _lines(path)) + line.encode() + b"\n")


def _lines(path: Path) -> Iterator[bytes]:
    """Complete lines; one without its end was never finished and does not count."""
    if path.is_file():
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield line.rstrip(b"\n")
