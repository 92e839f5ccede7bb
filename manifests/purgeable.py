"""What has to go when something is taken down: the text columns of each table that name, describe or quote it, and what stands in for them.

Hashes, times, sizes, scores and verdicts stay: they are the record that it was there, and what keeps it from entering again.
"""

import dataclasses
import hashlib
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from manifests.records import Asset

PURGEABLE: dict[str, tuple[str, ...]] = {
    "assets": (
        "source_url",
        "canonical_url",
        "page_url",
        "platform_id",
        "channel_id",
        "other_sources",
        "title",
        "creator",
        "rights_holder",
        "supplied_caption",
        "licence_evidence",
        "licence_evidence_uri",
        "licence_evidence_sha256",
        "consent_ref",
        "tdm_policy_url",
        "acquired_by",
        "etag",
        "optout_checks",
        "optout_signals",
        "aipref_raw",
        "licence_verified_by",
        "contract_id",
        "user_agent",
        "error_detail",
    ),
    "clips": ("error_detail", "action"),
    "captions": ("camera_prefix", "frame_digest"),
    "picks": ("reason",),
    "sources": ("supplier",),
}
"""Columns that become null. Of assets `uri` too is replaced, of captions `text`, of sources `name`: they are never null."""


REMOVED_URI = "removed"
"""What stands where the address of a removed file stood: the same for all, so that no table grows by what is taken out of it."""


def redact(asset: Asset) -> Asset:
    """The asset without what names or describes it."""
    nothing: dict[str, Any] = dict.fromkeys(PURGEABLE["assets"])
    return dataclasses.replace(asset, uri=REMOVED_URI, **nothing)


def normal_url(url: str) -> str:
    """An address in the form in which addresses are compared: https for http, host in lower case without www, no last slash."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url.strip()
    if not parts.netloc:
        return url.strip()
    scheme = "https" if parts.scheme.lower() in ("http", "https") else parts.scheme.lower()
    return urlunsplit((scheme, parts.netloc.lower().removeprefix("www."), parts.path.rstrip("/"), parts.query, parts.fragment))


def url_key(url: str) -> str:
    """The SHA-256 of an address's normal form, hexadecimal: what the blocklist holds, so that it names nothing."""
    return text_key(normal_url(url))


def text_key(text: str) -> str:
    """The SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
