"""`dailies evaluate`: trained models side by side on the same held-out clips and the same prompts, as a page and as JSON.

A column is a folder of models: a curriculum, a run or an export. What a column has no model for is left blank, never guessed; what it has
a model for that cannot be loaded, or measured, is said. A value is the best where all columns were measured on the same clips in one form,
and losses in the latents of one autoencoder; elsewhere none is. Each says of how many clips it is the mean, and what chance would give.

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
from pipelines.evaluate_films import TextAgreement, Times, means, measure_film, measure_onsets, times_of
from pipelines.evaluate_models import Clips, EvaluateConfig, Measured, Subject, in_common, measure_models, subjects
from pipelines.film_page import Group, Row, Shown, Table, write_page
from pipelines.generate import Made, Prompt, Wanted, generate, shown

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
    problems: list[str]
    """What could not be loaded, measured or made, and why."""


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
    prompts: Sequence[Prompt],
    out: Path,
    config: EvaluateConfig,
    load: Callable[[list[Path]], "MoviePipeline"],
    say: Callable[[str], None] = lambda text: None,
    release: str = "",
) -> Evaluation:
    """`out` holds the page, evaluation.json, and the films of the prompts by each folder's models. Clips are those of the dataset's release
    of that name, or of its newest version."""
    from training.data.index import frozen_version

    names, pipelines = _names(folders), [load([folder]) for folder in folders]
    for pipeline in pipelines:  # a run's autoencoder may lie in another column's folder
        pipeline.beside = [*pipeline.exports, *(e for p in pipelines for e in p.exports)]
    version, frozen = frozen_version(data, release) if data is not None else (None, None)
    held_out = None if data is None or version is None else _held_out(data, version, pipelines)
    agreement = TextAgreement(Path(config.clip)) if config.clip else None
    columns: list[Column] = []
    clips: set[str] = set()
    cells: list[tuple[str, Made, dict[str, float]]] = []
    for name, pipeline in zip(names, pipelines, strict=True):
        problems: list[str] = []
        tell = _teller(name, problems, say)
        found: list[Measured] = []
        if held_out is not None:
            say(f"{name}: held-out clips")
            found = measure_models(pipeline, held_out, config, tell)
            clips |= {clip for measured in found for clip in measured.clips}
        films = _films(pipeline, prompts, out / name, config, agreement, tell, say) if prompts else []
        made = [{"prompt": f.prompt, "film": str(f.path.relative_to(out)), **values} for f, values in films]
        cells += [(name, film, {k: v for k, v in values.items() if k != "seconds"}) for film, values in films]
        notes = [e.note for e in pipeline.exports]
        columns.append(Column(name=name, models=notes, measures=found + means(made), films=made, problems=problems))
        pipeline.forget()  # the next column's models need the memory
    shared = in_common([column.measures for column in columns])
    columns = [replace(column, measures=found) for column, found in zip(columns, shared, strict=True)]
    evaluation = Evaluation(manifest_version=version, release=frozen, columns=columns)
    write_atomic(out / JSON, json.dumps(asdict(evaluation), indent=1).encode())
    groups = []
    for prompt in dict.fromkeys(p.text for p in prompts):
        beside = [_placed(shown(f.path, name, f.made_from, values), f"{name}/") for name, f, values in cells if f.prompt == prompt]
        groups.append(Group(prompt=prompt, films=tuple(beside)))
    of = "" if version is None else f" of release {frozen['name']}" if frozen else f" of version {version}"
    lead = f"{len(names)} set{'s' if len(names) != 1 else ''} of models, {len(clips)} held-out clips{of}, {len(groups)} prompts."
    lead = " ".join([lead, *(f"{c.name}: {problem}." for c in columns for problem in c.problems)])
    write_page(out / PAGE, "Evaluation", lead, groups, _table(columns))
    return evaluation


def _teller(name: str, problems: list[str], say: Callable[[str], None]) -> Callable[[str], None]:
    """What is told to it is said of the column, and stands in its problems."""

    def tell(text: str) -> None:
        problems.append(text)
        say(f"{name}: {text}")

    return tell


def _films(
    pipeline: "MoviePipeline",
    prompts: Sequence[Prompt],
    out: Path,
    config: EvaluateConfig,
    agreement: TextAgreement | None,
    tell: Callable[[str], None],
    say: Callable[[str], None],
) -> list[tuple[Made, dict[str, float]]]:
    """The films of the prompts with what is measured of each; none, and told why, where no model makes them or one cannot be loaded."""
    from training.errors import TrainingError
    from training.film import read_film

    if not pipeline.able():
        tell("no films, as it has no text-to-video stage")
        return []
    say(f"{out.name}: {len(prompts)} films")
    try:
        films = generate(pipeline, prompts, out, Wanted(wishes=config.wishes, seed=config.seed), say=say)
    except TrainingError as error:
        tell(f"no films, as they could not be made: {error}")
        return []
    found: list[dict[str, float]] = []
    times: list[Times | None] = []
    for made in films:
        film = read_film(made.path)
        times.append(times_of(film))
        found.append({"seconds": film.duration_s, **measure_film(film, made.prompt, agreement)})
    return [(made, one | onsets) for made, one, onsets in zip(films, found, measure_onsets(times), strict=True)]


def _held_out(data: Path, version: int, pipelines: "Sequence[MoviePipeline]") -> Clips:
    """Clips that none of the columns' runs has trained on."""
    from training.data.index import load_samples, split_holdout

    shares = [e.described["trained_on"].get("holdout_share") for p in pipelines for e in p.exports if "trained_on" in e.described]
    held_out = split_holdout(load_samples(data, version), min([s for s in shares if s], default=0.02))[1]
    trained = {clip for p in pipelines for e in p.exports for clip in _trained_on(e)}  # a dataset that grew may be split otherwise
    shared: dict[str, list[Subject]] = {}
    for subject in (s for p in pipelines for s in subjects(p)):
        shared.setdefault(subject.name, []).append(subject)
    return Clips(dataset=data, version=version, samples=[s for s in held_out if s.clip_id not in trained], shared=shared)


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


