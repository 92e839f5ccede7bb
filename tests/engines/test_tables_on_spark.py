"""Every table stage gives the same rows in plain Python and on Spark, whatever the order and partitions of the rows."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import near_hashes
from curation.buckets import assign_sets, assign_sets_on_spark
from curation.cells import CellsConfig
from curation.concepts import ConceptsConfig, label_concepts, label_concepts_on_spark
from curation.duplicates import DuplicatesConfig, label_duplicates, label_duplicates_on_spark
from curation.known_pairs import label_known, open_pairs
from curation.mix import MixConfig, count_strata, count_strata_on_spark, label_mix, label_mix_on_spark
from curation.sets import DurationRow, Need, SetConfig
from pipelines.on_spark import JavaError, SparkConfig, find_java, java_version, run_table, run_tables, session

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = session(2, SparkConfig(work_dir=str(tmp_path_factory.mktemp("work of spark")), driver_memory="1g", brief=True))
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few as they are here, hashes are looked for in blocks, as those of a large collection."""
    monkeypatch.setattr(near_hashes, "FEW_HASHES", 0)


def same_rows(spark: Any, work: Path, table: pa.Table, plain: pa.Table, transform: Callable[[Any], Any]) -> None:
    """Fails unless Spark gives the plain rows for the table in one partition, and for its rows shuffled over five."""
    shuffled = table.take(pa.array(np.random.Generator(np.random.Philox(key=1)).permutation(len(table))))
    for partitions, source in ((1, table), (5, shuffled)):
        found = run_table(spark, partial(over, partitions, transform), source, work / str(partitions))
        assert found.sort_by("clip_id").to_pylist() == plain.sort_by("clip_id").to_pylist()


def over(partitions: int, transform: Callable[[Any], Any], rows: Any) -> Any:
    return transform(rows.repartition(partitions))


def pictures(seed: int, n: int, with_frames: bool) -> pa.Table:
    """n clips of 0 to 4 frames, each frame 0 to 34 bits from one of n originals, and some exact copies."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    originals = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        bits = np.unpackbits(originals[rng.integers(0, len(originals), rng.integers(0, 5))], axis=1)
        for row in bits:
            row[rng.choice(256, rng.integers(0, 35), replace=False)] ^= 1
        pdq = [h.tobytes() for h in np.packbits(bits, axis=1)]
        if i % 7 == 0 and rows:
            pdq = rows[rng.integers(0, len(rows))]["pdq"]
        row = {"clip_id": f"{rng.integers(0, 2**60):015x}", "kind": ("video", "image")[i % 2], "pdq": pdq}
        if i % 3 == 0 and with_frames:
            row["pdq_own"] = [bool(k % 2) for k in range(len(pdq))]
        row |= {"quality": None if i % 11 == 0 else float(rng.integers(0, 3)), "n_pixels": int(rng.integers(1, 3))}
        rows.append(row | ({"pdq_frame": [k // 2 for k in range(len(pdq))]} if with_frames else {}))
    types = [
        ("clip_id", pa.string()),
        ("kind", pa.string()),
        ("pdq", pa.list_(pa.binary())),
        ("quality", pa.float64()),
        ("n_pixels", pa.int64()),
    ]
    extra = [("pdq_frame", pa.list_(pa.int32())), ("pdq_own", pa.list_(pa.bool_()))]
    return pa.Table.from_pylist(rows, schema=pa.schema(types + (extra if with_frames else [])))


@pytest.mark.parametrize("with_frames", [False, True])
def test_duplicates_agree(spark: Any, tmp_path: Path, with_frames: bool) -> None:
    """Blocks and stars on Spark find the groups, ranks and distances that all pairs find."""
    table, cfg = pictures(3, 240, with_frames), DuplicatesConfig()
    plain = label_duplicates(table, cfg)
    assert len(set(plain["dup_group"].to_pylist())) > 5
    same_rows(spark, tmp_path, table, plain, lambda df: label_duplicates_on_spark(df, cfg))


def test_few_hashes_agree(spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few hashes, all compared in one block, give the groups, ranks and distances that all pairs find."""
    monkeypatch.setattr(near_hashes, "FEW_HASHES", 10_000)
    monkeypatch.setattr(near_hashes, "block_batches", None)  # not this way
    table, cfg = pictures(3, 240, True), DuplicatesConfig()
    plain = label_duplicates(table, cfg)
    assert len(set(plain["dup_group"].to_pylist())) > 5
    assert sum(map(len, filter(None, table["pdq"].to_pylist()))) <= near_hashes.FEW_HASHES
    same_rows(spark, tmp_path, table, plain, lambda df: label_duplicates_on_spark(df, cfg))


