"""Two captioners without a network: the text that came with the file, and a plain sentence made of measured facts.

The sentence says what was measured and nothing else; it is marked as such (captioner `facts`), so that no one takes it for a description.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.caption_prompt import Failed, Length, Subject, Written, clean
from curation.keyframes import KeyFrameError, Picture, decode_all
from manifests.records import Clip

FACTS_VERSION = "1"
"""Version of the sentence that is made of facts; it changes with the wording."""

FACTS_READ = ("brightness", "width", "height", "motion", "loudness_db", "silence_fraction")
"""Columns of a clip that the sentence is made of, beside its span and its camera where that is sure."""

SIDECAR_VERSION = "1"

_CAMERA = {
    "zoom_in": "zooms in",
    "zoom_out": "zooms out",
    "push_in": "pushes in",
    "pull_out": "pulls out",
    "pan_right": "pans to the right",
    "pan_left": "pans to the left",
    "truck_right": "moves to the right",
    "truck_left": "moves to the left",
    "tilt_up": "tilts up",
    "tilt_down": "tilts down",
    "pedestal_up": "rises",
    "pedestal_down": "sinks",
    "arc_shot": "moves around the subject",
    "tracking_shot": "follows the subject",
    "static_shot": "does not move",
    "handheld_shot": "is held by hand",
}

_HUES = (
    (15, "red"),
    (45, "orange"),
    (70, "yellow"),
    (165, "green"),
    (195, "cyan"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (361, "red"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarConfig:
    """Whether the text that came with a file is its caption, before any other."""

    use: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsConfig:
    """How facts are worded. Values are ours."""

    colour_share: float = 0.15  # a colour is named from this share of the picture on


class SidecarCaptioner:
    """Takes the supplied text, cleaned and cut to length; fails with `no_text` where there is none that says anything."""

    def __init__(self, length: Length) -> None:
        self.length = length

    def write(self, subjects: Sequence[Subject]) -> list[Written | Failed]:
        """One outcome a subject, in order."""
        return [self._write(s) for s in subjects]

    def _write(self, subject: Subject) -> Written | Failed:
        text = clean(subject.asset.supplied_caption or "", self.length.max_characters)
        if len(text) < self.length.min_characters:
            return Failed(clip_id=subject.clip.clip_id, captioner="sidecar", code="no_text", detail="the asset brought no usable text")
        return Written(clip_id=subject.clip.clip_id, text=text, captioner="sidecar", captioner_version=SIDECAR_VERSION)


class FactsCaptioner:
    """Makes the sentence of facts; fails with `bad_keyframe` where a frame does not decode, rather than leave it out."""

    def __init__(self, cfg: FactsConfig, camera_confidence: float) -> None:
        self.cfg = cfg
        self.camera_confidence = camera_confidence

    def write(self, subjects: Sequence[Subject]) -> list[Written | Failed]:
        """One outcome a subject, in order."""
        return [self._write(s) for s in subjects]

    def _write(self, subject: Subject) -> Written | Failed:
        clip = subject.clip
        try:
            pictures = decode_all(clip.clip_id, subject.frames) if subject.frames else []
        except KeyFrameError as e:
            return Failed(clip_id=clip.clip_id, captioner="facts", code="bad_keyframe", detail=str(e))
        sure = (clip.camera_confidence or 0.0) >= self.camera_confidence
        text = sound_facts(clip) if clip.kind == "audio" else picture_facts(clip, pictures, self.cfg, sure)
        return Written(clip_id=clip.clip_id, text=text, captioner="facts", captioner_version=FACTS_VERSION)


def picture_facts(clip: Clip, pictures: Sequence[Picture], cfg: FactsConfig, camera_is_sure: bool) -> str:
    """E.g. 'A bright landscape video of 8 seconds with strong motion, mostly green and blue. The camera pans to the right.'"""
    words = [w for w in (_brightness(clip.brightness), _orientation(clip.width, clip.height)) if w]
    kind = "image" if clip.kind == "image" else f"video of {_seconds(clip)}"
    first = f"A {' '.join([*words, kind])}"
    first += _motion(clip.motion) if clip.kind == "video" else ""
    colours = colour_names(pictures, cfg.colour_share)
    first += f", mostly {' and '.join(colours)}" if colours else ""
    camera = _CAMERA.get(clip.camera or "") if camera_is_sure else None
    return f"{first}. The camera {camera}." if camera else f"{first}."


def sound_facts(clip: Clip) -> str:
    """E.g. 'A loud sound recording of 5 seconds, partly silent.' Levels are ours."""
    level = clip.loudness_db
    loud = "" if level is None else "loud " if level > -20 else "quiet " if level < -40 else ""
    silent = clip.silence_fraction
    rest = "" if silent is None or silent < 0.25 else ", silent throughout" if silent > 0.95 else ", partly silent"
    return f"A {loud}sound recording of {_seconds(clip)}{rest}."


def colour_names(pictures: Sequence[Picture], min_share: float) -> list[str]:
    """At most two colour names that cover at least `min_share` of the pictures, the larger first."""
    if not pictures:
        return []
    names, counts = np.unique(np.concatenate([_colours(picture) for picture in pictures]), return_counts=True)
    order = sorted(zip((-counts).tolist(), names.tolist(), strict=True))
    return [name for negative, name in order[:2] if -negative >= min_share * int(counts.sum())]


def _seconds(clip: Clip) -> str:
    seconds = f"{(clip.end_us - clip.start_us) / 1e6:.1f}".removesuffix(".0")
    return "1 second" if seconds == "1" else f"{seconds} seconds"


def _orientation(width: int | None, height: int | None) -> str:
    if not width or not height:
        return ""
    return "landscape" if width > height else "portrait" if height > width else "square"


def _brightness(luma: float | None) -> str:
    return "" if luma is None else "dark" if luma < 0.25 else "bright" if luma > 0.6 else ""


def _motion(motion: float | None) -> str:
    """Motion in words. 2.0 is the paper's floor for training clips; the other steps are ours."""
    if motion is None:
        return ""
    amount = "almost no" if motion < 0.5 else "little" if motion < 2.0 else "moderate" if motion < 8.0 else "strong"
    return f" with {amount} motion"


def _colours(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.str_]]:
    """The colour name of each pixel of the picture at 32 x 32."""
    import cv2

    rgb = np.asarray(cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA), dtype=np.float32).reshape(1, -1, 3) / 255
    hue, saturation, value = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[0], 1, 0)
    bounds = np.array([bound for bound, _ in _HUES])
    names = np.array([name for _, name in _HUES])[np.searchsorted(bounds, hue, side="right").clip(max=len(_HUES) - 1)]
    names = np.where((names == "orange") & (value < 0.6), "brown", names)
    grey = np.where(value > 0.8, "white", "grey")
    return np.where(value < 0.2, "black", np.where(saturation < 0.2, grey, names))
