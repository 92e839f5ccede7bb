"""The best linear code of blocks of sound, and a codec that begins as it.

Of 1,920 samples the 128 numbers of largest variance hold nearly all of a voice or an instrument, most of whose energy lies below 1.6 kHz.
From weights drawn by key a codec takes long to find them, as it is asked for the phase of each wave; on a CPU's few minutes it does not. So a
small one begins there: its strided convolutions gather a block's samples in their channels, the last projects them, the decoder is the
mirror image, residual units pass on what they get, and training starts at the linear code's error. (training/principal.py does the same for
pictures.)

Shapes: D = hop samples of a block, C latent channels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from training import keyed
from training.errors import TrainingError
from training.models.codec import Codec, DecoderBlock, EncoderBlock, ResidualUnit, Snake

Layer = TypeVar("Layer", nn.Conv1d, nn.ConvTranspose1d)

LINEAR_ALPHA = 1e-3
"""Of a Snake that is to pass on what it gets: x + sin(a x)^2 / a is x within a thousandth of x^2. It learns from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSound:
    """A block x (D,) has the code `encode` x, numbers of mean square 1 on average; `decode` code is the block nearest to it.

    The numbers are mixtures of the components, drawn by key, and not the components: a generator's latents are brought to deviation 1 a
    channel, and the last components, which are hiss, must not come to count as much as the first.
    """

    encode: Tensor
    """(C, D)"""
    decode: Tensor
    """(D, C)"""

    def reconstruct(self, sound_BN: Tensor) -> Tensor:
        """Samples (B, N), N a multiple of D, through the code, back, and the hyperbolic tangent that a codec ends in: at a level of 0.3 it
        leaves harmonics of -42 dB."""
        blocks = sound_BN.unflatten(1, (-1, self.decode.shape[0]))
        made: Tensor = blocks @ self.encode.T @ self.decode.T
        return made.tanh().flatten(1)


def fit_linear(sounds: Iterable[Tensor], hop: int, channels: int) -> LinearSound:
    """The components of largest energy over all blocks of sounds (N,) in [-1, 1], wherever they begin; computed in float64.

    Sound has no place where a block must begin, so what two samples have in common depends on how far apart they are alone: their energy is
    averaged over all such pairs, and a few seconds tell components that are not those of the sounds at hand. TrainingError when no sound is
    as long as a block.
    """
    count, energy = 0, torch.zeros(hop, hop).double()
    for sound in sounds:
        blocks = sound.double().unfold(0, hop, max(1, hop // 4)) if len(sound) >= hop else sound.new_zeros(0, hop).double()
        count += len(blocks)
        energy.addmm_(blocks.T, blocks)
    if not count:
        raise TrainingError(f"components of sound: expected sounds of {hop} samples and more, found none; take codec.linear_clips=0")
    apart = torch.stack([energy.diagonal(k).mean() for k in range(hop)])
    places = torch.arange(hop)
    variances, vectors = torch.linalg.eigh(apart[(places[:, None] - places).abs()] / count)
    basis, variances = vectors[:, -channels:], variances[-channels:]
    mixture = torch.linalg.qr(keyed.normal((channels, channels), "linear sound").double())[0]
    scale = variances.clamp_min(1e-12).mean().sqrt()
    return LinearSound(encode=(mixture @ basis.T / scale).float(), decode=(basis @ mixture.T * scale).float())


@torch.no_grad()
def begin_as_linear(codec: Codec, linear: LinearSound) -> None:
    """The initialised codec reconstructs every sound as the linear code does, but for a thousandth that its Snakes add of a value's square.

    ValueError unless the code is of its sizes and its channels have room for it.
    """
    config, (channels, hop) = codec.config, linear.encode.shape
    if (hop, channels) != (config.hop, config.latent_channels) or config.room_needed():
        raise ValueError(
            f"components of sound: expected blocks of {config.hop} samples, {config.latent_channels} numbers, and room for them, found {hop} "
            f"samples, {channels} numbers, and a codec that needs {config.room_needed() or 'nothing'}"
        )
    gathered = [math.prod(config.strides[:i]) for i in range(len(config.strides))]
    for module in codec.modules():
        if isinstance(module, ResidualUnit):
            for parameter in module.block[-1].parameters():
                nn.init.zeros_(parameter)
        elif isinstance(module, Snake):
            nn.init.constant_(module.alpha, LINEAR_ALPHA)
    encoder, decoder = list(codec.encoder.block), list(codec.decoder.model)
    downs = [_layer(block, nn.Conv1d) for block in encoder if isinstance(block, EncoderBlock)]
    ups = [_layer(block, nn.ConvTranspose1d) for block in decoder if isinstance(block, DecoderBlock)][::-1]
    _pass_on(encoder[0], 1)
    for down, up, stride, n in zip(downs, ups, config.strides, gathered, strict=True):
        inside = slice(stride // 2, stride // 2 + stride)  # of a kernel twice as long as its stride: the stride's own samples
        rows = channels if down is downs[-1] else stride * n
        down.weight[:rows], up.weight[:, :n] = 0.0, 0.0
        down.get_parameter("bias")[:rows], up.get_parameter("bias")[:n] = 0.0, 0.0
        code = torch.eye(rows) if down is not downs[-1] else linear.encode
        back = torch.eye(rows) if up is not ups[-1] else linear.decode.T
        down.weight[:rows, :n, inside] = code.unflatten(1, (stride, n)).transpose(1, 2)
        up.weight[:rows, :n, inside] = back.unflatten(1, (stride, n)).transpose(1, 2)
    for conv in (encoder[-1], codec.bottleneck.in_proj, codec.bottleneck.out_proj, decoder[0]):
        _pass_on(conv, channels)
    nn.init.zeros_(decoder[-2].get_parameter("weight"))
    _pass_on(decoder[-2], 1)


def _layer(block: EncoderBlock | DecoderBlock, kind: type[Layer]) -> Layer:
    """The one layer of the block that changes the rate."""
    (layer,) = (layer for layer in block.block if isinstance(layer, kind))
    return layer


def _pass_on(conv: nn.Module, n: int) -> None:
    """The first n outputs are the first n inputs at the same place."""
    weight = conv.get_parameter("weight")
    weight[:n] = 0.0
    weight[torch.arange(n), torch.arange(n), weight.shape[2] // 2] = 1.0
    conv.get_parameter("bias")[:n] = 0.0
