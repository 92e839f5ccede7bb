"""Descriptors without weights: hashes for near-duplicates and a classical vector for concepts. Batch: one `Descriptor` a clip.

A PDQ hash survives re-encoding, scaling and tone, but a crop of 5 % or a logo moves it by 60 bit and more, twice the distance of a
match. So pictures are hashed in several ways. *Own* hashes say what is seen: the whole picture, the picture without its borders, and
the middle 70 % of it, which a logo or a subtitle near the edge leaves alone. *Probes* say what an edited copy's original may look like:
crops, other aspects, mirrored and turned pictures. A copy's own hash equals one of its original's probes, so two probes never need to
be compared, which is most of the pairs.

The whole picture is also hashed eight times a second while the medium is scanned (`hash_observer`), so that copies match whose key frames
fall at other times. `benchmarks/accuracy_copies.py` has what is found, edit by edit.
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
from curation.pdq import Part
from curation.tracks import Track
from manifests.records import Clip

VERSION = "2"

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

WHOLE, MIDDLE = 0, 1
UNBORDERED = 100
"""Added to the number of a crop of the picture without its borders."""
SERIES = 200
"""The crop number of hashes of the whole picture that come from the scan."""

_MIDDLE_SHARE = 0.70
_ASPECTS = (4 / 3, 5 / 4, 1.0, 16 / 9)
_HASHED_PX = 256  # long side of what is hashed: a quarter of the pixels, the same hashes within a bit

_SIDE_PX, _HUES, _VALUES, _GREYS, _CELLS, _DIRECTIONS = 64, 8, 3, 8, 4, 4

CONCEPT_FLOATS = _HUES * _VALUES + _GREYS + _CELLS * _CELLS * _DIRECTIONS
"""Length of the concept vector: 32 floats of colour and 64 of edge directions in a 4 x 4 grid."""

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorConfig:
    """What is hashed. Values are ours, but for the quality."""

    max_frames: int = 10  # key frames of a clip that are hashed, spread over it; some 3 ms each
    centre_crops: tuple[float, ...] = (0.95, 0.90)  # shares of width and height kept around the centre
    side_crops: tuple[float, ...] = (0.05, 0.10)  # shares cut off one side
    corner_crops: tuple[float, ...] = (0.10,)  # shares cut off two neighbouring sides
    aspects: bool = True  # crops to 4:3, 5:4, 1:1 and 16:9
    turned: bool = True  # the picture mirrored and turned
    min_quality: int = 50  # PDQ's own recommendation (Meta, PDQ reference); below it pictures are too flat to tell apart
    same_bits: int = 6  # a hash of the series so near to the last one kept of its second is left out
    unit_us: int = 1_000_000  # of a clip, that match or do not

    def __post_init__(self) -> None:
        shares = (*self.centre_crops, *(1 - c for c in (*self.side_crops, *self.corner_crops)))
        if not all(0.5 <= s < 1.0 for s in shares):
            raise ValueError(f"descriptors: expected crops that keep at least half of a side and less than all, found shares kept {shares}")
        if self.max_frames < 1 or self.unit_us < 1:
            raise ValueError(f"descriptors: expected at least one frame and 1 us, found {self.max_frames} and {self.unit_us}")


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
    error_code: str | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A vector of a clip from a network, for the vectors table: `model` names network and weights, the vector has length 1 (L2)."""

    clip_id: str
    model: str
    vector: list[float]


@dataclass(frozen=True, slots=True)
class Hash:
    """One way to see a picture: its number (see `Descriptor`), whether it is an own hash, its 32 bytes."""

    crop: int
    own: bool
    value: bytes


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


def border_part(clip: Clip) -> Part:
    """The borders of a clip as shares of its height (top, bottom) and width (left, right); none where they were not measured."""
    if not clip.width or not clip.height:
        return (0.0, 0.0, 0.0, 0.0)
    rows, columns = ((clip.border_top, clip.border_bottom), (clip.border_left, clip.border_right))
    top, bottom, left, right = (*((n or 0) / clip.height for n in rows), *((n or 0) / clip.width for n in columns))
    return (top, bottom, left, right) if top + bottom < 1 and left + right < 1 else (0.0, 0.0, 0.0, 0.0)


def hash_picture(picture: Picture, borders: Part, cfg: DescriptorConfig) -> tuple[int, list[Hash]]:
    """Quality of the whole picture and its hashes in every way that is good enough; none when the whole picture is not."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    scale = _HASHED_PX / max(luma.shape)
    if scale < 1:
        size = (max(1, round(luma.shape[1] * scale)), max(1, round(luma.shape[0] * scale)))
        luma = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    whole = pdq.cells(luma)[None]
    quality = int(pdq.qualities(whole)[0])
    if quality < cfg.min_quality:
        return quality, []
    found = _hash_ways(luma, (0.0, 0.0, 0.0, 0.0), 0, cfg)
    if any(borders):
        found += _hash_ways(luma, borders, UNBORDERED, cfg)
    return quality, found


def _hash_ways(luma: np.ndarray, borders: Part, base: int, cfg: DescriptorConfig) -> list[Hash]:
    """The hashes of the picture inside the borders."""
    top, bottom, left, right = borders
    high, wide = 1 - top - bottom, 1 - left - right
    inside = ways(luma.shape[1] * wide / (luma.shape[0] * high), cfg)
    parts = [(top + high * a, bottom + high * b, left + wide * c, right + wide * d) for a, b, c, d in inside]
    grids = np.stack([pdq.cells(luma, part) for part in parts])
    low, good = pdq.frequencies(grids), pdq.qualities(grids) >= cfg.min_quality
    found = [Hash(base + n, n <= MIDDLE, value) for n, value in enumerate(pdq.hashes(low)) if good[n]]
    if cfg.turned and good[WHOLE]:
        found += [Hash(base + len(parts) + n, False, value) for n, value in enumerate(pdq.hashes(pdq.turned(low[WHOLE])))]
    return found


def ways(aspect: float, cfg: DescriptorConfig) -> list[Part]:
    """The parts that are hashed of a picture of that width over height: the whole, the middle, then the probes."""

    def centre(high: float, wide: float) -> Part:
        return ((1 - high) / 2, (1 - high) / 2, (1 - wide) / 2, (1 - wide) / 2)

    parts = [centre(1, 1), centre(_MIDDLE_SHARE, _MIDDLE_SHARE)]
    # The middle of what a copy that kept so much of each side shows: for copies that are cropped and marked.
    parts += [centre(s * m, s * m) for m in (1, _MIDDLE_SHARE) for s in cfg.centre_crops]
    for s in cfg.side_crops:
        parts += [(s, 0, 0, 0), (0, s, 0, 0), (0, 0, s, 0), (0, 0, 0, s)]
    for s in cfg.corner_crops:
        parts += [(s, 0, s, 0), (s, 0, 0, s), (0, s, s, 0), (0, s, 0, s)]
    if cfg.aspects:
        for kept in (wanted / aspect for wanted in _ASPECTS):
            if 0.55 < kept < 0.97:
                parts.append(centre(1, kept))
            elif 0.55 < 1 / kept < 0.97:
                parts.append(centre(1 / kept, 1))
    return parts


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
