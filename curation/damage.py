"""Damage: frames that a decoder could not show right, and frames that are not there. Observer of the scan, and the measure of a clip.

A broken packet is passed over and a decoder hides what it can, but every frame until the next key frame is predicted from what was
lost: smears and grey blocks that nothing else counts as an error. One row a damaged frame, none for a whole file. Where frames were lost
before the file was written there is only a longer step from one picture to the next.
"""

from collections.abc import Mapping

import numpy as np

from curation.decode import DecodeLog
from curation.observe import Frame
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

VERSION = "2"
COLUMNS = ("damaged_frames", "longest_gap_s")

REORDER_FRAMES = 4
"""Frames before the first that follows a broken packet which may have been decoded after it: B-frames are shown out of order."""


class DamageObserver:
    """Watches the decode's own log while frames go by; hand it the log that `decode` fills."""

    def __init__(self, log: DecodeLog) -> None:
        self._log = log
        self._rows = Recorder("damage", ("broken_packets",))
        self._seen = (0, 0)
        self._damaged = False
        self._before: list[int] = []  # times of the last whole frames

    def push(self, frame: Frame) -> None:
        """The next frame, in order of presentation."""
        now = (self._log.n_errors, self._log.n_corrupt)
        broke, n_new = now != self._seen, now[0] - self._seen[0]
        self._seen = now
        if broke:
            if not self._damaged:
                for pts_us in self._before:
                    self._rows.add(pts_us, 0)
            self._damaged = True
        elif self._damaged and frame.source.key_frame:
            self._damaged = False
        if self._damaged:
            self._rows.add(frame.pts_us, n_new)
            self._before.clear()
        else:
            self._before = [*self._before[1 - REORDER_FRAMES :], frame.pts_us]

    def finish(self) -> list[Track]:
        """What was seen, and packets that broke after the last frame, on that frame."""
        n_new = self._log.n_errors - self._seen[0]
        if n_new:
            for pts_us in self._before:
                self._rows.add(pts_us, n_new if pts_us == self._before[-1] else 0)
        return [self._rows.track()]


def measure_damage(clip: Clip, tracks: Tracks) -> Mapping[str, float | None]:
    """`damaged_frames`: frames of the clip that are damaged or may be. `longest_gap_s`: the longest time for which no new picture comes, from
    the clip's start to its end. None where nobody looked."""
    damaged = len(tracks["damage"].between(clip.start_us, clip.end_us)) if "damage" in tracks else None
    times = tracks["motion"].between(clip.start_us, clip.end_us).pts_us if "motion" in tracks else None
    steps_us = None if times is None else np.diff(np.concatenate(([clip.start_us], times, [clip.end_us])))
    return {
        "damaged_frames": None if damaged is None else float(damaged),
        "longest_gap_s": None if steps_us is None else float(steps_us.max()) / 1e6,
    }
