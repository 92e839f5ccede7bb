"""What a generator's run fixes at its first start, beside its index: each clip's prompt, and the scale of the latents.

conditions.parquet   clip_id, prompt: the caption in use at the run's manifest version, its rate in front
latents.json         scale of the latents, SHA-256 of the autoencoder and of the parent

So later captions and other weights under the same path do not change a run that has begun: the former are not read, the latter refused.
Prompts are captions: a purge of captions has to visit run folders too.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import write_atomic
from training.data.index import Sample
from training.data.plan import Plan
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.latents import LatentScale
    from training.tasks.text_to_video import FlowConfig

PROMPTS, LATENTS = "conditions.parquet", "latents.json"


def prepare(config: "TrainConfig", dataset: Path, out: Path, samples: list[Sample], version: int) -> None:
    """The run's folder holds its conditions; nothing is done for a stage without a generator. Weights are read and checked."""
    if config.flow is None:
        return
    prompts = read_prompts(dataset, version, samples, with_rate=config.data.n_frames > 1)
    if not any(prompts.values()):
        raise TrainingError(f"{dataset}: expected captions to train {config.stage} on, found none; run `dailies curate` with captions")
    scale, digests = _scale(config, config.flow, dataset, samples, version)
    write_atomic(out / LATENTS, json.dumps({**asdict(scale), **digests}, indent=1).encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"clip_id": list(prompts), "prompt": list(prompts.values())}), sink, compression="zstd")
    write_atomic(out / PROMPTS, memoryview(sink.getvalue()))


def read_prompts(dataset: Path, version: int, samples: list[Sample], *, with_rate: bool) -> dict[str, str]:
    """Clip id -> prompt of each sample, as the manifest had it at the version: rate, camera words, caption; empty without a caption."""
    from manifests.tables import ManifestStore
    from training.models.text import prompt_of

    store = ManifestStore(dataset)
    texts = {c["caption_no"]: " ".join(filter(None, (c["camera_prefix"], c["text"]))) for c in store.read("captions", version).to_pylist()}
    numbers = store.read("clips", version, columns=["clip_id", "caption_no"]).to_pylist()
    of_clip = {row["clip_id"]: texts.get(row["caption_no"], "") for row in numbers}
    prompts = {}
    for sample in samples:
        fps = sample.fps_num / sample.fps_den if with_rate and sample.kind == "video" and sample.fps_num and sample.fps_den else None
        prompts[sample.clip_id] = prompt_of(of_clip.get(sample.clip_id, ""), fps)
    return prompts


def load_prompts(out: Path) -> dict[str, str]:
    """Clip id -> prompt of the run."""
    table = pq.read_table(out / PROMPTS)
    return dict(zip(table.column("clip_id").to_pylist(), table.column("prompt").to_pylist(), strict=True))


def load_latents(out: Path) -> tuple["LatentScale", dict[str, Any]]:
    """The scale of the run's latents, and the digests that its autoencoder and parent must have."""
    from training.latents import LatentScale

    found = json.loads((out / LATENTS).read_bytes())
    return LatentScale(mean=tuple(found.pop("mean")), std=tuple(found.pop("std"))), found


def _scale(
    config: "TrainConfig", flow: "FlowConfig", dataset: Path, samples: list[Sample], version: int
) -> tuple["LatentScale", dict[str, Any]]:
    """The parent's scale, or one measured on training clips; with the digests of autoencoder and parent."""
    from training.data.batch import load_pixels, to_tensor
    from training.latents import LatentScale, load_tae, measure_scale, read_export

    if not flow.tae:
        raise TrainingError(
            f"{config.stage}: expected flow.tae, the folder of a trained autoencoder, found none; `dailies train tae` makes it"
        )
    tae, sha256 = load_tae(Path(flow.tae))
    if flow.parent:
        description, _ = read_export(Path(flow.parent), "")
        latents = description.get("latents") or {}
        if latents.get("tae_sha256") != sha256:
            raise TrainingError(f"{flow.parent}: expected a parent trained on autoencoder {sha256}, found {latents.get('tae_sha256')}")
        scale = LatentScale(mean=tuple(latents["mean"]), std=tuple(latents["std"]))
        return scale, {"tae_sha256": sha256, "parent_sha256": description["sha256"]}
    chosen = Plan(config.plan_settings(version), samples).samples
    step = max(1, len(chosen) // flow.scale_clips)
    clips = (to_tensor([load_pixels(dataset, s, config.data, None)])[0] for s in chosen[::step][: flow.scale_clips])
    return measure_scale(tae, clips), {"tae_sha256": sha256, "parent_sha256": None}
