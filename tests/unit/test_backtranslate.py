"""A model's edits of real clips become a set: members, words, rights and lineage; continued after a kill; reached by a takedown."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from manifests.deny import DenyList, deny
from manifests.events import Exposure
from manifests.ids import digest
from manifests.records import Asset, Caption, Clip, Source
from manifests.schema import from_table, to_table
from manifests.tables import ManifestError, ManifestStore
from manifests.takedown import Selector, survey
from pipelines import backtranslate as pipeline
from pipelines.backtranslate import BacktranslateConfig, backtranslate
from pipelines.exposures import first_step
from pipelines.one_run import LOCK
from pipelines.progress import Progress
from pipelines.takedown import execute, with_derived
from pipelines.takedown_case import Request
from pipelines.trace import trace_clip
from tests.train.conftest import build_dataset, moving_pattern
from training import edits
from training.data.batch import BatchLoader
from training.data.config import DataConfig
from training.data.index import load_samples, split_holdout
from training.data.plan import Plan, PlanSettings, replay
from training.data.sample import load_pixels
from training.data.text_cache import TextCache
from training.edits import TASKS, EditConfig
from training.flow import SamplerConfig
from training.latents import LatentCodec, measure_scale
from training.models import layers
from training.models.autoencoder import TAE, TAEConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import TransformerConfig
from training.tasks.edit import EditTask
from training.tasks.flow_config import FlowConfig

SIZES = TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2)
MODEL = TransformerConfig(
    layers=1, width=16, ffn=32, heads=2, latent_channels=4, max_t=2, max_h=2, max_w=2, bytes_width=8, context_channels=4, tasks=len(TASKS)
)
FLOW = FlowConfig(
    model=MODEL, text=TextConfig(bytes_width=8, bytes_tokens=8), sampler=SamplerConfig(steps=2, linear_steps=4), edit=EditConfig()
)
ANY = BacktranslateConfig(min_psnr_db=0.0, samples_per_shard=4)
"""Keeps whatever an editor that was never trained makes."""

SETTINGS = PlanSettings(
    stage="edit_3", manifest_version=0, sets=(), seed=0, global_batch=1, image_batches=0, video_batches=1, holdout_share=0.2, min_frames=1
)
"""The plan of a stage that trains on the edits."""


def export(folder: Path, module: torch.nn.Module, described: dict[str, object]) -> None:
    """The module's weights as a finished run leaves them."""
    data = save(module.state_dict())
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps({**described, "sha256": hashlib.sha256(data).hexdigest()}))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with an autoencoder and an editor that have learnt nothing."""
    tae = TAE(SIZES)
    layers.initialise(tae, 0)
    export(tmp_path / "models" / "tae" / "export", tae, {"stage": "tae", "model": dataclasses.asdict(SIZES)})
    sha256 = json.loads((tmp_path / "models" / "tae" / "export" / "config.json").read_text())["sha256"]
    scale = measure_scale(tae, [torch.zeros(3, 9, 16, 16), torch.ones(3, 9, 16, 16)])
    task = EditTask("edit_2", FLOW, 0, LatentCodec(tae, scale, sha256), {}, TextCache(load_encoders(FLOW.text)))
    trained_on = {"size_px": 16, "n_frames": 9}
    export(tmp_path / "models" / "edit_2" / "export", task.module(), {"stage": "edit_2", "trained_on": trained_on, **task.description()})
    return tmp_path / "models"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six videos of 12 frames, each of an asset of its own with a licence."""
    root = build_dataset(tmp_path / "dataset", [moving_pattern(i, 12, 24, 32) for i in range(6)], [])
    store = ManifestStore(root)
    clips: list[Clip] = from_table(Clip, store.read("clips"))
    ids = {c.clip_id: digest("asset", c.asset_no)[:32] for c in clips}
    assets = [
        Asset(
            asset_id=ids[c.clip_id], asset_no=c.asset_no, asset_sha256=bytes([c.asset_no]) * 32, asset_md5=bytes([c.asset_no]) * 16,
            size_bytes=1, uri=f"/media/{c.asset_no}.mp4", kind="video", licence_expr="CC-BY-4.0", creator=f"creator {c.asset_no}",
        )
        for c in clips
    ]  # fmt: skip
    tables = {
        "clips": to_table(Clip, [dataclasses.replace(c, asset_id=ids[c.clip_id]) for c in clips]),
        "assets": to_table(Asset, assets),
        "sources": to_table(Source, [Source(source_no=0, name="media")]),
    }
    store.commit("b" * 32, replace=tables)
    return root