def described(seed: int, n: int) -> pa.Table:
    """n clips with vectors of 12 values, some null, some zero, a third near another, and hashes on some."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    x = rng.normal(size=(n, 12))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    push = rng.normal(size=x.shape)
    near = x[rng.integers(0, n, n)] + push / np.linalg.norm(push, axis=1, keepdims=True) * rng.uniform(0, 0.16, (n, 1))
    chosen = rng.random(n) < 0.35
    x[chosen] = near[chosen]
    x[::40] = 0
    table = pictures(seed, n, False)
    return table.append_column("vector", pa.array([None if i % 17 == 3 else v.tolist() for i, v in enumerate(x)], pa.list_(pa.float32())))


@pytest.mark.parametrize("columns", [("vector",), ("vector", "pdq")])
def test_vectors_agree(spark: Any, tmp_path: Path, columns: tuple[str, ...]) -> None:
    """Cells on Spark find the groups that all pairs of vectors find, alone and together with hashes: one cell, or many with full reach."""
    table = described(6, 300).select(["clip_id", "kind", "quality", "n_pixels", *columns])
    cfg = DuplicatesConfig(cells=CellsConfig(rows_per_cell=30, reach=1.0, max_visits=1000))
    plain = label_duplicates(table, cfg)
    assert sum(s is not None and s < 0.9999 for s in plain["dup_similarity"].to_pylist()) > 10
    same_rows(spark, tmp_path, table, plain, lambda df: label_duplicates_on_spark(df, cfg))


def compared(spark: Any, work: Path, table: pa.Table, cfg: DuplicatesConfig, key: str = "k") -> tuple[list[dict[str, Any]], int]:
    """What a folder that keeps pairs says of the table, and how many of its clips were looked up in it."""
    pairs = open_pairs(work / "pairs", key, table)
    given = table.append_column("fresh", pa.array(pairs.fresh))
    found = run_table(spark, partial(label_known, cfg=cfg, pairs=pairs), given, work / "run")
    return found.sort_by("clip_id").to_pylist(), pairs.n_fresh


@pytest.mark.parametrize("columns", [("pdq", "pdq_frame", "pdq_own"), ("pdq", "vector")])
def test_a_collection_that_grew_is_grouped_as_if_anew(spark: Any, tmp_path: Path, columns: tuple[str, ...]) -> None:
    """Batch after batch only new clips are looked for, and groups, keepers, ranks and distances are those of comparing everything anew."""
    table = described(8, 360) if "vector" in columns else pictures(8, 360, True)
    table = table.select(["clip_id", "kind", "quality", "n_pixels", *columns])
    table = table.take(pa.array(np.random.Generator(np.random.Philox(key=2)).permutation(len(table))))
    cfg = DuplicatesConfig(cells=CellsConfig(rows_per_cell=30, reach=1.0, max_visits=1000))
    before: set[str] = set()
    for end, fresh in ((150, 150), (260, 110), (360, 100)):
        anew = label_duplicates(table.slice(0, end), cfg).sort_by("clip_id").to_pylist()
        assert compared(spark, tmp_path, table.slice(0, end), cfg) == (anew, fresh)
        joined = {r["clip_id"] for r in anew if r["dup_group"] is not None}
        assert len(joined - before) > 10
        before = joined
    assert len(list((tmp_path / "pairs").iterdir())) == 2  # the state, and what it names


def test_pairs_are_looked_for_anew_when_they_may_not_hold(spark: Any, tmp_path: Path) -> None:
    """The same clips again are looked up by none; without one of them, with other hashes of one, or under another key all are. The groups are
    those of comparing everything anew."""
    table, cfg = pictures(4, 60, False), DuplicatesConfig()
    for rows, fresh in ((table, 60), (table, 0), (table.slice(1), 59)):
        assert compared(spark, tmp_path, rows, cfg) == (label_duplicates(rows, cfg).sort_by("clip_id").to_pylist(), fresh)
    other = table.set_column(2, "pdq", pa.array([*table["pdq"].to_pylist()[:-1], [bytes(32)]], pa.list_(pa.binary())))
    asked = ((table, "k"), (other, "k"), (table.slice(1), "l"))
    assert [open_pairs(tmp_path / "pairs", key, rows).n_fresh for rows, key in asked] == [1, 60, 59]


def test_full_cells_are_made_anew(tmp_path: Path) -> None:
    """Five times the clips that cells were trained on are all compared anew; four times are not."""
    table = described(5, 50).select(["clip_id", "kind", "quality", "n_pixels", "vector"])
    few = table.filter(pa.array(np.arange(50) % 17 != 3))
    pairs = open_pairs(tmp_path, "k", few.slice(0, 9))
    (tmp_path / pairs.name).mkdir()
    pq.write_table(pairs.clips, tmp_path / pairs.name / "clips.parquet")
    (tmp_path / "state.json").write_text(json.dumps({"key": "k", "name": pairs.name, "n_trained": pairs.n_trained}))
    assert [open_pairs(tmp_path, "k", few.slice(0, n)).n_fresh for n in (9, 36, 45)] == [0, 27, 45]


def test_a_long_chain_is_one_group(spark: Any, tmp_path: Path) -> None:
    """A chain of 60 pictures, each 20 bits from the next, is one group although its ends have nothing in common."""
    bits = np.zeros(256, np.uint8)
    rng = np.random.Generator(np.random.Philox(key=5))
    rows = []
    for i in range(60):
        bits = bits.copy()
        bits[rng.choice(256, 20, replace=False)] ^= 1
        rows.append(
            {"clip_id": f"{(i * 37) % 60:03}", "kind": "image", "quality": 1.0, "n_pixels": 1, "pdq": [np.packbits(bits).tobytes()]}
        )
    table, cfg = pa.Table.from_pylist(rows), DuplicatesConfig(max_distance=20)
    plain = label_duplicates(table, cfg)
    assert set(plain["dup_group"].to_pylist()) == {"000"}
    assert max(plain["dup_distance"].to_pylist()) > 60
    assert label_duplicates_rows(spark, tmp_path, table, cfg) == plain.sort_by("clip_id").to_pylist()


def test_nothing_in_common(spark: Any, tmp_path: Path) -> None:
    """Clips without hashes, and no clips at all, come out alone and without an error."""
    table = pictures(4, 12, False)
    empty = table.set_column(2, "pdq", pa.array([[]] * 12, pa.list_(pa.binary())))
    for case in (empty, table.slice(0, 0)):
        found = label_duplicates_rows(spark, tmp_path, case, DuplicatesConfig())
        assert [(r["dup_group"], r["dup_rank"], r["dup_distance"]) for r in found] == [(None, 0, None)] * len(case)


def label_duplicates_rows(spark: Any, tmp_path: Path, table: pa.Table, cfg: DuplicatesConfig) -> list[dict[str, Any]]:
    found = run_table(spark, lambda df: label_duplicates_on_spark(df, cfg), table, tmp_path / "rows")
    rows: list[dict[str, Any]] = found.sort_by("clip_id").to_pylist()
    return rows


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_sample": 100},
        {"levels": 2, "clusters": 30},
        {"method": "cap", "max_per_cluster": 20},
        {"method": "semdedup", "max_cosine": 0.9},
    ],
)
def test_concepts_agree(spark: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Clusters, paths, probabilities, draws and margins are bit-equal by every method, also when centroids are trained on a sample."""
    rng = np.random.Generator(np.random.Philox(key=7))
    centres = rng.normal(size=(9, 24))
    x = (centres[rng.integers(0, 9, 400) * rng.integers(0, 2, 400)] + 0.3 * rng.normal(size=(400, 24))).astype(np.float32)
    vectors = [None if i % 50 == 3 else v.tolist() for i, v in enumerate(x)]
    flags = [None if i % 3 else i % 9 == 0 for i in range(400)]
    table = pa.table({"clip_id": [f"{i:04}" for i in range(400)], "vector": pa.array(vectors, pa.list_(pa.float32())), "exempt": flags})
    cfg = ConceptsConfig(**{"seed": 11, "max_clusters": 32, **settings})
    plain = label_concepts(table, cfg)
    assert plain["cluster_no"].null_count == 8
    assert len(set(plain["keep_probability"].to_pylist())) > 2
    same_rows(spark, tmp_path, table, plain, lambda df: label_concepts_on_spark(df, cfg))


