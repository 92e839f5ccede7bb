"""Training runs in processes of their own, to be found and killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from training import checkpoint
from training.config import TrainConfig, to_json_value


def start(config: TrainConfig, dataset: Path, out: Path) -> subprocess.Popen[bytes]:
    """The run in a process of its own, to be killed."""
    code = (
        "import json, sys; from pathlib import Path; from training.config import from_json_value; from training.launch import train; "
        "train(from_json_value(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    root = str(Path(checkpoint.__file__).parent.parent)
    command = [sys.executable, "-c", code, json.dumps(to_json_value(config)), str(dataset), str(out)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root})


def workers(out: Path) -> list[int]:
    """Process ids of the workers that train in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"training.worker" in arguments and str(out.resolve()).encode() in arguments:
            found.append(int(entry.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """The condition has become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
