"""Decoding gives the frames shown at exact times, batches are functions of their keys, and broken clips are replaced by rule."""

import dataclasses
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from manifests.deny import deny
from manifests.ids import digest
from manifests.shards import Payload, write_shard
from training import keyed
from training.data.batch import BatchLoader, DataConfig, load_pixels, to_tensor
from training.data.decode import decode_image, decode_video
from training.data.index import Sample
from training.data.plan import Plan, PlanSettings
from training.data.read import read_sample
from training.errors import SampleError, TrainingError

TICKS_PER_S = 12_800


def grey_levels(pts: list[int], levels: list[int] | None = None, size: tuple[int, int] = (64, 48), b_frames: int = 0) -> bytes:
    """An mp4 whose frame i is a grey of level 8 * i (or as given), shown from tick pts[i] of 1/12800 s."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        options = {"crf": "1", "bf": str(b_frames), "g": "250", "threads": "1"}
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


def shown(pixels: np.ndarray) -> list[int]:
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


def test_every_truncation_is_an_error_or_a_full_result() -> None:
    """A clip cut off anywhere either decodes in full or gives a SampleError."""
    data = grey_levels([512 * i for i in range(24)])
    for end in range(0, len(data), 97):
        try:
            assert decode_video(data[:end], "x", 0, 24, Fraction(25), 48).shape == (24, 48, 64, 3)
        except SampleError:
            continue


def test_images_are_scaled_by_their_shorter_side() -> None:
    """A JPEG comes out as one frame with the asked shorter side and its own aspect."""
    sink = io.BytesIO()
    Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(sink, "JPEG")
    pixels = decode_image(sink.getvalue(), "x", 30)
    assert pixels.shape == (1, 30, 45, 3) and abs(float(pixels.mean()) - 200) < 3


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
    payloads = [Payload(clip_id=n, extension="mp4", data=grey_levels([512 * i for i in range(16)])) for n in names]
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
        read_sample(root, dataclasses.replace(samples[0], shard_path="../elsewhere.tar"), True)


GOLDEN_NORMAL = [-0.5194876790046692, 1.3745100498199463, -1.3903934955596924]
GOLDEN_INTEGERS = [828, 144, 474, 613]
