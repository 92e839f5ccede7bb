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
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import rights
from curation.listed import (
    DOCUMENTS,
    InputError,
    Listing,
    is_odd,
    joined,
    mark_at,
    member_of,
    plain_name,
    statements,
    troubled,
    uri_of,
)
from curation.listing_tar import list_tar
from curation.plain_text import clean_text
from curation.sidecars import SUFFIXES, Seen, beside, said_of, stating_in, stating_of
from manifests import ids
from manifests.parquet import plain_rows

_LISTS = {".tar", ".lst"}
_URI_COLUMNS = ("uri", "path", "file", "url")


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
    further = sorted({x.source for x in same} - {min(x.source for x in same)})
    first = dataclasses.replace(min(same, key=lambda x: (x.source, x.key)), also_from=json.dumps(further) if further else None)
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
        fields_json=joined(stated),
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


def _list_one(given: str, seen: Seen) -> Iterator[Listing]:
    path, source = _without_steps_up(Path(given)), uri_of(Path(given)) if is_odd(given) else given
    suffix = path.suffix.lower()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise InputError(f"{given}: expected an input that can be looked at, found {said_of(error)}") from error
    if is_folder:
        yield from _list_folder(path, source)
    elif suffix == ".tar" and is_file:
        yield from list_tar(path, source)
    elif suffix in (".csv", ".parquet") and is_file:
        yield from _list_table(path, source, seen)
    elif suffix in (".txt", ".lst") and is_file:
        yield from _list_lines(path, source, seen)
    elif is_file:
        yield _entry(path.name, path.parent, source, None, seen)
    elif os.path.lexists(path):  # a pipe, a device, a link to nothing or to itself
        yield _no_file(path, source)
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
        if not (beside := media[path.parent].get(plain_name(path.stem), set())):
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
        entries = [e for e in os.scandir(folder) if Path(e.name).suffix.lower() not in DOCUMENTS | _LISTS and e.is_file()]
    except OSError:  # then no shell wrote out what stands there, and its files are rows with this reason
        entries = []
    for entry in entries:
        for stem in (entry.name, Path(entry.name).stem):
            found.setdefault(plain_name(stem), set()).add(entry.name)
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
        if path.suffix.lower() in DOCUMENTS and not is_folder:
            documents += 1
        elif is_folder:
            yield from [_linked_folder(path, source)] if _leaves(path, root) else _list_folder(path, source)
        elif parents[path.parent]:
            yield _linked_out(path, source, root)
        else:
            stating = stating_in(path.parent, seen)
            yield from [troubled(path, source, stating)] if isinstance(stating, str) else _list_found(path, source, stating, root)
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
        yield troubled(found, source, f"{found}: expected a folder that can be read, found {said_of(locked)}")


def _list_found(path: Path, source: str, stating: dict[str, list[str]], root: Path) -> Iterator[Listing]:
    """The listings of a name found in a folder: none where it is hidden or a document; its bytes may not lie outside `root`."""
    try:
        if path.name.startswith(".") or path.suffix.lower() in DOCUMENTS:
            return
        if not path.is_file():
            yield _no_file(path, source)
            return
        is_outside = path.is_symlink() and _leaves(path, root)
    except OSError as error:
        yield troubled(path, source, f"{path}: expected a file that can be looked at, found {said_of(error)}")
        return
    if is_outside:
        yield _linked_out(path, source, root)
    elif path.suffix.lower() == ".tar":
        yield from list_tar(path, source)
    else:
        yield _listing(path, source, None, stating, root)


def _no_file(path: Path, source: str) -> Listing:
    what = "a link to nothing" if path.is_symlink() else f"mode {stat.filemode(path.stat().st_mode)}"
    return troubled(path, source, f"{path}: expected a file, found {what}")


def _linked_out(path: Path, source: str, root: Path) -> Listing:
    found = f"found a link to {os.path.realpath(path)}; put a copy there, or name it as an input"
    return troubled(path, source, f"{path}: expected a file inside {root}, {found}")


def _linked_folder(path: Path, source: str) -> Listing:
    return troubled(path, source, f"{path}: expected a folder, found a link to one; name {os.path.realpath(path)} as an input too")


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


def _entry(entry: str, base: Path, source: str, fields: str | None, seen: Seen) -> Listing:
    """The listing of one line or row: a path relative to the list's own folder, or an address with a scheme."""
    entry = entry.removeprefix("file://").removeprefix("local://")  # beside such a file stand its sidecars too
    if "://" in entry:
        return Listing(key=ids.digest("listing/v3", entry, fields), uri=entry, source=source, fields_json=fields)
    path = _without_steps_up(base / entry)
    stating = stating_in(path.parent, seen)
    return troubled(path, source, stating) if isinstance(stating, str) else _listing(path, source, fields, stating, path.parent)


def _listing(path: Path, source: str, fields: str | None, stating: dict[str, list[str]], root: Path) -> Listing:
    """The listing of a local file; `stating` are the sidecars in its folder, and none of them may lie outside `root`."""
    sidecar, trouble = beside(path, ".json", stating, root)
    caption, second = beside(path, ".txt", stating, root)
    if trouble or second:
        return troubled(path, source, trouble or second or "")
    return Listing(
        key=ids.digest("listing/v3", uri_of(path), [mark_at(p) for p in (path, sidecar, caption)], fields),
        uri=uri_of(path),
        source=source,
        sidecar=uri_of(sidecar) if sidecar else None,
        caption_file=uri_of(caption) if caption else None,
        fields_json=fields,
    )
