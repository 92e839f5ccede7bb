"""Faces: geometry by its laws; detectors and identity loaded by the real code from small weights that the tests make."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.adapters.face_detector import FaceDetector, FaceDetectorConfig
from curation.adapters.face_identity import FaceIdentity, IdentityConfig
from curation.adapters.weights import AnswerError, WeightsError
from curation.faces import ARCFACE_POINTS, FACE_PX, Found, align, fit, similarity, suppress
from tests import picture_nets
from tests.picture_nets import FACE_TALL, FACE_WIDE, MARKS, painted

MAKERS = {"yunet": picture_nets.yunet, "scrfd": picture_nets.scrfd, "centerface": picture_nets.centerface}


def _draw(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key))


def test_similarity_recovers_rotation_scale_and_shift() -> None:
    """Points moved by a known similarity give that transform back; over noise no small change of it fits better."""
    draw = _draw(1)
    for _ in range(20):
        angle, scale, shift = draw.uniform(-np.pi, np.pi), draw.uniform(0.2, 5), draw.uniform(-50, 50, 2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        source = draw.uniform(0, 100, (5, 2)).astype(np.float32)
        matrix = similarity(source, (source @ turn.T + shift).astype(np.float32))
        assert matrix is not None
        assert np.allclose(matrix[:, :2], turn, atol=1e-3) and np.allclose(matrix[:, 2], shift, atol=1e-2)
        noisy = source @ turn.T + shift + draw.normal(0, 3, (5, 2))
        best = similarity(source, noisy.astype(np.float32))
        assert best is not None

        def error(m: np.ndarray, source: np.ndarray = source, noisy: np.ndarray = noisy) -> float:
            return float(((source @ m[:, :2].T + m[:, 2] - noisy) ** 2).sum())

        for _ in range(5):
            a, b = draw.normal(0, 0.01, 2)
            other = best + np.array([[a, -b, draw.normal(0, 0.1)], [b, a, draw.normal(0, 0.1)]])
            assert error(other) >= error(best) - 1e-3


def test_similarity_never_mirrors_and_refuses_one_point() -> None:
    """Mirrored points give a turn, not a mirror; points that coincide or are not numbers give none."""
    matrix = similarity(ARCFACE_POINTS * [-1, 1], ARCFACE_POINTS)
    assert matrix is not None and np.linalg.det(matrix[:, :2]) >= 0
    assert similarity(np.ones((5, 2), np.float32), ARCFACE_POINTS) is None
    assert align(np.zeros((9, 9, 3), np.uint8), np.full((5, 2), np.nan, np.float32)) is None


@pytest.mark.parametrize("angle", [0.0, 30.0, -75.0, 180.0])
def test_an_aligned_face_has_its_landmarks_where_arcface_expects_them(angle: float) -> None:
    """Dots painted at the landmarks of a turned face of any size come out at the template's places, within a px."""
    turn = cv2.getRotationMatrix2D((56, 56), angle, 1.7)
    points = (ARCFACE_POINTS @ turn[:, :2].T + turn[:, 2] + [150, 140]).astype(np.float32)
    for i in range(5):
        picture = np.zeros((400, 400, 3), np.uint8)
        cv2.circle(picture, [round(float(v) * 16) for v in points[i]], 4 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
        face = align(picture, points)
        assert face is not None and face.shape == (FACE_PX, FACE_PX, 3)
        down, across = (np.average(v, weights=face[..., 0].astype(float)) for v in np.mgrid[:FACE_PX, :FACE_PX])
        assert np.hypot(across - ARCFACE_POINTS[i][0], down - ARCFACE_POINTS[i][1]) < 1


def test_doubles_go_and_neighbours_stay() -> None:
    """Of overlapping boxes the best stays; boxes beside each other stay, best first, with their landmarks."""
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [8, 0, 18, 10]], np.float32)
    points = np.arange(40, dtype=np.float32).reshape(4, 5, 2)
    kept = suppress(Found(boxes, np.array([0.8, 0.9, 0.7, 0.95], np.float32), points), 0.3)
    assert kept.scores.tolist() == pytest.approx([0.95, 0.9, 0.7])
    assert kept.points is not None and kept.points[1].tolist() == points[1].tolist()
    assert len(suppress(Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)), 0.3)) == 0


