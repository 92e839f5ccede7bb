"""The autoencoder's adversary: which patches of a picture or a video look reconstructed.

A patch discriminator in 2.5-D: spatial convolutions of stride 2, each followed by the 1-D temporal convolution that the autoencoder has
too, which begins as the identity. Time is halved along with space, padded by repeating its ends, so that one frame is a still video and
any length is taken. Frames are normalised on their own: a clip's answer depends on no other clip of its batch. The paper names an
adversarial loss and no discriminator; all sizes are ours.

Shapes: B clips, T frames, H and W; x_BCTHW in [-1, 1].
"""

import itertools
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.layers import Conv25d, Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscriminatorConfig:
    """Sizes of the discriminator. A patch is about 2**(levels + 2) pixels wide."""

    base_channels: int = 64
    levels: int = 3
    """Halvings of height, width and time; the width doubles with each but the first."""
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if self.levels < 1 or self.base_channels % self.norm_groups:
            found = f"{self.levels}, {self.base_channels} and {self.norm_groups}"
            raise ValueError(f"discriminator: expected levels >= 1 and base_channels divisible by norm_groups, found {found}")


class PatchBlock(nn.Module):
    """Half the height, width and time, normalised and bent."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.conv = Conv25d(c_in, c_out, 4, stride=2, padding=1, temporal=True, time_stride=2)
        self.norm = Norm(c_out, groups)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x_BCTHW)), 0.2)


class Discriminator(nn.Module):
    """Pixels (B, 3, T, H, W) -> the logit of each patch, (B, 1, T / 2**levels, H / 2**levels, W / 2**levels), time rounded up; large where
    it looks real. H and W are at least 2**levels."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [config.base_channels << i for i in range(config.levels)]
        # without normalisation, or a frame would have lost its brightness before anyone judged it
        self.conv_in = Conv25d(3, widths[0], 4, stride=2, padding=1, temporal=True, time_stride=2)
        self.blocks = nn.Sequential(*(PatchBlock(c_in, c_out, config.norm_groups) for c_in, c_out in itertools.pairwise(widths)))
        self.conv_out = Conv25d(widths[-1], 1, 3, padding=1, temporal=True)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv_in(x_BCTHW), 0.2)
        logits: Tensor = self.conv_out(self.blocks(y))
        return logits
