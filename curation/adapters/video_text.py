"""A joint embedding of video and text, from local files only: pictures in order of time, and sentences, as vectors whose cosine says how well they agree.

Two kinds. `open_clip`: both towers of an open_clip model; a video is the mean of its frames' vectors (LAION's and OpenAI's CLIP, MobileCLIP,
PE-Core …). `pair`: two TorchScript files of a video model (X-CLIP, ViCLIP, InternVideo and kin): [1, frames, 3, size, size] -> [1, d] and
tokens [n, context] -> [n, d]. Both read CLIP's tokens, whose vocabulary comes with open_clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from curation.adapters.open_clip import OpenClipConfig, load_state, read_state, untrained
from curation.adapters.weights import AnswerError, WeightsError, digest_of, load_torchscript, need_file
from curation.faces import Floats
from curation.keyframes import Picture

_PAIR = (
    "a TorchScript file of the {} tower of a video-text model (video [1, frames, 3, size, size] -> [1, d]; tokens [n, context] -> [n, d])"
)
_SENTENCES = 64  # a forward pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig:
    """A video model in two TorchScript files. `video=None` means: not run."""

    video: str | None = None
    text: str | None = None
    frames: int = 8  # that a video is shown as; all published ones of this kind take 8
    size_px: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of RGB 0..1
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    context: int = 77
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTextConfig:
    """Which model: `clip.weights` or `pair.video` and `pair.text`, not both; without either it is not run."""

    clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    pair: PairConfig = field(default_factory=PairConfig)
    max_frames: int = 8  # of a video, spread over it, that open_clip sees

    def __post_init__(self) -> None:
        if self.clip.weights is not None and self.pair.video is not None:
            raise ValueError("video_text: expected clip.weights or pair.video, found both")

    @property
    def wanted(self) -> bool:
        """Whether a model has weights."""
        return self.clip.weights is not None or self.pair.video is not None

    @property
    def frames(self) -> int:
        """How many pictures of a video are looked at."""
        return self.pair.frames if self.pair.video is not None else self.max_frames


class VideoText(Protocol):
    """A loaded model. `name` names it and its weights: vectors of one name may be compared."""

    name: str

    def embed_video(self, pictures: Sequence[Picture]) -> Floats:
        """The vector [d], of length 1, of RGB pictures in order of time, at least one. Raises AnswerError where it has no length."""

    def embed_text(self, sentences: Sequence[str]) -> Floats:
        """The vectors [n, d], of length 1, of sentences."""


def load_video_text(cfg: VideoTextConfig) -> VideoText:
    """The model that has weights. Raises WeightsError where a file is missing or is not what it should be."""
    return PairVideoText(cfg.pair) if cfg.pair.video is not None else ClipVideoText(cfg.clip)


class ClipVideoText:
    """Both towers of an open_clip model; evaluation mode, float32."""

    def __init__(self, cfg: OpenClipConfig) -> None:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if cfg.weights is None:
            raise WeightsError("video_text.clip: expected weights=<file>, found none")
        path = need_file(
            cfg.weights, "video_text.clip.weights", f"the open_clip checkpoint of {cfg.model}, both towers (open_clip_model.safetensors)"
        )
        self.cfg = cfg
        self._model = untrained(open_clip, cfg).eval()
        described = (open_clip.get_model_config(cfg.model) or {}).get("text_cfg", {})
        if "hf_tokenizer_name" in described:
            raise WeightsError(f"video_text.clip: {cfg.model} reads tokens from a hub id; expected a model that reads CLIP's own")
        load_state(self._model, read_state(path), path)
        self._tokens = open_clip.SimpleTokenizer(context_length=int(self._model.context_length))
        self._transform = image_transform_v2(PreprocessCfg(**self._model.visual.preprocess_cfg), is_train=False)
        self.name = f"{cfg.model}:{digest_of(path)}"

    def embed_video(self, pictures: Sequence[Picture]) -> Floats:
        """The mean of the frames' vectors of length 1, itself of length 1."""
        import torch
        from PIL import Image

        rows = []
        with torch.inference_mode():
            for start in range(0, len(pictures), self.cfg.batch_size):
                chunk = pictures[start : start + self.cfg.batch_size]
                pixels = torch.stack([self._transform(Image.fromarray(p)) for p in chunk]).to(self.cfg.device)
                rows.append(self._model.encode_image(pixels, normalize=True).float().cpu().numpy())
        return _of_video(np.concatenate(rows).mean(0, keepdims=True), self.name)

    def embed_text(self, sentences: Sequence[str]) -> Floats:
        """The vectors [n, d], of length 1."""
        return _in_chunks(self._tokens(list(sentences)), self._model.encode_text, self.cfg.device, self.name)


