"""Training the generator: flow matching on latents under text, images and videos alike (Movie Gen, Training recipe).

An image is a video of one frame, so T2I and T2V are this one task with other data, positions and parents. Every draw is keyed by
(seed, stage, purpose, clip, pass): the noise, the time, and whether the text is dropped. Dropped text is the empty prompt, encoded
like any other, so every rank takes the same path through the graph.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training import flops, flow, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.latents import LatentCodec
from training.models.text import TextConfig, check_widths
from training.models.transformer import Block, Transformer, TransformerConfig, grow_positions, initialise, token_grid
from training.tasks.task import SampleLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig:
    """What a text-to-image or text-to-video stage trains. Logit-normal times are the paper's; the paper gives no dropout rate."""

    model: TransformerConfig
    text: TextConfig
    sampler: flow.SamplerConfig = field(default_factory=flow.SamplerConfig)
    tae: str = ""
    """Folder of the autoencoder's export (or of its run)."""
    parent: str | None = None
    """Folder of the export (or run) that this stage begins from; None begins from nothing."""
    space: Literal["extend", "stretch"] = "extend"
    """How the parent's tables of height and width grow: extended at the same resolution, stretched at a higher one."""
    text_dropout: float = 0.1
    """Share of samples whose text is dropped, for guidance."""
    time_mean: float = 0.0
    time_std: float = 1.0
    time_bins: int = 4
    """Equal parts of [0, 1] by which the loss is logged."""
    validate_times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    scale_clips: int = 32
    """Training clips over which the latents' scale is measured when there is no parent to inherit it from."""
    latents_memory_mb: int = 0
    """Memory for latents kept by the content of their pixels; 0 for none. For small sets and fixed crops."""
    latents_folder: str | None = None
    """Folder of `dailies encode latents`, whose latents are read in place of pixels where they are there; wants data.augment false."""
    text_cache: str | None = None
    """Folder for encoded prompts, shared by runs; None keeps them in memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.text_dropout < 1 or self.time_std <= 0 or self.time_bins < 1 or self.scale_clips < 1:
            raise ValueError("flow: expected 0 <= text_dropout < 1, time_std > 0, time_bins >= 1 and scale_clips >= 1")
        if not self.validate_times or not all(0 < t < 1 for t in self.validate_times):
            raise ValueError(f"flow: expected validate_times between 0 and 1, found {self.validate_times}")


class TextToVideoTask:
    """One stage of the generator. `prompts` gives each clip's text; `parent` are the weights it begins from."""

    updates: tuple[str, ...] = ("transformer",)
    blocks: tuple[type[nn.Module], ...] = (Block,)

    def __init__(
        self,
        name: str,
        config: FlowConfig,
        seed: int,
        codec: LatentCodec,
        prompts: Mapping[str, str],
        texts: TextCache,
        parent: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_widths(texts.encoders, config.model.text_widths)
        if codec.tae.config.latent_channels != config.model.latent_channels:
            found = codec.tae.config.latent_channels
            raise TrainingError(f"{name}: expected an autoencoder of {config.model.latent_channels} latent channels, found {found}")
        self.name, self._config, self._seed = name, config, seed
        self._codec, self._prompts, self._texts, self._parent = codec, prompts, texts, parent
        self.measures = ("loss{}", *(f"loss{{}}_t{round(100 * t):02d}" for t in config.validate_times))

    def modules(self) -> dict[str, nn.Module]:
        """What is trained."""
        return {"transformer": self.module()}

    def module(self) -> nn.Module:
        """The transformer: drawn by key, or with its parent's weights and grown positions."""
        with torch.device("meta"):
            model = Transformer(self._config.model)
        model = model.to_empty(device="cpu")
        initialise(model, self._seed)
        if self._parent is not None:
            try:
                model.load_state_dict(grow_positions(self._parent, self._config.model, self._config.space), strict=True)
            except (RuntimeError, KeyError, ValueError) as error:
                raise TrainingError(
                    f"{self.name}: expected a parent of the same sizes but for positions, found {str(error)[:300]}"
                ) from error
        return model

    def loss(self, update: str, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """Mean squared error of the velocity at one time a sample; its bin of times for the log."""
        x_1 = self._codec.normalise(pixels) if batch.encoded else self._codec.encode(pixels)
        keys = [(self._seed, self.name, c, e) for c, e in zip(batch.clip_ids, batch.epochs, strict=True)]
        x_0 = torch.stack([keyed.normal(tuple(x_1.shape[1:]), *k, "noise") for k in keys]).to(x_1.device)
        times = [flow.logit_normal(self._config.time_mean, self._config.time_std, *k, "time") for k in keys]
        prompts = [self._prompt(c) for c in batch.clip_ids]
        read = ["" if flow.dropped(self._config.text_dropout, *k, "drop text") else p for k, p in zip(keys, prompts, strict=True)]
        t = torch.tensor(times, device=x_1.device)
        total = self._error(engines[update], x_0, x_1, t, read, pixels.dtype)
        bins = (t * self._config.time_bins).long().clamp_max(self._config.time_bins - 1)
        return SampleLoss(total, {}, bins)

    def score(self, model: Callable[..., Any], sample: Sample, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """The error at each of `validate_times` under the clip's text with its fixed noise, after their mean."""
        times = torch.tensor(self._config.validate_times, device=pixels.device)
        x_1 = self._codec.encode(pixels.to(dtype)).expand(len(times), -1, -1, -1, -1)
        x_0 = keyed.normal(tuple(x_1.shape[1:]), "validate/v1", sample.clip_id).to(x_1.device).expand_as(x_1)
        errors = self._error(model, x_0, x_1, times, [self._prompt(sample.clip_id)] * len(times), dtype)
        return torch.cat([errors.mean()[None], errors])

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Tensor) -> Tensor:
        """Pixels of the same shape made from the clip's text and noise of its own: nothing of the clip is seen."""
        shape = (1, *self._codec.tae.latent_shape(tuple(pixels.shape)))
        x_0 = keyed.normal(shape, "sample/v1", sample.clip_id).to(pixels.device)
        return self.generate(model, x_0, [self._prompt(sample.clip_id)], pixels.shape[2], pixels.dtype)

    def generate(self, model: Callable[..., Any], x_0: Tensor, prompts: Sequence[str], n_frames: int, dtype: torch.dtype) -> Tensor:
        """Pixels (B, 3, n_frames, H, W) that the flow leads to from noise `x_0` under the prompts."""
        return self._codec.decode(self.latents(model, x_0, prompts, dtype), n_frames)

    def latents(self, model: Callable[..., Any], x_0: Tensor, prompts: Sequence[str], dtype: torch.dtype) -> Tensor:
        """Latents that the flow leads to from noise `x_0` under the prompts, guided away from the empty prompt."""
        tokens, masks = self._text([*prompts, *[""] * len(prompts)], x_0.device, dtype)

        def dx_dt(x: Tensor, t: float) -> Tensor:
            both = torch.cat([x, x])
            v = model(both.to(dtype), torch.full((len(both),), t, device=x.device), tokens, masks).float()
            conditional, unconditional = v.chunk(2)
            return flow.guided(conditional, unconditional, self._config.sampler.guidance)

        return flow.solve(dx_dt, x_0, self._config.sampler)

    def tokens(self, shape: tuple[int, int, int, int, int]) -> int:
        """Tokens of the transformer, text apart."""
        return shape[0] * math.prod(token_grid(self._codec.tae.latent_shape(shape)[1:]))

    def flops(self, shape: tuple[int, int, int, int, int]) -> int:
        """Encoding the pixels, and the transformer's forward and backward, with every prompt at its full length."""
        b, _, frames, height, width = shape
        text = {name: getattr(self._config.text, f"{name}_tokens") for name in self._config.model.text_widths}
        grid = token_grid(self._codec.tae.latent_shape(shape)[1:])
        encode = b * flops.tae_encode(self._codec.tae.config, frames, height, width)
        return encode + flops.transformer_step(self._config.model, b, grid, text)

    def description(self) -> dict[str, Any]:
        """What builds the model and its surroundings again: sizes, text encoders, scale of the latents and the autoencoder's digest."""
        scale = asdict(self._codec.scale) | {"tae_sha256": self._codec.sha256}
        keys = {e.name: e.key for e in self._texts.encoders}
        settings = {"model": asdict(self._config.model), "text": asdict(self._config.text), "sampler": asdict(self._config.sampler)}
        return {**settings, "text_keys": keys, "latents": scale}

    def _error(
        self, model: Callable[..., Any], x_0: Tensor, x_1: Tensor, t_B: Tensor, prompts: Sequence[str], dtype: torch.dtype
    ) -> Tensor:
        tokens, masks = self._text(prompts, x_1.device, dtype)
        v = model(flow.x_at(x_0, x_1, t_B).to(dtype), t_B, tokens, masks)
        errors: Tensor = (v.float() - flow.velocity(x_0, x_1)).square().flatten(1).mean(1)
        return errors

    def _text(self, prompts: Sequence[str], device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        tokens, masks = self._texts.batch(prompts)
        return {n: v.to(device, dtype) for n, v in tokens.items()}, {n: m.to(device) for n, m in masks.items()}

    def _prompt(self, clip_id: str) -> str:
        try:
            return self._prompts[clip_id]
        except KeyError as error:
            raise TrainingError(f"{self.name}: clip {clip_id}: expected a prompt (empty where there is no caption), found none") from error
