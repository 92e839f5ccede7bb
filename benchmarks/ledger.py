"""The ledger at size: bytes on disk, time to decide again, to compare versions and to find one clip. Prints a table with targets.

    python benchmarks/ledger.py --clips 1e6 --folder /some/disk

The manifest is made (`benchmarks/ledger_manifest.py` says of what), under the paper's rules; captions and media are not part of it. Query
times are wall clock with two threads, processor seconds beside them, because other work on the machine shows in the first only.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ledger_manifest import build
from manifests.diff import diff
from manifests.explain import explain
from manifests.lookup import clip_by_id
from manifests.rebuild import compare
from manifests.tables import ManifestStore
from pipelines.decide import decide

OVERRIDES = ["rules.motion.threshold=3", "rules.aesthetic.threshold=4.5", "rules.short_side.threshold=1000"]


def main() -> None:
    """Builds, measures, prints, and removes what it built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=float, default=1e6)
    parser.add_argument("--folder", type=Path, default=None, help="where the manifest is built; a temporary folder if not given")
    parser.add_argument("--keep", action="store_true", help="leave the manifest, and use one that lies there")
    arguments = parser.parse_args()
    root = arguments.folder or Path(tempfile.mkdtemp())
    figures = measure(root, int(arguments.clips))
    if not arguments.keep:
        shutil.rmtree(root)
    print(json.dumps(figures, indent=1))


def measure(root: Path, n: int) -> dict[str, Any]:
    """The figures of a manifest of about n clips, printed as they come."""
    store = ManifestStore(root)
    if store.version() < 0:
        _timed("build", lambda: build(root, n, []))
    large = n > 3_000_000
    clips, of_clips = _size(store, "clips")
    decisions, of_decisions = _size(store, "decisions")
    figures: dict[str, Any] = {"clips": clips, "decisions": decisions}
    figures["bytes_per_clip"] = _tell("bytes per clip, all columns", of_clips / clips, 120)
    figures["bytes_per_decision"] = _tell("bytes per decision", of_decisions / decisions, 4)
    shown, figures["decide"] = _timed("decide, dry run", lambda: decide(root, OVERRIDES), 20 if large else 2)
    figures["decide_query_s"] = shown.query_seconds
    ids = store.read("clips", columns=["clip_id"]).column(0)
    wanted = [ids[len(ids) * i // 7].as_py() for i in range(1, 7)]
    del ids
    found, seconds = _timed(
        "look-up of 6 clips by id, and of one that is not there", lambda: [clip_by_id(store, i) for i in [*wanted, "0" * 32]], 7
    )
    assert [c and c.clip_id for c in found] == [*wanted, None]
    figures["look_up_s"] = seconds["wall_s"] / 7
    _, figures["explain"] = _timed("explanation of one clip by id", lambda: explain(store, wanted[2]), 2)
    _, figures["commit"] = _timed("decide --commit", lambda: decide(root, OVERRIDES, commit=True))
    appended = _size(store, "decisions")
    figures["appended_decisions"] = appended[0] - decisions
    figures["appended_bytes_per_clip"] = _tell("bytes per clip that the decision appended", (appended[1] - of_decisions) / clips)
    turned, figures["diff"] = _timed("diff", lambda: diff(store, 0, store.version()))
    assert turned.kept_after.n == sum(c.after.kept.n for c in shown.changes if c.subject == "clip")
    faults, figures["rebuild"] = _timed("state rebuilt from the ledger", lambda: compare(store))
    assert not faults
    figures["peak_gb"] = _tell("peak memory, GB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 12)
    return figures


def _size(store: ManifestStore, table: str) -> tuple[int, int]:
    files = store.files(table)
    return sum(pq.read_metadata(f).num_rows for f in files), sum(Path(f).stat().st_size for f in files)


def _timed(name: str, work: Callable[[], Any], target: float | None = None) -> tuple[Any, dict[str, float]]:
    wall, processor = time.monotonic(), time.process_time()
    result = work()
    seconds = {"wall_s": round(time.monotonic() - wall, 2), "processor_s": round(time.process_time() - processor, 2)}
    _tell(f"{name}, s ({seconds['processor_s']} processor s)", seconds["wall_s"], target)
    return result, seconds


def _tell(name: str, value: float, target: float | None = None) -> float:
    verdict = "" if target is None else f"   target {target:g}: {'met' if value <= target else 'MISSED'}"
    print(f"{name:<70} {value:12,.2f}{verdict}", flush=True)
    return round(value, 3)


if __name__ == "__main__":
    main()
