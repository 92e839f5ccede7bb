"""What `dailies encode` makes is what training would have computed, to the bit; the same command continues; broken clips are rows."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from manifests.deny import deny
from manifests.events import Run
from manifests.schema import from_table
from manifests.tables import ManifestError, ManifestStore
from pipelines import on_ray
from pipelines.encode import encode_latents, encode_text, folders_of, names_of
from pipelines.on_ray import EngineConfig
from pipelines.progress import Progress
from tests.text_makers import ul2
from training import edits
from training.conditions import latent_cache, prepare, read_prompts
from training.config import TrainConfig
from training.data.batch import BatchLoader
from training.data.config import DataConfig
from training.data.index import load_samples
from training.data.latent_cache import LatentCache, forget_latents
from training.data.plan import Plan
from training.data.text_cache import TextCache, forget_prompts, name_of
from training.flow import SamplerConfig
from training.folder import write_run
from training.latents import LatentCodec, LatentScale, load_tae
from training.launch import train
from training.metrics import read_log
from training.models.sound import SoundConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import TransformerConfig
from training.parallel.engine import EngineConfig as TrainingEngine
from training.tasks.flow_config import FlowConfig
from training.tasks.make import make_task
from training.tasks.sound_config import SoundStage
from training.validate import load_turn

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]

LOCAL, QUIET = EngineConfig(name="local"), Progress(quiet=True)
MODEL = TransformerConfig(layers=1, width=16, ffn=16, heads=2, latent_channels=4, max_t=2, max_h=4, max_w=4, bytes_width=8)
CONFIG = TrainConfig(
    stage="t2v_test",
    seed=3,
    steps=3,
    validate_every=3,
    checkpoint_every=3,
    pictures=0,
    flow=FlowConfig(model=MODEL, text=TextConfig(bytes_width=8, bytes_tokens=8), sampler=SamplerConfig(steps=2, linear_steps=4)),
    data=DataConfig(
        shapes="buckets", size_px=32, n_frames=8, augment=False, tokens_per_step=16, shuffle_shards=1, holdout_share=0.2, validate_clips=2
    ),
    engine=TrainingEngine(persistence_threshold=0, timeout_s=120),
)


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """The dataset, to be changed."""
    return Path(shutil.copytree(dataset, tmp_path / "dataset"))


def with_flow(**changes: Any) -> TrainConfig:
    """The configuration with changes to its generator."""
    assert CONFIG.flow is not None
    return dataclasses.replace(CONFIG, flow=dataclasses.replace(CONFIG.flow, **changes))


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The record of a run."""
    return pq.read_table(result["record"]).to_pylist()


def test_latents_made_beforehand_are_those_made_on_the_fly(copy: Path, tae: Path, tmp_path: Path) -> None:
    """Every clip has latents after one run and all are known to the next; batches of them equal, to the bit, encoded batches of pixels."""
    out = tmp_path / "latents"
    made = encode_latents(copy, out, tae, CONFIG, LOCAL, QUIET)
    assert (made["clips"], made["encoded"], made["broken"]) == (14, 14, 0) and {r["status"] for r in rows(made)} == {"encoded"}
    again = encode_latents(copy, out, tae, CONFIG, LOCAL, QUIET)
    assert (again["known"], again["encoded"]) == (14, 0)
    plan = Plan(CONFIG.plan_settings(0), load_samples(copy, 0))
    network, sha256 = load_tae(tae)
    codec = LatentCodec(network, LatentScale(mean=(0.1,) * 4, std=(0.7,) * 4))
    cache = LatentCache(out, sha256, "fp32")
    beforehand, plain = BatchLoader(copy, plan, CONFIG.data, 0, 1, cache), BatchLoader(copy, plan, CONFIG.data, 0, 1)
    kinds = set()
    for step in range(8):
        a, b = beforehand.batch(step), plain.batch(step)
        assert a.encoded and not b.encoded and a.clip_ids == b.clip_ids and len(b.pixels) == len(a.pixels)
        assert torch.equal(codec.normalise(a.pixels), codec.encode(b.unit()))
        kinds.add(a.kind)
    assert kinds == {"video", "image"}


