"""A joint model of picture and sound from a local file: how well a clip's sound belongs to its pictures.

Movie Gen takes the cosine of CAVTP, a contrastive model of sound, video and text that was not published (Audio data, diegetic score).
Any TorchScript module fits that takes pictures, float32 [1, frames, 3, size, size] in 0..1 less `mean` over `std`, and mono sound,
float32 [1, n] at `rate_hz`, and gives their two embeddings, [1, d] each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.adapters.audio_tagger import resample
from curation.adapters.weights import AnswerError, WeightsError, digest_of, load_torchscript, need_file
from curation.keyframes import Picture
from curation.soundtrack import Samples

_WHAT = "a TorchScript file of a joint model: (pictures [1, frames, 3, size, size], sound [1, n]) -> (embedding [1, d], embedding [1, d])"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementConfig:
    """Which network, and where it lies. `weights=None` means: not run."""

    weights: str | None = None
    size_px: int = 224
    max_frames: int = 8
    rate_hz: int = 16_000
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    device: str = "cpu"


class AudioVideoAgreement:
    """Scores how picture and sound agree; loaded once."""

    def __init__(self, cfg: AgreementConfig) -> None:
        if cfg.weights is None:
            raise WeightsError(f"agreement: expected weights=<file>, found none; needed: {_WHAT}")
        weights = need_file(cfg.weights, "agreement.weights", _WHAT)
        self.cfg = cfg
        self._model = load_torchscript(weights, "agreement.weights", cfg.device)
        self.name = f"{weights.stem}:{digest_of(weights)}"

    def similarity(self, pictures: Sequence[Picture], sound: Samples) -> float:
        """The cosine of the embeddings of pictures, RGB in order of time, and sound at 16 kHz, -1..1. Raises AnswerError where it is no number."""
        import torch

        shaped = np.stack([self._shaped(p) for p in pictures])[None]
        heard = resample(sound, self.cfg.rate_hz)[None]
        with torch.inference_mode():
            found = self._model(torch.from_numpy(shaped).to(self.cfg.device), torch.from_numpy(heard).to(self.cfg.device))
            if not isinstance(found, tuple) or len(found) != 2 or found[0].shape != found[1].shape:
                raise WeightsError(f"agreement {self.name}: expected two embeddings of one shape, found {type(found).__name__}")
            cosine = float(torch.nn.functional.cosine_similarity(found[0].float().reshape(1, -1), found[1].float().reshape(1, -1))[0])
        if not np.isfinite(cosine):
            raise AnswerError(f"agreement {self.name}: expected a finite cosine, found {cosine}")
        return cosine

    def _shaped(self, picture: Picture) -> np.ndarray:
        """The middle square of the picture, [3, size, size], normalised."""
        import cv2

        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        small = cv2.resize(picture[top : top + side, left : left + side], (self.cfg.size_px,) * 2, interpolation=cv2.INTER_AREA)
        values = (small.astype(np.float32) / 255 - np.array(self.cfg.mean, np.float32)) / np.array(self.cfg.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))
