"""Training the generator: flow matching on latents under text, images and videos alike (Movie Gen, Training recipe).

An image is a video of one frame, so T2I and T2V are this one task with other data, positions and parents. Every draw is keyed by
(seed, stage, purpose, clip, pass): the noise, the time, and whether the text is dropped. Dropped text is the empty prompt, encoded
like any other, so every rank takes the same path through the graph.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from training import flops, flow, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.latents import LatentCodec
from training.models.text import check_widths
from training.models.transformer import IDENTITY, Block, Transformer, inherit, initialise, token_grid
from training.tasks.flow_config import KINDS, FlowConfig
from training.tasks.task import SampleLoss

LATENTS = "latents"
"""Of what is beside a held-out clip: its latents, where they were made beforehand."""

Key = tuple[object, ...]
"""What the draws of one sample are keyed by, before their purpose: the same sample in the same pass gets the same draws anywhere."""


class Asked(NamedTuple):
    """What a model is asked to make, of B samples, and under what; what a kind of stage does not have is None."""

    x_1: Tensor
    """Latents of the data, (B, C, T, H, W)."""
    prompts: Sequence[str]
    context: Tensor | None = None
    """Latents beside the noisy ones, (B, context channels, T, H, W)."""
    identity: Tensor | None = None
    """A person's tokens, (B, L, identity width)."""
    task: Tensor | None = None
    """Kind of edit, (B,)."""
    start: Tensor | None = None
    """Place in time of the first frame, (B,)."""


