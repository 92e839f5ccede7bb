"""Text: overlays are found, texture is not text, and what cannot be read is never a pass."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.keyframes import KeyFrame, Picture, encode_jpeg
from curation.text import Found, ReadError, ScoreText, TextBox, TextConfig, counts, score_boxes, unread_score
from manifests.records import Clip

PHOTOGRAPHS = ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png", "rocket.jpg")
MEDIA = Path(os.environ.get("DAILIES_TEST_MEDIA", Path(__file__).parents[2] / "../shared/media"))


@pytest.fixture(scope="module")
def stage() -> ScoreText:
    return ScoreText(TextConfig())


def _photograph(name: str) -> Picture:
    import skimage
    from PIL import Image

    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        rgb = image.convert("RGB")
    rgb = rgb.resize((512, round(512 * rgb.height / rgb.width)))
    return np.asarray(rgb)


def _write(picture: Picture, text: str, x: float, y: float, size: float) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    font = ImageFont.load_default(size=int(size * min(image.size)))
    ImageDraw.Draw(image).text((x * image.width, y * image.height), text, "white", font, stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def _case(*pictures: Picture, clip_id: str = "c", kind: str = "video") -> tuple[Clip, list[KeyFrame]]:
    clip = Clip(clip_id=clip_id, asset_id="a", kind=kind, start_us=0, end_us=4_000_000)
    frames = [
        KeyFrame(asset_id=clip_id, index=i, pts_us=i, width=p.shape[1], height=p.shape[0], jpeg=encode_jpeg(p))
        for i, p in enumerate(pictures)
    ]
    return clip, frames


def test_titles_and_subtitles_are_found_on_every_photograph(stage: ScoreText) -> None:
    """A title of a tenth and a subtitle of a twentieth of the shorter side score at least 0.6, the paper's threshold, at 512 px."""
    for name in PHOTOGRAPHS[:4]:
        photograph = _photograph(name)
        title, subtitle = (
            _write(photograph, "Summer Holidays", 0.15, 0.4, 0.1),
            _write(photograph, "I will never go there", 0.15, 0.9, 0.05),
        )
        for score in stage([_case(title), _case(subtitle)]):
            assert score.text_score is not None and score.text_score >= 0.6, (name, score)
            assert score.text_area is not None and 0.005 < score.text_area < 0.3, (name, score)


def test_one_frame_with_text_decides_for_the_clip(stage: ScoreText) -> None:
    """The score is the highest over the frames, so text on one of three rejects the clip."""
    plain = _photograph("coffee.png")
    assert (stage([_case(plain, _write(plain, "Summer Holidays", 0.15, 0.4, 0.1), plain)])[0].text_score or 0) >= 0.6


def test_textured_photographs_have_no_text(stage: ScoreText) -> None:
    """Photographs of fur, brick, grass and coins stay far below the threshold."""
    scores = stage([_case(_photograph(name), clip_id=name) for name in PHOTOGRAPHS])
    assert {s.clip_id: s.text_score for s in scores if s.text_score is None or s.text_score >= 0.45} == {}


def test_what_cannot_be_read_is_an_error_and_not_a_pass(stage: ScoreText) -> None:
    """A broken key frame, even beside a good one, and a clip without any give null scores with a reason; sound gives null without one."""
    clip, frames = _case(_photograph("coffee.png"))
    broken = KeyFrame(asset_id="c", index=1, pts_us=1, width=1, height=1, jpeg=frames[0].jpeg[:500])
    bad, none, sound = stage([(clip, [*frames, broken]), (clip, []), _case(kind="audio")])
    assert (bad.text_score, bad.text_area, bad.error_code) == (None, None, "bad_keyframe")
    assert bad.error_detail is not None and "key frame 1" in bad.error_detail
    assert (none.text_score, none.error_code) == (None, "bad_keyframe")
    assert (sound.text_score, sound.error_code) == (None, None)


