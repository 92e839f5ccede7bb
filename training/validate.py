"""How good the reconstructions of held-out clips are: the same clips, frames and crops at every measurement."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from manifests.deny import DenyList
from training.data.batch import DataConfig, load_pixels, to_tensor
from training.data.index import Sample
from training.errors import SampleError, TrainingError
from training.parallel.engine import Engine

MAX_PSNR_DB = 100.0
"""What an exact reconstruction counts as, so that a mean stays finite."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One forward pass of a measurement: clip `number` of the list, pixels (3, T, H, W) in [-1, 1]; not `counted` if a repeat."""

    number: int
    pixels: Tensor
    counted: bool


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out clips that are measured, the same on every rank, and this rank's turns."""

    samples: tuple[Sample, ...]
    turns: tuple[Turn, ...]


def load_held_out(dataset: Path, samples: list[Sample], config: DataConfig, rank: int, world: int) -> HeldOut:
    """The first `validate_clips` of the held-out samples, decoded at their start and centre; each rank has its share of each kind.

    Every rank has as many turns, of the same shapes in the same order, repeating a clip where its share is short: under ZeRO-3 a rank
    that made fewer forward passes would leave the others waiting. A broken clip is an error, as a measurement that silently lost
    clips could not be compared with an earlier one.
    """
    denied = DenyList(dataset).clips()  # what was taken down is not measured on either: from then on the mean is of other clips
    chosen = tuple([s for s in samples if s.clip_id not in denied][: config.validate_clips])
    if samples and not chosen:
        raise TrainingError("hold-out: expected a clip that may be used, found all taken down; begin a new run on the newest version")
    turns = []
    for kind in ("video", "image"):
        numbers = [i for i, s in enumerate(chosen) if s.kind == kind]
        for place in range(rank, -(-len(numbers) // world) * world, world):
            number = numbers[place] if place < len(numbers) else numbers[0]
            try:
                pixels = to_tensor([load_pixels(dataset, chosen[number], config, None)])[0]
            except SampleError as error:
                raise TrainingError(f"hold-out: expected readable clips, found {error}") from error
            turns.append(Turn(number, pixels, place < len(numbers)))
    return HeldOut(chosen, tuple(turns))


def measure(engine: Engine, held_out: HeldOut, reconstruct: Callable[[Tensor], Tensor]) -> tuple[dict[str, float | None], list[Tensor]]:
    """Mean PSNR over all clips, over videos and over images (None without any), in dB; and the reconstruction of each own turn."""
    scores, made = torch.zeros(len(held_out.samples), dtype=torch.float64), []
    for turn in held_out.turns:
        with torch.no_grad():
            output = reconstruct(turn.pixels[None].to(engine.device, engine.dtype))[0].cpu()
        made.append(output)
        if turn.counted:
            scores[turn.number] = psnr_db(output, turn.pixels)
    of_clip: list[float] = engine.sum_over_ranks(scores).tolist()
    kinds = [s.kind for s in held_out.samples]
    means = {"psnr_db": _mean(of_clip)}
    for kind in ("video", "image"):
        means[f"psnr_{kind}_db"] = _mean([score for score, k in zip(of_clip, kinds, strict=True) if k == kind])
    return means, made


def psnr_db(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio of pixels (3, T, H, W) in [-1, 1], the mean over frames, in dB; at most 100.

    PSNR = 10 log10(peak^2 / mean squared error), peak = 2 as the range is 2 wide (Movie Gen: metrics averaged over frames).
    """
    errors = (output.double() - target.double()).square().mean((0, 2, 3)).tolist()
    return sum(min(MAX_PSNR_DB, 10 * math.log10(4 / e)) if e > 0 else MAX_PSNR_DB for e in errors) / len(errors)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
