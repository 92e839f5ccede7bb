"""A stage's step rehearsed on the meta device: what it holds at its peak beside the states of the optimiser, without any memory.

Inputs have the sizes that the stage's batches have, losses are the task's, and layers that are all alike are counted from two of them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.data.shapes import FRAMES_PER_LATENT
from training.latents import TILING, LatentCodec, LatentScale
from training.losses import TAELossConfig, adaptive_weight, hinge_discriminator, hinge_generator, l1, outlier_penalty, pixel_gradient
from training.memory import Peak, live_bytes, pass_peak, step_peak
from training.models.autoencoder import TAE, Posterior, TAEConfig
from training.models.codec import Codec, CodecConfig
from training.models.discriminator import Discriminator
from training.models.perceptual import PerceptualNet
from training.models.sound import SoundConfig, SoundTransformer
from training.models.spectral import mel_distance
from training.models.spectral_discriminator import SpectralDiscriminator, feature_distance
from training.models.transformer import PATCH_PX, Transformer, TransformerConfig
from training.models.vision import Tower, TowerConfig
from training.tasks.sound_config import CodecLossConfig

_ALIKE = 1
"""Layers that are run: each further one adds what the second adds to the first."""


@lru_cache(maxsize=256)
def generator(
    config: TransformerConfig,
    batch: int,
    n_tokens: int,
    text: tuple[tuple[str, int], ...],
    dtype: torch.dtype,
    *,
    recompute: bool,
    sequence_parallel: int = 1,
    fused: bool = True,
) -> Peak:
    """The peak of a rank's pass of flow matching over `batch` samples of `n_tokens` tokens, of which each rank of a sequence parallel
    group has its share; `text` are the tokens of each encoder."""
    if config.layers > _ALIKE + 1:
        few, more = (
            generator(
                replace(config, layers=n), batch, n_tokens, text, dtype,
                recompute=recompute, sequence_parallel=sequence_parallel, fused=fused,
            )
            for n in (_ALIKE, _ALIKE + 1)
        )  # fmt: skip
        saved = few.saved_bytes + (config.layers - _ALIKE) * (more.saved_bytes - few.saved_bytes)
        # the peak is at the first layer that goes back, when all layers' share is still held
        return Peak(saved_bytes=saved, peak_bytes=saved + more.peak_bytes - more.saved_bytes)
    model, call = _generator(config, batch, n_tokens // sequence_parallel, text, dtype)
    model.recompute = recompute
    target = torch.empty(call().shape, device="meta")

    def forward() -> Tensor:
        loss: Tensor = (call().float() - target).square().flatten(1).mean(1).mean()
        return loss

    return step_peak(model, forward, keep_gradients=False, fused=fused, sequence_parallel=sequence_parallel)


def _generator(
    config: TransformerConfig, batch: int, n_tokens: int, text: tuple[tuple[str, int], ...], dtype: torch.dtype
) -> tuple[Transformer, Callable[[], Tensor]]:
    """(the transformer, its pass over so many samples), sizes only."""
    with torch.device("meta"):
        model = Transformer(replace(config, max_t=1, max_h=1, max_w=n_tokens)).to(dtype)
        noisy, times = torch.empty(batch, config.latent_channels, 1, PATCH_PX, PATCH_PX * n_tokens), torch.empty(batch)
        tokens = {name: torch.empty(batch, length, config.token_widths[name], dtype=dtype) for name, length in text}
        masks = {name: torch.empty(batch, length, dtype=torch.bool) for name, length in text}
        context = torch.empty(batch, config.context_channels, *noisy.shape[2:], dtype=dtype) if config.context_channels else None
        task = torch.empty(batch, dtype=torch.long) if config.tasks else None
    return model, lambda: model(noisy.to(dtype), times, tokens, masks, context, task)


@lru_cache(maxsize=64)
def autoencoder(
    config: TAEConfig, loss: TAELossConfig, batch: int, n_frames: int, side_px: int, dtype: torch.dtype, *, fused: bool = True
) -> Peak:
    """The peak of a rank's pass over `batch` clips: the autoencoder's update, or the discriminator's where that is larger."""
    with torch.device("meta"):
        tae = TAE(config).to(dtype)
        judge = Discriminator(loss.discriminator).to(dtype) if loss.gan_weight else None
        perceptual = _perceptual(loss.perceptual_net) if loss.perceptual_weight else None
        pixels = torch.empty(batch, 3, n_frames, side_px, side_px, dtype=dtype)
        noise = torch.empty(batch, *tae.latent_shape(tuple(pixels.shape)), dtype=dtype)

    def reconstruct() -> Tensor:
        output, posterior = tae(pixels, noise)
        posterior = Posterior(posterior.mean.float(), posterior.logvar.float())
        output, target = output.float(), pixels.float()
        seen = l1(output, target)
        if perceptual is not None:
            count = min(loss.perceptual_frames or n_frames, n_frames)
            made, real = (x[:, :, :count].transpose(1, 2).flatten(0, 1) for x in (output, target))
            seen = seen + perceptual(made, real).view(batch, -1).mean(1)
        total = seen + posterior.kl() + outlier_penalty(posterior.mean, loss.outlier_r)
        if judge is not None:
            judge.requires_grad_(False)
            heard = pixel_gradient(hinge_generator(judge(output.to(dtype)).float()), output)
            judge.requires_grad_(True)
            weight = adaptive_weight(pixel_gradient(seen, output), heard)
            total = total + weight * ((output - output.detach()) * heard).flatten(1).sum(1)
        return total.mean()

    parts = nn.ModuleList([m for m in (tae, judge, perceptual) if m is not None])
    found = [step_peak(parts, reconstruct, keep_gradients=False, fused=fused)]
    if judge is not None:
        found.append(step_peak(parts, lambda: _compare(judge, pixels), keep_gradients=False, fused=fused))
    return max(found, key=lambda peak: peak.peak_bytes)


