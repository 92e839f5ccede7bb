"""Shots found on tracks against 85 videos labelled by eye (`cuts.json`) and against generated joins of real clips (`benchmarks/joins.py`).

    python benchmarks/accuracy_shots.py [--verbose] [--joins 48]

A hard cut is found when one is reported within one frame of the label. A gradual transition is found when a reported one overlaps it; as
the labels ask, a hard cut reported inside it takes its one hit as well (`as gradual` counts only the former). Whatever else is reported is
false, a second report on one label too, except inside spans that are labelled ambiguous. Truth and reports are times: the labels' frame
numbers are turned into the presentation times of the frames, or, in three files of which the decoder here gives another number of frames
than the labels know (another video stream is the best one; undated frames), into the labels' own times, within 0.1 s.

Weights and thresholds were fitted on the `tune` half only: contents (with all their copies) fall into halves by a hash of their name.
Errors on both halves were looked at while the rules were designed; the generated videos that are scored come from numbers not looked at
before.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import joins
from benchmarks.decode import media_folder
from benchmarks.figures import Figure, as_table
from curation.shots import Shot, ShotsConfig, find_shots
from curation.tracks import Tracks, by_name

FIRST_SCORED = 7000
"""Number of the first generated video that is scored; training uses lower ones, of the other half."""


@dataclass(slots=True)
class Truth:
    """Boundaries in us: hard cuts, gradual (start, end, kind), spans that do not count, and how far off a hit may be."""

    hard: list[int]
    gradual: list[tuple[int, int, str]]
    ambiguous: list[tuple[int, int]] = field(default_factory=list)
    loose_us: int = 0


@dataclass(slots=True)
class Score:
    """Counts over videos."""

    hard: int = 0
    hard_hits: int = 0
    hard_false: int = 0
    gradual: int = 0
    gradual_hits: int = 0
    as_gradual: int = 0
    gradual_false: int = 0
    notes: list[str] = field(default_factory=list)

    def f1(self, kind: str) -> float:
        """2 hits / (2 hits + missed + false) of `hard` or `gradual`."""
        hits, labels, false = getattr(self, f"{kind}_hits"), getattr(self, kind), getattr(self, f"{kind}_false")
        return 2 * hits / max(1, hits + labels + false)


def add(total: Score, name: str, truth: Truth, shots: list[Shot], pts_us: np.ndarray) -> None:
    """Counts one video in."""
    step = int(np.median(np.diff(pts_us))) if len(pts_us) > 1 else 0
    hard = [s.start_us for s in shots if s.opens == "hard"]
    spans = [(a.end_us, b.start_us) for a, b in itertools.pairwise(shots) if b.opens == "gradual"]
    for t in truth.hard:
        near = [h for h in hard if abs(_frames_between(pts_us, h, t)) <= 1 or abs(h - t) <= truth.loose_us]
        total.hard += 1
        total.hard_hits += bool(near)
        if near:
            hard.remove(near[0])
        else:
            total.notes.append(f"{name}: missed the cut at {t / 1e6:.2f} s")
    for start, end, kind in truth.gradual:
        over = [s for s in spans if s[0] <= end + step and s[1] >= start - step]
        within = [h for h in hard if start - step <= h <= end + step]
        total.gradual += 1
        total.gradual_hits += bool(over or within)
        total.as_gradual += bool(over)
        if over:
            spans.remove(over[0])
        if within:
            hard.remove(within[0])
        if not over and not within:
            total.notes.append(f"{name}: missed the {kind} of {(end - start) / 1e6:.2f} s at {start / 1e6:.2f} s")
    hard = [h for h in hard if not any(a - step <= h <= b + step for a, b in truth.ambiguous)]
    spans = [s for s in spans if not any(s[0] <= b + step and s[1] >= a - step for a, b in truth.ambiguous)]
    total.hard_false += len(hard)
    total.gradual_false += len(spans)
    total.notes += [f"{name}: false cut at {h / 1e6:.2f} s" for h in hard]
    total.notes += [f"{name}: false transition at {a / 1e6:.2f} to {b / 1e6:.2f} s" for a, b in spans]


def _frames_between(pts_us: np.ndarray, a: int, b: int) -> int:
    """How many frames b lies after a."""
    first, second = np.searchsorted(pts_us, (a, b))
    return int(second - first)


def labelled(entry: dict[str, Any], pts_us: np.ndarray) -> Truth:
    """The truth of a labelled video of which frames at these times were decoded."""
    same = len(pts_us) == entry["n_frames"]

    def time_us(frame: int) -> int:
        if same:
            return int(pts_us[min(frame, len(pts_us) - 1)])
        return int(pts_us[0] + frame * 1e6 / entry["fps"])

    hard = [time_us(c["frame"]) for c in entry["cuts"] if c["kind"] == "hard"]
    gradual = [(time_us(c["start"]), time_us(c["frame"]), c["type"]) for c in entry["cuts"] if c["kind"] == "gradual"]
    ambiguous = [(time_us(a["start"]), time_us(a["end"])) for a in entry["ambiguous"]]
    return Truth(hard, gradual, ambiguous, 0 if same else 100_000)


def real_tracks(media: Path) -> Iterable[tuple[dict[str, Any], Tracks]]:
    """Each labelled video with its tracks."""
    from curation.cut_series import ShotObserver
    from curation.scan import tracks_of

    for entry in json.loads((media / "cuts.json").read_text())["entries"]:
        yield entry, by_name(tracks_of(str(media / entry["file"]), [ShotObserver()]))


def score_real(media: Path, tracks: Iterable[tuple[dict[str, Any], Tracks]], cfg: ShotsConfig) -> dict[str, Score]:
    """The labelled videos' scores, by half."""
    groups, scores = joins.copy_groups(media), {"tune": Score(), "score": Score()}
    for entry, found in tracks:
        pts = found["shots"].pts_us
        half = joins.half_of(joins.content_of(entry["file"], groups))
        add(scores[half], entry["file"], labelled(entry, pts), find_shots(found, int(pts[-1]) + 1, cfg), pts)
    return scores


