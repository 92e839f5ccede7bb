"""Duplicates, concepts, sets and mix: the table stages over the whole dataset, on Spark, each on what the one before left."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import buckets, concepts, duplicates, keepers, known_pairs, mix, sets
from manifests import ids
from pipelines import plan
from pipelines.curation_run import Compared, Curation
from pipelines.picks import column_of
from pipelines.work import merge_columns, set_column

FEW_CLIPS = 20_000
"""Clips up to which Spark has done its work before an optimised JVM pays."""

_started: list[tuple[Any, Any]] = []
_leaving: list[Callable[[], None]] = []


def compose(run: Curation) -> tuple[str, ...]:
    """`run.clips` has its duplicate, concept, set, bucket and mix columns; returns what the sets could not get, for people."""
    alive = run.alive("analysed", "content")
    if alive.num_rows == 0:
        return ()
    pictured = alive.filter(pc.is_valid(alive.column("keyframe_part")))
    described = run.outputs(plan.DESCRIBE, pictured) if pictured.num_rows else plan.DESCRIBE.writes["rows"].empty_table()
    _label_duplicates(run, pictured, described)
    _label_concepts(run, described)
    shortages = _assign_sets(run)
    return shortages + _mix(run)


def stop() -> None:
    """The Spark session of this process, if any, is down: its memory is free for what follows."""
    from pipelines.on_spark import end

    while _started:
        _leaving.append(end(*_started.pop()))


def wait() -> None:
    """The session is down and has left what it was to leave."""
    stop()
    while _leaving:
        _leaving.pop()()


def _label_duplicates(run: Curation, clips: pa.Table, described: pa.Table) -> None:
    """Groups by PDQ hashes, and by the descriptors of a copy-detection network where one was run; pairs of earlier runs are not looked for."""
    rows = merge_rows(clips, described, "clip_id", ("pdq", "pdq_frame", "pdq_own"))
    quality = keepers.copy_quality(rows, run.assets)
    pixels = pc.multiply(pc.fill_null(rows.column("width"), 0).cast(pa.int64()), pc.fill_null(rows.column("height"), 0).cast(pa.int64()))
    table = (
        rows.select(["clip_id", "kind", "pdq", "pdq_frame", "pdq_own"]).append_column("quality", quality).append_column("n_pixels", pixels)
    )
    copies = [stage for stage, batch in plan.wanted_batches(run.config) if batch.name == "copies"]
    if copies and clips.num_rows:
        table = merge_rows(table, run.outputs(copies[0], clips), "clip_id", ("vector",))
    made_by = [stage.digest(run.config) for stage in (plan.DESCRIBE, *copies)]
    pairs = known_pairs.open_pairs(run.place.work / "spark" / "pairs", ids.digest("duplicates", run.config.duplicates, *made_by), table)
    run.compared = Compared(fresh=pairs.n_fresh, known=len(pairs.fresh) - pairs.n_fresh)
    table = table.append_column("fresh", pa.array(pairs.fresh))
    found = _on_spark(run, "duplicates", partial(known_pairs.label_known, cfg=run.config.duplicates, pairs=pairs), table)
    run.clips = merge_columns(run.clips, found, "clip_id", duplicates.OUTPUT.names[1:])


def _label_concepts(run: Curation, described: pa.Table) -> None:
    alive = run.alive("analysed", "content").filter(_rule_mask(run, "near_duplicate"))
    rows = described.filter(pc.is_in(described.column("clip_id"), value_set=alive.column("clip_id").combine_chunks()))
    vectors = rows.select(["clip_id", "concept"]).rename_columns(["clip_id", "vector"])
    exempt = alive.select(["clip_id"]).append_column("exempt", concepts.exempt(alive, run.config.concepts))
    table = merge_rows(vectors, exempt, "clip_id", ("exempt",))
    found = _on_spark(run, "concepts", partial(concepts.label_concepts_on_spark, cfg=run.config.concepts), table)
    run.clips = merge_columns(run.clips, found, "clip_id", concepts.OUTPUT.names[1:])


def _assign_sets(run: Curation) -> tuple[str, ...]:
    run.clips = set_column(run.clips, "picks", column_of(run.picks, run.clips.column("clip_id").to_pylist()))
    alive = run.alive("analysed", "content", "tables")
    chosen = tuple(run.config.sets.values())
    table = alive.select(buckets.columns_of(chosen))
    found = _on_spark(run, "sets", partial(buckets.assign_sets_on_spark, sets=chosen), table)
    fit = pc.is_valid(found.column("set_name")).cast(pa.float32())
    columns = ("set_name", "bucket", "n_tokens", "fits_sets", "set_fit")
    run.clips = merge_columns(run.clips, found.append_column("set_fit", fit), "clip_id", columns)
    return tuple(sets.find_unmeasured(table, chosen))


def _mix(run: Curation) -> tuple[str, ...]:
    alive = run.alive("analysed", "content", "tables")
    members = alive.filter(pc.and_(pc.equal(alive.column("kind"), "video"), pc.is_valid(alive.column("set_name"))))
    chosen = run.config.sets.values()
    config = mix.MixConfig(
        landscape_share={s.name: s.landscape_share for s in chosen if s.landscape_share is not None},
        people_share={s.name: s.people_share for s in chosen if s.people_share is not None},
        seed=run.config.seed,
    )
    table = members.select(["clip_id", "set_name", "width", "height", "has_people"])
    found = _on_spark(run, "mix", partial(mix.label_mix_on_spark, cfg=config), table)
    run.clips = merge_columns(run.clips, found, "clip_id", ("mix_keep",))
    return tuple(s.text for s in mix.find_shortages(mix.count_strata(table, config), config))


def _on_spark(run: Curation, name: str, transform: Any, table: pa.Table) -> pa.Table:
    """The table stage's rows for the table, on the session of this process, which is started for the first."""
    from pipelines.on_spark import SparkConfig, run_table, session

    work = run.place.work / "spark"
    if not _started:
        engine, brief = run.config.engine, run.clips.num_rows <= FEW_CLIPS
        config = SparkConfig(
            work_dir=str(work / "session"), driver_memory=engine.spark_memory, master=engine.spark_master, brief=brief, leave_archive=brief
        )
        _started.append((session(engine.cpus, config), config))
    return run_table(_started[0][0], transform, table, work / name).sort_by("clip_id")


def _rule_mask(run: Curation, measure_rule: str) -> pa.Array:
    """Which clips that survive measures so far also survive the duplicates rule."""
    alive = run.alive("analysed", "content")
    rules = [r for r in run.rules("tables") if r[1].name == measure_rule]
    from manifests import ledger

    return pa.array(np.asarray(ledger.survivors(rules, alive)))


def merge_rows(table: pa.Table, other: pa.Table, key: str, columns: tuple[str, ...]) -> pa.Table:
    """The table with further columns from the row of `other` with the same key."""
    rows = pc.index_in(table.column(key), value_set=other.column(key).combine_chunks())
    for name in columns:
        table = table.append_column(name, other.column(name).take(rows))
    return table
