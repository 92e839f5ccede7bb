"""Work is found again by content: done units are not done twice, half units are not there, and columns merge without losing rows."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stage import Job, Place, Stage
from pipelines.work import done_keys, merge_columns, missing, part_path, read, run_unit, waiting_keys

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


FAILING = pa.schema([("key", pa.string()), ("n", pa.int64()), ("error_code", pa.string())])
EXTRA = pa.schema([("key", pa.string()), ("part", pa.string())])


def _tried(codes: dict[str, str | None], again: bool = True, resting: tuple[str, ...] = ()) -> Stage:
    """A stage that gives each key the error that it has in `codes` now."""

    def make(config: Any, place: Place) -> Job:
        def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
            keys = rows.column("key").to_pylist()
            told = [{"key": k, "n": 1, "error_code": codes.get(k)} for k in keys]
            extra = pa.Table.from_pylist([{"key": k, "part": part} for k in keys for _ in range(2)], schema=EXTRA)
            return {"rows": pa.Table.from_pylist(told, schema=FAILING), "extra": extra}

        return job

    return Stage(
        name="try", shape="map", version="1", reads=ROWS, key="key", writes={"rows": FAILING, "extra": EXTRA}, make=make,
        depends_on=lambda c: c, unit_rows=lambda c: 2, again=(lambda row: row["error_code"] == "away") if again else None,
        rests=lambda row, config, place: row["key"] in resting,
    )  # fmt: skip


def _do(stage: Stage, place: Place, *keys: str) -> int:
    units = missing(stage, None, place, _table(dict.fromkeys(keys, 1)))
    for unit in units:
        run_unit(stage, stage.make(None, place), place, unit)
    return sum(u.n_rows for u in units)


def test_what_failed_for_a_passing_reason_is_tried_in_the_next_run(tmp_path: Path) -> None:
    """Each run tries it once, until it succeeds; then its row is the good one, and nothing is left. Other errors, and what rests, are final."""
    place, codes = Place(tmp_path), {"a": "away", "b": "broken", "c": "away"}
    assert _do(_tried(codes), place, "a", "b", "c", "d") == 4
    assert waiting_keys(_tried(codes), None, place) == {"a", "c"}
    assert (
        waiting_keys(_tried(codes, resting=("c",)), None, place) == {"a"} and waiting_keys(_tried(codes, again=False), None, place) == set()
    )
    assert _do(_tried(codes), place, "a", "b", "c", "d") == 2
    del codes["a"]
    assert _do(_tried(codes), place, "a", "b", "c", "d") == 2 and waiting_keys(_tried(codes), None, place) == {"c"}
    assert _do(_tried(codes, resting=("c",)), place, "a", "b", "c", "d") == 0
    found = {r["key"]: r["error_code"] for r in read(_tried(codes), None, place).to_pylist()}
    assert found == {"a": None, "b": "broken", "c": "away", "d": None}


@pytest.mark.parametrize("again", [True, False])
def test_overlapping_units_give_each_key_from_one_part(tmp_path: Path, again: bool) -> None:
    """Parts {a, b} and {b, c}, as runs leave them that were at it together, give a, b and c once in every output, b's all from one part."""
    place, stage = Place(tmp_path), _tried({}, again)
    units = [missing(stage, None, place, _table(dict.fromkeys(pair, 1)))[0] for pair in ("ab", "bc")]
    for unit in units:
        run_unit(stage, stage.make(None, place), place, unit)
    assert read(stage, None, place).column("key").to_pylist() == ["a", "b", "c"]
    extra = read(stage, None, place, "extra").to_pylist()
    assert [r["key"] for r in extra] == ["a", "a", "b", "b", "c", "c"] and len({r["part"] for r in extra if r["key"] == "b"}) == 1
    assert read(stage, None, place, "extra", pa.array(["b"])).to_pylist() == [r for r in extra if r["key"] == "b"]


def test_every_output_comes_from_the_try_that_succeeded(tmp_path: Path) -> None:
    """Where one part holds a failure of a key and another its success, rows and further outputs are those of the success, whatever their names."""
    for mended in ("a", "b"):
        place, other = Place(tmp_path / mended), "b" if mended == "a" else "a"
        _do(_tried({mended: "away"}), place, "a", "b")
        _do(_tried({}), place, mended)
        assert [r["error_code"] for r in read(_tried({}), None, place).to_pylist()] == [None, None]
        parts = {r["key"]: r["part"] for r in read(_tried({}), None, place, "extra").to_pylist()}
        assert parts[mended] != parts[other]
