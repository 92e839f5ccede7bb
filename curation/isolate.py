"""A child process in which media are decoded, so that a crash, a hang or a memory blow-up costs one asset and not the run.

The child is started as a fresh interpreter (no fork of our threads, no `multiprocessing`, whose daemonic workers may not have
children and whose spawn would run the caller's main script again), stays between calls, and is replaced after a failure. It dies with
us: the kernel kills it when the thread that started it ends (Linux), and an idle child leaves when the pipe closes.

A child that was taken over by what it decoded finds little: no keys in its environment, no right to write a file (but for the one that
encodes) or to gain privileges, and an answer that is checked before it is believed.
"""

import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar, cast

from curation.media import CODES, MEDIA_LOG_VARIABLE, MediaError
from curation.wire import decode, encode

T = TypeVar("T")

MAX_ANSWER_BYTES = 1 << 30
"""Largest answer that is read from the child: it may be lying about the size."""

START_TIMEOUT_S = 60.0
"""Time in which the child must be up and have imported the function; not counted as work on the medium."""

MAX_DETAIL = 4000
"""Characters of an error's detail that are kept: it goes into a row."""

ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR",
               "IMAGEIO_FFMPEG_EXE", MEDIA_LOG_VARIABLE)  # fmt: skip
"""What the child, and FFmpeg's program, are told of our environment; keys and tokens are not among it."""

_LOG_BYTES = 1 << 28

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""Environment variables that keep every library at one thread."""


def environment() -> dict[str, str]:
    """What of our environment a process that meets hostile media is told."""
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


class SandboxError(RuntimeError):
    """A fault of ours: the function raised something else than a MediaError, or the child could not start. Not the medium's doing."""


class Sandbox:
    """Runs module-level functions of `curation` in a child process with a time limit in s and a limit on address space in bytes.

    A program that the child starts has its limits and no more of our environment. `written_bytes` is the size of the largest file that the
    child may write: none, unless such a program has to write one.
    """

    def __init__(self, timeout_s: float, memory_bytes: int, written_bytes: int = 0) -> None:
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        self.written_bytes = written_bytes
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: socket.socket | None = None
        self._owner = 0

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result. Arguments and result must be plain values, arrays or our dataclasses (`curation.wire`).

        Raises MediaError as the function does, and with codes `timeout`, `memory` or `crashed` when the child did not come back;
        SandboxError when the function has a fault.
        """
        with self._lock:
            pipe = self._prepared(function)
            try:
                _send(pipe, encode(list(args)), self.timeout_s)
                status, value = _checked(decode(_receive(pipe, self.timeout_s)), function)
            except TimeoutError as e:
                self.close()
                raise MediaError("timeout", f"{_subject(args)}: expected {function.__name__} within {self.timeout_s:g} s") from e
            except (OSError, EOFError, ValueError) as e:
                raise self._lost(function, args) from e
            except BaseException:
                self.close()  # interrupted half-way: the pipe is out of step
                raise
        return cast(T, self._result(status, value))

    def close(self) -> None:
        """The child has ended; the next call starts another."""
        child, pipe, mine = self._child, self._pipe, self._owner == os.getpid()
        self._child = self._pipe = None
        if pipe is not None:
            pipe.close()
        if child is not None and mine:
            child.kill()
            child.wait()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _prepared(self, function: Callable[..., Any]) -> socket.socket:
        """The pipe to a child that has imported the function. A child that dies here has seen no medium: a second is tried, then SandboxError."""
        for last in (False, True):
            try:
                pipe = self._ready()
                _send(pipe, encode([function.__module__, function.__qualname__]), START_TIMEOUT_S)
                trouble = _receive(pipe, START_TIMEOUT_S)
            except (OSError, EOFError, ValueError) as e:
                self.close()
                if last:
                    raise SandboxError(f"{function.__qualname__}: expected a process that starts, found {type(e).__name__}: {e}") from e
                continue
            except BaseException:
                self.close()
                raise
            if trouble:
                raise SandboxError(trouble.decode("utf-8", "replace"))
            break
        return pipe

    def _ready(self) -> socket.socket:
        """The pipe to a live child: a new one after a failure, after a fork, or when the old one died while idle."""
        alive = self._child is not None and self._owner == os.getpid() and self._child.poll() is None
        if not alive:
            self.close()
            self._start()
        if self._pipe is None:
            raise RuntimeError("sandbox: expected a pipe to the child, found none")
        return self._pipe

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: -m alone puts the current directory first, and a module lying there (a supplier's media folder) would run as ours.
            command = [sys.executable, "-P", "-m", "curation.isolate", str(theirs.fileno()), str(os.getpid())]
            command += [str(self.memory_bytes), str(self.timeout_s), str(self.written_bytes)]
            env = environment()
            # One thread in every library: the address-space limit counts thread stacks, and we run a process a core.
            env |= dict.fromkeys(THREADS, "1") | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONDONTWRITEBYTECODE": "1"}
            self._child = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env
            )
        self._pipe, self._owner = ours, os.getpid()

    def _lost(self, function: Callable[..., Any], args: tuple[Any, ...]) -> MediaError:
        """The child is gone: how it ended becomes the error."""
        child = self._child
        code: int | None = None
        if child is not None:
            try:
                code = child.wait(1.0)
            except subprocess.TimeoutExpired:
                code = None  # it closed the pipe or talks nonsense but lives: killed below
        self.close()
        if code == -signal.SIGXCPU:
            return MediaError("timeout", f"{_subject(args)}: expected {function.__name__} within {self.timeout_s:g} s of CPU time")
        return MediaError("crashed", f"{_subject(args)}: the process of {function.__name__} ended with {_ending(code)}")

    def _result(self, status: str, value: Any) -> Any:
        if status == "ok":
            return value
        if status == "media":
            raise MediaError(value[0], value[1][:MAX_DETAIL])
        raise SandboxError(value)


def serve(fd: int, parent: int, memory_bytes: int, timeout_s: float, written_bytes: int) -> None:
    """The child's life: answers calls on the socket `fd` until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to answer
    _die_with(parent)
    _limit(memory_bytes, written_bytes)
    with socket.socket(fileno=fd) as pipe:
        while True:
            try:
                module, name = decode(_receive(pipe, None))
            except EOFError:
                return
            try:
                function = getattr(import_module(module), name)
            except Exception:
                _send(pipe, traceback.format_exc().encode(), None)
                continue
            _send(pipe, b"", None)
            args = decode(_receive(pipe, None))
            _limit_cpu(timeout_s)
            _send(pipe, _answer(function, args), None)


