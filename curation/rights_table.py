"""A rights table: what a person's rights desk knows of files, as CSV, named with `--rights`.

One row a statement. `file` names files: a path relative to the table's folder, an absolute path, a bare name, or a glob over names,
which also is the name that it spells; `sha256` names bytes. Where a row gives both, both must hold. The other columns are the fields of a sidecar; an unknown column is refused,
because a mistyped `training` would be a licence to train.
"""

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from curation.listed import InputError, path_of, uri_of
from curation.listing import read_csv
from curation.rights import FIELDS, Rights, from_fields, misread
from manifests.records import Asset

KEYS = ("file", "sha256")
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    file: str | None
    glob: str | None
    sha256: bytes | None
    rights: Rights


class RightsTable:
    """The statements of a table, found by file and by hash; `unused()` are lines that no asset matched so far."""

    def __init__(self, path: Path) -> None:
        self._named: dict[str, list[_Row]] = {}
        self._globs: list[_Row] = []
        self._hashed: dict[bytes, list[_Row]] = {}
        self._used: set[int] = set()
        self._lines: list[int] = []
        for row in _read(path):
            self._lines.append(row.line)
            if row.sha256 is not None:
                self._hashed.setdefault(row.sha256, []).append(row)
            else:
                self._named.setdefault(row.file or "", []).append(row)
                if row.glob is not None:
                    self._globs.append(row)

    def of(self, asset: Asset) -> list[Rights]:
        """What the table says of the asset, in the order of its lines."""
        names = _names(asset.uri)
        found = [row for name in names for row in self._named.get(name, ())]
        found += [r for r in self._globs if _matches(r, names)]
        found += [r for r in self._hashed.get(asset.asset_sha256, ()) if r.file is None or r.file in names or _matches(r, names)]
        self._used |= {r.line for r in found}
        return [r.rights for r in sorted(set(found), key=lambda r: r.line)]

    def unused(self) -> list[int]:
        """Lines that matched nothing."""
        return [n for n in self._lines if n not in self._used]


def _names(uri: str) -> list[str]:
    """What a table may call the file at an address: the address, the path, and the name of each."""
    whole = [uri] if "://" in uri else [uri, os.fspath(path_of(uri))]
    return list(dict.fromkeys([*whole, *(w.rpartition("/")[2] for w in whole)]))


def _matches(row: _Row, names: list[str]) -> bool:
    return row.glob is not None and any(fnmatchcase(name, row.glob) for name in names)


def _read(path: Path) -> list[_Row]:
    """Every row. InputError names the table, the line, what was expected and what was found."""
    names, rows = read_csv(path, "a rights table in CSV")
    if unknown := sorted(set(names) - FIELDS - set(KEYS)):
        raise InputError(f"{path}: expected columns among {', '.join([*KEYS, *sorted(FIELDS)])}; found {', '.join(unknown)}")
    if not set(names) & set(KEYS):
        raise InputError(f"{path}: expected a column named file or sha256, found {', '.join(names) or 'none'}")
    return [_row(path, line, row) for line, row in rows]


def _row(path: Path, line: int, fields: dict[str, str]) -> _Row:
    stated = {n: v for n, v in fields.items() if v and n not in KEYS}
    file, digest = fields.get("file") or None, (fields.get("sha256") or "").strip().lower() or None
    if wrong := misread(stated):
        raise InputError(f"{path} line {line}: {wrong}")
    try:
        sha256 = None if digest is None else bytes.fromhex(digest)
    except ValueError:
        sha256 = b""
    if sha256 is not None and len(sha256) != 32:
        raise InputError(f"{path} line {line}: expected a SHA-256 of 64 hexadecimal digits, found {digest!r}")
    if file is None and sha256 is None:
        raise InputError(f"{path} line {line}: expected a file or a sha256, found neither")
    glob = file if file is not None and _GLOB & set(file) else None  # also a name: yt-dlp's `Title [id].mp4` does not match itself
    if file is not None and "/" in file and "://" not in file:
        file = uri_of(path.parent / file)
    return _Row(line, file, glob, sha256, from_fields(stated, f"rights table {path.name}"))
