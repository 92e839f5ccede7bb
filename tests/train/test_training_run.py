"""Whole runs on CPU processes: killed, resumed, on other numbers of processes, from damaged checkpoints; all give the same training."""

import dataclasses
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from training import checkpoint
from training.config import TrainConfig
from training.data.config import DataConfig
from training.data.index import load_samples
from training.data.plan import Plan, exposed_clips, replay, roll
from training.errors import TrainingError
from training.export import CONFIG as EXPORT_CONFIG
from training.export import WEIGHTS
from training.launch import train
from training.losses import TAELossConfig, psnr_db
from training.metrics import LOG, read_log
from training.models.autoencoder import TAE, TAEConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.tasks.autoencoder import AutoencoderTask
from training.validate import load_held_out

pytestmark = pytest.mark.train

STEPS = 8
CONFIG = TrainConfig(
    seed=3,
    steps=STEPS,
    processes=2,
    validate_every=4,
    checkpoint_every=1,
    keep=100,
    log_every=1,
    ema_decay=0.9,
    model=TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), n_res_blocks=1, norm_groups=4),
    data=DataConfig(size_px=16, resize_px=16, n_frames=9, global_batch=4, holdout_share=0.2, validate_clips=3),
    loss=TAELossConfig(outlier_weight=1.0),
    # Adam's step of a gradient that is nearly 0 has the sign of its rounding; with this eps it follows the gradient, and two orders of
    # summing stay together (3e-7 after eight steps; with 1e-8 they drift threefold a step)
    optim=OptimConfig(lr=2e-3, eps=1e-3, warmup_steps=2),
    # nothing stays gathered, so that every parameter is really sharded although all are small
    engine=EngineConfig(persistence_threshold=0, timeout_s=120),
)


def assert_same_course(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Losses and norms are equal but for rounding."""
    assert [r["rolling_digest"] for r in rows] == [r["rolling_digest"] for r in expected]
    for n, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5), n
        assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-4), n


def run(config: TrainConfig, dataset: Path, out: Path) -> list[str]:
    """The lines of a run that reached its end."""
    lines: list[str] = []
    assert train(config, dataset, out, lines.append) == 0, "\n".join(lines[-40:])
    return lines


def copy_until(source: Path, target: Path, step: int) -> Path:
    """The run as it stood when it was killed just after the checkpoint of `step`."""
    shutil.copytree(source, target)
    (target / "done.json").unlink()
    for info in checkpoint.list_complete(target):
        if info.step > step:
            shutil.rmtree(info.path)
    return target


@pytest.fixture(scope="module")
def straight(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run on two processes."""
    out = tmp_path_factory.mktemp("straight")
    run(CONFIG, dataset, out)
    return out


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run on one process, measured at every second step."""
    out = tmp_path_factory.mktemp("alone")
    run(dataclasses.replace(CONFIG, processes=1, validate_every=2), dataset, out)
    return out


def test_killed_at_random_and_resumed_is_bit_equal(dataset: Path, straight: Path, processes, tmp_path: Path) -> None:
    """kill -9 of the launcher, then of a worker, at random moments; the same command ends with the same log and weights, bit for bit."""
    seed = random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    out = tmp_path / "run"
    for victim in ("launcher", "worker"):
        process = processes.start(CONFIG, dataset, out)
        done = len(read_log(out, "train")) if out.exists() else 0
        target = min(STEPS - 1, done + draw.randint(1, 3))
        processes.wait_for(lambda at=target: out.exists() and len(read_log(out, "train")) >= at and len(processes.workers(out)) >= 2, 180)
        time.sleep(draw.uniform(0, 0.3))
        if victim == "launcher":
            process.kill()
        elif alive := processes.workers(out):
            os.kill(draw.choice(alive), signal.SIGKILL)
        process.wait(60)
        processes.wait_for(lambda: not processes.workers(out), 60)
    run(CONFIG, dataset, out)
    assert (out / LOG).read_bytes() == (straight / LOG).read_bytes(), f"seed {seed}"
    assert (out / "export" / WEIGHTS).read_bytes() == (straight / "export" / WEIGHTS).read_bytes()
    exposures = [checkpoint.list_complete(folder)[-1].exposure for folder in (out, straight)]
    assert exposures[0] == exposures[1]


def test_one_process_reads_the_same_and_learns_the_same(straight: Path, alone: Path) -> None:
    """One process takes the same clips in the same order as two, and ZeRO-3's losses are those of a single process in fp32."""
    two, one = read_log(straight, "train"), read_log(alone, "train")
    assert len(one) == STEPS
    assert_same_course(one, two)
    assert two[-1]["loss"] < two[0]["loss"]


def test_the_loop_is_plain_training(dataset: Path, alone: Path) -> None:
    """The losses are those of a bare torch loop over the plan: no step is skipped, repeated, or scaled by the engine."""
    from training.data.batch import BatchLoader
    from training.loop import lr_at

    plan = Plan(CONFIG.plan_settings(0), load_samples(dataset, 0))
    task = AutoencoderTask(CONFIG.stage, CONFIG.model, CONFIG.loss, CONFIG.seed)
    model = task.module()
    adamw = torch.optim.AdamW(model.parameters(), betas=CONFIG.optim.betas, eps=CONFIG.optim.eps, weight_decay=0.0)
    logged, rows = read_log(alone, "train"), []
    for batch in BatchLoader(dataset, plan, CONFIG.data, 0, 1).batches(0, STEPS):
        loss = task.loss("autoencoder", {"autoencoder": model}, batch, batch.unit()).total.mean()
        adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.optim.clip_norm)
        rows.append({**logged[batch.step], "loss": float(loss), "grad_norm": float(norm)})
        adamw.param_groups[0]["lr"] = lr_at(batch.step, STEPS, CONFIG.optim)
        adamw.step()
    assert_same_course(rows, logged)