class TextToVideoTask:
    """One stage of the generator. `prompts` gives each clip's text; `parent` are the weights it begins from.

    Stages under further conditions differ in what `asked` says, and in nothing else.
    """

    kind: str | None = None
    """The field of `KINDS` that its configuration must have; None for text to video."""

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
        if self.kind and getattr(config, self.kind) is None:
            raise TrainingError(f"{name}: expected flow.{self.kind} for this kind of stage, found none")
        check_widths(texts.encoders, config.model.text_widths)
        if codec.tae.config.latent_channels != config.model.latent_channels:
            found = codec.tae.config.latent_channels
            raise TrainingError(f"{name}: expected an autoencoder of {config.model.latent_channels} latent channels, found {found}")
        self.name, self._config, self._seed = name, config, seed
        self._codec, self._prompts, self._texts, self._parent = codec, prompts, texts, parent
        self.held: Mapping[str, Mapping[str, Tensor]] = {}
        """What is given beside each held-out clip, as a batch of one has it; whoever measures sets it."""
        self.measures = ("loss{}", *(f"loss{{}}_t{round(100 * t):02d}" for t in config.validate_times))

    def modules(self, drawn: bool = True) -> dict[str, nn.Module]:
        """What is trained."""
        return {"transformer": self.module(drawn)}

    def module(self, drawn: bool = True) -> nn.Module:
        """The transformer: drawn by key, or with its parent's weights and grown positions; not `drawn`, its shapes alone."""
        with torch.device("meta"):
            model = Transformer(self._config.model)
        model = model.to_empty(device="cpu")
        if not drawn:
            return model
        initialise(model, self._seed, self._parent or ())
        if self._parent is not None:
            try:
                inherit(model, self._parent, self._config.space)
            except (KeyError, ValueError) as error:
                raise TrainingError(
                    f"{self.name}: expected a parent of the same sizes but for positions, found {str(error)[:300]}"
                ) from error
        return model

    def asked(self, pixels: Tensor, clips: Sequence[str], keys: Sequence[Key], batch: Batch | None) -> Asked:
        """What the model is to make of the clips' pixels (B, 3, T, H, W), and under what. `batch` is the batch that they are, in training."""
        made = pixels if batch is not None and batch.encoded else None
        if batch is None and (kept := self.beside(None, clips).get(LATENTS)) is not None:
            made = kept.to(pixels.device)
        x_1 = self._codec.encode(pixels) if made is None else self._codec.normalise(made)
        return Asked(x_1, [self._prompt(c) for c in clips])

    def beside(self, batch: Batch | None, clips: Sequence[str]) -> Mapping[str, Tensor]:
        """What is given beside the clips of a batch, or beside a held-out clip where there is none."""
        return self.held.get(clips[0], {}) if batch is None else batch.beside

    def loss(self, update: str, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """Mean squared error of the velocity at one time a sample; its bin of times for the log."""
        keys: list[Key] = [(self._seed, self.name, c, e) for c, e in zip(batch.clip_ids, batch.epochs, strict=True)]
        asked = self.asked(pixels, batch.clip_ids, keys, batch)
        x_0 = torch.stack([keyed.normal(tuple(asked.x_1.shape[1:]), *k, "noise") for k in keys]).to(pixels.device)
        times = [flow.logit_normal(self._config.time_mean, self._config.time_std, *k, "time") for k in keys]
        rate = self._config.text_dropout
        read = ["" if flow.dropped(rate, *k, "drop text") else p for k, p in zip(keys, asked.prompts, strict=True)]
        t = torch.tensor(times, device=pixels.device)
        total = self._error(engines[update], x_0, t, asked._replace(prompts=read), pixels.dtype)
        bins = (t * self._config.time_bins).long().clamp_max(self._config.time_bins - 1)
        return SampleLoss(total, {}, bins)

    def score(self, model: Callable[..., Any], sample: Sample, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """The error at each of `validate_times` under the clip's conditions with its fixed noise, after their mean."""
        times = torch.tensor(self._config.validate_times, device=pixels.device)
        asked = repeated(self.asked(pixels.to(dtype), [sample.clip_id], [("validate/v1", sample.clip_id)], None), len(times))
        x_0 = keyed.normal(tuple(asked.x_1.shape[1:]), "validate/v1", sample.clip_id).to(pixels.device).expand_as(asked.x_1)
        errors = self._error(model, x_0, times, asked, dtype)
        return torch.cat([errors.mean()[None], errors])

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Tensor) -> Tensor:
        """Pixels of the same shape made under the clip's conditions from noise of its own: of its latents nothing is seen."""
        asked = self.asked(pixels, [sample.clip_id], [("validate/v1", sample.clip_id)], None)
        x_0 = keyed.normal(tuple(asked.x_1.shape), "sample/v1", sample.clip_id).to(pixels.device)
        return self._codec.decode(self.latents(model, x_0, asked, pixels.dtype).to(pixels.dtype), pixels.shape[2])

    @property
    def sampler(self) -> flow.SamplerConfig:
        """How latents are drawn."""
        return self._config.sampler

    def with_sampler(self, sampler: flow.SamplerConfig) -> Self:
        """The same task, but for how latents are drawn."""
        other = copy.copy(self)
        other._config = replace(self._config, sampler=sampler)
        return other

    def with_prompts(self, prompts: Mapping[str, str]) -> Self:
        """The same task for other clips."""
        other = copy.copy(self)
        other._prompts = prompts
        return other

    def latent_shape(self, pixels: tuple[int, int, int, int, int]) -> tuple[int, int, int, int, int]:
        """(B, C, T, H, W) of the latents of pixels of this shape."""
        return (pixels[0], *self._codec.tae.latent_shape(pixels))  # type: ignore[return-value]

    def decode(self, latents_BCTHW: Tensor, n_frames: int) -> Tensor:
        """Pixels (B, 3, n_frames, H, W) in [-1, 1]."""
        return self._codec.decode(latents_BCTHW, n_frames)

    def latents(self, model: Callable[..., Any], x_0: Tensor, asked: Asked, dtype: torch.dtype) -> Tensor:
        """Latents that the flow leads to from noise `x_0` as asked, guided away from the empty prompt; `asked.x_1` is not looked at."""
        return flow.solve(self.guided_velocity(model, asked, dtype), x_0, self._config.sampler)

    def guided_velocity(self, model: Callable[..., Any], asked: Asked, dtype: torch.dtype) -> flow.Velocity:
        """dx/dt as asked and guided; one pass of the model on both prompts."""
        scale = self._config.sampler.guidance
        if scale == 1:
            alone = self._inputs(asked, dtype)
            return lambda x, t: model(x.to(dtype), torch.full((len(x),), t, device=x.device), *alone).float()  # type: ignore[no-any-return]
        prompts, both = list(asked.prompts), repeated(asked, 2)
        inputs = self._inputs(both._replace(prompts=[*prompts, *[""] * len(prompts)]), dtype)

        def dx_dt(x: Tensor, t: float) -> Tensor:
            twice = torch.cat([x, x])
            v = model(twice.to(dtype), torch.full((len(twice),), t, device=x.device), *inputs).float()
            conditional, unconditional = v.chunk(2)
            return flow.guided(conditional, unconditional, scale)

        return dx_dt

    def tokens(self, shape: tuple[int, int, int, int, int]) -> int:
        """Tokens of the transformer, text apart."""
        return shape[0] * math.prod(token_grid(self._codec.tae.latent_shape(shape)[1:]))

    def flops(self, shape: tuple[int, int, int, int, int], encoded: bool = False) -> int:
        """Encoding the pixels unless they are `encoded`, and the transformer's forward and backward, with every prompt at its full length."""
        b, _, frames, height, width = shape
        grid = token_grid(self._codec.tae.latent_shape(shape)[1:])
        encode = 0 if encoded else b * flops.tae_encode(self._codec.tae.config, frames, height, width)
        return encode + flops.transformer_step(self._config.model, b, grid, self.text_lengths())

    def text_lengths(self) -> dict[str, int]:
        """Tokens a prompt of each encoder, at its longest."""
        return {name: getattr(self._config.text, f"{name}_tokens") for name in self._config.model.text_widths}

    def description(self) -> dict[str, Any]:
        """What builds the model and its surroundings again: sizes, text encoders, scale of the latents and the autoencoder's digest."""
        scale = asdict(self._codec.scale) | {"tae_sha256": self._codec.sha256}
        keys = {e.name: e.key for e in self._texts.encoders}
        settings = {"model": asdict(self._config.model), "text": asdict(self._config.text), "sampler": asdict(self._config.sampler)}
        kind = {name: asdict(found) for name in KINDS if (found := getattr(self._config, name)) is not None}
        return {**settings, **kind, "text_keys": keys, "latents": scale}

    def _error(self, model: Callable[..., Any], x_0: Tensor, t_B: Tensor, asked: Asked, dtype: torch.dtype) -> Tensor:
        v = model(flow.x_at(x_0, asked.x_1, t_B).to(dtype), t_B, *self._inputs(asked, dtype))
        errors: Tensor = (v.float() - flow.velocity(x_0, asked.x_1)).square().flatten(1).mean(1)
        return errors

    def _inputs(self, asked: Asked, dtype: torch.dtype) -> tuple[Any, ...]:
        """What the model reads beside latents and time: tokens and masks by encoder, context, task, first frame."""
        device = asked.x_1.device
        tokens, masks = self._texts.batch(asked.prompts)
        tokens, masks = {n: v.to(device, dtype) for n, v in tokens.items()}, {n: m.to(device) for n, m in masks.items()}
        if asked.identity is not None:
            tokens[IDENTITY] = asked.identity.to(dtype)
            masks[IDENTITY] = torch.ones(asked.identity.shape[:2], dtype=torch.bool, device=device)
        context = None if asked.context is None else asked.context.to(dtype)
        return tokens, masks, context, asked.task, asked.start

    def _prompt(self, clip_id: str) -> str:
        try:
            return self._prompts[clip_id]
        except KeyError as error:
            raise TrainingError(f"{self.name}: clip {clip_id}: expected a prompt (empty where there is no caption), found none") from error


def repeated(asked: Asked, times: int) -> Asked:
    """The samples so many times, one after the other: all, then all again."""

    def again(value: Any) -> Any:
        return value if value is None or isinstance(value, list) else value.repeat(times, *[1] * (value.ndim - 1))

    tensors = Asked(*map(again, asked))
    return tensors._replace(prompts=list(asked.prompts) * times)
