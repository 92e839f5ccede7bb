"""Do the editor and the personalised generator use what they are given? Each against its own control, on clips they were trained on.

    dailies curriculum run --data dataset --out OUT --config tiny
    python benchmarks/conditions.py --edit OUT/edit_2 --personal OUT/personal_3

Editing: edits that the stage trains on, animated by one affine motion, made again from noise: PSNR of what comes out to the target, to the
source, and, given another clip's source, to the target. Target and source are what the autoencoder shows of them, so its own loss does not
count. Marked objects (segmentation as an edit) are told apart from other edits. Edits that leave the picture nearly as it is (source and target nearer than 20 dB) say nothing and are left out of the means.

Personalisation: the loss at the stage's fixed times (`flow.validate_times`) under each clip's text and its own person's picture, under its
text and every other clip's picture, and the same two without text; noise and pieces of pictures that were not trained on.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training import keyed
from training.data.batch import to_tensor
from training.data.beside import Partners
from training.data.config import DataConfig
from training.data.index import Sample
from training.data.plan import Plan
from training.data.sample import load_pixels, open_shards, read_beside
from training.folder import RunFolder, read_run
from training.latents import read_export
from training.losses import psnr_db
from training.tasks.edit import EditTask
from training.tasks.make import make_task
from training.tasks.personal import PersonalTask
from training.tasks.text_to_video import Asked, TextToVideoTask, repeated

CHANGED_DB = 20.0
"""Source and target nearer than this are nearly the same picture."""


def opened(out: Path) -> tuple[RunFolder, TextToVideoTask, torch.nn.Module, list[Sample]]:
    """The run, its task, the model with its averaged weights, and the clips it was trained on."""
    run = read_run(out)
    task = make_task(run.config, out)
    assert isinstance(task, TextToVideoTask)
    model = task.module()
    model.load_state_dict(read_export(out, "")[1], strict=True)
    samples = trained_on(Plan(run.config.plan_settings(run.manifest_version), run.samples).samples, run.config.data)
    return run, task, model.eval().requires_grad_(False), samples


def trained_on(samples: list[Sample], data: DataConfig) -> list[Sample]:
    """Those of a kind that has batches: a plan holds pictures, too, where no step is of pictures. Where no kind with batches has samples,
    every step is of the other."""
    kinds = {kind for kind, batches in (("image", data.image_batches), ("video", data.video_batches)) if batches}
    return [s for s in samples if s.kind in kinds] or samples


def edit_figures(out: Path, clips: int, draws: int, steps: int) -> dict[str, Any]:
    """Mean PSNR in dB of edits of so many clips to target and source, and with another's source; how many were nearer to the target."""
    run, task, model, samples = opened(out)
    assert isinstance(task, EditTask) and run.config.flow and run.config.flow.edit
    task = task.with_sampler(replace(task.sampler, steps=steps, guidance=1.0))
    asked: list[Asked] = []
    rows: list[tuple[str, float, float, float, float]] = []
    for draw in range(draws):
        for sample in samples[:clips]:
            first = to_tensor([load_pixels(run.dataset, sample, run.config.data, None)])[:, :, :1]
            asked.append(task.asked(first, [sample.clip_id], [(run.config.seed, run.config.stage, sample.clip_id, draw)], None))
    frames = run.config.flow.edit.frames
    for i, one in enumerate(asked):
        source, target = (task.decode(z, frames)[0] for z in (one.context, one.x_1) if z is not None)
        apart = psnr_db(source, target)
        made, strange = (
            made_of(task, model, one._replace(context=other.context), frames, "conditions", i)
            for other in (one, asked[(i + 1) % len(asked)])
        )
        rows.append((one.prompts[0], apart, psnr_db(made, target), psnr_db(made, source), psnr_db(strange, target)))
    names = ("instruction", "apart_db", "to_target_db", "to_source_db", "other_source_db")
    marks = [row for row in rows if row[0].startswith("mark the object")]
    return {
        "edits": means_of([row for row in rows if row not in marks]),
        "marks": means_of(marks),
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
    }


def means_of(rows: list[tuple[str, float, float, float, float]]) -> dict[str, Any]:
    """Means over the rows whose edit changes the picture, and of how many it holds that the output is nearer to the target."""
    told = [row for row in rows if row[1] < CHANGED_DB]
    if not told:
        return {"of": len(rows), "told": 0}
    return {
        "of": len(rows),
        "told": len(told),
        "to_target_db": statistics.fmean(r[2] for r in told),
        "to_source_db": statistics.fmean(r[3] for r in told),
        "other_source_to_target_db": statistics.fmean(r[4] for r in told),
        "nearer_to_target": sum(r[2] > r[3] for r in told),
        "better_than_other_source": sum(r[2] > r[4] for r in told),
    }


