"""What an observer is, and what it is shown of a frame. Every frame of a video is decoded once at most and shown to every observer.

An observer is small and streaming: `push` each frame, then `finish` gives its tracks. It has no settings that decide anything: how
finely it looks are constants of its file, and thresholds belong to the measures that read the tracks. So no setting of a measure ever
asks for another decode.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import cv2
import numpy as np

from curation.media import FOREIGN, MediaError
from curation.orientation import Orientation, orientation
from curation.tracks import Track

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

SMALL_PX = 160
"""Long side of the small planes: half the scaling cost of 240 px at the same cuts."""

_B_FRAME = 3  # FFmpeg's AV_PICTURE_TYPE_B
FILTERED_WITHIN_US = 300_000
"""Within this time a stream with B-frames shows others; one that does not is looked at as it is."""

_LUMA_IS_PLANE_0 = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray", "yuva420p")


@dataclass(slots=True)
class Frame:
    """One frame as observers see it. The small planes are uint8 in limited range (16 black, 235 white), upright as shown, and may be kept."""

    pts_us: int
    y: np.ndarray  # [h, w], long side SMALL_PX
    u: np.ndarray  # [h/2, w/2]
    v: np.ndarray
    source: "VideoFrame"  # the decoder's own, as stored; read it inside push only: keeping it keeps megabytes
    turn: Orientation
    change: float = float("nan")  # mean |dY| to the frame before, levels; nan at the first
    repeats: bool = False  # the small planes are, byte for byte, those of the frame before: nothing that is seen on them is new
    _half: list[np.ndarray] = field(default_factory=list)  # one, once it was asked for; shared with the frames that repeat this one

    def half(self) -> np.ndarray:
        """The luma at half the size, blurred first (5-tap binomial), uint8: what does not need the small plane's detail costs less on it."""
        if not self._half:
            self._half.append(cv2.pyrDown(self.y))
        return self._half[0]

    def is_filtered(self) -> bool:
        """False for a B-frame, on which the decoder may have left out its loop filter: what is looked at closely takes another."""
        return int(self.source.pict_type) != _B_FRAME

    def full_luma(self) -> np.ndarray | None:
        """The luma plane at full size as stored (not turned), uint8 [height, width], a view valid inside push; None for deep colour."""
        if self.source.format.name not in _LUMA_IS_PLANE_0:
            return None
        plane = self.source.planes[0]
        rows = np.frombuffer(memoryview(cast(Any, plane)), np.uint8).reshape(-1, plane.line_size)
        return rows[: self.source.height, : self.source.width]


class Observer(Protocol):
    """Watches a video go by."""

    def push(self, frame: Frame) -> None:
        """The next frame, in order of presentation."""
        ...

    def finish(self) -> list[Track]:
        """What was seen. Called once, after the last frame."""
        ...


class SmallFrames:
    """Makes the small planes of a video's frames: one scaler, kept, as a new one per frame costs megabytes (FFmpeg 8)."""

    def __init__(self, width: int, height: int) -> None:
        """The sizes are as shown."""
        from av.error import FFmpegError
        from av.video.format import VideoFormat
        from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

        self._format: Any = VideoFormat("yuv420p")  # a name, or a member of an enumeration, would be looked up anew for every frame
        self._interpolation, self._range = int(Interpolation.FAST_BILINEAR), int(ColorRange.MPEG)
        self._errors = (FFmpegError, *FOREIGN)
        self.size = fit(width, height, SMALL_PX)
        self._scaler = VideoReformatter()
        self._turn: Orientation | None = None
        self._plain = True
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._source: VideoFrame | None = None
        self._half: list[np.ndarray] = []

    def __call__(self, source: "VideoFrame", pts_us: int) -> Frame:
        """The frame as observers see it. Raises MediaError for one that cannot be scaled, as damage makes some."""
        if source is self._source and self._turn is not None and self._last is not None:  # the frame before, once more
            return Frame(pts_us, *self._last, source, self._turn, 0.0, True, self._half)
        if self._turn is None:
            self._turn = orientation(source)
            self._plain = self._turn == Orientation()
            if self._turn.transpose:  # sizes are as shown; the decoder gives frames as stored
                self.size = self.size[::-1]
        width, height = self.size
        # A scaler keeps the range of its source: every threshold on levels is of limited range.
        try:
            small = self._scaler.reformat(
                source, width, height, self._format, interpolation=self._interpolation, dst_color_range=self._range, threads=1
            )
        except self._errors as e:
            found = f"{source.width} x {source.height} in {source.format.name}"
            raise MediaError("decode_error", f"expected a frame that can be made small, found one of {found} ({e})") from e
        planes = small.planes
        # Some of OpenCV wants the luma without gaps; the chroma planes stay views on the scaler's own small frame.
        y = np.ascontiguousarray(_view(planes[0], width, height))
        u, v = _view(planes[1], width // 2, height // 2), _view(planes[2], width // 2, height // 2)
        if not self._plain:
            y, u, v = (np.ascontiguousarray(self._turn.apply(p)) for p in (y, u, v))
        frame = after(self._last, Frame(pts_us, y, u, v, source, self._turn))
        if frame.repeats:
            frame._half = self._half
        self._last, self._source, self._half = (frame.y, frame.u, frame.v), source, frame._half
        return frame


def after(last: tuple[np.ndarray, np.ndarray, np.ndarray] | None, frame: Frame) -> Frame:
    """The frame, which now knows how it differs from the small planes of the frame before; where it does not, it has these: one copy of a
    picture that stands."""
    if last is None or last[0].shape != frame.y.shape:
        return frame
    frame.change = cv2.norm(frame.y, last[0], cv2.NORM_L1) / frame.y.size
    if not frame.change and _is_same(frame.u, last[1]) and _is_same(frame.v, last[2]):
        frame.repeats = True
        frame.y, frame.u, frame.v = last
    return frame


def fit(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Even sizes of at least 16 px with the picture's aspect, not larger than the picture (of at least 16 px) or the long side."""
    scale = min(1.0, long_side / max(width, height))
    return max(16, round(width * scale / 2) * 2), max(16, round(height * scale / 2) * 2)


def _is_same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and not cv2.norm(a, b, cv2.NORM_INF)


def _view(plane: Any, width: int, height: int) -> np.ndarray:
    """The plane without a copy; it holds the scaler's own small frame alive, which nobody else writes to."""
    return np.ndarray((height, width), np.uint8, plane, strides=(plane.line_size, 1))
