"""A step's share of one rank as one tensor. What is cropped where is drawn by key, so a batch needs no state to be made again.

Shapes: B samples, C=3 channels, T frames, H=W=size_px.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.deny import DenyList
from training import keyed
from training.data.decode import Pixels, decode_image, decode_video
from training.data.index import Kind, Sample
from training.data.plan import Place, Plan
from training.data.read import read_sample
from training.errors import DeniedError, SampleError, TrainingError

if TYPE_CHECKING:
    import torch

MAX_DENIED = 1000
"""Reserves drawn for one place before giving up: clips taken down do not count as broken, but a bucket may hold nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which clips, in which form. The paper gives only the ratio of image to video batches; the other defaults are ours."""

    sets: tuple[str, ...] = ()
    """Sets to train on; empty for all."""
    size_px: int = 256
    """Side of the square crop; a multiple of 8."""
    resize_px: int = 288
    """Shorter side of the picture before cropping; at least size_px."""
    n_frames: int = 32
    """Frames of a video window, at the clip's own rate. 32 frames are one encoder tile of the paper."""
    global_batch: int = 8
    """Samples of a step over all processes."""
    image_batches: int = 1
    video_batches: int = 3
    holdout_share: float = 0.02
    """Share of assets that is never trained on and measures the model."""
    validate_clips: int = 16
    """Held-out clips that are measured."""
    verify_sha256: bool = True
    """Compare every payload with the manifest's hash; costs about 1 ms per 2 MB."""
    prefetch_batches: int = 2
    decode_threads: int = 1
    max_replacements: int = 4
    """Broken samples in a row, at one place of one batch, that end the run."""

    def __post_init__(self) -> None:
        if self.size_px % 8 or not 0 < self.size_px <= self.resize_px:
            raise ValueError(f"data: expected size_px a multiple of 8 and <= resize_px, found {self.size_px} and {self.resize_px}")
        if self.n_frames < 1 or self.global_batch < 1 or not 0 < self.holdout_share < 1:
            raise ValueError("data: expected n_frames >= 1, global_batch >= 1 and 0 < holdout_share < 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """One departure from the plan: at this step and place of the global batch, `used` stood in for `planned`."""

    step: int
    place: int
    planned: str
    used: str
    reason: str

    def row(self) -> dict[str, Any]:
        """The departure as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one rank trains on at one step: pixels (B, 3, T, H, W) in [-1, 1], and whose they are."""

    step: int
    kind: Kind
    pixels: "torch.Tensor"
    clip_ids: tuple[str, ...]
    epochs: tuple[int, ...]
    replaced: tuple[Replaced, ...] = ()


class BatchLoader:
    """Makes the batches of one rank, a few steps ahead, in threads; the result does not depend on how far ahead or how many."""

    def __init__(self, dataset: Path, plan: Plan, config: DataConfig, rank: int, world: int) -> None:
        self._dataset, self._plan, self._config, self._rank, self._world = dataset, plan, config, rank, world
        self._denied = DenyList(dataset)

    def batches(self, start: int, end: int) -> Iterator[Batch]:
        """The batches of steps start <= step < end, in order."""
        with ThreadPoolExecutor(max(1, self._config.decode_threads), "decode") as pool:
            ahead: deque[Future[Batch]] = deque()
            for step in range(start, end):
                while len(ahead) <= self._config.prefetch_batches and step + len(ahead) < end:
                    ahead.append(pool.submit(self.batch, step + len(ahead)))
                made = ahead.popleft().result()
                # It was made a few steps ago: what was taken down since then is not trained on.
                denied = self._denied.clips()
                yield self.batch(step) if any(c in denied for c in made.clip_ids) else made

    def batch(self, step: int) -> Batch:
        """The rank's batch of one step; TrainingError when too many samples in a row are broken."""
        planned = self._plan.batch(step)
        mine = planned.of_rank(self._rank, self._world)
        first = self._rank * len(mine)
        made = [self._sample(step, first + i, place) for i, place in enumerate(mine)]
        return Batch(
            step=step,
            kind=planned.kind,
            pixels=to_tensor([pixels for pixels, _, _ in made]),
            clip_ids=tuple(clip_id for _, clip_id, _ in made),
            epochs=tuple(place.epoch for place in mine),
            replaced=tuple(r for _, _, r in made if r),
        )

    def _sample(self, step: int, place_no: int, place: Place) -> tuple[Pixels, str, Replaced | None]:
        planned, reason, broken = self._plan.samples[place.position], "", 0
        for attempt in range(MAX_DENIED):
            used = planned if attempt == 0 else self._plan.samples[self._plan.reserve(place, attempt).position]
            try:
                pixels = self._pixels(used, place.epoch)
            except SampleError as error:
                reason = reason or str(error)
                broken += not isinstance(error, DeniedError)
                if broken > self._config.max_replacements:
                    raise TrainingError(f"step {step}: clip {planned.clip_id} and {broken - 1} reserves are broken: {reason}") from error
                continue
            swap = Replaced(step=step, place=place_no, planned=planned.clip_id, used=used.clip_id, reason=reason) if attempt else None
            return pixels, used.clip_id, swap
        raise TrainingError(
            f"step {step}: clip {planned.clip_id}: expected a clip of its bucket that may be used among {MAX_DENIED} draws, found none; "
            "curate the dataset again and begin a new run on its newest version"
        )

    def _pixels(self, sample: Sample, epoch: int) -> Pixels:
        settings = self._plan.settings
        return load_pixels(self._dataset, sample, self._config, (settings.seed, settings.stage, sample.clip_id, epoch), self._denied)


def load_pixels(
    dataset: Path, sample: Sample, config: DataConfig, key: tuple[object, ...] | None, denied: DenyList | None = None
) -> Pixels:
    """The sample's window and crop, (T, size_px, size_px, 3): drawn by the key, or the first frames and the centre without one."""
    data, where = read_sample(dataset, sample, config.verify_sha256, denied), f"{sample.shard_path} clip {sample.clip_id}"
    if sample.kind == "image":
        return _crop(decode_image(data, where, config.resize_px), config.size_px, key)
    if not sample.fps_num or not sample.fps_den or sample.n_frames is None:
        raise SampleError(where, "decode", "a frame rate and a frame count in the manifest", "none")
    last = sample.n_frames - config.n_frames
    start = keyed.integer(0, last + 1, *key, "window") if key else 0
    fps = Fraction(sample.fps_num, sample.fps_den)
    return _crop(decode_video(data, where, start, config.n_frames, fps, config.resize_px), config.size_px, key)


def to_tensor(clips: list[Pixels]) -> "torch.Tensor":
    """(T, H, W, 3) pixels of equal shape as one float32 tensor (B, 3, T, H, W) in [-1, 1]."""
    import torch

    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).to(torch.float32).div_(127.5).sub_(1.0)


def _crop(pixels: Pixels, size_px: int, key: tuple[object, ...] | None) -> Pixels:
    free_y, free_x = pixels.shape[1] - size_px, pixels.shape[2] - size_px
    y = keyed.integer(0, free_y + 1, *key, "crop y") if key else free_y // 2
    x = keyed.integer(0, free_x + 1, *key, "crop x") if key else free_x // 2
    return pixels[:, y : y + size_px, x : x + size_px]
