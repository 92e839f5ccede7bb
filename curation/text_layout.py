"""What kind of text a line is: laid over the picture or part of the scene, subtitle, mark in a corner. Told by how it stands over time.

Every line found in a look (one key frame) is compared with the neighbouring looks, by its pixels and not by finding it again, as a detector
flickers. A line that stands still while the picture around it moves was laid over it; one that moves with the picture is part of the
scene, and so is one that is there in one look only while everything moves, for what is laid over is left to be read. Where nothing moves
neither shows: then the lines count as laid over if most of them are exactly level (screens, slides, titles), else as scene.
"""

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the picture's width and height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutConfig:
    """How lines are sorted. All values are ours."""

    least_score: float = 0.3  # detection x recognition of a line that is sorted
    most_lines: int = 12  # lines sorted in one look, highest score first
    still: float = 0.6  # correlation of a line's pixels with the same place in another look from which it stands there
    moved_levels: float = 8.0  # mean change of a cell of the picture, levels of 255, from which it moved
    moved_share: float = 0.25  # share of cells that moved from which the picture moves; twice as much is the camera
    least_shift: float = 0.012  # of width or height, by which a line's centre has moved
    still_steps: float = 0.4  # of the steps over which a line stands, so many must show the picture moving for an overlay
    level: float = 0.02  # rise over run of a line that counts as level
    low_from: float = 0.7  # subtitles: the line's middle is below this share of the height …
    off_centre: float = 0.06  # … its centre at most this far from the picture's, of the width …
    longest_subtitle_us: int = 7_000_000  # … and it stands at most this long: nobody needs longer to read two lines
    edge_x: float = 0.3  # marks: the line's centre is in the outer part, of the width …
    edge_y: float = 0.22  # … and of the height …
    mark_area: float = 0.03  # … it covers at most this share …
    mark_stays: float = 0.8  # … and stands in so many of the looks
    most_beside: float = 4.0  # lines in a look, on average: with more it is a screen or a slide and has neither subtitles nor marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of text in one look: its reading, score, corners [4, 2] as shares of width and height, and their bounding rectangle."""

    text: str
    score: float
    corners: np.ndarray

    @property
    def rectangle(self) -> Rectangle:
        """The upright rectangle around the corners."""
        low, high = self.corners.min(0), self.corners.max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One key frame: its time, its luma (uint8, long side about 512 px) and the lines found in it."""

    pts_us: int
    grey: np.ndarray
    lines: Sequence[Line]


@dataclass(slots=True, kw_only=True)
class Standing:
    """A line and the looks first..last over which it stands at one place, with what speaks for overlay and for scene."""

    line: Line
    first: int
    last: int
    over: float = 0.0
    scene: float = 0.0
    seen: int = 1

    @property
    def kind(self) -> str:
        """overlay, scene, or unsure where nothing moves."""
        if self.over == self.scene:
            return "unsure"
        return "overlay" if self.over > self.scene else "scene"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The highest score of each kind of text; 0 = none of the kind. All null where one look cannot tell."""

    overlay: float | None = None
    subtitle: float | None = None
    corner_mark: float | None = None
    scene: float | None = None
    standing: list[Standing] = field(default_factory=list)


def sort_lines(looks: Sequence[Look], cfg: LayoutConfig) -> Layout:
    """The kinds of text in a clip's looks, in order of time. Without any line all are 0; with lines but a single look all are null."""
    looks = [Look(pts_us=x.pts_us, grey=x.grey, lines=_foremost(x.lines, cfg)) for x in looks]
    if not any(look.lines for look in looks):
        return Layout(overlay=0.0, subtitle=0.0, corner_mark=0.0, scene=0.0)
    if len(looks) < 2:
        return Layout()
    moves = [_moved_cells(a, b, cfg) for a, b in itertools.pairwise(looks)]
    standing = _stand(looks, cfg)
    for s in standing:
        _weigh(s, looks, moves, cfg)
    unsure = [is_level(s.line, looks[s.first].grey.shape, cfg) for s in standing if s.kind == "unsure"]
    level = 2 * sum(unsure) >= len(unsure)
    over = [s for s in standing if s.kind == "overlay" or (s.kind == "unsure" and level)]
    scene = [s for s in standing if s.kind == "scene" or (s.kind == "unsure" and not level)]
    crowded = sum(len(x.lines) for x in looks) > cfg.most_beside * sum(bool(x.lines) for x in looks)
    marks = [] if crowded else [s for s in over if _is_mark(s, over, len(looks), cfg)]
    subtitles = [] if crowded else [s for s in over if not any(s is m for m in marks) and _is_subtitle(s, looks, cfg)]
    return Layout(
        overlay=_best(over),
        subtitle=_best(subtitles),
        corner_mark=_best(marks),
        scene=_best(scene),
        standing=standing,
    )


