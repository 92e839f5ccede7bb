"""Kill -9 in every stage of a curriculum at moments drawn at random, and the same command again: nothing is lost and nothing changes.

    python benchmarks/kills.py --data DATASET [--out FOLDER] [--steps 6] [--kills 1] [--seed 0] [--stages edit_1,edit_2]

The tiny curriculum with a few steps a stage is run twice on two processes: once left alone, once with a process killed in each stage (the
command with everything it started, one worker, or the launcher between them) between the start of its workers and its last step, and
started again by the same command. The logs of every step and the exported weights of both must be the same bytes. Both train on a release
of a copy of the dataset: each records what its checkpoints saw there, which makes newer versions.
"""

import argparse
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipelines.config import to_record
from pipelines.curriculum import Curriculum, load_curriculum
from pipelines.release import release
from training.metrics import LOG, read_log

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS, RELEASE = "export/weights.safetensors", "kills"


def shortened(steps: int, wanted: list[str]) -> Curriculum:
    """The tiny curriculum with so many steps a stage, a checkpoint every other one, and no gates; of all stages or of those up to the last wanted."""
    whole = load_curriculum("movie_gen", "tiny", [])
    last = max((list(whole.stages).index(name) for name in wanted), default=len(whole.stages) - 1)
    changed = {}
    for name in list(whole.stages)[: last + 1]:
        spec = whole.stages[name]
        overrides = (
            *spec.overrides,
            f"steps={steps}",
            "checkpoint_every=2",
            f"validate_every={steps}",
            "pictures=0",
            "data.validate_clips=2",
        )
        clips = 2 if spec.backtranslate else 0
        changed[name] = dataclasses.replace(spec, overrides=overrides, must_improve=None, backtranslate_clips=clips)
    return dataclasses.replace(whole, stages=changed, release=RELEASE)


def start(recipe: Path, data: Path, out: Path) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    command = [sys.executable, "-m", "pipelines.cli", "curriculum", "run", "--data", str(data), "--out", str(out), "--config", str(recipe)]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with out.with_suffix(".log").open("ab") as log:
        environment = {**os.environ, "PYTHONPATH": paths}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def processes(folder: Path) -> dict[str, list[int]]:
    """The launcher and the workers of the run in the folder."""
    found: dict[str, list[int]] = {"launcher": [], "worker": []}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"training.worker" in words and str(folder.resolve()).encode() in words:
            found["launcher" if b"torch.distributed.run" in words else "worker"].append(int(entry.name))
    return found


def kill_in(folder: Path, recipe: Path, data: Path, out: Path, steps: int, draw: random.Random) -> dict[str, Any]:
    """The command has been killed once in this run, at a step drawn at random, or in the pause after it."""
    process, target, who = start(recipe, data, out), draw.randrange(steps), draw.choice(("all", "worker", "launcher"))
    try:
        while process.poll() is None and (len(read_log(folder, "train")) < target or len(processes(folder)["worker"]) < 2):
            time.sleep(0.05)
        if process.poll() is not None:
            raise SystemExit(f"{folder}: the command ended with {process.returncode} before it was killed, see {out.with_suffix('.log')}")
        time.sleep(draw.uniform(0, 0.5))
        at = len(read_log(folder, "train"))
        if victims := processes(folder).get(who):
            os.kill(draw.choice(victims), signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(300)
        while any(processes(folder).values()):
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return {"who": who, "after_step": at, "status": process.returncode}


def main() -> None:
    """Runs both, compares, and prints a table; exit status 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--kills", type=int, default=1, help="in each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default="", help="in which to kill; all if not given")
    args = parser.parse_args()
    out, draw = args.out or Path(tempfile.mkdtemp(prefix="dailies-kills-")), random.Random(args.seed)
    out.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in args.stages.split(",") if name]
    curriculum, recipe = shortened(args.steps, wanted), out / "recipe.yaml"
    recipe.write_text("# @package _global_\n" + to_record(curriculum))
    data = out / "dataset"
    shutil.copytree(args.data, data, ignore=shutil.ignore_patterns("releases"))
    release(data, RELEASE, None, None, lambda step: None)
    alone, killed = out / "alone", out / "killed"
    if start(recipe, data, alone).wait() != 0:
        raise SystemExit(f"{alone}: the command failed, see {alone.with_suffix('.log')}")
    print("left alone: done", flush=True)
    runs = [f"{n}/run-{i}" if s.runs else n for n, s in curriculum.stages.items() for i in range(max(1, len(s.runs)))]
    whole = True
    for run in runs:
        kills = []
        if not wanted or run.split("/")[0] in wanted:
            kills = [kill_in(killed / run, recipe, data, killed, args.steps, draw) for _ in range(args.kills)]
            told = ", ".join(f"{k['who']} after step {k['after_step']}" for k in kills)
            print(f"{run:<20} killed: {told}", flush=True)
    if start(recipe, data, killed).wait() != 0:
        raise SystemExit(f"{killed}: the command failed, see {killed.with_suffix('.log')}")
    for run in runs:
        same = {name: (alone / run / name).read_bytes() == (killed / run / name).read_bytes() for name in (LOG, WEIGHTS)}
        whole = whole and all(same.values())
        print(f"{run:<20} " + ", ".join(f"{name} {'the same bytes' if ok else 'DIFFERS'}" for name, ok in same.items()), flush=True)
    raise SystemExit(0 if whole else 1)


if __name__ == "__main__":
    main()
