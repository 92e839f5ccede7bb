"""Clusters, merging, sampling at 1/sqrt(size), and results that depend on nothing but the clips."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import kmeans
from curation.concepts import OUTPUT, ConceptsConfig, exempt, keep_probabilities, label_concepts
from curation.near_vectors import VectorError

SIZES = (400, 100, 25)


def vectors(sizes: tuple[int, ...] = SIZES, spread: float = 0.05) -> pa.Table:
    """Clips around axes of space: sizes[i] of them near axis i."""
    rng = np.random.Generator(np.random.Philox(key=4))
    x = np.concatenate([np.eye(8)[i] + spread * rng.normal(size=(n, 8)) for i, n in enumerate(sizes)])
    return table_of(x.tolist())


def table_of(rows: list[Any]) -> pa.Table:
    return pa.table({"clip_id": [f"{i:05}" for i in range(len(rows))], "vector": pa.array(rows, pa.list_(pa.float32()))})


def test_clusters_are_found_and_sampled_by_their_size() -> None:
    """Three concepts of 400, 100 and 25 clips, split finer by k-means, are merged again and kept at 1/4, 1/2 and 1."""
    out = label_concepts(vectors(), ConceptsConfig(merge_cosine=0.9))
    assert out.schema.equals(OUTPUT)
    rows = out.to_pylist()
    by_size = {r["cluster_size"]: r["keep_probability"] for r in rows}
    assert by_size == {400: 0.25, 100: 0.5, 25: 1.0}
    assert len({r["cluster_no"] for r in rows}) == 3
    kept = Counter(r["cluster_size"] for r in rows if r["concept_margin"] > 0)
    assert kept[25] == 25
    assert kept[400] == pytest.approx(100, abs=30)
    assert kept[100] == pytest.approx(50, abs=17)


def test_the_margin_is_the_decision() -> None:
    """concept_margin = keep_probability - draw, positive exactly when the draw is below the probability."""
    for r in label_concepts(vectors(), ConceptsConfig()).to_pylist():
        assert 0 <= r["draw"] < 1
        assert r["concept_margin"] == pytest.approx(r["keep_probability"] - r["draw"], abs=1e-6)
        assert (r["concept_margin"] > 0) == (r["draw"] < r["keep_probability"])


@given(st.integers(0, 10**6), st.sampled_from([50, 65_536]))
@settings(max_examples=8, deadline=None)
def test_order_and_batches_do_not_matter(seed: int, max_sample: int) -> None:
    """Shuffled rows in other batches give the same table bit by bit, also when centroids come from a sample."""
    table, cfg = vectors((60, 30, 9), spread=0.3), ConceptsConfig(max_sample=max_sample, max_clusters=32)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(table))
    shuffled = table.take(pa.array(order))
    cut = seed % len(table)
    pieces = pa.concat_tables([shuffled.slice(0, cut), shuffled.slice(cut)])
    assert label_concepts(pieces, cfg).sort_by("clip_id").to_pylist() == label_concepts(table, cfg).to_pylist()


def test_the_seed_changes_the_draws() -> None:
    """Another seed draws anew; the same seed repeats."""
    one, again, other = (label_concepts(vectors(), ConceptsConfig(seed=s))["draw"].to_pylist() for s in (1, 1, 2))
    assert one == again != other


def test_few_clips_are_all_kept() -> None:
    """Below min_clips every probability is 1, and clusters are still named."""
    rows = label_concepts(vectors((20, 3, 1)), ConceptsConfig(min_clips=64)).to_pylist()
    assert {r["keep_probability"] for r in rows} == {1.0}
    assert all(r["concept_margin"] > 0 and r["cluster_no"] is not None for r in rows)


def test_a_clip_without_a_vector_is_unknown() -> None:
    """It has no cluster, size, probability or margin, and does not count in the others' sizes."""
    out = label_concepts(table_of([[1.0, 0.0], None, [0.0, 1.0]]), ConceptsConfig()).to_pylist()
    assert [r["concept_margin"] is None for r in out] == [False, True, False]
    assert out[1]["cluster_no"] is out[1]["cluster_size"] is out[1]["keep_probability"] is None
    assert [out[0]["cluster_size"], out[2]["cluster_size"]] == [1, 1]


