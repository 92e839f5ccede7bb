"""One training run as one typed value: the configurations of its parts, composed, and the way to JSON and back."""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from typing import Any

from training.data.config import DataConfig
from training.data.plan import PlanSettings
from training.losses import TAELossConfig
from training.models.autoencoder import TAEConfig
from training.parallel.engine import EngineConfig, OptimConfig
from training.tasks.flow_config import FlowConfig
from training.tasks.sound_config import CodecStage, SoundStage

AUTOENCODERS = ("tae", "image_ae")
"""Stages that train `model`; any other trains a generator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `dailies train` runs. The paper does not publish the autoencoder's schedule: steps, rates and sizes are ours."""

    stage: str = "tae"
    """`tae` trains the temporal autoencoder `model`, `image_ae` the image autoencoder that it can be inflated from; any other name trains
    a generator, `flow`. The name keys its draws."""
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
    parent: str | None = None
    """Of `tae`: folder of the image autoencoder (its run or its export) that it is inflated from; None begins from nothing."""
    principal_clips: int = 0
    """Of `tae` on patches of 8 pixels: training videos whose blocks' principal components it begins as; 0 for weights drawn by key."""
    data: DataConfig = field(default_factory=DataConfig)
    loss: TAELossConfig = field(default_factory=TAELossConfig)
    flow: FlowConfig | None = None
    """The generator of pictures; `model` and `loss` are then not used."""
    codec: CodecStage | None = None
    """The codec of sound, of stage `codec`; `model`, `loss` and `flow` are then not used."""
    sound: SoundStage | None = None
    """The generator of sound, of a stage whose name begins with `audio`; likewise."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    adversary: OptimConfig = field(default_factory=OptimConfig)
    """Of a discriminator, where the stage has one."""
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.stage):
            raise ValueError(f"stage: expected small letters, digits and underscores, found {self.stage!r}")
        if sum(part is not None for part in (self.flow, self.codec, self.sound)) > 1:
            raise ValueError(f"stage {self.stage}: expected one of flow, codec and sound, found several")
        self._check_sound()
        if not self.hears and (self.stage in AUTOENCODERS) != (self.flow is None):
            raise ValueError(
                f"flow: expected none for stages {AUTOENCODERS} and one for any other, found {self.stage} "
                f"{'without' if self.flow is None else 'with'}"
            )
        if not self.hears and self.flow is None and self.model.temporal != (self.stage == "tae"):
            raise ValueError(f"model.temporal: expected {self.stage == 'tae'} for stage {self.stage}, found {self.model.temporal}")
        if self.principal_clips and (self.stage != "tae" or self.parent):
            raise ValueError(f"principal_clips: expected 0 but for stage tae without a parent, found {self.principal_clips}")
        if self.parent and self.stage != "tae":
            raise ValueError(f"parent: expected one for stage tae only (a generator has flow.parent), found {self.parent} for {self.stage}")
        if self.flow and self.data.size_px % 16:
            raise ValueError(f"data.size_px: expected a multiple of 16 for a generator, found {self.data.size_px}")
        if self.flow and self.flow.latents_folder and self.data.augment:
            raise ValueError(
                "flow.latents_folder: expected data.augment false, as windows drawn anew were not encoded beforehand, found true"
            )
        if self.flow and (self.flow.edit or self.flow.upsample) and self.flow.latents_folder:
            raise ValueError(
                "flow.latents_folder: expected none for an editor or an upsampler, whose sources are made as it goes, found one"
            )
        if self.flow and bool(self.flow.edit) != self.data.edits:
            raise ValueError(
                f"data.edits: expected {bool(self.flow.edit)}, as flow.edit is{'' if self.flow.edit else ' not'} given, found {self.data.edits}"
            )
        if self.flow and self.flow.personal and self.data.reference_px != self.flow.personal.tower.image_px:
            found = self.data.reference_px
            raise ValueError(f"data.reference_px: expected the tower's {self.flow.personal.tower.image_px}, found {found}")
        for name in ("steps", "processes", "validate_every", "checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        sp = self.engine.sequence_parallel
        if sp < 1 or self.processes % sp:
            raise ValueError(f"engine.sequence_parallel: expected a divisor of {self.processes} processes, found {sp}")
        name = "batch_multiple" if self.data.tokens_per_step else "global_batch"
        if (batch := getattr(self.data, name)) % (self.processes // sp):
            raise ValueError(f"data.{name}: expected a multiple of {self.processes // sp} groups of processes, found {batch}")
        if self.engine.micro_batch < 0:
            raise ValueError(f"engine.micro_batch: expected at least 0, found {self.engine.micro_batch}")

    @property
    def hears(self) -> bool:
        """Whether this is a stage of sound."""
        return self.codec is not None or self.sound is not None

    def _check_sound(self) -> None:
        if self.hears != bool(self.data.sound_frames):
            raise ValueError(f"data.sound_frames: expected above 0 for codec or sound and 0 otherwise, found {self.data.sound_frames}")
        if self.codec is not None and (self.stage != "codec" or self.data.n_frames):
            raise ValueError(f"codec: expected stage codec and data.n_frames 0, found {self.stage} and {self.data.n_frames}")
        if self.sound is not None and not self.stage.startswith("audio"):
            raise ValueError(f"sound: expected a stage whose name begins with audio, found {self.stage}")
        if self.hears and self.engine.sequence_parallel != 1:
            raise ValueError(f"engine.sequence_parallel: expected 1 for a stage of sound, found {self.engine.sequence_parallel}")

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
            min_frames=d.n_frames if d.shapes == "square" and not d.sound_frames else 1,
            shapes=d.shapes,
            size_px=d.size_px,
            n_frames=d.n_frames,
            tokens_per_step=d.tokens_per_step,
            batch_multiple=d.batch_multiple,
            shuffle_shards=d.shuffle_shards,
            sound_frames=d.sound_frames,
        )


MAY_CHANGE = (
    *("steps", "processes", "keep", "log_every", "pictures", "data.prefetch_batches", "data.decode_threads", "data.verify_sha256"),
    *("data.shards", "data.cache_folder", "data.cache_mb"),
    *(
        f"engine.{name}"
        for name in ("micro_batch", "sequence_parallel", "recompute", "compile", "peak_tflops", "timeout_s", "step_timeout_s")
    ),
)
"""Fields that a restart may give another value; any other change would be another run."""


def to_json_value(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    return dataclasses.asdict(config)


def from_json_value(value: dict[str, Any]) -> TrainConfig:
    """The configuration that `to_json_value` gave; ValueError names an unknown key."""
    try:
        config: TrainConfig = bind(TrainConfig, value)
    except TypeError as error:
        raise ValueError(f"config: {error}") from error
    return config


def bind(cls: Any, value: dict[str, Any], where: str = "") -> Any:
    """The dataclass of JSON values, its fields' dataclasses in turn; ValueError names an unknown key, TypeError one that is missing."""
    types = typing.get_type_hints(cls)
    if unknown := set(value) - set(types):
        raise ValueError(f"config {where or 'top'}: unknown keys {sorted(unknown)}")
    bound = {}
    for name, item in value.items():
        inner = next((t for t in (types[name], *typing.get_args(types[name])) if dataclasses.is_dataclass(t)), None)
        if inner is not None and item is not None:
            bound[name] = bind(inner, item, f"{where}{name}.")
        else:
            bound[name] = tuple(item) if isinstance(item, list) else item
    return cls(**bound)
