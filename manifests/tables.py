"""ManifestStore: the tables of a dataset, committed together, readable at any version.

Each table is a Delta table in a plain-Parquet profile (reader version 1), so the file list of a version is all that any Parquet
reader needs. Delta commits one table at a time; a *manifest version* spans them all:

    manifest/<table>/            Delta table
    manifest/_intents/<n>.json   the commit point: which staged files make version n (created exclusively, never changed)
    manifest/_versions/<n>.json  version n is applied: the Delta version of every table

A crash before the intent leaves nothing visible; a crash after it is rolled forward by the next writer. Readers see only
versions that are fully applied. Files of an attempt that never reached its intent are invisible, and a purge removes them.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from manifests.files import publish
from manifests.parquet import Rows, Written, write_parquet, write_rows
from manifests.schema import APPEND_ONLY, TABLES, arrow_schema

__all__ = ["ManifestConflict", "ManifestError", "ManifestStore", "write_parquet"]

if TYPE_CHECKING:
    from manifests.purge import Purge

_APP = "dailies"
_RETENTION = "interval 3650 days"
"""Ten years: history is the auditor's; purging it is a command of its own."""

_TRIES, _RETRY_S = 100, 0.02

LOOKED_UP = {"clips": ("clip_id",), "assets": ("asset_id",), "members": ("clip_id",)}
"""Columns by which a person asks for one row among millions: they get a Bloom filter."""


class ManifestError(Exception):
    """The manifest cannot do what was asked; the message says what was found and what helps."""


