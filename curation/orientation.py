"""How a decoded picture is turned for showing, and how large it then is."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a decoded picture is turned for showing: transpose first, then mirror in x, then in y. All eight cases of a display matrix."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def clockwise_degrees(self) -> int:
        """The clockwise rotation, 0, 90, 180 or 270, of where the picture's x axis ends; as FFmpeg reports it."""
        if self.transpose:
            return 270 if self.flip_y else 90
        return 180 if self.flip_x else 0

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The picture [height, width, …] as shown; a view, no copy."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def orientation(frame: "VideoFrame") -> Orientation:
    """How the frame is turned for showing, from its display matrix."""
    side = side_data(frame, "DISPLAYMATRIX")
    if side is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(memoryview(side), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def side_data(frame: "VideoFrame", name: str) -> Any:
    """What the decoder left beside the frame under FFmpeg's name for it, or None.

    Not by `frame.side_data`, as the frame and what that returns hold each other: such a frame lives until Python looks for cycles. It holds
    its picture for so long, and where a damaged file shows what an earlier picture left in the decoder's memory, it decides which one.
    """
    from av.sidedata.sidedata import SideDataContainer

    container: Any = SideDataContainer  # its stub knows no arguments
    return container(frame).get(name)


def shown_size(frame: "VideoFrame", stream: Any) -> tuple[int, int]:
    """Width and height in px as shown: the pixel aspect stretches the short way, never shrinks, then the display matrix turns."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = frame.width, frame.height
    if Fraction(1, 8) <= aspect <= 8 and aspect != 1:
        width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return (height, width) if orientation(frame).transpose else (width, height)
