"""Tiny networks on pictures in the layouts of public detectors: they answer where a picture is bright, so the truth is where it was painted."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.onnx_maker import _bytes, _node, _number, _tensor, _value

FACE_WIDE, FACE_TALL = 32, 48
"""Size in px of every face that the face networks find, around a bright cell."""
MARKS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]], np.float32)
"""Its landmarks as shares of the box."""


def _ints(name: str, values: list[int]) -> bytes:
    return _bytes(5, _bytes(1, name) + b"".join(_number(8, v) for v in values) + _number(20, 7))


def _shape(name: str, values: list[int]) -> bytes:
    return _bytes(5, _number(1, len(values)) + _number(2, 7) + _bytes(8, name) + _bytes(9, np.array(values, "<i8").tobytes()))


def _model(graph: bytes) -> bytes:
    return _number(1, 8) + _bytes(8, _bytes(1, "") + _number(2, 13)) + _bytes(7, graph + _bytes(2, "net"))


def _conv(out: str, stride: int, weight: np.ndarray, bias: np.ndarray) -> bytes:
    """A convolution over cells [k, 3] of the picture: each cell's channel means times the weight, plus the bias."""
    kernel = np.broadcast_to(weight[:, :, None, None] / stride**2, (*weight.shape, stride, stride)).astype(np.float32)
    attributes = _ints("kernel_shape", [stride, stride]) + _ints("strides", [stride, stride])
    return (
        _node("Conv", ["picture", f"{out}_w", f"{out}_b"], out, attributes)
        + _tensor(f"{out}_w", kernel)
        + _tensor(f"{out}_b", bias.astype(np.float32))
    )


def _rows(out: str, stride: int, weight: np.ndarray, bias: np.ndarray, shape: list[int]) -> bytes:
    """As `_conv`, then one row a cell."""
    return (
        _conv(f"{out}_c", stride, weight, bias)
        + _node("Transpose", [f"{out}_c"], f"{out}_t", _ints("perm", [0, 2, 3, 1]))
        + _node("Reshape", [f"{out}_t", f"{out}_s"], out)
        + _shape(f"{out}_s", shape)
    )


def yunet(path: Path, side: tuple[int | str, int | str] = ("h", "w"), scale: float = 1 / 255) -> str:
    """YuNet's layout: a face around each cell of 8 px that is red (channel 2 of BGR)."""
    red = np.array([[0, 0, scale]])
    graph = _value(11, "picture", [1, 3, *side])
    for s in (8, 16, 32):
        points = ((MARKS - 0.5) * [FACE_WIDE, FACE_TALL] / s + 0.5).reshape(-1)
        answers = {"cls": (red, np.zeros(1)), "obj": (np.zeros((1, 3)), np.ones(1)), "kps": (np.zeros((10, 3)), points)}
        answers["bbox"] = (np.zeros((4, 3)), np.array([0.5, 0.5, np.log(FACE_WIDE / s), np.log(FACE_TALL / s)]))
        for name, (weight, bias) in answers.items():
            graph += _rows(f"{name}_{s}", s, weight, bias, [1, -1, len(bias)]) + _value(12, f"{name}_{s}", [1, f"n{s}", len(bias)])
    path.write_bytes(_model(graph))
    return str(path)


def scrfd(path: Path, marks: bool = True) -> str:
    """SCRFD's layout, two anchors a cell: the first finds a face around each cell of 8 px that is red (channel 0 of RGB), the second nothing."""
    red = np.array([[1, 0, 0], [0, 0, 0]])
    graph = _value(11, "picture", [1, 3, "h", "w"])
    for s in (8, 16, 32):
        sides = np.array([FACE_WIDE / 2 - 4, FACE_TALL / 2 - 4, FACE_WIDE / 2 + 4, FACE_TALL / 2 + 4]) / s  # from the corner of the cell
        points = (((MARKS - 0.5) * [FACE_WIDE, FACE_TALL] + 4) / s).reshape(-1)
        answers = {"score": (red, np.array([0.0, -1])), "bbox": (np.zeros((8, 3)), np.tile(sides, 2))}
        if marks:
            answers["kps"] = (np.zeros((20, 3)), np.tile(points, 2))
        for name, (weight, bias) in answers.items():
            graph += _rows(f"{name}_{s}", s, weight, bias, [-1, len(bias) // 2]) + _value(12, f"{name}_{s}", [f"n{s}", len(bias) // 2])
    path.write_bytes(_model(graph))
    return str(path)


def centerface(path: Path) -> str:
    """CenterFace's layout: a face around each cell of 4 px that is red (channel 0 of RGB)."""
    answers = {
        "heat": (np.array([[1 / 255, 0, 0]]), np.zeros(1)),
        "size": (np.zeros((2, 3)), np.log([FACE_TALL / 4, FACE_WIDE / 4])),
        "offset": (np.zeros((2, 3)), np.zeros(2)),
        "marks": (np.zeros((10, 3)), MARKS[:, ::-1].reshape(-1)),
    }
    graph = _value(11, "picture", [1, 3, "h", "w"])
    for name, (weight, bias) in answers.items():
        graph += _conv(name, 4, weight, bias) + _value(12, name, [1, len(bias), "a", "b"])
    path.write_bytes(_model(graph))
    return str(path)


def arcface(path: Path, key: int = 5) -> tuple[str, Any]:
    """ArcFace's layout, [1, 3, 112, 112] -> [1, 512], with random weights; and the same as a function of the normalised picture."""
    draw = np.random.Generator(np.random.Philox(key=key))
    kernel = draw.normal(size=(32, 3, 28, 28)).astype(np.float32)
    attributes = _ints("kernel_shape", [28, 28]) + _ints("strides", [28, 28])
    graph = _value(11, "picture", [1, 3, 112, 112]) + _value(12, "out", [1, 512]) + _tensor("w", kernel)
    graph += _node("Conv", ["picture", "w"], "maps", attributes) + _node("Flatten", ["maps"], "out")
    path.write_bytes(_model(graph))

    def direct(values: np.ndarray) -> np.ndarray:
        blocks = values.reshape(3, 4, 28, 4, 28)
        return np.asarray(np.einsum("cyaxb,kcab->kyx", blocks, kernel).reshape(-1))

    return str(path), direct


def painted(width: int, height: int, cells: list[tuple[int, int]], side: int = 8) -> np.ndarray:
    """A black RGB picture with red squares at these left top corners."""
    picture = np.zeros((height, width, 3), np.uint8)
    for left, top in cells:
        picture[top : top + side, left : left + side, 0] = 255
    return picture