def test_a_fitted_picture_keeps_its_aspect() -> None:
    """The picture stands in the top left at the returned scale, the rest is grey."""
    canvas, scale = fit(np.full((100, 200, 3), 255, np.uint8), 64, 64, 114)
    assert scale == 0.32 and canvas.shape == (64, 64, 3)
    assert (canvas[:32] == 255).all() and (canvas[32:] == 114).all()


@pytest.mark.parametrize("layout", sorted(MAKERS))
def test_each_layout_finds_faces_where_they_are(layout: str, tmp_path: Path) -> None:
    """From a file in each layout, boxes and landmarks lie around what the network answers to, in px of the picture, at any scale."""
    weights = MAKERS[layout](tmp_path / f"{layout}.onnx")
    side = 4 if layout == "centerface" else 8
    squares = [(40, 64), (200, 96)]
    for times in (1, 2):  # a picture twice as large is brought to the network's size
        big = np.kron(painted(320, 192, squares, side), np.ones((times, times, 1), np.uint8))
        found = FaceDetector(FaceDetectorConfig(weights=weights, layout=layout, size_px=320, min_score=0.6)).find(big)  # type: ignore[arg-type]
        assert len(found) == 2 and found.points is not None and (found.scores > 0.9).all()
        order = np.argsort(found.boxes[:, 0])
        for i, (left, top) in zip(order, squares, strict=True):
            corner = np.array([left + side / 2 - FACE_WIDE / 2, top + side / 2 - FACE_TALL / 2])
            box = np.concatenate([corner, np.add(corner, (FACE_WIDE, FACE_TALL))]) * times
            assert np.allclose(found.boxes[i], box, atol=0.1 * times)
            assert np.allclose(found.points[i], (corner + MARKS * [FACE_WIDE, FACE_TALL]) * times, atol=0.1 * times)


def test_nothing_bright_is_no_face(tmp_path: Path) -> None:
    """A picture without a face gives no box; a box over the edge is cut to the picture."""
    detector = FaceDetector(FaceDetectorConfig(weights=picture_nets.yunet(tmp_path / "f.onnx"), size_px=320))
    assert len(detector.find(painted(320, 192, []))) == 0
    assert detector.find(painted(320, 192, [(0, 0)])).boxes[0].tolist() == pytest.approx(
        [0, 0, 4 + FACE_WIDE / 2, 4 + FACE_TALL / 2], abs=0.1
    )


def test_a_fixed_input_is_kept_to(tmp_path: Path) -> None:
    """A file that fixes its input, as YuNet's published one does, is shown pictures of any shape in that size."""
    weights = picture_nets.yunet(tmp_path / "f.onnx", (320, 320))
    found = FaceDetector(FaceDetectorConfig(weights=weights)).find(np.kron(painted(160, 300, [(80, 160)]), np.ones((2, 2, 1), np.uint8)))
    # 320 x 600 px stand in 320 x 320 at 0.533, where the square of 16 px is somewhat larger than a cell.
    assert len(found) >= 1 and np.abs((found.boxes[0, :2] + found.boxes[0, 2:]) / 2 - [168, 328]).max() < 12