def test_mix_agrees(spark: Any, tmp_path: Path) -> None:
    """The same clips are dropped, and the same sides counted, with and without a wanted share, size or set."""
    rng = np.random.Generator(np.random.Philox(key=9))
    sizes = [(1280, 720), (720, 1280), (720, 720), (None, 720)]
    names = ["low_res", "high_res", "image", None]
    rows = [(f"{i:04}", names[rng.integers(0, 4)], *sizes[min(3, int(rng.exponential(0.8)))]) for i in range(500)]
    table = pa.table(dict(zip(("clip_id", "set_name", "width", "height"), map(list, zip(*rows, strict=True)), strict=True)))
    table = table.append_column("has_people", pa.array([(1.0, 0.0, 0.0, None)[i] for i in rng.integers(0, 4, 500)], pa.float32()))
    shares = {"low_res": 0.6, "high_res": 0.2, "absent": 0.5}
    cfg = MixConfig(landscape_share=shares, people_share={"high_res": 0.6, "image": 0.5}, seed=2)
    plain = label_mix(table, cfg)
    assert set(plain["mix_keep"].to_pylist()) == {0.0, 1.0, None}
    same_rows(spark, tmp_path, table, plain, lambda df: label_mix_on_spark(df, cfg))
    source = tmp_path / "5" / "in.parquet"
    assert count_strata_on_spark(spark.read.parquet(str(source)), cfg) == count_strata(table, cfg)


