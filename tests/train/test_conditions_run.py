"""Editing and personalisation on two CPU processes: what is beside the pixels reaches the model, what is frozen stays."""

import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from manifests.deny import deny
from manifests.ids import clip_id, digest
from manifests.records import Caption, Clip, Member, Shard
from manifests.schema import to_table
from manifests.shards import Payload, write_shard
from manifests.tables import ManifestStore
from pipelines.evaluate_models import Clips, EvaluateConfig, Measured, measure_models
from tests.train.conftest import encode_jpg, encode_mp4, moving_pattern
from training.config import TrainConfig
from training.data.batch import BatchLoader
from training.data.config import DataConfig
from training.data.index import Sample, load_samples, read_samples, write_samples
from training.data.plan import Plan
from training.edits import TASKS, EditConfig
from training.errors import TrainingError
from training.exposure import Exposure
from training.flow import SamplerConfig
from training.folder import read_run
from training.generation import MoviePipeline
from training.identity import PersonalConfig
from training.launch import train
from training.metrics import read_log
from training.models.text import TextConfig
from training.models.transformer import TransformerConfig
from training.models.vision import TowerConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.tasks.edit import EditTask
from training.tasks.flow_config import FlowConfig
from training.tasks.make import make_task
from training.validate import load_held_out, load_turn

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

TOWER = TowerConfig(image_px=16, patch_px=8, width=24, layers=1, heads=2, mlp=32, side=1)
MODEL = TransformerConfig(layers=2, width=32, ffn=64, heads=2, latent_channels=4, max_t=3, max_h=2, max_w=2, bytes_width=16)
TEXT, SAMPLER = TextConfig(bytes_width=16, bytes_tokens=12), SamplerConfig(steps=4, linear_steps=8)
RUN = TrainConfig(
    stage="edit_test",
    seed=5,
    steps=6,
    processes=2,
    validate_every=6,
    checkpoint_every=6,
    log_every=4,
    pictures=1,
    ema_decay=0.5,
    flow=FlowConfig(
        model=dataclasses.replace(MODEL, context_channels=4, tasks=len(TASKS)),
        text=TEXT,
        sampler=SAMPLER,
        edit=EditConfig(frames=9, segment_share=0.5),
    ),
    data=DataConfig(
        size_px=32,
        resize_px=32,
        n_frames=9,
        global_batch=4,
        image_batches=1,
        video_batches=1,
        holdout_share=0.3,
        validate_clips=8,
        edits=True,
    ),
    optim=OptimConfig(lr=3e-3, warmup_steps=1, weight_decay=0.1),
    engine=EngineConfig(persistence_threshold=0, timeout_s=120),
)
PERSONAL = dataclasses.replace(
    RUN,
    stage="personal_test",
    flow=FlowConfig(model=dataclasses.replace(MODEL, identity_width=24), text=TEXT, sampler=SAMPLER, personal=PersonalConfig(tower=TOWER)),
    data=dataclasses.replace(RUN.data, edits=False, reference_px=16, cross_share=0.5, cross="asset"),
    engine=dataclasses.replace(RUN.engine, micro_batch=1),
)


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 videos of 12 frames, two of each asset, half of them with a source and a face; 6 pictures, each with a mask; captions for all."""
    root = tmp_path_factory.mktemp("conditioned")
    rows: dict[str, list[object]] = {"clips": [], "captions": [], "shards": [], "members": []}
    for shard_no, (kind, count) in enumerate((("video", 12), ("image", 6))):
        payloads = []
        for i in range(count):
            no, name = len(rows["clips"]), clip_id(digest("conditioned", kind, i), kind, 0, 1)
            asset = {"asset_id": digest("a", kind, i // 2), "asset_no": 100 * shard_no + i // 2, "start_us": 0, "end_us": 1}
            rows["clips"].append(Clip(clip_id=name, clip_no=no, kind=kind, decision="keep", caption_no=no, **asset))
            rows["captions"].append(Caption(caption_no=no, clip_no=no, text=f"waves {no}", captioner="sidecar", captioner_version="1"))
            frames = moving_pattern(no, 12 if kind == "video" else 1, 32, 48)
            payloads.append((no, name, *members(kind, frames, i)))
        path = f"shards/low_res/{kind}/low_res-{kind}-000000.tar"
        written = write_shard(
            root / path, [Payload(clip_id=name, extension=e, data=d) for _, name, *own in sorted(payloads) for e, d in own]
        )
        common = {
            "n_frames": 12 if kind == "video" else 1,
            "fps_num": 24 if kind == "video" else None,
            "fps_den": 1 if kind == "video" else None,
        }
        number = {name: no for no, name, *_ in payloads}
        rows["members"] += [
            Member(shard_no=shard_no, clip_no=number[m.clip_id], **dataclasses.asdict(m), **common) for m in written.members
        ]
        size = {"size_bytes": written.size_bytes, "sha256": written.sha256, "n_samples": count, "width": 48, "height": 32}
        named = {"path": path, "set_name": "low_res", "bucket": kind, "encode_digest": "test", "created_run_no": 0}
        rows["shards"].append(Shard(shard_no=shard_no, **named, **size, **common))
    kinds = {"clips": Clip, "captions": Caption, "shards": Shard, "members": Member}
    ManifestStore(root).commit("build", append={name: to_table(kinds[name], found) for name, found in rows.items()})
    return root


def members(kind: str, frames: np.ndarray, i: int) -> list[tuple[str, bytes]]:
    """A clip's own member and those beside it: the source is its negative, the mask its right half, the face a white square."""
    if kind == "image":
        mask = np.zeros_like(frames[0])
        mask[:, 24:] = 255
        return [("jpg", encode_jpg(frames[0])), ("mask.jpg", encode_jpg(mask))]
    own = [("mp4", encode_mp4(frames))]
    return own + (
        [("source.mp4", encode_mp4(255 - frames)), ("face.jpg", encode_jpg(np.full((16, 16, 3), 255, np.uint8)))] if i % 2 else []
    )


