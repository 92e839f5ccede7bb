"""Whether a trained upsampler uses the small clip it is given, and what it adds to it: on clips it trained on, and on held-out ones.

    python benchmarks/upsampler.py CURRICULUM/upsampler [--clips 6] [--json FILE]

Each against its own control. Loss at fixed times with fixed noise: under the clip's own small version, and under another's. PSNR of what is made
to the clip: from its own small version, from another's, and bicubic enlargement of its own. Detail: the share of the target's spectral
power in the upper half of the frequencies that what is made has, and that bicubic enlargement has; 1 is the target's.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batch import to_tensor
from training.data.index import Sample
from training.data.plan import Plan
from training.data.sample import load_pixels
from training.errors import SampleError
from training.folder import read_run
from training.latents import read_export
from training.losses import psnr_db
from training.models.transformer import Transformer
from training.tasks.make import make_task
from training.tasks.upsampler import UpsamplerTask


class Swapped(UpsamplerTask):
    """Gives each clip the small version of another."""

    others: Tensor

    def low(self, x_T3HW: Tensor, key: tuple[object, ...]) -> Tensor:
        """Of `others`, in place of the clip."""
        return super().low(self.others.transpose(0, 1).to(x_T3HW.dtype), key)


def figures(task: UpsamplerTask, model: torch.nn.Module, clips: list[tuple[Sample, Tensor]]) -> dict[str, float]:
    """The measures over the clips, each with its control."""
    rows: dict[str, list[float]] = {
        name: [] for name in ("loss_own", "loss_other", "psnr_own", "psnr_other", "psnr_bicubic", "detail_own", "detail_bicubic")
    }
    for i, (sample, pixels) in enumerate(clips):
        other = clips[(i + 1) % len(clips)][1][0]
        swapped = Swapped.__new__(Swapped)
        swapped.__dict__ = {**task.__dict__, "others": other}
        key = ("validate/v1", sample.clip_id)
        low = task.low(pixels[0].transpose(0, 1), key)
        bicubic = F.interpolate(low, size=pixels.shape[3:], mode="bicubic", align_corners=False).clamp(-1, 1).transpose(0, 1)
        with torch.no_grad():
            rows["loss_own"].append(float(task.score(model, sample, pixels, torch.float32)[0]))
            rows["loss_other"].append(float(swapped.score(model, sample, pixels, torch.float32)[0]))
            own, wrong = task.sample(model, sample, pixels)[0], swapped.sample(model, sample, pixels)[0]
        for name, made in (("own", own), ("other", wrong), ("bicubic", bicubic)):
            rows[f"psnr_{name}"].append(psnr_db(made, pixels[0]))
        for name, made in (("own", own), ("bicubic", bicubic)):
            rows[f"detail_{name}"].append(high_power(made) / high_power(pixels[0]))
    return {name: statistics.fmean(values) for name, values in rows.items()} | {"clips": len(clips)}


def high_power(x_3THW: Tensor) -> float:
    """Spectral power of the luma above half of the highest frequency, mean over frames."""
    luma = (x_3THW * torch.tensor([0.299, 0.587, 0.114])[:, None, None, None]).sum(0)
    spectrum = torch.fft.rfft2(luma - luma.mean((1, 2), keepdim=True)).abs().square()
    y, x = torch.fft.fftfreq(luma.shape[1])[:, None].abs(), torch.fft.rfftfreq(luma.shape[2])[None]
    return float(spectrum[:, torch.maximum(y, x) > 0.25].sum())


def readable(dataset: Path, samples: list[Sample], data: Any, count: int) -> list[tuple[Sample, Tensor]]:
    """So many of the samples as pixels (1, 3, T, H, W), at their first window and middle."""
    found: list[tuple[Sample, Tensor]] = []
    for sample in samples:
        try:
            found.append((sample, to_tensor([load_pixels(dataset, sample, data, None)])))
        except SampleError:
            continue
        if len(found) == count:
            break
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of the upsampler")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    run = read_run(arguments.run)
    task = make_task(run.config, arguments.run)
    if not isinstance(task, UpsamplerTask) or run.config.flow is None:
        raise SystemExit(f"{arguments.run}: expected a run of an upsampler, found one of {run.config.stage}")
    model = Transformer(run.config.flow.model)
    model.load_state_dict(read_export(arguments.run, "")[1])
    plan = Plan(run.config.plan_settings(run.manifest_version), run.samples)
    report = {}
    for name, samples in (("trained", plan.samples), ("held out", plan.held_out)):
        videos = [s for s in samples if s.kind == "video"]
        report[name] = found = figures(task, model.eval(), readable(run.dataset, videos, run.config.data, arguments.clips))
        print(f"{name}, {found['clips']} clips")
        print(
            f"  loss    own small clip {found['loss_own']:.4f}   another's {found['loss_other']:.4f}   x {found['loss_own'] / found['loss_other']:.3f}"
        )
        print(f"  PSNR    own {found['psnr_own']:.2f} dB   another's {found['psnr_other']:.2f} dB   bicubic {found['psnr_bicubic']:.2f} dB")
        print(f"  detail  own {found['detail_own']:.3f}   bicubic {found['detail_bicubic']:.3f}   (target 1)")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
