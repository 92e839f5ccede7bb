"""Taking assets and clips out of the work area: rows of Parquet parts, which hold several of them, and whole parts where nothing is left."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.tables import write_parquet
from pipelines.plan import WRITE_SHARDS
from pipelines.stage import Place


def scrub_work(place: Place, assets: Collection[str], clips: Collection[str], shards: Collection[str]) -> int:
    """No part holds a row of these assets or clips, or says that one of these shards was written; returns how many parts changed.

    Every part is looked at, one column of it, since parts are found by content and not by asset.
    """
    changed = 0
    for rows in sorted(place.work.rglob("*.parquet")):
        if rows.name.count(".") != 1 or "spark" in rows.relative_to(place.work).parts:
            continue
        stem = rows.name.removesuffix(".parquet")
        is_shards = rows.parent.parent.name == WRITE_SHARDS.name
        wanted = {"path": shards} if is_shards else {"asset_id": assets, "clip_id": clips}
        outputs = sorted(rows.parent.glob(f"{stem}.*.parquet"))
        left = [_without(path, wanted) for path in (*outputs, rows)]
        changed += sum(n is not None for n in left)
        if left[-1] == 0:  # no input of the unit is left: neither are its outputs
            for path in (rows, *outputs):
                path.unlink(missing_ok=True)
    return changed


def count_work(place: Place, assets: Collection[str], clips: Collection[str]) -> dict[str, int]:
    """By stage, how many rows of the work area are theirs: hashes, vectors, scores, key frames, sound, encoded clips."""
    found: dict[str, int] = {}
    for path in sorted(place.work.rglob("*.parquet")):
        stage = path.relative_to(place.work).parts[0]
        names = pq.read_schema(path).names
        key = next((k for k in ("asset_id", "clip_id") if k in names), None)
        if key is not None and stage != "spark":
            wanted = pa.array(sorted(assets if key == "asset_id" else clips), pa.string())
            n = pc.sum(pc.is_in(pq.read_table(path, columns=[key], partitioning=None).column(key), value_set=wanted)).as_py() or 0
            if n:
                found[stage] = found.get(stage, 0) + n
    return found


def _without(path: Path, wanted: dict[str, Collection[str]]) -> int | None:
    """The part is rewritten without the rows; how many rows are left, or None where it held none of them."""
    names = pq.read_schema(path).names
    key = next((k for k in wanted if k in names), None)
    if key is None:
        return None
    keys = pq.read_table(path, columns=[key], partitioning=None).column(key)
    gone = pc.is_in(keys, value_set=pa.array(sorted(wanted[key]), pa.string()))
    if not pc.any(gone).as_py():
        return None
    left = pq.read_table(path, partitioning=None).filter(pc.invert(gone))
    write_parquet(path, left)
    return int(left.num_rows)
