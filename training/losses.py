"""What the autoencoder's output is compared with, per clip. Shapes: B clips, C latent channels, T frames, H and W."""

import math
from dataclasses import dataclass

from torch import Tensor

MAX_PSNR_DB = 100.0
"""What an exact reconstruction counts as, so that a mean stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TAELossConfig:
    """Weights of the autoencoder's losses. The paper gives the outlier penalty's r and weight only; the others are ours."""

    l1_weight: float = 1.0
    kl_weight: float = 1e-6
    """On the mean over latent values; the order of magnitude of the latent-diffusion autoencoders."""
    outlier_weight: float = 1e5
    outlier_r: float = 3.0
    perceptual_weight: float = 0.0
    gan_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, needs in (("perceptual_weight", "weights of a perceptual network"), ("gan_weight", "a discriminator and its update")):
            if getattr(self, name) != 0.0:
                raise ValueError(f"loss.{name}: expected 0, found {getattr(self, name)}: this version trains without {needs}")


def l1(x_BCTHW: Tensor, target_BCTHW: Tensor) -> Tensor:
    """Mean absolute difference of each clip, (B,)."""
    return (x_BCTHW - target_BCTHW).abs().flatten(1).mean(1)


def outlier_penalty(z_BCTHW: Tensor, r: float) -> Tensor:
    """The outlier penalty (OPL) of each clip, (B,): the mean over its frames.

    For one latent frame X of H x W positions: mean over ij of max(|X_ij - Mean(X)| - r |Std(X)|, 0), norms over channels, Mean and
    Std over positions. Zero until a position lies r deviations out, where the decoder would draw a dot (Movie Gen, Outlier penalty).
    """
    x = z_BCTHW.flatten(3)
    mean = x.mean(3, keepdim=True)
    variance = (x - mean).square().mean(3)
    # |Std| over channels is the root of the summed variances; the clamp keeps its gradient finite on a flat latent
    deviation = variance.sum(1).clamp_min(1e-12).sqrt()
    distance = (x - mean).square().sum(1).clamp_min(1e-12).sqrt()
    return (distance - r * deviation[..., None]).clamp_min(0.0).flatten(1).mean(1)


def psnr_db(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio of pixels (3, T, H, W) in [-1, 1], the mean over frames, in dB; at most 100.

    PSNR = 10 log10(peak^2 / mean squared error), peak = 2 as the range is 2 wide (Movie Gen: metrics averaged over frames).
    """
    errors = (output.double() - target.double()).square().mean((0, 2, 3)).tolist()
    return sum(min(MAX_PSNR_DB, 10 * math.log10(4 / e)) if e > 0 else MAX_PSNR_DB for e in errors) / len(errors)
