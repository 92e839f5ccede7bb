"""From listed files to assets: hashing, rights, copies.

`ingest` is a map stage, Listing -> Asset, that hashes the bytes and reads what stands beside them; `complete` adds what a rights table
and the source say (see `rights` for the precedence); `merge_copies` keeps each content once.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import rights
from curation.listing import Listing, path_of
from curation.media import MediaError
from curation.rights import Rights
from manifests import ids
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


def bring(asset: Asset, fetched: Path, config: IngestConfig) -> Path:
    """Where the bytes of the asset lie. What came out of an archive or from a remote store, and is not kept any more, is fetched again.

    Raises MediaError `missing` where its address gives nothing, or bytes of something else. A local path is returned whatever lies there.
    """
    path = local_path(asset, fetched)
    if path.exists() or not ("://" in asset.uri or "#" in asset.uri):
        return path
    try:
        sha256, _, _ = _hash(asset.uri, fetched, config)
    except (OSError, ValueError, ImportError) as error:
        detail = rights.clean_text(f"{type(error).__name__}: {error}", 500)
        raise MediaError("missing", f"{asset.uri}: expected the bytes of asset {asset.asset_id} again, found {detail}") from error
    if ids.asset_id(sha256) != asset.asset_id:
        (fetched / ids.asset_id(sha256)).unlink(missing_ok=True)  # nobody asked for these, and a blocklist may forbid them
        raise MediaError("missing", f"{asset.uri}: expected the bytes of asset {asset.asset_id}, found those of {ids.asset_id(sha256)}")
    return local_path(asset, fetched)


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
