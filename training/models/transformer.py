"""The video transformer: noisy latents, a time and text tokens to the velocity of the flow. Plain single-device torch.

LLaMa3's block (RMSNorm, SwiGLU, no biases, as many key heads as query heads) with full bidirectional attention, cross-attention to
the text between self-attention and feed-forward, and adaptive normalisation from one timestep MLP that all layers share. Learned
tables of positions in t, h and w are summed and added at the input of every layer. An image is a video of one frame.

Stages beyond text to video widen the model and begin as what they came from: context latents beside the noisy ones through weights that
begin as zero (spatial upsampler, editing), identity tokens among those of the text (personalisation), and an embedding of the task that
becomes four more tokens and a part of the time's embedding (editing, as in Emu Edit).
Source: Movie Gen, Architecture, Spatial Upsampler, Personalized Movie Gen Video, Movie Gen Edit. The paper gives the total of 30B, not the MLP's shape: width 4d inside and nine vectors out are ours.

Shapes: B samples, C latent channels, T frames, H and W of the latent, N = T H/2 W/2 tokens, L text tokens, D width, K heads.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training import keyed

PATCH_PX = 2
"""A token is 1 x 2 x 2 latent positions: 8 frames of 16 x 16 pixels."""

ENCODERS = ("ul2", "byt5", "metaclip", "bytes")
"""Text encoders, in the order in which their tokens are joined."""

IDENTITY = "identity"
"""Names the tokens of a person, which follow those of the text."""

TASK_TOKENS = 4
"""Tokens that an edit's task becomes (Emu Edit)."""

NEW_PARTS = ("context.", "tasks.", f"text.{IDENTITY}.")
"""Beginnings of the names of weights that a stage may have and its parent not."""

_FREQUENCIES = 256
_VECTORS = 9
"""Shift, scale and gate for self-attention, cross-attention and feed-forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes of the model. A text encoder's width of 0 means that the model does not read it."""

    layers: int
    width: int
    ffn: int
    heads: int
    latent_channels: int = 16
    max_t: int = 1
    """Latent frames that have a position."""
    max_h: int = 16
    """Tokens of height that have a position: 16 are 256 pixels."""
    max_w: int = 16
    ul2_width: int = 0
    byt5_width: int = 0
    metaclip_width: int = 0
    bytes_width: int = 0
    qk_norm: bool = False
    """RMSNorm of queries and keys. LLaMa3 has none and the paper names none."""
    context_channels: int = 0
    """Channels of latents that are given beside the noisy ones: a clip of low resolution, or the source of an edit."""
    identity_width: int = 0
    """Width of the tokens of a person's picture."""
    tasks: int = 0
    """Kinds of edits that are told apart; 0 for a model that does not edit."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"model: expected an even width divisible by heads, found {self.width} and {self.heads}")
        if not self.text_widths:
            raise ValueError("model: expected a width above 0 for at least one text encoder, found none")
        for name in ("layers", "width", "ffn", "heads", "latent_channels", "max_t", "max_h", "max_w"):
            if getattr(self, name) < 1:
                raise ValueError(f"model: expected {name} >= 1, found {getattr(self, name)}")

    @property
    def text_widths(self) -> dict[str, int]:
        """Encoder -> width of its tokens, of those that the model reads."""
        return {name: width for name in ENCODERS if (width := int(getattr(self, f"{name}_width")))}

    @property
    def token_widths(self) -> dict[str, int]:
        """The same with the tokens of a person's picture, where the model reads them."""
        return self.text_widths | ({IDENTITY: self.identity_width} if self.identity_width else {})


