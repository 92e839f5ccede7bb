"""What a forward and backward pass holds at its peak, found by running it on the meta device: no numbers, but every allocation.

So the figure follows the model as it is written and needs no formula beside it. Two operations differ between a CPU and a GPU and are
replaced: attention, which both compute in memory linear in the tokens and the meta device would not, and RMSNorm, which is one kernel on
a GPU and a chain of them on a CPU. Workspaces of libraries and the allocator's fragments are not seen.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Bytes at two moments of a step, beside weights and what else was there before."""

    saved_bytes: int
    """After the forward pass: what the backward pass will read."""
    peak_bytes: int
    """The most at any time, gradients of parameters included if they were kept."""


def step_peak(
    module: nn.Module, forward: Callable[[], Tensor], *, keep_gradients: bool, fused: bool = True, sequence_parallel: int = 1
) -> Peak:
    """The peak of `forward()`, which gives a loss, and its backward pass; module and inputs are on the meta device.

    Without `keep_gradients` each parameter's gradient is gone as soon as it is whole, as under ZeRO-3, where it is reduced and only a
    share is kept. `fused` says that RMSNorm is one kernel, as on a GPU. With `sequence_parallel` P > 1, `forward` runs a rank's share of
    the tokens and attention exchanges them with the group.
    """
    hooks = [] if keep_gradients else [p.register_post_accumulate_grad_hook(_drop) for p in module.parameters() if p.requires_grad]
    live = _Live()
    with live, _kernels(module, _Kernels(fused, sequence_parallel)):
        loss = forward()
        saved = live.now_bytes
        loss.backward()  # type: ignore[no-untyped-call]
    for hook in hooks:
        hook.remove()
    module.zero_grad(set_to_none=True)
    return Peak(saved_bytes=saved, peak_bytes=live.peak_bytes)


def pass_peak(module: nn.Module, forward: Callable[[], Tensor], *, fused: bool = True, sequence_parallel: int = 1) -> int:
    """The most bytes at any time of `forward()` without gradients, under the kernels of `step_peak`."""
    live = _Live()
    with torch.no_grad(), live, _kernels(module, _Kernels(fused, sequence_parallel)):
        forward()
    return live.peak_bytes


@contextmanager
def live_bytes() -> Iterator["_Live"]:
    """Inside, every tensor that is made is counted as long as it lives, on any device: `now_bytes`, `peak_bytes`."""
    with _Live() as live:
        yield live


class _Live(TorchDispatchMode):
    """Counts the storages that operations allocate, each until nothing refers to it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.now_bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _key(value) not in given:
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return
        self._known[key] = weakref.finalize(storage, self._remove, key, size)
        self.now_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)

    def _remove(self, key: int, size: int) -> None:
        del self._known[key]
        self.now_bytes -= size


@contextmanager
def _kernels(module: nn.Module, kernels: "_Kernels") -> Iterator[None]:
    """Inside, the module and each part of it runs under the mode. The backward pass of autograd turns such modes off, so a layer that is
    computed again there has to turn it on itself."""

    def under(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            with nullcontext() if kernels.entered else kernels:
                return forward(*inputs, **named)

        return call

    parts = list(module.modules())
    for part in parts:
        part.forward = under(part.forward)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


class _Kernels(TorchFunctionMode):
    """Attention, and with `fused` RMSNorm, allocate what the kernels of the device do."""

    def __init__(self, fused: bool, sequence_parallel: int) -> None:
        super().__init__()
        self._fused, self._parallel = fused, sequence_parallel
        self.entered = False

    def __enter__(self) -> "_Kernels":
        self.entered = True
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.entered = False
        super().__exit__(*raised)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            if self._parallel > 1 and q.shape == k.shape:
                q, k, v = _exchanged(q, k, v)
                return torch.empty_like(v).copy_(_Attention.apply(q, k, v, self._fused))
            return _Attention.apply(q, k, v, self._fused)
        if self._fused and func in (F.rms_norm, torch.rms_norm):
            return _RMSNorm.apply(args[0], args[2] if len(args) > 2 else (kwargs or {}).get("weight"))
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Keeps queries, keys, values, result and one float32 a query and head: flash attention's, and nothing of tokens x tokens."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, fused: bool) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        ctx.fused = fused
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, _, _ = ctx.saved_tensors
        sums = torch.empty_like(q, dtype=torch.float32) if ctx.fused else None  # the kernel adds up dQ in float32
        found = tuple(torch.empty_like(t) for t in (q, k, v))
        del sums
        return *found, None


class _RMSNorm(torch.autograd.Function):
    """Keeps its input and one float32 a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _exchanged(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Tensor]:
    """What sequence parallel attention makes of them before it attends: joined, sorted by receiver, received, in order again."""
    joined = torch.cat([q, k, v], -1)
    sent = joined.clone(memory_format=torch.contiguous_format)
    received = sent.clone()
    return iter(received.clone().chunk(3, -1))


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
