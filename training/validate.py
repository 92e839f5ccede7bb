"""How good a model is on held-out clips: the same clips, frames, crops and draws at every measurement."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, zeros_like

from manifests.deny import DenyList
from training.data.batch import Latents, unit
from training.data.beside import Partners
from training.data.config import DataConfig
from training.data.index import Sample
from training.data.sample import load_pixels, open_shards, read_beside
from training.data.sound import measured_key
from training.errors import SampleError, TrainingError
from training.parallel.engine import Engine
from training.tasks.task import Heard, Task
from training.tasks.text_to_video import LATENTS, TextToVideoTask


@dataclass(frozen=True, slots=True)
class Turn:
    """One forward pass of a measurement: clip `number` of the list, levels (3, T, H, W), uint8; not `counted` if a repeat. They are kept for
    the whole run, where pixels would take four times the memory: 64 clips of 256 frames at 768 pixels are 29 GB."""

    number: int
    levels: Tensor
    counted: bool
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """What else is given of the clip, by the names of `Batch.beside`, without B."""

    @property
    def pixels(self) -> Tensor:
        """(3, T, H, W) in [-1, 1], float32, made anew."""
        return unit(self.levels)

    def given(self, device: torch.device, dtype: torch.dtype) -> Tensor | Heard:
        """What a task is shown, as a batch of one. Pictures that go with sound stay float32, as they do in training: a frozen network looks
        at them, and no model."""
        pixels = unit(self.levels[None].to(device))
        if "sound" not in self.beside:
            return pixels.to(dtype)
        return Heard(self.beside["sound"][None].to(device, dtype), pixels, self.beside["seen"][None].to(device))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out clips that are measured, the same on every rank, and this rank's turns."""

    samples: tuple[Sample, ...]
    turns: tuple[Turn, ...]
    gone: frozenset[int] = frozenset()
    """Numbers of clips that were taken down since: they are not looked at, and no mean counts them."""

    def beside(self, turn: Turn) -> dict[str, dict[str, Tensor]]:
        """What is given beside the clip of one turn, as a batch of one has it, by the clip's id. Turns are told apart, as an emptied one has
        its stand-in's number, and perhaps another shape."""
        return {self.samples[turn.number].clip_id: {name: v[None] for name, v in turn.beside.items()}}

    def without(self, gone: frozenset[int]) -> "HeldOut":
        """The same number of forward passes of the same shapes, with nothing of the clips that are gone; None may be left."""
        stand_in = min(set(range(len(self.samples))) - gone, default=0)
        turns = [_emptied(t, stand_in) if t.number in gone else t for t in self.turns]
        return HeldOut(self.samples, tuple(turns), gone)


def load_held_out(
    dataset: Path, samples: list[Sample], config: DataConfig, rank: int, world: int, counts: bool = True, latents: Latents | None = None
) -> HeldOut:
    """The first `validate_clips` of the held-out samples, decoded at their start and centre; each rank has its share of each kind.

    Without `counts` no turn counts: another rank with the same share speaks for it. Every rank has as many turns, of the same shapes in
    the same order, repeating a clip where its share is short: under ZeRO-3 a rank that made fewer forward passes would leave the others
    waiting. A broken clip is an error, as a measurement that silently lost clips could not be compared with an earlier one.
    """
    chosen = tuple(samples[: config.validate_clips])
    turns = []
    for kind in ("video", "image", "audio"):
        numbers = [i for i, s in enumerate(chosen) if s.kind == kind]
        for place in range(rank, -(-len(numbers) // world) * world, world):
            number = numbers[place] if place < len(numbers) else numbers[0]
            try:
                turns.append(load_turn(dataset, chosen[number], config, number, counts and place < len(numbers), latents=latents))
            except SampleError as error:
                raise TrainingError(f"hold-out: expected readable clips, found {error}") from error
    return HeldOut(chosen, tuple(turns))


def load_turn(
    dataset: Path,
    sample: Sample,
    config: DataConfig,
    number: int = 0,
    counted: bool = True,
    denied: DenyList | None = None,
    latents: Latents | None = None,
) -> Turn:
    """The sample's first window, of a sound one in which something is heard, and its centre, and what is given beside it, as `latents` its latents where they were made beforehand;
    SampleError when it cannot be read, or was taken down."""
    shards, window = open_shards(dataset, config), None
    if config.sound_frames:
        window = measured_key(shards.read(sample, config.verify_sha256, denied), sample, config.sound_frames)
    levels = load_pixels(dataset, sample, config, window, denied)
    alone = Partners([sample])  # a held-out clip is measured under its own person
    found, _ = read_beside(
        lambda s: shards.read(s, config.verify_sha256, denied), sample, config, window, ("validate/v1", sample.clip_id), alone
    )
    beside = {name: torch.from_numpy(values) for name, values in found.items()}
    if latents is not None and (mean := latents.read(sample, config)) is not None:
        beside[LATENTS] = mean
    return Turn(number, torch.from_numpy(levels).permute(3, 0, 1, 2), counted, beside)


def _emptied(turn: Turn, stand_in: int) -> Turn:
    """The same shapes with nothing in them."""
    beside = {name: zeros_like(values) for name, values in turn.beside.items()}
    return Turn(stand_in, zeros_like(turn.levels), False, beside)


def measure(engine: Engine, held_out: HeldOut, task: Task) -> dict[str, float | None]:
    """The mean of each of the task's measures over all clips, over videos and over images (None without any); in a stage of sound over
    videos and over sounds without pictures."""
    scores = torch.zeros(len(task.measures), len(held_out.samples), dtype=torch.float64)
    for turn in held_out.turns:
        _tell(task, held_out, turn)
        with torch.no_grad():
            found = task.score(engine, held_out.samples[turn.number], turn.given(engine.device, torch.float32), engine.dtype)
        if turn.counted:
            scores[:, turn.number] = found.double().cpu()
    rows: list[list[float]] = engine.sum_over_ranks(scores).tolist()
    kinds = {i: s.kind for i, s in enumerate(held_out.samples) if i not in held_out.gone}
    means: dict[str, float | None] = {}
    for measured, row in zip(task.measures, rows, strict=True):
        means[measured.format("")] = _mean([row[i] for i in kinds])
        for kind in ("video", "audio" if any("sound" in t.beside for t in held_out.turns) else "image"):
            means[measured.format(f"_{kind}")] = _mean([row[i] for i, k in kinds.items() if k == kind])
    return means


def show(engine: Engine, held_out: HeldOut, task: Task, count: int) -> list[Tensor]:
    """What the model makes of the first `count` of this rank's turns, on the CPU; every rank makes as many."""
    made = []
    for turn in held_out.turns[:count]:
        _tell(task, held_out, turn)
        with torch.no_grad():
            made.append(task.sample(engine, held_out.samples[turn.number], turn.given(engine.device, engine.dtype))[0].cpu())
    return made


def _tell(task: Task, held_out: HeldOut, turn: Turn) -> None:
    """The task knows what is beside the turn's pixels."""
    if isinstance(task, TextToVideoTask):
        task.held = held_out.beside(turn)


def _mean(values: list[float]) -> float | None:
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None