def test_another_number_of_processes_goes_on(dataset: Path, straight: Path, tmp_path: Path) -> None:
    """A run of two processes is continued by one: same clips, same log before, losses close after."""
    out = copy_until(straight, tmp_path / "run", 4)
    run(dataclasses.replace(CONFIG, processes=1), dataset, out)
    rows, expected = read_log(out, "train"), read_log(straight, "train")
    assert rows[:4] == expected[:4]
    assert_same_course(rows[4:], expected[4:])


def test_half_precision_resumes_bit_equal(dataset: Path, tmp_path: Path) -> None:
    """In bf16 too, where weights and their float32 copies differ, a resumed run writes the log of an uninterrupted one."""
    config = dataclasses.replace(CONFIG, steps=4, engine=dataclasses.replace(CONFIG.engine, precision="bf16"))
    run(config, dataset, tmp_path / "straight")
    out = copy_until(tmp_path / "straight", tmp_path / "run", 2)
    run(config, dataset, out)
    assert (out / LOG).read_bytes() == (tmp_path / "straight" / LOG).read_bytes()
    weight = checkpoint.Reader(checkpoint.list_complete(out)[-1], 0, 1).whole("weight", "decoder.conv_out.spatial.weight")
    assert not torch.equal(weight, weight.bfloat16().float()), "the float32 copies keep what bf16 cannot"


def test_a_damaged_checkpoint_costs_only_its_steps(dataset: Path, straight: Path, tmp_path: Path) -> None:
    """With one flipped bit in the newest checkpoint the run says so, goes on from the one before, and ends the same."""
    out = copy_until(straight, tmp_path / "run", 6)
    state = next((out / checkpoint.FOLDER / "step-00000006").glob("state-00001-*"))
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    lines = run(CONFIG, dataset, out)
    assert any("refused" in line and "step-00000006" in line and "expected SHA-256" in line for line in lines)
    assert any(line.startswith(f"step 5/{STEPS} start") for line in lines)
    assert (out / LOG).read_bytes() == (straight / LOG).read_bytes()


def test_sharded_average_equals_plain(straight: Path) -> None:
    """The average that two ranks keep in pieces is that of the whole weights of every step."""
    average = AutoencoderTask(CONFIG.stage, CONFIG.model, CONFIG.loss, CONFIG.seed).module().state_dict()
    for info in checkpoint.list_complete(straight):
        reader = checkpoint.Reader(info, 0, 1)
        keep = min(CONFIG.ema_decay, info.step / (info.step + 9))
        for name, value in average.items():
            value.lerp_(reader.whole("weight", name), 1 - keep)
            assert torch.allclose(value, reader.whole("ema", name), rtol=0, atol=1e-7)


