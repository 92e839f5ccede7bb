"""Work is found again by content: done units are not done twice, half units are not there, and columns merge without losing rows."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stage import Job, Place, Stage
from pipelines.work import done_keys, merge_columns, missing, part_path, read, run_unit

ROWS = pa.schema([("key", pa.string()), ("n", pa.int64())])


def _make(config: Any, place: Place) -> Job:
    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        doubled = pa.table({"key": rows.column("key"), "n": [2 * n for n in rows.column("n").to_pylist()]}, schema=ROWS)
        return {"rows": doubled, "extra": doubled}

    return job


STAGE = Stage(
    name="double", shape="map", version="1", reads=ROWS, key="key", writes={"rows": ROWS, "extra": ROWS}, make=_make,
    depends_on=lambda c: c, unit_rows=lambda c: 3, cost=lambda row: float(row["n"]),
)  # fmt: skip


def _table(numbers: dict[str, int]) -> pa.Table:
    return pa.table({"key": list(numbers), "n": list(numbers.values())}, schema=ROWS)


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 99), max_size=12), st.integers(0, 5))
def test_any_interruption_leaves_only_the_rest_to_do(tmp_path_factory: pytest.TempPathFactory, numbers: dict[str, int], done: int) -> None:
    """After some units, `missing` names exactly the keys of the others; after all, every key has its row once."""
    place = Place(tmp_path_factory.mktemp("work"))
    job = STAGE.make(None, place)
    units = missing(STAGE, None, place, _table(numbers))
    for unit in units[:done]:
        run_unit(STAGE, job, place, unit)
    rest = missing(STAGE, None, place, _table(numbers))
    assert sum(u.n_rows for u in rest) == len(numbers) - len(done_keys(STAGE, None, place))
    for unit in rest:
        run_unit(STAGE, job, place, unit)
    found = dict(zip(*(c.to_pylist() for c in read(STAGE, None, place).columns), strict=True))
    assert found == {k: 2 * n for k, n in numbers.items()}


def test_dear_rows_come_first(tmp_path: Path) -> None:
    """Units are ordered by predicted cost, dearest first."""
    units = missing(STAGE, None, Place(tmp_path), _table({f"k{n}": n for n in range(9)}))
    assert [u.cost for u in units] == sorted((u.cost for u in units), reverse=True)


def test_a_unit_without_its_last_part_does_not_exist(tmp_path: Path) -> None:
    """Outputs of a unit that was killed before 'rows' was written are not read, and the unit is done again."""
    place = Place(tmp_path)
    (unit,) = missing(STAGE, None, place, _table({"a": 1}))
    run_unit(STAGE, STAGE.make(None, place), place, unit)
    (tmp_path / part_path(unit.stem, "rows")).unlink()
    assert read(STAGE, None, place, "extra").num_rows == 0
    assert len(missing(STAGE, None, place, _table({"a": 1}))) == 1


def test_other_settings_have_their_own_parts(tmp_path: Path) -> None:
    """What a stage made under one configuration is not taken for another's."""
    place = Place(tmp_path)
    for unit in missing(STAGE, {"x": 1}, place, _table({"a": 1})):
        run_unit(STAGE, STAGE.make(None, place), place, unit)
    assert missing(STAGE, {"x": 1}, place, _table({"a": 1})) == []
    assert len(missing(STAGE, {"x": 2}, place, _table({"a": 1}))) == 1


def test_merging_columns_keeps_rows_and_order() -> None:
    """Values come from the row of the same key; rows without one, and null values, leave what was there."""
    mine = _table({"b": 1, "a": 2, "c": 3})
    other = pa.table({"key": ["a", "c"], "n": pa.array([9, None], pa.int64())})
    assert merge_columns(mine, other, "key", ["n"]).to_pylist() == [{"key": "b", "n": 1}, {"key": "a", "n": 9}, {"key": "c", "n": 3}]


AGAIN = pa.schema([("key", pa.string()), ("error_code", pa.string()), ("n", pa.int64())])


def test_what_failed_for_a_passing_reason_is_tried_again(tmp_path: Path) -> None:
    """Such a row is there until another try made a better one; whichever part comes first, the better one counts."""
    found = {"a": "away", "b": None}

    def make(config: Any, place: Place) -> Job:
        def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
            keys = rows.column("key").to_pylist()
            return {"rows": pa.table({"key": keys, "error_code": [found[k] for k in keys], "n": rows.column("n")}, schema=AGAIN)}

        return job

    stage = dataclasses.replace(STAGE, writes={"rows": AGAIN}, make=make, again=lambda row: row["error_code"] == "away")
    place, inputs = Place(tmp_path), _table({"a": 1, "b": 2})
    for expected in ("away", "away", None):
        found["a"] = expected
        for unit in missing(stage, None, place, inputs):
            run_unit(stage, stage.make(None, place), place, unit)
        rows = [{"key": "a", "error_code": expected, "n": 1}, {"key": "b", "error_code": None, "n": 2}]
        assert read(stage, None, place).to_pylist() == rows
        assert done_keys(stage, None, place) == ({"b"} if expected else {"a", "b"})
