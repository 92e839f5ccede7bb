"""What is measured of trained models on clips that none of them was trained on: reconstructions, losses, and made sound beside the clip's own.

Each model sees the clips in the form that it was trained on: first windows, centre crops, and beside them what its kind of stage needs
(a picture of the person, what a clip was edited from, the pictures of a sound). What cannot be read, or was taken down, is passed over.

Columns are compared on what they have in common: clips are taken that fit the models of that stage in every column, videos, pictures and
sounds are rows of their own, and a mean is over the clips that all columns have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from manifests.deny import DenyList

if TYPE_CHECKING:
    import torch

    from training.data.config import DataConfig
    from training.data.index import Sample
    from training.exports import Export
    from training.generation import MoviePipeline
    from training.sound_generation import SoundMaker
    from training.validate import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """What is measured. Weights are local files; without them what needs them is left blank."""

    clips: int = 16
    """Held-out videos, and pictures, and sounds, of each model."""
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
    """The held-out clips, or prompts, that it is the mean of."""
    values: tuple[float, ...] = ()
    """What was measured of each of them."""
    chance: float | None = None
    """What the value would be without skill, where that was measured; the mean of `chances`, of each clip."""
    chances: tuple[float, ...] = ()
    form: dict[str, Any] = field(default_factory=dict)
    """In which form the clips were shown; what was measured in two forms is not better or worse."""


def measured(
    name: str,
    values: Mapping[str, float],
    note: str,
    better: bool | None,
    form: Mapping[str, Any] | None = None,
    chances: Mapping[str, float] | None = None,
) -> Measured:
    """The mean of what was measured of each clip."""
    by_chance = tuple((chances or {}).values())
    return Measured(
        name=name,
        value=float(np.mean(list(values.values()))),
        note=note,
        higher_is_better=better,
        clips=tuple(values),
        values=tuple(values.values()),
        chance=float(np.mean(by_chance)) if by_chance else None,
        chances=by_chance,
        form=dict(form or {}),
    )


def in_common(columns: Sequence[Sequence[Measured]]) -> list[list[Measured]]:
    """Every measure over the clips that all columns have which have the measure; where they have none in common, as it was."""
    shared: dict[str, set[str]] = {}
    for column in columns:
        for found in column:
            shared[found.name] = shared.get(found.name, set(found.clips)) & set(found.clips)
    return [[_over(found, shared[found.name]) for found in column] for column in columns]


def _over(found: Measured, clips: set[str]) -> Measured:
    kept = [i for i, clip in enumerate(found.clips) if clip in clips]
    if not kept or len(kept) == len(found.clips):
        return found
    values = {found.clips[i]: found.values[i] for i in kept}
    chances = {found.clips[i]: found.chances[i] for i in kept if found.chances}
    return measured(found.name, values, found.note, found.higher_is_better, found.form, chances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An export that is measured, as what, and the name of its rows: its stage, with digits of its weights where a column has several."""

    export: "Export"
    kind: Literal["autoencoder", "generator", "codec", "sound"]
    name: str

    @property
    def condition(self) -> str | None:
        """Which kind of generator it is; None for text to video, and for what is none."""
        from training.tasks.flow_config import KINDS

        return next((k for k in KINDS if self.kind == "generator" and self.export.described.get(k)), None)

    @property
    def form(self) -> "DataConfig":
        """How its clips are read."""
        from training.data.config import DataConfig

        described, trained = self.export.described, self.export.described["trained_on"]
        known = ("size_px", "resize_px", "n_frames", "shapes", "sound_frames")
        more: dict[str, Any] = {}
        if self.kind in ("codec", "sound"):
            more = {"sound_frames": int(described.get("sound_frames") or trained.get("sound_frames") or _TWO_S)}
        if self.condition == "edit":
            more = {"edits": True}
        if self.condition == "personal":
            more = {"reference_px": int(described["personal"]["tower"]["image_px"])}
        return DataConfig(**{k: v for k, v in trained.items() if k in known} | more)

    def shown(self, kind: str, loss: bool = False) -> dict[str, Any]:
        """The form as JSON values; of a loss, also the latents it is of, and by which rule edits and small clips are made."""
        form, described = self.form, self.export.described
        said: dict[str, Any] = {"size_px": form.size_px, "resize_px": form.resize_px, "shapes": form.shapes}
        said |= {"n_frames": form.n_frames} if kind != "image" else {}
        said |= {"sound_frames": form.sound_frames} if form.sound_frames else {}
        if loss:
            said["latents"] = described["latents"].get("tae_sha256") or described["latents"].get("codec_sha256")
            said |= {k: described[k] for k in ("edit", "upsample") if described.get(k)}
        return said

    def takes(self, sample: "Sample") -> bool:
        """Whether it can be measured on the clip: of a kind that it knows, and long enough. An editor is measured on what it can edit, or has
        been edited, and not on its caption alone."""
        from training.data.index import SOUND_FRAMES_PER_S

        form = self.form
        if self.kind in ("codec", "sound"):
            needed_us = form.sound_frames * 1_000_000 // SOUND_FRAMES_PER_S
            return sample.kind != "image" and bool(sample.has_sound) and (sample.sound_us or 0) >= needed_us
        if sample.kind == "video" and form.shapes != "buckets" and (sample.n_frames or 0) < form.n_frames:
            return False
        if self.kind == "autoencoder":
            return sample.kind != "audio"
        if self.condition == "edit":
            edited = bool(self.export.described["edit"].get("stills_of")) or sample.other("source.mp4") is not None
            return sample.kind == "image" or (sample.kind == "video" and edited)
        return sample.kind == "video" or (sample.kind == "image" and form.n_frames == 1)


