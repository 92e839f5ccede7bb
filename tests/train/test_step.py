"""One step in many ways: accumulated, with the tokens spread over processes, with a gradient that is not a number, in bfloat16."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import checkpoint, launch
from training.config import TrainConfig
from training.data.config import DataConfig
from training.data.index import load_samples
from training.data.plan import Plan
from training.flow import SamplerConfig
from training.launch import command as torchrun
from training.launch import train
from training.losses import TAELossConfig
from training.metrics import LOG, TIMING, read_log
from training.models.autoencoder import TAEConfig
from training.models.text import TextConfig
from training.models.transformer import TransformerConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.pulse import beats, stragglers
from training.tasks.flow_config import FlowConfig

pytestmark = pytest.mark.train

STEPS = 4
SHARDED = EngineConfig(persistence_threshold=0, timeout_s=120)


@pytest.fixture(scope="module")
def config(tae: Path) -> TrainConfig:
    """A generator of two layers on two latent frames, four clips a step, on two processes."""
    model = TransformerConfig(layers=2, width=32, ffn=48, heads=4, max_t=2, max_h=2, max_w=2, latent_channels=4, bytes_width=16)
    return TrainConfig(
        stage="t2v_step",
        steps=STEPS,
        processes=2,
        validate_every=100,
        checkpoint_every=STEPS,
        pictures=0,
        log_every=1,
        flow=FlowConfig(
            model=model,
            text=TextConfig(bytes_width=16, bytes_tokens=16),
            sampler=SamplerConfig(steps=2, linear_steps=4, guidance=1.0),
            tae=str(tae),
        ),
        data=DataConfig(size_px=32, resize_px=32, n_frames=9, global_batch=4, holdout_share=0.2, validate_clips=2),
        optim=OptimConfig(lr=1e-3, warmup_steps=1),
        engine=SHARDED,
    )


def losses(config: TrainConfig, dataset: Path, out: Path) -> list[float]:
    """The loss of each step of a run that reached its end."""
    lines: list[str] = []
    assert train(config, dataset, out, lines.append) == 0, "\n".join(lines[-40:])
    return [row["loss"] for row in read_log(out, "train")]


@pytest.fixture(scope="module")
def plain(config: TrainConfig, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The run on two processes with a whole batch at once, and its losses; its workers write down what they call."""
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "command", lambda n, run: worker("traced_worker.py", n, run))
        return out, losses(config, dataset, out)


def worker(script: str, processes: int, out: Path) -> list[str]:
    """The command line of a run by torchrun whose workers run a script of this folder."""
    ordinary = torchrun(processes, out)
    return [*ordinary[: ordinary.index("-m", 3)], str(Path(__file__).parent / script), str(out.resolve())]


