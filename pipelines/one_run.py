"""One command at a time that curates, decides or takes down: a second says who is at it, and ends.

Two curations at once would measure everything twice and then find at the commit that one of them was in vain; a takedown beside one would
scrub parts that it writes a moment later, and a release beside a takedown would freeze texts that are about to go. A release reads versions
that a curation leaves as they are, so it has a lock of its own, which whatever rewrites versions takes too. Commands that only read ask
nobody. The lock is the operating system's: it ends with the process that holds it, however that ends, so there is never one to clear away.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipelines.stage import Place

LOCK = "curate.lock"
VERSIONS = "versions.lock"
"""Held while versions are frozen, rewritten or deleted."""
_WAIT_S = 2.0
"""What a command that was killed a moment ago may need to be gone."""


class DatasetBusy(Exception):
    """The dataset cannot be changed now: another process changes it, and the message says which, or its folder cannot be written to."""


@contextmanager
def alone(dataset: Path, command: str, *locks: str) -> Iterator[None]:
    """Inside, no other process that asks here for one of these locks (`LOCK`, if none is named) changes the dataset; one that tries is told
    of this command. Raises DatasetBusy."""
    with ExitStack() as held:
        for lock in locks or (LOCK,):
            held.enter_context(_holding(dataset, command, lock))
        yield


@contextmanager
def _holding(dataset: Path, command: str, lock: str) -> Iterator[None]:
    work = Place(dataset.absolute()).work
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetBusy(f"{dataset}: expected a folder that can be written to, found {error.strerror} for {error.filename}") from error
    with (work / lock).open("a+") as file:
        if not _locked(file.fileno()):
            file.seek(0)
            raise DatasetBusy(
                f"{dataset}: expected no other command that changes this dataset, found {_holder(file.read())}; wait for it, or end it: "
                "given again, it continues"
            )
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"command": command, "host": socket.gethostname(), "process": os.getpid(), "since": since}))
        file.flush()
        yield


def _locked(descriptor: int) -> bool:
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)


def _holder(said: str) -> str:
    """Who holds the lock, as it wrote down; no more than that there is one where it has not come to that yet."""
    try:
        found = json.loads(said)
        return f"`dailies {found['command']}`: process {found['process']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "one"
