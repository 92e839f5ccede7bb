"""A step's share of one rank as one tensor. What is cropped where is drawn by key, so a batch needs no state to be made again.

Shapes: B samples, C=3 channels, T frames, H and W those of the batch's bucket, or size_px both.
"""

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manifests.deny import DenyList
from training.data.beside import Arrays, Partners
from training.data.cache import forget_payloads
from training.data.config import DataConfig
from training.data.decode import Pixels
from training.data.index import Kind, Sample
from training.data.plan import Place, Plan
from training.data.sample import decode_sample, open_shards, read_beside
from training.data.shapes import FRAMES_PER_LATENT, PX_PER_LATENT, shape_of
from training.errors import DeniedError, SampleError, SilentError, TrainingError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

_EDIT_MEMBERS = ("source.mp4", "source.jpg", "mask.jpg")

MAX_DENIED = 1000
"""Reserves drawn for one place before giving up: clips taken down and silent windows do not count as broken, but a bucket may hold nothing
else."""


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
    """What one rank trains on at one step: pixels (B, 3, T, H, W), 0 to 255, or where `encoded` the autoencoder's latents of them
    (B, C, T/8, H/8, W/8) before their scale, and whose they are."""

    step: int
    kind: Kind
    pixels: "torch.Tensor"
    clip_ids: tuple[str, ...]
    epochs: tuple[int, ...]
    replaced: tuple[Replaced, ...] = ()
    encoded: bool = False
    beside: "Mapping[str, torch.Tensor]" = field(default_factory=dict)
    """What else is given of each sample, uint8 with B in front, by the names of training/data/beside.py; `sound` of training/data/sound.py
    is float32."""
    shown: tuple[str, ...] = ()
    """Of each sample, the other clip whose picture is its reference, empty where it is its own; nothing in a stage without references."""

    def part(self, samples: slice) -> "Batch":
        """Some of the samples."""
        cut = {name: values[samples] for name, values in self.beside.items()}
        ids, epochs = self.clip_ids[samples], self.epochs[samples]
        return replace(self, pixels=self.pixels[samples], clip_ids=ids, epochs=epochs, beside=cut, shown=self.shown[samples])

    def unit(self, device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None) -> "torch.Tensor":
        """The pixels in [-1, 1], or the latents as they are, on the device: made there, so that a quarter of the bytes travel."""
        import torch

        return unit(self.pixels.to(device)).to(dtype or torch.float32)

    @property
    def pixel_shape(self) -> tuple[int, int, int, int, int]:
        """(B, 3, T, H, W) of the pixels; those of whole latent frames where it is encoded."""
        b, _, frames, height, width = self.pixels.shape
        if not self.encoded:
            return b, 3, frames, height, width
        return b, 3, 1 if self.kind == "image" else frames * FRAMES_PER_LATENT, height * PX_PER_LATENT, width * PX_PER_LATENT


class Latents(Protocol):
    """Latents that were made beforehand."""

    def has(self, sample: Sample, config: DataConfig) -> bool:
        """Whether `read` is likely to give them."""

    def read(self, sample: Sample, config: DataConfig) -> "torch.Tensor | None":
        """What encoding the sample's pixels gives, (C, T/8, H/8, W/8); None when it was not made, or not for this configuration."""


@dataclass(frozen=True, slots=True)
class _Share:
    """One rank's part of a step: its places, the first of which is number `first` of the global batch."""

    step: int
    kind: Kind
    places: tuple[Place, ...]
    first: int

    @property
    def epochs(self) -> tuple[int, ...]:
        """The pass of each place."""
        return tuple(place.epoch for place in self.places)


@dataclass(frozen=True, slots=True)
class _Filled:
    """Whose pixels are in a place, who was planned there, what is beside them, and which other clip that shows."""

    clip_id: str
    swap: Replaced | None
    beside: Arrays
    shown: str


class _Buffers:
    """Memory for batches, used again when the last tensor in it is gone. Large arrays fresh from the system are mapped and cleared page by
    page, which costs a third of decoding into them."""

    def __init__(self, most: int) -> None:
        self._free: deque[Pixels] = deque(maxlen=most)

    def take(self, shape: tuple[int, ...]) -> Pixels:
        """An array of the shape with any content, which nobody else has."""
        kept = None
        for _ in range(len(self._free)):
            with contextlib.suppress(IndexError):  # another thread may take the last one
                kept = self._free.popleft()
                if kept.shape == shape:
                    break
                self._free.append(kept)
            kept = None
        if kept is None:
            kept = np.empty(shape, np.uint8)
        lent = kept.view()  # a tensor made of it holds this very object, so that its end is the end of the tensor
        weakref.finalize(lent, self._free.append, kept).atexit = False
        return lent


