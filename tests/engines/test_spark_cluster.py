"""The table stages give the same rows on one core, on two, and on a standalone cluster of two workers that the test starts and ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation import near_hashes
from curation.buckets import assign_sets_on_spark
from curation.cells import CellsConfig
from curation.concepts import ConceptsConfig, label_concepts_on_spark
from curation.duplicates import DuplicatesConfig, label_duplicates_on_spark
from curation.mix import MixConfig, label_mix_on_spark
from curation.sets import DurationRow, Need, SetConfig
from pipelines.on_spark import BRIEF_JVM, SparkConfig, find_java, run_table, session

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
ROWS = (DurationRow(min_s=4, max_s=16, n_frames=32, min_fps=2, max_fps=8),)
SETS = (
    SetConfig(name="small", kind="video", min_side_px=240, short_side_px=144, durations=ROWS, landscape_share=0.6),
    SetConfig(
        name="large", kind="video", min_side_px=720, area_side_px=768, durations=ROWS, needs=(Need(measure="motion", op=">", threshold=2),)
    ),
)
STAGES: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "duplicates": (
        # Cells far too small for the clips and the default reach: what is found depends on where vectors fall, and must not on who looks.
        lambda df: label_duplicates_on_spark(df, DuplicatesConfig(min_cosine=0.95, cells=CellsConfig(rows_per_cell=12, max_visits=2))),
        ("clip_id", "kind", "quality", "n_pixels", "pdq", "vector"),
    ),
    "balance": (lambda df: label_concepts_on_spark(df, ConceptsConfig(levels=2, max_clusters=32, max_sample=150)), ("clip_id", "vector")),
    "semdedup": (lambda df: label_concepts_on_spark(df, ConceptsConfig(method="semdedup", max_cosine=0.9)), ("clip_id", "vector")),
    "sets": (lambda df: assign_sets_on_spark(df, SETS), ("clip_id", "kind", "width", "height", "start_us", "end_us", "motion")),
    "mix": (
        lambda df: label_mix_on_spark(df, MixConfig(landscape_share={"small": 0.6}, people_share={"small": 0.5, "large": 0.6})),
        ("clip_id", "set_name", "width", "height", "has_people"),
    ),
}


def clips(n: int) -> pa.Table:
    """n clips with every column that a stage reads."""
    rng = np.random.Generator(np.random.Philox(key=21))
    x = rng.normal(size=(n, 8)) + 3 * np.eye(8)[rng.integers(0, 3, n)]
    x[n // 2 :] = x[: n - n // 2] + 0.3 * rng.normal(size=(n - n // 2, 8))
    hashes = rng.integers(0, 256, (n // 2, 32), dtype=np.uint8)[rng.integers(0, n // 2, n)]
    hashes[:, 0] ^= rng.integers(0, 4, n, dtype=np.uint8)
    size = np.array([(1280, 720), (720, 1280), (1920, 1080), (720, 720), (200, 300)])[rng.integers(0, 5, n)]
    start = rng.integers(0, 10**7, n)
    return pa.table(
        {
            "clip_id": [f"{v:016x}" for v in rng.integers(0, 2**60, n)],
            "kind": ["video"] * n,
            "quality": rng.integers(0, 4, n).astype(np.float64),
            "n_pixels": rng.integers(1, 3, n),
            "pdq": pa.array([[h.tobytes()] if i % 3 else [] for i, h in enumerate(hashes)], pa.list_(pa.binary())),
            "vector": pa.array([None if i % 25 == 4 else v.tolist() for i, v in enumerate(x)], pa.list_(pa.float32())),
            "width": pa.array(size[:, 0], pa.int32()),
            "height": pa.array(size[:, 1], pa.int32()),
            "start_us": start,
            "end_us": start + rng.integers(10**6, 2 * 10**7, n),
            "motion": pa.array([None if v > 9 else v for v in rng.uniform(0, 10, n)], pa.float32()),
            "has_people": pa.array([(1.0, 0.0, None)[i] for i in rng.integers(0, 3, n)], pa.float32()),
            "set_name": [("small", "large", None)[i] for i in rng.integers(0, 3, n)],
        }
    )


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A master and two workers of one core each on this machine; all they started is gone afterwards, whatever happened inside."""
    import pyspark

    program = Path(pyspark.__file__).parent / "bin" / "spark-class"
    env = {**os.environ, "JAVA_HOME": str(find_java().resolve().parents[1]), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, deploy, started = f"spark://127.0.0.1:{port}", "org.apache.spark.deploy", []

    def start(*arguments: str, log: Path) -> None:
        with log.open("w") as sink:
            # A session of its own: one signal reaches the daemon and the executors it started.
            command = [str(program), *arguments]
            started.append(subprocess.Popen(command, env=env, stdout=sink, stderr=sink, start_new_session=True))

    try:
        here = ("--host", "127.0.0.1", "--webui-port", "0")
        start(f"{deploy}.master.Master", *here, "--port", str(port), log=folder / "master.log")
        wait_for(lambda: "I have been elected leader" in (folder / "master.log").read_text(), "the master")
        for i in range(2):
            work = str(folder / f"worker{i}")
            start(
                f"{deploy}.worker.Worker", *here, "--cores", "1", "--memory", "1g", "--work-dir", work, url, log=folder / f"worker{i}.log"
            )
        wait_for(lambda: (folder / "master.log").read_text().count("Registering worker") == 2, "two workers")
        yield url
    finally:
        for process in reversed(started):
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """The process and its session are gone."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(20)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


def wait_for(there: Callable[[], bool], what: str) -> None:
    """Returns when it is there; fails after three minutes."""
    until = time.monotonic() + 180
    while not there():
        assert time.monotonic() < until, f"{what} did not come up in 180 s"
        time.sleep(0.3)


def over(partitions: int, stage: Callable[[Any], Any], rows: Any) -> Any:
    return stage(rows.repartition(partitions))


def rows_on(master: str, table: pa.Table, partitions: int, work: Path) -> dict[str, list[dict[str, Any]]]:
    """What every stage makes of the table on that master, in the order of the clips."""
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": BRIEF_JVM,
        "spark.executor.extraJavaOptions": BRIEF_JVM,
        "spark.executor.memory": "512m",
        "spark.executor.cores": "1",
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.sql.shuffle.partitions": str(partitions),
        "spark.executorEnv.PYTHONPATH": str(ROOT),
    }
    config = SparkConfig(work_dir=str(work), master=master, driver_memory="1g", settings=tuple(settings.items()))
    spark = session(2, config)
    try:
        workers = 2 if master.startswith("spark:") else 0
        spark.range(4).count()
        wait_for(lambda: int(spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size()) == workers + 1, f"{workers} executors")
        found = {}
        for name, (stage, columns) in STAGES.items():
            made = run_table(spark, partial(over, partitions, stage), table.select(columns), work / name)
            found[name] = made.sort_by("clip_id").to_pylist()
        return found
    finally:
        spark.stop()


def test_one_core_two_cores_and_a_cluster_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage gives equal rows on local[1], local[2] and two workers, in as many partitions and from rows in another order each time."""
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(near_hashes, "FEW_HASHES", 0)  # blocks, as of a large collection
    table = clips(300)
    orders = [np.random.Generator(np.random.Philox(key=number)).permutation(len(table)) for number in range(3)]
    found = [rows_on("local[1]", table.take(pa.array(orders[0])), 1, tmp_path / "one")]
    found.append(rows_on("local[2]", table.take(pa.array(orders[1])), 3, tmp_path / "two"))
    with cluster(tmp_path) as url:
        found.append(rows_on(url, table.take(pa.array(orders[2])), 4, tmp_path / "cluster"))
    for name in STAGES:
        assert found[0][name] == found[1][name] == found[2][name], name
    assert sum(r["dup_rank"] > 0 for r in found[0]["duplicates"]) > 10
    assert {r["set_name"] for r in found[0]["sets"]} == {"small", "large", None}
    assert {r["mix_keep"] for r in found[0]["mix"]} == {0.0, 1.0, None}


def test_a_cluster_is_cleaned_up_when_its_test_fails(tmp_path: Path) -> None:
    """Whatever is raised inside, no process of the cluster is left."""
    with pytest.raises(RuntimeError, match="inside"), cluster(tmp_path):
        daemons = running(tmp_path)
        assert len(daemons) >= 2
        raise RuntimeError("inside")
    assert running(tmp_path) == []


def running(folder: Path) -> list[int]:
    """The processes whose command names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found
