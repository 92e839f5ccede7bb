"""The state of assets and clips rebuilt from the ledger, and compared with what is stored: `decisions` is the truth, the state a view of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from manifests import ledger
from manifests.policy import policy_at
from manifests.schema import TABLES, arrow_schema
from manifests.tables import ManifestStore

Subject = Literal["asset", "clip"]

RANGE = 1_000_000
"""Subjects rebuilt at once: 5 bytes a rule and subject, so some 200 MB with forty rules."""

_TABLE: dict[Subject, str] = {"asset": "assets", "clip": "clips"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the stored state of a table differs from the rebuilt one: how many rows, and the first of them for a person."""

    table: str
    n: int
    example: str
    expected: str
    found: str


def rebuild(store: ManifestStore, subject: Subject = "clip", version: int | None = None) -> Iterator[pa.RecordBatch]:
    """`<subject>_no, decision, first_fail_rule` of every stored subject, from the ledger alone, by ranges of numbers.

    `decision` is pending where the ledger says nothing of the subject.
    """
    key = f"{subject}_no"
    for stored, first_fail, silent in _ranges(store, subject, version, [key]):
        decision = np.select([silent, first_fail < 0], ["pending", "keep"], "drop")
        columns = [stored.column(key).combine_chunks(), pa.array(decision.tolist()), pa.array(first_fail, mask=first_fail < 0)]
        yield pa.RecordBatch.from_arrays(columns, names=[key, "decision", "first_fail_rule"])


def compare(store: ManifestStore, version: int | None = None) -> list[Difference]:
    """Where the stored state is not what the ledger gives; empty when all of it is.

    What was taken down is another's decision: assets that are not live, and clips whose decision is neither keep nor drop, are left out.
    """
    version = store.version() if version is None else version
    live = _live_assets(store, version)
    found = []
    for subject in ("asset", "clip"):
        columns = [f"{subject}_no", "decision", "first_fail_rule", *(["state"] if subject == "asset" else ["asset_no"])]
        total, example = 0, None
        for stored, first_fail, silent in _ranges(store, subject, version, columns):
            wrong = _wrong(stored, first_fail, silent, live)
            total += len(wrong)
            if len(wrong) and example is None:
                example = _tell(stored.slice(int(wrong[0]), 1).to_pylist()[0], int(first_fail[wrong[0]]), bool(silent[wrong[0]]), subject)
        if example is not None:
            found.append(Difference(table=_TABLE[subject], n=total, example=example[0], expected=example[1], found=example[2]))
    return found


def _ranges(
    store: ManifestStore, subject: Subject, version: int | None, columns: list[str]
) -> Iterator[tuple[pa.Table, npt.NDArray[np.int32], ledger.Mask]]:
    """Stored rows by range of numbers, with their first failing rule from the ledger (-1: none) and whether it says nothing of them."""
    files, key = store.files(_TABLE[subject], version), f"{subject}_no"
    if not files:
        return
    rows = pds.dataset(files, schema=arrow_schema(TABLES[_TABLE[subject]]), format="parquet")
    numbers = [pc.min_max(batch.column(0)).as_py() for batch in rows.to_batches(columns=[key]) if batch.num_rows]
    if not numbers:
        return
    policy = [(n, r) for n, r in policy_at(store, version) if r.subject == subject]
    decisions = store.files("decisions", version)
    for start, end in ledger.ranges(min(n["min"] for n in numbers), max(n["max"] for n in numbers), RANGE):
        stored = rows.to_table(columns=columns, filter=(pc.field(key) >= start) & (pc.field(key) < end))
        newest = ledger.read_newest(decisions, subject, start, end - start, [n for n, _ in policy])
        at = stored.column(key).to_numpy() - start
        yield stored, ledger.first_fails(policy, newest)[at], ledger.undecided(policy, newest)[at]


def _wrong(stored: pa.Table, first_fail: npt.NDArray[np.int32], silent: ledger.Mask, live: set[int] | None) -> npt.NDArray[np.int64]:
    decision = stored.column("decision")
    said_keep, said_drop = pc.equal(decision, "keep").to_numpy(), pc.equal(decision, "drop").to_numpy()
    stored_fail = stored.column("first_fail_rule").fill_null(-1).to_numpy()
    right = np.where(silent, ~said_keep, (said_keep == (first_fail < 0)) & (stored_fail == first_fail))
    ruled = said_keep | said_drop
    if "state" in stored.schema.names:
        ruled &= pc.equal(stored.column("state"), "live").to_numpy()
    elif live is not None:
        ruled &= pc.is_in(stored.column("asset_no"), value_set=pa.array(sorted(live), pa.int64())).to_numpy()
    return np.flatnonzero(ruled & ~right)


def _live_assets(store: ManifestStore, version: int) -> set[int] | None:
    """The assets that are live; None when all are, which is what a dataset without takedowns says."""
    assets = store.read("assets", version, ["asset_no", "state"])
    live = assets.filter(pc.equal(assets.column("state"), "live"))
    return None if live.num_rows == assets.num_rows else set(live.column("asset_no").to_pylist())


def _tell(row: dict[str, Any], first_fail: int, silent: bool, subject: str) -> tuple[str, str, str]:
    expected = "nothing decided" if silent else "keep" if first_fail < 0 else f"drop by rule {first_fail}"
    found = row["decision"] if row["first_fail_rule"] is None else f"{row['decision']} by rule {row['first_fail_rule']}"
    return f"{subject} {row[f'{subject}_no']}", expected, found
