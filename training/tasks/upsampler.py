"""Training the spatial upsampler: the same flow on frame-wise latents, given the clip enlarged from low resolution (Movie Gen, Spatial
Upsampler).

Its autoencoder takes every frame on its own, being sharper than a temporal one, so 14 frames are 14 latent frames. The small clip is made
of the clip itself by keyed damage, or by the round trip of a temporal autoencoder; it stands beside the noise as context latents.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from training import flow, keyed
from training.data.batch import Batch
from training.data.text_cache import TextCache
from training.degradation import UpsampleConfig, degrade, enlarged, smaller
from training.errors import TrainingError
from training.latents import LatentCodec
from training.tasks.flow_config import FlowConfig
from training.tasks.text_to_video import Asked, Key, TextToVideoTask
from training.windows import Axis, covering, uniform

OVERLAP = 4
"""Latent frames, and latent positions of height and width, that windows share: 4 frames are the paper's."""


class UpsamplerTask(TextToVideoTask):
    """The `upsampler` stage. `artefacts` is the temporal autoencoder whose traces it learns to remove."""

    kind = "upsample"

    def __init__(
        self,
        name: str,
        config: FlowConfig,
        seed: int,
        codec: LatentCodec,
        prompts: Mapping[str, str],
        texts: TextCache,
        parent: Mapping[str, Tensor] | None = None,
        artefacts: LatentCodec | None = None,
    ) -> None:
        super().__init__(name, config, seed, codec, prompts, texts, parent)
        if codec.tae.config.temporal or config.model.context_channels != config.model.latent_channels:
            raise TrainingError(
                f"{name}: expected an image autoencoder and a model with as many context channels as latent channels, found "
                f"temporal {codec.tae.config.temporal} and {config.model.context_channels} of {config.model.latent_channels}"
            )
        self._upsample = cast(UpsampleConfig, config.upsample)
        self._artefacts = artefacts

    def asked(self, pixels: Tensor, clips: Sequence[str], keys: Sequence[Key], batch: Batch | None) -> Asked:
        """The clip, given itself as of low resolution."""
        low = torch.stack([self.low(x.transpose(0, 1), k) for x, k in zip(pixels, keys, strict=True)])
        return Asked(self._codec.encode(pixels), [self._prompt(c) for c in clips], context=self.context(low, pixels.dtype))

    def low(self, x_T3HW: Tensor, key: Key) -> Tensor:
        """What a clip is given as, (T, 3, H / factor, W / factor), drawn by key."""
        if self._artefacts is not None and keyed.stream(*key, "artefacts").random() < self._upsample.artefacts_share:
            small = smaller(x_T3HW.float(), self._upsample.factor).transpose(0, 1)[None].to(x_T3HW.dtype)
            return self._artefacts.decode(self._artefacts.encode(small).to(small.dtype), small.shape[2])[0].transpose(0, 1)
        return degrade(x_T3HW, self._upsample, *key)

    def context(self, low_BT3HW: Tensor, dtype: torch.dtype) -> Tensor:
        """Latents of the small clips, enlarged."""
        large = torch.stack([enlarged(low.float(), self._upsample.factor).transpose(0, 1) for low in low_BT3HW])
        return self._codec.encode(large.to(dtype))

    def upsample(self, model: Callable[..., Any], low_T3HW: Tensor, prompt: str, *key: object) -> Tensor:
        """Pixels (3, T, factor H, factor W) in [-1, 1] of a clip of any length and size, from noise of the key.

        What is larger than the model's tables of positions is made in windows along time, height and width that overlap by 4; their
        velocities are averaged at every step.
        """
        config = self._config.model
        context = self.context(low_T3HW[None], low_T3HW.dtype)
        x_0 = keyed.normal(tuple(context.shape), *key).to(low_T3HW.device)
        sizes = (config.max_t, 2 * config.max_h, 2 * config.max_w)
        axes = [Axis(dim, context.shape[dim], size, min(OVERLAP, size - 2)) for dim, size in zip((2, 3, 4), sizes, strict=True)]

        def velocity(box: Mapping[int, tuple[int, int]]) -> flow.Velocity:
            part = context
            for dim, (start, end) in box.items():
                part = part.narrow(dim, start, end - start)
            return self.guided_velocity(model, Asked(part, [prompt], context=part), low_T3HW.dtype)

        latents = flow.solve(covering(velocity, axes, uniform), x_0, self._config.sampler)
        return self._codec.decode(latents.to(low_T3HW.dtype), low_T3HW.shape[0])[0]
