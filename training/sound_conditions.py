"""What a run of sound fixes at its first start: of the codec the weights or the linear code that it begins from; of a generator each clip's prompt, the scale of
the latents, and the digests of codec, parent and watcher. The files are those of training/conditions.py.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.deny import DenyList
from manifests.files import write_atomic
from training.data.index import Sample
from training.data.plan import Plan
from training.data.sample import open_shards
from training.data.sound import load_sound
from training.errors import SampleError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import TrainConfig
    from training.tasks.sound_config import CodecStage, SoundStage
    from training.tasks.task import Task

_WINDOWS_A_CLIP = 16
"""Of a clip, drawn for the linear code."""


def prepare_sound(config: "TrainConfig", dataset: Path, out: Path, samples: list[Sample], version: int) -> None:
    """The run's folder holds its conditions; weights are read and checked."""
    from training.conditions import LATENTS, PARENT, write_prompts

    if config.codec is not None:
        if config.codec.weights:
            write_atomic(out / PARENT, json.dumps({"sha256": _weights_digest(config.codec)}).encode())
        elif config.codec.linear_clips:
            _write_linear(config, config.codec, dataset, out, Plan(config.plan_settings(version), samples).samples)
        return
    if (sound := config.sound) is None:
        return
    chosen = Plan(config.plan_settings(version), samples)
    known = {"watch_key": _watcher(sound).key, **_scale(config, sound, dataset, out, chosen)}
    write_atomic(out / LATENTS, json.dumps(known, indent=1).encode())
    write_prompts(out, read_sound_prompts(dataset, version, [*chosen.samples, *chosen.held_out]))


def read_sound_prompts(dataset: Path, version: int, samples: list[Sample]) -> dict[str, str]:
    """Clip id -> prompt of each sample, as the manifest had it at the version: the measured quality of its sound, if any, and its caption."""
    from manifests.tables import ManifestStore
    from training.tasks.sound import sound_prompt

    store = ManifestStore(dataset)
    texts = {c["caption_no"]: c["text"] or "" for c in store.read("captions", version).to_pylist()}
    rows = {row["clip_id"]: row for row in store.read("clips", version, columns=["clip_id", "caption_no", "audio_quality"]).to_pylist()}
    return {s.clip_id: sound_prompt(texts.get(rows[s.clip_id]["caption_no"], ""), rows[s.clip_id]["audio_quality"]) for s in samples}


def make_sound_task(config: "TrainConfig", out: Path, *, draws: bool = True) -> "Task":
    """The task of a stage of sound; TrainingError when weights it began with have changed since. Only one that draws weights needs the parent's."""
    from safetensors.torch import load_file

    from training.conditions import PRINCIPAL, load_parent, load_prompts
    from training.data.text_cache import TextCache
    from training.latents import LatentScale, read_export
    from training.models.text import load_encoders
    from training.principal_sound import LinearSound
    from training.sound_latents import SoundCodec, load_codec
    from training.tasks.codec import CodecTask
    from training.tasks.sound import SoundTask

    if config.codec is not None:
        if config.codec.weights:
            _same(config.codec.weights, "weights", load_parent(out), _weights_digest(config.codec))
        linear = LinearSound(**load_file(out / PRINCIPAL)) if config.codec.linear_clips and not config.codec.weights and draws else None
        return CodecTask(config.stage, config.codec, config.seed, config.data.sound_frames, linear)
    if (sound := config.sound) is None:
        raise TrainingError(f"{config.stage}: expected a stage of sound, found neither codec nor sound")
    known = _known(out)
    codec, sha256 = load_codec(Path(sound.codec))
    _same(sound.codec, "codec", known["codec_sha256"], sha256)
    parent = None
    if sound.parent and draws:
        description, parent = read_export(Path(sound.parent), "audio", mapped=True)
        _same(sound.parent, "parent", known["parent_sha256"], description["sha256"])
    watcher = _watcher(sound)
    _same(sound.watch.metaclip or "watch", "watcher", known["watch_key"], watcher.key)
    scale = LatentScale(mean=tuple(known["mean"]), std=tuple(known["std"]))
    texts = TextCache(load_encoders(sound.text), Path(sound.text_cache) if sound.text_cache else None)
    frozen = SoundCodec(codec, scale, sha256, sound.latents_memory_mb << 20)
    return SoundTask(config.stage, sound, config.seed, config.data.sound_frames, frozen, watcher, load_prompts(out), texts, parent)


