"""Captions: supplied text is cleaned, facts are marked as such, the camera is named only when it is sure."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.captions import CaptionClips, CaptionConfig, camera_prefix, caption, clean, colour_names
from curation.keyframes import KeyFrame, encode_jpeg
from manifests.records import Asset, Clip

CFG = CaptionConfig()
ASSET = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri="a.mp4")
CLIP = Clip(
    clip_id="c", asset_id="a", kind="video", start_us=1_000_000, end_us=9_000_000, width=640, height=360, brightness=0.7, motion=9.0
)


def _frame(colour: tuple[int, int, int]) -> KeyFrame:
    jpeg = encode_jpeg(np.full((36, 64, 3), colour, np.uint8))
    return KeyFrame(clip_id="c", index=0, pts_us=0, width=64, height=36, jpeg=jpeg)


def test_the_supplied_text_comes_first() -> None:
    """A usable text from the sidecar is the caption, marked as such; one that is empty after cleaning is not used."""
    got = caption(CLIP, replace(ASSET, supplied_caption=" A cat\n sleeps. "), [], CFG)
    assert (got.text, got.captioner, got.error_code) == ("A cat sleeps.", "sidecar", None)
    assert caption(CLIP, replace(ASSET, supplied_caption="\u202e\x00 "), [], CFG).captioner == "facts"
    assert caption(CLIP, replace(ASSET, supplied_caption="A cat sleeps."), [], CaptionConfig(use_supplied=False)).captioner == "facts"


def test_facts_make_a_plain_sentence() -> None:
    """The facts captioner says what was measured, and nothing that was not."""
    frames = [_frame((20, 160, 40)), _frame((30, 60, 220))]
    got = caption(replace(CLIP, camera="pan_left", camera_confidence=0.9), ASSET, frames, CFG)
    assert got.text == "A bright landscape video of 8 seconds with strong motion, mostly blue and green. The camera pans to the left."
    assert (got.captioner, got.camera_prefix) == ("facts", "pan left")
    bare = Clip(clip_id="c", asset_id="a", kind="video", start_us=0, end_us=4_500_000)
    assert caption(bare, ASSET, [], CFG).text == "A video of 4.5 seconds."


def test_facts_of_images_and_sound() -> None:
    """Images have no duration or motion, sound has no picture."""
    image = replace(CLIP, kind="image", width=100, height=200, brightness=0.1)
    assert caption(image, ASSET, [_frame((250, 250, 250))], CFG).text == "A dark portrait image, mostly white."
    sound = Clip(clip_id="c", asset_id="a", kind="audio", start_us=0, end_us=1_000_000, loudness_db=-50.0, silence_fraction=0.99)
    assert caption(sound, ASSET, [], CFG).text == "A quiet sound recording of 1 second, silent throughout."


@pytest.mark.parametrize(("confidence", "expected"), [(None, None), (0.79, None), (0.8, "zoom in"), (1.0, "zoom in")])
def test_the_camera_is_named_only_when_sure(confidence: float | None, expected: str | None) -> None:
    """The prefix appears from the configured confidence on."""
    assert camera_prefix(replace(CLIP, camera="zoom_in", camera_confidence=confidence), CFG) == expected
    assert camera_prefix(replace(CLIP, camera=None, camera_confidence=1.0), CFG) is None


def test_a_broken_frame_is_an_error_and_not_a_caption() -> None:
    """A key frame that does not decode gives an error instead of a sentence that leaves it out; a supplied text does not need frames."""
    broken = KeyFrame(clip_id="c", index=0, pts_us=0, width=1, height=1, jpeg=b"junk")
    got = CaptionClips(CFG)([(CLIP, ASSET, [broken]), (CLIP, replace(ASSET, supplied_caption="A cat sleeps."), [broken])])
    assert (got[0].text, got[0].error_code) == (None, "bad_keyframe")
    assert (got[1].text, got[1].error_code) == ("A cat sleeps.", None)


@given(st.text(max_size=300), st.integers(1, 80))
def test_cleaning_is_bounded_idempotent_and_leaves_nothing_hidden(text: str, limit: int) -> None:
    """A cleaned text is one line within the limit, cleaning it again changes nothing, and only joiners remain of what cannot be seen."""
    got = clean(text, limit)
    assert len(got) <= limit and clean(got, limit) == got
    hidden = {unicodedata.category(c) for c in got if c not in "\u200c\u200d"} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert hidden == set() and got == got.strip() and "  " not in got


def test_hostile_text_is_disarmed() -> None:
    """Direction overrides, escapes, line breaks and tags characters go; a huge text is cut at a word."""
    assert clean("safe\u202egnp.exe\x1b[31m\r\n\ttext\U000e0041", 100) == "safegnp.exe [31m text"
    assert clean("one two three", 9) == "one two"
    assert len(clean("x" * 10_000_000, 2000)) == 2000


def test_colours_have_plain_names() -> None:
    """Plain pictures get the name anyone would give, and small shares are not named."""
    named = {(200, 20, 20): "red", (250, 150, 20): "orange", (110, 70, 30): "brown", (10, 10, 10): "black", (128, 128, 128): "grey"}
    for colour, name in named.items():
        assert colour_names([np.full((8, 8, 3), colour, np.uint8)], 0.15) == [name]
    picture = np.full((32, 32, 3), (20, 40, 200), np.uint8)
    picture[:3] = (200, 20, 20)
    assert colour_names([picture], 0.15) == ["blue"] and colour_names([], 0.15) == []
