"""From a clip of full resolution to what an upsampler is given: smaller, and damaged as real clips are. A pure function of clip and key.

Two rounds of blur, change of size, noise and JPEG, then a low-pass with ringing (a sinc filter) before or after the last JPEG, as in
Real-ESRGAN (Wang et al. 2021), which the paper follows (Movie Gen, Spatial Upsampler). What is drawn is drawn once for a clip, but for the
noise itself, which is each frame's own: damage that flickered would be no camera's. Ranges are Real-ESRGAN's, for a factor of 2.

Shapes: T frames, 3 channels, H and W; values in [-1, 1].
"""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import keyed


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsampleConfig:
    """What makes a stage of the generator an upsampler: it is given the clip itself, smaller and damaged, beside the noise."""

    factor: int = 2
    artefacts: str | None = None
    """Folder of a temporal autoencoder (its export or its run), whose round trip stands in for the damage in some clips, because that is
    what the upsampler will be given; None for never."""
    artefacts_share: float = 0.5
    """Share of the clips that get it; the paper gives none."""
    strength: float = 1.0
    """Scales blur, noise and compression: 1 is Real-ESRGAN's, 0 leaves a clip that is merely smaller."""

    def __post_init__(self) -> None:
        if self.factor < 2 or not 0 <= self.artefacts_share <= 1 or not 0 <= self.strength <= 1:
            raise ValueError("upsample: expected factor >= 2, and artefacts_share and strength from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Ranges of one round of damage."""

    blur: tuple[float, float]
    resize: tuple[float, float]
    noise: tuple[float, float]
    shot: tuple[float, float]


_ROUNDS = (
    _Round(blur=(0.2, 3.0), resize=(0.3, 1.5), noise=(1.0, 30.0), shot=(0.05, 3.0)),
    _Round(blur=(0.2, 1.5), resize=(0.6, 1.2), noise=(1.0, 25.0), shot=(0.05, 2.5)),
)
_JPEG = (30, 95)
_LIKELY = 0.8
"""Of the second blur and of the last low-pass."""


def smaller(x_T3HW: Tensor, factor: int) -> Tensor:
    """The clip at 1 / factor of its size, each pixel the mean of those it stands for."""
    return F.avg_pool2d(x_T3HW, factor)


def enlarged(x_T3HW: Tensor, factor: int) -> Tensor:
    """The clip at `factor` times its size by bilinear interpolation: how an upsampler is given it (Movie Gen, Spatial Upsampler)."""
    return F.interpolate(x_T3HW, scale_factor=factor, mode="bilinear", align_corners=False)


def degrade(x_T3HW: Tensor, config: UpsampleConfig, *key: object) -> Tensor:
    """The clip at 1 / factor of its size, damaged by draws of the key; on the same device, in [-1, 1], float32."""
    height, width = x_T3HW.shape[2] // config.factor, x_T3HW.shape[3] // config.factor
    x = x_T3HW.float()
    if config.strength == 0:
        return smaller(x, config.factor)
    draws = keyed.stream(*key, "degrade")
    for number, ranges in enumerate(_ROUNDS):
        if number == 0 or draws.random() < _LIKELY:
            sigmas = (_drawn(draws, ranges.blur) * config.strength, _drawn(draws, ranges.blur) * config.strength)
            x = _blur(x, *sigmas, float(draws.uniform(0, math.pi)))
        low, high = (math.log(r) for r in ranges.resize)
        scale = math.exp(float(draws.uniform(low, high)) * config.strength)
        shape = x.shape[2:] if number == 0 else (height, width)
        x = _resize(x, (max(8, round(shape[0] * scale)), max(8, round(shape[1] * scale))), int(draws.integers(3)))
        x = _noise(x, draws, ranges, config.strength, (*key, "noise", number))
        if number == 0:
            x = _jpeg(x, _quality(draws, config.strength))
    method, quality, sinc_first = int(draws.integers(3)), _quality(draws, config.strength), draws.random() < 0.5
    rings, cutoff = draws.random() < _LIKELY, math.pi - (math.pi - float(draws.uniform(math.pi / 3, math.pi))) * config.strength
    x = _resize(x, (height, width), method)
    if rings and sinc_first:
        x = _low_pass(x, cutoff)
    x = _jpeg(x, quality)
    if rings and not sinc_first:
        x = _low_pass(x, cutoff)
    return x.clamp(-1.0, 1.0)


def _drawn(draws: np.random.Generator, between: tuple[float, float]) -> float:
    return float(draws.uniform(*between))


def _quality(draws: np.random.Generator, strength: float) -> int:
    return round(100 - (100 - float(draws.uniform(*_JPEG))) * strength)


def _blur(x: Tensor, sigma_1: float, sigma_2: float, angle: float) -> Tensor:
    """Convolved with a Gaussian of two deviations in px along two turned axes."""
    reach = min(math.ceil(3 * max(sigma_1, sigma_2)), min(x.shape[2:]) - 1)
    if reach < 1 or max(sigma_1, sigma_2) < 0.1:
        return x
    y, across = torch.meshgrid(*[torch.arange(-reach, reach + 1, dtype=torch.float32)] * 2, indexing="ij")
    u, v = across * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - across * math.sin(angle)
    return _filter(x, torch.exp(-0.5 * ((u / max(sigma_1, 0.1)) ** 2 + (v / max(sigma_2, 0.1)) ** 2)))


def _low_pass(x: Tensor, cutoff: float) -> Tensor:
    """Frequencies above `cutoff` (pi is the highest) cut off sharply: the ringing of over-sharpened pictures. A jinc of 13 x 13 px."""
    reach = min(6, min(x.shape[2:]) - 1)
    y, across = torch.meshgrid(*[torch.arange(-reach, reach + 1, dtype=torch.float32)] * 2, indexing="ij")
    radius = torch.sqrt(y**2 + across**2)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius.clamp_min(1e-6))
    kernel[reach, reach] = cutoff**2 / (4 * math.pi)
    return _filter(x, kernel)


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    reach = len(kernel) // 2
    weight = (kernel / kernel.sum()).to(x.device).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, [reach] * 4, mode="reflect"), weight, groups=3)


