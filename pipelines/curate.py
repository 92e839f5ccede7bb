"""`dailies curate`: from inputs to a committed version of the dataset, in a straight line.

Every step either reads what an earlier run left or does what is missing; nothing is decided before all that was affordable is
measured; one commit at the end makes it visible. The order of steps is the order of `plan.STAGES`.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import actions, diegetic, quarantine
from curation.blocklist import block_distances
from manifests import ids, ledger
from manifests.cubes import build_cubes, with_earlier
from manifests.events import Run
from manifests.newest import keep_newest, ledger_files
from manifests.policy import DECIDING
from manifests.records import Caption, Clip
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from pipelines import jobs, on_ray, one_run, plan, provenance, retry, row_keys, sharding, tables
from pipelines.batches import ERRORS
from pipelines.config import digest, to_record
from pipelines.curation_run import LIVE, Curation
from pipelines.intake import ingest
from pipelines.lost_clips import lost_clips
from pipelines.measures import MEASURES
from pipelines.on_ray import EngineConfig
from pipelines.progress import Progress
from pipelines.settings import CurateConfig
from pipelines.weight_files import by_content
from pipelines.work import merge_columns, set_column


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run left: counts, where, and how long it took."""

    dataset: str
    version: int
    nothing_left: bool
    listed: int
    assets: int
    unreadable: int
    clips: int
    kept: int
    hours_kept: float
    shards: int
    shortages: tuple[str, ...]
    copies_looked_for: int
    """Clips that were compared with all others for copies in this run …"""
    copies_known: int
    """… and those of an earlier run, whose copies among themselves were known."""
    seconds: float


def curate(inputs: list[str], dataset: Path, config: CurateConfig, progress: Progress) -> Summary:
    """The dataset holds everything of the inputs that passes, as shards, and a row with a reason for everything else. Raises DatasetBusy."""
    with one_run.alone(dataset, "curate"):
        return _curate(inputs, dataset, config, progress)


def _curate(inputs: list[str], dataset: Path, config: CurateConfig, progress: Progress) -> Summary:
    begun, started_at = time.monotonic(), datetime.now(UTC)
    run = Curation(dataset, config, progress, started_at.date())
    listed = ingest(run, inputs)
    said = (ids.digest("picks", *(p.run_no for p in run.picks)),) if run.picks else ()  # append only: their runs name them
    if n_released := quarantine.releases(run.place.quarantine):
        said = (*said, f"released {n_released}")
    inputs_digest = ids.digest(
        "inputs/v3",
        _content_digest(run.assets.drop_columns(["error_detail"])),  # the same failure in other words is no other input
        _content_digest(run.blocks),
        digest(by_content(_without_engine(config))),
        provenance.code_version(),
        *said,
    )
    previous = _last_run(run.store)
    try:
        if previous is not None and previous.inputs_digest == inputs_digest and not retry.try_again(run):
            progress.say("nothing left to do: these inputs were curated with this configuration before")
            return _summary(run, listed, (), begun, nothing_left=True)
        measure_assets(run)
        measure_clips(run)
        shortages = compose_sets(run)
        captions = write_captions(run)
        version = place_and_commit(run, captions, inputs_digest, started_at)
    finally:
        on_ray.stop()
        tables.wait()
    progress.say(f"committed version {version}")
    return _summary(run, listed, shortages, begun, nothing_left=False)


def measure_assets(run: Curation) -> None:
    """Facts of every readable asset; scan and clips of every asset that passes the rules on rights and facts."""
    readable = run.readable()
    run.do(plan.PROBE, inputs=jobs.with_noted(readable, run.noted))
    run.assets = merge_columns(run.assets, run.outputs(plan.PROBE, readable), "asset_id", jobs.FACT_COLUMNS)
    passing = run.passing(run.assets)
    run.do(plan.SCAN, inputs=jobs.with_noted(passing, run.noted))
    # Clips of assets that a rule has dropped since stay in the manifest; their asset's verdict drops them too.
    run.assets = merge_columns(run.assets, run.outputs(plan.SCAN, run.assets), "asset_id", jobs.SCANNED_COLUMNS)
    scanned = run.assets.filter(pc.and_(pc.is_valid(run.assets.column("scan_part")), pc.equal(run.assets.column("state"), LIVE)))
    # Of what may be scanned in another run nothing is said: that it has no clips would then be taken for known.
    scanned = scanned.filter(pc.invert(pc.is_in(scanned.column("error_code"), value_set=pa.array(sorted(plan.MAY_PASS)))))
    run.do(plan.SPLIT, inputs=scanned)
    run.assets = merge_columns(run.assets, run.outputs(plan.SPLIT, scanned), "asset_id", ("n_clips",))
    run.clips = run.outputs(plan.SPLIT, scanned, "clips", key="asset_id")
    _number_clips(run)
    run.lost = lost_clips(run, run.assets.filter(pc.equal(run.assets.column("state"), LIVE)))
    kept = ledger.survivors(run.rules("rights", "facts", "assets"), run.assets)
    of_asset = dict(zip(run.assets.column("asset_no").to_pylist(), kept.tolist(), strict=True))
    run.clips = set_column(run.clips, "asset_kept", [float(of_asset[n]) for n in run.clips.column("asset_no").to_pylist()])


