"""Floating-point operations of a training step by formula: multiplications and additions of matrices, convolutions and attention.

A matrix product of (m, k) by (k, n) is 2 m k n; full attention of N tokens of width D over L is 4 N L D, nothing halved, as nothing
is masked. The backward pass costs twice the forward, less the gradient of what has no gradient: the inputs. With activation
checkpointing each layer is computed once more, so a step is nearly 4 forwards and not 3. MFU counts the former
(`recompute=False`) whatever was run: work done twice is not useful twice. Norms, activations and sums are left out, as torch's counter
leaves them out; the tests hold both against each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from training.models.autoencoder import LEVELS, TAEConfig, latent_frames
from training.models.codec import CodecConfig
from training.models.sound import SoundConfig
from training.models.transformer import PATCH_PX, TransformerConfig

_FREQUENCIES, _VECTORS = 256, 9


def transformer_forward(config: TransformerConfig, batch: int, grid: tuple[int, int, int], text: Mapping[str, int]) -> int:
    """Operations of one forward pass: `grid` is tokens in (t, h, w), `text` the tokens a prompt of each encoder."""
    parts = _transformer(config, grid, text)
    return batch * (config.layers * parts.layer + parts.inputs + parts.rest)


def transformer_step(
    config: TransformerConfig, batch: int, grid: tuple[int, int, int], text: Mapping[str, int], *, recompute: bool = False
) -> int:
    """Operations of forward and backward; with `recompute` as activation checkpointing does them."""
    parts = _transformer(config, grid, text)
    again = config.layers * parts.layer if recompute else 0
    return batch * (3 * config.layers * parts.layer + 2 * parts.inputs + 3 * parts.rest + again)


def transformer_layer(config: TransformerConfig, batch: int, grid: tuple[int, int, int], text: Mapping[str, int]) -> int:
    """Operations of one layer's forward pass; the backward pass has twice as many."""
    return batch * _transformer(config, grid, text).layer


def tae_step(config: TAEConfig, batch: int, n_frames: int, height_px: int, width_px: int) -> int:
    """Operations of encode, decode and their backward pass; pixels have no gradient."""
    frames, area = _at(config, config.patch_levels, n_frames, height_px * width_px)
    spared = 2 * 9 * config.pixel_channels * config.widths[0] * frames * area
    return 3 * tae_forward(config, batch, n_frames, height_px, width_px) - batch * spared


def tae_forward(config: TAEConfig, batch: int, n_frames: int, height_px: int, width_px: int) -> int:
    """Operations of one encode and decode of pixels (batch, 3, n_frames, height_px, width_px)."""
    return batch * (tae_encode(config, n_frames, height_px, width_px) + tae_decode(config, n_frames, height_px, width_px))


def tae_encode(config: TAEConfig, n_frames: int, height_px: int, width_px: int) -> int:
    """Operations of encoding one clip."""
    w, pixels, first = config.widths, height_px * width_px, config.patch_levels
    total = _conv(config, config.pixel_channels, w[0], 3, *_at(config, first, n_frames, pixels))
    for level, width in enumerate(w, first):
        frames, area = _at(config, level, n_frames, pixels)
        total += _blocks(config, [w[max(level - first - 1, 0)]] + [width] * (config.n_res_blocks - 1), width, frames, area)
        if level < LEVELS:
            after, quarter = _at(config, level + 1, n_frames, pixels)
            total += 2 * 9 * width * width * frames * quarter  # stride 2 in space comes first, then stride 2 in time
            total += 2 * 3 * width * width * after * quarter if config.temporal else 0
    frames, area = _at(config, LEVELS, n_frames, pixels)
    return total + _middle(config, frames, area) + _conv(config, w[-1], 2 * config.latent_channels, 3, frames, area)


def tae_decode(config: TAEConfig, n_frames: int, height_px: int, width_px: int) -> int:
    """Operations of decoding one clip."""
    w, pixels, first = config.widths, height_px * width_px, config.patch_levels
    frames, area = _at(config, LEVELS, n_frames, pixels)
    total = _conv(config, config.latent_channels, w[-1], 3, frames, area) + _middle(config, frames, area)
    for i in reversed(range(len(w))):
        frames, area = _at(config, first + i, n_frames, pixels)
        total += _blocks(config, [w[min(i + 1, len(w) - 1)]] + [w[i]] * config.n_res_blocks, w[i], frames, area)
        if i:
            after, larger = _at(config, first + i - 1, n_frames, pixels)
            total += 2 * 9 * w[i] ** 2 * frames * larger  # space grows before time does
            total += 2 * 3 * w[i] ** 2 * after * larger if config.temporal else 0
    frames, area = _at(config, first, n_frames, pixels)
    last = 2 * frames * area * 9 * w[0] * config.pixel_channels
    return total + (last if config.patch_px > 1 else _conv(config, w[0], 3, 3, frames, area))