def _resize(x: Tensor, size: tuple[int, int], method: int) -> Tensor:
    if tuple(x.shape[2:]) == size:
        return x
    name = ("area", "bilinear", "bicubic")[method]
    return F.interpolate(x, size=size, mode=name, **({} if name == "area" else {"align_corners": False, "antialias": True}))


def _noise(x: Tensor, draws: np.random.Generator, ranges: _Round, strength: float, key: tuple[object, ...]) -> Tensor:
    """Gaussian noise, or noise whose variance is the light's (a sensor's); in colour or grey."""
    gaussian, grey = draws.random() < 0.5, draws.random() < 0.4
    noise = keyed.normal((len(x), 1 if grey else 3, *x.shape[2:]), *key).to(x.device)
    if gaussian:
        return x + 2 * _drawn(draws, ranges.noise) / 255 * strength * noise
    # a Poisson draw of many photons is nearly normal with a variance of the mean: `shot` scales its deviation, as in Real-ESRGAN
    deviation = torch.sqrt(((x + 1) / 2).clamp(0, 1) / 255) * _drawn(draws, ranges.shot)
    return x + 2 * strength * deviation * noise


def _jpeg(x: Tensor, quality: int) -> Tensor:
    """Every frame through JPEG and back."""
    from PIL import Image

    frames = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    made = np.empty_like(frames)
    for frame, place in zip(frames, made, strict=True):
        held: Any = io.BytesIO()
        Image.fromarray(frame).save(held, "JPEG", quality=quality)
        place[:] = np.asarray(Image.open(held))
    return torch.from_numpy(made).permute(0, 3, 1, 2).to(x.device, torch.float32) / 127.5 - 1
