"""Presentation times: which of a container's stamps are believed, and whether frames come at a constant rate."""

import numpy as np


class Clock:
    """A frame's time where a container's stamps are at odds (B-frames in AVI, VC-1 in ASF): FFmpeg's own best-effort rule.

    Frames come in presentation order, so of presentation and decoding stamps the kind that has gone backwards less often is believed.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = -(1 << 63)
        self._bad_pts = self._bad_dts = 0

    def time(self, pts: int | None, dts: int | None) -> int | None:
        """The frame's time, in the unit of its stamps; None where it has none."""
        if dts is not None:
            self._bad_dts += dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._bad_pts += pts <= self._last_pts
            self._last_pts = pts
        return pts if pts is not None and (dts is None or self._bad_pts <= self._bad_dts) else dts


def is_variable(pts_us: np.ndarray) -> bool | None:
    """Whether the steps between presentation times (us, rising) vary by more than time-base rounding; None below three frames.

    The last step is left out: muxers stretch it to fill the sound.
    """
    steps = np.diff(pts_us)[:-1]
    if len(steps) < 2:
        return None
    # Matroska rounds to 1 ms, so two honest steps may differ by 1 ms.
    return bool(steps.max() - steps.min() > max(1500, 0.02 * float(np.median(steps))))
