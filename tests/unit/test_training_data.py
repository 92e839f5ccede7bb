"""Decoding gives the frames shown at exact times, batches are functions of their keys, and broken clips are replaced by rule."""

import dataclasses
import errno
import hashlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.deny import deny
from manifests.ids import digest
from manifests.shards import Payload, write_shard
from training import keyed
from training.data.batch import Batch, BatchLoader, to_tensor
from training.data.cache import FolderCache, MemoryCache, forget_payloads, path_in
from training.data.config import DataConfig
from training.data.decode import decode_image, decode_video
from training.data.index import Sample
from training.data.plan import Plan, PlanSettings
from training.data.read import GAP_BYTES, Shards, coalesce
from training.data.sample import load_pixels, training_fps, transform_of
from training.data.shapes import Shape, shape_of, size_of
from training.errors import SampleError, StorageError, TrainingError

TICKS_PER_S = 12_800


def grey_levels(
    pts: list[int], levels: list[int] | None = None, size: tuple[int, int] = (64, 48), b_frames: int = 0, name: str = "", gop: int = 250
) -> bytes:
    """An mp4 whose frame i is a grey of level 8 * i (or as given), shown from tick pts[i] of 1/12800 s; its bytes differ by its name."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        container.metadata["comment"] = name
        options = {"crf": "1", "bf": str(b_frames), "g": str(gop), "threads": "1"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        for i, ticks in enumerate(pts):
            level = levels[i] if levels else 8 * i
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = ticks, Fraction(1, TICKS_PER_S)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


def shown(pixels: Sequence[np.ndarray]) -> list[int]:
    """Which frame of `grey_levels` each picture is."""
    return [round(float(p.mean()) / 8) for p in pixels]


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("start_ticks", [0, 6400])
def test_constant_rate_gives_consecutive_frames(b_frames: int, start_ticks: int) -> None:
    """At a constant rate frames start..start+n-1 come out, also with B-frames and a first timestamp that is not zero."""
    data = grey_levels([start_ticks + 512 * i for i in range(24)], b_frames=b_frames)
    for start in (0, 5, 16):
        assert shown(decode_video(data, "x", start, 8, Fraction(25), 48)) == list(range(start, start + 8))


def test_variable_rate_gives_what_was_shown() -> None:
    """A frame that stays longer is taken again, one between two times is passed over: time decides, not the count."""
    pts = [0, 512, 1024, 3072, 3200, 3584, 4096]
    assert shown(decode_video(grey_levels(pts), "x", 0, 9, Fraction(25), 48)) == [0, 1, 2, 2, 2, 2, 3, 5, 6]


def test_rounded_timestamps_do_not_shift_frames() -> None:
    """30000/1001 frames a second in a time base that cannot hold it still gives each frame once."""
    pts = [round(i * TICKS_PER_S * 1001 / 30000) for i in range(24)]
    assert shown(decode_video(grey_levels(pts), "x", 0, 24, Fraction(30000, 1001), 48)) == list(range(24))


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_window_is_the_same_wherever_decoding_begins(b_frames: int) -> None:
    """With key frames on the way, every window is to the bit that of a decode from the start, with pictures stored out of order too."""
    data = grey_levels([512 * i for i in range(30)], gop=8, b_frames=b_frames)
    whole = decode_video(data, "x", 0, 30, Fraction(25), 24)
    assert shown(whole) == list(range(30))
    for start in range(27):
        assert np.array_equal(decode_video(data, "x", start, 4, Fraction(25), 24), whole[start : start + 4])


def test_decoding_begins_at_the_key_frame_before() -> None:
    """A window is reached from its key frame: damage in the clip's first pictures is nothing to it, and an error to a window in them."""
    data = bytearray(grey_levels([512 * i for i in range(30)], gop=8))
    with av.open(io.BytesIO(bytes(data))) as container:
        packets = [(p.pos, p.size, p.pts // 512) for p in container.demux(video=0) if p.pts is not None]
    for pos, size, number in packets:
        if number < 8:
            data[pos : pos + size] = bytes(size)
    assert shown(decode_video(bytes(data), "x", 17, 4, Fraction(25), 48)) == list(range(17, 21))
    with pytest.raises(SampleError):
        decode_video(bytes(data), "x", 0, 4, Fraction(25), 48)


def test_a_clip_that_ends_early_is_an_error() -> None:
    """Fewer frames than the manifest said give a typed error with the missing time, never a padded clip."""
    with pytest.raises(SampleError, match=r"expected a picture at 0\.960000 s, found the end after 0\.920000 s"):
        decode_video(grey_levels([512 * i for i in range(24)]), "x", 20, 8, Fraction(25), 48)


@pytest.mark.parametrize("data", [b"", b"not a video", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"\0" * 4096])
def test_hostile_bytes_are_typed_errors(data: bytes) -> None:
    """Empty, foreign and playlist bytes give a SampleError that names the clip, and nothing else is opened."""
    for decode in (lambda: decode_video(data, "clip 7", 0, 1, Fraction(25), 48), lambda: decode_image(data, "clip 7", 48)):
        with pytest.raises(SampleError, match="clip 7"):
            decode()


def test_a_size_that_the_container_hides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of pixels holds for what the pictures say, also where the container says less."""
    data = grey_levels([0, 512, 1024], size=(128, 96))
    at = data.index(b"avc1", data.index(b"stsd")) + 28  # width and height of the sample entry
    assert data[at : at + 4] == bytes([0, 128, 0, 96])
    small = data[:at] + bytes([0, 32, 0, 32]) + data[at + 4 :]
    monkeypatch.setattr("training.data.decode.MAX_PIXELS", 64 * 64)
    with pytest.raises(SampleError):
        decode_video(small, "x", 0, 2, Fraction(25), 32)
    monkeypatch.setattr("training.data.decode.MAX_PIXELS", 128 * 96)
    assert len(decode_video(small, "x", 0, 2, Fraction(25), 32)) == 2


def test_every_truncation_is_an_error_or_a_full_result() -> None:
    """A clip cut off anywhere either decodes in full or gives a SampleError."""
    data = grey_levels([512 * i for i in range(24)])
    for end in range(0, len(data), 97):
        try:
            assert [f.shape for f in decode_video(data[:end], "x", 0, 24, Fraction(25), 48)] == [(48, 64, 3)] * 24
        except SampleError:
            continue


def test_images_are_scaled_by_their_shorter_side() -> None:
    """A JPEG comes out as one frame with the asked shorter side and its own aspect."""
    sink = io.BytesIO()
    Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(sink, "JPEG")
    (pixels,) = decode_image(sink.getvalue(), "x", 30)
    assert pixels.shape == (30, 45, 3) and abs(float(pixels.mean()) - 200) < 3


def test_pixels_become_a_tensor_in_minus_one_to_one() -> None:
    """(T, H, W, 3) bytes become (B, 3, T, H, W) floats; 0 is -1 and 255 is 1."""
    clip = np.zeros((2, 4, 5, 3), np.uint8)
    clip[1, :, :, 0] = 255
    tensor = to_tensor([clip, clip])
    assert tensor.shape == (2, 3, 2, 4, 5) and tensor.dtype == torch.float32
    assert tensor[0, 0, 1].min() == 1 and tensor[0, 1:].max() == -1


def test_keyed_draws_are_pinned() -> None:
    """The same key gives the same numbers on any machine and in any later version; another key gives others."""
    assert keyed.normal((3,), 1, "tae", "noise", "clip", 0).tolist() == GOLDEN_NORMAL
    assert [keyed.integer(0, 1000, 5, i) for i in range(4)] == GOLDEN_INTEGERS
    assert keyed.normal((4,), 5).tolist() != keyed.normal((4,), 5 + (1 << 40)).tolist()


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, list[Sample]]:
    """Twelve grey clips of 16 frames in one shard, with their samples."""
    names = sorted(digest("clip", i) for i in range(12))
    payloads = [Payload(clip_id=n, extension="mp4", data=grey_levels([512 * i for i in range(16)], name=n)) for n in names]
    written = write_shard(tmp_path / "shards" / "a.tar", payloads)
    return tmp_path, [
        Sample(
            clip_id=p.clip_id, clip_no=i, kind="video", set_name="s", bucket="b", shard_path="shards/a.tar", offset=p.offset,
            size_bytes=p.size_bytes, sha256=p.sha256, width=64, height=48, n_frames=16, fps_num=25, fps_den=1, group=p.clip_id,
        )
        for i, p in enumerate(written.members)
    ]  # fmt: skip


CONFIG = DataConfig(size_px=32, resize_px=40, n_frames=8, global_batch=4)


def make_plan(samples: list[Sample]) -> Plan:
    """The plan of the small dataset."""
    return Plan(
        PlanSettings(
            stage="tae", manifest_version=0, sets=(), seed=1, global_batch=4, image_batches=1, video_batches=3, holdout_share=0.1,
            min_frames=8,
        ),
        samples,
    )  # fmt: skip


def test_windows_and_crops_follow_their_key(dataset: tuple[Path, list[Sample]]) -> None:
    """The same key cuts the same window; over keys all windows occur; without a key it is the first frames."""
    root, samples = dataset
    starts = {shown(load_pixels(root, samples[0], CONFIG, ("k", i)))[0] for i in range(60)}
    assert starts == set(range(9))
    again = [load_pixels(root, samples[0], CONFIG, ("k", 3)) for _ in range(2)]
    assert np.array_equal(*again) and again[0].shape == (8, 32, 32, 3)
    assert shown(load_pixels(root, samples[0], CONFIG, None)) == list(range(8))


def test_batches_do_not_depend_on_ranks_or_threads(dataset: tuple[Path, list[Sample]]) -> None:
    """One rank's batches are, in order, those of two ranks put together, however many threads decode ahead."""
    root, samples = dataset
    plan = make_plan(samples)
    alone = list(BatchLoader(root, plan, CONFIG, 0, 1).batches(0, 5))
    many = dataclasses.replace(CONFIG, prefetch_batches=3, decode_threads=3)
    halves = [list(BatchLoader(root, plan, many, rank, 2).batches(0, 5)) for rank in range(2)]
    for whole, a, b in zip(alone, *halves, strict=True):
        assert whole.clip_ids == a.clip_ids + b.clip_ids == tuple(plan.clip_ids(whole.step))
        assert torch.equal(whole.pixels, torch.cat([a.pixels, b.pixels]))


def test_memory_is_used_again_and_never_too_early(dataset: tuple[Path, list[Sample]]) -> None:
    """Batches that are kept stay as they are while later ones are made; those that are dropped, views and all, lend their memory to them."""
    root, samples = dataset
    plan = make_plan(samples)
    threaded = dataclasses.replace(CONFIG, decode_threads=2)
    loader = BatchLoader(root, plan, threaded, 0, 1)
    kept = [(b.step, b.pixels[1:, :, 2:]) for b in loader.batches(0, 12) if b.step % 3 == 0]
    for step, pixels in kept:
        assert torch.equal(pixels, BatchLoader(root, plan, CONFIG, 0, 1).batch(step).pixels[1:, :, 2:])
    places = {batch.pixels.data_ptr() for batch in loader.batches(12, 40)}
    assert len(places) <= 8, "of 28 batches"


def test_a_broken_clip_is_replaced_and_recorded(dataset: tuple[Path, list[Sample]]) -> None:
    """A clip whose bytes changed since the manifest is replaced by its reserve, the same one for every reader, with the reason."""
    root, samples = dataset
    plan = make_plan(samples)
    victim = plan.clip_ids(0)[1]
    spot = next(s for s in samples if s.clip_id == victim)
    tar = bytearray((root / "shards" / "a.tar").read_bytes())
    tar[spot.offset + spot.size_bytes // 2] ^= 0xFF
    (root / "shards" / "a.tar").write_bytes(tar)
    batch = BatchLoader(root, plan, CONFIG, 0, 1).batch(0)
    (swap,) = batch.replaced
    assert (swap.step, swap.place, swap.planned) == (0, 1, victim) and swap.used != victim and "expected SHA-256" in swap.reason
    assert batch.clip_ids[1] == swap.used and batch.pixels.shape == (4, 3, 8, 32, 32)
    assert BatchLoader(root, plan, CONFIG, 0, 2).batch(0).replaced == batch.replaced


def test_a_clip_taken_down_is_refused_from_then_on(dataset: tuple[Path, list[Sample]]) -> None:
    """The deny list works on a running loader, also for batches made ahead: a reserve stands in, the same on any number of ranks."""
    root, samples = dataset
    plan = make_plan(samples)
    loader = BatchLoader(root, plan, CONFIG, 0, 1)
    running = loader.batches(0, 3)
    assert next(running).replaced == ()
    victim = plan.clip_ids(1)[2]  # its batch is made already
    deny(root, [victim], 7)
    batch = next(running)
    (swap,) = [r for r in batch.replaced if r.planned == victim]
    assert (swap.step, swap.place, swap.reason.endswith("expected a clip that may be used, found takedown 7")) == (1, 2, True)
    assert victim not in batch.clip_ids and swap.used == batch.clip_ids[2]
    halves = [BatchLoader(root, plan, CONFIG, rank, 2).batch(1) for rank in range(2)]
    assert tuple(c for h in halves for c in h.clip_ids) == batch.clip_ids
    assert tuple(r for h in halves for r in h.replaced) == batch.replaced


def test_many_denied_clips_are_not_many_broken_ones(dataset: tuple[Path, list[Sample]]) -> None:
    """With all but one clip of a bucket denied that one is found; with all denied the error says what to do."""
    root, samples = dataset
    plan = make_plan(samples)
    left = plan.samples[0].clip_id
    deny(root, [s.clip_id for s in samples if s.clip_id != left], 1)
    assert set(BatchLoader(root, plan, CONFIG, 0, 1).batch(0).clip_ids) == {left}
    deny(root, [left], 2)
    with pytest.raises(TrainingError, match="curate the dataset again"):
        BatchLoader(root, plan, CONFIG, 0, 1).batch(0)


def test_a_missing_shard_ends_the_run_by_name(dataset: tuple[Path, list[Sample]]) -> None:
    """When reserves are broken too, training stops and names clip and file, rather than looping or skipping."""
    root, samples = dataset
    (root / "shards" / "a.tar").unlink()
    with pytest.raises(TrainingError, match=r"reserves are broken: shards/a\.tar"):
        BatchLoader(root, make_plan(samples), CONFIG, 0, 1).batch(0)


def test_a_shard_path_cannot_leave_the_dataset(dataset: tuple[Path, list[Sample]]) -> None:
    """A manifest that points outside its dataset is refused."""
    root, samples = dataset
    with pytest.raises(SampleError, match="expected a path under the dataset"):
        Shards(root).read(dataclasses.replace(samples[0], shard_path="../elsewhere.tar"), True)


@pytest.mark.parametrize(
    ("width", "height", "size_px", "sides"),
    [(1024, 576, 768, (1024, 576)), (576, 1024, 768, (576, 1024)), (768, 768, 256, (256, 256)), (1024, 576, 256, (336, 192)), (4, 1, 16, (48, 16))],
)  # fmt: skip
def test_sizes_keep_the_aspect_at_an_area(width: int, height: int, size_px: int, sides: tuple[int, int]) -> None:
    """Multiples of 16 nearest in shape, then in area; the paper's 1024 x 576 is what 16:9 has at 768 squared."""
    assert size_of(width, height, size_px) == sides


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([16, 64, 256, 768]))
@settings(max_examples=100, deadline=None)
def test_portrait_is_landscape_turned(width: int, height: int, size_px: int) -> None:
    """A size does not depend on which side is up, and its sides are multiples of 16."""
    across, down = size_of(width, height, size_px)
    assert (down, across) == size_of(height, width, size_px) or width == height
    assert across % 16 == down % 16 == 0 and min(across, down) >= 16


def test_tokens_are_the_papers() -> None:
    """256 frames of 1024 x 576 are 73,728 tokens, of 256 x 256 8,192, and one picture of 1024 x 576 is 2,304."""
    sizes = [(1024, 576, 256), (256, 256, 256), (1024, 576, 1)]
    assert [Shape(width=w, height=h, n_frames=t).n_tokens for w, h, t in sizes] == [73_728, 8_192, 2_304]


def test_buckets_have_their_own_aspect_and_frames(dataset: tuple[Path, list[Sample]]) -> None:
    """In buckets a clip is decoded at its aspect, at about the asked area and with its own frames where those are fewer than asked."""
    root, samples = dataset
    config = DataConfig(shapes="buckets", size_px=32, n_frames=32)
    assert shape_of(samples[0], "buckets", 32, 32) == Shape(width=48, height=32, n_frames=16)
    pixels = load_pixels(root, samples[0], config, ("k", 0))
    assert pixels.shape == (16, 32, 48, 3) and shown(pixels) == list(range(16))
    wide = load_pixels(root, samples[0], dataclasses.replace(config, n_frames=5), None)
    assert shown(wide) == list(range(5)), "a window at the clip's own rate"


@pytest.mark.parametrize(
    ("n_frames", "frames", "fps"), [(16, list(range(16)), 25), (8, [*range(0, 16, 2)], 12.5), (6, [0, 2, 5, 8, 10, 13], 9.375)]
)
def test_spread_frames_are_those_shown_at_their_times(
    dataset: tuple[Path, list[Sample]], n_frames: int, frames: list[int], fps: float
) -> None:
    """Spread over the clip, frame k is what is shown at k / n of its length, and the rate it is trained at says so."""
    root, samples = dataset
    config = DataConfig(size_px=32, resize_px=32, n_frames=n_frames, spread_frames=True)
    assert shown(load_pixels(root, samples[0], config, ("any", "key"))) == frames
    assert training_fps(samples[0], config) == fps
    assert training_fps(samples[0], dataclasses.replace(config, spread_frames=False)) == 25
    assert training_fps(dataclasses.replace(samples[0], kind="image"), config) is None


def test_what_is_done_to_a_payload_has_a_name() -> None:
    """Every setting that changes pixels changes the name of what is done, and one that does not leaves it."""
    of = Sample(
        clip_id="c", clip_no=0, kind="video", set_name="s", bucket="b", shard_path="p", offset=0, size_bytes=1, sha256=b"", width=64,
        height=48, n_frames=16, fps_num=25, fps_den=1, group="g",
    )  # fmt: skip
    base = DataConfig(size_px=32, resize_px=40, n_frames=8)
    other = [{"size_px": 16}, {"resize_px": 32}, {"n_frames": 4}, {"spread_frames": True}, {"shapes": "buckets"}]
    names = {transform_of(of, dataclasses.replace(base, **changes)) for changes in ({}, *other)}
    names |= {transform_of(dataclasses.replace(of, fps_num=24), base)}
    assert len(names) == 7
    assert transform_of(of, dataclasses.replace(base, global_batch=2, decode_threads=3)) in names


def test_a_fixed_crop_is_the_same_in_every_pass(dataset: tuple[Path, list[Sample]]) -> None:
    """Without augmentation a clip gives the same pixels whenever its turn comes: the first frames and the centre."""
    root, samples = dataset
    fixed = BatchLoader(root, make_plan(samples), dataclasses.replace(CONFIG, augment=False), 0, 1)
    of_clip: dict[str, list[torch.Tensor]] = {}
    for step in range(8):
        batch = fixed.batch(step)
        for clip, pixels in zip(batch.clip_ids, batch.pixels, strict=True):
            of_clip.setdefault(clip, []).append(pixels)
    assert max(map(len, of_clip.values())) > 1
    assert all(torch.equal(first, other) for first, *others in of_clip.values() for other in others)


class Kept:
    """Latents of all clips but those named: every value is the number of the clip."""

    def __init__(self, *without: str) -> None:
        self._without = without

    def has(self, sample: Sample, config: DataConfig) -> bool:
        """Whether it is not one of those."""
        return sample.clip_id not in self._without

    def read(self, sample: Sample, config: DataConfig) -> torch.Tensor | None:
        """The latent (4, 1, 4, 4)."""
        return torch.full((4, 1, 4, 4), float(sample.clip_no)) if self.has(sample, config) else None


def test_a_batch_is_encoded_beforehand_or_not_at_all(dataset: tuple[Path, list[Sample]]) -> None:
    """With latents of all its clips a batch carries those, in order, and reads no shard; with one missing or denied, pixels."""
    root, samples = dataset
    plan = make_plan(samples)
    number = {s.clip_id: s.clip_no for s in samples}
    shard = (root / "shards" / "a.tar").rename(root / "elsewhere.tar")
    made = BatchLoader(root, plan, CONFIG, 0, 1, Kept()).batch(0)
    assert made.encoded and made.pixels[:, 0, 0, 0, 0].tolist() == [number[c] for c in plan.clip_ids(0)] and made.replaced == ()
    assert made.pixel_shape == (4, 3, 8, 32, 32)
    shard.rename(root / "shards" / "a.tar")
    plain = BatchLoader(root, plan, CONFIG, 0, 1).batch(0)
    partly = BatchLoader(root, plan, CONFIG, 0, 1, Kept(plan.clip_ids(0)[2])).batch(0)
    assert not partly.encoded and torch.equal(partly.pixels, plain.pixels) and partly.pixel_shape == plain.pixels.shape
    deny(root, [plan.clip_ids(0)[1]], 3)
    denied = BatchLoader(root, plan, CONFIG, 0, 1, Kept()).batch(0)
    assert not denied.encoded and plan.clip_ids(0)[1] not in denied.clip_ids


@pytest.fixture
def elsewhere(dataset: tuple[Path, list[Sample]]) -> Iterator[str]:
    """The address of the shards on another file system; there are none under the dataset any more."""
    root, _ = dataset
    files = fsspec.filesystem("memory")
    files.pipe("/far/set/shards/a.tar", (root / "shards" / "a.tar").read_bytes())
    (root / "shards" / "a.tar").rename(root / "kept.tar")
    yield "memory://far/set"
    if files.exists("/far"):
        files.rm("/far", recursive=True)


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether the batches are equal to the bit."""
    return all(x.clip_ids == y.clip_ids and torch.equal(x.pixels, y.pixels) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("cached", [True, False])
def test_shards_elsewhere_give_the_same_batches(dataset: tuple[Path, list[Sample]], elsewhere: str, tmp_path: Path, cached: bool) -> None:
    """From another file system, through a folder or memory, the batches are those of local shards; a full cache needs no shard."""
    root, samples = dataset
    plan = make_plan(samples)
    far = dataclasses.replace(CONFIG, shards=elsewhere, cache_folder=str(tmp_path / "cache") if cached else None, decode_threads=2)
    found = list(BatchLoader(root, plan, far, 0, 1).batches(0, 4))
    if cached:
        fsspec.filesystem("memory").rm("/far", recursive=True)
        assert same(found, list(BatchLoader(root, plan, far, 0, 1).batches(0, 4)))
    (root / "kept.tar").rename(root / "shards" / "a.tar")
    assert same(found, list(BatchLoader(root, plan, CONFIG, 0, 1).batches(0, 4)))


def test_what_is_fetched_ahead_is_near(dataset: tuple[Path, list[Sample]], elsewhere: str) -> None:
    """After fetching, the samples are read without the shard; what was damaged on the way is not kept, and reading says so."""
    root, samples = dataset
    broken = dataclasses.replace(samples[3], sha256=b"\1" * 32)
    shards = Shards(root, elsewhere, MemoryCache(64))
    shards.fetch([*samples[:3], broken])
    files = fsspec.filesystem("memory")
    tar = files.cat("/far/set/shards/a.tar")
    files.rm("/far", recursive=True)
    for s in samples[:3]:
        assert shards.read(s, True) == tar[s.offset : s.offset + s.size_bytes]
    for other in (samples[5], broken):
        with pytest.raises(SampleError, match=f"{other.size_bytes} bytes at {other.offset}"):
            shards.read(other, True)
    shards.fetch([samples[5]])  # of a shard that is gone: nothing is said


class Away:
    """A store that fails so many times with the error, then answers as the other does."""

    def __init__(self, files: object, failures: float, error: Exception) -> None:
        self._files, self.left, self._error = files, failures, error

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        """The range, or the error."""
        self.left -= 1
        if self.left >= 0:
            raise self._error
        return self._files.cat_file(path, start=start, end=end)  # type: ignore[attr-defined,no-any-return]


def test_a_store_that_is_away_is_no_broken_clip(
    dataset: tuple[Path, list[Sample]], elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy answers are waited out and change no batch; a store that stays away ends the run by its name and replaces nothing; a range past
    the end of a shard is the clip's own fault."""
    root, samples = dataset
    plan, far = make_plan(samples), dataclasses.replace(CONFIG, shards=elsewhere)
    expected = BatchLoader(root, plan, far, 0, 1).batch(0)
    monkeypatch.setattr("training.data.read._PAUSE_S", 0.001)
    loader = BatchLoader(root, plan, far, 0, 1)
    loader._shards._files = Away(loader._shards._files, 6, ConnectionError("busy"))
    assert same([loader.batch(0)], [expected]) and loader.batch(0).replaced == ()
    monkeypatch.setattr("training.data.read.PATIENCE_S", 0.01)
    loader = BatchLoader(root, plan, far, 0, 1)
    loader._shards._files = Away(loader._shards._files, float("inf"), ConnectionError("no route"))
    with pytest.raises(StorageError, match=r"far/set/shards/a\.tar: expected an answer .* no route; .* the same command goes on"):
        loader.batch(0)
    loader = BatchLoader(root, plan, far, 0, 1)
    loader._shards._files = Away(loader._shards._files, 1, OSError(errno.EINVAL, "range"))
    (swap,) = loader.batch(0).replaced
    assert "range" in swap.reason


def test_denied_clips_are_not_fetched(dataset: tuple[Path, list[Sample]], elsewhere: str, tmp_path: Path) -> None:
    """What was taken down does not come near, though the plan names it."""
    root, samples = dataset
    plan = make_plan(samples)
    victim = next(s for s in samples if s.clip_id == plan.clip_ids(0)[0])
    deny(root, [victim.clip_id], 1)
    far = dataclasses.replace(CONFIG, shards=elsewhere, cache_folder=str(tmp_path / "cache"))
    list(BatchLoader(root, plan, far, 0, 1).batches(0, 3))
    assert not path_in(tmp_path / "cache", victim.sha256).exists() and any((tmp_path / "cache").glob("??/*"))


def test_neighbours_are_one_request(dataset: tuple[Path, list[Sample]]) -> None:
    """Ranges of one shard that lie together are read as one, wherever the plan has put them; far ones and other shards are not."""
    _, samples = dataset
    far = dataclasses.replace(samples[0], offset=samples[-1].offset + samples[-1].size_bytes + GAP_BYTES + 1)
    other = dataclasses.replace(samples[0], shard_path="shards/b.tar")
    requests = coalesce([*reversed(samples), other, far])
    end = samples[-1].offset + samples[-1].size_bytes
    assert [r[:3] for r in requests] == [
        ("shards/a.tar", samples[0].offset, end),
        ("shards/a.tar", far.offset, far.offset + far.size_bytes),
        ("shards/b.tar", samples[0].offset, samples[0].offset + samples[0].size_bytes),
    ]
    assert requests[0][3] == samples


def test_a_cache_stays_within_its_limit(tmp_path: Path) -> None:
    """What was not used for longest goes first, and what others or earlier runs left is counted."""
    payload = [bytes([i]) * (1 << 18) for i in range(12)]
    hashes = [hashlib.sha256(p).digest() for p in payload]
    for i in range(4):
        FolderCache(tmp_path, 1).put(hashes[i], payload[i])
        os.utime(path_in(tmp_path, hashes[i]), (i, i))
    assert FolderCache(tmp_path, 1).get(hashes[0]) == payload[0], "used now"
    for i in range(4, 12):
        FolderCache(tmp_path, 1).put(hashes[i], payload[i])
        os.utime(path_in(tmp_path, hashes[i]), (100 + i, 100 + i))
        assert sum(f.stat().st_size for f in tmp_path.glob("??/*")) <= 1 << 20
        if i == 5:
            assert [FolderCache(tmp_path, 1).has(h) for h in hashes[:3]] == [True, False, False]
    memory = MemoryCache(1)
    for h, p in zip(hashes, payload, strict=True):
        memory.put(h, p)
    assert [memory.has(h) for h in hashes] == [False] * 8 + [True] * 4


def test_a_cache_passes_no_damage_on(tmp_path: Path) -> None:
    """A file that was cut or changed is not there for readers; a payload that is forgotten is gone from the folder."""
    data = b"payload" * 1000
    name, cache = hashlib.sha256(data).digest(), FolderCache(tmp_path, 1)
    for damage in (data[:-1], b"", b"x" + data[1:]):
        cache.put(name, data)
        assert cache.get(name) == data
        path_in(tmp_path, name).write_bytes(damage)
        assert cache.get(name) is None
    cache.put(name, data)
    assert (forget_payloads(tmp_path, [name, b"\2" * 32]), forget_payloads(tmp_path, [name]), cache.get(name)) == (1, 0, None)


def test_threads_share_a_cache(tmp_path: Path) -> None:
    """Eight threads that write and read the same payloads over a small limit get the payload or nothing, and leave no temporary file."""
    payload = [bytes([i]) * (1 << 17) for i in range(16)]
    hashes, wrong = [hashlib.sha256(p).digest() for p in payload], []

    def use(first: int) -> None:
        cache = FolderCache(tmp_path, 1)
        for k in range(48):
            i = (first + k) % 16
            cache.put(hashes[i], payload[i])
            if cache.get(hashes[i]) not in (payload[i], None):
                wrong.append(i)

    threads = [threading.Thread(target=use, args=(2 * t,)) for t in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == [] and not list(tmp_path.rglob("*.tmp"))
    assert sum(f.stat().st_size for f in tmp_path.glob("??/*")) <= (1 << 20) * 3 // 2


GOLDEN_NORMAL = [-0.5194876790046692, 1.3745100498199463, -1.3903934955596924]
GOLDEN_INTEGERS = [828, 144, 474, 613]
