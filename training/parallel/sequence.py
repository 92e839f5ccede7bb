"""Sequence parallel attention: each rank of a group holds a part of the tokens, and for the attention itself a part of the heads.

Before the attention one all-to-all turns (all heads, my tokens) into (my heads, all tokens), queries, keys and values together; after
it another turns the values back. So any attention kernel can be used as it is, and what travels does not grow with the group.
Source: DeepSpeed-Ulysses (Jacobs et al. 2023). The model is the same single-device module; this file changes it from outside.

Shapes: B samples, K heads, N tokens, n = N/P of them here, P ranks in the group, D width of a head.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.plan import Plan
from training.data.shapes import SIDE_MULTIPLE, shape_of
from training.errors import TrainingError
from training.models.transformer import Transformer


def split_sequence(module: nn.Module, group: "dist.ProcessGroup") -> None:
    """The transformer's layers work on this rank's part of the tokens; its input and output stay whole.

    The gradient of a parameter is then the sum over the group of what each rank has, times the group's size, so that the mean over all
    ranks, which the engine takes, is the mean over samples. TrainingError for any other model, and when heads do not divide.
    """
    if not isinstance(module, Transformer):
        raise TrainingError(f"engine.sequence_parallel: expected a transformer, found {type(module).__name__}; use 1")
    size, heads = dist.get_world_size(group), module.config.heads
    if heads % size:
        raise TrainingError(f"engine.sequence_parallel: expected a divisor of {heads} heads, found {size}")
    parallel = _Sequence(group)
    module.split, module.gather = parallel.split, parallel.gather
    for block in module.blocks:
        block.attention.attend = parallel.attend  # type: ignore[union-attr, assignment]


def check_divisible(plan: Plan, size: int) -> None:
    """TrainingError names the first bucket whose tokens a group of this size cannot share: better now than when its turn comes."""
    settings, seen = plan.settings, set[tuple[object, ...]]()
    for sample in (*plan.samples, *plan.held_out) if size > 1 else ():
        # a bucket's name alone does not say: sets may give it other sizes
        if (key := (sample.kind, sample.bucket, sample.width, sample.height, sample.n_frames)) not in seen:
            seen.add(key)
            n = shape_of(sample, settings.shapes, settings.size_px or size * SIDE_MULTIPLE, settings.n_frames or 1).n_tokens
            if n % size:
                raise TrainingError(
                    f"engine.sequence_parallel: expected a divisor of the {n} tokens of bucket {sample.bucket}, found {size}"
                )


class _Sequence:
    """The three places where the model meets the group."""

    def __init__(self, group: "dist.ProcessGroup") -> None:
        self._group, self._rank, self._size = group, dist.get_rank(group), dist.get_world_size(group)

    def split(self, x: Tensor, dim: int) -> Tensor:
        """This rank's part of the tokens."""
        if x.shape[dim] % self._size:
            raise TrainingError(
                f"engine.sequence_parallel: expected tokens divisible by {self._size}, found {x.shape[dim]}; use a divisor of them"
            )
        return x.chunk(self._size, dim)[self._rank]

    def gather(self, x_BnP: Tensor) -> Tensor:
        """All tokens, in order, on every rank."""
        whole: Tensor = _Gather.apply(x_BnP, self._group, self._rank, self._size)
        return whole

    def attend(self, q_BKnD: Tensor, k_BKnD: Tensor, v_BKnD: Tensor, mask: Tensor | None) -> Tensor:
        """The attention of this rank's queries to all keys: (B, K, n, D)."""
        if mask is not None:
            raise ValueError("sequence parallel attention: expected no mask, found one")
        q, k, v = self._exchange(torch.cat([q_BKnD, k_BKnD, v_BKnD], -1), heads_to_tokens=True).chunk(3, -1)
        return self._exchange(F.scaled_dot_product_attention(q, k, v), heads_to_tokens=False)

    def _exchange(self, x: Tensor, *, heads_to_tokens: bool) -> Tensor:
        exchanged: Tensor = _Exchange.apply(x, self._group, self._size, heads_to_tokens)
        return exchanged


class _Exchange(torch.autograd.Function):
    """(B, K, n, D) <-> (B, K/P, N, D): one all-to-all. Its gradient is the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: "dist.ProcessGroup", size: int, heads_to_tokens: bool) -> Tensor:
        ctx.group, ctx.size, ctx.heads_to_tokens = group, size, heads_to_tokens
        return _all_to_all(x, group, size, heads_to_tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _all_to_all(grads[0], ctx.group, ctx.size, not ctx.heads_to_tokens), None, None, None


class _Gather(torch.autograd.Function):
    """Parts of the tokens to all of them. Every rank computes the same loss from all of them, so the gradient of a part is the part of the
    gradient, times the ranks that share it: the engine's mean over ranks takes that factor away again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: "dist.ProcessGroup", rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        parts = [torch.empty_like(x) for _ in range(size)]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].chunk(ctx.size, 1)[ctx.rank] * ctx.size, None, None, None


def _all_to_all(x: Tensor, group: "dist.ProcessGroup", size: int, heads_to_tokens: bool) -> Tensor:
    b, k, n, d = x.shape
    if heads_to_tokens:
        sent = x.unflatten(1, (size, k // size)).permute(1, 0, 2, 3, 4).contiguous()  # P B K/P n D: a part of the heads for each
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return received.permute(1, 2, 0, 3, 4).reshape(b, k // size, size * n, d)
    sent = x.unflatten(2, (size, n // size)).permute(2, 0, 1, 3, 4).contiguous()  # P B K/P n D: a part of the tokens for each
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received.permute(1, 0, 2, 3, 4).reshape(b, size * k, n // size, d)
