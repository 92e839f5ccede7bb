"""From a prompt to a film with what was trained: text, latents, tiled decode, upsampler, sound.

    pipeline = MoviePipeline.from_folders([Path("curriculum")])
    film = pipeline("A coin turns on a table.", aspect="16:9", seed=7)
    film.save(Path("coin.mp4"))

Models are found in the folders that curricula and runs leave, each by the digest that what was built on it names, so an autoencoder is
never taken for another. Every draw is keyed by the seed: the same request gives the same film on the same machine.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training import keyed
from training.config import bind
from training.data.shapes import size_of
from training.data.text_cache import TextCache, shared_texts
from training.edits import OTHER, task_of
from training.errors import TrainingError
from training.exports import Export, by_digest, find_exports
from training.film import Film, glance, read_film
from training.flow import SamplerConfig
from training.instructions import examples
from training.latents import LatentCodec, LatentScale, load_tae, placed, read_export
from training.models.text import TextConfig, check_keys, prompt_of
from training.models.transformer import PATCH_PX, Transformer, grow_positions
from training.models.vision import PersonalTransformer
from training.portraits import Box, read_photo
from training.shown import SAMPLE_RATE_HZ
from training.sound_generation import Extension, SoundMaker, generate_sound, load_sound_maker, watch
from training.tasks.edit import EditTask
from training.tasks.flow_config import KINDS, FlowConfig
from training.tasks.personal import PersonalTask
from training.tasks.text_to_video import Asked, TextToVideoTask
from training.tasks.upsampler import UpsamplerTask

ASPECTS = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1), "4:3": (4, 3), "3:4": (3, 4)}
"""The five aspect ratios that clips are curated in."""

FPS = 24

Say = Callable[[str], None]

_NEEDS = {
    "edit": "{0} needs --edit (clip=…): it edits a clip",
    "personal": "{0} needs --photo (photo=…): it shows a person",
    "upsample": "{0} makes no films of its own: it enlarges those of other stages",
}

_TASKS: dict[str | None, type[TextToVideoTask]] = {
    None: TextToVideoTask,
    "upsample": UpsamplerTask,
    "edit": EditTask,
    "personal": PersonalTask,
}


def _nothing(text: str) -> None:
    """Said to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be made. None stands for what the model was trained on or with."""

    prompt: str
    seed: int = 0
    n_frames: int | None = None
    aspect: str = "1:1"
    fps: int = FPS
    steps: int | None = None
    """Of every stage that samples: pictures, upsampler, sound."""
    guidance: float | None = None
    """Of the pictures; upsampler and sound keep their own."""
    upsample: bool = True
    """Made larger where there is an upsampler."""
    sound: bool = True
    """With sound: that of the clip that is edited, or one that is made, where a generator of sound was trained."""
    sound_text: str | None = None
    """What is to be heard; None for the prompt."""
    photo: str | None = None
    """File of a picture of the person to be shown; a stage of personalisation makes the film."""
    face: Box | None = None
    """Where the face is in the photo, in px of it as it is shown: it is then cut out and masked, as the references were that were trained on."""
    clip: str | None = None
    """File of the clip to be edited; the prompt is the instruction."""

    def __post_init__(self) -> None:
        if self.aspect not in ASPECTS:
            raise TrainingError(f"aspect: expected one of {', '.join(ASPECTS)}, found {self.aspect}")
        if self.fps < 1 or (self.n_frames is not None and self.n_frames < 1):
            raise TrainingError(f"request: expected fps and n_frames of at least 1, found {self.fps} and {self.n_frames}")
        if self.photo and self.clip:
            raise TrainingError("request: expected a photo or a clip to edit, found both")
        if self.face and not self.photo:
            raise TrainingError(f"request: expected a photo beside the face {self.face}, found none")

    @property
    def kind(self) -> str | None:
        """Which kind of stage makes it; None for text to video."""
        return "personal" if self.photo else "edit" if self.clip else None

    def note(self) -> dict[str, Any]:
        """The request as JSON values, files by the SHA-256 of their bytes: their names are nobody's business."""
        files = {name: _sha256(Path(value)) for name in ("photo", "clip") if (value := getattr(self, name))}
        said = asdict(self)
        if self.face is None:
            del said["face"]  # films that were made before there was one are not made anew
        return said | files


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A stage of the video generator, ready to be asked."""

    export: Export
    autoencoder: Export
    task: TextToVideoTask
    model: nn.Module
    tables: dict[str, Tensor]
    """Positions as they were trained: `positions.t`, `.h`, `.w`."""

    @property
    def trained(self) -> dict[str, Any]:
        """Size and frames of what it was trained on."""
        shape: dict[str, Any] = self.export.described["trained_on"]
        return shape


class MoviePipeline:
    """Trained models at hand; each is loaded when it is first needed."""

    def __init__(
        self,
        exports: Sequence[Export],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        beside: Sequence[Export] = (),
    ) -> None:
        """`beside` are exports that are only looked through for the autoencoders and codecs of the others."""
        self.exports, self.device, self.dtype = list(exports), torch.device(device), dtype
        self.beside = [*exports, *beside]
        self._known: dict[str, Generator] = {}
        self.texts: dict[TextConfig, TextCache] = {}
        """The encoders of prompts, one set for all stages that read them alike."""

    @classmethod
    def from_folders(
        cls, folders: Iterable[Path], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "MoviePipeline":
        """The pipeline over all exports under the folders."""
        return cls(find_exports(folders), device, dtype)

    def __call__(self, prompt: str, *, stage: str | None = None, on_step: Say | None = None, **wishes: Any) -> Film:
        """The film of a prompt; `wishes` are fields of `Request`, `stage` another than the last text-to-video stage."""
        request = Request(prompt=prompt, **wishes)
        say = on_step or _nothing
        video = self.video(stage, request.kind)
        say(f"{video.export.stage}: {request.prompt}")
        pixels, fps, sound = self.pixels(video, request, say)
        if request.upsample and self.upsampler is not None:
            say(f"{self.upsampler.export.stage}: {pixels.shape[3]}x{pixels.shape[2]} pixels made larger")
            said = prompt_of("" if request.clip else request.prompt, float(fps))  # an instruction says nothing of what is seen
            pixels = self.enlarge(pixels, said, request.seed, request.steps)
        if self.hears(video, request) and self.sound_maker is not None:
            say("sound")
            heard = watch(self.sound_maker, pixels.float(), float(fps))
            said = request.prompt if request.sound_text is None else request.sound_text
            sampler = with_steps(self.sound_maker.stage.sampler, request.steps)
            sound = generate_sound(self.sound_maker, heard, said, pixels.shape[1] / float(fps), request.seed, sampler=sampler)
        models = self.notes(request, stage)
        frames = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()
        return Film(frames=frames, fps=fps, sound=sound, made_from={"request": request.note(), "models": models})

    def notes(self, request: Request, stage: str | None = None) -> dict[str, Any]:
        """Where the models that make the request come from."""
        video = self.video(stage, request.kind)
        models = {"video": video.export.note, "autoencoder": video.autoencoder.note}
        if request.upsample and self.upsampler is not None:
            models |= {"upsampler": self.upsampler.export.note, "upsampler_autoencoder": self.upsampler.autoencoder.note}
        return models | (self.sound_notes if self.hears(video, request) else {})

    def hears(self, video: Generator, request: Request) -> bool:
        """Whether a sound is made: not for a picture, nor in place of the sound of a clip that is edited."""
        frames = request.n_frames or int(video.trained["n_frames"])
        return request.sound and request.clip is None and frames > 1 and self._audio is not None

    def pixels(self, video: Generator, request: Request, say: Say = _nothing) -> tuple[Tensor, Fraction, Any]:
        """(pixels (3, T, H, W) in [-1, 1], frames a second, sound of the clip that was edited)"""
        if request.clip is not None:
            return self.edit(video, request, say)
        if request.photo is not None and request.face is None:
            say(
                f"{request.photo}: its middle square is shown as it is; wanted is a picture of a face alone; --face or --face-weights cut it out"
            )
        return self.text_to_video(video, request), Fraction(request.fps), None

    def text_to_video(self, video: Generator, request: Request) -> Tensor:
        """Pixels (3, T, H, W) in [-1, 1] of the prompt, and of the person of a photo where the stage is one of personalisation."""
        trained = video.trained
        n_frames = request.n_frames or int(trained["n_frames"])
        width, height = size_of(*ASPECTS[request.aspect], int(trained["size_px"]))
        task = self.fitted(video, request, n_frames, height, width)
        said = prompt_of(request.prompt, None if n_frames == 1 else float(request.fps))
        shape = task.latent_shape((1, 3, n_frames, height, width))
        x_0 = keyed.normal(shape, "generate/v1", request.seed).to(self.device)
        person = None
        if request.photo is not None:
            side = cast(PersonalTransformer, video.model).tower.config.image_px
            person = read_photo(Path(request.photo), side, request.face)[None].to(self.device)
        latents = task.latents(video.model, x_0, Asked(x_0, [said], identity=person), self.dtype)
        return task.decode(latents.to(self.dtype), n_frames)[0]

    def edit(self, video: Generator, request: Request, say: Say = _nothing) -> tuple[Tensor, Fraction, Any]:
        """The clip of the request as its prompt instructs, at the area trained on and no longer than the model knows, with its own sound."""
        if task_of(request.prompt) == OTHER:
            asks = "; ".join(examples())
            say(f'{video.export.stage}: "{request.prompt}" names no kind of edit that is trained here, so expect little; those are: {asks}')
        source = self.clip(video, request, say)
        frames = source.frames
        height, width = frames.shape[1:3]
        x = (torch.from_numpy(frames).to(self.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1).to(self.dtype)
        task = cast(EditTask, self.fitted(video, request, len(frames), height, width))
        made = task.edit(video.model, x, [request.prompt], "edit/v1", request.seed)[0]
        return made, source.fps, source.sound if request.sound else None

    def clip(self, video: Generator, request: Request, say: Say = _nothing) -> Film:
        """The clip that is edited, or its first frames where the model knows no more; `say` is told what is left out."""
        longest, path = 8 * transformer_of(video.model).config.max_t, Path(request.clip or "")
        if request.n_frames is not None and request.n_frames > longest:
            raise TrainingError(f"frames: expected at most {longest} with {video.export.stage}, found {request.n_frames}")
        wanted = request.n_frames or longest
        size_px = int(video.trained["size_px"])
        film = read_film(path, wanted + 1, lambda width, height: size_of(width, height, size_px))  # one more tells if anything is left out
        if len(film.frames) <= wanted:
            return film
        seconds = wanted / float(film.fps)
        if request.n_frames is None:
            say(f"{path}: only the first {wanted} frames, {seconds:.1f} s, are edited: {video.export.stage} knows no longer clips")
        sound = None if film.sound is None else film.sound[: round(seconds * SAMPLE_RATE_HZ)]
        return replace(film, frames=film.frames[:wanted], sound=sound)

    def soundtrack(
        self,
        film: Path,
        text: str,
        seed: int,
        extension: Extension = "windows",
        steps: int | None = None,
        guidance: float | None = None,
    ) -> NDArray[np.float32]:
        """Sound (N,) at 48 kHz, as long as the film, for its pictures and a sentence; of any length."""
        maker = self.sound_maker
        if maker is None:
            raise TrainingError("sound: expected exports of stages codec and audio among the given folders, found none")
        seen, seconds = glance(film, maker.shown_fps, maker.size_px)
        frames = torch.from_numpy(seen).permute(3, 0, 1, 2).float() / 127.5 - 1
        sampler = sampler_of(maker.stage.sampler, Request(prompt=text, steps=steps, guidance=guidance))
        return generate_sound(maker, watch(maker, frames, maker.shown_fps), text, seconds, seed, extension=extension, sampler=sampler)

    @cached_property
    def sound_maker(self) -> SoundMaker | None:
        """The last generator of sound with its codec; None where none was trained."""
        audio = self._audio
        if audio is None:
            return None
        codec = by_digest(self.beside, audio.described["latents"]["codec_sha256"], f"the codec of {audio.folder}")
        return load_sound_maker(codec.folder, audio.folder, self.device, self.dtype, self.texts)

    @property
    def sound_notes(self) -> dict[str, Any]:
        """Where the models of sound come from."""
        audio = self._audio
        if audio is None:
            return {}
        return {"sound": audio.note, "codec": by_digest(self.beside, audio.described["latents"]["codec_sha256"], "codec").note}

    @property
    def _audio(self) -> Export | None:
        return next((e for e in reversed(self.exports) if "codec_sha256" in e.described.get("latents", {})), None)

    def enlarge(self, pixels_3THW: Tensor, prompt: str, seed: int, steps: int | None = None) -> Tensor:
        """The clip at the upsampler's factor of its size."""
        if self.upsampler is None:
            raise TrainingError("upsampler: expected the export of an upsampler among the given folders, found none")
        task = cast(UpsamplerTask, self.upsampler.task)
        task = task.with_sampler(with_steps(task.sampler, steps))
        low = pixels_3THW.transpose(0, 1).to(self.device, self.dtype)
        return task.upsample(self.upsampler.model, low, prompt, "upsample/v1", seed)

    def fitted(self, generator: Generator, request: Request, n_frames: int, height: int, width: int) -> TextToVideoTask:
        """The stage's task with the request's sampler; its model's tables of positions reach as far as the picture does.

        Tables that are too short are stretched over the larger picture: it is nothing that was trained, and better than a refusal.
        TrainingError where the clip is longer than the model knows.
        """
        model = generator.model
        transformer = transformer_of(model)
        config = transformer.config
        t, h, w = (n // PATCH_PX if i else n for i, n in enumerate(generator.task.latent_shape((1, 3, n_frames, height, width))[2:]))
        if t > config.max_t:
            raise TrainingError(f"frames: expected at most {8 * config.max_t} with {generator.export.stage}, found {n_frames}")
        reach = replace(config, max_h=max(h, len(generator.tables["positions.h"])), max_w=max(w, len(generator.tables["positions.w"])))
        if (reach.max_h, reach.max_w) != (
            config.max_h,
            config.max_w,
        ):  # from the trained tables each time: not from what a request before left
            grown = grow_positions(generator.tables, reach, "stretch")
            for axis in "hw":
                setattr(transformer.positions, axis, nn.Parameter(grown[f"positions.{axis}"].to(self.device, self.dtype)))
            transformer.config = reach
        return generator.task.with_sampler(sampler_of(generator.task.sampler, request))

    def video(self, stage: str | None = None, kind: str | None = None) -> Generator:
        """The last stage of the kind (text to video without one), or the one of that name."""
        able = self.able(stage, kind)
        if not able:
            raise TrainingError(self._unable(stage, kind))
        films = [e for e in able if e.described.get("trained_on", {}).get("n_frames", 1) > 1]  # a curriculum may end with pictures
        return self.generator((films or able)[-1])

    def able(self, stage: str | None = None, kind: str | None = None) -> list[Export]:
        """The stages of the kind, or those of that name among them, whether they can be loaded or not."""
        of_kind = [e for e in self.exports if "tae_sha256" in e.described.get("latents", {}) and _kind(e) == kind]
        return [e for e in of_kind if stage is None or e.stage == stage]

    def _unable(self, stage: str | None, kind: str | None) -> str:
        named = [e for e in self.exports if e.stage == stage]
        if named and "tae_sha256" not in named[-1].described.get("latents", {}):
            return f"generate: {stage} makes no pictures"
        if named and (other := _kind(named[-1])):
            return "generate: " + _NEEDS[other].format(stage)
        if named:
            return f"generate: {stage} makes films of prompts and takes no {'clip (--edit)' if kind == 'edit' else 'photo (--photo)'}"
        wanted = stage or {None: "text to video", "edit": "editing", "personal": "personalisation"}[kind]
        return f"generate: expected an export of stage {wanted}, found {sorted({e.stage for e in self.exports})}"

    @cached_property
    def upsampler(self) -> Generator | None:
        """The last upsampler; None where none was trained."""
        found = [e for e in self.exports if e.described.get("upsample")]
        return self.generator(found[-1]) if found else None

    def generator(self, export: Export) -> Generator:
        """The stage of an export, loaded once."""
        if export.sha256 not in self._known:
            self._known[export.sha256] = load_generator(export, self.beside, self.device, self.dtype, self.texts)
        return self._known[export.sha256]

    def forget(self) -> None:
        """No model is held any more; each is loaded again when it is needed."""
        self._known.clear()
        self.texts.clear()
        for name in ("upsampler", "sound_maker"):
            self.__dict__.pop(name, None)


def load_generator(
    export: Export,
    exports: Sequence[Export],
    device: torch.device,
    dtype: torch.dtype,
    texts: dict[TextConfig, TextCache] | None = None,
) -> Generator:
    """The stage of an export with its autoencoder, which is looked for among `exports`; TrainingError when something does not fit. Text
    encoders are shared with those of `texts`."""
    described, state = read_export(export.folder, "", mapped=True)
    try:
        flow = bind(FlowConfig, {name: described[name] for name in ("model", "text", "sampler", *KINDS) if name in described})
        latents = described["latents"]
        scale = LatentScale(mean=tuple(latents["mean"]), std=tuple(latents["std"]))
        keys = dict(described["text_keys"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{export.folder}: expected the export of a generator of this version, found {error}") from error
    found = by_digest(exports, latents["tae_sha256"], f"the autoencoder of {export.folder}")
    tae, sha256 = load_tae(found.folder, flow.autoencoder)
    codec, cache = LatentCodec(tae, scale, sha256), shared_texts({} if texts is None else texts, flow.text, device)
    check_keys(cache.encoders, keys, str(export.folder))
    task = _TASKS[_kind(export)](export.stage, flow, 0, codec, {}, cache)
    with torch.device("meta"):
        model = PersonalTransformer(flow.model, flow.personal.tower, train_tower=False) if flow.personal else Transformer(flow.model)
    tables = {name: value.clone() for name, value in state.items() if name.startswith("positions.")}
    try:
        model.load_state_dict(placed(state, device, dtype), strict=True, assign=True)
    except RuntimeError as error:
        raise TrainingError(f"{export.folder}: expected weights of its own description, found {str(error)[:300]}") from error
    model = model.eval().requires_grad_(False)
    return Generator(export=export, autoencoder=found, task=task, model=model, tables=tables)


def _kind(export: Export) -> str | None:
    """Which of `KINDS` a stage is; None for text to video."""
    return next((kind for kind in KINDS if export.described.get(kind)), None)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(f"{path}: expected a file, found {error.strerror}") from error


def transformer_of(model: nn.Module) -> Transformer:
    """The transformer in the model, or that it is."""
    found = model if isinstance(model, Transformer) else getattr(model, "transformer", None)
    if not isinstance(found, Transformer):
        raise TrainingError(f"generate: expected a model with a transformer, found {type(model).__name__}")
    return found


def sampler_of(trained: SamplerConfig, request: Request) -> SamplerConfig:
    """The sampler that a request wishes for; TrainingError when it cannot be."""
    guidance = trained.guidance if request.guidance is None else request.guidance
    return replace(with_steps(trained, request.steps), guidance=guidance)


def with_steps(trained: SamplerConfig, steps: int | None) -> SamplerConfig:
    """The sampler in so many steps, or as it is; TrainingError when it cannot be."""
    n = steps or trained.steps
    try:
        return replace(trained, steps=n, linear_steps=max(n, trained.linear_steps))
    except ValueError as error:
        raise TrainingError(str(error)) from error