def is_level(line: Line, shape: tuple[int, ...], cfg: LayoutConfig) -> bool:
    """Whether the longer sides run along the picture's own, within one pixel; text laid over a picture does."""
    height, width = shape[:2]
    sides = np.diff(np.vstack([line.corners, line.corners[:1]]), axis=0) * (width, height)
    longest = sides[int(np.argmax(np.hypot(*sides.T)))]
    rise, run = sorted(np.abs(longest))
    return bool(rise <= max(1.5, cfg.level * run))


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two patches of one shape, −1..1; 1 for two that are plain and at one level, 0 for one plain and one not."""
    x, y = a.astype(np.float32).ravel(), b.astype(np.float32).ravel()
    x_mean, y_mean = float(x.mean()), float(y.mean())
    x, y = x - x_mean, y - y_mean
    spread = float(np.sqrt((x @ x) * (y @ y)))
    if spread < x.size:  # both, or one, with less than about one level of contrast
        return float(abs(x_mean - y_mean) < 4 and max(float(x @ x), float(y @ y)) < 4 * x.size)
    return float(x @ y) / spread


def patch(grey: np.ndarray, rectangle: Rectangle, margin: float = 0.0) -> np.ndarray:
    """The part of the picture under the rectangle, a view of at least 2 x 2 px; the margin is a share of its height on every side."""
    height, width = grey.shape
    left, top, right, bottom = rectangle
    add = margin * (bottom - top) * height
    x0, x1 = int(left * width - add), int(np.ceil(right * width + add))
    y0, y1 = int(top * height - add), int(np.ceil(bottom * height + add))
    x0, y0 = min(max(0, x0), width - 2), min(max(0, y0), height - 2)
    return grey[y0 : max(y0 + 2, min(height, y1)), x0 : max(x0 + 2, min(width, x1))]


def overlap(a: Rectangle, b: Rectangle) -> float:
    """Intersection over union."""
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = across * down
    return both / max(1e-12, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _foremost(lines: Sequence[Line], cfg: LayoutConfig) -> list[Line]:
    return sorted((x for x in lines if x.score >= cfg.least_score), key=lambda x: -x.score)[: cfg.most_lines]


def _best(standing: Sequence[Standing]) -> float:
    return max((s.line.score for s in standing), default=0.0)


def _stand(looks: Sequence[Look], cfg: LayoutConfig) -> list[Standing]:
    """Every line once, with the looks over which its pixels stand."""
    found: list[Standing] = []
    for i, look in enumerate(looks):
        for line in look.lines:
            known = next((s for s in found if s.first <= i <= s.last and overlap(s.line.rectangle, line.rectangle) > 0.5), None)
            if known is None:
                first, last = _span(line, looks, i, cfg)
                found.append(Standing(line=line, first=first, last=last))
            else:
                known.seen += 1
                if line.score > known.line.score:
                    known.line = line
    return found


def _span(line: Line, looks: Sequence[Look], at: int, cfg: LayoutConfig) -> tuple[int, int]:
    """The looks around `at` in which the line stands where it is."""
    own, first, last = patch(looks[at].grey, line.rectangle), at, at
    while first > 0 and _stays(line, own, looks[first - 1], cfg):
        first -= 1
    while last + 1 < len(looks) and _stays(line, own, looks[last + 1], cfg):
        last += 1
    return first, last


def _stays(line: Line, own: np.ndarray, look: Look, cfg: LayoutConfig) -> bool:
    """By its pixels; by its reading where a lively picture shows through between the letters."""
    if alike(own, patch(look.grey, line.rectangle)) >= cfg.still:
        return True
    x, y = _centre(line.rectangle)
    at_place = (
        o for o in look.lines if abs(_centre(o.rectangle)[0] - x) < cfg.least_shift and abs(_centre(o.rectangle)[1] - y) < cfg.least_shift
    )
    return any(overlap(line.rectangle, o.rectangle) >= 0.6 and same_reading(line.text, o.text) for o in at_place)


def _moved_cells(a: Look, b: Look, cfg: LayoutConfig) -> np.ndarray:
    """Which cells of 24 x 16 moved between two looks, the lines themselves left out; float32 [16, 24], nan under lines."""
    change = cv2.resize(cv2.absdiff(a.grey, b.grey), (24, 16), interpolation=cv2.INTER_AREA)
    moved = (change >= cfg.moved_levels).astype(np.float32)
    for line in (*a.lines, *b.lines):
        left, top, right, bottom = line.rectangle
        moved[max(0, int(top * 16)) : int(np.ceil(bottom * 16)), max(0, int(left * 24)) : int(np.ceil(right * 24))] = np.nan
    return moved


def _weigh(s: Standing, looks: Sequence[Look], moves: Sequence[np.ndarray], cfg: LayoutConfig) -> None:
    """Adds what each step over which the line stands, and the steps at which it comes and goes, say."""
    while_moving = 0
    for i in range(s.first, s.last):
        share = _share(moves[i])
        around = _share(_around(moves[i], s.line.rectangle))
        while_moving += share >= 2 * cfg.moved_share or (around >= 0.5 and share >= cfg.moved_share)
    if while_moving >= max(1.0, cfg.still_steps * (s.last - s.first)):
        s.over += while_moving
    steps = [(here, there) for here, there in ((s.first, s.first - 1), (s.last, s.last + 1)) if 0 <= there < len(looks)]
    shares = [_share(moves[min(step)]) for step in steps]
    for (here, there), share in zip(steps, shares, strict=True):
        if _went(s.line, looks[here], looks[there], cfg):
            s.scene += share >= cfg.moved_share
            s.over += share < cfg.moved_share  # text that moves over a standing picture was animated
        elif share < cfg.moved_share / 2:
            s.over += 1  # it came or went while the picture stood
    if s.first == s.last and shares and min(shares) >= 2 * cfg.moved_share:
        s.scene += 0.5


def _share(moved: np.ndarray) -> float:
    known = moved[~np.isnan(moved)]
    return float(known.mean()) if known.size else 0.0


def _around(moved: np.ndarray, rectangle: Rectangle) -> np.ndarray:
    left, top, right, bottom = rectangle
    rows = slice(max(0, int(top * 16) - 2), int(np.ceil(bottom * 16)) + 2)
    return moved[rows, max(0, int(left * 24) - 2) : int(np.ceil(right * 24)) + 2]


def _went(line: Line, here: Look, there: Look, cfg: LayoutConfig) -> bool:
    """Whether the line is at another place in the other look: as pixels nearby, or as the same reading anywhere."""
    x, y = _centre(line.rectangle)
    for other in there.lines:
        ox, oy = _centre(other.rectangle)
        if max(abs(x - ox), abs(y - oy)) >= cfg.least_shift and same_reading(line.text, other.text):
            return True
    own = patch(here.grey, line.rectangle)
    left, top, right, bottom = line.rectangle
    reach = 0.12
    area = patch(there.grey, (max(0.0, left - reach), max(0.0, top - reach), min(1.0, right + reach), min(1.0, bottom + reach)))
    if own.shape[0] >= area.shape[0] or own.shape[1] >= area.shape[1] or float(own.std()) < 4:
        return False
    match = cv2.matchTemplate(area, np.ascontiguousarray(own), cv2.TM_CCOEFF_NORMED)
    return float(match.max()) >= cfg.still + 0.15


def same_reading(a: str, b: str) -> bool:
    """Whether two readings are the same text, give or take a few misread characters."""
    a, b = ("".join(c for c in t.casefold() if c.isalnum()) for t in (a, b))
    return min(len(a), len(b)) >= 2 and difflib.SequenceMatcher(None, a, b).ratio() >= 0.75


def _centre(r: Rectangle) -> tuple[float, float]:
    return (r[0] + r[2]) / 2, (r[1] + r[3]) / 2


def _is_mark(s: Standing, others: Sequence[Standing], n_looks: int, cfg: LayoutConfig) -> bool:
    x, y = _centre(s.line.rectangle)
    left, top, right, bottom = s.line.rectangle
    in_corner = min(x, 1 - x) <= cfg.edge_x and min(y, 1 - y) <= cfg.edge_y
    if not in_corner or (right - left) * (bottom - top) > cfg.mark_area:
        return False
    # A look in which it could not be read breaks its standing in two; at one place they are one mark.
    there = {i for o in others if overlap(o.line.rectangle, s.line.rectangle) > 0.5 for i in range(o.first, o.last + 1)}
    return len(there) >= max(2.0, cfg.mark_stays * n_looks)


def _is_subtitle(s: Standing, looks: Sequence[Look], cfg: LayoutConfig) -> bool:
    x, y = _centre(s.line.rectangle)
    low = y >= cfg.low_from and abs(x - 0.5) <= cfg.off_centre
    return low and looks[s.last].pts_us - looks[s.first].pts_us <= cfg.longest_subtitle_us
