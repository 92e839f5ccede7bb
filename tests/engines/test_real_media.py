"""The main job on real and hostile media: the run ends, every file is accounted for, nothing crashes it."""

import collections
from pathlib import Path

import pyarrow.compute as pc
import pytest

from manifests.tables import ManifestStore

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def run(media: Path, tmp_path_factory: pytest.TempPathFactory, dailies):
    """`dailies curate` over all real videos and all hostile files; most have no sidecar, so the source default states a licence."""
    out = tmp_path_factory.mktemp("real") / "dataset"
    inputs = (media / "video", media / "hostile")
    done = dailies("curate", *inputs, "--out", out, "--config", "tiny", "--json", "ingest.default_licence=CC0-1.0", timeout_s=1400)
    return out, done


def test_the_run_ends_and_accounts_for_every_file(media: Path, run) -> None:
    """Every listed file is an asset or counted as a copy of one, and every asset that was not analysed has a reason."""
    out, done = run
    assert done.status == 0, done.err[-3000:]
    assets = ManifestStore(out).read("assets").to_pylist()
    assert done.json["listed"] == sum(a["n_copies"] for a in assets)
    on_disk = [p for f in ("video", "hostile") for p in (media / f).iterdir() if p.is_file()]
    listed = {Path(a["uri"]).name for a in assets}
    documents = {p.name for p in on_disk if p.suffix in (".json", ".txt", ".csv", ".md")}
    assert sum(a["n_copies"] for a in assets) == len(on_disk) - len(documents)
    assert not listed & documents
    for asset in assets:
        analysed = asset["n_clips"] is not None
        assert analysed or asset["error_code"] or asset["first_fail_rule"] is not None, asset["uri"]
        assert asset["decision"] in ("keep", "drop")


def test_pass_reject_and_unknown_add_up_at_every_rule(run) -> None:
    """assets (and clips) of the rule's kinds = pass + reject + unknown, for every rule."""
    store = ManifestStore(run[0])
    decided = collections.Counter(r["rule_no"] for r in store.read("decisions", columns=["rule_no"]).to_pylist())
    for rule in store.read("rules").to_pylist():
        rows = store.read("assets" if rule["subject"] == "asset" else "clips", columns=["kind"]).column(0).to_pylist()
        assert decided[rule["rule_no"]] == sum(k is None or k in rule["kinds"].split(",") for k in rows), rule["name"]


def test_what_is_broken_is_a_row_with_a_reason(run) -> None:
    """Truncated, empty (three copies of no bytes are one asset) and mislabelled files are unreadable, with a code and a sentence."""
    assets = {Path(a["uri"]).name: a for a in ManifestStore(run[0]).read("assets").to_pylist()}
    for name in ("empty.mp3", "made_html_error.mp4", "lfs_pointer_dali.mp4", "made_truncated_moov_last.mp4", "broken.png"):
        assert assets[name]["decision"] == "drop"
        assert assets[name]["error_code"]
        assert len(assets[name]["error_detail"]) > 10
    assert assets["made_mp4_named.jpg"]["error_code"] == "truncated"  # the beginning of an mp4 under a picture's name
    kinds = {n: assets[n]["kind"] for n in ("made_png_named.mp4", "made_audio_only.mp4")}
    assert kinds == {"made_png_named.mp4": "image", "made_audio_only.mp4": "audio"}


def test_shards_of_real_media_hold(run, dailies) -> None:
    """Some real clips pass every rule, are encoded, and their shards verify."""
    out, done = run
    assert done.json["kept"] >= 10
    assert dailies("verify", out).status == 0
    clips = ManifestStore(out).read("clips")
    failed = clips.filter(pc.equal(clips.column("encoded"), 0)).to_pylist()
    assert not failed, [(c["error_code"], c["error_detail"]) for c in failed]
