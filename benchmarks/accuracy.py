"""Every accuracy target of the measures with the figure reached, as one table: real media and generated truth.

    python benchmarks/accuracy.py [--only shots,borders …] [--json out.json]

Each subject stands in `accuracy_<subject>.py`, with what was tuned on what. Takes some half an hour of one core for all of them.
"""

import argparse
import dataclasses
import importlib
import json
import sys
import time
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


def main() -> None:
    """Prints the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SUBJECTS), help="subjects, comma separated")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    media, reached = media_folder(), list[Figure]()
    for subject in options.only.split(","):
        begun = time.monotonic()
        reached += importlib.import_module(f"benchmarks.accuracy_{subject}").figures(media)
        print(f"{subject}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    print(as_table(reached))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(f) | {"holds": f.holds} for f in reached], indent=1))


if __name__ == "__main__":
    main()
