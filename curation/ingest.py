"""From listed files to assets: hashing, rights, copies.

`ingest` is a map stage, Listing -> Asset, that hashes the bytes and reads what stands beside them; `complete` adds what a rights table
and the source say (see `rights` for the precedence); `merge_copies` keeps each content once. Whoever opens an asset later does it inside
`bytes_of`, which refuses a file that no longer holds what was hashed.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from curation import rights
from curation.listed import Listing, is_as_listed, member_of, path_of, span_of, statements
from curation.media import PASSING, MediaError, open_regular
from curation.plain_text import clean_text
from curation.rights import Rights
from manifests import ids
from manifests.files import sync_folder, temporary_name
from manifests.records import Asset
from manifests.takedown import SOURCE_COLUMNS, SourceKind, sources_of

if TYPE_CHECKING:
    from curation.rights_table import RightsTable


MAX_SOURCES = 1 << 16
"""Characters kept of where further copies of a file were found: ours; a file in a thousand folders still fits, a table stays readable."""


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


_NOTHING = Rights()

_LEADING_ON = frozenset(
    ("async_wrapper", "asyncwrapper", "asynclocal", "blockcache", "cached", "dask", "dir", "dvc", "filecache", "generic", "git",
     "libarchive", "reference", "simplecache", "tar", "zip")
)  # fmt: skip
"""Protocols of fsspec that read other addresses, or files of this machine that are no input."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An asset as it came in, and when its file was last written: None where the bytes are not a plain local file."""

    asset: Asset
    mtime_ns: int | None = None


def ingest(listing: Listing, config: IngestConfig, fetched: Path) -> Asset:
    """The asset behind a listing: hashed, with the rights its sidecars state. Bytes that are not a plain local file are kept under `fetched`."""
    return take_in(listing, config, fetched).asset


def take_in(listing: Listing, config: IngestConfig, fetched: Path) -> Taken:
    """As `ingest`, with the time by which `bytes_of` knows the file again. What cannot be taken in is an asset with the reason."""
    if listing.trouble is not None:
        return Taken(unreadable(listing, listing.trouble))
    stated = Rights()
    try:
        stated = _rights(listing)
        (sha256, md5, size), mtime_ns = _hash(listing.uri, fetched, config, listing)
    except MediaError as error:
        return Taken(unreadable(listing, error.detail, stated, error.code if error.code in PASSING else "unreadable"))
    except Exception as error:  # a remote store's library raises what it likes, and one file must not end the run
        return Taken(unreadable(listing, f"{type(error).__name__}: {error}", stated))
    values: dict[str, Any] = {n: getattr(stated, n) for n in rights.STORED}
    asset = Asset(asset_id=ids.asset_id(sha256), asset_sha256=sha256, asset_md5=md5, size_bytes=size, uri=listing.uri, **values)
    return Taken(asset, mtime_ns)


def unreadable(listing: Listing, reason: str, stated: Rights = _NOTHING, code: str = "unreadable") -> Asset:
    """The row of what cannot be taken in. It has no content, so its id is made of its address."""
    asset = Asset(
        asset_id=unread_id(listing.uri),
        asset_sha256=b"",
        asset_md5=b"",
        size_bytes=0,
        uri=listing.uri,
        readable=0.0,
        error_stage="ingest",
        error_code=code,
        error_detail=clean_text(reason, 500),
    )
    return rights.put(asset, stated)


def unread_id(uri: str) -> str:
    """The id of the row of what could not be taken in at this address."""
    return ids.digest("unreadable", uri)


def complete(asset: Asset, sources: Sequence[str], config: IngestConfig, table: "RightsTable | None" = None) -> Asset:
    """The asset with what the rights table says of it, and, where nothing is stated, what its sources (the strictest of each
    field where they are several) or the default licence say."""
    stated = rights.of_asset(asset)
    if table is not None:
        for row in table.of(asset):
            stated = rights.merge(row, stated)
    stated = rights.fill(stated, reduce(rights.merge, (defaults(s, config) for s in sources)))
    if config.default_licence:
        stated = rights.fill(stated, rights.from_fields({"licence": config.default_licence}, "source default"))
    return rights.put(asset, stated)


def defaults(source: str, config: IngestConfig) -> Rights:
    """What the configuration says of a source."""
    stated = Rights()
    for name in _defaults_of(source, config):
        stated = rights.fill(stated, rights.from_fields(config.source_defaults[name], "source default"))
    return stated


def unused_defaults(config: IngestConfig, sources: Iterable[str]) -> list[str]:
    """The names in `source_defaults` that are none of these sources'."""
    used = {name for source in sources for name in _defaults_of(source, config)}
    return [name for name in config.source_defaults if name not in used]


def _defaults_of(source: str, config: IngestConfig) -> list[str]:
    """The names in `source_defaults` that are the source's, however they are written: `/x/f` and `/x/f/` are one."""
    return [name for name in config.source_defaults if name == source or _plain_source(name) == _plain_source(source)]


