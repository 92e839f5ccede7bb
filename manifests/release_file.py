"""`release.json`: what a release is made of, read strictly, because it may come from anybody.

tables    every Parquet file of every table at the released version     shards   every tar     (paths under the dataset)
files     everything else in the release's folder                                              (paths under that folder)
trees     rows and root of each Merkle tree
root      RFC 6962 root over: previous release's root · each tree's root · digest of tables · digest of shards
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests import merkle
from manifests.leaves import TREES, Files
from manifests.schema import TABLES

FORMAT = "dailies.release/1"
RELEASE_JSON = "release.json"
SIGNATURE = "release.dsse.json"
AMENDMENTS = "amendments.jsonl"
RELEASES = "releases"
PREDICATE = "urn:dailies:release:v1"

_SAFE = re.compile(r"[A-Za-z0-9_.+=@ -]+(/[A-Za-z0-9_.+=@ -]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ReleaseError(Exception):
    """A release cannot be made or read; the message says what was expected, what was found and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file and what it must be. `rows` of Parquet files and shards, else None."""

    path: str
    size_bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """A Merkle tree: how many rows, and its root in hexadecimal."""

    rows: int
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A parsed release.json; `raw` is the whole of it, `sha256` that of its bytes."""

    name: str
    dataset: str
    version: int
    root: str
    chain: tuple[str, ...]
    """The roots of all earlier releases, oldest first."""
    tables: dict[str, tuple[Entry, ...]]
    shards: tuple[Entry, ...]
    files: tuple[Entry, ...]
    trees: dict[str, TreeEntry]
    public_key: str | None
    sha256: str
    raw: dict[str, Any]

    def entries(self) -> dict[str, Entry]:
        """Every file by its path; tables and shards under the dataset, the others under the release's folder."""
        return {e.path: e for e in (*(e for t in self.tables.values() for e in t), *self.shards, *self.files)}

    def table_files(self, dataset: Path) -> Files:
        """Where the Parquet files of each table lie in this dataset."""
        return {name: [dataset / e.path for e in entries] for name, entries in self.tables.items()}


def read_release(folder: Path) -> Release:
    """The release in a folder. ReleaseError says what of its release.json is not what it should be."""
    path = folder / RELEASE_JSON
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReleaseError(
            f"{folder}: expected the folder of a release, found no {RELEASE_JSON} that can be read ({error.strerror})"
        ) from error
    try:
        return parse_release(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReleaseError(
            f"{path}: expected a release of format {FORMAT}, found something else ({type(error).__name__}: {error})"
        ) from error


def parse_release(data: bytes) -> Release:
    """The release these bytes describe; ValueError, KeyError or TypeError when they do not."""
    raw = json.loads(data)
    if raw["format"] != FORMAT:
        raise ValueError(f"its format is {raw['format']!r}")
    if set(raw["trees"]) != {t.name for t in TREES} or not set(raw["tables"]) <= set(TABLES):
        raise ValueError("unknown trees or tables")
    signer = raw["signer"]
    return Release(
        name=checked_name(raw["name"]),
        dataset=str(raw["dataset"]),
        version=_whole(raw["manifest_version"]),
        root=_digest(raw["merkle_root"]),
        chain=tuple(_digest(r) for r in raw["earlier_roots"]),
        tables={name: tuple(_entry(e) for e in entries) for name, entries in raw["tables"].items()},
        shards=tuple(_entry(e) for e in raw["shards"]),
        files=tuple(_entry(e) for e in raw["files"]),
        trees={name: TreeEntry(rows=_whole(t["rows"]), root=_digest(t["root"])) for name, t in raw["trees"].items()},
        public_key=None if signer is None else str(signer["public_key"]),
        sha256=hashlib.sha256(data).hexdigest(),
        raw=raw,
    )


def combined_root(earlier: Sequence[str], trees: Mapping[str, str], tables: Mapping[str, Any], shards: Sequence[Any]) -> str:
    """The root of a release: it changes with any row, file, shard or earlier release."""
    parts = [bytes.fromhex(earlier[-1]) if earlier else b"", *(bytes.fromhex(trees[t.name]) for t in TREES)]
    parts += [hashlib.sha256(canonical(x)).digest() for x in (tables, shards)]
    leaves = b"".join(hashlib.sha256(b"\0" + p).digest() for p in parts)
    return merkle.root(np.frombuffer(leaves, np.uint8).reshape(-1, merkle.HASH_BYTES)).hex()


def predicate_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the signature says of a release besides its digest: enough to check a proof without any other file."""
    names = ("name", "dataset", "manifest_version", "created_at", "code_version", "merkle_root", "earlier_roots", "trees", "counts")
    return {"format": FORMAT} | {name: raw[name] for name in names}


def canonical(value: Any) -> bytes:
    """The one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def checked_name(name: Any) -> str:
    """The name of a release: it becomes a folder's name, so letters, digits, '.', '_' and '-' only. ValueError says so."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"expected a release's name of 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit, found {name!r}"
        )
    return name


def hash_file(path: Path, rows: int | None = None, *, root: Path) -> Entry:
    """What a file under `root` is now."""
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    return Entry(path=path.relative_to(root).as_posix(), size_bytes=path.stat().st_size, sha256=digest, rows=rows)


def plain(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Entries as JSON holds them."""
    names = ("path", "size_bytes", "sha256", "rows")
    return [{n: getattr(e, n) for n in names if getattr(e, n) is not None} for e in entries]


def _entry(value: Any) -> Entry:
    path, rows = value["path"], value.get("rows")
    if not isinstance(path, str) or not _SAFE.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(f"expected a path inside the dataset, found {path!r}")
    return Entry(
        path=path, size_bytes=_whole(value["size_bytes"]), sha256=_digest(value["sha256"]), rows=None if rows is None else _whole(rows)
    )


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"expected a SHA-256 in hexadecimal, found {value!r}")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number, found {value!r}")
    return value
