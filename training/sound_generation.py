"""Sound of any length from what was trained: features of pictures and a sentence to samples, with the exports of `codec` and `audio`.

Up to one and a half of the window that was trained on (30 s: 45 s) the whole is made at once. What is longer is made in one of two ways
(Movie Gen Audio, extension): `windows` moves all windows together and averages what they say where they overlap, with a triangle as
weight; `segments` goes on from the end of what is there, which the model is given as sound. Windows are at most four thirds of the trained
one and share a quarter: 40 s and 10 s of 30 s (the paper gives neither). Segments are all about as long, so that each makes three quarters.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training import flow, keyed
from training.data.index import SOUND_FRAMES_PER_S
from training.data.text_cache import TextCache, shared_texts
from training.errors import TrainingError
from training.latents import LatentScale, placed, read_export
from training.models.sound import SoundConfig, SoundTransformer
from training.models.text import TextConfig, check_keys
from training.models.watching import WatchConfig, Watcher, load_watcher
from training.sound_latents import SoundCodec, load_codec
from training.tasks.sound import Asked, SoundTask, guided_velocity, sound_prompt
from training.tasks.sound_config import SoundStage
from training.windows import Axis, covering, triangle

Extension = Literal["windows", "segments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundMaker:
    """Everything that makes sound, with frozen weights on one device."""

    model: Callable[..., Any]
    codec: SoundCodec
    texts: TextCache
    watcher: Watcher
    stage: SoundStage
    """What it was trained as: how latents are drawn, and which quality the prompt's field asks for; 0 for no field."""
    trained_frames: int
    """Latent frames of the window that was trained on."""
    shown_frames: int
    """Pictures that were shown in it."""
    size_px: int
    """Their side."""
    device: torch.device
    dtype: torch.dtype = torch.float32
    """What the model computes in. Pictures are watched and sound is decoded in float32, and latents are summed up in it."""

    @property
    def shown_fps(self) -> float:
        """Pictures a second that the model was shown."""
        return self.shown_frames * SOUND_FRAMES_PER_S / self.trained_frames

    @property
    def single_frames(self) -> int:
        """Latent frames that are made at once at most."""
        return self.trained_frames * 3 // 2

    @property
    def window(self) -> tuple[int, int]:
        """(size, overlap) of the windows of what is longer, in latent frames."""
        size = max(2, self.trained_frames * 4 // 3)
        return size, max(1, size // 4)

    def task(self, name: str, prompts: Mapping[str, str]) -> SoundTask:
        """The stage that trained it, as one that measures: its prompts are the clips', their measured quality in front."""
        return SoundTask(name, self.stage, 0, self.trained_frames, self.codec, self.watcher, prompts, self.texts)


def load_sound_maker(
    codec: Path,
    audio: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    texts: dict[TextConfig, TextCache] | None = None,
) -> SoundMaker:
    """The exports (or runs) of `dailies train codec` and `dailies train audio` or `audio_sft`, ready to make sound; TrainingError when the
    latter was trained on another codec, or its frozen networks have changed. Text encoders are shared with those of `texts`."""
    there = torch.device(device)
    network, sha256 = load_codec(codec)
    described, state = read_export(audio, "audio", mapped=True)
    latents = described["latents"]
    if latents["codec_sha256"] != sha256:
        raise TrainingError(f"{audio}: expected a generator of sound on codec {sha256}, found one on {latents['codec_sha256']}")
    try:
        stage = SoundStage(
            model=SoundConfig(**described["model"]),
            text=TextConfig(**described["text"]),
            watch=WatchConfig(**described["watch"]),
            sampler=flow.SamplerConfig(**described["sampler"]),
            quality=float(described["quality"]),
        )
        with torch.device("meta"):
            model = SoundTransformer(stage.model)
        model.load_state_dict(placed(state, there, dtype), strict=True, assign=True)
        cache = shared_texts({} if texts is None else texts, stage.text, there)
        watcher, trained = load_watcher(stage.watch), described["trained_on"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{audio}: expected a generator of sound of this version, found {str(error)[:300]}") from error
    check_keys(cache.encoders, described["text_keys"], str(audio))
    if watcher.key != described["watch_key"]:
        raise TrainingError(f"{audio}: expected the watcher that it was trained with, {described['watch_key']}, found {watcher.key}")
    scale = LatentScale(mean=tuple(latents["mean"]), std=tuple(latents["std"]))
    return SoundMaker(
        model=model.eval().requires_grad_(False),
        codec=SoundCodec(network.to(there), scale, sha256),
        texts=cache,
        watcher=watcher,
        stage=stage,
        trained_frames=int(described["sound_frames"]),
        shown_frames=int(trained["n_frames"]),
        size_px=int(trained["size_px"]),
        device=there,
        dtype=dtype,
    )


def watch(maker: SoundMaker, frames_3THW: Tensor, fps: float) -> Tensor:
    """Features (T', V) at 25 a second of a film's frames in [-1, 1] at `fps`, as the model was shown films: at its own number of pictures a
    second, each the nearest that is not later, the square in their middle. Zeros where it was shown none."""
    seconds = frames_3THW.shape[1] / fps
    length = math.floor(seconds * SOUND_FRAMES_PER_S + 1e-6)
    if not maker.shown_frames:
        return torch.zeros(length, maker.watcher.width, device=maker.device)
    count = max(1, math.floor(seconds * maker.shown_fps + 1e-6))
    places = [min(frames_3THW.shape[1] - 1, math.floor(k / maker.shown_fps * fps + 1e-6)) for k in range(count)]
    shown = frames_3THW[:, places].to(maker.device)
    side = min(shown.shape[2:])
    top, left = (shown.shape[2] - side) // 2, (shown.shape[3] - side) // 2
    square = shown[:, :, top : top + side, left : left + side].transpose(0, 1)
    small = F.interpolate(square, size=(maker.size_px, maker.size_px), mode="area").transpose(0, 1)
    with torch.no_grad():
        features = maker.watcher.watch(small[None])
    # a film is no whole number of pictures long: the pictures are not stretched over it, or they would lag behind
    return features[0, [min(count - 1, math.floor(i / SOUND_FRAMES_PER_S * maker.shown_fps + 1e-6)) for i in range(length)]]


def generate_sound(
    maker: SoundMaker,
    features_TV: Tensor | None,
    text: str,
    seconds: float,
    seed: int,
    *,
    extension: Extension = "windows",
    sampler: flow.SamplerConfig | None = None,
) -> NDArray[np.float32]:
    """Mono samples (N,) at 48 kHz in (-1, 1), N = 48000 seconds rounded, for pictures (`watch`; None for none) and a sentence.

    The same seed gives the same sound. Features that end before the sound leave the rest to the sentence.
    """
    length = max(1, math.ceil(seconds * SOUND_FRAMES_PER_S - 1e-6))
    video = torch.zeros(1, length, maker.watcher.width, device=maker.device)
    if features_TV is not None:
        n = min(length, len(features_TV))
        video[0, :n] = features_TV[:n].to(maker.device)
    x_0 = keyed.normal((1, maker.codec.codec.config.latent_channels, length), "sound/v1", seed).to(maker.device)
    prompt = sound_prompt(text, maker.stage.quality or None)
    asked = Asked([prompt], video, torch.zeros_like(x_0), torch.zeros(1, length, device=maker.device))
    make = _in_segments if extension == "segments" and length > maker.single_frames else _in_windows
    latents = make(maker, asked, x_0, sampler or maker.stage.sampler)
    samples: NDArray[np.float32] = (
        maker.codec.decode(latents)[0, : round(seconds * SOUND_FRAMES_PER_S * maker.codec.codec.config.hop)].cpu().numpy()
    )
    return samples


def continue_sound(
    maker: SoundMaker, sound_N: Tensor, given_N: Tensor, features_TV: Tensor | None, text: str, seed: int
) -> NDArray[np.float32]:
    """Samples (N,) in which what `given_N` (booleans) marks is kept, by whole latent frames, and the rest is made to fit: continuation where
    the beginning is given, infilling where both ends are. N is a multiple of the codec's hop and at most `single_frames` of them. Features that end before the sound leave the rest to the sentence."""
    hop = maker.codec.codec.config.hop
    context = maker.codec.encode(sound_N[None].to(maker.device))
    given = given_N.view(1, -1, hop).all(2).to(maker.device, torch.float32)
    length = context.shape[2]
    if length > maker.single_frames:
        raise ValueError(f"continue_sound: expected at most {maker.single_frames} latent frames, found {length}")
    video = torch.zeros(1, length, maker.watcher.width, device=maker.device)
    if features_TV is not None:
        n = min(length, len(features_TV))
        video[0, :n] = features_TV[:n].to(maker.device)
    asked = Asked([sound_prompt(text, maker.stage.quality or None)], video, context, given)
    x_0 = keyed.normal(tuple(context.shape), "sound/v1", seed).to(maker.device)
    made = _solved(maker, asked, x_0, maker.stage.sampler)
    samples = maker.codec.decode(torch.where(given[:, None] > 0, context, made))[0].cpu()
    return torch.where(given[0].repeat_interleave(hop).cpu() > 0, sound_N.cpu(), samples).numpy()


def _solved(maker: SoundMaker, asked: Asked, x_0: Tensor, sampler: flow.SamplerConfig) -> Tensor:
    return flow.solve(guided_velocity(maker.model, maker.texts, asked, sampler.guidance, maker.dtype), x_0, sampler)


def _in_windows(maker: SoundMaker, asked: Asked, x_0: Tensor, sampler: flow.SamplerConfig) -> Tensor:
    """Latents (1, C, T) by windows that move together; by one where the whole is made at once."""
    length, (size, overlap) = x_0.shape[2], maker.window
    if length <= maker.single_frames:
        size, overlap = length, 0

    def of(box: Any) -> flow.Velocity:
        return guided_velocity(maker.model, maker.texts, asked.part(*box[2]), sampler.guidance, maker.dtype)

    return flow.solve(covering(of, [Axis(2, length, size, overlap)], triangle), x_0, sampler)


def _in_segments(maker: SoundMaker, asked: Asked, x_0: Tensor, sampler: flow.SamplerConfig) -> Tensor:
    """Latents (1, C, T), one window after the other, each given the end of the one before."""
    done = x_0[:, :, :0]
    for start, end in plan_segments(x_0.shape[2], *maker.window):
        part, n = asked.part(start, end), done.shape[2] - start
        context, given = torch.zeros_like(part.context), torch.zeros_like(part.given)
        context[:, :, :n], given[:, :n] = done[:, :, start:], 1.0
        made = _solved(maker, part._replace(context=context, given=given), x_0[:, :, start:end], sampler)
        done = torch.cat([done, made[:, :, n:]], 2)
    return done


def plan_segments(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Segments [start, end) of frames 0 to `length`, each at most `size` long and begun before the end of the one before; as few as there
    can be. All are about as long and share overlap / size of it: a last one that made a few frames and was given all others would be
    asked for what no model is trained on, which is given a quarter of its window at most."""
    if length <= size:
        return [(0, length)]
    fresh = size - overlap
    more = -(-(length - size) // fresh)
    first = -(-length * size // (size + more * fresh))
    shared = max(1, first * overlap // size)
    ends = [first + (length - first) * k // more for k in range(more + 1)]
    return [(0, first), *((end - shared, after) for end, after in pairwise(ends))]
