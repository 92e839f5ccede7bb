"""ManifestStore: the tables of a dataset, committed together, readable at any version.

Each table is a Delta table in a plain-Parquet profile (reader version 1), so the file list of a version is all that any Parquet
reader needs. Delta commits one table at a time; a *manifest version* spans them all:

    manifest/<table>/            Delta table
    manifest/_intents/<n>.json   the commit point: which staged files make version n (created exclusively, never changed)
    manifest/_versions/<n>.json  version n is applied: the Delta version of every table

A crash before the intent leaves nothing visible; a crash after it is rolled forward by the next writer. Readers see only
versions that are fully applied.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.transaction import AddAction

from manifests.files import publish, write_atomic
from manifests.schema import APPEND_ONLY, TABLES, arrow_schema

_APP = "dailies"
_RETENTION = "interval 3650 days"
"""Ten years: history is the auditor's; purging it is a command of its own."""

_ROW_GROUP_ROWS = 250_000


class ManifestError(Exception):
    """The manifest cannot do what was asked; the message says what was found and what helps."""


@dataclass(frozen=True, slots=True)
class ManifestStore:
    """The manifest under `<root>/manifest`. Opening it reads nothing and writes nothing."""

    root: Path

    def __init__(self, root: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "root", Path(root))

    @property
    def folder(self) -> Path:
        """Where the tables lie."""
        return self.root / "manifest"

    def version(self) -> int:
        """The newest version that is fully applied; -1 when there is none."""
        return max(_numbers(self.folder / "_versions"), default=-1)

    def versions(self) -> list[dict[str, Any]]:
        """What each version says of itself, oldest first: version, run_id, tables with their Delta versions."""
        return [self._state(n) for n in sorted(_numbers(self.folder / "_versions"))]

    def version_of_run(self, run_id: str) -> int | None:
        """The version a run committed, or None: how a retried driver sees that its work is already done."""
        return next((s["version"] for s in self.versions() if s["run_id"] == run_id), None)

    def files(self, table: str, version: int | None = None) -> list[str]:
        """Absolute paths of the Parquet files that are this table at a version, in commit order."""
        delta_version = self._delta_version(table, version)
        if delta_version is None:
            return []
        return sorted(DeltaTable(self.folder / table, version=delta_version).file_uris())

    def read(self, table: str, version: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """The table at a version (newest by default); empty, with the right columns, when nothing was committed."""
        schema = arrow_schema(_record(table))
        files = self.files(table, version)
        if not files:
            return schema.empty_table().select(columns or schema.names)
        return pds.dataset(files, schema=schema, format="parquet").to_table(columns=columns)

    def commit(self, run_id: str, *, append: Mapping[str, pa.Table] | None = None, replace: Mapping[str, pa.Table] | None = None) -> int:
        """The version in which all given tables were appended to or replaced at once. A run that committed before is not redone."""
        self.recover()
        if (done := self.version_of_run(run_id)) is not None:
            return done
        for table in replace or {}:
            if table in APPEND_ONLY:
                raise ManifestError(f"{table} is append only and cannot be replaced")
        while True:
            version = self.version() + 1
            writes = [self._stage(t, "append", d, version, run_id) for t, d in (append or {}).items() if d.num_rows]
            writes += [self._stage(t, "overwrite", d, version, run_id) for t, d in (replace or {}).items()]
            intent = {"version": version, "run_id": run_id, "writes": writes}
            if publish(self._intent_path(version), json.dumps(intent, indent=1).encode()):
                self._apply(intent)
                return version
            self.recover()  # another writer took this number: finish its commit, then take the next

    def recover(self) -> None:
        """No intent is left unapplied."""
        applied = self.version()
        for n in sorted(n for n in _numbers(self.folder / "_intents") if n > applied):
            self._apply(json.loads(self._intent_path(n).read_bytes()))

    def _apply(self, intent: dict[str, Any]) -> None:
        version = intent["version"]
        tables = dict(self._state(version - 1)["tables"]) if version > 0 else {}
        for write in intent["writes"]:
            tables[write["table"]] = self._apply_write(write, version, intent["run_id"])
        state = {"version": version, "run_id": intent["run_id"], "tables": tables}
        publish(self.folder / "_versions" / f"{version:012d}.json", json.dumps(state, indent=1).encode())

    def _apply_write(self, write: dict[str, Any], version: int, run_id: str) -> int:
        delta = self._open_for_write(write["table"])
        done = delta.transaction_version(_APP)
        if done is None or done < version:
            action = AddAction(write["path"], write["size_bytes"], {}, write["modified_ms"], True, write["stats"])
            properties = CommitProperties(
                custom_metadata={"run_id": run_id, "manifest_version": str(version)},
                app_transactions=[Transaction(_APP, version)],
            )
            schema = arrow_schema(_record(write["table"]))
            delta.create_write_transaction([action], write["mode"], schema, commit_properties=properties)
            delta.update_incremental()
        return delta.version()

    def _open_for_write(self, table: str) -> DeltaTable:
        """The Delta table, created if absent, with every column the schema knows (columns are added, never renamed)."""
        path, schema = self.folder / table, arrow_schema(_record(table))
        if not DeltaTable.is_deltatable(str(path)):
            configuration = {"delta.logRetentionDuration": _RETENTION, "delta.appendOnly": str(table in APPEND_ONLY).lower()}
            return DeltaTable.create(path, schema=schema, mode="ignore", name=table, configuration=configuration)
        delta = DeltaTable(path)
        known = {f.name for f in delta.schema().fields}
        if added := [f for f in schema if f.name not in known]:
            delta.alter.add_columns(list(DeltaSchema.from_arrow(pa.schema([f.with_nullable(True) for f in added])).fields))
        return delta

    def _stage(self, table: str, mode: str, data: pa.Table, version: int, run_id: str) -> dict[str, Any]:
        """The data as a Parquet file in the table's folder, invisible until a commit names it."""
        schema = arrow_schema(_record(table))
        data = data.select(schema.names).cast(schema)
        name = f"part-{version:012d}-{run_id[:12]}.parquet"
        path = self.folder / table / name
        write_parquet(path, data)
        stat = path.stat()
        return {
            "table": table,
            "mode": mode,
            "path": name,
            "size_bytes": stat.st_size,
            "modified_ms": int(stat.st_mtime * 1000),
            "stats": _stats(data),
        }

    def _intent_path(self, version: int) -> Path:
        return self.folder / "_intents" / f"{version:012d}.json"

    def _state(self, version: int) -> dict[str, Any]:
        path = self.folder / "_versions" / f"{version:012d}.json"
        if not path.exists():
            known = sorted(_numbers(self.folder / "_versions"))
            span = f"{known[0]} to {known[-1]}" if known else "none"
            raise ManifestError(f"{self.root}: there is no version {version}; versions on disk: {span}")
        state: dict[str, Any] = json.loads(path.read_bytes())
        return state

    def _delta_version(self, table: str, version: int | None) -> int | None:
        _record(table)
        version = self.version() if version is None else version
        if version < 0:
            return None
        found: int | None = self._state(version)["tables"].get(table)
        return found


def write_parquet(path: Path, data: pa.Table) -> None:
    """The table as a zstd Parquet file that appears whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
    write_atomic(path, sink.getvalue())


def _record(table: str) -> type:
    if table not in TABLES:
        raise ManifestError(f"there is no table {table!r}; the tables are {', '.join(TABLES)}")
    return TABLES[table]


def _stats(data: pa.Table) -> str:
    """Delta's per-file statistics: row count, and the range of every integer column."""
    stats: dict[str, Any] = {"numRecords": data.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for field, values in zip(data.schema, data.columns, strict=True):
        stats["nullCount"][field.name] = values.null_count
        if pa.types.is_integer(field.type) and values.null_count < len(values):
            ends = pc.min_max(values).as_py()
            stats["minValues"][field.name], stats["maxValues"][field.name] = ends["min"], ends["max"]
    return json.dumps(stats)


def _numbers(folder: Path) -> list[int]:
    return [int(p.stem) for p in folder.glob("*.json")] if folder.is_dir() else []
