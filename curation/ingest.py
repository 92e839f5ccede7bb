"""From what a person names on the command line to assets: listing, hashing, rights.

`list_inputs` (folders, globs, file lists, CSV and Parquet tables, WebDataset tars) gives listings; `ingest` is a map stage,
Listing -> Asset, that hashes the bytes and reads what stands beside them; `complete` adds what a rights table and the source say (see
`rights` for the precedence); `merge_copies` keeps each content once.
"""

import contextlib
import csv
import dataclasses
import glob
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from curation import rights
from curation.rights import Rights
from manifests import ids
from manifests.columns import column
from manifests.records import Asset
from manifests.shards import list_members
from manifests.takedown import SOURCE_COLUMNS, SourceKind, sources_of

if TYPE_CHECKING:
    from curation.rights_table import RightsTable

_DOCUMENTS = {".json", ".txt", ".csv", ".tsv", ".md", ".parquet", ".xml", ".yaml", ".yml", ".srt", ".vtt", ".log", ".html", ".pdf"}
"""Names in a folder that are never media: sidecars, tables and texts. Everything else is listed and judged by its content."""

MAX_SOURCES = 1 << 16
"""Characters kept of where further copies of a file were found: ours; a file in a thousand folders still fits, a table stays readable."""

_URI_COLUMNS = ("uri", "path", "file", "url")


class InputError(Exception):
    """An input named by the user cannot be listed; the message says which, what was expected and what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """How assets come in. `default_licence` (SPDX) holds for every source where nothing states a licence."""

    default_licence: str | None = None
    source_defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For sources, by the name they are given on the command line: fields as in a sidecar, which hold where a file states nothing."""
    rights_csv: str | None = None
    """A rights table (CSV): `file` or `sha256`, and fields as in a sidecar; it goes before every other statement."""
    trust_anchors: str | None = None
    """PEM file of the authorities whose signers of Content Credentials are trusted; without one no signer is."""
    max_bytes: int = 64 << 30
    """Largest file taken in: ours; a guard against endless files."""

    def __post_init__(self) -> None:
        for name, fields in self.source_defaults.items():
            if unknown := sorted(set(fields) - rights.FIELDS):
                raise ValueError(f"source_defaults.{name}: expected fields of a sidecar, found {', '.join(unknown)}")


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


def ingest(listing: Listing, config: IngestConfig, fetched: Path) -> Asset:
    """The asset behind a listing: hashed, with the rights its sidecars state. Bytes that are not a plain local file are kept under `fetched`."""
    stated = _rights(listing)
    values: dict[str, Any] = {n: getattr(stated, n) for n in rights.STORED}
    try:
        sha256, md5, size = _hash(listing.uri, fetched, config)
    except (OSError, ValueError, ImportError) as error:
        missing = ids.digest("unreadable", listing.uri)
        values |= {
            "error_stage": "ingest",
            "error_code": "unreadable",
            "error_detail": rights.clean_text(f"{type(error).__name__}: {error}", 500),
        }
        return Asset(asset_id=missing, asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=listing.uri, readable=0.0, **values)
    return Asset(asset_id=ids.asset_id(sha256), asset_sha256=sha256, asset_md5=md5, size_bytes=size, uri=listing.uri, **values)


def complete(asset: Asset, source: str, config: IngestConfig, table: "RightsTable | None" = None) -> Asset:
    """The asset with what the rights table says of it, and, where nothing is stated, what its source or the default licence says."""
    stated = rights.of_asset(asset)
    if table is not None:
        for row in table.of(asset):
            stated = rights.merge(row, stated)
    if fields := config.source_defaults.get(source):
        stated = rights.fill(stated, rights.from_fields(fields, "source default"))
    if config.default_licence:
        stated = rights.fill(stated, rights.from_fields({"licence": config.default_licence}, "source default"))
    return rights.put(asset, stated)


def merge_copies(assets: Iterable[Asset]) -> list[Asset]:
    """Each content once, by asset id: the first address stands, copies are counted, and the strictest rights of all hold."""
    groups: dict[str, list[Asset]] = {}
    for asset in assets:
        groups.setdefault(asset.asset_id, []).append(asset)
    return [_merge(sorted(groups[k], key=lambda a: a.uri)) for k in sorted(groups)]


def local_path(asset: Asset, fetched: Path) -> Path:
    """Where the bytes of an ingested asset lie on this machine."""
    if "://" in asset.uri or "#" in asset.uri:
        kept = fetched / asset.asset_id
        if kept.exists():
            return kept
    return path_of(asset.uri)


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


