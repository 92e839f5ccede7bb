"""The mix of each set: landscape to portrait, and clips with people, reached by thinning. Table stage, one row out for one row in.

In:   clip_id string, set_name string, width int, height int, optionally has_people float, of the clips that are still alive
Out:  clip_id, mix_keep float (1 kept, 0 dropped, null where the set or the size is unknown)

Movie Gen, Three filter stages: 60 % landscape and 40 % portrait, 80/20 in the high-resolution set, of which at least 60 % show people. The
landscape share is that among landscape and portrait clips; squares are neither. The people share is that among clips where people were
looked for; the others are left alone. A set's clips fall into strata (side, people); each loses the clips with the largest keyed draws
(`ids.uniform(seed, "mix", clip_id)`, ties by clip_id), every stratum of the side or kind there is too much of the same part of its clips,
as few as reach both shares: landscape within one clip a stratum, people at least. Where a side is empty, or nobody was seen, no share can be
met: nothing is dropped for it, and `find_shortages` reports it, as it does when reaching a share costs more than half of a side.
"""

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from curation.draws import draw_column
from manifests import ids

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Stratum = tuple[str, str, str]
"""(set_name, side, people): landscape, portrait or square; and yes, no or unknown, or `any` in a set without a people share."""

Place = tuple[float, str]
"""(draw, clip_id): where a clip stands in the order in which its stratum is kept."""

OUTPUT = pa.schema([("clip_id", pa.string()), ("mix_keep", pa.float32())])
_BINS = 1 << 16  # the driver holds at most this many counts a stratum; a bin of 10^8 clips holds about 1,500
_SIDES = ("landscape", "portrait")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """Seed of the draws, and for each set the wanted shares, between 0 and 1; a set that is not named is left alone."""

    landscape_share: Mapping[str, float]
    people_share: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for what in ("landscape_share", "people_share"):
            for name, share in getattr(self, what).items():
                if not 0 < share < 1:
                    raise ValueError(f"mix of set {name}: {what} is {share}, expected between 0 and 1, or null for no mixing")

    @property
    def sets(self) -> list[str]:
        """The sets that are mixed, by name."""
        return sorted({*self.landscape_share, *self.people_share})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A share that a set wants and could not have, or only by dropping more than half of a side; counts before and after."""

    set_name: str
    what: str  # landscape or people
    wanted_share: float
    found: tuple[tuple[str, int], ...]
    kept: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The shortage in words."""
        wants = f"set {self.set_name} wants {self.wanted_share:.0%} {self.what if self.what == 'landscape' else 'with people'}"
        found, kept = (" and ".join(f"{n} {name}" for name, n in counts) for counts in (self.found, self.kept))
        if self.found == self.kept:
            return f"{wants}; found {found} clips, kept all"
        return f"{wants}; found {found} clips, which leaves {kept}: more of what is rare would keep more"


def label_mix(table: pa.Table, cfg: MixConfig) -> pa.Table:
    """Every clip has its mix_keep, in the order of the rows."""
    strata = _strata(table, cfg)
    places: dict[Stratum, list[Place]] = defaultdict(list)
    clips = [(s, (ids.uniform(cfg.seed, "mix", i), i)) for s, i in zip(strata, table["clip_id"].to_pylist(), strict=True)]
    for stratum, place in clips:
        if stratum is not None:
            places[stratum].append(place)
    last = {s: sorted(places[s])[n - 1] if n else (-1.0, "") for s, n in quotas({s: len(p) for s, p in places.items()}, cfg).items()}
    keep = [_keep(stratum, known, place, last) for (stratum, place), known in zip(clips, _known(table, cfg), strict=True)]
    return pa.table({"clip_id": table["clip_id"], "mix_keep": pa.array(keep, pa.float32())}, schema=OUTPUT)


def count_strata(table: pa.Table, cfg: MixConfig) -> dict[Stratum, int]:
    """How many clips each mixed set has in each stratum; the table is the input of `label_mix`."""
    return dict(Counter(s for s in _strata(table, cfg) if s is not None))


