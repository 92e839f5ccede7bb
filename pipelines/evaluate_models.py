"""What is measured of trained models on clips that none of them was trained on: reconstructions, losses, and made sound beside the clip's own.

Each model sees the clips in the form that it was trained on: first windows, centre crops, and beside them what its kind of stage needs
(a picture of the person, what a clip was edited from, the pictures of a sound). What cannot be read, or was taken down, is passed over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from manifests.deny import DenyList

if TYPE_CHECKING:
    import torch

    from training.data.batch import DataConfig
    from training.data.index import Sample
    from training.exports import Export
    from training.generation import MoviePipeline
    from training.sound_generation import SoundMaker
    from training.validate import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """What is measured. Weights are local files; without them what needs them is left blank."""

    clips: int = 16
    """Held-out clips of each kind of model."""
    lpips: str = ""
    """torchvision's VGG-16 (.pth or .safetensors), for LPIPS."""
    clip: str = ""
    """Folder of an open_clip model (open_clip_config.json, open_clip_model.safetensors), for text agreement."""
    wishes: dict[str, Any] = field(default_factory=dict)
    """Fields of `training.generation.Request` for the films; its `steps` are those of made sound too."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure of one column."""

    name: str
    value: float
    note: str
    higher_is_better: bool | None
    """None where neither is better."""
    clips: tuple[str, ...] = ()
    """The held-out clips that it is the mean of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Held-out clips of a dataset at a version, the same for all columns."""

    dataset: Path
    version: int
    samples: "Sequence[Sample]"

    def turns(self, settings: "DataConfig", count: int, takes: "Callable[[Sample], bool]") -> "Iterator[tuple[Sample, Turn]]":
        """The first `count` that are taken and long enough, as a model is shown them."""
        from training.data.index import SOUND_FRAMES_PER_S
        from training.errors import SampleError
        from training.validate import load_turn

        denied, found = DenyList(self.dataset), 0
        needed_us = settings.sound_frames * 1_000_000 // SOUND_FRAMES_PER_S
        for sample in self.samples:
            if settings.sound_frames:
                fits = bool(sample.has_sound) and (sample.sound_us or 0) >= needed_us
            else:
                fits = sample.kind != "video" or settings.shapes == "buckets" or (sample.n_frames or 0) >= settings.n_frames
            if not fits or not takes(sample):
                continue
            try:
                turn = load_turn(self.dataset, sample, settings, denied=denied)
            except SampleError:
                continue
            yield sample, turn
            found += 1
            if found == count:
                return


def measure_models(
    pipeline: "MoviePipeline", clips: Clips, config: EvaluateConfig, say: Callable[[str], None] = lambda text: None
) -> list[Measured]:
    """The measures of every export that says what it was trained on: autoencoders, generators of every kind, codecs, generators of sound.
    One whose autoencoder, codec or weights are not there is left out, and `say` is told why."""
    from training.errors import TrainingError

    found: list[Measured] = []
    for kind, measure in {"autoencoder": _autoencoder, "generator": _generator, "codec": _codec, "sound": _sound}.items():
        for export in (e for e in pipeline.exports if "trained_on" in e.described and _kind(e) == kind):
            try:
                found += measure(pipeline, export, clips, config)
            except TrainingError as error:
                say(f"{export.stage}: not measured, {error}")
    return found


def ssim(a_N3HW: "torch.Tensor", b_N3HW: "torch.Tensor") -> float:
    """The mean structural similarity of pairs of pictures in [0, 1] (Wang et al. 2004)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    size = min(11, *(n - (1 - n % 2) for n in a_N3HW.shape[2:]))
    value: Any = structural_similarity_index_measure(a_N3HW, b_N3HW, data_range=1.0, gaussian_kernel=size >= 11, kernel_size=size)
    return float(value)


def _kind(export: "Export") -> str | None:
    latents = export.described.get("latents", {})
    if "tae_sha256" in latents:
        return "generator"
    if "codec_sha256" in latents:
        return "sound"
    return "autoencoder" if export.stage.startswith(("tae", "image_ae")) else "codec" if export.stage.startswith("codec") else None


def _form(export: "Export", **more: Any) -> "DataConfig":
    """How the export's clips are read."""
    from training.data.batch import DataConfig

    known = ("size_px", "resize_px", "n_frames", "shapes", "sound_frames")
    return DataConfig(**{k: v for k, v in export.described["trained_on"].items() if k in known} | more)


