"""The 2.5-D parts of the autoencoder: plain spatial layers, each followed by a 1-D temporal one.

Shapes: B clips, C channels, T frames, H and W as usual; x_BCTHW. A layer made with `temporal=False` has no temporal part: then the
same module, with the same parameter names, is the image autoencoder that the temporal one is inflated from.
Source: Movie Gen, Temporal Autoencoder (build, padding, down / up).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import keyed


class Conv25d(nn.Module):
    """A 2-D convolution over each frame, then (if temporal) a 1-D convolution of width 3 over time.

    Time is padded by repeating the first and last frame on both sides, so the layer is symmetric and not causal, and a single
    frame passes as a still video would. With `time_stride` 2 it gives ceil(T/2) frames.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, temporal: bool, stride: int = 1, padding: int = 0, time_stride: int = 1
    ) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(c_in, c_out, kernel, stride, padding)
        self.temporal = TemporalConv(c_out, time_stride) if temporal else None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y_BCTHW: Tensor = per_frame(self.spatial, x_BCTHW)
        if self.temporal is not None:
            y_BCTHW = self.temporal(y_BCTHW)
        return y_BCTHW


class TemporalConv(nn.Module):
    """A convolution of width 3 over time at every position; begins as the identity ('centric' initialisation)."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        # a (3, 1) kernel over (T, H*W) is the same arithmetic as a 3-D convolution and 1.2 to 1.7 times as fast on a CPU
        self.conv = nn.Conv2d(channels, channels, (3, 1), (stride, 1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        padded = torch.cat([x_BCTHW[:, :, :1], x_BCTHW, x_BCTHW[:, :, -1:]], 2)
        y: Tensor = self.conv(padded.flatten(3))
        return y.view(*y.shape[:3], *x_BCTHW.shape[3:])

    def reset(self) -> None:
        """The layer passes its input through (every second frame of it with stride 2)."""
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(_bias(self.conv))
        self.conv.weight.data[:, :, 1, 0] = torch.eye(self.conv.out_channels)


class Norm(nn.Module):
    """Group normalisation of each frame on its own, so that a frame's code does not depend on how long its clip is."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.spatial = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return per_frame(self.spatial, x_BCTHW)


class ResBlock(nn.Module):
    """x + two convolutions of it, each after normalisation and SiLU; a 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, c_in: int, c_out: int, groups: int, *, temporal: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(c_in, groups), Conv25d(c_in, c_out, 3, padding=1, temporal=temporal)
        self.norm2, self.conv2 = Norm(c_out, groups), Conv25d(c_out, c_out, 3, padding=1, temporal=temporal)
        self.shortcut = Conv25d(c_in, c_out, 1, temporal=temporal) if c_in != c_out else None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.silu(self.norm1(x_BCTHW)))
        y = self.conv2(F.silu(self.norm2(y)))
        shortcut: Tensor = x_BCTHW if self.shortcut is None else self.shortcut(x_BCTHW)
        return shortcut + y

    def reset(self) -> None:
        """The block passes its shortcut through: an untrained branch would only add noise to what it should refine."""
        nn.init.zeros_(self.conv2.spatial.weight)


class Attention(nn.Module):
    """Single-head self-attention over the tokens of (N, L, C), added to the input; with `zero` it begins as the identity."""

    def __init__(self, channels: int, groups: int, *, zero: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.zero = zero

    def forward(self, x_NLC: Tensor) -> Tensor:
        y_NLC = self.norm(x_NLC.transpose(1, 2)).transpose(1, 2)
        q, k, v = self.qkv(y_NLC).chunk(3, -1)
        out: Tensor = self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])
        return x_NLC + out

    def reset(self) -> None:
        """The layer passes its input through if it was made with `zero`."""
        if self.zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(_bias(self.out))


class Attention25d(nn.Module):
    """Attention among the positions of each frame, then (if temporal) among the frames at each position."""

    def __init__(self, channels: int, groups: int, *, temporal: bool) -> None:
        super().__init__()
        self.spatial = Attention(channels, groups, zero=False)
        self.temporal = Attention(channels, groups, zero=True) if temporal else None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        b, _, t, h, w = x_BCTHW.shape
        frames = x_BCTHW.permute(0, 2, 3, 4, 1).reshape(b * t, h * w, -1)
        x_BTLC: Tensor = self.spatial(frames).view(b, t, h * w, -1)
        if self.temporal is not None:
            places = x_BTLC.transpose(1, 2).reshape(b * h * w, t, -1)
            x_BTLC = self.temporal(places).view(b, h * w, t, -1).transpose(1, 2)
        return x_BTLC.permute(0, 3, 1, 2).reshape(b, -1, t, h, w)


class Downsample(nn.Module):
    """Half the height and width, and ceil(T/2) frames if temporal, by convolutions of stride 2."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.conv = Conv25d(channels, channels, 3, stride=2, temporal=temporal, time_stride=2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        # padded on the right and bottom only, as the latent-diffusion image autoencoders are, so that their weights fit
        y: Tensor = self.conv(F.pad(x_BCTHW, (0, 1, 0, 1)))
        return y

    def reset(self) -> None:
        """The layer averages 2 x 2 pixels of each channel, so that an untrained encoder already shrinks the picture."""
        nn.init.zeros_(self.conv.spatial.weight)
        self.conv.spatial.weight.data[:, :, :2, :2] = torch.eye(self.conv.spatial.out_channels)[:, :, None, None] / 4


