"""The autoencoders on CPU processes: of images, then inflated and trained against an adversary; killed, resumed, bit-equal."""

import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import checkpoint
from training.conditions import PRINCIPAL, load_principal, prepare
from training.config import TrainConfig
from training.data.batch import BatchLoader, to_tensor
from training.data.config import DataConfig
from training.data.index import load_samples
from training.data.plan import Plan
from training.data.sample import load_pixels
from training.errors import TrainingError
from training.launch import train
from training.loop import lr_at
from training.losses import TAELossConfig, psnr_db
from training.metrics import LOG, read_log
from training.models.autoencoder import TAEConfig
from training.models.discriminator import DiscriminatorConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.make import make_task

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

START, STEPS = 2, 6
# Adam's step of a gradient that is nearly 0 has the sign of its rounding; with this eps it follows the gradient, and two orders of summing
# stay together (4e-7 after six steps; with 1e-8 it was 3e-4 on one processor)
EPS = 1e-3
SIZES = TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2)
IMAGE = TrainConfig(
    stage="image_ae",
    seed=5,
    steps=4,
    validate_every=100,
    checkpoint_every=4,
    pictures=0,
    ema_decay=0.5,
    model=dataclasses.replace(SIZES, temporal=False),
    data=DataConfig(size_px=16, resize_px=16, n_frames=1, global_batch=4, holdout_share=0.3, validate_clips=8),
    loss=TAELossConfig(outlier_weight=1.0),
    optim=OptimConfig(lr=3e-3, eps=EPS, warmup_steps=1),
    engine=EngineConfig(persistence_threshold=0, timeout_s=120),
)


def run(config: TrainConfig, dataset: Path, out: Path) -> None:
    """The run has reached its end."""
    lines: list[str] = []
    assert train(config, dataset, out, lines.append) == 0, "\n".join(lines[-60:])


