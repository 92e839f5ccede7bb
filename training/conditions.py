"""What a run fixes at its first start, beside its index: its parent; of a generator each clip's prompt, and the scale of the latents.

conditions.parquet   clip_id, prompt: the caption in use at the run's manifest version, its rate in front
latents.json         scale of the latents, SHA-256 of the autoencoder and of the parent, digests of the text encoders
parent.json          of an autoencoder that began from one: SHA-256 of the image autoencoder
pairs.parquet        clip_id, other_id: of personalisation by pairs of faces, who else shows a clip's person
principal.safetensors  of an autoencoder or codec that began as a linear code: the components of its training clips' blocks
measured.json        the clips whose components or scale these are: they are in what the run makes, and so in its record

So later captions and other weights under the same path do not change a run that has begun: the former are not read, the latter refused.
Prompts are captions: `forget_clips` empties those of clips that were taken down.
"""

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.deny import DenyList
from manifests.files import write_atomic
from training.data.batch import to_tensor
from training.data.config import DataConfig
from training.data.index import Sample
from training.data.latent_cache import LatentCache
from training.data.plan import Plan
from training.data.sample import load_pixels, training_fps
from training.errors import SampleError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import TrainConfig
    from training.latents import LatentScale
    from training.principal import Principal
    from training.tasks.flow_config import FlowConfig

log = logging.getLogger("dailies.train")

PROMPTS, LATENTS, PARENT, PRINCIPAL = "conditions.parquet", "latents.json", "parent.json", "principal.safetensors"
PAIRS, MEASURED = "pairs.parquet", "measured.json"
DATASET_PAIRS = "work/identity-pairs/pairs.parquet"
"""Under a dataset: pairs of clips whose faces agree, as curation found them, in both directions."""


def prepare(config: "TrainConfig", dataset: Path, out: Path, samples: list[Sample], version: int) -> None:
    """The run's folder holds its conditions; of an autoencoder its parent's digest or the components it begins as. Weights are read and
    checked."""
    if config.hears:
        from training.sound_conditions import prepare_sound

        prepare_sound(config, dataset, out, samples, version)
        return
    if config.flow is None:
        if config.parent:
            from training.latents import read_export

            description, _ = read_export(Path(config.parent), "image_ae", mapped=True)
            write_atomic(out / PARENT, json.dumps({"sha256": description["sha256"]}).encode())
        if config.principal_clips:
            _write_principal(config, dataset, out, Plan(config.plan_settings(version), samples).samples)
        return
    plan = Plan(config.plan_settings(version), samples)
    prompts = read_prompts(dataset, version, [*plan.samples, *plan.held_out], config.data)  # every rank holds them: of no other set
    if not any(prompts.values()):
        raise TrainingError(f"{dataset}: expected captions to train {config.stage} on, found none; run `dailies curate` with captions")
    scale, digests = _scale(config, config.flow, dataset, out, samples, version)
    write_atomic(out / LATENTS, json.dumps({**asdict(scale), **digests}, indent=1).encode())
    write_prompts(out, prompts)
    if crosses_by_identity(config.data):
        pairs = _read_pairs(dataset, {s.clip_id for s in samples})
        known = {clip for clip, _ in pairs}
        if not (paired := sum(s.clip_id in known for s in plan.samples)):
            raise TrainingError(
                f"{dataset}: expected clips of the stage that share their person with another for data.cross_share, found none of "
                f"{len(plan.samples)}; curate more clips of each person, or take data.cross_share=0"
            )
        if paired < len(plan.samples):
            log.warning("%d of %d clips share their person with another; the rest are shown their own", paired, len(plan.samples))
        write_pairs(out, pairs)


def crosses_by_identity(config: DataConfig) -> bool:
    """Whether references are those of other clips whose faces agree."""
    return config.cross_share > 0 and config.cross == "identity"


def load_pairs(out: Path) -> dict[str, list[str]]:
    """Clip id -> the other clips that show its person."""
    table = pq.read_table(out / PAIRS)
    pairs: dict[str, list[str]] = {}
    for clip, other in zip(table.column("clip_id").to_pylist(), table.column("other_id").to_pylist(), strict=True):
        pairs.setdefault(clip, []).append(other)
    return pairs


