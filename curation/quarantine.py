"""Assets whose decoder died, or whose clips a server refuses: each time is counted in a file, and after the n-th the asset is not tried
again until it is released.

Of media only what a process did not survive is counted (crashed, timeout, memory): one that is merely broken says so at once and the same way
each time. Such a loss may be the machine's doing, so it is tried again in the same run before it becomes the asset's row. An attempt is
noted before the work begins and forgotten when it came to an end, so that one that took the worker or the whole run down is found by the
next. Counts are kept under a name that says what was tried, a stage with the digest of what it depends on: what was lost under one limit
says nothing of another, and what probing lost nothing of the scan. Failures that may lie in a program or a server that is asked, and may not,
are counted likewise by who asks.

    <folder>/<asset id>/<stage>-<digest>/<n>.json    one attempt that was lost, or that has not come to an end
    <folder>/released                                how often assets were released, so that the same command finds something to do
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from curation.media import MediaError
from manifests.files import write_atomic

T = TypeVar("T")

LOSSES = ("crashed", "timeout", "memory")
"""Error codes that say that a process was lost, or would have been."""

UNFINISHED = "unfinished"
"""Code of an attempt that did not come to an end: it is going on, or whatever tried it is gone."""

_RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineConfig:
    """How often an asset may cost a process, or be refused. The paper says nothing of it; two tell a bad file from a bad moment at the price of one."""

    enabled: bool = True  # false: nothing is counted and nobody is refused
    max_attempts: int = 2
    max_unfinished: int = 3  # runs that ended while it was tried: also a kill or a reboot leaves such, so it takes one more

    def __post_init__(self) -> None:
        for name in ("max_attempts", "max_unfinished"):
            if getattr(self, name) < 1:
                raise ValueError(f"quarantine.{name}: expected 1 or more (enabled=false counts nothing), found {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One failed attempt: the error's code and detail."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What is noted of an asset under one name; `verdict` is the error it now gets unseen, null while it is still tried."""

    asset_id: str
    under: str
    losses: tuple[Loss, ...]
    verdict: MediaError | None


def attempts(folder: Path, asset_id: str, under: str) -> list[Loss]:
    """What is noted of the asset under that name, oldest first; a file half-written by a crash counts as a loss."""
    return _read_all(_place(folder, asset_id, under))


def note_failure(folder: Path, asset_id: str, under: str, code: str, detail: str) -> int:
    """The loss is on disk, in a file of its own; its number. Two processes that note at once make two files."""
    return int(_note(_place(folder, asset_id, under), code, detail).stem)


def is_quarantined(folder: Path, asset_id: str, under: str, cfg: QuarantineConfig) -> bool:
    """Whether the asset has used up its attempts under that name: under another it may be tried."""
    return cfg.enabled and verdict(attempts(folder, asset_id, under), cfg) is not None


def forget(folder: Path, asset_id: str, under: str) -> None:
    """Nothing is counted of the asset under that name: it went well."""
    place = _place(folder, asset_id, under)
    if place.is_dir():
        _forget(place)


def verdict(noted: list[Loss], cfg: QuarantineConfig) -> MediaError | None:
    """The error of an asset with these attempts; None while it may be tried. It is the same each time, so that a resumed run gives the same row."""
    lost = [a for a in noted if a.code != UNFINISHED]
    if len(lost) >= cfg.max_attempts:
        last = lost[cfg.max_attempts - 1]
        return MediaError(last.code, f"quarantined after {cfg.max_attempts} attempts, the last: {last.detail}")
    if len(noted) - len(lost) >= cfg.max_unfinished:
        return MediaError("crashed", f"quarantined after {cfg.max_unfinished} attempts that took down what tried them")
    return None


def release(folder: Path, asset_ids: Collection[str], stage: str | None = None) -> int:
    """The assets may be tried again, in that stage or in all; the number of attempts forgotten. That there was a release is noted, once."""
    n = 0
    for asset_id in asset_ids:
        for place in list((folder / _name(asset_id)).glob(f"{stage}-*" if stage else "*")):
            n += len(_numbers(place))
            _forget(place)
    write_atomic(folder / _RELEASED, str(releases(folder) + 1).encode())
    return n


def releases(folder: Path) -> int:
    """How often assets were released: part of what a run is made of."""
    path = folder / _RELEASED
    return int(path.read_text()) if path.is_file() else 0


def counts(folder: Path, cfg: QuarantineConfig) -> Iterator[Count]:
    """Everything noted of any asset, by asset and name."""
    for place in sorted(folder.glob("*/*/")):
        if noted := _read_all(place):
            yield Count(asset_id=place.parent.name, under=place.name, losses=tuple(noted), verdict=verdict(noted, cfg))


def try_often(work: Callable[[], T], folder: Path, asset_id: str, under: str, cfg: QuarantineConfig) -> T:
    """What `work` returns. A loss is noted and tried again until the attempts are used up; a result, and an error that is the medium's own, clear the count.

    Raises MediaError: other errors as they come; the last loss when it was the n-th, now or in a run before (`work` is then not called).
    """
    if not cfg.enabled:
        return work()
    place = _place(folder, asset_id, under)
    while True:
        if (refused := verdict(_read_all(place), cfg)) is not None:
            raise refused
        note = _note(place, UNFINISHED, "the process that tried it ended first")
        try:
            done = work()
        except MediaError as e:
            if e.code in LOSSES:
                _write(note, e.code, e.detail)
                continue
            _forget(place)
            raise
        except BaseException:  # interrupted, or a fault of ours: neither is the asset's doing
            note.unlink(missing_ok=True)
            raise
        _forget(place)
        return done


def _note(place: Path, code: str, detail: str) -> Path:
    """A new file that tells of an attempt, numbered after all others."""
    n = max(_numbers(place), default=0) + 1
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(place / f"{n}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            n += 1
        except FileNotFoundError:  # another process has just cleared the count
            continue
        else:
            _write(place / f"{n}.json", code, detail)
            return place / f"{n}.json"


def _write(path: Path, code: str, detail: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"code": code, "detail": detail}))


def _forget(place: Path) -> None:
    """Nothing is counted any more, and no empty folder stays: there may be as many assets as files on a disk."""
    shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):  # something else is counted of the same asset
        place.parent.rmdir()


def _numbers(place: Path) -> list[int]:
    return sorted(int(p.stem) for p in place.glob("*.json") if p.stem.isdecimal())


def _read_all(place: Path) -> list[Loss]:
    return [loss for n in _numbers(place) if (loss := _read(place / f"{n}.json")) is not None]


def _place(folder: Path, asset_id: str, under: str) -> Path:
    return folder / _name(asset_id) / _name(under)


def _name(text: str) -> str:
    """The text as a file name. Raises ValueError when it is not one: ids and digests are ours and plain."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", text):
        raise ValueError(f"quarantine: expected an id of letters, digits and . _ + -, found {text!r}")
    return text


def _read(path: Path) -> Loss | None:
    """What a note says; None where it was cleared since it was listed."""
    try:
        said = json.loads(path.read_bytes())
        return Loss(code=str(said["code"]), detail=str(said["detail"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # the process that wrote it was killed
        return Loss(code="crashed", detail="the process ended while it noted the loss")
