"""Near-duplicates: clips that show the same pictures, grouped, with one keeper a group. Table stage, one row out for one row in.

In:   clip_id string, kind string, quality double, n_pixels long, and at least one of pdq list<binary 32> and vector list<float>, where
      null or an empty list means: has none; optionally pdq_frame list<int>, pdq_own list<bool>, and fresh bool, see below
Out:  clip_id, dup_group string, dup_rank int, dup_distance int (bits, by PDQ), dup_similarity float (cosine, by vector), to the keeper

`pdq` holds PDQ hashes of the clip's pictures (those of quality >= 50). `pdq_frame` says which frame, or second, of the clip each hash
belongs to; without it every hash is a frame of its own. `pdq_own` tells own hashes from probes, which say what an original may look like
of which this clip is an edited copy (see `embeddings`); without it all are own. `vector` is a copy-detection descriptor (SSCD or like it).

Definition: frame i matches frame j when a hash of one is within `max_distance` bits of a hash of the other and not both are probes.
Clips A and B of one kind are near-duplicates when m >= max(min_matches, ceil(min_share * s)), where s is the number of frames of the
shorter one and m = min(frames of A that match one of B, frames of B that match one of A), so that one still picture repeated through a
clip counts once; or when the cosine of their vectors is at least `min_cosine`. Groups are the connected components of both together; the
keeper is the first by quality, then pixels, both descending, then clip_id.

`label_duplicates` is that definition over all pairs; `label_duplicates_on_spark` finds the same pairs through `near_hashes` (complete, but of a
picture that hundreds share each is compared with the first of them) and
through the cells of `near_vectors` (complete but for what `cells` says). Where a clip is not `fresh`, its pairs with others that are not are
known from before: `find_edges` leaves them out and `known_pairs` keeps them. `subclips` says where the pictures of two clips lie in one
another.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import near_hashes, near_vectors
from curation.cells import Cells, CellsConfig, to_short
from curation.components import connected_components, spark_schema
from curation.near_hashes import to_frames, to_own, to_words
from curation.near_vectors import read_vectors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

OUTPUT = pa.schema(
    [
        ("clip_id", pa.string()),
        ("dup_group", pa.string()),
        ("dup_rank", pa.int32()),
        ("dup_distance", pa.int32()),
        ("dup_similarity", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatesConfig:
    """When two clips are near-duplicates. The paper uses SSCD at cosine >= 0.99 (Movie Gen, Three filter stages); PDQ needs no weights."""

    max_distance: int = 31  # bits of 256: what PDQ's authors recommend
    min_share: float = 0.3  # of the shorter clip's frames that must match; ours
    min_matches: int = 1  # frames that must match at least, or all of a clip that has fewer; ours
    min_cosine: float = 0.99  # of copy-detection vectors (Movie Gen, Three filter stages)
    cells: CellsConfig = field(default_factory=CellsConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.max_distance <= near_hashes.MAX_DISTANCE:
            raise ValueError(
                f"duplicates: max_distance is {self.max_distance}, expected 0 to {near_hashes.MAX_DISTANCE}: beyond, pairs are missed"
            )
        if not 0 < self.min_share <= 1:
            raise ValueError(f"duplicates: min_share is {self.min_share}, expected more than 0 and at most 1")
        if not 0 < self.min_cosine <= 1:
            raise ValueError(f"duplicates: min_cosine is {self.min_cosine}, expected more than 0 and at most 1")
        if self.min_matches < 1:
            raise ValueError(f"duplicates: min_matches is {self.min_matches}, expected at least 1")

    def enough(self, matched: int, n_a: int, n_b: int) -> bool:
        """Whether that many matching frames make near-duplicates of two clips with n_a and n_b frames."""
        shorter = min(n_a, n_b)
        return matched >= max(min(self.min_matches, shorter), math.ceil(self.min_share * shorter))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clip:
    clip_id: str
    kind: str
    order: tuple[float, float, str]  # the keeper sorts first
    words: np.ndarray  # uint64 [hashes, 4]
    frames: np.ndarray  # int32 [hashes]
    own: np.ndarray  # bool [hashes]
    short: np.ndarray | None  # int16 [d]; null without a vector


def label_duplicates(table: pa.Table, cfg: DuplicatesConfig) -> pa.Table:
    """Every clip has its group, rank and distance to the keeper, in the order of the rows. All pairs: O(hashes^2). Raises HashError."""
    clips = [_read(row) for row in table.to_pylist()]
    parent = list(range(len(clips)))
    for a, b in _links(clips, cfg):
        parent[_root(parent, a)] = _root(parent, b)
    groups = defaultdict(list)
    for i in range(len(clips)):
        groups[_root(parent, i)].append(i)
    rows: list[dict[str, Any]] = [{"clip_id": c.clip_id, "dup_group": None, "dup_rank": 0} for c in clips]
    for members in groups.values():
        if len(members) > 1:
            members.sort(key=lambda i: clips[i].order)
            keeper = clips[members[0]]
            for rank, i in enumerate(members):
                rows[i].update(
                    dup_group=keeper.clip_id,
                    dup_rank=rank,
                    dup_distance=nearest(clips[i].words, keeper.words, clips[i].own, keeper.own),
                    dup_similarity=_similarity(clips[i].short, keeper.short),
                )
    return pa.Table.from_pylist(rows, schema=OUTPUT)


def find_pairs(table: pa.Table, cfg: DuplicatesConfig) -> list[tuple[str, str]]:
    """The clip_ids of all pairs that are near-duplicates, before they are joined to groups. Raises HashError."""
    clips = [_read(row) for row in table.to_pylist()]
    return [(clips[a].clip_id, clips[b].clip_id) for a, b in _links(clips, cfg)]


def nearest(a: np.ndarray, b: np.ndarray, own_a: np.ndarray, own_b: np.ndarray) -> int | None:
    """The smallest Hamming distance in bits between a hash of a and one of b, not both probes; uint64 [n, 4] and [m, 4].

    None where there are only probes: of pictures that match none is.
    """
    allowed = own_a[:, None] | own_b[None, :]
    return int(near_hashes.distances(a, b)[allowed].min()) if allowed.any() else None


def _read(row: dict[str, Any]) -> _Clip:
    clip_id, quality, n_pixels = row["clip_id"], row["quality"], row["n_pixels"]
    words = to_words(row.get("pdq"), clip_id)
    worst = quality is None or math.isnan(quality)
    order = (math.inf if worst else -quality, math.inf if n_pixels is None else -n_pixels, clip_id)
    frames, own = to_frames(row.get("pdq_frame"), len(words), clip_id), to_own(row.get("pdq_own"), len(words), clip_id)
    short = None
    if row.get("vector"):
        short = to_short(read_vectors(pa.array([clip_id]), pa.array([row["vector"]], pa.list_(pa.float32())), "duplicates"))[0]
    return _Clip(clip_id=clip_id, kind=row["kind"], order=order, words=words, frames=frames, own=own, short=short)


def _similarity(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    """The cosine of two vectors; null where one is missing."""
    return None if a is None or b is None else float(near_vectors.cosines(a[None], b[None])[0])


def _links(clips: list[_Clip], cfg: DuplicatesConfig) -> Iterator[tuple[int, int]]:
    """Pairs of clip positions that are near-duplicates, by hashes or by vectors; some come twice."""
    yield from _hash_links(clips, cfg)
    for kind in sorted({c.kind for c in clips}):
        members = [(i, c.short) for i, c in enumerate(clips) if c.kind == kind and c.short is not None and c.short.any()]
        if members:
            x = np.stack([short for _, short in members])
            for i, j in near_vectors.near_pairs(x, x, cfg.min_cosine):
                yield from ((members[a][0], members[b][0]) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b)


def _hash_links(clips: list[_Clip], cfg: DuplicatesConfig) -> Iterator[tuple[int, int]]:
    """Pairs of clip positions that are near-duplicates, from the distances of all pairs of hashes of a kind that are not both probes."""
    for kind in sorted({c.kind for c in clips}):
        members = [i for i, c in enumerate(clips) if c.kind == kind and len(c.words)]
        if not members:
            continue
        words = np.concatenate([clips[i].words for i in members])
        frame = np.concatenate([clips[i].frames for i in members])
        owner = np.repeat(members, [len(clips[i].words) for i in members])
        own = np.flatnonzero(np.concatenate([clips[i].own for i in members]))
        matched: dict[tuple[int, int], tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
        for left, right in near_hashes.near_pairs(words[own], words, cfg.max_distance):
            other = owner[own[left]] != owner[right]
            for a, b in zip(own[left[other]].tolist(), right[other].tolist(), strict=True):
                a, b = (a, b) if owner[a] < owner[b] else (b, a)
                in_a, in_b = matched[int(owner[a]), int(owner[b])]
                in_a.add(int(frame[a]))
                in_b.add(int(frame[b]))
        count = {i: len(set(clips[i].frames.tolist())) for i in members}
        for (first, second), (in_a, in_b) in matched.items():
            if cfg.enough(min(len(in_a), len(in_b)), count[first], count[second]):
                yield first, second


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def label_duplicates_on_spark(rows: "DataFrame", cfg: DuplicatesConfig) -> "DataFrame":
    """The rows of `label_duplicates` in any order. Of clips it collects only the vectors that centroids are trained on; some jobs run eagerly."""
    return label_edges(rows, find_edges(rows, cfg))


def find_edges(rows: "DataFrame", cfg: DuplicatesConfig, cells: Cells | None = None) -> "DataFrame":
    """Edges (u, v) that join the near-duplicates among the rows; where clips are not fresh, together with those found between these before.

    Not every pair is an edge, but as many as make the same groups. Vectors are looked for in the given cells, or in cells trained on them.
    """
    clips = prepared(rows)
    edges = _hash_edges(clips, cfg) if "pdq" in rows.columns else None
    if "vector" in rows.columns:
        found = near_vectors.edges_on_spark(clips, cfg.min_cosine, cfg.cells, cells)
        edges = found if edges is None else edges.unionByName(found)
    if edges is None:
        raise ValueError(f"duplicates: a column pdq or vector expected, found {', '.join(rows.columns)}")
    return edges


def label_edges(rows: "DataFrame", edges: "DataFrame") -> "DataFrame":
    """OUTPUT of the rows, given the edges (u, v) between them."""
    labelled = label_groups(prepared(rows), connected_components(edges)).hint("shuffle_hash")
    return rows.select("clip_id").join(labelled, "clip_id", "left").fillna(0, "dup_rank").select(*OUTPUT.names)


def label_groups(clips: "DataFrame", groups: "DataFrame") -> "DataFrame":
    """OUTPUT of the clips (as from `prepared`) that are in a group (clip_id, label)."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    usual = (F.desc_nulls_last("quality"), F.desc_nulls_last("n_pixels"), F.asc("clip_id"))
    order = Window.partitionBy("label").orderBy(*usual)
    # Few clips are in a group: they are built into a table, and all clips stream past it.
    ranked = (
        clips.drop("kind", "pdq_frame", "fresh")
        .join(groups.hint("shuffle_hash"), "clip_id")
        .select(
            "clip_id",
            F.first("clip_id").over(order).alias("dup_group"),
            (F.row_number().over(order) - 1).alias("dup_rank"),
            *(c for n in ("pdq", "pdq_own", "vector") for c in (F.col(n), F.first(n).over(order).alias(f"keeper_{n}"))),
        )
    )
    return ranked.mapInArrow(_measure, spark_schema(OUTPUT))


