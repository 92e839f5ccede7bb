"""`dailies replay`: one stage of one asset run again on its saved inputs, and what differs from what is stored.

Nothing is written, counted or, unless that is asked for, sent. It answers whether a stored score is what the code of today gives, and shows
what a change of code or settings does. An asset in quarantine is tried like any other.
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation import captions
from manifests.events import Run
from manifests.find import LookupFailed, find
from manifests.query import connect
from manifests.records import Asset, Clip
from manifests.schema import from_row, from_table
from manifests.tables import ManifestStore
from pipelines import jobs, plan, row_keys, work
from pipelines.config import bind, with_overrides
from pipelines.settings import CurateConfig
from pipelines.stage import Place, Stage


class ReplayError(Exception):
    """The stage cannot be replayed; the message says what is missing and what helps."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not what is stored. Long lists are told by how many of their values differ and by how much."""

    output: str
    key: str
    column: str
    stored: str
    now: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay found."""

    stage: str
    asset_id: str
    uri: str
    rows_in: int
    rows_out: int
    seconds: float
    differences: tuple[Difference, ...]


REPLAYABLE = tuple(s.name for s in plan.STAGES if s not in (plan.INGEST, plan.WRITE_SHARDS))
"""Stages whose input is an asset or its clips."""


def replay(dataset: Path, stage_name: str, asset: str, overrides: list[str] | None = None, send: bool = False) -> Replay:
    """The stage, run again for the asset (an id of six or more digits, a clip's id, or a file name) with the last run's settings.

    `overrides` are key=value changes of those settings: the differences then show what the changes would do. Without `send` no endpoint
    is asked for a caption: the error says how many requests that would take.
    Raises ReplayError, ConfigError and manifests.explain.LookupFailed.
    """
    if stage_name not in REPLAYABLE:
        raise ReplayError(f"stage {stage_name!r}: expected one of {', '.join(REPLAYABLE)}")
    store, place, stage = ManifestStore(dataset), Place(dataset.absolute()), plan.stage_named(stage_name)
    settings = _settings_of_last_run(store)
    config, changed = (
        bind(CurateConfig, s, f"{dataset}: settings of the last run") for s in (settings, with_overrides(settings, overrides or []))
    )
    subject = _asset(store, asset)
    inputs = _inputs(stage, config, place, store, subject)
    if stage is plan.CAPTION and not send:
        _need_no_request(changed, inputs)
    # Neither refused for what it cost before, nor is what it costs now held against it.
    changed = dataclasses.replace(changed, quarantine=dataclasses.replace(changed.quarantine, enabled=False))
    begun = time.monotonic()
    # The stored rows name their own part; a replay that gave another would differ in nothing but that.
    outputs = stage.make(changed, place)(inputs, _stored_stem(stage, config, place, inputs))
    return Replay(
        stage=stage_name,
        asset_id=subject.asset_id,
        uri=subject.uri,
        rows_in=inputs.num_rows,
        rows_out=outputs[work.ROWS].num_rows,
        seconds=round(time.monotonic() - begun, 3),
        differences=tuple(d for name in stage.writes for d in _compare(stage, config, place, name, inputs, outputs[name])),
    )


def _need_no_request(config: CurateConfig, inputs: pa.Table) -> None:
    """Raises ReplayError where captions would be asked of an endpoint: it may take money, and pictures leave this machine."""
    pairs = [(from_row(Clip, r["clip"]), from_row(Asset, r["asset"])) for r in inputs.to_pylist()]
    told = [
        f"{n} to {(endpoint := config.captions.endpoints[name]).base_url} ({name}, model {endpoint.model})"
        for name, n in sorted(captions.asked(pairs, config.captions).items())
    ]
    if told:
        raise ReplayError(f"stage caption: expected to send nothing, found requests to make: {', '.join(told)}; --send makes them")


def _settings_of_last_run(store: ManifestStore) -> dict[str, Any]:
    runs = [r for r in from_table(Run, store.read("runs")) if r.command == "curate"]
    if not runs:
        raise ReplayError(f"{store.root}: expected a curated dataset, found no run of curate in its manifest")
    settings: dict[str, Any] = json.loads(max(runs, key=lambda r: r.run_no).config_json)
    return settings


def _asset(store: ManifestStore, key: str) -> Asset:
    kind, found = find(connect(store), key)
    if kind == "clip":
        clips = store.read("clips")
        found = clips.filter(pc.equal(clips.column("clip_id"), found)).column("asset_id")[0].as_py()
    assets = store.read("assets")
    rows = from_table(Asset, assets.filter(pc.equal(assets.column("asset_id"), found)))
    if not rows:
        raise LookupFailed(f"{key}: no such asset in {store.root}")
    found_asset: Asset = rows[0]
    return found_asset


def _inputs(stage: Stage, config: CurateConfig, place: Place, store: ManifestStore, asset: Asset) -> pa.Table:
    """The rows that the stage was given for this asset, as the manifest keeps them."""
    assets = store.read("assets")
    assets = assets.filter(pc.equal(assets.column("asset_id"), asset.asset_id))
    if stage in (plan.PROBE, plan.SCAN):  # as ingest left it: what followed is made by the stages themselves
        assets = pa.Table.from_pylist([dataclasses.asdict(jobs.without_facts(asset))], schema=assets.schema)
    if stage is plan.SCAN:
        # With the facts as probing found them: the scan refines duration and counts.
        assets = work.merge_columns(assets, work.read(plan.PROBE, config, place), "asset_id", jobs.FACT_COLUMNS)
    if stage.key == "asset_id":
        rows = assets
    else:
        clips = store.read("clips")
        clips = clips.filter(pc.equal(clips.column("asset_id"), asset.asset_id))
        if stage is plan.ENCODE:  # the others were dropped before they had a set
            clips = clips.filter(pc.is_valid(clips.column("set_name")))
        keyed = {plan.CAPTION.name: row_keys.caption_rows, plan.ENCODE.name: row_keys.encode_rows}
        rows = keyed[stage.name](clips, assets, config) if stage.name in keyed else clips
    done = work.done_keys(stage, config, place)
    rows = rows.filter(pc.is_in(rows.column(stage.key), value_set=pa.array(sorted(done), pa.string())))
    if rows.num_rows == 0:
        raise ReplayError(
            f"{asset.uri}: stage {stage.name} stored nothing for it with these settings: an earlier rule dropped it, work/ was deleted, or "
            "the stage is another version since, whose outputs the next `dailies curate` makes"
        )
    return rows


def _stored_stem(stage: Stage, config: CurateConfig, place: Place, inputs: pa.Table) -> str:
    wanted = set(inputs.column(stage.key).to_pylist())
    return next(stem for stem, keys in work.stems(stage, config, place) if wanted & keys)


_PLACES = ("part", "keyframe_part", "scan_part")
"""Columns that say in which part of the work area something lies: a replay writes none."""


def _compare(stage: Stage, config: CurateConfig, place: Place, output: str, inputs: pa.Table, now: pa.Table) -> list[Difference]:
    schema = stage.writes[output]
    key = stage.key if stage.key in schema.names else schema.names[0]
    keys = (inputs.column(stage.key) if key == stage.key else now.column(key)).unique()
    stored = _rows(work.read(stage, config, place, output, keys, key), key)
    again = _rows(now.select(schema.names).cast(schema), key)
    found = []
    for k in sorted(stored.keys() | again.keys()):
        if k not in stored or k not in again:
            found.append(Difference(output, k, "(row)", "there" if k in stored else "absent", "there" if k in again else "absent"))
            continue
        for column in schema.names:
            if column in _PLACES:
                continue
            old, new = stored[k][column], again[k][column]
            if old != new:
                found.append(Difference(output, k, column, *_tell(old, new)))
    return found


def _rows(table: pa.Table, key: str) -> dict[str, dict[str, Any]]:
    """Rows by key; several rows of one key are told apart by their place."""
    found: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        name, n = str(row[key]), 0
        while (unique := name if n == 0 else f"{name}#{n}") in found:
            n += 1
        found[unique] = row
    return found


def _tell(old: Any, new: Any) -> tuple[str, str]:
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{len(old)} values", f"{len(new)} values"
        pairs = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        numbers = [abs(b - a) for a, b in pairs if isinstance(a, int | float) and isinstance(b, int | float) and math.isfinite(b - a)]
        return f"{len(old)} values", f"{len(pairs)} of them differ" + (f", by up to {max(numbers):.4g}" if numbers else "")
    return _short(old), _short(new)


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "…"
