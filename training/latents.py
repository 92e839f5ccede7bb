"""The frozen autoencoder of a generator: pixels to latents of mean 0 and deviation 1 a channel, and back.

Flow matching begins at N(0, I), so latents are brought to that scale by each channel's mean and deviation over training clips, measured
once, kept with the run and inherited by the stages after it. The posterior's mean is the code: its deviation is far below the noise.

Means that were made beforehand lie under <folder>/tae-<16 digits of the weights' SHA-256>/, kept by content, never by row:

    <2 digits>/<SHA-256 of the payload>-<16 digits of what was done to it>.safetensors

What was done: window, size and rate, precision, and all of the weights' digest. A file that is damaged counts as not there.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.files import write_atomic
from manifests.ids import digest
from training.data.batch import DataConfig, transform_of
from training.data.index import Sample
from training.errors import TrainingError
from training.export import CONFIG, WEIGHTS
from training.models.autoencoder import TAE, TAEConfig

_ENCODING = "mean/v1"
"""Names what `LatentCodec.mean` computes: another way to the mean, tiles for one, is another name, so that no old latent answers for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentScale:
    """Mean and deviation of each latent channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class LatentCodec:
    """Encode and decode with frozen weights on any device; it is not trained, so it is no part of the engine."""

    def __init__(self, tae: TAE, scale: LatentScale, sha256: str = "", memory_bytes: int = 0) -> None:
        """With `memory_bytes`, latents are kept by the content of their pixels: worth it where the same crops come back."""
        self.tae, self.scale, self.sha256 = tae.eval().requires_grad_(False), scale, sha256
        self._room, self._known = memory_bytes, dict[bytes, Tensor]()

    def encode(self, pixels_BCTHW: Tensor) -> Tensor:
        """Latents (B, C, T, H/8, W/8) of pixels in [-1, 1], float32, normalised."""
        return self.normalise(self.mean(pixels_BCTHW))

    def mean(self, pixels_BCTHW: Tensor) -> Tensor:
        """The posterior's mean, float32. Each clip is encoded alone: its last bits then do not depend on the company it is in, so latents
        made beforehand are those made on the fly."""
        return torch.cat([self._remembered(p[None]) if self._room else self._mean(p[None]) for p in pixels_BCTHW])

    def normalise(self, mean_BCTHW: Tensor) -> Tensor:
        """Latents of mean 0 and deviation 1 a channel, float32, from the posterior's mean."""
        mean = mean_BCTHW.float()
        return (mean - self._column(self.scale.mean, mean)) / self._column(self.scale.std, mean)

    def _remembered(self, pixels_1CTHW: Tensor) -> Tensor:
        content = pixels_1CTHW.float().cpu().contiguous().numpy().tobytes()
        key = hashlib.sha256(content).digest() + str(pixels_1CTHW.dtype).encode()
        if key in self._known:
            return self._known[key]
        mean = self._mean(pixels_1CTHW)
        if len(self._known) * mean.nbytes < self._room:
            self._known[key] = mean
        return mean

    def _mean(self, pixels_1CTHW: Tensor) -> Tensor:
        self._follow(pixels_1CTHW)
        with torch.no_grad():
            return self.tae.encode(pixels_1CTHW).mean.float()

    def decode(self, latents_BCTHW: Tensor, n_frames: int) -> Tensor:
        """Pixels (B, 3, n_frames, H, W) in [-1, 1] of normalised latents, float32."""
        self._follow(latents_BCTHW)
        z = latents_BCTHW * self._column(self.scale.std, latents_BCTHW) + self._column(self.scale.mean, latents_BCTHW)
        with torch.no_grad():
            return self.tae.decode(z, n_frames).float().clamp(-1.0, 1.0)

    def _follow(self, like: Tensor) -> None:
        parameter = next(self.tae.parameters())
        if (parameter.device, parameter.dtype) != (like.device, like.dtype):
            self.tae.to(like.device, like.dtype)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None, None]


class LatentCache:
    """Means made beforehand by the autoencoder with these weights, computing in `precision`. Processes may share the folder."""

    def __init__(self, folder: Path, tae_sha256: str, precision: str) -> None:
        self._folder, self._sha256, self._precision = folder / f"tae-{tae_sha256[:16]}", tae_sha256, precision

    def path(self, sample: Sample, config: DataConfig) -> Path:
        """Where the sample's mean lies, if it was made."""
        done = digest("latent/v1", _ENCODING, self._sha256, self._precision, transform_of(sample, config))
        name = sample.sha256.hex()
        return self._folder / name[:2] / f"{name}-{done[:16]}.safetensors"

    def has(self, sample: Sample, config: DataConfig) -> bool:
        """Whether there is a file for it; only `read` says whether it is whole."""
        return self.path(sample, config).exists()

    def read(self, sample: Sample, config: DataConfig) -> Tensor | None:
        """The mean (C, T, H/8, W/8), float32; None when it was not made or is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self.path(sample, config).read_bytes())["mean"].float()
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def write(self, sample: Sample, config: DataConfig, mean_CTHW: Tensor) -> None:
        """The mean is kept, in the precision it was computed in."""
        from safetensors.torch import save

        dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
        write_atomic(self.path(sample, config), save({"mean": mean_CTHW.to("cpu", dtype).contiguous()}))


def forget_latents(folder: Path, sha256s: Iterable[bytes]) -> int:
    """No latents of these payloads are in the folder of a `LatentCache`, whatever weights made them; returns how many files were."""
    found = [path for name in (s.hex() for s in sha256s) for path in folder.glob(f"tae-*/{name[:2]}/{name}-*.safetensors")]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def read_export(folder: Path, stage: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, weights) of an export that is whole and of a stage beginning with `stage`; a run's folder may be given too."""
    from safetensors.torch import load

    place = folder / "export" if (folder / "export" / CONFIG).exists() else folder
    try:
        description = json.loads((place / CONFIG).read_bytes())
        data = (place / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: expected the export of a finished run ({CONFIG}, {WEIGHTS}), found {error}") from error
    if not str(description.get("stage")).startswith(stage):
        raise TrainingError(f"{place}: expected the export of stage {stage}, found {description.get('stage')}")
    if (found := hashlib.sha256(data).hexdigest()) != description["sha256"]:
        raise TrainingError(f"{place / WEIGHTS}: expected SHA-256 {description['sha256']}, found {found}")
    return description, load(data)


def load_tae(folder: Path) -> tuple[TAE, str]:
    """(autoencoder, SHA-256 of its weights) of an export of `dailies train tae`."""
    description, state = read_export(folder, "tae")
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in description["model"].items()}
    with torch.device("meta"):
        tae = TAE(TAEConfig(**sizes))
    tae.load_state_dict(state, strict=True, assign=True)
    return tae, str(description["sha256"])


def measure_scale(tae: TAE, clips: Iterable[Tensor]) -> LatentScale:
    """Each channel's mean and deviation over all positions of the clips' latents; clips are (3, T, H, W) in [-1, 1]."""
    codec = LatentCodec(tae, LatentScale(mean=(0.0,) * tae.config.latent_channels, std=(1.0,) * tae.config.latent_channels))
    values = [codec.encode(clip[None])[0].flatten(1).double() for clip in clips]
    if not values:
        raise TrainingError("latents: expected at least one clip to measure their scale on, found none")
    joined = torch.cat(values, 1)
    return LatentScale(mean=tuple(joined.mean(1).tolist()), std=tuple(joined.std(1, correction=0).clamp_min(1e-4).tolist()))