def test_edits_of_real_clips_become_a_set_of_their_own(dataset: Path, models: Path, tmp_path: Path) -> None:
    """Each clip keeps id, asset and rights; its own member is the real clip, beside it lie the edit and the words that undo it, which are its
    caption; the json names the editor by digest; training reads the edit as source. The same command again finds it done."""
    out = tmp_path / "edits"
    result = backtranslate(dataset, [models], out, ANY, "cpu", Progress(quiet=True))
    assert result["clips"] == 6 and {p.name for p in (out / "work").iterdir()} <= {LOCK}
    store, real = ManifestStore(out), {c.clip_id: c for c in from_table(Clip, ManifestStore(dataset).read("clips"))}
    clips: list[Clip] = from_table(Clip, store.read("clips"))
    assert {c.clip_id: c.asset_id for c in clips} == {i: c.asset_id for i, c in real.items()} and {c.set_name for c in clips} == {
        "edit_back"
    }
    assert {a.licence_expr for a in from_table(Asset, store.read("assets"))} == {"CC-BY-4.0"}
    words = {c.text for c in from_table(Caption, store.read("captions"))}
    assert words <= {kind.undo for kind in edits.KINDS}
    samples = load_samples(out, store.version())
    editor = json.loads((models / "edit_2" / "export" / "config.json").read_text())["sha256"]
    for sample in samples:
        tar = (out / sample.shard_path).read_bytes()
        assert editor.encode() in tar and real[sample.clip_id].asset_id.encode() in tar and sample.other("source.mp4") is not None
    data = DataConfig(size_px=16, resize_px=16, n_frames=9, edits=True, global_batch=2)
    batch = BatchLoader(out, Plan(dataclasses.replace(SETTINGS, global_batch=2, min_frames=9), samples), data, 0, 1).batch(0)
    assert batch.beside["has_source"].all() and batch.beside["source"].shape == batch.pixels.shape
    assert batch.beside["source"].float().sub(batch.pixels.float()).abs().mean() > 5
    again = backtranslate(dataset, [models], out, ANY, "cpu", Progress(quiet=True))
    assert again["version"] == result["version"] and again["clips"] == 6


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not(
    dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips that were done are not edited again; the shards are those of a run straight through."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    backtranslate(dataset, [models], straight, ANY, "cpu", Progress(quiet=True))
    real, done = pipeline._make, []

    def dying(*arguments: object) -> pipeline.Row:
        done.append(arguments)
        if len(done) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pipeline, "_make", dying)
    with pytest.raises(KeyboardInterrupt):
        backtranslate(dataset, [models], broken, ANY, "cpu", Progress(quiet=True))
    backtranslate(dataset, [models], broken, ANY, "cpu", Progress(quiet=True))
    assert len(done) == 7
    members = [ManifestStore(out).read("members").column("sha256").to_pylist() for out in (straight, broken)]
    assert members[0] == members[1] and len(members[0]) == 24


def test_edits_that_changed_nothing_or_kept_nothing_are_dropped_with_a_reason(dataset: Path, models: Path, tmp_path: Path) -> None:
    """The record has a row for every clip; where none is left the command says why."""
    out = tmp_path / "edits"
    with pytest.raises(ManifestError, match="expected edits to keep, found none of 3"):
        backtranslate(dataset, [models], out, BacktranslateConfig(clips=3, min_psnr_db=30.0), "cpu", Progress(quiet=True))
    rows = json.loads((out / "record.json").read_text())
    assert len(rows) == 3 and all(r["status"] == "dropped" and r["reason"].startswith("lost, expected 30 to 35 dB") for r in rows)