def run(config: TrainConfig, dataset: Path, tae: Path, out: Path) -> Path:
    """The folder of the run, which has reached its end."""
    assert config.flow is not None
    config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, tae=str(tae)))
    lines: list[str] = []
    assert train(config, dataset, out, lines.append) == 0, "\n".join(lines[-60:])
    return out


def test_what_is_beside_a_clip_is_in_its_batch(conditioned: Path, tmp_path: Path) -> None:
    """Sources, masks and faces come in the window and crop of their clip, whatever the number of processes; the index file keeps where
    they lie; a clip without a face shows a piece of itself."""
    samples = load_samples(conditioned, 0)
    write_samples(tmp_path / "index.parquet", samples)
    assert read_samples(tmp_path / "index.parquet") == samples and sum(bool(s.beside) for s in samples) == 12
    data = dataclasses.replace(RUN.data, reference_px=16, size_px=16)
    plan = Plan(dataclasses.replace(RUN, data=dataclasses.replace(data, edits=True)).plan_settings(0), samples)
    has_face = {s.clip_id: s.other("face.jpg") is not None for s in samples}
    loaders = [BatchLoader(conditioned, plan, data, rank, 2) for rank in range(2)]
    whole = BatchLoader(conditioned, plan, data, 0, 1)
    for step in range(6):
        batch, parts = whole.batch(step), [loader.batch(step) for loader in loaders]
        assert all(torch.equal(torch.cat([p.beside[n] for p in parts]), v) for n, v in batch.beside.items())
        for i, clip in enumerate(batch.clip_ids):
            source, mine = batch.beside["source"][i].float(), batch.pixels[i].float()
            if batch.kind == "video":
                assert bool(batch.beside["has_source"][i]) == has_face[clip]
                assert not has_face[clip] or float((255 - source - mine).abs().mean()) < 6
                assert (float(batch.beside["reference"][i].float().mean()) > 250) == has_face[clip]
            else:
                assert not source.any() and batch.beside["mask"].shape == (4, 1, 16, 16)
    held = load_held_out(conditioned, plan.held_out, data, 0, 1)
    turns = [given for turn in held.turns for given in held.beside(turn).values()]
    assert all(set(b) >= {"reference", "source", "has_source"} and b["reference"].shape == (1, 3, 16, 16) for b in turns)


