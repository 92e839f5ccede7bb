"""Boxes and faces as geometry: a picture fitted to a network's input, doubles suppressed, a face aligned by its five landmarks. Pure functions."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from curation.keyframes import Picture

Floats = npt.NDArray[np.float32]

FACE_PX = 112
ARCFACE_POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32)
"""Where ArcFace networks expect, in a crop of 112 x 112 px, the eyes, the nose and the corners of the mouth, left in the picture first (InsightFace)."""

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
