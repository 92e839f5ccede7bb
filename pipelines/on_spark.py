"""Table stages on Spark: a quiet local session, and the wiring that takes Parquet files or Arrow tables in and gives Arrow tables out.

No jars are needed. Rows pass between Spark and Python as Arrow batches, between stages and the caller as Parquet files.
"""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import class_archive
from pipelines.progress import stderr_to

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MIN_JAVA = 17
"""Spark 4 runs on Java 17 and later."""

BRIEF_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Of a JVM that lives for a minute: its optimising compiler and concurrent collector use more of two cores than the rows do."""

_PROJECT = Path(__file__).resolve().parents[1]
_REMEDY = f"install one (e.g. the package openjdk-{MIN_JAVA}-jre-headless), set JAVA_HOME to it, or unpack it under .tools/"

Table: TypeAlias = pa.Table | Path | Sequence[Path]
"""An Arrow table, a Parquet file or folder, or several files."""

Transform = Callable[["DataFrame"], "DataFrame"]
"""A table stage with its config bound, e.g. `lambda df: label_duplicates_on_spark(df, cfg)`."""


class JavaError(RuntimeError):
    """No Java that Spark can run on was found; names what was looked at and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkConfig:
    """Resources of a session. Every default is ours, for one machine; a cluster gives its own through `master` and `settings`."""

    work_dir: str  # shuffles, spills and checkpoints: a folder under the dataset's work/, deleted freely
    master: str | None = None  # null: local, on the cores asked for
    driver_memory: str = "2g"  # a local session has no other heap; vectors and hashes live in the Python workers
    partitions_per_core: int = 2  # enough to even out a slow one; 200, Spark's default, spends seconds a stage on scheduling
    arrow_batch_rows: int = 4096  # rows handed to Python at once: 8 MB of 512-float vectors
    brief: bool = False  # for few rows: a local JVM compiles for a quick start, which halves the CPU of a minute and slows an hour.
    # pyspark keeps a process's JVM: a larger run after a small one in one Python process has the small one's
    leave_archive: bool = False  # a local JVM leaves the archive of its classes when `end` ends it, where there is none yet
    log_level: str = "ERROR"
    settings: tuple[tuple[str, str], ...] = ()  # further Spark settings, applied last

    def __post_init__(self) -> None:
        if self.partitions_per_core < 1 or self.arrow_batch_rows < 1:
            raise ValueError(f"spark: partitions_per_core and arrow_batch_rows of at least 1 expected, found {self}")


def find_java() -> Path:
    """The Java program Spark will run on: from JAVA_HOME, PATH, or the project's .tools folder; the first of version 17 or later."""
    looked = []
    for path in _javas():
        version = java_version(path)
        if version is not None and version >= MIN_JAVA:
            return path
        looked.append(f"{path} (version {version or 'unknown'})")
    raise JavaError(f"spark: Java {MIN_JAVA} or later expected, found {', '.join(looked) or 'none'}: {_REMEDY}")


def java_version(java: Path) -> int | None:
    """The feature version that a Java program states, e.g. 17; null when it does not run or says nothing of the kind."""
    try:
        said = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None


def session(cores: int | None, config: SparkConfig) -> "SparkSession":
    """A quiet Spark session on that many local cores (null: all), or on `config.master`. Raises JavaError.

    Spark keeps one session a process: while one lives it is returned again, and only settings that may change at run time are applied.
    """
    java = find_java()
    os.environ["JAVA_HOME"] = str(java.resolve().parents[1])  # read by the script with which pyspark starts the JVM
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ["PYTHONSAFEPATH"] = "1"  # Spark starts Python with -m, which would put the current directory first on its path
    if config.master is None:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    work = Path(config.work_dir).resolve()
    work.mkdir(parents=True, exist_ok=True)
    cores = cores or os.cpu_count() or 1
    from pyspark.sql import SparkSession

    options = "" if config.master is not None else _class_options(java, work, config)
    builder = SparkSession.builder.appName("dailies").master(config.master or f"local[{cores}]")
    for key, value in {**_settings(cores, work, config, options), **dict(config.settings)}.items():
        builder = builder.config(key, value)
    with stderr_to(work / "spark.log"):
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel(config.log_level)
    spark.sparkContext.setCheckpointDir(str(work / "checkpoints"))
    return spark


