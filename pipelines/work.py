"""Work that is never done twice: each stage's outputs as Parquet parts, one per unit, found again by content.

    work/<stage>/<digest of what it depends on>/<unit>.parquet          the rows; its existence means the unit is complete
    work/<stage>/<digest …>/<unit>.<output>.parquet                     further outputs of the same unit, written before it

A unit is a few input rows. Whatever is killed, the same command runs only the units whose part is missing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from manifests import ids
from manifests.tables import write_parquet
from pipelines.stage import Job, Place, Stage

ROWS = "rows"
_PACKED = "zstd"
"""Of a unit of one row nearly all is the names of its columns: 20 KB, where the driver may hold a million units."""
_COSTED_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Unit:
    """A few rows of a stage's input, as a compressed Arrow IPC stream, and the stem of the part they become."""

    stem: str
    n_rows: int
    cost: float
    rows: bytes


def missing(stage: Stage, config: Any, place: Place, inputs: pa.Table) -> list[Unit]:
    """The units of work that remain: input rows whose key no part holds, dearest first."""
    done = pa.array(sorted(done_keys(stage, config, place)), pa.string())
    todo = inputs.filter(pc.invert(pc.is_in(inputs.column(stage.key), value_set=done)))
    units = [_unit(stage, config, place, rows, cost) for rows, cost in _groups(stage, config, todo)]
    return sorted(units, key=lambda u: (-u.cost, u.stem))


def run_unit(stage: Stage, job: Job, place: Place, unit: Unit) -> dict[str, int]:
    """The unit's parts are on disk, the one named 'rows' last. Returns how many rows went in and came out."""
    inputs = rows_of(unit)
    outputs = job(inputs, unit.stem)
    for name, schema in sorted(stage.writes.items(), key=lambda item: item[0] == ROWS):
        write_parquet(place.dataset / part_path(unit.stem, name), outputs[name].select(schema.names).cast(schema))
    return {"rows_in": inputs.num_rows, "rows_out": outputs[ROWS].num_rows}


def rows_of(unit: Unit) -> pa.Table:
    """The rows of the unit."""
    return pa.ipc.open_stream(pa.CompressedInputStream(pa.BufferReader(unit.rows), _PACKED)).read_all()


def part_path(stem: str, output: str) -> str:
    """The path of a unit's part, relative to the dataset."""
    return f"{stem}.parquet" if output == ROWS else f"{stem}.{output}.parquet"


def done_keys(stage: Stage, config: Any, place: Place) -> set[str]:
    """The keys of all rows that some part holds, but for those that should be tried again."""
    parts = _parts(stage, config, place, ROWS)
    if not parts:
        return set()
    if stage.again is None:
        return set(pds.dataset(parts, format="parquet").to_table([stage.key]).column(0).to_pylist())
    rows = pds.dataset(parts, format="parquet").to_table([stage.key, "error_code"])
    failed = rows.num_rows > rows.column("error_code").null_count
    return set(rows.column(0).to_pylist()) - (waiting_keys(stage, config, place) if failed else set())


def waiting_keys(stage: Stage, config: Any, place: Place) -> set[str]:
    """The keys of which every row failed for a reason that may pass, and which have tries left."""
    parts = _parts(stage, config, place, ROWS)
    if stage.again is None or not parts:
        return set()
    rows = [row for row in _failures(stage, parts) if stage.again(row)]
    if not rows:
        return set()
    failed = Counter(row[stage.key] for row in rows)
    # Another try may have succeeded, in another part.
    found = Counter(_located(stage, parts, pa.array(sorted(failed), pa.string())).column(stage.key).to_pylist())
    resting = {row[stage.key] for row in rows if stage.rests is not None and stage.rests(row, config, place)}
    return {key for key, n in failed.items() if found[key] == n} - resting


def stems(stage: Stage, config: Any, place: Place) -> Iterator[tuple[str, set[str]]]:
    """The stem of every complete unit, relative to the dataset, and the keys it holds."""
    for part in _parts(stage, config, place, ROWS):
        keys = pds.dataset(part, format="parquet").to_table([stage.key]).column(0).to_pylist()
        yield str(Path(part).relative_to(place.dataset)).removesuffix(".parquet"), set(keys)


def read(stage: Stage, config: Any, place: Place, output: str = ROWS, keys: pa.Array | None = None, key: str | None = None) -> pa.Table:
    """The stage's outputs over all parts, sorted by key; only the given keys if there are any given.

    What a key has stands in one part, also where several hold it: units that overlap, or another try. Every output then comes from the
    same part, the first by name among those whose row needs no other try.
    """
    schema, key = stage.writes[output], key or stage.key
    parts = _parts(stage, config, place, output)
    if not parts:
        return schema.empty_table()
    wanted = None if keys is None else pc.field(key).isin(keys)
    table = pds.dataset(parts, schema=schema, format="parquet").to_table([*schema.names, _FILE], wanted)
    if stage.key in schema.names:
        table = _each_from_one(stage, _parts(stage, config, place, ROWS), table, output == ROWS)
    return table.select(schema.names).sort_by([(key, "ascending")])


_FILE = "__filename"
"""Arrow's own column: the file a row was read from."""