class Scripted:
    """A reader that sees one line in every picture at least 16 px high and cannot work on smaller ones; counts what it is asked."""

    def __init__(self, text: str = "hello") -> None:
        self.text, self.finds, self.reads = text, 0, 0

    def find(self, bgr: Picture, least: float) -> list[Found]:
        """One line across the middle."""
        self.finds += 1
        height, width = bgr.shape[:2]
        if bgr[0, 0, 0] == 13:
            raise ReadError("scripted: expected a nicer picture")
        corners = np.array([[0.2, 0.4], [0.8, 0.4], [0.8, 0.6], [0.2, 0.6]], np.float32) * (width, height)
        return [Found(corners=corners, score=0.5)]

    def read(self, lines: Sequence[Picture]) -> list[tuple[str, float]]:
        """Always the same."""
        self.reads += len(lines)
        return [(self.text, 0.5)] * len(lines)


def test_a_reader_that_fails_costs_one_clip() -> None:
    """When the reader raises on one picture, that clip has an error and the next one is scored."""
    broken, fine = np.full((288, 512, 3), 13, np.uint8), np.zeros((288, 512, 3), np.uint8)
    bad, good = ScoreText(TextConfig(), Scripted())([_case(broken, clip_id="bad"), _case(fine, clip_id="good")])
    assert (bad.error_code, bad.text_score, bad.text_frames) == ("text_failed", None, None)
    assert (good.error_code, good.text_score, good.text_frames) == (None, 0.25, 1)


def test_a_standing_picture_is_read_once() -> None:
    """Ten key frames of one picture cost one look and one reading, and count as one frame looked at."""
    reader = Scripted()
    score = ScoreText(TextConfig(), reader)([_case(*[_photograph("coffee.png")] * 10)])[0]
    assert (reader.finds, reader.reads, score.text_frames) == (1, 1, 1)
    assert score.text_score == 0.25


def test_readings_of_a_clip_are_limited() -> None:
    """However many lines change, a clip costs at most `reads_per_clip` readings."""
    reader, cfg = Scripted(), TextConfig()
    noise = np.random.Generator(np.random.Philox(key=[3, 0])).integers(0, 12, (24, 288, 512, 3), dtype=np.uint8)
    ScoreText(cfg, reader)([_case(*(np.uint8(10 * (i % 2)) * 20 + n for i, n in enumerate(noise)))])
    assert 1 < reader.reads <= cfg.gate.reads_per_clip


def test_reading_stops_early_when_asked() -> None:
    """With `stop_score` no frame after a sure one is looked at; without it all are."""
    frames = [np.full((288, 512, 3), 40 * i, np.uint8) for i in range(6)]
    stopped, whole = (ScoreText(TextConfig(stop_score=s), Scripted())([_case(*frames)])[0] for s in (0.2, None))
    assert (stopped.text_frames, whole.text_frames) == (1, 6)


def test_kinds_of_text_over_a_moving_picture(stage: ScoreText) -> None:
    """A title that stands while the picture pans is laid over it; the same words on a sign that pans with it are not."""
    from PIL import Image

    large = np.asarray(Image.fromarray(_photograph("coffee.png")).resize((832, 556)))
    sign = _write(large, "SUMMER", 0.4, 0.4, 0.09)
    cuts = [(slice(130, 418), slice(40 * i, 40 * i + 512)) for i in range(6)]
    panned = [_write(np.ascontiguousarray(large[c]), "SUMMER", 0.3, 0.4, 0.15) for c in cuts]
    over, scene = stage([_case(*panned), _case(*(np.ascontiguousarray(sign[c]) for c in cuts))])
    assert (over.text_overlay_score or 0) >= 0.6 > (over.scene_text_score or 0), over
    assert (scene.scene_text_score or 0) >= 0.6 > (scene.text_overlay_score or 0), scene


def test_one_look_cannot_tell_kinds(stage: ScoreText) -> None:
    """An image with text has null kinds, not zeros; one without text has zeros."""
    plain = _photograph("coffee.png")
    text, none = stage([_case(_write(plain, "Summer Holidays", 0.15, 0.4, 0.1), kind="image"), _case(plain, kind="image")])
    assert (text.text_overlay_score, text.subtitle_score, text.scene_text_score) == (None, None, None)
    assert (none.text_score, none.text_overlay_score, none.corner_mark_score) == (0.0, 0.0, 0.0)


