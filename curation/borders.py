"""Borders around the picture: plain bars of any colour, a blurred copy of the picture, a still graphic; measured per clip.

The observer keeps, for spans of a few seconds, nine small maps: per pixel the mean and the deviation of luma over time, how sharp the
picture is along and across, whether the mean or the deviation steps there, the mean of both colours, and whether luma or a colour steps
there. Each is averaged in bands, 12 to a line, as a border is a strip: [lines, bands] for rows and for columns. That is 27 KB a span. A
measure of any clip is then made from the maps of its spans; where in them a border ends is found in `border_lines`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np

from curation.border_fills import find_soft
from curation.border_frames import find_frame, is_plain
from curation.border_lines import BANDS, Lines, Maps, Sides, find_plain
from curation.border_lines import BordersConfig as BordersConfig
from curation.observe import SMALL_PX, Frame, fit
from curation.orientation import Orientation
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "5"

LOOK_US = 180_000
"""A look each fifth frame or so: 20 looks average the noise of a span, and more cost without telling more."""
SPAN_US = 4_000_000
"""The longest span; a clip lasts at least as long, so some span lies mostly inside it."""
CUT_LEVELS = 24.0
"""A mean change of luma between looks that ends a span: another shot may have other borders."""
SHARP_LOOKS = 2

_TRACK = "borders"
_FIELDS = ("duration_us", "looks", "rows", "sampling")
_AVERAGED, _COLUMNS, _COLUMNS_BACK, _ROWS, _ROWS_BACK = range(5)
"""How small px lie on the picture. The scan's scaler takes one px out of several along a line as stored, from the first on and with a
step of (full - 2) / (small - 2), which is 1 % too long: columns of an upright picture, rows or backwards in a turned one."""
_SCALE = (1.0, 8.0, 4.0, 8.0, 8.0, 255.0, 1.0, 1.0, 255.0)
"""Stored levels a unit: mean, texture, motion, along, across, step, blue, red, edge; so texture to across saturate at 32 or 64 levels."""
_STEP_LEVELS = (4.0, 10.0)
"""A change of mean and deviation, or of both colours, over two lines that is no step yet, and one that is a whole one: grain and coding
stay below."""
_ALONG = np.array([[1, -1, 0, -1, 1]], np.float32) / 2
"""Second difference that noise moves little: blur of two small px silences it."""
_ACROSS = np.array([[1], [-2], [1]], np.float32)


class BordersObserver:
    """Fills the track `borders`: a row a span, its picture the maps [h + w, 9 x BANDS]."""

    def __init__(self) -> None:
        self._recorder = Recorder(_TRACK, _FIELDS)
        self._sums: list[np.ndarray] = []
        self._start_us = self._last_us = 0
        self._looks = 0
        self._before: np.ndarray | None = None
        self._sampling = _COLUMNS

    def push(self, frame: Frame) -> None:
        """Looks at a frame 180 ms after the last look, and at the first."""
        if self._before is not None and 0 <= frame.pts_us - self._last_us < LOOK_US:
            return
        y = frame.y
        cut = self._before is not None and cv2.norm(y, self._before, cv2.NORM_L1) > CUT_LEVELS * y.size
        if self._looks and (cut or frame.pts_us - self._start_us >= SPAN_US):
            self._close(frame.pts_us)
        if not self._looks:
            self._start_us, self._sampling = frame.pts_us, _sampling(frame.turn)
            self._sums = _no_sums(y, frame.u)
        _add(self._sums, (y, frame.u, frame.v), self._looks)
        self._looks += 1
        self._last_us, self._before = frame.pts_us, y

    def finish(self) -> list[Track]:
        """The track, empty when no frame came."""
        if self._looks:
            self._close(self._last_us + 1)
        return [self._recorder.track()]

    def _close(self, end_us: int) -> None:
        maps = _maps(self._sums, self._looks)
        self._recorder.add(self._start_us, end_us - self._start_us, self._looks, len(self._sums[0]), self._sampling, picture=maps)
        self._looks = 0


def border_track_of_picture(rgb: np.ndarray) -> Track:
    """The track of a still picture, RGB uint8 [height, width, 3]: one span of one look, without motion."""
    width, height = fit(rgb.shape[1], rgb.shape[0], SMALL_PX)
    small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    planes = cv2.cvtColor(small, cv2.COLOR_RGB2YUV_I420)
    luma, (u, v) = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
    sums = _no_sums(luma, u)
    _add(sums, (luma, u, v), 0)
    recorder = Recorder(_TRACK, _FIELDS)
    recorder.add(0, 1, 1, height, _AVERAGED, picture=_maps(sums, 1))
    return recorder.track()


def _sampling(turn: Orientation) -> int:
    """Which way the stored columns run in the picture as shown."""
    ramp = turn.apply(np.array([[0, 1], [0, 1]], np.uint8)).astype(int)
    along, down = ramp[0, 1] - ramp[0, 0], ramp[1, 0] - ramp[0, 0]
    return (_COLUMNS if along > 0 else _COLUMNS_BACK) if along else (_ROWS if down > 0 else _ROWS_BACK)


def _no_sums(y: np.ndarray, u: np.ndarray) -> list[np.ndarray]:
    """The sums of no look."""
    return [np.zeros(plane.shape, np.float32) for plane in (y,) * 6 + (u,) * 2]


def _add(sums: list[np.ndarray], planes: tuple[np.ndarray, np.ndarray, np.ndarray], look: int) -> None:
    """Adds a look to the sums: luma, its square, sharpness along rows, across rows, along columns, across columns, blue, red.

    Sharpness changes little and costs most, so that each second look is enough.
    """
    y, u, v = planes
    cv2.accumulate(y, sums[0])
    cv2.accumulate(u, sums[6])
    cv2.accumulate(v, sums[7])
    cv2.accumulateSquare(y, sums[1])
    if look % SHARP_LOOKS == 0:
        kernels: tuple[np.ndarray, ...] = (_ALONG, _ACROSS, _ALONG.T, _ACROSS.T)
        for total, kernel in zip(sums[2:6], kernels, strict=True):
            cv2.accumulate(cv2.convertScaleAbs(cv2.filter2D(y, cv2.CV_16S, kernel, borderType=cv2.BORDER_REPLICATE), alpha=4), total)


def _maps(sums: list[np.ndarray], looks: int) -> np.ndarray:
    """The maps of a span: rows then columns, each [lines, 9 x BANDS], uint8."""
    mean, sharp = sums[0] / looks, -(-looks // SHARP_LOOKS)
    motion = np.sqrt(np.maximum(0, sums[1] / looks - mean * mean))
    along_row, across_row, along_column, across_column = (s / (4 * sharp) for s in sums[2:6])
    blue, red = (s / looks for s in sums[6:])
    rows = _bands(mean, motion, along_row, across_row, blue, red)
    columns = _bands(*(cv2.transpose(m) for m in (mean, motion, along_column, across_column, blue, red)))
    return np.concatenate([rows, columns])


@cache
def _band_weights(length: int) -> np.ndarray:
    """What averages a line of so many px in bands [length, BANDS]."""
    ends = np.linspace(0, length, BANDS + 1).astype(int)
    return np.repeat(np.eye(BANDS) / np.diff(ends), np.diff(ends), axis=0)


def _bands(mean: np.ndarray, motion: np.ndarray, along: np.ndarray, across: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """[lines, length] each, half of both for blue and red -> [lines, 9 x BANDS]; texture is the deviation of the mean within a band."""
    weights = _band_weights(mean.shape[1])
    exact = mean.astype(np.float64)  # the deviation is a small difference of large squares
    level = exact @ weights
    texture = np.sqrt(np.maximum(0, np.square(exact) @ weights - np.square(level)))
    steps = _steps(mean, motion)
    colour = blue, red, _steps(blue, red)
    blue, red, tints = (cv2.resize(m, mean.shape[::-1], interpolation=cv2.INTER_NEAREST) for m in colour)
    averaged = np.concatenate([motion, along, across, steps, blue, red, cv2.max(steps, tints)]) @ weights.astype(np.float32)
    stats = np.concatenate([level, texture, averaged]).reshape(len(_SCALE), *level.shape) * np.array(_SCALE)[:, None, None]
    return np.asarray(np.clip(np.rint(stats), 0, 255).astype(np.uint8).swapaxes(0, 1).reshape(len(mean), -1))


def _steps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How surely each px lies at a line across which the picture changes for good, 0 … 1: a border's edge is one along its whole length."""
    none, whole = _STEP_LEVELS
    steps = np.zeros_like(first)
    change = cv2.absdiff(first[2:], first[:-2]) + cv2.absdiff(second[2:], second[:-2])
    steps[1:-1] = np.minimum(np.maximum(change - none, 0) / (whole - none), 1)
    return steps


