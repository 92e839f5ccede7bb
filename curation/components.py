"""Connected components of a graph of clips on Spark, and two helpers that the Spark side of every table stage shares.

pyspark is imported inside the functions: without Spark the table stages run in plain Python.
"""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FEW_EDGES = 100_000
"""Edges up to which the driver finds the components: some 30 MB, and seconds instead of a minute on a small dataset."""

_LABELS = pa.schema([("clip_id", pa.string()), ("label", pa.string())])


def connected_components(edges: "DataFrame") -> "DataFrame":
    """(clip_id, label) for every end of an edge (u, v) with u != v; label is the smallest clip_id of its component.

    Alternating large-star and small-star (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond"): the edges never become
    more, and after O(log^2 n) rounds every component is a star around its smallest member. A window, not a collected list of
    neighbours, finds each smallest neighbour, so that a clip with millions of edges spills to disk instead of failing. Runs eagerly.
    """
    from pyspark.sql import functions as F

    u, v = F.col("u"), F.col("v")
    edges, state = _settle(edges.where(u != v).select(F.greatest(u, v).alias("u"), F.least(u, v).alias("v")))
    if state[0] <= FEW_EDGES:
        return _on_driver(edges)
    while True:
        both = edges.unionByName(edges.select(v.alias("u"), u.alias("v")))
        large = _with_smallest(both).where(v > u).select(v.alias("u"), F.col("m").alias("v"))
        small = _with_smallest(large)
        stars = small.select(u, F.col("m").alias("v")).unionByName(small.select(v.alias("u"), F.col("m").alias("v")))
        edges, after = _settle(stars.where(u != v))
        if after == state:
            break
        state = after
    centres = edges.select(v.alias("clip_id"), v.alias("label")).distinct()
    return edges.select(u.alias("clip_id"), v.alias("label")).unionByName(centres)


def _on_driver(edges: "DataFrame") -> "DataFrame":
    """The components of few edges, by union-find in this process; the same rows as the rounds give, without their dozens of jobs."""
    parent: dict[str, str] = {}

    def root(clip_id: str) -> str:
        while (above := parent.setdefault(clip_id, clip_id)) != clip_id:
            parent[clip_id] = parent[above]
            clip_id = parent[clip_id]
        return clip_id

    for u, v in zip(*(c.to_pylist() for c in edges.toArrow().select(["u", "v"]).columns), strict=True):
        low, high = sorted((root(u), root(v)))
        parent[high] = low
    labels = pa.table({"clip_id": list(parent), "label": [root(c) for c in parent]}, schema=_LABELS)
    return edges.sparkSession.createDataFrame(labels)


def _with_smallest(edges: "DataFrame") -> "DataFrame":
    """The edges (u, v) with m, the smallest of u and all its neighbours v."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    return edges.withColumn("m", F.least(F.col("u"), F.min("v").over(Window.partitionBy("u"))))


def _settle(edges: "DataFrame") -> tuple["DataFrame", tuple[Any, ...]]:
    """The distinct edges, computed and cut from their history, and a fingerprint of the set (count and two sums of 64-bit hashes)."""
    from pyspark.sql import functions as F

    edges = cut_history(edges.distinct())
    sums = [F.sum(F.xxhash64(a, b).cast("decimal(38,0)")) for a, b in (("u", "v"), ("v", "u"))]
    return edges, tuple(edges.agg(F.count("*"), *sums).collect()[0])


def cut_history(rows: "DataFrame") -> "DataFrame":
    """The rows, computed once and kept: in the session's checkpoint folder where it has one, else on the executors."""
    return rows.checkpoint() if rows.sparkSession.sparkContext.getCheckpointDir() else rows.localCheckpoint()


def spark_schema(schema: pa.Schema) -> Any:
    """The Arrow schema as the struct type that mapInArrow wants."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)