def measure_clips(run: Curation) -> None:
    """What the tracks tell of every clip; then text, descriptors and networks on the clips that pass the rules on that."""
    run.do(*plan.MEASURE, inputs=run.clips)
    for stage, measure in zip(plan.MEASURE, MEASURES, strict=True):
        run.clips = merge_columns(run.clips, run.outputs(stage, run.clips), "clip_id", measure.columns)
    for stage, batch in plan.wanted_batches(run.config):
        alive = run.alive("analysed")
        run.do(stage, inputs=alive)
        made = run.outputs(stage, alive)
        run.clips = merge_columns(run.clips, made, "clip_id", (*batch.columns, *ERRORS))
        if stage is plan.DESCRIBE and run.blocklist.has_pictures:
            run.clips = merge_columns(run.clips, block_distances(run.blocklist, made), "clip_id", ("block_distance",))
    clips = from_table(Clip, run.clips)
    for names, derive, settings in _DERIVED:
        derived = [derive(clip, getattr(run.config, settings)) for clip in clips]
        for name in names:
            run.clips = set_column(run.clips, name, [v[name] for v in derived])


_DERIVED: tuple[tuple[tuple[str, ...], Callable[[Clip, Any], dict[str, Any]], str], ...] = (
    (diegetic.COLUMNS, diegetic.measure_diegetic, "diegetic"),
    (("human_action",), actions.measure_human_action, "human_action"),
)
"""Columns that follow from scores of networks: their function and the name of their settings. A changed threshold runs no network."""


def compose_sets(run: Curation) -> tuple[str, ...]:
    """Duplicates, concepts, sets and mix, on Spark; returns what the sets could not get."""
    with run.progress.stage("tables", run.clips.num_rows) as advance:
        shortages = tables.compose(run)
        tables.stop()
        advance(run.clips.num_rows)
    for text in shortages:
        run.progress.say(f"shortage: {text}")
    return shortages


def write_captions(run: Curation) -> pa.Table:
    """The captions of all clips that every rule keeps so far."""
    kept = run.alive("analysed", "content", "tables", "sets")
    rows = row_keys.caption_rows(kept, run.assets, run.config)
    run.do(plan.CAPTION, inputs=rows)
    captions = run.outputs(plan.CAPTION, rows)
    written = pc.if_else(pc.is_valid(captions.column("text")), 1.0, None).cast(pa.float32())
    run.clips = merge_columns(run.clips, captions.append_column("captioned", written), "clip_id", ("captioned", *ERRORS))
    return captions


def place_and_commit(run: Curation, captions: pa.Table, inputs_digest: str, started_at: datetime) -> int:
    """Samples encoded, rules applied to everything, shards written, and one commit that shows it all."""
    sharding.encode(run)
    run.clips = pa.concat_tables([run.clips, run.lost]).sort_by("clip_no")
    run_no = run.store.read("runs", columns=["run_no"]).num_rows
    numbers, new_rules = provenance.number_rules(run.store, run.config.policy())
    numbered = list(zip(numbers, run.config.policy(), strict=True))
    said = ledger_files(run.store)
    new_on_assets, of_assets = ledger.append_to(said, [r for r in numbered if r[1].subject == "asset"], run.assets, run_no)
    new_on_clips, of_clips = ledger.append_to(said, [r for r in numbered if r[1].subject == "clip"], run.clips, run_no)
    run.assets, run.clips = ledger.with_state(run.assets, of_assets.first_fail), ledger.with_state(run.clips, of_clips.first_fail)
    run.clips = set_column(run.clips, "decided_run_no", [run_no] * run.clips.num_rows)
    caption_rows = _number_captions(run, captions)
    cubes = build_cubes(run_no, run.assets, of_assets, run.clips, of_clips)
    shards, members = sharding.write_shards(run, caption_rows, run_no)
    record = Run(
        run_no=run_no,
        run_id=ids.digest("run/v1", run.parent, inputs_digest),
        command="curate",
        inputs_digest=inputs_digest,
        code_version=provenance.code_version(),
        config_sha256=digest(run.config),
        config_json=to_record(run.config),
        parent_version=run.parent if run.parent >= 0 else None,
        started_at=started_at,
        ended_at=datetime.now(UTC),
        policy=numbers,
    )
    version = run.store.commit(
        record.run_id,
        append={"decisions": pa.concat_tables([new_on_assets, new_on_clips]), "rules": new_rules, "runs": to_table(Run, [record])},
        replace={
            "sources": run.sources,
            "assets": run.assets,
            "clips": _with_removed(run),
            "captions": to_table(Caption, caption_rows),
            "shards": shards,
            "members": members,
            "cubes": with_earlier(cubes, run.store.read("cubes", run.parent)),
        },
        parent=run.parent,
    )
    keep_newest(run.store)
    return version


