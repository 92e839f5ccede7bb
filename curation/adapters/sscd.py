"""SSCD, a network for copy detection, from a local TorchScript file: a descriptor of a clip's middle frame.

Movie Gen drops a clip whose copy descriptor (Pizzi et al., A Self-Supervised Descriptor for Image Copy Detection, 2022) is within cosine
0.99 of another's (Data, three filter stages). The public files (sscd_disc_mixup.torchscript.pt and its like) take pictures of 288 x 288,
float32 [n, 3, 288, 288] in 0..1 less ImageNet's mean over its deviation, and give [n, 512]. Any file with that layout fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from curation.adapters.weights import WeightsError, digest_of, load_torchscript, need_file
from curation.keyframes import KeyFrame, KeyFrameError, Picture, decode_all, spread
from manifests.records import Clip

_WHAT = "a TorchScript file of SSCD: pictures [n, 3, 288, 288] -> descriptors [n, d]"

VERSION = "1"
"""Version of how pictures are chosen and prepared; which weights they are is part of the settings."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SscdConfig:
    """Which network, and where it lies. `weights=None` means: not run."""

    weights: str | None = None
    size_px: int = 288  # SSCD's inference size
    batch: int = 32  # pictures that go through the network at once
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.size_px, self.batch) < 1:
            raise ValueError(f"sscd: expected at least 1 px and picture, found {self.size_px}, {self.batch}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDescriptor:
    """The copy descriptor of a clip, of length 1 (L2), for the vectors table; null where the network was not run or could not."""

    clip_id: str
    model: str | None = None
    vector: list[float] | None = None
    error_code: str | None = None
    error_detail: str | None = None


class DescribeCopies:
    """Describes the middle key frame of each clip. Loads the weights once; does nothing when the config names none."""

    def __init__(self, cfg: SscdConfig) -> None:
        self.cfg = cfg
        self.name: str | None = None
        if cfg.weights is not None:
            path = need_file(cfg.weights, "sscd.weights", _WHAT)
            self._model = load_torchscript(path, "sscd.weights", cfg.device)
            self.name = f"{path.name.split('.')[0]}:{digest_of(path)}"

    def __call__(self, batch: Sequence[tuple[Clip, list[KeyFrame]]]) -> list[CopyDescriptor]:
        """One descriptor a clip, in order. Sound and a stage without weights give null vectors, without an error."""
        read = [self._pictures(clip, frames) for clip, frames in batch]
        vectors = self._embed([p for _, pictures in read for p in pictures])
        found, at = [], 0
        for empty, pictures in read:
            own, at = vectors[at : at + len(pictures)], at + len(pictures)
            found.append(self._descriptor(empty, own) if len(own) else empty)
        return found

    def _descriptor(self, empty: CopyDescriptor, own: Vectors) -> CopyDescriptor:
        if not np.isfinite(own).all():
            detail = f"sscd {self.name}: clip {empty.clip_id}: expected finite descriptors that are not zero, found others"
            return replace(empty, error_code="model_failed", error_detail=detail)
        return replace(empty, model=self.name, vector=own[0].tolist())

    def _pictures(self, clip: Clip, frames: list[KeyFrame]) -> tuple[CopyDescriptor, list[Picture]]:
        """The pictures to describe, or none with the record that says why."""
        if self.name is None or clip.kind == "audio":
            return CopyDescriptor(clip_id=clip.clip_id), []
        try:
            return CopyDescriptor(clip_id=clip.clip_id), decode_all(clip.clip_id, spread(frames, 1))  # the middle one in time
        except KeyFrameError as e:
            return CopyDescriptor(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e)), []

    def _embed(self, pictures: Sequence[Picture]) -> Vectors:
        """Descriptors [n, d] of length 1, and nan for what is no number or has no direction."""
        import torch

        found = []
        for start in range(0, len(pictures), self.cfg.batch):
            shaped = np.stack([self._shaped(p) for p in pictures[start : start + self.cfg.batch]])
            with torch.inference_mode():
                out = self._model(torch.from_numpy(shaped).to(self.cfg.device))
            if not isinstance(out, torch.Tensor) or out.ndim != 2 or len(out) != len(shaped):
                raise WeightsError(f"sscd {self.name}: expected descriptors [{len(shaped)}, d], found {getattr(out, 'shape', type(out))}")
            vectors = out.float().cpu().numpy()
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            length[~((length > 0) & (length < np.inf))] = np.nan
            found.append((vectors / length).astype(np.float32))
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def _shaped(self, picture: Picture) -> np.ndarray:
        """The whole picture squeezed to a square, [3, size, size], normalised: a crop would lose what a copy keeps."""
        small = cv2.resize(picture, (self.cfg.size_px,) * 2, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        return np.ascontiguousarray(((small - np.array(self.cfg.mean, np.float32)) / np.array(self.cfg.std, np.float32)).transpose(2, 0, 1))
