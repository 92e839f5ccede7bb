"""The same rule in Python and in DuckDB gives the same verdict; what is said of Spark stands in tests/engines/test_rules_on_spark.py."""

import dataclasses

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from manifests import ledger
from manifests.rule_sql import applies_sql, drops_sql, first_place_sql, identifier, literal, verdict_sql
from manifests.rules import Rule, applies, decide

EDGES = [
    0.0,
    -0.0,
    0.1,
    0.6,
    1.0,
    2.0,
    -2.0,
    1e-45,
    -1e-45,
    1.1754944e-38,
    3.4028235e38,
    -3.4028235e38,
    16777216.0,
    16777218.0,
    float("inf"),
    float("-inf"),
]
NAMES = ["motion", "text_score", "n_frames", "has_audio"]


def random_rows(n: int, seed: int = 0) -> pa.Table:
    """Clips with scores of all kinds: nulls, edge values of float32, values next to thresholds, whole numbers, truths."""
    draw = np.random.default_rng(seed)
    edges = np.array(EDGES, np.float32)
    near = np.nextafter(edges, np.float32(np.inf) * draw.choice(np.array([-1, 1], np.float32), len(edges)))

    def floats() -> pa.Array:
        kind = draw.integers(0, 3, n)
        values = np.select(
            [kind == 0, kind == 1], [edges[draw.integers(0, len(edges), n)], near[draw.integers(0, len(edges), n)]], draw.normal(0, 3, n)
        )
        return pa.array(values.astype(np.float32), mask=draw.random(n) < 0.2)

    return pa.table(
        {
            "clip_no": pa.array(np.arange(n)),
            "asset_no": pa.array(np.zeros(n, np.int64)),
            "kind": pa.array([None if k == "none" else str(k) for k in draw.choice(["video", "image", "audio", "none", "it's \\ odd"], n)]),
            "set_name": pa.array([None if k == "none" else str(k) for k in draw.choice(["hd", "none", "a'b\\c"], n)]),
            "motion": floats(),
            "text_score": floats(),
            "n_frames": pa.array(draw.choice([0, 1, 2, 16777217, 2**53 + 1, -(2**62) + 1], n), pa.int64(), mask=draw.random(n) < 0.2),
            "has_audio": pa.array(draw.random(n) < 0.5, mask=draw.random(n) < 0.2),
            "error_code": pa.nulls(n, pa.string()),
            "decision": pa.array(["pending"] * n),
            "first_fail_rule": pa.nulls(n, pa.int32()),
        }
    )


def random_rules(n: int, seed: int = 0) -> list[Rule]:
    """Rules with every operator on every kind of column, with thresholds that float32 does not hold among them."""
    draw = np.random.default_rng(seed)
    thresholds = [*EDGES, 0.1 + 1e-12, 0.30000001, 1 / 3, 16777217.0, 1e300, -1e300, 1e-60]
    ops = ["<", "<=", ">", ">=", "=="]
    kinds = [("video",), ("video", "image"), (), ("it's \\ odd", "audio")]
    return [
        Rule(
            name=f"rule {i} 'quoted' \\ odd", stage="analysed", subject="clip", measure=NAMES[draw.integers(len(NAMES))], op=ops[i % 5],
            threshold=thresholds[draw.integers(len(thresholds))], kinds=kinds[draw.integers(4)], set_name=["", "hd", "a'b\\c"][draw.integers(3)],
            on_unknown="accept" if draw.random() < 0.3 else "reject",
        )
        for i in range(n)
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A subject as `manifests.rules.decide` takes it."""

    kind: str | None
    set_name: str | None
    motion: float | None
    text_score: float | None
    n_frames: int | None
    has_audio: bool | None
    error_code: str | None = None


def as_rows(table: pa.Table) -> list[Row]:
    """The rows as records."""
    names = [f.name for f in dataclasses.fields(Row)]
    return [Row(**row) for row in table.select(names).to_pylist()]


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_python_tables_and_duckdb_agree_on_a_hundred_thousand_rows() -> None:
    """On 10^5 random rows with nulls and float32's edge values: verdict, whom a rule speaks about, whom it drops, and the first to drop."""
    table, rules = random_rows(100_000), random_rules(20)
    rows = as_rows(table)
    con = duckdb.connect(":memory:")
    con.register("rows", table)
    told = ", ".join(f"{verdict_sql(r)}, {applies_sql(r)}, {drops_sql(r)}, {verdict_sql(r, may_be_nan=False)}" for r in rules)
    first = first_place_sql([drops_sql(r) for r in rules])
    found = con.sql(f"SELECT {told}, {first} FROM rows ORDER BY clip_no").fetchall()  # noqa: S608
    numbered = list(enumerate(rules))
    for i, rule in numbered:
        verdicts = [rule.verdict(getattr(row, rule.measure)) for row in rows]
        spoken = [applies(rule, row) for row in rows]
        assert [f[4 * i] for f in found] == verdicts, rule
        assert [f[4 * i + 3] for f in found] == verdicts, rule
        assert [f[4 * i + 1] for f in found] == spoken, rule
        assert [f[4 * i + 2] for f in found] == [s and not rule.survives(v) for s, v in zip(spoken, verdicts, strict=True)], rule
    decided = ledger.decide(numbered, table)
    assert [f[-1] for f in found] == [None if n < 0 else n for n in decided.first_fail.tolist()]
    sample = rows[:3000]
    codes = {(v.rule_no, int(n)): ledger.REASONS[c] for v in decided.verdicts for n, c in zip(v.rows, v.codes, strict=True) if n < 3000}
    assert codes == {(o.rule, n): o.reason_code for n, row in enumerate(sample) for o in decide(numbered, row)}


def test_names_and_values_are_never_read_as_sql() -> None:
    """A measure that is no plain name is refused; kinds and sets with quotes and backslashes stay values."""
    with pytest.raises(ValueError, match="expected the name of a column"):
        Rule(name="r", stage="s", subject="clip", measure='motion" OR 1=1 --', op=">", threshold=1)
    assert identifier("motion", "spark") == "`motion`"
    for text in ("it's", "a\\'b", "\\", "''", "x'; DROP TABLE clips; --"):
        assert duckdb.sql(f"SELECT {literal(text)}").fetchall() == [(text,)]
