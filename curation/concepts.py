"""Concept balance: clips in clusters of like content, common clusters sampled less. Table stage, one row out for one row in.

In:   clip_id string, vector list<float> (null = not measured), optionally exempt bool (true = kept whatever its cluster), of clips still alive
Out:  clip_id, cluster_no int, cluster_path string 'a/b', cluster_size int, keep_probability float, draw float, concept_margin float

Three methods, one output. Clips fall into the leaves of a k-means tree of one or two levels; leaves with like centroids are one cluster,
named by its first leaf. A clip is kept when draw < keep_probability, that is concept_margin > 0; the draw is
`ids.uniform(seed, "concept", clip_id)`, so any subset can be derived again from what is stored.

balance   Movie Gen, Three filter stages: each cluster sampled at 1/sqrt(size) (Mahajan et al. 2018, arXiv 1805.00932). With s the size of
          the smallest cluster (at least `smallest`) and n of the clip's own: keep_probability = max_probability * min(1, rate * sqrt(s / n)), so at rate 1 the
          smallest cluster has the largest probability. `kept_share` instead solves for the rate that keeps that share in expectation.
cap       MetaCLIP (Xu et al. 2023, arXiv 2309.16671): min(1, max_per_cluster / n) * max_probability.
semdedup  SemDeDup (Abbas et al. 2023, arXiv 2303.09540): inside a leaf, sorted farthest from the centroid first, 0 for a clip within
          max_cosine of one before it, else max_probability. Quadratic in the size of a leaf.

Exempt clips have probability 1: the paper's human set keeps its frequency. They count in the size of their cluster. Centroids are trained
on the clips with the smallest keyed draws, in the order of those draws: the result does not depend on the order of rows or on partitions.
A clip without a vector has no cluster, no probability and no margin: unknown, which is not a pass.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import kmeans, semdedup
from curation.cells import to_short
from curation.components import cut_history, spark_schema
from curation.draws import draw_column, order_of, take_sample
from curation.near_vectors import read_vectors, to_binary
from manifests import ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

OUTPUT = pa.schema(
    [
        ("clip_id", pa.string()),
        ("cluster_no", pa.int32()),
        ("cluster_path", pa.string()),
        ("cluster_size", pa.int32()),
        ("keep_probability", pa.float32()),
        ("draw", pa.float32()),
        ("concept_margin", pa.float32()),
    ]
)
_INPUT = pa.schema([("clip_id", pa.string()), ("vector", pa.list_(pa.float32())), ("exempt", pa.bool_())])
_LABELS = pa.schema(
    [("clip_id", pa.string()), ("exempt", pa.bool_()), ("cluster_no", pa.int32()), ("cluster_path", pa.string()), ("dropped", pa.bool_())]
)
_PURPOSE, _SAMPLE = "concept", "concept-sample"
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
FLAT_CLUSTERS = 256
"""Clusters up to which one level is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsConfig:
    """How clips are clustered and sampled. The paper gives 1/sqrt(size) and no other number: the defaults are ours."""

    seed: int = 0
    method: Literal["balance", "cap", "semdedup"] = "balance"
    clusters: int | None = None  # null: sqrt of the number of clips, within the next two
    min_clusters: int = 4
    max_clusters: int = 4096
    levels: int | None = None  # of the tree, 1 or 2; null: 2 beyond 256 clusters
    max_sample: int = 65_536  # clips that centroids are trained on, held by the driver: 256 MB at 512 dimensions
    max_iterations: int = 25
    merge_cosine: float = 0.97  # clusters whose centroids are this alike are one concept
    min_clips: int = 64  # with fewer, all are kept: a handful of clips has no frequencies worth balancing
    max_probability: float = 1.0
    rate: float = 1.0
    smallest: int = (
        1  # balance: clusters of fewer clips count as this large, so that an outlier's does not thin all others; they are kept whole
    )
    kept_share: float | None = None  # balance: the paper's funnel keeps 0.94 / 1.15 = 0.82 at this step
    max_per_cluster: int = 20_000  # cap: MetaCLIP's for 400 M pairs
    max_cosine: float = 0.95  # semdedup: ours
    exempt: tuple[str, ...] = ("human_action", "has_people")  # kept where the first of these that was measured is 1; empty: nothing is

    def __post_init__(self) -> None:
        for name, low, high in (("max_probability", 0.0, 1.0), ("merge_cosine", -1.0, math.inf), ("rate", 0.0, math.inf)):
            if not low < getattr(self, name) <= high:
                raise ValueError(f"concepts: {name} is {getattr(self, name)}, expected more than {low} and at most {high}")
        if self.kept_share is not None and not 0 < self.kept_share <= self.max_probability:
            raise ValueError(f"concepts: kept_share is {self.kept_share}, expected more than 0 and at most max_probability")
        if self.method not in ("balance", "cap", "semdedup"):
            raise ValueError(f"concepts: method is {self.method!r}, expected balance, cap or semdedup")
        if self.levels not in (None, 1, 2) or min(self.max_per_cluster, self.smallest) < 1 or not 0 < self.max_cosine <= 1:
            raise ValueError(f"concepts: expected levels 1 or 2, max_per_cluster and smallest >= 1 and 0 < max_cosine <= 1, found {self}")
        if not 1 <= self.min_clusters <= self.max_clusters <= self.max_sample:
            raise ValueError(f"concepts: expected 1 <= min_clusters <= max_clusters <= max_sample, found {self}")

    def k(self, n_clips: int) -> int:
        """How many clusters are looked for among n_clips clips: never more than there are clips to train on."""
        wanted = self.clusters or min(max(round(math.sqrt(n_clips)), self.min_clusters), self.max_clusters)
        return min(wanted, n_clips, self.max_sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """A trained tree, and the cluster number [k] of each of its leaves after merging: that of the first leaf it is merged with."""

    tree: kmeans.Tree
    cluster_no: np.ndarray


def label_concepts(table: pa.Table, cfg: ConceptsConfig) -> pa.Table:
    """Every clip has its cluster, probability, draw and margin, in the order of the rows. Raises VectorError on a broken vector."""
    exempt = table["exempt"] if "exempt" in table.column_names else pa.nulls(table.num_rows, pa.bool_())
    table = pa.table({"clip_id": table["clip_id"], "vector": table["vector"], "exempt": exempt}, schema=_INPUT)
    known = table.filter(pc.is_valid(table["vector"]))
    order = order_of(cfg.seed, _SAMPLE, known["clip_id"].to_pylist())
    sample = known.take(pa.array(order[: cfg.max_sample], pa.int64()))
    concepts = train_concepts(sample, known.num_rows, cfg)
    labels = pa.Table.from_batches([_assigned(batch, concepts) for batch in table.combine_chunks().to_batches()], _LABELS)
    if cfg.method == "semdedup":
        leaves = pa.Table.from_batches([_in_leaves(batch, concepts) for batch in known.combine_chunks().to_batches()], semdedup.LEAVES)
        dropped = set(semdedup.drop(leaves.sort_by("leaf"), cfg.max_cosine))
        labels = labels.set_column(4, "dropped", pa.array([i in dropped for i in labels["clip_id"].to_pylist()]))
    sizes = Counter(labels["cluster_no"].drop_null().to_pylist())
    probability = keep_probabilities(sizes, cfg)
    return pa.Table.from_batches([_sampled(batch, probability, sizes, cfg) for batch in labels.to_batches()], OUTPUT)


def train_concepts(sample: pa.Table, n_clips: int, cfg: ConceptsConfig) -> Concepts:
    """The tree of the sample (clip_id, vector; in the order of its draws) for n_clips clips in all, and which leaves are one concept."""
    if not sample.num_rows:
        empty = np.zeros((0, 0))
        return Concepts(tree=kmeans.Tree(tops=empty, leaves=empty, starts=np.zeros(1, np.int64)), cluster_no=np.zeros(0, np.int64))
    clip_ids, vectors = sample["clip_id"].combine_chunks(), sample["vector"].combine_chunks()
    x, k = kmeans.to_whole(read_vectors(clip_ids, vectors, "concepts")), cfg.k(n_clips)
    tree = kmeans.train_tree(x, k, cfg.levels or (2 if k > FLAT_CLUSTERS else 1), cfg.max_iterations, cfg.seed)
    return Concepts(tree=tree, cluster_no=kmeans.merge(tree.leaves, cfg.merge_cosine))


def exempt(clips: pa.Table, cfg: ConceptsConfig) -> pa.Array:
    """Which clips are kept whatever their cluster: where the first of `cfg.exempt` that was measured is 1."""
    if not cfg.exempt:
        return pa.array(np.zeros(clips.num_rows, bool))
    return pc.fill_null(pc.equal(pc.coalesce(*(clips.column(name) for name in cfg.exempt)), 1.0), False)


def keep_probabilities(sizes: Mapping[int, int], cfg: ConceptsConfig) -> dict[int, float]:
    """The probability with which a clip of each cluster is kept, from the clusters' sizes; see the formula above."""
    n_clips = sum(sizes.values())
    if n_clips < max(1, cfg.min_clips) and cfg.method == "balance":
        return dict.fromkeys(sizes, 1.0)
    if cfg.method == "semdedup":
        return dict.fromkeys(sizes, cfg.max_probability)
    if cfg.method == "cap":
        return {c: cfg.max_probability * min(1.0, cfg.max_per_cluster / n) for c, n in sizes.items()}
    smallest = max(cfg.smallest, min(sizes.values()))
    rate = (
        cfg.rate if cfg.kept_share is None else _rate_for(cfg.kept_share / cfg.max_probability * n_clips, sorted(sizes.values()), smallest)
    )
    return {c: cfg.max_probability * min(1.0, rate * math.sqrt(smallest / n)) for c, n in sizes.items()}


def _rate_for(wanted: float, sizes: list[int], smallest: int) -> float:
    """The rate at which sum(n * min(1, rate * sqrt(smallest / n))) over the ascending sizes is `wanted` clips."""
    whole = 0
    for i, n in enumerate(sizes):
        # Were the i smallest clusters kept whole, the others would have to give the rest.
        rate = (wanted - whole) / sum(math.sqrt(smallest * m) for m in sizes[i:])
        if rate * math.sqrt(smallest / n) <= 1:
            return rate
        whole += n
    return math.sqrt(sizes[-1] / smallest)


def _leaves_of(batch: pa.RecordBatch, tree: kmeans.Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For rows with a vector: the leaf, the vectors as `kmeans` wants them, and as read."""
    vectors = read_vectors(batch["clip_id"], batch["vector"], "concepts", tree.leaves.shape[1])
    x = kmeans.to_whole(vectors)
    return kmeans.assign_tree(x, tree), x, vectors


def _assigned(batch: pa.RecordBatch, concepts: Concepts) -> pa.RecordBatch:
    """_LABELS of the rows, none dropped; no cluster where there is no vector."""
    where = pc.is_valid(batch["vector"]).to_numpy(zero_copy_only=False)
    names, paths = np.zeros(batch.num_rows, np.int64), pa.nulls(batch.num_rows, pa.string())
    if where.any():
        names[where] = concepts.cluster_no[_leaves_of(batch.filter(pa.array(where)), concepts.tree)[0]]
        paths = pa.array(concepts.tree.paths(), pa.string()).take(pa.array(names, mask=~where))
    columns = [batch["clip_id"], batch["exempt"], pa.array(names, pa.int32(), mask=~where), paths, pa.array(np.zeros(len(where), bool))]
    return pa.RecordBatch.from_arrays(columns, schema=_LABELS)


def _in_leaves(batch: pa.RecordBatch, concepts: Concepts) -> pa.RecordBatch:
    """What semdedup compares, of rows with a vector."""
    leaf, x, vectors = _leaves_of(batch, concepts.tree)
    near = np.einsum("nd,nd->n", x, concepts.tree.leaves[leaf])
    columns = [batch["clip_id"], pa.array(leaf, pa.int32()), pa.array(near.astype(np.int64)), to_binary(to_short(vectors))]
    return pa.RecordBatch.from_arrays(columns, schema=semdedup.LEAVES)


def _sampled(batch: pa.RecordBatch, probability: Mapping[int, float], sizes: Mapping[int, int], cfg: ConceptsConfig) -> pa.RecordBatch:
    """The output rows of _LABELS rows. The margin is taken before rounding, so that its sign is that of the decision."""
    draws = np.array([ids.uniform(cfg.seed, _PURPOSE, i) for i in batch["clip_id"].to_pylist()])
    clusters, flags = batch["cluster_no"].to_pylist(), zip(batch["exempt"].to_pylist(), batch["dropped"].to_pylist(), strict=True)
    p = [None if c is None else 1.0 if e else 0.0 if d else probability[c] for c, (e, d) in zip(clusters, flags, strict=True)]
    margin = [None if q is None else q - d for q, d in zip(p, draws.tolist(), strict=True)]
    columns = [
        batch["clip_id"],
        batch["cluster_no"],
        batch["cluster_path"],
        pa.array([None if c is None else sizes[c] for c in clusters], pa.int32()),
        pa.array(p, pa.float32()),
        pa.array(np.minimum(draws.astype(np.float32), _BELOW_ONE), pa.float32()),
        pa.array(margin, pa.float32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=OUTPUT)


def label_concepts_on_spark(rows: "DataFrame", cfg: ConceptsConfig) -> "DataFrame":
    """The rows of `label_concepts` in any order. The driver holds the sample, the centroids and the clusters' sizes, no more."""
    from pyspark.sql import functions as F

    spark = rows.sparkSession
    exempt = (F.col("exempt") if "exempt" in rows.columns else F.lit(None)).cast("boolean").alias("exempt")
    rows = rows.select("clip_id", F.col("vector").cast("array<float>").alias("vector"), exempt)
    known = rows.where("vector IS NOT NULL").select("clip_id", "vector")
    n_clips = known.count()
    sample = take_sample(known, n_clips, cfg.max_sample, cfg.seed, _SAMPLE)
    concepts = spark.sparkContext.broadcast(train_concepts(sample, n_clips, cfg))

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _assigned(batch, concepts.value)

    labels = cut_history(rows.mapInArrow(assign, spark_schema(_LABELS)))
    if cfg.method == "semdedup":
        labels = cut_history(_marked(labels, known, concepts, cfg))
    sizes = {r["cluster_no"]: r["count"] for r in labels.where("cluster_no IS NOT NULL").groupBy("cluster_no").count().collect()}
    return _sampled_on_spark(labels, sizes, cfg)


def _sampled_on_spark(labels: "DataFrame", sizes: Mapping[int, int], cfg: ConceptsConfig) -> "DataFrame":
    """The rows of `_sampled`, by Spark alone: no row passes through Python."""
    from pyspark.sql import functions as F

    p = keep_probabilities(sizes, cfg)
    columns = {"cluster_no": list(p), "cluster_size": [sizes[c] for c in p], "p": list(p.values())}
    schema = pa.schema([("cluster_no", pa.int32()), ("cluster_size", pa.int32()), ("p", pa.float64())])
    clusters = labels.sparkSession.createDataFrame(pa.table(columns, schema=schema))
    drawn = labels.join(F.broadcast(clusters), "cluster_no", "left").withColumn("drawn", draw_column(cfg.seed, _PURPOSE))
    kept = F.when(F.col("exempt") & F.col("p").isNotNull(), 1.0).when(F.col("dropped") & F.col("p").isNotNull(), 0.0).otherwise(F.col("p"))
    return drawn.select(
        "clip_id",
        "cluster_no",
        "cluster_path",
        "cluster_size",
        kept.cast("float").alias("keep_probability"),
        F.least(F.col("drawn").cast("float"), F.lit(float(_BELOW_ONE)).cast("float")).alias("draw"),
        (kept - F.col("drawn")).cast("float").alias("concept_margin"),
    )


def _marked(labels: "DataFrame", known: "DataFrame", concepts: Any, cfg: ConceptsConfig) -> "DataFrame":
    """The labels with those clips marked that semdedup drops."""
    from pyspark.sql import functions as F

    def place(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                yield _in_leaves(batch, concepts.value)

    leaves = known.mapInArrow(place, spark_schema(semdedup.LEAVES)).repartition("leaf").sortWithinPartitions("leaf")
    dropped = leaves.mapInArrow(semdedup.drop_batches(cfg.max_cosine), spark_schema(semdedup.DROPPED)).withColumn("found", F.lit(True))
    joined = labels.drop("dropped").join(dropped, "clip_id", "left")
    return joined.withColumn("dropped", F.coalesce("found", F.lit(False))).select(*_LABELS.names)
