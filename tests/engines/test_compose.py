"""The table stages inside a curation: what a copy-detection network left joins the hashes, people are exempt, and shortages are said."""

import dataclasses
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.concepts import ConceptsConfig
from manifests.records import Asset, Clip
from manifests.schema import to_table
from pipelines import tables
from pipelines.config import load
from pipelines.curation_run import Curation
from pipelines.progress import Progress
from pipelines.settings import CurateConfig

pytestmark = pytest.mark.engine

MEASURED: dict[str, Any] = {"text_score": 0.0, "border_share": 0.0, "motion": 5.0, "motion_vector_px": 2.0, "shots_per_s": 0.1}


class Fed(Curation):
    """A curation whose batch stages left what the test says."""

    left: dict[str, pa.Table]

    def outputs(self, stage: Any, inputs: pa.Table, output: str = "rows", key: str | None = None) -> pa.Table:
        """The rows that the stage left."""
        return self.left[stage.name]


@pytest.fixture(autouse=True)
def spark_ends() -> Iterator[None]:
    yield
    tables.wait()


def curation(folder: Path) -> Fed:
    """Eight videos: 0 and 1 alike by hash, 1 and 2 by vector, the rest alone; 3 shows people; 7 is portrait."""
    config = load(CurateConfig, "curate", "paper", ["sscd.weights=sscd.pt", "engine.cpus=2", "engine.spark_memory=1g"])
    rules = {k: r for k, r in config.rules.items() if r.stage in ("tables", "sets")}
    concepts = ConceptsConfig(clusters=1, min_clips=1, max_probability=0.001)
    run = Fed(folder, dataclasses.replace(config, rules=rules, concepts=concepts), Progress(quiet=True), date(2026, 1, 1))
    clips = []
    for i in range(8):
        width, height = (1080, 1920) if i == 7 else (1920, 1080)
        clips.append(
            Clip(
                clip_id=f"{i:032x}", asset_id="fine" if i == 2 else "coarse", kind="video", start_us=0, end_us=16_000_000, width=width, height=height,
                keyframe_part="k", effective_resolution=1, has_people=float(i == 3) if i < 6 else None, **MEASURED,
            )
        )  # fmt: skip
    run.clips = to_table(Clip, clips)
    facts: dict[str, Any] = {"asset_sha256": b"", "asset_md5": b"", "uri": "film.mp4", "vcodec": "h264", "duration_us": 16_000_000}
    run.assets = to_table(Asset, [Asset(asset_id=name, size_bytes=n, **facts) for name, n in (("coarse", 10**6), ("fine", 10**7))])
    ids = run.clips["clip_id"]
    hashes = np.random.Generator(np.random.Philox(key=1)).integers(0, 256, (8, 32), dtype=np.uint8)
    hashes[1] = hashes[0]
    x = np.random.Generator(np.random.Philox(key=2)).normal(size=(8, 16))
    x[2] = x[1] + 0.001
    floats = pa.list_(pa.float32())
    run.left = {
        "describe": pa.table(
            {
                "clip_id": ids,
                "pdq": pa.array([[h.tobytes()] for h in hashes], pa.list_(pa.binary())),
                "pdq_frame": pa.array([[0]] * 8, pa.list_(pa.int32())),
                "pdq_own": pa.array([[True]] * 8, pa.list_(pa.bool_())),
                "concept": pa.array(x.tolist(), floats),
            }
        ),
        "copies": pa.table({"clip_id": ids, "vector": pa.array([None, *x[1:].tolist()], floats)}),
    }
    return run


def test_a_curation_composes_its_sets(tmp_path: Path) -> None:
    """Hash and vector make one group whose keeper is the one with most bits; the clip with people is kept by concepts and has set, tokens and all sets
    that take it; what was not measured is said."""
    run = curation(tmp_path)
    said = tables.compose(run)
    assert run.compared == tables.Compared(fresh=8, known=0)
    rows = run.clips.to_pylist()
    keeper = rows[2]["clip_id"]
    assert [(r["dup_group"], r["dup_rank"]) for r in rows[:4]] == [(keeper, 1), (keeper, 2), (keeper, 0), (None, 0)]
    assert rows[0]["dup_similarity"] is None and rows[1]["dup_similarity"] > 0.99 and rows[1]["dup_distance"] > 31
    assert [r["concept_margin"] > 0 for r in rows[2:]] == [False, True, False, False, False, False]
    assert (rows[3]["keep_probability"], rows[3]["cluster_path"], rows[3]["cluster_size"]) == (1.0, "0/0", 6)
    # Aesthetics was not measured, so high_res takes none; 256 px of low_res are 336 x 192.
    assert (rows[3]["set_name"], rows[3]["fits_sets"], rows[3]["bucket"], rows[3]["n_tokens"]) == (
        "low_res",
        "low_res",
        "16x9_256f",
        32 * 12 * 21,
    )
    assert [line for line in said if line.split()[1] in ("high_res", "low_res", "edit")] == [
        "set edit wants aesthetic >= 4.5 and shake < 0.35; measured on none of 1 video clips, so it takes none",
        "set high_res wants aesthetic >= 4; measured on none of 1 video clips, so it takes none",
        "set low_res wants 60% landscape; found 1 landscape and 0 portrait clips, kept all",
    ]
    assert {line.split()[1] for line in said} == {"edit", "high_res", "low_res", "personal", "personal_sft", "sft"}
