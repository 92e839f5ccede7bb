"""The run's log: one JSON object a line, every step, full precision; and the numbers of every `log_every`-th step for TensorBoard.

`log.jsonl` holds nothing that depends on the clock, so an interrupted run and an uninterrupted one write the same file; seconds are
in `timing.jsonl`. Python writes a float as the shortest text that reads back as the same bits.
"""

import json
import os
from pathlib import Path
from typing import IO, Any

from manifests.files import write_atomic

LOG, TIMING = "log.jsonl", "timing.jsonl"


class MetricsWriter:
    """Appends to the logs of a run that goes on at `start_step`: later lines of an interrupted attempt are cut off first."""

    def __init__(self, out: Path, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._files: dict[str, IO[str]] = {}
        for name in (LOG, TIMING):
            _truncate(out / name, start_step)
            self._files[name] = (out / name).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start_step)

    def write(self, kind: str, step: int, values: dict[str, Any], board: bool = True) -> None:
        """A line of the log, handed to the operating system; with `board`, numbers go to TensorBoard too, as `<kind>/<name>`."""
        self._line(LOG, {"kind": kind, "step": step, **values})
        for name, value in values.items():
            if board and isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def time(self, step: int, values: dict[str, float], board: bool = True) -> None:
        """A line of the timing log: wall-clock seconds of a step, and what follows from them; for TensorBoard as `speed/<name>`."""
        self._line(TIMING, {"kind": "time", "step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}})
        for name, value in values.items() if board else ():
            self._board.add_scalar(f"speed/{name}", value, step)

    def sync(self) -> None:
        """All lines are on disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """All lines are on disk and the files are closed."""
        self.sync()
        for file in self._files.values():
            file.close()
        self._board.close()

    def _line(self, name: str, values: dict[str, Any]) -> None:
        self._files[name].write(json.dumps(values, allow_nan=False) + "\n")
        self._files[name].flush()  # a killed process loses nothing that it logged


def read_log(out: Path, kind: str) -> list[dict[str, Any]]:
    """The log's complete lines of one kind, 'train' or 'validate', in order; empty when there is no log."""
    path = out / LOG
    rows = _rows(path.read_bytes()) if path.exists() else []
    return [row for _, row in rows if row["kind"] == kind]


def _truncate(path: Path, start_step: int) -> None:
    """Only complete lines of steps before `start_step` are left."""
    if path.exists():
        write_atomic(path, b"".join(line for line, row in _rows(path.read_bytes()) if row["step"] < start_step))


def _rows(data: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Complete lines with what they say; a last line without its end was cut off by a kill and is left out."""
    return [(line, json.loads(line)) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