def test_scripts_that_the_models_do_not_read_do_not_pass_in_silence(stage: ScoreText, media: Path) -> None:
    """Arabic and Thai images score too low to be rejected by `text_score`, and 0.75 or more on `text_unread_score`."""
    from PIL import Image

    for name in ("text_arabic.png", "text_thai.jpg"):
        with Image.open(media / "image" / name) as image:
            score = stage([_case(np.asarray(image.convert("RGB").resize((512, 512 * image.height // image.width))), kind="image")])[0]
        assert (score.text_score or 0) < 0.6, score
        assert (score.text_unread_score or 0) >= 0.75, score


def test_what_may_be_text_and_is_not_counted() -> None:
    """A long line read as nothing and a lone letter surely read count as unread; texture, and lines that were read, do not."""

    def box(text: str | None, recognition: float, aspect: float, detection: float = 0.8) -> TextBox:
        return TextBox(text=text, detection=detection, recognition=recognition, corners=np.zeros((4, 2)), aspect=aspect)

    cfg = TextConfig()
    assert unread_score([[box("", 0.0, 4.0)]], cfg) == 0.8
    assert unread_score([[box("4", 0.99, 1.0)]], cfg) == 0.8
    assert unread_score([[box("4", 0.9, 1.0), box("", 0.0, 1.5), box("hello", 0.9, 4.0), box(None, 0.0, 4.0)]], cfg) == 0.0


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The models come from the package: loading opens no socket; a folder without models is an error that names the file."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    ScoreText(TextConfig())
    with pytest.raises(FileNotFoundError, match=r"PP-OCRv6_det_small\.onnx"):
        ScoreText(TextConfig(models=str(tmp_path)))


def test_paddle_names_what_to_fetch(tmp_path: Path) -> None:
    """Without model folders PaddleOCR is refused with what to fetch and where to put it, before anything is imported."""
    with pytest.raises(FileNotFoundError, match="detection model and put it in <folder>/det"):
        ScoreText(TextConfig(engine="paddleocr"))
    with pytest.raises(FileNotFoundError, match=r"det/inference\.yml"):
        ScoreText(TextConfig(engine="paddleocr", models=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("OK", True), ("中文", True), ("4K", True), ("白", False), ("S", False), ("000", False), ("XxX", False), ("***!", False), ("", False)],
)
def test_a_reading_counts_when_it_has_two_different_characters(text: str, expected: bool) -> None:
    """Single and repeated characters are what recognisers read into texture; two different letters or digits are text."""
    assert counts(text, 2) is expected


def _square(left: float, top: float, side: float) -> np.ndarray:
    return np.array([[left, top], [left + side, top], [left + side, top + side], [left, top + side]])


boxes = st.builds(
    TextBox,
    text=st.one_of(st.none(), st.text(max_size=5)),
    detection=st.floats(0, 1),
    recognition=st.floats(0, 1),
    corners=st.builds(_square, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)


@given(st.lists(st.lists(boxes, max_size=4), max_size=4), boxes)
def test_scores_stay_in_range_and_only_grow_with_boxes(frames: list[list[TextBox]], extra: TextBox) -> None:
    """Both scores are in 0..1, are 0 without boxes, and never fall when another box is found."""
    cfg = TextConfig()
    score, area = score_boxes(frames, cfg)
    more_score, more_area = score_boxes([*frames, [extra]], cfg)
    assert 0 <= score <= more_score <= 1 and 0 <= area <= more_area <= 1
    assert score_boxes([], cfg) == (0.0, 0.0)


@pytest.mark.engine
@pytest.mark.skipif(not MEDIA.is_dir(), reason="real test media are not here")
def test_real_titles_screens_and_plain_footage(stage: ScoreText) -> None:
    """On real videos judged by eye, overlaid text is rejected and footage without text is not."""
    from curation.decode import decode
    from curation.media import MediaConfig

    truth = {e["file"]: e for e in json.loads((MEDIA / "text.json").read_text())["entries"]}
    names = (
        "terminal_480p.mp4",
        "screen_compliment_bot.mp4",
        "gyro_rolling_shutter_text.mp4",
        "mdn_frog_480p.mp4",
        "flies_static_lowq.mp4",
    )
    for name in names:
        pictures = [f.to_ndarray(format="rgb24", width=512, height=288) for f, _ in decode(str(MEDIA / "video" / name), MediaConfig())]
        score = stage([_case(*pictures[len(pictures) // 6 :: len(pictures) // 3], clip_id=name)])[0]
        assert score.text_score is not None, score
        assert (score.text_score >= 0.6) == truth[f"video/{name}"]["overlaid_text"], score
