"""`dailies evaluate`: trained models side by side on the same held-out clips and the same prompts, as a page and as JSON.

A column is a folder of models: a curriculum, a run or an export. What a column has no model for is left blank, never guessed.

- Autoencoders: PSNR, SSIM and, with weights, LPIPS of held-out clips.
- Generators of every kind: the loss on held-out clips at fixed times with fixed noise, under their captions and what else they are given.
- Codecs: SI-SDR and mel distance of held-out sound. Generators of sound: the loss, the mel distance of what is made for held-out films to
  the films' own sound, and whether it begins when theirs does and when something happens in the picture.
- Films of the prompts: frame consistency (SSIM of neighbours), motion (VMAF's, in levels), text agreement (CLIP, with weights), and
  whether their sound begins when something happens.

Clips are held out for all columns alike: of the shares that the columns' runs held out, the smallest. The paper compares by people's votes
and found FVD and IS not to follow them (Movie Gen, evaluation); these numbers say whether something broke, not which film people prefer.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.files import write_atomic
from pipelines.evaluate_films import TextAgreement, means, measure_film
from pipelines.evaluate_models import Clips, EvaluateConfig, Measured, measure_models
from pipelines.film_page import Group, Row, Shown, Table, write_page
from pipelines.generate import Wanted, generate, shown

if TYPE_CHECKING:
    from training.exports import Export
    from training.generation import MoviePipeline

JSON, PAGE = "evaluation.json", "index.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What was found of one folder of models."""

    name: str
    models: list[dict[str, Any]]
    measures: list[Measured]
    films: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured on, and what was found; as `evaluation.json` has it."""

    manifest_version: int | None
    release: dict[str, str] | None
    """Name and Merkle root of the release, where one was named."""
    columns: list[Column]


def evaluate(
    folders: Sequence[Path],
    data: Path | None,
    prompts: Sequence[str],
    out: Path,
    config: EvaluateConfig,
    load: Callable[[list[Path]], "MoviePipeline"],
    say: Callable[[str], None] = lambda text: None,
    release: str = "",
) -> Evaluation:
    """`out` holds the page, evaluation.json, and the films of the prompts by each folder's models. Clips are those of the dataset's release
    of that name, or of its newest version."""
    from training.data.index import frozen_version
    from training.film import read_film

    names, pipelines = _names(folders), [load([folder]) for folder in folders]
    for pipeline in pipelines:  # a run's autoencoder may lie in another column's folder
        pipeline.beside = [*pipeline.exports, *(e for p in pipelines for e in p.exports)]
    version, frozen = frozen_version(data, release) if data is not None else (None, None)
    held_out = None if data is None or version is None else _held_out(data, version, pipelines)
    agreement = TextAgreement(Path(config.clip)) if config.clip else None
    columns, cells = [], []
    for name, pipeline in zip(names, pipelines, strict=True):
        measures: list[Measured] = []
        if held_out is not None:
            say(f"{name}: held-out clips")
            measures += measure_models(pipeline, held_out, config, say)
        made = []
        if prompts and _makes_films(pipeline):
            say(f"{name}: {len(prompts)} films")
            films = generate(pipeline, prompts, out / name, Wanted(wishes=config.wishes, seed=config.seed), say=say)
            for film in films:
                found = measure_film(read_film(film.path), film.prompt, agreement)
                made.append({"prompt": film.prompt, "film": str(film.path.relative_to(out)), **found})
                cells.append((film.prompt, name, film, found))
            measures += means(made)
        columns.append(Column(name=name, models=[e.note for e in pipeline.exports], measures=measures, films=made))
    seen = {clip for column in columns for measured in column.measures for clip in measured.clips}
    evaluation = Evaluation(manifest_version=version, release=frozen, columns=columns)
    write_atomic(out / JSON, json.dumps(asdict(evaluation), indent=1).encode())
    groups = []
    for prompt in dict.fromkeys(prompts):
        beside = [_placed(shown(f.path, name, f.made_from, found), f"{name}/") for p, name, f, found in cells if p == prompt]
        groups.append(Group(prompt=prompt, films=tuple(beside)))
    of = "" if version is None else f" of release {frozen['name']}" if frozen else f" of version {version}"
    lead = f"{len(names)} set{'s' if len(names) != 1 else ''} of models, {len(seen)} held-out clips{of}, {len(groups)} prompts."
    write_page(out / PAGE, "Evaluation", lead, groups, _table(columns))
    return evaluation


def _held_out(data: Path, version: int, pipelines: "Sequence[MoviePipeline]") -> Clips:
    """Clips that none of the columns' runs has trained on."""
    from training.data.index import load_samples, split_holdout

    shares = [e.described["trained_on"].get("holdout_share") for p in pipelines for e in p.exports if "trained_on" in e.described]
    held_out = split_holdout(load_samples(data, version), min([s for s in shares if s], default=0.02))[1]
    trained = {clip for p in pipelines for e in p.exports for clip in _trained_on(e)}  # a dataset that grew may be split otherwise
    return Clips(dataset=data, version=version, samples=[s for s in held_out if s.clip_id not in trained])


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
