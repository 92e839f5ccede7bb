"""Laws of the order of training: a function of step and seed, each clip once a pass, the same for any number of processes."""

import dataclasses
import itertools
import json
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.ids import digest
from training.data.batch import Replaced
from training.data.index import Sample, hold_out_groups, index_samples, read_samples, split_holdout, write_samples
from training.data.order import V2, Order, Stream
from training.data.permutation import permute
from training.data.plan import Plan, PlanSettings, exposed_clips, replay, roll
from training.data.shapes import shape_of
from training.errors import TrainingError
from training.exposure import Exposure
from training.parallel.sequence import check_divisible

GOLDEN_V1 = [
    (4, "c4db06f4b5ba49dd1e454d759c13232b", "575c03283f59bbbcb9b6a0d42ab01223"),
    (7, "0fd33697e0a2f6633f7275c1d09ebc7c", "1ecf23297cd9ef022ad7194dbc9f5766"),
]
"""Batch, plan digest and digest of the first 300 steps, step 10**9 and reserves, as the code before `plan/v2` gave them."""


def sample(i: int, kind: str = "video", bucket: str = "16x9_128f", group: str | None = None, n_frames: int = 128) -> Sample:
    """A sample that differs from others by its number."""
    clip = digest("clip", kind, i)
    return Sample(
        clip_id=clip, clip_no=i, kind=kind, set_name="low_res", bucket=bucket, shard_path="shards/x.tar", offset=512, size_bytes=1,
        sha256=b"", width=64, height=36, n_frames=n_frames, fps_num=24, fps_den=1, group=group or clip,
    )  # fmt: skip


def samples(n_wide: int, n_tall: int, n_images: int) -> list[Sample]:
    """Videos in two buckets and images in one, in index order."""
    wide = [sample(i) for i in range(n_wide)]
    tall = [sample(1000 + i, bucket="9x16_128f") for i in range(n_tall)]
    images = [sample(2000 + i, "image", "1x1") for i in range(n_images)]
    return sorted(wide + tall + images, key=lambda s: (s.set_name, s.bucket, s.clip_id))


def mixed(n_videos: int, n_images: int, per_shard: int = 5) -> list[Sample]:
    """Videos of four forms and images of two in shards of a few samples each, in index order; every fifth shard is half full."""
    forms = [(1024, 576, 256), (1024, 576, 128), (576, 1024, 128), (768, 768, 192)]
    found = []
    for i in range(n_videos + n_images):
        kind = "video" if i < n_videos else "image"
        width, height, frames = forms[i % 4] if kind == "video" else (*forms[2 * (i % 2)][:2], 1)
        bucket = f"{width}x{height}_{frames}f"
        changes = {"width": width, "height": height, "bucket": bucket, "n_frames": frames, "fps_num": 16}
        shard = (i // 4) // per_shard if (i // 4) % (5 * per_shard) else 1000 + i
        found.append(dataclasses.replace(sample(i, kind), shard_path=f"shards/{kind}-{bucket}-{shard:06d}.tar", **changes))
    return sorted(found, key=lambda s: (s.set_name, s.bucket, s.clip_id))


V2_SETTINGS = {"shapes": "buckets", "size_px": 256, "n_frames": 256, "min_frames": 1, "tokens_per_step": 20_000, "batch_multiple": 4}


def plan_settings(**changes: object) -> PlanSettings:
    """Settings of a small plan."""
    base = {
        "stage": "tae", "manifest_version": 3, "sets": (), "seed": 7, "global_batch": 4, "image_batches": 1, "video_batches": 3,
        "holdout_share": 0.1, "min_frames": 8,
    }  # fmt: skip
    return PlanSettings(**{**base, **changes})


@given(st.integers(1, 3000), st.text(max_size=8))
@settings(deadline=None)
def test_permutation_is_a_bijection(n: int, key: str) -> None:
    """Every number below n is hit exactly once, whatever n and key."""
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


@given(st.integers(2, 1 << 62), st.data())
@settings(deadline=None)
def test_permutation_gives_single_elements(n: int, data: st.DataObject) -> None:
    """An element alone lands where it lands among others, also for sizes nobody could enumerate."""
    indices = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8))
    together = permute(np.array(indices, np.int64), n, "k")
    assert together.tolist() == [int(permute(np.array([i], np.int64), n, "k")[0]) for i in indices]
    assert together.min() >= 0 and together.max() < n


