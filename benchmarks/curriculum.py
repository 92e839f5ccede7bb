"""What a curriculum has learnt, stage by stage: does the held-out loss fall, is the text used, does a stage begin where its parent ended.

    dailies curriculum run --data dataset --out OUT --config tiny
    python benchmarks/curriculum.py OUT

For each stage of OUT: its held-out measure before the first step and smoothed over the last two measurements; for a generator, on clips
it was trained on and on held-out ones, the loss at fixed times under the clip's own text and under another clip's, averaged weights; and
the step between its parent's last measurement and its first, which growth of the position tables should keep within 5 %. Stages that
measure at another size or length than their parent are told so: then the two are losses of different pictures.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipelines.curriculum import Curriculum, StageSpec, reopen
from training.conditions import load_prompts
from training.data.batch import to_tensor
from training.data.index import Sample
from training.data.plan import Plan
from training.data.sample import load_pixels
from training.folder import RunFolder, read_run
from training.latents import read_export
from training.metrics import read_log
from training.models.transformer import Transformer
from training.tasks.flow_config import KINDS
from training.tasks.make import make_task
from training.tasks.text_to_video import TextToVideoTask


def folder_of(spec: StageSpec, out: Path) -> Path:
    """The stage's run, the first of several."""
    return out / "run-0" if spec.runs else out


def text_is_used(out: Path, run: RunFolder, samples: list[Sample]) -> dict[str, float]:
    """Mean loss at the fixed times under each clip's own text, under another's, and their ratio; texts that are equal are not exchanged."""
    task = make_task(run.config, out)
    assert isinstance(task, TextToVideoTask) and run.config.flow
    with torch.device("meta"):
        model = Transformer(run.config.flow.model)
    model.load_state_dict(read_export(out, "")[1], strict=True, assign=True)
    prompts = load_prompts(out)
    own, others = [], []
    for i, sample in enumerate(samples):
        pixels = to_tensor([load_pixels(run.dataset, sample, run.config.data, None)])
        different = [s for s in samples[i + 1 :] + samples[:i] if prompts[s.clip_id] != prompts[sample.clip_id]]
        if not different:
            continue
        for text, losses in ((sample, own), (different[0], others)):
            task._prompts = {sample.clip_id: prompts[text.clip_id]}
            with torch.no_grad():
                losses.append(float(task.score(model, sample, pixels, torch.float32)[0]))
    right, wrong = statistics.fmean(own), statistics.fmean(others)
    return {"clips": len(own), "right": right, "wrong": wrong, "ratio": right / wrong}


def measured(out: Path) -> tuple[str, float, float]:
    """(measure, before the first step, the mean of the last two measurements of the averaged weights)."""
    rows = read_log(out, "validate")
    name = next(k for k in rows[0] if k not in ("kind", "step"))
    return name, rows[0][name], statistics.fmean(row[f"ema_{name}"] for row in rows[-2:])


def stage_row(name: str, curriculum: Curriculum, root: Path, clips: int) -> dict[str, Any]:
    """The figures of one stage."""
    spec = curriculum.stages[name]
    out = folder_of(spec, root / name)
    run = read_run(out)
    measure, before, after = measured(out)
    row: dict[str, Any] = {"stage": name, "steps": run.config.steps, "measure": measure, "before": before, "after": after}
    if run.config.flow is not None and not any(getattr(run.config.flow, kind) for kind in KINDS):
        plan = Plan(run.config.plan_settings(run.manifest_version), run.samples)
        kinds = [s for s in plan.samples if (s.kind == "video") == (run.config.data.video_batches > 0)]
        row["trained_clips"] = text_is_used(out, run, kinds[:clips])
        row["held_out_clips"] = text_is_used(out, run, plan.held_out[:clips])
    if spec.parent and run.config.flow is not None:
        earlier = folder_of(curriculum.stages[spec.parent], root / spec.parent)
        parent = read_run(earlier)
        same = all(getattr(parent.config.data, k) == getattr(run.config.data, k) for k in ("size_px", "n_frames", "validate_clips"))
        ended = read_log(earlier, "validate")[-1][f"ema_{measure}"]
        row["hand_over"] = {"parent_ended": ended, "began": before, "step": before / ended - 1, "same_pictures": same}
    return row


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of a finished curriculum")
    parser.add_argument("--clips", type=int, default=24, help="clips of each kind to look at")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    curriculum = reopen(arguments.out)[0]
    rows = [stage_row(name, curriculum, arguments.out, arguments.clips) for name in curriculum.stages if (arguments.out / name).exists()]
    for row in rows:
        print(f"{row['stage']:<12} {row['steps']:>5} steps   {row['measure']} {row['before']:.4g} -> {row['after']:.4g}")
        for kind in ("trained_clips", "held_out_clips"):
            if text := row.get(kind):
                print(
                    f"{'':<12} {kind.replace('_', ' '):<15} right text {text['right']:.4f}, another's {text['wrong']:.4f}: x {text['ratio']:.3f}"
                )
        if hand := row.get("hand_over"):
            note = "" if hand["same_pictures"] else " (other pictures than the parent's)"
            print(f"{'':<12} hand-over       {hand['parent_ended']:.4f} -> {hand['began']:.4f}: {hand['step']:+.1%}{note}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
