"""From a run's configuration to its task: the only place that knows which stage is which task."""

from pathlib import Path
from typing import Any

from torch import Tensor

from training.conditions import load_latents, load_parent, load_principal, load_prompts
from training.config import TrainConfig
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.latents import LatentCodec, LatentScale, load_tae, read_export
from training.models.text import load_encoders
from training.sound_conditions import make_sound_task
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.edit import EditTask
from training.tasks.personal import PersonalTask
from training.tasks.task import Task
from training.tasks.text_to_video import TextToVideoTask
from training.tasks.upsampler import UpsamplerTask


def make_task(config: TrainConfig, out: Path, *, verified: bool = True, draws: bool = True) -> Task:
    """The task of the run in `out`; TrainingError when weights it began with have changed since.

    Of the processes of a run one is enough to look whether text encoders are what they were (`verified`: they may be 20 GB), and only one
    that draws the model's weights needs its parent's.
    """
    if config.hears:
        return make_sound_task(config, out, draws=draws)
    if config.flow is None:
        principal = load_principal(out) if config.principal_clips and draws else None
        image = _image_weights(config.parent, out) if draws else None
        return AutoencoderTask(config.stage, config.model, config.loss, config.seed, image, principal)
    scale, digests = load_latents(out)
    tae, sha256 = load_tae(Path(config.flow.tae), config.flow.autoencoder)
    _same(config.flow.tae, "tae", digests["tae_sha256"], sha256)
    parent = None
    if config.flow.parent and draws:
        description, parent = read_export(Path(config.flow.parent), "", mapped=True)
        _same(config.flow.parent, "parent", digests["parent_sha256"], description["sha256"])
    folder = Path(config.flow.text_cache) if config.flow.text_cache else None
    encoders, keys = load_encoders(config.flow.text), digests.get("text_keys", {})
    for encoder in encoders:
        if verified and encoder.name in keys:
            _same(encoder.name, "text encoder", keys[encoder.name], encoder.key)
        elif encoder.name in keys:
            vars(encoder)["key"] = keys[encoder.name]
    texts = TextCache(encoders, folder)
    codec = LatentCodec(tae, scale, sha256, config.flow.latents_memory_mb << 20)
    common = (config.stage, config.flow, config.seed, codec, load_prompts(out), texts, parent)
    if config.flow.upsample:
        return UpsamplerTask(*common, _artefacts(config.flow.upsample.artefacts, digests))
    if config.flow.edit:
        return EditTask(*common)
    if config.flow.personal:
        return PersonalTask(*common)
    return TextToVideoTask(*common)


def _artefacts(folder: str | None, digests: dict[str, Any]) -> LatentCodec | None:
    """The temporal autoencoder whose traces an upsampler learns to remove; its latents need no scale, as they only come and go."""
    if not folder:
        return None
    tae, sha256 = load_tae(Path(folder))
    _same(folder, "autoencoder of artefacts", digests["artefacts_sha256"], sha256)
    n = tae.config.latent_channels
    return LatentCodec(tae, LatentScale(mean=(0.0,) * n, std=(1.0,) * n), sha256)


def _image_weights(parent: str | None, out: Path) -> dict[str, Tensor] | None:
    if not parent:
        return None
    description, weights = read_export(Path(parent), "image_ae")
    _same(parent, "parent", load_parent(out), description["sha256"])
    return weights


def _same(folder: str, what: str, expected: str, found: str) -> None:
    if expected != found:
        raise TrainingError(f"{folder}: expected the {what} this run began with, SHA-256 {expected}, found {found}")
