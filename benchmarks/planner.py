"""The planner's memory against what a process really took: four sizes of the generator on the CPU, each in a process of its own.

    python benchmarks/planner.py [--sizes small,middle,large,held_out]

Each process starts DeepSpeed ZeRO-3 alone, trains a tiny model for two steps, so that everything imported, built and cached on the way is
there, and notes its resident size. Then it builds the model, its engine and its average, and does two steps of flow matching on random
latents; in the case `held_out` it then measures one held-out clip and makes a picture of it, with an autoencoder of the paper's size. Measured is the highest resident size since, less the one noted: what the kernel counted, not what a tracker believes. The
allocator is told to give freed pages back at once, as a GPU's does to itself. Planned is what `dailies plan` computes, for kernels of a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIZES: dict[str, dict[str, Any]] = {
    # mostly states; mostly activations; activations that are computed again
    "small": {"layers": 6, "width": 512, "ffn": 1408, "heads": 8, "batch": 1, "n_frames": 8, "size_px": 256, "recompute": False},
    "middle": {"layers": 4, "width": 384, "ffn": 1024, "heads": 6, "batch": 2, "n_frames": 32, "size_px": 256, "recompute": False},
    # a clip encoded, measured, drawn and decoded
    "held_out": {
        "layers": 2,
        "width": 256,
        "ffn": 704,
        "heads": 4,
        "batch": 1,
        "n_frames": 16,
        "size_px": 128,
        "recompute": False,
        "pictures": 1,
    },
    "large": {"layers": 8, "width": 512, "ffn": 1408, "heads": 8, "batch": 4, "n_frames": 32, "size_px": 256, "recompute": True},
}
MOST_OFF = 0.10


def configuration(
    layers: int, width: int, ffn: int, heads: int, batch: int, n_frames: int, size_px: int, recompute: bool, pictures: int = 0
) -> Any:
    """A generator's run of these sizes in float32 on one process, latents made beforehand."""
    from training.config import TrainConfig
    from training.data.config import DataConfig
    from training.flow import SamplerConfig
    from training.models.text import TextConfig
    from training.models.transformer import TransformerConfig
    from training.parallel.engine import EngineConfig
    from training.tasks.flow_config import FlowConfig

    side = size_px // 16
    model = TransformerConfig(
        layers=layers, width=width, ffn=ffn, heads=heads, max_t=-(-n_frames // 8), max_h=side, max_w=side, bytes_width=64
    )
    return TrainConfig(
        stage="planned",
        flow=FlowConfig(
            model=model,
            text=TextConfig(bytes_width=64, bytes_tokens=32),
            latents_folder="latents",
            sampler=SamplerConfig(steps=2, linear_steps=4),
        ),
        data=DataConfig(
            size_px=size_px, resize_px=size_px, n_frames=n_frames, global_batch=batch, image_batches=0, video_batches=1, augment=False
        ),
        engine=EngineConfig(recompute=recompute, bucket_values=5_000_000),
        pictures=pictures,
    )


def planned_bytes(sizes: dict[str, Any]) -> int:
    """The plan's peak on one CPU process."""
    from training.planner import Hardware, plan_stage

    memory = plan_stage(configuration(**sizes), 1, Hardware(gpu=False, memory_gb=1000.0), search=False).memory
    assert memory is not None
    return memory.total


def measured_bytes(sizes: dict[str, Any]) -> int:
    """The growth of a process's highest resident size while it trains, in a process of its own."""
    # blocks from 64 KiB on are mapped on their own, and so returned to the system when they are freed
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    with tempfile.NamedTemporaryFile() as store:
        group = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
        command = [sys.executable, __file__, "--child", json.dumps(sizes), store.name]
        done = subprocess.run(command, env={**os.environ, **quiet, **group}, capture_output=True, text=True, check=False)
        said = Path(store.name).read_text()  # a rank may abort while it exits, after all work is done
    if not said:
        raise RuntimeError(f"expected a figure from the child, found status {done.returncode}: {done.stderr[-2000:]}")
    return int(said)


def child(sizes: dict[str, Any], result: Path) -> None:
    """Trains in this process and writes the growth of its peak."""
    import torch

    from training.parallel.engine import join_group

    torch.set_num_threads(1)
    device = join_group(60)
    _train(configuration(2, 64, 128, 2, 1, 8, 64, sizes["recompute"]), device)
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size begins anew
    _train(configuration(**sizes), device)
    result.write_text(str(_status_bytes("VmHWM") - before))
    os._exit(0)


def _train(config: Any, device: Any) -> None:
    """Two steps of flow matching on random latents."""
    import torch

    from training.models.transformer import Block, Transformer, initialise
    from training.parallel.ema import ShardedEMA
    from training.parallel.engine import Engine

    with torch.device("meta"):
        model = Transformer(config.flow.model)
    model = model.to_empty(device="cpu")
    initialise(model, 0)
    model.recompute = config.engine.recompute
    engine = Engine(model, (Block,), config.engine, config.optim, device)
    average = ShardedEMA(engine, 0.9)
    d, text = config.data, config.flow.text
    generator = torch.Generator().manual_seed(0)
    noisy, target = (
        torch.randn(d.global_batch, 16, -(-d.n_frames // 8), d.size_px // 8, d.size_px // 8, generator=generator) for _ in range(2)
    )
    times = torch.rand(d.global_batch, generator=generator)
    tokens = {"bytes": torch.randn(d.global_batch, text.bytes_tokens, text.bytes_width, generator=generator)}
    masks = {"bytes": torch.ones(d.global_batch, text.bytes_tokens, dtype=torch.bool)}
    for step in range(2):
        loss = (engine(noisy, times, tokens, masks).float() - target).square().flatten(1).mean(1).mean()
        engine.backward(loss)
        del loss
        engine.step(1e-4)
        average.update(step + 1)
    if config.pictures:
        _measure(config, engine, average)


def _measure(config: Any, engine: Any, average: Any) -> None:
    """One held-out clip is measured with the averaged weights, and made."""
    import torch

    from training.data.index import Sample
    from training.data.text_cache import TextCache
    from training.latents import LatentCodec, LatentScale
    from training.models.autoencoder import TAE, TAEConfig
    from training.models.layers import initialise
    from training.models.text import load_encoders
    from training.tasks.text_to_video import TextToVideoTask
    from training.validate import HeldOut, Turn, measure, show

    with torch.device("meta"):
        tae = TAE(TAEConfig())
    tae = tae.to_empty(device="cpu")
    initialise(tae, 0)
    d, n = config.data, tae.config.latent_channels
    codec = LatentCodec(tae, LatentScale(mean=(0.0,) * n, std=(1.0,) * n))
    task = TextToVideoTask("planned", config.flow, 0, codec, {"a": ""}, TextCache(load_encoders(config.flow.text)))
    sample = Sample(
        clip_id="a", clip_no=0, kind="video", set_name="s", bucket="b", shard_path="a.tar", offset=0, size_bytes=0, sha256=b"", width=d.size_px,
        height=d.size_px, n_frames=d.n_frames, fps_num=24, fps_den=1, group="a",
    )  # fmt: skip
    held_out = HeldOut((sample,), (Turn(0, torch.zeros(3, d.n_frames, d.size_px, d.size_px, dtype=torch.uint8), True),))
    with engine.weights(average.piece):
        measure(engine, held_out, task)
        show(engine, held_out, task, 1)


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def main() -> None:
    """Prints the table; exit status 1 when a plan is further off than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child[0]), Path(options.child[1]))
    worst = 0.0
    print("| size | planned MB | measured MB | off | what |\n|---|---|---|---|---|")
    for name in options.sizes.split(","):
        planned, measured = planned_bytes(SIZES[name]), measured_bytes(SIZES[name])
        off = planned / measured - 1
        worst = max(worst, abs(off))
        what = ", ".join(f"{k} {v}" for k, v in SIZES[name].items())
        print(f"| {name} | {planned / 1e6:.0f} | {measured / 1e6:.0f} | {100 * off:+.1f} % | {what} |", flush=True)
    print(f"worst {100 * worst:.1f} % off (target {100 * MOST_OFF:.0f} %){'' if worst <= MOST_OFF else '  MISSED'}")
    sys.exit(worst > MOST_OFF)


if __name__ == "__main__":
    main()
