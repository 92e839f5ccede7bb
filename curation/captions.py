"""Captions: the text that came with a file, else a plain sentence made of measured facts, marked as such. Map: clip (with asset and
key frames) -> one `CaptionText`; the batch class only loops, so that a captioning network can take its place.

Movie Gen puts the camera-motion class in front of the caption where its classifier is sure (Camera-motion classes, captions); the
threshold was not published. Text from outside is hostile: control and direction characters are taken out and its length is bounded. It
is still untrusted afterwards: whoever shows it must escape it.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.keyframes import KeyFrame, KeyFrameError, Picture, decode_all
from manifests.records import Asset, Clip

FACTS_VERSION = "1"
"""Version of the sentence that is made of facts; it changes with the wording."""

_JOINERS = "\u200c\u200d"  # zero-width (non-)joiner: Persian, Indic scripts and emoji need them; other format characters go

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
class CaptionConfig:
    """Which captions are taken and how they are cleaned. All values are ours."""

    use_supplied: bool = True
    camera_confidence: float = 0.8
    max_characters: int = 2000  # the paper's captions have some 100 words; this is three times that
    min_characters: int = 3  # shorter supplied texts say nothing
    colour_share: float = 0.15  # a colour is named from this share of the picture on


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionText:
    """A caption before its dense keys are given: fields as in the captions table. `text` is null only with an error."""

    clip_id: str
    text: str | None = None
    captioner: str = "facts"
    captioner_version: str = FACTS_VERSION
    camera_prefix: str | None = None
    error_code: str | None = None
    error_detail: str | None = None


class CaptionClips:
    """Captions each clip from its sidecar or its facts. Has no weights; a class because every batch stage is."""

    def __init__(self, cfg: CaptionConfig) -> None:
        self.cfg = cfg

    def __call__(self, batch: Sequence[tuple[Clip, Asset, list[KeyFrame]]]) -> list[CaptionText]:
        """One caption a clip, in order."""
        return [caption(clip, asset, frames, self.cfg) for clip, asset, frames in batch]


def caption(clip: Clip, asset: Asset, frames: Sequence[KeyFrame], cfg: CaptionConfig) -> CaptionText:
    """The caption of a clip: captioner `sidecar` where the asset brought a usable text, else `facts`; never raises on hostile input."""
    prefix = camera_prefix(clip, cfg)
    supplied = clean(asset.supplied_caption or "", cfg.max_characters) if cfg.use_supplied else ""
    if len(supplied) >= cfg.min_characters:
        return CaptionText(clip_id=clip.clip_id, text=supplied, captioner="sidecar", captioner_version="1", camera_prefix=prefix)
    try:
        pictures = decode_all(clip.clip_id, frames) if frames else []
    except KeyFrameError as e:
        return CaptionText(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e))
    text = _sound_facts(clip) if clip.kind == "audio" else _picture_facts(clip, pictures, cfg)
    return CaptionText(clip_id=clip.clip_id, text=text, camera_prefix=prefix)


def camera_prefix(clip: Clip, cfg: CaptionConfig) -> str | None:
    """The camera class in words, e.g. 'pan right', where the classifier was sure enough; else None."""
    if clip.camera is None or (clip.camera_confidence or 0.0) < cfg.camera_confidence:
        return None
    return clip.camera.replace("_", " ")


def clean(text: str, max_characters: int) -> str:
    """The text in one line: NFC, no control, direction or unassigned characters, single spaces, cut at a word within the limit."""
    # Normalisation can lengthen a text manifold and costs time: bound what goes in, too.
    text = unicodedata.normalize("NFC", text[: 16 * max_characters])
    kept = ("" if _is_hidden(c) else " " if c.isspace() or unicodedata.category(c) == "Cc" else c for c in text)
    line = " ".join("".join(kept).split())
    if len(line) <= max_characters:
        return line
    head = line[: max_characters + 1].rpartition(" ")[0]
    return head or line[:max_characters]


def colour_names(pictures: Sequence[Picture], min_share: float) -> list[str]:
    """At most two colour names that cover at least `min_share` of the pictures, the larger first."""
    if not pictures:
        return []
    names, counts = np.unique(np.concatenate([_colours(picture) for picture in pictures]), return_counts=True)
    order = sorted(zip((-counts).tolist(), names.tolist(), strict=True))
    return [name for negative, name in order[:2] if -negative >= min_share * int(counts.sum())]


def _is_hidden(c: str) -> bool:
    return unicodedata.category(c) in ("Cf", "Cs", "Co", "Cn") and c not in _JOINERS


def _picture_facts(clip: Clip, pictures: Sequence[Picture], cfg: CaptionConfig) -> str:
    """E.g. 'A bright landscape video of 8 seconds with strong motion, mostly green and blue. The camera pans to the right.'"""
    words = [w for w in (_brightness(clip.brightness), _orientation(clip.width, clip.height)) if w]
    kind = "image" if clip.kind == "image" else f"video of {_seconds(clip)}"
    first = f"A {' '.join([*words, kind])}"
    first += _motion(clip.motion) if clip.kind == "video" else ""
    colours = colour_names(pictures, cfg.colour_share)
    first += f", mostly {' and '.join(colours)}" if colours else ""
    sure = camera_prefix(clip, cfg) is not None and clip.camera in _CAMERA
    return f"{first}. The camera {_CAMERA[str(clip.camera)]}." if sure else f"{first}."


def _sound_facts(clip: Clip) -> str:
    """E.g. 'A loud sound recording of 5 seconds, about half of it silent.' Levels are ours."""
    level = clip.loudness_db
    loud = "" if level is None else "loud " if level > -20 else "quiet " if level < -40 else ""
    silent = clip.silence_fraction
    rest = "" if silent is None or silent < 0.25 else ", silent throughout" if silent > 0.95 else ", partly silent"
    return f"A {loud}sound recording of {_seconds(clip)}{rest}."


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
