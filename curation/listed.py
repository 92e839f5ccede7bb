"""A file as it is listed: where it lies, and what its listing states of it."""

import json
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa

from curation.plain_text import clean_text
from manifests import ids
from manifests.columns import column

_MEMBER = re.compile(r"(.*)#([0-9]{1,19})\+([0-9]{1,19})", re.S)  # int() refuses very many digits
DOCUMENTS = {".json", ".txt", ".csv", ".tsv", ".md", ".parquet", ".xml", ".yaml", ".yml", ".srt", ".vtt", ".log", ".html", ".pdf"}
"""Names in a folder that are never media: sidecars, tables and texts. Everything else is listed and judged by its content."""


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
    also_from: str | None = column(pa.string(), "JSON: further inputs it was listed from", default=None)
    trouble: str | None = column(pa.string(), "why it cannot be taken in; null when nothing speaks against it", default=None)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every input it was listed from."""
        return self.source, *(json.loads(self.also_from) if self.also_from else ())


def uri_of(path: Path) -> str:
    """The address of a local file: its absolute path, or percent-encoded after `file:` where it is no Unicode or like a member's."""
    text = os.path.abspath(path)
    return "file:" + quote(os.fsencode(text)) if is_odd(text) or member_of(text) else text


def path_of(uri: str) -> Path:
    """The path of a local address, as `uri_of` writes it."""
    return Path(os.fsdecode(unquote_to_bytes(uri[5:]))) if uri.startswith("file:") else Path(uri)


def member_of(uri: str) -> tuple[str, int] | None:
    """The tar of a member's address, and the offset of its bytes there; None for the address of a file."""
    found = span_of(uri)
    return found and found[:2]


def span_of(uri: str) -> tuple[str, int, int] | None:
    """As `member_of`, with the number of the member's bytes. No remote address is one, whatever stands behind its `#`."""
    found = None if "://" in uri else _MEMBER.fullmatch(uri)
    return (found[1], int(found[2]), int(found[3])) if found else None


def statements(fields_json: str | None) -> list[dict[str, Any] | str]:
    """What `fields_json` of a listing holds: each statement's fields, or why they are not understood."""
    loaded = json.loads(fields_json) if fields_json else []
    return loaded if isinstance(loaded, list) else [loaded]


def joined(stated: Iterable[str]) -> str | None:
    """Statements, each as JSON, as one text: the statement where there is one, a list of them where there are more."""
    apart = list(dict.fromkeys(stated))
    return f"[{', '.join(apart)}]" if len(apart) > 1 else next(iter(apart), None)


def is_as_listed(listing: Listing, found: os.stat_result) -> bool:
    """Whether a member's tar has the size and time it had when the member was listed: in another one its statements may be others."""
    mark = mark_of(found)
    return listing.key == member_key(listing.uri, mark, listing.fields_json, listing.caption, listing.trouble)


def member_key(uri: str, mark: tuple[int, int] | None, fields: str | None, caption: str | None, trouble: str | None) -> str:
    """The key of the listing of a member of a tar, whose size and time are the mark."""
    return ids.digest("listing/v3", uri, mark, fields, caption, trouble)


def mark_of(found: os.stat_result) -> tuple[int, int]:
    """Size and time of a file."""
    return found.st_size, found.st_mtime_ns


def mark_at(path: Path | None) -> tuple[int, int] | None:
    """Size and time of a file, which change when its bytes may have; None where there is none to see."""
    try:
        found = None if path is None else path.stat()
    except (OSError, ValueError):  # also a name that is too long to be one
        return None
    return None if found is None else mark_of(found)


def is_odd(text: str) -> bool:
    """Whether the text is not valid Unicode, as the name of a file may be, and fits no column."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def plain_name(name: str) -> str:
    """The name as it compares: `./a.json` states the rights of `a.mp4`, however accents are written."""
    return unicodedata.normalize("NFC", os.path.normpath(name))


def troubled(path: Path, source: str, trouble: str) -> Listing:
    """A listing that becomes a row with this reason."""
    said = clean_text(trouble)
    return Listing(key=ids.digest("listing/v3", uri_of(path), mark_at(path), said), uri=uri_of(path), source=source, trouble=said)
