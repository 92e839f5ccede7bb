"""Duplicates, concepts, sets and mix on Spark at a million clips and more: cost a clip, memory, planted duplicates found, shares reached.

    python benchmarks/content.py [--clips 1000000,10000000] [--recall 100000] [--cores 2] [--heap 3g] [--work FOLDER]

Synthetic clips with 64-d vectors: 200 concepts by Zipf's law around random directions (cosine within a concept about 0.74), and planted
groups of two or three copies, 6 % of all, whose vectors are up to 0.14 apart (cosine 0.9902 and more). Each part of the input is made and
written on its own, copies in another part than their originals; nothing a clip long is ever held by this process but the parts themselves.

CPU is that of this process, the JVM and its Python workers together, which a busy machine changes less than the clock; memory is their
proportional set size (PSS), looked at twice a second. Recall is against all pairs compared. Settings were tuned at 100 k and 1 M clips of
this kind, so they say nothing about descriptors of another geometry.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.figures import Figure, as_table
from curation import near_vectors
from curation.buckets import assign_sets_on_spark
from curation.cells import CellsConfig, spread, to_short, train_cells
from curation.concepts import ConceptsConfig, label_concepts_on_spark
from curation.duplicates import DuplicatesConfig, label_duplicates_on_spark
from curation.mix import MixConfig, label_mix_on_spark
from curation.sets import DurationRow, Need, SetConfig
from pipelines.on_spark import SparkConfig, session, write_table

D, CONCEPTS, NOISE, APART = 64, 200, 0.075, 0.07
PART_ROWS = 250_000
SIZES = np.array([(1920, 1080), (1280, 720), (1080, 1920), (3840, 2160), (720, 1280), (1440, 1440), (1024, 576)], np.int32)
SIZE_SHARES = (0.4, 0.2, 0.13, 0.1, 0.07, 0.05, 0.05)
LARGE = 10_000
"""Clips from which on a concept is looked at alone: its square root is known to half a per cent."""
MERGE = 0.82  # leaves of one concept here agree by about 0.85 and more, two concepts by 0.5 at most
SCORES = {
    "aesthetic": (5, 0.7),
    "text_score": (0.2, 0.15),
    "border_share": (0, 0.01),
    "motion": (6, 2),
    "motion_vector_px": (3, 1),
    "shots_per_s": (0.2, 0.2),
}
"""Mean and deviation of the measures that the sets look at."""
CONF = Path(__file__).resolve().parent.parent / "conf" / "sets"


def rng_of(*key: int) -> np.random.Generator:
    """A generator for a purpose: parts can be made in any order."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def concept_vectors(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n unit vectors around the concepts' directions, and their concepts."""
    centres = unit(rng_of(1).normal(size=(CONCEPTS, D)))
    shares = 1 / np.arange(1, CONCEPTS + 1)
    concept = rng.choice(CONCEPTS, n, p=shares / shares.sum())
    return unit(centres[concept] + NOISE * rng.normal(size=(n, D))), concept


