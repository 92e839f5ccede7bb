"""The codec of sound (DAC-VAE): 48 kHz mono to 25 latents of 128 channels a second, and back.

The Descript audio codec (Kumar et al. 2023) with its quantiser replaced by a variational bottleneck (Movie Gen Audio, Codec): strided
convolutions with residual units of dilation 1, 3 and 9 and Snake activations, mirrored in the decoder. Weight normalisation is folded:
a weight is g v / |v|, and a file in the public layout is read so. Sizes by default are those of the public code; the paper gives the rate
and the channels.

Shapes: B sounds, N samples, N / 1920 latent frames, C channels.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import keyed

_WATERMARK = ".wm_"

MIN_STD = 1e-4
"""Least deviation of the posterior."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """Sizes of the codec; the product of the strides is the samples of a latent frame."""

    encoder_widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Channels at 48 kHz and after each stride."""
    decoder_widths: tuple[int, ...] = (1536, 768, 384, 192, 96)
    """Channels at 25 Hz and after each stride back."""
    strides: tuple[int, ...] = (2, 8, 10, 12)
    dilations: tuple[int, ...] = (1, 3, 9)
    """Of the residual units at each rate."""
    hidden_width: int = 1024
    """Channels at either side of the bottleneck."""
    latent_channels: int = 128

    def __post_init__(self) -> None:
        if any(s < 2 or s % 2 for s in self.strides) or not self.strides or not self.dilations:
            raise ValueError(f"codec: expected even strides and at least one dilation, found {self.strides} and {self.dilations}")
        for name, widths in (("encoder_widths", self.encoder_widths), ("decoder_widths", self.decoder_widths)):
            if len(widths) != len(self.strides) + 1:
                raise ValueError(
                    f"codec.{name}: expected {len(self.strides) + 1} widths for {len(self.strides)} strides, found {len(widths)}"
                )

    @property
    def hop(self) -> int:
        """Samples of a latent frame."""
        return math.prod(self.strides)

    def room_needed(self) -> str:
        """What it lacks for a linear code of its blocks to pass through it, in words: channels that hold a block's samples on the way between
        48 kHz and 25 Hz, and the code; '' where there is room."""
        gathered = [math.prod(self.strides[:i]) for i in range(len(self.strides))]
        least = [*gathered, self.latent_channels]
        there = all(n <= min(a, b) for n, a, b in zip(least, self.encoder_widths, self.decoder_widths[::-1], strict=True))
        if there and self.latent_channels <= min(self.hidden_width, self.hop):
            return ""
        return f"encoder_widths, and decoder_widths backwards, of at least {least}, and a hidden_width and hop of at least {self.latent_channels}"


class Posterior(NamedTuple):
    """Mean and deviation of the code, (B, C, N / hop) each."""

    mean: Tensor
    std: Tensor

    def kl(self) -> Tensor:
        """Divergence from N(0, 1), the mean over values, (B,)."""
        each = 0.5 * (self.mean.square() + self.std.square() - 1) - self.std.log()
        return each.flatten(1).mean(1)


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha learned for each channel: periodic, as sound is (Ziyin et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, channels, 1))

    def forward(self, x_BCN: Tensor) -> Tensor:
        return x_BCN + (self.alpha * x_BCN).sin().square() / (self.alpha + 1e-9)


