"""Values as bytes for the pipe between us and the process that decodes hostile media.

The child may have been taken over by what it decoded, so its answers are never unpickled: only plain values, arrays, and the frozen
dataclasses of `manifests` and `curation` come back, each rebuilt by its own constructor from values of the declared kinds. Layout: 4-byte length of a JSON header, the
header, then the raw buffers that it counts.
"""

import dataclasses
import importlib
import json
import types
import typing
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

PACKAGES = ("manifests", "curation")
"""Packages whose dataclasses may cross."""

_PLAIN = (bool, int, float, str, bytes, type(None))


class WireError(ValueError):
    """The bytes are not a value that may cross, or the value is not of a kind that can."""


def encode(value: Any) -> bytes:
    """The value as bytes; `decode` gives an equal one. Raises WireError for other types than the module names."""
    buffers: list[bytes] = []
    tree = _pack(value, buffers)
    header = json.dumps({"tree": tree, "sizes": [len(b) for b in buffers]}, allow_nan=True).encode()
    return b"".join([len(header).to_bytes(4, "big"), header, *buffers])


def decode(data: bytes) -> Any:
    """The value that `encode` was given. Raises WireError on anything else; runs no code but constructors of allowed dataclasses."""
    try:
        size = int.from_bytes(data[:4], "big")
        header = json.loads(data[4 : 4 + size])
        buffers, at = [], 4 + size
        for length in header["sizes"]:
            buffers.append(data[at : at + length])
            at += length
        return _unpack(header["tree"], buffers)
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError, ImportError, NameError, RecursionError) as e:
        raise WireError(f"expected an encoded value, found {len(data)} bytes that are none: {e}") from e


def _pack(value: Any, buffers: list[bytes]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bytes):
        buffers.append(value)
        return {"bytes": len(buffers) - 1}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        buffers.append(np.ascontiguousarray(value).tobytes())
        return {"array": len(buffers) - 1, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_pack(v, buffers) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, buffers), _pack(v, buffers)] for k, v in value.items()]}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _pack(getattr(value, f.name), buffers) for f in dataclasses.fields(value)}
        return {"record": [type(value).__module__, type(value).__qualname__], "fields": fields}
    raise WireError(f"expected a plain value, array or dataclass, found {type(value).__name__}")


def _unpack(tree: Any, buffers: list[bytes]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "bytes" in tree:
        return buffers[tree["bytes"]]
    if "array" in tree:
        dtype = np.dtype(tree["dtype"])
        if dtype.kind not in "biuf":
            raise WireError(f"expected a numeric array, found {tree['dtype']}")
        return np.frombuffer(buffers[tree["array"]], dtype).reshape(tree["shape"]).copy()
    if "list" in tree:
        return [_unpack(v, buffers) for v in tree["list"]]
    if "tuple" in tree:
        return tuple(_unpack(v, buffers) for v in tree["tuple"])
    if "dict" in tree:
        return {_unpack(k, buffers): _unpack(v, buffers) for k, v in tree["dict"]}
    if "fraction" in tree:
        return Fraction(*tree["fraction"])
    record = _record(*tree["record"])
    fields = {k: _unpack(v, buffers) for k, v in tree["fields"].items()}
    for name, kinds in _plain_fields(record).items():
        if name in fields and not isinstance(fields[name], kinds):
            raise WireError(f"{record.__name__}.{name}: expected {kinds}, found {type(fields[name]).__name__}")
    return record(**fields)


@lru_cache(maxsize=256)
def _plain_fields(record: type) -> dict[str, tuple[type, ...]]:
    """The classes that a value of each field may have, for fields of plain values: they go into columns, which take nothing else."""
    found = {}
    for name, hint in typing.get_type_hints(record).items():
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if all(k in _PLAIN for k in kinds):
            found[name] = (*kinds, int) if float in kinds else tuple(kinds)
    return found


def _record(module: str, name: str) -> type:
    """The dataclass of that name, from our own packages only."""
    if module.split(".")[0] not in PACKAGES:
        raise WireError(f"expected a dataclass of {' or '.join(PACKAGES)}, found {module}:{name}")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise WireError(f"expected a dataclass, found {module}:{name}")
    return found