def prepared(rows: "DataFrame") -> "DataFrame":
    """The rows with every column of the input, null where it is not given, and null for a quality that is not a number."""
    from pyspark.sql import functions as F

    types = {"pdq": "array<binary>", "pdq_frame": "array<int>", "pdq_own": "array<boolean>", "vector": "array<float>"}
    lists = {n: (F.col(n) if n in rows.columns else F.lit(None)).cast(t) for n, t in types.items()}
    quality = F.when(~F.isnan("quality"), F.col("quality")).alias("quality")
    vector = F.when(F.size("vector") > 0, lists["vector"]) if "vector" in rows.columns else lists["vector"]
    hashes = (lists[n].alias(n) for n in ("pdq", "pdq_frame", "pdq_own"))
    fresh = F.col("fresh") if "fresh" in rows.columns else F.lit(True)
    return rows.select("clip_id", "kind", quality, "n_pixels", *hashes, vector.alias("vector"), fresh.alias("fresh"))


def _hash_edges(clips: "DataFrame", cfg: DuplicatesConfig) -> "DataFrame":
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    # Clips with the very same hashes (re-uploads) are joined to one head first: k of them cost k rows, not k^2 / 2 pairs. A head is
    # fresh when all of them are: else one of them was compared before with all that is old.
    same = Window.partitionBy("kind", "pdq", "pdq_frame", "pdq_own")
    hashed = clips.where(F.size("pdq") > 0).drop("vector").withColumn("head", F.min("clip_id").over(same))
    hashed = hashed.withColumn("fresh", F.bool_and("fresh").over(same))
    copies = hashed.where("clip_id != head").select(F.col("clip_id").alias("u"), F.col("head").alias("v"))
    n_hashes = clips.agg(F.sum(F.size("pdq"))).collect()[0][0] or 0
    return copies.unionByName(_links_on_spark(hashed.where("clip_id = head"), n_hashes, cfg))


