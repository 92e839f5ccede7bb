"""What a person names on the command line, as listings of files: folders, globs, file lists, CSV and Parquet tables, WebDataset tars.

Nothing of the media is opened. What a table's row or a tar's members state of a file's rights goes with its listing, whatever the type of
the value: what is not understood reserves (see `rights`). What is found but cannot be listed as it should, because it is damaged, locked,
or stands where it may not, is a listing too, with its reason: no file is taken without all that is stated of it.
"""

import csv
import dataclasses
import glob
import io
import json
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from curation import rights
from curation.optouts import SIGNALS
from curation.plain_text import MAX_TEXT, clean_text
from curation.sidecars import SUFFIXES, Seen, beside, said_of, stating_in, stating_of
from manifests import ids
from manifests.columns import column
from manifests.parquet import plain_rows
from manifests.shards import TarEntry, list_entries

_DOCUMENTS = {".json", ".txt", ".csv", ".tsv", ".md", ".parquet", ".xml", ".yaml", ".yml", ".srt", ".vtt", ".log", ".html", ".pdf"}
"""Names in a folder that are never media: sidecars, tables and texts. Everything else is listed and judged by its content."""

_MEMBER = re.compile(r"(.*)#([0-9]{1,19})\+([0-9]{1,19})", re.S)  # int() refuses very many digits
_LISTS = {".tar", ".lst"}
SIGNAL_FIELDS = frozenset({*SIGNALS, "aipref", "aipref_raw", "robots"})
"""Fields that may reserve: of their text nothing is left out."""

MAX_STATED = 8 * MAX_TEXT
"""Characters that a member may state of the rights of its sample: ours; it goes into the row of every medium of the sample."""

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
    """Every file behind the inputs, sorted by address, each once with all that is stated of it; the order of the inputs does not matter."""
    inputs = list(inputs)
    found: dict[str, list[Listing]] = {}
    seen: Seen = {}
    captions = _captions_among(inputs)
    for given in inputs:
        for listing in () if given in captions else _list_one(given, seen):
            found.setdefault(listing.uri, []).append(listing)
    return [_together(found[uri]) for uri in sorted(found)]


def _together(same: list[Listing]) -> Listing:
    """The listings of one address as one: every statement of all, and the reason of any that cannot be taken in."""
    first = min(same, key=lambda x: (x.source, x.key))
    if len(keys := {x.key for x in same}) == 1:
        return first
    trouble = min((x.trouble for x in same if x.trouble is not None), default=None)
    if trouble is None and member_of(first.uri):  # of one member the listings differ only where its tar was written again
        trouble = clean_text(f"{first.uri}: expected a tar that stays while it is listed, found that it was written to; try again")
    stated = sorted(json.dumps(s, sort_keys=True) for x in same for s in statements(x.fields_json))
    return dataclasses.replace(
        first,
        key=ids.digest("listing/v3", *sorted(keys)),
        sidecar=max((x.sidecar for x in same if x.sidecar), default=None),
        caption_file=max((x.caption_file for x in same if x.caption_file), default=None),
        fields_json=_joined(stated),
        trouble=trouble,
    )


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
        names = [rights.field_name(n) for n in next(reader, [])]
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
    """The address of a local file: its absolute path, or percent-encoded after `file:` where it is no Unicode or like a member's."""
    text = os.path.abspath(path)
    return "file:" + quote(os.fsencode(text)) if _is_odd(text) or member_of(text) else text


def member_of(uri: str) -> tuple[str, int] | None:
    """The tar of a member's address, and the offset of its bytes there; None for the address of a file."""
    found = span_of(uri)
    return found and found[:2]


def span_of(uri: str) -> tuple[str, int, int] | None:
    """As `member_of`, with the number of the member's bytes. No remote address is one, whatever stands behind its `#`."""
    found = None if "://" in uri else _MEMBER.fullmatch(uri)
    return (found[1], int(found[2]), int(found[3])) if found else None


def is_as_listed(listing: Listing, found: os.stat_result) -> bool:
    """Whether a member's tar has the size and time it had when the member was listed: in another one its statements may be others."""
    mark = _mark_of(found)
    return listing.key == _member_key(listing.uri, mark, listing.fields_json, listing.caption, listing.trouble)


def path_of(uri: str) -> Path:
    """The path of a local address, as `uri_of` writes it."""
    return Path(os.fsdecode(unquote_to_bytes(uri[5:]))) if uri.startswith("file:") else Path(uri)


