"""Training the generator of sound: flow matching on the codec's latents under pictures, text and sound that is there already (Movie Gen
Audio, Training).

One model generates, continues and fills in: of half the samples no sound is given, of the others at least three quarters are hidden, at the
end, at the beginning or in the middle. Every draw is keyed by (seed, stage, purpose, clip, pass). What is dropped or missing is zeros or
the empty prompt, so that every rank takes the same path through the graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training import flops, flow, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.models.sound import SoundBlock, SoundTransformer, inherit, initialise
from training.models.watching import Watcher, at_frames
from training.sound_latents import SoundCodec
from training.tasks.sound_config import SoundStage
from training.tasks.task import Heard, SampleLoss

Key = tuple[object, ...]


class Asked(NamedTuple):
    """What sound is asked for, of B samples and T latent frames, and under what."""

    prompts: Sequence[str]
    video: Tensor
    """Features of what is seen, (B, T, V); zeros where nothing is."""
    context: Tensor
    """Latents of the sound that is there, (B, C, T)."""
    given: Tensor
    """1 where it is, (B, T)."""

    def part(self, start: int, end: int) -> "Asked":
        """The same of the frames start <= t < end."""
        video, context = self.video[:, start:end], self.context[:, :, start:end]
        return Asked(self.prompts, video, context, self.given[:, start:end])


class SoundTask:
    """The `audio` and `audio_sft` stages. `prompts` gives each clip's text; `parent` are the weights it begins from."""

    updates: tuple[str, ...] = ("sound",)
    blocks: tuple[type[nn.Module], ...] = (SoundBlock,)

    def __init__(
        self,
        name: str,
        config: SoundStage,
        seed: int,
        sound_frames: int,
        codec: SoundCodec,
        watcher: Watcher,
        prompts: Mapping[str, str],
        texts: TextCache,
        parent: Mapping[str, Tensor] | None = None,
    ) -> None:
        for what, wanted, found in (
            ("latent channels", config.model.latent_channels, codec.codec.config.latent_channels),
            ("features of a frame", config.model.video_width, watcher.width),
            ("widths of one text encoder", [config.model.text_width], [e.width for e in texts.encoders]),
        ):
            if wanted != found:
                raise TrainingError(f"{name}: expected {wanted} {what} as the model reads, found {found}")
        self.name, self._config, self._seed, self._sound_frames = name, config, seed, sound_frames
        self._codec, self._watcher, self._prompts, self._texts, self._parent = codec, watcher, prompts, texts, parent
        self.measures = ("loss{}", *(f"loss{{}}_t{round(100 * t):02d}" for t in config.validate_times))

    def modules(self, drawn: bool = True) -> dict[str, nn.Module]:
        """What is trained."""
        return {"sound": self.module(drawn)}

    def module(self, drawn: bool = True) -> nn.Module:
        """The transformer: drawn by key, or with its parent's weights; not `drawn`, its shapes alone."""
        with torch.device("meta"):
            model = SoundTransformer(self._config.model)
        model = model.to_empty(device="cpu")
        if not drawn:
            return model
        initialise(model, self._seed)
        if self._parent is not None:
            try:
                inherit(model, self._parent)
            except ValueError as error:
                raise TrainingError(f"{self.name}: expected a parent with these sizes, found {str(error)[:300]}") from error
        return model

    def loss(self, update: str, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """Squared error of the velocity, the mean over the latent, at a time of each sample's own."""
        sound, seen = batch.beside["sound"].to(pixels.device), batch.beside["seen"].to(pixels.device)
        shown = batch.unit(pixels.device)  # float32 like the sound: frozen networks read both, and held-out clips are read so too
        keys: list[Key] = [(self._seed, self.name, c, e) for c, e in zip(batch.clip_ids, batch.epochs, strict=True)]
        x_1, asked = self.asked(Heard(sound, shown, seen), batch.clip_ids, keys)
        times = [flow.logit_normal(self._config.time_mean, self._config.time_std, *key, "time") for key in keys]
        x_0 = torch.stack([keyed.normal(tuple(x_1.shape[1:]), *key, "noise") for key in keys]).to(x_1.device)
        t_B = torch.tensor(times, dtype=torch.float32, device=x_1.device)
        errors = self._error(engines["sound"], x_0, x_1, t_B, asked, pixels.dtype)
        bins = (t_B * self._config.time_bins).long().clamp_max(self._config.time_bins - 1)
        return SampleLoss(errors, {}, bins)

    def asked(self, heard: Heard, clip_ids: Sequence[str], keys: Sequence[Key] | None) -> tuple[Tensor, Asked]:
        """(latents of the sound, (B, C, T), what is asked): conditions dropped and sound hidden by the keys, or all conditions and no sound
        without keys."""
        x_1 = self._codec.encode(heard.sound)
        video = at_frames(self._watcher.watch(heard.frames), x_1.shape[2]).to(x_1.device) * heard.seen[:, :, None].to(x_1.dtype)
        given = torch.zeros(len(x_1), x_1.shape[2], device=x_1.device)
        prompts = [self._prompts.get(c, "") for c in clip_ids]
        for i, key in enumerate(keys or ()):
            low, high = self._hidden(x_1.shape[2], key)
            given[i, :low], given[i, high:] = 1.0, 1.0
            everything = flow.dropped(self._config.all_dropout, *key, "drop all")
            if everything or flow.dropped(self._config.text_dropout, *key, "drop text"):
                prompts[i] = ""
            if everything or flow.dropped(self._config.video_dropout, *key, "drop video"):
                video[i] = 0.0
        return x_1, Asked(prompts, video, x_1, given)

    def _hidden(self, length: int, key: Key) -> tuple[int, int]:
        """The frames low <= t < high whose sound is not given."""
        if flow.dropped(self._config.full_mask, *key, "hide all"):
            return 0, length
        least = self._config.least_mask
        n = round(length * (least + (1 - least) * float(keyed.stream(*key, "hidden share").random())))
        where = keyed.integer(0, 3, *key, "hidden place")  # continued, led up to, filled in
        low = (length - n, 0, keyed.integer(0, length - n + 1, *key, "hidden start"))[where]
        return low, low + n

    def score(self, model: Callable[..., Any], sample: Sample, pixels: Heard, dtype: torch.dtype) -> Tensor:
        """The loss at fixed times with the sample's own fixed noise and nothing of the sound given: their mean, then each."""
        return self.errors_at(model, pixels, [sample.clip_id], dtype)[0].double().cpu()

    def errors_at(self, model: Callable[..., Any], heard: Heard, clip_ids: Sequence[str], dtype: torch.dtype) -> Tensor:
        """(B, 1 + times): of each sample the mean and the loss at each of the fixed times."""
        x_1, asked = self.asked(heard, clip_ids, None)
        x_0 = torch.stack([keyed.normal(tuple(x_1.shape[1:]), "validate/v1", clip) for clip in clip_ids]).to(x_1.device)
        rows = []
        for t in self._config.validate_times:
            rows.append(self._error(model, x_0, x_1, torch.full((len(x_1),), t, device=x_1.device), asked, dtype))
        found = torch.stack(rows, 1)
        return torch.cat([found.mean(1, keepdim=True), found], 1)

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Heard) -> Tensor:
        """Sound (1, N) for the held-out clip's pictures and text, from noise of its own; its sound is not heard."""
        x_1, asked = self.asked(pixels, [sample.clip_id], None)
        x_0 = keyed.normal(tuple(x_1.shape), "sample/v1", sample.clip_id).to(x_1.device)
        dx_dt = guided_velocity(model, self._texts, asked, self._config.sampler.guidance, pixels.sound.dtype)
        return self._codec.decode(flow.solve(dx_dt, x_0, self._config.sampler))

    def tokens(self, shape: tuple[int, int, int, int, int]) -> int:
        """Latent frames."""
        return shape[0] * self._sound_frames

    def flops(self, shape: tuple[int, int, int, int, int], encoded: bool = False) -> int:
        """Encoding the sound, and the transformer's forward and backward, with every prompt at its full length; the watcher apart."""
        text = self._config.text
        encode = flops.codec_encode(self._codec.codec.config, self._sound_frames)
        return shape[0] * (
            encode + flops.sound_step(self._config.model, self._sound_frames, text.ul2_tokens if text.ul2 else text.bytes_tokens)
        )

    def description(self) -> dict[str, Any]:
        """What builds the model and its surroundings again."""
        config = self._config
        return {
            "model": asdict(config.model),
            "text": asdict(config.text),
            "text_keys": {e.name: e.key for e in self._texts.encoders},
            "watch": asdict(config.watch),
            "watch_key": self._watcher.key,
            "sampler": asdict(config.sampler),
            "quality": config.quality,
            "sound_frames": self._sound_frames,
            "latents": asdict(self._codec.scale) | {"codec_sha256": self._codec.sha256},
        }

    def _error(self, model: Callable[..., Any], x_0: Tensor, x_1: Tensor, t_B: Tensor, asked: Asked, dtype: torch.dtype) -> Tensor:
        v = model(flow.x_at(x_0, x_1, t_B).to(dtype), t_B, *inputs(self._texts, asked, dtype))
        errors: Tensor = (v.float() - flow.velocity(x_0, x_1)).square().flatten(1).mean(1)
        return errors


