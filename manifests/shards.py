"""Shards: WebDataset tars with deterministic bytes and an index of member offsets, written whole or not at all."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.files import sync_folder, temporary_of

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One file of a sample: `data` under `<clip_id>.<extension>`."""

    clip_id: str
    extension: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a payload lies in its tar."""

    clip_id: str
    extension: str
    offset: int
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A finished tar."""

    size_bytes: int
    sha256: bytes
    members: tuple[Placed, ...]


def write_shard(path: Path, payloads: Iterable[Payload]) -> Written:
    """The tar holds the payloads in the order given, with no time, owner or machine in it: same payloads, same bytes.

    Memory: one payload at a time. The name appears only when all is on disk.
    """
    whole, members = hashlib.sha256(), []
    with temporary_of(path) as temporary:
        with temporary.open("xb") as sink:
            for payload in payloads:
                start = sink.tell()
                for piece in _entry(payload):
                    sink.write(piece)
                    whole.update(piece)
                digest, size = hashlib.sha256(payload.data).digest(), len(payload.data)
                place = Placed(clip_id=payload.clip_id, extension=payload.extension, offset=start + _BLOCK, size_bytes=size, sha256=digest)
                members.append(place)
            tail = bytes(2 * _BLOCK)
            sink.write(tail)
            whole.update(tail)
            size = sink.tell()
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temporary, path)
    sync_folder(path.parent)
    return Written(size_bytes=size, sha256=whole.digest(), members=tuple(members))


def read_payload(path: Path, offset: int, size_bytes: int) -> bytes:
    """The payload at a place the index names; ValueError with file, expected and found when the tar ends before it."""
    with path.open("rb") as source:
        source.seek(offset)
        data = source.read(size_bytes)
    if len(data) != size_bytes:
        raise ValueError(f"{path}: expected {size_bytes} bytes at {offset}, found {len(data)}")
    return data


MAX_HEADER_BYTES = 1 << 20
"""What the headers of one member may take: ours; a path has at most 4096 bytes, and tarfile holds a header's text whole."""


@dataclass(frozen=True, slots=True)
class TarEntry:
    """What has a name in a tar and is no folder. `found` says what it is where its bytes do not lie there: a link, a sparse file."""

    name: str
    offset: int
    size_bytes: int
    found: str | None = None


def list_entries(stream: io.BufferedIOBase, to_the_end: bool = True) -> Iterator[TarEntry]:
    """Everything in a tar but its folders, read sequentially; names are data here and never become paths. Raises tarfile.TarError.

    `to_the_end` refuses a tar that goes on behind the last header that can be read, or behind its end: tarfile stops in silence.
    """
    last = -1
    headers = _Headers(stream)
    with tarfile.open(fileobj=headers, mode="r:") as tar:  # type: ignore[call-overload]
        while (info := tar.next()) is not None:
            tar.members.clear()  # tarfile keeps every one, with all that its headers say
            headers.left = MAX_HEADER_BYTES
            if info.size < 0 or info.offset_data <= last:  # a size may be written as a negative number, and the walk would have no end
                raise tarfile.ReadError(f"{info.name!r}: expected a member that follows the one before, found {info.size} bytes")
            last = info.offset_data
            if not info.isdir() and info.type not in _NO_FILES:
                yield TarEntry(info.name, info.offset_data, info.size, _oddity(info))
        if to_the_end:
            _need_the_end(stream, tar.offset)


def list_members(stream: io.BufferedIOBase) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every file in a tar whose bytes lie there as they are: `list_entries` without links and sparse ones."""
    return ((e.name, e.offset, e.size_bytes) for e in list_entries(stream, to_the_end=False) if e.found is None)


_NO_FILES = (b"V", b"D")
"""Types of GNU tar for the label of an archive and for a folder's list of names."""


class _Headers:
    """A tar as tarfile reads it, in which the headers of one member have an end: a name of 400 MiB would be held whole."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self.seek, self.tell = stream.seek, stream.tell
        self.left = MAX_HEADER_BYTES
        self._read = stream.read

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"expected at most {MAX_HEADER_BYTES} bytes of headers for a member, found more")
        return self._read(size)


def _oddity(info: tarfile.TarInfo) -> str | None:
    if info.issparse():
        return "a sparse one"
    if info.isreg():
        return None
    if info.issym() or info.islnk():
        return f"a link to {info.linkname[:1000]!r}"
    return f"one of type {info.type.decode('latin-1')!r}"


def _need_the_end(stream: io.BufferedIOBase, offset: int) -> None:
    """Nothing but zeros stands from this offset on."""
    stream.seek(offset)
    while block := stream.read(1 << 20):
        if rest := block.lstrip(b"\0"):
            at = offset + len(block) - len(rest)
            raise tarfile.ReadError(f"expected a header or the end at byte {at - at % _BLOCK}, found {rest[:12]!r}")
        offset += len(block)


def _entry(payload: Payload) -> Iterator[bytes]:
    info = tarfile.TarInfo(f"{payload.clip_id}.{payload.extension}")
    info.size, info.mode = len(payload.data), 0o644
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield payload.data
    yield bytes(-len(payload.data) % _BLOCK)
