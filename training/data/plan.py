"""The order of training as a pure function: which samples step k takes, for all ranks, without having visited step k-1.

A plan depends on its `PlanSettings` and on the index of samples, and on nothing else: not on the number of processes, not on time.
Its only state is a step number. Specification `plan/v2`:

1. Kind. Of every `image_batches + video_batches` steps, `image_batches` are image steps, evenly spaced (Movie Gen, Temporal
   Autoencoder: 1 image batch : 3 video batches). Where one kind has no samples, every step is of the other.
2. Stream. A bucket with n samples gives an endless stream: pass 0, pass 1, ... each a keyed permutation of its samples. Batch q of
   the bucket is places [q*G, (q+1)*G) of its stream, G the bucket's batch. So each pass takes each sample exactly once; a batch may
   begin in one pass and end in the next. G is `global_batch`, or with `tokens_per_step` as many samples as have no more tokens than
   that, rounded down to a multiple of `batch_multiple` and at least that.
3. Shards. With `shuffle_shards` K > 0 a pass goes through its bucket's shards in a keyed permutation, K of them at a time, and takes
   the samples of those K in a keyed permutation: reads stay among few shards, which are read whole. With 0 they go anywhere.
4. Epoch. Epoch e of a kind holds the batches floor(e*n/G) <= q < floor((e+1)*n/G) of each of its buckets. Batch j of a bucket's c in
   the epoch stands at time (j + phase) / c, the phase drawn by key for bucket and epoch: buckets are mixed in proportion to their
   batches and each keeps its own order; every rank is in the same bucket at the same step.

A stage of sound (`sound_frames` above 0) takes the samples that have sound, sounds and videos alike, as one kind, "audio": a bucket is
still of one medium. Every other stage takes pictures only, and its plan does not know of sound.

`plan/v1`, which runs of square crops with a fixed batch and no K still have, differs in rule 4 alone: there an epoch's batches are in
one keyed permutation.
"""

import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.ids import digest, uniform
from training.data.index import SOUND_FRAMES_PER_S, Kind, Sample, index_digest, split_holdout
from training.data.order import V1, V2, Order, Stream
from training.data.shapes import Shapes, shape_of
from training.errors import TrainingError

_RECENT = 64
"""Steps whose batches are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What a plan is made from, besides the samples. `sets` empty means all sets; `min_frames` refuses shorter videos.

    The fields with defaults are those that `plan/v1` did not have.
    """

    stage: str
    manifest_version: int
    sets: tuple[str, ...]
    seed: int
    global_batch: int
    image_batches: int
    video_batches: int
    holdout_share: float
    min_frames: int
    shapes: Shapes = "square"
    size_px: int = 0
    n_frames: int = 0
    tokens_per_step: int = 0
    batch_multiple: int = 1
    shuffle_shards: int = 0
    sound_frames: int = 0
    """Length of a sound in frames of 1/25 s; 0 for stages of pictures."""

    @property
    def spec(self) -> str:
        """The specification of the order."""
        return V2 if self.tokens_per_step or self.shuffle_shards or self.shapes != "square" else V1


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
    """Its samples' positions in `Plan.samples`, shard by shard, and what the order needs to know of it."""

    positions: NDArray[np.int64]
    stream: Stream


