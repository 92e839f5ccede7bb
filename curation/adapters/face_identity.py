"""Who a face is, as a vector: an ArcFace-style network from a local ONNX file on aligned crops of 112 x 112 px.

Public weights of this layout ([1, 3, 112, 112] -> [1, d]): InsightFace's `w600k_r50.onnx`, `glintr100.onnx` and kin (d = 512; for research
only), and OpenCV Zoo's `face_recognition_sface_2021dec.onnx` (d = 128; Apache 2.0; mean 0, std 1). The vectors are biometric data of people.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.adapters.weights import AnswerError, WeightsError, digest_of, load_onnx, need_file
from curation.faces import FACE_PX, Floats
from curation.keyframes import Picture

_WHAT = "the ONNX file of an ArcFace-style network ([1, 3, 112, 112] -> [1, d]), e.g. w600k_r50.onnx or face_recognition_sface_2021dec.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Which network, and where it lies. `weights=None` means: not run."""

    weights: str | None = None
    mean: float = 127.5  # InsightFace's: RGB, (x - 127.5) / 127.5
    std: float = 127.5


class FaceIdentity:
    """Names faces by vectors; loaded once."""

    def __init__(self, cfg: IdentityConfig) -> None:
        if cfg.weights is None:
            raise WeightsError(f"identity: expected weights=<file>, found none; needed: {_WHAT}")
        path = need_file(cfg.weights, "identity.weights", _WHAT)
        self.cfg = cfg
        self._session = load_onnx(path, "identity.weights")
        self.name = f"{path.stem}:{digest_of(path)}"

    def embed(self, faces: Sequence[Picture]) -> Floats:
        """The vectors [n, d], of length 1 (L2), of aligned RGB faces, one at a time: many public files fix the batch at one.

        Raises AnswerError where one is no number or has no direction.
        """
        return np.stack([self._vector(f) for f in faces]) if faces else np.zeros((0, 0), np.float32)

    def _vector(self, face: Picture) -> Floats:
        if face.shape != (FACE_PX, FACE_PX, 3):
            raise ValueError(f"identity: expected a face of {FACE_PX} x {FACE_PX} px, found {face.shape}")
        values = np.ascontiguousarray(((face.astype(np.float32) - self.cfg.mean) / self.cfg.std).transpose(2, 0, 1)[None])
        try:
            out = np.asarray(self._session.run(None, {self._session.get_inputs()[0].name: values})[0], np.float32)
        except Exception as e:  # onnxruntime raises many types where a file has another input; each is the same news
            raise WeightsError(f"identity {self.name}: expected an input [1, 3, {FACE_PX}, {FACE_PX}], found {str(e)[:200]}") from e
        length = float(np.linalg.norm(out))
        if out.ndim != 2 or len(out) != 1:
            raise WeightsError(f"identity {self.name}: expected one finite vector [1, d] that is not zero, found {out.shape}")
        if not np.isfinite(length) or length == 0:
            raise AnswerError(f"identity {self.name}: expected a finite vector that is not zero, found one of length {length:g}")
        return np.asarray(out[0] / length, np.float32)