def test_sets_agree(spark: Any, tmp_path: Path) -> None:
    """Set, bucket and reason are equal for clips of every kind, size and length."""
    rng = np.random.Generator(np.random.Philox(key=13))
    n = 300
    kinds = np.array(["video", "image", "audio"])[rng.integers(0, 3, n)].tolist()
    start = rng.integers(0, 10**7, n)
    table = pa.table(
        {
            "clip_id": [f"{i:04}" for i in range(n)],
            "kind": kinds,
            "width": pa.array(
                [None if k == "audio" else int(w) for k, w in zip(kinds, rng.integers(100, 2000, n), strict=True)], pa.int32()
            ),
            "height": pa.array(
                [None if k == "audio" else int(h) for k, h in zip(kinds, rng.integers(100, 2000, n), strict=True)], pa.int32()
            ),
            "start_us": start,
            "end_us": start + rng.integers(1, 20 * 10**6, n),
        }
    )
    video = (DurationRow(min_s=4, max_s=16, n_frames=32, min_fps=2, max_fps=8),)
    table = table.append_column("motion", pa.array([None if m > 9 else m for m in rng.uniform(0, 10, n)], pa.float32()))
    needs = (Need(measure="motion", op=">", threshold=2, unmeasured="accept"), Need(measure="motion", op="<", threshold=8))
    sets = (
        SetConfig(name="small", kind="video", min_side_px=240, short_side_px=144, durations=video),
        SetConfig(name="large", kind="video", min_side_px=720, area_side_px=768, durations=video, needs=needs),
        SetConfig(name="image", kind="image", area_side_px=256),
        SetConfig(name="audio", kind="audio", durations=(DurationRow(min_s=4),)),
    )
    plain = assign_sets(table, sets)
    assert set(plain["set_name"].to_pylist()) == {"small", "large", "image", "audio", None}
    same_rows(spark, tmp_path, table, plain, lambda df: assign_sets_on_spark(df, sets))


def test_errors_reach_the_caller(spark: Any, tmp_path: Path) -> None:
    """A hash of the wrong length fails on Spark too, with the clip named."""
    table = pa.table({"clip_id": ["bad"], "kind": ["image"], "quality": [1.0], "n_pixels": [1], "pdq": [[b"short"]]})
    with pytest.raises(Exception, match=r"clip bad: duplicates: a PDQ hash of 32 bytes expected, found 5 bytes"):
        label_duplicates_rows(spark, tmp_path, table, DuplicatesConfig())


def test_jobs_run_by_name(spark: Any, tmp_path: Path) -> None:
    """`run_tables` gives each job's result under its name and reads Parquet files as well as tables."""
    table = pa.table({"clip_id": ["a"], "set_name": ["s"], "width": [2], "height": [1]})
    cfg = MixConfig(landscape_share={})
    first = run_tables(spark, {"mix": (lambda df: label_mix_on_spark(df, cfg), table)}, tmp_path)
    again = run_tables(spark, {"more": (lambda df: label_mix_on_spark(df, cfg), [tmp_path / "mix" / "in.parquet"])}, tmp_path)
    assert first["mix"].to_pylist() == again["more"].to_pylist() == [{"clip_id": "a", "mix_keep": 1.0}]


def fake_java(folder: Path, said: str) -> Path:
    """A program that states a Java version as Java does, on the error stream."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    java.chmod(0o755)
    return java


def test_an_old_java_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java before 17 is passed over for a newer one on PATH; where there is none, the error names what was found and what to do."""
    old = fake_java(tmp_path / "old", 'openjdk version "1.8.0_412"')
    new = fake_java(tmp_path / "new", 'openjdk version "21.0.2" 2024-01-16')
    assert (java_version(old), java_version(new), java_version(tmp_path / "absent")) == (8, 21, None)
    monkeypatch.setattr("pipelines.on_spark._PROJECT", tmp_path)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", str(new.parent))
    assert find_java() == new
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JavaError, match=r"Java 17 or later expected, found .*old/bin/java \(version 8\): install one"):
        find_java()
