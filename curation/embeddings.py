"""Descriptors without weights: PDQ hashes for near-duplicates and a classical vector for concepts. Batch: one `Descriptor` a clip.

PDQ (256 bit, match at Hamming distance <= 31) survives re-encoding, scaling and tone, but a crop of 5 % or a logo moves it by 60 bit and
more. So each key frame is hashed several times: the full frame and fixed centre crops of it. A copy that was cropped by 5 % or 10 %
then has a full frame (or an inner crop) equal to one of the original's crops; and a mark or a subtitle near the edge leaves the
crop of the middle 70 % untouched. 0.665 and 0.63 are 0.70 of a copy that kept 0.95 and 0.90 of each side.

Measured on 36 pictures at 512 px, the ones on which the crops were chosen too, so that new ones may do a little worse. Share of copies
with a hash within 31 bit, full frame alone -> these crops: JPEG quality 30 and half size 1.00 -> 1.00, logo 0.39 -> 1.00, middle 95 %
kept 0.03 -> 1.00, middle 90 % kept 0.00 -> 1.00, middle 95 % + logo + JPEG 40 0.03 -> 0.97. The smallest distance between different
pictures fell from 102 to 98. Crops from one side only, and crops to another aspect, are not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from curation.keyframes import KeyFrame, KeyFrameError, Picture, decode_all
from manifests.records import Clip

PDQ_BYTES = 32
"""Length of a PDQ hash: 256 bit, in the canonical order (its hexadecimal form is the one that external hash lists use)."""

_SIDE_PX, _HUES, _VALUES, _GREYS, _CELLS, _DIRECTIONS = 64, 8, 3, 8, 4, 4

CONCEPT_FLOATS = _HUES * _VALUES + _GREYS + _CELLS * _CELLS * _DIRECTIONS
"""Length of the concept vector: 32 floats of colour and 64 of edge directions in a 4 x 4 grid."""

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorConfig:
    """What is hashed. `crops` are the shares of width and height kept around the centre, the full frame first."""

    crops: tuple[float, ...] = (1.0, 0.95, 0.90, 0.70, 0.665, 0.63)  # ours, see above
    min_quality: int = 50  # PDQ's own recommendation (Meta, PDQ reference); below it pictures are too flat to tell apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Hashes and concept vector of a clip, for the vectors table.

    `pdq[i]` is the hash of crop `pdq_crop[i]` (place in `DescriptorConfig.crops`; 0 = full frame) of key frame `pdq_frame[i]`; the
    first hash of each frame is that of the full frame. `pdq_quality` has the quality 0..100 of the full frame of every key frame, also of
    those too flat to be hashed. `concept` has length 1 (L2); it is empty when nothing could be measured.
    """

    clip_id: str
    pdq: list[bytes] = field(default_factory=list)
    pdq_frame: list[int] = field(default_factory=list)
    pdq_crop: list[int] = field(default_factory=list)
    pdq_quality: list[int] = field(default_factory=list)
    concept: list[float] = field(default_factory=list)
    error_code: str | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A vector of a clip from a network, for the vectors table: `model` names network and weights, the vector has length 1 (L2)."""

    clip_id: str
    model: str
    vector: list[float]


class DescribeClips:
    """Hashes and describes the key frames of each clip. Has no weights; a class because every batch stage is."""

    def __init__(self, cfg: DescriptorConfig) -> None:
        if not cfg.crops or cfg.crops[0] != 1.0 or not all(0.0 < c <= 1.0 for c in cfg.crops):
            raise ValueError(f"descriptors: expected crops in (0, 1], the full frame (1.0) first, found {cfg.crops}")
        self.cfg = cfg

    def __call__(self, batch: Sequence[tuple[Clip, list[KeyFrame]]]) -> list[Descriptor]:
        """One descriptor a clip, in order. Sound has no picture: its descriptor is empty, without an error."""
        return [self._describe(clip, frames) for clip, frames in batch]

    def _describe(self, clip: Clip, frames: list[KeyFrame]) -> Descriptor:
        if clip.kind == "audio":
            return Descriptor(clip_id=clip.clip_id)
        try:
            pictures = decode_all(clip.clip_id, frames)
        except KeyFrameError as e:
            return Descriptor(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e))
        hashes = [hash_crops(picture, self.cfg) for picture in pictures]
        kept = [(value, frame, crop) for frame, (_, found) in enumerate(hashes) for crop, value in found]
        return Descriptor(
            clip_id=clip.clip_id,
            pdq=[value for value, _, _ in kept],
            pdq_frame=[frame for _, frame, _ in kept],
            pdq_crop=[crop for _, _, crop in kept],
            pdq_quality=[quality for quality, _ in hashes],
            concept=concept_vector(pictures).tolist(),
        )


def hash_crops(picture: Picture, cfg: DescriptorConfig) -> tuple[int, list[tuple[int, bytes]]]:
    """Quality of the full frame and (crop number, hash) of each crop that is good enough; none when the full frame is not."""
    quality, found = 0, []
    for number, share in enumerate(cfg.crops):
        value, crop_quality = pdq_hash(centre_crop(picture, share))
        if number == 0:
            quality = crop_quality
        if quality < cfg.min_quality:
            break
        if crop_quality >= cfg.min_quality:
            found.append((number, value))
    return quality, found


def pdq_hash(picture: Picture) -> tuple[bytes, int]:
    """The PDQ hash (32 bytes) of an RGB picture and its quality, 0 flat to 100."""
    import pdqhash

    bits, quality = pdqhash.compute(np.ascontiguousarray(picture))
    return np.packbits(np.asarray(bits, dtype=np.uint8)).tobytes(), int(quality)


def hamming(a: bytes, b: bytes) -> int:
    """The number of bits in which two hashes differ, 0..256."""
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def centre_crop(picture: Picture, share: float) -> Picture:
    """The middle of the picture with `share` of its width and of its height."""
    rows, columns = (max(1, round(side * share)) for side in picture.shape[:2])
    top, left = (picture.shape[0] - rows) // 2, (picture.shape[1] - columns) // 2
    return picture[top : top + rows, left : left + columns]


def concept_vector(pictures: Sequence[Picture]) -> Floats:
    """The classical descriptor [96] of a clip: mean over its pictures, of length 1.

    Colour and edges are square-rooted histograms (so that products are Bhattacharyya coefficients), each with its mean removed and
    scaled to length 1, so that both weigh the same and cosines of unlike pictures are near 0 rather than near 1.
    """
    small = [_small(picture) for picture in pictures]
    mean = np.mean([np.concatenate([_spread(_colours(s)), _spread(_edges(s))]) for s in small], axis=0)
    norm = float(np.linalg.norm(mean))
    return np.asarray(mean / norm if norm > 0 else mean)


def _small(picture: Picture) -> Floats:
    """The picture squeezed to 64 x 64, RGB 0..1: aspect is not a concept."""
    import cv2

    return np.asarray(cv2.resize(picture, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA), dtype=np.float64) / 255


def _colours(rgb: Floats) -> Floats:
    """Histogram [32]: hue x brightness weighted by saturation, then grey level weighted by what is not saturated."""
    value, low = rgb.max(axis=2), rgb.min(axis=2)
    chroma = value - low
    saturation = np.divide(chroma, value, out=np.zeros_like(chroma), where=value > 0)
    bright = np.minimum((value * _VALUES).astype(np.int64), _VALUES - 1)
    coloured = np.bincount((_hue(rgb, value, chroma) * _VALUES + bright).ravel(), saturation.ravel(), _HUES * _VALUES)
    level = np.minimum((rgb @ _LUMA * _GREYS).astype(np.int64), _GREYS - 1)
    return np.concatenate([coloured, np.bincount(level.ravel(), (1 - saturation).ravel(), _GREYS)])


def _hue(rgb: Floats, value: Floats, chroma: Floats) -> npt.NDArray[np.int64]:
    """The hue bin 0..7 of each pixel; 0 where there is no colour (its weight is 0 then)."""
    red, green, blue = np.moveaxis(rgb, 2, 0)
    safe = np.where(chroma > 0, chroma, 1.0)
    sixth = np.where(value == red, (green - blue) / safe % 6, np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4))
    bins = np.minimum((sixth / 6 * _HUES).astype(np.int64), _HUES - 1)
    return np.where(chroma > 0, bins, 0)


def _edges(rgb: Floats) -> Floats:
    """Gradient magnitude [64] by cell of a 4 x 4 grid and direction modulo 180 degrees, in four bins around 0, 45, 90 and 135."""
    down, across = np.gradient(rgb @ _LUMA)
    turn = np.arctan2(down, across) / np.pi * _DIRECTIONS
    direction = np.floor(turn + 0.5).astype(np.int64) % _DIRECTIONS
    cell = np.arange(_SIDE_PX) * _CELLS // _SIDE_PX
    place = (cell[:, None] * _CELLS + cell[None, :]) * _DIRECTIONS + direction
    return np.asarray(np.bincount(place.ravel(), np.hypot(down, across).ravel(), _CELLS * _CELLS * _DIRECTIONS), dtype=np.float64)


def _spread(histogram: Floats) -> Floats:
    """Square root, mean removed, length 1; zeros when the histogram is empty or even."""
    roots = np.sqrt(histogram)
    centred = roots - roots.mean()
    norm = float(np.linalg.norm(centred))
    return np.asarray(centred / norm if norm > 1e-9 else np.zeros_like(centred))
