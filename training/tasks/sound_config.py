"""The configurations of the stages of sound: the codec, and the generator on its latents."""

from dataclasses import dataclass, field

from training import flow
from training.models.codec import CodecConfig
from training.models.sound import SoundConfig
from training.models.spectral import MEL_WINDOWS
from training.models.spectral_discriminator import SpectralDiscriminatorConfig
from training.models.text import TextConfig
from training.models.watching import WatchConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecLossConfig:
    """Weights of the codec's losses, all ours: Movie Gen Audio names the Descript codec and gives none. That codec's 15 and 2 of mel and
    features are on sums over scales and layers; here a mean is taken, so that mel is weighed a seventh as much as there."""

    wave_weight: float = 0.0
    """On the root mean square difference of the samples, in units of the original's; it asks for the phase, which no spectrogram does."""
    mel_weight: float = 15.0
    mel_windows: tuple[int, ...] = MEL_WINDOWS
    """Samples of each scale's window."""
    kl_weight: float = 1e-4
    """On the mean over latent values; ours."""
    gan_weight: float = 0.0
    """Length of the adversarial gradient at the samples as a multiple of the reconstruction's; 0 for no adversary."""
    feature_weight: float = 2.0
    """On the distance of the adversary's features, beside its verdict, within that gradient."""
    gan_start_step: int = 0
    discriminator: SpectralDiscriminatorConfig = field(default_factory=SpectralDiscriminatorConfig)

    def __post_init__(self) -> None:
        weights = (self.wave_weight, self.mel_weight, self.kl_weight, self.gan_weight, self.feature_weight, self.gan_start_step)
        if min(weights) < 0 or not self.wave_weight + self.mel_weight or not self.mel_windows or min(self.mel_windows) < 32:
            raise ValueError("codec.loss: expected no negative weight, one of wave and mel above 0, and mel_windows of 32 samples or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecStage:
    """What the `codec` stage trains."""

    model: CodecConfig = field(default_factory=CodecConfig)
    loss: CodecLossConfig = field(default_factory=CodecLossConfig)
    weights: str | None = None
    """A safetensors file in the layout of the public dacvae, or the folder of an export, that it begins from; None begins from nothing."""
    linear_clips: int = 0
    """Training clips whose best linear code of blocks it begins as (training/principal_sound.py); 0 for weights drawn by key.
    Not looked at where there are `weights`."""

    def __post_init__(self) -> None:
        if self.linear_clips < 0:
            raise ValueError(f"codec.linear_clips: expected at least 0, found {self.linear_clips}")
        if self.linear_clips and (needed := self.model.room_needed()):
            raise ValueError(f"codec.linear_clips: expected {needed} for the linear code, found {self.model}; take 0, or other sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundStage:
    """What `audio` and `audio_sft` train: flow matching on the codec's latents under pictures, text and sound that is there already.

    Dropouts, masks, times, solver and guidance are the paper's (Movie Gen Audio, Training and Inference).
    """

    model: SoundConfig
    text: TextConfig
    watch: WatchConfig = field(default_factory=WatchConfig)
    sampler: flow.SamplerConfig = field(default_factory=lambda: flow.SamplerConfig(solver="midpoint", steps=64, guidance=3.0))
    codec: str = ""
    """Folder of the codec's export (or of its run)."""
    parent: str | None = None
    """Folder of the export (or run) that this stage begins from."""
    all_dropout: float = 0.2
    """Share of samples that lose text and pictures."""
    text_dropout: float = 0.1
    """Of the others, the share that loses its text; and likewise its pictures."""
    video_dropout: float = 0.1
    full_mask: float = 0.5
    """Share of samples of whose sound nothing is given; of the others at least `least_mask` of the frames are hidden."""
    least_mask: float = 0.75
    time_mean: float = 0.0
    time_std: float = 1.0
    time_bins: int = 4
    validate_times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    quality: float = 8.0
    """The quality that sampling asks for in the prompt's field; training says what was measured."""
    scale_clips: int = 32
    """Training clips over which the latents' scale is measured."""
    latents_memory_mb: int = 0
    """Memory for latents kept by the content of their window; for small sets and fixed windows."""
    text_cache: str | None = None

    def __post_init__(self) -> None:
        shares = (self.all_dropout, self.text_dropout, self.video_dropout, self.full_mask, self.least_mask)
        if not all(0 <= s <= 1 for s in shares) or self.time_std <= 0 or self.time_bins < 1 or self.scale_clips < 1:
            raise ValueError("sound: expected shares within [0, 1], time_std > 0, time_bins >= 1 and scale_clips >= 1")
        if not self.validate_times or not all(0 < t < 1 for t in self.validate_times):
            raise ValueError(f"sound: expected validate_times between 0 and 1, found {self.validate_times}")
