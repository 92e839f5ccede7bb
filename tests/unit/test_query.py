"""SQL of an auditor reads the manifest's tables and can do nothing else."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import query as queries
from manifests.query import QueryConfig, QueryError, connect, hold, query, rows
from manifests.schema import TABLES, arrow_schema
from manifests.tables import ManifestStore
from tests.fake_dataset import fake_tables, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ManifestStore:
    root = tmp_path_factory.mktemp("dataset")
    write_store(root, fake_tables(60))
    return ManifestStore(root)


def digests(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def test_select_over_tables(store: ManifestStore) -> None:
    """A join over two tables gives its rows; a table without rows is empty, with its columns."""
    found = query(store, "SELECT a.kind, count(*) AS n FROM clips c JOIN assets a USING (asset_id) GROUP BY 1 ORDER BY 1")
    assert sum(found["n"].to_pylist()) == 60
    assert query(store, "FROM takedowns").schema.names == arrow_schema(TABLES["takedowns"]).names


def test_describe_and_show_work(store: ManifestStore) -> None:
    """The two ways in which people find out what there is."""
    assert set(query(store, "SHOW TABLES")["name"].to_pylist()) == set(TABLES)
    assert "motion" in query(store, "DESCRIBE clips")["column_name"].to_pylist()


def test_older_versions_are_read(store: ManifestStore, tmp_path: Path) -> None:
    """`version` reads the snapshot of that version, not the newest."""
    own, tables = ManifestStore(tmp_path), fake_tables(5)
    own.commit("a" * 32, append={"clips": tables["clips"]})
    own.commit("b" * 32, replace={"clips": tables["clips"].slice(0, 2)})
    assert [query(own, "SELECT count(*) AS n FROM clips", version=v)["n"][0].as_py() for v in (0, 1)] == [5, 2]


def test_columns_added_later_read_as_null(tmp_path: Path) -> None:
    """A file written before a column existed gives null in it."""

    class OldFiles:
        def version(self) -> int:
            return 0

        def files(self, table: str, version: int | None = None) -> list[str]:
            return [str(tmp_path / "old.parquet")] if table == "clips" else []

    pq.write_table(pa.table({"clip_id": ["a"], "clip_no": pa.array([1], pa.int64())}), tmp_path / "old.parquet")
    assert query(OldFiles(), "SELECT clip_id, motion FROM clips").to_pylist() == [{"clip_id": "a", "motion": None}]


HOSTILE = (
    "COPY clips TO '{out}'",
    "COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
    "WITH x AS (COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)) SELECT * FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')",
    "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{out}'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_parquet('{file}')",
    "SELECT * FROM parquet_metadata('{file}')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_json('http://127.0.0.1:9/x')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT getenv('HOME')",
    "ATTACH '{out}' AS other",
    "ATTACH ':memory:' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{out}'",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "SET allowed_paths = ['/etc/passwd']",
    "PRAGMA enable_external_access",
    "CALL enable_logging()",
    "CREATE TABLE t AS SELECT 1",
    "CREATE SECRET s (TYPE s3)",
    "CREATE MACRO m() AS 1",
    "INSERT INTO clips SELECT * FROM clips",
    "DELETE FROM clips",
    "DROP VIEW clips",
    "SELECT 1; DROP VIEW clips",
    "SELECT 1; SELECT 2",
    "BEGIN",
    "CHECKPOINT",
    "SELECT * FROM self",
    "SELECT * FROM store",
    "",
    "-- nothing",
    "SELEC 1",
    "\x00",
)


@pytest.mark.parametrize("sql", HOSTILE)
def test_anything_but_reading_tables_fails(store: ManifestStore, tmp_path: Path, sql: str) -> None:
    """Files, network, extensions, settings, writes and second statements are refused, and no byte of the dataset changes."""
    before, out = digests(store.root), tmp_path / "out"
    with pytest.raises(QueryError):
        query(store, sql.format(file=store.files("clips")[0], out=out))
    assert digests(store.root) == before and not out.exists()


def test_wrong_table_names_the_right_ones(store: ManifestStore) -> None:
    """An unknown table is answered with the tables there are, an unknown column with DuckDB's nearest."""
    with pytest.raises(QueryError, match=r"(?s)clip_scores.*The tables are sources, assets, clips") as error:
        query(store, "SELECT * FROM clip_scores")
    assert all(t in str(error.value) for t in TABLES)
    with pytest.raises(QueryError, match="motion"):
        query(store, "SELECT motoin FROM clips")


def test_runaway_query_is_stopped(store: ManifestStore) -> None:
    """A query over its time limit ends with an error that says so."""
    with pytest.raises(QueryError, match=r"stopped after 0\.3 s"):
        query(store, "SELECT count(*) FROM range(1000000000000)", config=QueryConfig(timeout_s=0.3))


def test_result_is_bounded(store: ManifestStore) -> None:
    """More rows than the limit is an error, never a silent cut."""
    assert query(store, "SELECT * FROM range(10)", config=QueryConfig(max_rows=10)).num_rows == 10
    with pytest.raises(QueryError, match="at most 10 rows"):
        query(store, "SELECT * FROM range(11)", config=QueryConfig(max_rows=10))


def test_errors_while_rows_stream_are_query_errors(store: ManifestStore) -> None:
    """A cast that fails in the middle of the result is reported like any other mistake."""
    with pytest.raises(QueryError, match="Could not convert"):
        query(store, "SELECT uri::INTEGER FROM assets")


def test_held_tables_answer_alike(store: ManifestStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table gives the same rows from the connection itself as from the files, which it no longer needs; one of too many rows stays
    where it is."""
    con = connect(store)
    monkeypatch.setattr(queries, "HELD_ROWS", 59)  # one clip less than there are
    before = {name: rows(con, f"SELECT * FROM {name}") for name in TABLES}  # noqa: S608
    hold(con)
    assert {name: rows(con, f"SELECT * FROM {name}") for name in TABLES} == before  # noqa: S608
    held = {r["name"] for r in rows(con, "SELECT table_name AS name FROM duckdb_tables() WHERE NOT internal")}
    assert held == {name for name in TABLES if len(before[name]) <= 59} and "clips" not in held