class Positions(nn.Module):
    """Learned tables for frame, row and column, summed: (N, D) for a grid of tokens, or (B, N, D) where each sample has its own first
    frame, `start_B`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.t, self.h, self.w = (nn.Parameter(torch.empty(n, config.width)) for n in (config.max_t, config.max_h, config.max_w))

    def forward(self, grid: tuple[int, int, int], start_B: Tensor | None = None) -> Tensor:
        tables = (self.t, self.h, self.w)
        if any(n > len(table) for n, table in zip(grid, tables, strict=True)):
            most = tuple(map(len, tables))
            raise ValueError(f"transformer: expected at most {most} tokens in (t, h, w), found {grid}; grow the tables of positions")
        t, h, w = (table[:n] for table, n in zip(tables, grid, strict=True))
        if start_B is not None:
            t = self.t[start_B[:, None] + torch.arange(grid[0], device=start_B.device)]
        return (t[..., :, None, None, :] + h[:, None] + w).flatten(-4, -2)


class TimeMLP(nn.Module):
    """A time in [0, 1] to its embedding (B, D) and to the vectors (B, vectors, D) that every layer is modulated with."""

    def __init__(self, width: int, vectors: int = _VECTORS) -> None:
        super().__init__()
        self.vectors = vectors
        self.inner, self.outer = nn.Linear(_FREQUENCIES, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, vectors * width)

    def forward(self, t_B: Tensor, added_BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        embedding = self.outer(F.silu(self.inner(_waves(t_B).to(self.inner.weight.dtype))))
        if added_BD is not None:
            embedding = embedding + added_BD
        return embedding, self.modulation(F.silu(embedding)).unflatten(1, (self.vectors, -1))


class TextProjection(nn.Module):
    """One encoder's tokens (B, L, width) to the model's width: a linear layer, then LayerNorm."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width_in, width), nn.LayerNorm(width)

    def forward(self, tokens_BLE: Tensor) -> Tensor:
        projected: Tensor = self.norm(self.linear(tokens_BLE))
        return projected


