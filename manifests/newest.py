"""The newest verdict of every rule and subject in one file, so that deciding again reads as much as there are clips, however long the history.

    manifest/_newest/<digest>.parquet    rule_no, asset_no, clip_no, score, reason_code: for each rule and subject the newest row of a run of
                                         ledger files; the digest names these files

It is a reading aid beside the ledger, which stays the truth: whoever rebuilds or verifies reads the ledger alone, and the file may be deleted at
any time. It is made anew after a commit when what came since has half as many rows, so that over a history all of them together cost a few times
what is read once.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests import ids, ledger
from manifests.files import temporary_name
from manifests.tables import ManifestStore

_FOLDER = "_newest"
_SHARE = 0.5
_RANGE = 250_000
"""Subjects at once: 5 bytes a rule and subject, and a row group a rule."""

_SCHEMA = pa.schema([ledger.SCHEMA.field(n) for n in ledger.READ])


def ledger_files(store: ManifestStore, version: int | None = None) -> list[str]:
    """Files that say of every rule and subject what the ledger at a version says last, in order: the file of newest rows for as many as it holds."""
    files = store.files("decisions", version)
    covered, path = _held(store, files)
    return files if path is None else [str(path), *files[covered:]]


def keep_newest(store: ManifestStore) -> Path | None:
    """The file of newest rows holds the whole ledger, if enough came since it was made; returns its path if it was made now."""
    files = store.files("decisions")
    covered, before = _held(store, files)
    if before is None and len(files) < 2:  # the first run's rows are newest all
        return None
    old = files[:1] if before is None else [str(before)]
    if sum(map(_n_rows, files[max(covered, 1) :])) < _SHARE * sum(map(_n_rows, old)):
        return None
    path = _path(store, files)
    path.parent.mkdir(exist_ok=True)
    temporary = temporary_name(path)
    sources = ledger_files(store)
    with pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as sink:
        for table in _newest_rows(sources):
            sink.write_table(table)
    os.replace(temporary, path)
    for other in path.parent.iterdir():
        if other not in (path, before):  # another process may be reading the one of before
            other.unlink(missing_ok=True)
    return path


def _held(store: ManifestStore, files: list[str]) -> tuple[int, Path | None]:
    """How many of the files, from the first on, a file of newest rows holds, and which; 0 and None where there is none for these."""
    if (store.folder / _FOLDER).is_dir():
        there = {p.stem: p for p in (store.folder / _FOLDER).glob("*.parquet")}
        for n in range(len(files), 0, -1):
            if (path := there.get(_path(store, files[:n]).stem)) is not None:
                return n, path
    return 0, None


def _path(store: ManifestStore, files: list[str]) -> Path:
    return store.folder / _FOLDER / f"{ids.digest('newest/v1', *(Path(f).name for f in files))}.parquet"


def _n_rows(path: str) -> int:
    return int(pq.read_metadata(path).num_rows)


def _newest_rows(files: list[str]) -> Iterator[pa.Table]:
    """The newest row of every rule and subject, rule by rule in ranges of numbers."""
    rules = sorted({n for path in files for n in pq.read_table(path, columns=["rule_no"]).column(0).unique().to_pylist()})
    for subject in ("asset", "clip"):
        for start, end in ledger.ranges(0, ledger.next_number(files, subject) - 1, _RANGE):
            newest = ledger.read_newest(files, subject, start, end - start, rules)
            for rule_no in rules:
                codes, scores = newest.of(rule_no)
                places = np.flatnonzero(codes >= 0)
                if len(places):
                    yield _rows(subject, rule_no, places + start, codes[places], scores[places])


def _rows(subject: str, rule_no: int, numbers: ledger.Numbers, codes: ledger.Codes, scores: ledger.Floats) -> pa.Table:
    n = len(numbers)
    clip_no = pa.array(numbers) if subject == "clip" else pa.nulls(n, pa.int64())
    columns = {
        "rule_no": pa.array(np.full(n, rule_no, np.int32)),
        "asset_no": pa.array(numbers if subject == "asset" else np.full(n, -1, np.int64)),
        "clip_no": clip_no,
        "score": pa.array(scores, pa.float32(), mask=np.isnan(scores)),
        "reason_code": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(ledger.REASONS)).cast(pa.string()),
    }
    return pa.table([columns[f.name] for f in _SCHEMA], schema=_SCHEMA)
