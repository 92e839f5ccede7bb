"""`dailies curriculum …`: the stages of a curriculum one after the other, each from what an earlier one left, with a gate behind it.

    OUT/curriculum.json        the resolved curriculum and its datasets
    OUT/<stage>/               the stage's run, or run-0 run-1 … and their average/
    OUT/<stage>/edits/         a dataset of what an editor made of clips, where the stage learns to undo it
    OUT/<stage>/gate.json      what the stage's held-out measure was before and after, and whether that is enough

Everything that says how far it is lies in the stages' own folders, so a killed curriculum goes on where it was.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.files import write_atomic
from manifests.tables import ManifestError, ManifestStore
from pipelines import config
from pipelines.config import ConfigError

if TYPE_CHECKING:
    from training.data.index import Sample

STATE, GATE, EDITS = "curriculum.json", "gate.json", "edits"
HIGHER_IS_BETTER = ("psnr", "si_sdr")
"""Measures of this beginning rise; all others are losses and fall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage: which settings it trains with, what it begins from, and what it must reach."""

    train: str = ""
    """conf/train/<train>/<preset>.yaml; the stage's own name if empty."""
    parent: str | None = None
    """The stage whose weights it begins from."""
    tae: str | None = None
    """The stage whose autoencoder it encodes with."""
    artefacts: str | None = None
    """Of an upsampler: the stage whose temporal autoencoder leaves the traces that it learns to remove."""
    codec: str | None = None
    """The stage whose codec of sound it encodes with."""
    backtranslate: str | None = None
    """The editor whose edits of the dataset's clips this stage learns to undo: they are made before it, a dataset of their own."""
    backtranslate_clips: int = 0
    """So many clips are edited; 0 for all."""
    backtranslate_sets: tuple[str, ...] = ()
    """Sets whose videos are edited; empty for all."""
    data: str = ""
    """The dataset of this name among those given, or the main one where none of this name was: a clip lies in one set of a dataset, so
    sounds and windows for the upsampler are curated for themselves."""
    overrides: tuple[str, ...] = ()
    runs: tuple[tuple[str, ...], ...] = ()
    """Several trainings, each with overrides of its own, whose average is what the stage leaves."""
    must_improve: float | None = 0.0
    """Share by which the held-out measure has to be better at the end than before the first step; None asks nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """Stages in an order in which they can be trained."""

    preset: str
    """Name of the files under conf/train/<stage>/."""
    release: str = ""
    """Name of the release, of each dataset, that every stage trains on; its newest version if empty."""
    stages: dict[str, StageSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name, spec in self.stages.items():
            if not name.isidentifier():
                raise ValueError(f"stages: expected letters, digits and underscores, found {name!r}")
            for what in ("parent", "tae", "artefacts", "codec", "backtranslate"):
                if (needed := getattr(spec, what)) is not None and needed not in seen:
                    raise ValueError(f"stages.{name}.{what}: expected a stage before it, one of {sorted(seen)}, found {needed!r}")
            seen.add(name)
        if not seen:
            raise ValueError("stages: expected at least one, found none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """What a curriculum trains on."""

    main: Path
    named: dict[str, Path] = field(default_factory=dict)
    """Datasets of stages that name another."""

    def of(self, spec: StageSpec) -> Path:
        """The dataset of a stage."""
        return self.named.get(spec.data, self.main)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """How far a stage is, as its folder says."""

    name: str
    state: str
    """waiting, prepared, running, stopped, trained, passed or failed."""
    step: int
    steps: int
    measure: str
    before: float | None
    after: float | None
    last_sign_s: float | None
    """Seconds since the last heartbeat of its slowest process; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """One training of a stage: its folder and its overrides."""

    folder: Path
    overrides: tuple[str, ...]


def load_curriculum(name: str, preset: str, overrides: list[str]) -> Curriculum:
    """The curriculum conf/curriculum/<name>/<preset>.yaml (or that of a path), with overrides."""
    is_path = Path(preset).suffix in (".yaml", ".yml")
    return (
        config.load(Curriculum, f"curriculum/{name}", preset, overrides) if not is_path else config.load(Curriculum, "", preset, overrides)
    )


def begin(curriculum: Curriculum, data: Datasets, out: Path) -> None:
    """`out` holds this curriculum; ConfigError when it holds another. Everything that can be checked before hours of training is checked."""
    state = {
        "curriculum": json.loads(config.to_record(curriculum)),
        "dataset": str(data.main.resolve()),
        "datasets": {name: str(folder.resolve()) for name, folder in data.named.items()},
    }
    if unknown := sorted(set(data.named) - {spec.data for spec in curriculum.stages.values()}):
        named = sorted({spec.data for spec in curriculum.stages.values() if spec.data})
        raise ConfigError(
            f"--also: expected datasets that stages name, {', '.join(named) or 'which none does'}, found {', '.join(unknown)}"
        )
    path = out / STATE
    if path.exists():
        found = json.loads(path.read_bytes())
        if changed := [k for k in state if _fixed(found).get(k) != _fixed(state)[k]]:
            raise ConfigError(
                f"{path}: expected the curriculum this folder began with, found another {' and '.join(changed)}; use another --out"
            )
        write_atomic(path, json.dumps(state, indent=1).encode())
        return
    if problems := check(curriculum, data):
        raise ConfigError("; ".join(problems))
    write_atomic(path, json.dumps(state, indent=1).encode())


