"""Other thresholds on stored scores: what is shown is what a decision makes, and what a decision makes is what the ledger says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from benchmarks.ledger_manifest import build
from manifests import ledger
from manifests.cubes import build_cubes
from manifests.diff import diff
from manifests.funnel import Amount, count_funnels
from manifests.policy import policy_at
from manifests.query import connect
from manifests.rebuild import compare, rebuild
from manifests.records import Caption, Clip, Member, Shard
from manifests.schema import arrow_schema, from_table, to_table
from manifests.tables import ManifestConflict, ManifestStore
from pipelines import config, decide, one_run
from pipelines.cli import app
from pipelines.one_run import DatasetBusy
from pipelines.progress import Progress
from pipelines.settings import CurateConfig
from training.data.index import load_samples

CHANGES = [
    ["rules.motion.threshold=3"],
    ["rules.motion.threshold=1", "rules.text.enabled=false"],
    ["rules.short_side.threshold=1000", "rules.near_duplicate.enabled=false"],
    ["rules.short_side.threshold=300", "rules.aesthetic.on_unknown=accept", "rules.captioned.on_unknown=accept", "rules.encoded.on_unknown=accept"],
    ["rules.interlaced.enabled=true", "rules.motion.op='>='"],
]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decided dataset of some 3,000 clips with shards."""
    root = tmp_path_factory.mktemp("built")
    store = build(root, 3000, [])
    clips = store.read("clips")
    kept = clips.filter(pc.equal(clips.column("decision"), "keep"))
    shards = [
        Shard(shard_no=n, path=f"shards/{n}.tar", set_name="low_res", bucket="b", size_bytes=1, sha256=b"", n_samples=1, encode_digest="", created_run_no=0)
        for n in set(kept.column("shard_no").to_pylist())
    ]  # fmt: skip
    members = [
        Member(shard_no=c["shard_no"], clip_no=c["clip_no"], clip_id=c["clip_id"], extension="mp4", offset=0, size_bytes=1, sha256=b"")
        for c in kept.to_pylist()
    ]
    captions = [
        Caption(caption_no=c["caption_no"], clip_no=c["clip_no"], text="t", captioner="facts", captioner_version="1")
        for c in kept.to_pylist()
    ]
    store.commit(
        "shards",
        replace={"shards": to_table(Shard, shards), "members": to_table(Member, members), "captions": to_table(Caption, captions)},
    )
    return root


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(built, tmp_path / "dataset"))


def _kept(store: ManifestStore, version: int) -> dict[str, set[int]]:
    clips = store.read("clips", version)
    kept = clips.filter(pc.equal(clips.column("decision"), "keep"))
    found: dict[str, set[int]] = {}
    for name, number in zip(kept.column("set_name").to_pylist(), kept.column("clip_no").to_pylist(), strict=True):
        found.setdefault(name or "", set()).add(number)
    return found


@pytest.mark.parametrize("overrides", CHANGES, ids=" ".join)
def test_what_is_shown_is_what_is_committed(dataset: Path, overrides: list[str]) -> None:
    """The dry run's funnels and sets, the committed state, the state rebuilt from the ledger, its funnel and its cubes all agree."""
    store = ManifestStore(dataset)
    shown = decide.decide(dataset, overrides)
    assert shown.version is None
    assert store.version() == 1
    done = decide.decide(dataset, overrides, commit=True)
    assert dataclasses.replace(done, version=None, query_seconds=0, commit_seconds=0) == dataclasses.replace(
        shown, query_seconds=0, commit_seconds=0
    )
    assert done.version == 2
    before, after = _kept(store, 1), _kept(store, 2)
    for c in done.changes:
        for side in (c.before, c.after):
            for step in side.steps:
                assert step.met == step.passed + step.rejected + step.unknown
                assert min(step.passed.n, step.rejected.n, step.unknown.n) >= 0
        assert c.after.kept - c.before.kept == c.gained - c.lost
    for name in before.keys() | after.keys():
        told = [c for c in done.changes if c.subject == "clip" and c.set_name == name]
        old, new = before.get(name, set()), after.get(name, set())
        assert sum(c.before.kept.n for c in told) == len(old)
        assert sum(c.after.kept.n for c in told) == len(new)
        assert (sum(c.gained.n for c in told), sum(c.lost.n for c in told)) == (len(new - old), len(old - new))
    assert compare(store) == []
    _check_funnel(store, done)
    _check_cubes(store)


def _check_funnel(store: ManifestStore, done: decide.Decision) -> None:
    """The funnel counted from the ledger has the numbers that were shown, rule by rule."""
    for funnel in count_funnels(connect(store)):
        told = [
            c.after for c in done.changes if (c.kind == funnel.name and c.subject == "clip") or (c.subject == "asset" == funnel.subject)
        ]
        names = [s.name for s in told[0].steps]
        for step in funnel.steps:
            mine = [t.steps[names.index(step.name)] for t in told]
            for part in ("met", "passed", "rejected", "unknown", "left"):
                assert sum((getattr(s, part) for s in mine), Amount()) == getattr(step, part), (funnel.name, step.name, part)


