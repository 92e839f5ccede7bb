"""Starts a training run and waits for it. The same command after a crash, a kill or a reboot goes on where the run was."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from training.conditions import prepare
from training.config import TrainConfig
from training.data.index import frozen_version, load_samples
from training.folder import WORKER_LOG, adopt, has_run, locked, steps_done, write_run

_PR_SET_PDEATHSIG = 1
_STOP_S = 20


def train(config: TrainConfig, dataset: Path, out: Path, on_line: Callable[[str], None] | None = None, release: str = "") -> int:
    """The run in `out` has been trained to `config.steps`: 0, or the exit status of what failed. `on_line` gets progress lines.

    It is trained on the release of that name, or on the dataset's newest version without one.

    A folder that already holds a run is continued, at the manifest version it began with; a finished one is left as it is.
    TrainingError when the configuration differs in more than `MAY_CHANGE`, the dataset has no manifest, or another process is at it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        _prepare(config, dataset, out, release)
        if steps_done(out) >= config.steps:
            return 0
        status = _start(config.processes, out, on_line)
    # judged by what is on disk: a rank may abort while it exits, after all work is done
    return 0 if steps_done(out) >= config.steps else status or 1


def prepare_run(config: TrainConfig, dataset: Path, out: Path, release: str = "") -> None:
    """`out` holds the run, new or as it was, ready for `python -m training.worker` under any launcher of torch's."""
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        _prepare(config, dataset, out, release)


def command(processes: int, out: Path) -> list[str]:
    """The torchrun command line of a run: one machine, a rendezvous of its own on a free local port."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*torchrun, "--nproc-per-node", str(processes), "-m", "training.worker", str(out.resolve())]


def environment(processes: int) -> dict[str, str]:
    """The environment of the workers: this package importable, the current directory not, and the cores shared out among them unless OMP_NUM_THREADS is set."""
    here = str(Path(__file__).resolve().parent.parent)
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes))
    # Safe path: `-m` would put the current directory first on the path of torchrun and of every worker, and run what lies there as a library.
    safe = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": threads, **safe}


def die_with_parent(parent: int, libc: ctypes.CDLL | None = None) -> None:
    """This process gets SIGKILL when its parent ends, however that happens, so a killed run leaves no process behind (Linux)."""
    if sys.platform == "linux":
        (libc or ctypes.CDLL(None)).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before the request
            os._exit(1)


def _prepare(config: TrainConfig, dataset: Path, out: Path, release: str) -> None:
    if has_run(out):
        adopt(config, dataset, out, frozen_version(dataset, release)[1] if release else None)
        return
    version, known = frozen_version(dataset, release)
    samples = load_samples(dataset, version)
    prepare(config, dataset, out, samples, version)
    write_run(config, dataset, out, samples, version, known)


def _start(processes: int, out: Path, on_line: Callable[[str], None] | None) -> int:
    """torchrun has run to its end with that many workers; gives its exit status. Interrupted, it takes its workers down first."""
    parent, libc = os.getpid(), ctypes.CDLL(None)  # loaded here: a forked child of a threaded process must not load anything
    process = subprocess.Popen(
        command(processes, out),
        env=environment(processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=lambda: die_with_parent(parent, libc),
    )
    try:
        with (out / WORKER_LOG).open("a", encoding="utf-8") as kept:
            for line in process.stdout or ():
                kept.write(line)
                kept.flush()
                if on_line:
                    on_line(line.rstrip("\n"))
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