@lru_cache(maxsize=16)
def tower(config: TowerConfig, batch: int, dtype: torch.dtype) -> Peak:
    """The peak of a trained tower's pass over `batch` pictures."""
    with torch.device("meta"):
        model = Tower(config).to(dtype)
        pictures = torch.empty(batch, 3, config.image_px, config.image_px, dtype=dtype)
    return step_peak(model, lambda: model(pictures).float().square().mean(), keep_gradients=False)


@lru_cache(maxsize=64)
def codec(config: CodecConfig, loss: CodecLossConfig, batch: int, frames: int, dtype: torch.dtype) -> Peak:
    """The peak of a rank's pass over `batch` sounds: the codec's update, or the discriminator's where that is larger."""
    with torch.device("meta"):
        model = Codec(config).to(dtype)
        judge = SpectralDiscriminator(loss.discriminator).to(dtype) if loss.gan_weight else None
        sound = torch.empty(batch, frames * config.hop, dtype=dtype)
        noise = torch.empty(batch, config.latent_channels, frames, dtype=dtype)

    def reconstruct() -> Tensor:
        output, (mean, scale) = model(sound, noise)
        output, target = output.float(), sound.float()
        seen = mel_distance(output, target, loss.mel_windows) + (output - target).abs().mean(1)
        total = seen + (mean.float().square() + scale.float()).mean((1, 2))
        if judge is not None:
            judge.requires_grad_(False)
            logits, found = judge(output, True)
            heard = pixel_gradient(hinge_generator(logits.float()) + feature_distance([f.float() for f in found], found), output)
            judge.requires_grad_(True)
            total = total + ((output - output.detach()) * heard).flatten(1).sum(1)
        loss_of_all: Tensor = total.mean()
        return loss_of_all

    peaks = [step_peak(nn.ModuleList([m for m in (model, judge) if m is not None]), reconstruct, keep_gradients=False)]
    if judge is not None:
        peaks.append(step_peak(judge, lambda: judge(torch.cat([sound, sound])).float().mean(), keep_gradients=False))
    return max(peaks, key=lambda peak: peak.peak_bytes)


@lru_cache(maxsize=64)
def sound(config: SoundConfig, batch: int, frames: int, text: int, dtype: torch.dtype, *, recompute: bool) -> Peak:
    """The peak of a rank's pass of the generator of sound over `batch` samples of `frames` latent frames under `text` tokens."""
    if config.layers > _ALIKE + 1:
        few, more = (sound(replace(config, layers=n), batch, frames, text, dtype, recompute=recompute) for n in (_ALIKE, _ALIKE + 1))
        saved = few.saved_bytes + (config.layers - _ALIKE) * (more.saved_bytes - few.saved_bytes)
        return Peak(saved_bytes=saved, peak_bytes=saved + more.peak_bytes - more.saved_bytes)
    with torch.device("meta"):
        model = SoundTransformer(config).to(dtype)
        model.recompute = recompute
        noisy, context = (torch.empty(batch, config.latent_channels, frames, dtype=dtype) for _ in range(2))
        video, tokens = (
            torch.empty(batch, frames, config.video_width, dtype=dtype),
            torch.empty(batch, text, config.text_width, dtype=dtype),
        )
        times, mask, given = torch.empty(batch), torch.empty(batch, text, dtype=torch.bool), torch.empty(batch, frames, dtype=dtype)

    def forward() -> Tensor:
        velocity = model(noisy, times, video, tokens, mask, context, given)
        loss: Tensor = (velocity.float() - noisy.float()).square().flatten(1).mean(1).mean()
        return loss

    return step_peak(model, forward, keep_gradients=False)