def test_training_reads_latents_in_place_of_pixels(copy: Path, tae: Path, tmp_path: Path) -> None:
    """A run with a folder of latents decodes no training clip: their bytes are gone from the shards when its steps begin. The task's
    losses are those of pixels encoded on the fly, to the bit; so are its measures of held-out clips."""
    out, run = tmp_path / "latents", tmp_path / "run"
    encode_latents(copy, out, tae, CONFIG, LOCAL, QUIET)
    config, version = with_flow(tae=str(tae), latents_folder=str(out)), ManifestStore(copy).version()
    samples = load_samples(copy, version)
    plan = Plan(CONFIG.plan_settings(version), samples)
    run.mkdir()
    prepare(config, copy, run, samples, version)
    write_run(config, copy, run, samples, version)
    plain = BatchLoader(copy, plan, CONFIG.data, 0, 1).batch(0)
    for sample in plan.samples:
        with (copy / sample.shard_path).open("r+b") as shard:
            shard.seek(sample.offset)
            shard.write(bytes(sample.size_bytes))
    lines: list[str] = []
    assert train(config, copy, run, lines.append) == 0, "\n".join(lines[-40:])
    task = make_task(config, run)
    model = task.modules()["transformer"]
    encoded = BatchLoader(copy, plan, CONFIG.data, 0, 1, latent_cache(config, run)).batch(0)
    losses = [task.loss("transformer", {"transformer": model}, b, b.unit()).total for b in (plain, encoded)]
    assert encoded.encoded and torch.equal(*losses)
    sample, scores = plan.held_out[0], []
    for kept in (None, latent_cache(config, run)):
        turn = load_turn(copy, sample, CONFIG.data, latents=kept)
        assert ("latents" in turn.beside) == (kept is not None)
        task.held = {sample.clip_id: {name: value[None] for name, value in turn.beside.items()}}
        scores.append(task.score(model, sample, turn.given(torch.device("cpu"), torch.float32), torch.float32))
    assert torch.equal(*scores)
    logged = [row["loss"] for row in read_log(run, "train")]
    assert len(logged) == 3 and logged[0] == pytest.approx(losses[0].mean().item(), rel=1e-6)


def test_latents_answer_for_nothing_else(copy: Path, tae: Path, tmp_path: Path) -> None:
    """Other windows, precision or weights have no latents; a damaged file counts as none and is made again after it is removed."""
    out, sample = tmp_path / "latents", next(s for s in load_samples(copy, 0) if s.kind == "video")
    encode_latents(copy, out, tae, CONFIG, LOCAL, QUIET)
    _, sha256 = load_tae(tae)
    cache = LatentCache(out, sha256, "fp32")
    latent = cache.read(sample, CONFIG.data)
    assert latent is not None and latent.shape == (4, 1, 4, 6)
    assert not cache.has(sample, dataclasses.replace(CONFIG.data, n_frames=4))
    assert not LatentCache(out, sha256, "bf16").has(sample, CONFIG.data)
    assert not LatentCache(out, "0" * 64, "fp32").has(sample, CONFIG.data)
    cache.path(sample, CONFIG.data).write_bytes(b"cut")
    assert cache.read(sample, CONFIG.data) is None
    assert forget_latents(out, [sample.sha256]) == 1
    assert encode_latents(copy, out, tae, CONFIG, LOCAL, QUIET)["encoded"] == 1
    assert torch.equal(cache.read(sample, CONFIG.data), latent)


