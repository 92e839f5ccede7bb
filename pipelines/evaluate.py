"""`dailies evaluate`: trained models side by side on the same held-out clips and the same prompts, as a page and as JSON.

A column is a folder of models: a curriculum, a run or an export. What a column has no model for is left blank, never guessed.

- Autoencoders: PSNR, SSIM and, with weights, LPIPS of held-out clips.
- Generators: the loss on held-out clips at fixed times with fixed noise, under their captions.
- Films of the prompts: frame consistency (SSIM of neighbours), motion (VMAF's, in levels), text agreement (CLIP, with weights).

Clips are held out for all columns alike: of the shares that the columns' runs held out, the smallest. The paper compares by people's votes
and found FVD and IS not to follow them (Movie Gen, evaluation); these numbers say whether something broke, not which film people prefer.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.files import write_atomic
from manifests.tables import ManifestError, ManifestStore
from pipelines.film_page import Group, Row, Shown, Table, write_page
from pipelines.generate import Wanted, generate, shown

if TYPE_CHECKING:
    import torch

    from training.data.index import Sample
    from training.exports import Export
    from training.generation import MoviePipeline

JSON, PAGE = "evaluation.json", "index.html"
_CLIP_FRAMES = 4
_MOTION_KERNEL = np.array([0.054488685, 0.244201342, 0.402619947, 0.244201342, 0.054488685], np.float32)
"""The five taps of VMAF's motion filter."""


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
    """Fields of `training.generation.Request` for the films."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure of one column."""

    name: str
    value: float
    note: str
    higher_is_better: bool | None
    """None where neither is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What was found of one folder of models."""

    name: str
    models: list[dict[str, Any]]
    measures: list[Measured]
    films: list[dict[str, Any]]


def evaluate(
    folders: Sequence[Path],
    data: Path | None,
    prompts: Sequence[str],
    out: Path,
    config: EvaluateConfig,
    load: Callable[[list[Path]], "MoviePipeline"],
    say: Callable[[str], None] = lambda text: None,
) -> list[Column]:
    """`out` holds the page, evaluation.json, and the films of the prompts by each folder's models."""
    names, pipelines = _names(folders), [load([folder]) for folder in folders]
    for pipeline in pipelines:  # a run's autoencoder may lie in another column's folder
        pipeline.beside = [*pipeline.exports, *(e for p in pipelines for e in p.exports)]
    held_out = _held_out(data, pipelines) if data is not None else []
    agreement = TextAgreement(Path(config.clip)) if config.clip else None
    columns, cells = [], []
    for name, pipeline in zip(names, pipelines, strict=True):
        measures: list[Measured] = []
        if data is not None:
            say(f"{name}: held-out clips")
            measures += measure_models(pipeline, data, held_out, config)
        made = []
        if prompts and _makes_films(pipeline):
            say(f"{name}: {len(prompts)} films")
            films = generate(pipeline, prompts, out / name, Wanted(wishes=config.wishes, seed=config.seed), say=say)
            for film in films:
                found = measure_film(film.path, film.prompt, agreement)
                made.append({"prompt": film.prompt, "film": str(film.path.relative_to(out)), **found})
                cells.append((film.prompt, name, film, found))
            measures += _means(made)
        columns.append(Column(name=name, models=[e.note for e in pipeline.exports], measures=measures, films=made))
    write_atomic(out / JSON, json.dumps([asdict(c) for c in columns], indent=1).encode())
    groups = []
    for prompt in dict.fromkeys(prompts):
        beside = [_placed(shown(f.path, name, f.made_from, found), f"{name}/") for p, name, f, found in cells if p == prompt]
        groups.append(Group(prompt=prompt, films=tuple(beside)))
    lead = f"{len(names)} set{'s' if len(names) != 1 else ''} of models, {len(held_out)} held-out clips, {len(groups)} prompts."
    write_page(out / PAGE, "Evaluation", lead, groups, _table(columns))
    return columns


def measure_models(pipeline: "MoviePipeline", data: Path, held_out: "Sequence[Sample]", config: EvaluateConfig) -> list[Measured]:
    """The measures of every autoencoder and of the generators that need no more than a clip and its caption, each on its own form of the
    held-out clips. Editors, personalisation and sound are measured by their runs, on what lies beside the clips."""
    found: list[Measured] = []
    for export in pipeline.exports:
        if export.stage.startswith(("tae", "image_ae")) and "trained_on" in export.described:
            found += _autoencoder(pipeline, export, data, held_out, config)
    for export in pipeline.exports:
        if "tae_sha256" in export.described.get("latents", {}) and not any(export.described.get(kind) for kind in ("edit", "personal")):
            found += _generator(pipeline, export, data, held_out, config)
    return found


def measure_film(path: Path, prompt: str, agreement: "TextAgreement | None") -> dict[str, float]:
    """Frame consistency, motion, and with a model text agreement of a film."""
    from training.film import read_film

    frames = read_film(path).frames
    found: dict[str, float] = {}
    if len(frames) > 1:
        found |= {"frame consistency": frame_consistency(frames), "motion": vmaf_motion(frames)}
    if agreement is not None:
        found["text agreement"] = agreement(frames, prompt)
    return found


