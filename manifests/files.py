"""Files that appear whole or not at all, whatever is killed while they are written."""

import hashlib
import os
import socket
from pathlib import Path

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """The file holds exactly these bytes; before the rename the old content, or nothing, was visible."""
    temporary = _temporary(path, data)
    os.replace(temporary, path)
    sync_folder(path.parent)


def publish(path: Path, data: bytes) -> bool:
    """True when this call created the file with these bytes; False when it was there already, then it is untouched."""
    temporary = _temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
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


def _temporary(path: Path, data: bytes | memoryview) -> Path:
    """The bytes, synced, under the temporary name of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    with temporary.open("wb") as sink:
        sink.write(data)
        sink.flush()
        os.fsync(sink.fileno())
    return temporary