def _links_on_spark(heads: "DataFrame", n_hashes: int, cfg: DuplicatesConfig) -> "DataFrame":
    """Edges (u, v) between near-duplicate clips, which have at most so many hashes."""
    from pyspark.sql import functions as F

    # The number is given so that Spark does not merge partitions by bytes: this step is bound by comparing, not by volume.
    n = int(str(heads.sparkSession.conf.get("spark.sql.shuffle.partitions")))
    spread = near_hashes.one_block_batches if n_hashes <= near_hashes.FEW_HASHES else near_hashes.block_batches
    blocks = heads.select("clip_id", "kind", "pdq", "pdq_frame", "pdq_own", "fresh").mapInArrow(
        spread, spark_schema(near_hashes.BLOCK_ROWS)
    )
    sorted_blocks = blocks.repartition(n, "kind", "block").sortWithinPartitions("kind", "block")
    matches = sorted_blocks.mapInArrow(near_hashes.match_batches(cfg.max_distance), spark_schema(near_hashes.MATCHES))
    in_a, in_b = F.size(F.collect_set("fa")).alias("in_a"), F.size(F.collect_set("fb")).alias("in_b")
    matched = matches.groupBy("a", "b", "na", "nb").agg(in_a, in_b)
    shorter = F.least("na", "nb")
    needed = F.greatest(F.least(F.lit(cfg.min_matches), shorter), F.ceil(F.lit(cfg.min_share) * shorter))
    return matched.where(F.least("in_a", "in_b") >= needed).select(F.col("a").alias("u"), F.col("b").alias("v"))


