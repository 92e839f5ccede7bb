"""One training run as one typed value: the configurations of its parts, composed, and the way to JSON and back."""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from typing import Any

from training.data.batch import DataConfig
from training.data.plan import PlanSettings
from training.losses import TAELossConfig
from training.models.autoencoder import TAEConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.tasks.text_to_video import FlowConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `dailies train` runs. The paper does not publish the autoencoder's schedule: steps, rates and sizes are ours."""

    stage: str = "tae"
    """`tae` trains the autoencoder `model`; any other name trains a generator, `flow`, and the name keys its draws."""
    seed: int = 0
    steps: int = 100_000
    processes: int = 1
    """Processes on this machine; must divide data.global_batch. May change between restarts."""
    validate_every: int = 1000
    """Steps between measurements; one comes before the first step and one after the last."""
    checkpoint_every: int = 500
    keep: int = 3
    """Checkpoints kept."""
    log_every: int = 10
    """Steps between progress lines; the log itself has every step."""
    pictures: int = 4
    """Held-out clips shown in each picture; 0 for none."""
    ema_decay: float = 0.999
    model: TAEConfig = field(default_factory=TAEConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: TAELossConfig = field(default_factory=TAELossConfig)
    flow: FlowConfig | None = None
    """The generator; `model` and `loss` are then not used."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.stage):
            raise ValueError(f"stage: expected small letters, digits and underscores, found {self.stage!r}")
        if (self.stage == "tae") != (self.flow is None):
            raise ValueError(
                f"flow: expected none for stage tae and one for any other, found {self.stage} {'without' if self.flow is None else 'with'}"
            )
        if self.flow and self.data.size_px % 16:
            raise ValueError(f"data.size_px: expected a multiple of 16 for a generator, found {self.data.size_px}")
        for name in ("steps", "processes", "validate_every", "checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.data.global_batch % self.processes:
            raise ValueError(f"data.global_batch: expected a multiple of {self.processes} processes, found {self.data.global_batch}")

    def plan_settings(self, manifest_version: int) -> PlanSettings:
        """What the order of samples depends on."""
        d = self.data
        return PlanSettings(
            stage=self.stage,
            manifest_version=manifest_version,
            sets=d.sets,
            seed=self.seed,
            global_batch=d.global_batch,
            image_batches=d.image_batches,
            video_batches=d.video_batches,
            holdout_share=d.holdout_share,
            min_frames=d.n_frames,
        )


MAY_CHANGE = ("steps", "processes", "keep", "log_every", "pictures")
"""Fields that a restart may give another value; any other change would be another run."""


def to_json_value(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    return dataclasses.asdict(config)


def from_json_value(value: dict[str, Any]) -> TrainConfig:
    """The configuration that `to_json_value` gave; ValueError names an unknown key."""
    config: TrainConfig = _bind(TrainConfig, value, "")
    return config


def _bind(cls: Any, value: dict[str, Any], where: str) -> Any:
    types = typing.get_type_hints(cls)
    if unknown := set(value) - set(types):
        raise ValueError(f"config {where or 'top'}: unknown keys {sorted(unknown)}")
    bound = {}
    for name, item in value.items():
        inner = next((t for t in (types[name], *typing.get_args(types[name])) if dataclasses.is_dataclass(t)), None)
        if inner is not None and item is not None:
            bound[name] = _bind(inner, item, f"{where}{name}.")
        else:
            bound[name] = tuple(item) if isinstance(item, list) else item
    return cls(**bound)
