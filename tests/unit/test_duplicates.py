"""Near-duplicate groups, keepers and distances, and the completeness of the search by blocks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.duplicates import OUTPUT, DuplicatesConfig, label_duplicates
from curation.near_hashes import MOST_PARTNERS, SMALL_BLOCK, HashError, block_batches, distances, match_batches, one_block_batches, to_words

CFG = DuplicatesConfig()


def picture(seed: int) -> np.ndarray:
    """256 bits of a picture; different seeds lie about 128 bits apart."""
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, 2, 256, dtype=np.uint8)


def flipped(bits: np.ndarray, n: int, start: int = 0) -> bytes:
    """The hash with n bits flipped, from bit `start` on."""
    out = bits.copy()
    out[start : start + n] ^= 1
    return np.packbits(out).tobytes()


def clips(*rows: dict[str, Any]) -> pa.Table:
    """A table of clips a, b, c … of equal quality, kind and size unless a row says otherwise."""
    base = {"kind": "video", "quality": 1.0, "n_pixels": 100, "pdq_frame": None, "pdq_own": None}
    types = [("kind", pa.string()), ("quality", pa.float64()), ("n_pixels", pa.int64()), ("pdq", pa.list_(pa.binary()))]
    schema = pa.schema([("clip_id", pa.string()), *types, ("pdq_frame", pa.list_(pa.int32())), ("pdq_own", pa.list_(pa.bool_()))])
    return pa.Table.from_pylist([{"clip_id": "abcdefgh"[i], **base, **row} for i, row in enumerate(rows)], schema=schema)


def found(table: pa.Table, cfg: DuplicatesConfig = CFG) -> list[tuple[str | None, int, int | None]]:
    out = label_duplicates(table, cfg)
    assert out.schema.equals(OUTPUT)
    return [(r["dup_group"], r["dup_rank"], r["dup_distance"]) for r in out.to_pylist()]


def test_a_copy_is_grouped_with_its_distance() -> None:
    """31 bits apart is a copy, 32 is not; a clip alone has no group, rank 0 and no distance."""
    x = picture(1)
    assert found(clips({"pdq": [flipped(x, 0)]}, {"pdq": [flipped(x, 31)]})) == [("a", 0, 0), ("a", 1, 31)]
    assert found(clips({"pdq": [flipped(x, 0)]}, {"pdq": [flipped(x, 32)]})) == [(None, 0, None), (None, 0, None)]


def test_the_best_is_kept() -> None:
    """The keeper is first by quality, then by pixels, then by clip_id; an unknown quality comes last."""
    same = {"pdq": [flipped(picture(1), 0)]}
    table = clips(
        {**same, "quality": None, "n_pixels": 900},
        {**same, "quality": 2.0, "n_pixels": 50},
        {**same, "quality": 2.0, "n_pixels": 70},
        {**same, "quality": 2.0, "n_pixels": 70},
    )
    assert found(table) == [("c", 3, 0), ("c", 2, 0), ("c", 0, 0), ("c", 1, 0)]


def test_a_group_is_a_chain_of_copies() -> None:
    """A copy of a copy belongs to the group, with its own, larger distance to the keeper."""
    x = picture(1)
    table = clips({"pdq": [flipped(x, 0)]}, {"pdq": [flipped(x, 30)]}, {"pdq": [flipped(x, 60)]})
    assert found(table) == [("a", 0, 0), ("a", 1, 30), ("a", 2, 60)]


def test_kinds_do_not_mix() -> None:
    """A still of a film is no copy of the film."""
    same = {"pdq": [flipped(picture(1), 0)]}
    assert found(clips({**same, "kind": "video"}, {**same, "kind": "image"})) == [(None, 0, None), (None, 0, None)]


def test_half_of_the_shorter_clip_must_match() -> None:
    """Sharing one of three frames is no copy for a share of half, two of three is, and so is being a part of a longer clip."""
    one, two, three, four, five = ([flipped(picture(i), 0)] for i in range(5))
    half = DuplicatesConfig(min_share=0.5)
    assert found(clips({"pdq": one + two + three}, {"pdq": one + four + five}), half)[1] == (None, 0, None)
    assert found(clips({"pdq": one + two + three}, {"pdq": one + two + five}), half)[1] == ("a", 1, 0)
    assert found(clips({"pdq": one + two + three + four}, {"pdq": two}))[1] == ("a", 1, 0)
    assert found(clips({"pdq": one + two + three + four}, {"pdq": two}), DuplicatesConfig(min_share=1))[1] == ("a", 1, 0)


def test_a_repeated_still_counts_once() -> None:
    """Four frames of one still do not make a copy of a clip that shows that still in one frame of four."""
    still, others = flipped(picture(1), 0), [flipped(picture(i), 0) for i in (2, 3, 4)]
    assert found(clips({"pdq": [still] * 4}, {"pdq": [still, *others]}))[1] == (None, 0, None)


def test_several_hashes_of_a_frame_are_one_frame() -> None:
    """Hashes of crops let a frame match in more ways, but it still counts as one frame."""
    full, crop, other = (flipped(picture(i), 0) for i in (1, 2, 3))
    a = {"pdq": [full, crop, other], "pdq_frame": [0, 0, 1]}
    assert found(clips(a, {"pdq": [crop, flipped(picture(4), 0)]}), DuplicatesConfig(min_matches=2))[1] == (None, 0, None)
    assert found(clips(a, {"pdq": [crop, flipped(other_bits(), 3)]}), DuplicatesConfig(min_matches=2))[1] == ("a", 1, 0)


def other_bits() -> np.ndarray:
    return picture(3)


def test_probes_are_not_compared_with_probes() -> None:
    """A probe matches an own hash, and never a probe: that would say that two clips could be copies of a third, and most pairs are those."""
    x, y, z = (flipped(picture(i), 0) for i in (1, 2, 3))
    probe = {"pdq": [x, y], "pdq_own": [False, True], "pdq_frame": [0, 0]}
    assert found(clips(probe, {"pdq": [x]}))[1] == ("a", 1, 0)
    assert found(clips(probe, {"pdq": [x, z], "pdq_own": [False, True], "pdq_frame": [0, 0]}))[1] == (None, 0, None)
    with pytest.raises(HashError, match="clip a: duplicates: pdq_own with a flag for each of 1 hashes"):
        label_duplicates(clips({"pdq": [x], "pdq_own": [True, False]}), CFG)


def test_no_hashes_is_alone() -> None:
    """Clips without hashes, such as sound or flat pictures, are never copies of each other."""
    assert found(clips({"pdq": []}, {"pdq": []}, {"pdq": None})) == [(None, 0, None)] * 3


def test_broken_rows_are_named() -> None:
    """A hash of another length, or frame numbers that do not match the hashes, raise an error that names the clip."""
    with pytest.raises(HashError, match="clip a: duplicates: a PDQ hash of 32 bytes expected, found 31 bytes"):
        label_duplicates(clips({"pdq": [b"x" * 31]}), CFG)
    with pytest.raises(HashError, match="clip a: duplicates: pdq_frame with a number for each of 1 hashes"):
        label_duplicates(clips({"pdq": [b"x" * 32], "pdq_frame": [0, 1]}), CFG)


def pointing(degrees: float) -> list[float]:
    """A vector of the plane; two of them 8.1 degrees apart have cosine 0.99."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_vectors_join_clips_too() -> None:
    """Cosine 0.99 and more is a copy, less is not, and both ends of a chain are in one group with their own similarity to the keeper."""
    table = pa.table(
        {
            "clip_id": list("abcd"),
            "kind": ["image"] * 4,
            "quality": [1.0, 2.0, 1.0, 1.0],
            "n_pixels": [1] * 4,
            "vector": pa.array([pointing(d) for d in (0, 8, 16, 24.2)], pa.list_(pa.float32())),
        }
    )
    rows = label_duplicates(table, CFG).to_pylist()
    assert [(r["dup_group"], r["dup_rank"], r["dup_distance"]) for r in rows] == [
        ("b", 1, None),
        ("b", 0, None),
        ("b", 2, None),
        (None, 0, None),
    ]
    assert [r["dup_similarity"] for r in rows] == pytest.approx([math.cos(math.radians(8)), 1, math.cos(math.radians(8)), None], abs=1e-4)


