"""`dailies quarantine`: which assets cost processes or are refused, and are not tried any more; and some or all released to be tried again."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
import pyarrow.dataset as pds

from curation import quarantine
from curation.quarantine import LOSSES, Count, QuarantineConfig
from manifests.events import Run
from manifests.find import MIN_PREFIX, LookupFailed, find
from manifests.query import connect
from manifests.schema import from_table
from manifests.tables import ManifestStore
from pipelines.config import bind
from pipelines.one_run import alone
from pipelines.stage import Place

Stages = Literal["probe", "scan", "encode", "caption"]
"""The stages that count."""


def held(dataset: Path) -> list[Count]:
    """Every asset of which attempts are noted, with its verdict under the settings of the last run. Raises ConfigError."""
    return list(quarantine.counts(Place(dataset.absolute()).quarantine, _settings(ManifestStore(dataset))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Of which assets attempts were forgotten, how many, and how many units of work are done again for it."""

    asset_ids: tuple[str, ...]
    attempts: int
    units: int


def release(dataset: Path, key: str | None, stage: Stages | None = None) -> Released:
    """The asset is tried again by the next `dailies curate`: nothing is counted of it, and no stage holds an error of it that a lost process
    left. The key is an id, six or more digits of it, or a file name; None: every asset of which anything is counted. With a stage given,
    what is counted in others stays.

    Raises manifests.find.LookupFailed and DatasetBusy.
    """
    place = Place(dataset.absolute())
    noted = {p.parent.name for p in place.quarantine.glob(f"*/{stage}-*" if stage else "*/*")} if key is None else {_asset_id(place, key)}
    with alone(dataset, "quarantine release"):
        parts = list(_parts_of_losses(place, noted, stage))
        # The stored rows first: killed in between, the count is still there to be released.
        for part in parts:
            part.unlink(missing_ok=True)
        n = quarantine.release(place.quarantine, noted, stage)
        return Released(asset_ids=tuple(sorted(noted)), attempts=n, units=len(parts))


def _settings(store: ManifestStore) -> QuarantineConfig:
    runs = [r for r in from_table(Run, store.read("runs")) if r.command == "curate"] if store.version() >= 0 else []
    if not runs:
        return QuarantineConfig()
    said = json.loads(max(runs, key=lambda r: r.run_no).config_json)
    return bind(QuarantineConfig, said.get("quarantine", {}), f"{store.root}: settings of the last run")


def _asset_id(place: Place, key: str) -> str:
    """By the counts, as a run that was taken down left no manifest; else as everywhere."""
    noted = {p.name for p in place.quarantine.glob("*") if p.is_dir()}
    known = sorted(name for name in noted if name.startswith(key.lower())) if len(key) >= MIN_PREFIX else []
    if len(known) == 1:
        return known[0]
    store = ManifestStore(place.dataset)
    if store.version() < 0:
        raise LookupFailed(f"{place.dataset}: expected one asset in quarantine whose id begins with {key!r}, found {len(known)}")
    kind, found = find(connect(store), key)
    if kind != "asset":
        raise LookupFailed(f"{key}: expected an asset (its id, or the name of its file), found a clip")
    return found


def _parts_of_losses(place: Place, asset_ids: set[str], stage: Stages | None) -> Iterator[Path]:
    """The parts in which a stage stored, for the assets or clips of them, that a process was lost. Without them their units are done again."""
    clips = [p.name.split("-")[2] for a in asset_ids for p in (place.quarantine / a).glob("encode-*-*")]
    subjects = {"probe": ("asset_id", asset_ids), "scan": ("asset_id", asset_ids), "encode": ("clip_id", clips)}
    for name, (column, wanted) in subjects.items():
        if not wanted or stage not in (None, name):
            continue
        for part in sorted(p for p in (place.work / name).glob("*/*.parquet") if p.name.count(".") == 1):
            lost = pc.field(column).isin(sorted(wanted)) & pc.field("error_code").isin(LOSSES)
            if pds.dataset(part, format="parquet").count_rows(filter=lost):
                yield part
