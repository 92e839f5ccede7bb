"""What a takedown removes outside the dataset: caches that training and `dailies encode` filled from it, and the prompts and pictures of its
training runs.

The dataset names them: a run of `dailies encode` its folder, an exposure and a register its training runs, whose settings name the caches
they used. What was copied elsewhere, or moved, is not found.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.tables import ManifestStore
from pipelines.encode import folders_of, names_of
from pipelines.exposures import registered


def scrub_caches(store: ManifestStore, clip_ids: Collection[str]) -> dict[str, int]:
    """No latents, text tokens or payloads of the clips are left in the caches, and no prompts, pictures or sounds in the runs, that the
    manifest names; returns how many files and prompts went. Ask before the members are hashed again: their hashes are the names of what was made of them."""
    from training.conditions import PROMPTS, forget_clips, load_prompts
    from training.data.cache import forget_payloads
    from training.data.latent_cache import forget_latents
    from training.data.text_cache import forget_names, name_of
    from training.pictures import forget_pictures

    runs = _training_runs(store)
    payloads = _payloads(store, clip_ids)
    settings = [_settings(run) for run in runs]
    encodes = store.read("runs", columns=["command", "config_json"]).to_pylist()
    fetching = [*settings, *(json.loads(r["config_json"]) for r in encodes if r["command"].startswith("encode "))]
    latents = {f for f, what in folders_of(store) if what == "latents"} | _named(settings, "flow", "latents_folder")
    texts = {f for f, what in folders_of(store) if what == "text"}
    texts |= _named(settings, "flow", "text_cache") | _named(settings, "sound", "text_cache")
    names = set[str]().union(*(names_of(folder, clip_ids) for folder in texts))
    for run in runs:
        prompts = load_prompts(run) if (run / PROMPTS).exists() else {}
        names |= {name_of(prompts[clip]) for clip in clip_ids if prompts.get(clip)}
    return {
        "latents": sum(forget_latents(folder, payloads) for folder in latents),
        "text_tokens": sum(forget_names(folder, names) for folder in texts),
        "payloads": sum(forget_payloads(folder, payloads) for folder in _named(fetching, "data", "cache_folder")),
        "pictures": sum(forget_pictures(run, clip_ids) for run in runs),
        "prompts": sum(forget_clips(run, clip_ids) for run in runs),  # last: they name the tokens
    }


def _payloads(store: ManifestStore, clip_ids: Collection[str]) -> set[bytes]:
    """The hashes of everything in shards that was the clips', in any version."""
    wanted, found = pa.array(sorted(clip_ids), pa.string()), set()
    for version in store.readable():
        members = store.read("members", version, ["clip_id", "sha256"])
        found |= set(members.filter(pc.is_in(members.column("clip_id"), value_set=wanted)).column("sha256").to_pylist())
    return found


def _training_runs(store: ManifestStore) -> list[Path]:
    recorded = store.read("exposures", columns=["run_path"]).column(0).to_pylist()
    return sorted({*map(Path, recorded), *registered(store.root)})


def _settings(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    found: dict[str, Any] = json.loads(path.read_bytes())["config"] if path.exists() else {}
    return found


def _named(settings: list[dict[str, Any]], part: str, name: str) -> set[Path]:
    return {Path(folder) for s in settings if (folder := (s.get(part) or {}).get(name))}