BorderKind = Literal["none", "letterbox", "pillarbox", "window", "blurred", "frame"]
COLUMNS = ("border_share", "border_top", "border_bottom", "border_left", "border_right", "border_kind")


def measure_clip_borders(clip: Clip, tracks: Tracks, cfg: BordersConfig) -> dict[str, Any]:
    """The border columns of a clip from the track `borders`; all null when no span of it touches the clip."""
    track = tracks[_TRACK]
    chosen = _spans(track, clip.start_us, clip.end_us)
    if not len(chosen) or not clip.width or not clip.height:
        return dict.fromkeys(COLUMNS)
    found = _found(_clip_maps(track, chosen), cfg)
    return _columns(found, int(track["sampling"][chosen[0]]), clip.width, clip.height)


def _split(stored: np.ndarray, rows: int) -> Maps:
    """The maps of rows and columns from a stored picture as float32."""
    stats = [stored[:, i * BANDS : (i + 1) * BANDS] / k for i, k in enumerate(_SCALE)]
    return Lines(*(s[:rows] for s in stats)), Lines(*(s[rows:] for s in stats))


def _spans(track: Track, start_us: int, end_us: int) -> np.ndarray:
    """The spans that lie at least half inside the clip, or, when none does, the one that lies in it longest; none when none touches it."""
    if not len(track):
        return np.array([], int)
    length = np.maximum(1, track["duration_us"].astype(np.int64))
    inside = np.minimum(track.pts_us + length, end_us) - np.maximum(track.pts_us, start_us)
    chosen = np.flatnonzero(2 * inside >= length)
    if len(chosen) or inside.max() <= 0:
        return chosen
    return np.array([int(np.argmax(inside))])