@lru_cache(maxsize=16)
def encode_sound_bytes(config: CodecConfig, frames: int, dtype: torch.dtype) -> int:
    """The peak of encoding one sound with a frozen codec, its weights included."""
    with torch.device("meta"):
        model, samples = Codec(config).to(dtype), torch.empty(1, frames * config.hop, dtype=dtype)
    with torch.no_grad(), live_bytes() as live:
        model.encode(samples)
    return live.peak_bytes + sum(p.nbytes for p in model.parameters())


@lru_cache(maxsize=16)
def encode_bytes(config: TAEConfig, n_frames: int, side_px: int, dtype: torch.dtype) -> int:
    """The peak of encoding one clip with a frozen autoencoder, its weights included: one tile of it at a time (training/latents.py)."""
    tile = TILING.encode_tile * (FRAMES_PER_LATENT if config.temporal else 1)
    with torch.device("meta"):
        tae, pixels = TAE(config).to(dtype), torch.empty(1, 3, min(n_frames, tile), side_px, side_px, dtype=dtype)
    with torch.no_grad(), live_bytes() as live:
        tae.encode(pixels)
    return live.peak_bytes + sum(p.nbytes for p in tae.parameters())


@lru_cache(maxsize=64)
def forward_bytes(
    config: TransformerConfig,
    batch: int,
    n_tokens: int,
    text: tuple[tuple[str, int], ...],
    dtype: torch.dtype,
    *,
    sequence_parallel: int = 1,
    fused: bool = True,
) -> int:
    """The peak of a pass of the generator without gradients: each layer's memory is gone when the next begins, so two tell of all."""
    model, call = _generator(replace(config, layers=min(2, config.layers)), batch, n_tokens // sequence_parallel, text, dtype)
    return pass_peak(model, call, fused=fused, sequence_parallel=sequence_parallel)


@lru_cache(maxsize=16)
def measured_bytes(config: TAEConfig, n_frames: int, side_px: int, dtype: torch.dtype) -> tuple[int, int]:
    """The peaks of encoding a whole held-out clip that lies there in float32, and of decoding one, each with the autoencoder's weights."""
    with torch.device("meta"):
        codec = LatentCodec(TAE(config).to(dtype), LatentScale(mean=(0.0,) * config.latent_channels, std=(1.0,) * config.latent_channels))
        with torch.no_grad(), live_bytes() as encoding:
            levels = torch.empty(1, 3, n_frames, side_px, side_px)
            codec.encode(levels.to(dtype))
        latents = torch.empty(codec.tae.latent_shape((1, 3, n_frames, side_px, side_px)), dtype=dtype)[None]
        with torch.no_grad(), live_bytes() as decoding:
            pixels = torch.empty(1, 3, n_frames, side_px, side_px, dtype=dtype)
            codec.decode(latents, n_frames)
        del levels, pixels
    weights = sum(p.nbytes for p in codec.tae.parameters())
    return encoding.peak_bytes + weights, decoding.peak_bytes + weights


@lru_cache(maxsize=16)
def judged_flops(loss: TAELossConfig, n_frames: int, side_px: int) -> int:
    """Operations a clip that the perceptual distance and the adversary add to the autoencoder's step.

    The distance: two forward passes, one of them with the gradient of its input. The adversary: forward and the gradient of its input in the
    autoencoder's update; forward and both gradients of an original and of a reconstruction in its own.
    """
    total = 0
    with torch.device("meta"):
        clip = torch.empty(1, 3, n_frames, side_px, side_px)
        if loss.gan_weight:
            total += 8 * _counted(Discriminator(loss.discriminator), clip)
        if loss.perceptual_weight:
            frames = torch.empty(min(loss.perceptual_frames or n_frames, n_frames), 3, side_px, side_px)
            total += 3 * _counted(_perceptual(loss.perceptual_net), frames, frames) // 2
    return total


def _compare(judge: nn.Module, pixels: Tensor) -> Tensor:
    """The discriminator's loss on originals and as many reconstructions."""
    real, fake = judge(torch.cat([pixels, pixels])).float().chunk(2)
    return hinge_discriminator(real, fake).mean()


def parameters(module: nn.Module) -> int:
    """Values of all parameters."""
    return sum(p.numel() for p in module.parameters())


def _counted(module: nn.Module, *inputs: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(*inputs)
    return int(counter.get_total_flops())


def _perceptual(net: PerceptualNet) -> nn.Module:
    """LPIPS of this network, of sizes only."""
    from torchmetrics.functional.image.lpips import ScalingLayer, _NoTrainLpips

    with torch.device("meta"):  # on the CPU it would draw 138 million weights
        module: Any = _NoTrainLpips(pretrained=False, pnet_rand=True, net=net)
    with torch.device("cpu"):
        module.scaling_layer = ScalingLayer()
    found: nn.Module = module.eval().requires_grad_(False).to("meta")
    return found
