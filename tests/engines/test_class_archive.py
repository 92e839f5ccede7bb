"""Spark's JVM leaves an archive of its classes, and the next one maps it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import class_archive
from pipelines.on_spark import SparkConfig, end, session

pytestmark = pytest.mark.engine


def counted(folder: Path) -> tuple[int, str, Callable[[], None]]:
    """What a session counts, the files that its JVM has mapped, and what waits for its archive."""
    config = SparkConfig(work_dir=str(folder), driver_memory="512m", brief=True, leave_archive=True)
    spark: Any = session(1, config)
    mapped = Path(f"/proc/{spark.sparkContext._gateway.proc.pid}/maps")
    found = spark.range(4).count(), mapped.read_text()
    return *found, end(spark, config)


@pytest.fixture
def own_jvm() -> Iterator[Callable[[], None]]:
    """Sessions of the test begin with a JVM of their own, and so do those of the tests after it: called, this process has none."""
    from pyspark import SparkContext

    def without() -> None:
        if SparkContext._gateway is not None:
            SparkContext._gateway.shutdown()
            SparkContext._gateway.proc.stdin.close()
            SparkContext._gateway.proc.wait(60)  # it has the archive mapped: written over before, it would crash
            SparkContext._gateway = SparkContext._jvm = None

    without()
    yield without
    without()


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has mapped is told by Linux's /proc alone")
def test_an_archive_is_left_and_mapped_and_a_damaged_one_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_jvm: Callable[[], None]
) -> None:
    """The first session leaves the archive when it has ended, whole and without a draft; the next one maps it; one of garbage is as none."""
    archive = tmp_path / "share" / "spark-0.jsa"
    monkeypatch.setattr(class_archive, "archive_of", lambda java: archive)
    n, maps, wait = counted(tmp_path / "one")
    assert n == 4 and str(archive) not in maps and not archive.exists()
    wait()
    assert archive.stat().st_size > 20_000_000 and list((tmp_path / "one").glob("*.jsa")) == []
    n, maps, wait = counted(tmp_path / "two")
    wait()
    assert n == 4 and str(archive) in maps
    own_jvm()
    archive.write_bytes(b"no archive" * 1000)
    n, maps, wait = counted(tmp_path / "three")
    assert n == 4 and str(archive) not in maps


def test_the_newest_archive_is_the_only_one(tmp_path: Path) -> None:
    """A draft becomes the archive and those of other installations of Java or Spark go; without a draft, or a place for it, nothing is kept."""
    draft, archive, other = (tmp_path / name for name in ("classes.jsa", "kept/spark-1.jsa", "kept/spark-2.jsa"))
    other.parent.mkdir()
    other.write_bytes(b"old")
    assert not class_archive.keep(draft, archive) and other.exists()
    draft.write_bytes(b"new")
    assert class_archive.keep(draft, archive) and archive.read_bytes() == b"new"
    assert [p.name for p in other.parent.iterdir()] == ["spark-1.jsa"] and not draft.exists()
    draft.write_bytes(b"new")
    assert not class_archive.keep(draft, draft / "under-a-file" / "spark-1.jsa") and not draft.exists()


def test_another_java_has_another_archive(tmp_path: Path) -> None:
    """The archive's name follows Java's release; for one that is not HotSpot there is none."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_bytes(b"")
    found = []
    for release in ('JAVA_VERSION="17.0.15"', 'JAVA_VERSION="21.0.2 and more"', 'JAVA_VERSION="17.0.15"\nJVM_VARIANT="Openj9"'):
        (tmp_path / "release").write_text(release)
        found.append(class_archive.archive_of(java))
    assert found[2] is None and None not in found[:2] and found[0] != found[1]
