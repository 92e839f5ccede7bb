"""The trainer itself on one GPU: ZeRO-3 in bf16 with compiled layers, its pace by its own log, and whether a resumed run goes on as it was.

    python benchmarks/gpu_trainer.py prepare FOLDER         anywhere: a small dataset of moving patterns, an autoencoder, two runs
    python benchmarks/gpu_trainer.py run FOLDER --out OUT    on the GPU machine: trains one straight through, one in two halves

Model: layers of the h200 preset, as many as --layers says, on 64 frames at 256 pixels (2,048 tokens a clip) with hashed bytes as text. The
second run is stopped after half of its steps and started again. Kernels of a GPU add in no fixed order, so losses are compared, not bits.
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STEPS = 8


def prepare(folder: Path, layers: int, compiled: bool, small: bool) -> None:
    """FOLDER holds dataset, autoencoder, and two runs that have not begun."""
    from safetensors.torch import save

    from training.config import TrainConfig
    from training.data.config import DataConfig
    from training.flow import SamplerConfig
    from training.launch import prepare_run
    from training.losses import TAELossConfig
    from training.models.autoencoder import TAEConfig
    from training.models.text import TextConfig
    from training.models.transformer import TransformerConfig
    from training.parallel.engine import EngineConfig, OptimConfig
    from training.tasks.autoencoder import AutoencoderTask
    from training.tasks.flow_config import FlowConfig

    spec = importlib.util.spec_from_file_location("makers", ROOT / "tests" / "train" / "conftest.py")
    assert spec and spec.loader
    makers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(makers)
    width, side, frames = (64, 32, 16) if small else (2048, 256, 64)
    makers.build_dataset(folder / "dataset", [makers.moving_pattern(i, frames + 2, side, side) for i in range(14)], [])
    tae = TAEConfig(base_channels=16, n_res_blocks=1, norm_groups=8)
    data = save(AutoencoderTask("tae", tae, TAELossConfig(), 0).module().state_dict())
    (folder / "tae").mkdir()
    (folder / "tae" / "weights.safetensors").write_bytes(data)
    described = {"stage": "tae", "model": dataclasses.asdict(tae), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "tae" / "config.json").write_text(json.dumps(described))
    config = TrainConfig(
        stage="t2v_gpu",
        steps=STEPS,
        validate_every=STEPS,
        checkpoint_every=STEPS // 2,
        pictures=1,
        log_every=1,
        flow=FlowConfig(
            model=TransformerConfig(
                layers=layers, width=width, ffn=11 * width // 4, heads=width // 128 or 1, max_t=8, max_h=16, max_w=16, bytes_width=64
            ),
            text=TextConfig(bytes_width=64, bytes_tokens=32),
            sampler=SamplerConfig(steps=4, linear_steps=8),
            tae=str(folder / "tae"),
            scale_clips=2,
        ),
        data=DataConfig(
            size_px=side, resize_px=side, n_frames=frames, global_batch=8, holdout_share=0.1, validate_clips=2, decode_threads=8
        ),
        optim=OptimConfig(lr=1e-4, warmup_steps=2),
        engine=EngineConfig(precision="bf16", recompute=False, compile=compiled),
    )
    for name in ("straight", "halves"):
        prepare_run(config, folder / "dataset", folder / name)


def move(folder: Path) -> None:
    """The runs name the folders where they lie now."""
    for name in ("straight", "halves"):
        path = folder / name / "run.json"
        run = json.loads(path.read_text())
        run["dataset"] = str((folder / "dataset").resolve())
        run["config"]["flow"]["tae"] = str((folder / "tae").resolve())
        path.write_text(json.dumps(run))


def train(out: Path, until: int) -> float:
    """The run's workers have run; killed when the checkpoint of step `until` is there and more were to come. Gives the seconds."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "training.worker", str(out)]
    began = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "8"}
    )
    while process.poll() is None:
        if until < STEPS and (out / "checkpoints" / f"step-{until:08d}" / "manifest.json").exists():
            subprocess.run(["pkill", "-9", "-f", f"training.worker {out}"], check=False)
            process.kill()
        time.sleep(0.2)
    return time.monotonic() - began


def run(folder: Path, out: Path) -> dict[str, Any]:
    """What the two runs were like."""
    import torch

    from training.metrics import TIMING, read_log

    move(folder)
    straight, halves = folder / "straight", folder / "halves"
    seconds = [train(straight, STEPS), train(halves, STEPS // 2), train(halves, STEPS)]
    losses = [[row["loss"] for row in read_log(run, "train")] for run in (straight, halves)]
    rows = [json.loads(line) for line in (straight / TIMING).read_text().splitlines()]
    steady = [r for r in rows if r.get("kind") == "time"][2:]
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "seconds": [round(s, 1) for s in seconds],
        "losses_straight": losses[0],
        "losses_in_halves": losses[1],
        "largest_difference": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        "s_per_step": statistics.median(r["seconds"] for r in steady),
        "load_s": statistics.median(r["load_s"] for r in steady),
        "tokens_per_s": statistics.median(r["tokens_per_s"] for r in steady),
        "tflops": statistics.median(r["tflops"] for r in steady),
        "mfu": statistics.median(r.get("mfu", 0.0) for r in steady),
        "validate": [{k: v for k, v in row.items() if k in ("step", "loss", "ema_loss")} for row in read_log(straight, "validate")],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu_trainer.json").write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--small", action="store_true", help="a width of 64: to try the script on a CPU")
    parser.add_argument("--eager", action="store_true", help="do not compile the layers")
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    if arguments.what == "prepare":
        prepare(arguments.folder, arguments.layers, not arguments.eager, arguments.small)
    else:
        for name, value in run(arguments.folder, arguments.out).items():
            print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
