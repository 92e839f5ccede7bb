"""Purging: files of the manifest that no kept version needs are deleted, on purpose and never by the way.

History is the auditor's, so nothing else deletes any. A purged version keeps its line in the list of versions, marked, and says so when it
is read. Versions are marked before their files go: a purge that is killed leaves marked versions and some files, which the next one finds.
"""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.files import write_atomic
from manifests.schema import TABLES

if TYPE_CHECKING:
    from manifests.tables import ManifestStore

STAGED_GRACE_S = 86_400.0
"""How long a file that no version names is taken for that of a writer at work."""

_PART = re.compile(r"\.?part-[^/]*\.parquet((\.[0-9a-f]{12})?\.\d+\.tmp)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """What a purge deletes, or would. `pinned` are versions kept because something names them, with what."""

    versions: tuple[int, ...]
    kept: tuple[int, ...]
    pinned: dict[int, str]
    files: tuple[Path, ...]
    size_bytes: int


def purge(store: "ManifestStore", keep: Iterable[int], *, dry_run: bool = False) -> Purge:
    """The files of all versions but those in `keep`, the newest and the pinned ones are gone; with `dry_run` they are only counted."""
    store.recover()
    readable, pinned = store.readable(), pins(store)
    if not readable:
        return Purge(versions=(), kept=(), pinned={}, files=(), size_bytes=0)
    wanted = {*keep, *pinned, readable[-1]}
    kept = tuple(v for v in readable if v in wanted)
    gone = tuple(v for v in readable if v not in wanted)
    needed = {Path(f).resolve() for v in kept for table in TABLES for f in store.files(table, v)}
    named = _named(store)
    files = tuple(sorted(f for table in TABLES for f in _unneeded(store.folder / table, needed, named.get(table, set()))))
    size = sum(f.stat().st_size for f in files)
    if not dry_run:
        for version in gone:
            _mark(store.folder / "_versions" / f"{version:012d}.json")
        for file in files:
            file.unlink(missing_ok=True)
    return Purge(versions=gone, kept=kept, pinned={v: why for v, why in pinned.items() if v in kept}, files=files, size_bytes=size)


def pins(store: "ManifestStore") -> dict[int, str]:
    """The versions that something outside the manifest's history was made from: releases, and checkpoints whose clips must stay traceable."""
    found: dict[int, str] = {}
    exposures = store.read("exposures", columns=["manifest_version", "run_path"])
    for version, run in zip(*(c.to_pylist() for c in exposures.columns), strict=True):
        found[version] = f"checkpoints of {run}"
    for path in sorted((store.root / "releases").glob("*/release.json")):
        version = json.loads(path.read_bytes()).get("manifest_version")
        if isinstance(version, int):
            found[version] = f"release {path.parent.name}"
    return found


def _named(store: "ManifestStore") -> dict[str, set[str]]:
    """The file names of every commit there was, by table: those that a purge which was killed has left are among them."""
    found: dict[str, set[str]] = {}
    for path in (store.folder / "_intents").glob("*.json"):
        for write in json.loads(path.read_bytes())["writes"]:
            found.setdefault(write["table"], set()).update(f["path"] for f in write.get("files", [write]))
    return found


def _unneeded(folder: Path, needed: set[Path], named: set[str]) -> Iterable[Path]:
    """The data files in a table's folder that go: those of earlier commits, and those old enough that no writer is still about to name them."""
    if not folder.is_dir():
        return
    before = time.time() - STAGED_GRACE_S
    for path in folder.iterdir():
        if path.resolve() in needed or not _PART.fullmatch(path.name) or path.is_symlink():
            continue
        if path.name in named or path.stat().st_mtime < before:
            yield path


def _mark(path: Path) -> None:
    state = json.loads(path.read_bytes())
    write_atomic(path, json.dumps(state | {"purged": True}, indent=1).encode())
