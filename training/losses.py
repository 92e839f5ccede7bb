"""What the autoencoder's output is compared with, per clip. Shapes: B clips, C latent channels, T frames, H and W."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.models.discriminator import DiscriminatorConfig
from training.models.perceptual import PerceptualNet

MAX_PSNR_DB = 100.0
"""What an exact reconstruction counts as, so that a mean stays finite."""


MAX_ADAPTIVE = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class TAELossConfig:
    """Weights of the autoencoder's losses. The paper gives the outlier penalty's r and weight only; the others are ours."""

    l1_weight: float = 1.0
    kl_weight: float = 1e-6
    """On the mean over latent values; the order of magnitude of the latent-diffusion autoencoders."""
    outlier_weight: float = 1e5
    outlier_r: float = 3.0
    perceptual_weight: float = 0.0
    """On LPIPS, the mean over frames; 0 needs no weights of a network."""
    perceptual_net: PerceptualNet = "vgg"
    perceptual_features: str = ""
    """File of torchvision's ImageNet weights of that network; never downloaded."""
    perceptual_linear: str = ""
    """File of the LPIPS channel weights; '' for those in torchmetrics."""
    perceptual_frames: int = 0
    """Frames of each clip that are compared, drawn by key; 0 for all."""
    gan_weight: float = 0.0
    """Length of the adversarial gradient at the pixels as a multiple of the reconstruction's; 0 for no adversary."""
    gan_start_step: int = 0
    """Steps before the adversary is heard; it learns to tell real from made from the first step on."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        if min(self.perceptual_weight, self.gan_weight, self.perceptual_frames, self.gan_start_step) < 0:
            raise ValueError("loss: expected no negative weight, number of frames or start step")
        if self.perceptual_weight and not self.perceptual_features:
            raise ValueError(
                f"loss.perceptual_features: expected a file with the weights of {self.perceptual_net} for perceptual_weight "
                f"{self.perceptual_weight}, found none"
            )


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


def pixel_gradient(loss_B: Tensor, x_BCTHW: Tensor) -> Tensor:
    """d loss_b / d x_b for each clip b, (B, 3, T, H, W), detached. Clip b's loss depends on x_b alone, so one backward pass gives all."""
    return torch.autograd.grad(loss_B.sum(), x_BCTHW, retain_graph=True)[0]


def adaptive_weight(reconstruction_BCTHW: Tensor, adversarial_BCTHW: Tensor) -> Tensor:
    """For each clip, (B,): by how much its adversarial gradient at the pixels must be multiplied to be as long as that of its
    reconstruction; at most 1e4, as a discriminator that is sure of itself has no gradient left.

    Of each clip, not of the batch, so that a clip's loss is the same on any number of processes. At the pixels and not at the decoder's
    last layer, where others take it: under ZeRO-3 that layer's gradient cannot be asked for alone.
    """
    wanted, found = (torch.linalg.vector_norm(g.flatten(1), dim=1) for g in (reconstruction_BCTHW, adversarial_BCTHW))
    weight_B: Tensor = wanted / found.clamp_min(1e-12)
    return weight_B.clamp_max(MAX_ADAPTIVE)


def hinge_generator(logits: Tensor) -> Tensor:
    """What the generator lowers, (B,): minus the mean logit of its clip."""
    return -logits.flatten(1).mean(1)


def hinge_discriminator(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator lowers, (B,): mean max(0, 1 - real) and mean max(0, 1 + made), averaged; 1 at logits of 0, 0 once patches
    are told apart with a margin of 1."""
    return 0.5 * ((1.0 - real).clamp_min(0.0).flatten(1).mean(1) + (1.0 + made).clamp_min(0.0).flatten(1).mean(1))


def psnr_db(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio of pixels (3, T, H, W) in [-1, 1], the mean over frames, in dB; at most 100.

    PSNR = 10 log10(peak^2 / mean squared error), peak = 2 as the range is 2 wide (Movie Gen: metrics averaged over frames).
    """
    errors = (output.double() - target.double()).square().mean((0, 2, 3)).tolist()
    least = 4 * 10 ** (-MAX_PSNR_DB / 10)
    # what is not a number compares as false, and stays what it is
    return sum(MAX_PSNR_DB if e <= least else 10 * math.log10(4 / e) for e in errors) / len(errors)
