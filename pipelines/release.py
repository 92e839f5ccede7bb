"""`dailies release`: what the manifest cannot know of itself is told to it here: the code, the time, the stages of every run."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.events import Run
from manifests.exports.openlineage import StageRun
from manifests.release import Made, Request, make_release
from manifests.schema import from_table
from manifests.tables import ManifestStore
from pipelines import plan, provenance, reporting
from pipelines.config import ConfigError, bind
from pipelines.one_run import VERSIONS, alone
from pipelines.settings import CurateConfig
from pipelines.stage import Place, Stage

MAX_PARTS = 5_000
"""Parts of a stage whose rows are counted: each costs the reading of a footer, and what they count to is in the tables too."""

_TABLE_STAGES = ("duplicates", "concepts", "sets", "mix")
_READS = {
    "ingest": (),
    "probe": ("ingest",),
    "scan": ("probe",),
    "split": ("scan",),
    "caption": ("mix", "scan"),
    "encode": ("mix",),
    "shards": ("encode", "caption"),
}
"""What the stages read whose input is not simply clips and what their scan left."""


def release(dataset: Path, name: str, version: int | None, key: Path | None, said: Callable[[str], None]) -> Made:
    """The release stands in the dataset's `releases/<name>`; `said` is called with each step. DatasetBusy while versions are
    rewritten or deleted."""
    with alone(dataset, f"release {name}", VERSIONS):
        return _release(dataset, name, version, key, said)


def _release(dataset: Path, name: str, version: int | None, key: Path | None, said: Callable[[str], None]) -> Made:
    store = ManifestStore(dataset)
    version = store.version() if version is None else version
    request = Request(
        name=name,
        version=version,
        key=key,
        created_at=datetime.now(UTC),
        code_version=provenance.code_version(),
        stages=tuple(stage_runs(dataset, store, version)),
    )
    return make_release(store, request, reporting.images(dataset, version), said)


def stage_runs(dataset: Path, store: ManifestStore, version: int) -> Iterator[StageRun]:
    """Every stage of every curation up to the version, with what is left of its outputs in the work area."""
    runs: list[Run] = from_table(Run, store.read("runs", version))
    for run in runs:
        if run.command == "curate":
            yield from _stages_of(run, Place(dataset.absolute()))


def _stages_of(run: Run, place: Place) -> Iterator[StageRun]:
    try:
        config = bind(CurateConfig, json.loads(run.config_json), f"run {run.run_no}")
    except ConfigError:  # a run of an older version: its stages are told by name, without outputs
        config = None
    wanted = [*plan.STAGES[:4], *plan.MEASURE, *(plan.BATCH if config is None else (s for s, _ in plan.wanted_batches(config)))]
    before = [s.name for s in wanted[4:]]
    for stage in wanted:
        yield _stage_run(run, place, config, stage, _READS.get(stage.name, ("split", "scan")))
    engine = "spark"
    for at, name in enumerate(_TABLE_STAGES):
        reads = tuple(f"work/{b}" for b in (before if at == 0 else [_TABLE_STAGES[at - 1]]))
        yield StageRun(run_no=run.run_no, stage=name, shape="table", version="1", engine=engine, reads=reads, writes=(f"work/{name}",))
    for stage in (plan.CAPTION, plan.ENCODE, plan.WRITE_SHARDS):
        yield _stage_run(run, place, config, stage, _READS[stage.name])


def _stage_run(run: Run, place: Place, config: CurateConfig | None, stage: Stage, reads: tuple[str, ...]) -> StageRun:
    digest = None if config is None else stage.digest(config)
    return StageRun(
        run_no=run.run_no,
        stage=stage.name,
        shape=stage.shape,
        version=stage.version,
        engine="ray" if config is None else config.engine.name,
        reads=tuple(f"work/{r}" for r in reads) or ("source",),
        writes=("shards",) if stage is plan.WRITE_SHARDS else (f"work/{stage.name}",),
        **({} if digest is None else _left(place.work / stage.name / digest)),
    )


def _left(folder: Path) -> dict[str, Any]:
    """Rows, files, bytes and times of a stage's outputs; nothing where the work area was purged."""
    parts = list(folder.glob("*.parquet")) if folder.is_dir() else []
    if not parts:
        return {}
    stats = [p.stat() for p in parts]
    rows = [p for p in parts if p.name.count(".") == 1]
    return {
        "files": len(parts),
        "size_bytes": sum(s.st_size for s in stats),
        "rows_out": sum(pq.read_metadata(p).num_rows for p in rows) if len(rows) <= MAX_PARTS else None,
        "started_at": datetime.fromtimestamp(min(s.st_mtime for s in stats), UTC),
        "ended_at": datetime.fromtimestamp(max(s.st_mtime for s in stats), UTC),
    }
