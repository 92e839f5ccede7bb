"""The deny list: clips that nobody may train on any more, in force from the moment the file is written, without a new shard or version.

    <dataset>/deny.txt     one clip a line: clip_id, a space, number of the takedown; 0 of one that waits for another command to end

Loaders read it live: each look costs one `stat`, and the file is read again when it changed.
"""

import threading
from collections.abc import Iterable
from pathlib import Path

from manifests.files import write_atomic

NAME = "deny.txt"
WAITING = 0
"""In place of the number of a takedown that was asked for and has none yet."""


class DenyList:
    """The deny list of a dataset as it is now. Safe to ask from several threads."""

    def __init__(self, dataset: Path) -> None:
        self._path, self._lock = dataset / NAME, threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._clips: dict[str, int] = {}

    def takedown_of(self, clip_id: str) -> int | None:
        """The number of the takedown that denies the clip; None when it may be used."""
        return self.clips().get(clip_id)

    def clips(self) -> dict[str, int]:
        """Every denied clip with its takedown."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        with self._lock:
            if stamp != self._stamp:
                self._clips, self._stamp = _read(self._path), stamp
            return self._clips


def deny(dataset: Path, clip_ids: Iterable[str], takedown_no: int) -> None:
    """The clips are denied from now on; those that were already keep their number, if they have one."""
    path = dataset / NAME
    known = _read(path) if path.exists() else {}
    clips = known | dict.fromkeys(clip_ids, takedown_no) | {clip: number for clip, number in known.items() if number != WAITING}
    write_atomic(path, "".join(f"{clip} {number}\n" for clip, number in sorted(clips.items())).encode())


def _read(path: Path) -> dict[str, int]:
    clips: dict[str, int] = {}
    for line in path.read_text("utf-8").splitlines():
        clip, _, number = line.partition(" ")
        if clip and not number.isdigit():
            raise ValueError(f"{path}: expected lines of a clip id and a takedown's number, found {line!r}")
        clips[clip] = int(number)
    return clips