def test_no_process_takes_a_path_of_its_own(plain: tuple[Path, list[float]]) -> None:
    """Over images, videos, dropped text and validation, both processes call the same modules in the same order: under ZeRO-3 one that did
    not would wait for ever."""
    calls = [(plain[0] / f"calls-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert calls[0] == calls[1]
    assert calls[0].count("forward Block") > 2 * STEPS  # two layers a step, and validation
    assert {row["media"] for row in read_log(plain[0], "train")} == {"image", "video"}


def test_accumulated_steps_are_the_same_steps(config: TrainConfig, dataset: Path, plain: tuple[Path, list[float]], tmp_path: Path) -> None:
    """One sample at a time, twice, gives the losses of two samples at once."""
    engine = dataclasses.replace(SHARDED, micro_batch=1)
    assert losses(dataclasses.replace(config, engine=engine), dataset, tmp_path / "run") == pytest.approx(plain[1], abs=1e-5)


def test_tokens_spread_over_processes_are_the_same_steps(
    config: TrainConfig, dataset: Path, plain: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """Two processes that share each sample, by its tokens and heads, give the losses and gradients of two that have samples of their own."""
    engine = dataclasses.replace(SHARDED, sequence_parallel=2, recompute=True)
    assert losses(dataclasses.replace(config, engine=engine), dataset, tmp_path / "run") == pytest.approx(plain[1], abs=1e-5)
    norms = [[row["grad_norm"] for row in read_log(out, "train")] for out in (plain[0], tmp_path / "run")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    digests = [[row["rolling_digest"] for row in read_log(out, "train")] for out in (plain[0], tmp_path / "run")]
    assert digests[0] == digests[1]


def test_speed_and_life_are_told(plain: tuple[Path, list[float]]) -> None:
    """Each step has its seconds, tokens a second and TFLOP/s; each process left a heartbeat."""
    rows = [json.loads(line) for line in (plain[0] / TIMING).read_text().splitlines()]
    assert len(rows) == STEPS and all(r["tokens_per_s"] > 0 and r["tflops"] > 0 and r["seconds"] >= r["load_s"] for r in rows)
    # images and videos: 1 or 2 latent frames of 2 x 2 tokens, 4 clips
    assert {round(r["tokens_per_s"] * r["seconds"]) for r in rows} <= {16, 32}
    assert [b.rank for b in beats(plain[0])] == [0, 1] and all(b.age_s() < 3600 for b in beats(plain[0]))


def test_the_slow_are_named() -> None:
    """A process that waits for its data, and one whose device is slow, are named; equal ones are not."""
    assert stragglers([0.1, 0.1, 0.1], [1.0, 1.0, 1.1], 1.0) == []
    slow = stragglers([0.1, 0.9, 0.1], [1.0, 1.0, 4.0], 1.0)
    assert ["rank 1" in s and "batch" in s for s in slow] == [True, False] and "rank 2" in slow[1] and "25%" in slow[1]


def test_a_gradient_that_is_no_number_moves_nothing_anywhere(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is not a number, on one of two processes, makes both skip that step; the run goes on, and so does one that was resumed
    right after it, bit-equal."""
    config = TrainConfig(
        steps=4,
        processes=2,
        validate_every=100,
        checkpoint_every=1,
        keep=10,
        pictures=0,
        ema_decay=0.9,
        model=TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), n_res_blocks=1, norm_groups=4),
        data=DataConfig(size_px=16, resize_px=16, n_frames=9, global_batch=4, holdout_share=0.2, validate_clips=2),
        loss=TAELossConfig(outlier_weight=1.0),
        engine=SHARDED,
    )
    monkeypatch.setattr(launch, "command", lambda n, run: worker("poisoned_worker.py", n, run))
    plan = Plan(config.plan_settings(0), load_samples(dataset, 0))
    monkeypatch.setenv("POISON", plan.clip_ids(1)[3])  # the second process's last at step 1
    out, again = tmp_path_factory.mktemp("poisoned"), tmp_path_factory.mktemp("again") / "run"
    losses(config, dataset, out)
    rows = read_log(out, "train")
    assert [row["grad_norm"] is None for row in rows] == [False, True, False, False] and rows[1]["loss"] is None
    before, after, moved = (load_state(out, step) for step in (1, 2, 3))
    assert all(before[name].equal(after[name]) for name in before)
    assert any(not after[name].equal(moved[name]) for name in moved)
    shutil.copytree(out, again)
    (again / "done.json").unlink()
    for info in checkpoint.list_complete(again)[2:]:
        shutil.rmtree(info.path)
    losses(config, dataset, again)
    assert (again / LOG).read_bytes() == (out / LOG).read_bytes()


def load_state(out: Path, step: int) -> dict[str, torch.Tensor]:
    """The first process's share of weights, moments and averages after `step` steps."""
    return load_file(out / "checkpoints" / f"step-{step:08d}" / "state-00000-of-00002.safetensors")


def test_bfloat16_keeps_float32_masters(config: TrainConfig, dataset: Path, plain: tuple[Path, list[float]], tmp_path: Path) -> None:
    """In bfloat16 the losses are near those of float32; what a stage that begins from the run holds before its first step is the
    exported float32 average to the last bit, not what bfloat16 rounds it to."""
    half = dataclasses.replace(config, engine=dataclasses.replace(SHARDED, precision="bf16"))
    assert losses(half, dataset, tmp_path / "run") == pytest.approx(plain[1], rel=0.05)
    exported = load_file(tmp_path / "run" / "export" / "weights.safetensors")
    assert any(not value.equal(value.bfloat16().float()) for value in exported.values())
    assert half.flow
    child = dataclasses.replace(half, steps=1, checkpoint_every=1, flow=dataclasses.replace(half.flow, parent=str(tmp_path / "run")))
    # with a rate of nothing the first step leaves the weights where they began
    child = dataclasses.replace(child, processes=1, optim=dataclasses.replace(child.optim, lr=0.0))
    losses(child, dataset, tmp_path / "child")
    (info,) = checkpoint.list_complete(tmp_path / "child")
    reader = checkpoint.Reader(info, 0, 1)
    assert all(reader.whole("weight", name).equal(value) for name, value in exported.items())