def score_joins(videos: Iterable[tuple[str, Tracks, list[joins.Boundary], bool]], cfg: ShotsConfig) -> dict[str, Score]:
    """The generated videos' scores, by constant and variable rate; and the gradual ones by kind, in `kind:…`."""
    scores: dict[str, Score] = {"constant": Score(), "variable": Score()}
    for name, found, boundaries, variable in videos:
        pts = found["shots"].pts_us
        shots = find_shots(found, int(pts[-1]) + 1, cfg)
        truth = Truth(
            [b.start_us for b in boundaries if b.kind == "hard"], [(b.start_us, b.end_us, b.kind) for b in boundaries if b.kind != "hard"]
        )
        add(scores["variable" if variable else "constant"], name, truth, shots, pts)
    return scores


def total(scores: Iterable[Score]) -> Score:
    """The sum of counts."""
    result = Score()
    for s in scores:
        for name in Score.__slots__:
            setattr(result, name, getattr(result, name) + getattr(s, name))
    return result


def generated(media: Path, count: int) -> list[tuple[str, Tracks, list[joins.Boundary], bool]]:
    """Generated videos of the `score` half with their tracks, through real files."""
    from curation.cut_series import ShotObserver
    from curation.scan import tracks_of

    found: list[tuple[str, Tracks, list[joins.Boundary], bool]] = []
    with tempfile.TemporaryDirectory() as folder:

        def keep(joined: joins.Joined, path: Path) -> None:
            found.append((path.name, by_name(tracks_of(str(path), [ShotObserver()])), joined.truth, joined.variable))

        joins.videos(media, "score", Path(folder), count, FIRST_SCORED, keep)
    return found


def as_figures(real: dict[str, Score], made: dict[str, Score]) -> list[Figure]:
    """The figures of the target table."""
    rows = []
    sets = [
        ("real videos, score half", real["score"]),
        ("real videos, tune half (tuned on)", real["tune"]),
        ("all real videos", total(real.values())),
    ]
    sets += [(f"generated joins, {name} rate, score half", s) for name, s in made.items()]
    for name, s in sets:
        on = f"{name}: {s.hard} cuts, {s.hard_hits} found, {s.hard_false} false"
        rows.append(Figure(subject="shots", what="hard cuts, F1", value=s.f1("hard"), target=0.97, on=on))
        on = f"{name}: {s.gradual} transitions, {s.gradual_hits} found ({s.as_gradual} as gradual), {s.gradual_false} false"
        rows.append(Figure(subject="shots", what="gradual transitions, F1", value=s.f1("gradual"), target=0.85, on=on))
    return rows


def figures(media: Path) -> list[Figure]:
    """Measured now, on the real media and 48 generated videos."""
    cfg = ShotsConfig()
    return as_figures(score_real(media, real_tracks(media), cfg), score_joins(generated(media, 48), cfg))


def main() -> None:
    """Prints the table, and every error if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="also print every error")
    parser.add_argument("--joins", type=int, default=48, help="number of generated videos, four joins each")
    options = parser.parse_args()
    media, cfg = media_folder(), ShotsConfig()
    real, made = score_real(media, real_tracks(media), cfg), score_joins(generated(media, options.joins), cfg)
    if options.verbose:
        print("\n".join([*total(real.values()).notes, *total(made.values()).notes]))
    print(as_table(as_figures(real, made)))


if __name__ == "__main__":
    main()