def frame_consistency(frames_THW3: NDArray[np.uint8]) -> float:
    """The mean SSIM of neighbouring frames, 1 for a still picture."""
    import torch

    x = torch.from_numpy(frames_THW3.astype(np.float32)).permute(0, 3, 1, 2) / 255
    return ssim(x[:-1], x[1:])


def vmaf_motion(frames_THW3: NDArray[np.uint8]) -> float:
    """The mean absolute difference of neighbouring blurred luma frames, in levels: FFmpeg's `vmafmotion` without its minimum."""
    luma = frames_THW3.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (2, 2)
        wide = np.pad(luma, pad, mode="reflect")
        luma = sum(k * np.take(wide, np.arange(i, i + luma.shape[axis]), axis) for i, k in enumerate(_MOTION_KERNEL))
    return float(np.abs(np.diff(luma, axis=0)).mean())


def ssim(a_N3HW: "torch.Tensor", b_N3HW: "torch.Tensor") -> float:
    """The mean structural similarity of pairs of pictures in [0, 1] (Wang et al. 2004)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    size = min(11, *(n - (1 - n % 2) for n in a_N3HW.shape[2:]))
    value: Any = structural_similarity_index_measure(a_N3HW, b_N3HW, data_range=1.0, gaussian_kernel=size >= 11, kernel_size=size)
    return float(value)


class TextAgreement:
    """The cosine between a prompt and a film's frames in an open_clip model of a local folder."""

    def __init__(self, folder: Path) -> None:
        """TrainingError when the folder does not hold one."""
        import open_clip
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from training.errors import TrainingError

        try:
            described = json.loads((folder / "open_clip_config.json").read_bytes())
            config = described.get("model_cfg", described)
            self._model = open_clip.model.CLIP(**config).eval().requires_grad_(False)
            self._model.load_state_dict(load_file(folder / "open_clip_model.safetensors"), strict=True)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise TrainingError(f"{folder}: expected an open_clip model (config and safetensors), found {str(error)[:300]}") from error
        preprocess = described.get("preprocess_cfg", {})
        self._mean = preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN)
        self._std = preprocess.get("std", open_clip.OPENAI_DATASET_STD)
        self._side = int(config["vision_cfg"].get("image_size", 224))
        self._tokenizer, self._length = open_clip.SimpleTokenizer(), int(config["text_cfg"].get("context_length", 77))

    def __call__(self, frames_THW3: NDArray[np.uint8], prompt: str) -> float:
        """The mean over four evenly spaced frames, in [-1, 1]."""
        import torch
        import torch.nn.functional as F

        chosen = frames_THW3[np.linspace(0, len(frames_THW3) - 1, _CLIP_FRAMES).round().astype(int)]
        x = torch.from_numpy(chosen.astype(np.float32)).permute(0, 3, 1, 2) / 255
        x = F.interpolate(x, size=(self._side, self._side), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (torch.tensor(v)[:, None, None] for v in (self._mean, self._std))
        with torch.no_grad():
            pictures = self._model.encode_image((x - mean) / std, normalize=True)
            text = self._model.encode_text(self._tokenizer([prompt], context_length=self._length), normalize=True)
        return float((pictures @ text.T).mean())


def _held_out(data: Path, pipelines: "Sequence[MoviePipeline]") -> "list[Sample]":
    """Clips that none of the columns' runs has trained on."""
    from training.data.index import load_samples, split_holdout

    store = ManifestStore(data)
    if store.version() < 0:
        raise ManifestError(f"{data}: expected a dataset with a manifest, found none")
    shares = [e.described["trained_on"].get("holdout_share") for p in pipelines for e in p.exports if "trained_on" in e.described]
    held_out = split_holdout(load_samples(data, store.version()), min([s for s in shares if s], default=0.02))[1]
    trained = {clip for p in pipelines for e in p.exports for clip in _trained_on(e)}  # a dataset that grew may be split otherwise
    return [s for s in held_out if s.clip_id not in trained]


def _trained_on(export: "Export") -> set[str]:
    """The clips of the export's own run, where the export still lies in it."""
    from training.data.plan import Plan
    from training.folder import has_run, read_run

    found: set[str] = set()
    for folder in (export.folder.parent, *export.folder.parent.glob("run-*")):
        if has_run(folder):
            run = read_run(folder)
            found |= {s.clip_id for s in Plan(run.config.plan_settings(run.manifest_version), run.samples).samples}
    return found


def _makes_films(pipeline: "MoviePipeline") -> bool:
    from training.errors import TrainingError

    try:
        pipeline.video()
    except TrainingError:
        return False
    return True


def _data(export: "Export") -> Any:
    """How the export's clips are read: first windows and centre crops of the size it was trained on."""
    from training.data.batch import DataConfig

    known = ("size_px", "resize_px", "n_frames", "shapes")
    return DataConfig(**{k: v for k, v in export.described["trained_on"].items() if k in known})


def _clips(
    export: "Export", data: Path, held_out: "Sequence[Sample]", count: int, kinds: Sequence[str]
) -> "list[tuple[Sample, torch.Tensor]]":
    """Held-out clips as pixels (1, 3, T, H, W) in the form the export was trained on; what cannot be read is passed over."""
    from training.data.batch import load_pixels, to_tensor
    from training.errors import SampleError

    settings, found = _data(export), []
    for sample in held_out:
        if sample.kind not in kinds or (sample.kind == "video" and (sample.n_frames or 0) < settings.n_frames):
            continue
        try:
            found.append((sample, to_tensor([load_pixels(data, sample, settings, None)])))
        except SampleError:
            continue
        if len(found) == count:
            break
    return found


def _autoencoder(
    pipeline: "MoviePipeline", export: "Export", data: Path, held_out: "Sequence[Sample]", config: EvaluateConfig
) -> list[Measured]:
    import torch

    from training.latents import load_tae
    from training.losses import psnr_db
    from training.models.perceptual import Perceptual

    tae = load_tae(export.folder, export.stage)[0].to(pipeline.device, pipeline.dtype).eval()
    distance = Perceptual("vgg", config.lpips) if config.lpips else None
    rows = []
    for _, pixels in _clips(export, data, held_out, config.clips, ("video", "image")):
        with torch.no_grad():
            made = tae(pixels.to(pipeline.device, pipeline.dtype))[0].float().clamp(-1, 1).cpu()
        a, b = ((x[0].transpose(0, 1) + 1) / 2 for x in (made, pixels))
        row = [psnr_db(made[0], pixels[0]), ssim(a, b)]
        rows.append([*row, float(distance(2 * a - 1, 2 * b - 1).mean())] if distance else row)
    if not rows:
        return []
    notes = (("PSNR, dB", "reconstruction of held-out clips", True), ("SSIM", "the same", True), ("LPIPS", "the same", False))
    return [
        Measured(name=f"{export.stage} {name}", value=float(value), note=f"{note}, {len(rows)} clips", higher_is_better=better)
        for (name, note, better), value in zip(notes, np.mean(rows, 0), strict=False)
    ]


def _generator(
    pipeline: "MoviePipeline", export: "Export", data: Path, held_out: "Sequence[Sample]", config: EvaluateConfig
) -> list[Measured]:
    import torch

    from training.conditions import read_prompts

    generator = pipeline.generator(export)
    kinds = ("image", "video") if _data(export).n_frames == 1 else ("video",)
    clips = _clips(export, data, held_out, config.clips, kinds)
    if not clips:
        return []
    prompts = read_prompts(data, ManifestStore(data).version(), [s for s, _ in clips], _data(export))
    task = generator.task.with_prompts(prompts)
    with torch.no_grad():
        scores = [float(task.score(generator.model, sample, pixels.to(pipeline.device), pipeline.dtype)[0]) for sample, pixels in clips]
    note = f"mean over fixed times and noise under captions, {len(scores)} held-out clips"
    return [Measured(name=f"{export.stage} loss", value=float(np.mean(scores)), note=note, higher_is_better=False)]


def _means(films: Sequence[dict[str, Any]]) -> list[Measured]:
    """The measures of films, averaged over prompts."""
    notes = {
        "frame consistency": ("SSIM of neighbouring frames; a still film has 1", None),
        "motion": ("VMAF motion in levels; the paper keeps clips above 2", None),
        "text agreement": ("CLIP cosine of prompt and frames", True),
    }
    found = []
    for name, (note, better) in notes.items():
        values = [f[name] for f in films if name in f]
        if values:
            found.append(Measured(name=name, value=float(np.mean(values)), note=f"{note}, {len(values)} films", higher_is_better=better))
    return found


def _table(columns: Sequence[Column]) -> Table:
    by_name: dict[str, list[tuple[int, Measured]]] = {}
    for i, column in enumerate(columns):
        for measured in column.measures:
            by_name.setdefault(measured.name, []).append((i, measured))
    rows = []
    for name, found in by_name.items():
        values: list[float | None] = [None] * len(columns)
        for i, measured in found:
            values[i] = measured.value if math.isfinite(measured.value) else None
        better, best = found[0][1].higher_is_better, None
        known = [(v, i) for i, v in enumerate(values) if v is not None]
        if better is not None and len(known) > 1:
            best = (max if better else min)(known)[1]
        rows.append(Row(name=name, values=tuple(values), note=found[0][1].note, best=best))
    return Table(columns=tuple(c.name for c in columns), rows=tuple(rows))


def _placed(film: Shown, folder: str) -> Shown:
    """The film as the page finds it, in a folder beside it."""
    return replace(film, file=folder + film.file)


def _names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder that is a file name, and different from the others'."""
    names: list[str] = []
    for folder in folders:
        base = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.resolve().name) or "models"
        names.append(base if base not in names else f"{base}-{len(names)}")
    return names
