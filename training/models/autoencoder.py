"""The temporal autoencoder (TAE): pixels to a continuous latent of 1/8 the height, width and frames, and back.

A latent-diffusion image autoencoder inflated to 2.5-D: a 1-D temporal convolution after every 2-D convolution, 1-D temporal attention
after every spatial attention, symmetric replicate padding. Any number of frames T' is taken and gives T = ceil(T'/8) latent frames; an
image is one frame. Height and width are multiples of 8. Source: Movie Gen, Temporal Autoencoder.
"""

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
    """Width of each level as a multiple of base_channels: full size, 1/2, 1/4, 1/8."""
    n_res_blocks: int = 2
    """Residual blocks of an encoder level; a decoder level has one more."""
    latent_channels: int = 16
    norm_groups: int = 32
    initial_logvar: float = -6.0
    """Log variance of the untrained posterior; ours. At 0 the noise of a draw drowns the code for the first thousands of steps."""
    norm_out: bool = True
    """Normalise and bend before the last convolution of encoder and decoder, as the latent-diffusion autoencoders do. Without it
    brightness passes linearly, which a model trained from scratch on few clips needs: it would otherwise have to learn it back."""
    temporal: bool = True
    """False gives the image autoencoder: every frame on its own, 1x8x8."""

    def __post_init__(self) -> None:
        if len(self.channel_mult) != LEVELS + 1:
            raise ValueError(f"model: expected {LEVELS + 1} channel_mult, found {len(self.channel_mult)}")
        if self.base_channels % self.norm_groups:
            raise ValueError(f"model: expected base_channels divisible by norm_groups, found {self.base_channels} and {self.norm_groups}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full size to 1/8."""
        return tuple(self.base_channels * m for m in self.channel_mult)


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
        self.conv_in = Conv25d(3, w[0], 3, padding=1, temporal=t)
        self.levels, self.downs = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(w):
            inputs = [w[max(i - 1, 0)]] + [width] * (config.n_res_blocks - 1)
            self.levels.append(nn.Sequential(*(ResBlock(c, width, g, temporal=t) for c in inputs)))
            self.downs.append(Downsample(width, temporal=t) if i < LEVELS else nn.Identity())
        self.middle = _middle(w[-1], g, t)
        self.norm_out = nn.Sequential(Norm(w[-1], g), nn.SiLU()) if config.norm_out else nn.Identity()
        self.conv_out = Conv25d(w[-1], 2 * config.latent_channels, 3, padding=1, temporal=t)
        self.initial_logvar = config.initial_logvar

    def reset(self) -> None:
        """The posterior begins with its initial variance."""
        self.conv_out.spatial.get_parameter("bias").data.chunk(2)[1].fill_(self.initial_logvar)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y = self.conv_in(x_BCTHW)
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
        for i in reversed(range(LEVELS + 1)):
            inputs = [w[min(i + 1, LEVELS)]] + [w[i]] * config.n_res_blocks
            self.levels.append(nn.Sequential(*(ResBlock(c, w[i], g, temporal=t) for c in inputs)))
            self.ups.append(Upsample(w[i], temporal=t) if i else nn.Identity())
        self.norm_out = nn.Sequential(Norm(w[0], g), nn.SiLU()) if config.norm_out else nn.Identity()
        self.conv_out = Conv25d(w[0], 3, 3, padding=1, temporal=t)

    def forward(self, z_BCTHW: Tensor, n_frames: int) -> Tensor:
        y = self.middle(self.conv_in(z_BCTHW))
        for i, (level, up) in enumerate(zip(self.levels, self.ups, strict=True)):
            y = level(y)
            if i < LEVELS:
                y = up(y, latent_frames(n_frames, LEVELS - 1 - i))
        pixels: Tensor = self.conv_out(self.norm_out(y))
        return pixels


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
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

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
        if own[name].shape != value.shape:
            raise ValueError(f"inflate: {name}: expected shape {tuple(own[name].shape)}, found {tuple(value.shape)}")
        own[name].copy_(value)
    for module in model.modules():
        if isinstance(module, Conv25d | Upsample | Attention25d) and module.temporal is not None:
            module.temporal.reset()


def _middle(channels: int, groups: int, temporal: bool) -> nn.Sequential:
    first, last = ResBlock(channels, channels, groups, temporal=temporal), ResBlock(channels, channels, groups, temporal=temporal)
    return nn.Sequential(first, Attention25d(channels, groups, temporal=temporal), last)