def _answer(function: Callable[..., Any], args: list[Any]) -> bytes:
    try:
        return encode(("ok", function(*args)))
    except MediaError as e:
        return encode(("media", [e.code, e.detail]))
    except MemoryError:
        return encode(("media", ["memory", f"{_subject(tuple(args))}: more memory than the limit allows"]))
    except Exception as e:
        if "memory" in str(e).lower():  # OpenCV reports a failed allocation as its own error
            return encode(("media", ["memory", f"{_subject(tuple(args))}: {e}"]))
        return encode(("fault", traceback.format_exc()))


def _checked(answer: Any, function: Callable[..., Any]) -> tuple[str, Any]:
    """The answer, if it is one that the function can give: the child may have been taken over. Raises ValueError."""
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise ValueError("expected a status and a value")
    status, value = answer
    if status == "media":
        good = isinstance(value, list) and len(value) == 2 and value[0] in CODES and isinstance(value[1], str)
    elif status == "ok":
        returns = _returns(function)
        good = returns is None or isinstance(value, returns)
    else:
        good = status == "fault" and isinstance(value, str)
    if not good:
        raise ValueError(f"expected an answer of {function.__name__}, found {status!r} with {type(value).__name__}")
    return status, value


@lru_cache(maxsize=64)
def _returns(function: Callable[..., Any]) -> type | None:
    """The class that the function says it returns; None where it says nothing so plain."""
    try:
        said = typing.get_type_hints(function).get("return")
    except NameError:  # a name that only type checkers import
        return None
    said = typing.get_origin(said) or said
    return said if isinstance(said, type) and said not in (float, types.UnionType) else None


def _subject(args: tuple[Any, ...]) -> str:
    """The path among the arguments, for messages."""
    return next((a for a in args if isinstance(a, str)), "asset")


def _ending(code: int | None) -> str:
    if code is None:
        return "a broken pipe"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends (Linux only; elsewhere the closed pipe ends it once idle)."""
    if (bind := ties(parent)) is not None:
        bind()


def ties(parent: int) -> Callable[[], None] | None:
    """What a new process calls so that the kernel kills it when its parent ends, and that no program it starts gains rights; None elsewhere.

    It loads nothing when called: between fork and exec nothing may be.
    """
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, ask, leave = ctypes.CDLL(None).prctl, os.getppid, os._exit

    def bind() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if ask() != parent:  # it ended before the line above
            leave(1)

    return bind


def _limit(memory_bytes: int, written_bytes: int) -> None:
    """Limits for good on address space, on files written (but for the log of openings where one is asked for) and on core files."""
    import resource

    written = max(written_bytes, _LOG_BYTES if os.environ.get(MEDIA_LOG_VARIABLE) else 0)
    for what, most in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_FSIZE, written), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most, most) if hard == resource.RLIM_INFINITY else (min(most, hard), min(most, hard)))


def _limit_cpu(timeout_s: float) -> None:
    """The kernel ends this process when it has computed for so long again: also when the parent cannot (stopped, or a clock set back)."""
    import resource

    most, hard = math.ceil(time.process_time() + timeout_s) + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _send(pipe: socket.socket, data: bytes, timeout_s: float | None) -> None:
    pipe.settimeout(timeout_s)
    pipe.sendall(struct.pack(">Q", len(data)))
    pipe.sendall(data)


def _receive(pipe: socket.socket, timeout_s: float | None) -> bytes:
    """One message. Raises TimeoutError, EOFError (closed before a message) or OSError."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    size = struct.unpack(">Q", _read(pipe, 8, end))[0]
    if size > MAX_ANSWER_BYTES:
        raise ValueError(f"expected a message of at most {MAX_ANSWER_BYTES} bytes, found {size}")
    return _read(pipe, size, end)


def _read(pipe: socket.socket, size: int, end: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        pipe.settimeout(left)
        block = pipe.recv(min(size - len(data), 1 << 20))
        if not block:
            raise EOFError("the other end closed the pipe")
        data += block
    return bytes(data)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
