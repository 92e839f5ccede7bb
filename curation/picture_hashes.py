"""The ways in which a picture is hashed, so that its edited copies are found.

A PDQ hash survives re-encoding, scaling and tone, but a crop of 5 % or a logo moves it by 60 bit and more, twice the distance of a
match. So pictures are hashed in several ways. *Own* hashes say what is seen: the whole picture, the picture without its borders, and
the middle 70 % of it, which a logo or a subtitle near the edge leaves alone. *Probes* say what a copy of it may look like: crops, other
aspects, mirrored and turned pictures. A copy's own hash equals one of its original's probes, so two probes never need to be compared,
which is most of the pairs.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from curation import pdq
from curation.keyframes import Picture
from curation.pdq import Part
from manifests.records import Clip

WHOLE, MIDDLE = 0, 1
UNBORDERED = 100
"""Added to the number of a crop of the picture without its borders."""
_MIDDLE_SHARE = 0.70
_ASPECTS = (4 / 3, 5 / 4, 1.0, 16 / 9)
_HASHED_PX = 256  # long side of what is hashed: a quarter of the pixels, the same hashes within a bit

_REFINE_SHARE = 0.025  # of a side: borders are looked for so far from where they were measured


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorConfig:
    """What is hashed. Values are ours, but for the quality."""

    max_frames: int = 10  # key frames of a clip that are hashed, spread over it; some 3 ms each
    centre_crops: tuple[float, ...] = (0.95, 0.90)  # shares of width and height kept around the centre
    side_crops: tuple[float, ...] = (0.033, 0.067, 0.10)  # shares cut off one side
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


@dataclass(frozen=True, slots=True)
class Hash:
    """One way to see a picture: its number (see `Descriptor`), whether it is an own hash, its 32 bytes."""

    crop: int
    own: bool
    value: bytes


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
        found += _hash_ways(luma, refine(luma, borders), UNBORDERED, cfg)
    return quality, found


def refine(luma: np.ndarray, borders: Part) -> Part:
    """The borders moved to the strongest line near them: they were measured on 160 px, and 2 % of the picture are 20 bit."""
    found = []
    for side, share in enumerate(borders):
        lines = luma if side < 2 else luma.T
        lines = lines[::-1] if side % 2 else lines
        n = len(lines)
        first, end = max(0, round(n * (share - _REFINE_SHARE)) - 1), min(n, round(n * (share + _REFINE_SHARE)) + 2)
        if share == 0 or end - first < 2:
            found.append(share)
            continue
        steps = np.abs(np.diff(lines[first:end].astype(np.int16), axis=0)).mean(axis=1)
        found.append((first + 1 + int(steps.argmax())) / n)
    top, bottom, left, right = found
    return (top, bottom, left, right)


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