def _autoencoder(pipeline: "MoviePipeline", export: "Export", clips: Clips, config: EvaluateConfig) -> list[Measured]:
    import torch

    from training.latents import load_tae
    from training.losses import psnr_db
    from training.models.perceptual import Perceptual

    tae = load_tae(export.folder, export.stage)[0].to(pipeline.device, pipeline.dtype).eval()
    distance = Perceptual("vgg", config.lpips) if config.lpips else None
    rows, of = [], []
    for sample, turn in clips.turns(_form(export), config.clips, lambda s: s.kind != "audio"):
        of.append(sample.clip_id)
        with torch.no_grad():
            made = tae(turn.given(pipeline.device, pipeline.dtype))[0].float().clamp(-1, 1).cpu()
        a, b = ((x.transpose(0, 1) + 1) / 2 for x in (made[0], turn.pixels))
        row = [psnr_db(made[0], turn.pixels), ssim(a, b)]
        rows.append([*row, float(distance(2 * a - 1, 2 * b - 1).mean())] if distance else row)
    if not rows:
        return []
    notes = (("PSNR, dB", "reconstruction of held-out clips", True), ("SSIM", "the same", True), ("LPIPS", "the same", False))
    return [
        Measured(
            name=f"{export.stage} {name}",
            value=float(v),
            note=f"{note}, {_count(len(of), 'clip')}",
            higher_is_better=better,
            clips=tuple(of),
        )
        for (name, note, better), v in zip(notes, np.mean(rows, 0), strict=False)
    ]


def _generator(pipeline: "MoviePipeline", export: "Export", clips: Clips, config: EvaluateConfig) -> list[Measured]:
    import torch

    from training.conditions import read_prompts
    from training.generation import load_generator
    from training.tasks.flow_config import KINDS

    kind = next((k for k in KINDS if export.described.get(k)), None)
    more: dict[str, Any] = {"edits": True} if kind == "edit" else {}
    if kind == "personal":
        more = {"reference_px": int(export.described["personal"]["tower"]["image_px"])}
    form = _form(export, **more)
    turns = list(clips.turns(form, config.clips, partial(_taken, kind, form.n_frames, export.described.get("edit") or {})))
    if not turns:
        return []
    generator = load_generator(
        export, pipeline.beside, pipeline.device, pipeline.dtype
    )  # and let go after it: each has encoders of its own
    task = generator.task.with_prompts(read_prompts(clips.dataset, clips.version, [s for s, _ in turns], form))
    scores = []
    for sample, turn in turns:
        task.held = {sample.clip_id: {name: value[None] for name, value in turn.beside.items()}}
        with torch.no_grad():
            scores.append(float(task.score(generator.model, sample, turn.pixels[None].to(pipeline.device), pipeline.dtype)[0]))
    note = f"mean over fixed times and noise under {_GIVEN[kind]}, {_count(len(scores), 'held-out clip')}"
    of = tuple(s.clip_id for s, _ in turns)
    return [Measured(name=f"{export.stage} loss", value=float(np.mean(scores)), note=note, higher_is_better=False, clips=of)]


def _taken(kind: str | None, n_frames: int, edit: Mapping[str, Any], sample: "Sample") -> bool:
    """Whether a kind of generator is measured on the clip: an editor on what it can edit, or has been edited, and not on its caption alone."""
    if kind == "edit":
        return sample.kind == "image" or (
            sample.kind == "video" and (bool(edit.get("stills_of")) or sample.other("source.mp4") is not None)
        )
    return sample.kind == "video" or (sample.kind == "image" and n_frames == 1)


_GIVEN = {
    None: "captions",
    "personal": "captions and a picture of the person",
    "edit": "instructions, beside the source",
    "upsample": "captions and the small clip, which no autoencoder has left traces in",
}
"""What a kind of stage is measured under."""


def _codec(pipeline: "MoviePipeline", export: "Export", clips: Clips, config: EvaluateConfig) -> list[Measured]:
    import torch

    from training.models.spectral import mel_distance, si_sdr_db
    from training.sound_latents import load_codec

    codec = load_codec(export.folder)[0].to(pipeline.device).eval()
    rows, of = [], []
    for sample, turn in clips.turns(_sound_form(export), config.clips, lambda s: s.kind != "image"):
        of.append(sample.clip_id)
        with torch.no_grad():
            made = codec(turn.beside["sound"][None].to(pipeline.device))[0].float().cpu()
        wanted = turn.beside["sound"][None].float()
        rows.append((si_sdr_db(made[0], wanted[0]), float(mel_distance(made, wanted)[0])))
    if not rows:
        return []
    notes = (("SI-SDR, dB", f"reconstruction of {_count(len(of), 'held-out sound')}", True), ("mel distance", _MEL, False))
    return [
        Measured(name=f"{export.stage} {name}", value=float(v), note=note, higher_is_better=better, clips=tuple(of))
        for (name, note, better), v in zip(notes, np.mean(rows, 0), strict=True)
    ]