def sample_key(name: str) -> str:
    """The name up to the first dot of its last part: the sample key of the WebDataset format."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


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


def _rights(listing: Listing) -> Rights:
    """Sidecar before table row."""
    stated = Rights()
    if listing.sidecar:
        stated = rights.merge(stated, rights.read_sidecar(_head(listing.sidecar), f"sidecar {Path(listing.sidecar).name}"))
    if listing.fields_json:
        stated = rights.merge(stated, rights.from_fields(json.loads(listing.fields_json), f"table or archive {Path(listing.source).name}"))
    if listing.caption_file and stated.supplied_caption is None:
        caption = rights.clean_text(_head(listing.caption_file).decode("utf-8", "replace"))
        stated = dataclasses.replace(stated, supplied_caption=caption or None)
    return stated


def _head(uri: str) -> bytes:
    with path_of(uri).open("rb") as source:
        return source.read(rights.MAX_SIDECAR_BYTES + 1)


def _hash(uri: str, fetched: Path, config: IngestConfig) -> tuple[bytes, bytes, int]:
    """Hashes of the bytes behind an address; bytes from archives and remote stores are kept under `fetched/<asset id>`."""
    if "#" in uri and not Path(uri).exists():
        archive, _, span = uri.rpartition("#")
        offset, size = (int(n) for n in span.split("+"))
        with path_of(archive).open("rb") as source:
            source.seek(offset)
            return _keep(io.BytesIO(source.read(size)), fetched, config)
    if "://" in uri:
        import fsspec

        with fsspec.open(uri, "rb") as source:
            return _keep(source, fetched, config)
    with path_of(uri).open("rb") as source:
        if (size := os.fstat(source.fileno()).st_size) > config.max_bytes:
            raise ValueError(f"{size} bytes, more than the limit of {config.max_bytes}")
        return ids.hash_stream(source)


def _keep(source: Any, fetched: Path, config: IngestConfig) -> tuple[bytes, bytes, int]:
    fetched.mkdir(parents=True, exist_ok=True)
    temporary = fetched / f".fetch.{os.getpid()}.tmp"  # a takedown clears away what a killed run left under such a name
    copied = 0
    with temporary.open("wb") as sink:
        while block := source.read(1 << 20):
            copied += len(block)
            if copied > config.max_bytes:
                raise ValueError(f"more than the limit of {config.max_bytes} bytes")
            sink.write(block)
    with temporary.open("rb") as again:
        hashes = ids.hash_stream(again)
    os.replace(temporary, fetched / ids.asset_id(hashes[0]))
    return hashes


def _merge(copies: list[Asset]) -> Asset:
    """The first copy with the strictest statements of all, whichever Content Credentials say most, and where the others were found."""
    stated = rights.of_asset(copies[0])
    for copy in copies[1:]:
        stated = rights.merge(stated, rights.of_asset(copy))
    merged = dataclasses.replace(rights.put(copies[0], stated), n_copies=len(copies))
    return with_sources(merged, copies) if len(copies) > 1 else merged


def with_sources(asset: Asset, copies: Iterable[Asset]) -> Asset:
    """The asset with the addresses, paths, channels and creators of its copies, for whoever asks for theirs to be taken down.

    What is beyond MAX_SOURCES characters is left out and counted. The order of the copies does not matter.
    """
    copies, own = [asset, *copies], sources_of(dataclasses.replace(asset, other_sources=None))
    everywhere: dict[SourceKind, set[str]] = {kind: {t for c in copies for t in sources_of(c)[kind]} for kind in SOURCE_COLUMNS}
    # Who published it comes first: the names are few, and they find the file also where an address is beyond the limit.
    others = [(kind, t) for kind in reversed(SOURCE_COLUMNS) for t in sorted(everywhere[kind] - set(own[kind]))]
    told: dict[str, Any] = {}
    size, left_out = 0, max((json.loads(c.other_sources).get("left_out", 0) for c in copies if c.other_sources), default=0)
    for n, (kind, text) in enumerate(others):
        size += len(json.dumps(text, ensure_ascii=False)) + 2
        if size > MAX_SOURCES:
            left_out = max(left_out, len(others) - n)
            break
        told.setdefault(kind, []).append(text)
    told |= {"left_out": left_out} if left_out else {}
    return dataclasses.replace(asset, other_sources=json.dumps(told, ensure_ascii=False) if told else None)