def inputs(texts: TextCache, asked: Asked, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What the model reads beside latents and time."""
    device = asked.context.device
    tokens, masks = texts.batch(asked.prompts)
    (name,) = tokens
    context = asked.context * asked.given[:, None]
    return (asked.video.to(dtype), tokens[name].to(device, dtype), masks[name].to(device), context.to(dtype), asked.given.to(dtype))


def guided_velocity(model: Callable[..., Any], texts: TextCache, asked: Asked, guidance: float, dtype: torch.dtype) -> flow.Velocity:
    """dx/dt as asked, guided away from the empty prompt and no pictures; the sound that is given is given to both. One pass of the model."""
    empty = Asked([""] * len(asked.prompts), torch.zeros_like(asked.video), asked.context, asked.given)
    both = Asked([*asked.prompts, *empty.prompts], *(torch.cat(pair) for pair in zip(asked[1:], empty[1:], strict=True)))
    read = inputs(texts, both, dtype)

    def dx_dt(x: Tensor, t: float) -> Tensor:
        twice = torch.cat([x, x])
        v = model(twice.to(dtype), torch.full((len(twice),), t, device=x.device), *read).float()
        conditional, unconditional = v.chunk(2)
        return flow.guided(conditional, unconditional, guidance)

    return dx_dt


def sound_prompt(caption: str, quality: float | None) -> str:
    """What a sound is trained under: the quality that was measured of it, where it was, then its caption. 'Quality 7.5. A door shuts.'"""
    return caption if quality is None else f"Quality {quality:.1f}. {caption}".rstrip()