def planted(block: int, member: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A member of each of the groups of a block: vectors, concepts, group numbers. Every third group has three members, the others two."""
    n = rows // 40
    base, concept = concept_vectors(n, rng_of(2, block))
    push = rng_of(3, block, member)
    moved = unit(base + unit(push.normal(size=base.shape)) * push.uniform(0, APART, (n, 1)))
    chosen = slice(None, None, 3) if member == 2 else slice(None)
    return moved[chosen], concept[chosen], (block * PART_ROWS + np.arange(n))[chosen]


def write_part(folder: Path, part: int, n_parts: int, rows: int) -> None:
    """One Parquet part of clips with their truth."""
    rng = rng_of(4, part)
    copies = [planted((part + member) % n_parts, member, rows) for member in range(3)]
    vectors, concept = concept_vectors(rows - sum(len(c[0]) for c in copies), rng)
    group = np.concatenate([np.full(len(vectors), -1), *(c[2] for c in copies)])
    concept = np.concatenate([concept, *(c[1] for c in copies)])
    flat = np.concatenate([vectors, *(c[0] for c in copies)])
    order = rng.permutation(rows)
    digits = rng.bytes(16 * rows).hex()
    size = SIZES[rng.choice(len(SIZES), rows, p=SIZE_SHARES)]
    start = rng.integers(0, 60_000_000, rows)
    seen = rng.random(rows)
    table = {
        "clip_id": [digits[i * 32 : i * 32 + 32] for i in range(rows)],
        "kind": pa.array(["video"]).take(pa.array(np.zeros(rows, np.int32))),
        "vector": pa.ListArray.from_arrays(np.arange(0, rows * D + 1, D, dtype=np.int32), flat[order].astype(np.float32).ravel()),
        "quality": rng.random(rows),
        "n_pixels": (size[:, 0] * size[:, 1]).astype(np.int64),
        "width": size[:, 0],
        "height": size[:, 1],
        "start_us": start,
        "end_us": start + rng.integers(4_000_000, 20_000_000, rows),
        "has_people": pa.array((seen < 0.5).astype(np.float32), mask=seen > 0.9),
        **{name: rng.normal(mean, spread, rows).astype(np.float32) for name, (mean, spread) in SCORES.items()},
        "true_group": group[order],
        "true_concept": concept[order].astype(np.int32),
    }
    pq.write_table(pa.table(table), folder / f"part-{part:05d}.parquet", compression="zstd", row_group_size=65_536)


@dataclass(slots=True)
class Watch:
    """CPU and memory of this process and all below it. Workers come and go: each one's CPU is kept as it was last seen."""

    peak_gb: float = 0.0
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    ticks: dict[tuple[int, str], int] = field(default_factory=dict)

    def look(self) -> float:
        """CPU seconds of all processes seen so far."""
        for pid in tree():
            if fields := stat_of(pid):
                self.ticks[pid, fields[19]] = int(fields[11]) + int(fields[12])
        return sum(list(self.ticks.values())) / os.sysconf("SC_CLK_TCK")

    def run(self, stop: threading.Event) -> None:
        """Looks twice a second until told to stop."""
        while not stop.wait(0.5):
            self.look()
            self.peak_gb = max(self.peak_gb, sum(map(pss_bytes, tree())) / 2**30)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what the block costs: (wall, CPU) seconds."""
        wall, cpu = time.monotonic(), self.look()
        yield
        self.stages[name] = (time.monotonic() - wall, self.look() - cpu)
        print(f"  {name}: {self.stages[name][0]:.0f} s, {self.stages[name][1]:.0f} CPU s, peak {self.peak_gb:.1f} GB", flush=True)


def tree() -> list[int]:
    """This process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_of(int(entry))):
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found = [os.getpid()]
    for pid in found:
        found += parents.get(pid, [])
    return found


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name; none when the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def pss_bytes(pid: int) -> int:
    """Memory of a process, shared pages by share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def load_set(name: str) -> SetConfig:
    """A set of conf/sets."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    rows = tuple(DurationRow(**row) for row in values.pop("durations", ()))
    needs = tuple(Need(**need) for need in values.pop("needs", ()))
    return SetConfig(**values, durations=rows, needs=needs)


