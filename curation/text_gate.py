"""Finds and reads the lines of text on a clip's key frames for little: what was seen before is not looked at again.

A picture goes through tests of rising cost, and each sees only what the one before left:

1. the part that changed since the last look; an unchanged picture keeps its lines (0.3 ms);
2. the detector at a small size with a low threshold: no hint, no text (some 20 ms on one core for a whole picture);
3. hints that look as they did when they were examined before are known, as text or as texture;
4. the detector at full size, on the part around the new hints only (some 60 ms for a whole picture);
5. the recogniser, on lines long enough to hold two characters, as many as the clip has left to read (some 30 ms a line).

A test on gradients and strokes before the detector was tried and left out: at a level that lost no text it kept 99 % of real pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from curation.keyframes import Picture
from curation.text_layout import Rectangle, alike, overlap, patch

CELL_PX = 16
"""Side of the cells in which pictures are compared, at full size: the height of a small line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """What is looked at, and how closely. All values are ours."""

    detect_px: int = 576  # long side at which text is detected: 512 finds fewer small marks, 640 reads more into texture
    hint_px: int = 320  # long side of the first look; 256 loses a tenth of the frames with text
    hint_score: float = 0.2  # detection score of a hint in the first look
    detection_score: float = 0.5  # detection score of a line; PP-OCR's own
    changed_levels: float = 6.0  # mean change of a cell, levels of 255, from which it is looked at again
    close_every: int = 12  # the first of so many looks goes without hints straight to the full size: text too small for the first look
    known: float = 0.9  # correlation with what was examined before, from which it is not examined again
    least_hint_aspect: float = 1.1  # long side over short side: two characters are never squarer
    least_aspect: float = 1.25
    reads_per_frame: int = 6  # new lines read in one frame, surest first: a screen full of text is text after the first
    reads_per_clip: int = 16
    lone_score: float = 0.75  # detection score from which a place too square for two characters is read, for a lone letter or digit …
    lone_height: float = 0.08  # … if it is at least so high, of the picture's height …
    lone_reads: int = 2  # … as often as this in a clip, in the first look and in the close one


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A place where a line of text may be: its corners [4, 2] in px, clockwise from the upper left, and the detector's score 0..1."""

    corners: np.ndarray
    score: float

    @property
    def aspect(self) -> float:
        """Long side over short side, as the recogniser will see it: a line that is little higher than wide is not turned."""
        width, height = _sides(self.corners)
        return max(width / height, height / width if height >= 1.5 * width else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBox:
    """One line of text: its reading, both scores 0..1 and its corners [4, 2] as shares of width and height. Not read: None and 0."""

    text: str | None
    detection: float
    recognition: float
    corners: np.ndarray
    aspect: float = 4.0  # long side over short side, in pixels

    @property
    def score(self) -> float:
        """Detection x recognition."""
        return self.detection * self.recognition

    @property
    def area_share(self) -> float:
        """The share of the picture that it covers, 0..1 (shoelace formula)."""
        x, y = np.clip(self.corners, 0, 1).T
        return float(min(1.0, abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2))

    @property
    def rectangle(self) -> Rectangle:
        """The upright rectangle around the corners."""
        low, high = self.corners.min(0), self.corners.max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


class ReadError(RuntimeError):
    """The reader could not work on a picture; the message names its engine and what it said."""


class Reader(Protocol):
    """Finds and reads lines of text in BGR uint8 pictures [height, width, 3] at the size they come in; the adapters are its implementations."""

    def find(self, bgr: Picture, least: float) -> list[Found]:
        """Where lines may be, surest first: all with a detection score of at least `least`. Raises ReadError."""
        ...

    def read(self, lines: Sequence[Picture]) -> list[tuple[str, float]]:
        """The reading and its score 0..1 of each picture of one line, in order. Raises ReadError."""
        ...


@dataclass(slots=True)
class _Examined:
    """What a place looked like when it was examined, and the lines found there; none where it was texture."""

    rectangle: Rectangle
    pixels: np.ndarray
    box: TextBox | None


class Sweep:
    """The looks at one clip, in order of time: remembers what was examined. `grey` of the last picture and the counts are for layout."""

    def __init__(self, reader: Reader, cfg: GateConfig) -> None:
        self.reader, self.cfg = reader, cfg
        self.reads_left, self.lone_left, self.lone_hints = cfg.reads_per_clip, cfg.lone_reads, cfg.lone_reads
        self.looked = 0  # pictures in which something was looked at
        self.calm = False  # nothing in the last look was even a hint
        self.grey = np.zeros((2, 2), np.uint8)
        self._base: np.ndarray | None = None  # what every cell looked like when it was last looked at
        self._boxes: list[TextBox] = []
        self._memory: list[_Examined] = []

    def look(self, picture: Picture, close: bool = False) -> list[TextBox]:
        """The lines of text in the next picture, RGB uint8 [height, width, 3]; `close` skips the small first look. Raises ReadError."""
        bgr = np.ascontiguousarray(resize_long_side(picture, self.cfg.detect_px)[:, :, ::-1])
        self.grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)  # type: ignore[assignment]
        part = changed_part(self._base, self.grey, self.cfg.changed_levels)
        if part is None:
            return self._boxes
        self.looked += 1
        if self._base is None or self._base.shape != self.grey.shape:
            self._base, self._boxes, self._memory = self.grey.copy(), [], []
        left, top, right, bottom = part
        self._base[top:bottom, left:right] = self.grey[top:bottom, left:right]
        kept = [b for b in self._boxes if not _touches(b.rectangle, _as_shares(part, self.grey.shape))]
        due = self.looked % self.cfg.close_every == 1 % self.cfg.close_every
        self._boxes = kept + (self._close_look(bgr, part) if close or due else self._examine(bgr, part))
        return self._boxes

    def _examine(self, bgr: Picture, part: tuple[int, int, int, int]) -> list[TextBox]:
        """The lines in a part of the picture: hints first, then a close look at the new ones."""
        known: list[TextBox] = []
        new: list[Rectangle] = []
        hints = self._hints(bgr, part)
        self.calm = not hints
        for hint in hints:
            before = self._remember(hint)
            if before is None:
                new.append(hint)
            elif before.box is not None and not any(before.box is k for k in known):
                known.append(before.box)
        if not new:
            return known
        boxes = self._close_look(bgr, _around(new, self.grey.shape))
        for hint in new:  # a hint that is no line was texture, and is known from now on
            if not any(overlap(hint, b.rectangle) > 0 for b in boxes):
                self._note(hint, None)
        return boxes + [k for k in known if all(overlap(k.rectangle, b.rectangle) < 0.3 for b in boxes)]

    def _hints(self, bgr: Picture, part: tuple[int, int, int, int]) -> list[Rectangle]:
        """Where text may be, as shares of the picture: the detector at the small size."""
        left, top, right, bottom = part
        scale = self.cfg.hint_px / max(bgr.shape[:2])
        size = max(32, round((right - left) * scale)), max(32, round((bottom - top) * scale))
        small = cv2.resize(bgr[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
        back, start = np.array([(right - left) / size[0], (bottom - top) / size[1]]), np.array([left, top])
        found = self.reader.find(np.asarray(small, np.uint8), self.cfg.hint_score)
        places = [(f, _rectangle(f.corners * back + start, bgr.shape)) for f in found]
        return [place for f, place in places if f.aspect >= self.cfg.least_hint_aspect or self._lone_hint(f, place)]

    def _lone_hint(self, found: Found, place: Rectangle) -> bool:
        """Whether a squarish hint is worth a close look for one letter or digit; there are only so many such looks in a clip."""
        large = found.score >= self.cfg.lone_score and place[3] - place[1] >= self.cfg.lone_height
        if not large or self.lone_hints <= 0 or self._remember(place) is not None:
            return False
        self.lone_hints -= 1
        return True

    def _close_look(self, bgr: Picture, part: tuple[int, int, int, int]) -> list[TextBox]:
        """The lines in a part of the picture at full size, read as far as the clip's reads go."""
        left, top, right, bottom = part
        found = self.reader.find(np.ascontiguousarray(bgr[top:bottom, left:right]), self.cfg.detection_score)
        self.calm = False  # what is too faint to be a line may be one in the next picture
        boxes: list[TextBox] = []
        unread: list[TextBox] = []
        for f in found:
            corners = (f.corners.astype(np.float64) + np.array([left, top])) / (bgr.shape[1], bgr.shape[0])
            box = TextBox(text=None, detection=f.score, recognition=0.0, corners=corners, aspect=f.aspect)
            before = self._remember(box.rectangle)
            if before is not None:
                boxes += [] if before.box is None else [before.box]
            elif f.aspect >= self.cfg.least_aspect or self._may_be_lone(box):
                unread.append(box)
            else:
                self._note(box.rectangle, None)
        n = min(len(unread), self.cfg.reads_per_frame, self.reads_left)
        self.reads_left -= n
        return boxes + self._read(bgr, unread[:n]) + unread[n:]

    def _may_be_lone(self, box: TextBox) -> bool:
        """Whether a squarish place is worth reading as one letter or digit; there are only so many such reads in a clip."""
        _, top, _, bottom = box.rectangle
        if box.detection < self.cfg.lone_score or bottom - top < self.cfg.lone_height or self.lone_left <= 0:
            return False
        self.lone_left -= 1
        return True

    def _read(self, bgr: Picture, boxes: Sequence[TextBox]) -> list[TextBox]:
        """The boxes with their readings, remembered."""
        lines = [cut_line(bgr, box.corners * (bgr.shape[1], bgr.shape[0])) for box in boxes]
        done = []
        for box, (text, score) in zip(boxes, self.reader.read(lines) if lines else [], strict=True):
            read = TextBox(text=text, detection=box.detection, recognition=score, corners=box.corners, aspect=box.aspect)
            self._note(read.rectangle, read)
            done.append(read)
        return done

    def _remember(self, rectangle: Rectangle) -> _Examined | None:
        """What was examined at this place, where it still looks the same."""
        for seen in reversed(self._memory):
            if overlap(seen.rectangle, rectangle) > 0.4 and alike(seen.pixels, patch(self.grey, seen.rectangle)) >= self.cfg.known:
                return seen
        return None

    def _note(self, rectangle: Rectangle, box: TextBox | None) -> None:
        self._memory.append(_Examined(rectangle, patch(self.grey, rectangle).copy(), box))
        del self._memory[:-128]


def changed_part(base: np.ndarray | None, grey: np.ndarray, levels: float) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom in px of the cells that changed, all of it where there is no base or most changed; None where nothing did."""
    height, width = grey.shape
    whole = (0, 0, width, height)
    if base is None or base.shape != grey.shape:
        return whole
    columns, rows = max(1, width // CELL_PX), max(1, height // CELL_PX)
    change = cv2.resize(cv2.absdiff(base, grey), (columns, rows), interpolation=cv2.INTER_AREA)
    ys, xs = np.nonzero(change >= levels)
    if not len(ys):
        return None
    # Two cells more on every side, so that a line is never cut: the whole width of its rows.
    top, bottom = max(0, int(ys.min()) - 2) * height // rows, min(rows, int(ys.max()) + 3) * height // rows
    left, right = max(0, int(xs.min()) - 4) * width // columns, min(columns, int(xs.max()) + 5) * width // columns
    part = (left, top, right, bottom)
    return part if (right - left) * (bottom - top) <= 0.5 * width * height else whole


def resize_long_side(picture: Picture, long_px: int) -> Picture:
    """The picture scaled so that its longer side is `long_px`."""
    scale = long_px / max(picture.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), dtype=np.uint8)


def cut_line(picture: Picture, corners: Any) -> Picture:
    """The quadrilateral [4, 2] (clockwise from the upper left, in px) straightened into a line of text; an upright line is turned."""
    quad = np.asarray(corners, dtype=np.float32)
    width, height = (max(1, round(side)) for side in _sides(quad))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(quad, target)
    line = cv2.warpPerspective(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    upright = height >= 1.5 * width  # PP-OCR's own rule: its recogniser reads horizontal lines only
    return np.ascontiguousarray(np.rot90(line) if upright else line, dtype=np.uint8)


def _sides(corners: np.ndarray) -> tuple[float, float]:
    """Width and height of a quadrilateral: the longer of each pair of sides, at least a pixel."""
    top, right, bottom, left = (float(np.linalg.norm(corners[i] - corners[(i + 1) % 4])) for i in range(4))
    return max(1.0, top, bottom), max(1.0, right, left)


def _rectangle(corners: np.ndarray, shape: tuple[int, ...]) -> Rectangle:
    low, high = corners.min(0), corners.max(0)
    return _as_shares((low[0], low[1], high[0], high[1]), shape)


def _as_shares(part: tuple[float, float, float, float], shape: tuple[int, ...]) -> Rectangle:
    height, width = shape[:2]
    return float(part[0]) / width, float(part[1]) / height, float(part[2]) / width, float(part[3]) / height


def _touches(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _around(hints: Sequence[Rectangle], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part that holds all hints with room around them, in px; all of the picture where that is most of it."""
    height, width = shape[:2]
    low = [min(h[i] for h in hints) for i in (0, 1)]
    high = [max(h[i] for h in hints) for i in (2, 3)]
    left, right = max(0, int(low[0] * width) - 32), min(width, int(high[0] * width) + 33)
    top, bottom = max(0, int(low[1] * height) - 32), min(height, int(high[1] * height) + 33)
    whole = (right - left) * (bottom - top) > 0.8 * width * height
    return (0, 0, width, height) if whole else (left, top, right, bottom)
