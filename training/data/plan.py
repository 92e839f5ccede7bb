"""The order of training as a pure function: which samples step k takes, for all ranks, without having visited step k-1.

A plan depends on its `PlanSettings` and on the index of samples, and on nothing else: not on the number of processes, not on time.
Its only state is a step number. Specification `plan/v1`:

1. Kind. Of every `image_batches + video_batches` steps, `image_batches` are image steps, evenly spaced (Movie Gen, Temporal
   Autoencoder: 1 image batch : 3 video batches). Where one kind has no samples, every step is of the other.
2. Stream. A bucket with n samples gives an endless stream: pass 0, pass 1, ... each a keyed permutation of its samples. Batch q of
   the bucket is places [q*G, (q+1)*G) of its stream, G the global batch. So each pass takes each sample exactly once; a batch may
   begin in one pass and end in the next.
3. Epoch. Epoch e of a kind holds the batches floor(e*n/G) <= q < floor((e+1)*n/G) of each of its buckets, in one keyed permutation
   over all of them: buckets are mixed in proportion to their size, and every rank is in the same bucket at the same step.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.ids import digest, uniform
from training.data.index import Kind, Sample, index_digest, split_holdout
from training.data.permutation import permute
from training.errors import TrainingError

SPEC = "plan/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What a plan is made from, besides the samples. `sets` empty means all sets; `min_frames` refuses shorter videos."""

    stage: str
    manifest_version: int
    sets: tuple[str, ...]
    seed: int
    global_batch: int
    image_batches: int
    video_batches: int
    holdout_share: float
    min_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A sample's turn: its position in `Plan.samples` and the pass over its bucket, which keys its crop and its noise."""

    position: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What one step takes, for all ranks together, in global order."""

    step: int
    kind: Kind
    bucket: str
    members: tuple[Place, ...]

    def of_rank(self, rank: int, world: int) -> tuple[Place, ...]:
        """The rank's contiguous share; TrainingError when the world does not divide the global batch."""
        if len(self.members) % world:
            raise TrainingError(f"plan: expected a global batch divisible by {world} processes, found {len(self.members)}")
        n = len(self.members) // world
        return self.members[rank * n : (rank + 1) * n]


@dataclass(frozen=True, slots=True)
class _Bucket:
    name: str
    positions: NDArray[np.int64]