def _clip_maps(track: Track, chosen: np.ndarray) -> Maps:
    """The maps over several spans: means, to which a change of level from span to span adds motion."""
    weight = track["looks"][chosen].astype(np.float32)
    weight /= weight.sum()
    maps = track.pictures[chosen].astype(np.float32)
    mean = np.tensordot(weight, maps, 1)
    level, moved = slice(0, BANDS), slice(2 * BANDS, 3 * BANDS)
    between = np.tensordot(weight, (maps[..., level] - mean[:, level]) ** 2, 1)
    mean[:, moved] = np.sqrt(np.tensordot(weight, maps[..., moved] ** 2, 1) + between * _SCALE[2] ** 2)
    return _split(mean, int(track["rows"][chosen[0]]))


@dataclass(frozen=True, slots=True)
class _Found:
    kind: BorderKind
    sides: Sides
    rows: int
    columns: int


def _found(maps: Maps, cfg: BordersConfig) -> _Found:
    """The borders in the maps of a clip."""
    rows, columns = (len(m.level) for m in maps)
    plain = find_plain(maps, cfg)
    around = find_frame(maps, cfg)
    is_bar = any(around) and is_plain(maps, around, cfg)
    if is_bar and all(around) and not any(plain):  # around a thing before a plain background
        around = (0.0, 0.0, 0.0, 0.0)
    several: list[tuple[BorderKind, Sides]] = [
        (_plain_kind(plain), plain),
        (_plain_kind(around) if is_bar else "frame", around),
    ]
    if not (plain[0] and plain[1]) and not (plain[2] and plain[3]):
        several.append(("blurred", find_soft(maps, cfg)))
    shares = [1 - (1 - (s[0] + s[1]) / rows) * (1 - (s[2] + s[3]) / columns) for _, s in several]
    shares = [
        share if kind != "blurred" or share >= cfg.fill_least_share else 0.0 for share, (kind, _) in zip(shares, several, strict=True)
    ]
    # A graphic with a plain edge is plain as far as that goes, so the widest finding is the whole one; plain ones win a near tie.
    best = max(range(len(several)), key=lambda i: shares[i] + (cfg.plain_favour if i == 0 and shares[0] else 0))
    kind, sides = several[best]
    return _Found(kind if shares[best] else "none", sides, rows, columns)


def _plain_kind(sides: Sides) -> BorderKind:
    """What bars at these sides are called."""
    return "letterbox" if not any(sides[2:]) else "pillarbox" if not any(sides[:2]) else "window"


def _columns(found: _Found, sampling: int, width: int, height: int) -> dict[str, Any]:
    """The columns of what was found, in px of the full size."""
    top, bottom = _pixels(found.sides[:2], found.rows, height, {_ROWS: 1, _ROWS_BACK: -1}.get(sampling, 0))
    left, right = _pixels(found.sides[2:], found.columns, width, {_COLUMNS: 1, _COLUMNS_BACK: -1}.get(sampling, 0))
    share = 1 - (1 - (top + bottom) / height) * (1 - (left + right) / width)
    return dict(zip(COLUMNS, (share, top, bottom, left, right, found.kind), strict=True))


def _pixels(sizes: tuple[float, float], small: int, full: int, sampled: int) -> tuple[int, int]:
    """Two opposite borders in px from lines of `small`. Sampled: 1 forwards, -1 backwards, 0 averaged; a border ends half-way between
    its last sampled px and the next."""
    if not sampled or full <= small:
        return round(sizes[0] * full / small), round(sizes[1] * full / small)
    first, last = sizes[::sampled]
    step = (full - 2) / (small - 2)
    before = round((first - 0.5) * step) if first else 0
    after = max(1, round(full - (small - last - 0.5) * step)) if last else 0
    return (before, after)[:: 1 if sampled > 0 else -1]  # type: ignore[return-value]