def write_pairs(out: Path, pairs: Collection[tuple[str, str]]) -> None:
    """The run in `out` has these pairs."""
    sink = pa.BufferOutputStream()
    columns = {name: pa.array([pair[i] for pair in sorted(pairs)], pa.string()) for i, name in enumerate(("clip_id", "other_id"))}
    pq.write_table(pa.table(columns), sink, compression="zstd")
    write_atomic(out / PAIRS, memoryview(sink.getvalue()))


def _read_pairs(dataset: Path, clips: Collection[str]) -> set[tuple[str, str]]:
    path = dataset / DATASET_PAIRS
    if not path.exists():
        raise TrainingError(
            f"{path}: expected pairs of clips of one person for data.cross_share, found none; curate with people.identity, or take "
            "data.cross=asset"
        )
    rows = pq.read_table(path, columns=["clip_id", "other_id"]).to_pylist()
    found = {(row["clip_id"], row["other_id"]) for row in rows if row["clip_id"] in clips and row["other_id"] in clips}
    return {(a, b) for a, b in found if (b, a) in found}  # a takedown of either leaves one direction


def read_prompts(dataset: Path, version: int, samples: list[Sample], config: DataConfig) -> dict[str, str]:
    """Clip id -> prompt of each sample, as the manifest had it at the version: rate, camera words, caption; empty without a caption."""
    from manifests.tables import ManifestStore
    from training.models.text import prompt_of

    store = ManifestStore(dataset)
    texts = {c["caption_no"]: " ".join(filter(None, (c["camera_prefix"], c["text"]))) for c in store.read("captions", version).to_pylist()}
    numbers = store.read("clips", version, columns=["clip_id", "caption_no"]).to_pylist()
    of_clip = {row["clip_id"]: texts.get(row["caption_no"], "") for row in numbers}
    prompts = {}
    for sample in samples:
        fps = training_fps(sample, config)
        prompts[sample.clip_id] = prompt_of(of_clip.get(sample.clip_id, ""), None if fps is None else float(fps))
    return prompts


def load_prompts(out: Path) -> dict[str, str]:
    """Clip id -> prompt of the run."""
    table = pq.read_table(out / PROMPTS)
    return dict(zip(table.column("clip_id").to_pylist(), table.column("prompt").to_pylist(), strict=True))


def _write_principal(config: "TrainConfig", dataset: Path, out: Path, samples: list[Sample]) -> None:
    """The components of blocks of training videos, each at its own keyed window and crop, lie in the run's folder."""
    from safetensors.torch import save

    from training.principal import fit_principal

    videos = [s for s in samples if s.kind == "video"]
    key = (config.seed, config.stage, "principal")
    used: list[str] = []
    clips = _readable(config, dataset, videos, config.principal_clips, key, used)
    made = save(asdict(fit_principal(clips, config.model.latent_channels)))
    note_measured(out, used)
    write_atomic(out / PRINCIPAL, made)


def note_measured(out: Path, clip_ids: list[str]) -> None:
    """The run in `out` begins from numbers that were measured on these clips."""
    write_atomic(out / MEASURED, json.dumps({"clips": sorted(clip_ids)}, indent=1).encode())


def measured_on(out: Path) -> list[str]:
    """The clips whose numbers the run begins from."""
    return list(json.loads((out / MEASURED).read_bytes())["clips"]) if (out / MEASURED).exists() else []


def load_principal(out: Path) -> "Principal":
    """The components that the autoencoder of the run begins as."""
    from safetensors.torch import load_file

    from training.principal import Principal

    return Principal(**load_file(out / PRINCIPAL))


def load_parent(out: Path) -> str:
    """SHA-256 of the weights that the autoencoder's parent must have."""
    return str(json.loads((out / PARENT).read_bytes())["sha256"])


