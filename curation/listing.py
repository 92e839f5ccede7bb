"""What a person names on the command line, as listings of files: folders, globs, file lists, CSV and Parquet tables, WebDataset tars.

Nothing of the media is opened. What a table's row or a tar's members state of a file's rights goes with its listing, whatever the type of
the value: what is not understood reserves (see `rights`). What is found but cannot be listed as it should, because it is damaged, locked,
or stands where it may not, is a listing too, with its reason: no file is taken without all that is stated of it.
"""

import csv
import glob
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from curation import rights
from curation.plain_text import MAX_TEXT, clean_text
from curation.sidecars import SUFFIXES, Seen, beside, said_of, stating_in, stating_of
from manifests import ids
from manifests.columns import column
from manifests.parquet import plain_rows
from manifests.shards import TarEntry, list_entries

_DOCUMENTS = {".json", ".txt", ".csv", ".tsv", ".md", ".parquet", ".xml", ".yaml", ".yml", ".srt", ".vtt", ".log", ".html", ".pdf"}
"""Names in a folder that are never media: sidecars, tables and texts. Everything else is listed and judged by its content."""

_MEMBER = re.compile(r"(.*)#(\d+)\+(\d+)", re.S)
_URI_COLUMNS = ("uri", "path", "file", "url")


class InputError(Exception):
    """An input named by the user cannot be listed; the message says which, what was expected and what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One file to ingest, found but not opened. `key` changes when its bytes or its sidecars may have."""

    key: str = column(pa.string(), "digest of address, size, times and stated fields")
    uri: str = column(pa.string(), "absolute path, address, or 'archive.tar#offset+size'")
    source: str = column(pa.string(), "the input it was listed from")
    sidecar: str | None = column(pa.string(), "path of the JSON sidecar", default=None)
    caption_file: str | None = column(pa.string(), "path of the text sidecar", default=None)
    fields_json: str | None = column(pa.string(), "fields of the table row or tar member that state rights", default=None)
    title: str | None = column(pa.string(), "its name in a tar: the title where nothing states one, and no statement itself", default=None)
    caption: str | None = column(pa.string(), "text beside it in a tar: the caption where nothing states one", default=None)
    trouble: str | None = column(pa.string(), "why it cannot be taken in; null when nothing speaks against it", default=None)


def list_inputs(inputs: Iterable[str]) -> list[Listing]:
    """Every file behind the inputs, sorted by address, each once."""
    found: dict[str, Listing] = {}
    seen: Seen = {}
    for given in inputs:
        for listing in _list_one(given, seen):
            found.setdefault(listing.uri, listing)
    return [found[uri] for uri in sorted(found)]


