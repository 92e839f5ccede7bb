"""The temporal autoencoder (TAE): pixels to a continuous latent of 1/8 the height, width and frames, and back.

A latent-diffusion image autoencoder inflated to 2.5-D: a 1-D temporal convolution after every 2-D convolution, 1-D temporal attention
after every spatial attention, symmetric replicate padding. Any number of frames T' is taken and gives T = ceil(T'/8) latent frames; an
image is one frame. Height and width are multiples of 8. Source: Movie Gen, Temporal Autoencoder.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.models.layers import Attention25d, Conv25d, Downsample, Norm, ResBlock, Upsample

LEVELS = 3
"""Halvings of height, width and time: 2**3 = 8 each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TAEConfig:
    """Sizes of the autoencoder. 16 latent channels are the paper's; widths are those of the latent-diffusion image autoencoders."""

    base_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level as a multiple of base_channels: full size, 1/2, 1/4, 1/8; without the first ones where pixels are patched."""
    patch_px: int = 1
    """Side of the blocks whose pixels (and, with time, frames) become the channels of one position, in place of the first levels: a power
    of two up to 8. For small models on CPUs: the levels it spares are the dearest ones. The paper's model has none."""
    n_res_blocks: int = 2
    """Residual blocks of an encoder level; a decoder level has one more."""
    latent_channels: int = 16
    norm_groups: int = 32
    initial_logvar: float = -6.0
    """Log variance of the untrained posterior, on which the learnt one is added; ours. At 0 the noise of a draw drowns the code for the first thousands of steps."""
    norm_out: bool = True
    """Normalise and bend before the last convolution of encoder and decoder, as the latent-diffusion autoencoders do. Without it
    brightness passes linearly, which a model trained from scratch on few clips needs: it would otherwise have to learn it back."""
    temporal: bool = True
    """False gives the image autoencoder: every frame on its own, 1x8x8."""

    def __post_init__(self) -> None:
        if self.patch_px not in (1 << level for level in range(LEVELS + 1)):
            raise ValueError(f"model: expected patch_px 1, 2, 4 or 8, found {self.patch_px}")
        if len(self.channel_mult) != (levels := LEVELS + 1 - self.patch_levels):
            raise ValueError(f"model: expected {levels} channel_mult, found {len(self.channel_mult)}")
        if self.base_channels % self.norm_groups:
            raise ValueError(f"model: expected base_channels divisible by norm_groups, found {self.base_channels} and {self.norm_groups}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full size (or that of patches) to 1/8."""
        return tuple(self.base_channels * m for m in self.channel_mult)

    @property
    def patch_levels(self) -> int:
        """Halvings that patches take the place of."""
        return self.patch_px.bit_length() - 1

    @property
    def patch_frames(self) -> int:
        """Frames of a patch: an image autoencoder takes each on its own."""
        return self.patch_px if self.temporal else 1

    @property
    def pixel_channels(self) -> int:
        """Values of a patch: 3 colours of each of its pixels and frames."""
        return 3 * self.patch_px**2 * self.patch_frames


@dataclass(frozen=True, slots=True)
class Posterior:
    """A diagonal Gaussian over latents; mean and log variance are (B, C, T, H/8, W/8)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """A draw, from standard normal noise of the same shape."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence from the standard normal of each clip, (B,), as the mean over its latent values."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).flatten(1).mean(1)


