"""The same rule in Python, DuckDB and Spark gives the same verdict."""

import sys
from pathlib import Path

import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from test_rule_sql import as_rows, random_rows, random_rules

from manifests.rule_sql import applies_sql, drops_sql, verdict_sql
from manifests.rules import applies
from pipelines import on_spark
from pipelines.on_spark import SparkConfig

pytestmark = pytest.mark.engine


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_spark_says_what_python_says_on_a_hundred_thousand_rows(tmp_path: Path) -> None:
    """On 10^5 random rows with nulls and float32's edge values Spark SQL gives Python's verdicts, and refuses NaN."""
    import pyarrow.parquet as pq

    table, rules = random_rows(100_000, seed=1), random_rules(12, seed=1)
    rows = as_rows(table)
    pq.write_table(table, tmp_path / "rows.parquet")
    spark = on_spark.session(1, SparkConfig(work_dir=str(tmp_path / "spark"), driver_memory="1g", brief=True))
    try:
        told = [e for i, r in enumerate(rules) for e in _columns(r, i)]
        found = spark.read.parquet(str(tmp_path / "rows.parquet")).selectExpr("clip_no", *told).toArrow().sort_by("clip_no")
        for i, rule in enumerate(rules):
            verdicts = [rule.verdict(getattr(row, rule.measure)) for row in rows]
            spoken = [applies(rule, row) for row in rows]
            assert found.column(f"v{i}").to_pylist() == verdicts, rule
            assert found.column(f"a{i}").to_pylist() == spoken, rule
            assert found.column(f"d{i}").to_pylist() == [s and not rule.survives(v) for s, v in zip(spoken, verdicts, strict=True)], rule
        nan = pa.table({"motion": pa.array([float("nan")], pa.float32())})
        pq.write_table(nan, tmp_path / "nan.parquet")
        of_motion = next(r for r in rules if r.measure == "motion")
        with pytest.raises(Exception, match="motion is NaN"):
            spark.read.parquet(str(tmp_path / "nan.parquet")).selectExpr(verdict_sql(of_motion, "spark")).collect()
    finally:
        spark.stop()


def _columns(rule, i: int) -> list[str]:
    return [f"{verdict_sql(rule, 'spark')} AS v{i}", f"{applies_sql(rule, 'spark')} AS a{i}", f"{drops_sql(rule, 'spark')} AS d{i}"]