class Plan:
    """The order over `samples`; `held_out` are never in it, `refused` are too short, with the reason."""

    def __init__(self, settings: PlanSettings, samples: Iterable[Sample]) -> None:
        given = list(samples)
        if settings.sets and not {s.set_name for s in given} & set(settings.sets):
            found = sorted({s.set_name for s in given})
            raise TrainingError(
                f"data.sets: expected clips of {' or '.join(settings.sets)}, found only those of {', '.join(found) or 'no set'}"
            )
        chosen = [s for s in given if (not settings.sets or s.set_name in settings.sets) and _medium_fits(s, settings)]
        self.refused = {s.clip_id: reason for s in chosen if (reason := refusal(s, settings))}
        usable = [s for s in chosen if s.clip_id not in self.refused]
        self.settings = settings
        self.samples, self.held_out = split_holdout(usable, settings.holdout_share)
        self._buckets = _group(self.samples, settings)
        self._images, self._videos = self._cycle()
        self._orders = {
            kind: Order(settings.spec, kind, [b.stream for b in buckets.values()], settings.shuffle_shards, self._key)
            for kind, buckets in self._buckets.items()
        }
        self._recent: dict[int, StepPlan] = {}  # the loader's batch is asked for again, for the record of what was seen

    @property
    def inputs(self) -> dict[str, Any]:
        """What the plan is a function of, as plain JSON values; `replay` makes the plan again from it and the samples."""
        s = self.settings
        known = {f.name for f in fields(s) if s.spec != V1 or f.default is MISSING} - {"sound_frames"}
        known |= {"sound_frames"} if s.sound_frames else set()
        values = {name: value for name, value in asdict(s).items() if name in known}
        return {"spec": s.spec, **values, "sets": list(s.sets), "index_digest": index_digest(self.samples, with_places=s.spec != V1)}

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
        if (known := self._recent.get(step)) is not None:
            return known
        if self.settings.sound_frames:
            return self._batch_of_kind(step, "audio", step)
        cycle = self._images + self._videos
        images_before = step * self._images // cycle
        is_image = (step + 1) * self._images // cycle > images_before
        made = self._batch_of_kind(step, "image" if is_image else "video", images_before if is_image else step - images_before)
        if len(self._recent) >= _RECENT:
            self._recent.clear()
        self._recent[step] = made
        return made

    def reserve(self, place: Place, attempt: int) -> Place:
        """The sample that stands in for a broken one: a draw from its bucket, keyed by the broken clip, its pass and the attempt."""
        broken = self.samples[place.position]
        kind: Kind = "audio" if self.settings.sound_frames else broken.kind
        positions = self._buckets[kind][_bucket_name(broken, self.settings)].positions
        u = uniform(self.settings.spec, "reserve", self.settings.seed, self.settings.stage, broken.clip_id, place.epoch, attempt)
        return Place(position=int(positions[int(u * len(positions))]), epoch=place.epoch)

    def clip_ids(self, step: int) -> list[str]:
        """The clip ids of a step in global order."""
        return [self.samples[m.position].clip_id for m in self.batch(step).members]

    def _cycle(self) -> tuple[int, int]:
        images, videos = (self.settings.image_batches, self.settings.video_batches)
        if self.settings.sound_frames:
            return 0, 1
        if not self._buckets["image"]:
            images, videos = 0, 1
        if not self._buckets["video"]:
            images, videos = 1, 0
        if images < 0 or videos < 0 or images + videos == 0:
            raise TrainingError(f"plan: expected image_batches and video_batches >= 0, not both 0, found {images} and {videos}")
        return images, videos

    def _batch_of_kind(self, step: int, kind: Kind, number: int) -> StepPlan:
        """Batch `number` (from 0) of the kind's own sequence."""
        i, members = self._orders[kind].batch(number)
        name, bucket = list(self._buckets[kind].items())[i]
        places = tuple(Place(position=int(bucket.positions[at]), epoch=pass_no) for at, pass_no in members)
        return StepPlan(step=step, kind=kind, bucket=name, members=places)

    def _key(self, *parts: object) -> str:
        return digest(self.settings.spec, self.settings.seed, self.settings.stage, *parts)


def replay(plan_json: str, samples: Iterable[Sample]) -> Plan:
    """The plan that wrote this JSON, from the samples of the same manifest version.

    Raises TrainingError when the samples are not those it was made from, so a wrong history is never told.
    """
    inputs = json.loads(plan_json)
    spec, found_digest = inputs.pop("spec"), inputs.pop("index_digest")
    if spec not in (V1, V2):
        raise TrainingError(f"plan: expected specification {V1} or {V2}, found {spec}")
    plan = Plan(PlanSettings(**{**inputs, "sets": tuple(inputs["sets"])}), samples)
    if plan.inputs["index_digest"] != found_digest:
        raise TrainingError(f"plan: expected samples with digest {found_digest}, found {plan.inputs['index_digest']}")
    return plan


