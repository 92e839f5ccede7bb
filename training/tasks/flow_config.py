"""The configuration that all stages of the video generator share, and what each kind of stage adds to it."""

from dataclasses import dataclass, field
from typing import Literal

from training import flow
from training.degradation import UpsampleConfig
from training.edits import TASKS, EditConfig
from training.identity import PersonalConfig
from training.models.text import TextConfig
from training.models.transformer import TransformerConfig

KINDS = ("upsample", "edit", "personal")
"""Fields that make a stage another kind than text to video; at most one is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig:
    """What a text-to-image or text-to-video stage trains. Logit-normal times are the paper's; the paper gives no dropout rate."""

    model: TransformerConfig
    text: TextConfig
    sampler: flow.SamplerConfig = field(default_factory=flow.SamplerConfig)
    tae: str = ""
    """Folder of the autoencoder's export (or of its run)."""
    parent: str | None = None
    """Folder of the export (or run) that this stage begins from; None begins from nothing."""
    space: Literal["extend", "stretch"] = "extend"
    """How the parent's tables of height and width grow: extended at the same resolution, stretched at a higher one."""
    text_dropout: float = 0.1
    """Share of samples whose text is dropped, for guidance."""
    time_mean: float = 0.0
    time_std: float = 1.0
    time_bins: int = 4
    """Equal parts of [0, 1] by which the loss is logged."""
    validate_times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    scale_clips: int = 32
    """Training clips over which the latents' scale is measured when there is no parent to inherit it from."""
    latents_memory_mb: int = 0
    """Memory for latents kept by the content of their pixels; 0 for none. For small sets and fixed crops."""
    latents_folder: str | None = None
    """Folder of `dailies encode latents`, whose latents are read in place of pixels where they are there; wants data.augment false."""
    text_cache: str | None = None
    """Folder for encoded prompts, shared by runs; None keeps them in memory."""
    upsample: UpsampleConfig | None = None
    """Of a spatial upsampler; `tae` is then an image autoencoder."""
    edit: EditConfig | None = None
    """Of a stage of editing."""
    personal: PersonalConfig | None = None
    """Of a stage of personalisation."""

    @property
    def autoencoder(self) -> str:
        """The stage that makes the autoencoder whose latents this stage works on."""
        return "image_ae" if self.upsample else "tae"

    def __post_init__(self) -> None:
        if not 0 <= self.text_dropout < 1 or self.time_std <= 0 or self.time_bins < 1 or self.scale_clips < 1:
            raise ValueError("flow: expected 0 <= text_dropout < 1, time_std > 0, time_bins >= 1 and scale_clips >= 1")
        if not self.validate_times or not all(0 < t < 1 for t in self.validate_times):
            raise ValueError(f"flow: expected validate_times between 0 and 1, found {self.validate_times}")
        kinds = [name for name in KINDS if getattr(self, name)]
        if len(kinds) > 1:
            raise ValueError(f"flow: expected one kind of stage at most, found {kinds}")
        if self.edit and (self.model.context_channels, self.model.tasks) != (self.model.latent_channels, len(TASKS)):
            raise ValueError(
                f"flow.edit: expected model.context_channels {self.model.latent_channels} and model.tasks {len(TASKS)}, found "
                f"{self.model.context_channels} and {self.model.tasks}"
            )
        if self.edit and -(-self.edit.frames // 8) > self.model.max_t:
            raise ValueError(f"flow.edit.frames: expected at most {8 * self.model.max_t} for model.max_t, found {self.edit.frames}")
        if self.personal and self.model.identity_width != self.personal.tower.width:
            raise ValueError(f"flow.personal: expected model.identity_width {self.personal.tower.width}, found {self.model.identity_width}")
