"""What pictures tell a generator of sound: frozen features of each frame. MetaCLIP's image tower, or one without weights.

The paper's tower is a long-prompt MetaCLIP, which is not public; its image side is that of any MetaCLIP, read from a local folder as
safetensors and never fetched (Movie Gen Audio, Generator). The other sees what small pictures show and what has changed since the frame
before: motion, and so the moment when something hits. It knows no things: for demos and tests.

Shapes: B clips, T frames, V features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from manifests.ids import digest
from training.errors import TrainingError
from training.models.text import folder_digest, read_description, weight_files

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP's towers were trained on, RGB in [0, 1]."""

_AT_A_TIME = 32
"""Frames in one pass of a tower."""

_CHANGE_GAIN = 4.0
"""From one frame to the next little changes: as loud as the pictures themselves it would not be heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """Which frozen network looks at the frames."""

    metaclip: str | None = None
    """Folder of an open_clip model: open_clip_config.json, open_clip_model.safetensors; None for the encoder without weights."""
    grid: int = 8
    """Of the encoder without weights: cells of a side of the small pictures it sees."""

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"watch.grid: expected at least 1, found {self.grid}")


class Watcher(Protocol):
    """A frozen function from frames to features."""

    width: int

    @property
    def key(self) -> str:
        """Changes with anything that changes a result."""

    def watch(self, frames_BCTHW: Tensor) -> Tensor:
        """Features (B, T, V), float32, of frames in [-1, 1], on their device."""


def load_watcher(config: WatchConfig) -> Watcher:
    """The network that the configuration names; its weights are read at the first use."""
    return MetaClipWatcher(Path(config.metaclip)) if config.metaclip else PlainWatcher(config.grid)


def at_frames(features_BTV: Tensor, sound_frames: int) -> Tensor:
    """Features (B, sound_frames, V) at the codec's rate: each latent frame has those of the nearest frame that is not later.

    Both series are of the same window, evenly spaced, and begin with it. Without any frames there are zeros.
    """
    n = features_BTV.shape[1]
    if n == 0:
        return features_BTV.new_zeros(len(features_BTV), sound_frames, features_BTV.shape[2])
    return features_BTV[:, torch.arange(sound_frames, device=features_BTV.device) * n // sound_frames]


class PlainWatcher:
    """Brightness in a grid of cells, and how it has changed since the frame before, which the first frame has not."""

    def __init__(self, grid: int) -> None:
        self._grid, self.width = grid, 2 * grid * grid

    @property
    def key(self) -> str:
        """Digest of the rule and its size."""
        return digest("watch/v1", "plain", self._grid)

    def watch(self, frames_BCTHW: Tensor) -> Tensor:
        """Features (B, T, 2 grid^2)."""
        b, _, t, h, w = frames_BCTHW.shape
        if t == 0:
            return frames_BCTHW.new_zeros(b, 0, self.width, dtype=torch.float32)
        luma = frames_BCTHW.float().mean(1).view(b * t, 1, h, w)
        cells = F.adaptive_avg_pool2d(luma, self._grid).view(b, t, -1)
        change = torch.cat([torch.zeros_like(cells[:, :1]), cells[:, 1:] - cells[:, :-1]], 1)
        return torch.cat([cells, _CHANGE_GAIN * change], 2)


class MetaClipWatcher:
    """MetaCLIP's image tower (open_clip): the projected embedding of each frame, of length 1 times the root of its width."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        described = read_description(folder / "open_clip_config.json", "the MetaCLIP image tower")
        self._model = described.get("model_cfg", described)
        if not isinstance(self._model.get("vision_cfg"), dict) or "embed_dim" not in self._model:
            raise TrainingError(f"{folder}/open_clip_config.json: expected embed_dim and vision_cfg, found {sorted(self._model)}")
        self.width = int(self._model["embed_dim"])

    @cached_property
    def key(self) -> str:
        """Digest of all files of the folder."""
        return digest("watch/v1", "metaclip", folder_digest(self._folder))

    @cached_property
    def _tower(self) -> Any:
        from open_clip.model import CLIPVisionCfg, _build_vision_tower
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        (path,) = weight_files(self._folder, "open_clip_model")[:1]
        try:
            vision = CLIPVisionCfg(**self._model["vision_cfg"])
            tower: Any = _build_vision_tower(self.width, vision, quick_gelu=bool(self._model.get("quick_gelu")))
            state = {n.removeprefix("visual."): v for n, v in load_file(path).items() if n.startswith("visual.")}
            tower.load_state_dict(state, strict=True)
        except (SafetensorError, TypeError, KeyError, RuntimeError) as error:
            raise TrainingError(f"{path}: expected the weights of the image tower, found {str(error)[:300]}") from error
        return tower.eval().requires_grad_(False)

    def watch(self, frames_BCTHW: Tensor) -> Tensor:
        """Features (B, T, embed_dim); frames are scaled to the tower's side. On a GPU the tower works in bfloat16: of 13 B parameters trained at a
        time its 160 frames a sample would cost more than the model's step otherwise.

        Each clip is looked at for itself, so many frames at a time: the last bits do not depend on the company that it is in.
        """
        b, _, t, _, _ = frames_BCTHW.shape
        if t == 0:
            return frames_BCTHW.new_zeros(b, 0, self.width, dtype=torch.float32)
        size = self._model["vision_cfg"].get("image_size", 224)
        sides: Sequence[int] = (size, size) if isinstance(size, int) else size
        pictures = frames_BCTHW.transpose(1, 2).flatten(0, 1).float()
        scaled = F.interpolate((pictures + 1) / 2, size=tuple(sides), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v, device=scaled.device)[:, None, None] for v in (_CLIP_MEAN, _CLIP_STD))
        dtype = torch.bfloat16 if scaled.is_cuda else torch.float32
        tower, seen = self._tower.to(scaled.device, dtype), ((scaled - mean) / std).to(dtype).view(b, t, *scaled.shape[1:])
        with torch.no_grad():
            embedded = torch.cat([tower(part) for clip in seen for part in clip.split(_AT_A_TIME)])
        features: Tensor = F.normalize(embedded.float(), dim=1) * self.width**0.5
        return features.view(b, t, -1)