def subjects(pipeline: "MoviePipeline") -> list[Subject]:
    """Every export of the column that says what it was trained on, and is of a kind that is measured."""
    known = [(e, kind) for e in pipeline.exports if "trained_on" in e.described and (kind := _kind(e))]
    stages = [e.stage for e, _ in known]
    found = []
    for export, kind in known:
        name = export.stage if stages.count(export.stage) == 1 else f"{export.stage} {export.sha256[:8]}"
        found.append(Subject(export=export, kind=kind, name=name))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Held-out clips of a dataset at a version, the same for all columns."""

    dataset: Path
    version: int
    samples: "Sequence[Sample]"
    shared: Mapping[str, Sequence[Subject]] = field(default_factory=dict)
    """The subjects of a name in all columns: their clips have to fit all of them."""

    def turns(self, subject: Subject, count: int) -> "Iterator[tuple[Sample, Turn]]":
        """The first `count` of each kind that fit, as a model is shown them."""
        from training.errors import SampleError
        from training.validate import load_turn

        denied, form = DenyList(self.dataset), subject.form
        for kind in _ROWS:
            found = 0
            for sample in self._fitting(subject, kind):
                try:
                    turn = load_turn(self.dataset, sample, form, denied=denied)
                except SampleError:
                    continue
                yield sample, turn
                found += 1
                if found == count:
                    break

    def _fitting(self, subject: Subject, kind: str) -> "list[Sample]":
        """Clips of the kind that every column's subject of that name takes; where there are none, those that this one takes."""
        own = [s for s in self.samples if s.kind == kind and subject.takes(s)]
        return [s for s in own if all(other.takes(s) for other in self.shared.get(subject.name, ()))] or own


_ROWS = {"video": "videos", "image": "pictures", "audio": "sounds"}
"""Kind of clip -> how its row is called."""


def measure_models(
    pipeline: "MoviePipeline", clips: Clips, config: EvaluateConfig, say: Callable[[str], None] = lambda text: None
) -> list[Measured]:
    """The measures of every export that says what it was trained on: autoencoders, generators of every kind, codecs, generators of sound.
    One whose autoencoder, codec or weights are not there is left out, and `say` is told why."""
    from training.errors import TrainingError

    found: list[Measured] = []
    measures = {"autoencoder": _autoencoder, "generator": _generator, "codec": _codec, "sound": _sound}
    for kind, measure in measures.items():
        for subject in (s for s in subjects(pipeline) if s.kind == kind):
            try:
                found += measure(pipeline, subject, clips, config)
            except TrainingError as error:
                say(f"{subject.name}: not measured, {error}")
    return found


