"""Takedown on a curated dataset: the two public requests, each by one command, and that no later curation brings anything back.

OpenGVLab/InternVideo#324 and SAIS-FUXI/VidGen#9 ask: find every record derived from my videos, with clips, times, captions, scores and
subsets; remove them; say what was trained on them.
"""

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from manifests.deny import DenyList
from manifests.events import Exposure
from manifests.records import Asset, Clip
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from training.data.index import load_samples
from training.data.plan import Plan, PlanSettings

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

STEPS = 6


@dataclass(frozen=True)
class Case:
    """A copy of the curated dataset, with a checkpoint, and what is taken down."""

    root: Path
    store: ManifestStore
    media: Path
    plan: Plan
    files: tuple[str, ...]
    assets: tuple[Asset, ...]
    clips: tuple[Clip, ...]


@pytest.fixture(scope="module")
def case(samples: Path, curated: Any, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Six videos of which clips are kept, those with an address first, in a folder of their own with the rest of the samples."""
    root = tmp_path_factory.mktemp("takedown") / "dataset"
    shutil.copytree(curated.path, root)
    store = ManifestStore(root)
    assets: list[Asset] = from_table(Asset, store.read("assets"))
    clips: list[Clip] = from_table(Clip, store.read("clips"))
    kept = {c.asset_no for c in clips if c.decision == "keep" and c.kind == "video"}
    mine = sorted((a for a in assets if a.asset_no in kept), key=lambda a: (a.source_url is None, a.uri))[:6]
    plan = _train(store)
    numbers = {a.asset_no for a in mine}
    return Case(
        root, store, samples, plan, tuple(Path(a.uri).name for a in mine), tuple(mine), tuple(c for c in clips if c.asset_no in numbers)
    )


def _train(store: ManifestStore) -> Plan:
    """The dataset says that a checkpoint was trained on it for a few steps; the plan is a real one."""
    version = store.version()
    settings = PlanSettings(
        stage="tae", manifest_version=version, sets=(), seed=3, global_batch=2, image_batches=1, video_batches=3, holdout_share=0.02,
        min_frames=8,
    )  # fmt: skip
    plan = Plan(settings, load_samples(store.root, version))
    exposure = Exposure(
        run_no=1, checkpoint=f"checkpoints/step-{STEPS}", run_path="/runs/tae", stage="tae", manifest_version=version,
        plan_digest=plan.digest, plan_json=plan.json, first_step=0, end_step=STEPS, n_samples=2 * STEPS, rolling_digest="r",
        exceptions_json="[]",
    )  # fmt: skip
    store.commit("e" * 32, append={"exposures": to_table(Exposure, [exposure])})
    return plan


def _first_steps(case: Case) -> dict[str, int]:
    """What the plan says itself: the first step that took each of the clips."""
    first: dict[str, int] = {}
    for step in range(STEPS):
        for clip in case.plan.clip_ids(step):
            first.setdefault(clip, step)
    return {c.clip_id: first[c.clip_id] for c in case.clips if c.clip_id in first}


def test_internvideo_324_every_record_of_six_videos_by_one_command(case: Case, dailies: Any) -> None:
    """Six files given: every clip with times, captions, scores, set and place in a shard, and the first step that saw each; nothing changes."""
    before = case.store.version()
    options = [part for name in case.files for part in ("--file", case.media / name)]
    done = dailies("takedown", case.root, *options, "--reason", "InternVideo#324", "--json")
    assert done.status == 0, done.err
    found = done.json
    assert {a["asset_id"] for a in found["assets"]} == {a.asset_id for a in case.assets}
    assert {(c["clip_id"], c["start_us"], c["end_us"], c["decision"]) for c in found["clips"]} == {
        (c.clip_id, c.start_us, c.end_us, c.decision) for c in case.clips
    }
    for clip in (c for c in found["clips"] if c["decision"] == "keep"):
        assert clip["captions"] and clip["set_name"] and clip["bucket"] and clip["shard"] and "motion" in clip["scores"]
    steps = _first_steps(case)
    assert {k: v for c in found["checkpoints"] for k, v in c["first_steps"].items()} == steps and steps
    assert case.store.version() == before and not (case.root / "takedowns").exists()


def test_vidgen_9_every_record_of_an_address_by_one_command(case: Case, dailies: Any) -> None:
    """An address given: all files that came from it, and theirs; a table for people says the same."""
    url = next(a.source_url for a in case.assets if a.source_url)
    done = dailies("takedown", case.root, "--url", url.replace("https://", "http://www."), "--reason", "VidGen#9", "--json")
    every: list[Asset] = from_table(Asset, case.store.read("assets"))
    assert {a["asset_id"] for a in done.json["assets"]} == {a.asset_id for a in every if a.source_url == url}
    told = dailies("takedown", case.root, "--url", url)
    assert told.status == 0 and "nothing was changed" in told.out
    assert all(c["clip_id"] in told.out for c in done.json["clips"])


def test_nothing_is_left_and_nothing_comes_back(case: Case, dailies: Any, tmp_path: Path) -> None:
    """Removed, the dataset verifies and no byte is left; curated again from the same files and a re-encoded copy, it stays so, with reasons."""
    needles = _needles(case)
    assert len(_found(case.root, needles)) >= len(case.clips)
    options = [part for name in case.files for part in ("--file", case.media / name)]
    command = ["takedown", case.root, *options, "--reason", "InternVideo#324", "--basis", "opt-out", "--execute", "--json"]
    done = dailies(*command)
    assert done.status == 0, done.err
    assert done.json["assets_removed"] == 6
    near = {n["clip_id"] for n in done.json["near_copies"]}
    assert near and near <= set(DenyList(case.root).clips()) and not near & {c.clip_id for c in case.clips}
    assert _found(case.root, needles) == set()
    assert dailies("verify", case.root).status == 0
    receipt = json.loads(Path(done.json["receipt"]).read_bytes())
    assert {k: v for c in receipt["checkpoints"] for k, v in c["first_steps"].items()} == _first_steps(case)
    steps = {k: v for c in dailies(*command[:-2], "--json").json["checkpoints"] for k, v in c["first_steps"].items()}
    assert steps == _first_steps(case), "what was trained can still be told"

    again = dailies(
        "curate", case.media, _copied(case, tmp_path / "copies"), "--out", case.root, "--config", "tiny", "engine.name=local", "--json"
    )
    assert again.status == 0, again.err
    assert _found(case.root, needles) == set()
    assert dailies("verify", case.root).status == 0
    assets = {a.asset_id: a for a in from_table(Asset, case.store.read("assets"))}
    rules = {r["rule_no"]: r["name"] for r in case.store.read("rules").to_pylist()}
    for asset in case.assets:
        now = assets[asset.asset_id]
        assert (now.state, now.decision, rules[now.first_fail_rule or 0], now.title) == ("removed", "drop", "blocked", None)
    clips: dict[str, Clip] = {c.clip_id: c for c in from_table(Clip, case.store.read("clips"))}
    assert all(clips[c.clip_id].decision == "removed" and clips[c.clip_id].shard_no is None for c in case.clips)
    (copy,) = [a for a in assets.values() if a.uri.endswith("copies/copy.mp4")]
    near = [c for c in clips.values() if c.asset_no == copy.asset_no]
    assert near and all(c.decision == "drop" for c in near)
    assert any(rules[c.first_fail_rule or 0] == "blocked_copy" and (c.block_distance or 0) <= 31 for c in near)
    assert all(c.decision != "keep" for c in clips.values() if c.block_distance is not None and c.block_distance <= 31)


def _copied(case: Case, folder: Path) -> Path:
    """A folder with a smaller, harder compressed copy of one of the files, under another name and a free licence."""
    import imageio_ffmpeg

    folder.mkdir()
    source = case.media / next(n for n in case.files if n.endswith(".mp4"))
    options = ["-loglevel", "error", "-i", str(source), "-vf", "scale=480:-2", "-crf", "30", str(folder / "copy.mp4")]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *options], check=True, timeout=120)
    (folder / "copy.mp4.json").write_text(json.dumps({"licence": "CC0-1.0", "training": "allowed", "title": "an innocent copy"}))
    return folder


def _needles(case: Case) -> dict[str, bytes]:
    """Runs of bytes that only what is taken down holds: payloads, pictures, sound, the file, and texts that no other file shares."""
    found: dict[str, bytes] = {}
    mine, ours = {a.asset_id for a in case.assets}, {c.clip_id for c in case.clips}
    for path in sorted((case.root / "work").rglob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        for row in table.to_pylist() if set(table.schema.names) & {"jpeg", "flac", "data"} else []:
            if row.get("asset_id") in mine or row.get("clip_id") in ours:
                data = row.get("jpeg") or row.get("flac") or row.get("data") or b""
                if len(data) > 4000:
                    found[f"{path.name} {hashlib.sha256(data).hexdigest()[:8]}"] = data[len(data) // 2 :][:64]
    others = [a for a in from_table(Asset, case.store.read("assets")) if a.asset_id not in mine]
    shared = "\n".join(str(t) for a in others for t in (a.title, a.uri, a.supplied_caption))
    for asset in case.assets:
        raw = (case.media / Path(asset.uri).name).read_bytes()
        found[f"file {asset.uri}"] = raw[len(raw) // 2 :][:64]
        for text in (asset.title, asset.supplied_caption, asset.uri):
            if text and len(text) > 12 and text not in shared:
                found[f"text {text}"] = text.encode()
    return found


def _found(root: Path, needles: dict[str, bytes]) -> set[str]:
    """Which are left, in which files: raw, and inside the values of Parquet files, which are packed."""
    left = set()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += b"\n".join(_values(io.BytesIO(data)))
        left |= {f"{name} in {path.relative_to(root)}" for name, needle in needles.items() if needle in data}
    return left


def _values(source: io.BytesIO) -> Iterator[bytes]:
    for column in pq.ParquetFile(source).read().columns:
        for value in column.to_pylist():
            if isinstance(value, (str, bytes)):
                yield value.encode() if isinstance(value, str) else value
