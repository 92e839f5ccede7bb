"""Landscape to portrait: each set's clips thinned on the side there is too much of. Table stage, one row out for one row in.

In:   clip_id string, set_name string, width int, height int, of the clips that are still alive
Out:  clip_id, mix_keep float (1 kept, 0 dropped, null where the set or the size is unknown)

Movie Gen, Three filter stages: 60 % landscape and 40 % portrait, 80/20 in the high-resolution set. The share is that of landscape among
landscape and portrait clips; squares are neither and always kept. The excess side keeps its clips with the smallest keyed draws
(`ids.uniform(seed, "mix", clip_id)`, ties by clip_id), as many as bring the share within one clip of the one wanted; the other side
keeps all. Where a side is empty no share can be met: nothing is dropped, and `find_shortages` reports it.
"""

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from curation.components import spark_schema
from manifests import ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Side = tuple[str, str]
"""(set_name, "landscape" or "portrait")."""

Place = tuple[float, str]
"""(draw, clip_id): where a clip stands in the order in which its side is kept."""

OUTPUT = pa.schema([("clip_id", pa.string()), ("mix_keep", pa.float32())])
_SIDED = pa.schema(
    [("clip_id", pa.string()), ("set_name", pa.string()), ("side", pa.string()), ("draw", pa.float64()), ("bin", pa.int32())]
)
_BINS = 1 << 16  # the driver holds at most this many counts a side; a bin of 10^8 clips holds about 1,500
_SIDES = ("landscape", "portrait")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """Seed of the draws, and for each set the wanted share of landscape, between 0 and 1; a set that is not named is left alone."""

    landscape_share: Mapping[str, float]
    seed: int = 0

    def __post_init__(self) -> None:
        for name, share in self.landscape_share.items():
            if not 0 < share < 1:
                raise ValueError(f"mix of set {name}: landscape_share is {share}, expected between 0 and 1, or null for no mixing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A set whose mix could not be made, because one side has no clips."""

    set_name: str
    wanted_share: float
    n_landscape: int
    n_portrait: int


def label_mix(table: pa.Table, cfg: MixConfig) -> pa.Table:
    """Every clip has its mix_keep, in the order of the rows."""
    sided = pa.Table.from_batches([_sided_batch(batch, cfg) for batch in table.to_batches()], _SIDED)
    places: dict[Side, list[Place]] = defaultdict(list)
    for row in sided.to_pylist():
        places[row["set_name"], row["side"]].append((row["draw"], row["clip_id"]))
    quota = quotas({side: len(p) for side, p in places.items()}, cfg)
    last = {side: sorted(places[side])[n - 1] for side, n in quota.items()}
    return pa.Table.from_batches([_kept_batch(batch, last) for batch in sided.to_batches()], OUTPUT)


def count_sides(table: pa.Table) -> dict[Side, int]:
    """How many clips each set has on each side, for `find_shortages`; the table is the input of `label_mix`."""
    rows = table.select(["set_name", "width", "height"]).to_pylist()
    return dict(Counter((r["set_name"], side_of(r["width"], r["height"]) or "unknown") for r in rows))


def find_shortages(counts: Mapping[Side, int], cfg: MixConfig) -> list[Shortage]:
    """The sets with clips whose landscape or portrait side is empty, in the order of their names."""
    found = []
    for name, share in sorted(cfg.landscape_share.items()):
        n_landscape, n_portrait = (counts.get((name, side), 0) for side in _SIDES)
        if (n_landscape == 0) != (n_portrait == 0):
            found.append(Shortage(set_name=name, wanted_share=share, n_landscape=n_landscape, n_portrait=n_portrait))
    return found


def quotas(counts: Mapping[Side, int], cfg: MixConfig) -> dict[Side, int]:
    """For each set the side that loses clips and how many it keeps, at least one. Sets that lose none are not in it."""
    quota = {}
    for name, share in cfg.landscape_share.items():
        n_landscape, n_portrait = (counts.get((name, side), 0) for side in _SIDES)
        if not n_landscape or not n_portrait:
            continue
        landscape = max(1, math.floor(n_portrait * share / (1 - share) + 0.5))
        portrait = max(1, math.floor(n_landscape * (1 - share) / share + 0.5))
        if landscape < n_landscape:
            quota[name, "landscape"] = landscape
        elif portrait < n_portrait:
            quota[name, "portrait"] = portrait
    return quota


def side_of(width: int | None, height: int | None) -> str | None:
    """landscape, portrait or square; null when the size is not known."""
    if width is None or height is None:
        return None
    return "square" if width == height else _SIDES[width < height]


def _sided_batch(batch: pa.RecordBatch, cfg: MixConfig) -> pa.RecordBatch:
    """The rows with side and draw. In a set without a mix the side is `free`; null where set or size is unknown."""
    clip_ids, names = batch["clip_id"].to_pylist(), batch["set_name"].to_pylist()
    sizes = zip(names, batch["width"].to_pylist(), batch["height"].to_pylist(), strict=True)
    sides = [None if n is None else side_of(w, h) if n in cfg.landscape_share else "free" for n, w, h in sizes]
    draws = [ids.uniform(cfg.seed, "mix", i) for i in clip_ids]
    bins = pa.array([int(d * _BINS) for d in draws], pa.int32())
    columns = [
        pa.array(clip_ids, pa.string()),
        pa.array(names, pa.string()),
        pa.array(sides, pa.string()),
        pa.array(draws, pa.float64()),
        bins,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SIDED)


def _kept_batch(batch: pa.RecordBatch, last: Mapping[Side, Place]) -> pa.RecordBatch:
    """mix_keep of the rows, given the place of the last clip that each thinned side keeps."""
    keep = []
    for row in batch.to_pylist():
        limit = last.get((row["set_name"], row["side"]))
        dropped = limit is not None and (row["draw"], row["clip_id"]) > limit
        keep.append(None if row["side"] is None else 0.0 if dropped else 1.0)
    return pa.RecordBatch.from_arrays([batch["clip_id"], pa.array(keep, pa.float32())], schema=OUTPUT)


def label_mix_on_spark(rows: "DataFrame", cfg: MixConfig) -> "DataFrame":
    """The rows of `label_mix` in any order. Sorts nothing: the last kept clip is found by counting draws in bins, then in one bin."""

    def side(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _sided_batch(batch, cfg)

    sided = rows.select("clip_id", "set_name", "width", "height").mapInArrow(side, spark_schema(_SIDED))
    mixed = sided.where(sided["side"].isin(*_SIDES))
    bins: dict[Side, dict[int, int]] = defaultdict(dict)
    for name, which, number, count in mixed.groupBy("set_name", "side", "bin").count().collect():
        bins[name, which][number] = count
    quota = quotas({s: sum(found.values()) for s, found in bins.items()}, cfg)
    last = {s: _place_of(mixed, s, n, bins[s]) for s, n in quota.items()}
    return sided.mapInArrow(_keep(last), spark_schema(OUTPUT))


def count_sides_on_spark(rows: "DataFrame") -> dict[Side, int]:
    """What `count_sides` says."""
    from pyspark.sql import functions as F

    unknown = F.col("width").isNull() | F.col("height").isNull()
    square, landscape = F.col("width") == F.col("height"), F.col("width") > F.col("height")
    side = F.when(unknown, "unknown").when(square, "square").when(landscape, "landscape").otherwise("portrait")
    return {(r["set_name"], r["side"]): r["count"] for r in rows.groupBy("set_name", side.alias("side")).count().collect()}


def _place_of(mixed: "DataFrame", side: Side, n: int, bins: Mapping[int, int]) -> Place:
    """The place of the n-th clip of a side: only the bin it lies in comes to the driver."""
    numbers = sorted(bins)
    reached = [0]
    for number in numbers:
        reached.append(reached[-1] + bins[number])
    at = bisect.bisect_left(reached, n) - 1
    inside = mixed.where((mixed["set_name"] == side[0]) & (mixed["side"] == side[1]) & (mixed["bin"] == numbers[at]))
    places: list[Place] = sorted((r["draw"], r["clip_id"]) for r in inside.select("draw", "clip_id").collect())
    return places[n - reached[at] - 1]


def _keep(last: Mapping[Side, Place]) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def keep(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _kept_batch(batch, last)

    return keep
