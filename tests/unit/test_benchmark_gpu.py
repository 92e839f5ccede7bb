"""The GPU benchmark runs where only torch and numpy are, every part of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("av", "deepspeed", "deltalake", "duckdb", "hydra", "omegaconf", "ray", "rich", "torchmetrics", "typer", "yaml")
CODE = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not on that machine")

sys.meta_path.insert(0, Blocker())
sys.argv = [{script!r}, "--small", "--out", {out!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_every_part_runs_without_the_projects_dependencies(tmp_path: Path) -> None:
    """In a process that cannot import the engines, media or command line libraries, each part gives rows, no row failed, and rates are
    what the formulas and the time make of each other."""
    code = CODE.format(blocked=BLOCKED, script=str(ROOT / "benchmarks/gpu.py"), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = found["rows"]
    assert {row["part"] for row in rows} == {"ceilings", "correctness", "layers", "mask", "training", "autoencoder"}
    assert [row for row in rows if row["error"]] == []
    assert found["machine"]["torch"]
    product = next(row for row in rows if row["case"].startswith("bf16 product"))
    assert product["tflops"] * product["ms"] * 1e9 == pytest.approx(2 * 256**3)
    again = {row["case"]: row["hfu"] / row["mfu"] for row in rows if row["part"] == "layers"}
    assert {case: ratio for case, ratio in again.items() if "recomputed" in case} == pytest.approx(
        {case: 4 / 3 for case in again if "recomputed" in case}
    )
    assert sum(ratio == pytest.approx(1.0) for ratio in again.values()) == len(again) - 2
    assert all(row["planned_gb"] > 0 for row in rows if row["part"] == "training")
    assert (tmp_path / "gpu.md").read_text().count("\n") == len(rows) + 2
