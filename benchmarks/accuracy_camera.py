"""How often the camera classes are right, on generated movements that no threshold was chosen on, and on real shots seen by eye.

    python benchmarks/accuracy_camera.py

Thresholds were chosen on clips 0 to 424 of `camera_truth.py`; these are clips from 100,000 on, each class and the mixed ones in turn.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.camera_truth import MIXED, Take, take
from benchmarks.figures import Figure, as_table
from curation.camera import CameraConfig, measure_camera
from curation.captions import CaptionConfig
from curation.global_motion import GlobalMotionObserver
from curation.tracks import Track
from manifests.records import Clip

FIRST, COUNT = 100_000, 510
TURNING = ("zoom_in", "zoom_out", "pan_right", "pan_left", "tilt_up", "tilt_down", "static_shot", "handheld_shot")

SEEN = (
    ("traffic_720p.mp4", 0, 5, "static_shot"),
    ("traffic_720p.mp4", 15, 20, "static_shot"),
    ("marathon.mp4", 0, 5, "static_shot"),
    ("sam2_blocks.mp4", 0, 9, "static_shot"),
    ("sam2_dog.mp4", 0, 9, "static_shot"),
    ("sam2_juggle.mp4", 0, 10, "static_shot"),
    ("nasa_13013.mp4", 0, 6, "static_shot"),
    ("intel_bottles_static.mp4", 0, 10, "static_shot"),
    ("chaplin.mp4", 0, 9, "static_shot"),
    ("seattle_shaky_pan.avi", 0, 5, "handheld_shot"),
    ("seattle_shaky_pan.avi", 10, 16, "handheld_shot"),
    ("gyro_rolling_shutter_text.mp4", 0, 5, "handheld_shot"),
    ("london_zoom_360p.mp4", 5, 10, "handheld_shot"),
    ("selfie_rot90_1440x1080.mp4", 0, 2, "handheld_shot"),
    ("phone_rot180_shaky.mp4", 0, 2, "pan_left"),
    ("sea_360p_10s.mp4", 0, 5, "static_shot"),
    ("fingers_240p.mov", 0, 5, "static_shot"),
)
"""Real shots whose camera was told by eye: file, seconds, class."""


def seen_as(track: Track, start_us: int, end_us: int) -> tuple[str | None, float]:
    """Class and confidence (0 without a class) of a span."""
    clip = Clip(clip_id="", asset_id="", kind="video", start_us=start_us, end_us=end_us)
    found = measure_camera(clip, {track.name: track}, CameraConfig())
    return found["camera"], float(found["camera_confidence"] or 0)  # type: ignore[return-value]


def watched(shot: Take) -> Track:
    """The track of a generated clip."""
    observer = GlobalMotionObserver()
    for frame in shot.frames():
        observer.push(frame)
    return observer.finish()[0]


def generated() -> list[tuple[Take, str | None, float]]:
    """Every held-out clip, its class and the confidence."""
    return [(shot, *seen_as(watched(shot), 0, round(shot.seconds * 1e6))) for shot in map(take, range(FIRST, FIRST + COUNT))]


def real(media: Path) -> Iterator[tuple[str, str | None, float]]:
    """Every real shot: the class by eye, the class found, the confidence."""
    from curation.scan import tracks_of

    tracks: dict[str, Track] = {}
    for name, start, end, label in SEEN:
        if name not in tracks:
            (tracks[name],) = tracks_of(str(media / "video" / name), [GlobalMotionObserver()])
        yield label, *seen_as(tracks[name], start * 1_000_000, end * 1_000_000)


def figures(media: Path) -> list[Figure]:
    """The figures of the camera measure."""
    limit = CaptionConfig().camera_confidence
    rows = generated()
    turning = [label == shot.label for shot, label, _ in rows if shot.label in TURNING]
    travelling = [label == shot.label for shot, label, _ in rows if shot.label not in (*TURNING, MIXED)]
    flat = [label in TURNING for shot, label, _ in rows if shot.flat]
    sure = [label != shot.label for shot, label, confidence in rows if confidence >= limit]
    shots = list(real(media))
    real_sure = [found != label for label, found, confidence in shots if confidence >= limit]
    on = f"{COUNT} generated clips, others than those that thresholds were chosen on"
    return [
        Figure(subject="camera", what="zoom, pan, tilt, static, handheld: right", value=float(np.mean(turning)), target=0.95, on=on),
        Figure(subject="camera", what="push, pull, truck, pedestal, arc, tracking: right", value=float(np.mean(travelling)), target=0.85, on=on),
        Figure(subject="camera", what="wrong, of the confident", value=float(np.mean(sure)), target=0.03, on=f"{on}; {len(sure)} confident, mixed movements always wrong", at_least=False),
        Figure(subject="camera", what="flat pictures never taken for a travelling camera", value=float(np.mean(flat)), target=0.97, on=f"{len(flat)} of these clips"),
        Figure(subject="camera", what="wrong, of the confident, real shots", value=float(np.mean(real_sure)), target=0.03, on=f"{len(shots)} real shots told by eye, {len(real_sure)} confident; looked at while thresholds were chosen", at_least=False),
    ]  # fmt: skip


if __name__ == "__main__":
    from benchmarks.decode import media_folder

    print(as_table(figures(media_folder())))
