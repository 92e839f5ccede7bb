"""`dailies train tae` on a curated dataset: it trains on the shards, and the manifest knows what each checkpoint saw."""

import json
import shutil
from pathlib import Path

import pytest

from manifests.events import Exposure
from manifests.schema import from_table
from manifests.tables import ManifestStore
from pipelines.one_run import alone

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]


def test_training_leaves_exposures_that_explain_tells(curated, dailies, tmp_path: Path) -> None:
    """After a short run every complete checkpoint has its exposure row; a clip that was seen names it, and held-out clips do not.

    Checkpoints of which the manifest has no row yet are found in the run's folder; beside a curation that is only said. The same command again adds nothing; a configuration that would be another run is refused with a sentence.
    """
    dataset, out = tmp_path / "dataset", tmp_path / "run"
    shutil.copytree(curated.path, dataset)
    short = ("steps=4", "validate_every=4", "checkpoint_every=2", "pictures=1", "data.validate_clips=1")
    done = dailies("train", "tae", "--data", dataset, "--out", out, "--config", "tiny", "--json", *short)
    assert done.status == 0, done.err[-3000:]
    assert done.json["checkpoints"] == 2
    store = ManifestStore(dataset)
    exposures = from_table(Exposure, store.read("exposures"))
    assert [(e.first_step, e.end_step) for e in exposures] == [(0, 2), (0, 4)]
    assert all(e.manifest_version == curated.summary["version"] for e in exposures)

    kept = dailies("query", dataset, "select clip_id from clips where decision = 'keep' and kind != 'audio'", "--json").json
    told = {row["clip_id"]: dailies("explain", dataset, row["clip_id"], "--json").json for row in kept[:12]}
    seen = [c for c, e in told.items() if e["exposures"]]
    assert seen
    assert len(seen) <= 4 * 4
    assert "step-" in json.dumps(told[seen[0]]["exposures"])

    shutil.rmtree(dataset / "manifest")  # as a run leaves it that is killed, or goes on
    shutil.copytree(curated.path / "manifest", dataset / "manifest")
    store = ManifestStore(dataset)
    assert store.read("exposures").num_rows == 0
    with alone(dataset, "curate"):  # whose commit would find another run under its number
        busy = dailies("explain", dataset, seen[0], "--json")
    assert busy.status == 0 and "does not name yet" in busy.err and "found `dailies curate`" in busy.err
    assert store.read("exposures").num_rows == 0
    traced = dailies("trace", dataset, "--clip", seen[0], "--json")
    assert traced.status == 0 and len(traced.json["checkpoints"]) >= 1, traced.err
    assert store.read("exposures").num_rows == 2

    assert dailies("train", "tae", "--data", dataset, "--out", out, "--config", "tiny", *short).status == 0
    assert store.read("exposures").num_rows == 2
    other = dailies("train", "tae", "--data", dataset, "--out", out, "--config", "tiny", *short, "seed=9")
    assert other.status != 0
    assert "seed" in other.err
