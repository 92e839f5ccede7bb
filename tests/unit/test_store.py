"""The manifest on disk: concurrent writers, kills, encodings, purging."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import parquet, purge
from manifests.events import Block, Decision, Exposure
from manifests.files import temporary_name
from manifests.schema import arrow_schema, to_table
from manifests.tables import ManifestConflict, ManifestError, ManifestStore


def _decision(rule: int) -> pa.Table:
    return to_table(Decision, [Decision(run_no=0, rule_no=rule, asset_no=0, passed=None, reason_code="not_run")])


def _block(*values: str) -> pa.Table:
    return to_table(Block, [Block(kind="sha256", value=v) for v in values])


def test_a_run_worked_out_from_an_old_version_is_refused(tmp_path: Path) -> None:
    """With `parent`, a commit that another run overtook changes nothing and says so."""
    store = ManifestStore(tmp_path)
    store.commit("a", replace={"blocklist": _block("a")})
    store.commit("b", replace={"blocklist": _block("b")}, parent=0)
    with pytest.raises(ManifestConflict, match="expected blocklist as of version 0, found version 1"):
        store.commit("c", replace={"blocklist": _block("c")}, parent=0)
    assert store.read("blocklist").column("value").to_pylist() == ["b"]
    assert store.commit("b", replace={"blocklist": _block("b")}, parent=0) == 1
    assert store.commit("d", append={"decisions": _decision(0)}, parent=0) == 2  # nobody touched that table


def test_nan_is_refused(tmp_path: Path) -> None:
    """A score that is NaN never enters the manifest: what was not measured is null."""
    rows = [Decision(run_no=0, rule_no=0, asset_no=0, passed=True, reason_code="pass", score=float("nan"))]
    store = ManifestStore(tmp_path)
    with pytest.raises(ManifestError, match=r"decisions\.score: expected a number or null, found NaN"):
        store.commit("a", append={"decisions": to_table(Decision, rows)})
    assert store.version() == -1


def test_rows_are_streamed_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's rows are written group by group, never held as a whole, in files of a bounded number of rows with true statistics."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(parquet, "FILE_ROWS", 300)
    schema = arrow_schema(Decision)
    asked = []

    def batches():
        for start in range(0, 1000, 50):
            asked.append(start)
            rows = [
                Decision(run_no=0, rule_no=0, asset_no=i, clip_no=None if i % 2 else i, score=i / 7, passed=True, reason_code="pass")
                for i in range(start, start + 50)
            ]
            yield to_table(Decision, rows).combine_chunks().to_batches()[0]

    store = ManifestStore(tmp_path)
    store.commit("a", append={"decisions": pa.RecordBatchReader.from_batches(schema, batches())})
    files = store.files("decisions")
    assert [pq.ParquetFile(f).metadata.num_rows for f in files] == [300, 300, 300, 100]
    assert store.read("decisions").column("asset_no").to_pylist() == list(range(1000))
    log = (store.folder / "decisions" / "_delta_log" / "00000000000000000001.json").read_text().splitlines()
    stats = [json.loads(json.loads(line)["add"]["stats"]) for line in log if "add" in json.loads(line)]
    found = sorted((s["minValues"]["asset_no"], s["maxValues"]["asset_no"], s["numRecords"], s["nullCount"]["clip_no"]) for s in stats)
    assert found == [(0, 299, 300, 150), (300, 599, 300, 150), (600, 899, 300, 150), (900, 999, 100, 50)]


def test_any_values_come_back(tmp_path: Path) -> None:
    """What was written is read back exactly, by pyarrow and by DuckDB, whichever encoding its values led to."""
    import duckdb

    draw = np.random.default_rng(0)
    n = 5000
    table = pa.table(
        {
            "few": pa.array(draw.integers(0, 5, n).astype(np.float32)),
            "many": pa.array(draw.normal(size=n).astype(np.float32), mask=draw.random(n) < 0.3),
            "whole": pa.array(draw.integers(-(2**62), 2**62, n), pa.int64()),
            "small": pa.array(draw.integers(0, 3, n).astype(np.int32)),
            "flag": pa.array(draw.random(n) < 0.5, mask=draw.random(n) < 0.1),
            "text": pa.array([None if i % 9 == 0 else f"{i * 2654435761 % 2**32:08x}" for i in range(n)]),
            "data": pa.array([bytes([i % 256]) * (i % 5) for i in range(n)], pa.binary()),
            "list": pa.array([None if i % 4 == 0 else list(range(i % 4)) for i in range(n)], pa.list_(pa.int32())),
            "empty": pa.nulls(n, pa.float32()),
        }
    )
    (written,) = parquet.write_rows(tmp_path, "t", table, table.schema, ("text",))
    assert pq.read_table(written.path).equals(table)
    assert duckdb.read_parquet(str(written.path)).to_arrow_table().cast(table.schema).equals(table)
    encodings = {c.path_in_schema: set(c.encodings) for c in map(pq.ParquetFile(written.path).metadata.row_group(0).column, range(9))}
    assert "BYTE_STREAM_SPLIT" in encodings["many"]
    assert "DELTA_BINARY_PACKED" in encodings["whole"]
    assert "DELTA_LENGTH_BYTE_ARRAY" in encodings["text"]
    assert "RLE_DICTIONARY" in encodings["few"]
    blooms = duckdb.execute("SELECT path_in_schema FROM parquet_metadata(?) WHERE bloom_filter_offset IS NOT NULL", [str(written.path)])
    assert blooms.fetchall() == [("text",)]


def test_purged_versions_say_so_and_others_stay(tmp_path: Path) -> None:
    """Only files that no kept version needs go; the dry run changes nothing; a purged version cannot be read, the others are as before."""
    store = ManifestStore(tmp_path)
    for i in range(4):
        store.commit(f"run{i}", append={"decisions": _decision(i)}, replace={"blocklist": _block(f"v{i}")})
    planned = store.purge([1], dry_run=True)
    assert (planned.versions, planned.kept, len(planned.files)) == ((0, 2), (1, 3), 2)
    assert all(f.is_file() for f in planned.files)
    assert store.purge([1]).files == planned.files
    assert not any(f.exists() for f in planned.files)
    assert store.readable() == [1, 3]
    assert store.read("blocklist", 1).column("value").to_pylist() == ["v1"]
    assert store.read("decisions", 3).column("rule_no").to_pylist() == [0, 1, 2, 3]
    with pytest.raises(ManifestError, match="version 2 was purged; readable versions: 1, 3"):
        store.read("blocklist", 2)
    assert store.version_of_run("run2") == 2
    assert store.purge([1]).files == ()
    assert store.commit("run4", replace={"blocklist": _block("v4")}) == 4


def test_a_purge_keeps_what_releases_and_checkpoints_name(tmp_path: Path) -> None:
    """A version that a release was made of, or that a checkpoint was trained on, stays readable whatever is asked."""
    store = ManifestStore(tmp_path)
    exposure = Exposure(
        run_no=0, checkpoint="c", run_path="run", stage="tae", manifest_version=1, plan_digest="", plan_json="{}", first_step=0,
        end_step=1, n_samples=1, rolling_digest="", exceptions_json="[]",
    )  # fmt: skip
    for i in range(4):
        store.commit(
            f"run{i}", append={"exposures": to_table(Exposure, [exposure])} if i == 3 else {}, replace={"blocklist": _block(f"v{i}")}
        )
    release = tmp_path / "releases" / "first" / "release.json"
    release.parent.mkdir(parents=True)
    release.write_text(json.dumps({"manifest_version": 0}))
    found = store.purge()
    assert (found.versions, found.kept) == ((2,), (0, 1, 3))
    assert found.pinned == {0: "release first", 1: "checkpoints of run"}


def test_a_purge_leaves_a_writer_at_work_alone(tmp_path: Path) -> None:
    """A staged file that no version names yet is kept for a day, then it is what a crash left and goes, also under its temporary name."""
    store = ManifestStore(tmp_path)
    store.commit("run0", replace={"blocklist": _block("a")})
    staged = store.folder / "blocklist" / "part-000000000001-run1-00000000-000.parquet"
    unnamed = temporary_name(staged)
    for path in (staged, unnamed):
        path.write_bytes(b"")
    assert store.purge().files == ()
    old = staged.stat().st_mtime - purge.STAGED_GRACE_S - 1
    for path in (staged, unnamed):
        os.utime(path, (old, old))
    assert set(store.purge().files) == {staged, unnamed}
    assert store.read("blocklist").num_rows == 1


def test_an_intent_of_before_tables_had_several_files_is_completed(tmp_path: Path) -> None:
    """A crash of an older release left an intent that names one file a table: the next writer completes it."""
    store = ManifestStore(tmp_path)
    store.commit("run0", replace={"blocklist": _block("a")})
    path = store.folder / "blocklist" / "part-000000000001-old.parquet"
    parquet.write_parquet(path, _block("b", "c"))
    write = {
        "table": "blocklist",
        "mode": "overwrite",
        "path": path.name,
        "size_bytes": path.stat().st_size,
        "modified_ms": 0,
        "stats": "{}",
    }
    (store.folder / "_intents" / "000000000001.json").write_text(json.dumps({"version": 1, "run_id": "old", "writes": [write]}))
    store.recover()
    assert store.version() == 1
    assert store.read("blocklist").column("value").to_pylist() == ["b", "c"]
