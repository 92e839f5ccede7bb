"""One contract for all engines: every map, split and batch stage gives equal rows in plain Python and on Ray.

Table stages have theirs in test_tables_on_spark.py: plain Python against Spark.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.buckets import assign_set
from curation.listed import Listing
from curation.listing import list_inputs
from manifests.records import Asset, Clip
from manifests.schema import from_table, to_table
from pipelines import jobs, on_ray, plan, row_keys, shard_files
from pipelines.batches import BATCHES
from pipelines.config import load
from pipelines.on_ray import EngineConfig
from pipelines.plan import STAGES
from pipelines.settings import CurateConfig
from pipelines.stage import Place, Stage
from pipelines.work import merge_columns, missing, read

pytestmark = pytest.mark.engine

FILES = ("zoom_in.mp4", "tilt_down.mp4", "vfr.mp4", "phone.mp4", "upright.jpg", "melody.wav", "empty.mp4", "truncated.mp4", "notes.mp4")


@pytest.fixture(scope="module")
def config() -> CurateConfig:
    return load(CurateConfig, "curate", "tiny")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory):
    """A dataset folder for each engine; Ray is started once."""
    folder = tmp_path_factory.mktemp("contract")
    yield {"local": Place(folder / "local"), "ray": Place(folder / "ray")}
    on_ray.stop()


@pytest.fixture(scope="module")
def inputs(config: CurateConfig, places: dict[str, Place], samples: Path) -> dict[str, pa.Table]:
    """Input rows of every stage, made by running the stages before it in plain Python."""
    place = places["local"]
    listings = to_table(Listing, list_inputs([str(samples / f) for f in FILES]))
    found = {"ingest": listings}
    _run(plan.INGEST, config, place, "local", listings)
    assets = to_table(Asset, from_table(Asset, read(plan.INGEST, config, place)))
    found["probe"] = assets
    _run(plan.PROBE, config, place, "local", assets)
    assets = merge_columns(assets, read(plan.PROBE, config, place), "asset_id", jobs.FACT_COLUMNS)
    found["scan"] = assets.filter(pc.is_null(assets.column("error_stage")))
    _run(plan.SCAN, config, place, "local", found["scan"])
    found["split"] = read(plan.SCAN, config, place)
    _run(plan.SPLIT, config, place, "local", found["split"])
    clips = read(plan.SPLIT, config, place, "clips", key="asset_id").sort_by("clip_id")
    found |= {stage.name: clips for stage in (*plan.MEASURE, *plan.BATCH)}
    names = pa.array([assign_set(clip, tuple(config.sets.values())).set_name for clip in from_table(Clip, clips)], pa.string())
    placed = clips.set_column(clips.schema.get_field_index("set_name"), clips.schema.field("set_name"), names)
    placed = placed.filter(pc.is_valid(names))
    found |= {"caption": row_keys.caption_rows(placed, assets, config), "encode": row_keys.encode_rows(placed, assets, config)}
    _run(plan.ENCODE, config, place, "local", found["encode"])
    encoded = read(plan.ENCODE, config, place).to_pylist()
    samples_of = [
        {**{k: e[k] for k in ("clip_id", "extension", "part", "width", "height", "n_frames", "fps_num", "fps_den", "encode_digest", "payload_sha256")},
         "set_name": "s", "bucket": "b", "json": "{}", "txt": "a caption"}
        for e in encoded if e["encoded"] == 1
    ]  # fmt: skip
    found["shards"] = to_table(
        shard_files.PlannedShard, list(shard_files.plan_shards(samples_of, shard_files.ShardConfig(samples_per_shard=3)))
    )
    return found


WITH_WEIGHTS = {batch.name for batch in BATCHES if not batch.wanted(load(CurateConfig, "curate", "tiny"))}
"""Networks whose weights are not there; their adapters' tests run them on small weights."""


@pytest.mark.parametrize("stage", [s for s in STAGES if s.name not in WITH_WEIGHTS], ids=lambda s: s.name)
def test_a_stage_gives_equal_rows_on_every_engine(
    stage: Stage, config: CurateConfig, places: dict[str, Place], inputs: dict[str, pa.Table]
) -> None:
    """Every output of the stage, key frames and payload bytes included, is equal in plain Python and on Ray; no input is lost."""
    if stage is plan.WRITE_SHARDS:  # it reads what encode wrote, in its own dataset
        _run(plan.ENCODE, config, places["ray"], "ray", inputs["encode"])
    for engine, place in places.items():
        _run(stage, config, place, engine, inputs[stage.name])
    for output in stage.writes:
        local, ray = (read(stage, config, place, output, key=_key(stage, output)) for place in places.values())
        assert _sorted(local) == _sorted(ray), output
    done = read(stage, config, places["ray"]).column(stage.key).to_pylist()
    assert sorted(done) == sorted(inputs[stage.name].column(stage.key).to_pylist())
    assert missing(stage, config, places["ray"], inputs[stage.name]) == []


def _run(stage: Stage, config: CurateConfig, place: Place, engine: str, rows: pa.Table) -> None:
    units = missing(stage, config, place, rows)
    done = list(on_ray.run([(stage, unit) for unit in units], config, place, EngineConfig(name=engine)))
    assert sum(d["rows_in"] for d in done) == sum(u.n_rows for u in units)


def _key(stage: Stage, output: str) -> str:
    return stage.writes[output].names[0]


def _sorted(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))
