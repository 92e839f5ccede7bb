"""What failed for a reason that may pass, in a dataset that is otherwise finished: tried once more by the same command, and told of.

A file that was away, an address that did not answer, a key that was wrong: nothing in the inputs or the configuration says that it is
mended, so each run tries. One try a run, and nothing else is done where all of them fail again: a failure that lasts costs its own try,
and no pass over the dataset. What costs a process is tried as often as the quarantine allows.
"""

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from manifests import ledger
from pipelines import jobs, plan, row_keys
from pipelines.curation_run import Curation
from pipelines.stage import Stage
from pipelines.work import merge_columns


def try_again(run: Curation) -> bool:
    """Every failure that may pass was tried once more, by the facts and rules of the run before; whether any of it succeeded."""
    mended = False
    for stage, rows in _waiting(run):
        run.do(stage, inputs=rows)
        run.tried.setdefault(stage.name, set()).update(rows.column(stage.key).to_pylist())
        mended = mended or len(run.failed(stage, rows)) < rows.num_rows
    return mended


def _waiting(run: Curation) -> Iterator[tuple[Stage, pa.Table]]:
    """The stages that left failures that may pass, each with the rows to try. The manifest says whether there are any: that is quick."""
    assets = run.store.read("assets")
    failed = set(assets.filter(_among(assets.column("error_code"), plan.MAY_PASS)).column("asset_id").to_pylist())
    if failed:
        readable = run.readable()
        yield from _some(run, plan.PROBE, readable.filter(_among(readable.column("asset_id"), failed)))
        probed = merge_columns(readable, run.outputs(plan.PROBE, readable), "asset_id", jobs.FACT_COLUMNS)
        yield from _some(run, plan.SCAN, run.passing(probed.filter(_among(probed.column("asset_id"), failed))))
    clips, live = run.store.read("clips"), run.readable().column("asset_no").combine_chunks()
    reach = pa.array(ledger.survivors(run.rules("analysed", "content", "tables", "sets"), clips))  # the stages that are left
    clips = clips.filter(pc.and_(reach, pc.is_in(clips.column("asset_no"), value_set=live)))
    unwritten = clips.filter(pc.is_null(clips.column("captioned")))
    if unwritten.num_rows:
        yield from _some(run, plan.CAPTION, row_keys.caption_rows(unwritten, assets, run.config))
    unmade = clips.filter(pc.not_equal(pc.fill_null(clips.column("encoded"), 0.0), 1.0))
    if unmade.num_rows:
        yield from _some(run, plan.ENCODE, row_keys.encode_rows(unmade, assets, run.config))


def _some(run: Curation, stage: Stage, rows: pa.Table) -> Iterator[tuple[Stage, pa.Table]]:
    if (rows := run.waiting(stage, rows)).num_rows:
        yield stage, rows


def _among(column: pa.ChunkedArray, values: Collection[str]) -> pa.Array:
    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))
