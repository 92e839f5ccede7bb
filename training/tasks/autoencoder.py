"""Training an autoencoder, temporal or of images: L1, perceptual and adversarial loss, KL and outlier penalty (Movie Gen, Temporal
Autoencoder, losses).

The adversary is a second update. The generator hears it through one gradient, taken at the pixels of the reconstruction, so that no
graph leads from one engine into the other: under ZeRO-3 nothing else works. Both updates of a step see the same reconstruction.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from training import flops, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.errors import TrainingError
from training.losses import (
    TAELossConfig,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    l1,
    outlier_penalty,
    pixel_gradient,
    psnr_db,
)
from training.models.autoencoder import TAE, Posterior, TAEConfig, inflate
from training.models.discriminator import Discriminator
from training.models.layers import Attention25d, Downsample, ResBlock, Upsample, initialise
from training.models.perceptual import Perceptual
from training.principal import Principal, begin_as_principal
from training.tasks.task import SampleLoss

MODEL, ADVERSARY = "autoencoder", "discriminator"


class AutoencoderTask:
    """The `tae` and `image_ae` stages. Noise is keyed by (seed, stage, clip, pass), so it is the same on any rank and after any restart."""

    blocks: tuple[type[nn.Module], ...] = (ResBlock, Attention25d, Downsample, Upsample)
    measures: tuple[str, ...] = ("psnr{}_db",)

    def __init__(
        self,
        name: str,
        model: TAEConfig,
        loss: TAELossConfig,
        seed: int,
        parent: dict[str, Tensor] | None = None,
        principal: Principal | None = None,
    ) -> None:
        """`parent` are the weights of an image autoencoder that the temporal one is inflated from, `principal` the linear code that it
        begins as."""
        self.name, self._model, self._loss, self._seed, self._parent, self._principal = name, model, loss, seed, parent, principal
        self.updates: tuple[str, ...] = (MODEL, ADVERSARY) if loss.gan_weight else (MODEL,)
        self._perceptual: Perceptual | None = None
        if loss.perceptual_weight:
            self._perceptual = Perceptual(loss.perceptual_net, loss.perceptual_features, loss.perceptual_linear)
        self._made: dict[tuple[object, ...], Tensor] = {}
        with torch.device("meta"):
            self._shapes = TAE(model)  # no memory: latent shapes come from it

    def modules(self, drawn: bool = True) -> dict[str, nn.Module]:
        """The autoencoder, and its discriminator where there is a weight on it; both are small and always drawn."""
        return {name: self.module() if name == MODEL else self._discriminator() for name in self.updates}

    def module(self) -> nn.Module:
        """The autoencoder with its initial weights: built without memory, then filled by key, so no global random state is read.

        With a parent its spatial weights are the parent's and its temporal layers identities; or it is a linear code to begin with.
        """
        with torch.device("meta"):
            tae = TAE(self._model)
        tae = tae.to_empty(device="cpu")
        initialise(tae, self._seed)
        try:
            if self._parent is not None:
                inflate(self._parent, tae)
            if self._principal is not None:
                begin_as_principal(tae, self._principal)
        except ValueError as error:
            raise TrainingError(f"{self.name}: expected sizes that fit what it begins from, found {error}") from error
        return tae

    def loss(self, update: str, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """What this update lowers: the autoencoder's losses, or the discriminator's on the reconstruction of the former in this step."""
        return self._reconstruct(engines, batch, pixels) if update == MODEL else self._judge(engines, batch, pixels)

    def _reconstruct(self, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """L1 and perceptual distance of the reconstruction from a posterior draw, KL of the posterior, outlier penalty of its mean; float32
        throughout. The adversary adds a gradient and no value: what is logged stays comparable."""
        noise = self._noise(batch, tuple(pixels.shape)).to(pixels.device, pixels.dtype)
        output, posterior = engines[MODEL](pixels, noise)
        posterior = Posterior(posterior.mean.float(), posterior.logvar.float())
        output, target = output.float(), pixels.float()
        parts = {"l1": l1(output, target)}
        if self._perceptual is not None:
            parts["perceptual"] = self._distance(self._perceptual, batch, output, target)
        seen = torch.stack([self._weight(name) * value for name, value in parts.items()]).sum(0)
        hidden = {"kl": posterior.kl(), "outlier": outlier_penalty(posterior.mean, self._loss.outlier_r)}
        total = torch.stack([seen, *(self._weight(name) * value for name, value in hidden.items())]).sum(0)
        parts = {name: value.detach() for name, value in (parts | hidden).items()}
        if ADVERSARY in self.updates:
            this_step = {key: made for key, made in self._made.items() if key[0] == batch.step}
            self._made = this_step | {(batch.step, batch.clip_ids, batch.epochs): output.detach()}
            if batch.step >= self._loss.gan_start_step:  # the same on all ranks
                heard, parts["adversarial"] = self._adversary(engines[ADVERSARY].module, output, seen, pixels.dtype)
                total = total + heard
        return SampleLoss(total, parts)

    def _adversary(self, discriminator: nn.Module, output: Tensor, seen: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(a term of value 0 whose gradient is the adversary's, of `gan_weight` times the length of the reconstruction's; its hinge loss)"""
        # The module and not its engine: this is not its update, and only the pixels' gradient is computed. For the same reason none of its
        # parts is among `blocks`: what is gathered as one hands in all its gradients at once whenever a backward pass has gone through it.
        hinge = hinge_generator(discriminator(output.to(dtype)).float())
        gradient = pixel_gradient(hinge, output)
        weight_B = self._loss.gan_weight * adaptive_weight(pixel_gradient(seen, output), gradient)
        pushed = weight_B * ((output - output.detach()) * gradient).flatten(1).sum(1)
        return pushed, hinge.detach()

    def _judge(self, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """The hinge loss of the discriminator on originals and on what the autoencoder made of them earlier in this step."""
        made = self._made[batch.step, batch.clip_ids, batch.epochs].to(pixels.dtype)
        real, fake = engines[ADVERSARY](torch.cat([pixels, made])).float().chunk(2)
        means = {"real": real.detach().flatten(1).mean(1), "made": fake.detach().flatten(1).mean(1)}
        return SampleLoss(hinge_discriminator(real, fake), means)

    def _distance(self, perceptual: Perceptual, batch: Batch, output: Tensor, target: Tensor) -> Tensor:
        """The mean perceptual distance of each clip's frames, (B,), or of as many as the configuration draws."""
        n, count = output.shape[2], self._loss.perceptual_frames or output.shape[2]
        pairs = []
        for i, (clip, epoch) in enumerate(zip(batch.clip_ids, batch.epochs, strict=True)):
            order = keyed.stream(self._seed, self.name, "perceptual frames", clip, epoch).permutation(n)
            chosen = torch.from_numpy(order[:count]).to(output.device)
            pairs.append((output[i].index_select(1, chosen).transpose(0, 1), target[i].index_select(1, chosen).transpose(0, 1)))
        made, real = (torch.cat(frames) for frames in zip(*pairs, strict=True))
        return perceptual(made, real).view(len(output), -1).mean(1)

    def _weight(self, part: str) -> float:
        weight: float = getattr(self._loss, f"{part}_weight")
        return weight

    def _discriminator(self) -> nn.Module:
        with torch.device("meta"):
            discriminator = Discriminator(self._loss.discriminator)
        discriminator = discriminator.to_empty(device="cpu")
        initialise(discriminator, self._seed)
        return discriminator

    def score(self, model: Callable[..., Any], sample: Sample, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """PSNR of the reconstruction in dB."""
        made = self.sample(model, sample, pixels.to(dtype))
        return torch.tensor([psnr_db(made[0].cpu(), pixels[0].cpu())], dtype=torch.float64)

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Tensor) -> Tensor:
        """The reconstruction from the posterior's mean, in [-1, 1]."""
        output: Tensor = model(pixels)[0]
        return output.float().clamp(-1.0, 1.0)

    def tokens(self, shape: tuple[int, int, int, int, int]) -> int:
        """Positions of the latent."""
        return shape[0] * math.prod(self._shapes.latent_shape(shape)[1:])

    def flops(self, shape: tuple[int, int, int, int, int], encoded: bool = False) -> int:
        """Encode, decode and their backward pass; what judges the result is not the model."""
        b, _, frames, height, width = shape
        return flops.tae_step(self._model, b, frames, height, width)

    def description(self) -> dict[str, Any]:
        """The sizes that build the autoencoder."""
        return {"model": asdict(self._model)}

    def _noise(self, batch: Batch, shape: tuple[int, ...]) -> Tensor:
        latent = self._shapes.latent_shape(shape)
        key = (self._seed, self.name, "posterior")
        return torch.stack([keyed.normal(latent, *key, c, e) for c, e in zip(batch.clip_ids, batch.epochs, strict=True)])
