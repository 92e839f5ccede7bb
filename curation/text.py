"""Text in the picture, read on key frames. Batch: equal-length lists, one `TextScore` a clip.

`text_score` is the highest detection x recognition score over all key frames and lines; Movie Gen keeps a clip below 0.6 (Data, three
filter stages). A detector also fires on texture, and a recogniser always reads something into it: on real footage the false boxes
read as one character over half the picture, or as one character repeated ("000", "XXX"). So a line counts only when its reading has
at least `min_characters` letters or digits and at least two different ones.

What that rule leaves out must not pass in silence: `text_unread_score` is the detection score of the surest box that is as long as a line
of text and reads as nothing (scripts that the models do not know: Arabic, Thai), or that is one large letter or digit, surely read. What kind a text is, is told by how it stands over time: `text_layout`.
How a clip is looked at for little is `text_gate`. The same key frames show marks without letters: `corner_logo`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from curation.corner_logo import LogoConfig, corner_logo_score
from curation.keyframes import KeyFrame, KeyFrameError, decode_all, spread
from curation.text_gate import Found, GateConfig, Reader, ReadError, Sweep, TextBox
from curation.text_layout import LayoutConfig, Line, Look, sort_lines
from manifests.records import Clip

__all__ = ["COLUMNS", "Found", "ReadError", "Reader", "ScoreText", "TextBox", "TextConfig", "TextScore", "counts", "score_boxes"]

VERSION = "3"

COLUMNS = (
    "text_score",
    "text_area",
    "text_unread_score",
    "text_overlay_score",
    "subtitle_score",
    "corner_mark_score",
    "corner_logo_score",
    "scene_text_score",
    "text_frames",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How text is looked for. All values are ours: the paper's reader is in-house."""

    engine: Literal["rapidocr", "paddleocr"] = "rapidocr"
    models: str | None = None  # folder of models; rapidocr has its own inside the package, paddleocr needs one
    most_frames: int = 24  # key frames of a clip that are looked at; more are thinned evenly
    calm_us: int = 1_300_000  # after a frame without a hint of text the next one looked at is so much later; 0 looks at every key frame
    unsure: tuple[float, float] = (0.3, 0.75)  # while the best score is in between, frames are looked at closely at once
    stop_score: float | None = None  # no further frame is looked at once a line scores this; area and kinds are then of what was seen
    min_characters: int = 2
    area_score: float = 0.3  # a line counts for the area from this score on
    unread_aspect: float = 2.5  # long side over short side of what may be a line in an unknown script
    unread_recognition: float = 0.7  # below it a long line was not read: an unknown script comes out as a jumble of known letters
    lone_recognition: float = 0.95  # from which one letter or digit alone is believed; into texture less is read
    gate: GateConfig = field(default_factory=GateConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    logo: LogoConfig = field(default_factory=LogoConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """The text columns of a clip. All are null where `error_code` says why; the kinds are null where one frame cannot tell."""

    clip_id: str
    text_score: float | None = None
    text_area: float | None = None
    text_unread_score: float | None = None
    text_overlay_score: float | None = None
    subtitle_score: float | None = None
    corner_mark_score: float | None = None
    corner_logo_score: float | None = None
    scene_text_score: float | None = None
    text_frames: int | None = None
    error_code: str | None = None
    error_detail: str | None = None


class ScoreText:
    """Scores text on the key frames of each clip. Loads the reader's models once."""

    def __init__(self, cfg: TextConfig, reader: Reader | None = None) -> None:
        self.cfg = cfg
        self.reader = reader or _reader(cfg)

    def __call__(self, batch: Sequence[tuple[Clip, list[KeyFrame]]]) -> list[TextScore]:
        """One score a clip, in order. Sound has no picture: its scores are null, without an error."""
        return [self._score(clip, frames) for clip, frames in batch]

    def _score(self, clip: Clip, frames: list[KeyFrame]) -> TextScore:
        if clip.kind == "audio":
            return TextScore(clip_id=clip.clip_id)
        try:
            return self._look(clip.clip_id, spread(frames, self.cfg.most_frames))
        except KeyFrameError as e:
            return TextScore(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e))
        except ReadError as e:
            return TextScore(clip_id=clip.clip_id, error_code="text_failed", error_detail=f"clip {clip.clip_id}: {e}")

    def _look(self, clip_id: str, frames: list[KeyFrame]) -> TextScore:
        sweep = Sweep(self.reader, self.cfg.gate)
        looks: list[Look] = []
        boxes: list[list[TextBox]] = []
        pictures = decode_all(clip_id, frames)  # all of them: a broken one is an error even where the others show text
        best, last = 0.0, frames[-1]
        for frame, picture in zip(frames, pictures, strict=True):
            if looks and sweep.calm and frame is not last and frame.pts_us - looks[-1].pts_us < self.cfg.calm_us:
                continue
            found = sweep.look(picture, close=self.cfg.unsure[0] <= best < self.cfg.unsure[1])
            best = max(best, score_boxes([found], self.cfg)[0])
            boxes.append(found)
            looks.append(Look(pts_us=frame.pts_us, grey=sweep.grey, lines=self._lines(found)))
            if self.cfg.stop_score is not None and best >= self.cfg.stop_score:
                break
        score, area = score_boxes(boxes, self.cfg)
        layout = sort_lines(looks, self.cfg.layout)
        return TextScore(
            clip_id=clip_id,
            text_score=score,
            text_area=area,
            text_unread_score=unread_score(boxes, self.cfg),
            text_overlay_score=layout.overlay,
            subtitle_score=layout.subtitle,
            corner_mark_score=layout.corner_mark,
            corner_logo_score=corner_logo_score(pictures, self.cfg.logo),
            scene_text_score=layout.scene,
            text_frames=sweep.looked,
        )

    def _lines(self, boxes: Sequence[TextBox]) -> list[Line]:
        return [Line(text=b.text or "", score=b.score, corners=b.corners) for b in boxes if counts(b.text, self.cfg.min_characters)]


def score_boxes(frames: Sequence[Sequence[TextBox]], cfg: TextConfig) -> tuple[float, float]:
    """(text_score, text_area) over the lines of each frame; 0 and 0 when no line counts.

    A line that was not read counts for the area of a frame in which another line is text.
    """
    counted = [[box for box in boxes if counts(box.text, cfg.min_characters)] for boxes in frames]
    score = max((b.score for boxes in counted for b in boxes), default=0.0)
    areas = []
    for boxes, sure in zip(frames, counted, strict=True):
        text = [b for b in sure if b.score >= cfg.area_score]
        areas.append(sum(b.area_share for b in [*text, *(b for b in boxes if b.text is None)]) if text else 0.0)
    return score, min(1.0, max(areas, default=0.0))


def unread_score(frames: Sequence[Sequence[TextBox]], cfg: TextConfig) -> float:
    """The highest detection score of what may be text and counts nowhere else: a long line read as nothing, a lone letter; 0 without."""
    return max((b.detection for boxes in frames for b in boxes if _may_be_text(b, cfg)), default=0.0)


def _may_be_text(box: TextBox, cfg: TextConfig) -> bool:
    if box.text is None or (counts(box.text, cfg.min_characters) and box.recognition >= cfg.unread_recognition):
        return False
    lone = sum(c.isalnum() for c in box.text) == 1 and box.recognition >= cfg.lone_recognition and box.detection >= cfg.gate.lone_score
    return lone or box.aspect >= cfg.unread_aspect


def counts(text: str | None, min_characters: int) -> bool:
    """Whether a reading is text rather than texture: enough letters or digits (of any script), not all the same."""
    characters = [c for c in (text or "").casefold() if c.isalnum()]
    return len(characters) >= min_characters and len(set(characters)) >= 2


def _reader(cfg: TextConfig) -> Reader:
    if cfg.engine == "paddleocr":
        from curation.adapters.paddle_ocr import PaddleReader

        return PaddleReader(cfg)
    from curation.adapters.rapid_ocr import RapidReader

    return RapidReader(cfg)