def exposed_clips(plan_json: str, samples: Iterable[Sample], end_step: int, exceptions: Iterable[dict[str, Any]] = ()) -> dict[str, int]:
    """Clip id -> first step below `end_step` whose gradient it entered.

    `exceptions` are those of the checkpoint's exposure record: at each, the planned clip was not seen and another was, or a further clip was
    shown beside a planned one.
    """
    plan, exceptions = replay(plan_json, samples), list(exceptions)
    swapped = {(e["step"], e["place"]): e["used"] for e in exceptions if "used" in e}
    first: dict[str, int] = {}
    for step in range(end_step):
        for place, clip in enumerate(plan.clip_ids(step)):
            first.setdefault(swapped.get((step, place), clip), step)
    for e in exceptions:
        if "shown" in e and e["step"] < end_step:
            first[e["shown"]] = min(e["step"], first.get(e["shown"], e["step"]))
    return first


def roll(previous: str, step: int, clip_ids: Iterable[str]) -> str:
    """The next link of the hash chain over the sample ids in global order; the chain begins with the plan's digest."""
    return digest("roll/v1", previous, step, *clip_ids)


def refusal(sample: Sample, settings: PlanSettings) -> str | None:
    """Why a plan with these settings cannot take the sample; None when it can."""
    if settings.sound_frames:
        needed_us = settings.sound_frames * 1_000_000 // SOUND_FRAMES_PER_S
        return (
            None
            if (sample.sound_us or 0) >= needed_us
            else f"expected {needed_us / 1e6:g} s of sound, found {(sample.sound_us or 0) / 1e6:g}"
        )
    if sample.kind == "video" and (sample.n_frames is None or sample.n_frames < settings.min_frames):
        return f"expected at least {settings.min_frames} frames, found {sample.n_frames}"
    if settings.shapes == "buckets" and not (sample.width and sample.height):
        return f"expected a bucket with a size, found {sample.width} x {sample.height}"
    return None


def _medium_fits(sample: Sample, settings: PlanSettings) -> bool:
    return bool(sample.has_sound) if settings.sound_frames else sample.kind != "audio"


def _bucket_name(sample: Sample, settings: PlanSettings) -> str:
    """Samples of one name have one form: in a set that was encoded under two configurations a bucket's name alone would not say so."""
    name = f"{sample.kind}/{sample.set_name}/{sample.bucket}"
    return name if settings.shapes == "square" else f"{name}/{shape_of(sample, 'buckets', settings.size_px, settings.n_frames)}"


def _group(samples: list[Sample], settings: PlanSettings) -> dict[Kind, dict[str, _Bucket]]:
    members: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        members.setdefault(_bucket_name(sample, settings), []).append(position)
    buckets = {name: _bucket(name, members[name], samples, settings) for name in sorted(members)}
    if settings.sound_frames:
        return {"audio": buckets}
    return {
        "image": {n: b for n, b in buckets.items() if n.startswith("image/")},
        "video": {n: b for n, b in buckets.items() if n.startswith("video/")},
    }


def _bucket(name: str, positions: list[int], samples: list[Sample], settings: PlanSettings) -> _Bucket:
    batch, sizes = settings.global_batch, [len(positions)]
    if settings.tokens_per_step:
        of_pictures = shape_of(samples[positions[0]], settings.shapes, settings.size_px, settings.n_frames).n_tokens
        tokens = settings.sound_frames or of_pictures
        batch = max(1, settings.tokens_per_step // tokens // settings.batch_multiple) * settings.batch_multiple
    if settings.shuffle_shards:
        shards: dict[str, list[int]] = {}
        for position in positions:
            shards.setdefault(samples[position].shard_path, []).append(position)
        positions = [position for _, inside in sorted(shards.items()) for position in inside]
        sizes = [len(inside) for _, inside in sorted(shards.items())]
    return _Bucket(np.array(positions, np.int64), Stream(name, batch, np.array(sizes, np.int64)))
