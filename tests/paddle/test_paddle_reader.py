"""PaddleOCR 3 on onnxruntime, from local model folders, gives the verdicts of RapidOCR. Runs in an environment of its own (`make test-paddle`).

PaddleOCR cannot fetch models here, so its folders are made of the PP-OCRv6 networks that the rapidocr wheel carries: inference.onnx beside an
inference.yml that states the settings RapidOCR uses. The same networks through two libraries must find and read the same text.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from curation.keyframes import KeyFrame, Picture, encode_jpeg
from curation.text import ScoreText, TextConfig
from manifests.records import Clip

ROOT = Path(__file__).resolve().parents[2]
THRESHOLD = 0.6
IMAGES = ("text_en.jpg", "text_chinese_sign.jpg", "text_japan.jpg", "text_ch_en_num.jpg", "text_french.jpg", "exif_landscape_1.jpg",
          "land01.jpg", "land07.jpg", "bridge_orig.jpg", "nextcloud_frog.jpg", "earth_apollo17.jpg", "sample1.png")  # fmt: skip
VIDEOS = ("terminal_480p.mp4", "gyro_rolling_shutter_text.mp4", "mdn_frog_480p.mp4", "bbb_rabbit_240p_13s.mp4")


def det_settings() -> dict[str, Any]:
    """What inference.yml of the detector says: RapidOCR's normalisation and thresholds in PaddleOCR's words."""
    return {
        "Global": {"model_name": "PP-OCRv6_small_det"},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"DetResizeForTest": {"resize_long": 960}},
                {"NormalizeImage": {"mean": [0.5] * 3, "std": [0.5] * 3, "scale": "1./255.", "order": "hwc"}},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.5, "max_candidates": 1000, "unclip_ratio": 1.6, "use_dilation": True},
    }  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PaddleOCR model folders det/ and rec/ made of the networks in the rapidocr wheel."""
    import onnxruntime
    import rapidocr

    wheel, folder = Path(rapidocr.__file__).parent / "models", tmp_path_factory.mktemp("paddle")
    for part in ("det", "rec"):
        (folder / part).mkdir()
        shutil.copy(wheel / f"PP-OCRv6_{part}_small.onnx", folder / part / "inference.onnx")
    recogniser = onnxruntime.InferenceSession(str(folder / "rec" / "inference.onnx"), providers=["CPUExecutionProvider"])
    characters = recogniser.get_modelmeta().custom_metadata_map["character"].splitlines()
    rec_settings = {
        "Global": {"model_name": "PP-OCRv6_small_rec"},
        "PreProcess": {
            "transform_ops": [{"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}, {"RecResizeImg": {"image_shape": [3, 48, 320]}}]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": characters},
    }
    for part, settings in (("det", det_settings()), ("rec", rec_settings)):
        (folder / part / "inference.yml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def stages(models: Path) -> tuple[ScoreText, ScoreText]:
    """The text stage with RapidOCR and with PaddleOCR."""
    return ScoreText(TextConfig()), ScoreText(TextConfig(engine="paddleocr", models=str(models)))


def _case(name: str, pictures: list[Picture]) -> tuple[Clip, list[KeyFrame]]:
    kind = "video" if len(pictures) > 1 else "image"
    clip = Clip(clip_id=name, asset_id=name, kind=kind, start_us=0, end_us=1_000_000 * len(pictures))
    frames = [
        KeyFrame(asset_id=name, index=i, pts_us=i * 1_000_000, width=p.shape[1], height=p.shape[0], jpeg=encode_jpeg(p))
        for i, p in enumerate(pictures)
    ]
    return clip, frames


def _image(path: Path) -> list[Picture]:
    from PIL import Image

    with Image.open(path) as image:
        rgb = image.convert("RGB")
    rgb.thumbnail((512, 512))
    return [np.asarray(rgb)]


def _video(path: Path) -> list[Picture]:
    from curation.decode import decode
    from curation.media import MediaConfig

    frames = [f for f, _ in decode(str(path), MediaConfig())]
    return [f.to_ndarray(format="rgb24", width=512, height=288) for f in frames[:: max(1, len(frames) // 5)][:5]]


def test_same_verdicts_as_rapidocr(stages: tuple[ScoreText, ScoreText], media: Path) -> None:
    """On twelve images and four videos, with and without text, both engines give one verdict, and scores within 0.05."""
    cases = [_case(n, _image(media / "image" / n)) for n in IMAGES] + [_case(n, _video(media / "video" / n)) for n in VIDEOS]
    rapid, paddle = (stage(cases) for stage in stages)
    scores = {r.clip_id: (r.text_score or 0.0, p.text_score or 0.0) for r, p in zip(rapid, paddle, strict=True)}
    print({k: (round(a, 3), round(b, 3)) for k, (a, b) in scores.items()})
    assert [p.error_detail for p in paddle] == [None] * len(cases)
    assert {n: s for n, s in scores.items() if (s[0] >= THRESHOLD) != (s[1] >= THRESHOLD)} == {}
    assert {n: s for n, s in scores.items() if abs(s[0] - s[1]) > 0.05} == {}
    assert {n for n, s in scores.items() if s[1] >= THRESHOLD} == {*IMAGES[:6], *VIDEOS[:2]}


def test_same_boxes_as_rapidocr(stages: tuple[ScoreText, ScoreText], media: Path) -> None:
    """On a page of text both find the same lines within 3 px and read the same words."""
    picture = np.ascontiguousarray(_image(media / "image" / "text_japan.jpg")[0][:, :, ::-1])
    (rapid, paddle), ends = ([s.reader.find(picture, 0.5) for s in stages], [])
    assert len(rapid) == len(paddle) >= 4
    for a in rapid:
        ends.append(min(float(np.abs(a.corners - b.corners).max()) for b in paddle))
    assert max(ends) <= 3
    line = np.ascontiguousarray(_image(media / "image" / "text_en.jpg")[0][:25, :, ::-1])
    (one,), (two,) = (s.reader.read([line]) for s in stages)
    assert one[0] == two[0] and one[1] == pytest.approx(two[1], abs=0.01)


LOAD_WITHOUT_NETWORK = """
import socket, sys
seen = []
def refuse(*a, **k):
    seen.append(a)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from curation.text import ScoreText, TextConfig
ScoreText(TextConfig(engine="paddleocr", models=sys.argv[1]))
print("asked the network", len(seen), "times")
"""


def test_nothing_is_fetched(models: Path) -> None:
    """A fresh process that imports PaddleOCR and loads local folders asks for no connection and no address."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_NETWORK, str(models)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "asked the network 0 times"


def test_a_picture_that_cannot_be_read_costs_one_clip(stages: tuple[ScoreText, ScoreText], media: Path) -> None:
    """A key frame cut short gives an error for its clip, and the next clip is scored."""
    clip, frames = _case("bad", _image(media / "image" / "land01.jpg"))
    broken = KeyFrame(asset_id="bad", index=0, pts_us=0, width=1, height=1, jpeg=frames[0].jpeg[:500])
    bad, good = stages[1]([(clip, [broken]), _case("good", _image(media / "image" / "text_en.jpg"))])
    assert (bad.error_code, bad.text_score) == ("bad_keyframe", None)
    assert (good.text_score or 0) >= THRESHOLD


def test_a_model_folder_cannot_run_code(models: Path, tmp_path: Path) -> None:
    """PaddleX evaluates the scale of the pixels as Python: a folder whose scale is no number is refused before it is loaded."""
    shutil.copytree(models, tmp_path / "evil")
    settings = det_settings()
    settings["PreProcess"]["transform_ops"][2]["NormalizeImage"]["scale"] = "__import__('pathlib').Path('ran').touch()"
    (tmp_path / "evil" / "det" / "inference.yml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match="expected a number as scale"):
        ScoreText(TextConfig(engine="paddleocr", models=str(tmp_path / "evil")))