def end(spark: "SparkSession", config: SparkConfig) -> Callable[[], None]:
    """The session is down. What is returned is to be called before this process ends: where the JVM was to leave the archive of its classes,
    it waits until it did, which takes some seconds of its own."""
    from pyspark import SparkContext

    gateway, draft = SparkContext._gateway, _draft(Path(config.work_dir).resolve())
    leaves = str(draft) in (spark.sparkContext.getConf().get("spark.driver.extraJavaOptions") or "")
    spark.stop()
    if not leaves or gateway is None:
        return lambda: None
    SparkContext._gateway = SparkContext._jvm = None  # the next session of this process starts a JVM of its own
    gateway.shutdown()
    gateway.proc.stdin.close()  # which is what a JVM of pyspark waits for
    return partial(_wait_for_archive, gateway.proc, draft)


def _wait_for_archive(jvm: "subprocess.Popen[bytes]", draft: Path) -> None:
    try:
        jvm.wait(60)
    except subprocess.TimeoutExpired:
        jvm.kill()
        jvm.wait()
        draft.unlink(missing_ok=True)
    class_archive.keep(draft, class_archive.archive_of(find_java()))


def run_table(spark: "SparkSession", transform: Transform, source: Table, work: Path) -> pa.Table:
    """The rows that a table stage makes of the source. Both sides pass through Parquet files in the folder `work`, which is made anew."""
    return pq.read_table(write_table(spark, transform, source, work))


def write_table(spark: "SparkSession", transform: Transform, source: Table, work: Path) -> Path:
    """The folder of Parquet files that holds those rows: no row passes through this process, so there may be any number of them."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if isinstance(source, pa.Table):
        pq.write_table(source, work / "in.parquet")
        source = work / "in.parquet"
    paths = [source] if isinstance(source, Path) else source
    rows = spark.read.parquet(*[str(p) for p in paths])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pyspark 4.3 on pandas 3; our tables pass as Arrow, never as pandas
        transform(rows).write.parquet(str(work / "out"))
    return work / "out"


def run_tables(spark: "SparkSession", jobs: Mapping[str, tuple[Transform, Table]], work: Path) -> dict[str, pa.Table]:
    """The result of every named (stage, source), one after the other, each in its own folder under `work`."""
    return {name: run_table(spark, transform, source, work / name) for name, (transform, source) in jobs.items()}


def _javas() -> list[Path]:
    """Java programs worth trying, in order."""
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    found = [Path(home) / "bin" / "java"] if home else []
    found += [Path(on_path)] if on_path else []
    found += sorted((_PROJECT / ".tools").glob("*/bin/java"), reverse=True)
    found += sorted((_PROJECT / ".tools").glob("*/Contents/Home/bin/java"), reverse=True)
    return found


def _class_options(java: Path, work: Path, config: SparkConfig) -> str:
    archive = class_archive.archive_of(java)
    _draft(work).unlink(missing_ok=True)  # a killed run's
    if archive is not None and archive.is_file():
        return class_archive.use(archive)
    return class_archive.leave(_draft(work)) if archive is not None and config.leave_archive else ""


def _draft(work: Path) -> Path:
    return work / "classes.jsa"


def _settings(cores: int, work: Path, config: SparkConfig, options: str) -> dict[str, str]:
    partitions = cores * config.partitions_per_core
    shared = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": config.log_level,
        "spark.sql.session.timeZone": "UTC",
        "spark.executorEnv.PYTHONSAFEPATH": "1",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(config.arrow_batch_rows),
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # the type of our tables; INT96 is Spark's old one
        "spark.cleaner.referenceTracking.cleanCheckpoints": "true",  # the components checkpoint once a round
    }
    if config.master is not None:
        return shared
    # Workers are started by the JVM, not by this process: they find our packages only when told where they lie.
    paths = [str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    local = {
        "spark.driver.memory": config.driver_memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(work / "spill"),
        "spark.sql.warehouse.dir": str(work / "warehouse"),
        "spark.sql.shuffle.partitions": str(partitions),
        "spark.default.parallelism": str(partitions),
        "spark.executorEnv.PYTHONPATH": os.pathsep.join(paths),
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",  # one Python worker a core already
        "spark.driver.extraJavaOptions": f'"-Djava.io.tmpdir={work}" "-XX:ErrorFile={work}/crash-%p.log" {BRIEF_JVM if config.brief else ""} {options}',
    }
    return {**shared, **local}
