"""RapidOCR (onnxruntime) as a reader. Its PP-OCRv6 small models travel inside the wheel; nothing is downloaded.

The network objects are called one by one rather than through `RapidOCR.__call__`: that call sorts the boxes without their scores
(3.10), so that detection and recognition scores could not be paired, and it reads every box of a crowded screen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.keyframes import Picture
from curation.text import Found, ReadError, TextConfig

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
BINARISE = 0.3
"""RapidOCR's own level at which the detector's map becomes boxes."""


class RapidReader:
    """Reads text with RapidOCR on one thread, so that the engine that places the workers decides how many cores are used."""

    def __init__(self, cfg: TextConfig) -> None:
        import cv2
        import rapidocr
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecognizer

        folder = Path(cfg.models) if cfg.models else Path(rapidocr.__file__).parent / "models"
        cv2.setNumThreads(1)
        settings = _settings(rapidocr, folder)
        self._detector = TextDetector(settings.Det)
        self._recogniser = TextRecognizer(settings.Rec)

    def find(self, bgr: Picture, least: float) -> list[Found]:
        """Where lines of text may be, surest first: all with a detection score of at least `least`."""
        try:
            pixels = self._detector.get_preprocess()(bgr)
            if pixels is None:
                return []
            boxes_of = self._detector.postprocess_op
            boxes_of.box_thresh, boxes_of.thresh = least, min(BINARISE, least)
            boxes, scores = boxes_of(self._detector.session(pixels), bgr.shape[:2])
        except Exception as e:  # whatever the library raises on one picture must cost one clip, not the batch
            raise ReadError(f"rapidocr: expected a picture that can be read, {bgr.shape} gave {type(e).__name__}: {e}") from e
        found = [Found(corners=np.asarray(c, np.float32), score=float(s)) for c, s in zip(boxes, scores, strict=True)]
        return sorted(found, key=lambda f: -f.score)

    def read(self, lines: Sequence[Picture]) -> list[tuple[str, float]]:
        """The reading and its score of each line, in order. One at a time: in a batch all would be as wide as the widest."""
        from rapidocr.ch_ppocr_rec import TextRecInput

        try:
            results = [self._recogniser(TextRecInput(img=[line])) for line in lines]
        except Exception as e:  # as above
            raise ReadError(f"rapidocr: expected lines that can be read, found {type(e).__name__}: {e}") from e
        return [(text, float(score)) for r in results for text, score in zip(r.txts or (), r.scores, strict=True)]


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
