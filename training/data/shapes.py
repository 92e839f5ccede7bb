"""The form in which a sample is trained on: its size in pixels, its frames, and its frames a second.

square     every sample is a square crop of `size_px` and a video has `n_frames` frames
buckets    a sample has the aspect and the frames of its bucket: about `size_px` squared pixels, `n_frames` frames at most
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Literal

from training.data.index import Sample

Shapes = Literal["square", "buckets"]

SIDE_MULTIPLE = 16
"""Sides of buckets are multiples of this: 8 in the autoencoder, 2 in the transformer's patches."""

FRAMES_PER_LATENT = PX_PER_LATENT = 8
"""The autoencoder's factors along time, height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Pixels and frames of a sample as it is trained on."""

    width: int
    height: int
    n_frames: int

    @property
    def n_tokens(self) -> int:
        """Tokens in the transformer: latent frames x height / 16 x width / 16. 256 frames of 1024 x 576 are 73,728."""
        return -(-self.n_frames // FRAMES_PER_LATENT) * -(-self.height // SIDE_MULTIPLE) * -(-self.width // SIDE_MULTIPLE)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.n_frames}"


def shape_of(sample: Sample, shapes: Shapes, size_px: int, n_frames: int) -> Shape:
    """The form of a sample; an image has one frame. In buckets the sample has a size, and a video its frames, in the manifest."""
    if shapes == "square":
        return Shape(width=size_px, height=size_px, n_frames=1 if sample.kind == "image" else n_frames)
    width, height = size_of(sample.width or 1, sample.height or 1, size_px)
    return Shape(width=width, height=height, n_frames=1 if sample.kind == "image" else min(n_frames, sample.n_frames or 1))


def size_of(width: int, height: int, size_px: int) -> tuple[int, int]:
    """The multiples of 16 that come nearest to the aspect width : height, then to the area of a square of `size_px`."""
    aspect, area = Fraction(width, height), size_px**2

    def distance(sides: tuple[int, int]) -> tuple[Fraction, int]:
        across, down = sides
        off = Fraction(across, down) / aspect
        return max(off, 1 / off), abs(across * down - area)  # as far off when turned: 9:16 is 16:9 on its side

    return min(product(_near(size_px * float(aspect) ** 0.5), _near(size_px / float(aspect) ** 0.5)), key=distance)


def spread_over(sample: Sample, n_frames: int) -> Fraction:
    """How many of the clip's own frames pass from one training frame to the next when `n_frames` are spread over the whole clip."""
    return Fraction(sample.n_frames or n_frames, n_frames)


def _near(length: float) -> Iterator[int]:
    below = int(length) // SIDE_MULTIPLE * SIDE_MULTIPLE
    yield from (max(SIDE_MULTIPLE, below), below + SIDE_MULTIPLE)