def _located(stage: Stage, parts: list[str], keys: pa.Array | None) -> pa.Table:
    """The keys of all rows, or of those among the given ones, each with the file of its part."""
    wanted = None if keys is None else pc.field(stage.key).isin(keys)
    return pds.dataset(parts, format="parquet").to_table(columns=[stage.key, _FILE], filter=wanted)


def _each_from_one(stage: Stage, parts: list[str], table: pa.Table, is_rows: bool) -> pa.Table:
    """The rows, without those of parts that do not count for their key."""
    rows = table if is_rows else _located(stage, parts, table.column(stage.key).combine_chunks().unique())
    counted = pc.value_counts(rows.column(stage.key).combine_chunks())
    doubled = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    if not len(doubled):
        return table
    held = rows.filter(pc.is_in(rows.column(stage.key), value_set=doubled))
    failed: set[tuple[str, str]] = set()
    if stage.again is not None:
        failed = {(row[stage.key], _stem(row[_FILE])) for row in _failures(stage, parts) if stage.again(row)}
    owners: dict[str, str] = {}
    for pair in sorted(_pairs(stage, held), key=lambda pair: (pair in failed, pair)):
        owners.setdefault(*pair)
    return table.filter(pa.array([owners.get(k, stem) == stem for k, stem in _pairs(stage, table)], pa.bool_()))


def _pairs(stage: Stage, table: pa.Table) -> list[tuple[str, str]]:
    """The key of each row and the stem of its part."""
    return list(zip(table.column(stage.key).to_pylist(), map(_stem, table.column(_FILE).to_pylist()), strict=True))


def _failures(stage: Stage, parts: list[str]) -> list[dict[str, Any]]:
    """The rows with an error, and the files they stand in: of millions of rows few have one."""
    schema = stage.writes[ROWS]
    rows = pds.dataset(parts, schema=schema, format="parquet").to_table([*schema.names, _FILE], pc.field("error_code").is_valid())
    return list(rows.to_pylist())


def _stem(path: str) -> str:
    """The name of the unit that wrote the part."""
    return Path(path).name.partition(".")[0]


def merge_columns(table: pa.Table, other: pa.Table, key: str, columns: Iterable[str]) -> pa.Table:
    """The table with these columns taken from the row of `other` with the same key, where that holds a value. Row order stays."""
    rows = pc.index_in(table.column(key), value_set=other.column(key).combine_chunks())
    for name in columns:
        field = table.schema.field(name)
        values = pc.coalesce(other.column(name).take(rows).cast(field.type), table.column(name))
        table = table.set_column(table.schema.get_field_index(name), field, values)
    return table


def set_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with one column replaced, in the column's own type."""
    field = table.schema.field(name)
    array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, field.type)
    return table.set_column(table.schema.get_field_index(name), field, array.cast(field.type))


def _parts(stage: Stage, config: Any, place: Place, output: str) -> list[str]:
    """Parts of complete units only: an output whose 'rows' never came is not there."""
    folder = _folder(stage, config, place)
    stems = sorted(p.name[: -len(".parquet")] for p in folder.glob("*.parquet") if p.name.count(".") == 1) if folder.is_dir() else []
    return [str(folder / part_path(stem, output)) for stem in stems]


def _folder(stage: Stage, config: Any, place: Place) -> Path:
    return place.work / stage.name / stage.digest(config)


def _groups(stage: Stage, config: Any, todo: pa.Table) -> Iterator[tuple[pa.Table, float]]:
    """The rows of each unit, with their cost."""
    if todo.num_rows == 0:
        return
    size = stage.unit_rows(config)
    if stage.group_by is not None:
        todo = todo.sort_by([(stage.group_by, "ascending"), (stage.key, "ascending")])
        values = todo.column(stage.group_by).to_pylist()
        starts = [i for i, v in enumerate(values) if i == 0 or v != values[i - 1]]
        yield from ((rows, sum(stage.cost(row) for row in rows.to_pylist())) for rows in _whole_groups(todo, [*starts, len(values)], size))
        return
    costs = [stage.cost(row) for batch in todo.to_batches(_COSTED_AT_ONCE) for row in batch.to_pylist()]
    keys = todo.column(stage.key).to_pylist()
    order = sorted(range(todo.num_rows), key=lambda i: (-costs[i], keys[i]))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield todo.take(pa.array(chosen)), sum(costs[i] for i in chosen)


def _whole_groups(todo: pa.Table, bounds: list[int], size: int) -> Iterator[pa.Table]:
    """Neighbouring groups together, as many as come to `size` rows; a group is never divided."""
    start = 0
    for end, following in pairwise([*bounds, None]):
        if end is not None and end > start and (following is None or following - start > size):
            yield todo.slice(start, end - start)
            start = end


def _unit(stage: Stage, config: Any, place: Place, rows: pa.Table, cost: float) -> Unit:
    name = ids.digest("unit/v1", *rows.column(stage.key).to_pylist())
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, _PACKED) as packed, pa.ipc.new_stream(packed, rows.schema) as writer:
        writer.write_table(rows)
    stem = str(_folder(stage, config, place).relative_to(place.dataset) / name)
    return Unit(stem, rows.num_rows, cost, sink.getvalue().to_pybytes())
