"""Text: overlays are found, texture is not text, and what cannot be read is never a pass."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.keyframes import KeyFrame, Picture, encode_jpeg
from curation.text import ReadError, ScoreText, TextBox, TextConfig, area_share, counts, cut_line, score_boxes
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
        KeyFrame(clip_id=clip_id, index=i, pts_us=i, width=p.shape[1], height=p.shape[0], jpeg=encode_jpeg(p))
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
    broken = KeyFrame(clip_id="c", index=1, pts_us=1, width=1, height=1, jpeg=frames[0].jpeg[:500])
    bad, none, sound = stage([(clip, [*frames, broken]), (clip, []), _case(kind="audio")])
    assert (bad.text_score, bad.text_area, bad.error_code) == (None, None, "bad_keyframe")
    assert bad.error_detail is not None and "key frame 1" in bad.error_detail
    assert (none.text_score, none.error_code) == (None, "bad_keyframe")
    assert (sound.text_score, sound.error_code) == (None, None)


def test_a_reader_that_fails_costs_one_clip() -> None:
    """When the reader raises on one picture, that clip has an error and the next one is scored."""

    class Moody:
        def read(self, picture: Picture) -> list[TextBox]:
            if picture.shape[0] == 8:
                raise ReadError("moody: expected a nicer picture")
            return [TextBox(text="hello", detection=0.5, recognition=0.5, area_share=0.1)]

    small, large = np.zeros((8, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    bad, good = ScoreText(TextConfig(), Moody())([_case(small, clip_id="bad"), _case(large, clip_id="good")])
    assert (bad.error_code, bad.text_score) == ("text_failed", None)
    assert (good.error_code, good.text_score) == (None, 0.25)


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


boxes = st.builds(TextBox, text=st.text(max_size=5), detection=st.floats(0, 1), recognition=st.floats(0, 1), area_share=st.floats(0, 1))


@given(st.lists(st.lists(boxes, max_size=4), max_size=4), boxes)
def test_scores_stay_in_range_and_only_grow_with_boxes(frames: list[list[TextBox]], extra: TextBox) -> None:
    """Both scores are in 0..1, are 0 without boxes, and never fall when another box is found."""
    cfg = TextConfig()
    score, area = score_boxes(frames, cfg)
    more_score, more_area = score_boxes([*frames, [extra]], cfg)
    assert 0 <= score <= more_score <= 1 and 0 <= area <= more_area <= 1
    assert score_boxes([], cfg) == (0.0, 0.0)


def test_geometry_of_boxes() -> None:
    """The area of a quadrilateral is its share of the frame, and an upright box is cut out lying."""
    picture = np.zeros((100, 200, 3), np.uint8)
    corners = [[10, 10], [20, 10], [20, 60], [10, 60]]
    assert area_share(corners, picture) == pytest.approx(500 / 20_000)
    assert cut_line(picture, corners).shape == (10, 50, 3)


@pytest.mark.engine
@pytest.mark.skipif(not MEDIA.is_dir(), reason="real test media are not here")
def test_real_titles_screens_and_plain_footage(stage: ScoreText) -> None:
    """On real videos judged by eye, overlaid text is rejected and footage without text is not."""
    from curation.media import MediaConfig, decode

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