def forget_clips(out: Path, clip_ids: Collection[str]) -> int:
    """The run in `out`, if it has prompts at all, has none for these clips any more, and no pair with them; returns how many it had."""
    if (out / PAIRS).exists():
        table = pq.read_table(out / PAIRS).to_pylist()
        write_pairs(out, {(row["clip_id"], row["other_id"]) for row in table if not {row["clip_id"], row["other_id"]} & set(clip_ids)})
    if not (out / PROMPTS).exists():
        return 0
    prompts = load_prompts(out)
    found = sum(bool(prompts.get(clip)) for clip in clip_ids)
    if found:
        write_prompts(out, {clip: "" if clip in clip_ids else prompt for clip, prompt in prompts.items()})
    return found


def load_latents(out: Path) -> tuple["LatentScale", dict[str, Any]]:
    """The scale of the run's latents, and the digests that its autoencoder and parent must have."""
    from training.latents import LatentScale

    found = json.loads((out / LATENTS).read_bytes())
    return LatentScale(mean=tuple(found.pop("mean")), std=tuple(found.pop("std"))), found


def latent_cache(config: "TrainConfig", out: Path) -> LatentCache | None:
    """The latents that were made beforehand for the run's autoencoder and precision, if its configuration names a folder of them."""
    if config.flow is None or config.flow.latents_folder is None:
        return None
    return LatentCache(Path(config.flow.latents_folder), load_latents(out)[1]["tae_sha256"], config.engine.precision)


def write_prompts(out: Path, prompts: dict[str, str]) -> None:
    """The run in `out` has these prompts, clip id -> prompt."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"clip_id": list(prompts), "prompt": list(prompts.values())}), sink, compression="zstd")
    write_atomic(out / PROMPTS, memoryview(sink.getvalue()))


def _readable(
    config: "TrainConfig", dataset: Path, samples: list[Sample], count: int, key: tuple[object, ...] | None, used: list[str]
) -> Iterator["Tensor"]:
    """Pixels (3, T, H, W) of so many of the samples, evenly over them; one that is broken or taken down is passed over for the next.
    Their ids are added to `used`."""
    denied, made, step = DenyList(dataset), 0, max(1, len(samples) // count)
    for sample in (s for first in range(step) for s in samples[first::step]):
        if made == count:
            return
        try:
            pixels = load_pixels(dataset, sample, config.data, key and (*key, sample.clip_id), denied)
        except SampleError:
            continue
        made += 1
        used.append(sample.clip_id)
        yield to_tensor([pixels])[0]


def _scale(
    config: "TrainConfig", flow: "FlowConfig", dataset: Path, out: Path, samples: list[Sample], version: int
) -> tuple["LatentScale", dict[str, Any]]:
    """The parent's scale, or one measured on training clips, who are noted in `out`; with the digests of autoencoder and parent."""
    from training.latents import LatentScale, load_tae, measure_scale, read_export
    from training.models.text import load_encoders

    if not flow.tae:
        raise TrainingError(
            f"{config.stage}: expected flow.tae, the folder of a trained autoencoder, found none; `dailies train tae` makes it"
        )
    tae, sha256 = load_tae(Path(flow.tae), flow.autoencoder)
    keys = {e.name: e.key for e in load_encoders(flow.text)}
    digests: dict[str, Any] = {"tae_sha256": sha256, "parent_sha256": None, "text_keys": keys}
    if flow.upsample and flow.upsample.artefacts:
        digests["artefacts_sha256"] = load_tae(Path(flow.upsample.artefacts))[1]
    if flow.parent:
        description, _ = read_export(Path(flow.parent), "", mapped=True)
        digests["parent_sha256"] = description["sha256"]
        latents = description.get("latents") or {}
        if latents.get("tae_sha256") == sha256:
            return LatentScale(mean=tuple(latents["mean"]), std=tuple(latents["std"])), digests
        if not flow.upsample:  # an upsampler works on the latents of another autoencoder than its parent: their scale is its own
            raise TrainingError(f"{flow.parent}: expected a parent trained on autoencoder {sha256}, found {latents.get('tae_sha256')}")
    chosen = Plan(config.plan_settings(version), samples).samples
    used: list[str] = []
    scale = measure_scale(tae, _readable(config, dataset, chosen, flow.scale_clips, None, used))
    note_measured(out, used)
    return scale, digests