def sample_key(name: str) -> str:
    """The name up to the first dot of its last part: the sample key of the WebDataset format."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _list_one(given: str, seen: Seen) -> Iterator[Listing]:
    path, source = _without_steps_up(Path(given)), uri_of(Path(given)) if _is_odd(given) else given
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
        yield from _list_matches(given, matches, source, seen)
    else:
        raise InputError(
            f"{given}: expected a folder, media file, glob, file list (.txt), table (.csv, .parquet) or .tar; found nothing there"
        )


def _without_steps_up(path: Path) -> Path:
    """The path without `..`, as `uri_of` resolves it: beside a link, `link/../a.mp4` is another file to the system, with other sidecars."""
    return Path(os.path.abspath(path)) if ".." in path.parts else path


def _captions_among(inputs: list[str]) -> frozenset[str]:
    """Texts and JSON among the inputs that stand beside a medium among them, as where a shell wrote out `folder/*`: they are its sidecars.

    InputError for a .txt beside a medium that is no input: as a list, its lines would name files, and whoever wrote the caption chose them.
    """
    named = {os.path.abspath(given) for given in inputs}
    media: dict[Path, dict[str, set[str]]] = {}
    found = set()
    for given in inputs:
        path = Path(os.path.abspath(given))
        if path.suffix.lower() not in SUFFIXES or not os.path.isfile(path):
            continue
        if path.parent not in media:
            media[path.parent] = _media_by_stem(path.parent)
        if not (beside := media[path.parent].get(_plain_name(path.stem), set())):
            continue
        if any(str(path.with_name(name)) in named for name in beside):
            found.add(given)
        elif path.suffix.lower() == ".txt":
            said = f"found a text beside {min(beside)}, which may be its caption; give the list another name, or name {path.parent}"
            raise InputError(f"{given}: expected a file list, {said}")
    return frozenset(found)


def _media_by_stem(folder: Path) -> dict[str, set[str]]:
    """Names of what may be media in a folder, by what a sidecar's name has before its suffix."""
    found: dict[str, set[str]] = {}
    try:
        entries = [e for e in os.scandir(folder) if Path(e.name).suffix.lower() not in _DOCUMENTS | _LISTS and e.is_file()]
    except OSError:  # then no shell wrote out what stands there, and its files are rows with this reason
        entries = []
    for entry in entries:
        for stem in (entry.name, Path(entry.name).stem):
            found.setdefault(_plain_name(stem), set()).add(entry.name)
    return found


def _list_matches(given: str, matches: list[str], source: str, seen: Seen) -> Iterator[Listing]:
    """What a glob matches, as if it stood in a folder: whoever wrote a caption or a table there does not choose what is listed."""
    root = _without_steps_up(Path(*takewhile(lambda part: not glob.has_magic(part), Path(given).parts)))
    documents = 0
    parents: dict[Path, bool] = {}
    for path in map(_without_steps_up, map(Path, matches)):
        is_folder = os.path.isdir(path)
        if path.parent not in parents:
            parents[path.parent] = _leaves(path.parent, root)
        if path.suffix.lower() in _DOCUMENTS and not is_folder:
            documents += 1
        elif is_folder:
            yield from [_linked_folder(path, source)] if _leaves(path, root) else _list_folder(path, source)
        elif parents[path.parent]:
            yield _linked_out(path, source, root)
        else:
            stating = stating_in(path.parent, seen)
            yield from [_troubled(path, source, stating)] if isinstance(stating, str) else _list_found(path, source, stating, root)
    if documents == len(matches):
        raise InputError(f"{given}: expected media among what it matches, found {documents} documents; name lists and tables one by one")


def _list_folder(folder: Path, source: str) -> Iterator[Listing]:
    unread: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for linked in (path for n in folders if (path := Path(parent, n)).is_symlink()):
            yield _linked_folder(linked, source)
        stating = stating_of(names)
        for name in sorted(names):
            yield from _list_found(Path(parent, name), source, stating, folder)
    for locked in unread:
        found = Path(os.fsdecode(locked.filename or folder))
        yield _troubled(found, source, f"{found}: expected a folder that can be read, found {said_of(locked)}")


def _list_found(path: Path, source: str, stating: dict[str, list[str]], root: Path) -> Iterator[Listing]:
    """The listings of a name found in a folder: none where it is hidden or a document; its bytes may not lie outside `root`."""
    try:
        if path.name.startswith(".") or path.suffix.lower() in _DOCUMENTS:
            return
        if not path.is_file():
            what = "a link to nothing" if path.is_symlink() else f"mode {stat.filemode(path.stat().st_mode)}"
            yield _troubled(path, source, f"{path}: expected a file, found {what}")
            return
        is_outside = path.is_symlink() and _leaves(path, root)
    except OSError as error:
        yield _troubled(path, source, f"{path}: expected a file that can be looked at, found {said_of(error)}")
        return
    if is_outside:
        yield _linked_out(path, source, root)
    elif path.suffix.lower() == ".tar":
        yield from _list_tar(path, source)
    else:
        yield _listing(path, source, None, stating, root)


def _linked_out(path: Path, source: str, root: Path) -> Listing:
    found = f"found a link to {os.path.realpath(path)}; put a copy there, or name it as an input"
    return _troubled(path, source, f"{path}: expected a file inside {root}, {found}")


def _linked_folder(path: Path, source: str) -> Listing:
    return _troubled(path, source, f"{path}: expected a folder, found a link to one; name {os.path.realpath(path)} as an input too")


