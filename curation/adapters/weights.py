"""Files of weights that the networks on sound load: there or not, as what, in which version. Nothing is downloaded."""

import hashlib
from pathlib import Path
from typing import Any

from curation.adapters.open_clip import WeightsError

__all__ = ["AnswerError", "WeightsError", "digest_of", "load_onnx", "load_torchscript", "need_file"]


class AnswerError(RuntimeError):
    """A network that fits answered this picture or sound with what is no number or has no direction: an error of the clip, not of the file."""


def need_file(path: str, key: str, what: str) -> Path:
    """The path, where a file lies. Raises WeightsError that says what to fetch and where to put it."""
    found = Path(path)
    if not found.is_file():
        raise WeightsError(f"{key}: expected {what} at {found}, found no file; fetch it on a machine with a network and put it there")
    return found


def digest_of(path: Path) -> str:
    """The first 12 hexadecimal digits of the file's SHA-256: the version of what was measured."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def load_torchscript(path: Path, key: str, device: str) -> Any:
    """The TorchScript module in the file, in evaluation mode; a program in TorchScript's own language, not Python. Raises WeightsError."""
    import torch

    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as e:
        raise WeightsError(f"{key}: expected a TorchScript file at {path}, found {str(e)[:200]}") from e


def load_onnx(path: Path, key: str) -> Any:
    """An onnxruntime session on the file, on one thread of the processor. Raises WeightsError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the engine that places the workers decides how many cores are used
    options.log_severity_level = 3  # public files of older exporters warn once a weight
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime raises many types on a foreign file; each is the same news
        raise WeightsError(f"{key}: expected an ONNX file at {path}, found {str(e)[:200]}") from e