@pytest.fixture(scope="module")
def images(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished image autoencoder."""
    out = tmp_path_factory.mktemp("images")
    run(IMAGE, dataset, out)
    return out


@pytest.fixture(scope="module")
def config(images: Path) -> TrainConfig:
    """The temporal one, inflated from `images`, on two processes, with an adversary that is heard from step 2 on."""
    return dataclasses.replace(
        IMAGE,
        stage="tae",
        steps=STEPS,
        processes=2,
        validate_every=3,
        checkpoint_every=1,
        keep=100,
        model=SIZES,
        parent=str(images),
        data=dataclasses.replace(IMAGE.data, n_frames=9),
        loss=TAELossConfig(
            outlier_weight=1.0,
            gan_weight=0.5,
            gan_start_step=START,
            discriminator=DiscriminatorConfig(base_channels=4, levels=2, norm_groups=2),
        ),
        adversary=OptimConfig(lr=1e-2, eps=EPS, warmup_steps=1),
    )


@pytest.fixture(scope="module")
def videos(config: TrainConfig, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished temporal run."""
    out = tmp_path_factory.mktemp("videos")
    run(config, dataset, out)
    return out


def test_the_inflated_one_begins_where_the_image_one_ended(images: Path, videos: Path) -> None:
    """Before its first step the temporal autoencoder reconstructs held-out images exactly as well as the exported image autoencoder."""
    before, after = read_log(images, "validate")[-1], read_log(videos, "validate")[0]
    assert after["psnr_image_db"] == pytest.approx(before["ema_psnr_image_db"], rel=1e-6)
    assert json.loads((images / "export" / "config.json").read_text())["stage"] == "image_ae"


def test_two_updates_a_step(videos: Path) -> None:
    """Every step has the losses of both; the adversary is heard from its start step on; it begins at a hinge loss of about 1 and learns;
    the discriminator's state is in the checkpoints and not in the export."""
    steps = read_log(videos, "train")
    assert [("adversarial" in row) for row in steps] == [row["step"] >= START for row in steps]
    assert all({"loss", "l1", "grad_norm", "discriminator_loss", "discriminator_real", "discriminator_grad_norm"} <= set(r) for r in steps)
    assert 0.7 < steps[0]["discriminator_loss"] < 1.5 and steps[-1]["discriminator_loss"] != steps[0]["discriminator_loss"]
    info = checkpoint.list_complete(videos)[-1]
    reader = checkpoint.Reader(info, 0, 1)
    name = "discriminator/conv_out.spatial.weight"
    moments = reader.whole("exp_avg", name)
    first = checkpoint.Reader(checkpoint.list_complete(videos)[0], 0, 1).whole("weight", name)
    assert moments.abs().sum() > 0 and not first.equal(reader.whole("weight", name))
    assert not any("discriminator" in n for n in load_file(videos / "export" / "weights.safetensors"))


def test_killed_and_resumed_is_bit_equal(config: TrainConfig, dataset: Path, videos: Path, processes, tmp_path: Path) -> None:
    """kill -9 of a worker at a random moment; the same command ends with the same log and weights, the adversary's too, bit for bit."""
    seed = random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    out = tmp_path / "run"
    process, target = processes.start(config, dataset, out), draw.randint(1, STEPS - 2)
    processes.wait_for(lambda: out.exists() and len(read_log(out, "train")) >= target and len(processes.workers(out)) >= 2, 300)
    time.sleep(draw.uniform(0, 0.2))
    if alive := processes.workers(out):
        os.kill(draw.choice(alive), signal.SIGKILL)
    process.wait(120)
    processes.wait_for(lambda: not processes.workers(out), 60)
    run(config, dataset, out)
    assert (out / LOG).read_bytes() == (videos / LOG).read_bytes(), f"seed {seed}"
    for rank in range(2):
        state = f"checkpoints/step-{STEPS:08d}/state-{rank:05d}-of-00002.safetensors"
        found, expected = load_file(out / state), load_file(videos / state)
        assert found.keys() == expected.keys() and all(found[n].equal(expected[n]) for n in found)


class Plain:
    """A module in the place of its engine."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, *inputs: torch.Tensor) -> object:
        return self.module(*inputs)


def test_two_processes_learn_what_a_plain_loop_learns(config: TrainConfig, dataset: Path, images: Path, videos: Path) -> None:
    """The losses of both updates, and both gradients' norms, are those of torch alone on the whole batch, without ZeRO-3: the adversary
    heard through the pixels changes the autoencoder as it should, and leaves nothing behind in its own gradients."""
    plan = Plan(config.plan_settings(0), load_samples(dataset, 0))
    task = AutoencoderTask("tae", config.model, config.loss, config.seed, load_file(images / "export" / "weights.safetensors"))
    engines = {name: Plain(module) for name, module in task.modules().items()}
    optimisers = {}
    for name, optim in zip(task.updates, (config.optim, config.adversary), strict=True):
        optimisers[name] = torch.optim.AdamW(engines[name].module.parameters(), betas=optim.betas, eps=optim.eps, weight_decay=0.0)
    logged = read_log(videos, "train")
    for batch in BatchLoader(dataset, plan, config.data, 0, 1).batches(0, STEPS):
        for name, optim in zip(task.updates, (config.optim, config.adversary), strict=True):
            prefix, parameters = "" if name == "autoencoder" else f"{name}_", list(engines[name].module.parameters())
            loss = task.loss(name, engines, batch, batch.unit()).total.mean()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
            for group in optimisers[name].param_groups:
                group["lr"] = lr_at(batch.step, STEPS, optim)
            optimisers[name].step()
            optimisers[name].zero_grad()
            found = logged[batch.step]
            assert found[f"{prefix}loss"] == pytest.approx(float(loss), rel=1e-5), (batch.step, name)
            assert found[f"{prefix}grad_norm"] == pytest.approx(float(norm), rel=1e-4), (batch.step, name)


def test_a_parent_that_does_not_fit_is_refused(config: TrainConfig, dataset: Path, videos: Path, tmp_path: Path) -> None:
    """Neither a temporal autoencoder nor a folder without an export is a parent: it is said before any process starts."""
    with pytest.raises(TrainingError, match="expected the export of stage image_ae, found tae"):
        train(dataclasses.replace(config, parent=str(videos)), dataset, tmp_path / "a")
    with pytest.raises(TrainingError, match="expected the export of a finished run"):
        train(dataclasses.replace(config, parent=str(tmp_path)), dataset, tmp_path / "b")


def test_a_run_fixes_the_linear_code_it_begins_as(many_blocks: Path, tmp_path: Path) -> None:
    """Before the first step the components of the training clips' blocks lie in the run's folder, the same for the same run; its model
    reconstructs a held-out clip as they do, and so better than in the mean colour."""
    config = TrainConfig(
        principal_clips=12,
        model=TAEConfig(patch_px=8, base_channels=16, channel_mult=(1,), n_res_blocks=1, norm_groups=1, norm_out=False),
        data=DataConfig(size_px=64, resize_px=64, n_frames=32, image_batches=0, video_batches=1, holdout_share=0.1),
    )
    samples = load_samples(many_blocks, 0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepare(config, many_blocks, tmp_path / name, samples, 0)
    assert (tmp_path / "a" / PRINCIPAL).read_bytes() == (tmp_path / "b" / PRINCIPAL).read_bytes()
    model, principal = make_task(config, tmp_path / "a").modules()["autoencoder"], load_principal(tmp_path / "a")
    held = Plan(config.plan_settings(0), samples).held_out[0]
    x = to_tensor([load_pixels(many_blocks, held, config.data, None)])
    with torch.no_grad():
        made = model(x)[0]
    assert torch.allclose(made, principal.reconstruct(x), atol=1e-3)
    assert psnr_db(made[0], x[0]) > psnr_db(x.mean((2, 3, 4), keepdim=True).expand_as(x)[0], x[0]) + 3
