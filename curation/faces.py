"""Boxes and faces as geometry: a picture fitted to a network's input, doubles suppressed, a face aligned by its five landmarks. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from curation.keyframes import Picture

Floats = npt.NDArray[np.float32]

FACE_PX = 112
ARCFACE_POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32)
"""Where ArcFace networks expect, in a crop of 112 x 112 px, the eyes, the nose and the corners of the mouth, left in the picture first (InsightFace)."""

_MARGIN = 1.3
"""Side of the square around a face over the longer side of its box: hair and chin lie outside what detectors box."""

_GREY = 128
_BLOCK = 1024
_MOST = 500  # boxes that doubles are looked for among: a network that answers everywhere costs no more than a crowd


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector found in a picture: boxes [n, 4] as x1, y1, x2, y2 in px, scores [n], and landmarks [n, 5, 2] where it gives them."""

    boxes: Floats
    scores: Floats
    points: Floats | None = None

    def __len__(self) -> int:
        """How many boxes."""
        return len(self.scores)

    def only(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Found":
        """The chosen ones, by index in their order or by mask."""
        return Found(self.boxes[rows], self.scores[rows], None if self.points is None else self.points[rows])

    def finite(self) -> bool:
        """Whether all of it is numbers: a score that is none would compare as low."""
        return all(bool(np.isfinite(v).all()) for v in (self.boxes, self.scores, self.points) if v is not None)

    def scaled(self, across: float, down: float) -> "Found":
        """All coordinates multiplied."""
        by = np.array([across, down], np.float32)
        return Found(self.boxes * np.tile(by, 2), self.scores, None if self.points is None else self.points * by)

    def within(self, width: int, height: int) -> "Found":
        """Boxes cut to the picture; those with nothing left are gone. Landmarks may lie outside."""
        edge = np.array([width, height, width, height], np.float32)
        cut = Found(np.clip(self.boxes, 0, edge), self.scores, self.points)
        return cut.only((cut.boxes[:, 2] > cut.boxes[:, 0]) & (cut.boxes[:, 3] > cut.boxes[:, 1]))

    def areas(self) -> Floats:
        """Area of each box in px²."""
        sides: Floats = self.boxes[:, 2:] - self.boxes[:, :2]
        return sides[:, 0] * sides[:, 1]

    def largest(self) -> int:
        """Index of the largest box, the first of equals; there must be one."""
        return int(np.argmax(self.areas()))


def fit(picture: Picture, width: int, height: int, fill: int = 0) -> tuple[Picture, float]:
    """The picture scaled to stand in the top left of width x height with its aspect kept, and the scale; the rest has the grey `fill`."""
    tall, wide = picture.shape[:2]
    scale = min(width / wide, height / tall)
    size = (max(1, min(width, round(wide * scale))), max(1, min(height, round(tall * scale))))
    canvas = np.full((height, width, 3), fill, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return canvas, scale


def suppress(found: Found, overlap: float) -> Found:
    """The boxes, best first, without those that overlap a better one by more (intersection over union)."""
    ranked = found.only(np.argsort(-found.scores, kind="stable")[:_MOST])
    areas, boxes = ranked.areas(), ranked.boxes
    alive = np.ones(len(ranked), bool)
    kept = []
    for i in range(len(ranked)):
        if not alive[i]:
            continue
        kept.append(i)
        low, high = np.maximum(boxes[i, :2], boxes[:, :2]), np.minimum(boxes[i, 2:], boxes[:, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        alive &= shared <= overlap * np.maximum(areas[i] + areas - shared, 1e-9)
    return ranked.only(np.array(kept, np.intp))


def similarity(source: Floats, target: Floats) -> npt.NDArray[np.float64] | None:
    """The rotation, scale and shift [2, 3] that bring points [n, 2] nearest to others (least squares; Umeyama 1991); never a mirror.

    Points are complex numbers here, of which such a transform is z -> a z + b. None where the points are one point or are not numbers.
    """
    z, w = (np.asarray(p, np.float64) @ np.array([1, 1j]) for p in (source, target))
    middle_z, middle_w = z.mean(), w.mean()
    spread = float((np.abs(z - middle_z) ** 2).sum())
    if not np.isfinite(spread) or spread < 1e-6:
        return None
    a = complex((np.conj(z - middle_z) * (w - middle_w)).sum() / spread)
    b = complex(middle_w - a * middle_z)
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(picture: Picture, points: Floats) -> Picture | None:
    """The face, 112 x 112 px, with its landmarks [5, 2] where ArcFace expects them; None where the landmarks are no face's."""
    matrix = similarity(points, ARCFACE_POINTS)
    if matrix is None or not np.isfinite(matrix).all() or not np.abs(matrix[:, :2]).max() > 0:
        return None
    return np.asarray(cv2.warpAffine(picture, matrix, (FACE_PX, FACE_PX), flags=cv2.INTER_LINEAR), np.uint8)


def masked_face(picture: Picture, box: Sequence[float], longest_px: int = 512) -> Picture | None:
    """A square around a face, grey outside the ellipse that its box holds, so that no background says who it is (Movie Gen, Data for
    personalisation: cropped and segmented). `box` is x, y, width, height in shares of the picture; None where it holds no pixel.

    The square is 1.3 times the box's longer side; what of it lies outside the picture is grey too. Margin, mask and size are ours.
    """
    tall, wide = picture.shape[:2]
    left, top, across, down = (float(v) * side for v, side in zip(box, (wide, tall, wide, tall), strict=True))
    side = round(_MARGIN * max(across, down))
    if side < 1 or min(across, down) <= 0:
        return None
    x, y = round(left + across / 2 - side / 2), round(top + down / 2 - side / 2)
    square = np.full((side, side, 3), _GREY, np.uint8)
    inside = (slice(max(y, 0), max(0, min(y + side, tall))), slice(max(x, 0), max(0, min(x + side, wide))))
    seen = picture[inside]
    if not seen.size:
        return None
    square[inside[0].start - y : inside[0].stop - y, inside[1].start - x : inside[1].stop - x] = seen
    mask = np.zeros((side, side), np.uint8)
    half = (round(across * _MARGIN / 2), round(down * _MARGIN / 2))
    cv2.ellipse(mask, (side // 2, side // 2), half, 0, 0, 360, 255, -1)
    square[mask == 0] = _GREY
    if side <= longest_px:
        return square
    return np.asarray(cv2.resize(square, (longest_px, longest_px), interpolation=cv2.INTER_AREA), np.uint8)


def agreeing(vectors: Floats, threshold: float) -> list[tuple[int, int, float]]:
    """Pairs (i, j, cosine), i < j, of vectors [n, d] of length 1 whose cosine is above the threshold, by i, then j.

    All are compared, n^2 d operations, in blocks that fit in memory: a thousand clips take no time, a million hours.
    """
    found = []
    for first in range(0, len(vectors), _BLOCK):
        cosines = vectors[first : first + _BLOCK] @ vectors.T
        for i, j in zip(*np.nonzero(cosines > threshold), strict=True):
            if j > first + i:
                found.append((int(first + i), int(j), float(cosines[i, j])))
    return found
