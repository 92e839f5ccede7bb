"""What one GPU does with this project's models: ceilings, layers of the 30B transformer, the autoencoder, training, correctness.

    python benchmarks/gpu.py --out results [--parts ceilings,layers,mask,autoencoder,training,correctness] [--budget-s 360]

Needs torch and numpy and nothing of the rest of the project's dependencies. Every figure is the median of runs after a warm-up, timed by the
device's own events, on random data: zeros and constants make matrix units cooler and faster than they are. A model's operations are those
of training/flops.py, without recomputation, so MFU is of useful work; HFU counts what was computed twice. What fails is printed and the
rest goes on; a part that would begin after the budget is left out and said to be. `--small` runs every part in seconds on a CPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_cases import Bench, Row, as_markdown, machine

from training import flops
from training.memory import step_peak
from training.models.autoencoder import TAE, TAEConfig
from training.models.transformer import Block, Transformer, TransformerConfig

TEXT = {"ul2": 300, "byt5": 100, "metaclip": 256}
_WIDTHS: dict[str, Any] = {"ul2_width": 4096, "byt5_width": 1472, "metaclip_width": 1280}
PAPER = TransformerConfig(layers=1, width=6144, ffn=16384, heads=48, max_t=32, max_h=96, max_w=96, **_WIDTHS)
H200 = TransformerConfig(layers=24, width=2048, ffn=5632, heads=16, max_t=32, max_h=48, max_w=48, **_WIDTHS)
TINY = TransformerConfig(layers=2, width=64, ffn=128, heads=2, max_t=4, max_h=8, max_w=8, **_WIDTHS)
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}


def ceilings(bench: Bench) -> None:
    """The largest matrix product and the largest copy: nothing that follows can be faster."""

    def product(n: int) -> Row:
        a, b = bench.random(n, n), bench.random(n, n, seed=1)
        ms = bench.median_ms(lambda: a @ b, 20, 5)
        bench.ceiling_tflops = max(bench.ceiling_tflops or 0.0, 2 * n**3 / ms / 1e9)
        return Row(part="ceilings", case=f"bf16 product {n}^3", ms=ms, **bench.rates(ms, 2 * n**3))

    def copy(n_bytes: int) -> Row:
        source = bench.random(n_bytes // 2)
        target = torch.empty_like(source)
        ms = bench.median_ms(lambda: target.copy_(source), 20, 5)
        return Row(part="ceilings", case=f"copy of {n_bytes >> 20} MiB, GB/s read + written", ms=ms, value=2 * n_bytes / ms / 1e6)

    for n in (256,) if bench.small else (8192, 16384):
        bench.case("ceilings", f"bf16 product {n}^3", lambda n=n: product(n))
    size = 1 << 20 if bench.small else 4 << 30
    bench.case("ceilings", "copy", lambda: copy(size))


class Layers(nn.Module):
    """A stack of the transformer's layers on tokens, with or without recomputation, each compiled on its own if asked."""

    def __init__(self, config: TransformerConfig, recompute: bool) -> None:
        super().__init__()
        self.blocks, self.recompute = nn.ModuleList(Block(config) for _ in range(config.layers)), recompute

    def forward(self, x: Tensor, position: Tensor, vectors: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, N, D) through all layers."""
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, position, vectors, text, mask, use_reentrant=False)
            else:
                x = block(x, position, vectors, text, mask)
        return x


def filled(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module, made without memory, on the device with normal weights of deviation 1 / sqrt(fan in), and 1 + 0.1 z for vectors."""
    module = module.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(7)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, device=device)
        fan_in = parameter[0].numel()
        parameter.data.copy_(1 + 0.1 * drawn if parameter.ndim < 2 else drawn / fan_in**0.5)
    return module