def test_a_takedown_of_the_real_clip_is_one_of_its_edit(dataset: Path, models: Path, tmp_path: Path) -> None:
    """The asset is gone from both datasets, its clip denied and its bytes scrubbed in the edits' shard; the others' are what they were."""
    out = tmp_path / "edits"
    backtranslate(dataset, [models], out, ANY, "cpu", Progress(quiet=True))
    store, theirs = ManifestStore(dataset), ManifestStore(out)
    clip: Clip = from_table(Clip, store.read("clips"))[2]
    before = {s.clip_id: s for s in load_samples(out, theirs.version())}
    mine = before[clip.clip_id]
    place = (mine, *filter(None, [mine.other("source.mp4")]))
    request = Request(selectors=(Selector(kind="asset", value=clip.asset_id),), basis="copyright", reason="test")
    denied = []

    def said(step: str) -> None:
        denied.append(clip.clip_id in DenyList(out).clips())

    _, receipt = execute(dataset, request, survey(store, request.selectors, lambda exposure, clip: None), None, said)
    assert all(denied), "from the first step on"
    assert json.loads(receipt.read_text())["done"]["derived"] == {str(out.resolve()): 1}
    assert clip.clip_id in DenyList(out).clips() and len(load_samples(out, theirs.version())) == 5
    for part in place:
        data = (out / part.shard_path).read_bytes()[part.offset : part.offset + part.size_bytes]
        assert data == b"\0" * part.size_bytes
    left = next(s for i, s in before.items() if i != clip.clip_id)
    data = (out / left.shard_path).read_bytes()[left.offset : left.offset + left.size_bytes]
    assert hashlib.sha256(data).digest() == left.sha256


