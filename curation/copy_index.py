"""New batches of clips against everything kept so far, by copy-detection vectors, without redoing the old. On Spark, in a folder:

    index.json             the version of the cells, the settings they hold for, and the batches that are in; written last, by rename
    cells/                 the centroids (`cells.write_cells`): trained on the first batch, never again
    copies/<batch>/        kept clips' vectors in their cells, at home and visiting (`near_vectors.COPIES`): placed once
    clips/<batch>/         kept clips: clip_id, kind, quality, n_pixels, vector

What was kept stays kept, since it may lie in shards and releases: a clip of the batch that is near one kept is a copy of it, whatever their
qualities, and clips of the batch that are near only one another have their keeper by the usual order. Only cells that the batch touches
are read, and no two old clips are compared. Cells hold for some four times the clips they were trained for (`Index.outgrown`); then an
index over all that is kept is started anew.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from curation.cells import read_cells, write_cells
from curation.components import connected_components, cut_history
from curation.duplicates import OUTPUT, DuplicatesConfig, label_groups, prepared
from curation.near_vectors import copies_on_spark, match_on_spark, train_on_spark
from manifests.files import write_atomic

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_GROWTH = 4


class CopyIndexError(ValueError):
    """The index cannot take the batch; names the folder, the expected, the found and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What an index holds: version of its cells, settings, number of clips they were trained for and of clips kept, batches in order."""

    version: str
    min_cosine: float
    reach: float
    n_trained: int
    n_kept: int
    batches: tuple[str, ...]

    @property
    def outgrown(self) -> bool:
        """Whether the cells have become so full that an index started anew would be faster."""
        return self.n_kept > _GROWTH * max(1, self.n_trained)


def read_index(folder: Path) -> Index | None:
    """What the index in the folder holds; null where there is none."""
    path = folder / "index.json"
    if not path.exists():
        return None
    stated = json.loads(path.read_text())
    return Index(**{**stated, "batches": tuple(stated["batches"])})


def add_batch(rows: "DataFrame", batch: str, folder: Path, cfg: DuplicatesConfig) -> "DataFrame":
    """The rows of `duplicates.OUTPUT` for the batch (clip_id, kind, quality, n_pixels, vector), whose keepers are in the index afterwards.

    Raises CopyIndexError when the batch is in already, or when the index was made with other settings. Runs eagerly; a crash leaves the index
    as it was, and the same call again goes on.
    """
    from pyspark.sql import functions as F

    if not batch.isidentifier():
        raise CopyIndexError(f"{folder}: a batch name of letters, digits and _ expected, found {batch!r}")
    clips = prepared(rows.select("clip_id", "kind", "quality", "n_pixels", "vector"))
    clips = clips.select("clip_id", "kind", "quality", "n_pixels", "vector")
    known = clips.where("vector IS NOT NULL").select("clip_id", "kind", "vector")
    index = read_index(folder)
    if index is None:
        n_clips = known.count()
        cells = train_on_spark(known, n_clips, cfg.cells)
        write_cells(cells, folder / "cells")
        index = Index(version=cells.version, min_cosine=cfg.min_cosine, reach=cfg.cells.reach, n_trained=n_clips, n_kept=0, batches=())
    _check(index, batch, folder, cfg)
    cells = read_cells(folder / "cells")
    copies = cut_history(copies_on_spark(known, cells, cfg.min_cosine, cfg.cells))
    found = cut_history(_labelled(clips, copies, index, folder, cfg))
    kept = found.where("dup_rank = 0").select("clip_id").hint("shuffle_hash")
    stored = copies.join(kept, "clip_id", "left_semi").withColumn("fresh", F.lit(False))
    stored.sortWithinPartitions("block").write.mode("overwrite").parquet(str(folder / "copies" / batch))
    clips.join(kept, "clip_id", "left_semi").write.mode("overwrite").parquet(str(folder / "clips" / batch))
    after = replace(index, n_kept=index.n_kept + found.where("dup_rank = 0").count(), batches=(*index.batches, batch))
    write_atomic(folder / "index.json", json.dumps(asdict(after), sort_keys=True).encode())
    return found


def _check(index: Index, batch: str, folder: Path, cfg: DuplicatesConfig) -> None:
    if batch in index.batches:
        raise CopyIndexError(f"{folder}: a new batch expected, found {batch}, which is in already: give it another name")
    wanted, had = (cfg.min_cosine, cfg.cells.reach), (index.min_cosine, index.reach)
    if wanted != had:
        raise CopyIndexError(f"{folder}: made for min_cosine and reach {had}, asked for {wanted}: start an index in another folder")


def _labelled(clips: "DataFrame", copies: "DataFrame", index: Index, folder: Path, cfg: DuplicatesConfig) -> "DataFrame":
    """OUTPUT of the batch's clips, given their copies in the cells."""
    from pyspark.sql import functions as F

    spark, everyone, members = clips.sparkSession, copies, prepared(clips).withColumn("fresh", F.lit(True))
    if index.batches:
        touched = copies.select("kind", "block").distinct()
        old = spark.read.parquet(*(str(folder / "copies" / b) for b in index.batches))
        everyone = copies.unionByName(old.join(touched, ["kind", "block"], "left_semi"))
        kept = spark.read.parquet(*(str(folder / "clips" / b) for b in index.batches))
        members = members.unionByName(prepared(kept).withColumn("fresh", F.lit(False)))
    groups = connected_components(match_on_spark(everyone, copies.count() + index.n_kept, cfg.min_cosine))
    labelled = label_groups(members, groups, (F.asc("fresh"),)).hint("shuffle_hash")
    return clips.select("clip_id").join(labelled, "clip_id", "left").fillna(0, "dup_rank").select(*OUTPUT.names)
