"""What a sandbox's child may do at its worst, as functions that it imports: few imports, as each child starts anew."""

import os
import resource
import socket
import struct
import time
from pathlib import Path

from curation.media import MediaError
from curation.probe import MediaFacts


def hang(path: str) -> None:
    """Never returns."""
    while path:
        time.sleep(1)


def compute(seconds: float) -> float:
    """CPU seconds computed: at least those asked for."""
    start = time.process_time()
    while (took := time.process_time() - start) < seconds:
        pass
    return took


def crash(path: str) -> None:
    """Ends the process as a fault in a decoder would."""
    os.kill(os.getpid(), 11)


def devour(path: str) -> int:
    """Asks for more memory than it may have."""
    return len(bytearray(1 << 40))


def abort(path: str) -> None:
    """Ends the process as a failed assertion in a library would."""
    os.abort()


def leave(path: str) -> None:
    """Ends the process without a word."""
    os._exit(3)


def burn(path: str) -> None:
    """Computes in native code for ever, deaf to Python's signals."""
    sum(iter(int, 1))


def devour_slowly(path: str) -> int:
    """Grows by small steps until the limit."""
    held = []
    while path:
        held.append(bytearray(1 << 24))
    return len(held)


def _answer_with(data: bytes) -> None:
    """Writes the bytes where the answer is expected, as a child that was taken over could, and waits."""
    for fd in range(3, 4096):  # the descriptor keeps the number it had in a parent that may hold many files open
        try:
            pipe = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        pipe.settimeout(5)
        pipe.sendall(data)
    time.sleep(30)


def babble(path: str) -> None:
    """Answers with what is no message."""
    _answer_with(struct.pack(">Q", 40) + b"\xff" * 40)


def boast(path: str) -> None:
    """Announces an answer of an exabyte."""
    _answer_with(struct.pack(">Q", 1 << 60))


def lie(path: str) -> int:
    """Answers with a well-formed value of a kind that it never returns."""
    return "ten"  # type: ignore[return-value]


def invent(path: str) -> None:
    """Answers with an error code that does not exist."""
    raise MediaError("passed", path)


def forge(path: str) -> MediaFacts:
    """Answers with a record whose columns hold values of other kinds."""
    return MediaFacts(kind="video", container="x", width="wide")  # type: ignore[arg-type]


def environment() -> list[str]:
    """The names in its environment."""
    return sorted(os.environ)


def write_file(path: str) -> str:
    """What becomes of an attempt to write a file."""
    try:
        Path(path).write_bytes(b"x" * 100)
    except OSError as e:
        return type(e).__name__ + str(e.errno)
    return "written"


def limits() -> list[int]:
    """Soft limits on core files, on files written, on address space; whether new privileges are out of reach."""
    soft = [resource.getrlimit(x)[0] for x in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)]
    return [*soft, int("NoNewPrivs:\t1" in Path("/proc/self/status").read_text())]


def fault(path: str) -> None:
    """A fault of our own."""
    raise KeyError(path)


def process_id() -> int:
    """The process it runs in."""
    return os.getpid()


class Doubling:
    """A worker of an actor pool that multiplies by two and a factor, and dies of one number."""

    POISON = 13

    def __init__(self, factor: int) -> None:
        self._factor = factor

    def __call__(self, numbers: list[int]) -> list[int]:
        """Each number doubled and times the factor."""
        if self.POISON in numbers:
            os.kill(os.getpid(), 9)
        return [2 * n * self._factor for n in numbers]