def test_hashes_and_vectors_make_one_group() -> None:
    """A clip near one clip by its hash and near another by its vector joins all three; each states what it shares with the keeper."""
    x = picture(1)
    base = {"kind": "image", "quality": 1.0, "n_pixels": 1}
    table = pa.Table.from_pylist(
        [
            {"clip_id": "a", **base, "pdq": [flipped(x, 0)], "vector": None},
            {"clip_id": "b", **base, "pdq": [flipped(x, 5)], "vector": pointing(0)},
            {"clip_id": "c", **base, "pdq": [], "vector": pointing(5)},
            {"clip_id": "d", **base, "pdq": None, "vector": [0.0, 0.0]},
        ]
    )
    rows = label_duplicates(table, CFG).to_pylist()
    assert [(r["dup_group"], r["dup_rank"], r["dup_distance"], r["dup_similarity"]) for r in rows] == [
        ("a", 0, 0, None),
        ("a", 1, 5, None),
        ("a", 2, None, None),
        (None, 0, None, None),
    ]


@pytest.mark.parametrize("bad", [{"max_distance": 32}, {"min_share": 0.0}, {"min_matches": 0}, {"min_cosine": 0.0}])
def test_impossible_configs_are_refused(bad: dict[str, Any]) -> None:
    """A distance for which pairs would be missed, or a share or number of no frames, is refused at once."""
    with pytest.raises(ValueError, match=f"duplicates: {next(iter(bad))} is"):
        DuplicatesConfig(**bad)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_rows_does_not_matter(rows: list[tuple[int, int]], random: Any) -> None:
    """The same clips in another order get the same groups, ranks and distances; each group has ranks 0 to n - 1."""
    table = pa.Table.from_pylist(
        [
            {"clip_id": f"{i:02}", "kind": "image", "quality": float(flip % 3), "n_pixels": 1, "pdq": [flipped(picture(p), flip)]}
            for i, (p, flip) in enumerate(rows)
        ],
        schema=clips().drop_columns("pdq_frame").schema,
    )
    order = list(range(len(rows)))
    random.shuffle(order)
    out = label_duplicates(table, CFG)
    again = label_duplicates(table.take(pa.array(order, pa.int64())), CFG).sort_by("clip_id")
    assert again.to_pylist() == out.to_pylist()
    for group in set(out["dup_group"].to_pylist()) - {None}:
        members = [r for r in out.to_pylist() if r["dup_group"] == group]
        assert sorted(r["dup_rank"] for r in members) == list(range(len(members)))
        assert [r["clip_id"] for r in members if r["dup_rank"] == 0] == [group]