def _table(columns: Sequence[Column]) -> Table:
    names = list(dict.fromkeys(m.name for column in columns for m in column.measures))
    rows = []
    for name in names:
        cells = [next((m for m in column.measures if m.name == name), None) for column in columns]
        known = [m for m in cells if m is not None]
        values = tuple(m.value if m is not None and math.isfinite(m.value) else None for m in cells)
        alike = _alike(known)
        details = tuple("" if m is None else _detail(m, alike) for m in cells)
        note = known[0].note + ("" if alike else "; on other clips or in another form, and so not compared")
        best = _best(values, known[0].higher_is_better) if alike else None
        rows.append(Row(name=name, values=values, details=details, note=note, best=best))
    return Table(columns=tuple(c.name for c in columns), rows=tuple(rows))


def _alike(found: Sequence[Measured]) -> bool:
    """Whether they were measured on the same clips in the same form."""
    return len({(frozenset(m.clips), json.dumps(m.form, sort_keys=True)) for m in found}) == 1


def _best(values: Sequence[float | None], better: bool | None) -> int | None:
    """The place of the best value; None where neither is better, one stands alone, or two are the same."""
    known = [v for v in values if v is not None]
    if better is None or len(known) < 2:
        return None
    best = (max if better else min)(known)
    return values.index(best) if known.count(best) == 1 else None


def _detail(found: Measured, alike: bool) -> str:
    """Of how many it is the mean, what chance would give, and where columns differ, in which form."""
    parts = [f"of {len(found.clips)}"]
    if found.chance is not None:
        parts.append(f"{found.chance:.2f} by chance")
    if not alike:
        parts += [f"{name} {value}"[:40] for name, value in found.form.items()]
    return ", ".join(parts)


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