def _leaves(path: Path, root: Path) -> bool:
    """Whether the path leads, through links, to what lies outside `root`."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _list_lines(path: Path, source: str, seen: Seen) -> Iterator[Listing]:
    try:
        text = path.read_text("utf-8-sig", "replace")
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
        stored = pq.read_schema(path).names
        names = [rights.field_name(n) for n in stored]
        _check_columns(path, names)
        # what nobody asks for is not read: it may be of types that no value here has
        wanted = [n for n in stored if rights.field_name(n) in rights.FIELDS or rights.field_name(n) in _URI_COLUMNS]
        found = pq.read_table(path, columns=wanted, partitioning=None)
        return names, plain_rows(found.rename_columns([rights.field_name(n) for n in found.column_names]))
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
    """One listing per media member; .json and .txt members of its name, its stem, or else its sample, state its rights and caption.

    Of a tar that breaks off nothing is listed but the tar itself: what states the rights of its members may be in the part that is lost.
    """
    try:
        with path.open("rb") as tar:
            mark = _mark_of(os.fstat(tar.fileno()))
            entries = list(list_entries(tar))
            within = _Within(path, source, tar, mark, _stating_members(entries), _names_of(entries), _parted_samples(entries), {})
            found = [_member(e, within) for e in entries if Path(e.name).suffix.lower() not in _DOCUMENTS]
    except Exception as error:  # whatever tarfile makes of a damaged archive is a fault of the archive
        yield _troubled(path, source, f"{path}: expected a whole tar that can be read, found {said_of(error)}; write it again")
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
    fields, caption, reason = _joined(said.get(".json", [])), next(iter(said.get(".txt", [])), None), trouble and clean_text(trouble)
    return Listing(
        key=_member_key(uri, within.mark, fields, caption, reason),
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
    name = _plain_name(entry.name)
    own = dict.fromkeys((name, name[: len(name) - len(Path(name).suffix)]))
    return [f for stem in own if (f := stating.get(stem + suffix))] or [f for f in [stating.get(sample_key(name) + suffix)] if f]


def _member_key(uri: str, mark: tuple[int, int] | None, fields: str | None, caption: str | None, trouble: str | None) -> str:
    return ids.digest("listing/v3", uri, mark, fields, caption, trouble)


def _odd_member(entry: TarEntry, within: _Within) -> str | None:
    """Why nothing can be read of a member: its bytes do not lie there, or which statements are its own would be a guess."""
    name = _plain_name(entry.name)
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
        name = _plain_name(entry.name)
        if (suffix := Path(name).suffix.lower()) in SUFFIXES:
            found.setdefault(name[: -len(suffix)] + suffix, []).append(entry)
    return found


def _names_of(entries: Iterable[TarEntry]) -> Counter[str]:
    return Counter(_plain_name(e.name) for e in entries)


def _parted_samples(entries: list[TarEntry]) -> frozenset[str]:
    """Samples whose members do not stand side by side, in a tar in which names repeat: of shards put together each may have its own."""
    if all(times == 1 for times in _names_of(entries).values()):
        return frozenset()
    runs = Counter(key for key, _ in groupby(sample_key(_plain_name(e.name)) for e in entries))
    return frozenset(key for key, times in runs.items() if times > 1)


def _plain_name(name: str) -> str:
    """The name as it compares: `./a.json` states the rights of `a.mp4`, however accents are written."""
    return unicodedata.normalize("NFC", os.path.normpath(name))


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


def statements(fields_json: str | None) -> list[dict[str, Any] | str]:
    """What `fields_json` of a listing holds: each statement's fields, or why they are not understood."""
    loaded = json.loads(fields_json) if fields_json else []
    return loaded if isinstance(loaded, list) else [loaded]


def _joined(stated: Iterable[str]) -> str | None:
    """Statements, each as JSON, as one text: the statement where there is one, a list of them where there are more."""
    apart = list(dict.fromkeys(stated))
    return f"[{', '.join(apart)}]" if len(apart) > 1 else next(iter(apart), None)


def _read_at(source: BinaryIO, offset: int, size: int) -> bytes:
    """At most a sidecar's worth of bytes from a place in the file."""
    source.seek(offset)
    return source.read(min(size, rights.MAX_SIDECAR_BYTES + 1))


def _entry(entry: str, base: Path, source: str, fields: str | None, seen: Seen) -> Listing:
    """The listing of one line or row: a path relative to the list's own folder, or an address with a scheme."""
    entry = entry.removeprefix("file://").removeprefix("local://")  # beside such a file stand its sidecars too
    if "://" in entry:
        return Listing(key=ids.digest("listing/v3", entry, fields), uri=entry, source=source, fields_json=fields)
    path = _without_steps_up(base / entry)
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


def _mark_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _mark(path: Path | None) -> tuple[int, int] | None:
    """Size and time of a file, which change when its bytes may have; None where there is none to see."""
    try:
        found = None if path is None else path.stat()
    except (OSError, ValueError):  # also a name that is too long to be one
        return None
    return None if found is None else _mark_of(found)


def _is_odd(text: str) -> bool:
    """Whether the text is not valid Unicode, as the name of a file may be, and fits no column."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
