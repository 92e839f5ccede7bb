"""What a tar holds, as listings: one a media member, with what its sample states; a tar that cannot be read is one listing with the reason."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from curation import rights
from curation.listed import DOCUMENTS, Listing, joined, mark_of, member_key, plain_name, troubled, uri_of
from curation.optouts import SIGNALS
from curation.plain_text import MAX_TEXT, clean_text
from curation.sidecars import SUFFIXES, said_of
from manifests.shards import TarEntry, list_entries

SIGNAL_FIELDS = frozenset({*SIGNALS, "aipref", "aipref_raw", "robots"})
"""Fields that may reserve: of their text nothing is left out."""

MAX_STATED = 8 * MAX_TEXT
"""Characters that a member may state of the rights of its sample: ours; it goes into the row of every medium of the sample."""


def sample_key(name: str) -> str:
    """The name up to the first dot of its last part: the sample key of the WebDataset format."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def list_tar(path: Path, source: str) -> Iterator[Listing]:
    """One listing per media member; .json and .txt members of its name, its stem, or else its sample, state its rights and caption.

    Of a tar that breaks off nothing is listed but the tar itself: what states the rights of its members may be in the part that is lost.
    """
    try:
        with path.open("rb") as tar:
            mark = mark_of(os.fstat(tar.fileno()))
            entries = list(list_entries(tar))
            within = _Within(path, source, tar, mark, _stating_members(entries), _names_of(entries), _parted_samples(entries), {})
            found = [_member(e, within) for e in entries if Path(e.name).suffix.lower() not in DOCUMENTS]
    except Exception as error:  # whatever tarfile makes of a damaged archive is a fault of the archive
        yield troubled(path, source, f"{path}: expected a whole tar that can be read, found {said_of(error)}; write it again")
        return
    yield from found


@dataclass(frozen=True, slots=True)
class _Within:
    """A tar that is being listed: its members that state something, by name with the suffix in small letters, and what was read of them."""

    path: Path
    source: str
    tar: BinaryIO
    mark: tuple[int, int]
    stating: dict[str, list[TarEntry]]
    names: Counter[str]
    parted: frozenset[str]
    read: dict[int, tuple[str | None, str | None]]


def _member(entry: TarEntry, within: _Within) -> Listing:
    trouble = _odd_member(entry, within)
    said: dict[str, list[str]] = {}
    for suffix in SUFFIXES:
        for found in _stating(entry, suffix, within.stating):
            if len(found) > 1:
                names = " and ".join(sorted(e.name for e in found))
                trouble = trouble or f"{within.path}: {entry.name}: expected one member that states its rights, found {names}"
                continue
            text, wrong = _read_member(found[0], suffix, within)
            trouble = trouble or wrong
            said.setdefault(suffix, []).extend([text] if text else [])
    uri = f"{uri_of(within.path)}#{entry.offset}+{entry.size_bytes}"
    fields, caption, reason = joined(said.get(".json", [])), next(iter(said.get(".txt", [])), None), trouble and clean_text(trouble)
    return Listing(
        key=member_key(uri, within.mark, fields, caption, reason),
        uri=uri,
        source=within.source,
        fields_json=fields,
        title=clean_text(entry.name),
        caption=caption,
        trouble=reason,
    )


def _stating(entry: TarEntry, suffix: str, stating: dict[str, list[TarEntry]]) -> list[list[TarEntry]]:
    """The members that speak of this one, by each of their names: both its own, `a.mp4.json` and `a.json`, or else that of its sample;
    the nearer first."""
    name = plain_name(entry.name)
    own = dict.fromkeys((name, name[: len(name) - len(Path(name).suffix)]))
    return [f for stem in own if (f := stating.get(stem + suffix))] or [f for f in [stating.get(sample_key(name) + suffix)] if f]


def _odd_member(entry: TarEntry, within: _Within) -> str | None:
    """Why nothing can be read of a member: its bytes do not lie there, or which statements are its own would be a guess."""
    name = plain_name(entry.name)
    if entry.found:
        remedy = "without --sparse" if "sparse" in entry.found else "with --dereference and --hard-dereference"
        return f"{within.path}: {entry.name}: expected a plain member, found {entry.found}; write the tar {remedy}"
    if within.names[name] > 1:
        return f"{within.path}: {entry.name}: expected one member of this name, found {within.names[name]}; write the tar again"
    if sample_key(name) in within.parted:
        found = "others between them; write the tar again"
        return f"{within.path}: {entry.name}: expected its sample's members side by side, as names repeat in this tar, found {found}"
    return None


def _stating_members(entries: Iterable[TarEntry]) -> dict[str, list[TarEntry]]:
    found: dict[str, list[TarEntry]] = {}
    for entry in entries:
        name = plain_name(entry.name)
        if (suffix := Path(name).suffix.lower()) in SUFFIXES:
            found.setdefault(name[: -len(suffix)] + suffix, []).append(entry)
    return found


def _names_of(entries: Iterable[TarEntry]) -> Counter[str]:
    return Counter(plain_name(e.name) for e in entries)


def _parted_samples(entries: list[TarEntry]) -> frozenset[str]:
    """Samples whose members do not stand side by side, in a tar in which names repeat: of shards put together each may have its own."""
    if all(times == 1 for times in _names_of(entries).values()):
        return frozenset()
    runs = Counter(key for key, _ in groupby(sample_key(plain_name(e.name)) for e in entries))
    return frozenset(key for key, times in runs.items() if times > 1)


def _read_member(entry: TarEntry, suffix: str, within: _Within) -> tuple[str | None, str | None]:
    """What a member states, fields as JSON or a caption, and why that cannot be known; each is read once, however many it speaks of."""
    if entry.offset not in within.read:
        within.read[entry.offset] = _read_stated(entry, suffix, within)
    return within.read[entry.offset]


def _read_stated(entry: TarEntry, suffix: str, within: _Within) -> tuple[str | None, str | None]:
    if entry.found:
        return None, _odd_member(entry, within)
    document = _read_at(within.tar, entry.offset, entry.size_bytes)
    if suffix == ".txt":
        return document[:MAX_TEXT].decode("utf-8", "replace") or None, None
    return _member_fields(document), None


def _member_fields(document: bytes) -> str:
    """What the JSON of a sample states, as JSON: its fields, or the reason why they are not understood, as of a sidecar beside a file."""
    found = rights.parse_sidecar(document)
    if isinstance(found, str):
        return json.dumps(found)
    # Every field of whatever type, as of a sidecar: what is not understood reserves. Others can be large, and say nothing here.
    stated = {n: v for n, v in found.items() if rights.field_name(n) in rights.FIELDS}
    if long := next((n for n, v in stated.items() if rights.field_name(n) in SIGNAL_FIELDS and len(str(v)) > MAX_TEXT), None):
        return json.dumps(f"sidecar with more than {MAX_TEXT} characters in {clean_text(long, 100)}, not read")
    text = json.dumps({n: _bounded(v) for n, v in stated.items()}, sort_keys=True)
    return text if len(text) <= MAX_STATED else json.dumps(f"sidecar that states rights in more than {MAX_STATED} characters, not read")


def _bounded(value: Any) -> Any:
    """No more of a text than is kept of a sidecar's; of another value that is too long, that it was there and is no text."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    return value if len(str(value)) <= MAX_TEXT else ["left out: too long"]


def _read_at(source: BinaryIO, offset: int, size: int) -> bytes:
    """At most a sidecar's worth of bytes from a place in the file."""
    source.seek(offset)
    return source.read(min(size, rights.MAX_SIDECAR_BYTES + 1))