def test_a_partner_is_another_clip_of_the_person(conditioned: Path) -> None:
    """With every reference crossed by asset, a clip whose sibling has a face is shown that face; by pairs, only the pairs' clips are shown;
    a clip alone keeps its own picture."""
    samples = load_samples(conditioned, 0)
    plan = Plan(RUN.plan_settings(0), samples)
    videos = [s for s in plan.samples if s.kind == "video"]
    data = dataclasses.replace(RUN.data, edits=False, reference_px=16, cross_share=1.0, cross="asset")
    white = {s.clip_id: s.other("face.jpg") is not None for s in videos}
    pairs = {s.clip_id: [o.clip_id for o in videos if white[o.clip_id]][:1] for s in videos if not white[s.clip_id]}
    for partners, expected in ((None, {c: not w for c, w in white.items()}), (pairs, dict.fromkeys(white, True)), ({}, white)):
        loader = BatchLoader(conditioned, plan, data, 0, 1, pairs=partners)
        for step in range(8):
            batch = loader.batch(step)
            for i, clip in enumerate(batch.clip_ids) if batch.kind == "video" else ():
                assert (float(batch.beside["reference"][i].float().mean()) > 250) == expected[clip]


def test_a_partner_that_is_shown_is_recorded_and_can_be_taken_down(conditioned: Path, tmp_path: Path) -> None:
    """A batch says whose picture stands beside each clip, in its parts too; the record of the run names that clip at its first step, once,
    also after a resumption; from its takedown on it is in no batch, be it made before."""
    root = shutil.copytree(conditioned, tmp_path / "dataset")
    samples = load_samples(root, 0)
    data = dataclasses.replace(RUN.data, edits=False, reference_px=16, cross_share=1.0, image_batches=0, prefetch_batches=4)
    plan = Plan(dataclasses.replace(RUN, data=dataclasses.replace(data, edits=True)).plan_settings(0), samples)
    partner = next(s for s in plan.samples if s.kind == "video" and s.other("face.jpg"))
    pairs = {s.clip_id: [partner.clip_id] for s in plan.samples if s is not partner}
    loader = BatchLoader(root, plan, data, 0, 1, pairs=pairs)
    running = loader.batches(0, 4)
    batch = next(running)
    assert any(batch.shown) and batch.shown == tuple("" if c == partner.clip_id else partner.clip_id for c in batch.clip_ids)
    assert batch.part(slice(1, 3)).shown == batch.shown[1:3]
    exposure = Exposure(plan)
    exposure.saw(0, (), batch.shown)
    record = exposure.record(1, exposure.exceptions)
    later = Exposure(plan, record)
    later.saw(1, (), batch.shown)
    assert later.record(2, later.exceptions)["exceptions"] == [{"step": 0, "shown": partner.clip_id}]
    time.sleep(0.3)  # the other batches are made
    deny(root, [partner.clip_id], 1)
    for batch in running:
        assert partner.clip_id not in (*batch.shown, *batch.clip_ids)


def test_latents_with_a_broken_picture_beside_them_are_replaced(conditioned: Path, tmp_path: Path) -> None:
    """Where latents were made beforehand and the face beside them is damaged, the batch is made of pixels and the clip is replaced."""
    samples = load_samples(conditioned, 0)
    data = dataclasses.replace(RUN.data, edits=False, reference_px=16, image_batches=0)

    def broken(sample: Sample) -> Sample:
        return dataclasses.replace(sample, beside=tuple(dataclasses.replace(b, sha256=b"\1" * 32) for b in sample.beside))

    class Kept:
        """Latents of every clip."""

        def has(self, sample: Sample, config: DataConfig) -> bool:
            """Always."""
            return True

        def read(self, sample: Sample, config: DataConfig) -> torch.Tensor:
            """The latent (4, 2, 4, 4)."""
            return torch.ones(4, 2, 4, 4)

    plan = Plan(dataclasses.replace(RUN, data=dataclasses.replace(data, edits=True)).plan_settings(0), samples)
    whole = BatchLoader(conditioned, plan, data, 0, 1, Kept()).batch(0)
    assert whole.encoded and not whole.replaced and whole.shown == ("",) * 4
    victim = next(s.clip_id for c in whole.clip_ids for s in plan.samples if s.clip_id == c and s.beside)
    plan = Plan(plan.settings, [broken(s) if s.clip_id == victim else s for s in samples])
    batch = BatchLoader(conditioned, plan, data, 0, 1, Kept()).batch(0)
    assert not batch.encoded and {r.planned for r in batch.replaced} == {victim} and "SHA-256" in batch.replaced[0].reason