class Upsample(nn.Module):
    """Twice the height and width, and `n_frames` frames if temporal: nearest neighbour, then convolution.

    Time doubles and the spurious last frame of an odd length is dropped at once rather than after the decoder, so an image costs
    one frame and not eight. The nearest neighbour in time comes after the spatial convolution: same result on half the frames.
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.temporal = TemporalConv(channels) if temporal else None

    def forward(self, x_BCTHW: Tensor, n_frames: int) -> Tensor:
        y: Tensor = per_frame(lambda x: self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), x_BCTHW)
        if self.temporal is not None:
            y = self.temporal(y.repeat_interleave(2, 2)[:, :, :n_frames])
        return y

    def reset(self) -> None:
        """The layer repeats its input, so that an untrained decoder already enlarges the picture."""
        nn.init.dirac_(self.conv.weight)


def per_frame(layer: Callable[[Tensor], Tensor], x_BCTHW: Tensor) -> Tensor:
    """The layer applied to every frame as an image: (B, C, T, H, W) -> (B, C', T, H', W')."""
    b, _, t, _, _ = x_BCTHW.shape
    y = layer(x_BCTHW.transpose(1, 2).flatten(0, 1))
    return y.view(b, t, *y.shape[1:]).transpose(1, 2)


def initialise(model: nn.Module, seed: int) -> None:
    """Every parameter holds its initial value, drawn by a key of the seed and its name, so no global random state is read.

    Weights are uniform in +-sqrt(3 / fan in), which keeps the variance of what passes. Biases are uniform in +-1/sqrt(fan in) and not
    zero: without them a normalised flat picture has lost its brightness. Then each module with a `reset` says what it begins as.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            _fill(module.weight, math.sqrt(3 / fan_in), seed, "init", name, "weight")
            _fill(_bias(module), 1 / math.sqrt(fan_in), seed, "init", name, "bias")
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(_bias(module))
    for module in model.modules():
        if callable(reset := getattr(module, "reset", None)):
            reset()


def _fill(parameter: Tensor, bound: float, *key: object) -> None:
    """The parameter holds uniform values in [-bound, bound) of the key."""
    parameter.data.copy_(torch.from_numpy(keyed.stream(*key).uniform(-bound, bound, tuple(parameter.shape))))


def _bias(module: nn.Module) -> nn.Parameter:
    """The module's bias: every layer here has one."""
    return module.get_parameter("bias")