class Tasks(nn.Module):
    """An edit's task (B,) to tokens (B, 4, D) and to what is added to the time's embedding (B, D), which begins as zero."""

    def __init__(self, tasks: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(tasks, width))
        self.tokens, self.time = nn.Linear(width, TASK_TOKENS * width), nn.Linear(width, width)

    def forward(self, task_B: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.table[task_B]
        return self.tokens(chosen).unflatten(1, (TASK_TOKENS, -1)), self.time(chosen)


class Attention(nn.Module):
    """Multi-head attention of tokens (B, N, D) to others (B, L, D), without biases; to themselves when these are the same.

    `attend` is the core, (B, K, N, D/K) queries, keys and values to values; sequence parallelism replaces it from outside.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = (nn.RMSNorm(width // heads, eps=1e-5) if qk_norm else nn.Identity() for _ in range(2))
        self.attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] = F.scaled_dot_product_attention

    def forward(self, x_BND: Tensor, y_BLD: Tensor, mask_B11L: Tensor | None = None) -> Tensor:
        q, k, v = (p(s).unflatten(2, (self.heads, -1)).transpose(1, 2) for p, s in ((self.q, x_BND), (self.k, y_BLD), (self.v, y_BLD)))
        values = self.attend(self.q_norm(q), self.k_norm(k), v, mask_B11L)
        out: Tensor = self.out(values.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """out(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up, self.out = (nn.Linear(a, b, bias=False) for a, b in ((width, inner), (width, inner), (inner, width)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.silu(self.gate(x)) * self.up(x))
        return y


class Block(nn.Module):
    """One layer: positions, then self-attention, cross-attention and feed-forward, each normalised, modulated and gated."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d = config.width
        self.norm1, self.attention = nn.RMSNorm(d, eps=1e-5), Attention(d, config.heads, config.qk_norm)
        self.norm2, self.cross = nn.RMSNorm(d, eps=1e-5), Attention(d, config.heads, config.qk_norm)
        self.norm3, self.ffn = nn.RMSNorm(d, eps=1e-5), SwiGLU(d, config.ffn)
        self.bias = nn.Parameter(torch.empty(_VECTORS, d))

    def forward(self, x_BND: Tensor, position_ND: Tensor, vectors_B9D: Tensor, text_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        b1, s1, g1, b2, s2, g2, b3, s3, g3 = (vectors_B9D + self.bias)[:, :, None].unbind(1)
        x = x_BND + position_ND
        y = self.norm1(x) * (1 + s1) + b1
        x = x + g1 * self.attention(y, y)
        x = x + g2 * self.cross(self.norm2(x) * (1 + s2) + b2, text_BLD, mask_B11L)
        out: Tensor = x + g3 * self.ffn(self.norm3(x) * (1 + s3) + b3)
        return out

    def reset(self) -> None:
        """Shifts and scales begin as nothing, gates open: the branches' small output weights keep the sum of many layers tame."""
        nn.init.zeros_(self.bias)
        self.bias.data[2::3] = 1.0


class Output(nn.Module):
    """Tokens (B, N, D) to patches (B, N, 4 C); begins as zero, so that an untrained model says no velocity."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.bias = nn.Parameter(torch.empty(2, config.width))
        self.linear = nn.Linear(config.width, PATCH_PX**2 * config.latent_channels)

    def forward(self, x_BND: Tensor, time_BD: Tensor) -> Tensor:
        shift, scale = (time_BD[:, None] + self.bias)[:, :, None].unbind(1)
        patches: Tensor = self.linear(self.norm(x_BND) * (1 + scale) + shift)
        return patches

    def reset(self) -> None:
        """The layer says zero whatever it is given."""
        for parameter in (self.bias, self.linear.weight, self.linear.bias):
            nn.init.zeros_(parameter)


class Transformer(nn.Module):
    """The velocity of latents (B, C, T, H, W) at times t_B under text: encoder -> tokens (B, L, width) and -> mask (B, L), true = read.

    Where the configuration has them, also under context latents (B, context_channels, T, H, W), tokens `identity`, and a task a sample.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Linear(PATCH_PX**2 * config.latent_channels, config.width)
        if config.context_channels:  # with `patches` one layer on both, concatenated on channels; apart, so that a parent's weights fit
            self.context = nn.Linear(PATCH_PX**2 * config.context_channels, config.width, bias=False)
        if config.tasks:
            self.tasks = Tasks(config.tasks, config.width)
        self.positions, self.time = Positions(config), TimeMLP(config.width)
        self.text = nn.ModuleDict({name: TextProjection(width, config.width) for name, width in config.token_widths.items()})
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output = Output(config)
        self.recompute = False
        """Keep a layer's input only and compute the rest again in the backward pass: a third more work, far less memory."""
        self.split: Callable[[Tensor, int], Tensor] = lambda x, dim: x
        """This process's part of the tokens, along a dimension; sequence parallelism replaces it and `gather` from outside."""
        self.gather: Callable[[Tensor], Tensor] = lambda x_BNP: x_BNP

    def forward(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        tokens: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        context_BCTHW: Tensor | None = None,
        task_B: Tensor | None = None,
        start_B: Tensor | None = None,
    ) -> Tensor:
        """`start_B` is the place in time of each sample's first frame; 0 without it. A part that the configuration has must be given."""
        grid = token_grid(tuple(x_BCTHW.shape[2:]))
        x = self.patches(self.split(patchify(x_BCTHW), 1))
        if self.config.context_channels:
            x = x + self.context(self.split(patchify(_given(context_BCTHW, "context latents")), 1))
        position = self.split(self.positions(grid, start_B), -2)
        read = [project(tokens[name]) for name, project in self.text.items()]
        masked = [masks[name] for name in self.text]
        added = None
        if self.config.tasks:
            more, added = self.tasks(_given(task_B, "a task"))
            read, masked = [*read, more], [*masked, masked[0].new_ones(more.shape[:2])]
        time, vectors = self.time(t_B, added)
        text, mask = torch.cat(read, 1), torch.cat(masked, 1)[:, None, None]
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, position, vectors, text, mask, use_reentrant=False)
            else:
                x = block(x, position, vectors, text, mask)
        return unpatchify(self.gather(self.output(x, time)), grid)


def _given(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise ValueError(f"transformer: expected {what}, as the configuration says, found none")
    return value


def token_grid(latent: tuple[int, ...]) -> tuple[int, int, int]:
    """Tokens in (t, h, w) of a latent (T, H, W); ValueError unless H and W are even, that is pixels a multiple of 16."""
    t, h, w = latent
    if h % PATCH_PX or w % PATCH_PX:
        raise ValueError(f"transformer: expected an even latent height and width (pixels a multiple of 16), found {h} and {w}")
    return t, h // PATCH_PX, w // PATCH_PX


def tokens_of(n_frames: int, height_px: int, width_px: int) -> int:
    """Tokens of a video: ceil(frames / 8) x height / 16 x width / 16. 256 frames at 768 x 768 are 73,728."""
    t, h, w = token_grid((-(-n_frames // 8), height_px // 8, width_px // 8))
    return t * h * w


def patchify(x_BCTHW: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, N, 4 C): each token is 1 x 2 x 2 positions. A linear layer on it is a convolution with kernel = stride."""
    b, c, t, h, w = x_BCTHW.shape
    x = x_BCTHW.reshape(b, c, t, h // PATCH_PX, PATCH_PX, w // PATCH_PX, PATCH_PX)
    return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(b, t * (h // PATCH_PX) * (w // PATCH_PX), -1)


def unpatchify(x_BNP: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """(B, N, 4 C) -> (B, C, T, H, W): the inverse of `patchify`."""
    t, h, w = grid
    x = x_BNP.unflatten(1, grid).unflatten(4, (-1, PATCH_PX, PATCH_PX))
    latent: Tensor = x.permute(0, 4, 1, 2, 5, 3, 6).reshape(len(x), -1, t, h * PATCH_PX, w * PATCH_PX)
    return latent


def initialise(model: Transformer, seed: int, known: Collection[str] = ()) -> None:
    """Every parameter holds its initial value, drawn by a key of the seed and its name, so no global random state is read.

    A linear layer whose weight is `known` from elsewhere is left out, as 30 B draws take seven minutes.

    Linear weights are normal with deviation 1 / sqrt(fan in), those that write to the residual stream divided by sqrt(3 layers);
    positions have 0.02; the modulation and the output begin as zero.
    """
    depth = math.sqrt(3 * model.config.layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if f"{name}.weight" in known:
                continue
            writes = name.startswith("blocks.") and name.endswith(".out")
            std = (
                0.0
                if name in ("time.modulation", "context", "tasks.time")
                else 1 / math.sqrt(module.in_features) / (depth if writes else 1.0)
            )
            _fill(module.weight, std, seed, "init", name)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.get_parameter("weight"))
            if isinstance(module, nn.LayerNorm):
                nn.init.zeros_(module.bias)
        elif isinstance(module, Positions):
            for axis, table in module.named_parameters():
                _fill(table, 0.02, seed, "init", name, axis)
        elif isinstance(module, Tasks):
            _fill(module.table, 1.0, seed, "init", name)
        elif isinstance(module, Block | Output):
            module.reset()
    model.output.reset()  # after its linear layer was drawn


def inherit(model: Transformer, parent: Mapping[str, Tensor], space: Literal["extend", "stretch"]) -> None:
    """The model has its parent's weights, its positions grown; parts that the parent has not keep their initial weights.

    So it says at first what its parent says: what is new begins as zero, or, being tokens, is only as loud as the text. ValueError when
    anything else is missing, unknown or of another size.
    """
    state = grow_positions(parent, model.config, space)
    own = model.state_dict()
    state |= {name: value for name, value in own.items() if name not in state and name.startswith(NEW_PARTS)}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def grow_positions(state: Mapping[str, Tensor], config: TransformerConfig, space: Literal["extend", "stretch"]) -> dict[str, Tensor]:
    """A parent's weights with tables of positions as long as `config` wants; ValueError when one would have to shrink.

    `extend` keeps what each index means and repeats the last entry behind it: for longer or wider pictures at the same resolution.
    `stretch` interpolates, new index i standing where (i + 1/2) old / new - 1/2 stood: for a finer grid over the same view. Time is
    always extended. What the parent was trained on keeps its meaning either way, so the loss goes on where it was.
    """
    grown = dict(state)
    for axis, length in (("t", config.max_t), ("h", config.max_h), ("w", config.max_w)):
        table = state[f"positions.{axis}"]
        if length < len(table):
            raise ValueError(f"positions.{axis}: expected at least the parent's {len(table)} entries, found {length}")
        if axis != "t" and space == "stretch":
            grown[f"positions.{axis}"] = F.interpolate(table.T[None], size=length, mode="linear", align_corners=False)[0].T.contiguous()
        else:
            grown[f"positions.{axis}"] = torch.cat([table, table[-1:].expand(length - len(table), -1)])
    return grown


def _waves(t_B: Tensor) -> Tensor:
    """Cosines and sines of 1000 t at 128 frequencies from 1 down to 1e-4, float32, (B, 256)."""
    half = _FREQUENCIES // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t_B.device) / half)
    angles = 1000 * t_B.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def _fill(parameter: Tensor, std: float, *key: object) -> None:
    """The parameter holds normal values of this deviation, by key."""
    if std == 0.0:
        nn.init.zeros_(parameter)
    else:
        parameter.data.copy_(keyed.normal(tuple(parameter.shape), *key) * std)