def find_shortages(counts: Mapping[Stratum, int], cfg: MixConfig) -> list[Shortage]:
    """What the sets with clips could not have, in the order of their names."""
    quota = quotas(counts, cfg)
    kept = {s: quota.get(s, n) for s, n in counts.items()}
    out = []
    for name in cfg.sets:
        for what, share, groups, place in (
            ("landscape", cfg.landscape_share.get(name), _SIDES, 1),
            ("people", cfg.people_share.get(name), ("yes", "no", "unknown"), 2),
        ):
            before, after = (_totals(c, name, groups, place) for c in (counts, kept))
            first, second = before[0][1], before[1][1]
            empty = (first == 0) != (second == 0) if what == "landscape" else first == 0 and sum(n for _, n in before) > 0
            costly = any(2 * a[1] < b[1] for a, b in zip(after, before, strict=True))
            if share is not None and (empty or costly):
                out.append(Shortage(set_name=name, what=what, wanted_share=share, found=before, kept=before if empty else after))
    return out


def _totals(counts: Mapping[Stratum, int], name: str, groups: tuple[str, ...], place: int) -> tuple[tuple[str, int], ...]:
    said = {"yes": "with people", "no": "without", "unknown": "not looked at"}
    return tuple((said.get(g, g), sum(n for s, n in counts.items() if s[0] == name and s[place] == g)) for g in groups)


def quotas(counts: Mapping[Stratum, int], cfg: MixConfig) -> dict[Stratum, int]:
    """For each stratum that loses clips how many it keeps."""
    out: dict[Stratum, int] = {}
    for name in cfg.sets:
        own = {s: n for s, n in counts.items() if s[0] == name}
        kept = _thinned(own, cfg.landscape_share.get(name), cfg.people_share.get(name))
        for s, n in own.items():
            # At least one of each side is kept, and people are never fewer than wanted for the sake of a rounding.
            whole = math.floor(kept[s] + 1e-9) if s[2] == "no" else max(1, math.floor(kept[s] + 0.5 + 1e-9))
            if whole < n:
                out[s] = whole
    return out


def _thinned(counts: Mapping[Stratum, int], landscape: float | None, people: float | None) -> dict[Stratum, float]:
    """The largest parts of the strata that have both shares. Each step only lowers parts, so it settles."""
    kept = {s: float(n) for s, n in counts.items()}

    def lower(name: str, place: int, most: float) -> bool:
        total = sum(n for s, n in kept.items() if s[place] == name)
        if total <= most * (1 + 1e-12):
            return False
        for s in kept:
            if s[place] == name:
                kept[s] *= most / total
        return True

    for _ in range(200):
        across, down, yes = (
            sum(n for s, n in kept.items() if s[place] == name) for name, place in (("landscape", 1), ("portrait", 1), ("yes", 2))
        )
        changed = people is not None and yes > 0 and lower("no", 2, yes * (1 - people) / people)
        if landscape is not None and across > 0 and down > 0:
            changed |= lower("landscape", 1, down * landscape / (1 - landscape)) or lower(
                "portrait", 1, across * (1 - landscape) / landscape
            )
        if not changed:
            break
    return kept


def side_of(width: int | None, height: int | None) -> str | None:
    """landscape, portrait or square; null when the size is not known."""
    if width is None or height is None:
        return None
    return "square" if width == height else _SIDES[width < height]


def _strata(table: pa.Table, cfg: MixConfig) -> list[Stratum | None]:
    """The stratum of each row; null where the set is not mixed, or the size unknown."""
    n = table.num_rows
    people = table["has_people"].to_pylist() if "has_people" in table.column_names else [None] * n
    rows = zip(*(table[c].to_pylist() for c in ("set_name", "width", "height")), people, strict=True)
    out: list[Stratum | None] = []
    for name, width, height, seen in rows:
        side = side_of(width, height) if name in cfg.sets else None
        shown = "any" if name not in cfg.people_share else "unknown" if seen is None else "yes" if seen >= 1 else "no"
        out.append(None if side is None else (name, side, shown))
    return out


