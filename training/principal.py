"""Principal components of video blocks: the best linear code of 8 x 8 x 8 pixels, and an autoencoder that begins as it.

The linear code is what an autoencoder of the same latent has to beat. It is also where a small one can begin: on patches of 8 pixels its
first and last layer are then the components, everything between passes its input through, and training starts at the linear code's error
rather than at that of grey.

Shapes: D = 3 * 8 * 8 * 8 values of a block in the order of `to_patches`, C latent channels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.errors import TrainingError
from training.models.autoencoder import TAE, from_patches, to_patches
from training.models.layers import Attention, Conv25d, ResBlock

SIDE = 8
"""Pixels of a block's side, and its frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Blocks are `mean` (D,) plus `basis` (D, C) times C uncorrelated numbers of deviations `std` (C,), largest first."""

    mean: Tensor
    basis: Tensor
    std: Tensor

    def reconstruct(self, x_BCTHW: Tensor) -> Tensor:
        """Pixels (B, 3, T, 8h, 8w) through the linear code of C numbers a block and back."""
        blocks = to_patches(x_BCTHW, SIDE, SIDE).movedim(1, -1) - self.mean
        made = blocks @ self.basis @ self.basis.T + self.mean
        return from_patches(made.movedim(-1, 1), SIDE, SIDE, x_BCTHW.shape[2])


def fit_principal(clips: Iterable[Tensor], channels: int) -> Principal:
    """The `channels` components of largest variance over all blocks of the clips, (3, T, H, W) in [-1, 1]; computed in float64.

    TrainingError where there are fewer blocks than values in one: components of so few would be those of the clips at hand.
    """
    count, total, moment = 0, torch.zeros(0), torch.zeros(0)
    for clip in clips:
        blocks = to_patches(clip[None].double(), SIDE, SIDE).flatten(2)[0].T
        if not count:
            total, moment = torch.zeros(blocks.shape[1]).double(), torch.zeros(blocks.shape[1], blocks.shape[1]).double()
        count, total, moment = count + len(blocks), total + blocks.sum(0), moment.addmm_(blocks.T, blocks)
    if count <= len(total):
        raise TrainingError(f"principal components: expected more than {len(total)} blocks, found {count}; measure more clips")
    mean = total / count
    variances, vectors = torch.linalg.eigh(moment / count - torch.outer(mean, mean))
    order = torch.arange(len(mean) - 1, len(mean) - 1 - channels, -1)
    basis = vectors[:, order] * vectors[:, order].sum(0).sign()  # an eigenvector's sign is the library's whim
    return Principal(mean=mean.float(), basis=basis.float(), std=variances[order].clamp_min(1e-12).sqrt().float())


@torch.no_grad()
def begin_as_principal(tae: TAE, principal: Principal) -> None:
    """The initialised autoencoder reconstructs every clip as the linear code does; its latent has deviation 1 a channel.

    ValueError unless it reads patches of 8 pixels, has as many latent channels as there are components, and no last normalisation.
    """
    config, c = tae.config, principal.basis.shape[1]
    if config.patch_frames != SIDE or config.latent_channels != c or config.norm_out or config.base_channels < c:
        raise ValueError(f"principal components: expected patch_px 8, {c} latent channels, norm_out false and a width of at least {c}")
    for module in tae.modules():
        if isinstance(module, ResBlock):
            _silence(module.conv2.spatial)
        elif isinstance(module, Attention):
            _silence(module.out)
    whiten = principal.basis / principal.std
    _pass_on(tae.encoder.conv_in, whiten.T * math.sqrt(SIDE**3), -(principal.mean @ whiten))
    _pass_on(tae.encoder.conv_out, torch.eye(c), torch.zeros(c))
    _pass_on(tae.decoder.conv_in, torch.eye(c), torch.zeros(c))
    _silence(tae.decoder.conv_out.spatial)
    tae.decoder.conv_out.spatial.weight[:, :c, 1, 1] = principal.basis * principal.std
    tae.decoder.conv_out.spatial.get_parameter("bias").copy_(principal.mean)


def _silence(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _pass_on(conv: Conv25d, matrix: Tensor, bias: Tensor) -> None:
    """The first outputs are the matrix times the first inputs at the same place, plus the bias; the other outputs stay as they were."""
    rows, columns = matrix.shape
    conv.spatial.weight[:rows] = 0.0
    conv.spatial.weight[:rows, :columns, 1, 1] = matrix
    conv.spatial.get_parameter("bias")[:rows] = bias
