"""PaddleOCR 3 as a reader, from local model folders: an optional extra, because it pins its own OpenCV.

`TextConfig.models` names a folder with `det/` and `rec/`, each a PaddleOCR inference model: inference.yml beside inference.onnx, or
beside inference.json and inference.pdiparams, e.g. PP-OCRv5_server_det and PP-OCRv5_server_rec. With inference.onnx it runs on
onnxruntime and needs no paddlepaddle; the other form needs paddlepaddle. Nothing is downloaded.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.keyframes import Picture
from curation.text import Found, ReadError, TextConfig

BINARISE = 0.3
"""PaddleOCR's own level at which the detector's map becomes boxes."""

_ONE_THREAD = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}


class PaddleReader:
    """Reads text with PaddleOCR's detection and recognition modules on one CPU thread."""

    def __init__(self, cfg: TextConfig) -> None:
        folders = [_model_folder(cfg, part) for part in ("det", "rec")]
        names = [_model_name(folder) for folder in folders]
        try:
            from paddleocr import TextDetection, TextRecognition
        except ImportError as e:
            raise ImportError("paddleocr: expected the package, found none; install the extra 'dailies[paddle]'") from e
        # max and 4096: the picture comes at its size, the library's own defaults would scale it
        self._detector = TextDetection(
            model_name=names[0], model_dir=str(folders[0]), limit_type="max", limit_side_len=4096, **_engine(folders[0])
        )
        self._recogniser = TextRecognition(model_name=names[1], model_dir=str(folders[1]), **_engine(folders[1]))

    def find(self, bgr: Picture, least: float) -> list[Found]:
        """Where lines of text may be, surest first: all with a detection score of at least `least`."""
        try:
            result = next(iter(self._detector.predict(bgr, batch_size=1, thresh=min(BINARISE, least), box_thresh=least)))
            pairs = zip(result["dt_polys"], result["dt_scores"], strict=True)
            found = [Found(corners=np.asarray(corners, np.float32), score=float(score)) for corners, score in pairs]
        except Exception as e:  # whatever the library raises on one picture must cost one clip, not the batch
            raise ReadError(f"paddleocr: expected a picture that can be read, {bgr.shape} gave {type(e).__name__}: {e}") from e
        return sorted(found, key=lambda f: -f.score)

    def read(self, lines: Sequence[Picture]) -> list[tuple[str, float]]:
        """The reading and its score of each line, in order."""
        try:
            return [(str(r["rec_text"]), float(r["rec_score"])) for line in lines for r in self._recogniser.predict(line, batch_size=1)]
        except Exception as e:  # as above
            raise ReadError(f"paddleocr: expected lines that can be read, found {type(e).__name__}: {e}") from e


def _engine(folder: Path) -> dict[str, Any]:
    """Which engine runs the model in the folder, on one CPU thread."""
    if (folder / "inference.onnx").is_file():
        return {"device": "cpu", "engine": "onnxruntime", "engine_config": _ONE_THREAD}
    return {"device": "cpu", "cpu_threads": 1}


def _model_folder(cfg: TextConfig, part: str) -> Path:
    wanted = "a PP-OCRv5 detection model" if part == "det" else "a PP-OCRv5 recognition model"
    if cfg.models is None:
        raise FileNotFoundError(
            f"paddleocr: expected models=<folder> with det/ and rec/, found none; fetch {wanted} and put it in <folder>/{part}"
        )
    folder = Path(cfg.models) / part
    if not (folder / "inference.yml").is_file():
        raise FileNotFoundError(f"paddleocr: expected {folder}/inference.yml, found none; fetch {wanted} and unpack it in {folder}")
    return folder


def _model_name(folder: Path) -> str:
    """The name the model carries in its inference.yml; PaddleOCR refuses a folder whose name differs from the one asked for.

    Raises ValueError where there is no name, or where the scale of the pixels is not a plain number: PaddleX (3.7) evaluates that text
    as Python, so a model folder from elsewhere could run anything.
    """
    import yaml

    settings = yaml.safe_load((folder / "inference.yml").read_text(encoding="utf-8"))
    for scale in _scales(settings):
        if not re.fullmatch(r"[0-9./eE+ -]+", str(scale)):
            raise ValueError(f"paddleocr: expected a number as scale in {folder}/inference.yml, found {str(scale)[:80]!r}")
    try:
        return str(settings["Global"]["model_name"])
    except (KeyError, TypeError) as e:
        raise ValueError(f"paddleocr: expected Global.model_name in {folder}/inference.yml, found none") from e


def _scales(settings: Any) -> list[Any]:
    """Every value named `scale`, however deep."""
    if isinstance(settings, dict):
        return [v for k, v in settings.items() if k == "scale"] + [s for v in settings.values() for s in _scales(v)]
    return [s for v in settings for s in _scales(v)] if isinstance(settings, list) else []
