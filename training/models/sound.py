"""The generator of sound: noisy latents of the codec, a time, what is seen, what is said and what is already heard, to the velocity.

A diffusion transformer, not the LLaMa3 block: LayerNorm without weights, full self-attention, cross-attention to the text in each block,
an MLP of two matrices. One MLP of the time, shared by all blocks, gives six vectors (shift, scale and gate of self-attention and of the
MLP), to which each block adds a bias of its own. Features of the frames, at the latents' rate, go through a gated linear layer and are
added frame by frame; sound that is given stands beside the noisy latents on channels, with a channel that says where it is given.
Source: Movie Gen Audio, Generator. The paper names no heads and no positions: rotary ones (Su et al. 2021) are ours, as they take any length.

Shapes: B samples, C latent channels, T latent frames (25 a second), V video features, L text tokens, D width, K heads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training import keyed
from training.models.transformer import TimeMLP

_VECTORS = 6
_ROTARY_BASE = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundConfig:
    """Sizes of the model."""

    layers: int
    width: int
    ffn: int
    heads: int
    text_width: int
    """Of the text encoder's tokens: 768 of T5-base."""
    video_width: int
    """Features of a frame: 1024 of MetaCLIP's tower in the paper."""
    latent_channels: int = 128

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"sound.model: expected a width divisible by twice the heads, found {self.width} and {self.heads}")
        for name in ("layers", "width", "ffn", "heads", "text_width", "video_width", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"sound.model: expected {name} >= 1, found {getattr(self, name)}")


class Attention(nn.Module):
    """Multi-head attention of (B, T, D) to (B, L, D); with `rotary` queries and keys are turned by their places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x_BTD: Tensor, y_BLD: Tensor, rotary: Tensor | None = None, mask_B11L: Tensor | None = None) -> Tensor:
        q, k, v = (p(s).unflatten(2, (self.heads, -1)).transpose(1, 2) for p, s in ((self.q, x_BTD), (self.k, y_BLD), (self.v, y_BLD)))
        if rotary is not None:
            q, k = _turned(q, rotary), _turned(k, rotary)
        values = F.scaled_dot_product_attention(q, k, v, mask_B11L)
        out: Tensor = self.out(values.transpose(1, 2).flatten(2))
        return out


class SoundBlock(nn.Module):
    """One layer: self-attention and MLP, modulated and gated, and cross-attention to the text between them."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        d = config.width
        self.attention, self.cross = Attention(d, config.heads), Attention(d, config.heads)
        self.inner, self.outer = nn.Linear(d, config.ffn), nn.Linear(config.ffn, d)
        self.bias = nn.Parameter(torch.empty(_VECTORS, d))

    def forward(self, x_BTD: Tensor, vectors_B6D: Tensor, text_BLD: Tensor, mask_B11L: Tensor, rotary: Tensor) -> Tensor:
        b1, s1, g1, b2, s2, g2 = (vectors_B6D + self.bias)[:, :, None].unbind(1)
        y = _norm(x_BTD) * (1 + s1) + b1
        x = x_BTD + g1 * self.attention(y, y, rotary)
        x = x + self.cross(_norm(x), text_BLD, None, mask_B11L)
        out: Tensor = x + g2 * self.outer(F.gelu(self.inner(_norm(x) * (1 + s2) + b2), approximate="tanh"))
        return out


class GatedLinear(nn.Module):
    """sigmoid(gate(v)) * up(v): (B, T, V) to (B, T, D). Zeros, which stand for no picture, give a constant of its own."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width_in, width), nn.Linear(width_in, width)

    def forward(self, v_BTV: Tensor) -> Tensor:
        gated: Tensor = self.gate(v_BTV).sigmoid() * self.up(v_BTV)
        return gated


class SoundTransformer(nn.Module):
    """The velocity (B, C, T) of latents at times t_B, under features of frames (B, T, V), text tokens (B, L, text_width) with their mask
    (B, L), true = read, and given latents (B, C, T) with `given` (B, T), 1 where they are: elsewhere they do not count."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.frames = nn.Linear(2 * config.latent_channels + 1, d)
        self.video, self.text, self.time = GatedLinear(config.video_width, d), nn.Linear(config.text_width, d), TimeMLP(d, _VECTORS)
        self.blocks = nn.ModuleList(SoundBlock(config) for _ in range(config.layers))
        self.output_bias = nn.Parameter(torch.empty(2, d))
        self.output = nn.Linear(d, config.latent_channels)
        self.recompute = False
        """Keep a layer's input only and compute the rest again in the backward pass."""

    def forward(
        self, x_BCT: Tensor, t_B: Tensor, video_BTV: Tensor, tokens_BLE: Tensor, mask_BL: Tensor, context_BCT: Tensor, given_BT: Tensor
    ) -> Tensor:
        given = given_BT[:, None].to(x_BCT.dtype)
        x = self.frames(torch.cat([x_BCT, context_BCT * given, given], 1).transpose(1, 2)) + self.video(video_BTV)
        rotary = rotations(x.shape[1], self.config.width // self.config.heads, x.device)
        time, vectors = self.time(t_B)
        text, mask = self.text(tokens_BLE), mask_BL[:, None, None]
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, vectors, text, mask, rotary, use_reentrant=False)
            else:
                x = block(x, vectors, text, mask, rotary)
        shift, scale = (time[:, None] + self.output_bias)[:, :, None].unbind(1)
        velocity: Tensor = self.output(_norm(x) * (1 + scale) + shift)
        return velocity.transpose(1, 2)


def rotations(length: int, head_width: int, device: torch.device | str = "cpu") -> Tensor:
    """Cosines and sines of every place at half the width's frequencies, (2, T, head_width / 2), float32."""
    half = head_width // 2
    rates = _ROTARY_BASE ** -(torch.arange(half, dtype=torch.float32, device=device) / half)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()])


def initialise(model: SoundTransformer, seed: int) -> None:
    """Every parameter holds its initial value, drawn by a key of the seed and its name.

    Linear weights are normal with deviation 1 / sqrt(fan in), those that write to the residual stream divided by sqrt(3 layers); the
    modulation and the output begin as zero, gates open.
    """
    depth = math.sqrt(3 * model.config.layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            writes = name.startswith("blocks.") and name.endswith((".out", ".outer"))
            std = 0.0 if name in ("time.modulation", "output") else 1 / math.sqrt(module.in_features) / (depth if writes else 1.0)
            if std:
                module.weight.data.copy_(keyed.normal(tuple(module.weight.shape), seed, "init", name) * std)
            else:
                nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, SoundBlock):
            nn.init.zeros_(module.bias)
            module.bias.data[2::3] = 1.0
    nn.init.zeros_(model.output_bias)


def inherit(model: SoundTransformer, parent: Mapping[str, Tensor]) -> None:
    """The model has its parent's weights; ValueError when anything is missing, unknown or of another size."""
    try:
        model.load_state_dict(dict(parent), strict=True)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _turned(x_BKTE: Tensor, rotary_2TE: Tensor) -> Tensor:
    cos, sin = rotary_2TE.to(x_BKTE.dtype)
    a, b = x_BKTE.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