_MEL = "mean difference of log10 mel magnitudes; 0 sounds alike, 1 is a factor of ten"
_TWO_S = 50
"""Latent frames of a window where the export does not say."""


def _sound_form(export: "Export") -> "DataConfig":
    frames = export.described.get("sound_frames") or export.described["trained_on"].get("sound_frames") or _TWO_S
    return _form(export, sound_frames=int(frames))


def _sound(pipeline: "MoviePipeline", export: "Export", clips: Clips, config: EvaluateConfig) -> list[Measured]:
    """The loss; and of what is made for held-out films, whose sound is not heard, how near it is to that sound, and when it begins."""
    import torch

    from training.exports import by_digest
    from training.generation import Request, sampler_of
    from training.models.spectral import mel_distance
    from training.sound_conditions import read_sound_prompts
    from training.sound_generation import load_sound_maker
    from training.tasks.task import Heard

    turns = list(clips.turns(_sound_form(export), config.clips, lambda s: s.kind != "image"))
    if not turns:
        return []
    codec = by_digest(pipeline.beside, export.described["latents"]["codec_sha256"], f"the codec of {export.folder}")
    maker = load_sound_maker(codec.folder, export.folder, pipeline.device)
    wished = Request(prompt="", steps=config.wishes.get("steps"))
    maker = replace(maker, stage=replace(maker.stage, sampler=sampler_of(maker.stage.sampler, wished)))
    task = maker.task(export.stage, read_sound_prompts(clips.dataset, clips.version, [s for s, _ in turns]))
    losses, made, films = [], [], []
    for sample, turn in turns:
        heard = cast(Heard, turn.given(pipeline.device, torch.float32))
        with torch.no_grad():
            losses.append(float(task.score(maker.model, sample, heard, torch.float32)[0]))
            if sample.kind == "video":
                made.append((task.sample(maker.model, sample, heard)[0].float().cpu(), turn))
                films.append(sample.clip_id)
    note = f"mean over fixed times and noise under captions and pictures, {_count(len(losses), 'held-out sound')}"
    of = tuple(s.clip_id for s, _ in turns)
    found = [Measured(name=f"{export.stage} loss", value=float(np.mean(losses)), note=note, higher_is_better=False, clips=of)]
    if made:
        distances = [float(mel_distance(sound[None], turn.beside["sound"][None])[0]) for sound, turn in made]
        name, note = (
            f"{export.stage} mel distance",
            f"made for the pictures of {_count(len(made), 'held-out film')}, beside their own sound; {_MEL}",
        )
        found.append(Measured(name=name, value=float(np.mean(distances)), note=note, higher_is_better=False, clips=tuple(films)))
        found += _onsets(export.stage, made, films, maker)
    return found


def _onsets(stage: str, made: "Sequence[tuple[torch.Tensor, Turn]]", films: Sequence[str], maker: "SoundMaker") -> list[Measured]:
    """F1 of when made sound begins, with when the film's own does and with what happens in it; in the note, with other films': chance."""
    from training.onsets import agreement, heard_s, seen_s

    heard = [heard_s(sound.numpy()) for sound, _ in made]
    own = [heard_s(turn.beside["sound"].numpy()) for _, turn in made]
    frames = [((turn.pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy() for _, turn in made]
    seen = [seen_s(f, maker.shown_fps) if maker.shown_frames else [] for f in frames]
    found = []
    for name, wanted in (("the film's sound", own), ("events seen", seen)):
        with_any = [i for i, times in enumerate(wanted) if times]
        if with_any:
            f1 = float(np.mean([agreement(heard[i], wanted[i]) for i in with_any]))
            others = [agreement(heard[i], wanted[j]) for i in with_any for j in with_any if i != j]
            chance = f"; {np.mean(others):.2f} with another film's" if others else ""
            note = f"sound that begins within 0.12 s, {_count(len(with_any), 'held-out film')}{chance}"
            of = tuple(films[i] for i in with_any)
            found.append(Measured(name=f"{stage} onsets, F1 with {name}", value=f1, note=note, higher_is_better=True, clips=of))
    return found


def _count(n: int, what: str) -> str:
    """'1 film', '2 films'."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
