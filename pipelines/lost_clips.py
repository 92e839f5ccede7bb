"""Clips of files that cannot be read any more: they stay in the manifest under their numbers, as dropped, and people are told whose they are.

With the work area deleted, or a scan of another version, every file is opened again, and some may be gone. Their clips then have no facts:
a row that disappeared would leave shards and checkpoints that name it unexplained.
"""

import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import Clip
from manifests.schema import to_table
from pipelines.curation_run import Curation

_OF_SPAN = ("clip_id", "clip_no", "asset_id", "asset_no", "kind", "start_us", "end_us", "shot_no", "n_frames", "width", "height")
_KEPT = (*_OF_SPAN, "fps_num", "fps_den", "has_audio", "duration_s")
"""What is still true of such a clip: which span of what it is. What was measured of it is not known any more."""


def lost_clips(run: Curation, live: pa.Table) -> pa.Table:
    """The clips of the last version whose live asset has none now because it could not be scanned; a line for people names these assets."""
    stored = run.store.read("clips")
    unread = live.filter(pc.or_(pc.is_null(live.column("scan_part")), pc.is_valid(live.column("error_code"))))
    gone = pc.and_(
        pc.is_in(stored.column("asset_id"), value_set=unread.column("asset_id").combine_chunks()),
        pc.invert(pc.is_in(stored.column("asset_id"), value_set=run.clips.column("asset_id").combine_chunks().unique())),
    )
    lost = stored.filter(gone)
    if lost.num_rows:
        of = unread.filter(pc.is_in(unread.column("asset_id"), value_set=lost.column("asset_id").combine_chunks()))
        first = of.slice(0, 1).to_pylist()[0]
        said = f"{first['error_code']}: {first['error_detail']}" if first["error_code"] else "a rule dropped it before it was scanned again"
        run.progress.say(
            f"lost: {of.num_rows} assets could not be read again; their {lost.num_rows} clips are dropped. {first['uri']}: {said}"
        )
    return to_table(Clip, [Clip(**row, asset_kept=0.0) for row in lost.select(_KEPT).to_pylist()])