class PairVideoText:
    """A video tower and a text tower in TorchScript."""

    def __init__(self, cfg: PairConfig) -> None:
        from open_clip import SimpleTokenizer

        if cfg.video is None or cfg.text is None:
            raise WeightsError(f"video_text.pair: expected video=<file> and text=<file>, found {cfg.video} and {cfg.text}")
        video = need_file(cfg.video, "video_text.pair.video", _PAIR.format("video"))
        text = need_file(cfg.text, "video_text.pair.text", _PAIR.format("text"))
        self.cfg = cfg
        self._video = load_torchscript(video, "video_text.pair.video", cfg.device)
        self._text = load_torchscript(text, "video_text.pair.text", cfg.device)
        self._tokens = SimpleTokenizer(context_length=cfg.context)
        self.name = f"{video.stem}:{digest_of(video)}+{digest_of(text)}"

    def embed_video(self, pictures: Sequence[Picture]) -> Floats:
        """The vector of as many pictures as the model takes: spread evenly, or repeated where there are fewer."""
        import torch

        chosen = np.rint(np.linspace(0, len(pictures) - 1, self.cfg.frames)).astype(int)
        shaped = np.stack([self._shaped(pictures[i]) for i in chosen])[None]
        with torch.inference_mode():
            row = self._video(torch.from_numpy(shaped).to(self.cfg.device)).float().cpu().numpy()
        return _of_video(row, self.name)

    def embed_text(self, sentences: Sequence[str]) -> Floats:
        """The vectors [n, d], of length 1."""
        return _in_chunks(self._tokens(list(sentences)), self._text, self.cfg.device, self.name)

    def _shaped(self, picture: Picture) -> Floats:
        """The middle square of the picture, [3, size, size], normalised."""
        import cv2

        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        small = cv2.resize(picture[top : top + side, left : left + side], (self.cfg.size_px,) * 2, interpolation=cv2.INTER_AREA)
        values = (small.astype(np.float32) / 255 - np.array(self.cfg.mean, np.float32)) / np.array(self.cfg.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _in_chunks(tokens: Any, tower: Any, device: str, name: str) -> Floats:
    """The tower's vectors of all rows of tokens."""
    import torch

    with torch.inference_mode():
        rows = [tower(tokens[i : i + _SENTENCES].to(device)).float().cpu().numpy() for i in range(0, len(tokens), _SENTENCES)]
    return _of_length_one(np.concatenate(rows), name)


def _of_video(row: Floats, name: str) -> Floats:
    """The row [1, d] over its length, [d]. Raises AnswerError where it has none: that is of this video, not of the weights."""
    length = float(np.linalg.norm(row))
    if row.ndim == 2 and not 0 < length < np.inf:
        raise AnswerError(f"video_text {name}: expected a finite vector that is not zero, found one of length {length:g}")
    return _of_length_one(row, name).reshape(-1)


def _of_length_one(rows: Floats, name: str) -> Floats:
    """The rows over their lengths. Raises WeightsError where they are not vectors [n, d] with a direction."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if rows.ndim != 2 or not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise WeightsError(f"video_text {name}: expected finite vectors [n, d] that are not zero, found {rows.shape}")
    return np.asarray(rows / lengths, np.float32)
