"""open_clip's image tower and the LAION aesthetic heads, from local files only.

Where to get them, and where to put them, stands in the error that a missing file raises. LAION's heads were trained on OpenAI weights:
`sa_0_4_vit_b_32_linear.pth` and `sa_0_4_vit_l_14_linear.pth` (linear, LAION aesthetic-predictor) and
`sac+logos+ava1-l14-linearMSE.pth` (the improved predictor's MLP, ViT-L-14). OpenAI weights need the `-quickgelu` variant of the
model, e.g. `ViT-L-14-quickgelu`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.keyframes import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipConfig:
    """Which network, and where its weights lie. `weights=None` means: not run. Model names are open_clip's; `model_config` may name
    a JSON file in open_clip's layout for a model it does not know."""

    model: str = "ViT-B-32"
    weights: str | None = None
    head: str | None = None
    model_config: str | None = None
    device: str = "cpu"
    batch_size: int = 16  # pictures a forward pass: 16 x 224 x 224 fits every GPU and keeps a CPU cache warm


class WeightsError(RuntimeError):
    """Weights are missing or do not fit; the message says what to fetch and where to put it, or which keys differ."""


class OpenClip:
    """An image tower and, where given, an aesthetic head; evaluation mode, float32."""

    def __init__(self, cfg: OpenClipConfig) -> None:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if cfg.weights is None:
            raise WeightsError("open_clip: expected weights=<file>, found none")
        weights = _file(cfg.weights, f"the open_clip checkpoint of {cfg.model} (open_clip_model.safetensors)", "weights")
        head = _file(cfg.head, "a LAION aesthetic head, e.g. sa_0_4_vit_b_32_linear.pth", "head") if cfg.head else None
        self.cfg = cfg
        self.tower = untrained(open_clip, cfg).visual.eval()
        load_state(self.tower, {k.removeprefix("visual."): v for k, v in read_state(weights).items() if k.startswith("visual.")}, weights)
        self.head = None if head is None else _head(head)
        self.name = f"{cfg.model}:{_digest(weights)}"
        self.head_name = None if head is None else f"{head.stem}:{_digest(head)}"
        self._transform = image_transform_v2(PreprocessCfg(**self.tower.preprocess_cfg), is_train=False)

    def embed(self, pictures: Sequence[Picture]) -> npt.NDArray[np.float32]:
        """The L2-normalised embeddings [pictures, dim] of RGB pictures."""
        import torch
        from PIL import Image

        rows = []
        with torch.inference_mode():
            for start in range(0, len(pictures), self.cfg.batch_size):
                chunk = pictures[start : start + self.cfg.batch_size]
                pixels = torch.stack([self._transform(Image.fromarray(p)) for p in chunk]).to(self.cfg.device)
                rows.append(torch.nn.functional.normalize(self.tower(pixels).float(), dim=-1).cpu())
        return np.asarray(torch.cat(rows).numpy() if rows else np.zeros((0, 0)), dtype=np.float32)

    def rate(self, embeddings: npt.NDArray[np.float32]) -> list[float] | None:
        """The aesthetic scores (about 1..10) of L2-normalised embeddings [n, dim]; None without a head."""
        import torch

        if self.head is None:
            return None
        with torch.inference_mode():
            scores = self.head(torch.from_numpy(embeddings))
        return [float(s) for s in scores[:, 0]]


def untrained(open_clip: Any, cfg: OpenClipConfig) -> Any:
    """The model, both towers, with untrained weights. Nothing is fetched: hub schemes and hub text towers are refused."""
    if ":" in cfg.model:
        raise WeightsError(f"open_clip: expected the name of a built-in model, found {cfg.model!r}; weights come from a local file only")
    if cfg.model_config is not None:
        open_clip.add_model_config(_file(cfg.model_config, "a model description in open_clip's JSON layout", "model_config"))
    described = open_clip.get_model_config(cfg.model)
    if described is None:
        raise WeightsError(f"open_clip: expected one of open_clip.list_models(), found {cfg.model!r}")
    if "hf_model_name" in described["text_cfg"]:
        raise WeightsError(f"open_clip: {cfg.model} builds its text tower from a hub id; expected a model that is built without a network")
    return open_clip.create_model(cfg.model, pretrained=None, load_weights=False, pretrained_text=False, device=cfg.device)


def _head(path: Path) -> Any:
    """The aesthetic head in the file: one linear layer, or the improved predictor's stack of them (its dropout does nothing here).

    The improved predictor has no activation between its layers (its author left them commented out), so a plain stack is exact.
    """
    import torch

    state = read_state(path)
    places = sorted({int(m[1]) for key in state if (m := re.fullmatch(r"layers\.(\d+)\.weight", key))})
    names = [f"layers.{i}." for i in places] or [""]
    if f"{names[0]}weight" not in state:
        raise WeightsError(f"aesthetic head {path}: expected 'weight' or 'layers.N.weight', found {', '.join(sorted(state)[:6])}")
    layers = []
    for name in names:
        rows, columns = state[f"{name}weight"].shape
        layer = torch.nn.Linear(columns, rows)
        load_state(layer, {k: state[name + k] for k in ("weight", "bias") if name + k in state}, path)
        layers.append(layer)
    if layers[-1].out_features != 1:
        raise WeightsError(f"aesthetic head {path}: expected one output, found {layers[-1].out_features}")
    return torch.nn.Sequential(*layers).eval()


def load_state(module: Any, state: dict[str, Any], path: Path) -> None:
    """The module carries the weights; every key must be there and fit, so that a wrong file never scores."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as e:
        raise WeightsError(f"{path}: expected the weights of {type(module).__name__}, found others: {str(e)[:400]}") from e


def read_state(path: Path) -> dict[str, Any]:
    """The tensors in a safetensors file or a PyTorch checkpoint, read without running anything that the file contains."""
    import torch

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as e:
            raise WeightsError(f"{path}: expected a safetensors file, found {e}") from e
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # weights_only raises many types on a hostile or foreign file; each is the same news
        raise WeightsError(f"{path}: expected a checkpoint of plain tensors, found {str(e)[:200]}") from e
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{path}: expected a mapping of names to tensors, found {type(loaded).__name__}")
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def _file(path: str, what: str, key: str) -> Path:
    found = Path(path)
    if not found.is_file():
        raise WeightsError(
            f"open_clip: expected {what} at {found} ({key}), found no file; fetch it on a machine with a network and put it there"
        )
    return found


def _digest(path: Path) -> str:
    """The first 12 hexadecimal digits of the file's SHA-256: the version of what was measured."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