def _fixed(state: dict[str, Any]) -> dict[str, Any]:
    """The state without its gates: moving one changes no training. Settings that came after the folder began have their defaults."""
    curriculum = json.loads(config.to_record(config.bind(Curriculum, state["curriculum"], STATE)))
    stages = {n: {k: v for k, v in spec.items() if k != "must_improve"} for n, spec in curriculum["stages"].items()}
    return {"datasets": {}, **state, "curriculum": {**curriculum, "stages": stages}}


def reopen(out: Path) -> tuple[Curriculum, Datasets]:
    """(curriculum, datasets) of a folder that `begin` made."""
    path = out / STATE
    if not path.exists():
        raise ConfigError(f"{out}: expected a curriculum that was begun ({STATE}), found none; begin one with `dailies curriculum run`")
    state = json.loads(path.read_bytes())
    named = {name: Path(folder) for name, folder in state.get("datasets", {}).items()}
    return config.bind(Curriculum, state["curriculum"], str(path)), Datasets(main=Path(state["dataset"]), named=named)


def check(curriculum: Curriculum, data: Datasets) -> list[str]:
    """What stands in the way of any stage, each a sentence: settings that do not bind, sets without clips, captions that are missing."""
    from training.config import TrainConfig
    from training.data.plan import Plan
    from training.errors import TrainingError

    contents = {folder: _content(folder, curriculum.release) for folder in {data.of(spec) for spec in curriculum.stages.values()}}
    problems = []
    for name, spec in curriculum.stages.items():
        folder = data.of(spec)
        content = contents[folder]
        for training in _trainings(name, spec, Path(name)):
            try:
                settings = config.load(TrainConfig, f"train/{spec.train or name}", curriculum.preset, list(training.overrides))
                plan = settings.plan_settings(content.version)
                if spec.backtranslate:  # its set is made of these in between
                    plan = dataclasses.replace(plan, sets=spec.backtranslate_sets)
                Plan(plan, content.samples)
            except (ConfigError, TrainingError) as error:
                problems.append(f"{name}: {folder}: {error}")
                continue
            if settings.flow and not content.captioned:
                problems.append(f"{name}: expected captions in {folder}, found none; curate it with captions")
    return problems


@dataclass(frozen=True, slots=True)
class _Content:
    """What of a dataset a check looks at."""

    version: int
    samples: "list[Sample]"
    captioned: bool


def _content(folder: Path, release: str) -> _Content:
    from training.data.index import frozen_version, load_samples

    store = ManifestStore(folder)
    if store.version() < 0:
        raise ManifestError(
            f"{folder}: expected a dataset with a manifest, found none; make one with `dailies curate INPUT --out {folder}`"
        )
    version = frozen_version(folder, release)[0]
    return _Content(version, load_samples(folder, version), bool(store.read("captions", version, columns=["clip_no"]).num_rows))


def run(curriculum: Curriculum, data: Datasets, out: Path, quiet: bool, launcher: str, say: Callable[[str], None]) -> list[StageState]:
    """Every stage is trained and has passed its gate, or the first that could not is the last that was tried.

    With the launcher `none` a stage that has to be trained is prepared, and `say` gets the command that trains it elsewhere.
    """
    from pipelines.training import train_stage

    for name, spec in curriculum.stages.items():
        clips = data.of(spec)
        if spec.backtranslate:
            clips = out / name / EDITS
            say(f"stage {name}: {clips}, edits by {spec.backtranslate}")
            _backtranslate(curriculum, spec, data.of(spec), out, clips, quiet)
        for training in _trainings(name, spec, out / name):
            if not _finished(training.folder) or not (out / name / GATE).exists():
                say(f"stage {name}: {training.folder}")
            result = train_stage(
                spec.train or name,
                clips,
                training.folder,
                curriculum.preset,
                list(training.overrides),
                quiet,
                tae=_result(curriculum, out, spec.tae),
                parent=_result(curriculum, out, spec.parent),
                launcher=launcher,
                codec=_result(curriculum, out, spec.codec),
                artefacts=_result(curriculum, out, spec.artefacts),
                release="" if spec.backtranslate else curriculum.release,  # of the dataset: the edits were made of its clips
            )
            if "launch" in result:
                say(f"stage {name}: to be trained by\n  {result['launch']}\nthen run this command again")
                return status(curriculum, out)
        _average(name, spec, out / name)
        if not _gate(name, spec, out / name):
            say(
                f"stage {name}: held-out measure did not improve enough, see {out / name / GATE}; run again with another stages.{name}.must_improve, or train it otherwise under another --out"
            )
            break
    return status(curriculum, out)


