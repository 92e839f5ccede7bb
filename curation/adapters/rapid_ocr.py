"""RapidOCR (onnxruntime) as a reader. Its PP-OCRv6 small models travel inside the wheel; nothing is downloaded.

The network objects are called one by one rather than through `RapidOCR.__call__`: that call sorts the boxes without their scores
(3.10), so that detection and recognition scores could not be paired, and it reads every box of a crowded screen.
"""

from pathlib import Path
from typing import Any

import numpy as np

from curation.keyframes import Picture
from curation.text import ReadError, TextBox, TextConfig, area_share, cut_line, resize_long_side

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"


class RapidReader:
    """Reads text with RapidOCR on one thread, so that the engine that places the workers decides how many cores are used."""

    def __init__(self, cfg: TextConfig) -> None:
        import cv2
        import rapidocr
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecognizer

        self.cfg = cfg
        folder = Path(cfg.models) if cfg.models else Path(rapidocr.__file__).parent / "models"
        cv2.setNumThreads(1)
        settings = _settings(rapidocr, folder)
        self._detector = TextDetector(settings.Det)
        self._recogniser = TextRecognizer(settings.Rec)

    def read(self, picture: Picture) -> list[TextBox]:
        """The lines of text in the picture, surest first. Reading costs more than finding, so an empty picture is cheap."""
        bgr = np.ascontiguousarray(resize_long_side(picture, self.cfg.detect_px)[:, :, ::-1])
        try:
            found = self._detect(bgr)[: self.cfg.max_boxes]
            if not found:
                return []
            readings = self._recognise([cut_line(bgr, corners) for corners, _ in found])
        except Exception as e:  # whatever the library raises on one picture must cost one clip, not the batch
            raise ReadError(f"rapidocr: expected a picture that can be read, {picture.shape} gave {type(e).__name__}: {e}") from e
        return [
            TextBox(text=text, detection=detection, recognition=recognition, area_share=area_share(corners, bgr))
            for (corners, detection), (text, recognition) in zip(found, readings, strict=True)
        ]

    def _detect(self, bgr: Picture) -> list[tuple[Any, float]]:
        """Corners and score of each box, best score first."""
        pixels = self._detector.get_preprocess()(bgr)
        if pixels is None:
            return []
        boxes, scores = self._detector.postprocess_op(self._detector.session(pixels), bgr.shape[:2])
        order = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
        return [(boxes[i], float(scores[i])) for i in order]

    def _recognise(self, lines: list[Picture]) -> list[tuple[str, float]]:
        from rapidocr.ch_ppocr_rec import TextRecInput

        read = self._recogniser(TextRecInput(img=lines))
        return [(text, float(score)) for text, score in zip(read.txts or (), read.scores, strict=True)]


def _settings(rapidocr: Any, folder: Path) -> Any:
    """RapidOCR's settings with explicit model files: a given path is never looked up on the network. Raises FileNotFoundError."""
    from rapidocr.main import DEFAULT_CFG_PATH
    from rapidocr.utils.parse_parameters import ParseParams

    paths = {part: folder / name for part, name in (("Det", DETECTOR), ("Rec", RECOGNISER))}
    for path in paths.values():
        if not path.is_file():
            raise FileNotFoundError(
                f"rapidocr: expected the model {path.name} in {folder}, found none; it is part of the rapidocr>=3.10 wheel"
            )
    values = {
        "Global.log_level": "critical",
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        "Det.limit_type": "max",  # the picture comes at its size; the library's own default would enlarge it to 736 px
        "Det.limit_side_len": 4096,
        "Det.model_path": str(paths["Det"]),
        "Rec.model_path": str(paths["Rec"]),
    }
    settings = ParseParams.update_batch(ParseParams.load(DEFAULT_CFG_PATH), values)
    for part in (settings.Det, settings.Rec):
        part.engine_cfg = settings.EngineConfig.onnxruntime
    settings.Rec.font_path = None
    rapidocr.main.logger.setLevel("CRITICAL")
    return settings