class ManifestConflict(ManifestError):
    """Another run committed since the version that this one was worked out from; working it out again helps."""


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
        """What each version says of itself, oldest first: version, run_id, tables with their Delta versions; `purged` where it was."""
        return [self._state(n) for n in sorted(_numbers(self.folder / "_versions"))]

    def readable(self) -> list[int]:
        """The versions whose files are there: all but the purged ones, oldest first."""
        return [s["version"] for s in self.versions() if not s.get("purged")]

    def version_of_run(self, run_id: str) -> int | None:
        """The version a run committed, or None: how a retried driver sees that its work is already done."""
        return next((s["version"] for s in self.versions() if s["run_id"] == run_id), None)

    def files(self, table: str, version: int | None = None) -> list[str]:
        """Absolute paths of the Parquet files that are this table at a version, in commit order."""
        delta_version = self._delta_version(table, version)
        if delta_version is None:
            return []
        names = (uri.rsplit("/", 1)[-1] for uri in DeltaTable(_uri(self.folder / table), version=delta_version).file_uris())
        return sorted(str((self.folder / table / unquote(name)).absolute()) for name in names)

    def read(self, table: str, version: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """The table at a version (newest by default); empty, with the right columns, when nothing was committed."""
        schema = arrow_schema(_record(table))
        files = self.files(table, version)
        if not files:
            return schema.empty_table().select(columns or schema.names)
        return pds.dataset(files, schema=schema, format="parquet").to_table(columns=columns)

    def commit(
        self,
        run_id: str,
        *,
        append: Mapping[str, Rows] | None = None,
        replace: Mapping[str, Rows] | None = None,
        parent: int | None = None,
    ) -> int:
        """The version in which all given tables were appended to or replaced at once. A run that committed before is not redone.

        Rows are written as they come: a reader is never held as a whole. With `parent`, the version that the rows were worked out
        from (-1: none), ManifestConflict is raised when another run has changed one of these tables since, and nothing changes.
        """
        self.recover()
        if (done := self.version_of_run(run_id)) is not None:
            return done
        for table in replace or {}:
            if table in APPEND_ONLY:
                raise ManifestError(f"{table} is append only and cannot be replaced")
        tables = {*(append or {}), *(replace or {})}
        self._check_parent(parent, tables)
        version = self.version() + 1
        writes = [self._stage(t, "append", d, version, run_id) for t, d in (append or {}).items()]
        writes = [w for w in writes if w["files"]]
        writes += [self._stage(t, "overwrite", d, version, run_id) for t, d in (replace or {}).items()]
        while not publish(self._intent_path(version), _intent(version, run_id, writes)):
            self.recover()  # another writer took this number: finish its commit, then take the next
            if (done := self.version_of_run(run_id)) is not None:
                return done
            self._check_parent(parent, tables)
            version = self.version() + 1
            self._rename(writes, version)
        self._apply(json.loads(self._intent_path(version).read_bytes()))
        return version

    def purge(self, keep: Iterable[int] = (), *, dry_run: bool = False) -> "Purge":
        """Files that no kept version needs are deleted. The newest version and those that releases or checkpoints name are kept too."""
        from manifests.purge import purge

        return purge(self, keep, dry_run=dry_run)

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
        """The Delta version in which the table has the write, made here or by another writer who is completing the same intent."""
        for _ in range(_TRIES):
            try:
                return self._try_write(write, version, run_id)
            except CommitFailedError:  # only writers of this very intent touch the table now, and one of them was faster
                time.sleep(_RETRY_S)
        return self._try_write(write, version, run_id)

    def _try_write(self, write: dict[str, Any], version: int, run_id: str) -> int:
        delta = self._open_for_write(write["table"])
        done = delta.transaction_version(_APP)
        if done is None or done < version:
            files = write.get("files", [write])  # an intent of before files came in several names one file itself
            actions: list[AddAction | RemoveAction] = [
                AddAction(f["path"], f["size_bytes"], {}, f["modified_ms"], True, f["stats"]) for f in files
            ]
            properties = CommitProperties(
                custom_metadata={"run_id": run_id, "manifest_version": str(version)},
                app_transactions=[Transaction(_APP, version)],
            )
            schema = arrow_schema(_record(write["table"]))
            delta.create_write_transaction(actions, write["mode"], schema, commit_properties=properties)
            delta.update_incremental()
        return delta.version()

    def _open_for_write(self, table: str) -> DeltaTable:
        """The Delta table, created if absent, with every column the schema knows (columns are added, never renamed)."""
        path, schema = self.folder / table, arrow_schema(_record(table))
        if not DeltaTable.is_deltatable(_uri(path)):
            configuration = {"delta.logRetentionDuration": _RETENTION, "delta.appendOnly": str(table in APPEND_ONLY).lower()}
            return DeltaTable.create(_uri(path), schema=schema, mode="ignore", name=table, configuration=configuration)
        delta = DeltaTable(_uri(path))
        known = {f.name for f in delta.schema().fields}
        if added := [f for f in schema if f.name not in known]:
            delta.alter.add_columns(list(DeltaSchema.from_arrow(pa.schema([f.with_nullable(True) for f in added])).fields))
        return delta

    def _stage(self, table: str, mode: str, rows: Rows, version: int, run_id: str) -> dict[str, Any]:
        """The rows as Parquet files in the table's folder, invisible until a commit names them. Nothing to append is no file."""
        if mode == "append" and isinstance(rows, pa.Table) and not rows.num_rows:
            return {"table": table, "mode": mode, "files": []}
        schema = arrow_schema(_record(table))
        # The random part keeps two drivers of one run from writing the same name.
        stem = f"part-{version:012d}-{run_id[:12]}-{secrets.token_hex(4)}"
        written = write_rows(self.folder / table, stem, _without_nan(table, rows), schema, LOOKED_UP.get(table, ()))
        if mode == "append" and not any(w.n_rows for w in written):
            for file in written:
                file.path.unlink()
            return {"table": table, "mode": mode, "files": []}
        return {"table": table, "mode": mode, "files": [_file_entry(w) for w in written]}

    def _rename(self, writes: list[dict[str, Any]], version: int) -> None:
        """Staged files carry the number of the version they will be in: names in order are commits in order."""
        for write in writes:
            for file in write["files"]:
                head, _, *rest = file["path"].split("-")
                new = "-".join([head, f"{version:012d}", *rest])
                os.rename(self.folder / write["table"] / file["path"], self.folder / write["table"] / new)
                file["path"] = new

    def _check_parent(self, parent: int | None, tables: Iterable[str]) -> None:
        newest = self.version()
        if parent is None or newest == parent:
            return
        before, now = (self._state(v)["tables"] if v >= 0 else {} for v in (parent, newest))
        if changed := sorted(t for t in tables if before.get(t) != now.get(t)):
            raise ManifestConflict(
                f"{self.root}: expected {', '.join(changed)} as of version {parent}, found version {newest}: another run committed "
                "meanwhile; run this again"
            )

    def _intent_path(self, version: int) -> Path:
        return self.folder / "_intents" / f"{version:012d}.json"

    def _state(self, version: int) -> dict[str, Any]:
        path = self.folder / "_versions" / f"{version:012d}.json"
        if not path.exists():
            known = sorted(_numbers(self.folder / "_versions"))
            span = f"{known[0]} to {known[-1]}" if known else "none"
            raise ManifestError(f"{self.root}: there is no version {version}; versions on disk: {span}")
        try:
            state: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise ManifestError(f"{path}: expected the tables of version {version} as JSON, found {error}") from error
        return state

    def _delta_version(self, table: str, version: int | None) -> int | None:
        _record(table)
        version = self.version() if version is None else version
        if version < 0:
            return None
        state = self._state(version)
        if state.get("purged"):
            raise ManifestError(f"{self.root}: version {version} was purged; readable versions: {', '.join(map(str, self.readable()))}")
        found: int | None = state["tables"].get(table)
        return found


def _uri(path: Path) -> str:
    """The folder as Delta wants it: a plain path with a space or a letter beyond ASCII would be taken for another folder.

    Raises ManifestError for a path with what looks like an escape: Delta (1.6) reads it twice and would open another folder.
    """
    if re.search("%[0-9A-Fa-f]{2}", str(path.absolute())):
        raise ManifestError(
            f"{path}: expected a path without a per cent sign before two digits, which Delta takes for an escape; rename the folder"
        )
    return path.absolute().as_uri()


def _record(table: str) -> type:
    if table not in TABLES:
        raise ManifestError(f"there is no table {table!r}; the tables are {', '.join(TABLES)}")
    return TABLES[table]


def _intent(version: int, run_id: str, writes: list[dict[str, Any]]) -> bytes:
    return json.dumps({"version": version, "run_id": run_id, "writes": writes}, indent=1).encode()


def _file_entry(written: Written) -> dict[str, Any]:
    """What an intent, and then Delta, says of a file; its statistics let readers skip it."""
    stats = {"numRecords": written.n_rows, "minValues": written.lowest, "maxValues": written.highest, "nullCount": written.nulls}
    stat = written.path.stat()
    return {
        "path": written.path.name,
        "size_bytes": stat.st_size,
        "modified_ms": int(stat.st_mtime * 1000),
        "stats": json.dumps(stats),
    }


def _without_nan(table: str, rows: Rows) -> pa.RecordBatchReader:
    """The same rows; ManifestError where one holds NaN, because not measured is null."""

    def checked() -> Iterable[pa.RecordBatch]:
        for batch in rows.to_batches() if isinstance(rows, pa.Table) else rows:
            for column, values in zip(batch.schema, batch.columns, strict=True):
                if pa.types.is_floating(column.type) and pc.any(pc.is_nan(values)).as_py():
                    raise ManifestError(f"{table}.{column.name}: expected a number or null, found NaN; what was not measured is null")
            yield batch

    return pa.RecordBatchReader.from_batches(rows.schema, checked())


def _numbers(folder: Path) -> list[int]:
    return [int(p.stem) for p in folder.glob("*.json")] if folder.is_dir() else []
