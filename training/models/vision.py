"""The tower that reads a person's picture: a vision transformer whose patches become a few tokens beside those of the text.

The layout is open_clip's, so that MetaCLIP's public weights fit: patches, a class token, learned positions, LayerNorm before and after
pre-norm blocks. Its last states are averaged over squares of patches to `side` x `side` tokens, behind the class token. The paper takes the
tower of a Long-prompt MetaCLIP and gives neither its size nor the number of tokens: those are ours.

Shapes: B pictures, R their side in pixels, N patches and the class token, D width, K heads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import keyed
from training.errors import TrainingError
from training.models.text import read_description, weight_files
from training.models.transformer import IDENTITY, Transformer, TransformerConfig

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pictures with values in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """Sizes of the tower. Defaults are ViT-H/14."""

    image_px: int = 224
    patch_px: int = 14
    width: int = 1280
    layers: int = 32
    heads: int = 16
    mlp: int = 5120
    quick_gelu: bool = True
    """x sigmoid(1.702 x) in place of GELU, as OpenAI's CLIP and MetaCLIP have it."""
    side: int = 4
    """Tokens along each side that the patches are averaged to; with the class token 17 are read. Ours."""

    def __post_init__(self) -> None:
        if min(self.image_px, self.patch_px, self.width, self.layers, self.heads, self.mlp, self.side) < 1:
            raise ValueError("tower: expected sizes of at least 1")
        if self.image_px % self.patch_px or self.width % self.heads or not self.side <= self.grid:
            raise ValueError(
                f"tower: expected image_px divisible by patch_px, width by heads, and side <= {self.grid}, found {self.image_px} and "
                f"{self.patch_px}, {self.width} and {self.heads}, {self.side}"
            )

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_px // self.patch_px

    @property
    def tokens(self) -> int:
        """Tokens of a picture."""
        return 1 + self.side**2


