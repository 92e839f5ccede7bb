"""PaddleOCR 3 as a reader, from local model folders: an optional extra, because it pins its own OpenCV.

`TextConfig.models` names a folder with `det/` and `rec/`, each a PaddleOCR inference model (inference.yml, inference.json,
inference.pdiparams), e.g. PP-OCRv5_server_det and PP-OCRv5_server_rec.
"""

from pathlib import Path
from typing import Any

import numpy as np

from curation.keyframes import Picture
from curation.text import ReadError, TextBox, TextConfig, area_share, cut_line, resize_long_side


class PaddleReader:
    """Reads text with PaddleOCR's detection and recognition modules on one CPU thread."""

    def __init__(self, cfg: TextConfig) -> None:
        folders = [_model_folder(cfg, part) for part in ("det", "rec")]
        try:
            from paddleocr import TextDetection, TextRecognition
        except ImportError as e:
            raise ImportError("paddleocr: expected the package, found none; install the extra 'dailies[paddle]'") from e
        self.cfg = cfg
        common: dict[str, Any] = {"device": "cpu", "cpu_threads": 1}
        names = [_model_name(folder) for folder in folders]
        self._detector = TextDetection(model_name=names[0], model_dir=str(folders[0]), limit_type="max", limit_side_len=4096, **common)
        self._recogniser = TextRecognition(model_name=names[1], model_dir=str(folders[1]), **common)

    def read(self, picture: Picture) -> list[TextBox]:
        """The lines of text in the picture, surest first."""
        bgr = np.ascontiguousarray(resize_long_side(picture, self.cfg.detect_px)[:, :, ::-1])
        try:
            found = self._detect(bgr)[: self.cfg.max_boxes]
            lines = [cut_line(bgr, corners) for corners, _ in found]
            readings = list(self._recogniser.predict(lines, batch_size=6)) if lines else []
        except Exception as e:  # whatever the library raises on one picture must cost one clip, not the batch
            raise ReadError(f"paddleocr: expected a picture that can be read, {picture.shape} gave {type(e).__name__}: {e}") from e
        return [
            TextBox(text=r["rec_text"], detection=detection, recognition=float(r["rec_score"]), area_share=area_share(corners, bgr))
            for (corners, detection), r in zip(found, readings, strict=True)
        ]

    def _detect(self, bgr: Picture) -> list[tuple[Any, float]]:
        result = next(iter(self._detector.predict(bgr, batch_size=1)))
        pairs = zip(result["dt_polys"], result["dt_scores"], strict=True)
        return sorted(((np.asarray(corners), float(score)) for corners, score in pairs), key=lambda pair: -pair[1])


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
    """The name the model carries in its inference.yml; PaddleOCR refuses a folder whose name differs from the one asked for."""
    import yaml

    settings = yaml.safe_load((folder / "inference.yml").read_text())
    try:
        return str(settings["Global"]["model_name"])
    except (KeyError, TypeError) as e:
        raise ValueError(f"paddleocr: expected Global.model_name in {folder}/inference.yml, found none") from e