def made_of(task: EditTask, model: torch.nn.Module, asked: Asked, frames: int, *key: object) -> torch.Tensor:
    """Pixels (3, T, H, W) from noise of the key, as asked."""
    x_0 = keyed.normal(tuple(asked.x_1.shape), *key)
    return task.decode(task.latents(model, x_0, asked, torch.float32), frames)[0]


def personal_figures(out: Path, clips: int, draws: int) -> dict[str, Any]:
    """Mean losses with the own person's picture and with others', with the clip's text and without."""
    run, task, model, samples = opened(out)
    assert isinstance(task, PersonalTask) and run.config.flow
    shards, chosen = open_shards(run.dataset, run.config.data), samples[:clips]

    def pictures(sample: Sample, draw: int) -> torch.Tensor:
        key = ("conditions", sample.clip_id, draw)
        found, _ = read_beside(lambda s: shards.read(s, True), sample, run.config.data, None, key, Partners([sample]))
        return torch.from_numpy(found["reference"])[None]

    losses: dict[str, list[float]] = {"own": [], "other": [], "own_without_text": [], "other_without_text": []}
    wins: dict[str, list[bool]] = {"": [], "_without_text": []}
    for draw in range(draws):
        shown = {s.clip_id: pictures(s, draw) for s in chosen}
        for sample in chosen:
            x = to_tensor([load_pixels(run.dataset, sample, run.config.data, None)])
            others = [shown[s.clip_id] for s in chosen if s.group != sample.group]
            found = {}
            for name, given in (("own", [shown[sample.clip_id]]), ("other", others)):
                for text in ("", "_without_text"):
                    found[name + text] = statistics.fmean(
                        loss(task, model, sample, x, picture, bool(text), draw, run.config.flow.validate_times) for picture in given
                    )
                    losses[name + text].append(found[name + text])
            for text, found_lower in wins.items():
                found_lower.append(found["own" + text] < found["other" + text])
    means = {name: statistics.fmean(values) for name, values in losses.items()}
    counts = {f"own_is_lower{text}": sum(found_lower) for text, found_lower in wins.items()}
    return {"clips": len(chosen), "draws": draws, **means, **counts, "of": len(wins[""])}


def loss(
    task: PersonalTask,
    model: torch.nn.Module,
    sample: Sample,
    x: torch.Tensor,
    picture: torch.Tensor,
    mute: bool,
    draw: int,
    times: tuple[float, ...],
) -> float:
    """The mean error at the times of one clip under a picture, with noise of the draw."""
    task.held = {sample.clip_id: {"reference": picture}}
    asked = task.asked(x, [sample.clip_id], [("conditions", sample.clip_id)], None)
    asked = repeated(asked._replace(prompts=[""]) if mute else asked, len(times))
    x_0 = keyed.normal(tuple(asked.x_1.shape[1:]), "conditions", sample.clip_id, draw).expand_as(asked.x_1)
    return float(task._error(model, x_0, torch.tensor(times), asked, torch.float32).mean())


def main() -> None:
    """The figures are printed, and written as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edit", type=Path, help="folder of a finished edit_2 (or edit_1, edit_3)")
    parser.add_argument("--personal", type=Path, help="folder of a finished stage of personalisation")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of the solver; without guidance")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if given.edit:
        figures["edit"] = edit_figures(given.edit, given.clips, given.draws, given.steps)
        for name in ("edits", "marks"):
            found = figures["edit"][name]
            if found["told"]:
                print(
                    f"{name}: {found['told']} that change the picture, of {found['of']}: {found['to_target_db']:.2f} dB to the target, "
                    f"{found['to_source_db']:.2f} dB to the source ({found['nearer_to_target']} nearer to the target); with another's source "
                    f"{found['other_source_to_target_db']:.2f} dB to the target ({found['better_than_other_source']} worse than with the own)"
                )
    if given.personal:
        figures["personal"] = personal_figures(given.personal, given.clips, given.draws)
        found = figures["personal"]
        print(
            f"personal: loss {found['own']:.4f} with the own picture, {found['other']:.4f} with others' ({found['own_is_lower']} of "
            f"{found['of']} lower); without text {found['own_without_text']:.4f} and {found['other_without_text']:.4f} "
            f"({found['own_is_lower_without_text']} of {found['of']} lower)"
        )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