def test_broken_refused_and_denied_clips_are_rows(copy: Path, tae: Path, tmp_path: Path) -> None:
    """A clip whose bytes changed, one that was taken down and those too short are rows with reasons; all others are encoded; counts balance."""
    samples = load_samples(copy, 0)
    broken, denied = [s for s in samples if s.kind == "video"][:2]
    tar = bytearray((copy / broken.shard_path).read_bytes())
    tar[broken.offset + broken.size_bytes // 2] ^= 0xFF
    (copy / broken.shard_path).write_bytes(tar)
    deny(copy, [denied.clip_id], 7)
    made = encode_latents(copy, tmp_path / "out", tae, CONFIG, LOCAL, QUIET)
    assert [made[n] for n in ("clips", "encoded", "known", "refused", "denied", "broken")] == [14, 12, 0, 0, 1, 1]
    reasons = {r["clip_id"]: r["reason"] for r in rows(made) if r["reason"]}
    assert "expected SHA-256" in reasons[broken.clip_id] and reasons[denied.clip_id] == "takedown 7" and len(reasons) == 2
    longer = dataclasses.replace(CONFIG, data=DataConfig(size_px=32, resize_px=32, n_frames=16))
    short = encode_latents(copy, tmp_path / "out", tae, longer, LOCAL, QUIET)
    assert (short["encoded"], short["refused"]) == (4, 10)
    assert {r["reason"] for r in rows(short) if r["status"] == "refused"} == {"expected at least 16 frames, found 12"}


def test_a_run_without_augmentation_only(tae: Path) -> None:
    """Latents are not taken for windows that are drawn anew: the configuration says so instead of never finding any."""
    with pytest.raises(ValueError, match=r"latents_folder: expected data\.augment false"):
        dataclasses.replace(with_flow(latents_folder="x"), data=dataclasses.replace(CONFIG.data, augment=True))


def test_prompts_are_encoded_beforehand(copy: Path, tmp_path: Path) -> None:
    """Every prompt and the empty one are in the cache: training's encoders find all and read no weights; the record names each clip's."""
    words = ul2(tmp_path / "ul2")
    config = with_flow(model=dataclasses.replace(MODEL, bytes_width=0, ul2_width=16), text=TextConfig(ul2=str(words)))
    out = tmp_path / "text"
    made = encode_text(copy, out, config, LOCAL, QUIET)
    assert (made["clips"], made["encoded"], made["known"]) == (14, 14, 0)
    assert encode_text(copy, out, config, LOCAL, QUIET)["known"] == 14
    prompts = read_prompts(copy, 0, load_samples(copy, 0), CONFIG.data)
    assert {r["clip_id"]: r["key"] for r in rows(made)} == {c: name_of(p) for c, p in prompts.items()}
    assert config.flow is not None
    (encoder,) = load_encoders(config.flow.text)
    direct, cache = encoder.encode(["FPS-24 pan left soft waves number 0", ""]), TextCache([encoder], out)
    assert cache.missing([*prompts.values(), ""]) == []
    assert all(torch.equal(a, b) for a, b in zip(direct, cache.get(encoder, ["FPS-24 pan left soft waves number 0", ""]), strict=True))
    assert forget_prompts(out, ["FPS-24 pan left soft waves number 0"]) == 1
    assert cache.missing([*prompts.values(), ""]) == ["FPS-24 pan left soft waves number 0"]
    clip = next(iter(prompts))
    assert names_of(out, [clip]) == {name_of(prompts[clip])}
    with pytest.raises(ManifestError, match="expected a folder for ul2, byt5 or metaclip"):
        encode_text(copy, out, CONFIG, LOCAL, QUIET)


def test_what_an_editor_and_a_generator_of_sound_read_is_encoded_too(copy: Path, tmp_path: Path) -> None:
    """Of an editor the instructions that it draws, and each clip's words with and without a rate, as an instruction has none; of a generator of
    sound its own prompts."""
    words = TextConfig(ul2=str(ul2(tmp_path / "ul2")))
    model = dataclasses.replace(MODEL, bytes_width=0, ul2_width=16, context_channels=4, tasks=len(edits.TASKS))
    editing = dataclasses.replace(CONFIG.flow, model=model, text=words, edit=edits.EditConfig())
    config = dataclasses.replace(CONFIG, flow=editing, data=dataclasses.replace(CONFIG.data, edits=True))
    encode_text(copy, tmp_path / "edit", config, LOCAL, QUIET)
    cache, said = TextCache(load_encoders(words), tmp_path / "edit"), "soft waves number 0"
    assert cache.missing(["", f"FPS-24 pan left {said}", f"pan left {said}", *edits.instructions()]) == [] and cache.missing(["other"])
    drawn = {edits.edit(torch.zeros(3, 1, 16, 16), ("any", i)).instruction for i in range(300)}
    assert drawn <= set(edits.instructions())
    sound = SoundStage(model=SoundConfig(layers=1, width=16, ffn=16, heads=2, text_width=16, video_width=128), text=words)
    listens = TrainConfig(stage="audio", sound=sound, data=DataConfig(size_px=32, resize_px=32, n_frames=4, sound_frames=20))
    assert encode_text(copy, tmp_path / "sound", listens, LOCAL, QUIET)["clips"] == sum(bool(s.has_sound) for s in load_samples(copy, 0))


def test_the_command_is_in_the_manifest(copy: Path, tae: Path, tmp_path: Path, dailies: Any) -> None:
    """`dailies encode latents` does what the stage's configuration says; the manifest names the folder once, also for a run that was killed."""
    data = ["data.size_px=32", "data.n_frames=8", "data.shapes=buckets", "data.holdout_share=0.2"]
    command = [
        "encode",
        "latents",
        copy,
        "--tae",
        tae,
        "--out",
        tmp_path / "out",
        "--stage",
        "t2v_256",
        "--config",
        "tiny",
        "--engine",
        "local",
        "--json",
        *data,
    ]
    done = dailies(*command)
    assert done.status == 0, done.err
    assert done.json["encoded"] == done.json["clips"] == 14
    assert encode_latents(copy, tmp_path / "out", tae, CONFIG, LOCAL, QUIET)["known"] == 14
    store = ManifestStore(copy)
    assert set(folders_of(store)) == {(tmp_path / "out", "latents")}
    runs: list[Run] = from_table(Run, store.read("runs"))
    assert {r.command for r in runs} == {"encode latents"} and json.loads(runs[0].config_json)["precision"] == "fp32"


@pytest.mark.engine
def test_actors_make_what_one_process_makes(copy: Path, tae: Path, tmp_path: Path) -> None:
    """On Ray the latents are the same files to the byte; a chunk whose worker dies is done by another but for the row that kills it."""
    from tests.child_functions import Doubling

    engine = EngineConfig(cpus=2)
    try:
        assert encode_latents(copy, tmp_path / "ray", tae, CONFIG, engine, QUIET)["encoded"] == 14
        done = list(on_ray.run_workers(Doubling, (10,), [[1, 2, 3], [4, Doubling.POISON, 6], [7]], engine))
    finally:
        on_ray.stop()
    encode_latents(copy, tmp_path / "local", tae, CONFIG, LOCAL, QUIET)
    files = {p.relative_to(tmp_path / "ray"): p.read_bytes() for p in (tmp_path / "ray").rglob("*.safetensors")}
    assert files == {p.relative_to(tmp_path / "local"): p.read_bytes() for p in (tmp_path / "local").rglob("*.safetensors")}
    assert sorted(n for _, made in done for n in made or ()) == [20, 40, 60, 80, 120, 140]
    assert [list(chunk) for chunk, made in done if made is None] == [[Doubling.POISON]]
