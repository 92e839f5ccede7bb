"""Camera motion of a clip as one of Movie Gen's 16 classes (movie-gen 1.4), or None when unsure; from the track `camera`.

The clip is cut into windows of about a second, in each of which the grid's points have a mean motion: shake is averaged away and is its
own measure. A camera that turns or zooms moves all depths alike: its motion is a shift, a growth and the bend of a wide lens, and little
is left beside them. A camera that travels moves near things faster. So what is left tells truck from pan, pedestal from tilt, push from
zoom. In an arc the far things run and the near ones run the other way, round a middle that stands; beside a tracked subject, that stands
too, the near things run fastest. That the lower rows show what is nearer holds wherever there is a floor.

The confidence is the product of how clearly each of these was decided. Titles that stand over the picture are a few points that do not
go along, as is a passer-by.
"""

from dataclasses import dataclass

import numpy as np

from curation.camera_field import MEAN_RADIUS, Signs, field_of, shake_of, signs, unsteadiness_of
from curation.global_motion import TRACK, local_motion
from curation.tracks import Track, Tracks
from manifests.records import Clip

VERSION = "3"
COLUMNS = ("camera", "camera_confidence", "shake", "unsteadiness")
CLASSES = (
    "zoom_in", "zoom_out", "push_in", "pull_out", "pan_right", "pan_left", "truck_right", "truck_left",
    "tilt_up", "tilt_down", "pedestal_up", "pedestal_down", "arc_shot", "tracking_shot", "static_shot", "handheld_shot",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraConfig:
    """When a movement counts. Speeds in picture widths a second; chosen on generated clips (benchmarks/camera_truth.py, numbers below 425)."""

    window_s: float = 0.9
    least_looks: int = 8
    known_share: float = 0.7  # of the looks, in which enough points are followed
    still_speed: float = 0.007
    still_shake: float = 0.012
    resting_share: float = 0.25  # of the points: where so many stand, the camera stands and things move
    calm: float = 0.6  # shake over speed: more is no clear movement
    rigid: float = 0.45  # flutter over speed: water flows by itself
    least_seen: float = 0.25  # of the points of each half of the picture
    least_seen_still: float = 0.1  # what stands where there is something to see stands everywhere
    shake_speed: float = 0.03
    shake_ratio: float = 0.6  # shake over steady movement: beyond it the hand is what is seen
    agree: float = 0.6  # share of the windows that show the same movement
    direction_ratio: float = 2.1  # the strongest of shift, lift, growth and turn over the next
    kind_ratio: float = 1.2  # the same where depths differ
    pan_depth: float = 0.045  # share of the motion that a turning camera does not explain, beyond it the camera travels
    tilt_depth: float = 0.095
    zoom_depth: float = 0.3
    fall: float = 0.35  # log of the speed of the lower third over the upper's: beyond it there is depth
    fall_back: float = 0.2  # log of the upper third's speed over the lower's: beyond it a pan is not sure
    stands_alone: float = 0.75  # so much of it is depth enough
    stands: float = 0.48  # share of the middle column that stands while its rows move: a subject
    stands_ahead: float = 0.8  # … while its rows grow
    far_ratio: float = 0.9  # speed of the lower third over the upper: less is an arc
    steady: float = 0.7  # movement of the whole clip over that of its windows: less changes its way


def measure_camera(clip: Clip, tracks: Tracks, cfg: CameraConfig) -> dict[str, str | float | None]:
    """Columns `camera`, `camera_confidence`, `shake` and `unsteadiness`, all None where too little is seen to tell."""
    track = _inside(tracks[TRACK].between(clip.start_us, clip.end_us), clip.start_us)
    known = ~np.isnan(track["dx"])
    if known.sum() < cfg.least_looks or known.mean() < cfg.known_share:
        return dict.fromkeys(COLUMNS)
    track = _rows(track, known)
    local = local_motion(track)
    shake, flutter = shake_of(local)
    label, confidence = classify(signs(field_of(track, local, cfg.window_s), shake, flutter), cfg)
    return {
        "camera": label,
        "camera_confidence": None if label is None else round(confidence, 3),
        "shake": shake,
        "unsteadiness": unsteadiness_of(track, local),
    }


def _inside(track: Track, start_us: int) -> Track:
    """Without looks back to before the clip, and of one picture size."""
    first_us = track.pts_us - np.rint(track["dt_s"].astype(np.float64) * 1e6).astype(np.int64)
    good = first_us >= start_us - 1000  # a thousandth: dt_s is float32
    if len(track):
        good &= (track["width"] == track["width"][-1]) & (track["height"] == track["height"][-1])
    return _rows(track, good)


def _rows(track: Track, good: np.ndarray) -> Track:
    return Track(name=track.name, fields=track.fields, pts_us=track.pts_us[good], values=track.values[good], pictures=track.pictures[good])


def classify(s: Signs, cfg: CameraConfig) -> tuple[str | None, float]:
    """The class and its confidence, 0..1; None where the movement is none of the classes."""
    steady_speed = s.speed * s.steady
    rest = _more(s.resting, cfg.resting_share)
    still = max(_less(s.speed, cfg.still_speed), rest) * _less(s.shake, cfg.still_shake)
    hand = _more(s.shake, cfg.shake_speed) * _more(s.shake / (steady_speed + 0.002), cfg.shake_ratio)
    calm = _less(s.shake / (s.speed + 0.002), cfg.calm)
    moving = (1 - still) * (1 - rest) * (1 - hand) * calm * _more(s.steady, cfg.steady, 8.0)
    label, sure = _travelling(s, cfg) if _depth(s, cfg) > 0.5 else _turning(s, cfg)
    options = [("static_shot", still), ("handheld_shot", hand), (label, moving * sure)]
    best, sure = max(options, key=lambda o: o[1])
    least = cfg.least_seen_still if best == "static_shot" else cfg.least_seen
    return (best, sure * _more(s.seen, least)) if best else (None, 0.0)


def _kind(s: Signs) -> tuple[str, float]:
    """Across, upright or radial, and by what factor it is stronger than the next."""
    (second, _), (first, kind) = sorted([(s.across, "across"), (abs(s.down), "upright"), (abs(s.outward), "radial")])[1:]
    return kind, (first + 0.02) / (second + 0.02)


def _depth(s: Signs, cfg: CameraConfig) -> float:
    """How surely things at different depths move differently."""
    kind = _kind(s)[0]
    limit = {"across": cfg.pan_depth, "upright": cfg.tilt_depth, "radial": cfg.zoom_depth}[kind]
    # What is low and moves the same way but slower is a subtitle as likely as not.
    across = 1.0 if s.low_over_high < -0.15 else max(s.fall, 0.0)
    fall = {"across": across, "upright": abs(s.fall_upright), "radial": abs(s.fall_outward)}[kind]
    subject = _more(s.stands, cfg.stands_alone, 6.0) if kind == "across" else 0.0
    return 1 - (1 - _more(s.depth, limit, 3.0)) * (1 - _more(fall, cfg.fall)) * (1 - subject)


def _turning(s: Signs, cfg: CameraConfig) -> tuple[str | None, float]:
    """Pan, tilt or zoom; the turn of the picture about its centre is none of the classes."""
    strength = {"pan": abs(s.shift), "tilt": abs(s.lift), "zoom": MEAN_RADIUS * abs(s.growth), "turn": MEAN_RADIUS * abs(s.turn)}
    (first, name), (second, _) = sorted(((v, k) for k, v in strength.items()), reverse=True)[:2]
    ways = {"pan": ("pan_left", "pan_right", s.shift), "tilt": ("tilt_up", "tilt_down", s.lift), "zoom": ("zoom_in", "zoom_out", s.growth)}
    if name not in ways:
        return None, 0.0
    positive, negative, way = ways[name]
    sure = _more(first / (second + 1e-4), cfg.direction_ratio) * _more(s.agree, cfg.agree, 8.0) * (1 - _depth(s, cfg))
    if name == "pan":  # what is low and slower: a subtitle, an arc, or a floor that was not followed
        sure *= _less(max(-s.fall, 0.0), cfg.fall_back)
    return (positive if way > 0 else negative), sure


def _travelling(s: Signs, cfg: CameraConfig) -> tuple[str | None, float]:
    """Truck, pedestal, push or pull, arc or tracking."""
    kind, ratio = _kind(s)
    sure = _depth(s, cfg) * _more(ratio, cfg.kind_ratio) * _less(s.flutter / (s.speed + 0.002), cfg.rigid)
    sure *= 1.0 if kind == "across" else _more(s.agree_ahead, cfg.agree, 8.0)
    if kind == "upright":
        return ("pedestal_up" if s.down > 0 else "pedestal_down"), sure
    if kind == "radial":
        subject = _more(s.stands_ahead, cfg.stands_ahead)
        if subject > 0.5:
            return "tracking_shot", sure * subject
        return ("push_in" if s.outward > 0 else "pull_out"), sure * (1 - subject)
    subject = _more(s.stands, cfg.stands)
    near_runs = _more(max(s.low_over_high, 0.05), cfg.far_ratio)
    if near_runs < 0.5:
        return "arc_shot", sure * (1 - near_runs) * (0.5 + 0.5 * subject)
    if subject > 0.5:
        return "tracking_shot", sure * subject * near_runs
    return ("truck_left" if s.right > 0 else "truck_right"), sure * (1 - subject) * near_runs


def _more(value: float, limit: float, slope: float = 4.0) -> float:
    """How surely the value is above the limit: 0.5 at it, 0.94 at twice with slope 4."""
    return float(1 / (1 + (limit / max(value, 1e-9)) ** slope))


def _less(value: float, limit: float, slope: float = 4.0) -> float:
    return 1 - _more(value, limit, slope)
