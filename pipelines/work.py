"""Work that is never done twice: each stage's outputs as Parquet parts, one per unit, found again by content.

    work/<stage>/<digest of what it depends on>/<unit>.parquet          the rows; its existence means the unit is complete
    work/<stage>/<digest …>/<unit>.<output>.parquet                     further outputs of the same unit, written before it

A unit is a few input rows. Whatever is killed, the same command runs only the units whose part is missing.
"""

from collections.abc import Callable, Iterable, Iterator
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


@dataclass(frozen=True, slots=True)
class Unit:
    """A few rows of a stage's input, as an Arrow IPC stream, and the stem of the part they become."""

    stem: str
    n_rows: int
    cost: float
    rows: bytes


def missing(stage: Stage, config: Any, place: Place, inputs: pa.Table) -> list[Unit]:
    """The units of work that remain: input rows whose key no part holds, dearest first."""
    done = pa.array(sorted(done_keys(stage, config, place)), pa.string())
    todo = inputs.filter(pc.invert(pc.is_in(inputs.column(stage.key), value_set=done)))
    units = [_unit(stage, config, place, rows) for rows in _groups(stage, config, todo)]
    return sorted(units, key=lambda u: (-u.cost, u.stem))


def run_unit(stage: Stage, job: Job, place: Place, unit: Unit) -> dict[str, int]:
    """The unit's parts are on disk, the one named 'rows' last. Returns how many rows went in and came out."""
    inputs = pa.ipc.open_stream(unit.rows).read_all()
    outputs = job(inputs, unit.stem)
    for name, schema in sorted(stage.writes.items(), key=lambda item: item[0] == ROWS):
        write_parquet(place.dataset / part_path(unit.stem, name), outputs[name].select(schema.names).cast(schema))
    return {"rows_in": inputs.num_rows, "rows_out": outputs[ROWS].num_rows}


def part_path(stem: str, output: str) -> str:
    """The path of a unit's part, relative to the dataset."""
    return f"{stem}.parquet" if output == ROWS else f"{stem}.{output}.parquet"


def done_keys(stage: Stage, config: Any, place: Place) -> set[str]:
    """The keys of all rows that some part holds, but for those that should be tried again."""
    parts = _parts(stage, config, place, ROWS)
    if not parts:
        return set()
    if stage.again is not None:
        names = [stage.key, "error_code"]  # not the whole rows, of which a large dataset has many and wide ones
        rows = pds.dataset(parts, schema=stage.writes[ROWS], format="parquet").to_table(names).to_pylist()
        return {row[stage.key] for row in rows if not stage.again(row)}
    return set(pds.dataset(parts, format="parquet").to_table([stage.key]).column(0).to_pylist())


def stems(stage: Stage, config: Any, place: Place) -> Iterator[tuple[str, set[str]]]:
    """The stem of every complete unit, relative to the dataset, and the keys it holds."""
    for part in _parts(stage, config, place, ROWS):
        keys = pds.dataset(part, format="parquet").to_table([stage.key]).column(0).to_pylist()
        yield str(Path(part).relative_to(place.dataset)).removesuffix(".parquet"), set(keys)


def read(stage: Stage, config: Any, place: Place, output: str = ROWS, keys: pa.Array | None = None, key: str | None = None) -> pa.Table:
    """The stage's outputs over all parts, each key once, sorted by key; only the given keys if there are any given."""
    schema, key = stage.writes[output], key or stage.key
    parts = _parts(stage, config, place, output)
    if not parts:
        return schema.empty_table()
    table = pds.dataset(parts, schema=schema, format="parquet").to_table(filter=None if keys is None else pc.field(key).isin(keys))
    if stage.again is not None and output == ROWS:
        table = _best_of_each(table, stage.again, key)
    return table.sort_by([(key, "ascending")])


def _best_of_each(table: pa.Table, again: Callable[[dict[str, Any]], bool], key: str) -> pa.Table:
    """One row a key: one that needs no other try, where there is one."""
    waiting = [again(row) for row in table.select(["error_code"]).to_pylist()]
    best: dict[str, int] = {}
    for at, value in enumerate(table.column(key).to_pylist()):
        if value not in best or waiting[best[value]]:
            best[value] = at
    return table.take(pa.array(list(best.values()), pa.int64()))


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


def _groups(stage: Stage, config: Any, todo: pa.Table) -> Iterator[pa.Table]:
    if todo.num_rows == 0:
        return
    size = stage.unit_rows(config)
    if stage.group_by is not None:
        todo = todo.sort_by([(stage.group_by, "ascending"), (stage.key, "ascending")])
        values = todo.column(stage.group_by).to_pylist()
        starts = [i for i, v in enumerate(values) if i == 0 or v != values[i - 1]]
        yield from _whole_groups(todo, [*starts, len(values)], size)
        return
    costs = [stage.cost(row) for row in todo.to_pylist()]
    keys = todo.column(stage.key).to_pylist()
    order = sorted(range(todo.num_rows), key=lambda i: (-costs[i], keys[i]))
    for start in range(0, len(order), size):
        yield todo.take(pa.array(order[start : start + size]))


def _whole_groups(todo: pa.Table, bounds: list[int], size: int) -> Iterator[pa.Table]:
    """Neighbouring groups together, as many as come to `size` rows; a group is never divided."""
    start = 0
    for end, following in pairwise([*bounds, None]):
        if end is not None and end > start and (following is None or following - start > size):
            yield todo.slice(start, end - start)
            start = end


def _unit(stage: Stage, config: Any, place: Place, rows: pa.Table) -> Unit:
    name = ids.digest("unit/v1", *rows.column(stage.key).to_pylist())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    cost = sum(stage.cost(row) for row in rows.to_pylist())
    stem = str(_folder(stage, config, place).relative_to(place.dataset) / name)
    return Unit(stem, rows.num_rows, cost, sink.getvalue().to_pybytes())
