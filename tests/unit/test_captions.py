"""Captions: supplied text is cleaned, facts are marked as such, the camera is named only when it is sure."""

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.adapters.openai_captioner import EndpointConfig
from curation.adapters.request_limits import Limits
from curation.adapters.transformers_captioner import LocalModelConfig
from curation.caption_facts import SidecarConfig, colour_names
from curation.caption_mix import draw
from curation.caption_prompt import Fault, Length, check_caption, clean, frame_digest, question, read_answer
from curation.captions import CaptionClips, CaptionConfig, asked, camera_prefix, caption, identity
from curation.keyframes import KeyFrame, encode_jpeg
from manifests.records import Asset, Clip

CFG = CaptionConfig()
ASSET = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri="a.mp4")
CLIP = Clip(
    clip_id="c", asset_id="a", kind="video", start_us=1_000_000, end_us=9_000_000, width=640, height=360, brightness=0.7, motion=9.0
)


def _frame(colour: tuple[int, int, int]) -> KeyFrame:
    jpeg = encode_jpeg(np.full((36, 64, 3), colour, np.uint8))
    return KeyFrame(asset_id="c", index=0, pts_us=0, width=64, height=36, jpeg=jpeg)


def test_the_supplied_text_comes_first() -> None:
    """A usable text from the sidecar is the caption, marked as such; one that is empty after cleaning is not used."""
    got = caption(CLIP, replace(ASSET, supplied_caption=" A cat\n sleeps. "), [], CFG)
    assert (got.text, got.captioner, got.error_code) == ("A cat sleeps.", "sidecar", None)
    assert caption(CLIP, replace(ASSET, supplied_caption="\u202e\x00 "), [], CFG).captioner == "facts"
    assert (
        caption(CLIP, replace(ASSET, supplied_caption="A cat sleeps."), [], CaptionConfig(sidecar=SidecarConfig(use=False))).captioner
        == "facts"
    )


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
    broken = KeyFrame(asset_id="c", index=0, pts_us=0, width=1, height=1, jpeg=b"junk")
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


def test_the_draw_gives_each_captioner_its_share() -> None:
    """Of 20,000 clips 70 % go to the small captioner, within three standard deviations; another seed draws anew."""
    names = [draw({"small": 0.7, "large": 0.3}, 0, f"clip {i}") for i in range(20_000)]
    assert abs(names.count("small") / 20_000 - 0.7) < 3 * (0.7 * 0.3 / 20_000) ** 0.5
    assert names != [draw({"small": 0.7, "large": 0.3}, 1, f"clip {i}") for i in range(20_000)]


@given(st.integers(0, 2**32), st.text(max_size=40))
def test_the_draw_depends_on_keys_alone(seed: int, clip_id: str) -> None:
    """The order of the list does not matter, a share of 0 never wins, and a newcomer takes clips from others but moves none between them."""
    three = draw({"a": 0.5, "b": 0.2, "c": 0.3}, seed, clip_id)
    assert three == draw({"c": 0.3, "a": 0.5, "b": 0.2}, seed, clip_id)
    assert draw({"a": 1.0, "b": 0.0}, seed, clip_id) == "a"
    two = draw({"a": 5 / 7, "b": 2 / 7}, seed, clip_id)
    assert three in ("c", two)


def test_a_mix_that_cannot_be_meant_is_refused() -> None:
    """Shares that do not add up to 1, and captioners that are not there, are configuration errors."""
    for mix in ({"facts": 0.5}, {"facts": 1.5, "small": -0.5}, {"facts": float("nan")}, {}, {"small": 1.0}):
        with pytest.raises(ValueError, match=r"share|mix"):
            CaptionConfig(mix=mix)
    endpoint = EndpointConfig(base_url="http://localhost/v1", model="m")
    with pytest.raises(ValueError, match="names"):
        CaptionConfig(endpoints={"facts": endpoint})
    with pytest.raises(ValueError, match="names"):
        CaptionConfig(endpoints={"x": endpoint}, local={"x": LocalModelConfig(folder="x")})


def test_settings_bind_from_plain_values() -> None:
    """The whole configuration binds from what YAML holds; an unknown key and an address with a password in it are errors."""
    from pipelines.config import ConfigError, bind

    data = {
        "sidecar": {"use": False},
        "mix": {"small": 0.7, "large": 0.3},
        "endpoints": {"small": {"base_url": "http://localhost:8000/v1", "model": "vl-8b", "limits": {"concurrency": 16, "timeout_s": 30}}},
        "local": {"large": {"folder": "models/vl-70b", "device": "cuda", "dtype": "bfloat16"}},
    }
    cfg = bind(CaptionConfig, data, "test")
    assert (
        cfg.endpoints["small"].limits.concurrency == 16 and cfg.local["large"].answer == "text" and cfg.mix == {"small": 0.7, "large": 0.3}
    )
    with pytest.raises(ConfigError, match="captioner"):
        bind(CaptionConfig, {"captioner": "x"}, "test")
    with pytest.raises(ConfigError, match=r"endpoints\.bad"):
        bind(CaptionConfig, {"endpoints": {"bad": {"base_url": "http://u:p@host/v1", "model": "m"}}}, "test")


