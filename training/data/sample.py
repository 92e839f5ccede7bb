"""From a member of a shard to one sample's pixels, and what belongs beside them: which frames and which crop is drawn by key.

Shapes: T frames, H and W those of the sample's bucket, or size_px both.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from manifests.deny import DenyList
from training import keyed
from training.data.beside import Arrays, Partners, load_edit, load_reference
from training.data.cache import FolderCache, MemoryCache
from training.data.config import DataConfig
from training.data.decode import Fit, Pixels, decode_image, decode_video
from training.data.index import Sample
from training.data.read import Shards
from training.data.shapes import Shape, shape_of, spread_over
from training.data.sound import load_shown, load_sound
from training.errors import SampleError


def read_beside(
    read: Callable[[Sample], bytes],
    sample: Sample,
    config: DataConfig,
    crop: tuple[object, ...] | None,
    key: tuple[object, ...],
    partners: Partners,
) -> tuple[Arrays, str]:
    """What the configuration wants beside the sample's pixels, whose window and crop are drawn by the key `crop`, or are the first; and the
    id of the other clip that is shown there, empty without one."""
    if config.sound_frames:
        return load_sound(read(sample), sample, config.sound_frames, crop), ""
    made: Arrays = {}
    shown = ""
    if config.reference_px:
        share = config.cross_share
        made["reference"], shown = load_reference(read, sample, partners, config.reference_px, share, (*key, "reference"))
    if config.edits:
        shape = shape_of(sample, config.shapes, config.size_px, config.n_frames)
        made |= load_edit(read, lambda data, other: decode_sample(data, other, config, crop), sample, shape)
    return made, shown


def load_pixels(
    dataset: Path, sample: Sample, config: DataConfig, key: tuple[object, ...] | None, denied: DenyList | None = None
) -> Pixels:
    """The sample's window and crop, (T, H, W, 3): drawn by the key, or the first frames and the centre without one."""
    data = open_shards(dataset, config).read(sample, config.verify_sha256, denied)
    frames = decode_sample(data, sample, config, key)
    return np.stack(frames) if frames else np.zeros((0, config.size_px, config.size_px, 3), np.uint8)


def decode_sample(data: bytes, sample: Sample, config: DataConfig, key: tuple[object, ...] | None) -> list[Pixels]:
    """The frames (H, W, 3) of `load_pixels`, of a sample whose payload is `data`."""
    if config.sound_frames:
        return load_shown(data, sample, config.sound_frames, config.n_frames, config.size_px, key)
    where = f"{sample.shard_path} clip {sample.clip_id}"
    shape = shape_of(sample, config.shapes, config.size_px, config.n_frames)
    fit: Fit = config.resize_px if config.shapes == "square" else (shape.width, shape.height)
    if sample.kind == "image":
        return _crop(decode_image(data, where, fit), shape, key)
    if not sample.fps_num or not sample.fps_den or sample.n_frames is None:
        raise SampleError(where, "decode", "a frame rate and a frame count in the manifest", "none")
    every = spread_over(sample, shape.n_frames) if config.spread_frames else Fraction(1)
    last = int(sample.n_frames - shape.n_frames * every)
    start = keyed.integer(0, last + 1, *key, "window") if key else 0
    fps = Fraction(sample.fps_num, sample.fps_den)
    return _crop(decode_video(data, where, start, shape.n_frames, fps, fit, every), shape, key)


def open_shards(dataset: Path, config: DataConfig) -> Shards:
    """The dataset's shards where the configuration says they lie."""
    if config.shards is None:
        return Shards(dataset)
    cache = FolderCache(Path(config.cache_folder), config.cache_mb) if config.cache_folder else MemoryCache(config.cache_mb)
    return Shards(dataset, config.shards, cache)


def training_fps(sample: Sample, config: DataConfig) -> Fraction | None:
    """Frames a second of a video as it is trained on, which its prompt says; None for pictures, and where one frame is all."""
    shape = shape_of(sample, config.shapes, config.size_px, config.n_frames)
    if config.n_frames == 1 or sample.kind == "image" or not sample.fps_num or not sample.fps_den:
        return None
    every = spread_over(sample, shape.n_frames) if config.spread_frames else Fraction(1)
    return Fraction(sample.fps_num, sample.fps_den) / every


def transform_of(sample: Sample, config: DataConfig) -> str:
    """What becomes of a payload without a key, in words that differ where pixels may: with the payload it determines them."""
    shape = shape_of(sample, config.shapes, config.size_px, config.n_frames)
    fit = f"{config.resize_px}" if config.shapes == "square" else f"{shape.width}x{shape.height}"
    every = spread_over(sample, shape.n_frames) if config.spread_frames else Fraction(1)
    return f"first/v1 {sample.kind} {shape} of {fit} at {sample.fps_num}/{sample.fps_den} every {every}"


def _crop(frames: list[Pixels], shape: Shape, key: tuple[object, ...] | None) -> list[Pixels]:
    free_y, free_x = frames[0].shape[0] - shape.height, frames[0].shape[1] - shape.width
    y = keyed.integer(0, free_y + 1, *key, "crop y") if key else free_y // 2
    x = keyed.integer(0, free_x + 1, *key, "crop x") if key else free_x // 2
    return [frame[y : y + shape.height, x : x + shape.width] for frame in frames]