def test_an_editor_trains_and_is_shown(conditioned: Path, tae: Path, tmp_path: Path) -> None:
    """Pictures become animated edits and marks, videos pairs, by step; held-out edits are measured and a picture of one is there; an
    evaluation finds the loss that the run did."""
    out = run(RUN, conditioned, tae, tmp_path / "run")
    rows, measured = read_log(out, "train"), read_log(out, "validate")
    assert [r["media"] for r in rows] == ["video", "image"] * 3
    assert measured[-1]["ema_loss"] < measured[0]["loss"] and (out / "pictures" / "step-00000006.png").exists()
    weights = load_file(out / "export" / "weights.safetensors")
    assert float(weights["context.weight"].abs().max()) > 0 and float(weights["tasks.time.weight"].abs().max()) > 0
    losses, wanted = evaluated(out, tae, conditioned), edits_loss(out)
    found = {c: v for name, row in losses.items() if name.startswith("edit_test loss") for c, v in zip(row.clips, row.values, strict=True)}
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_frozen_tower_stays_bit_for_bit_and_its_successor_trains_it(conditioned: Path, tae: Path, tmp_path: Path) -> None:
    """Under weight decay and on two processes a frozen tower is, in the export, what it began as, while the transformer moved; a stage from
    it, which begins where it ended, with the tower trained moves that too; an evaluation finds the loss that the run did."""
    first = run(PERSONAL, conditioned, tae, tmp_path / "first")
    export, begun = load_file(first / "export" / "weights.safetensors"), first_weights(PERSONAL)
    assert all(torch.equal(v, begun[n]) for n, v in export.items() if n.startswith("tower."))
    assert not torch.equal(export["blocks.0.bias"], begun["blocks.0.bias"])
    assert PERSONAL.flow is not None
    trained = dataclasses.replace(PERSONAL.flow, parent=str(first), personal=PersonalConfig(tower=TOWER, train_tower=True))
    later = dataclasses.replace(PERSONAL, stage="personal_last", flow=trained, processes=1, steps=2, validate_every=2)
    last = run(later, conditioned, tae, tmp_path / "last")
    moved = load_file(last / "export" / "weights.safetensors")
    assert not torch.equal(moved["tower.blocks.0.qkv.weight"], export["tower.blocks.0.qkv.weight"])
    before, after = read_log(first, "validate")[-1], read_log(last, "validate")[0]
    assert after["loss"] == pytest.approx(before["ema_loss"], rel=1e-5)
    assert evaluated(first, tae, conditioned)["personal_test loss, videos"].value == pytest.approx(before["ema_loss_video"], rel=1e-5)


def edits_loss(out: Path) -> dict[str, float]:
    """The loss of the run's task and averaged weights on each of the held-out clips that are edits, pictures and pairs."""
    found = read_run(out)
    task, samples = make_task(found.config, out), Plan(found.config.plan_settings(0), found.samples).held_out
    assert isinstance(task, EditTask)
    model, losses = task.module(), {}
    model.load_state_dict(load_file(out / "export" / "weights.safetensors"))
    for sample in samples[: found.config.data.validate_clips]:
        if sample.kind == "image" or sample.other("source.mp4"):
            turn = load_turn(found.dataset, sample, found.config.data)
            task.held = {sample.clip_id: {name: value[None] for name, value in turn.beside.items()}}
            with torch.no_grad():
                losses[sample.clip_id] = float(task.score(model, sample, turn.pixels[None], torch.float32)[0])
    return losses


def evaluated(out: Path, tae: Path, dataset: Path) -> dict[str, Measured]:
    """What `dailies evaluate` measures of the run's export on the run's held-out clips."""
    found = read_run(out)
    held_out = Plan(found.config.plan_settings(0), found.samples).held_out[: found.config.data.validate_clips]
    clips = Clips(dataset=dataset, version=0, samples=held_out)
    return {m.name: m for m in measure_models(MoviePipeline.from_folders([out, tae]), clips, EvaluateConfig())}


def first_weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """What a run without a parent begins with."""
    from training.models.transformer import initialise
    from training.models.vision import PersonalTransformer, initialise_tower

    assert config.flow is not None
    model = PersonalTransformer(config.flow.model, TOWER, train_tower=False)
    initialise(model, config.seed)
    initialise_tower(model.tower, config.seed)
    return model.state_dict()


def test_pairs_that_were_not_found_are_asked_for(conditioned: Path, tae: Path, tmp_path: Path) -> None:
    """Crossing by identity wants the pairs that curation stores, and says how to get them."""
    data = dataclasses.replace(PERSONAL.data, cross="identity")
    assert PERSONAL.flow is not None
    flow = dataclasses.replace(PERSONAL.flow, tae=str(tae))
    with pytest.raises(TrainingError, match="expected pairs of clips of one person"):
        train(dataclasses.replace(PERSONAL, data=data, flow=flow), conditioned, tmp_path / "run")
