"""`dailies quarantine`: which assets cost processes and are not tried any more, and one of them released to be tried again."""

import json
from collections.abc import Iterator
from pathlib import Path

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


def held(dataset: Path) -> list[Count]:
    """Every asset of which attempts are noted, with its verdict under the settings of the last run. Raises ConfigError."""
    return list(quarantine.counts(Place(dataset.absolute()).quarantine, _settings(ManifestStore(dataset))))


def release(dataset: Path, key: str) -> tuple[str, int, int]:
    """The asset is tried again by the next `dailies curate`: nothing is counted of it, and no stage holds an error of it that a lost process
    left. Its id, the attempts forgotten and the units of work that are done again. The key is an id, six or more digits of it, or a file name.

    Raises manifests.find.LookupFailed and DatasetBusy.
    """
    place = Place(dataset.absolute())
    asset_id = _asset_id(place, key)
    with alone(dataset, "quarantine release"):
        parts = list(_parts_of_losses(place, asset_id))
        # The stored rows first: killed in between, the count is still there to be released.
        for part in parts:
            part.unlink(missing_ok=True)
        return asset_id, quarantine.release(place.quarantine, asset_id), len(parts)


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


def _parts_of_losses(place: Place, asset_id: str) -> Iterator[Path]:
    """The parts in which a stage stored, for the asset or a clip of it, that a process was lost. Without them their units are done again."""
    clips = {key.split("-")[2] for p in (place.quarantine / asset_id).glob("encode-*-*") if (key := p.name)}
    subjects = {"probe": ("asset_id", [asset_id]), "scan": ("asset_id", [asset_id]), "encode": ("clip_id", sorted(clips))}
    for stage, (column, wanted) in subjects.items():
        for part in sorted((place.work / stage).glob("*/*.parquet")):
            if part.name.count(".") > 1 or not wanted:
                continue
            lost = pc.field(column).isin(wanted) & pc.field("error_code").isin(LOSSES)
            if pds.dataset(part, format="parquet").count_rows(filter=lost):
                yield part
