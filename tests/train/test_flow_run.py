"""The generator on CPU processes: text to image, then text to video from it; killed, resumed, bit-equal; conditions fixed at the start."""

import dataclasses
import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from training import checkpoint
from training.conditions import load_prompts, measured_on
from training.config import TrainConfig
from training.data.config import DataConfig
from training.errors import TrainingError
from training.flow import SamplerConfig
from training.launch import train
from training.losses import TAELossConfig
from training.metrics import LOG, read_log
from training.models.autoencoder import TAEConfig
from training.models.text import TextConfig
from training.models.transformer import TransformerConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.flow_config import FlowConfig

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

TAE = TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2)  # as conftest's
MODEL = TransformerConfig(layers=2, width=32, ffn=64, heads=2, latent_channels=4, max_t=1, max_h=2, max_w=2, bytes_width=16)
FLOW = FlowConfig(model=MODEL, text=TextConfig(bytes_width=16, bytes_tokens=12), sampler=SamplerConfig(steps=4, linear_steps=8))
T2I = TrainConfig(
    stage="t2i_test",
    seed=5,
    steps=12,
    processes=1,
    validate_every=12,
    checkpoint_every=6,
    log_every=4,
    pictures=1,
    ema_decay=0.5,
    flow=FLOW,
    data=DataConfig(
        size_px=32, resize_px=32, n_frames=1, global_batch=4, image_batches=1, video_batches=1, holdout_share=0.3, validate_clips=8
    ),
    optim=OptimConfig(lr=3e-3, warmup_steps=2),
    engine=EngineConfig(persistence_threshold=0, timeout_s=120),
)
T2V = dataclasses.replace(
    T2I,
    stage="t2v_test",
    steps=8,
    processes=2,
    validate_every=4,
    checkpoint_every=1,
    keep=100,
    data=dataclasses.replace(T2I.data, n_frames=9, video_batches=3),
    engine=dataclasses.replace(T2I.engine, recompute=True),
)


def with_flow(config: TrainConfig, **changes: object) -> TrainConfig:
    """The configuration with changes to its generator."""
    assert config.flow is not None
    return dataclasses.replace(config, flow=dataclasses.replace(config.flow, **changes))


def run(config: TrainConfig, dataset: Path, out: Path) -> None:
    """The run has reached its end."""
    lines: list[str] = []
    assert train(config, dataset, out, lines.append) == 0, "\n".join(lines[-60:])


