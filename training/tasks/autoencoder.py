"""Training the temporal autoencoder: L1 + KL + outlier penalty (Movie Gen, Temporal Autoencoder, losses)."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from training import flops, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.losses import TAELossConfig, l1, outlier_penalty, psnr_db
from training.models.autoencoder import TAE, Posterior, TAEConfig
from training.models.layers import Attention25d, Downsample, ResBlock, Upsample, initialise
from training.tasks.task import SampleLoss


class AutoencoderTask:
    """The `tae` stage. Noise is keyed by (seed, stage, clip, pass), so it is the same on any rank and after any restart."""

    updates: tuple[str, ...] = ("autoencoder",)
    blocks: tuple[type[nn.Module], ...] = (ResBlock, Attention25d, Downsample, Upsample)
    measures: tuple[str, ...] = ("psnr{}_db",)

    def __init__(self, name: str, model: TAEConfig, loss: TAELossConfig, seed: int) -> None:
        self.name, self._model, self._loss, self._seed = name, model, loss, seed
        with torch.device("meta"):
            self._shapes = TAE(model)  # no memory: latent shapes come from it

    def module(self) -> nn.Module:
        """The autoencoder with its initial weights: built without memory, then filled by key, so no global random state is read."""
        with torch.device("meta"):
            tae = TAE(self._model)
        tae = tae.to_empty(device="cpu")
        initialise(tae, self._seed)
        return tae

    def loss(self, model: Callable[..., Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """L1 of the reconstruction from a posterior draw, KL of the posterior, outlier penalty of its mean; float32 throughout."""
        noise = self._noise(batch, tuple(pixels.shape)).to(pixels.device, pixels.dtype)
        output, posterior = model(pixels, noise)
        posterior = Posterior(posterior.mean.float(), posterior.logvar.float())
        parts = {
            "l1": l1(output.float(), pixels.float()),
            "kl": posterior.kl(),
            "outlier": outlier_penalty(posterior.mean, self._loss.outlier_r),
        }
        weights = {"l1": self._loss.l1_weight, "kl": self._loss.kl_weight, "outlier": self._loss.outlier_weight}
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum(0)
        return SampleLoss(total, {name: value.detach() for name, value in parts.items()})

    def score(self, model: Callable[..., Any], sample: Sample, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """PSNR of the reconstruction in dB."""
        made = self.sample(model, sample, pixels.to(dtype))
        return torch.tensor([psnr_db(made[0].cpu(), pixels[0].cpu())], dtype=torch.float64)

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Tensor) -> Tensor:
        """The reconstruction from the posterior's mean, in [-1, 1]."""
        output: Tensor = model(pixels)[0]
        return output.float().clamp(-1.0, 1.0)

    def flops(self, shape: tuple[int, int, int, int, int]) -> int:
        """Encode, decode and their backward pass."""
        b, _, frames, height, width = shape
        return flops.tae_step(self._model, b, frames, height, width)

    def description(self) -> dict[str, Any]:
        """The sizes that build the autoencoder."""
        return {"model": asdict(self._model)}

    def _noise(self, batch: Batch, shape: tuple[int, ...]) -> Tensor:
        latent = self._shapes.latent_shape(shape)
        key = (self._seed, self.name, "posterior")
        return torch.stack([keyed.normal(latent, *key, c, e) for c, e in zip(batch.clip_ids, batch.epochs, strict=True)])
