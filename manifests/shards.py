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


@dataclass(frozen=True, slots=True)
class TarEntry:
    """A regular file in a tar. A sparse one has fewer bytes there than its size says, and they are not its content as it lies."""

    name: str
    offset: int
    size_bytes: int
    is_sparse: bool


def list_entries(stream: io.BufferedIOBase, to_the_end: bool = True) -> Iterator[TarEntry]:
    """Every regular file in a tar, read sequentially; names are data here and never become paths. Raises tarfile.TarError.

    `to_the_end` refuses a tar that goes on behind the last header that can be read: tarfile stops there and says nothing.
    """
    last = -1
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for info in tar:
            if info.size < 0 or info.offset_data <= last:  # a size may be written as a negative number, and the walk would have no end
                raise tarfile.ReadError(f"{info.name!r}: expected a member that follows the one before, found {info.size} bytes")
            last = info.offset_data
            if info.isreg():
                yield TarEntry(info.name, info.offset_data, info.size, info.issparse())
        stream.seek(tar.offset)
        if to_the_end and (found := stream.read(_BLOCK)).strip(b"\0"):
            raise tarfile.ReadError(f"expected a header or the end at byte {tar.offset}, found {found[:12]!r}")


def list_members(stream: io.BufferedIOBase) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every regular file in a tar whose bytes lie there as they are: `list_entries` without the sparse ones."""
    return ((e.name, e.offset, e.size_bytes) for e in list_entries(stream, to_the_end=False) if not e.is_sparse)


def _entry(payload: Payload) -> Iterator[bytes]:
    info = tarfile.TarInfo(f"{payload.clip_id}.{payload.extension}")
    info.size, info.mode = len(payload.data), 0o644
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield payload.data
    yield bytes(-len(payload.data) % _BLOCK)
