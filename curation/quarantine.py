"""Assets whose decoder died: each death is counted in a file, and after the n-th the asset is not tried again until asked.

Only what a process did not survive is counted (crashed, timeout, memory): a medium that is merely broken says so at once and the same way
each time. Such a loss may be the machine's doing, so it is tried again in the same run before it becomes the asset's row; and when it
took the whole run down, the next run finds the count.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from curation.media import MediaError

T = TypeVar("T")

LOSSES = ("crashed", "timeout", "memory")
"""Error codes that say that a process was lost, or would have been."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineConfig:
    """How often an asset may cost a process. The paper says nothing of it; two tell a bad file from a bad moment at the price of one."""

    max_attempts: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One failed attempt: the error's code and detail."""

    code: str
    detail: str


def attempts(folder: Path, asset_id: str, version: str) -> list[Loss]:
    """The losses noted for the asset by this version of the code, oldest first; a file half-written by a crash counts as one."""
    found: list[Loss] = []
    place = _place(folder, asset_id, version)
    while (path := place / f"{len(found) + 1}.json").exists():
        found.append(_read(path))
    return found


def note_failure(folder: Path, asset_id: str, version: str, code: str, detail: str) -> int:
    """The loss is on disk, in a file of its own; how many there now are. Two processes that note at once make two files."""
    place = _place(folder, asset_id, version)
    place.mkdir(parents=True, exist_ok=True)
    n = len(attempts(folder, asset_id, version)) + 1
    data = json.dumps({"code": code, "detail": detail}).encode()
    while True:
        try:
            fd = os.open(place / f"{n}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            n += 1
            continue
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        return n


def is_quarantined(folder: Path, asset_id: str, version: str, cfg: QuarantineConfig) -> bool:
    """Whether the asset has used up its attempts under this version of the code: another version may try it again."""
    return len(attempts(folder, asset_id, version)) >= cfg.max_attempts


def release(folder: Path, asset_id: str) -> int:
    """The asset may be tried again by every version; the number of losses forgotten."""
    n = 0
    for path in sorted((folder / _name(asset_id)).glob("*/*.json")):
        path.unlink()
        n += 1
    return n


def try_often(work: Callable[[], T], folder: Path, asset_id: str, version: str, cfg: QuarantineConfig) -> T:
    """What `work` returns. A loss is noted and tried again until the attempts are used up.

    Raises MediaError: other errors as they come; the last loss when it was the n-th, now or in a run before (`work` is then not called).
    The error is the same in both cases, so that a resumed run gives the same row.
    """
    while True:
        losses = attempts(folder, asset_id, version)
        if len(losses) >= cfg.max_attempts:
            last = losses[cfg.max_attempts - 1]
            raise MediaError(last.code, f"quarantined after {cfg.max_attempts} attempts, the last: {last.detail}")
        try:
            return work()
        except MediaError as e:
            if e.code not in LOSSES:
                raise
            note_failure(folder, asset_id, version, e.code, e.detail)


def _place(folder: Path, asset_id: str, version: str) -> Path:
    return folder / _name(asset_id) / _name(version)


def _name(text: str) -> str:
    """The text as a file name. Raises ValueError when it is not one: ids and versions are ours and plain."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", text):
        raise ValueError(f"quarantine: expected an id of letters, digits and . _ + -, found {text!r}")
    return text


def _read(path: Path) -> Loss:
    try:
        said = json.loads(path.read_bytes())
        return Loss(code=str(said["code"]), detail=str(said["detail"]))
    except (ValueError, KeyError, TypeError):  # the process that wrote it was killed
        return Loss(code="crashed", detail="the process ended while it noted the loss")
