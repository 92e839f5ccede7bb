"""A child process in which media are decoded, so that a crash, a hang or a memory blow-up costs one asset and not the run.

The child is started as a fresh interpreter (no fork of our threads, no `multiprocessing`, whose daemonic workers may not have
children and whose spawn would run the caller's main script again), stays between calls, and is replaced after a failure. It dies with
us: the kernel kills it when the thread that started it ends (Linux), and an idle child leaves when the pipe closes.
"""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar, cast

from curation.media import MediaError
from curation.wire import decode, encode

T = TypeVar("T")

MAX_ANSWER_BYTES = 1 << 30
"""Largest answer that is read from the child: it may be lying about the size."""

START_TIMEOUT_S = 60.0
"""Time in which the child must be up and have imported the function; not counted as work on the medium."""


class SandboxError(RuntimeError):
    """Our own function failed in the child with something else than a MediaError: a fault of ours, with the child's traceback."""


class Sandbox:
    """Runs module-level functions of `curation` in a child process with a time limit in s and a limit on address space in bytes."""

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
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
            pipe = self._ready()
            try:
                _send(pipe, encode([function.__module__, function.__qualname__]), START_TIMEOUT_S)
                _receive(pipe, START_TIMEOUT_S)
                _send(pipe, encode(list(args)), self.timeout_s)
                status, value = decode(_receive(pipe, self.timeout_s))
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
            command = [sys.executable, "-m", "curation.isolate", str(theirs.fileno()), str(self.memory_bytes), str(os.getpid())]
            paths = os.pathsep.join(p for p in sys.path if p)
            # One thread in every library: the address-space limit counts thread stacks, and we run a process a core.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
            env = {**os.environ, **threads, "PYTHONPATH": paths}
            self._child = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env=env)
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
        return MediaError("crashed", f"{_subject(args)}: the process of {function.__name__} ended with {_ending(code)}")

    def _result(self, status: str, value: Any) -> Any:
        if status == "ok":
            return value
        if status == "media":
            raise MediaError(value[0], value[1])
        raise SandboxError(value)


def serve(fd: int, memory_bytes: int, parent: int) -> None:
    """The child's life: answers calls on the socket `fd` until it closes."""
    _die_with(parent)
    _limit_memory(memory_bytes)
    with socket.socket(fileno=fd) as pipe:
        while True:
            try:
                module, name = decode(_receive(pipe, None))
            except EOFError:
                return
            function = getattr(import_module(module), name)
            _send(pipe, b"", None)
            args = decode(_receive(pipe, None))
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


def _subject(args: tuple[Any, ...]) -> str:
    """The path among the arguments, for messages."""
    return next((a for a in args if isinstance(a, str)), "asset")


def _ending(code: int | None) -> str:
    if code is None:
        return "a broken pipe"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends (Linux only; elsewhere the closed pipe ends it once idle)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)


def _limit_memory(memory_bytes: int) -> None:
    import resource

    soft, hard = memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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
    serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