def test_what_decides_nothing_is_no_part_of_the_identity() -> None:
    """Address, key and limits leave stored captions valid; model, instructions and shares do not."""
    endpoint = EndpointConfig(base_url="http://localhost/v1", model="m")
    cfg = CaptionConfig(endpoints={"x": endpoint}, mix={"x": 1.0})
    moved = replace(endpoint, base_url="https://gpu-7:8000/v1", api_key_env="KEY", limits=Limits(concurrency=64, max_requests=7))
    assert identity(replace(cfg, endpoints={"x": moved})) == identity(cfg)
    assert identity(replace(cfg, endpoints={"x": replace(endpoint, instructions="Say what you see.")})) != identity(cfg)
    assert identity(replace(cfg, mix={"x": 0.5, "facts": 0.5})) != identity(cfg)


def test_sound_and_sidecars_never_wait_for_a_network() -> None:
    """Nobody is asked about sound, or about a clip that brought its text: no server stands at this address."""
    endpoint = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", limits=Limits(attempts=1, timeout_s=1.0))
    stage = CaptionClips(CaptionConfig(endpoints={"x": endpoint}, mix={"x": 1.0}))
    sound = Clip(clip_id="s", asset_id="a", kind="audio", start_us=0, end_us=1_000_000)
    got = stage([(sound, ASSET, []), (CLIP, replace(ASSET, supplied_caption="A cat sleeps."), []), (CLIP, ASSET, [_frame((1, 2, 3))])])
    assert [(g.captioner, g.error_code) for g in got] == [("facts", None), ("sidecar", None), ("m", "unreachable")]


LENGTH = Length()


def _answer(**changes: object) -> str:
    return json.dumps({"clip": "c1", "frames": "f1", "caption": "A cat sleeps."} | changes)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (_answer(clip="c2"), "wrong_clip"),
        (_answer(clip="C1"), "wrong_clip"),
        (_answer(clip=None), "malformed"),
        (_answer(frames="f2"), "wrong_frames"),
        (_answer(frames=["f1"]), "malformed"),
        (_answer(mood="good"), "malformed"),
        (_answer(caption=""), "empty"),
        (_answer(caption="\u202e\u200b"), "empty"),
        (_answer(caption="x" * 100_000), "too_long"),
        (_answer(caption="Clip c1 shows a cat."), "malformed"),
        (_answer(caption="I\u2019m sorry, I can\u2019t."), "refused"),
        (_answer() + _answer(), "malformed"),
        ("[" * 100_000, "malformed"),
        ("9" * 10_000, "malformed"),
        ("null", "malformed"),
        ("A cat sleeps.", "malformed"),
        ("", "malformed"),
    ],
)
def test_an_answer_that_is_not_on_this_clip_is_no_answer(answer: str, code: str) -> None:
    """Each way in which an answer can be wrong has its code, and its error is short whatever the answer was."""
    with pytest.raises(Fault) as fault:
        read_answer(answer, "c1", "f1", LENGTH)
    assert fault.value.code == code and len(fault.value.detail) < 400


@given(st.text(max_size=200), st.text(max_size=20), st.text(max_size=20))
def test_only_the_own_ids_open_an_answer(caption_text: str, clip: str, frames: str) -> None:
    """Whatever stands in it, an answer with other ids gives a Fault; with its own, a cleaned caption or a Fault."""
    answer = json.dumps({"clip": clip, "frames": frames, "caption": caption_text})
    try:
        got = read_answer(answer, "c1", "f1", LENGTH)
    except Fault:
        return
    assert (clip, frames) == ("c1", "f1") and got == clean(caption_text, 2000)


def test_the_digest_covers_every_byte_and_where_pictures_begin() -> None:
    """Another byte, another order or another division into pictures is another digest; the question names it."""
    digests = {frame_digest(f) for f in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"c", b"ab"], [b"ab", b"d"], [])}
    assert len(digests) == 6 and all(len(d) == 32 and d in question("Look.", "c1", d) for d in digests)


def test_a_caption_may_not_be_cut_to_fit() -> None:
    """A model's text that is too long is an error, while a supplied text is cut at a word: the one can be asked again."""
    with pytest.raises(Fault, match="too_long"):
        check_caption("word " * 401, LENGTH)
    assert len(check_caption("word " * 400, LENGTH)) == 1999
    assert len(caption(CLIP, replace(ASSET, supplied_caption="word " * 401), [], CFG).text or "") <= 2000


def test_how_many_requests_a_replay_would_make() -> None:
    """Endpoints are asked about clips whose draw they won, but about none with a supplied text that is used, and about no sound."""
    cfg = CaptionConfig(mix={"far": 1.0}, endpoints={"far": EndpointConfig(base_url="http://localhost:1/v1", model="m")})
    told = replace(ASSET, supplied_caption="A cat sleeps.")
    sound = replace(CLIP, clip_id="s", kind="audio")
    assert asked([(CLIP, ASSET), (replace(CLIP, clip_id="d"), ASSET), (CLIP, told), (sound, ASSET)], cfg) == {"far": 2}
    assert asked([(CLIP, told)], replace(cfg, sidecar=SidecarConfig(use=False))) == {"far": 1}
    assert asked([(CLIP, ASSET)], CFG) == {}
