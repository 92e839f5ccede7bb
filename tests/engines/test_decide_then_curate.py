"""A decision on stored scores, and the curation that follows it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from manifests.rebuild import compare
from manifests.records import Clip
from manifests.schema import from_table
from manifests.tables import ManifestStore
from pipelines import config
from pipelines.settings import CurateConfig

pytestmark = pytest.mark.engine

OVERRIDE = "rules.motion.threshold=4"


@pytest.mark.timeout(1200)
def test_curate_after_a_decision_continues_from_it(samples: Path, curated, dailies, tmp_path: Path) -> None:
    """A decision opens no medium; curate with the same overrides has its configuration and its verdicts, writes new shards, and verifies."""
    dataset = Path(shutil.copytree(curated.path, tmp_path / "dataset"))
    store, log = ManifestStore(dataset), tmp_path / "media.log"
    decided = dailies("decide", dataset, OVERRIDE, "--commit", "--json", env={"DAILIES_MEDIA_LOG": str(log)})
    assert decided.status == 0, decided.err
    assert not log.exists()
    version = decided.json["version"]
    assert dailies("verify", dataset).status == 0
    after = {c.clip_id: c for c in from_table(Clip, store.read("clips", version))}
    assert sum(c.decision == "keep" for c in after.values()) < sum(
        c.decision == "keep" for c in from_table(Clip, store.read("clips", version - 1))
    )
    command = ("curate", samples, "--out", dataset, "--config", "tiny", OVERRIDE, "engine.name=local", "--json")
    done = dailies(*command, env={"DAILIES_MEDIA_LOG": str(log)})
    assert done.status == 0, done.err
    assert not done.json["nothing_left"]
    runs = store.read("runs").to_pylist()
    decided_by, curated_by = (config.bind(CurateConfig, json.loads(r["config_json"]), "run") for r in runs[-2:])
    assert dataclasses.replace(decided_by, engine=curated_by.engine) == curated_by  # where stages run decides nothing
    assert runs[-1]["policy"] == runs[-2]["policy"]
    # The table stages judge anew among those that are left, so verdicts agree up to the first rule on what they made.
    tables = {r["rule_no"] for r in store.read("rules").to_pylist() if r["stage"] in ("tables", "sets", "placed")}
    for clip in from_table(Clip, store.read("clips")):
        was = after[clip.clip_id]
        if was.first_fail_rule not in tables and was.first_fail_rule is not None:
            assert (clip.decision, clip.first_fail_rule) == (was.decision, was.first_fail_rule)
    assert compare(store) == []
    assert dailies("verify", dataset).status == 0
    again = dailies(*command)
    assert again.json["nothing_left"]
