"""Takes key frames while a video goes by: more where the picture changes, fewer where it stands.

Movie Gen samples frames for text adaptively (Data, three filter stages); the figures are ours. A key frame costs about 1.3 ms (scaling
and JPEG), so at one a second it adds some 3 % to a decode.
"""

from itertools import pairwise

import cv2
import numpy as np

from curation.hdr import is_hdr, shown
from curation.keyframes import KeyFrame, Picture, encode_bgr
from curation.observe import FILTERED_WITHIN_US, Frame, fit
from curation.tracks import Track

LONG_SIDE_PX = 512
"""Text of 3 % of the height can still be read."""
LEAST_US = 700_000
"""Key frames are at least this far apart: a caption of a second is seen once."""
MOST_US = 2_000_000
"""… and at most this far: a standing picture is looked at again."""
CHANGE_LEVELS = 10.0
"""A change of one of 8 x 5 cells by as many levels since the last key frame is a new picture."""
JPEG_QUALITY = 90
MOST_HELD = 1024
"""Key frames held of one asset, some 50 MB; beyond it those are dropped whose neighbours stand within MOST_US, and new ones are taken less
often, down to one each MOST_US: no clip of 4 s is without one, and three hours hold 5,400."""


def keyframe_of_picture(asset_id: str, rgb: Picture) -> KeyFrame:
    """The one key frame of a still picture, RGB uint8 [h, w, 3]."""
    width, height = fit(rgb.shape[1], rgb.shape[0], LONG_SIDE_PX)
    small = np.ascontiguousarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)[..., ::-1]).astype(np.uint8, copy=False)
    return KeyFrame(asset_id=asset_id, index=0, pts_us=0, width=width, height=height, jpeg=encode_bgr(small, JPEG_QUALITY))


class KeyFrameObserver:
    """Keeps key frames as JPEG; `keyframes` has them after the last push."""

    def __init__(self, asset_id: str, width: int, height: int) -> None:
        """Sizes are as shown."""
        from av.video.reformatter import VideoReformatter

        self._asset_id = asset_id
        self._size = fit(width, height, LONG_SIDE_PX)
        self._scaler = VideoReformatter()
        self._held: list[tuple[int, int, int, bytes]] = []  # time, width, height, JPEG
        self._cells: np.ndarray | None = None
        self._last = -(1 << 62)
        self._stands = False  # nothing changed since the last one
        self._least, self._room = LEAST_US, MOST_HELD

    def push(self, frame: Frame) -> None:
        """The frame is kept when it is due."""
        self._stands = self._stands and frame.repeats
        since = frame.pts_us - self._last
        if since < self._least:
            return
        cells = cv2.resize(frame.half(), (8, 5), interpolation=cv2.INTER_AREA)
        new = self._cells is None or since >= MOST_US or cv2.norm(cells, self._cells, cv2.NORM_INF) >= CHANGE_LEVELS
        # A frame with its loop filter is worth a short wait.
        if not new or (since < MOST_US + FILTERED_WITHIN_US and not frame.is_filtered() and self._cells is not None):
            return
        self._cells, self._last = cells, frame.pts_us
        # A picture that stands is not coded again: each clip has its key frame all the same.
        picture = self._held[-1][1:] if self._stands and self._held else self._picture(frame)
        self._stands = True
        self._held.append((frame.pts_us, *picture))
        if len(self._held) > self._room:
            self._thin_out()

    def finish(self) -> list[Track]:
        """Key frames are no track."""
        return []

    def _thin_out(self) -> None:
        kept = self._held[:1]
        for now, after in pairwise(self._held[1:]):
            if after[0] - kept[-1][0] > MOST_US:
                kept.append(now)
        self._held = [*kept, self._held[-1]]
        self._least, self._room = min(2 * self._least, MOST_US), len(self._held) + MOST_HELD

    @property
    def keyframes(self) -> list[KeyFrame]:
        """What was kept, in order of time."""
        return [
            KeyFrame(asset_id=self._asset_id, index=i, pts_us=pts, width=w, height=h, jpeg=jpeg)
            for i, (pts, w, h, jpeg) in enumerate(self._held)
        ]

    def _picture(self, frame: Frame) -> tuple[int, int, bytes]:
        width, height = self._size[::-1] if frame.turn.transpose else self._size
        # Straight to OpenCV's order: the way over RGB costs twice as much.
        order = "rgb48le" if is_hdr(frame.source) else "bgr24"
        small = self._scaler.reformat(frame.source, width, height, order, interpolation="AREA", threads=1).to_ndarray()
        if order == "rgb48le":
            small = shown(small, int(frame.source.color_trc), int(frame.source.color_primaries))[..., ::-1]
        upright = np.ascontiguousarray(frame.turn.apply(small))
        return upright.shape[1], upright.shape[0], encode_bgr(upright, JPEG_QUALITY)
