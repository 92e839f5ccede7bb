"""Training the codec of sound: mel distance, an adversary with its features, KL, and where asked the samples themselves.

The adversary is a second update and is heard through one gradient, taken at the samples of the reconstruction, as in
training/tasks/autoencoder.py: under ZeRO-3 no graph may lead from one engine into another.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import flops, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.losses import adaptive_weight, hinge_discriminator, hinge_generator, pixel_gradient
from training.models import spectral_discriminator
from training.models.codec import Codec, DecoderBlock, EncoderBlock, Posterior, initialise
from training.models.spectral import mel_distance, si_sdr_db
from training.models.spectral_discriminator import SpectralDiscriminator, feature_distance
from training.principal_sound import LinearSound, begin_as_linear
from training.sound_latents import read_codec_weights
from training.tasks.sound_config import CodecStage
from training.tasks.task import Heard, SampleLoss

MODEL, ADVERSARY = "codec", "discriminator"

_QUIET = 3e-3
"""Least root mean square of samples that a difference is measured in units of: silence must not weigh without bound."""

_EXACT = 1e-12
"""Added to a mean square whose root is taken: at zero a root has no gradient."""


class CodecTask:
    """The `codec` stage. Noise is keyed by (seed, stage, clip, pass), so it is the same on any rank and after any restart."""

    blocks: tuple[type[nn.Module], ...] = (EncoderBlock, DecoderBlock)
    measures: tuple[str, ...] = ("si_sdr{}_db", "mel{}")

    def __init__(self, name: str, config: CodecStage, seed: int, sound_frames: int, linear: LinearSound | None = None) -> None:
        """`linear` is the linear code that the codec begins as, if any."""
        self._linear = linear
        self.name, self._config, self._seed, self._sound_frames = name, config, seed, sound_frames
        self.updates: tuple[str, ...] = (MODEL, ADVERSARY) if config.loss.gan_weight else (MODEL,)
        self._made: dict[tuple[object, ...], Tensor] = {}

    def modules(self, drawn: bool = True) -> dict[str, nn.Module]:
        """The codec, and its discriminator where there is a weight on it; both are small and always drawn."""
        return {name: self.module() if name == MODEL else self._discriminator() for name in self.updates}

    def module(self) -> nn.Module:
        """The codec: drawn by key, as the linear code, or with the weights that the configuration names."""
        with torch.device("meta"):
            codec = Codec(self._config.model)
        codec = codec.to_empty(device="cpu")
        initialise(codec, self._seed)
        if self._config.weights:
            read_codec_weights(Path(self._config.weights), codec)
        if self._linear is not None:
            begin_as_linear(codec, self._linear)
        return codec

    def loss(self, update: str, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """What this update lowers, of the batch's sound: there are no pixels."""
        sound = batch.beside["sound"].to(pixels.device, pixels.dtype)
        return self._reconstruct(engines, batch, sound) if update == MODEL else self._judge(engines, batch, sound)

    def _reconstruct(self, engines: Mapping[str, Any], batch: Batch, sound: Tensor) -> SampleLoss:
        """Distances of the reconstruction from a posterior draw, and KL; float32 throughout. The adversary adds a gradient and no value."""
        loss = self._config.loss
        output, posterior = engines[MODEL](sound, self._noise(batch).to(sound.device, sound.dtype))
        output, target = output.float(), sound.float()
        size = target.square().mean(1).sqrt().clamp_min(_QUIET)
        apart = ((output - target).square().mean(1) + _EXACT).sqrt()
        parts = {"wave": apart / size, "mel": mel_distance(output, target, loss.mel_windows)}
        seen = loss.wave_weight * parts["wave"] + loss.mel_weight * parts["mel"]
        parts["kl"] = Posterior(posterior[0].float(), posterior[1].float()).kl()
        total = seen + loss.kl_weight * parts["kl"]
        parts = {name: value.detach() for name, value in parts.items()}
        if ADVERSARY in self.updates:
            this_step = {key: made for key, made in self._made.items() if key[0] == batch.step}
            self._made = this_step | {(batch.step, batch.clip_ids, batch.epochs): output.detach()}
            if batch.step >= loss.gan_start_step:  # the same on all ranks
                heard, judged = self._adversary(engines[ADVERSARY].module, output, target, seen)
                total, parts = total + heard, parts | judged
        return SampleLoss(total, parts)

    def _adversary(self, discriminator: nn.Module, output: Tensor, target: Tensor, seen: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(a term of value 0 whose gradient is the adversary's, of `gan_weight` times the length of the reconstruction's; its parts)"""
        with torch.no_grad():
            _, wanted = discriminator(target, True)
        logits, found = discriminator(output, True)  # the module and not its engine: see training/tasks/autoencoder.py
        hinge, features = hinge_generator(logits.float()), feature_distance([f.float() for f in found], [f.float() for f in wanted])
        gradient = pixel_gradient(hinge + self._config.loss.feature_weight * features, output)
        weight_B = self._config.loss.gan_weight * adaptive_weight(pixel_gradient(seen, output), gradient)
        pushed = weight_B * ((output - output.detach()) * gradient).flatten(1).sum(1)
        return pushed, {"adversarial": hinge.detach(), "features": features.detach()}

    def _judge(self, engines: Mapping[str, Any], batch: Batch, sound: Tensor) -> SampleLoss:
        """The hinge loss of the discriminator on originals and on what the codec made of them earlier in this step."""
        made = self._made[batch.step, batch.clip_ids, batch.epochs].to(sound.dtype)
        real, fake = engines[ADVERSARY](torch.cat([sound, made])).float().chunk(2)
        return SampleLoss(hinge_discriminator(real, fake), {"real": real.detach().mean(1), "made": fake.detach().mean(1)})

    def _discriminator(self) -> nn.Module:
        with torch.device("meta"):
            discriminator = SpectralDiscriminator(self._config.loss.discriminator)
        discriminator = discriminator.to_empty(device="cpu")
        spectral_discriminator.initialise(discriminator, self._seed)
        return discriminator

    def score(self, model: Callable[..., Any], sample: Sample, pixels: Heard, dtype: torch.dtype) -> Tensor:
        """SI-SDR of the reconstruction in dB, and its mel distance."""
        made = self.sample(model, sample, pixels._replace(sound=pixels.sound.to(dtype))).cpu()
        wanted = pixels.sound.float().cpu()
        return torch.tensor([si_sdr_db(made[0], wanted[0]), float(mel_distance(made, wanted)[0])], dtype=torch.float64)

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Heard) -> Tensor:
        """The reconstruction from the posterior's mean, (1, N) in [-1, 1]."""
        output: Tensor = model(pixels.sound)[0]
        return output.float()

    def tokens(self, shape: tuple[int, int, int, int, int]) -> int:
        """Latent frames."""
        return shape[0] * self._sound_frames

    def flops(self, shape: tuple[int, int, int, int, int], encoded: bool = False) -> int:
        """Encode, decode and their backward pass."""
        return shape[0] * flops.codec_step(self._config.model, self._sound_frames)

    def description(self) -> dict[str, Any]:
        """The sizes that build the codec."""
        return {"model": asdict(self._config.model)}

    def _noise(self, batch: Batch) -> Tensor:
        shape, key = (self._config.model.latent_channels, self._sound_frames), (self._seed, self.name, "posterior")
        return torch.stack([keyed.normal(shape, *key, c, e) for c, e in zip(batch.clip_ids, batch.epochs, strict=True)])