def _check_cubes(store: ManifestStore) -> None:
    """The cubes counted while the tables streamed by are those of the whole tables."""
    policy, assets, clips = policy_at(store), store.read("assets"), store.read("clips")
    of_assets, of_clips = (ledger.decide([p for p in policy if p[1].subject == s], t) for s, t in (("asset", assets), ("clip", clips)))
    run_no = store.read("runs").num_rows - 1
    key = [
        ("name", "ascending"),
        ("kind", "ascending"),
        ("rule_no", "ascending"),
        ("source_no", "ascending"),
        ("measure", "ascending"),
        ("bin", "ascending"),
        ("verdict", "ascending"),
    ]
    expected = build_cubes(run_no, assets, of_assets, clips, of_clips).sort_by(key)
    found = store.read("cubes").filter(pc.field("run_no") == run_no).sort_by(key)
    mine = pc.fill_null(pc.not_equal(found.column("measure"), "asset_kept"), True)
    other = pc.fill_null(pc.not_equal(expected.column("measure"), "asset_kept"), True)
    assert found.filter(mine).equals(expected.filter(other))


def test_there_and_back_is_the_same_state(dataset: Path) -> None:
    """Undoing a decision gives every clip the state, shard and caption it had, and appends only what turned."""
    store = ManifestStore(dataset)
    names = ["clip_no", "decision", "first_fail_rule", "shard_no", "caption_no", "asset_kept"]
    decide.decide(dataset, ["rules.motion.threshold=3"], commit=True)
    rows = store.read("decisions").num_rows
    decide.decide(dataset, ["rules.motion.threshold=2.0"], commit=True)
    assert store.read("clips", columns=names).equals(store.read("clips", 1, names))
    assert store.read("decisions").num_rows - rows < rows / 20
    again = decide.decide(dataset, [], commit=True)
    assert (again.version, again.rules) == (None, ())
    assert compare(store) == []


def test_the_configuration_is_that_of_curate_with_the_same_overrides(dataset: Path) -> None:
    """What a decision leaves as the settings in force is exactly what `dailies curate` composes from the same overrides."""
    overrides = ["rules.motion.threshold=3", "rules.text.enabled=false", "rules.interlaced.enabled=true"]
    done = decide.decide(dataset, overrides, commit=True)
    settings = config.load(CurateConfig, "curate", "paper", overrides)
    assert done.config_sha256 == config.digest(settings)
    run = ManifestStore(dataset).read("runs").to_pylist()[-1]
    assert (run["command"], run["config_sha256"]) == ("decide", config.digest(settings))
    assert config.bind(CurateConfig, json.loads(run["config_json"]), "run") == settings
    assert [r.name for _, r in policy_at(ManifestStore(dataset))] == [r.name for r in settings.policy()]


def test_dropped_clips_are_not_trained_on(dataset: Path) -> None:
    """From the version of a decision on, the training index holds the members of kept clips only; the version before is as it was."""
    store = ManifestStore(dataset)
    decide.decide(dataset, ["rules.motion.threshold=3"], commit=True)
    kept = _kept(store, 2)
    assert {s.clip_no for s in load_samples(dataset, 2)} == set().union(*kept.values())
    assert {s.clip_no for s in load_samples(dataset, 1)} == set().union(*_kept(store, 1).values())
    assert len(load_samples(dataset, 2)) < len(load_samples(dataset, 1))


def test_what_was_never_measured_is_not_kept_but_said(dataset: Path) -> None:
    """A clip that an earlier rule dropped has no later scores: a laxer rule leaves it unknown, and so dropped, and the count says how many."""
    done = decide.decide(dataset, ["rules.motion.threshold=0"], commit=True)
    assert sum(c.gained.n for c in done.changes) == 0
    waiting = sum(c.to_measure.n for c in done.changes if c.subject == "clip")
    assert waiting > 0
    clips = ManifestStore(dataset).read("clips")
    text = next(n for n, r in policy_at(ManifestStore(dataset)) if r.name == "text")
    dropped = clips.filter(pc.and_(pc.equal(clips.column("first_fail_rule"), text), pc.is_null(clips.column("text_score"))))
    assert dropped.num_rows == waiting


def test_a_takedown_stands_above_the_rules(dataset: Path) -> None:
    """Clips and assets that were taken down keep their state whatever the rules say, are counted as held back, and verify still holds."""
    store = ManifestStore(dataset)
    clips, assets = store.read("clips"), store.read("assets")
    kept = sorted(set().union(*_kept(store, 1).values()))
    taken = pc.equal(clips.column("clip_no"), kept[0])
    decision = pc.if_else(taken, "removed", clips.column("decision"))
    of_asset = clips.filter(pc.equal(clips.column("clip_no"), kept[1])).column("asset_no")[0].as_py()
    state = pc.if_else(pc.equal(assets.column("asset_no"), of_asset), "quarantined", assets.column("state"))
    clips = clips.set_column(clips.schema.get_field_index("decision"), clips.schema.field("decision"), decision)
    assets = assets.set_column(assets.schema.get_field_index("state"), assets.schema.field("state"), state)
    store.commit("takedown", replace={"clips": clips, "assets": assets})
    assert compare(store) == []
    done = decide.decide(dataset, ["rules.text.enabled=false"], commit=True)
    assert sum(c.after.withheld.n for c in done.changes if c.subject == "clip") >= 2
    after = {c.clip_no: c for c in from_table(Clip, store.read("clips"))}
    assert after[kept[0]].decision == "removed"
    assert after[kept[0]].shard_no is None
    assert compare(store) == []


