"""Which asset or clip a person means: by id or the beginning of one, hash, address or file name."""

import json
import re
from typing import Literal

import duckdb

from manifests.ids import ID_HEX
from manifests.query import rows
from manifests.wording import visible

MIN_PREFIX = 6
"""Fewest hexadecimal digits that are looked up as the beginning of an id."""

_LISTED = 8
_HEX = re.compile(r"[0-9a-f]+")


class LookupFailed(LookupError):
    """The id or name names nothing, or more than one thing; the message lists what it could be."""


def find(con: duckdb.DuckDBPyConnection, key: str) -> tuple[Literal["asset", "clip"], str]:
    """Which asset or clip the key names: ('clip', clip_id) or ('asset', asset_id). Raises LookupFailed."""
    hits = _by_id(con, key.strip().lower()) or _by_name(con, key) or _by_name(con, _as_stored(key))
    if len(hits) == 1:
        return hits[0][0], hits[0][1]
    shown = visible(key[:200])
    if not hits:
        raise LookupFailed(f"expected an asset or clip id ({MIN_PREFIX} digits or more), hash or file name, found none for {shown!r}")
    listed = "; ".join(f"{s} {i} ({visible(uri[-80:])})" for s, i, uri in hits[:_LISTED])
    more = " and more" if len(hits) > _LISTED else ""
    raise LookupFailed(f"{shown!r} names several: {listed}{more}")


_Hit = tuple[Literal["asset", "clip"], str, str]


def _by_id(con: duckdb.DuckDBPyConnection, key: str) -> list[_Hit]:
    if len(key) < MIN_PREFIX or not _HEX.fullmatch(key):
        return []
    if len(key) == 2 * ID_HEX:  # a whole SHA-256
        found = rows(con, "SELECT asset_id AS id, uri FROM assets WHERE asset_id = ? AND lower(hex(asset_sha256)) = ?", key[:ID_HEX], key)
        return [("asset", r["id"], r["uri"]) for r in found]
    # A range, not a pattern: Parquet statistics then skip the row groups that cannot hold the id.
    span = (key, key + "g", _LISTED + 1)
    assets = rows(con, "SELECT asset_id AS id, uri FROM assets WHERE asset_id >= ? AND asset_id < ? ORDER BY 1 LIMIT ?", *span)
    clips = rows(
        con,
        """SELECT clip_id AS id, coalesce(a.uri, '') AS uri FROM clips LEFT JOIN assets a USING (asset_id)
        WHERE clip_id >= ? AND clip_id < ? ORDER BY 1 LIMIT ?""",
        *span,
    )
    if not assets and not clips and len(key) == ID_HEX:
        assets = rows(con, "SELECT asset_id AS id, uri FROM assets WHERE lower(hex(asset_md5)) = ? LIMIT ?", key, _LISTED + 1)
    return [*(("asset", r["id"], r["uri"]) for r in assets), *(("clip", r["id"], r["uri"]) for r in clips)]


def _as_stored(shown: str) -> str:
    """The name that `manifests.wording.visible` shows so: what is printed can be given back."""
    return re.sub(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})", lambda m: chr(int(m[1] or m[2], 16)), shown)


def _by_name(con: duckdb.DuckDBPyConnection, key: str) -> list[_Hit]:
    if not key:
        return []
    found = rows(
        con,
        """SELECT asset_id AS id, uri FROM assets WHERE uri = $1 OR source_url = $1 OR ends_with(uri, '/' || $1)
        OR contains(other_sources, '"' || $3 || '"') OR contains(other_sources, '/' || $3 || '"')
        ORDER BY uri = $1 DESC, uri LIMIT $2""",
        key,
        _LISTED + 1,
        json.dumps(key, ensure_ascii=False)[1:-1],  # as a copy's address stands there
    )
    exact = [r for r in found if r["uri"] == key]
    return [("asset", r["id"], r["uri"]) for r in exact or found]
