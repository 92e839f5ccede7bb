"""Which clips a stage trains on, and in which form."""

from dataclasses import dataclass
from typing import Literal

from training.data.shapes import SIDE_MULTIPLE, Shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which clips, in which form. The paper gives only the ratio of image to video batches; the other defaults are ours."""

    sets: tuple[str, ...] = ()
    """Sets to train on; empty for all."""
    size_px: int = 256
    """Side of the square crop, a multiple of 8; in buckets of a square of the same area, a multiple of 16."""
    resize_px: int = 288
    """Shorter side of the picture before a square is cropped from it; at least size_px."""
    sound_frames: int = 0
    """Of a stage of sound: its window in latent frames of 1/25 s; the samples are the clips that have sound, and n_frames are the pictures
    shown in the window, evenly spaced, 0 for none. 0 for a stage of pictures."""
    n_frames: int = 32
    """Frames of a video window; in buckets at most as many. 32 frames are one encoder tile of the paper."""
    shapes: Shapes = "square"
    """`square` crops, or the aspect and frames of each sample's `buckets` at an area of about size_px squared."""
    spread_frames: bool = False
    """The frames are spread over the whole clip, at a rate as low as that makes it, and not a window at the clip's own rate."""
    augment: bool = True
    """Window and crop are drawn anew in each pass; otherwise they are the first frames and the centre, which can be encoded beforehand."""
    global_batch: int = 8
    """Samples of a step over all processes, without tokens_per_step."""
    tokens_per_step: int = 0
    """Tokens of a step over all processes: each bucket's batch is as many samples as fit in it. 0 for global_batch samples."""
    batch_multiple: int = 1
    """A batch by tokens is a multiple of this; it has to be one of the number of processes."""
    shuffle_shards: int = 0
    """Shards of a bucket among which samples are shuffled at a time, so that shards are read whole; 0 for all of them."""
    image_batches: int = 1
    video_batches: int = 3
    holdout_share: float = 0.02
    """Share of assets that is never trained on and measures the model."""
    validate_clips: int = 16
    """Held-out clips that are measured."""
    verify_sha256: bool = True
    """Compare every payload with the manifest's hash; costs about 1 ms per 2 MB."""
    shards: str | None = None
    """Where the shards lie if not under the dataset: an fsspec address such as s3://bucket/dataset."""
    cache_folder: str | None = None
    """Folder for what is read from there, shared by processes; None keeps it in memory."""
    cache_mb: int = 1024
    """Its size at most, or that in memory of each process; it has to hold the batches read ahead."""
    prefetch_batches: int = 2
    """Batches read and decoded ahead; at least one for each thread."""
    decode_threads: int = 1
    max_replacements: int = 4
    """Broken samples in a row, at one place of one batch, that end the run."""
    reference_px: int = 0
    """Side of the picture of a clip's person that is read beside it; 0 for none."""
    cross_share: float = 0.0
    """Share of the samples whose picture is from another clip of the same person, where there is one."""
    cross: Literal["identity", "asset"] = "identity"
    """Who is the same person: pairs of faces that agree, as curation stores them, or clips of one asset."""
    edits: bool = False
    """Read what a clip was edited from and what of it is to be marked, where its shard has them."""

    def __post_init__(self) -> None:
        if self.shapes not in ("square", "buckets"):
            raise ValueError(f"data.shapes: expected square or buckets, found {self.shapes}")
        if self.shapes == "buckets" and (self.size_px < SIDE_MULTIPLE or self.size_px % SIDE_MULTIPLE):
            raise ValueError(f"data.size_px: expected a multiple of {SIDE_MULTIPLE} for buckets, found {self.size_px}")
        if self.shapes == "square" and (self.size_px % 8 or not 0 < self.size_px <= self.resize_px):
            raise ValueError(f"data: expected size_px a multiple of 8 and <= resize_px, found {self.size_px} and {self.resize_px}")
        if self.sound_frames < 0 or (self.sound_frames and self.shapes != "square"):
            raise ValueError(f"data: expected sound_frames >= 0 and square shapes with it, found {self.sound_frames} and {self.shapes}")
        if self.n_frames < (0 if self.sound_frames else 1) or self.global_batch < 1 or not 0 < self.holdout_share < 1:
            raise ValueError("data: expected n_frames >= 1, global_batch >= 1 and 0 < holdout_share < 1")
        if min(self.image_batches, self.video_batches) < 0 or not self.image_batches + self.video_batches or self.validate_clips < 1:
            raise ValueError("data: expected image_batches and video_batches >= 0 and not both 0, and validate_clips >= 1")
        if self.reference_px < 0 or not 0 <= self.cross_share <= 1 or (self.cross_share and not self.reference_px):
            raise ValueError(
                f"data: expected reference_px >= 0 and 0 <= cross_share <= 1, of references only, found {self.reference_px} and {self.cross_share}"
            )
        if self.tokens_per_step < 0 or self.batch_multiple < 1 or self.shuffle_shards < 0 or self.cache_mb < 1:
            raise ValueError("data: expected tokens_per_step >= 0, batch_multiple >= 1, shuffle_shards >= 0 and cache_mb >= 1")