def run_stages(spark: Any, clips: Path, n: int, work: Path, watch: Watch) -> dict[str, Path]:
    """The folders with the output of every stage."""
    sets = tuple(load_set(n) for n in ("low_res", "high_res"))
    shares = {s.name: s.landscape_share for s in sets if s.landscape_share}
    mixed = MixConfig(landscape_share=shares, people_share={s.name: s.people_share for s in sets if s.people_share})
    out: dict[str, Path] = {}
    with watch.stage("duplicates"):
        narrow = lambda df: df.select("clip_id", "kind", "quality", "n_pixels", "vector")  # noqa: E731
        out["duplicates"] = write_table(
            spark, lambda df: label_duplicates_on_spark(narrow(df), DuplicatesConfig()), clips, work / "duplicates"
        )
    with watch.stage("concepts"):
        copies = spark.read.parquet(str(out["duplicates"])).where("dup_rank > 0").select("clip_id").hint("shuffle_hash")
        config = ConceptsConfig(merge_cosine=MERGE, smallest=max(1, n // 10_000))
        label = lambda df: label_concepts_on_spark(df.select("clip_id", "vector").join(copies, "clip_id", "left_anti"), config)  # noqa: E731
        out["concepts"] = write_table(spark, label, clips, work / "concepts")
    with watch.stage("sets"):
        kept = spark.read.parquet(str(out["concepts"])).where("concept_margin > 0").select("clip_id").hint("shuffle_hash")
        place = lambda df: assign_sets_on_spark(df.join(kept, "clip_id", "left_semi"), sets)  # noqa: E731
        out["sets"] = write_table(spark, place, clips, work / "sets")
    with watch.stage("mix"):
        placed = spark.read.parquet(str(out["sets"])).select("clip_id", "set_name")
        columns = ("clip_id", "width", "height", "has_people")
        thin = lambda df: label_mix_on_spark(placed.join(df.select(*columns), "clip_id"), mixed)  # noqa: E731
        out["mix"] = write_table(spark, thin, clips, work / "mix")
    return out


def check(clips: Path, out: dict[str, Path], n: int, work: Path) -> list[Figure]:
    """What was found of what was planted, and the shares that were reached."""
    db = duckdb.connect(config={"memory_limit": "3GB", "threads": 2, "temp_directory": str(work / "duckdb")})
    for name, folder in {"clips": clips, **out}.items():
        db.read_parquet(f"{folder}/*.parquet").create_view(name)
    on = f"{n:,} clips"
    db.sql("""select true_group, count(*) n, count(distinct dup_group) g, count(dup_group) k, sum((dup_rank = 0)::int) keepers
        from clips join duplicates using (clip_id) where true_group >= 0 group by 1""").create_view("planted_groups")
    total, whole = one(db, "select count(*), sum((g = 1 and k = n and keepers = 1)::int) from planted_groups")
    wrong = one(db, "select count(*) from duplicates join clips using (clip_id) where true_group < 0 and dup_group is not null")[0]
    rows = db.execute(
        "select cluster_no, count(*), sum((concept_margin > 0)::int), max(keep_probability) from concepts group by 1"
    ).fetchall()
    truth = db.execute("""select true_concept, count(*), sum((concept_margin > 0)::int), sum(keep_probability), sum(keep_probability * (1 -
        keep_probability)) from concepts join clips using (clip_id) group by 1""").fetchall()
    mixes = db.execute("""select set_name, avg((width > height)::int) filter (width <> height), avg(has_people) from mix join sets using (clip_id)
        join clips using (clip_id) where mix_keep = 1 group by 1 order by 1""").fetchall()
    print(
        f"  mixes (set, landscape, people): {mixes}; {len(rows)} clusters; kept {sum(r[2] for r in rows):,} of {sum(r[1] for r in rows):,}"
    )
    return [
        Figure(subject="content", what="planted groups found whole, one keeper each", value=whole / total, target=1, on=f"{total:,} in {on}"),
        Figure(subject="content", what="other clips put in a group", value=wrong, target=0, on=on, at_least=False),
        Figure(subject="content", what="distance of the kept from 1/sqrt(size), clusters found", value=away(rows), target=0.02, on=on, at_least=False),
        Figure(subject="content", what="the same, planted concepts", value=away(truth), target=0.02, on=on, at_least=False),
        Figure(subject="content", what="worst planted concept of over 10,000 clips, by the probabilities given", value=worst(truth), target=0.02, on=on, at_least=False),
        Figure(subject="content", what="the same as drawn, in standard errors of the draw", value=drawn(truth), target=4, on=on, at_least=False),
    ]  # fmt: skip


def one(db: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The only row of a query."""
    found = db.execute(sql).fetchone()
    assert found is not None
    return found


def shares_of(rows: list[tuple[Any, ...]], of: int) -> tuple[np.ndarray, np.ndarray]:
    """The shares of the concepts by column `of`, kept clips or their probabilities, and those that 1/sqrt(size) asks for."""
    size, kept = (np.array([r[i] for r in rows], float) for i in (1, of))
    return kept / kept.sum(), np.sqrt(size) / np.sqrt(size).sum()


def away(rows: list[tuple[Any, ...]]) -> float:
    """Total variation of what was kept: half the sum of the differences of the shares."""
    got, wanted = shares_of(rows, 2)
    return float(np.abs(got - wanted).sum() / 2)


def worst(rows: list[tuple[Any, ...]]) -> float:
    """The largest relative difference of a share in expectation: what drawing adds is chance, and `drawn` says how much."""
    got, wanted = shares_of(large := [r for r in rows if r[1] > LARGE], 3)
    return float(np.abs(got / wanted - 1).max()) if large else 0.0


def drawn(rows: list[tuple[Any, ...]]) -> float:
    """The largest difference of kept clips from their expectation, in standard deviations of independent draws. Of 200 concepts about 2.8."""
    return max((abs(r[2] - r[3]) / r[4] ** 0.5 for r in rows if r[1] > LARGE and r[4] > 0), default=0.0)


def recall(n: int) -> list[Figure]:
    """Pairs that cells find of those that comparing all pairs finds."""
    x, _ = concept_vectors(n - n // 20, rng_of(5))
    rng = rng_of(6)
    source = rng.choice(len(x), n // 20, replace=False)
    # Pairs on both sides of the threshold, most of them hard: 0.10 to 0.15 apart, where 0.1414 is the limit.
    copies = unit(x[source] + unit(rng.normal(size=(len(source), D))) * rng.uniform(0.1, 0.15, (len(source), 1)))
    short, cfg = to_short(np.concatenate([x, copies])), CellsConfig()
    wanted = {(a, b) for i, j in near_vectors.near_pairs(short, short, 0.99) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b}
    cells = train_cells(short[rng.permutation(n)[: cfg.n_sample(n)]], n, cfg)
    row, cell, own = spread(short, cells, near_vectors.delta_of(0.99), cfg)
    order = np.argsort(cell, kind="stable")
    row, own, ends = row[order], own[order], np.searchsorted(cell[order], np.arange(len(cells.cells) + 1))
    found = set()
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        home, guests = row[first:last][own[first:last]], row[first:last][~own[first:last]]
        for others in (home, guests):
            for i, j in near_vectors.near_pairs(short[home], short[others], 0.99):
                found |= {(min(a, b), max(a, b)) for a, b in zip(home[i].tolist(), others[j].tolist(), strict=True) if a != b}
    return [
        Figure(subject="content", what="pairs found of all pairs, cosine >= 0.99", value=len(found & wanted) / len(wanted), target=0.98,
               on=f"{len(wanted):,} pairs in {n:,} clips"),
    ]  # fmt: skip


def measure(n: int, args: argparse.Namespace, work: Path) -> tuple[list[Figure], float]:
    """The figures at n clips, and the CPU seconds a clip."""
    print(f"{n:,} clips", flush=True)
    clips = work / "clips"
    clips.mkdir(parents=True)
    rows = min(PART_ROWS, n // 4)
    for part in range(n // rows):
        write_part(clips, part, n // rows, rows)
    watch, stop = Watch(), threading.Event()
    looking = threading.Thread(target=partial(watch.run, stop), daemon=True)
    looking.start()
    partitions = max(4, 2 * -(-n // PART_ROWS))
    settings = (("spark.sql.shuffle.partitions", str(partitions)), ("spark.sql.adaptive.coalescePartitions.parallelismFirst", "false"))
    spark = session(args.cores, SparkConfig(work_dir=str(work / "spark"), driver_memory=args.heap, settings=settings))
    try:
        out = run_stages(spark, clips, n, work, watch)
    finally:
        spark.stop()
        stop.set()
        looking.join()
    wall, cpu = (sum(s[i] for s in watch.stages.values()) for i in (0, 1))
    print(f"  all: {wall / n * 1e6:.0f} us wall and {cpu / n * 1e6:.0f} us CPU a clip, peak {watch.peak_gb:.1f} GB", flush=True)
    memory = Figure(subject="content", what="peak memory, GB", value=watch.peak_gb, target=12, on=f"{n:,} clips", at_least=False)
    return [memory, *check(clips, out, n, work)], cpu / n


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", default="1000000,10000000")
    parser.add_argument("--recall", type=int, default=100_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--heap", default="3g")
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    figures, costs = recall(args.recall) if args.recall else [], {}
    for n in map(int, args.clips.split(",")):
        work = Path(tempfile.mkdtemp(prefix="content-", dir=args.work))
        try:
            found, costs[n] = measure(n, args, work)
            figures += found
            print(as_table(found), flush=True)  # a larger size may take hours: what is known is said at once
        finally:
            shutil.rmtree(work, ignore_errors=True)
    small, large = min(costs), max(costs)
    if large > small:
        said = f"CPU a clip, over that at {small:,}"
        figures.append(
            Figure(subject="content", what=said, value=costs[large] / costs[small], target=1.2, on=f"{large:,} clips", at_least=False)
        )
    print(as_table(figures))


if __name__ == "__main__":
    main()