def _at(config: TAEConfig, level: int, n_frames: int, pixels: int) -> tuple[int, int]:
    """(frames, pixels of a frame) after `level` halvings."""
    return latent_frames(n_frames, level) if config.temporal else n_frames, pixels >> (2 * level)


def _conv(config: TAEConfig, c_in: int, c_out: int, kernel: int, frames: int, area: int) -> int:
    """A spatial convolution and, in a temporal model, the convolution of width 3 over time behind it."""
    return 2 * frames * area * (kernel * kernel * c_in * c_out + (3 * c_out * c_out if config.temporal else 0))


def _blocks(config: TAEConfig, inputs: list[int], width: int, frames: int, area: int) -> int:
    total = 0
    for c_in in inputs:
        total += _conv(config, c_in, width, 3, frames, area) + _conv(config, width, width, 3, frames, area)
        total += _conv(config, c_in, width, 1, frames, area) if c_in != width else 0
    return total


def _middle(config: TAEConfig, frames: int, area: int) -> int:
    """Two residual blocks and attention among the positions of a frame and, in a temporal model, among the frames of a position."""
    c = config.widths[-1]
    attention = frames * (2 * area * 4 * c * c + 4 * area * area * c)
    if config.temporal:
        attention += area * (2 * frames * 4 * c * c + 4 * frames * frames * c)
    return _blocks(config, [c, c], c, frames, area) + attention


@dataclass(frozen=True, slots=True)
class _Parts:
    """Operations of one sample: a layer, what reads inputs without gradient, and the rest."""

    layer: int
    inputs: int
    rest: int


def _transformer(config: TransformerConfig, grid: tuple[int, int, int], text: Mapping[str, int]) -> _Parts:
    d, n, length = config.width, grid[0] * grid[1] * grid[2], sum(text[name] for name in config.token_widths)
    patch = 2 * n * PATCH_PX**2 * config.latent_channels * d
    self_attention = 2 * n * 4 * d * d + 4 * n * n * d
    cross_attention = 2 * n * 2 * d * d + 2 * length * 2 * d * d + 4 * n * length * d
    feed_forward = 2 * n * 3 * d * config.ffn
    projections = sum(2 * text[name] * width * d for name, width in config.token_widths.items())
    return _Parts(
        layer=self_attention + cross_attention + feed_forward,
        inputs=patch + projections + 2 * _FREQUENCIES * 4 * d,
        rest=patch + 2 * (4 + _VECTORS) * d * d,
    )


def codec_step(config: CodecConfig, sound_frames: int) -> int:
    """Operations of encode, decode and their backward pass of one sound; samples have no gradient."""
    spared = 2 * 7 * config.encoder_widths[0] * sound_frames * config.hop
    return 3 * (codec_encode(config, sound_frames) + codec_decode(config, sound_frames)) - spared


def codec_encode(config: CodecConfig, sound_frames: int) -> int:
    """Operations of encoding one sound of so many latent frames."""
    n, w = sound_frames * config.hop, config.encoder_widths
    total = 2 * 7 * w[0] * n
    for c_in, c_out, stride in zip(w, w[1:], config.strides, strict=False):
        total += _residual_units(config, c_in, n)
        n //= stride
        total += 2 * 2 * stride * c_in * c_out * n
    return total + 2 * 3 * w[-1] * config.hidden_width * n + 4 * config.hidden_width * config.latent_channels * n


def codec_decode(config: CodecConfig, sound_frames: int) -> int:
    """Operations of decoding one sound of so many latent frames."""
    n, w = sound_frames, config.decoder_widths
    total = 2 * config.hidden_width * (config.latent_channels + 7 * w[0]) * n
    for c_in, c_out, stride in zip(w, w[1:], reversed(config.strides), strict=False):
        total += 2 * 2 * stride * c_in * c_out * n
        n *= stride
        total += _residual_units(config, c_out, n)
    return total + 2 * 7 * w[-1] * n


def sound_step(config: SoundConfig, frames: int, text: int) -> int:
    """Operations of forward and backward of one sample: frames of sound, tokens of text. Inputs have no gradient."""
    d = config.width
    inputs = 2 * frames * d * (2 * config.latent_channels + 1 + 2 * config.video_width) + 2 * text * config.text_width * d
    time = 2 * (_FREQUENCIES * 4 * d + 4 * d * d + 6 * d * d)
    return 2 * inputs + 3 * (config.layers * sound_layer(config, frames, text) + time + 2 * frames * d * config.latent_channels)


def sound_layer(config: SoundConfig, frames: int, text: int) -> int:
    """Operations of one layer's forward pass: projections of queries, keys, values and outputs, both attentions, the MLP."""
    d = config.width
    return 2 * d * d * (4 * frames + 2 * frames + 2 * text) + 4 * frames * d * (frames + text) + 4 * frames * d * config.ffn


def _residual_units(config: CodecConfig, channels: int, n: int) -> int:
    return 2 * len(config.dilations) * (7 + 1) * channels * channels * n
