"""An explanation says of one file or clip all that the manifest knows, and never guesses which one is meant."""

import json
from pathlib import Path

import pytest

from manifests import events, records
from manifests.explain import explain, to_dict
from manifests.explain_text import to_text
from manifests.find import LookupFailed
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from tests.fake_dataset import HOSTILE_NAMES, RULES, fake_tables, make, write_store

TABLES = fake_tables(200)
CLIPS = from_table(records.Clip, TABLES["clips"])
ASSETS = from_table(records.Asset, TABLES["assets"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ManifestStore:
    root = tmp_path_factory.mktemp("dataset")
    write_store(root, TABLES)
    return ManifestStore(root)


def test_kept_clip_is_told_to_its_bytes(store: ManifestStore) -> None:
    """A kept clip has its set, bucket, shard and the offsets of its members, its caption, and every rule passed."""
    clip = next(c for c in CLIPS if c.shard_no is not None and c.caption_no is not None)
    e = explain(store, clip.clip_id)
    members = [m for m in TABLES["members"].to_pylist() if m["clip_no"] == clip.clip_no]
    assert e.decision == "keep" and e.place is not None and e.place.bucket == clip.bucket
    assert [(m.extension, m.offset, m.size_bytes) for m in e.place.members] == [
        (m["extension"], m["offset"], m["size_bytes"]) for m in members
    ]
    assert all(RULES[v.rule_no].survives(v.passed) for v in e.verdicts)
    assert e.caption and e.captioner == "facts 1"
    assert f".{members[0]['extension']}" in to_text(e)


def test_dropped_clip_names_the_rule_and_the_sentence(store: ManifestStore) -> None:
    """The first rule a clip failed is marked decisive, with score, threshold and the sentence of the rule."""
    for clip in [c for c in CLIPS if c.decision == "drop"][:20]:
        e = explain(store, clip.clip_id)
        (decisive,) = [v for v in e.verdicts if v.decisive]
        rule = RULES[decisive.rule_no]
        assert decisive.rule_no == clip.first_fail_rule and decisive.threshold == rule.threshold
        assert decisive.sentence == rule.sentence(getattr(clip, rule.measure))
        assert f"because   {rule.name}: {decisive.sentence}" in to_text(e)


def test_every_measure_is_there_with_its_unit(store: ManifestStore) -> None:
    """All scores are listed; what was not measured is None and says so."""
    clip = next(c for c in CLIPS if c.kind == "video" and c.motion is not None)
    found = {m.name: m for m in explain(store, clip.clip_id).measures}
    assert found["motion"].value == pytest.approx(clip.motion) and found["border_top"].unit == "px"
    assert found["text_area"].value is None and {"sharpness", "loudness_db", "concept_margin", "mix_keep"} <= set(found)


def test_asset_lists_its_clips_and_rights(store: ManifestStore) -> None:
    """An asset shows its clips in time order, its own rules and what it says about rights."""
    asset = next(a for a in ASSETS if a.kind == "video" and a.licence_expr)
    e = explain(store, asset.asset_id)
    mine = sorted((c.start_us, c.clip_id) for c in CLIPS if c.asset_id == asset.asset_id)
    assert [(c.start_us, c.clip_id) for c in e.clips] == mine
    assert {v.subject for v in e.verdicts} == {"asset"}
    assert {m.name: m.value for m in e.rights}["licence_expr"] == asset.licence_expr


def test_found_by_prefix_hash_and_name(store: ManifestStore) -> None:
    """Six digits of an id, the file's SHA-256 or MD5, its URI and its file name all lead to the same subject."""
    asset = ASSETS[20]
    name = asset.uri.rsplit("/", 1)[-1]
    for key in (asset.asset_id[:12], asset.asset_id.upper(), asset.asset_sha256.hex(), asset.uri, name):
        assert explain(store, key).id == asset.asset_id, key
    whole = explain(store, CLIPS[3].clip_id.upper())
    assert whole.id == CLIPS[3].clip_id and explain(store, CLIPS[3].clip_id[:10]) == whole


def test_hostile_names_are_found_and_shown(store: ManifestStore) -> None:
    """Any file name can be looked up as it is, and the text has no character that moves the cursor or turns the line."""
    for asset in [a for a in ASSETS if a.uri.removeprefix("raw/") in HOSTILE_NAMES[1:]]:
        if sum(a.uri == asset.uri for a in ASSETS) > 1:
            continue
        text = to_text(explain(store, asset.uri))
        assert text.replace("\n", "").isprintable()


def test_ambiguous_and_unknown_keys_are_errors(tmp_path: Path) -> None:
    """Several hits are listed instead of one being picked; nothing found says what is looked up; short prefixes are not ids."""
    same = [make(records.Asset, asset_id=f"abcdef{i:026x}", asset_no=i, uri=f"raw/{i}/take.mp4") for i in range(12)]
    store = ManifestStore(tmp_path)
    store.commit("c" * 32, append={"assets": to_table(records.Asset, same)})
    with pytest.raises(LookupFailed, match=r"names several: asset abcdef.* and more"):
        explain(store, "abcdef")
    with pytest.raises(LookupFailed, match="names several"):
        explain(store, "take.mp4")
    assert explain(store, "raw/3/take.mp4").id == same[3].asset_id
    for key in ("abcde", "", "nothing.mp4", "f" * 32, "f" * 64, "' OR 1=1 --", "%"):
        with pytest.raises(LookupFailed, match="found none"):
            explain(store, key)


def test_duplicates_name_the_others(store: ManifestStore) -> None:
    """A copy names its keeper, and the keeper its copies with their distance."""
    copy = next(c for c in CLIPS if c.dup_rank)
    assert any(d.clip_id == copy.dup_group and d.rank == 0 for d in explain(store, copy.clip_id).duplicates)
    keeper = explain(store, str(copy.dup_group))
    assert any(d.clip_id == copy.clip_id and d.distance_bits == copy.dup_distance for d in keeper.duplicates)


def test_exposures_come_from_the_replay(tmp_path: Path) -> None:
    """A checkpoint is named with the first step the replay gives, of an asset's clips the first; without a replay nothing is claimed."""
    rows = [
        make(events.Exposure, run_path="runs/a", checkpoint=f"step_{n}", stage="t2v", first_step=0, end_step=n, run_no=2)
        for n in (100, 200)
    ]
    write_store(tmp_path, {**TABLES, "exposures": to_table(events.Exposure, rows)})
    store, clip = ManifestStore(tmp_path), CLIPS[0]

    def replay(exposure: events.Exposure, clip_id: str) -> int | None:
        return 150 if clip_id == clip.clip_id and exposure.end_step == 200 else None

    seen = explain(store, clip.clip_id, exposed=replay)
    assert [(s.checkpoint, s.first_step) for s in seen.exposures] == [("step_200", 150)]
    assert "runs/a/step_200 (t2v) first at step 150" in to_text(seen)
    assert [s.clip_id for s in explain(store, clip.asset_id, exposed=replay).exposures] == [clip.clip_id]
    unproved = explain(store, clip.clip_id)
    assert len(unproved.exposures) == 2 and "was not replayed" in to_text(unproved)
    assert explain(store, CLIPS[1].clip_id, exposed=replay).exposures == ()


def test_broken_file_says_why(store: ManifestStore) -> None:
    """A file that could not be read has its stage, code and what was expected and found."""
    broken = next(a for a in ASSETS if a.error_code)
    e = explain(store, broken.asset_id)
    assert e.error == f"probe: {broken.error_code}: {broken.error_detail}" and e.clips == ()
    assert f"error     {e.error}" in to_text(e)


def test_earlier_decisions_are_named(tmp_path: Path) -> None:
    """Verdicts are the latest run's; the runs that decided before are listed."""
    store, clip = ManifestStore(tmp_path), CLIPS[0]
    write_store(tmp_path, TABLES)
    again = make(
        events.Decision, run_no=5, rule_no=3, asset_no=clip.asset_no, clip_no=clip.clip_no, score=9.0, passed=True, reason_code="pass"
    )
    store.commit("d" * 32, append={"decisions": to_table(events.Decision, [again])})
    e = explain(store, clip.clip_id)
    assert [v.run_no for v in e.verdicts if v.subject == "clip"] == [5] and e.earlier_runs == (1,)
    assert explain(store, clip.clip_id, version=0).earlier_runs == ()


def test_explanation_is_json(store: ManifestStore) -> None:
    """The dict form holds plain values only and no NaN."""
    for key in (CLIPS[0].clip_id, ASSETS[0].asset_id):
        assert json.loads(json.dumps(to_dict(explain(store, key)), allow_nan=False))["id"] == key
