"""What the trainer costs over a bare PyTorch loop: the same model, batches, loss and optimiser, in one process on one thread.

    python benchmarks/trainer.py [--sizes tae,tae_wide,flow,flow_wide] [--seconds 60] [--profile]

Three loops take turns step by step on the same decoded batches, in an order that rotates:

    bare     forward, backward, clipping, AdamW, the average of the weights, and the loss read: what a notebook does that trains this; noise
             from torch's generator
    loop     training/loop.py as it is, but for the engine, which is the module with the bare loop's optimiser
    zero     training/loop.py as it is, on DeepSpeed ZeRO-3

So loop / bare is what keyed draws, logs, exposure and checks cost; zero / loop is what ZeRO-3 does. Reading
and decoding are not in it (benchmarks/loader.py), nor are measurements and checkpoints. The figures are medians over steps of the ratio
of processor seconds, which other work on the machine disturbs less than wall time; wall ratios stand beside them.
"""

import argparse
import cProfile
import dataclasses
import hashlib
import json
import os
import pstats
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.data.batch import Batch
from training.data.config import DataConfig
from training.losses import TAELossConfig, l1, outlier_penalty
from training.models.autoencoder import TAEConfig
from training.models.text import TextConfig
from training.models.transformer import TransformerConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.tasks.flow_config import FlowConfig

MOST = 1.05
BATCHES = 8
_TAE = TAEConfig(base_channels=16, channel_mult=(1, 1, 2, 2), n_res_blocks=1, norm_groups=1, norm_out=False)
_DATA = DataConfig(size_px=48, resize_px=64, n_frames=8, global_batch=4, holdout_share=0.1, validate_clips=1)


