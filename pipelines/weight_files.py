"""Settings by what their files of weights hold: a stage's outputs depend on the bytes of a network, wherever they lie and whatever they are called.

The file of a path in the settings is hashed once a process for each size and time of change: about a second for 2 GB. Neither of these
tells weights apart by itself, nor does the path: other hosts have others, and a file is replaced in place.
"""

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from curation.speech import SpeechConfig

NAMES = ("weights", "head", "model_config", "models", "folder", "video", "text")
"""Settings that name a file or a folder of a network, wherever their value is a text."""


def by_content(settings: Any) -> Any:
    """The settings, in which the digest of its bytes stands for every file or folder of weights that is there; a path to nothing stays."""
    if isinstance(settings, dict):
        return {name: by_content(value) for name, value in settings.items()}
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return settings
    changed = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        named = field.name in NAMES or (field.name == "model" and isinstance(settings, SpeechConfig))
        new = _content(value) if named and isinstance(value, str) else by_content(value)
        if new is not value:
            changed[field.name] = new
    return dataclasses.replace(settings, **changed) if changed else settings


def _content(path: str) -> str:
    place = Path(path)
    if place.is_file():
        return f"sha256:{_hash(place)}"
    if not place.is_dir():
        return path
    whole = hashlib.sha256()
    for file in sorted(p for p in place.rglob("*") if p.is_file() and not any(n.startswith(".") for n in p.relative_to(place).parts)):
        whole.update(f"{file.relative_to(place).as_posix()}\n{_hash(file)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _hash(file: Path) -> str:
    stat = file.stat()
    return _hash_once(str(file.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _hash_once(file: str, size_bytes: int, mtime_ns: int, inode: int) -> str:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
