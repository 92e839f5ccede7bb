"""Concept balance: clips in clusters of like content, common clusters sampled less. Table stage, one row out for one row in.

In:   clip_id string, vector list<float> (null = not measured), of the clips that are still alive
Out:  clip_id, cluster_no int, cluster_size int, keep_probability float, draw float, concept_margin float

Movie Gen, Three filter stages: cluster joint embeddings into fine concepts, merge duplicate clusters, sample each at 1/sqrt(size)
(Mahajan et al. 2018, arXiv 1805.00932). With s the size of the smallest cluster and n that of the clip's own,

    keep_probability = max_probability * min(1, rate * sqrt(s / n))

so at rate 1 the smallest cluster has the largest probability and the others follow 1/sqrt(n). `kept_share` instead solves for the
rate that keeps that share of all clips in expectation. A clip is kept when draw < keep_probability, that is concept_margin > 0; the
draw is `ids.uniform(seed, "concept", clip_id)`, so any subset can be derived again from the ids alone.

Centroids are trained on the clips with the smallest keyed draws, in the order of those draws: the result does not depend on the order
of rows or on partitions. A clip without a vector has no cluster, no probability and no margin: unknown, which is not a pass.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import kmeans
from curation.components import cut_history, spark_schema
from manifests import ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

OUTPUT = pa.schema(
    [
        ("clip_id", pa.string()),
        ("cluster_no", pa.int32()),
        ("cluster_size", pa.int32()),
        ("keep_probability", pa.float32()),
        ("draw", pa.float32()),
        ("concept_margin", pa.float32()),
    ]
)
_LABELS = pa.schema([("clip_id", pa.string()), ("cluster_no", pa.int32())])
_DRAWS = pa.schema([("clip_id", pa.string()), ("vector", pa.list_(pa.float32())), ("order", pa.float64())])
MAX_DIMENSIONS = 4096
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


class ConceptsError(ValueError):
    """A vector is not what the stage can read; names the clip, the expected and the found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsConfig:
    """How clips are clustered and sampled. The paper gives 1/sqrt(size) and no other number: the defaults are ours."""

    seed: int = 0
    clusters: int | None = None  # null: sqrt of the number of clips, within the next two
    min_clusters: int = 4
    max_clusters: int = 4096
    max_sample: int = 65_536  # clips that centroids are trained on, held by the driver: 256 MB at 512 dimensions
    max_iterations: int = 25
    merge_cosine: float = 0.97  # clusters whose centroids are this alike are one concept
    min_clips: int = 64  # with fewer, all are kept: a handful of clips has no frequencies worth balancing
    max_probability: float = 1.0
    rate: float = 1.0
    kept_share: float | None = None  # the paper's funnel keeps 0.94 / 1.15 = 0.82 at this step

    def __post_init__(self) -> None:
        for name, low, high in (("max_probability", 0.0, 1.0), ("merge_cosine", -1.0, math.inf), ("rate", 0.0, math.inf)):
            if not low < getattr(self, name) <= high:
                raise ValueError(f"concepts: {name} is {getattr(self, name)}, expected more than {low} and at most {high}")
        if self.kept_share is not None and not 0 < self.kept_share <= self.max_probability:
            raise ValueError(f"concepts: kept_share is {self.kept_share}, expected more than 0 and at most max_probability")
        if not 1 <= self.min_clusters <= self.max_clusters <= self.max_sample:
            raise ValueError(f"concepts: expected 1 <= min_clusters <= max_clusters <= max_sample, found {self}")

    def k(self, n_clips: int) -> int:
        """How many clusters are looked for among n_clips clips: never more than there are clips to train on."""
        wanted = self.clusters or min(max(round(math.sqrt(n_clips)), self.min_clusters), self.max_clusters)
        return min(wanted, n_clips, self.max_sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """Trained centroids, whole numbers [k, d] as `kmeans` wants them, and the cluster number [k] of each after merging."""

    centroids: np.ndarray
    cluster_no: np.ndarray


def label_concepts(table: pa.Table, cfg: ConceptsConfig) -> pa.Table:
    """Every clip has its cluster, probability, draw and margin, in the order of the rows. Raises ConceptsError on a broken vector."""
    table = table.select(["clip_id", "vector"]).cast(pa.schema([("clip_id", pa.string()), ("vector", pa.list_(pa.float32()))]))
    known = table.filter(pc.is_valid(table["vector"]))
    clip_ids = known["clip_id"].to_pylist()
    order = sorted(range(len(clip_ids)), key=lambda i: (_order(cfg, clip_ids[i]), clip_ids[i]))
    sample = known.take(pa.array(order[: cfg.max_sample], pa.int64()))
    concepts = train_concepts(sample, known.num_rows, cfg)
    labels = [_assigned(batch, concepts) for batch in table.to_batches()]
    sizes = Counter(c for batch in labels for c in batch["cluster_no"].drop_null().to_pylist())
    probability = keep_probabilities(sizes, cfg)
    return pa.Table.from_batches([_sampled(batch, probability, sizes, cfg) for batch in labels], OUTPUT)


def train_concepts(sample: pa.Table, n_clips: int, cfg: ConceptsConfig) -> Concepts:
    """Centroids of the sample (clip_id, vector; in the order of its draws) for n_clips clips in all, and which of them are one concept."""
    if not sample.num_rows:
        return Concepts(centroids=np.zeros((0, 0)), cluster_no=np.zeros(0, np.int64))
    clip_ids, vectors = sample["clip_id"].combine_chunks(), sample["vector"].combine_chunks()
    x = kmeans.to_whole(_matrix(clip_ids, vectors, len(vectors[0])))
    centroids = kmeans.train(x, cfg.k(n_clips), cfg.max_iterations, cfg.seed)
    return Concepts(centroids=centroids, cluster_no=kmeans.merge(centroids, cfg.merge_cosine))


def keep_probabilities(sizes: Mapping[int, int], cfg: ConceptsConfig) -> dict[int, float]:
    """The probability with which a clip of each cluster is kept, from the clusters' sizes; see the formula above."""
    n_clips = sum(sizes.values())
    if n_clips < max(1, cfg.min_clips):
        return dict.fromkeys(sizes, 1.0)
    smallest = min(sizes.values())
    rate = cfg.rate if cfg.kept_share is None else _rate_for(cfg.kept_share / cfg.max_probability * n_clips, sorted(sizes.values()))
    return {c: cfg.max_probability * min(1.0, rate * math.sqrt(smallest / n)) for c, n in sizes.items()}


def _rate_for(wanted: float, sizes: list[int]) -> float:
    """The rate at which sum(n * min(1, rate * sqrt(s / n))) over the ascending sizes is `wanted` clips."""
    whole = 0
    for i, n in enumerate(sizes):
        # Were the i smallest clusters kept whole, the others would have to give the rest.
        rate = (wanted - whole) / sum(math.sqrt(sizes[0] * m) for m in sizes[i:])
        if rate * math.sqrt(sizes[0] / n) <= 1:
            return rate
        whole += n
    return math.sqrt(sizes[-1] / sizes[0])


def _order(cfg: ConceptsConfig, clip_id: str) -> float:
    return ids.uniform(cfg.seed, "concept-sample", clip_id)


def _matrix(clip_ids: pa.Array, vectors: pa.Array, n_dimensions: int) -> np.ndarray:
    """Vectors without nulls as float64 [n, d]; one of another length, or with a value that is not finite, raises ConceptsError."""
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise ConceptsError(f"clip {clip_ids[0]}: concepts: a vector of 1 to {MAX_DIMENSIONS} values expected, found {n_dimensions}")
    lengths = pc.list_value_length(vectors).to_numpy()
    odd = np.flatnonzero(lengths != n_dimensions)
    if len(odd):
        raise ConceptsError(f"clip {clip_ids[int(odd[0])]}: concepts: a vector of {n_dimensions} values expected, found {lengths[odd[0]]}")
    x = np.asarray(pc.list_flatten(vectors).to_numpy(zero_copy_only=False), np.float64).reshape(-1, n_dimensions)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise ConceptsError(f"clip {clip_ids[int(bad[0])]}: concepts: finite values expected, found null, NaN or infinity")
    return x


def _assigned(batch: pa.RecordBatch, concepts: Concepts) -> pa.RecordBatch:
    """(clip_id, cluster_no) of the rows; null where there is no vector."""
    known = pc.is_valid(batch["vector"])
    labels = np.zeros(batch.num_rows, np.int32)
    where = known.to_numpy(zero_copy_only=False)
    if where.any():
        own = batch.filter(known)
        x = kmeans.to_whole(_matrix(own["clip_id"], own["vector"], concepts.centroids.shape[1]))
        labels[where] = concepts.cluster_no[kmeans.assign(x, concepts.centroids)]
    return pa.RecordBatch.from_arrays([batch["clip_id"], pa.array(labels, pa.int32(), mask=~where)], schema=_LABELS)


def _sampled(batch: pa.RecordBatch, probability: Mapping[int, float], sizes: Mapping[int, int], cfg: ConceptsConfig) -> pa.RecordBatch:
    """The output rows of (clip_id, cluster_no) rows. The margin is taken before rounding, so that its sign is that of the decision."""
    draws = np.array([ids.uniform(cfg.seed, "concept", i) for i in batch["clip_id"].to_pylist()])
    clusters = batch["cluster_no"].to_pylist()
    p = [None if c is None else probability[c] for c in clusters]
    margin = [None if q is None else q - d for q, d in zip(p, draws.tolist(), strict=True)]
    columns = [
        batch["clip_id"],
        batch["cluster_no"],
        pa.array([None if c is None else sizes[c] for c in clusters], pa.int32()),
        pa.array(p, pa.float32()),
        pa.array(np.minimum(draws.astype(np.float32), _BELOW_ONE), pa.float32()),
        pa.array(margin, pa.float32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=OUTPUT)


def label_concepts_on_spark(rows: "DataFrame", cfg: ConceptsConfig) -> "DataFrame":
    """The rows of `label_concepts` in any order. The driver holds the sample, the centroids and the clusters' sizes, no more."""
    from pyspark.sql import functions as F

    context = rows.sparkSession.sparkContext
    rows = rows.select("clip_id", F.col("vector").cast("array<float>").alias("vector"))
    known = rows.where("vector IS NOT NULL")
    n_clips = known.count()
    concepts = context.broadcast(train_concepts(_sample(known, n_clips, cfg), n_clips, cfg))

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _assigned(batch, concepts.value)

    labels = cut_history(rows.mapInArrow(assign, spark_schema(_LABELS)))
    sizes = {r["cluster_no"]: r["count"] for r in labels.where("cluster_no IS NOT NULL").groupBy("cluster_no").count().collect()}
    probability = keep_probabilities(sizes, cfg)

    def sample_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _sampled(batch, probability, sizes, cfg)

    return labels.mapInArrow(sample_rows, spark_schema(OUTPUT))


def _sample(known: "DataFrame", n_clips: int, cfg: ConceptsConfig) -> pa.Table:
    """The max_sample clips with the smallest draws, in the order of draws, on the driver."""
    drawn = known.select("clip_id", "vector").mapInArrow(_with_order(cfg), spark_schema(_DRAWS))
    # Sorting the vectors of all clips to keep a few would move them all to one place: cut first where the draws say the few must lie
    # (ten standard deviations to spare), and only if that was not enough take all.
    enough = min(cfg.max_sample, n_clips)
    cutoff = (enough + 10 * math.sqrt(enough)) / max(1, n_clips)
    sample = drawn.where(drawn["order"] < cutoff).orderBy("order", "clip_id").limit(enough).toArrow()
    if sample.num_rows < enough:
        sample = drawn.orderBy("order", "clip_id").limit(enough).toArrow()
    return sample.select(["clip_id", "vector"])


def _with_order(cfg: ConceptsConfig) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A mapInArrow function that adds each clip's place in the order of sampling."""

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            order = pa.array([_order(cfg, i) for i in batch["clip_id"].to_pylist()], pa.float64())
            yield pa.RecordBatch.from_arrays([batch["clip_id"], batch["vector"], order], schema=_DRAWS)

    return add