def configurations(tae: Path) -> dict[str, TrainConfig]:
    """The sizes that are compared: each task at its demo's size and at a wider one."""
    loss, optim = TAELossConfig(outlier_weight=1.0), OptimConfig(lr=1e-4)
    common: dict[str, Any] = {"steps": 10_000, "optim": optim, "log_every": 10, "engine": EngineConfig(bucket_values=5_000_000)}
    flow_data = dataclasses.replace(_DATA, global_batch=8, n_frames=16)

    def flow(layers: int, width: int) -> FlowConfig:
        ffn = -(-8 * width // 3 // 32) * 32
        model = TransformerConfig(layers=layers, width=width, ffn=ffn, heads=width // 32, max_t=2, max_h=4, max_w=4, bytes_width=64)
        return FlowConfig(model=model, text=TextConfig(bytes_width=64, bytes_tokens=32), tae=str(tae), scale_clips=2, latents_memory_mb=64)

    wide = dataclasses.replace(_TAE, base_channels=32)
    return {
        "tae": TrainConfig(model=_TAE, loss=loss, data=_DATA, **common),
        "tae_wide": TrainConfig(model=wide, loss=loss, data=dataclasses.replace(_DATA, size_px=64, n_frames=16), **common),
        "flow": TrainConfig(stage="flow", flow=flow(4, 128), data=flow_data, **common),
        "flow_wide": TrainConfig(stage="flow_wide", flow=flow(8, 384), data=flow_data, **common),
    }


class PlainEngine:
    """What `training.parallel.engine.Engine` offers to a step, without DeepSpeed: one process, one module, AdamW, clipping."""

    def __init__(self, module: nn.Module, blocks: Any, config: EngineConfig, optim: OptimConfig, device: Any, prefix: str = "") -> None:
        self.rank, self.world, self.device, self.dtype = 0, 1, torch.device("cpu"), torch.float32
        self.module, self._clip = module, optim.clip_norm
        self.parameters = {prefix + name: p for name, p in module.named_parameters()}
        self.shapes = {name: tuple(p.shape) for name, p in self.parameters.items()}
        self._adamw = adamw(module, optim)

    def __call__(self, *inputs: Any) -> Any:
        """The module's output."""
        return self.module(*inputs)

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Gradients are accumulated."""
        loss.backward()

    def step(self, lr: float) -> float:
        """One clipped step; the gradient's norm."""
        return take_step(self.module, self._adamw, lr, self._clip)

    def local_weight(self, name: str) -> Tensor:
        """The whole parameter, flat."""
        return self.parameters[name].detach().flatten()

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The values: there is one rank."""
        return values.detach().clone()

    def set_timeout(self, seconds: int, *groups: Any) -> None:
        """Nobody is waited for."""


def adamw(module: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """The optimiser that the engine has."""
    return torch.optim.AdamW(module.parameters(), lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)


def take_step(module: nn.Module, optimiser: torch.optim.AdamW, lr: float, clip_norm: float) -> float:
    """One clipped step at this rate; the gradient's norm."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    norm = nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(norm)


def bare_loop(config: TrainConfig, out: Path) -> Callable[[Batch], float]:
    """A step of the loop that anyone would write; gives the loss."""
    from training.conditions import load_latents, load_prompts
    from training.latents import LatentCodec, load_tae
    from training.models.text import load_encoders
    from training.tasks.make import make_task

    module = next(iter(make_task(config, out).modules().values()))
    optimiser, generator = adamw(module, config.optim), torch.Generator().manual_seed(0)
    trained = [p.detach() for p in module.parameters()]
    average = [p.clone() for p in trained]

    def autoencoder(batch: Batch) -> Tensor:
        pixels = batch.unit()
        noise = torch.randn(len(pixels), *module.latent_shape(tuple(pixels.shape)), generator=generator)  # type: ignore[operator]
        output, posterior = module(pixels, noise)
        weights = config.loss
        loss = weights.l1_weight * l1(output, pixels) + weights.kl_weight * posterior.kl()
        return (loss + weights.outlier_weight * outlier_penalty(posterior.mean, weights.outlier_r)).mean()

    if config.flow:
        from training.data.text_cache import TextCache

        tae, sha256 = load_tae(Path(config.flow.tae))
        codec = LatentCodec(tae, load_latents(out)[0], sha256, config.flow.latents_memory_mb << 20)
        texts, prompts = TextCache(load_encoders(config.flow.text), None), load_prompts(out)

    def flow(batch: Batch) -> Tensor:
        x_1 = codec.encode(batch.unit())
        x_0 = torch.randn(x_1.shape, generator=generator)
        t = torch.randn(len(x_1), generator=generator).sigmoid()
        tokens, masks = texts.batch([prompts[c] for c in batch.clip_ids])
        t_B1111 = t.view(-1, 1, 1, 1, 1)
        v = module(t_B1111 * x_1 + (1 - t_B1111) * x_0, t, tokens, masks)
        return (v - (x_1 - x_0)).square().mean()

    compute = flow if config.flow else autoencoder

    def step(batch: Batch) -> float:
        loss = compute(batch)
        loss.backward()
        take_step(module, optimiser, config.optim.lr, config.optim.clip_norm)
        torch._foreach_lerp_(average, trained, 1.0 - config.ema_decay)
        return float(loss.detach())

    return step


def our_loop(config: TrainConfig, dataset: Path, out: Path, samples: Any, engine: type | None) -> tuple[Any, Callable[[Batch], None]]:
    """(the run, a step of it); with `engine` in place of DeepSpeed's."""
    from training import loop
    from training.folder import RunFolder
    from training.metrics import MetricsWriter

    own = loop.Engine
    if engine is not None:
        loop.Engine = engine  # type: ignore[misc, assignment]
    try:
        run = loop.Run(RunFolder(config=config, dataset=dataset, manifest_version=0, samples=samples), out, torch.device("cpu"))
    finally:
        loop.Engine = own  # type: ignore[misc]
    run.metrics = MetricsWriter(out, 0)
    return run, lambda batch: run.step(batch, 0.0)


def compare(name: str, config: TrainConfig, dataset: Path, folder: Path, seconds: float, profile: bool) -> dict[str, float]:
    """Ratios of processor and wall seconds, and the bare loop's milliseconds a step."""
    from training.conditions import prepare
    from training.data.index import load_samples

    samples = load_samples(dataset, 0)
    outs = {kind: folder / name / kind for kind in ("bare", "loop", "zero")}
    for out in outs.values():
        out.mkdir(parents=True)
        prepare(config, dataset, out, samples, 0)
    run, plain = our_loop(config, dataset, outs["loop"], samples, PlainEngine)
    plain_linear = torch.nn.functional.linear
    zero = our_loop(config, dataset, outs["zero"], samples, None)[1]
    linears = {"zero": torch.nn.functional.linear}  # DeepSpeed has put its own in everybody's place, which keeps no gathered weights
    loops: dict[str, Callable[[Batch], object]] = {"bare": bare_loop(config, outs["bare"]), "loop": plain, "zero": zero}
    batches = [batch for batch, _ in zip(run.loader.batches(0, BATCHES), range(BATCHES), strict=True)]
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in loops}
    end, turn = time.monotonic() + seconds, 0
    while turn < 2 * BATCHES or time.monotonic() < end:
        for kind in (*list(loops)[turn % 3 :], *list(loops)[: turn % 3]):
            torch.use_deterministic_algorithms(kind != "bare")  # as training/worker.py has it, new tensors left as they are
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.nn.functional.linear = linears.get(kind, plain_linear)
            cpu, wall = time.process_time(), time.perf_counter()
            loops[kind](batches[turn % BATCHES])
            if turn >= BATCHES:  # those before warm up
                times[kind].append((time.process_time() - cpu, time.perf_counter() - wall))
        turn += 1
    torch.nn.functional.linear = plain_linear
    if profile:
        _profile(name, lambda: [plain(batch) for batch in batches])
    found = {"bare_ms": 1000 * statistics.median(cpu for cpu, _ in times["bare"]), "steps": len(times["bare"])}
    for which, over, under in (("loop", "loop", "bare"), ("zero", "zero", "loop"), ("all", "zero", "bare")):
        for i, clock in enumerate(("cpu", "wall")):
            found[f"{which}_{clock}"] = statistics.median(a[i] / b[i] for a, b in zip(times[over], times[under], strict=True))
    return found


def _profile(name: str, work: Callable[[], object]) -> None:
    """What takes the time of the loop that is not in torch, by function of this project."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    print(f"\n{name}: our own functions, by time with what they call")
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(r"/(training|manifests|benchmarks)/", 30)


def make_data(folder: Path) -> tuple[Path, Path]:
    """(a dataset of 24 videos and 12 images of 64 pixels, the export of an autoencoder with its initial weights)"""
    from safetensors.torch import save

    from tests.train.conftest import build_dataset, moving_pattern
    from training.tasks.autoencoder import AutoencoderTask

    videos = [moving_pattern(i, 20, 64, 64) for i in range(24)]
    dataset = build_dataset(folder / "dataset", videos, [moving_pattern(100 + i, 1, 64, 64)[0] for i in range(12)])
    tae = folder / "tae"
    tae.mkdir()
    data = save(AutoencoderTask("tae", _TAE, TAELossConfig(), 0).modules()["autoencoder"].state_dict())
    (tae / "weights.safetensors").write_bytes(data)
    described = {"stage": "tae", "model": dataclasses.asdict(_TAE), "sha256": hashlib.sha256(data).hexdigest()}
    (tae / "config.json").write_text(json.dumps(described))
    return dataset, tae


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tae,tae_wide,flow,flow_wide")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each size")
    parser.add_argument("--profile", action="store_true", help="print what our loop's own functions take")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    from training.parallel.engine import join_group

    torch.set_num_threads(1)
    join_group(60)
    print(
        "| size | bare, ms a step (steps) | loop / bare | zero / loop | zero / bare | the same by wall time |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset, tae = make_data(Path(folder))
        chosen = configurations(tae)
        for name in options.sizes.split(","):
            f = compare(name, chosen[name], dataset, Path(folder), options.seconds, options.profile)
            missed = "" if f["loop_cpu"] <= MOST else " **missed**"
            ratios = f"{f['loop_cpu']:.3f}{missed} | {f['zero_cpu']:.3f} | {f['all_cpu']:.3f}"
            walls = ", ".join(f"{f[f'{which}_wall']:.3f}" for which in ("loop", "zero", "all"))
            print(f"| {name} | {f['bare_ms']:.1f} ({f['steps']:.0f}) | {ratios} | {walls} |", flush=True)
    print(f"target: loop / bare at most {MOST}", flush=True)
    os._exit(0)  # gloo's threads may abort an ordinary exit


if __name__ == "__main__":
    main()
