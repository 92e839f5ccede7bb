"""The frozen codec of a generator of sound: samples to latents of mean 0 and deviation 1 a channel, and back, of any length.

As `training.latents` has it for pictures: flow matching begins at N(0, I), so latents are brought to that scale by what was measured once
over training windows, kept with the run and inherited by the stages after it. The posterior's mean is the code (Movie Gen Audio, Codec).
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.errors import TrainingError
from training.latents import LatentScale, read_export
from training.models.codec import Codec, CodecConfig, from_public

TILE_FRAMES, MARGIN_FRAMES = 250, 16
"""Long sounds are decoded ten seconds at a time, with so many latents more on either side, which is further than the decoder sees."""


class SoundCodec:
    """Encode and decode with frozen weights on any device, in float32 whatever the engine computes in: rounded once, they would stay so,
    and what is encoded would depend on what was before. It is not trained, so it is no part of the engine."""

    def __init__(self, codec: Codec, scale: LatentScale, sha256: str = "", memory_bytes: int = 0) -> None:
        """With `memory_bytes`, latents are kept by the content of their samples: worth it where the same windows come back."""
        self.codec, self.scale, self.sha256 = codec.float().eval().requires_grad_(False), scale, sha256
        self._room, self._known = memory_bytes, dict[bytes, Tensor]()

    def encode(self, sound_BN: Tensor) -> Tensor:
        """Latents (B, C, N / hop) of samples in [-1, 1], float32, normalised; each sound alone, so that company changes no last bit."""
        mean = torch.cat([self._remembered(sound[None]) for sound in sound_BN.float()])
        return (mean - self._column(self.scale.mean, mean)) / self._column(self.scale.std, mean)

    def decode(self, latents_BCT: Tensor) -> Tensor:
        """Samples (B, T hop) in (-1, 1) of normalised latents, float32."""
        self.codec.to(latents_BCT.device)
        latents, hop = latents_BCT.float(), self.codec.config.hop
        z = latents * self._column(self.scale.std, latents) + self._column(self.scale.mean, latents)
        parts = []
        for start in range(0, z.shape[2], TILE_FRAMES):
            low, end = max(0, start - MARGIN_FRAMES), min(z.shape[2], start + TILE_FRAMES)
            with torch.no_grad():
                made = self.codec.decode(z[:, :, low : min(z.shape[2], end + MARGIN_FRAMES)])
            parts.append(made[:, (start - low) * hop : (end - low) * hop])
        return torch.cat(parts, 1)

    def _remembered(self, sound_1N: Tensor) -> Tensor:
        if not self._room:
            return self._mean(sound_1N)
        key = hashlib.sha256(sound_1N.cpu().contiguous().numpy().tobytes()).digest()
        if (known := self._known.get(key)) is not None:
            return known.to(sound_1N.device)
        mean = self._mean(sound_1N)
        if len(self._known) * mean.nbytes < self._room:
            self._known[key] = mean
        return mean

    def _mean(self, sound_1N: Tensor) -> Tensor:
        self.codec.to(sound_1N.device)
        with torch.no_grad():
            return self.codec.encode(sound_1N).mean

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def load_codec(folder: Path) -> tuple[Codec, str]:
    """(codec, SHA-256 of its weights) of an export of `dailies train codec`."""
    description, state = read_export(folder, "codec")
    try:
        return build_codec(description["model"], state), str(description["sha256"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{folder}: expected a codec of this version, found {str(error)[:300]}") from error


def build_codec(model: dict[str, Any], state: dict[str, Tensor]) -> Codec:
    """The codec of these sizes, as JSON has them, with these weights."""
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in model.items()}
    with torch.device("meta"):
        codec = Codec(CodecConfig(**sizes))
    codec.load_state_dict(state, strict=True, assign=True)
    return codec


def read_codec_weights(path: Path, codec: Codec) -> str:
    """The codec has the weights of a safetensors file in the public layout, or of an export; gives their SHA-256. TrainingError when they
    are of another codec."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.is_dir():
        description, state = read_export(path, "codec")
        sha256 = str(description["sha256"])
    else:
        try:
            data = path.read_bytes()
            state, sha256 = from_public(load(data)), hashlib.sha256(data).hexdigest()
        except (OSError, SafetensorError, ValueError) as error:
            raise TrainingError(f"{path}: expected a codec's weights as safetensors, found {error}") from error
    try:
        codec.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise TrainingError(f"{path}: expected the weights of a codec of these sizes, found {str(error)[:300]}") from error
    return sha256


def measure_sound_scale(codec: Codec, sounds: Iterable[Tensor]) -> LatentScale:
    """Each channel's mean and deviation over all frames of the sounds' latents; sounds are (N,) in [-1, 1]."""
    n = codec.config.latent_channels
    plain = SoundCodec(codec, LatentScale(mean=(0.0,) * n, std=(1.0,) * n))
    values = [plain.encode(sound[None])[0].double() for sound in sounds]
    if not values:
        raise TrainingError("latents: expected at least one sound to measure their scale on, found none")
    joined = torch.cat(values, 1)
    return LatentScale(mean=tuple(joined.mean(1).tolist()), std=tuple(joined.std(1, correction=0).clamp_min(1e-4).tolist()))