class TowerBlock(nn.Module):
    """One layer: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        d = config.width
        self.heads, self.quick = config.heads, config.quick_gelu
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.inner, self.outer = nn.Linear(d, config.mlp), nn.Linear(config.mlp, d)

    def forward(self, x_BND: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x_BND)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x_BND + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.inner(self.norm2(x))
        out: Tensor = x + self.outer(y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y))
        return out


class Tower(nn.Module):
    """Pictures (B, 3, R, R) in [-1, 1] to tokens (B, 1 + side^2, D)."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.patches = nn.Linear(3 * config.patch_px**2, d, bias=False)
        self.first, self.positions = nn.Parameter(torch.empty(d)), nn.Parameter(torch.empty(1 + config.grid**2, d))
        self.norm_in, self.norm_out = nn.LayerNorm(d), nn.LayerNorm(d)
        self.blocks = nn.ModuleList(TowerBlock(config) for _ in range(config.layers))

    def forward(self, pictures_B3RR: Tensor) -> Tensor:
        c = self.config
        if pictures_B3RR.shape[2:] != (c.image_px, c.image_px):
            raise ValueError(f"tower: expected pictures of {c.image_px} x {c.image_px}, found {tuple(pictures_B3RR.shape[2:])}")
        mean, std = (torch.tensor(v, dtype=pictures_B3RR.dtype, device=pictures_B3RR.device)[:, None, None] for v in (_MEAN, _STD))
        x = ((pictures_B3RR + 1) / 2 - mean) / std
        x = x.unflatten(2, (c.grid, c.patch_px)).unflatten(4, (c.grid, c.patch_px)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = torch.cat([self.first.expand(len(x), 1, -1), self.patches(x)], 1) + self.positions
        x = self.norm_in(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm_out(x)
        squares = F.adaptive_avg_pool2d(x[:, 1:].transpose(1, 2).unflatten(2, (c.grid, c.grid)), c.side)
        return torch.cat([x[:, :1], squares.flatten(2).transpose(1, 2)], 1)


class PersonalTransformer(Transformer):
    """The video transformer with the tower of a person's picture: one more input, (B, 3, R, R) in [-1, 1], after all others.

    Its own parameters have the names that they have without the tower, whose names begin with `tower.`: a text-to-video export is its
    parent, and what parallelism does to a transformer it does to this one. A tower that is not trained has no gradient.
    """

    def __init__(self, config: TransformerConfig, tower: TowerConfig, *, train_tower: bool, train_backbone: bool = True) -> None:
        if config.identity_width != tower.width:
            raise ValueError(f"model.identity_width: expected the tower's width {tower.width}, found {config.identity_width}")
        super().__init__(config)
        self.tower = Tower(tower)
        self.train_tower, self.train_backbone = train_tower, train_backbone

    def learns(self, name: str) -> bool:
        """Whether a parameter is to move, which the engine asks: no rate and no decay reach the others."""
        if name.startswith("tower."):
            return self.train_tower
        return self.train_backbone or name.startswith(f"text.{IDENTITY}.")

    def forward(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        tokens: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        context_BCTHW: Tensor | None = None,
        task_B: Tensor | None = None,
        start_B: Tensor | None = None,
        pictures_B3RR: Tensor | None = None,
    ) -> Tensor:
        """`pictures_B3RR` must be given; its tokens join those of the text."""
        if pictures_B3RR is None:
            raise ValueError("transformer: expected a person's picture, found none")
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_tower):
            seen = self.tower(pictures_B3RR)
        read = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        return super().forward(x_BCTHW, t_B, {**tokens, IDENTITY: seen}, {**masks, IDENTITY: read}, context_BCTHW, task_B, start_B)


def initialise_tower(tower: Tower, seed: int) -> None:
    """Every parameter holds its initial value, drawn by a key of the seed and its name: weights normal with deviation 1 / sqrt(fan in),
    those that write to the residual stream divided by sqrt(2 layers), positions and the class token 0.02."""
    depth = math.sqrt(2 * tower.config.layers)
    for name, module in tower.named_modules():
        if isinstance(module, nn.Linear):
            writes = name.endswith((".out", ".outer"))
            std = 1 / math.sqrt(module.in_features) / (depth if writes else 1.0)
            module.weight.data.copy_(keyed.normal(tuple(module.weight.shape), seed, "init", "tower", name) * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for name in ("first", "positions"):
        parameter = tower.get_parameter(name)
        parameter.data.copy_(keyed.normal(tuple(parameter.shape), seed, "init", "tower", name) * 0.02)


def load_tower(folder: Path, config: TowerConfig) -> dict[str, Tensor]:
    """The tower's weights by its own names, of an open_clip folder of a CLIP model; positions are stretched to the configured grid.

    TrainingError when sizes differ, weights are missing, or what is there is no vision transformer of this layout.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    described = read_description(folder / "open_clip_config.json", "the vision tower")
    described = described.get("model_cfg", described)
    found = described.get("vision_cfg")
    if not isinstance(found, dict):
        raise TrainingError(f"{folder}/open_clip_config.json: expected vision_cfg, found {found}")
    sizes = {"width": found.get("width"), "layers": found.get("layers"), "patch_px": found.get("patch_size")}
    sizes["quick_gelu"] = bool(described.get("quick_gelu"))
    if isinstance(sizes["width"], int):  # no weight's shape tells the heads: another number of them would be read without a word
        sizes["heads"] = sizes["width"] // int(found.get("head_width", 64))  # open_clip's default
    if wrong := {name: value for name, value in sizes.items() if getattr(config, name) != value}:
        raise TrainingError(f"{folder}: expected a tower of { ({n: getattr(config, n) for n in wrong}) }, found {wrong}")
    (path,) = weight_files(folder, "open_clip_model")[:1]
    try:
        state = {name.removeprefix("visual."): value.float() for name, value in load_file(path).items() if name.startswith("visual.")}
        return _renamed(state, config)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise TrainingError(f"{path}: expected the weights of a vision transformer, found {str(error)[:300]}") from error


def _renamed(state: Mapping[str, Tensor], config: TowerConfig) -> dict[str, Tensor]:
    """open_clip's names to ours; a convolution whose kernel is its stride is a linear layer on patches."""
    renamed = {
        "first": state["class_embedding"],
        "positions": grow_grid(state["positional_embedding"], config.grid),
        "patches.weight": state["conv1.weight"].flatten(1),
    }
    pairs = [("norm_in", "ln_pre"), ("norm_out", "ln_post")]
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"transformer.resblocks.{i}"
        pairs += [(f"{ours}.norm1", f"{theirs}.ln_1"), (f"{ours}.norm2", f"{theirs}.ln_2"), (f"{ours}.out", f"{theirs}.attn.out_proj")]
        pairs += [(f"{ours}.inner", f"{theirs}.mlp.c_fc"), (f"{ours}.outer", f"{theirs}.mlp.c_proj")]
        renamed |= {f"{ours}.qkv.{p}": state[f"{theirs}.attn.in_proj_{p}"] for p in ("weight", "bias")}
    return renamed | {f"{ours}.{p}": state[f"{theirs}.{p}"] for ours, theirs in pairs for p in ("weight", "bias")}


def grow_grid(table: Tensor, grid: int) -> Tensor:
    """Positions (1 + grid^2, D) from those of another grid; the class token's stays."""
    side = math.isqrt(len(table) - 1)
    if side == grid:
        return table
    square = table[1:].T.unflatten(1, (side, side))[None]
    grown = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False, antialias=True)[0]
    return torch.cat([table[:1], grown.flatten(1).T])


def tower_parameters(config: TowerConfig) -> int:
    """Values of all the tower's parameters."""
    with torch.device("meta"):
        return sum(p.numel() for p in Tower(config).parameters())


def tower_forward(config: TowerConfig, batch: int) -> int:
    """Floating-point operations of one forward pass over so many pictures; a pass with gradients costs three times that."""
    d, n = config.width, 1 + config.grid**2
    layer = 2 * n * 4 * d * d + 4 * n * n * d + 2 * n * 2 * d * config.mlp
    return batch * (config.layers * layer + 2 * config.grid**2 * 3 * config.patch_px**2 * d)