@lru_cache(maxsize=1024)
def _plain_source(name: str) -> str:
    return name.rstrip("/") if "://" in name else os.path.abspath(path_of(name))


def merge_copies(assets: Iterable[Asset]) -> list[Asset]:
    """Each content once, by asset id: the first address stands, copies are counted, and the strictest rights of all hold."""
    groups: dict[str, list[Asset]] = {}
    for asset in assets:
        groups.setdefault(asset.asset_id, []).append(asset)
    return [_merge(sorted(groups[k], key=lambda a: a.uri)) for k in sorted(groups)]


def local_path(asset: Asset, fetched: Path) -> Path:
    """Where the bytes of an ingested asset lie on this machine."""
    if _is_fetched(asset.uri):
        kept = fetched / asset.asset_id
        if kept.exists():
            return kept
    return path_of(asset.uri)


def bring(asset: Asset, fetched: Path, config: IngestConfig) -> Path:
    """Where the bytes of the asset lie. What came out of an archive or from a remote store, and is not kept any more, is fetched again.

    Raises MediaError `missing` where its address gives nothing, or bytes of something else. A local path is returned whatever lies there.
    """
    path = local_path(asset, fetched)
    if path.exists() or not _is_fetched(asset.uri):
        return path
    try:
        (sha256, _, _), _ = _hash(asset.uri, fetched, config)
    except Exception as error:  # as in `take_in`
        detail = error.detail if isinstance(error, MediaError) else clean_text(f"{type(error).__name__}: {error}", 500)
        raise MediaError("missing", f"{asset.uri}: expected the bytes of asset {asset.asset_id} again, found {detail}") from error
    if ids.asset_id(sha256) != asset.asset_id:
        (fetched / ids.asset_id(sha256)).unlink(missing_ok=True)  # nobody asked for these, and a blocklist may forbid them
        raise MediaError("missing", f"{asset.uri}: expected the bytes of asset {asset.asset_id}, found those of {ids.asset_id(sha256)}")
    return local_path(asset, fetched)


@contextmanager
def bytes_of(asset: Asset, fetched: Path, config: IngestConfig, mtime_ns: int | None = None) -> Iterator[str]:
    """The path of the asset's bytes, which are those that were hashed when the block begins and when it ends.

    `mtime_ns` is what ingest noted of the file: one of the same size and time is not read again, any other is hashed.
    Raises MediaError `changed` where the file holds other bytes, and `missing` where there is none.
    """
    path = bring(asset, fetched, config)
    if path.parent == fetched:  # ours, under the name of its content
        yield str(path)
        return
    before = _stamp(path)
    if before != (asset.size_bytes, mtime_ns):
        _need_same(path, asset, before)
    try:
        yield str(path)
    except Exception:
        _need_unwritten(path, before)  # what a decoder says of a file that is written under its eyes is not said of the asset
        raise
    _need_unwritten(path, before)


def _need_same(path: Path, asset: Asset, stamp: tuple[int, int]) -> None:
    """The file holds the asset's bytes; otherwise MediaError."""
    remedy = "curate its folder again, and give a new film a name of its own"
    if stamp[0] != asset.size_bytes:
        raise MediaError("changed", f"{path}: expected the {asset.size_bytes} bytes that were ingested, found {stamp[0]} bytes; {remedy}")
    if (found := _sha256_of(str(path), stamp)) != asset.asset_sha256:
        expected = asset.asset_sha256.hex()
        raise MediaError("changed", f"{path}: expected the bytes with SHA-256 {expected}, found {found.hex()}; {remedy}")


def _need_unwritten(path: Path, before: tuple[int, int]) -> None:
    if (after := _stamp(path)) != before:
        found = f"{after[0]} bytes written at {after[1]} ns"
        raise MediaError("changed", f"{path}: expected {before[0]} bytes written at {before[1]} ns all along, found {found}; try again")


def _stamp(path: Path) -> tuple[int, int]:
    with open_regular(str(path)) as source:
        found = os.fstat(source.fileno())
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=1024)
def _sha256_of(path: str, stamp: tuple[int, int]) -> bytes:
    """SHA-256 of the file with this size and time: a process that encodes many clips of a file reads it once for that."""
    with open_regular(path) as source:
        return ids.hash_stream(source)[0]


def _rights(listing: Listing) -> Rights:
    """Sidecar before table row; a tar's own names and texts are no statements, and fill what nothing states."""
    stated = Rights()
    if listing.sidecar:
        stated = rights.merge(stated, rights.read_sidecar(_head(listing.sidecar), f"sidecar {Path(listing.sidecar).name}"))
    evidence = f"table or archive {Path(listing.source).name}"
    for said in statements(listing.fields_json):
        theirs = rights.not_understood(evidence, said) if isinstance(said, str) else rights.from_fields(said, evidence)
        stated = rights.merge(stated, theirs)
    if listing.caption_file and stated.supplied_caption is None:
        caption = clean_text(_head(listing.caption_file).decode("utf-8", "replace"))
        stated = dataclasses.replace(stated, supplied_caption=caption or None)
    inside = clean_text(listing.caption or "") or None
    return dataclasses.replace(stated, supplied_caption=stated.supplied_caption or inside, title=stated.title or listing.title)