def _scale(config: "TrainConfig", sound: "SoundStage", dataset: Path, out: Path, plan: Plan) -> dict[str, Any]:
    """The parent's scale, or one measured on training windows, whose clips are noted in `out`; with the digests of codec and parent."""
    from training.conditions import note_measured
    from training.latents import read_export
    from training.sound_latents import load_codec, measure_sound_scale

    if not sound.codec:
        raise TrainingError(
            f"{config.stage}: expected sound.codec, the folder of a trained codec, found none; `dailies train codec` makes it"
        )
    codec, sha256 = load_codec(Path(sound.codec))
    if codec.config.hop * 25 != 48_000:
        raise TrainingError(f"{sound.codec}: expected a codec of 25 latents a second, found one of {48_000 / codec.config.hop:g}")
    if sound.parent:
        description, _ = read_export(Path(sound.parent), "audio", mapped=True)
        latents = description.get("latents") or {}
        if latents.get("codec_sha256") != sha256:
            raise TrainingError(f"{sound.parent}: expected a parent trained on codec {sha256}, found {latents.get('codec_sha256')}")
        return {"mean": latents["mean"], "std": latents["std"], "codec_sha256": sha256, "parent_sha256": description["sha256"]}
    used: list[str] = []
    scale = measure_sound_scale(codec, _windows(config, dataset, plan.samples, sound.scale_clips, used))
    note_measured(out, used)
    return {**asdict(scale), "codec_sha256": sha256, "parent_sha256": None}


def _write_linear(config: "TrainConfig", codec: "CodecStage", dataset: Path, out: Path, samples: list[Sample]) -> None:
    """The best linear code of blocks of training clips, of windows drawn by key in each, lies in the run's folder."""
    from safetensors.torch import save

    from training.conditions import PRINCIPAL, note_measured
    from training.principal_sound import fit_linear

    used: list[str] = []
    keys: list[tuple[object, ...] | None] = [(config.seed, config.stage, "linear", draw) for draw in range(_WINDOWS_A_CLIP)]
    windows = _windows(config, dataset, samples, codec.linear_clips, used, keys)
    made = save(asdict(fit_linear(windows, codec.model.hop, codec.model.latent_channels)))
    note_measured(out, used)
    write_atomic(out / PRINCIPAL, made)


def _windows(
    config: "TrainConfig",
    dataset: Path,
    samples: list[Sample],
    count: int,
    used: list[str],
    keys: "Sequence[tuple[object, ...] | None]" = (None,),
) -> "Iterator[Tensor]":
    """Windows (N,) of so many of the samples, evenly over them: one a key, drawn by it and the clip, None for the first one. A clip that
    cannot be read, or is silent there, is passed over for the next. Ids of the others are added to `used`."""
    import torch

    shards, denied = open_shards(dataset, config.data), DenyList(dataset)
    made, step = 0, max(1, len(samples) // count)
    for sample in (s for first in range(step) for s in samples[first::step]):
        if made == count:
            return
        try:
            data = shards.read(sample, config.data.verify_sha256, denied)
        except SampleError:
            continue
        heard = False
        for key in keys:
            try:
                window = load_sound(data, sample, config.data.sound_frames, key and (*key, sample.clip_id))["sound"]
            except SampleError:
                continue
            heard = True
            yield torch.from_numpy(window)
        if heard:
            made += 1
            used.append(sample.clip_id)


def _watcher(sound: "SoundStage") -> Any:
    from training.models.watching import load_watcher

    return load_watcher(sound.watch)


def _weights_digest(codec: "CodecStage") -> str:
    """SHA-256 of the weights that the codec begins from, which fit it."""
    from training.models.codec import Codec
    from training.sound_latents import read_codec_weights

    return read_codec_weights(Path(codec.weights or ""), Codec(codec.model))


def _known(out: Path) -> dict[str, Any]:
    from training.conditions import LATENTS

    found: dict[str, Any] = json.loads((out / LATENTS).read_bytes())
    return found


def _same(folder: str, what: str, expected: str, found: str) -> None:
    if expected != found:
        raise TrainingError(f"{folder}: expected the {what} this run began with, SHA-256 {expected}, found {found}")