def by_blocks(
    hashes: Sequence[bytes],
    max_distance: int,
    batch_rows: int,
    small_block: int,
    own: Sequence[bool] | None = None,
    fresh: Sequence[bool] | None = None,
    spread_by: Any = block_batches,
) -> list[tuple[str, str]]:
    """The matching pairs that the search by blocks finds, with the sort that Spark does in between."""
    schema = pa.schema(
        [
            ("clip_id", pa.string()),
            ("kind", pa.string()),
            ("pdq", pa.list_(pa.binary())),
            ("pdq_frame", pa.list_(pa.int32())),
            ("pdq_own", pa.list_(pa.bool_())),
            ("fresh", pa.bool_()),
        ]
    )
    new = [True] * len(hashes) if fresh is None else fresh
    flags: Any = [None] * len(hashes) if own is None else [[bool(f)] for f in own]
    rows = [{"clip_id": f"{i:04}", "kind": "image", "pdq": [h], "pdq_own": flags[i], "fresh": bool(new[i])} for i, h in enumerate(hashes)]
    spread = pa.Table.from_batches(spread_by([pa.RecordBatch.from_pylist(rows, schema=schema)]))
    batches = spread.sort_by([("kind", "ascending"), ("block", "ascending")]).to_batches(max_chunksize=batch_rows)
    return [(r["a"], r["b"]) for batch in match_batches(max_distance, small_block)(batches) for r in batch.to_pylist()]