def _head(uri: str) -> bytes:
    with open_regular(os.fspath(path_of(uri))) as source:
        return source.read(rights.MAX_SIDECAR_BYTES + 1)


def _is_fetched(uri: str) -> bool:
    """Whether the bytes are those of a member or of a remote store, which are kept here."""
    return "://" in uri or member_of(uri) is not None


def _hash(uri: str, fetched: Path, config: IngestConfig, listing: Listing | None = None) -> tuple[tuple[bytes, bytes, int], int | None]:
    """Hashes of the bytes behind an address, and when a local file was written; bytes from archives and remote stores are kept under
    `fetched/<asset id>`. With a listing, its tar must be the one that was listed."""
    if span := span_of(uri):
        archive, offset, size = span
        _need_within(size, config)
        with open_regular(os.fspath(path_of(archive))) as tar:
            _need_as_listed(listing, tar)
            tar.seek(offset)
            hashes = _keep(_Part(tar, size), fetched, config)
            try:
                _need_as_listed(listing, tar)
            except MediaError:
                (fetched / ids.asset_id(hashes[0])).unlink(missing_ok=True)  # nobody asked for these, and a blocklist may forbid them
                raise
            return hashes, None
    if "://" in uri:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        _need_one_store(uri)
        store, path = fsspec.url_to_fs(uri)
        if isinstance(store, LocalFileSystem):  # which would wait for a pipe's writer, and read a device for ever
            with open_regular(path) as file:
                return _keep(_Part(file, os.fstat(file.fileno()).st_size), fetched, config), None
        with store.open(path, "rb") as source:
            return _keep(source, fetched, config), None
    with open_regular(os.fspath(path_of(uri))) as file:
        before = os.fstat(file.fileno())
        _need_within(before.st_size, config)
        hashes = ids.hash_stream(_Part(file, before.st_size))
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            found = f"it was written to, and has {after.st_size} bytes"
            raise ValueError(f"expected {before.st_size} bytes that stay while they are read, found that {found}; try again")
        return hashes, before.st_mtime_ns


def _need_as_listed(listing: Listing | None, tar: BinaryIO) -> None:
    if listing is not None and not is_as_listed(listing, os.fstat(tar.fileno())):
        raise MediaError("changed", f"{listing.uri}: expected the tar that was listed, found one written since; curate it again")


def _need_one_store(uri: str) -> None:
    """The address names one store: others lead on to a second address, which may be any file of this machine."""
    protocol = uri.partition("://")[0].lower()
    if "::" in uri or protocol in _LEADING_ON:
        found = "a chain of them" if "::" in uri else f"one of {protocol}, which leads to others"
        raise ValueError(f"expected the address of one store, found {found}; give the address of the file itself")


def _need_within(size: int, config: IngestConfig) -> None:
    if size > config.max_bytes:
        raise ValueError(f"{size} bytes, more than the limit of {config.max_bytes}")


class _Part:
    """The next `size` bytes of a file as a stream, in blocks: nothing is held whole, and a file that grows for ever has an end."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._left = source, size

    def read(self, size: int, /) -> bytes:
        block = self._source.read(min(size, self._left))
        if not block and self._left:
            raise ValueError(f"expected {self._left} bytes more, found the end of the file")
        self._left -= len(block)
        return block


def _keep(source: ids.Readable, fetched: Path, config: IngestConfig) -> tuple[bytes, bytes, int]:
    fetched.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(fetched / "fetch")  # a takedown clears away what a killed run left under such a name
    copied = 0
    try:
        with temporary.open("wb") as sink:
            while block := source.read(1 << 20):
                copied += len(block)
                if copied > config.max_bytes:
                    raise ValueError(f"more than the limit of {config.max_bytes} bytes")
                sink.write(block)
            sink.flush()
            os.fsync(sink.fileno())  # it is believed by its name from now on
        with temporary.open("rb") as again:
            hashes = ids.hash_stream(again)
        os.replace(temporary, fetched / ids.asset_id(hashes[0]))
        sync_folder(fetched)
    finally:
        temporary.unlink(missing_ok=True)  # of a fetch that failed nothing is kept
    return hashes


def _merge(copies: list[Asset]) -> Asset:
    """The first copy with the strictest statements of all, whichever Content Credentials say most, and where the others were found."""
    stated = rights.of_asset(copies[0])
    for copy in copies[1:]:
        stated = rights.merge(stated, rights.of_asset(copy))
    # A copy that is on the blocklist by its address says so here for the last time: its address is gone.
    blocked = max((c.blocked for c in copies if c.blocked is not None), default=None)
    merged = dataclasses.replace(rights.put(copies[0], stated), n_copies=len(copies), blocked=blocked)
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