def test_yunet_is_decoded_as_opencv_decodes_it(tmp_path: Path) -> None:
    """On one file and one picture, OpenCV's own FaceDetectorYN gives the same boxes, landmarks and scores."""
    weights = picture_nets.yunet(tmp_path / "f.onnx")
    picture = painted(320, 192, [(40, 64), (200, 96), (264, 16)])
    ours = FaceDetector(FaceDetectorConfig(weights=weights, size_px=320)).find(picture)
    theirs = cv2.FaceDetectorYN.create(weights, "", (320, 192), 0.7, 0.3).detect(picture[..., ::-1])[1]
    assert ours.points is not None and len(theirs) == len(ours) == 3
    a, b = np.argsort(ours.boxes[:, 0]), np.argsort(theirs[:, 0])
    for i, j in zip(a, b, strict=True):
        x, y, wide, tall = theirs[j, :4]
        inside = [max(x, 0), max(y, 0), min(x + wide, 320), min(y + tall, 192)]
        assert np.allclose(ours.boxes[i], inside, atol=0.1) and np.allclose(ours.points[i].reshape(-1), theirs[j, 4:14], atol=0.1)
        assert ours.scores[i] == pytest.approx(theirs[j, 14], abs=1e-3)


def test_wrong_files_are_clear_errors(tmp_path: Path) -> None:
    """A missing file says what to fetch and where to put it; a foreign file, another layout and outputs that are no numbers never find."""
    with pytest.raises(WeightsError, match=r"faces\.weights: expected .*yunet.* at .*none\.onnx, found no file; fetch it"):
        FaceDetector(FaceDetectorConfig(weights=str(tmp_path / "none.onnx")))
    (tmp_path / "noise.onnx").write_bytes(b"not a network")
    with pytest.raises(WeightsError, match="expected an ONNX file"):
        FaceDetector(FaceDetectorConfig(weights=str(tmp_path / "noise.onnx")))
    with pytest.raises(WeightsError, match="expected the layout yunet"):
        FaceDetector(FaceDetectorConfig(weights=picture_nets.centerface(tmp_path / "c.onnx"))).find(painted(64, 64, []))
    other = picture_nets.scrfd(tmp_path / "s.onnx")
    with pytest.raises(WeightsError, match="expected the layout centerface"):
        FaceDetector(FaceDetectorConfig(weights=other, layout="centerface")).find(painted(64, 64, []))
    broken = picture_nets.yunet(tmp_path / "y.onnx", scale=float("nan"))
    with pytest.raises(AnswerError, match="expected finite outputs"):
        FaceDetector(FaceDetectorConfig(weights=broken)).find(painted(64, 64, [(8, 8)]))


def test_identity_is_the_networks_vector_at_length_one(tmp_path: Path) -> None:
    """The vector of an aligned face is that of the network on (x - 127.5) / 127.5, RGB, planes first, over its length."""
    weights, direct = picture_nets.arcface(tmp_path / "id.onnx")
    network = FaceIdentity(IdentityConfig(weights=weights))
    faces = [_draw(k).integers(0, 255, (FACE_PX, FACE_PX, 3)).astype(np.uint8) for k in (1, 2)]
    vectors = network.embed(faces)
    assert vectors.shape == (2, 512) and network.embed([]).shape == (0, 0) and network.name.startswith("id:")
    for face, vector in zip(faces, vectors, strict=True):
        expected = direct(((face.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1))
        assert np.allclose(vector, expected / np.linalg.norm(expected), atol=1e-4)


def test_identity_refuses_other_networks(tmp_path: Path) -> None:
    """No weights, a network of another layout, and a face that is not aligned are errors."""
    with pytest.raises(WeightsError, match=r"identity: expected weights=<file>, found none; needed: .*ArcFace"):
        FaceIdentity(IdentityConfig())
    face = np.zeros((FACE_PX, FACE_PX, 3), np.uint8)
    with pytest.raises(WeightsError, match="expected one finite vector"):
        FaceIdentity(IdentityConfig(weights=picture_nets.centerface(tmp_path / "c.onnx"))).embed([face])
    with pytest.raises(ValueError, match="112 x 112"):
        FaceIdentity(IdentityConfig(weights=picture_nets.arcface(tmp_path / "i.onnx")[0])).embed([face[:64]])
