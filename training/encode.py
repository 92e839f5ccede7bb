"""Clips and prompts through the frozen networks before training, so that a step reads what it would have computed. Batch stages.

In: samples, or prompts.   Out: one `Encoded` for each, in order; what was made lies in the cache of `training.data`.

What cannot be encoded is a row with its reason, and the others go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manifests.deny import DenyList
from training.data.batch import to_tensor
from training.data.cache import forget_payloads
from training.data.config import DataConfig
from training.data.index import Sample
from training.data.latent_cache import LatentCache
from training.data.sample import decode_sample, open_shards
from training.data.text_cache import TextCache, name_of
from training.errors import DeniedError, SampleError

Status = Literal["encoded", "known", "refused", "denied", "broken", "planned"]
"""Made now; there before; too short or without a size; taken down; could not be made; not yet come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What became of one clip or prompt; `key` is the clip's id, or the name of the prompt's files."""

    key: str
    status: Status
    reason: str | None = None


class EncodeLatents:
    """Encodes first windows and centre crops with a trained autoencoder, on a GPU where there is one."""

    def __init__(self, dataset: Path, tae: Path, out: Path, config: DataConfig, precision: str) -> None:
        import torch

        from training.latents import LatentCodec, LatentScale, load_tae

        network, sha256 = load_tae(tae)
        n = network.config.latent_channels
        self._codec = LatentCodec(network, LatentScale(mean=(0.0,) * n, std=(1.0,) * n), sha256)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._config, self._cache = config, LatentCache(out, sha256, precision)
        self._shards, self._denied = open_shards(dataset, config), DenyList(dataset)

    def __call__(self, samples: Sequence[Sample]) -> list[Encoded]:
        """The samples' latents are in the cache, but for those that are broken or taken down."""
        denied = self._denied.clips()
        self._shards.fetch(s for s in samples if s.clip_id not in denied)
        if self._config.cache_folder:
            late = self._denied.clips()
            forget_payloads(Path(self._config.cache_folder), [s.sha256 for s in samples if s.clip_id in late])
        return [self._encode(s) for s in samples]

    def _encode(self, sample: Sample) -> Encoded:
        try:
            data = self._shards.read(sample, verify=True, denied=self._denied)  # verified: its hash is the latent's name
            pixels = to_tensor([decode_sample(data, sample, self._config, None)])
        except SampleError as error:
            return Encoded(key=sample.clip_id, status="denied" if isinstance(error, DeniedError) else "broken", reason=str(error))
        self._cache.write(sample, self._config, self._codec.mean(pixels.to(self._device, self._dtype))[0])
        if (number := self._denied.takedown_of(sample.clip_id)) is not None:  # meanwhile: the takedown may have been here before
            self._cache.path(sample, self._config).unlink(missing_ok=True)
            return Encoded(key=sample.clip_id, status="denied", reason=f"takedown {number}")
        return Encoded(key=sample.clip_id, status="encoded")


class EncodePrompts:
    """Encodes prompts with every text encoder that has weights, on a GPU where there is one."""

    def __init__(self, config: Any, out: Path) -> None:
        import torch

        from training.models.text import load_encoders

        self._cache = TextCache(load_encoders(config, "cuda" if torch.cuda.is_available() else "cpu"), out)

    def __call__(self, prompts: Sequence[str]) -> list[Encoded]:
        """The prompts' tokens are in the cache."""
        for encoder in self._cache.encoders:
            if encoder.stored:
                self._cache.get(encoder, prompts)
        return [Encoded(key=name_of(prompt), status="encoded") for prompt in prompts]
