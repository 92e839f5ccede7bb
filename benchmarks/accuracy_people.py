"""How right what surrounds the networks on people is: decoding, alignment, taxonomy. The networks' own accuracy is their authors' business.

No weights come with the project, so the networks here are the tests' own, which answer where something was painted: what is measured is
our reading of their layouts, not how well faces are found in real pictures. python benchmarks/accuracy_people.py
"""

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table
from curation.actions import taxonomy
from curation.adapters.face_detector import FaceDetector, FaceDetectorConfig
from curation.faces import ARCFACE_POINTS, similarity
from tests import picture_nets

SCENES = 40
WIDTH, HEIGHT = 320, 192


def figures(media: Path) -> list[Figure]:
    """All figures of the subject; the media are not needed."""
    with tempfile.TemporaryDirectory() as folder:
        yunet = picture_nets.yunet(Path(folder) / "yunet.onnx")
        made = {
            "yunet": yunet,
            "scrfd": picture_nets.scrfd(Path(folder) / "scrfd.onnx"),
            "centerface": picture_nets.centerface(Path(folder) / "cf.onnx"),
        }
        scores = [f1(layout, weights) for layout, weights in made.items()]
        apart = difference(yunet)
    on = f"{SCENES} made scenes in each of {len(made)} layouts, made networks"
    return [
        Figure(subject="people", what="faces decoded, worst F1 of the layouts at IoU 0.9", value=min(scores), target=1, on=on),
        Figure(subject="people", what="boxes and landmarks, largest difference to OpenCV's YuNet, px", value=apart, target=0.1, at_least=False, on=f"{SCENES} made scenes, made network"),
        Figure(subject="people", what="landmarks after alignment, largest error, px of 112", value=misaligned(), target=0.01, at_least=False, on="500 turned, scaled and shifted faces"),
        Figure(subject="people", what="human actions in the taxonomy", value=len({a.phrase.lower() for a in taxonomy()}), target=600, on="unique phrases"),
    ]  # fmt: skip


def scenes(side: int) -> list[tuple[list[tuple[int, int]], np.ndarray]]:
    """Pictures with up to five faces that do not touch, and where they are."""
    draw = np.random.Generator(np.random.Philox(key=11))
    made = []
    for _ in range(SCENES):
        places = draw.permutation(15)[: draw.integers(0, 6)]  # of a grid of 5 x 3 cells of 64 px
        squares = [(int(p % 5) * 64 + 8 * int(draw.integers(2, 5)), int(p // 5) * 64 + 8 * int(draw.integers(3, 4))) for p in places]
        made.append((squares, picture_nets.painted(WIDTH, HEIGHT, squares, side)))
    return made


def f1(layout: str, weights: str) -> float:
    """F1 of the faces found, where a box counts at an overlap of 0.9 with a painted one."""
    detector = FaceDetector(FaceDetectorConfig(weights=weights, layout=layout, size_px=WIDTH))  # type: ignore[arg-type]
    side = 4 if layout == "centerface" else 8
    right = found = there = 0
    for squares, picture in scenes(side):
        boxes = detector.find(picture).boxes
        found, there = found + len(boxes), there + len(squares)
        for left, top in squares:
            centre = np.array([left, top]) + side / 2
            half = np.array([picture_nets.FACE_WIDE, picture_nets.FACE_TALL]) / 2
            truth = np.clip(np.concatenate([centre - half, centre + half]), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
            right += int(any(overlap(truth, box) >= 0.9 for box in boxes))
    return 2 * right / max(found + there, 1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def difference(weights: str) -> float:
    """The largest difference in px between our reading of a YuNet file and OpenCV's, over all scenes; infinite where the counts differ."""
    ours = FaceDetector(FaceDetectorConfig(weights=weights, size_px=WIDTH))
    theirs = cv2.FaceDetectorYN.create(weights, "", (WIDTH, HEIGHT), ours.cfg.min_score, ours.cfg.overlap)
    worst = 0.0
    for _, picture in scenes(8):
        found, rows = ours.find(picture), theirs.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
        rows = np.zeros((0, 15), np.float32) if rows is None else rows
        if len(rows) != len(found) or found.points is None:
            return float("inf")
        if not len(rows):
            continue
        boxes = np.clip(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        a, b = np.lexsort(found.boxes.T.round()), np.lexsort(boxes.T.round())
        worst = max(worst, float(np.abs(found.boxes[a] - boxes[b]).max()))
        worst = max(worst, float(np.abs(found.points[a].reshape(-1, 10) - rows[b, 4:14]).max()))
    return worst


def misaligned() -> float:
    """The largest distance, in px of the crop, of a landmark from where ArcFace expects it."""
    draw = np.random.Generator(np.random.Philox(key=12))
    worst = 0.0
    for _ in range(500):
        turn = cv2.getRotationMatrix2D((56, 56), draw.uniform(-180, 180), draw.uniform(0.2, 4))
        points = ARCFACE_POINTS @ turn[:, :2].T + turn[:, 2] + draw.uniform(0, 500, 2)
        matrix = similarity(points.astype(np.float32), ARCFACE_POINTS)
        if matrix is None:
            return float("inf")
        worst = max(worst, float(np.linalg.norm(points @ matrix[:, :2].T + matrix[:, 2] - ARCFACE_POINTS, axis=1).max()))
    return worst


if __name__ == "__main__":
    print(as_table(figures(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/media"))))
