"""`dailies plan`: what a training stage needs, before anything is started."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.console import AsJson, Overrides, errors, print_table

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.planner import Hardware, Option, StagePlan

app = typer.Typer()

SEEN = {"t2i_256": 1.94e9, "t2v_256": 173.6e6, "t2v_256_large": 221.2e6}
"""Stage -> samples that the paper says were seen (Movie Gen, Training recipe). It gives neither GPU-hours nor its share of the peak."""
PAPER_GPU_DAYS = {"audio": 384 * 14, "audio_sft": 64}
"""Stage -> what the paper says it took (Movie Gen Audio, Training): 384 GPUs for 14 days, 64 for one."""
OUTSIDE_GPU_HOURS = 1.25e6
"""H100-hours of the whole, as the report of Open-Sora 2.0 estimates it from outside."""


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="A stage, as for `dailies train`, or a curriculum: t2v_256, movie_gen …")],
    overrides: Overrides = None,
    config: Annotated[str, typer.Option("--config", help="tiny, h200, paper, or the path of a YAML file.")] = "paper",
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="GPUs; by default the stage's processes.")] = None,
    memory: Annotated[float, typer.Option("--memory", help="GB of one GPU.")] = 80.0,
    mfu: Annotated[float, typer.Option("--mfu", min=0.001, max=1.0, help="Share of the GPU's peak that is reached.")] = 0.35,
    peak_tflops: Annotated[float, typer.Option("--peak-tflops", min=0.001, help="Dense bf16 peak of one GPU.")] = 989.0,
    node_gpus: Annotated[int, typer.Option("--node-gpus", min=1, help="GPUs of a node.")] = 8,
    node_gb_s: Annotated[float, typer.Option("--node-gb-s", min=0.001, help="GB/s between GPUs of a node, one way.")] = 450.0,
    network_gb_s: Annotated[float, typer.Option("--network-gb-s", min=0.001, help="GB/s of a GPU's port to other nodes, one way.")] = 50.0,
    as_json: AsJson = False,
) -> None:
    """Show parameters, memory of each GPU, operations, traffic and days. Exit status 1 when something does not fit: then what would.

    dailies plan t2v_256 --gpus 3072 engine.sequence_parallel=4
    """
    from pipelines.config import CONF, ConfigError
    from training.planner import Hardware, plan_stage

    hardware = Hardware(
        memory_gb=memory, mfu=mfu, peak_tflops=peak_tflops, node_gpus=node_gpus, node_gb_per_s=node_gb_s, network_gb_per_s=network_gb_s
    )
    many = (CONF / "curriculum" / name).is_dir()
    with errors(ConfigError):
        trainings = _of_curriculum(name, config, overrides or []) if many else [(name, _of_stage(name, config, overrides or []))]
    made = {label: plan_stage(settings, gpus or settings.processes, hardware, search=not many) for label, settings in trainings}
    for label, settings in trainings:
        if many and made[label].problems:  # other layouts are asked for only where one is needed
            made[label] = plan_stage(settings, gpus or settings.processes, hardware)
    if as_json:
        found = {label: to_dict(one) for label, one in made.items()}
        print(json.dumps(found if many else found[name]))
    elif many:
        _print_curriculum(made, outside=config == "paper")
    else:
        _print_stage(name, made[name], hardware)
    if any(one.problems for one in made.values()):
        raise typer.Exit(1)


def _of_stage(name: str, config: str, overrides: list[str]) -> "TrainConfig":
    from pipelines.config import load
    from training.config import TrainConfig

    return load(TrainConfig, f"train/{name}", config, overrides)


def _of_curriculum(name: str, config: str, overrides: list[str]) -> list[tuple[str, "TrainConfig"]]:
    """(label, settings) of each training, in order; a stage of several runs has one for each."""
    from pipelines.curriculum import load_curriculum

    loaded, found = load_curriculum(name, config, overrides), []
    for stage, spec in loaded.stages.items():
        for number, run in enumerate(spec.runs or ((),)):
            label = f"{stage} {number}" if spec.runs else stage
            found.append((label, _of_stage(spec.train or stage, loaded.preset, [*spec.overrides, *run])))
    return found


def _print_stage(name: str, made: "StagePlan", hardware: "Hardware") -> None:
    print_table([name, f"on {made.gpus:,} GPUs of {hardware.memory_gb:g} GB"], rows(name, made, hardware.usable_bytes))
    if made.options:
        print()
        print_table(["GPUs", "sequence parallel", "recompute", "micro batch", "GB", ""], [_option(o) for o in made.options])
    for problem in made.problems:
        print(f"\ndoes not fit: {problem}")
    if made.problems:
        print(remedy(made))


def _print_curriculum(made: dict[str, "StagePlan"], *, outside: bool) -> None:
    names = [
        "stage",
        "parameters",
        "steps x batch",
        "GPUs",
        "shared by",
        "recompute",
        "GB",
        "PFLOP",
        "s computing",
        "s traffic",
        "days",
        "GPU-days",
        "the paper's",
    ]
    lines = []
    for label, one in made.items():
        peak = f"{one.memory.total / 1e9:.1f}" if one.memory else ""
        lines.append([
            label, f"{one.parameters / 1e9:.2f} B", f"{one.steps:,} x {one.batch:,}", f"{one.gpus:,}", str(one.layout.sequence_parallel),
            "yes" if one.layout.recompute else "no", peak, f"{one.flops / 1e15:,.1f}", f"{one.compute_s:.3f}",
            f"{one.gather_s + one.exchange_s:.3f}", f"{one.days:,.1f}", f"{one.gpu_days:,.0f}",
            f"{PAPER_GPU_DAYS[label]:,}" if outside and label in PAPER_GPU_DAYS else "",
        ])  # fmt: skip
    total = sum(one.gpu_days for one in made.values())
    print_table([*names, "does not fit" if any(one.problems for one in made.values()) else ""],
                [[*line, one.problems[0] if one.problems else ""] for line, one in zip(lines, made.values(), strict=True)])  # fmt: skip
    estimate = f"; an outside estimate of the whole is {OUTSIDE_GPU_HOURS:,.0f} (Open-Sora 2.0)" if outside else ""
    print(f"\nall stages: {total:,.0f} GPU-days, {24 * total:,.0f} GPU-hours{estimate}")
    for label, one in made.items():
        if one.problems:
            print(f"{label}: {remedy(one)}")


def to_dict(made: "StagePlan") -> dict[str, Any]:
    """The plan as JSON values, with the sums that follow from it."""
    value = asdict(made) | {"gpu_days": made.gpu_days, "total_bytes": made.memory.total if made.memory else None}
    for option, found in zip(value["options"], made.options, strict=True):
        option["total_bytes"] = found.memory.total
    return value


def rows(name: str, made: "StagePlan", usable_bytes: float) -> list[list[str]]:
    """The plan as lines for people."""
    layout, memory = made.layout, made.memory
    lines = [
        ["parameters", f"{made.parameters / 1e9:.2f} B"],
        ["steps x batch", f"{made.steps:,} x {made.batch:,} = {made.steps * made.batch / 1e6:,.1f} M samples{_seen(name)}"],
        ["a step", f"{made.tokens / 1e6:,.2f} M tokens, {made.flops / 1e15:,.1f} PFLOP"],
        [
            "layout",
            f"sequence parallel {layout.sequence_parallel}, {'' if layout.recompute else 'no '}recompute, {layout.micro_batch} a pass",
        ],
    ]
    if memory is not None:
        lines += [
            ["weights, gradients", f"{_gb(memory.weights + memory.gradients)} of each GPU"],
            ["optimiser, average", _gb(memory.optimiser + memory.average)],
            ["buffers", _gb(memory.buffers)],
            ["forward and backward", f"{_gb(memory.gathered)} gathered weights + {_gb(memory.passing)} activations"],
            ["optimiser's step", _gb(memory.stepping)],
            *([["encoding", _gb(memory.encoding)]] if memory.encoding else []),
            *([["held-out clips", f"{_gb(memory.validating)} to measure one and to make one"]] if memory.validating else []),
            ["peak", f"{_gb(memory.total)} of {_gb(usable_bytes)} usable"],
        ]
    return [
        *lines,
        ["seconds a step", f"{made.compute_s:.3f} computing; {made.gather_s:.3f} weights and gradients, {made.exchange_s:.3f} attention"],
        ["traffic of a GPU", f"{made.gather_bytes / 1e9:,.1f} GB weights and gradients, {made.exchange_bytes / 1e9:,.1f} GB attention"],
        ["days", f"{made.days:,.1f}, {made.gpu_days:,.0f} GPU-days, if traffic hides behind computing{_slow(made)}"],
    ]


def remedy(made: "StagePlan") -> str:
    """What would fit, in a sentence: on the fewest GPUs the layout that is nearest to the one that was asked for."""
    fitting = [o for o in made.options if o.fits]
    if not fitting:
        return "no layout fits on any number of GPUs: a smaller data.size_px, data.n_frames or model would, or more memory"
    asked = made.layout

    def distance(option: "Option") -> tuple[int, bool, bool, int]:
        found = option.layout
        far = found.sequence_parallel != asked.sequence_parallel
        return option.gpus, far, found.recompute != asked.recompute, found.sequence_parallel

    best = min(fitting, key=distance)
    wanted, latents = best.layout, "flow.latents_folder=latents data.augment=false pictures=0 " if made.latents_beforehand else ""
    return (
        f"this would: --gpus {best.gpus} {latents}engine.sequence_parallel={wanted.sequence_parallel} "
        f"engine.recompute={str(wanted.recompute).lower()} engine.micro_batch={wanted.micro_batch} ({_gb(best.memory.total)})"
    )


def _option(option: "Option") -> list[str]:
    layout = option.layout
    verdict = "fits" if option.fits else "does not fit"
    return [
        f"{option.gpus:,}",
        str(layout.sequence_parallel),
        "yes" if layout.recompute else "no",
        str(layout.micro_batch),
        f"{option.memory.total / 1e9:.1f}",
        verdict,
    ]


def _seen(stage: str) -> str:
    return f" (the paper: {SEEN[stage] / 1e6:,.1f} M)" if stage in SEEN else ""


def _slow(made: "StagePlan") -> str:
    over = made.gather_s + made.exchange_s
    return "" if over <= made.compute_s else f"; it cannot: {over:.3f} s of traffic, {made.compute_s:.3f} s of computing a step"


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
