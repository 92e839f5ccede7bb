"""DeepSpeed ZeRO-3 behind a small adapter: the only file that knows DeepSpeed, and one function writes its JSON.

What the adapter promises: `forward` is called like the module; `backward` and `step` are one optimiser step over all ranks;
`local_state` and `load_local_state` move this rank's share of weights and optimiser as plain tensors, so that checkpoints are ours:
safetensors, readable by any number of ranks, and never a pickle (DeepSpeed's own are).
"""

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.errors import TrainingError
from training.parallel.slices import span

STATES = ("exp_avg", "exp_avg_sq")
"""Adam's two moments, as torch names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW. The paper gives no learning rate for the autoencoder: all defaults are ours."""

    lr: float = 1e-4
    """Peak learning rate per step."""
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 100
    """Steps over which the rate rises linearly from lr / warmup_steps."""
    final_lr_share: float = 1.0
    """Share of lr reached at the last step, by half a cosine; 1 keeps the rate."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the model is spread over processes."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of weights in forward and backward; the optimiser's copy is float32 either way."""
    persistence_threshold: int = 100_000
    """Parameters with fewer values stay gathered on every rank: an all-gather of a few kilobytes costs more than it saves."""
    bucket_values: int = 50_000_000
    """Gradient values that are reduced together; 200 MB in float32."""
    recompute: bool = False
    """Keep only the inputs of the model's layers and compute the rest again in the backward pass (the generator's model can)."""
    compile: bool = False
    """Compile each block (`torch.compile`): a minute at the first step, faster steps after it."""
    sequence_parallel: int = 1
    """Neighbouring processes that share a sample, each with its part of the tokens; a divisor of the model's heads."""
    micro_batch: int = 0
    """Samples of one forward and backward pass of a process; smaller ones are accumulated to the step's. 0: all at once."""
    peak_tflops: float | None = None
    """What one device can do, for the model FLOPs utilisation; None: by the device's name, where it is known."""
    timeout_s: int = 1800
    """Until the first step is done, a collective that waits longer ends the run: some rank is gone, or took another path."""
    step_timeout_s: int = 600
    """The same from then on."""


