"""Files that appear whole or not at all, whatever is killed while they are written."""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """The file holds exactly these bytes; before the rename the old content, or nothing, was visible."""
    with _written(path, data) as temporary:
        os.replace(temporary, path)
    sync_folder(path.parent)


def publish(path: Path, data: bytes) -> bool:
    """True when this call created the file with these bytes; False when it was there already, then it is untouched."""
    with _written(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """The folder's entries are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no reader looks at and that names the writing process, on whatever machine it runs."""
    # machines that share a folder may have processes of one number; the number comes last, as `takedown` looks for it
    return path.parent / f".{path.name}.{_HOST}.{os.getpid()}.tmp"


@contextmanager
def temporary_of(path: Path) -> Iterator[Path]:
    """The temporary name of `path`, which is free, in a folder that is there; afterwards nothing has it, whatever failed.

    What has the name already was left by a killed process of this number, and may be a second name of a published file: it is not written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _written(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """The bytes, synced, under the temporary name of `path`."""
    with temporary_of(path) as temporary:
        with temporary.open("xb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        yield temporary
