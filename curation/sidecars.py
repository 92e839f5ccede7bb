"""What stands beside a file and states its rights and caption: found whatever the case of its suffix, and never read from elsewhere.

A sidecar that cannot be read as it should is a reason not to take the file: it may hold the opt-out.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".json", ".txt")
"""Suffixes, in small letters, of what states the rights and the caption of the file it stands beside."""

Stating = dict[str, list[str]]
"""The sidecars in a folder, by their name as Unicode composes it, with its suffix in small letters."""

Seen = dict[Path, Stating | str]
"""Folders looked into, so that a list of a million files looks into each once: their sidecars, or why they could not be seen."""


def stating_of(names: Iterable[str]) -> Stating:
    """The sidecars among the names in a folder."""
    found: Stating = {}
    for name in sorted(names):
        if (suffix := Path(name).suffix.lower()) in SUFFIXES:
            found.setdefault(composed(name[: -len(suffix)] + suffix), []).append(name)
    return found


def stating_in(folder: Path, seen: Seen) -> Stating | str:
    """The sidecars in the folder, or why they cannot be seen."""
    if folder not in seen:
        try:
            seen[folder] = stating_of(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            seen[folder] = {}  # then there is no file either, as ingest will say
        except (OSError, ValueError) as error:
            seen[folder] = f"{folder}: expected a folder whose sidecars can be seen, found {said_of(error)}"
    return seen[folder]


def beside(path: Path, suffix: str, stating: Stating, root: Path) -> tuple[Path | None, str | None]:
    """(the file's sidecar with this suffix, None), or (None, why it may not be read); (None, None) where there is none.

    `stating` are the sidecars in the file's folder, and none of them may lie outside `root`.
    """
    of_stems = [[path.with_name(n) for n in stating.get(composed(s + suffix), []) if n != path.name] for s in (path.name, path.stem)]
    named = [[p for p in paths if not os.path.isdir(p)] for paths in of_stems]
    # Either statement may hold the opt-out; of captions that of the whole name is the nearer one.
    found = [*named[0], *named[1]] if suffix == ".json" else named[0] or named[1]
    if len(found) > 1:
        return None, f"{path}: expected one sidecar, found {' and '.join(p.name for p in found)}; keep one of them"
    if not found:
        return None, None
    trouble = _misplaced(found[0], root)
    return (None, trouble) if trouble else (found[0], None)


def composed(name: str) -> str:
    """The name as it compares: macOS writes an accent apart from its letter."""
    return unicodedata.normalize("NFC", name)


def said_of(error: BaseException) -> str:
    """What went wrong, without the path that the texts here begin with."""
    return f"{type(error).__name__}: {(error.strerror if isinstance(error, OSError) else None) or error}"


def _misplaced(sidecar: Path, root: Path) -> str | None:
    """Why the sidecar may not be read: it is no file, or a link that leaves its folder, and could make any file of this machine a caption."""
    try:
        found, real = sidecar.lstat(), sidecar
        if is_link := stat.S_ISLNK(found.st_mode):
            real = Path(os.path.realpath(sidecar, strict=True))
            found = real.stat()
        inside = not is_link or real.is_relative_to(os.path.realpath(root))
    except (OSError, ValueError) as error:
        return f"{sidecar}: expected a sidecar that can be read, found {said_of(error)}"
    if not stat.S_ISREG(found.st_mode):
        return f"{sidecar}: expected a sidecar that is a regular file, found mode {stat.filemode(found.st_mode)}"
    if not inside:
        return f"{sidecar}: expected a sidecar inside {root}, found a link to {real}; put a copy there, or name a folder that holds both"
    return None