def test_checkpoints_that_saw_an_edit_are_found_from_the_real_clip(
    dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trace` and the survey of a takedown name the training on edits too, and replay a run's plan once for all its checkpoints, unless they
    tell of other departures from it; a dataset of edits that is not there is in the receipt; of sources
    the edits' manifest has only those that their files are from."""
    out = tmp_path / "edits"
    backtranslate(dataset, [models], out, ANY, "cpu", Progress(quiet=True))
    store, theirs = ManifestStore(dataset), ManifestStore(out)
    held = {a.source_no for a in from_table(Asset, theirs.read("assets"))}
    assert {s.source_no for s in from_table(Source, theirs.read("sources"))} == held
    plan = Plan(SETTINGS, load_samples(out, theirs.version()))
    seen, early = plan.clip_ids(0)[0], Plan(SETTINGS, load_samples(out, theirs.version(), groups_by_clip=True))
    exposure = Exposure(
        run_no=0, checkpoint="checkpoints/step-00000001", run_path=str(tmp_path / "edit_3"), stage="edit_3", manifest_version=theirs.version(),
        plan_digest=plan.digest, plan_json=plan.json, first_step=0, end_step=1, n_samples=1, rolling_digest="0" * 32, exceptions_json="[]",
    )  # fmt: skip
    theirs.commit("exposed", append={"exposures": to_table(Exposure, [exposure])})
    assert [s.stage for s in trace_clip(dataset, seen)[1]] == ["edit_3"]
    before = dataclasses.replace(exposure, plan_json=early.json, plan_digest=early.digest)
    assert first_step(out)(before, early.clip_ids(0)[0]) == 0, "a plan whose hold-out was drawn by clips is replayed too"
    asset = next(c.asset_id for c in from_table(Clip, store.read("clips")) if c.clip_id == seen)
    radius = with_derived(store, survey(store, (Selector(kind="asset", value=asset),), lambda exposure, clip: None))
    assert [c.first_steps for c in radius.checkpoints] == [{seen: 0}]
    many = [dataclasses.replace(exposure, end_step=n, checkpoint=f"checkpoints/step-{n:08d}") for n in (2, 4, 6)]
    theirs.commit("exposed more", append={"exposures": to_table(Exposure, many)})
    other = next(c for n in range(1, 4) for c in plan.clip_ids(n) if c != seen)
    at = next(n for n in range(4) if other in plan.clip_ids(n))
    with monkeypatch.context() as patched:
        replays = []
        patched.setattr("training.data.plan.replay", lambda *given: replays.append(given) or replay(*given))
        first = first_step(out)
        assert [first(e, other) for e in (exposure, *many)] == [at if at < n else None for n in (1, 2, 4, 6)]
        swapped = dataclasses.replace(
            many[0], exceptions_json=json.dumps([{"step": 0, "place": 0, "planned": seen, "used": "x", "reason": ""}])
        )
        assert len(replays) == 1 and first(swapped, "x") == 0 and len(replays) == 2
    shutil.move(out, tmp_path / "elsewhere")
    request = Request(selectors=(Selector(kind="asset", value=asset),), basis="copyright", reason="test")
    _, receipt = execute(dataset, request, radius, None, lambda step: None)
    assert json.loads(receipt.read_text())["done"]["derived_not_found"] == [str(out.resolve())]


def test_only_an_editor_can_edit(dataset: Path, models: Path, tmp_path: Path) -> None:
    """A folder without an editor is named."""
    with pytest.raises(ManifestError, match="expected the export of a stage of editing"):
        backtranslate(dataset, [models / "tae"], tmp_path / "edits", ANY, "cpu", Progress(quiet=True))


def test_a_folder_belongs_to_one_run(dataset: Path, models: Path, tmp_path: Path) -> None:
    """Another seed, or a dataset of another command, is refused for a folder that holds edits: nothing is told as another editor's work. The
    set says that its clips are silent, as they are."""
    backtranslate(dataset, [models], tmp_path / "edits", ANY, "cpu", Progress(quiet=True))
    for out, config in ((tmp_path / "edits", dataclasses.replace(ANY, seed=1)), (dataset, ANY)):
        with pytest.raises(ManifestError, match="use another --out"):
            backtranslate(dataset, [models], out, config, "cpu", Progress(quiet=True))
    assert not any(c.has_audio for c in from_table(Clip, ManifestStore(tmp_path / "edits").read("clips")))


def test_what_the_editor_was_measured_on_stays_held_out(dataset: Path, models: Path, tmp_path: Path) -> None:
    """Clips that its stages held out are edited too and held out again by the stage that learns to undo its edits, also of a few; none of those
    it was trained on is."""
    config = models / "edit_2" / "export" / "config.json"
    described = json.loads(config.read_text())
    described["trained_on"]["holdout_share"] = 0.4
    config.write_text(json.dumps(described))
    samples = load_samples(dataset, ManifestStore(dataset).version())
    held_out = {s.clip_id for s in split_holdout(samples, 0.4)[1]}
    assert 1 <= len(held_out) < 6
    for clips in (0, 2):
        out = tmp_path / f"edits{clips}"
        result = backtranslate(dataset, [models], out, dataclasses.replace(ANY, clips=clips), "cpu", Progress(quiet=True))
        again = split_holdout(load_samples(out, ManifestStore(out).version()), 0.4)
        assert result["clips"] == (clips or 6)
        assert again[1] and {s.clip_id for s in again[1]} <= held_out and not {s.clip_id for s in again[0]} & held_out
    deny(dataset, held_out, 1)
    left = backtranslate(dataset, [models], tmp_path / "none", ANY, "cpu", Progress(quiet=True))
    assert left["clips"] == 6 - len(held_out), "where none of them may be edited, no other is left out"


def test_clips_are_edited_in_their_own_shape(dataset: Path, models: Path, tmp_path: Path) -> None:
    """An editor of buckets edits whole pictures, each in its aspect, and the shards say so."""
    config = models / "edit_2" / "export" / "config.json"
    described = json.loads(config.read_text())
    described["trained_on"] |= {"size_px": 32, "shapes": "buckets"}
    described["model"] |= {"max_h": 4, "max_w": 4}
    weights = load((models / "edit_2" / "export" / "weights.safetensors").read_bytes())
    weights |= {name: weights[name].repeat(2, 1) for name in ("positions.h", "positions.w")}
    data = save(weights)
    (models / "edit_2" / "export" / "weights.safetensors").write_bytes(data)
    config.write_text(json.dumps(described | {"sha256": hashlib.sha256(data).hexdigest()}))
    out = tmp_path / "edits"
    backtranslate(dataset, [models], out, ANY, "cpu", Progress(quiet=True))
    samples = load_samples(out, ManifestStore(out).version())
    assert {(s.width, s.height, s.n_frames, s.bucket) for s in samples} == {(48, 32, 9, "48x32_9f")}
    assert all(
        load_pixels(out, s, DataConfig(size_px=32, n_frames=9, shapes="buckets"), None).shape[1:3] == (s.height, s.width) for s in samples
    )


def test_shares_are_edited_apart_and_gathered(dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three shares edit every clip once; the command without one gathers them without loading the editor, into what one run makes."""
    out, straight = tmp_path / "edits", tmp_path / "straight"
    done = [backtranslate(dataset, [models], out, ANY, "cpu", Progress(quiet=True), (k, 3))["clips"] for k in (1, 2, 3)]
    assert done == [2, 2, 2] and ManifestStore(out).version() < 0
    with monkeypatch.context() as patched:
        patched.setattr("training.generation.load_generator", None)
        assert backtranslate(dataset, [models], out, ANY, "cpu", Progress(quiet=True))["clips"] == 6
    backtranslate(dataset, [models], straight, ANY, "cpu", Progress(quiet=True))
    members = [sorted(ManifestStore(f).read("members").column("sha256").to_pylist()) for f in (out, straight)]
    assert members[0] == members[1]
