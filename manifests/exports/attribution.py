"""`attribution.csv`: who made what is in the released set, under which licence: the duty of CC-BY and its kin, one row an asset."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from manifests.wording import visible

NAME = "attribution.csv"
COLUMNS = ("asset_sha256", "title", "creator", "licence", "source_url", "changes", "clips")
CHANGES = "cut, scaled and re-encoded"
"""CC-BY asks to say that something was changed."""

SQL = """
SELECT a.asset_sha256, a.title, a.creator, a.licence_expr AS licence, a.source_url, count(*) AS clips
FROM clips c JOIN assets a USING (asset_no) WHERE c.decision = 'keep'
GROUP BY ALL ORDER BY a.asset_sha256
"""
"""One row for each asset that a kept clip comes from."""


def write_attribution(assets: Iterable[dict[str, Any]]) -> bytes:
    """The rows of `SQL` as CSV."""
    rows = ({**a, "asset_sha256": a["asset_sha256"].hex(), "changes": CHANGES} for a in assets)
    return _encode([_cell(row[c]) for c in COLUMNS] for row in rows)


def without(data: bytes, sha256: Sequence[str]) -> bytes:
    """The list without these assets."""
    rows = csv.reader(io.StringIO(data.decode(), newline=""))
    next(rows)  # the names
    gone = set(sha256)
    return _encode(row for row in rows if row[0] not in gone)


def _encode(rows: Iterable[list[str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    """Text that a spreadsheet shows and never runs: what starts like a formula gets an apostrophe before it."""
    text = "" if value is None else visible(str(value))
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text