def stack_row(
    bench: Bench,
    part: str,
    case: str,
    config: TransformerConfig,
    batch: int,
    grid: tuple[int, int, int],
    *,
    backend: str | None = None,
    compiled: bool = False,
    recompute: bool = False,
    masked: bool = False,
    rounds: int = 3,
) -> Row:
    """Forward and backward of a stack of layers in bf16, gradients of all weights and of the tokens."""
    with torch.device("meta"):
        layers = Layers(config, recompute)
    layers = filled(layers, bench.device, torch.bfloat16)
    if compiled:
        for block in layers.blocks:
            block.compile(dynamic=False)
    n, d, length = grid[0] * grid[1] * grid[2], config.width, sum(TEXT.values())
    x, position = bench.random(batch, n, d).requires_grad_(), 0.02 * bench.random(n, d, seed=1)
    vectors, text = 0.1 * bench.random(batch, 9, d, seed=2), bench.random(batch, length, d, seed=3)
    mask = bench.random(batch, 1, 1, length, seed=4) > -1 if masked else None  # a sixth of the text is padding
    upstream = bench.random(batch, n, d, seed=5)

    def step() -> None:
        layers(x, position, vectors, text, mask).backward(upstream)
        layers.zero_grad(set_to_none=True)
        x.grad = None

    chosen: AbstractContextManager[Any] = sdpa_kernel([BACKENDS[backend]]) if backend and bench.gpu else nullcontext()
    with chosen:
        ms = bench.median_ms(step, rounds)
    forward = config.layers * flops.transformer_layer(config, batch, grid, TEXT)
    rates = bench.rates(ms, 3 * forward, forward if recompute else 0.0)
    return Row(part=part, case=case, ms=ms, per_s=1000 * batch * n / ms, peak_gb=bench.peak_gb(), **rates)


def layers(bench: Bench) -> None:
    """Layers of the 30B transformer at the paper's two lengths: attention kernels, compilation, recomputation."""
    if bench.small:
        shapes = [(replace(TINY, layers=1), 1, 2, (2, 4, 4), 1)]
    else:
        shapes = [(replace(PAPER, layers=4), 6, 8, (32, 16, 16), 3), (replace(PAPER, layers=2), 1, 1, (32, 48, 48), 2)]
    for config, batch, larger, grid, rounds in shapes:
        n = grid[0] * grid[1] * grid[2]

        def one(name: str, b: int, c: TransformerConfig = config, g: Any = grid, n: int = n, r: int = rounds, **how: Any) -> Row | None:
            case = f"{c.layers} x {c.width}, {b} x {n} tokens, {name}"
            return bench.case("layers", case, lambda: stack_row(bench, "layers", case, c, b, g, rounds=r, **how))

        found = {name: one(f"{name}", batch, backend=name) for name in BACKENDS}
        worked = {name: row.ms for name, row in found.items() if row and row.ms}
        best = min(worked, key=lambda name: worked[name]) if worked else None
        one(f"{best}, compiled", batch, backend=best, compiled=not bench.small)
        one(f"{best}, compiled, recomputed", larger, backend=best, compiled=not bench.small, recompute=True)
        if larger > batch:  # the long one takes seconds a step, and says the same
            one(f"{best}, recomputed", larger, backend=best, recompute=True)


def mask(bench: Bench) -> None:
    """What the mask over padded text costs: cross-attention may then take slower kernels. Kernels chosen by torch."""
    config, batch, grid = (replace(TINY, layers=1), 1, (2, 4, 4)) if bench.small else (replace(PAPER, layers=4), 6, (32, 16, 16))
    for masked in (False, True):
        case = f"{config.layers} x {config.width}, torch's choice, {'with' if masked else 'without'} mask"
        bench.case("mask", case, lambda c=case, m=masked: stack_row(bench, "mask", c, config, batch, grid, masked=m))


def autoencoder(bench: Bench) -> None:
    """Encode and decode of 32-frame tiles in bf16 by the paper's autoencoder, without gradient."""
    config = TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), norm_groups=4) if bench.small else TAEConfig()

    def one(case: str, side: int, decode: bool, compiled: bool, channels_last: bool) -> Row:
        with torch.device("meta"):
            tae = TAE(config)
        tae = filled(tae, bench.device, torch.bfloat16).eval()
        if channels_last:
            tae = tae.to(memory_format=torch.channels_last)
        part: Any = tae.decoder if decode else tae.encoder
        if compiled:
            part.compile(dynamic=False)
        frames = 8 if bench.small else 32
        pixels = bench.random(1, 3, frames, side, side)
        latent = bench.random(1, *tae.latent_shape(tuple(pixels.shape)))
        with torch.no_grad():
            ms = bench.median_ms(lambda: part(latent, frames) if decode else part(pixels), 5)
        operations = (flops.tae_decode if decode else flops.tae_encode)(config, frames, side, side)
        return Row(part="autoencoder", case=case, ms=ms, per_s=1000 * frames / ms, peak_gb=bench.peak_gb(), **bench.rates(ms, operations))

    sides = (16,) if bench.small else (256, 512)
    # (side, compiled, channels last): compiling takes half a minute, so last and at one size
    variants = [(side, False, last) for side in sides for last in (False, True)] + ([] if bench.small else [(256, True, True)])
    for side, compiled, last in variants:
        for decode in (False, True):
            how = ("compiled" if compiled else "eager") + (", channels last" if last else "")
            case = f"{'decode' if decode else 'encode'} {side} px, {how}"
            bench.case("autoencoder", case, lambda c=case, s=side, d=decode, k=compiled, m=last: one(c, s, d, k, m))


