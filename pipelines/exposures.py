"""What trained models have seen: checkpoints' exposure records into the manifest, and the way back from a clip to checkpoints.

<dataset>/training_runs/<digest>.json    {"run": folder}, written before a run begins: what is running on a cluster, or was killed, has
                                         checkpoints before the manifest has rows of them
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from manifests import ids
from manifests.events import Exposure, Run
from manifests.files import write_atomic
from manifests.schema import from_table, to_table
from manifests.tables import ManifestError, ManifestStore
from pipelines import config as configuration
from pipelines import provenance
from pipelines.one_run import DatasetBusy, alone

RUNS = "training_runs"

FirstStep = Callable[[Exposure, str], int | None]


def record(store: ManifestStore, out: Path, started_at: datetime, *, holds: bool = False) -> int:
    """The manifest has an exposure row for each complete checkpoint of the run in `out`, of whatever version it is; returns how many there are.

    `holds`: this process has the dataset to itself already. Raises DatasetBusy where another command has it and there are new rows: a curation
    that numbers its run meanwhile would find at its commit that it was in vain.
    """
    from training.checkpoint import list_complete
    from training.folder import read_settings

    complete = list_complete(out)
    if _unknown(store, out, complete, 0):
        settings = read_settings(out)
        with nullcontext() if holds else alone(store.root, f"train {settings['stage']}"):
            run_no = store.read("runs", columns=["run_no"]).num_rows
            new = _unknown(store, out, complete, run_no)
            run = Run(
                run_no=run_no,
                run_id=ids.digest("train/v1", *(dataclasses.astuple(r) for r in new)),
                command=f"train {settings['stage']}",
                inputs_digest=complete[-1].exposure["plan_digest"],
                code_version=provenance.code_version(),
                config_sha256=configuration.digest(settings),
                config_json=configuration.to_json(settings),
                parent_version=store.version(),
                started_at=started_at,
                ended_at=datetime.now(started_at.tzinfo),
            )
            if new:
                store.commit(run.run_id, append={"exposures": to_table(Exposure, new), "runs": to_table(Run, [run])})
    return len(complete)


def _unknown(store: ManifestStore, out: Path, complete: Sequence[Any], run_no: int) -> list[Exposure]:
    """Rows of the checkpoints that the manifest has none of."""
    known = {(e.run_path, e.checkpoint, e.rolling_digest) for e in from_table(Exposure, store.read("exposures"))}
    rows = [_row(info.path.relative_to(out), out, info.exposure, run_no) for info in complete]
    return [r for r in rows if (r.run_path, r.checkpoint, r.rolling_digest) not in known]


def register(dataset: Path, out: Path) -> None:
    """The dataset names the run's folder."""
    path = str(out.absolute())
    (dataset / RUNS).mkdir(exist_ok=True)
    write_atomic(dataset / RUNS / f"{ids.digest('training run/v1', path)[:16]}.json", json.dumps({"run": path}).encode())


def registered(dataset: Path) -> list[Path]:
    """The folders of the runs that began on the dataset."""
    return [Path(json.loads(path.read_bytes())["run"]) for path in sorted((dataset / RUNS).glob("*.json"))]


def record_registered(store: ManifestStore, *, holds: bool = False) -> list[str]:
    """The manifest has a row for each complete checkpoint that lies in a folder of a registered run, whether it ended or not; returns, for people,
    what could not be recorded: folders that cannot be looked at from here, and all that is new while another command has the dataset."""
    folders = registered(store.root)
    if not folders:  # nor need torch be imported, which takes longer than all else that most commands do
        return []
    from training.errors import TrainingError
    from training.folder import began_on, has_run

    missed, elsewhere = [], "a training run of this dataset that cannot be read from here: look there what it has seen"
    for out in folders:
        try:
            if has_run(out) and began_on(out) == store.root.resolve():  # not of the dataset that this one is a copy of
                record(store, out, datetime.now(UTC), holds=holds)
            elif not out.is_dir():
                missed.append(f"{out}: {elsewhere}")
        except DatasetBusy as busy:
            missed.append(f"{out}: a training run with checkpoints that the manifest does not name yet: {busy}")
        except (OSError, ValueError, KeyError, ManifestError, TrainingError):
            missed.append(f"{out}: {elsewhere}")
    return missed


def first_step(dataset: Path) -> FirstStep:
    """A function that says at which step a checkpoint's run first consumed a clip, by replaying its plan; None when it never did.

    A run's plan is replayed once, to its last checkpoint: what an earlier one saw is what came before it, as long as both tell of the same
    departures from the plan up to there.
    """
    from training.data.index import load_samples
    from training.data.plan import exposed_clips
    from training.errors import TrainingError

    @cache
    def last() -> dict[tuple[int, str, str], Exposure]:
        rows: list[Exposure] = from_table(Exposure, ManifestStore(dataset).read("exposures"))
        return {_run_of(e): e for e in sorted(rows, key=lambda e: e.end_step)}

    @cache
    def seen(version: int, plan_json: str, end_step: int, exceptions_json: str) -> dict[str, int]:
        exceptions = json.loads(exceptions_json)
        try:
            return exposed_clips(plan_json, load_samples(dataset, version), end_step, exceptions)
        except TrainingError:  # other samples than the plan says: those of a plan from before groups were named by their assets
            return exposed_clips(plan_json, load_samples(dataset, version, groups_by_clip=True), end_step, exceptions)

    def first(exposure: Exposure, clip_id: str) -> int | None:
        whole = last().get(_run_of(exposure), exposure)
        if _before(whole.exceptions_json, exposure.end_step) != _before(exposure.exceptions_json, exposure.end_step):
            whole = exposure
        step = seen(whole.manifest_version, whole.plan_json, whole.end_step, whole.exceptions_json).get(clip_id)
        return step if step is not None and step < exposure.end_step else None

    return first


def _run_of(exposure: Exposure) -> tuple[int, str, str]:
    return exposure.manifest_version, exposure.plan_json, exposure.run_path


def _before(exceptions_json: str, end_step: int) -> list[dict[str, Any]]:
    return [e for e in json.loads(exceptions_json) if e["step"] < end_step]


def _row(checkpoint: Path, out: Path, exposure: dict[str, Any], run_no: int) -> Exposure:
    return Exposure(
        run_no=run_no,
        checkpoint=str(checkpoint),
        run_path=str(out.absolute()),
        stage=exposure["stage"],
        manifest_version=exposure["manifest_version"],
        plan_digest=exposure["plan_digest"],
        plan_json=exposure["plan_json"],
        first_step=exposure["first_step"],
        end_step=exposure["end_step"],
        n_samples=exposure["n_samples"],
        rolling_digest=exposure["rolling_digest"],
        exceptions_json=json.dumps(exposure["exceptions"], sort_keys=True),
    )
