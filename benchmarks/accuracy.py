"""Every accuracy target of the measures with the figure reached, as one table: real media and generated truth.

    python benchmarks/accuracy.py [--only shots,borders …] [--jobs 1] [--json out.json]

Each subject stands in `accuracy_<subject>.py`, with what was tuned on what, and is measured in a process of its own, which takes up to
10 GB. All of them take some half an hour of one core; with more jobs than cores the figures that are costs come out too high.
"""

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import media_folder
from benchmarks.figures import Figure, as_table

SUBJECTS = (
    "shots",
    "motion",
    "effects",
    "borders",
    "camera",
    "text",
    "quality",
    "people",
    "copies",
    "keepers",
    "audio",
    "captions",
    "hostile",
)


def figures_of(subject: str) -> list[Figure]:
    """Every figure of the subject."""
    begun = time.monotonic()
    found: list[Figure] = importlib.import_module(f"benchmarks.accuracy_{subject}").figures(media_folder())
    print(f"{subject}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SUBJECTS), help="subjects, comma separated")
    parser.add_argument("--jobs", type=int, default=1, help="subjects measured at a time")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    # A fresh process a subject gives its memory back; spawned, it holds nothing of the one before.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        reached = [figure for figures in pool.map(figures_of, options.only.split(",")) for figure in figures]
    print(as_table(reached))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(f) | {"holds": f.holds} for f in reached], indent=1))


if __name__ == "__main__":
    main()
