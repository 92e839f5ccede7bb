"""The bytes of samples, by the index and never by a name inside a tar; none of a clip that the dataset's deny list names.

Shards lie under the dataset, or on any file system that fsspec knows. What is read from elsewhere is fetched ahead, because the plan
says what comes next: ranges that lie together in one request, each payload kept under the SHA-256 of its bytes.
"""

import contextlib
import errno
import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from manifests.deny import DenyList
from manifests.shards import read_payload
from training.data.index import Sample
from training.errors import DeniedError, SampleError, StorageError

GAP_BYTES = 1 << 20
"""Ranges of one shard no further apart are one request: a megabyte takes about as long as another round trip to an object store."""

_REQUEST_BYTES = 64 << 20
"""No request is longer than this, so that what is fetched ahead fits in memory."""

PATIENCE_S = 120.0
"""A store that answers nothing for so long is away. Shorter than the wait of other processes for this one (`engine.step_timeout_s`), so that
the run's end names the store."""

_AHEAD_S = 5.0
"""Of what is read ahead: it will be asked for again."""

_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
"""Object stores answer now and then that they are busy: a request is tried again after 0.5, 1, 2 and more seconds."""

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
        self._dataset, self._root_path, self._cache = dataset, dataset.resolve(), cache
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
        it may not be used, StorageError when a store did not answer in PATIENCE_S."""
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
                data = self._request(shard_path, start, end, _AHEAD_S)
            except (OSError, ValueError, StorageError):
                continue
            for sample in inside:
                self._keep(sample, data[sample.offset - start : sample.offset - start + sample.size_bytes])

    def _inside(self, shard_path: str) -> bool:
        if self._files is None:
            return (self._root_path / shard_path).resolve().is_relative_to(self._root_path)
        return ".." not in (parts := PurePosixPath(shard_path).parts) and parts[:1] != ("/",)

    def _read(self, sample: Sample) -> bytes:
        if self._files is None:
            return read_payload(self._dataset / sample.shard_path, sample.offset, sample.size_bytes)
        if self._cache is not None and (data := self._cache.get(sample.sha256)) is not None:
            return data
        data = self._request(sample.shard_path, sample.offset, sample.offset + sample.size_bytes, PATIENCE_S)
        self._keep(sample, data)
        return data

    def _request(self, shard_path: str, start: int, end: int, patience_s: float) -> bytes:
        """The bytes start <= i < end of a shard; ValueError when it ends before, OSError when it cannot be read, StorageError without an answer."""
        path = f"{self._root.rstrip('/')}/{shard_path}"
        data: bytes = _persist(lambda: self._files.cat_file(path, start=start, end=end), path, patience_s)
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


def _persist(request: Callable[[], T], path: str, patience_s: float) -> T:
    """The answer to a request; OSError where the answer is that there is nothing to read, StorageError where there was none in time."""
    began, pause_s = time.monotonic(), _PAUSE_S
    while True:
        try:
            return request()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # every client of fsspec has errors of its own
            if isinstance(error, OSError) and error.errno == errno.EINVAL:  # a range past the end of an object
                raise
            if (waited_s := time.monotonic() - began) + pause_s > patience_s:
                raise StorageError(
                    f"{path}: expected an answer of the store within {patience_s:.0f} s, found after {waited_s:.0f} s {type(error).__name__}: {error}; "
                    "when it is there again the same command goes on"
                ) from error
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
