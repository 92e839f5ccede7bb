"""The bytes of samples, by the index and never by a name inside a tar; none of a clip that the dataset's deny list names.

Shards lie under the dataset, or on any file system that fsspec knows. What is read from elsewhere is fetched ahead, because the plan
says what comes next: ranges that lie together in one request, each payload kept under the SHA-256 of its bytes.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from manifests.deny import DenyList
from manifests.shards import read_payload
from training.data.index import Sample
from training.errors import DeniedError, SampleError

GAP_BYTES = 1 << 20
"""Ranges of one shard no further apart are one request: a megabyte takes about as long as another round trip to an object store."""

_REQUEST_BYTES = 64 << 20
"""No request is longer than this, so that what is fetched ahead fits in memory."""

_TRIES = 4
_PAUSE_S = 0.5
"""Object stores answer now and then that they are busy: a request is tried again after 0.5, 1 and 2 s."""

T = TypeVar("T")


class Cache(Protocol):
    """Keeps payloads by the SHA-256 of their bytes. Safe to use from several threads."""

    def has(self, sha256: bytes) -> bool:
        """Whether `get` is likely to give it."""

    def get(self, sha256: bytes) -> bytes | None:
        """The payload, if it is kept."""

    def put(self, sha256: bytes, data: bytes) -> None:
        """The payload is kept until there is no room for it."""


class Shards:
    """The shards of a dataset: in its folder, or under `address`, such as s3://bucket/dataset, read through `cache`."""

    def __init__(self, dataset: Path, address: str | None = None, cache: Cache | None = None) -> None:
        self._dataset, self._cache = dataset, cache
        self._files: Any = None
        if address is not None:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(address)

    @property
    def remote(self) -> bool:
        """Whether reading ahead is worth anything."""
        return self._files is not None

    def read(self, sample: Sample, verify: bool, denied: DenyList | None = None) -> bytes:
        """The member's payload; SampleError when the shard is missing, ends early or (with `verify`) holds other bytes, DeniedError when
        it may not be used."""
        where = f"{sample.shard_path} clip {sample.clip_id}"
        if denied is not None and (number := denied.takedown_of(sample.clip_id)) is not None:
            raise DeniedError(where, "read", "a clip that may be used", f"takedown {number}")
        if not self._inside(sample.shard_path):
            raise SampleError(where, "read", "a path under the dataset", sample.shard_path)
        try:
            data = self._read(sample)
        except (OSError, ValueError) as error:
            raise SampleError(where, "read", f"{sample.size_bytes} bytes at {sample.offset}", str(error)) from error
        if verify and (found := hashlib.sha256(data).digest()) != sample.sha256:
            raise SampleError(where, "verify", f"SHA-256 {sample.sha256.hex()}", found.hex())
        return data

    def fetch(self, samples: Iterable[Sample]) -> None:
        """What of the samples lies elsewhere is in the cache. Nothing is said of what cannot be read: `read` will say it."""
        if self._files is None or self._cache is None:
            return
        missing = [s for s in samples if self._inside(s.shard_path) and not self._cache.has(s.sha256)]
        for shard_path, start, end, inside in coalesce(missing):
            try:
                data = self._request(shard_path, start, end)
            except (OSError, ValueError):
                continue
            for sample in inside:
                self._keep(sample, data[sample.offset - start : sample.offset - start + sample.size_bytes])

    def _inside(self, shard_path: str) -> bool:
        if self._files is None:
            return (self._dataset / shard_path).resolve().is_relative_to(self._dataset.resolve())
        return ".." not in (parts := PurePosixPath(shard_path).parts) and parts[:1] != ("/",)

    def _read(self, sample: Sample) -> bytes:
        if self._files is None:
            return read_payload(self._dataset / sample.shard_path, sample.offset, sample.size_bytes)
        if self._cache is not None and (data := self._cache.get(sample.sha256)) is not None:
            return data
        data = self._request(sample.shard_path, sample.offset, sample.offset + sample.size_bytes)
        self._keep(sample, data)
        return data

    def _request(self, shard_path: str, start: int, end: int) -> bytes:
        """The bytes start <= i < end of a shard; ValueError when it ends before."""
        path = f"{self._root.rstrip('/')}/{shard_path}"
        data: bytes = _persist(lambda: self._files.cat_file(path, start=start, end=end))
        if len(data) != end - start:
            raise ValueError(f"{path}: expected {end - start} bytes at {start}, found {len(data)}")
        return data

    def _keep(self, sample: Sample, data: bytes) -> None:
        """Only what it says it is: a cache that is shared must not pass damage on."""
        if self._cache is not None and hashlib.sha256(data).digest() == sample.sha256:
            with contextlib.suppress(OSError):  # a full disk costs time, not clips
                self._cache.put(sample.sha256, data)


def coalesce(samples: Iterable[Sample]) -> list[tuple[str, int, int, list[Sample]]]:
    """The samples' bytes as few requests: shard, start, end, and whose bytes lie between."""
    requests: list[tuple[str, int, int, list[Sample]]] = []
    for sample in sorted(samples, key=lambda s: (s.shard_path, s.offset)):
        end = sample.offset + sample.size_bytes
        if requests:
            path, start, before, inside = requests[-1]
            if path == sample.shard_path and sample.offset - before <= GAP_BYTES and end - start <= _REQUEST_BYTES:
                requests[-1] = (path, start, max(end, before), [*inside, sample])
                continue
        requests.append((sample.shard_path, sample.offset, end, [sample]))
    return requests


def _persist(request: Callable[[], T]) -> T:
    """The answer to a request; OSError when it failed each time, at once where there is nothing to read."""
    for attempt in range(_TRIES):
        try:
            return request()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # every client of fsspec has errors of its own
            if attempt == _TRIES - 1:
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(_PAUSE_S * 2**attempt)
    raise AssertionError("not reached")
