"""Table 24's buckets, and unknown where the table says nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.diegetic import DiegeticConfig, audio_class, diegetic_bucket, measure_diegetic
from manifests.records import Clip

CFG = DiegeticConfig()


@pytest.mark.parametrize(
    ("heard", "similarity", "bucket"),
    [
        *((h, 0.21, "diegetic") for h in ("sound", "voice", "voice+sound")),
        *((h, 0.2, None) for h in ("sound", "voice", "voice+sound")),
        *((h, 0.31, "diegetic") for h in ("music", "music+sound", "voice+music+sound")),
        *((h, 0.3, None) for h in ("music", "music+sound", "voice+music+sound")),
        ("music", 0.09, "non_diegetic"),
        ("music", 0.1, None),
        ("music", 0.2, None),
        ("music+sound", 0.1, "non_diegetic"),
        ("music+sound", 0.25, "non_diegetic"),
        ("music+sound", 0.09, None),
        ("music+sound", 0.26, None),
        ("voice+music+sound", 0.1, "mixed"),
        ("voice+music+sound", 0.25, "mixed"),
        ("voice+music+sound", 0.26, None),
        ("voice+music", 0.9, None),
        ("none", 0.9, None),
        (None, 0.9, None),
        ("sound", None, None),
    ],
)
def test_the_buckets_are_those_of_the_paper(heard: str | None, similarity: float | None, bucket: str | None) -> None:
    """Each cell of Table 24 and each of its gaps."""
    assert diegetic_bucket(heard, similarity, CFG) == bucket


@given(st.tuples(*[st.none() | st.floats(0, 1)] * 3))
def test_what_is_heard_is_known_only_when_all_is(scores: tuple[float | None, ...]) -> None:
    """A missing score makes the class unknown; else it lists, in order, what reaches the level."""
    found = audio_class(*scores, CFG)
    if None in scores:
        assert found is None
    else:
        heard = [n for n, s in zip(("voice", "music", "sound"), scores, strict=True) if s >= CFG.heard]  # type: ignore[operator]
        assert found == ("+".join(heard) or "none")


def test_a_clip_gets_words_and_a_number() -> None:
    """Rules compare numbers: 1 diegetic, 0.5 mixed, 0 not; null where unknown."""
    clip = Clip(clip_id="c", asset_id="a", kind="video", start_us=0, end_us=1, voice_score=0.9, music_score=0.8, sound_score=0.7)
    assert measure_diegetic(clip, CFG) == {"audio_class": "voice+music+sound", "diegetic": None, "diegetic_score": None}
    from dataclasses import replace

    found = measure_diegetic(replace(clip, audio_video_similarity=0.2), CFG)
    assert found == {"audio_class": "voice+music+sound", "diegetic": "mixed", "diegetic_score": 0.5}