def _measure(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The ranked rows with distance and similarity to the keeper in place of hashes and vectors."""
    for batch in batches:
        names = ("clip_id", "pdq", "pdq_own", "keeper_pdq", "keeper_pdq_own")
        rows = zip(*(batch[n].to_pylist() for n in names), strict=True)
        both = [(to_words(a, i), to_words(b, i), to_own(x, len(a or []), i), to_own(y, len(b or []), i)) for i, a, x, b, y in rows]
        found = pa.array([nearest(*pair) for pair in both], pa.int32())
        yield pa.RecordBatch.from_arrays(
            [batch["clip_id"], batch["dup_group"], batch["dup_rank"], found, _similarities(batch)], schema=OUTPUT
        )


def _similarities(batch: pa.RecordBatch) -> pa.Array:
    """The cosine float of `vector` and `keeper_vector` in each row; null where one is missing."""
    where = pc.and_(pc.is_valid(batch["vector"]), pc.is_valid(batch["keeper_vector"]))
    out = np.zeros(batch.num_rows)
    at = np.flatnonzero(where.to_numpy(zero_copy_only=False))
    if len(at):
        own = batch.filter(where)
        a = to_short(read_vectors(own["clip_id"], own["vector"], "duplicates"))
        out[at] = near_vectors.cosines(a, to_short(read_vectors(own["clip_id"], own["keeper_vector"], "duplicates", a.shape[1])))
    return pa.array(out, pa.float32(), mask=~where.to_numpy(zero_copy_only=False))
