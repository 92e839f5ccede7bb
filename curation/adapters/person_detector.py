"""A person detector from a local ONNX or TorchScript file: boxes and scores of one class.

Four layouts that public weights have are read; all take [1, 3, size, size]:

- `yolo`: [1, 4 + classes, n], centre and size in px of the input, class probabilities (YOLOv8, v9, 11); RGB 0..1 in;
- `yolox`: [1, n, 5 + classes], offsets and log sizes in strides of 8, 16 and 32, objectness, class probabilities (YOLOX, Apache 2.0); BGR 0..255 in;
- `rows`: [1, n, 6] or [n, 6], x1, y1, x2, y2 in px of the input, score, class (YOLOv10, and any export with its suppression inside); RGB 0..1 in;
- `detr`: logits [1, n, classes] and then boxes [1, n, 4], centre and size as shares (RT-DETR, D-FINE, Apache 2.0); RGB 0..1, stretched, in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from curation.adapters.weights import AnswerError, WeightsError, digest_of, load_onnx, load_torchscript, need_file
from curation.faces import Floats, Found, fit, suppress
from curation.keyframes import Picture

_WHAT = "an ONNX or TorchScript file of a detector of people (YOLOX, RT-DETR, D-FINE or of the YOLO family)"
_GREY = 114  # what the YOLO family was trained to see around a picture
_LOG_MOST = 12.0  # a log size above it is no size


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonDetectorConfig:
    """Which network, and where it lies. `weights=None` means: not run."""

    weights: str | None = None
    layout: Literal["yolo", "yolox", "rows", "detr"] = "yolox"
    size_px: int = 640
    person_class: int = 0  # of COCO's 80; in lists that begin with a background class or have COCO's own numbers: 1
    min_score: float = 0.5
    overlap: float = 0.65  # more intersection over union is the same person (YOLOX's evaluation)
    device: str = "cpu"


class PersonDetector:
    """Finds people; loaded once."""

    def __init__(self, cfg: PersonDetectorConfig) -> None:
        if cfg.weights is None:
            raise WeightsError(f"persons: expected weights=<file>, found none; needed: {_WHAT}")
        path = need_file(cfg.weights, "persons.weights", _WHAT)
        self.cfg = cfg
        self._onnx = load_onnx(path, "persons.weights") if path.suffix == ".onnx" else None
        self._torch = None if self._onnx is not None else load_torchscript(path, "persons.weights", cfg.device)
        self.name = f"{path.stem}:{digest_of(path)}"

    def find(self, picture: Picture) -> Found:
        """The people in an RGB picture, best first, in its px. Raises AnswerError where an output is no number."""
        size = self.cfg.size_px
        tall, wide = picture.shape[:2]
        if self.cfg.layout == "detr":
            canvas = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if max(tall, wide) > size else cv2.INTER_LINEAR)
            across, down = wide / size, tall / size
        else:
            canvas, scale = fit(picture, size, size, _GREY)
            across = down = 1 / scale
        try:
            found = _DECODERS[self.cfg.layout](self._run(_shaped(np.asarray(canvas, np.uint8), self.cfg.layout)), self.cfg)
        except WeightsError:
            raise
        except Exception as e:  # onnxruntime, torch and numpy raise many types where a file has another layout; each is the same news
            raise WeightsError(f"persons {self.name}: expected the layout {self.cfg.layout}, found {str(e)[:200]}") from e
        if not found.finite():
            raise AnswerError(f"persons {self.name}: expected finite outputs, found others")
        found = found.only(found.scores >= self.cfg.min_score)
        return suppress(found.scaled(across, down).within(wide, tall), self.cfg.overlap)

    def _run(self, values: Floats) -> list[Floats]:
        if self._onnx is not None:
            return [np.asarray(a, np.float32) for a in self._onnx.run(None, {self._onnx.get_inputs()[0].name: values})]
        import torch

        with torch.inference_mode():
            found: Any = self._torch(torch.from_numpy(values).to(self.cfg.device))  # type: ignore[misc]
        return [t.float().cpu().numpy() for t in (found if isinstance(found, (tuple, list)) else (found,))]


def _shaped(canvas: Picture, layout: str) -> Floats:
    values = canvas[..., ::-1].astype(np.float32) if layout == "yolox" else canvas.astype(np.float32) / 255
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def _corners(boxes: Floats) -> Floats:
    """x1, y1, x2, y2 of centre and size."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def _of_class(scores: Floats, cfg: PersonDetectorConfig) -> Floats:
    """The column of people; a class that is not there is an error, not another class."""
    if not 0 <= cfg.person_class < scores.shape[1]:
        raise WeightsError(f"persons: expected a class {cfg.person_class}, found {scores.shape[1]} classes")
    return scores[:, cfg.person_class]


def _yolo(out: list[Floats], cfg: PersonDetectorConfig) -> Found:
    rows = out[0].reshape(out[0].shape[-2:]).T
    return Found(_corners(rows[:, :4]), _of_class(rows[:, 4:], cfg))


def _yolox(out: list[Floats], cfg: PersonDetectorConfig) -> Found:
    rows = out[0].reshape(out[0].shape[-2:])
    cells, steps = [], []
    for stride in (8, 16, 32):
        side = cfg.size_px // stride
        down, across = np.divmod(np.arange(side * side), side)
        cells.append(np.stack([across, down], 1))
        steps.append(np.full((side * side, 1), stride))
    cell, step = np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)
    centre, size = (rows[:, :2] + cell) * step, np.exp(np.minimum(rows[:, 2:4], _LOG_MOST)) * step
    return Found(_corners(np.concatenate([centre, size], 1)), rows[:, 4] * _of_class(rows[:, 5:], cfg))


def _rows(out: list[Floats], cfg: PersonDetectorConfig) -> Found:
    rows = out[0].reshape(-1, 6)
    rows = rows[np.rint(rows[:, 5]) == cfg.person_class]
    return Found(rows[:, :4], rows[:, 4])


def _detr(out: list[Floats], cfg: PersonDetectorConfig) -> Found:
    logits, boxes = (a.reshape(a.shape[-2:]) for a in out[:2])
    scores = 1 / (1 + np.exp(-np.clip(_of_class(logits, cfg), -50, 50)))
    return Found(_corners(boxes.reshape(-1, 4)) * cfg.size_px, np.asarray(scores, np.float32))


_DECODERS: dict[str, Callable[[list[Floats], PersonDetectorConfig], Found]] = {"yolo": _yolo, "yolox": _yolox, "rows": _rows, "detr": _detr}
