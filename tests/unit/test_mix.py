"""The landscape to portrait mix of each set: within one clip, deterministic, and reported where it cannot be."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.mix import OUTPUT, MixConfig, count_strata, find_shortages, label_mix, side_of

SIZES = {"L": (16, 9), "P": (9, 16), "S": (1, 1), "?": (None, 1)}
SCHEMA = pa.schema([("clip_id", pa.string()), ("set_name", pa.string()), ("width", pa.int32()), ("height", pa.int32())])


def clips(shapes: str, name: str | None = "video") -> pa.Table:
    """One clip a letter: L landscape, P portrait, S square, ? of unknown size."""
    rows = [{"clip_id": f"{i:04}", "set_name": name, "width": SIZES[s][0], "height": SIZES[s][1]} for i, s in enumerate(shapes)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def mix(share: float = 0.6, seed: int = 0) -> MixConfig:
    return MixConfig(landscape_share={"video": share}, seed=seed)


def kept(shapes: str, cfg: MixConfig) -> str:
    """The letters of the clips that are kept."""
    out = label_mix(clips(shapes), cfg)
    assert out.schema.equals(OUTPUT)
    return "".join(s for s, k in zip(shapes, out["mix_keep"].to_pylist(), strict=True) if k == 1.0)


@settings(deadline=None)
@given(st.text("LPS", max_size=60), st.floats(0.05, 0.95), st.integers(0, 9))
def test_the_share_is_met_within_one_clip(shapes: str, share: float, seed: int) -> None:
    """Only the side there is too much of loses clips, and one clip more or less would not bring the share nearer; squares all stay."""
    out = kept(shapes, mix(share, seed))
    had, has = ({side: s.count(side) for side in "LPS"} for s in (shapes, out))
    assert has["S"] == had["S"]
    if not had["L"] or not had["P"]:
        assert out == shapes
        return
    assert had["L"] == has["L"] or had["P"] == has["P"]
    if has["L"] < had["L"]:
        assert abs(has["L"] - has["P"] * share / (1 - share)) < 1
    elif has["P"] < had["P"]:
        assert abs(has["P"] - has["L"] * (1 - share) / share) < 1
    else:
        wanted = has["P"] * share / (1 - share)
        assert has["L"] <= wanted + 1
        assert has["P"] <= has["L"] * (1 - share) / share + 1


def test_the_papers_shares() -> None:
    """92 landscape and 40 portrait clips at 60/40 keep 60 and 40; at 80/20 they keep 92 and 23."""
    shapes = "L" * 92 + "P" * 40
    assert [kept(shapes, mix(0.6)).count(s) for s in "LP"] == [60, 40]
    assert [kept(shapes, mix(0.8)).count(s) for s in "LP"] == [92, 23]


def test_order_of_rows_does_not_matter() -> None:
    """The same clips are kept whatever the order of the rows; another seed keeps others."""
    table = clips("LLLLLLLLPPS" * 5)
    out = label_mix(table, mix())
    assert label_mix(table.take(pa.array(range(54, -1, -1))), mix()).sort_by("clip_id").equals(out)
    assert label_mix(table, mix(seed=1))["mix_keep"].to_pylist() != out["mix_keep"].to_pylist()


def shortages(shapes: str, cfg: MixConfig) -> list[str]:
    return [s.text for s in find_shortages(count_strata(clips(shapes), cfg), cfg)]


def test_an_empty_side_drops_nothing_and_is_reported() -> None:
    """A set of landscape clips alone is kept whole, and the shortage says what was wanted and found."""
    assert kept("LLLS", mix(0.6)) == "LLLS"
    assert shortages("LLLS", mix(0.6)) == ["set video wants 60% landscape; found 3 landscape and 0 portrait clips, kept all"]
    assert shortages("LLP", mix(0.6)) == shortages("SS", mix(0.6)) == []


def test_a_dear_mix_is_reported() -> None:
    """Where one portrait clip costs 98 of 100 landscape clips, that is said."""
    assert shortages("L" * 100 + "P", mix(0.6)) == [
        "set video wants 60% landscape; found 100 landscape and 1 portrait clips, which leaves 2 landscape and 1 portrait: "
        "more of what is rare would keep more"
    ]


PEOPLE = {"y": 1.0, "n": 0.0, "?": None}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("LPS"), st.sampled_from("yn?")), max_size=200), st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_both_shares_are_met(drawn: list[tuple[str, str]], share: float, people: float) -> None:
    """Landscape is within a clip a stratum of its share, people are at least theirs but for a clip a stratum, and the unseen are left out of it."""
    table = clips("".join(s for s, _ in drawn)).append_column("has_people", pa.array([PEOPLE[w] for _, w in drawn], pa.float32()))
    cfg = MixConfig(landscape_share={"video": share}, people_share={"video": people})
    keep = label_mix(table, cfg)["mix_keep"].to_pylist()
    left = [d for d, k in zip(drawn, keep, strict=True) if k == 1.0]
    n = {c: sum(c in d for d in left) for c in "LPSyn"}
    had = {c: sum(c in d for d in drawn) for c in "LPSyn"}
    if had["L"] and had["P"]:
        assert n["L"] - n["P"] * share / (1 - share) < 3 + 3 * share / (1 - share)
        assert n["P"] - n["L"] * (1 - share) / share < 3 + 3 * (1 - share) / share
    if had["y"]:
        assert n["y"] + 3 >= people * (n["y"] + n["n"])
    if not had["y"] and not (had["L"] and had["P"]):
        assert left == drawn


def test_people_not_looked_for_are_reported() -> None:
    """A set that wants people, in which nobody was looked for, is kept and said so."""
    cfg = MixConfig(landscape_share={}, people_share={"video": 0.6})
    assert kept("LLP", cfg) == "LLP"
    assert shortages("LLP", cfg) == [
        "set video wants 60% with people; found 0 with people and 0 without and 3 not looked at clips, kept all"
    ]


def test_sets_without_a_share_are_left_alone() -> None:
    """A set that is not named keeps everything; a clip of no set, or of unknown size in a mixed set, is unknown."""
    assert set(label_mix(clips("LLLLP?", "image"), mix())["mix_keep"].to_pylist()) == {1.0}
    assert label_mix(clips("L", None), mix())["mix_keep"].to_pylist() == [None]
    assert label_mix(clips("?LP"), mix())["mix_keep"].to_pylist() == [None, 1.0, 1.0]


def test_sides() -> None:
    """Wider is landscape, higher is portrait, equal is square, unknown is null."""
    assert [side_of(2, 1), side_of(1, 2), side_of(1, 1), side_of(None, 1)] == ["landscape", "portrait", "square", None]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_impossible_shares_are_refused(share: float) -> None:
    """A share of nothing or of all is no mix."""
    with pytest.raises(ValueError, match="mix of set video: landscape_share"):
        mix(share)
