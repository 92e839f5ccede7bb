"""Counts made at commit: the funnel per rule and a histogram per score, so that no page ever scans the clips."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import Clip, Cube
from manifests.schema import arrow_schema, to_table

BINS = 64


def build_cubes(run_no: int, decisions: pa.Table, assets: pa.Table, clips: pa.Table) -> pa.Table:
    """The funnel of a run (n and time by rule, media kind and verdict) and `BINS`-bin histograms of every score by decision."""
    return to_table(Cube, [*_funnel(run_no, decisions, assets, clips), *_histograms(run_no, clips)])


def _funnel(run_no: int, decisions: pa.Table, assets: pa.Table, clips: pa.Table) -> list[Cube]:
    of_asset = {
        n: (k or "unknown", d or 0)
        for n, k, d in zip(*(assets.column(c).to_pylist() for c in ("asset_no", "kind", "duration_us")), strict=True)
    }
    spans = pc.subtract(clips.column("end_us"), clips.column("start_us")).to_pylist()
    of_clip = {n: (k, d) for n, k, d in zip(clips.column("clip_no").to_pylist(), clips.column("kind").to_pylist(), spans, strict=True)}
    totals: dict[tuple[int, str, str], list[int]] = {}
    columns = (decisions.column(c).to_pylist() for c in ("rule_no", "asset_no", "clip_no", "passed"))
    for rule_no, asset_no, clip_no, passed in zip(*columns, strict=True):
        kind, duration = of_asset[asset_no] if clip_no is None else of_clip[clip_no]
        verdict = "unknown" if passed is None else "pass" if passed else "reject"
        total = totals.setdefault((rule_no, kind, verdict), [0, 0])
        total[0] += 1
        total[1] += duration
    return [
        Cube(run_no=run_no, name="funnel", kind=kind, rule_no=rule_no, verdict=verdict, n=n, duration_us=duration)
        for (rule_no, kind, verdict), (n, duration) in sorted(totals.items())
    ]


def _histograms(run_no: int, clips: pa.Table) -> list[Cube]:
    scores = [f.name for f in arrow_schema(Clip) if f.type == pa.float32()]
    cubes = []
    for kind in sorted(set(clips.column("kind").to_pylist())):
        rows = clips.filter(pc.equal(clips.column("kind"), kind))
        kept = pc.equal(rows.column("decision"), "keep").to_numpy()
        spans = pc.subtract(rows.column("end_us"), rows.column("start_us")).to_numpy()
        for name in scores:
            known = rows.column(name).is_valid().to_numpy()
            if known.any():
                values = rows.column(name).fill_null(0).to_numpy().astype(np.float64)
                cubes += _histogram(run_no, kind, name, values, known, kept, spans)
    return cubes


def _histogram(run_no: int, kind: str, name: str, values: np.ndarray, known: np.ndarray, kept: np.ndarray, spans: np.ndarray) -> list[Cube]:
    edges = np.histogram_bin_edges(values[known], BINS)
    bins = np.clip(np.digitize(values, edges) - 1, 0, BINS - 1)
    cubes = []
    for verdict, mask in (("keep", known & kept), ("drop", known & ~kept)):
        counts = np.bincount(bins[mask], minlength=BINS)
        times = np.bincount(bins[mask], weights=spans[mask].astype(np.float64), minlength=BINS)
        cubes += [
            Cube(
                run_no=run_no, name="histogram", kind=kind, measure=name, bin=int(b), low=float(edges[b]), high=float(edges[b + 1]),
                verdict=verdict, n=int(counts[b]), duration_us=int(times[b]),
            )
            for b in np.flatnonzero(counts)
        ]  # fmt: skip
    return cubes