@given(st.integers(0, 2**32), st.integers(0, 31), st.sampled_from([1, 7, 1000]), st.sampled_from([0, 3, SMALL_BLOCK]))
@settings(max_examples=25, deadline=None)
def test_blocks_find_every_pair_once(seed: int, max_distance: int, batch_rows: int, small_block: int) -> None:
    """By blocks one finds exactly the pairs that all pairs show, none of two probes, each once, however rows are batched and compared; of a
    collection that grew exactly those with a new one; and in the one block of few hashes the same."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    hashes = []
    for _ in range(40):
        bits = picture(int(rng.integers(0, 3)))
        bits[rng.choice(256, rng.integers(0, 36), replace=False)] ^= 1
        hashes.append(np.packbits(bits).tobytes())
    own = rng.random(40) < 0.4
    near = (distances(to_words(hashes, ""), to_words(hashes, "")) <= max_distance) & (own[:, None] | own[None, :])
    wanted = [(f"{i:04}", f"{j:04}") for i, j in zip(*np.nonzero(near), strict=True) if i < j]
    assert sorted(by_blocks(hashes, max_distance, batch_rows, small_block, own.tolist())) == wanted
    fresh = rng.random(40) < 0.3
    assert sorted(by_blocks(hashes, max_distance, batch_rows, small_block, own.tolist(), fresh.tolist())) == [
        (a, b) for a, b in wanted if fresh[int(a)] or fresh[int(b)]
    ]
    for new in (None, fresh.tolist()):
        few = by_blocks(hashes, max_distance, batch_rows, small_block, own.tolist(), new, one_block_batches)
        assert sorted(few) == sorted(by_blocks(hashes, max_distance, batch_rows, small_block, own.tolist(), new))


@pytest.mark.parametrize("spread_by", [block_batches, one_block_batches])
@pytest.mark.parametrize("flips", [0, 3])
def test_a_picture_that_many_share_joins_them_by_few_matches(spread_by: Any, flips: int) -> None:
    """Of 500 clips with one picture, coded again each time, every one is joined to the first, by far fewer matches than there are pairs."""
    rng = np.random.Generator(np.random.Philox(key=5))
    hashes = []
    for _ in range(500):
        bits = picture(1)
        bits[rng.choice(256, flips, replace=False)] ^= 1
        hashes.append(np.packbits(bits).tobytes())
    found = by_blocks(hashes, 31, 1000, SMALL_BLOCK, spread_by=spread_by)
    assert len(set(found)) == len(found)
    if not flips or spread_by is one_block_batches:
        assert len(found) == sum(min(i, MOST_PARTNERS) for i in range(500))
    assert {b for a, b in found if a == "0000"} >= {f"{i:04}" for i in range(1, MOST_PARTNERS + 1)}
    assert set(connected_components_of(found)) == {"0000"} and len(connected_components_of(found)) == 500


def connected_components_of(pairs: list[tuple[str, str]]) -> list[str]:
    """The smallest clip of each clip's group."""
    head: dict[str, str] = {}
    for a, b in sorted(pairs, key=lambda pair: (pair[1], pair[0])):
        head.setdefault(a, a)
        head[b] = min(head.get(b, head[a]), head[a])
    return list(head.values())


@pytest.mark.parametrize("small_block", [0, SMALL_BLOCK])
@pytest.mark.parametrize("spare", range(16))
def test_blocks_find_the_hardest_pairs(spare: int, small_block: int) -> None:
    """31 differing bits spread as evenly as can be, two a band and one in the spare band, are found whichever band and byte has the one."""
    bits = picture(1)
    for odd_byte in (0, 8):
        other = bits.copy()
        for band in range(16):
            other[band * 16 + odd_byte] ^= 1
            if band != spare:
                other[band * 16 + 15] ^= 1
        assert by_blocks([np.packbits(bits).tobytes(), np.packbits(other).tobytes()], 31, 1000, small_block) == [("0000", "0001")]
