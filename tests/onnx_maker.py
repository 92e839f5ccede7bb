"""A tiny ONNX network written by hand (protobuf's wire format), so that tests need no package that makes one."""

import numpy as np


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _node(op: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    return _bytes(1, b"".join(_bytes(1, i) for i in inputs) + _bytes(2, output) + _bytes(4, op) + attributes)


def _tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_number(1, d) for d in values.shape)
    return _bytes(5, dims + _number(2, 1) + _bytes(8, name) + _bytes(9, values.astype("<f4").tobytes()))


def _value(field: int, name: str, dims: list[int | str]) -> bytes:
    shape = b"".join(_bytes(1, _number(1, d) if isinstance(d, int) else _bytes(2, d)) for d in dims)
    return _bytes(field, _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, shape))))


def mean_tagger(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """A network of sound [1, n]: sigmoid(mean(|sound|) x weight + bias), [1, classes]."""
    axes = _bytes(5, _bytes(1, "axes") + _number(8, 1) + _number(20, 7))
    graph = (
        _node("Abs", ["sound"], "size")
        + _node("ReduceMean", ["size"], "mean", axes)
        + _node("MatMul", ["mean", "weight"], "scaled")
        + _node("Add", ["scaled", "bias"], "sum")
        + _node("Sigmoid", ["sum"], "out")
        + _bytes(2, "tagger")
        + _tensor("weight", weight[None])
        + _tensor("bias", bias[None])
        + _value(11, "sound", [1, "n"])
        + _value(12, "out", [1, len(bias)])
    )
    return _number(1, 8) + _bytes(8, _bytes(1, "") + _number(2, 13)) + _bytes(7, graph)
