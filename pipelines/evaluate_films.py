"""What is measured of a film that was made: does it hold together, does it move, does its sound begin where something happens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluate_models import Measured, agreements, measured, ssim

if TYPE_CHECKING:
    from training.film import Film

_CLIP_FRAMES = 4
_MOTION_KERNEL = np.array([0.054488685, 0.244201342, 0.402619947, 0.244201342, 0.054488685], np.float32)
"""The five taps of VMAF's motion filter."""

_PAIRS = 4
"""Neighbours that are compared at once: SSIM takes some 95 times the bytes of its pictures."""

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32) * np.float32(219 / 255)
"""Of RGB the luma that films of ours are stored with: BT.709, in the levels of video, 16 to 235."""

CONSISTENCY, MOTION, AGREEMENT, ONSETS = "frame consistency", "motion", "text agreement", "onsets, F1 with events seen"
CHANCE = "onsets by chance"
_NOTES: dict[str, tuple[str, bool | None]] = {
    CONSISTENCY: ("SSIM of neighbouring frames; a still film has 1", None),
    MOTION: ("VMAF motion in levels; the paper keeps clips above 2", None),
    AGREEMENT: ("CLIP cosine of prompt and frames", True),
    ONSETS: ("sound that begins within 0.12 s of a sudden change of motion", True),
}
"""Of each measure what it is, and whether more is better; None where neither is."""


class Times(NamedTuple):
    """When sound begins in a film and when something happens in it, in seconds."""

    heard: list[float]
    seen: list[float]


def times_of(film: "Film") -> Times | None:
    """What begins when; None for a film without sound."""
    from training.onsets import heard_s, seen_s

    return None if film.sound is None else Times(heard_s(film.sound), seen_s(film.frames, float(film.fps)))


def measure_film(film: "Film", prompt: str, agreement: "TextAgreement | None") -> dict[str, float]:
    """Frame consistency, motion, and with a model text agreement."""
    frames, found = film.frames, dict[str, float]()
    if len(frames) > 1:
        found |= {CONSISTENCY: frame_consistency(frames), MOTION: vmaf_motion(frames)}
    if agreement is not None:
        found[AGREEMENT] = agreement(frames, prompt)
    return found


def measure_onsets(times: Sequence[Times | None]) -> list[dict[str, float]]:
    """Of each film whose sound and pictures have times, how far they agree, and how far its sound agrees with the other films' pictures."""
    known = {str(i): t for i, t in enumerate(times) if t is not None}
    values, chances = agreements({i: t.heard for i, t in known.items()}, {i: t.seen for i, t in known.items()})
    found: list[dict[str, float]] = [{} for _ in times]
    for i, value in values.items():
        found[int(i)] = {ONSETS: value} | ({CHANCE: chances[i]} if i in chances else {})
    return found


def means(films: Sequence[dict[str, Any]]) -> list[Measured]:
    """The measures of films, averaged over those that have them; each is of its prompt, and an onset's chance of a film's length too."""
    found = []
    for name, (note, better) in _NOTES.items():
        having = {f["prompt"]: f for f in films if name in f}
        if having:
            values = {prompt: f[name] for prompt, f in having.items()}
            timed = name == ONSETS
            chances = {prompt: f[CHANCE] for prompt, f in having.items()} if timed and all(CHANCE in f for f in having.values()) else {}
            form = {"seconds": sorted({f["seconds"] for f in having.values()})} if timed else {}
            found.append(measured(name, values, note, better, form, chances))
    return found


def frame_consistency(frames_THW3: NDArray[np.uint8]) -> float:
    """The mean SSIM of neighbouring frames, 1 for a still picture."""
    import torch

    total, pairs = 0.0, len(frames_THW3) - 1
    for start in range(0, pairs, _PAIRS):
        part = frames_THW3[start : min(start + _PAIRS, pairs) + 1]
        x = torch.from_numpy(part.astype(np.float32)).permute(0, 3, 1, 2) / 255
        total += ssim(x[:-1], x[1:]) * (len(part) - 1)
    return total / pairs


def vmaf_motion(frames_THW3: NDArray[np.uint8]) -> float:
    """The mean absolute difference of neighbouring blurred luma frames, in levels of video's own range: FFmpeg's `vmafmotion` without the
    first frame, whose motion is none."""
    before, total = _blurred_luma(frames_THW3[0]), 0.0
    for frame in frames_THW3[1:]:
        luma = _blurred_luma(frame)
        total += float(np.abs(luma - before).mean())
        before = luma
    return total / (len(frames_THW3) - 1)


def _blurred_luma(frame_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    luma: NDArray[np.float32] = frame_HW3.astype(np.float32) @ _LUMA
    for axis in (0, 1):
        pad = [(0, 0)] * 2
        pad[axis] = (2, 2)
        wide = np.pad(luma, pad, mode="reflect")
        parts = [k * np.take(wide, np.arange(i, i + luma.shape[axis]), axis) for i, k in enumerate(_MOTION_KERNEL)]
        luma = np.sum(parts, 0, dtype=np.float32)
    return luma


class TextAgreement:
    """The cosine between a prompt and a film's frames in an open_clip model of a local folder."""

    def __init__(self, folder: Path) -> None:
        """TrainingError when the folder does not hold one."""
        import open_clip
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from training.errors import TrainingError

        try:
            described = json.loads((folder / "open_clip_config.json").read_bytes())
            config = described.get("model_cfg", described)
            self._model = open_clip.model.CLIP(**config).eval().requires_grad_(False)
            self._model.load_state_dict(load_file(folder / "open_clip_model.safetensors"), strict=True)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise TrainingError(f"{folder}: expected an open_clip model (config and safetensors), found {str(error)[:300]}") from error
        preprocess = described.get("preprocess_cfg", {})
        self._mean = preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN)
        self._std = preprocess.get("std", open_clip.OPENAI_DATASET_STD)
        self._side = int(config["vision_cfg"].get("image_size", 224))
        self._tokenizer, self._length = open_clip.SimpleTokenizer(), int(config["text_cfg"].get("context_length", 77))

    def __call__(self, frames_THW3: NDArray[np.uint8], prompt: str) -> float:
        """The mean over four evenly spaced frames, in [-1, 1]."""
        import torch
        import torch.nn.functional as F

        chosen = frames_THW3[np.linspace(0, len(frames_THW3) - 1, _CLIP_FRAMES).round().astype(int)]
        x = torch.from_numpy(chosen.astype(np.float32)).permute(0, 3, 1, 2) / 255
        x = F.interpolate(x, size=(self._side, self._side), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (torch.tensor(v)[:, None, None] for v in (self._mean, self._std))
        with torch.no_grad():
            pictures = self._model.encode_image((x - mean) / std, normalize=True)
            text = self._model.encode_text(self._tokenizer([prompt], context_length=self._length), normalize=True)
        return float((pictures @ text.T).mean())
