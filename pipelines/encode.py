"""`dailies encode text|latents`: what a generator's steps would compute again and again from frozen networks, computed once by Ray actors.

    <out>/ …                               the caches of training.data.text_cache and training.data.latent_cache
    <out>/records/<dataset and settings>.parquet    clip_id, key, status, reason: what became of every kept clip in the last such run

The same command again continues: what is in the cache is not made again. A run of the manifest names the folder, so that a takedown
finds it.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests import ids
from manifests.deny import DenyList
from manifests.events import Run
from manifests.files import write_atomic
from manifests.schema import to_table
from manifests.tables import ManifestError, ManifestStore
from pipelines import on_ray, provenance
from pipelines.on_ray import EngineConfig
from pipelines.progress import Progress

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.index import Sample
    from training.encode import Encoded
    from training.models.text import TextConfig
    from training.tasks.flow_config import FlowConfig

RECORDS = "records"
COMMAND = "encode"
"""First word of the runs in the manifest."""

_CHUNK = 16
"""Clips or prompts of one piece of work: a second or more of it, so that handing it out costs nothing, and little to do again."""

_RECORD = pa.schema([("clip_id", pa.string()), ("key", pa.string()), ("status", pa.string()), ("reason", pa.string())])


def encode_latents(dataset: Path, out: Path, tae: Path, config: "TrainConfig", engine: EngineConfig, progress: Progress) -> dict[str, Any]:
    """The latents of every kept clip that the stage can train on are in `out`; returns how many clips became what.

    Windows and crops are those of `data.augment=false`; the stage's `data` and `engine.precision` have to be those of its training.
    """
    from training.data.latent_cache import LatentCache
    from training.encode import Encoded, EncodeLatents
    from training.latents import load_tae

    _flow(config)
    folder = config.data.cache_folder and str(Path(config.data.cache_folder).resolve())
    data = dataclasses.replace(config.data, augment=False, cache_folder=folder)
    version, samples = _samples(dataset, config)
    cache, denied = LatentCache(out, load_tae(tae)[1], config.engine.precision), DenyList(dataset).clips()
    rows, todo = dict[str, Encoded](), list["Sample"]()
    for sample in samples:
        if reason := _refused(sample, config, version):
            rows[sample.clip_id] = Encoded(key=sample.clip_id, status="refused", reason=reason)
        elif sample.clip_id in denied:
            rows[sample.clip_id] = Encoded(key=sample.clip_id, status="denied", reason=f"takedown {denied[sample.clip_id]}")
        elif cache.has(sample, data):
            rows[sample.clip_id] = Encoded(key=sample.clip_id, status="known")
        else:
            todo.append(sample)
    todo.sort(key=lambda s: (s.shard_path, s.offset))  # shards are read from front to back
    settings = {"tae": str(tae.absolute()), "data": dataclasses.asdict(data), "precision": config.engine.precision}
    rows |= {s.clip_id: Encoded(key=s.clip_id, status="planned") for s in todo}
    record = register(dataset, out, "latents", settings, rows.items())
    arguments = (dataset.absolute(), tae.absolute(), out.absolute(), data, config.engine.precision)
    with progress.stage("encode latents", len(samples), len(samples) - len(todo)) as advance:
        for chunk, made in on_ray.run_workers(EncodeLatents, arguments, _chunks(todo), engine):
            for encoded in made or [_died(s.clip_id) for s in chunk]:
                rows[encoded.key] = encoded
            advance(len(chunk))
    return _end(record, rows.items())


def encode_text(dataset: Path, out: Path, config: "TrainConfig", engine: EngineConfig, progress: Progress) -> dict[str, Any]:
    """What every text encoder with weights makes of each kept clip's prompt, and of the empty one, is in `out`; returns how many clips
    became what. The prompt has the stage's frame rate in front, so `data` has to be that of its training. For a stage of editing the
    instructions that it draws are there, too, and those of clips without a rate; for a stage of sound what it reads."""
    from training.data.text_cache import TextCache, forget_names, name_of
    from training.encode import Encoded, EncodePrompts
    from training.models.text import load_encoders

    version, samples = _samples(dataset, config)
    text, said, drawn = _texts(dataset, version, samples, config)
    denied = DenyList(dataset).clips()
    wanted = list(dict.fromkeys(["", *drawn, *(prompt for clip, prompt in said if clip not in denied)]))
    cache = TextCache(load_encoders(text), out)
    if not any(e.stored for e in cache.encoders):
        raise ManifestError("text: expected a folder for ul2, byt5 or metaclip, found none; other encoders are not worth a cache")
    todo = cache.missing(wanted)
    made = {name_of(p): Encoded(key=name_of(p), status="planned" if p in set(todo) else "known") for p in wanted}

    def rows() -> list[tuple[str, Encoded]]:
        taken = {c: f"takedown {number}" for c, number in denied.items()}
        return [(c, Encoded(key=name_of(p), status="denied", reason=taken[c]) if c in taken else made[name_of(p)]) for c, p in said]

    settings = {"text": dataclasses.asdict(text), "data": dataclasses.asdict(config.data)}
    record = register(dataset, out, "text", settings, rows())
    with progress.stage("encode text", len(wanted), len(wanted) - len(todo)) as advance:
        for chunk, encoded in on_ray.run_workers(EncodePrompts, (text, out.absolute()), _chunks(todo), engine):
            made |= {e.key: e for e in encoded or [_died(name_of(p)) for p in chunk]}
            advance(len(chunk))
    late = DenyList(dataset).clips().keys() - denied.keys()  # taken down while it was encoded: the takedown may have been there before
    forget_names(out, {name_of(p) for c, p in said if c in late})
    return _end(record, rows())


def _texts(
    dataset: Path, version: int, samples: "list[Sample]", config: "TrainConfig"
) -> "tuple[TextConfig, list[tuple[str, str]], list[str]]":
    """(encoders, (clip id, prompt) of all that is read of clips, texts that are of no clip) of a stage, as its training reads them."""
    from training import edits
    from training.conditions import read_prompts
    from training.sound_conditions import read_sound_prompts

    if config.sound is not None:
        return config.sound.text, [*read_sound_prompts(dataset, version, samples).items()], []
    flow = _flow(config)
    prompts = [*read_prompts(dataset, version, samples, config.data).items()]
    if flow.edit is None:
        return flow.text, prompts, []
    pairs = dict.fromkeys([*prompts, *((clip, edits.without_rate(prompt)) for clip, prompt in prompts)])
    return flow.text, [*pairs], edits.instructions()


def folders_of(store: ManifestStore) -> list[tuple[Path, str]]:
    """(folder, text or latents) of every cache that was made of the dataset by this command."""
    runs = store.read("runs", columns=["command", "config_json"]).to_pylist()
    return [(Path(json.loads(r["config_json"])["folder"]), r["command"].split()[1]) for r in runs if r["command"].startswith(COMMAND + " ")]


def names_of(folder: Path, clip_ids: Iterable[str]) -> set[str]:
    """The keys under which the records of a folder name the clips: of prompts the names of their files."""
    wanted, found = set(clip_ids), set()
    for path in sorted((folder / RECORDS).glob("*.parquet")):
        rows = pq.read_table(path, schema=_RECORD).to_pylist()
        found |= {row["key"] for row in rows if row["clip_id"] in wanted}
    return found


def _flow(config: "TrainConfig") -> "FlowConfig":
    if config.flow is None:
        raise ManifestError(f"stage {config.stage}: expected a stage with a generator, as only that reads what is encoded")
    return config.flow


def _samples(dataset: Path, config: "TrainConfig") -> tuple[int, "list[Sample]"]:
    """The newest version of the manifest, and its samples of the sets that the stage trains on."""
    from training.data.index import load_samples

    store = ManifestStore(dataset)
    if (version := store.version()) < 0:
        raise ManifestError(
            f"{dataset}: expected a dataset with a manifest, found none; make one with `dailies curate INPUT --out {dataset}`"
        )
    found = [s for s in load_samples(dataset, version) if (s.has_sound if config.hears else s.kind != "audio")]
    return version, [s for s in found if not config.data.sets or s.set_name in config.data.sets]


def _refused(sample: "Sample", config: "TrainConfig", version: int) -> str | None:
    from training.data.plan import refusal

    return refusal(sample, config.plan_settings(version))


def _chunks(rows: Sequence[Any]) -> list[Sequence[Any]]:
    return [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]


def _died(key: str) -> "Encoded":
    from training.encode import Encoded

    return Encoded(key=key, status="broken", reason="the process that encoded it died")


def register(dataset: Path, out: Path, what: str, settings: dict[str, Any], rows: "Iterable[tuple[str, Encoded]]") -> Path:
    """Before anything is made, the manifest names the folder and the record says what is to come, so that a takedown finds what a killed
    run left; gives the record's path."""
    config_json = json.dumps({"folder": str(out.absolute()), **settings}, sort_keys=True)
    run_id = ids.digest("encode/v1", what, config_json)
    record = out / RECORDS / f"{what}-{ids.digest(str(dataset.absolute()), run_id)[:16]}.parquet"
    _write_record(record, rows)
    store, now = ManifestStore(dataset), datetime.now(UTC)
    if store.version_of_run(run_id) is None:
        run = Run(
            run_no=store.read("runs", columns=["run_no"]).num_rows,
            run_id=run_id,
            command=f"{COMMAND} {what}",
            inputs_digest=run_id,
            code_version=provenance.code_version(),
            config_sha256=hashlib.sha256(config_json.encode()).hexdigest(),
            config_json=config_json,
            parent_version=store.version(),
            started_at=now,
            ended_at=now,
        )
        store.commit(run_id, append={"runs": to_table(Run, [run])})
    return record


def _end(record: Path, rows: "Iterable[tuple[str, Encoded]]") -> dict[str, Any]:
    """The record says what became of each clip; gives the counts, which sum up to the clips."""
    _write_record(record, rows := list(rows))
    counts = Counter(encoded.status for _, encoded in rows)
    named = {status: counts[status] for status in ("encoded", "known", "refused", "denied", "broken")}
    return {"clips": len(rows), **named, "folder": str(record.parent.parent), "record": str(record)}


def _write_record(record: Path, rows: "Iterable[tuple[str, Encoded]]") -> None:
    """The record has these rows, and `earlier` ones of what it named before: that is still in the folder, and a takedown must find it."""
    new = [{"clip_id": c, "key": e.key, "status": e.status, "reason": e.reason} for c, e in rows]
    if record.exists():
        said = {(row["clip_id"], row["key"]) for row in new}
        kept = [row for row in pq.read_table(record, schema=_RECORD).to_pylist() if (row["clip_id"], row["key"]) not in said]
        new += [row | {"status": "earlier"} for row in kept]
    table = pa.Table.from_pylist(new, schema=_RECORD)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(record, memoryview(sink.getvalue()))
