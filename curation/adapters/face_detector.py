"""A face detector from a local ONNX file: boxes, scores and five landmarks.

Three layouts that public weights have are read:

- `yunet`: OpenCV Zoo's YuNet (`face_detection_yunet_2023mar.onnx`, MIT): outputs cls_8 … kps_32, BGR 0..255 in;
- `scrfd`: InsightFace's SCRFD (`det_10g.onnx` and kin; weights for research only): scores, distances to the sides, landmarks at strides
  8, 16 and 32, RGB (x - 127.5) / 128 in; files without landmarks serve, but give no identity;
- `centerface`: CenterFace (MIT): heatmap, log size, offset, landmarks at stride 4, RGB 0..255 in. The file as published has inputs of
  32 px; give height and width free names first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from curation.adapters.weights import AnswerError, WeightsError, digest_of, load_onnx, need_file
from curation.faces import Floats, Found, fit, suppress
from curation.keyframes import Picture

_WHAT = "the ONNX file of a face detector in the layout of YuNet (OpenCV Zoo's face_detection_yunet_2023mar.onnx), SCRFD or CenterFace"
_STEP = 32  # sides are multiples of the coarsest stride
_STRIDES = (8, 16, 32)
_LOG_MOST = 12.0  # a log size above it is no size


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceDetectorConfig:
    """Which network, and where it lies. `weights=None` means: not run."""

    weights: str | None = None
    layout: Literal["yunet", "scrfd", "centerface"] = "yunet"
    size_px: int = 640  # long side that pictures are brought to, where the file does not fix it; all three are published at 640
    min_score: float = 0.7  # ours: between the 0.9 of OpenCV's sample for YuNet and the 0.5 usual for the other two
    overlap: float = 0.3  # more intersection over union is the same face (OpenCV's sample)


class FaceDetector:
    """Finds faces; loaded once."""

    def __init__(self, cfg: FaceDetectorConfig) -> None:
        if cfg.weights is None:
            raise WeightsError(f"faces: expected weights=<file>, found none; needed: {_WHAT}")
        path = need_file(cfg.weights, "faces.weights", _WHAT)
        self.cfg = cfg
        self._session = load_onnx(path, "faces.weights")
        self._input = self._session.get_inputs()[0]
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.name = f"{path.stem}:{digest_of(path)}"

    def find(self, picture: Picture) -> Found:
        """The faces in an RGB picture, best first, in its px. Raises AnswerError where an output is no number."""
        width, height = self._size(picture)
        canvas, scale = fit(picture, width, height)
        try:
            answers = self._session.run(None, {self._input.name: _shaped(canvas, self.cfg.layout)})
            found = _DECODERS[self.cfg.layout](dict(zip(self._outputs, answers, strict=True)), width, height)
        except WeightsError:
            raise
        except Exception as e:  # onnxruntime and numpy raise many types where a file has another layout; each is the same news
            raise WeightsError(f"faces {self.name}: expected the layout {self.cfg.layout}, found {str(e)[:200]}") from e
        if not found.finite():
            raise AnswerError(f"faces {self.name}: expected finite outputs, found others")
        found = found.only(found.scores >= self.cfg.min_score)
        return suppress(found.scaled(1 / scale, 1 / scale).within(picture.shape[1], picture.shape[0]), self.cfg.overlap)

    def _size(self, picture: Picture) -> tuple[int, int]:
        """Width and height of the network's input: as the file says, else the picture's with its long side at `size_px`, in steps of 32."""
        height, width = self._input.shape[2:4]
        if isinstance(height, int) and isinstance(width, int):
            return width, height
        tall, wide = picture.shape[:2]
        scale = self.cfg.size_px / max(tall, wide)
        return _STEP * max(1, -(-round(wide * scale) // _STEP)), _STEP * max(1, -(-round(tall * scale) // _STEP))


def _shaped(canvas: Picture, layout: str) -> Floats:
    """[1, 3, height, width] float32, as the layout's networks were trained."""
    values = canvas.astype(np.float32)
    if layout == "yunet":
        values = values[..., ::-1]
    elif layout == "scrfd":
        values = (values - np.float32(127.5)) / np.float32(128)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def _cells(width: int, height: int, stride: int) -> Floats:
    """Column and row [cells, 2] of the cells of a stride, row by row."""
    rows, columns = np.divmod(np.arange((width // stride) * (height // stride)), width // stride)
    return np.stack([columns, rows], 1).astype(np.float32)


def _yunet(out: Mapping[str, Floats], width: int, height: int) -> Found:
    """Score = sqrt(class x object); centre = cell + offset; size = exp(log size); landmarks = cell + offset; all in strides."""
    parts = []
    for s in _STRIDES:
        cell, box, points = _cells(width, height, s), out[f"bbox_{s}"].reshape(-1, 4), out[f"kps_{s}"].reshape(-1, 5, 2)
        score = np.sqrt(np.clip(out[f"cls_{s}"].reshape(-1), 0, 1) * np.clip(out[f"obj_{s}"].reshape(-1), 0, 1))
        centre, half = cell + box[:, :2], np.exp(np.minimum(box[:, 2:], _LOG_MOST)) / 2
        parts.append((np.concatenate([centre - half, centre + half], 1) * s, score, (points + cell[:, None]) * s))
    return _joined(parts)


def _scrfd(out: Mapping[str, Floats], width: int, height: int) -> Found:
    """Distances, in strides, of the sides and landmarks from the cell's corner; as many anchors a cell as the rows say."""
    of_width: dict[int, list[Floats]] = {}
    for answer in out.values():
        of_width.setdefault(answer.shape[-1], []).append(answer.reshape(-1, answer.shape[-1]))
    kinds = {k: sorted(v, key=len, reverse=True) for k, v in of_width.items()}  # the finest stride has the most rows
    parts = []
    for i, s in enumerate(_STRIDES):
        cell = _cells(width, height, s)
        score, reach = kinds[1][i].reshape(-1), kinds[4][i]
        at = np.repeat(cell, len(score) // len(cell), axis=0)
        box = np.concatenate([at - reach[:, :2], at + reach[:, 2:]], 1) * s
        points = (at[:, None] + kinds[10][i].reshape(-1, 5, 2)) * s if 10 in kinds else None
        parts.append((box, score, points))
    return _joined(parts)


def _centerface(out: Mapping[str, Floats], width: int, height: int) -> Found:
    """Size = 4 exp(log size); centre = 4 (cell + 0.5 + offset); landmarks in shares of the box. Down comes before across."""
    heat, size, offset, points = (a.reshape(a.shape[1], -1).T for a in out.values())
    across_down = slice(None, None, -1)
    sides = 4 * np.exp(np.minimum(size[:, across_down], _LOG_MOST))
    corner = (_cells(width, height, 4) + 0.5 + offset[:, across_down]) * 4 - sides / 2
    # Shares are of the box inside the picture, whose corner is moved there (as the network's own decoder has it).
    corner = np.clip(corner, 0, None)
    marks = corner[:, None] + points.reshape(-1, 5, 2)[..., across_down] * sides[:, None]
    return _joined([(np.concatenate([corner, corner + sides], 1), heat[:, 0], marks)])


def _joined(parts: Sequence[tuple[Floats, Floats, Floats | None]]) -> Found:
    boxes, scores, points = zip(*parts, strict=True)
    marks = [p for p in points if p is not None]
    return Found(np.concatenate(boxes), np.concatenate(scores), np.concatenate(marks) if len(marks) == len(parts) else None)


_DECODERS: dict[str, Callable[[Mapping[str, Floats], int, int], Found]] = {"yunet": _yunet, "scrfd": _scrfd, "centerface": _centerface}