class ResidualUnit(nn.Module):
    """x + two convolutions, of width 7 with a dilation and of width 1."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        wide = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.block = nn.Sequential(Snake(channels), wide, Snake(channels), nn.Conv1d(channels, channels, 1))

    def forward(self, x_BCN: Tensor) -> Tensor:
        out: Tensor = x_BCN + self.block(x_BCN)
        return out


class EncoderBlock(nn.Module):
    """(B, C_in, N) -> (B, C_out, N / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        units = [ResidualUnit(c_in, d) for d in dilations]
        self.block = nn.Sequential(*units, Snake(c_in), nn.Conv1d(c_in, c_out, 2 * stride, stride, padding=stride // 2))

    def forward(self, x_BCN: Tensor) -> Tensor:
        out: Tensor = self.block(x_BCN)
        return out


class DecoderBlock(nn.Module):
    """(B, C_in, N) -> (B, C_out, N stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        grow = nn.ConvTranspose1d(c_in, c_out, 2 * stride, stride, padding=stride // 2)
        self.block = nn.Sequential(Snake(c_in), grow, *(ResidualUnit(c_out, d) for d in dilations))

    def forward(self, x_BCN: Tensor) -> Tensor:
        out: Tensor = self.block(x_BCN)
        return out


class Encoder(nn.Module):
    """(B, 1, N) -> (B, hidden, N / hop)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        pairs = zip(itertools.pairwise(widths), config.strides, strict=True)
        self.block = nn.Sequential(
            nn.Conv1d(1, widths[0], 7, padding=3),
            *(EncoderBlock(a, b, stride, config.dilations) for (a, b), stride in pairs),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], config.hidden_width, 3, padding=1),
        )

    def forward(self, x_B1N: Tensor) -> Tensor:
        out: Tensor = self.block(x_B1N)
        return out


class Decoder(nn.Module):
    """(B, hidden, N / hop) -> (B, 1, N) in (-1, 1)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        pairs = zip(itertools.pairwise(widths), reversed(config.strides), strict=True)
        self.model = nn.Sequential(
            nn.Conv1d(config.hidden_width, widths[0], 7, padding=3),
            *(DecoderBlock(a, b, stride, config.dilations) for (a, b), stride in pairs),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], 1, 7, padding=3),
            nn.Tanh(),
        )

    def forward(self, z_BCN: Tensor) -> Tensor:
        out: Tensor = self.model(z_BCN)
        return out


class Bottleneck(nn.Module):
    """The two convolutions of width 1 around the code."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.in_proj = nn.Conv1d(config.hidden_width, 2 * config.latent_channels, 1)
        self.out_proj = nn.Conv1d(config.latent_channels, config.hidden_width, 1)


class Codec(nn.Module):
    """Sound (B, N) in [-1, 1], N a multiple of `hop`, to a posterior over latents (B, C, N / hop), and back."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.bottleneck, self.decoder = Encoder(config), Bottleneck(config), Decoder(config)

    def forward(self, sound_BN: Tensor, noise_BCT: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """The reconstruction (B, N) from mean + std noise, or from the mean; and the posterior."""
        posterior = self.encode(sound_BN)
        z = posterior.mean if noise_BCT is None else posterior.mean + posterior.std * noise_BCT
        return self.decode(z), posterior

    def encode(self, sound_BN: Tensor) -> Posterior:
        """The posterior of the code."""
        if sound_BN.shape[1] % self.config.hop:
            raise ValueError(f"codec: expected a multiple of {self.config.hop} samples, found {sound_BN.shape[1]}")
        mean, scale = self.bottleneck.in_proj(self.encoder(sound_BN[:, None])).chunk(2, 1)
        return Posterior(mean, F.softplus(scale) + MIN_STD)

    def decode(self, z_BCT: Tensor) -> Tensor:
        """Sound (B, N)."""
        sound: Tensor = self.decoder(self.bottleneck.out_proj(z_BCT))[:, 0]
        return sound


def initialise(codec: Codec, seed: int) -> None:
    """Every parameter holds its initial value, drawn by a key of the seed and its name.

    Convolutions are normal with deviation 1 / sqrt(fan in); the second of a residual unit a quarter of that, so that many units in a row
    stay tame; Snakes begin at alpha 1. Of the bottleneck the deviation begins near 0.01: what is coded is then heard from the first step.
    """
    for name, module in codec.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            c_in = module.in_channels * math.prod(module.kernel_size) / (module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1)
            std = (0.25 if name.endswith("block.3") and module.kernel_size == (1,) else 1.0) / math.sqrt(c_in)
            module.weight.data.copy_(keyed.normal(tuple(module.weight.shape), seed, "init", name) * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Snake):
            nn.init.ones_(module.alpha)
    channels = codec.config.latent_channels
    if codec.bottleneck.in_proj.bias is not None:
        codec.bottleneck.in_proj.bias.data[channels:] = -4.6
    codec.bottleneck.in_proj.weight.data[channels:] *= 0.1


def from_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file in the public layout, as `Codec` names them; ValueError names what has no place here.

    There a convolution has `weight_g` and `weight_v` (or `parametrizations.weight.original0` and `1`, as newer torch has it) and
    w = g v / |v|, the norm over all but the first axis; the bottleneck is called `quantizer`. Parts of the watermark are left out: what is
    made here carries a note of its own.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if _WATERMARK in name:
            continue
        for g, v in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
            if name.endswith("." + g):
                stem = name.removesuffix(g)
                if stem + v not in state:
                    raise ValueError(f"{name}: expected {stem + v} beside it, found none")
                direction = state[stem + v]
                norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.ndim - 1))
                found[_own_name(stem) + "weight"] = value * direction / norm
                break
            if name.endswith("." + v):
                break
        else:
            found[_own_name(name)] = value
    return found


def _own_name(name: str) -> str:
    return "bottleneck." + name.removeprefix("quantizer.") if name.startswith("quantizer.") else name
