"""Shot boundaries found by the analysis against the 85 videos labelled by eye in `cuts.json`.

    python benchmarks/accuracy.py [--json out.json] [--files PART]

A hard cut is found when one is reported within one frame of the label; a gradual transition when a reported one overlaps it.
Reports inside spans labelled ambiguous do not count. A hard cut reported inside a gradual label takes that label's one hit. For scale:
PySceneDetect 0.7.2's adaptive detector with defaults has precision 0.91 and recall 0.94 on the hard cuts and finds 6 of 15 gradual ones.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import media_folder


def boundaries(path: str) -> tuple[int, list[int], list[tuple[int, int]]]:
    """Number of frames decoded, hard cuts and gradual transitions (first, end) of a video, as frame indices in presentation order."""
    import numpy as np

    from curation.analyse import AnalyseConfig, find_shots
    from curation.media import MediaConfig
    from curation.probe import probe

    shots, pts = find_shots(path, probe(path, MediaConfig()), AnalyseConfig())
    hard = [int(np.searchsorted(pts, s.start_us)) for s in shots if s.opens == "hard"]
    pairs = [(a.end_us, b.start_us) for a, b in itertools.pairwise(shots) if b.opens == "gradual"]
    return len(pts), hard, [(int(np.searchsorted(pts, a)), int(np.searchsorted(pts, b))) for a, b in pairs]


def score(entry: dict[str, Any], hard: list[int], gradual: list[tuple[int, int]]) -> dict[str, Any]:
    """Hits, misses and false alarms of one video, for hard cuts and for gradual transitions."""
    left, spans = list(hard), [(a["start"], a["end"]) for a in entry["ambiguous"]]
    labels = {kind: [c for c in entry["cuts"] if c["kind"] == kind] for kind in ("hard", "gradual")}
    missed = []
    for cut in labels["hard"]:
        hit = next((h for h in left if abs(h - cut["frame"]) <= 1), None)
        if hit is None:
            missed.append(cut["frame"])
        else:
            left.remove(hit)
    found = 0
    for cut in labels["gradual"]:
        inside = [h for h in left if cut["start"] - 1 <= h <= cut["frame"] + 1]
        left = [h for h in left if h not in inside[:1]]
        found += bool(inside) or any(a <= cut["frame"] + 1 and b >= cut["start"] - 1 for a, b in gradual)
        spans.append((cut["start"], cut["frame"]))
    false_gradual = [g for g in gradual if not any(g[0] <= end + 1 and g[1] >= start - 1 for start, end in spans)]
    ambiguous = [(a["start"], a["end"]) for a in entry["ambiguous"]]
    false_hard = [h for h in left if not any(start <= h <= end for start, end in ambiguous)]
    return {
        "file": entry["file"],
        "hard": len(labels["hard"]),
        "hits": len(labels["hard"]) - len(missed),
        "missed": missed,
        "false": false_hard,
        "gradual": len(labels["gradual"]),
        "gradual_hits": found,
        "gradual_false": false_gradual,
    }


def totals(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Precision, recall and F1 of the hard cuts, and the counts of the gradual ones."""
    hits, labels, false = sum(r["hits"] for r in rows), sum(r["hard"] for r in rows), sum(len(r["false"]) for r in rows)
    precision, recall = hits / max(1, hits + false), hits / max(1, labels)
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    gradual = {k: sum(r[k] for r in rows) for k in ("gradual", "gradual_hits")}
    wrong = sum(len(r["gradual_false"]) for r in rows)
    return {"videos": len(rows), "precision": precision, "recall": recall, "f1": f1, **gradual, "gradual_false": wrong}


def main() -> None:
    """Prints every video with an error, then the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--files", default="", help="only files whose name contains this")
    options = parser.parse_args()
    folder = media_folder()
    rows, skipped = [], []
    for entry in json.loads((folder / "cuts.json").read_text())["entries"]:
        if options.files not in entry["file"]:
            continue
        frames, hard, gradual = boundaries(str(folder / entry["file"]))
        if frames != entry["n_frames"]:
            # Labels are frame numbers of the file's first video stream; we show the one a player would.
            skipped.append(f"{entry['file']}: labelled on {entry['n_frames']} frames, {frames} decoded")
            continue
        rows.append(score(entry, hard, gradual))
    for r in rows:
        if r["missed"] or r["false"] or r["gradual"] or r["gradual_false"]:
            gradual = f"gradual {r['gradual_hits']} of {r['gradual']}, false gradual {r['gradual_false']}"
            print(f"{r['file']}: missed {r['missed']}, false {r['false']}, {gradual}")
    for line in skipped:
        print("not scored:", line)
    result = totals(rows)
    print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items()))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "totals": result, "skipped": skipped}, indent=1))


if __name__ == "__main__":
    main()
