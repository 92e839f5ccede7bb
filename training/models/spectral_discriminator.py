"""The codec's adversary: which parts of a sound's spectrogram look reconstructed, at several resolutions.

A patch discriminator on the real and imaginary part of the short-time Fourier transform, one for each window (the multi-scale STFT
discriminator of Defossez et al. 2022, which the Descript codec has in bands). The paper names the Descript codec; sizes by default are
those of the former, our choice.

Shapes: B sounds, N samples, F frequencies, T frames.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import keyed
from training.models.spectral import spectra


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralDiscriminatorConfig:
    """Sizes of the discriminator."""

    windows: tuple[int, ...] = (2048, 1024, 512)
    channels: int = 32

    def __post_init__(self) -> None:
        if not self.windows or any(w < 16 or w % 4 for w in self.windows) or self.channels < 1:
            raise ValueError(f"discriminator: expected windows of at least 16, multiples of 4, found {self.windows}, {self.channels}")


class ScaleDiscriminator(nn.Module):
    """Sound (B, N) -> logits of its patches at one window, and the features before them."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(2, channels, (9, 3), padding=(4, 1)),
                *(nn.Conv2d(channels, channels, (9, 3), stride=(2, 1), padding=(4, d), dilation=(1, d)) for d in (1, 2, 4)),
                nn.Conv2d(channels, channels, 3, padding=1),
            ]
        )
        self.conv_out = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x_BN: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectrum = spectra(x_BN.float(), self.window, self.window // 4)
        y = torch.stack([spectrum.real, spectrum.imag], 1).to(self.conv_out.weight.dtype) * math.sqrt(self.window)
        features = []
        for conv in self.convs:
            y = F.leaky_relu(conv(y), 0.2)
            features.append(y)
        return self.conv_out(y), features


class SpectralDiscriminator(nn.Module):
    """Sounds (B, N) to all scales' logits (B, P), large where it sounds real; with `features` also a list of (B, C, F, T)."""

    def __init__(self, config: SpectralDiscriminatorConfig) -> None:
        super().__init__()
        self.scales = nn.ModuleList(ScaleDiscriminator(w, config.channels) for w in config.windows)

    def forward(self, x_BN: Tensor, features: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        made = [scale(x_BN) for scale in self.scales]
        logits = torch.cat([found.flatten(1) for found, _ in made], 1)
        return (logits, [f for _, inner in made for f in inner]) if features else logits


def feature_distance(made: list[Tensor], real: list[Tensor]) -> Tensor:
    """How far apart features are, in units of the real ones' mean size, the mean over layers, (B,)."""
    parts = [(m - r).abs().flatten(1).mean(1) / r.abs().flatten(1).mean(1).clamp_min(1e-6) for m, r in zip(made, real, strict=True)]
    return torch.stack(parts).mean(0)


def initialise(model: nn.Module, seed: int) -> None:
    """Convolutions are normal with deviation 1 / sqrt(fan in), by key; biases zero."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            std = 1 / math.sqrt(module.weight[0].numel())
            module.weight.data.copy_(keyed.normal(tuple(module.weight.shape), seed, "init discriminator", name) * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