def _known(table: pa.Table, cfg: MixConfig) -> list[bool]:
    """Which rows have a set, and a size where the set is mixed."""
    rows = zip(*(table[c].to_pylist() for c in ("set_name", "width", "height")), strict=True)
    return [name is not None and (name not in cfg.sets or side_of(width, height) is not None) for name, width, height in rows]


def _keep(stratum: Stratum | None, known: bool, place: Place, last: Mapping[Stratum, Place]) -> float | None:
    if stratum is None:
        return 1.0 if known else None
    return float(stratum not in last or place <= last[stratum])


def label_mix_on_spark(rows: "DataFrame", cfg: MixConfig) -> "DataFrame":
    """The rows of `label_mix` in any order, by Spark alone. Sorts nothing: the last kept clip is found by counting draws in bins, then in one bin."""
    from pyspark.sql import functions as F

    mixed = _with_strata(rows, cfg).withColumn("bin", F.floor(F.col("draw") * _BINS).cast("int"))
    strata = mixed.where(F.col("mixed") & F.col("side").isNotNull())
    bins: dict[Stratum, dict[int, int]] = defaultdict(dict)
    for name, side, people, number, count in strata.groupBy("set_name", "side", "people", "bin").count().collect():
        bins[name, side, people][number] = count
    quota = quotas({s: sum(found.values()) for s, found in bins.items()}, cfg)
    beyond = F.lit(False)
    for s, n in sorted(quota.items()):
        draw, clip_id = _place_of(strata, s, n, bins[s]) if n else (-1.0, "")
        later = (F.col("draw") > draw) | ((F.col("draw") == draw) & (F.col("clip_id") > clip_id))
        beyond = beyond | (_is(s) & later)
    unknown = F.col("set_name").isNull() | (F.col("mixed") & F.col("side").isNull())
    kept = F.when(unknown, F.lit(None)).when(F.coalesce(beyond, F.lit(False)), 0.0).otherwise(1.0)
    return mixed.select("clip_id", kept.cast("float").alias("mix_keep"))


def count_strata_on_spark(rows: "DataFrame", cfg: MixConfig) -> dict[Stratum, int]:
    """What `count_strata` says."""
    found = _with_strata(rows, cfg).where("mixed AND side IS NOT NULL").groupBy("set_name", "side", "people").count().collect()
    return {(r["set_name"], r["side"], r["people"]): r["count"] for r in found}


def _with_strata(rows: "DataFrame", cfg: MixConfig) -> "DataFrame":
    """(clip_id, set_name, side, people, mixed, draw) of every row."""
    from pyspark.sql import functions as F

    width, height = F.col("width"), F.col("height")
    square = F.when(width == height, "square").otherwise(F.when(width > height, "landscape").otherwise("portrait"))
    seen = F.col("has_people") if "has_people" in rows.columns else F.lit(None).cast("float")
    shown = F.when(seen.isNull(), "unknown").when(seen >= 1, "yes").otherwise("no")
    return rows.select(
        "clip_id",
        "set_name",
        F.when(width.isNotNull() & height.isNotNull(), square).alias("side"),
        F.when(F.coalesce(F.col("set_name").isin(list(cfg.people_share)), F.lit(False)), shown).otherwise("any").alias("people"),
        F.coalesce(F.col("set_name").isin(cfg.sets), F.lit(False)).alias("mixed"),
        draw_column(cfg.seed, "mix").alias("draw"),
    )


def _is(s: Stratum) -> "Column":
    from pyspark.sql import functions as F

    return (F.col("set_name") == s[0]) & (F.col("side") == s[1]) & (F.col("people") == s[2])


def _place_of(strata: "DataFrame", s: Stratum, n: int, bins: Mapping[int, int]) -> Place:
    """The place of the n-th clip of a stratum: only the bin it lies in comes to the driver."""
    numbers = sorted(bins)
    reached = [0]
    for number in numbers:
        reached.append(reached[-1] + bins[number])
    at = bisect.bisect_left(reached, n) - 1
    inside = strata.where(_is(s) & (strata["bin"] == numbers[at]))
    places: list[Place] = sorted((r["draw"], r["clip_id"]) for r in inside.select("draw", "clip_id").collect())
    return places[n - reached[at] - 1]
