"""A predictor of the quality of sound from a local file. In Movie Gen its score, 1 to 10, goes into captions and is never a filter."""

from dataclasses import dataclass

import numpy as np

from curation.adapters.audio_tagger import resample
from curation.adapters.weights import AnswerError, WeightsError, digest_of, load_torchscript, need_file
from curation.soundtrack import Samples

_WHAT = "a TorchScript file of a quality predictor: mono sound [1, n] -> one score, 1 to 10"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundQualityConfig:
    """Which network, and where it lies. `weights=None` means: not run."""

    weights: str | None = None
    rate_hz: int = 16_000
    device: str = "cpu"


class SoundQuality:
    """Predicts the quality of sound; loaded once."""

    def __init__(self, cfg: SoundQualityConfig) -> None:
        if cfg.weights is None:
            raise WeightsError(f"sound quality: expected weights=<file>, found none; needed: {_WHAT}")
        weights = need_file(cfg.weights, "quality.weights", _WHAT)
        self.cfg = cfg
        self._model = load_torchscript(weights, "quality.weights", cfg.device)
        self.name = f"{weights.stem}:{digest_of(weights)}"

    def rate(self, sound: Samples) -> float:
        """The score of mono sound at 16 kHz, held within 1..10. Raises AnswerError where it is no number."""
        import torch

        with torch.inference_mode():
            out = self._model(torch.from_numpy(resample(sound, self.cfg.rate_hz)[None]).to(self.cfg.device)).float().cpu().numpy()
        if out.size != 1:
            raise WeightsError(f"sound quality {self.name}: expected one score, found {out.shape}")
        if not np.isfinite(out).all():
            raise AnswerError(f"sound quality {self.name}: expected a finite score, found {out.reshape(-1)[0]}")
        return float(np.clip(out.reshape(-1)[0], 1, 10))
