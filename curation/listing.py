"""What a person names on the command line, as listings of files: folders, globs, file lists, CSV and Parquet tables, WebDataset tars.

Nothing of the media is opened. What a table's row or a tar's members state of a file's rights goes with its listing, whatever the type of
the value: what is not understood reserves (see `rights`).
"""

import contextlib
import csv
import glob
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from curation import rights
from manifests import ids
from manifests.columns import column
from manifests.shards import list_members

_DOCUMENTS = {".json", ".txt", ".csv", ".tsv", ".md", ".parquet", ".xml", ".yaml", ".yml", ".srt", ".vtt", ".log", ".html", ".pdf"}
"""Names in a folder that are never media: sidecars, tables and texts. Everything else is listed and judged by its content."""

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
    fields_json: str | None = column(pa.string(), "fields of the table row or tar members that state rights", default=None)


def list_inputs(inputs: Iterable[str]) -> list[Listing]:
    """Every file behind the inputs, sorted by address, each once."""
    found: dict[str, Listing] = {}
    for given in inputs:
        for listing in _list_one(given):
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
    try:
        text.encode()
    except UnicodeEncodeError:
        return "file:" + quote(os.fsencode(text))
    return text


def path_of(uri: str) -> Path:
    """The path of a local address, as `uri_of` writes it."""
    return Path(os.fsdecode(unquote_to_bytes(uri[5:]))) if uri.startswith("file:") else Path(uri)


def sample_key(name: str) -> str:
    """The name up to the first dot of its last part: the sample key of the WebDataset format."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _list_one(given: str) -> Iterator[Listing]:
    path = Path(given)
    if path.is_dir():
        yield from _list_folder(path, given)
    elif path.suffix == ".tar" and path.is_file():
        yield from _list_tar(path, given)
    elif path.suffix in (".csv", ".parquet") and path.is_file():
        yield from _list_table(path, given)
    elif path.suffix in (".txt", ".lst") and path.is_file():
        yield from _list_lines(path, given)
    elif path.is_file():
        yield _listing(path, given)
    elif matches := sorted(glob.glob(given, recursive=True)):
        for match in matches:
            yield from _list_one(match)
    else:
        raise InputError(
            f"{given}: expected a folder, media file, glob, file list (.txt), table (.csv, .parquet) or .tar; found nothing there"
        )


def _list_folder(folder: Path, given: str) -> Iterator[Listing]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() in _DOCUMENTS or not path.is_file():
                continue
            yield from _list_tar(path, given) if path.suffix == ".tar" else [_listing(path, given)]


def _list_lines(path: Path, given: str) -> Iterator[Listing]:
    for line in path.read_text("utf-8", "replace").splitlines():
        if entry := line.strip():
            yield _entry(entry, path.parent, given, None)


def _list_table(path: Path, given: str) -> Iterator[Listing]:
    if path.suffix == ".csv":
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
            yield _entry(_plain(row[name]), path.parent, given, json.dumps(stated, sort_keys=True, default=_plain) if stated else None)


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        names = pq.read_schema(path).names
        _check_columns(path, names)
        return names, pq.read_table(path, partitioning=None).to_pylist()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
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


def _list_tar(path: Path, given: str) -> Iterator[Listing]:
    """One listing per media member; members of the same stem named .json or .txt state its rights and caption."""
    with path.open("rb") as source:
        members = list(list_members(source))
        documents = {name: _read_at(source, offset, size) for name, offset, size in members if Path(name).suffix in (".json", ".txt")}
    stat = path.stat()
    for name, offset, size in members:
        if Path(name).suffix.lower() in _DOCUMENTS:
            continue
        stated = _member_fields(documents.get(sample_key(name) + ".json"), documents.get(sample_key(name) + ".txt"))
        uri = f"{uri_of(path)}#{offset}+{size}"
        yield Listing(
            key=ids.digest("listing/v2", uri, stat.st_size, stat.st_mtime_ns, stated),
            uri=uri,
            source=given,
            fields_json=json.dumps({"title": name} | stated, sort_keys=True),
        )


def _member_fields(document: bytes | None, caption: bytes | None) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if document is not None and len(document) <= rights.MAX_SIDECAR_BYTES:
        with contextlib.suppress(ValueError, RecursionError):  # a broken sidecar states nothing, and the licence stays unknown
            loaded = json.loads(document)
            # Every field of whatever type, as of a sidecar: what is not understood reserves. Others can be large, and say nothing here.
            fields = {k: v for k, v in loaded.items() if k in rights.FIELDS} if isinstance(loaded, dict) else {}
    if caption and not isinstance(fields.get("caption"), str):
        fields["caption"] = caption[: rights.MAX_TEXT].decode("utf-8", "replace")
    return fields


def _read_at(source: BinaryIO, offset: int, size: int) -> bytes:
    """At most a sidecar's worth of bytes from a place in the file."""
    source.seek(offset)
    return source.read(min(size, rights.MAX_SIDECAR_BYTES + 1))


def _entry(entry: str, base: Path, given: str, fields: str | None) -> Listing:
    """The listing of one line or row: a path relative to the list's own folder, or an address with a scheme."""
    if "://" in entry:
        return Listing(key=ids.digest("listing/v2", entry, fields), uri=entry, source=given, fields_json=fields)
    return _listing(base / entry, given, fields)


def _listing(path: Path, given: str, fields: str | None = None) -> Listing:
    sidecar = next((p for p in (path.with_name(path.name + ".json"), path.with_suffix(".json")) if p.is_file()), None)
    caption = next((p for p in (path.with_name(path.name + ".txt"), path.with_suffix(".txt")) if p.is_file()), None)
    marks = [(p.stat().st_size, p.stat().st_mtime_ns) if p is not None and p.exists() else None for p in (path, sidecar, caption)]
    return Listing(
        key=ids.digest("listing/v2", uri_of(path), marks, fields),
        uri=uri_of(path),
        source=given,
        sidecar=uri_of(sidecar) if sidecar else None,
        caption_file=uri_of(caption) if caption else None,
        fields_json=fields,
    )
