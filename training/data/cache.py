"""Payloads that were read from afar, kept by the SHA-256 of their bytes: in memory, or in a folder that processes share.

    <folder>/<2 digits>/<SHA-256>

By content, because then nothing can be out of date and a payload is named by what a takedown knows of it. A file appears whole by a
rename; it is not synced, as a file that a power cut left short is found by its hash and fetched again.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

_LOCK = ".lock"
_SHARE = 16
"""A process looks at the folder's size after each sixteenth of the limit that it wrote: listing a large folder is not free."""


class FolderCache:
    """At most about `limit_mb` in a folder; what has not been used for longest goes first.

    Each process may be a sixteenth of the limit over it before it looks, so with P processes the bound is (1 + P / 16) of the limit.
    """

    def __init__(self, folder: Path, limit_mb: int) -> None:
        self._folder, self._limit = folder, limit_mb << 20
        self._unseen = self._limit  # what others and earlier runs wrote is counted at the first write
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, sha256: bytes) -> bool:
        """Whether there is a file for the payload; only `get` says whether it is whole."""
        return path_in(self._folder, sha256).exists()

    def get(self, sha256: bytes) -> bytes | None:
        """The payload, if it is kept and whole."""
        path = path_in(self._folder, sha256)
        try:
            data = path.read_bytes()
        except OSError:  # gone, or not ours to read: fetched then
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data if hashlib.sha256(data).digest() == sha256 else None

    def put(self, sha256: bytes, data: bytes) -> None:
        """The payload is kept; older ones may have gone for it."""
        path = path_in(self._folder, sha256)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        with self._lock:
            self._unseen += len(data)
            full = self._unseen * _SHARE > self._limit
            self._unseen = 0 if full else self._unseen
        if full:
            self._make_room()

    def _make_room(self) -> None:
        """The oldest files are gone until seven eighths of the limit are left; one process at a time does it."""
        with (self._folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            found = [(stat.st_mtime_ns, stat.st_size, path) for path, stat in _files(self._folder)]
            total = sum(size for _, size, _ in found)
            if total <= self._limit:
                return
            for _, size, path in sorted(found):
                if total <= self._limit - self._limit // 8:
                    break
                path.unlink(missing_ok=True)
                total -= size


class MemoryCache:
    """At most `limit_mb` in this process; what came first goes first, so it has to hold what is fetched ahead."""

    def __init__(self, limit_mb: int) -> None:
        self._limit, self._size = limit_mb << 20, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, sha256: bytes) -> bool:
        """Whether the payload is kept."""
        return sha256 in self._kept

    def get(self, sha256: bytes) -> bytes | None:
        """The payload, if it is kept."""
        with self._lock:
            return self._kept.get(sha256)

    def put(self, sha256: bytes, data: bytes) -> None:
        """The payload is kept; the first ones may have gone for it."""
        with self._lock:
            self._size += len(data) - len(self._kept.pop(sha256, b""))
            self._kept[sha256] = data
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1])


def forget_payloads(folder: Path, sha256s: Iterable[bytes]) -> int:
    """None of the payloads is in the folder of a `FolderCache`; returns how many were."""
    found = [path for path in (path_in(folder, s) for s in sha256s) if path.exists()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def path_in(folder: Path, sha256: bytes) -> Path:
    """Where a `FolderCache` keeps a payload."""
    name = sha256.hex()
    return folder / name[:2] / name


def _files(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    for path in folder.glob("??/*"):
        try:
            yield path, path.stat()
        except FileNotFoundError:  # another process made room
            continue