def deepspeed_json(config: EngineConfig, optim: OptimConfig) -> dict[str, Any]:
    """The configuration DeepSpeed is given, whole: nobody else writes that dict."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # for its own books only: ours change from step to step
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.clip_norm,
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": config.persistence_threshold,
            "reduce_bucket_size": config.bucket_values,
        },
        # torch's AdamW is used as it is: DeepSpeed's own would compile C++ on the first start
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},  # else the passes of a step are added in the type of the weights
        "steps_per_print": 1 << 62,
    }


def sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    """The sum of the tensor over all ranks, the same on each, on the CPU."""
    total = values.detach().to(device).clone()
    torch.distributed.all_reduce(total)
    return total.cpu()


def join_group(timeout_s: int) -> torch.device:
    """This process is one of torchrun's group; gives its device.

    One process a GPU where there are GPUs, otherwise on the CPU over gloo.
    """
    gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)\b.*")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # On the CPU DeepSpeed compiles a shared-memory collective at start: 97 s cold, an error without ninja, and no gain here. The
    # module is taken from sys.modules because the attribute `deepspeed.comm.torch` is torch itself.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    deepspeed.init_distributed("nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_s), verbose=False)
    return device


def set_timeout(seconds: int, groups: Sequence["torch.distributed.ProcessGroup | None"]) -> None:
    """From now on a collective of these groups (None: of all ranks) that waits longer ends the run."""
    from torch.distributed import distributed_c10d

    change = getattr(torch.distributed, "set_timeout", None) or distributed_c10d._set_pg_timeout  # the former since torch 2.15
    for group in groups:
        change(timedelta(seconds=seconds), group)


class Engine:
    """A module under ZeRO-3 with AdamW. Every rank makes the same calls in the same order, or the group waits for ever."""

    def __init__(
        self,
        module: nn.Module,
        blocks: tuple[type[nn.Module], ...],
        config: EngineConfig,
        optim: OptimConfig,
        device: torch.device,
        prefix: str = "",
    ) -> None:
        """`blocks` are the classes whose parameters are gathered together: fewer, larger messages, and fewer hooks. `prefix` stands before
        the names of parameters, so that several engines can share a checkpoint.

        The weights are those of rank 0's `module`; the others' may be memory that nobody has written. No device ever holds more of the whole
        than one block, no host but the first more than its share."""
        import deepspeed
        from deepspeed.utils import set_z3_leaf_modules

        if any(True for _ in module.buffers()):
            raise TrainingError("engine: expected a module without buffers, as checkpoints hold parameters only")
        self.rank, self.world, self.device = torch.distributed.get_rank(), torch.distributed.get_world_size(), device
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.shapes = {prefix + name: tuple(p.shape) for name, p in module.named_parameters()}
        adamw = torch.optim.AdamW(_groups(module), lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)
        set_z3_leaf_modules(module, list(blocks), raise_if_not_found=False)  # a discriminator has none
        settings = deepspeed_json(config, optim)
        masters = self._share_out(module, blocks, settings, prefix)
        self._engine, self._zero, _, _ = deepspeed.initialize(model=module, optimizer=adamw, config=settings)
        self.parameters: dict[str, nn.Parameter] = {prefix + n: p for n, p in self._engine.module.named_parameters()}
        if config.compile:
            for block in self._engine.module.modules():
                if isinstance(block, blocks):
                    block.compile()
        if masters:  # DeepSpeed makes the float32 copies from rounded weights: give them back what rounding took
            self._set_weights(masters)

    def __call__(self, *inputs: Any) -> Any:
        """The module's output; differentiable."""
        return self._engine(*inputs)

    @property
    def module(self) -> nn.Module:
        """The module itself, to be run inside another engine's loss; its parameters are gathered as they are needed."""
        module: nn.Module = self._engine.module
        return module

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Gradients of the mean of all ranks' losses are added to those of the earlier passes of this step; `last` ends them."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    def step(self, lr: float) -> float | None:
        """Weights moved by one clipped AdamW step at this rate; gives the gradient's norm before clipping, over all ranks.

        None when it is not finite: then nothing has moved, on any rank, and the gradients are gone.
        """
        for group in self._zero.param_groups:
            group["lr"] = 0.0 if group.get("still") else lr
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        return norm if math.isfinite(norm) and norm >= 0 else None  # DeepSpeed says -1 or inf for a norm that is not a number

    def span(self, name: str) -> tuple[int, int]:
        """The range of a parameter's flat indices that this rank holds."""
        return span(self.numel(name), self.rank, self.world)

    def numel(self, name: str) -> int:
        """Values of the whole parameter."""
        return int(torch.Size(self.shapes[name]).numel())

    def local_weight(self, name: str) -> Tensor:
        """This rank's piece of a parameter, float32, flat, without padding; a view, so do not keep it over a step."""
        from deepspeed.utils import safe_get_local_fp32_param

        start, end = self.span(name)
        piece: Tensor = safe_get_local_fp32_param(self.parameters[name])
        return piece[: end - start]

    def local_state(self) -> dict[str, Tensor]:
        """Copies of this rank's pieces: 'weight/<name>' and Adam's moments, 'exp_avg/<name>', 'exp_avg_sq/<name>'; on the CPU."""
        from deepspeed.utils import safe_get_local_optimizer_state

        state = {}
        for name, parameter in self.parameters.items():
            start, end = self.span(name)
            state[f"weight/{name}"] = self.local_weight(name).detach().cpu().clone()
            for key in STATES:
                piece = safe_get_local_optimizer_state(parameter, key)
                state[f"{key}/{name}"] = piece[: end - start].detach().cpu().clone()
        return state

    def load_local_state(self, read: Callable[[str, str], Tensor], updates: int) -> None:
        """Weights and moments are those of a checkpoint after `updates` steps of the optimiser; `read(kind, name)` gives this rank's piece."""
        from deepspeed.utils import safe_set_local_optimizer_state

        for flat in self._zero.fp32_partitioned_groups_flat:  # AdamW makes its state at its first step: make it now
            moments = {key: torch.zeros_like(flat) for key in STATES}
            self._zero.optimizer.state[flat] = {"step": torch.tensor(float(updates)), **moments}
        self._set_weights({name: read("weight", name).to(self.device) for name in self.parameters})
        for name, parameter in self.parameters.items():
            for key in STATES:
                safe_set_local_optimizer_state(parameter, _padded(read(key, name), parameter), key)

    @contextmanager
    def weights(self, values: Callable[[str], Tensor]) -> Iterator[None]:
        """Inside, the module runs with this rank's pieces `values(name)` as its weights; afterwards with its own again.

        Without emptying the cache of gathered parameters the exchange would not be seen: they stay gathered after a forward pass.
        """
        own = {name: _partition(p).clone() for name, p in self.parameters.items()}
        try:
            self._set_gathered(lambda name: _padded(values(name), self.parameters[name]))
            yield
        finally:
            self._set_gathered(lambda name: own[name])

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The sum of the tensor over all ranks, the same on each."""
        return sum_over_ranks(values, self.device)

    def barrier(self) -> None:
        """All ranks have come this far, their hosts too: over NCCL an all-reduce alone would only order the device's work."""
        self.sum_over_ranks(torch.zeros(1))

    def set_timeout(self, seconds: int, *groups: "torch.distributed.ProcessGroup | None") -> None:
        """From now on a collective of all ranks, of DeepSpeed's copy of their group or of these that waits longer ends the run."""
        own = getattr(self._engine, "seq_data_parallel_group", None)
        set_timeout(seconds, [None, *(g for g in (own, *groups) if g is not None)])

    def _share_out(
        self, module: nn.Module, blocks: tuple[type[nn.Module], ...], settings: dict[str, Any], prefix: str
    ) -> dict[str, Tensor]:
        """Every rank holds its share of rank 0's weights; returns the shares in float32 where the weights are rounded, else nothing.

        Given the module whole, DeepSpeed would put all of it on every device first: 120 GB for 30 B parameters.
        """
        import deepspeed

        masters, names = {}, {p: prefix + n for n, p in module.named_parameters()}
        for part in (*(m for m in module.modules() if isinstance(m, blocks)), module):
            own = [p for p in part.parameters() if not hasattr(p, "ds_id")]
            for parameter in own:
                whole = parameter.data.to(self.device)
                torch.distributed.broadcast(whole, 0)
                if self.dtype != torch.float32:
                    masters[names[parameter]] = whole.flatten()[slice(*self.span(names[parameter]))].clone()
                parameter.data = whole.to(self.dtype)
            if own:
                deepspeed.zero.Init(module=part, config_dict_or_path=settings, dtype=self.dtype)
        return masters

    def _set_weights(self, pieces: dict[str, Tensor]) -> None:
        """The float32 copies hold these pieces, and the weights that forward uses are rounded from them."""
        from deepspeed.utils import safe_set_local_fp32_param

        for name, parameter in self.parameters.items():
            safe_set_local_fp32_param(parameter, _padded(pieces[name], parameter))
        self._set_gathered(lambda name: _padded(pieces[name], self.parameters[name]))

    def _set_gathered(self, value: Callable[[str], Tensor]) -> None:
        self._engine.empty_partition_cache()
        for name, parameter in self.parameters.items():
            _partition(parameter).copy_(value(name))


def _groups(module: nn.Module) -> list[dict[str, Any]]:
    """The module's parameters for AdamW; those that its `learns`, where it has one, says no to stay bit for bit what they are.

    They are not left out, so that checkpoints, averages and exports hold them like any other.
    """
    learns = getattr(module, "learns", lambda name: True)
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        parts[bool(learns(name))].append(parameter)
    still = [{"params": parts[False], "weight_decay": 0.0, "still": True}] if parts[False] else []
    return [{"params": parts[True]}, *still]


def _partition(parameter: nn.Parameter) -> Tensor:
    """What DeepSpeed holds of the parameter on this rank, in the type that forward uses, flat, with padding."""
    held: Tensor = parameter.ds_tensor.data  # type: ignore[attr-defined]
    return held


def _padded(piece: Tensor, parameter: nn.Parameter) -> Tensor:
    """The piece with zeros behind it, as long as the partition DeepSpeed holds, float32."""
    whole = torch.zeros_like(_partition(parameter), dtype=torch.float32)
    whole[: piece.numel()] = piece
    return whole
