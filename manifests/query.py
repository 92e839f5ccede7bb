"""SQL over one snapshot of the manifest, for auditors: it can read the dataset's tables and nothing else.

The tables are Arrow data sets over the snapshot's Parquet files, so DuckDB itself never opens a file and needs no access to any.
`allowed_paths` would let DuckDB read the files alone, but also lets SQL write to them: measured with DuckDB 2.0,
`WITH x AS (COPY … TO '<allowed file>' (USE_TMP_FILE false)) SELECT …` is a SELECT that overwrites the manifest.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.dataset as pds

from manifests.schema import TABLES, arrow_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryConfig:
    """Limits of one query, so that a typing error costs seconds and not the machine."""

    timeout_s: float = 120.0
    memory_limit: str = "4GB"
    threads: int = 2
    max_rows: int = 1_000_000  # rows that a person or a notebook can still use; more is asked for with an aggregate or a LIMIT


class QueryError(ValueError):
    """The SQL was refused or failed; the message says what was expected and what was found."""


class Snapshot(Protocol):
    """What is read here of a ManifestStore."""

    def version(self) -> int:
        """The newest version; -1 when there is none."""

    def files(self, table: str, version: int | None = None) -> list[str]:
        """Absolute paths of the table's Parquet files at a version."""


def query(store: Snapshot, sql: str, version: int | None = None, config: QueryConfig | None = None) -> pa.Table:
    """The rows of one SELECT over the tables of a manifest version (newest by default).

    Raises QueryError for anything but a single SELECT, an unknown table or column, a file or network access, more than
    `max_rows` rows, and a query that runs longer than `timeout_s`.
    """
    config = config or QueryConfig()
    con = connect(store, version, config)
    try:
        with _guarded(con, config):
            _check_single_select(con, sql)
            relation = con.sql(sql)
            if twice := sorted(n for n, count in Counter(relation.columns).items() if count > 1):
                raise QueryError(
                    f"query: expected a name for each column, found {', '.join(twice)} more than once; give them others with AS"
                )
            return _bounded(relation, config.max_rows)
    finally:
        con.close()


def connect(store: Snapshot, version: int | None = None, config: QueryConfig | None = None) -> duckdb.DuckDBPyConnection:
    """A locked in-memory connection in which every table of the schema is a view over the snapshot's files."""
    return connection({name: _dataset(store, name, version) for name in TABLES}, config)


def connection(tables: Mapping[str, pa.Table | pds.Dataset], config: QueryConfig | None = None) -> duckdb.DuckDBPyConnection:
    """A locked in-memory connection over tables at hand; a table of the schema that is not given is empty."""
    config = config or QueryConfig()
    con = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,  # SQL must not see Python variables
            "temp_directory": "",  # nothing is spilled to disk: a query that needs it meets the memory limit and says so
            "memory_limit": config.memory_limit,
            "threads": config.threads,
        },
    )
    for name, record in TABLES.items():
        con.register(name, tables.get(name, arrow_schema(record).empty_table()))
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    return con


HELD_ROWS = 100_000
"""Rows of a table up to which `hold` copies it: some 200 MB of the widest one."""


def hold(con: duckdb.DuckDBPyConnection, names: Iterable[str] = tuple(TABLES)) -> None:
    """The connection has the small ones of these tables in itself, for who asks many questions: each would open the files anew, in 10 ms."""
    for name in names:
        (n,) = con.sql(f"SELECT count(*) FROM {name}").fetchall()[0]  # noqa: S608  # a name of the schema
        if n <= HELD_ROWS:
            con.execute(f"CREATE TABLE held AS FROM {name}")
            con.unregister(name)
            con.execute(f"ALTER TABLE held RENAME TO {name}")


def rows(con: duckdb.DuckDBPyConnection, sql: str, *params: object) -> list[dict[str, Any]]:
    """The rows of our own SQL as dicts, NULL as None. For SQL written by others use `query`."""
    found: list[dict[str, Any]] = con.sql(sql, params=list(params)).to_arrow_table().to_pylist()
    return found


def _dataset(store: Snapshot, table: str, version: int | None) -> pa.Table | pds.Dataset:
    schema = arrow_schema(TABLES[table])
    files = store.files(table, version)
    # The schema is ours, not the files': a column added since an old file was written reads as null.
    return pds.dataset(files, schema=schema, format="parquet") if files else schema.empty_table()


def _check_single_select(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    kinds = [s.type.name for s in con.extract_statements(sql)]
    if kinds != ["SELECT"]:
        found = ", ".join(kinds).lower() or "nothing"
        raise QueryError(f"query: expected a single SELECT, DESCRIBE or SHOW TABLES, found {found}")


def _bounded(relation: duckdb.DuckDBPyRelation, max_rows: int) -> pa.Table:
    reader = relation.to_arrow_reader()
    batches, found = [], 0
    for batch in reader:
        batches.append(batch)
        found += batch.num_rows
        if found > max_rows:
            raise QueryError(f"query: expected at most {max_rows:,} rows, found more; add a LIMIT or an aggregate")
    return pa.Table.from_batches(batches, schema=reader.schema)


@contextmanager
def _guarded(con: duckdb.DuckDBPyConnection, config: QueryConfig) -> Iterator[None]:
    """The block ends within the time limit; DuckDB's and Arrow's errors leave it as QueryError that says what helps."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        con.interrupt()

    timer = threading.Timer(config.timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as e:  # an error met while rows stream arrives as OSError
        if late.is_set():
            raise QueryError(f"query: stopped after {config.timeout_s:g} s; narrow it or raise timeout_s") from e
        raise QueryError(f"query: {_helpful(e)}") from e
    finally:
        timer.cancel()
        timer.join()  # an interrupt must not meet a connection that is already closed


def _helpful(error: Exception) -> str:
    tables = ", ".join(TABLES)
    if isinstance(error, duckdb.PermissionException):
        return f"SQL may read the tables {tables} and nothing else: {error}"
    if isinstance(error, duckdb.CatalogException) and "Table with name" in str(error):
        return f"{error}\nThe tables are {tables}"
    return str(error)