def status(curriculum: Curriculum, out: Path) -> list[StageState]:
    """The state of every stage, in order; of several runs, that of the last one begun."""
    found = []
    for name, spec in curriculum.stages.items():
        trainings = _trainings(name, spec, out / name)
        begun = [t for t in trainings if (t.folder / "run.json").exists()]
        found.append(_state(name, begun[-1].folder if begun else None, out / name, all(_finished(t.folder) for t in trainings)))
    return found


def _state(name: str, folder: Path | None, stage: Path, trained: bool) -> StageState:
    from training.folder import is_training, read_run
    from training.metrics import read_log
    from training.pulse import beats

    if folder is None:
        return StageState(name=name, state="waiting", step=0, steps=0, measure="", before=None, after=None, last_sign_s=None)
    settings = read_run(folder).config
    steps = settings.steps
    rows = read_log(folder, "train")
    measure, before, after = _measured(read_log(folder, "validate"))
    ages = [b.age_s() for b in beats(folder) if b.rank < settings.processes]  # others are of an earlier, larger group
    gate = json.loads((stage / GATE).read_bytes()) if (stage / GATE).exists() else None
    state = "running" if is_training(folder) else "trained" if trained else "stopped" if rows else "prepared"
    if gate and trained:
        state = "passed" if gate["passed"] else "failed"
    step = rows[-1]["step"] + 1 if rows else 0
    sign = max(ages) if ages else None
    return StageState(name=name, state=state, step=step, steps=steps, measure=measure, before=before, after=after, last_sign_s=sign)


def _trainings(name: str, spec: StageSpec, folder: Path) -> list[_Training]:
    """A stage that uses another's settings keeps its own name, which keys its order and its draws: it does not repeat the other's."""
    shared = (f"stage={name}", *spec.overrides) if spec.train and spec.train != name else spec.overrides
    if not spec.runs:
        return [_Training(folder=folder, overrides=shared)]
    return [_Training(folder=folder / f"run-{i}", overrides=shared + own) for i, own in enumerate(spec.runs)]


def _result(curriculum: Curriculum, out: Path, stage: str | None) -> Path | None:
    """The folder of what a stage left."""
    if stage is None:
        return None
    return out / stage / "average" if curriculum.stages[stage].runs else out / stage


def _backtranslate(curriculum: Curriculum, spec: StageSpec, data: Path, out: Path, clips: Path, quiet: bool) -> None:
    """`clips` is a dataset of the editor's edits, finished before or now."""
    import torch

    from pipelines.backtranslate import BacktranslateConfig, backtranslate
    from pipelines.progress import Progress

    editor, tae = (folder for folder in (_result(curriculum, out, spec.backtranslate), _result(curriculum, out, spec.tae)) if folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backtranslate(
        data,
        (tae, editor),
        clips,
        BacktranslateConfig(sets=spec.backtranslate_sets, clips=spec.backtranslate_clips, release=curriculum.release),
        device,
        Progress(quiet=quiet),
    )


def _average(name: str, spec: StageSpec, folder: Path) -> None:
    """The average is of the trainings' weights as they are now: one that was trained on has others."""
    from training.average import average_exports, is_average_of

    runs = [t.folder for t in _trainings(name, spec, folder)]
    if spec.runs and not is_average_of(folder / "average", runs):
        average_exports(runs, folder / "average")


def _gate(name: str, spec: StageSpec, folder: Path) -> bool:
    """Whether each of the stage's trainings was measured at its end and is better than it began, by enough where that is asked;
    `gate.json` says why. What was not measured never passes."""
    from training.metrics import read_log

    rows: list[dict[str, Any]] = []
    for training in _trainings(name, spec, folder):
        measure, before, after = _measured(read_log(training.folder, "validate"))
        gain = None
        if before is not None and after is not None:
            better = after - before if measure.startswith(HIGHER_IS_BETTER) else before - after
            gain = better / max(abs(before), 1e-12)
        passed = after is not None and (spec.must_improve is None or (gain is not None and gain > spec.must_improve))
        rows.append({"run": training.folder.name, "measure": measure, "before": before, "after": after, "gain": gain, "passed": passed})
    verdict = all(row["passed"] for row in rows)
    write_atomic(folder / GATE, json.dumps({"passed": verdict, "must_improve": spec.must_improve, "runs": rows}, indent=1).encode())
    return verdict


def _measured(rows: list[dict[str, Any]]) -> tuple[str, float | None, float | None]:
    """(measure, before the first step, at the last) of the averaged weights: the task's first measure."""
    if not rows:
        return "", None, None
    measure = next(k for k in rows[0] if k not in ("kind", "step"))
    return measure, rows[0].get(measure), rows[-1].get(f"ema_{measure}")


def _finished(folder: Path) -> bool:
    from training.folder import has_run, read_run, steps_done

    return has_run(folder) and steps_done(folder) >= read_run(folder).config.steps


def as_rows(states: list[StageState]) -> list[dict[str, Any]]:
    """The states as JSON values."""
    return [dataclasses.asdict(state) for state in states]