class Plan:
    """The order over `samples`; `held_out` are never in it, `refused` are too short, with the reason."""

    def __init__(self, settings: PlanSettings, samples: Iterable[Sample]) -> None:
        chosen = [s for s in samples if not settings.sets or s.set_name in settings.sets]
        self.refused = {s.clip_id: reason for s in chosen if (reason := _refusal(s, settings))}
        usable = [s for s in chosen if s.clip_id not in self.refused]
        self.settings = settings
        self.samples, self.held_out = split_holdout(usable, settings.holdout_share)
        self._buckets = _group(self.samples)
        self._images, self._videos = self._cycle()

    @property
    def inputs(self) -> dict[str, Any]:
        """What the plan is a function of, as plain JSON values; `replay` makes the plan again from it and the samples."""
        return {"spec": SPEC, **asdict(self.settings), "sets": list(self.settings.sets), "index_digest": index_digest(self.samples)}

    @property
    def json(self) -> str:
        """`inputs` as one line of JSON with sorted keys."""
        return json.dumps(self.inputs, sort_keys=True)

    @property
    def digest(self) -> str:
        """The digest of `json`: two plans with the same digest take the same clips in the same order."""
        return digest(self.json)

    def batch(self, step: int) -> StepPlan:
        """What step `step` takes; the cost does not grow with the step."""
        if step < 0:
            raise ValueError(f"plan: expected step >= 0, found {step}")
        cycle = self._images + self._videos
        images_before = step * self._images // cycle
        if (step + 1) * self._images // cycle > images_before:
            return self._batch_of_kind(step, "image", images_before)
        return self._batch_of_kind(step, "video", step - images_before)

    def reserve(self, place: Place, attempt: int) -> Place:
        """The sample that stands in for a broken one: a draw from its bucket, keyed by the broken clip, its pass and the attempt."""
        broken = self.samples[place.position]
        bucket = next(b for b in self._buckets[broken.kind] if b.name == _bucket_name(broken))
        u = uniform(SPEC, "reserve", self.settings.seed, self.settings.stage, broken.clip_id, place.epoch, attempt)
        return Place(position=int(bucket.positions[int(u * len(bucket.positions))]), epoch=place.epoch)

    def clip_ids(self, step: int) -> list[str]:
        """The clip ids of a step in global order."""
        return [self.samples[m.position].clip_id for m in self.batch(step).members]

    def _cycle(self) -> tuple[int, int]:
        images, videos = (self.settings.image_batches, self.settings.video_batches)
        if not self._buckets["image"]:
            images, videos = 0, 1
        if not self._buckets["video"]:
            images, videos = 1, 0
        if images < 0 or videos < 0 or images + videos == 0:
            raise TrainingError(f"plan: expected image_batches and video_batches >= 0, not both 0, found {images} and {videos}")
        return images, videos

    def _batch_of_kind(self, step: int, kind: Kind, number: int) -> StepPlan:
        """Batch `number` (from 0) of the kind's own sequence."""
        buckets, size = self._buckets[kind], self.settings.global_batch
        sizes = [len(b.positions) for b in buckets]
        epoch = _epoch_of(number, sizes, size)
        first = [epoch * n // size for n in sizes]
        count = [(epoch + 1) * n // size - f for n, f in zip(sizes, first, strict=True)]
        slot = np.array([number - sum(first)], np.int64)
        place = int(permute(slot, sum(count), self._key("slots", kind, epoch))[0])
        i = 0
        while place >= count[i]:
            place -= count[i]
            i += 1
        members = self._stream(buckets[i], (first[i] + place) * size, size)
        return StepPlan(step=step, kind=kind, bucket=buckets[i].name, members=members)

    def _stream(self, bucket: _Bucket, start: int, count: int) -> tuple[Place, ...]:
        """`count` places of the bucket's endless stream, from place `start`."""
        n, places = len(bucket.positions), []
        for pass_no in range(start // n, (start + count - 1) // n + 1):
            low, high = max(start, pass_no * n), min(start + count, (pass_no + 1) * n)
            order = permute(np.arange(low, high, dtype=np.int64) - pass_no * n, n, self._key("members", bucket.name, pass_no))
            places += [Place(position=int(p), epoch=pass_no) for p in bucket.positions[order]]
        return tuple(places)

    def _key(self, *parts: object) -> str:
        return digest(SPEC, self.settings.seed, self.settings.stage, *parts)


def replay(plan_json: str, samples: Iterable[Sample]) -> Plan:
    """The plan that wrote this JSON, from the samples of the same manifest version.

    Raises TrainingError when the samples are not those it was made from, so a wrong history is never told.
    """
    inputs = json.loads(plan_json)
    spec, found_digest = inputs.pop("spec"), inputs.pop("index_digest")
    if spec != SPEC:
        raise TrainingError(f"plan: expected specification {SPEC}, found {spec}")
    plan = Plan(PlanSettings(**{**inputs, "sets": tuple(inputs["sets"])}), samples)
    if plan.inputs["index_digest"] != found_digest:
        raise TrainingError(f"plan: expected samples with digest {found_digest}, found {plan.inputs['index_digest']}")
    return plan


def exposed_clips(plan_json: str, samples: Iterable[Sample], end_step: int, exceptions: Iterable[dict[str, Any]] = ()) -> dict[str, int]:
    """Clip id -> first step below `end_step` whose gradient it entered.

    `exceptions` are those of the checkpoint's exposure record: at each, the planned clip was not seen and another was.
    """
    plan = replay(plan_json, samples)
    swapped = {(e["step"], e["place"]): e["used"] for e in exceptions}
    first: dict[str, int] = {}
    for step in range(end_step):
        for place, clip in enumerate(plan.clip_ids(step)):
            first.setdefault(swapped.get((step, place), clip), step)
    return first


def roll(previous: str, step: int, clip_ids: Iterable[str]) -> str:
    """The next link of the hash chain over the sample ids in global order; the chain begins with the plan's digest."""
    return digest("roll/v1", previous, step, *clip_ids)


def _refusal(sample: Sample, settings: PlanSettings) -> str | None:
    if sample.kind == "video" and (sample.n_frames is None or sample.n_frames < settings.min_frames):
        return f"expected at least {settings.min_frames} frames, found {sample.n_frames}"
    return None


def _bucket_name(sample: Sample) -> str:
    return f"{sample.kind}/{sample.set_name}/{sample.bucket}"


def _group(samples: list[Sample]) -> dict[Kind, list[_Bucket]]:
    members: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        members.setdefault(_bucket_name(sample), []).append(position)
    buckets = [_Bucket(name, np.array(members[name], np.int64)) for name in sorted(members)]
    return {
        "image": [b for b in buckets if b.name.startswith("image/")],
        "video": [b for b in buckets if b.name.startswith("video/")],
    }


def _epoch_of(number: int, sizes: list[int], size: int) -> int:
    """The epoch e with B(e) <= number < B(e+1), B(e) = sum of floor(e*n/size): by bisection, B never falls."""
    low, high = 0, (number + len(sizes) + 1) * size // sum(sizes) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(middle * n // size for n in sizes) <= number else (low, middle)
    return low
