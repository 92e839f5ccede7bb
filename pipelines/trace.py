"""`dailies trace`: from a clip to the checkpoints that saw it, and from a checkpoint to the clips it saw, by replaying its plan.

A checkpoint says of its training: the plan it followed, how far, and a hash chain over every sample id up to there. Replaying the plan
over the run's own index gives the ids again; that they are the right ones is proved by the chain's last link.
"""

import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.find import LookupFailed
from manifests.tables import ManifestStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One checkpoint whose weights a clip has entered."""

    stage: str
    run: str
    checkpoint: str
    first_step: int
    """The first step whose gradient the clip entered; 0 where it came with the weights that the training began from."""
    end_step: int
    manifest_version: int
    through: str | None = None
    """The earlier training that saw the clip, where this one only inherited it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What of a training came from one source under one licence."""

    source: str
    licence: str
    clips: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointTrace:
    """What a checkpoint has seen."""

    checkpoint: str
    stage: str
    manifest_version: int
    end_step: int
    plan_digest: str
    recorded_digest: str
    """Last link of the hash chain, as the checkpoint says."""
    replayed_digest: str
    """The same from replaying the plan."""
    exceptions: int
    """Places where another clip than planned was taken."""
    shares: tuple[Share, ...]
    clips: dict[str, int]
    """Clip id -> first step it was seen at."""

    @property
    def holds(self) -> bool:
        """Whether the replayed order is the recorded one."""
        return self.recorded_digest == self.replayed_digest


def trace_clip(dataset: Path, id: str) -> tuple[str, list[Sighting]]:
    """(clip id, the checkpoints that saw it, by stage and step); LookupFailed when no clip has this id, or several begin with it."""
    from manifests.events import Exposure
    from manifests.schema import from_table
    from pipelines.backtranslate import derived_datasets
    from pipelines.exposures import first_step, record_registered

    store = ManifestStore(dataset)
    clip, found = _clip_id(store, id), []
    for folder in (dataset, *derived_datasets(store)):  # edits of a clip have its id
        theirs = ManifestStore(folder)
        if theirs.version() < 0:
            continue
        for missed in record_registered(theirs):
            print(missed, file=sys.stderr)
        first = first_step(folder)
        exposures = from_table(Exposure, theirs.read("exposures"))
        found += [(exposure, first(exposure, clip)) for exposure in exposures]
    saw = {str(Path(exposure.run_path).resolve()) for exposure, step in found if step is not None}
    sightings = []
    for exposure, step in found:
        through = None if step is not None else next((a for a in _ancestors(Path(exposure.run_path)) if str(a) in saw), None)
        if step is not None or through is not None:
            sightings.append(
                Sighting(
                    stage=exposure.stage,
                    run=exposure.run_path,
                    checkpoint=exposure.checkpoint,
                    first_step=step or 0,
                    end_step=exposure.end_step,
                    manifest_version=exposure.manifest_version,
                    through=None if through is None else str(through),
                )
            )
    return clip, sorted(sightings, key=lambda s: (s.stage, s.run, s.end_step))


def trace_checkpoint(folder: Path, dataset: Path | None = None) -> CheckpointTrace:
    """What the checkpoint in the folder has seen, replayed over its run's index and looked up in the dataset (by default its run's)."""
    from training import checkpoint
    from training.data.index import read_samples
    from training.data.plan import exposed_clips, replay, roll
    from training.folder import INDEX, RUN, began_on

    info = checkpoint.read_info(folder, verify=False)
    out = folder.resolve().parent.parent
    if not (out / RUN).exists() or not (out / INDEX).exists():
        raise LookupFailed(f"{folder}: expected a checkpoint inside its run's folder ({RUN}, {INDEX}), found none at {out}")
    samples, record = read_samples(out / INDEX), info.exposure
    plan = replay(record["plan_json"], samples)
    rolling = plan.digest
    for step in range(record["end_step"]):
        rolling = roll(rolling, step, plan.clip_ids(step))
    seen = exposed_clips(record["plan_json"], samples, record["end_step"], record["exceptions"])
    return CheckpointTrace(
        checkpoint=str(folder),
        stage=record["stage"],
        manifest_version=record["manifest_version"],
        end_step=record["end_step"],
        plan_digest=record["plan_digest"],
        recorded_digest=record["rolling_digest"],
        replayed_digest=rolling,
        exceptions=sum("used" in e for e in record["exceptions"]),
        shares=tuple(_shares(ManifestStore(dataset or began_on(out)), record["manifest_version"], seen)),
        clips=seen,
    )


def to_dict(found: CheckpointTrace) -> dict[str, Any]:
    """The trace as JSON values."""
    return asdict(found) | {"holds": found.holds}


_BEGUN_FROM = (
    ("parent",),
    ("codec", "weights"),
    ("flow", "parent"),
    ("flow", "tae"),
    ("flow", "upsample", "artefacts"),
    ("sound", "parent"),
    ("sound", "codec"),
)
"""Settings that name the folder of another training."""


def _said(settings: dict[str, Any], *names: str) -> Any:
    """The value of a setting within others; None where a part is not there."""
    found: Any = settings
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _ancestors(run: Path) -> list[Path]:
    """The trainings whose weights a run began from, nearest first, as far as their folders are there: parents, and autoencoders too."""
    from training.folder import RUN, read_settings

    found: list[Path] = []
    waiting = [run]
    while waiting:
        at = waiting.pop(0)
        if not (at / RUN).exists():
            continue
        settings = read_settings(at)
        for named in (_said(settings, *names) for names in _BEGUN_FROM):
            place = Path(named).resolve() if named else None
            if place is not None and place.name == "export" and (place.parent / RUN).exists():
                place = place.parent
            for parent in [] if place is None else sorted(place.parent.glob("run-*")) if place.name == "average" else [place]:
                if parent not in found:
                    found.append(parent)
                    waiting.append(parent)
    return found


def _shares(store: ManifestStore, version: int, seen: dict[str, int]) -> list[Share]:
    """Clips and hours by source and licence, the largest first; hours are those of the clips, images have none."""
    clips = store.read("clips", version, columns=["clip_id", "asset_no", "duration_s"])
    clips = clips.filter(pc.is_in(clips.column("clip_id"), value_set=pa.array(list(seen))))
    assets = {a["asset_no"]: a for a in store.read("assets", version, columns=["asset_no", "source_no", "licence_expr"]).to_pylist()}
    sources = {s["source_no"]: s["name"] for s in store.read("sources", version, columns=["source_no", "name"]).to_pylist()}
    counted: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for clip in clips.to_pylist():
        asset = assets.get(clip["asset_no"], {})
        key = (sources.get(asset.get("source_no"), "unknown"), asset.get("licence_expr") or "none stated")
        counted[key][0] += 1
        counted[key][1] += (clip["duration_s"] or 0.0) / 3600
    shares = [Share(source=s, licence=licence, clips=int(n), hours=hours) for (s, licence), (n, hours) in counted.items()]
    return sorted(shares, key=lambda s: (-s.hours, -s.clips, s.source, s.licence))


def _clip_id(store: ManifestStore, id: str) -> str:
    if len(id) < 6:
        raise LookupFailed(f"{id}: expected 6 or more digits of a clip id")
    ids = store.read("clips", columns=["clip_id"]).column("clip_id")
    found = sorted(set(ids.filter(pc.starts_with(ids, id)).to_pylist()))
    if len(found) != 1:
        said = "none" if not found else f"{len(found)}: {', '.join(found[:3])} …"
        raise LookupFailed(f"{id}: expected the beginning of one clip id, found {said}")
    return str(found[0])