def read_csv(path: Path, what: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV table and its rows, each with its line. InputError names the file, the line, what was expected and found.

    A row with another number of values than columns is refused, and a name given twice: which of them counts would be a guess.
    """
    try:
        data = path.read_bytes()
        text = data.decode().removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"{path}: expected {what}, found one that cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line}: expected {what} as UTF-8, found the byte 0x{data[error.start]:02x}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        names = next(reader, [])
        _check_columns(path, names)
        for values in filter(None, reader):
            if len(values) != len(names):
                found = f"{len(values)} for {len(names)}"
                raise InputError(f"{path} line {reader.line_num}: expected as many values as columns, found {found}")
            rows.append((reader.line_num, dict(zip(names, values, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path} line {max(reader.line_num, 1)}: expected {what}, found what is none: {error}") from error
    return names, rows


def uri_of(path: Path) -> str:
    """The address of a local file: its absolute path, or a percent-encoded file: address when the name is not valid Unicode."""
    text = os.path.abspath(path)
    return "file:" + quote(os.fsencode(text)) if _is_odd(text) else text


def member_of(uri: str) -> tuple[str, int] | None:
    """The tar of a member's address, and the offset of its bytes there; None for the address of a file."""
    found = _MEMBER.fullmatch(uri)
    return (found[1], int(found[2])) if found else None


def path_of(uri: str) -> Path:
    """The path of a local address, as `uri_of` writes it."""
    return Path(os.fsdecode(unquote_to_bytes(uri[5:]))) if uri.startswith("file:") else Path(uri)


def sample_key(name: str) -> str:
    """The name up to the first dot of its last part: the sample key of the WebDataset format."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _list_one(given: str, seen: Seen) -> Iterator[Listing]:
    path, source = Path(given), uri_of(Path(given)) if _is_odd(given) else given
    suffix = path.suffix.lower()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise InputError(f"{given}: expected an input that can be looked at, found {said_of(error)}") from error
    if is_folder:
        yield from _list_folder(path, source)
    elif suffix == ".tar" and is_file:
        yield from _list_tar(path, source)
    elif suffix in (".csv", ".parquet") and is_file:
        yield from _list_table(path, source, seen)
    elif suffix in (".txt", ".lst") and is_file:
        yield from _list_lines(path, source, seen)
    elif is_file:
        yield _entry(path.name, path.parent, source, None, seen)
    elif matches := sorted(glob.glob(given, recursive=True)):
        for match in matches:
            yield from _list_one(match, seen)
    else:
        raise InputError(
            f"{given}: expected a folder, media file, glob, file list (.txt), table (.csv, .parquet) or .tar; found nothing there"
        )


def _list_folder(folder: Path, source: str) -> Iterator[Listing]:
    unread: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for linked in (path for n in folders if (path := Path(parent, n)).is_symlink()):
            yield _troubled(
                linked, source, f"{linked}: expected a folder, found a link to one; name {os.path.realpath(linked)} as an input too"
            )
        stating = stating_of(names)
        for name in sorted(names):
            path = Path(parent, name)
            try:
                if name.startswith(".") or path.suffix.lower() in _DOCUMENTS:
                    continue
                if not path.is_file():
                    what = "a link to nothing" if path.is_symlink() else f"mode {stat.filemode(path.stat().st_mode)}"
                    yield _troubled(path, source, f"{path}: expected a file, found {what}")
                    continue
            except OSError as error:
                yield _troubled(path, source, f"{path}: expected a file that can be looked at, found {said_of(error)}")
                continue
            yield from _list_tar(path, source) if path.suffix.lower() == ".tar" else [_listing(path, source, None, stating, folder)]
    for locked in unread:
        found = Path(os.fsdecode(locked.filename or folder))
        yield _troubled(found, source, f"{found}: expected a folder that can be read, found {said_of(locked)}")


def _list_lines(path: Path, source: str, seen: Seen) -> Iterator[Listing]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{path}: expected a list of files, found one that cannot be read: {said_of(error)}") from error
    for line in text.splitlines():
        if entry := line.strip():
            yield _entry(entry, path.parent, source, None, seen)


def _list_table(path: Path, source: str, seen: Seen) -> Iterator[Listing]:
    if path.suffix.lower() == ".csv":
        names, lines = read_csv(path, "a list in CSV")
        rows: Iterable[dict[str, Any]] = (row for _, row in lines)
    else:
        names, rows = _read_parquet(path)
    name = next((n for n in _URI_COLUMNS if n in names), None)
    if name is None:
        raise InputError(f"{path}: expected a column named one of {', '.join(_URI_COLUMNS)}; found {', '.join(names) or 'none'}")
    for row in rows:
        if row[name]:
            # A table has every column in every row: an empty cell states nothing, where a key of a sidecar would.
            stated = {n: _whole(v) for n, v in row.items() if n in rights.FIELDS and n != name and v is not None and v != ""}
            fields = json.dumps(stated, sort_keys=True, default=_plain) if stated else None
            yield _entry(_plain(row[name]), path.parent, source, fields, seen)


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        names = pq.read_schema(path).names
        _check_columns(path, names)
        # what nobody asks for is not read: it may be of types that no value here has
        wanted = [n for n in names if n in rights.FIELDS or n in _URI_COLUMNS]
        return names, plain_rows(pq.read_table(path, columns=wanted, partitioning=None))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: expected a table in Parquet, found one that cannot be read: {error}") from error


def _check_columns(path: Path, names: list[str]) -> None:
    if doubled := sorted(n for n, times in Counter(names).items() if n and times > 1):
        raise InputError(f"{path}: expected every column once, found {', '.join(doubled)} more than once")


def _whole(value: Any) -> Any:
    """1 for 1.0: whole numbers of which some are missing are floats in many a table."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> str:
    """A value of Parquet that JSON has no type for, as the text a CSV would hold."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _list_tar(path: Path, source: str) -> Iterator[Listing]:
    """One listing per media member; members named .json or .txt behind its name, or else behind that of its sample, state its rights and caption.

    Of a tar that breaks off nothing is listed but the tar itself: what states the rights of its members may be in the part that is lost.
    """
    try:
        with path.open("rb") as tar:
            entries = list(list_entries(tar))
            stating: dict[str, dict[str, TarEntry]] = {}
            for e in entries:
                if (suffix := Path(e.name).suffix.lower()) in SUFFIXES:
                    stating.setdefault(e.name[: -len(suffix)] + suffix, {})[e.name] = e
            mark = _mark(path)
            found = [_member(e, path, source, tar, mark, stating) for e in entries if Path(e.name).suffix.lower() not in _DOCUMENTS]
    except Exception as error:  # whatever tarfile makes of a damaged archive is a fault of the archive
        yield _troubled(path, source, f"{path}: expected a whole tar that can be read, found {said_of(error)}; write it again")
        return
    yield from found


def _member(
    entry: TarEntry, path: Path, source: str, tar: BinaryIO, mark: tuple[int, int] | None, stating: dict[str, dict[str, TarEntry]]
) -> Listing:
    said: dict[str, bytes] = {}
    trouble = (
        f"{path}: {entry.name}: expected a plain member, found a sparse one; write the tar without --sparse" if entry.is_sparse else None
    )
    for suffix in SUFFIXES:
        found = stating.get(entry.name + suffix) or stating.get(sample_key(entry.name) + suffix, {})
        if len(found) > 1:
            trouble = trouble or f"{path}: {entry.name}: expected one member that states its rights, found {' and '.join(sorted(found))}"
        for name, e in found.items():
            if e.is_sparse:
                trouble = trouble or f"{path}: {name}: expected a plain member, found a sparse one; write the tar without --sparse"
            else:
                said[suffix] = _read_at(tar, e.offset, e.size_bytes)
    fields = _member_fields(said.get(".json"))
    caption = said[".txt"][:MAX_TEXT].decode("utf-8", "replace") if said.get(".txt") else None
    uri = f"{uri_of(path)}#{entry.offset}+{entry.size_bytes}"
    return Listing(
        key=ids.digest("listing/v3", uri, mark, fields, caption, trouble and clean_text(trouble)),
        uri=uri,
        source=source,
        fields_json=fields,
        title=clean_text(entry.name),
        caption=caption,
        trouble=trouble and clean_text(trouble),
    )


def _member_fields(document: bytes | None) -> str | None:
    """What the JSON of a sample states, as JSON; a broken one states nothing, and the licence stays unknown."""
    if document is None or len(document) > rights.MAX_SIDECAR_BYTES:
        return None
    try:
        loaded = json.loads(document)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, dict):
        return None
    # Every field of whatever type, as of a sidecar: what is not understood reserves. Others can be large, and say nothing here.
    return json.dumps({k: v for k, v in loaded.items() if k in rights.FIELDS}, sort_keys=True)


def _read_at(source: BinaryIO, offset: int, size: int) -> bytes:
    """At most a sidecar's worth of bytes from a place in the file."""
    source.seek(offset)
    return source.read(min(size, rights.MAX_SIDECAR_BYTES + 1))


def _entry(entry: str, base: Path, source: str, fields: str | None, seen: Seen) -> Listing:
    """The listing of one line or row: a path relative to the list's own folder, or an address with a scheme."""
    if "://" in entry:
        return Listing(key=ids.digest("listing/v3", entry, fields), uri=entry, source=source, fields_json=fields)
    path = base / entry
    stating = stating_in(path.parent, seen)
    return _troubled(path, source, stating) if isinstance(stating, str) else _listing(path, source, fields, stating, path.parent)


def _listing(path: Path, source: str, fields: str | None, stating: dict[str, list[str]], root: Path) -> Listing:
    """The listing of a local file; `stating` are the sidecars in its folder, and none of them may lie outside `root`."""
    sidecar, trouble = beside(path, ".json", stating, root)
    caption, second = beside(path, ".txt", stating, root)
    if trouble or second:
        return _troubled(path, source, trouble or second or "")
    return Listing(
        key=ids.digest("listing/v3", uri_of(path), [_mark(p) for p in (path, sidecar, caption)], fields),
        uri=uri_of(path),
        source=source,
        sidecar=uri_of(sidecar) if sidecar else None,
        caption_file=uri_of(caption) if caption else None,
        fields_json=fields,
    )


def _troubled(path: Path, source: str, trouble: str) -> Listing:
    """A listing that becomes a row with this reason."""
    said = clean_text(trouble)
    return Listing(key=ids.digest("listing/v3", uri_of(path), _mark(path), said), uri=uri_of(path), source=source, trouble=said)


def _mark(path: Path | None) -> tuple[int, int] | None:
    """Size and time of a file, which change when its bytes may have; None where there is none to see."""
    try:
        found = None if path is None else path.stat()
    except (OSError, ValueError):  # also a name that is too long to be one
        return None
    return None if found is None else (found.st_size, found.st_mtime_ns)


def _is_odd(text: str) -> bool:
    """Whether the text is not valid Unicode, as the name of a file may be, and fits no column."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