def test_a_stored_state_that_the_ledger_does_not_give_is_found(dataset: Path) -> None:
    """Verifying rebuilds the state of every asset and clip from the decisions, and names the first that differs."""
    store = ManifestStore(dataset)
    clips = store.read("clips")
    (batch,) = pa.Table.from_batches(rebuild(store)).combine_chunks().to_batches()
    assert batch.column("decision").equals(clips.column("decision").combine_chunks())
    assert batch.column("first_fail_rule").equals(clips.column("first_fail_rule").combine_chunks())
    wrong = np.array(clips.column("decision").to_pylist(), object)
    number = clips.column("clip_no").to_pylist()[7]
    wrong[7] = "keep" if wrong[7] == "drop" else "drop"
    changed = clips.set_column(clips.schema.get_field_index("decision"), arrow_schema(Clip).field("decision"), pa.array(wrong.tolist()))
    store.commit("tampered", replace={"clips": changed})
    (found,) = compare(store)
    assert (found.table, found.n, found.example) == ("clips", 1, f"clip {number}")
    result = CliRunner().invoke(app, ["verify", str(dataset), "--json"])
    assert result.exit_code == 1
    assert f"clip {number}" in result.stdout


def test_two_decisions_at_once_are_not_mixed(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second decision meanwhile is refused; one of a host that does not see the lock overtakes the first, which then changes nothing and says
    that it has to be made again."""
    original = decide._commit

    def overtaken(*arguments):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(decide, "_commit", original)
        with pytest.raises(DatasetBusy, match="dailies decide"):
            decide.decide(dataset, ["rules.text.threshold=0.4"], commit=True)
        decide._decide(dataset, ["rules.text.threshold=0.4"], True, Progress(quiet=True))
        return original(*arguments)

    monkeypatch.setattr(one_run, "_WAIT_S", 0.0)
    monkeypatch.setattr(decide, "_commit", overtaken)
    with pytest.raises(ManifestConflict, match="run this again"):
        decide.decide(dataset, ["rules.motion.threshold=3"], commit=True)
    assert ManifestStore(dataset).version() == 2


def test_only_rules_are_decided(dataset: Path) -> None:
    """A change of what is measured, an unknown rule or a wrong type is refused with what was expected."""
    for override, said in (
        ("measures.motion.step_s=1", "expected a change of a rule"),
        ("rules.nothing.threshold=1", "rules.nothing"),
        ("rules.motion.threshold=fast", "rules.motion.threshold"),
        ("rules.motion.measure=kind", "expected a column of numbers"),
        ('rules.motion.measure=motion" or 1=1', "expected"),
    ):
        result = CliRunner().invoke(app, ["decide", str(dataset), override])
        assert result.exit_code == 2, result.output
        assert said in result.output


def test_diff_names_what_turned_and_by_which_rule(dataset: Path) -> None:
    """Between two versions every clip is counted once, as added, removed, turned or the same, with hours that add up."""
    store = ManifestStore(dataset)
    decide.decide(dataset, ["rules.motion.threshold=3"], commit=True)
    clips = store.read("clips")
    fewer = clips.slice(2)
    extra = clips.slice(0, 1).set_column(0, clips.schema.field(0), pa.array(["f" * 32]))
    store.commit("other", replace={"clips": pa.concat_tables([fewer, extra])})
    found = diff(store, 1, 3)
    turned = {(t.change, t.kind, t.rule_was, t.rule_now): t.clips.n for t in found.turned}
    assert sum(n for (change, *_), n in turned.items() if change == "removed") == 2
    assert sum(n for (change, *_), n in turned.items() if change == "added") == 1
    old, new = (set().union(*_kept(store, v).values()) for v in (1, 2))
    first = set(clips.column("clip_no").to_pylist()[:2])
    assert turned["now dropped", "video", "", "motion"] == len(old - new - first)
    assert sum(t.clips.n for t in found.turned) + found.same.n == clips.num_rows + 1
    assert [(r.name, r.before, r.after) for r in found.rules] == [("motion", "motion > 2", "motion > 3")]
    assert diff(store, 2, 2).turned == ()
    for arguments in (
        ["diff", str(dataset), "1", "3"],
        ["diff", str(dataset), "3", "1", "--json"],
        ["decide", str(dataset), "rules.text.enabled=false"],
    ):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    purged = CliRunner().invoke(app, ["purge", str(dataset), "--keep", "1", "--execute"])
    assert "purged 3 versions" in purged.stdout
    gone = CliRunner().invoke(app, ["diff", str(dataset), "1", "3"])
    assert gone.exit_code == 2
    assert "was purged" in gone.output
