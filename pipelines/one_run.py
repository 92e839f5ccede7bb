"""One curation at a time on a dataset: a second says who is at it, and ends.

Two at once would measure everything twice and then find at the commit that one of them was in vain. The lock is the operating system's: it
ends with the process that holds it, however that ends, so there is never one to clear away.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

LOCK = "curate.lock"
_WAIT_S = 2.0
"""What a run that was killed a moment ago may need to be gone."""


class DatasetBusy(Exception):
    """Another process curates this dataset; the message says which."""


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Inside, no other process curates the dataset with this work area. Raises DatasetBusy."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOCK).open("a+") as file:
        if not _locked(file.fileno()):
            file.seek(0)
            raise DatasetBusy(
                f"{work.parent}: expected no other run of curate on this dataset, found one{_holder(file.read())}; wait for it, or end it: "
                "the same command then continues"
            )
        file.truncate(0)
        said = {"host": socket.gethostname(), "process": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        file.write(json.dumps(said))
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
    """Who holds the lock, as it wrote down; nothing where it has not come to that yet."""
    try:
        found = json.loads(said)
        return f": process {found['process']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return ""