class BatchLoader:
    """Makes the batches of one rank, a few steps ahead, in threads; the result does not depend on how far ahead or how many."""

    def __init__(
        self,
        dataset: Path,
        plan: Plan,
        config: DataConfig,
        rank: int,
        world: int,
        latents: Latents | None = None,
        pairs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`pairs` are the clips that show the person of each; needed where references are crossed by identity."""
        self._plan, self._config, self._rank, self._world = plan, config, rank, world
        self._denied = DenyList(dataset)
        self._shards = open_shards(dataset, config)
        self._latents = latents
        self._partners = Partners(plan.samples, pairs)
        self._buffers = _Buffers(config.prefetch_batches + config.decode_threads + 2)

    def batches(self, start: int, end: int) -> Iterator[Batch]:
        """The batches of steps start <= step < end, in order."""
        threads = max(1, self._config.decode_threads)
        in_flight = max(self._config.prefetch_batches, threads - 1)
        with ThreadPoolExecutor(threads, "decode") as pool, ThreadPoolExecutor(in_flight + 1, "fetch") as fetchers:
            ahead: deque[Callable[[], Batch]] = deque()
            for step in range(start, end):
                while len(ahead) <= in_flight and step + len(ahead) < end:
                    ahead.append(self._begin(step + len(ahead), pool, fetchers))
                made = ahead.popleft()()
                # It was made a few steps ago: what was taken down since then is not trained on.
                denied = self._denied.clips()
                yield self.batch(step) if any(c in denied for c in (*made.clip_ids, *made.shown)) else made

    def batch(self, step: int) -> Batch:
        """The rank's batch of one step; TrainingError when too many samples in a row are broken."""
        share = self._share(step)
        if (latents := self._encoded(share)) is not None:
            # what is beside a clip may be broken or taken down where its latents are not: then a reserve stands in, as ever
            with contextlib.suppress(SampleError):
                samples = self._samples(share)
                filled = [_Filled(s.clip_id, None, *self._beside(s, epoch)) for s, epoch in zip(samples, share.epochs, strict=True)]
                return replace(_joined(share, latents, filled), encoded=True)
        pixels = self._room(share)
        return _joined(share, _tensor(pixels), [self._fill(share, i, pixels) for i in range(len(share.places))])

    def _begin(self, step: int, pool: ThreadPoolExecutor, fetchers: ThreadPoolExecutor) -> Callable[[], Batch]:
        """The step's batch is being made, each sample by a thread that is free; gives what to call for it."""
        share = self._share(step)
        if self._latents is not None and all(self._latents.has(s, self._config) for s in self._samples(share)):
            return pool.submit(self.batch, step).result
        fetched = fetchers.submit(self._fetch, share) if self._shards.remote else None
        pixels = self._room(share)
        filled = [pool.submit(self._fill, share, i, pixels, fetched) for i in range(len(share.places))]
        return lambda: _joined(share, _tensor(pixels), [f.result() for f in filled])

    def _share(self, step: int) -> "_Share":
        planned = self._plan.batch(step)
        places = planned.of_rank(self._rank, self._world)
        return _Share(step, planned.kind, places, self._rank * len(places))

    def _samples(self, share: "_Share") -> list[Sample]:
        return [self._plan.samples[place.position] for place in share.places]

    def _room(self, share: "_Share") -> Pixels:
        """Where the share's samples go; all of a batch have one shape."""
        first = self._plan.samples[share.places[0].position]
        shape = shape_of(first, self._config.shapes, self._config.size_px, self._config.n_frames)
        return self._buffers.take((len(share.places), shape.n_frames, shape.height, shape.width, 3))

    def _fill(self, share: "_Share", i: int, pixels_BTHWC: Pixels, fetched: Future[None] | None = None) -> "_Filled":
        """Member i's pixels are in their place; gives whose they are, what happened if not those planned, and what is beside them."""
        if fetched is not None:
            fetched.result()
        pixels, filled = self._sample(share.step, share.first + i, share.places[i])
        for frame, place in zip(pixels, pixels_BTHWC[i], strict=True):
            place[...] = frame
        return filled

    def _fetch(self, share: "_Share") -> None:
        """The payloads of the share that may be used are near."""
        denied = self._denied.clips()
        samples = [s for s in self._samples(share) if s.clip_id not in denied]
        wanted = (*(("face.jpg",) if self._config.reference_px else ()), *(_EDIT_MEMBERS if self._config.edits else ()))
        others = [other for s in samples for name in wanted if (other := s.other(name)) is not None]
        self._shards.fetch([*samples, *others])
        if self._config.cache_folder:  # taken down while it was fetched: the takedown may have been there before
            late = self._denied.clips()
            gone = [s for s in self._samples(share) if s.clip_id in late]
            forget_payloads(Path(self._config.cache_folder), [sha256 for s in gone for sha256 in (s.sha256, *(b.sha256 for b in s.beside))])

    def _encoded(self, share: "_Share") -> "torch.Tensor | None":
        """The latents of all samples of the share; None unless each has some and may be used. A batch is never half encoded."""
        import torch

        if self._latents is None:
            return None
        denied = self._denied.clips()
        found = [None if s.clip_id in denied else self._latents.read(s, self._config) for s in self._samples(share)]
        known = [latent for latent in found if latent is not None]
        return torch.stack(known) if len(known) == len(found) else None

    def _sample(self, step: int, place_no: int, place: Place) -> tuple[list[Pixels], "_Filled"]:
        planned, reason, broken = self._plan.samples[place.position], "", 0
        for attempt in range(MAX_DENIED):
            used = planned if attempt == 0 else self._plan.samples[self._plan.reserve(place, attempt).position]
            try:
                pixels, (beside, shown) = self._pixels(used, place.epoch), self._beside(used, place.epoch)
            except SampleError as error:
                reason = reason or str(error)
                broken += not isinstance(error, DeniedError | SilentError)
                if broken > self._config.max_replacements:
                    raise TrainingError(f"step {step}: clip {planned.clip_id} and {broken - 1} reserves are broken: {reason}") from error
                continue
            swap = Replaced(step=step, place=place_no, planned=planned.clip_id, used=used.clip_id, reason=reason) if attempt else None
            return pixels, _Filled(used.clip_id, swap, beside, shown)
        raise TrainingError(
            f"step {step}: clip {planned.clip_id}: expected a clip of its bucket that may be used among {MAX_DENIED} draws, found none; "
            "curate the dataset again and begin a new run on its newest version"
        )

    def _pixels(self, sample: Sample, epoch: int) -> list[Pixels]:
        return decode_sample(self._read(sample), sample, self._config, self._key(sample, epoch) if self._config.augment else None)

    def _beside(self, sample: Sample, epoch: int) -> tuple[Arrays, str]:
        key = self._key(sample, epoch)
        return read_beside(self._read, sample, self._config, key if self._config.augment else None, key, self._partners)

    def _read(self, sample: Sample) -> bytes:
        return self._shards.read(sample, self._config.verify_sha256, self._denied)

    def _key(self, sample: Sample, epoch: int) -> tuple[object, ...]:
        return self._plan.settings.seed, self._plan.settings.stage, sample.clip_id, epoch


def to_tensor(clips: Sequence[Sequence[Pixels] | Pixels]) -> "torch.Tensor":
    """Clips of equal shape, each its frames (H, W, 3), as one float32 tensor (B, 3, T, H, W) in [-1, 1]."""
    first = clips[0]
    pixels_BTHWC = np.empty((len(clips), len(first), *(first.shape[1:] if isinstance(first, np.ndarray) else first[0].shape)), np.float32)
    for clip, place_THWC in zip(clips, pixels_BTHWC, strict=True):
        for frame, place in zip(clip, place_THWC, strict=True):  # frame by frame: it is then still in the processor's cache
            np.divide(frame, np.float32(127.5), out=place)
            np.subtract(place, np.float32(1.0), out=place)
    return _tensor(pixels_BTHWC)


def unit(levels: "torch.Tensor") -> "torch.Tensor":
    """Levels of 0 to 255 as float32 in [-1, 1], where they are; what is none comes back as it is."""
    import torch

    return levels.to(torch.float32).div_(127.5).sub_(1.0) if levels.dtype == torch.uint8 else levels


def _tensor(pixels_BTHWC: Floats | Pixels) -> "torch.Tensor":
    import torch

    return torch.from_numpy(pixels_BTHWC).permute(0, 4, 1, 2, 3)


def _joined(share: "_Share", pixels: "torch.Tensor", filled: "list[_Filled]") -> Batch:
    return Batch(
        step=share.step,
        kind=share.kind,
        pixels=pixels,
        clip_ids=tuple(f.clip_id for f in filled),
        epochs=share.epochs,
        replaced=tuple(f.swap for f in filled if f.swap),
        beside=_stacked([f.beside for f in filled]),
        shown=tuple(f.shown for f in filled) if "reference" in filled[0].beside else (),
    )


def _stacked(beside: list[Arrays]) -> "dict[str, torch.Tensor]":
    import torch

    return {name: torch.from_numpy(np.stack([arrays[name] for arrays in beside])) for name in beside[0]}