def training(bench: Bench) -> None:
    """Real steps of the h200 model: flow matching on synthetic latents, bf16 weights with float32 copies, AdamW; memory against plan."""

    def one(case: str, config: TransformerConfig, batch: int, latent: tuple[int, int, int], recompute: bool, compiled: bool) -> Row:
        with torch.device("meta"):
            empty = Transformer(config)
        planned = planned_bytes(empty.to(torch.bfloat16), batch, latent, recompute)
        model = filled(empty, bench.device, torch.bfloat16)
        assert isinstance(model, Transformer)
        model.recompute = recompute
        for block in model.blocks if compiled else ():
            block.compile(dynamic=False)
        pairs = [(p, nn.Parameter(p.detach().float())) for p in model.parameters()]
        optimiser = torch.optim.AdamW([master for _, master in pairs], lr=1e-5, fused=True)
        data = inputs(bench, config, batch, latent)
        losses: list[Tensor] = []

        def step() -> None:
            loss = flow_loss(model, *data)
            loss.backward()
            losses.append(loss.detach())
            for parameter, master in pairs:
                master.grad, parameter.grad = (None if parameter.grad is None else parameter.grad.float()), None
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            with torch.no_grad():
                for parameter, master in pairs:
                    parameter.copy_(master)

        ms = bench.median_ms(step, 4, 2)
        if not all(bool(torch.isfinite(loss)) for loss in losses):
            raise ArithmeticError(f"expected finite losses, found {[float(v) for v in losses]}")
        grid = (latent[0], latent[1] // 2, latent[2] // 2)
        useful = flops.transformer_step(config, batch, grid, TEXT)
        again = flops.transformer_step(config, batch, grid, TEXT, recompute=recompute) - useful
        tokens = batch * grid[0] * grid[1] * grid[2]
        rates = bench.rates(ms, useful, again)
        return Row(part="training", case=case, ms=ms, per_s=1000 * tokens / ms, peak_gb=bench.peak_gb(), planned_gb=planned / 1e9, **rates)

    long, short = ((2, 8, 8), (1, 8, 8)) if bench.small else ((32, 32, 32), (1, 32, 32))
    base = TINY if bench.small else H200
    cases = [
        (base.layers, 1, long, False),
        (base.layers // 2, 2, long, False),
        (base.layers, 2, long, False),
        (base.layers, 64, short, False),
    ]
    cases += [(base.layers, 8, long, True), (base.layers, 2, long, False)]
    for number, (n_layers, batch, latent, recompute) in enumerate(cases):
        compiled = number == len(cases) - 1 and not bench.small
        tokens = latent[0] * latent[1] * latent[2] // 4
        extra = (", recomputed" if recompute else "") + (", compiled" if compiled else "")
        case = f"{n_layers} layers, {batch} x {tokens} tokens{extra}"
        made = replace(base, layers=n_layers)
        bench.case("training", case, lambda c=case, m=made, b=batch, s=latent, r=recompute, k=compiled: one(c, m, b, s, r, k))


def inputs(bench: Bench, config: TransformerConfig, batch: int, latent: tuple[int, int, int]) -> tuple[Any, ...]:
    """Noisy latents, target, times, text and masks: random, on the bench's device."""
    shape = (batch, config.latent_channels, *latent)
    tokens = {name: bench.random(batch, TEXT[name], width, seed=3) for name, width in config.text_widths.items()}
    masks = {name: torch.ones(batch, TEXT[name], dtype=torch.bool, device=bench.device) for name in tokens}
    times = bench.random(batch, dtype=torch.float32, seed=2).sigmoid()
    return bench.random(*shape), bench.random(*shape, seed=1), times, tokens, masks


def flow_loss(model: nn.Module, x_t: Tensor, target: Tensor, times: Tensor, tokens: Any, masks: Any) -> Tensor:
    """Mean squared error of the velocity."""
    loss: Tensor = (model(x_t, times, tokens, masks).float() - target.float()).square().mean()
    return loss


def planned_bytes(empty: Transformer, batch: int, latent: tuple[int, int, int], recompute: bool) -> int:
    """The peak of a training step as the planner has it: states, and the larger of the pass with its gradients and the optimiser's step."""
    meta = Bench(torch.device("cpu"), True, 0.0)
    parts = inputs(meta, empty.config, batch, latent)
    on_meta = [{k: t.to("meta") for k, t in part.items()} if isinstance(part, dict) else part.to("meta") for part in parts]
    empty.recompute = recompute
    found = step_peak(empty, lambda: flow_loss(empty, *on_meta), keep_gradients=True)
    n = sum(p.numel() for p in empty.parameters())
    given = sum(t.nbytes for part in parts for t in (part.values() if isinstance(part, dict) else [part]))
    return n * (2 + 4 + 8) + given + max(found.peak_bytes, 4 * n)


def correctness(bench: Bench) -> None:
    """A layer's output and gradient on the device against float64 on the CPU, with the same weights."""

    def one(case: str, dtype: torch.dtype, backend: str | None) -> Row:
        width = 64 if bench.small else 1024
        config = replace(TINY, layers=1, width=width, ffn=2 * width, heads=width // 32 if bench.small else width // 128)
        cpu = Bench(torch.device("cpu"), True, 0.0)
        with torch.device("meta"):
            stack = Layers(config, False)
        stack = filled(stack, cpu.device, dtype)
        n = 32 if bench.small else 512
        data = [cpu.random(2, n, width), 0.02 * cpu.random(n, width), 0.1 * cpu.random(2, 9, width), cpu.random(2, 20, width)]
        upstream = cpu.random(2, n, width, seed=5)
        results = []
        for device, kind in ((cpu.device, torch.float64), (bench.device, dtype)):
            placed = [t.to(dtype).to(device, kind) for t in data]
            x = placed[0].requires_grad_()
            model = stack.to(device, kind)
            chosen: AbstractContextManager[Any] = sdpa_kernel([BACKENDS[backend]]) if backend and device.type == "cuda" else nullcontext()
            with chosen:
                out = model(x, *placed[1:], torch.ones(2, 1, 1, 20, dtype=torch.bool, device=device) if backend is None else None)
                out.backward(upstream.to(dtype).to(device, kind))
            results.append((out.detach().cpu().double(), x.grad.cpu().double() if x.grad is not None else torch.zeros(())))
        errors = [float((found - exact).norm() / exact.norm()) for exact, found in zip(*results, strict=True)]
        most = 2e-2 if dtype == torch.bfloat16 else 1e-5
        error = None if max(errors) < most else f"expected relative errors below {most}, found {errors}"
        return Row(part="correctness", case=f"{case}, larger of output's and gradient's relative error", value=max(errors), error=error)

    for case, dtype, backend in (
        ("float32", torch.float32, None),
        ("bf16, torch's choice, masked", torch.bfloat16, None),
        *((f"bf16, {name}", torch.bfloat16, name) for name in BACKENDS),
    ):
        bench.case("correctness", case, lambda c=case, d=dtype, b=backend: one(c, d, b))


PARTS: dict[str, Callable[[Bench], None]] = {
    "ceilings": ceilings,
    "correctness": correctness,
    "layers": layers,
    "mask": mask,
    "training": training,
    "autoencoder": autoencoder,
}


def main() -> None:
    """Runs the parts, prints the table and writes gpu.json and gpu.md into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--budget-s", type=float, default=360.0, help="no case begins after this many seconds")
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU, to see that every part runs")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        sys.exit("gpu.py: expected an NVIDIA GPU, found none; --small runs on a CPU")
    device = torch.device("cpu") if options.small else torch.device("cuda", 0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench, about = Bench(device, options.small, options.budget_s), machine(device)
    options.out.mkdir(parents=True, exist_ok=True)
    print("  ".join(f"{k} {v}" for k, v in about.items() if v), flush=True)
    for name in options.parts.split(","):
        PARTS[name](bench)
        # after every part: a run that is cut off leaves what it found
        found = {"machine": about, "small": options.small, "rows": [asdict(r) for r in bench.rows]}
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.out / "gpu.md").write_text(as_markdown(bench.rows) + "\n")
    print(f"{time.monotonic() - bench.began:.0f} s, {sum(r.error is not None for r in bench.rows)} cases failed or left out")


if __name__ == "__main__":
    main()
