"""Counts made at commit: the funnel per rule, the same by source, and a histogram per score, so that no page ever scans the clips.

Subjects are added table by table, so that a manifest of any size is counted in bounded memory.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.events import Cube
from manifests.ledger import PASS, THRESHOLD, Decided, Verdicts, decide
from manifests.policy import Numbered
from manifests.records import Clip
from manifests.schema import arrow_schema, to_table

BINS = 64

SCORES = tuple(f.name for f in arrow_schema(Clip) if f.type == pa.float32())
"""The columns of clips that get a histogram."""

Ends = Mapping[tuple[str, str], tuple[float, float]]
"""(kind, score) -> lowest and highest value; a score that was never measured is not in it."""

_VERDICTS = ("pass", "reject", "unknown")


class Cubes:
    """Counts of one run, as subjects are added, assets first: n and time by rule, media kind, source and verdict, and histograms by decision."""

    def __init__(self, run_no: int, ends: Ends) -> None:
        self._run_no, self._ends = run_no, ends
        self._funnel: dict[tuple[int, str, int, str], npt.NDArray[np.int64]] = {}  # by rule (-1: all on clips), kind, source, verdict
        self._source_of = (np.empty(0, np.int64), np.empty(0, np.int64))
        self._bins: dict[tuple[str, str, str], npt.NDArray[np.int64]] = {}

    def add_assets(self, assets: pa.Table, decided: Decided) -> None:
        """The assets, with what the rules said of them, are counted."""
        numbers, sources = assets.column("asset_no").to_numpy(), assets.column("source_no").to_numpy()
        self._source_of = (np.append(self._source_of[0], numbers), np.append(self._source_of[1], sources))
        self._add_funnel(assets, decided.verdicts, pc.fill_null(assets.column("duration_us"), 0).to_numpy(), sources)

    def add_clips(self, clips: pa.Table, decided: Decided) -> None:
        """The clips, with what the rules said of them, are counted; `decision` of the table is what the histograms go by."""
        spans = pc.subtract(clips.column("end_us"), clips.column("start_us")).to_numpy()
        kept = pc.equal(clips.column("decision"), "keep").to_numpy()
        together = Verdicts(-1, np.arange(len(kept)), np.where(kept, PASS, THRESHOLD).astype(np.int8), np.empty(0, np.float32))
        self._add_funnel(clips, (*decided.verdicts, together), spans, self._sources(clips.column("asset_no").to_numpy()))
        for kind in clips.column("kind").unique().to_pylist():
            mine = np.flatnonzero(pc.equal(clips.column("kind"), kind).to_numpy())
            for score in SCORES:
                if (kind, score) in self._ends:
                    self._add_bins(kind, score, clips.column(score), mine, kept, spans)

    def table(self) -> pa.Table:
        """The counts as rows of `cubes`."""
        whole: dict[tuple[int, str, str], npt.NDArray[np.int64]] = {}
        for (rule_no, kind, _, verdict), found in self._funnel.items():
            if rule_no >= 0:
                whole[rule_no, kind, verdict] = whole.get((rule_no, kind, verdict), np.zeros(2, np.int64)) + found
        funnel = [
            Cube(run_no=self._run_no, name="funnel", kind=kind, rule_no=rule_no, verdict=verdict, n=int(n), duration_us=int(time))
            for (rule_no, kind, verdict), (n, time) in sorted(whole.items())
        ]
        by_source = [
            Cube(
                run_no=self._run_no, name="source", kind=kind, rule_no=None if rule_no < 0 else rule_no,
                source_no=None if source < 0 else source, verdict=verdict, n=int(n), duration_us=int(time),
            )
            for (rule_no, kind, source, verdict), (n, time) in sorted(self._funnel.items())
        ]  # fmt: skip
        histograms = []
        for (kind, score, verdict), (counts, times) in sorted(self._bins.items()):
            edges = _edges(*self._ends[kind, score])
            histograms += [
                Cube(
                    run_no=self._run_no, name="histogram", kind=kind, measure=score, bin=int(b), low=float(edges[b]), high=float(edges[b + 1]),
                    verdict=verdict, n=int(counts[b]), duration_us=int(times[b]),
                )
                for b in np.flatnonzero(counts)
            ]  # fmt: skip
        return to_table(Cube, [*funnel, *by_source, *histograms])

    def _sources(self, asset_nos: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The source of each asset by its number, -1 where it was not added."""
        numbers, sources = self._source_of
        if not len(numbers):
            return np.full(len(asset_nos), -1, np.int64)
        if (np.diff(numbers) < 0).any():
            order = np.argsort(numbers, kind="stable")
            numbers, sources = self._source_of = numbers[order], sources[order]
        at = np.minimum(np.searchsorted(numbers, asset_nos), len(numbers) - 1)
        return np.where(numbers[at] == asset_nos, sources[at], -1)

    def _add_funnel(
        self, subjects: pa.Table, verdicts: Sequence[Verdicts], times: npt.NDArray[np.int64], sources: npt.NDArray[np.int64]
    ) -> None:
        kinds = pc.fill_null(subjects.column("kind"), "unknown").combine_chunks().dictionary_encode()
        names, places = kinds.dictionary.to_pylist(), kinds.indices.to_numpy()
        source_nos, source_at = np.unique(sources, return_inverse=True)
        cell, n_cells = source_at * len(names) + places, len(source_nos) * len(names) * 3
        for said in verdicts:
            group = cell[said.rows] * 3 + np.select([said.codes == PASS, said.codes == THRESHOLD], [0, 1], 2)
            n = np.bincount(group, minlength=n_cells)
            time = _sums(group, times[said.rows], n_cells)
            for g in np.flatnonzero(n):
                key = (said.rule_no, names[g // 3 % len(names)], int(source_nos[g // 3 // len(names)]), _VERDICTS[g % 3])
                self._funnel[key] = self._funnel.get(key, np.zeros(2, np.int64)) + np.array([n[g], time[g]])

    def _add_bins(
        self,
        kind: str,
        score: str,
        column: pa.ChunkedArray,
        mine: npt.NDArray[np.int64],
        kept: npt.NDArray[np.bool_],
        spans: npt.NDArray[np.int64],
    ) -> None:
        values = column.to_numpy()[mine].astype(np.float64)  # NaN where null
        known = mine[~np.isnan(values)]
        bins = np.clip(np.digitize(values[~np.isnan(values)], _edges(*self._ends[kind, score])) - 1, 0, BINS - 1)
        for verdict, mask in (("keep", kept[known]), ("drop", ~kept[known])):
            found = np.stack([np.bincount(bins[mask], minlength=BINS), _sums(bins[mask], spans[known][mask], BINS)])
            key = (kind, score, verdict)
            self._bins[key] = self._bins.get(key, np.zeros((2, BINS), np.int64)) + found


def build_cubes(run_no: int, assets: pa.Table, of_assets: Decided, clips: pa.Table, of_clips: Decided) -> pa.Table:
    """The cubes of tables at hand."""
    cubes = Cubes(run_no, score_ends(clips))
    cubes.add_assets(assets, of_assets)
    cubes.add_clips(clips, of_clips)
    return cubes.table()


def recount(run_no: int, policy: Sequence[Numbered], assets: pa.Table, clips: pa.Table) -> pa.Table:
    """The cubes of stored tables under the rules in force, as the next curation will count them: what is not live is blocked, and its clips
    are no more."""
    live = pc.equal(assets.column("state"), "live")
    blocked = pc.if_else(live, assets.column("blocked"), pa.scalar(1.0, pa.float32()))
    assets = assets.set_column(assets.schema.get_field_index("blocked"), "blocked", blocked)
    clips = clips.filter(pc.is_in(clips.column("asset_no"), value_set=assets.filter(live).column("asset_no").combine_chunks()))
    of_assets, of_clips = (decide([(n, r) for n, r in policy if r.subject == s], t) for s, t in (("asset", assets), ("clip", clips)))
    return build_cubes(run_no, assets, of_assets, clips, of_clips)


def with_earlier(cubes: pa.Table, stored: pa.Table) -> pa.Table:
    """The cubes of a run with the funnels of the runs before it, so that what a rule passed then can be told without old versions."""
    earlier = stored.filter(pc.equal(stored.column("name"), "funnel"))
    if cubes.num_rows:
        earlier = earlier.filter(pc.less(earlier.column("run_no"), pc.min(cubes.column("run_no"))))
    return pa.concat_tables([earlier, cubes])


def score_ends(clips: pa.Table) -> dict[tuple[str, str], tuple[float, float]]:
    """The lowest and highest value of every score that was measured, by kind of clip."""
    ends = {}
    for kind in clips.column("kind").unique().to_pylist():
        rows = clips.filter(pc.equal(clips.column("kind"), kind))
        for score in SCORES:
            found = pc.min_max(rows.column(score)).as_py()
            if found["min"] is not None:
                ends[kind, score] = (found["min"], found["max"])
    return ends


def _edges(low: float, high: float) -> npt.NDArray[np.float64]:
    edges: npt.NDArray[np.float64] = np.histogram_bin_edges(np.array([low, high]), BINS)
    return edges


def _sums(groups: npt.NDArray[np.int64], values: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Exact sums of whole numbers by group; a float sum loses microseconds beyond 285 years."""
    total = np.zeros(n, np.int64)
    np.add.at(total, groups, values)
    return total