@pytest.mark.parametrize("rows", [[], [None], [[1.0, 2.0]], [[0.0, 0.0]] * 3, [[1.0, 1.0]] * 100])
def test_degenerate_tables_pass(rows: list[Any]) -> None:
    """No clips, no vectors, one clip, zero vectors and equal vectors give one row a clip."""
    assert len(label_concepts(table_of(rows), ConceptsConfig())) == len(rows)


@pytest.mark.parametrize(
    ("bad", "said"),
    [([1.0], "2 values expected, found 1"), ([1.0, math.nan], "finite"), ([1.0, None], "finite"), ([math.inf, 0.0], "finite")],
)
def test_broken_vectors_are_named(bad: list[Any], said: str) -> None:
    """A vector of another length, or with NaN, null or infinity, raises an error that names its clip."""
    rows = [[1.0, 0.0]] * 40 + [bad]
    with pytest.raises(
        VectorError, match=rf"clip 000(40|00): concepts: .*{said}|clip \d+: concepts: a vector of 1 values expected, found 2"
    ):
        label_concepts(table_of(rows), ConceptsConfig())


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.floats(0.05, 1.0), st.floats(0.5, 1.0))
def test_probabilities_follow_one_over_root_of_size(sizes: list[int], kept_share: float, max_probability: float) -> None:
    """At rate 1, p * sqrt(size) is one constant and the smallest cluster has max_probability; kept_share is met in expectation."""
    named = dict(enumerate(sizes))
    plain = keep_probabilities(named, ConceptsConfig(min_clips=1, max_probability=max_probability))
    assert max(plain.values()) == plain[sizes.index(min(sizes))] == max_probability
    for c, n in named.items():
        assert plain[c] * math.sqrt(n) == pytest.approx(max_probability * math.sqrt(min(sizes)))
    share = kept_share * max_probability
    solved = keep_probabilities(named, ConceptsConfig(min_clips=1, max_probability=max_probability, kept_share=share))
    assert sum(solved[c] * n for c, n in named.items()) == pytest.approx(share * sum(sizes), rel=1e-9)
    assert max(solved.values()) <= max_probability


@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 64))
@settings(max_examples=20, deadline=None)
def test_dot_products_are_exact(seed: int, n: int, d: int) -> None:
    """Assignment row by row, in Python's whole numbers, equals assignment in bulk: no rounding, so no dependence on batches."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    x, c = kmeans.to_whole(rng.normal(size=(n, d))), kmeans.to_whole(rng.normal(size=(5, d)))
    exact = [max(range(5), key=lambda j: (sum(int(p) * int(q) for p, q in zip(row, c[j], strict=True)), -j)) for row in x]
    assert kmeans.assign(x, c).tolist() == exact


def test_chains_of_alike_centroids_take_the_smallest_name() -> None:
    """Centroids 10 degrees apart in a chain become one concept named 0; one that lies far keeps its own name."""
    angles = np.radians([20.0, 180.0, 0.0, 10.0])
    c = kmeans.to_whole(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert kmeans.merge(c, math.cos(math.radians(10.5))).tolist() == [0, 1, 0, 0]
    assert kmeans.merge(c, 1.5).tolist() == [0, 1, 2, 3]


def test_a_cap_keeps_so_many_of_each_cluster() -> None:
    """MetaCLIP's way: clusters of 400 and 100 at a cap of 50 are kept at 1/8 and 1/2, one of 25 whole."""
    rows = label_concepts(vectors(), ConceptsConfig(method="cap", max_per_cluster=50, merge_cosine=0.9)).to_pylist()
    assert {r["cluster_size"]: r["keep_probability"] for r in rows} == {400: 0.125, 100: 0.5, 25: 1.0}


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_semdedup_keeps_the_farthest_of_those_alike(seed: int) -> None:
    """A clip is dropped exactly when its leaf holds one farther from the centroid within the cosine; the order of the rows does not matter."""
    table = vectors((60, 30, 9), spread=0.12)
    cfg = ConceptsConfig(method="semdedup", max_cosine=0.97, clusters=3, merge_cosine=0.999)
    out = label_concepts(table, cfg).to_pylist()
    x = kmeans.to_whole(np.array(table["vector"].to_pylist(), np.float64))
    centre = {
        p: kmeans.to_whole(x[[r["cluster_path"] == p for r in out]].sum(axis=0, keepdims=True))[0] for p in {r["cluster_path"] for r in out}
    }
    dropped = {r["clip_id"] for r in out if r["keep_probability"] == 0}
    assert 10 < len(dropped) < 90 and all(r["keep_probability"] in (0, 1) for r in out)
    for i, r in enumerate(out):
        alike = [j for j, o in enumerate(out) if j != i and o["cluster_path"] == r["cluster_path"] and x[i] @ x[j] >= 0.97 * 2**40]
        farther = [j for j in alike if x[j] @ centre[r["cluster_path"]] < x[i] @ centre[r["cluster_path"]]]
        assert (r["clip_id"] in dropped) == bool(farther)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(table))
    assert label_concepts(table.take(pa.array(order)), cfg).sort_by("clip_id").to_pylist() == out


