"""Descriptors without weights: hashes for near-duplicates and a classical vector for concepts. Batch: one `Descriptor` a clip.

Key frames are hashed in several ways, as own hashes and probes (`picture_hashes`). The whole picture is also hashed eight times a second
while the medium is scanned (`hash_observer`), so that copies match whose key frames fall at other times. What is found, edit by edit, is
in `benchmarks/accuracy_copies.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import pdq
from curation.hash_observer import hashes_of
from curation.keyframes import KeyFrame, KeyFrameError, Picture, decode_all, spread
from curation.picture_hashes import DescriptorConfig as DescriptorConfig
from curation.picture_hashes import Hash, border_part, hash_picture
from curation.quality import colourfulness
from curation.tracks import Track
from manifests.records import Clip

VERSION = "2"

COLUMNS = ("colourfulness",)
VECTORS = (
    pa.field("pdq", pa.list_(pa.binary())),
    pa.field("pdq_frame", pa.list_(pa.int32())),
    pa.field("pdq_crop", pa.list_(pa.int32())),
    pa.field("pdq_own", pa.list_(pa.bool_())),
    pa.field("pdq_pts_us", pa.list_(pa.int64())),
    pa.field("pdq_quality", pa.list_(pa.int32())),
    pa.field("pdq_reference", pa.list_(pa.binary())),
    pa.field("concept", pa.list_(pa.float32())),
)
"""The vectors of a clip beside its clip_id, as `Descriptor` says."""

SERIES = 200
"""The crop number of hashes of the whole picture that come from the scan."""

_SIDE_PX, _HUES, _VALUES, _GREYS, _CELLS, _DIRECTIONS = 64, 8, 3, 8, 4, 4

CONCEPT_FLOATS = _HUES * _VALUES + _GREYS + _CELLS * _CELLS * _DIRECTIONS
"""Length of the concept vector: 32 floats of colour and 64 of edge directions in a 4 x 4 grid."""

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Hashes and concept vector of a clip, for the vectors table.

    `pdq[i]` is a hash at `pdq_pts_us[i]`, in second `pdq_frame[i]` of the clip, of the way `pdq_crop[i]` to see the picture: 0 whole,
    1 its middle, 2 and more the probes; 100 more where borders were taken off first; 200 whole, from the scan. `pdq_own[i]` tells own
    hashes from probes. `pdq_quality` has the quality 0..100 of every key frame that was looked at, also of those too flat to be hashed,
    and `pdq_reference` the canonical PDQ hash of those that were, for hash lists. `concept` has length 1 (L2); it is empty when nothing
    could be measured.
    """

    clip_id: str
    pdq: list[bytes] = field(default_factory=list)
    pdq_frame: list[int] = field(default_factory=list)
    pdq_crop: list[int] = field(default_factory=list)
    pdq_own: list[bool] = field(default_factory=list)
    pdq_pts_us: list[int] = field(default_factory=list)
    pdq_quality: list[int] = field(default_factory=list)
    pdq_reference: list[bytes] = field(default_factory=list)
    concept: list[float] = field(default_factory=list)
    colourfulness: float | None = None
    error_code: str | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A vector of a clip from a network, for the vectors table: `model` names network and weights, the vector has length 1 (L2)."""

    clip_id: str
    model: str
    vector: list[float]


Material = tuple[Clip, list[KeyFrame]] | tuple[Clip, list[KeyFrame], Track | None]
"""A clip with its key frames and, where the scan left it, the track `hashes` of its asset."""


class DescribeClips:
    """Hashes and describes the key frames of each clip. Has no weights; a class because every batch stage is."""

    def __init__(self, cfg: DescriptorConfig) -> None:
        self.cfg = cfg

    def __call__(self, batch: Sequence[Material]) -> list[Descriptor]:
        """One descriptor a clip, in order. Sound has no picture: its descriptor is empty, without an error."""
        return [self._describe(item[0], item[1], item[2] if len(item) == 3 else None) for item in batch]

    def _describe(self, clip: Clip, frames: list[KeyFrame], series: Track | None) -> Descriptor:
        if clip.kind == "audio":
            return Descriptor(clip_id=clip.clip_id)
        chosen = spread(frames, self.cfg.max_frames)
        try:
            pictures = decode_all(clip.clip_id, chosen)
        except KeyFrameError as e:
            return Descriptor(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e))
        found, quality, reference = [(pts, h) for pts, h in self._series(clip, series)], [], []
        for frame, picture in zip(chosen, pictures, strict=True):
            seen, ways = hash_picture(picture, border_part(clip), self.cfg)
            quality.append(seen)
            found += [(frame.pts_us, h) for h in ways]
            reference += [pdq.reference_hash(picture)[0]] if ways else []
        found.sort(key=lambda f: f[0])
        return Descriptor(
            clip_id=clip.clip_id,
            pdq=[h.value for _, h in found],
            pdq_frame=[self._unit(clip, pts) for pts, _ in found],
            pdq_crop=[h.crop for _, h in found],
            pdq_own=[h.own for _, h in found],
            pdq_pts_us=[pts for pts, _ in found],
            pdq_quality=quality,
            pdq_reference=reference,
            concept=concept_vector(pictures).tolist(),
            colourfulness=float(np.mean([colourfulness(p) for p in pictures])),
        )

    def _unit(self, clip: Clip, pts_us: int) -> int:
        """The second of the clip."""
        return 0 if clip.kind == "image" else (pts_us - clip.start_us) // self.cfg.unit_us

    def _series(self, clip: Clip, track: Track | None) -> Iterator[tuple[int, Hash]]:
        """The scan's hashes inside the clip that are good enough and, within a second, differ from the last."""
        if track is None or clip.kind != "video":
            return
        inside = track.between(clip.start_us, clip.end_us)
        last, unit = b"", -1
        for pts, quality, value in zip(inside.pts_us.tolist(), inside["quality"].tolist(), hashes_of(inside), strict=True):
            if quality < self.cfg.min_quality:
                continue
            if self._unit(clip, pts) != unit or pdq.hamming(value, last) > self.cfg.same_bits:
                last, unit = value, self._unit(clip, pts)
                yield pts, Hash(SERIES, True, value)


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