@pytest.fixture(scope="module")
def images(dataset: Path, tae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished text-to-image run on one process."""
    out = tmp_path_factory.mktemp("images")
    run(with_flow(T2I, tae=str(tae)), dataset, out)
    return out


@pytest.fixture(scope="module")
def videos(dataset: Path, tae: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """(configuration, folder) of a finished text-to-video run on two processes that began from `images` with grown positions."""
    grown = dataclasses.replace(MODEL, max_t=2, max_h=4, max_w=4)
    config = with_flow(T2V, tae=str(tae), parent=str(images), model=grown)
    out = tmp_path_factory.mktemp("videos")
    run(config, dataset, out)
    return config, out


def test_the_log_tells_loss_by_time_and_validation(images: Path) -> None:
    """Every step has the loss of the time bins it met; validation has the loss at fixed times, with both kinds of weights, before the
    first step and after the last; an untrained model's loss is that of saying nothing; pictures are there."""
    steps, measured = read_log(images, "train"), read_log(images, "validate")
    assert len(steps) == 12 and [m["step"] for m in measured] == [0, 12]
    for row in steps:
        assert any(f"loss_bin{i}" in row for i in range(4)) and row["loss"] > 0
    assert {"loss", "loss_image", "loss_video", "loss_t10", "loss_t90", "ema_loss", "ema_loss_t50"} <= set(measured[0])
    assert 1.5 < measured[0]["loss"] < 2.8 and measured[1]["loss"] < measured[0]["loss"]
    assert [p.name for p in sorted((images / "pictures").glob("*.png"))] == ["step-00000000.png", "step-00000012.png"]


def test_prompts_are_the_captions_of_the_manifest(images: Path, videos: tuple[TrainConfig, Path]) -> None:
    """The run's prompts are camera words and caption; a video's rate stands in front where videos are trained as videos."""
    still, moving = (sorted(load_prompts(out).values()) for out in (images, videos[1]))
    assert len(still) == len(moving) == 14
    assert "pan left soft waves number 0" in still and "FPS-24 pan left soft waves number 0" in moving
    assert sum(p.startswith("FPS-24 pan left") for p in moving) == 10


def test_clips_of_the_scale_are_in_the_record(images: Path, videos: tuple[TrainConfig, Path]) -> None:
    """The first checkpoint already names every clip that the scale of the latents was measured on; a stage that inherits it measures none."""
    measured = measured_on(images)
    named = [e["shown"] for e in checkpoint.list_complete(images)[0].exposure["exceptions"] if "shown" in e]
    assert measured and named == measured and not measured_on(videos[1])


def test_a_stage_goes_on_where_its_parent_was(images: Path, videos: tuple[TrainConfig, Path]) -> None:
    """Before its first step the video stage's loss on held-out images is that of the image stage's averaged weights: the growth of
    positions and the hand-over change nothing (5 % were allowed)."""
    before, after = read_log(images, "validate")[-1], read_log(videos[1], "validate")[0]
    assert after["loss_image"] == pytest.approx(before["ema_loss_image"], rel=1e-5)
    exported = load_file(videos[1] / "export" / "weights.safetensors")
    assert exported["positions.h"].shape == (4, 32) and exported["positions.t"].shape == (2, 32)


def test_killed_and_resumed_is_bit_equal(dataset: Path, videos: tuple[TrainConfig, Path], processes, tmp_path: Path) -> None:
    """kill -9 of a worker at a random moment; the same command ends with the same log and weights, bit for bit."""
    seed = random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    config, straight = videos
    out = tmp_path / "run"
    process, target = processes.start(config, dataset, out), draw.randint(2, 6)
    processes.wait_for(lambda: out.exists() and len(read_log(out, "train")) >= target and len(processes.workers(out)) >= 2, 300)
    time.sleep(draw.uniform(0, 0.3))
    if alive := processes.workers(out):
        os.kill(draw.choice(alive), signal.SIGKILL)
    process.wait(120)
    processes.wait_for(lambda: not processes.workers(out), 60)
    run(config, dataset, out)
    assert (out / LOG).read_bytes() == (straight / LOG).read_bytes(), f"seed {seed}"
    weights = "export/weights.safetensors"
    assert (out / weights).read_bytes() == (straight / weights).read_bytes()
    exposures = [checkpoint.list_complete(folder)[-1].exposure for folder in (out, straight)]
    assert exposures[0] == exposures[1]


def test_an_export_says_what_builds_it_again(videos: tuple[TrainConfig, Path], tae: Path) -> None:
    """Sizes, text encoders, sampler, and the scale of the latents with the autoencoder's digest stand beside the weights."""
    described = json.loads((videos[1] / "export" / "config.json").read_text())
    assert TransformerConfig(**described["model"]) == videos[0].flow.model
    assert described["latents"]["tae_sha256"] == json.loads((tae / "config.json").read_text())["sha256"]
    assert len(described["latents"]["mean"]) == 4 and set(described["text_keys"]) == {"bytes"} and described["sampler"]["steps"] == 4


def test_other_surroundings_are_refused(dataset: Path, tae: Path, images: Path, tmp_path: Path) -> None:
    """No autoencoder, and a parent trained on another autoencoder, stop the run before it begins."""
    with pytest.raises(TrainingError, match=r"expected flow\.tae"):
        train(T2I, dataset, tmp_path / "a")
    other = tmp_path / "other_tae"
    other.mkdir()
    data = save(AutoencoderTask("tae", TAE, TAELossConfig(), 1).module().state_dict())
    (other / "weights.safetensors").write_bytes(data)
    described = json.loads((tae / "config.json").read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
    (other / "config.json").write_text(json.dumps(described))
    with pytest.raises(TrainingError, match="expected a parent trained on autoencoder"):
        train(with_flow(T2I, tae=str(other), parent=str(images)), dataset, tmp_path / "b")
