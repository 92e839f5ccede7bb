"""Signs of life of a run's processes: a heartbeat file a process, and a report of the ones that keep the others waiting.

    heartbeat/rank-00003.json    {"rank": 3, "host": …, "pid": …, "step": …, "at": …}

A run that hangs is seen by its heartbeats; which process hangs, by the one whose step is behind. Under ZeRO-3 all processes go at the
pace of the slowest, so their step times say nothing: the report compares what each does alone, loading and a fixed multiplication.
"""

import json
import os
import socket
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from manifests.files import temporary_name

FOLDER = "heartbeat"
BEAT_S = 5.0
"""Seconds between two beats of a process at least: a small file on a shared disk, times thousands of processes."""

SLOW = 1.5
"""A process is named when its multiplication takes this many times the median."""

_PROBE_SIDE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The last sign of life of a process: the step it was at, and when, in UTC."""

    rank: int
    host: str
    pid: int
    step: int
    at: str

    def age_s(self) -> float:
        """Seconds since then."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds()


class Pulse:
    """Writes this process's heartbeat."""

    def __init__(self, out: Path, rank: int) -> None:
        self._path, self._rank, self._last_s = out / FOLDER / f"rank-{rank:05d}.json", rank, -BEAT_S
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def beat(self, step: int) -> None:
        """The file says that this process was alive at the step, at most `BEAT_S` ago."""
        now = time.monotonic()
        if now - self._last_s >= BEAT_S:
            beat = Beat(rank=self._rank, host=socket.gethostname(), pid=os.getpid(), step=step, at=datetime.now(UTC).isoformat())
            # Whole or not at all, but not waited for: a beat that a power cut takes is no loss, and thousands wait for the slowest.
            temporary = temporary_name(self._path)
            temporary.write_bytes(json.dumps(asdict(beat)).encode())
            os.replace(temporary, self._path)
            self._last_s = now


def beats(out: Path) -> list[Beat]:
    """The last beat of each process of a run, by rank; of those that have had one."""
    return [Beat(**json.loads(path.read_bytes())) for path in sorted((out / FOLDER).glob("rank-*.json"))]


def probe_s(device: torch.device) -> float:
    """Seconds that a fixed multiplication takes here, the second of two: a device that is throttled or shared takes longer."""
    a = torch.full((_PROBE_SIDE, _PROBE_SIDE), 0.5, device=device)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        float((a @ a)[0, 0])  # reading a value waits for the device
        seconds = time.perf_counter() - began
    return seconds


def stragglers(load_s: list[float], probe: list[float], step_s: float) -> list[str]:
    """One sentence for each rank that is slower than the others, in loading (by half a step) or in computing (by `SLOW`)."""
    found = []
    usual_s, usual_probe = statistics.median(load_s), statistics.median(probe)  # once: of thousands of ranks they take a millisecond each
    for rank, (load, speed) in enumerate(zip(load_s, probe, strict=True)):
        if load - usual_s > step_s / 2:
            found.append(f"rank {rank} waits {load:.2f} s for its batch, the median rank {usual_s:.2f} s")
        if speed > SLOW * usual_probe:
            found.append(f"rank {rank} computes at {usual_probe / speed:.0%} of the median rank's speed")
    return found