def by_kind(
    subject: Subject,
    measure: str,
    rows: Sequence[tuple["Sample", float]],
    note: str,
    better: bool,
    loss: bool = False,
) -> list[Measured]:
    """A row for each kind of clip, as a mean over videos and pictures would say how many there are of each."""
    found = []
    for kind, called in _ROWS.items():
        values = {sample.clip_id: value for sample, value in rows if sample.kind == kind}
        if values:
            found.append(measured(f"{subject.name} {measure}, {called}", values, note, better, subject.shown(kind, loss)))
    return found


def ssim(a_N3HW: "torch.Tensor", b_N3HW: "torch.Tensor") -> float:
    """The mean structural similarity of pairs of pictures in [0, 1] (Wang et al. 2004)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    size = min(11, *(n - (1 - n % 2) for n in a_N3HW.shape[2:]))
    value: Any = structural_similarity_index_measure(a_N3HW, b_N3HW, data_range=1.0, gaussian_kernel=size >= 11, kernel_size=size)
    return float(value)


def _kind(export: "Export") -> Literal["autoencoder", "generator", "codec", "sound"] | None:
    latents = export.described.get("latents", {})
    if "tae_sha256" in latents:
        return "generator"
    if "codec_sha256" in latents:
        return "sound"
    return "autoencoder" if export.stage.startswith(("tae", "image_ae")) else "codec" if export.stage.startswith("codec") else None


def _autoencoder(pipeline: "MoviePipeline", subject: Subject, clips: Clips, config: EvaluateConfig) -> list[Measured]:
    import torch

    from training.latents import load_tae
    from training.losses import psnr_db
    from training.models.perceptual import Perceptual

    tae = load_tae(subject.export.folder, subject.export.stage)[0].to(pipeline.device, pipeline.dtype).eval()
    distance = Perceptual("vgg", config.lpips) if config.lpips else None
    notes = (("PSNR, dB", "reconstruction of held-out clips", True), ("SSIM", "the same", True), ("LPIPS", "the same", False))
    rows: dict[str, list[tuple[Sample, float]]] = {}
    for sample, turn in clips.turns(subject, config.clips):
        with torch.no_grad():
            made = tae(turn.given(pipeline.device, pipeline.dtype))[0].float().clamp(-1, 1).cpu()
        a, b = ((x.transpose(0, 1) + 1) / 2 for x in (made[0], turn.pixels))
        row = [psnr_db(made[0], turn.pixels), ssim(a, b), *([float(distance(2 * a - 1, 2 * b - 1).mean())] if distance else [])]
        for (name, _, _), value in zip(notes, row, strict=False):
            rows.setdefault(name, []).append((sample, float(value)))
    return [m for name, note, better in notes for m in by_kind(subject, name, rows.get(name, []), note, better)]


def _generator(pipeline: "MoviePipeline", subject: Subject, clips: Clips, config: EvaluateConfig) -> list[Measured]:
    import torch

    from training.conditions import read_prompts
    from training.generation import load_generator

    turns = list(clips.turns(subject, config.clips))
    if not turns:
        return []
    # let go after it: of several stages only their encoders of text stay
    generator = load_generator(subject.export, pipeline.beside, pipeline.device, pipeline.dtype, pipeline.texts)
    task = generator.task.with_prompts(read_prompts(clips.dataset, clips.version, [s for s, _ in turns], subject.form))
    scores = []
    for sample, turn in turns:
        task.held = {sample.clip_id: {name: value[None] for name, value in turn.beside.items()}}
        with torch.no_grad():
            score = task.score(generator.model, sample, turn.pixels[None].to(pipeline.device), pipeline.dtype)
        scores.append((sample, float(score[0])))
    return by_kind(subject, "loss", scores, f"mean over fixed times and noise under {_GIVEN[subject.condition]}", False, loss=True)


_GIVEN = {
    None: "captions",
    "personal": "captions and a picture of the person",
    "edit": "instructions, beside the source",
    "upsample": "captions and the small clip, which no autoencoder has left traces in",
}
"""What a kind of stage is measured under."""


def _codec(pipeline: "MoviePipeline", subject: Subject, clips: Clips, config: EvaluateConfig) -> list[Measured]:
    import torch

    from training.models.spectral import mel_distance, si_sdr_db
    from training.sound_latents import load_codec

    codec = load_codec(subject.export.folder)[0].to(pipeline.device).eval()
    ratios, distances = [], []
    for sample, turn in clips.turns(subject, config.clips):
        with torch.no_grad():
            made = codec(turn.beside["sound"][None].to(pipeline.device))[0].float().cpu()
        wanted = turn.beside["sound"][None].float()
        ratios.append((sample, float(si_sdr_db(made[0], wanted[0]))))
        distances.append((sample, float(mel_distance(made, wanted)[0])))
    ratio = by_kind(subject, "SI-SDR, dB", ratios, "reconstruction of held-out sound", True)
    return ratio + by_kind(subject, "mel distance", distances, _MEL, False)


_MEL = "mean difference of log10 mel magnitudes; 0 sounds alike, 1 is a factor of ten"
_TWO_S = 50
"""Latent frames of a window where the export does not say."""


def _sound(pipeline: "MoviePipeline", subject: Subject, clips: Clips, config: EvaluateConfig) -> list[Measured]:
    """The loss; and of what is made for held-out films, whose sound is not heard, how near it is to that sound, and when it begins."""
    import torch

    from training.exports import by_digest
    from training.generation import with_steps
    from training.models.spectral import mel_distance
    from training.sound_conditions import read_sound_prompts
    from training.sound_generation import load_sound_maker
    from training.tasks.task import Heard

    export, turns = subject.export, list(clips.turns(subject, config.clips))
    if not turns:
        return []
    codec = by_digest(pipeline.beside, export.described["latents"]["codec_sha256"], f"the codec of {export.folder}")
    maker = load_sound_maker(
        codec.folder, export.folder, pipeline.device, texts=pipeline.texts
    )  # in float32, as it is validated in training
    maker = replace(maker, stage=replace(maker.stage, sampler=with_steps(maker.stage.sampler, config.wishes.get("steps"))))
    task = maker.task(export.stage, read_sound_prompts(clips.dataset, clips.version, [s for s, _ in turns]))
    losses, made, distances = [], [], []
    for sample, turn in turns:
        heard = cast(Heard, turn.given(pipeline.device, torch.float32))
        with torch.no_grad():
            losses.append((sample, float(task.score(maker.model, sample, heard, torch.float32)[0])))
            if sample.kind == "video":
                sound = task.sample(maker.model, sample, heard)[0].float().cpu()
                made.append((sample, sound, turn))
                distances.append((sample, float(mel_distance(sound[None], turn.beside["sound"][None])[0])))
    found = by_kind(subject, "loss", losses, "mean over fixed times and noise under captions and pictures", False, loss=True)
    found += by_kind(subject, "mel distance", distances, f"made for the pictures, beside the films' own sound; {_MEL}", False)
    return found + _onsets(subject, made, maker)


def _onsets(subject: Subject, made: "Sequence[tuple[Sample, torch.Tensor, Turn]]", maker: "SoundMaker") -> list[Measured]:
    """F1 of when made sound begins, with when the film's own does and with what happens in it; by chance: with other films'."""
    from training.onsets import heard_s, seen_s

    heard = {sample.clip_id: heard_s(sound.numpy()) for sample, sound, _ in made}
    own = {sample.clip_id: heard_s(turn.beside["sound"].numpy()) for sample, _, turn in made}
    frames = {s.clip_id: ((t.pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy() for s, _, t in made}
    seen = {clip: seen_s(f, maker.shown_fps) if maker.shown_frames else [] for clip, f in frames.items()}
    found = []
    for name, wanted in (("the film's sound", own), ("events seen", seen)):
        values, chances = agreements(heard, wanted)
        if values:
            note = "sound that begins within 0.12 s; chance is with another film's"
            said = measured(f"{subject.name} onsets, F1 with {name}", values, note, True, subject.shown("video"), chances)
            found.append(said)
    return found


def agreements(heard: Mapping[str, list[float]], wanted: Mapping[str, list[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """(F1 of each clip's times with what is wanted of it, the mean of those with what is wanted of the others), of clips with anything
    wanted; none by chance where there is one alone."""
    from training.onsets import agreement

    clips = [clip for clip, times in wanted.items() if times]
    values = {clip: float(agreement(heard[clip], wanted[clip])) for clip in clips}
    others = {clip: [agreement(heard[clip], wanted[other]) for other in clips if other != clip] for clip in clips}
    return values, {clip: float(np.mean(found)) for clip, found in others.items() if found}