class Encoder(nn.Module):
    """Pixels (B, 3, T', H, W) in [-1, 1] -> mean and log variance, stacked, (B, 2C, T, H/8, W/8)."""

    def __init__(self, config: TAEConfig) -> None:
        super().__init__()
        w, g, t = config.widths, config.norm_groups, config.temporal
        self.patch_px, self.patch_frames = config.patch_px, config.patch_frames
        self.conv_in = Conv25d(config.pixel_channels, w[0], 3, padding=1, temporal=t)
        self.levels, self.downs = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(w):
            inputs = [w[max(i - 1, 0)]] + [width] * (config.n_res_blocks - 1)
            self.levels.append(nn.Sequential(*(ResBlock(c, width, g, temporal=t) for c in inputs)))
            self.downs.append(Downsample(width, temporal=t) if i + 1 < len(w) else nn.Identity())
        self.middle = _middle(w[-1], g, t)
        self.norm_out = nn.Sequential(Norm(w[-1], g), nn.SiLU()) if config.norm_out else nn.Identity()
        self.conv_out = Conv25d(w[-1], 2 * config.latent_channels, 3, padding=1, temporal=t)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        # Scaled so that a flat patch is as long as a pixel: Adam moves every weight equally far, and the hundreds that read a patch all in
        # the same direction, so unscaled they would need a rate far below that of the other layers.
        patches = to_patches(x_BCTHW, self.patch_px, self.patch_frames) / math.sqrt(self.patch_px**2 * self.patch_frames)
        y = self.conv_in(patches)
        for level, down in zip(self.levels, self.downs, strict=True):
            y = down(level(y))
        moments: Tensor = self.conv_out(self.norm_out(self.middle(y)))
        return moments


class Decoder(nn.Module):
    """Latents (B, C, T, H/8, W/8) -> pixels (B, 3, n_frames, H, W)."""

    def __init__(self, config: TAEConfig) -> None:
        super().__init__()
        w, g, t = config.widths, config.norm_groups, config.temporal
        self.conv_in = Conv25d(config.latent_channels, w[-1], 3, padding=1, temporal=t)
        self.middle = _middle(w[-1], g, t)
        self.levels, self.ups = nn.ModuleList(), nn.ModuleList()
        for i in reversed(range(len(w))):
            inputs = [w[min(i + 1, len(w) - 1)]] + [w[i]] * config.n_res_blocks
            self.levels.append(nn.Sequential(*(ResBlock(c, w[i], g, temporal=t) for c in inputs)))
            self.ups.append(Upsample(w[i], temporal=t) if i else nn.Identity())
        self.norm_out = nn.Sequential(Norm(w[0], g), nn.SiLU()) if config.norm_out else nn.Identity()
        # a patch has its frames among its channels: a layer over time of that many channels would be most of the model
        self.conv_out = Conv25d(w[0], config.pixel_channels, 3, padding=1, temporal=t and config.patch_px == 1)
        self.patch_px, self.patch_frames = config.patch_px, config.patch_frames

    def forward(self, z_BCTHW: Tensor, n_frames: int) -> Tensor:
        y = self.middle(self.conv_in(z_BCTHW))
        for i, (level, up) in enumerate(zip(self.levels, self.ups, strict=True)):
            y = level(y)
            if i + 1 < len(self.levels):
                y = up(y, latent_frames(n_frames, LEVELS - 1 - i))
        pixels: Tensor = self.conv_out(self.norm_out(y))
        return from_patches(pixels, self.patch_px, self.patch_frames, n_frames)


