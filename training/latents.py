"""The frozen autoencoder of a generator: pixels to latents of mean 0 and deviation 1 a channel, and back.

Flow matching begins at N(0, I), so latents are brought to that scale by each channel's mean and deviation over training clips, measured
once, kept with the run and inherited by the stages after it. The posterior's mean is the code: its deviation is far below the noise.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.errors import TrainingError
from training.export import CONFIG, WEIGHTS
from training.models.autoencoder import TAE, TAEConfig
from training.tiling import TilingConfig, decode_tiled, encode_tiled

TILING = TilingConfig()
"""The paper's tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentScale:
    """Mean and deviation of each latent channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class LatentCodec:
    """Encode and decode with frozen weights on any device; it is not trained, so it is no part of the engine."""

    def __init__(self, tae: TAE, scale: LatentScale, sha256: str = "", memory_bytes: int = 0) -> None:
        """With `memory_bytes`, latents are kept by the content of their pixels: worth it where the same crops come back.

        Clips longer than a tile are encoded and decoded in the paper's tiles: what a generator learns on must not depend on what fits.
        """
        self.tae, self.scale, self.sha256 = tae.eval().requires_grad_(False), scale, sha256
        self._room, self._known = memory_bytes, dict[bytes, Tensor]()

    def encode(self, pixels_BCTHW: Tensor) -> Tensor:
        """Latents (B, C, T, H/8, W/8) of pixels in [-1, 1], float32, normalised."""
        return self.normalise(self.mean(pixels_BCTHW))

    def mean(self, pixels_BCTHW: Tensor) -> Tensor:
        """The posterior's mean, float32: `latent_cache.ENCODING` names this way to it. Each clip is encoded alone: its last bits then do not depend on the company it is in, so latents
        made beforehand are those made on the fly."""
        return torch.cat([self._remembered(p[None]) if self._room else self._mean(p[None]) for p in pixels_BCTHW])

    def normalise(self, mean_BCTHW: Tensor) -> Tensor:
        """Latents of mean 0 and deviation 1 a channel, float32, from the posterior's mean."""
        mean = mean_BCTHW.float()
        return (mean - self._column(self.scale.mean, mean)) / self._column(self.scale.std, mean)

    def _remembered(self, pixels_1CTHW: Tensor) -> Tensor:
        content = pixels_1CTHW.float().cpu().contiguous().numpy().tobytes()
        key = hashlib.sha256(content).digest() + f"{pixels_1CTHW.dtype} {tuple(pixels_1CTHW.shape)}".encode()
        if key in self._known:
            return self._known[key]
        mean = self._mean(pixels_1CTHW)
        if len(self._known) * mean.nbytes < self._room:
            self._known[key] = mean
        return mean

    def _mean(self, pixels_1CTHW: Tensor) -> Tensor:
        self._follow(pixels_1CTHW)
        with torch.no_grad():
            return encode_tiled(self.tae, pixels_1CTHW, TILING).mean.float()

    def decode(self, latents_BCTHW: Tensor, n_frames: int) -> Tensor:
        """Pixels (B, 3, n_frames, H, W) in [-1, 1] of normalised latents, float32. The autoencoder computes in the latents' own precision:
        twice the bytes of it are 40 GB at 768 pixels."""
        self._follow(latents_BCTHW)
        z = latents_BCTHW * self._column(self.scale.std, latents_BCTHW) + self._column(self.scale.mean, latents_BCTHW)
        with torch.no_grad():
            return decode_tiled(self.tae, z, n_frames, TILING).float().clamp(-1.0, 1.0)

    def _follow(self, like: Tensor) -> None:
        parameter = next(self.tae.parameters())
        if (parameter.device, parameter.dtype) != (like.device, like.dtype):
            self.tae.to(like.device, like.dtype)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None, None]


def read_export(folder: Path, stage: str, mapped: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, weights) of an export that is whole and of a stage beginning with `stage`; a run's folder may be given too.

    `mapped` weights take no memory until they are looked at, and are to be copied at once: they change with the file."""
    from safetensors.torch import load, load_file

    place = folder / "export" if (folder / "export" / CONFIG).exists() else folder
    try:
        description = json.loads((place / CONFIG).read_bytes())
        with (place / WEIGHTS).open("rb") as file:
            data = b"" if mapped else file.read()
            found = hashlib.file_digest(file, "sha256").hexdigest() if mapped else hashlib.sha256(data).hexdigest()
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: expected the export of a finished run ({CONFIG}, {WEIGHTS}), found {error}") from error
    if not str(description.get("stage")).startswith(stage):
        raise TrainingError(f"{place}: expected the export of stage {stage}, found {description.get('stage')}")
    if found != description.get("sha256"):
        raise TrainingError(f"{place / WEIGHTS}: expected SHA-256 {description.get('sha256')}, found {found}")
    return description, load_file(place / WEIGHTS) if mapped else load(data)


def placed(weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of mapped weights on the device, in `dtype` but for whole numbers. Tensor by tensor, and taken out of `weights`: beside the
    copies no more than one of them lies in memory."""
    copies = {}
    for name in list(weights):
        value = weights.pop(name)
        copies[name] = value.to(device, dtype if value.is_floating_point() else value.dtype, copy=True)
    return copies


def load_tae(folder: Path, stage: str = "tae") -> tuple[TAE, str]:
    """(autoencoder, SHA-256 of its weights) of an export of `dailies train tae`, or of another `stage`: image_ae."""
    description, state = read_export(folder, stage)
    try:
        sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in description["model"].items()}
        with torch.device("meta"):
            tae = TAE(TAEConfig(**sizes))
        tae.load_state_dict(state, strict=True, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{folder}: expected an autoencoder of this version, found {str(error)[:300]}") from error
    return tae, str(description["sha256"])


def measure_scale(tae: TAE, clips: Iterable[Tensor]) -> LatentScale:
    """Each channel's mean and deviation over all positions of the clips' latents; clips are (3, T, H, W) in [-1, 1]."""
    codec = LatentCodec(tae, LatentScale(mean=(0.0,) * tae.config.latent_channels, std=(1.0,) * tae.config.latent_channels))
    values = [codec.encode(clip[None])[0].flatten(1).double() for clip in clips]
    if not values:
        raise TrainingError("latents: expected at least one clip to measure their scale on, found none")
    joined = torch.cat(values, 1)
    return LatentScale(mean=tuple(joined.mean(1).tolist()), std=tuple(joined.std(1, correction=0).clamp_min(1e-4).tolist()))