def test_measuring_does_not_touch_training(dataset: Path, straight: Path, alone: Path) -> None:
    """The averaged weights are really used to measure, and the weights are their own again afterwards."""
    from safetensors.torch import load_file

    plan = Plan(CONFIG.plan_settings(0), load_samples(dataset, 0))
    held_out = load_held_out(dataset, plan.held_out, CONFIG.data, 0, 1)
    model = TAE(CONFIG.model)
    for folder in (straight, alone):
        model.load_state_dict(load_file(folder / "export" / WEIGHTS))
        with torch.no_grad():
            scores = [psnr_db(model(t.pixels[None])[0][0].clamp(-1, 1), t.pixels) for t in held_out.turns]
        last = read_log(folder, "validate")[-1]
        assert last["step"] == STEPS and last["ema_psnr_db"] == pytest.approx(sum(scores) / len(scores), abs=1e-3)
        assert abs(last["ema_psnr_db"] - last["psnr_db"]) > 1e-4
    # `alone` exchanged the weights at every second step, `straight` at every fourth: their losses of steps 3 and 4 agree to 1e-5 (tested above), so nothing leaked
    assert len(read_log(alone, "validate")) == 5 and len(read_log(straight, "validate")) == 3


def test_exposure_is_replayable(dataset: Path, straight: Path) -> None:
    """From a checkpoint's record and the dataset, the plan is made again and its hash chain ends in the recorded digest."""
    samples = load_samples(dataset, 0)
    for info in checkpoint.list_complete(straight):
        plan, digest = replay(info.exposure["plan_json"], samples), info.exposure["plan_digest"]
        for step in range(info.step):
            digest = roll(digest, step, plan.clip_ids(step))
        assert digest == info.exposure["rolling_digest"] and info.exposure["n_samples"] == info.step * 4
    seen = exposed_clips(info.exposure["plan_json"], samples, info.step, info.exposure["exceptions"])
    assert set(seen.values()) <= set(range(STEPS)) and not set(seen) & {s.clip_id for s in plan.held_out}


def test_a_finished_run_is_left_alone(dataset: Path, straight: Path) -> None:
    """The same command on a finished run starts nothing; another configuration in its folder is refused."""
    before = sorted((p, p.stat().st_mtime_ns) for p in straight.rglob("*") if p.name not in ("run.json", ".lock") and p.is_file())
    began = time.monotonic()
    assert run(CONFIG, dataset, straight) == [] and time.monotonic() - began < 5
    assert before == sorted((p, p.stat().st_mtime_ns) for p in straight.rglob("*") if p.name not in ("run.json", ".lock") and p.is_file())
    with pytest.raises(TrainingError, match="seed 3 -> 4"):
        train(dataclasses.replace(CONFIG, seed=4), dataset, straight)


def test_the_run_folder_holds_what_it_promises(straight: Path) -> None:
    """Pictures, TensorBoard, export and a log without clock times are there; no file is a pickle."""
    assert [p.name for p in sorted((straight / "pictures").glob("*.png"))] == [f"step-{s:08d}.png" for s in (0, 4, 8)]
    assert f"step {STEPS}/{STEPS} exported" in (straight / "worker.log").read_text()
    assert any((straight / "tensorboard").iterdir()) and (straight / "export" / EXPORT_CONFIG).exists()
    assert not any("second" in line or "time" in line for line in (straight / LOG).read_text().splitlines())
    assert {p.suffix for p in (straight / checkpoint.FOLDER).rglob("*") if p.is_file()} == {".json", ".safetensors"}


def test_a_small_batch_is_overfitted(dataset: Path) -> None:
    """Four samples are learnt by heart: the loss falls to less than a third within 400 steps of plain training."""
    from training.data.batch import BatchLoader

    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, base_channels=16, channel_mult=(1, 1, 2, 2)))
    plan = Plan(config.plan_settings(0), load_samples(dataset, 0))
    batch = BatchLoader(dataset, plan, config.data, 0, 1).batch(0)
    task = AutoencoderTask(config.stage, config.model, config.loss, config.seed)
    model = task.module()
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(400):
        loss = task.loss("autoencoder", {"autoencoder": model}, batch, batch.unit()).total.mean()
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        losses.append(float(loss))
        if losses[-1] < losses[0] / 3:  # how soon depends on the processor's rounding
            break
    assert losses[-1] < losses[0] / 3, losses[::20]