class TAE(nn.Module):
    """Encoder and decoder as one module: its forward is a reconstruction."""

    def __init__(self, config: TAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def encode(self, x_BCTHW: Tensor) -> Posterior:
        """The posterior of the latent; ValueError unless pixels are (B, 3, T', H, W) with H and W multiples of 8."""
        if x_BCTHW.ndim != 5 or x_BCTHW.shape[1] != 3 or x_BCTHW.shape[3] % 8 or x_BCTHW.shape[4] % 8:
            raise ValueError(f"TAE: expected pixels (B, 3, T, 8h, 8w), found {tuple(x_BCTHW.shape)}")
        mean, logvar = self.encoder(x_BCTHW).chunk(2, 1)
        # added here and not a bias of the last convolution: the layer over time behind that would carry it into the mean
        return Posterior(mean, (logvar + self.config.initial_logvar).clamp(-30.0, 20.0))

    def decode(self, z_BCTHW: Tensor, n_frames: int) -> Tensor:
        """Pixels of `n_frames` frames, (B, 3, n_frames, H, W); ValueError when the latent's length does not fit."""
        if self.config.temporal and z_BCTHW.shape[2] != latent_frames(n_frames):
            raise ValueError(f"TAE: expected {latent_frames(n_frames)} latent frames for {n_frames}, found {z_BCTHW.shape[2]}")
        pixels: Tensor = self.decoder(z_BCTHW, n_frames)
        return pixels

    def forward(self, x_BCTHW: Tensor, noise_BCTHW: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """The reconstruction from a posterior draw (or, without noise, from its mean), and the posterior."""
        posterior = self.encode(x_BCTHW)
        z = posterior.mean if noise_BCTHW is None else posterior.sample(noise_BCTHW)
        return self.decode(z, x_BCTHW.shape[2]), posterior

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(C, T, H/8, W/8) for pixels of shape (..., T', H, W)."""
        frames = latent_frames(shape[-3]) if self.config.temporal else shape[-3]
        return self.config.latent_channels, frames, shape[-2] // 8, shape[-1] // 8


def latent_frames(n_frames: int, levels: int = LEVELS) -> int:
    """Frames left after `levels` halvings, ceil(n_frames / 2**levels): 256 -> 32, 1 -> 1."""
    return -(-n_frames // (1 << levels))


def to_patches(x_BCTHW: Tensor, side_px: int, frames: int) -> Tensor:
    """Pixels (B, 3, T, H, W) as (B, 3 * frames * side * side, T / frames, H / side, W / side): channels in the order colour, frame, row,
    column. The last frame is repeated up to a whole number of patches."""
    if side_px == frames == 1:
        return x_BCTHW
    if rest := -x_BCTHW.shape[2] % frames:
        x_BCTHW = torch.cat([x_BCTHW, x_BCTHW[:, :, -1:].expand(-1, -1, rest, -1, -1)], 2)
    b, c, t, h, w = x_BCTHW.shape
    blocks = x_BCTHW.view(b, c, t // frames, frames, h // side_px, side_px, w // side_px, side_px)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, -1, t // frames, h // side_px, w // side_px)


def from_patches(y_BCTHW: Tensor, side_px: int, frames: int, n_frames: int) -> Tensor:
    """The pixels (B, 3, n_frames, H, W) that `to_patches` made y of; frames beyond `n_frames` are dropped."""
    if side_px == frames == 1:
        return y_BCTHW
    b, _, t, h, w = y_BCTHW.shape
    blocks = y_BCTHW.view(b, 3, frames, side_px, side_px, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(b, 3, t * frames, h * side_px, w * side_px)[:, :, :n_frames]


def inflate(image_state: dict[str, Tensor], model: TAE) -> None:
    """The model holds the image autoencoder's spatial weights; its temporal layers are identities.

    Then any still video, and every single image, is reconstructed as the image autoencoder does it. `image_state` is the state of
    a `TAE` with `temporal=False`; ValueError names weights that are missing, unknown or of another shape.
    """
    own = model.state_dict()
    spatial = {name for name in own if ".temporal." not in name}
    if spatial != set(image_state):
        raise ValueError(f"inflate: expected the same spatial weights, found different ones: {sorted(spatial ^ set(image_state))[:5]}")
    for name, value in image_state.items():
        value = _over_frames(name, value, model.config)
        if own[name].shape != value.shape:
            raise ValueError(f"inflate: {name}: expected shape {tuple(own[name].shape)}, found {tuple(value.shape)}")
        own[name].copy_(value)
    for module in model.modules():
        if isinstance(module, Conv25d | Upsample | Attention25d) and module.temporal is not None:
            module.temporal.reset()


def _over_frames(name: str, value: Tensor, config: TAEConfig) -> Tensor:
    """The image autoencoder's layer at the pixels, for patches of several frames: what it reads is their mean (patches are scaled by the
    root of their length), what it writes is in each."""
    frames, area = config.patch_frames, config.patch_px**2
    if name == "encoder.conv_in.spatial.weight":
        per_colour: Tensor = value.unflatten(1, (-1, 1, area))
        value = per_colour.repeat_interleave(frames, 2).flatten(1, 3) / math.sqrt(frames)
    elif name.startswith("decoder.conv_out.spatial."):
        per_colour = value.unflatten(0, (-1, 1, area))
        value = per_colour.repeat_interleave(frames, 1).flatten(0, 2)
    return value


def _middle(channels: int, groups: int, temporal: bool) -> nn.Sequential:
    first, last = ResBlock(channels, channels, groups, temporal=temporal), ResBlock(channels, channels, groups, temporal=temporal)
    return nn.Sequential(first, Attention25d(channels, groups, temporal=temporal), last)