def test_exempt_clips_are_kept() -> None:
    """An exempt clip has probability 1, counts in its cluster, and without a vector stays unknown."""
    table = vectors()
    flags = pa.array([i % 2 == 0 for i in range(len(table))])
    plain = label_concepts(table, ConceptsConfig(merge_cosine=0.9)).to_pylist()
    for method in ("balance", "cap", "semdedup"):
        cfg = ConceptsConfig(method=method, max_per_cluster=10, merge_cosine=0.9)
        rows = label_concepts(table.append_column("exempt", flags), cfg).to_pylist()
        assert all(r["keep_probability"] == 1 and r["concept_margin"] > 0 for r in rows[::2])
        assert [r["cluster_size"] for r in rows] == [r["cluster_size"] for r in plain]
        assert any(r["keep_probability"] < 1 for r in rows[1::2])
    unknown = table_of([None, [1.0, 0.0]]).append_column("exempt", pa.array([True, True]))
    assert label_concepts(unknown, ConceptsConfig()).to_pylist()[0]["keep_probability"] is None


def test_the_first_measured_says_who_is_exempt() -> None:
    """The taxonomy of actions decides where it was run, a person detector where it was not; with neither, or switched off, nobody is exempt."""
    clips = pa.table(
        {
            "human_action": pa.array([1.0, 0.0, None, None, None], pa.float32()),
            "has_people": pa.array([0.0, 1.0, 1.0, 0.0, None], pa.float32()),
        }
    )
    assert exempt(clips, ConceptsConfig()).to_pylist() == [True, False, True, False, False]
    assert exempt(clips, ConceptsConfig(exempt=("human_action",))).to_pylist() == [True, False, False, False, False]
    assert exempt(clips, ConceptsConfig(exempt=())).to_pylist() == [False] * 5


def test_two_levels_name_the_same_concepts() -> None:
    """Concepts found in two levels are those found in one, by other paths; a path is 'top/leaf' and belongs to one cluster."""
    one, two = (label_concepts(vectors(), ConceptsConfig(levels=n, clusters=16, merge_cosine=0.9)).to_pylist() for n in (1, 2))
    assert [r["cluster_size"] for r in one] == [r["cluster_size"] for r in two]
    assert {r["cluster_path"].split("/")[0] for r in one} == {"0"}
    assert len({r["cluster_path"] for r in two}) == len({(r["cluster_path"], r["cluster_no"]) for r in two}) == 3


def test_outliers_do_not_thin_the_others() -> None:
    """A cluster smaller than `smallest` counts as that large: the others are kept as if it had that many."""
    p = keep_probabilities({0: 2, 1: 100, 2: 400}, ConceptsConfig(min_clips=1, smallest=25))
    assert p == {0: 1.0, 1: 0.5, 2: 0.25}


@pytest.mark.parametrize(
    "bad", [{"max_probability": 0.0}, {"rate": -1.0}, {"kept_share": 1.5}, {"min_clusters": 0}, {"method": "none"}, {"levels": 3}]
)
def test_impossible_configs_are_refused(bad: dict[str, Any]) -> None:
    """A probability, rate, share or number of clusters that cannot be is refused at once."""
    with pytest.raises(ValueError, match="concepts: "):
        ConceptsConfig(**bad)