def _with_removed(run: Curation) -> pa.Table:
    """The clips, and as they were those of what was taken down: no row disappears, and nothing decides on them any more."""
    gone = run.assets.filter(pc.not_equal(run.assets.column("state"), LIVE)).column("asset_no").combine_chunks()
    if not len(gone):
        return run.clips
    stored = run.store.read("clips")
    return pa.concat_tables([run.clips, stored.filter(pc.is_in(stored.column("asset_no"), value_set=gone))]).sort_by("clip_no")


def _number_clips(run: Curation) -> None:
    """Dense numbers: known clips keep theirs, new ones follow in order of asset and start."""
    known = dict(zip(*(c.to_pylist() for c in run.store.read("clips", columns=["clip_id", "clip_no"]).columns), strict=True))
    of_asset = dict(zip(run.assets.column("asset_id").to_pylist(), run.assets.column("asset_no").to_pylist(), strict=True))
    run.clips = set_column(run.clips, "asset_no", [of_asset[i] for i in run.clips.column("asset_id").to_pylist()])
    run.clips = run.clips.sort_by([("asset_no", "ascending"), ("start_us", "ascending"), ("clip_id", "ascending")])
    following = max(max(known.values(), default=-1) + 1, ledger.next_number(run.store.files("decisions"), "clip"))
    numbers = []
    for clip_id in run.clips.column("clip_id").to_pylist():
        if clip_id not in known:
            known[clip_id], following = following, following + 1
        numbers.append(known[clip_id])
    run.clips = set_column(run.clips, "clip_no", numbers).sort_by("clip_no")


def _number_captions(run: Curation, captions: pa.Table) -> list[Caption]:
    """Caption rows of the kept clips in clip order; clips point at theirs."""
    kept = run.clips.filter(pc.equal(run.clips.column("decision"), "keep"))
    texts = {row["clip_id"]: row for row in captions.to_pylist()}
    rows: list[Caption] = []
    for clip_id, clip_no in zip(kept.column("clip_id").to_pylist(), kept.column("clip_no").to_pylist(), strict=True):
        text = texts[clip_id]
        names = ("text", "captioner", "captioner_version", "camera_prefix", "frame_digest")
        rows.append(Caption(caption_no=len(rows), clip_no=clip_no, **{n: text[n] for n in names}))
    of_clip = {c.clip_no: c.caption_no for c in rows}
    run.clips = set_column(run.clips, "caption_no", [of_clip.get(n) for n in run.clips.column("clip_no").to_pylist()])
    return rows


def _content_digest(rows: pa.Table) -> str:
    """Digest of every asset's content and rights, or of the blocklist: what the dataset is made of."""
    return ids.digest(*(json.dumps(row, sort_keys=True, default=str) for row in rows.to_pylist()))


def _without_engine(config: CurateConfig) -> CurateConfig:
    """Where stages run decides nothing about what comes out."""
    return dataclasses.replace(config, engine=EngineConfig())


def _last_run(store: ManifestStore) -> Run | None:
    """The run whose policy is in force."""
    runs: Iterable[Run] = from_table(Run, store.read("runs"))
    return max((r for r in runs if r.command in DECIDING), key=lambda r: r.run_no, default=None)


def _summary(run: Curation, listed: int, shortages: tuple[str, ...], begun: float, nothing_left: bool) -> Summary:
    assets, clips = run.store.read("assets"), run.store.read("clips")
    kept: Any = clips.filter(pc.equal(clips.column("decision"), "keep"))
    spans = np.asarray(pc.subtract(kept.column("end_us"), kept.column("start_us")).to_pylist(), dtype=np.int64)
    return Summary(
        dataset=str(run.place.dataset),
        version=run.store.version(),
        nothing_left=nothing_left,
        listed=listed,
        assets=assets.num_rows,
        unreadable=pc.sum(pc.equal(assets.column("readable"), 0)).as_py() or 0,
        clips=clips.num_rows,
        kept=kept.num_rows,
        hours_kept=round(float(spans.sum()) / 3.6e9, 4),
        shards=run.store.read("shards").num_rows,
        shortages=shortages,
        copies_looked_for=run.compared.fresh,
        copies_known=run.compared.known,
        seconds=round(time.monotonic() - begun, 1),
    )