def test_permutation_is_pinned() -> None:
    """The written specification gives these values for ever: old plans must be replayable."""
    assert permute(np.arange(10), 10, "golden").tolist() == GOLDEN_10
    assert permute(np.array([0, 1, 123_456_789]), 10**9, "golden").tolist() == GOLDEN_1E9


def test_permutation_refuses_foreign_indices() -> None:
    """An index outside 0..n-1 is an error, not a wrong place."""
    with pytest.raises(ValueError, match=r"expected indices in \[0, 5\)"):
        permute(np.array([5]), 5, "k")


@given(st.integers(3, 40), st.integers(0, 30), st.integers(0, 20), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_each_pass_takes_each_clip_once(n_wide: int, n_tall: int, n_images: int, global_batch: int, seed: int) -> None:
    """Within a bucket, pass p takes each clip exactly once: batches of one bucket, sorted by pass, never repeat a (clip, pass)."""
    plan = Plan(plan_settings(global_batch=global_batch, seed=seed), samples(n_wide, n_tall, n_images))
    steps = [plan.batch(step) for step in range(4 * len(plan.samples) // global_batch + 12)]
    seen = [(m.position, m.epoch) for s in steps for m in s.members]
    assert len(seen) == len(set(seen)) == len(steps) * global_batch
    for s in steps:
        assert len({(plan.samples[m.position].kind, plan.samples[m.position].bucket) for m in s.members}) == 1


@given(st.integers(4, 30), st.integers(1, 20), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_passes_are_complete(n_wide: int, n_tall: int, global_batch: int) -> None:
    """After `global_batch` epochs every bucket has given exactly `global_batch` whole passes: no clip is left behind."""
    plan = Plan(plan_settings(global_batch=global_batch), samples(n_wide, n_tall, 0))
    taken = [(m.position, m.epoch) for step in range(len(plan.samples)) for m in plan.batch(step).members]
    assert sorted(taken) == [(p, e) for p in range(len(plan.samples)) for e in range(global_batch)]


@given(st.integers(0, 10**12))
@settings(deadline=None)
def test_any_step_is_reached_directly(step: int) -> None:
    """A plan asked for one far step gives what it gives on the way there; the step number is its only state."""
    plan = Plan(plan_settings(), samples(20, 9, 8))
    assert plan.batch(step) == Plan(plan_settings(), samples(20, 9, 8)).batch(step)
    assert len(plan.batch(step).members) == 4


def test_ranks_share_out_the_global_batch() -> None:
    """1, 2 and 4 processes read the same clips in the same global order."""
    plan = Plan(plan_settings(), samples(20, 9, 8))
    for step in range(50):
        batch = plan.batch(step)
        for world in (1, 2, 4):
            assert [m for rank in range(world) for m in batch.of_rank(rank, world)] == list(batch.members)
    with pytest.raises(TrainingError, match="divisible by 3 processes"):
        plan.batch(0).of_rank(0, 3)


def test_images_and_videos_mix_by_the_ratio() -> None:
    """1 : 3 means every fourth step is an image step; with one kind only, every step is of that kind."""
    plan = Plan(plan_settings(), samples(20, 9, 8))
    assert [plan.batch(s).kind for s in range(8)] == ["video", "video", "video", "image"] * 2
    assert {Plan(plan_settings(), samples(20, 0, 0)).batch(s).kind for s in range(20)} == {"video"}
    assert {Plan(plan_settings(), samples(0, 0, 20)).batch(s).kind for s in range(20)} == {"image"}


def test_buckets_mix_by_size() -> None:
    """A bucket with three times the clips gets three times the steps."""
    plan = Plan(plan_settings(holdout_share=0.01), samples(61, 20, 0))
    buckets = [plan.batch(s).bucket for s in range(len(plan.samples))]
    share = buckets.count("video/low_res/16x9_128f") / len(buckets)
    assert abs(share - sum(s.bucket == "16x9_128f" for s in plan.samples) / len(plan.samples)) < 0.02


def test_seed_changes_order_and_digest() -> None:
    """Another seed is another plan, and its digest says so; the same inputs have the same digest."""
    a, b = Plan(plan_settings(), samples(20, 9, 8)), Plan(plan_settings(seed=8), samples(20, 9, 8))
    assert [a.batch(s).members for s in range(9)] != [b.batch(s).members for s in range(9)]
    assert a.digest != b.digest and a.digest == Plan(plan_settings(), samples(20, 9, 8)).digest


def test_holdout_takes_whole_groups() -> None:
    """Clips of one asset are never on both sides, and held-out clips are in no step."""
    chosen = [sample(i, group=f"asset {i // 4}") for i in range(80)]
    plan = Plan(plan_settings(holdout_share=0.2), chosen)
    held, kept = {s.group for s in plan.held_out}, {s.group for s in plan.samples}
    assert held and not held & kept and len(plan.held_out) + len(plan.samples) == 80
    trained = {clip for step in range(200) for clip in plan.clip_ids(step)}
    assert trained == {s.clip_id for s in plan.samples}


def test_holdout_does_not_move_when_clips_are_added() -> None:
    """A clip that was held out stays held out, and one that was trained on is never measured later."""
    few, many = samples(60, 0, 0), samples(120, 0, 0)
    held_few, held_many = ({s.clip_id for s in split_holdout(x, 0.2)[1]} for x in (few, many))
    assert held_few and held_few == held_many & {s.clip_id for s in few}


def test_a_dataset_of_one_asset_is_refused() -> None:
    """With nothing left to measure on, the plan says so instead of measuring on what it trains on."""
    with pytest.raises(TrainingError, match="at least 2 unrelated assets, found 1"):
        Plan(plan_settings(), [sample(i, group="only") for i in range(5)])


def test_short_videos_are_refused_with_a_reason() -> None:
    """A clip with fewer frames than a window is not in the plan, and the plan says why."""
    short = sample(99, n_frames=7)
    plan = Plan(plan_settings(), [*samples(20, 0, 0), short])
    assert plan.refused == {short.clip_id: "expected at least 8 frames, found 7"}
    assert short.clip_id not in {s.clip_id for s in plan.samples + plan.held_out}


def test_replay_makes_the_plan_again_or_refuses() -> None:
    """The JSON and the same samples give the same plan; other samples are refused, so no wrong history is told."""
    plan = Plan(plan_settings(), samples(20, 9, 8))
    assert replay(plan.json, samples(20, 9, 8)).digest == plan.digest
    with pytest.raises(TrainingError, match="expected samples with digest"):
        replay(plan.json, samples(20, 9, 9))
    with pytest.raises(TrainingError, match="expected specification plan/v1 or plan/v2"):
        replay(json.dumps({**plan.inputs, "spec": "plan/v0"}), samples(20, 9, 8))


@pytest.mark.parametrize(("global_batch", "plan_digest", "order"), GOLDEN_V1)
def test_plans_of_the_first_specification_stay(global_batch: int, plan_digest: str, order: str) -> None:
    """A plan that asks for nothing new is `plan/v1` to the last clip, so checkpoints of before can be gone on from and replayed."""
    plan = Plan(plan_settings(global_batch=global_batch), samples(61, 20, 8))
    taken = [c for step in [*range(300), 10**9] for c in plan.clip_ids(step)]
    assert plan.digest == plan_digest
    assert digest(*taken, *(str(plan.reserve(m, 1).position) for m in plan.batch(3).members)) == order


def test_the_second_specification_is_pinned() -> None:
    """The written rules give this order for ever, with buckets, token budget and windows of shards."""
    plan = Plan(plan_settings(**V2_SETTINGS, shuffle_shards=2), mixed(300, 60))
    assert json.loads(plan.json)["spec"] == "plan/v2"
    assert digest(plan.json, *(c for step in [*range(200), 10**9] for c in plan.clip_ids(step))) == GOLDEN_V2
    assert replay(plan.json, mixed(300, 60)).clip_ids(77) == plan.clip_ids(77)


def test_batches_follow_the_token_budget() -> None:
    """A bucket's batch is the budget over the tokens of its form, rounded down to the multiple and at least that."""
    plan = Plan(plan_settings(**V2_SETTINGS), mixed(300, 60))
    sizes = {s.bucket: len(s.members) for s in map(plan.batch, range(400))}
    assert {name.rpartition("/")[2]: size for name, size in sizes.items()} == {
        "336x192x256": 4,  # 8064 tokens: 2 fit, 4 is the least
        "336x192x128": 4,  # 4032: 4 fit
        "192x336x128": 4,
        "256x256x192": 4,  # 6144: 3 fit, 4 is the least
        "336x192x1": 76,  # 252: 79 fit
        "192x336x1": 76,
    }
    less = Plan(plan_settings(**{**V2_SETTINGS, "batch_multiple": 1}), mixed(300, 60))
    assert {len(s.members) for s in map(less.batch, range(400))} == {2, 3, 4, 79}


@given(st.integers(8, 120), st.integers(0, 40), st.integers(0, 5), st.sampled_from([0, 9_000, 20_000, 60_000]), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_mixed_buckets_take_each_clip_once_a_pass(n_videos: int, n_images: int, window: int, tokens: int, seed: int) -> None:
    """With other batches in each bucket, budget or not, windows of shards or not: a bucket's batches, put in order, are its passes."""
    chosen = {**V2_SETTINGS, "tokens_per_step": tokens, "shuffle_shards": window, "seed": seed, "batch_multiple": 2}
    plan = Plan(plan_settings(**chosen), mixed(n_videos, n_images))
    taken: dict[str, Counter[tuple[int, int]]] = {}
    for step in map(plan.batch, range(100)):
        forms = {(s.kind, s.bucket) for s in (plan.samples[m.position] for m in step.members)}
        assert len(forms) == 1, "a batch has one form"
        taken.setdefault(step.bucket, Counter()).update((m.position, m.epoch) for m in step.members)
    for bucket, places in taken.items():
        kind, set_name, name, _ = bucket.split("/")
        members = {i for i, s in enumerate(plan.samples) if (s.kind, s.set_name, s.bucket) == (kind, set_name, name)}
        passes = {e: {p for p, q in places if q == e} for e in {e for _, e in places}}
        assert set(places.values()) == {1}
        assert all(passes[e] == members for e in range(max(passes))), "every pass but the last is whole"


def test_passes_go_through_few_shards_at_a_time() -> None:
    """With windows of 2 shards every shard is read in one stretch: it is done before the window after the next one begins."""
    order = Order(V2, "video", [Stream("b", 4, np.full(20, 30))], 2, lambda *parts: digest("test", *parts))
    shards = [at // 30 for number in range(150) for at, _ in order.batch(number)[1]]
    first = {s: shards.index(s) for s in set(shards)}
    last = {s: len(shards) - 1 - shards[::-1].index(s) for s in set(shards)}
    assert len(first) == 20 and all(last[s] - first[s] < 60 for s in first)
    assert sorted(first, key=lambda s: first[s]) != list(range(20)) and max(last[s] - first[s] for s in first) > 30


def test_an_epoch_keeps_each_buckets_order() -> None:
    """Within an epoch a bucket's batches come in their own order and evenly spread, so that its shards are read one after the other."""
    streams = [Stream("a", 4, np.array([4000])), Stream("b", 8, np.array([2400])), Stream("c", 1, np.array([100]))]
    order = Order(V2, "video", streams, 0, lambda *parts: digest("test", *parts))
    seen = [order._interleaved([1000, 300, 100], slot, 0) for slot in range(1400)]
    for i, count in enumerate((1000, 300, 100)):
        assert [j for bucket, j in seen if bucket == i] == list(range(count))
        assert abs([bucket for bucket, _ in seen[:700]].count(i) - count / 2) <= 1


@pytest.mark.parametrize("window", [0, 16])
def test_any_step_of_ten_million_clips_is_reached_in_a_second(window: int) -> None:
    """10 M clips in 25 buckets and 100,000 shards: the first step asked for, step 10**9 and its neighbours take under a second each."""
    streams = [Stream(f"b{i}", 4 + 4 * (i % 5), np.full(4000, 100)) for i in range(25)]
    order = Order(V2, "video", streams, window, lambda *parts: digest("test", *parts))
    for number in (10**9, 10**9 + 1, 0, 123_456_789):
        began = time.perf_counter()
        i, members = order.batch(number)
        assert time.perf_counter() - began < 1
        assert len(members) == streams[i].batch and all(0 <= at < 400_000 for at, _ in members)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_global_order_is_the_same_on_any_number_of_processes(processes: int) -> None:
    """Each process takes its share of every step's batch, whatever its size; together they are the ids of one process, in order."""
    plan = Plan(plan_settings(**V2_SETTINGS, shuffle_shards=3), mixed(300, 60))
    assert len({len(plan.batch(step).members) for step in range(60)}) > 1
    for step in range(60):
        shares = [plan.batch(step).of_rank(rank, processes) for rank in range(processes)]
        assert len({len(share) for share in shares}) == 1
        assert [plan.samples[m.position].clip_id for share in shares for m in share] == plan.clip_ids(step)


def test_a_second_plan_depends_on_sizes_and_shards() -> None:
    """What the order of `plan/v2` is made from is in its digest: the same clips in other shards are another plan."""
    known = mixed(40, 0)
    moved = [dataclasses.replace(s, shard_path="shards/elsewhere.tar") for s in known]
    plan = Plan(plan_settings(**V2_SETTINGS), known)
    assert Plan(plan_settings(**V2_SETTINGS), moved).digest != plan.digest
    assert Plan(plan_settings(), moved).digest == Plan(plan_settings(), known).digest
    with pytest.raises(TrainingError, match="expected samples with digest"):
        replay(plan.json, moved)


def test_exposure_names_the_first_step_of_each_clip() -> None:
    """Which clips a checkpoint has seen follows from plan and step alone; a replaced clip was not seen, its reserve was."""
    plan = Plan(plan_settings(), samples(20, 9, 8))
    seen = exposed_clips(plan.json, samples(20, 9, 8), 5)
    assert set(seen) == {clip for step in range(5) for clip in plan.clip_ids(step)}
    planned, used = plan.clip_ids(0)[1], plan.held_out[0].clip_id
    swapped = exposed_clips(plan.json, samples(20, 9, 8), 1, [{"step": 0, "place": 1, "planned": planned, "used": used}])
    assert used in swapped and planned not in swapped
    beside = exposed_clips(plan.json, samples(20, 9, 8), 5, [{"step": 4, "shown": used}, {"step": 5, "shown": "later"}])
    assert beside == seen | {used: 4}, "a clip shown beside another was seen, from that step on"


def test_reserve_is_of_the_same_bucket_and_keyed() -> None:
    """The stand-in for a broken clip does not depend on who asks, and has the bucket's shape."""
    plan = Plan(plan_settings(), samples(20, 9, 8))
    for place in plan.batch(0).members:
        first, second = plan.reserve(place, 1), plan.reserve(place, 1)
        assert first == second and plan.samples[first.position].bucket == plan.samples[place.position].bucket


def test_rolling_digest_depends_on_order() -> None:
    """The chain tells two orders of the same clips apart, and the same clips at another step."""
    assert len({roll("a", 0, ["x", "y"]), roll("a", 0, ["y", "x"]), roll("a", 1, ["x", "y"]), roll("b", 0, ["x", "y"])}) == 4


def test_index_joins_assets_and_duplicates(tmp_path) -> None:
    """Clips of one asset, and of one duplicate group across assets, are one hold-out group, whose name stays when an asset gains a clip; the index
    survives its file."""
    import pyarrow as pa

    shards = pa.table({
        "shard_no": [0], "path": ["shards/a.tar"], "set_name": ["low_res"], "bucket": ["b"], "width": [64], "height": [36],
        "n_frames": pa.array([128], pa.int32()), "fps_num": pa.array([24], pa.int32()), "fps_den": pa.array([1], pa.int32()),
    })  # fmt: skip
    names = ["c0", "c1", "c2", "c3"]
    nothing = pa.nulls(8, pa.int32())
    members = pa.table({
        "shard_no": [0] * 8, "clip_no": list(range(4)) * 2, "clip_id": names * 2, "extension": ["mp4"] * 4 + ["json"] * 4,
        "offset": [512] * 8, "size_bytes": [10] * 8, "sha256": [b"h"] * 8, "fps_num": nothing, "fps_den": nothing, "n_frames": nothing,
    })  # fmt: skip
    clips = pa.table(
        {"clip_id": names, "asset_id": ["a1", "a1", "a2", "a3"], "asset_no": [1, 1, 2, 3], "dup_group": [None, "c1", "c1", None]}
    )
    found = index_samples(shards, members, clips)
    assert [s.clip_id for s in found] == names and {s.kind for s in found} == {"video"}
    groups = [s.group for s in found]
    assert groups == ["a1", "a1", "a1", "a3"]
    more = pa.table(
        {"clip_id": ["b0", *names], "asset_id": ["a3", "a1", "a1", "a2", "a3"], "asset_no": [3, 1, 1, 2, 3], "dup_group": [None] * 5}
    )
    assert hold_out_groups(more) == {"b0": "a3", "c0": "a1", "c1": "a1", "c2": "a2", "c3": "a3"}
    assert (found[0].n_frames, found[0].fps_num) == (128, 24), "null in the member means what the shard says"
    write_samples(tmp_path / "index.parquet", found)
    assert read_samples(tmp_path / "index.parquet") == found


GOLDEN_10 = [8, 5, 3, 7, 6, 1, 0, 4, 9, 2]
GOLDEN_1E9 = [216447113, 145454179, 528707768]
GOLDEN_V2 = "9dd74f7708c277bacfc660b04497afef"


def test_the_record_is_of_what_was_fed() -> None:
    """Each rank's share of a step passes, with its replacements; another clip, another order or another rank's share ends the run."""
    plan = Plan(plan_settings(), samples(40, 20, 20))
    for step, rank in itertools.product(range(6), range(2)):
        places = plan.batch(step).of_rank(rank, 2)
        ids = [plan.samples[p.position].clip_id for p in places]
        exposure = Exposure(plan)
        exposure.check(step, ids, (), rank, 2)
        swap = Replaced(step=step, place=2 * rank + 1, planned=ids[1], used="z" * 32, reason="broken")
        exposure.check(step, [ids[0], "z" * 32], (swap,), rank, 2)
        for wrong in ([ids[0], "z" * 32], ids[::-1], ids[:1]):
            with pytest.raises(TrainingError, match=f"step {step}: expected the clips that were planned for rank {rank}"):
                exposure.check(step, wrong, (), rank, 2)


def test_the_record_names_what_a_run_begins_from() -> None:
    """A clip whose components or scale a run begins from is in its record from step 0 on, also where no step ever takes it, and stays in it
    when the run is resumed."""
    plan = Plan(plan_settings(), samples(40, 20, 20))
    never = plan.held_out[0].clip_id
    first = Exposure(plan, measured=[never]).record(2, Exposure(plan, measured=[never]).exceptions)
    for record in (first, Exposure(plan, first, measured=["z" * 32]).record(3, [])):
        assert record["exceptions"] == [{"step": 0, "shown": never}]
        seen = exposed_clips(record["plan_json"], samples(40, 20, 20), record["end_step"], record["exceptions"])
        assert seen[never] == 0 and {*seen} - {never} == {c for step in range(record["end_step"]) for c in plan.clip_ids(step)}


def test_every_form_is_looked_at_before_the_first_step() -> None:
    """Two sets give one bucket's name to pictures of other sizes: a group that divides the tokens of the first alone is refused."""
    first = dataclasses.replace(sample(1), bucket="16x9", width=1024, height=576, n_frames=256)  # 32 x 36 x 64 = 73,728 tokens
    other = dataclasses.replace(sample(2), bucket="16x9", width=1024, height=560, n_frames=256)  # 32 x 35 x 64 = 71,680
    settings = plan_settings(shapes="buckets", size_px=768, n_frames=256, min_frames=1, global_batch=1, holdout_share=0.001)
    plan = Plan(settings, [first, other])
    tokens = {shape_of(s, "buckets", 768, 256).n_tokens for s in (*plan.samples, *plan.held_out)}
    assert len(tokens) == 2 and max(tokens) % 9 == 0 and min(tokens) % 9
    check_divisible(plan, 1)
    with pytest.raises(TrainingError, match="expected a divisor of the"):
        check_divisible(plan, 9)
