"""A manifest of any size with values as they are: what `benchmarks/ledger.py` measures on.

Made, not measured: assets of 1 to 20 clips (seven on average), 87 % video, 10 % images, 3 % sound; sound in 60 % of videos. Every clip has all
that is measured on tracks, continuous scores with all of a float's digits, shares as multiples of 1/frames; clips that pass those rules
have text, networks' scores and descriptors' columns; those that pass these are in sets. Nothing is left out but captions.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from manifests import ledger
from manifests.events import Run
from manifests.records import Asset, Clip
from manifests.schema import arrow_schema, to_table
from manifests.tables import ManifestStore
from pipelines import config as configuration
from pipelines import provenance
from pipelines.settings import CurateConfig

CHUNK_ASSETS = 40_000
_CLIPS_PER_ASSET = 7.0
_CAMERAS = ("static", "handheld", "pan_right", "pan_left", "zoom_in", "zoom_out", "tilt_up", "tilt_down", "tracking", None)
_SIZES = np.array([(1920, 1080), (1280, 720), (3840, 2160), (1080, 1920), (720, 1280), (640, 360)])
_RATES = np.array([(24000, 1001), (30000, 1001), (25, 1), (24, 1), (30, 1), (60, 1)])

Column = Any
Draw = np.random.Generator


def build(root: Path, n_clips: int, overrides: list[str], seed: int = 0) -> ManifestStore:
    """A dataset of about that many clips, decided by the paper's rules: one commit, in bounded memory."""
    settings = configuration.load(CurateConfig, "curate", "paper", overrides)
    store = ManifestStore(root)
    numbers, rule_rows = provenance.number_rules(store, settings.policy())
    numbered = list(zip(numbers, settings.policy(), strict=True))
    of_assets, of_clips = ([r for r in numbered if r[1].subject == s] for s in ("asset", "clip"))
    n_assets = round(n_clips / _CLIPS_PER_ASSET)

    def assets() -> Iterator[pa.RecordBatch]:
        for start in range(0, n_assets, CHUNK_ASSETS):
            table = make_assets(start, min(start + CHUNK_ASSETS, n_assets), seed, of_assets)
            yield from ledger.with_state(table, ledger.decide(of_assets, table).first_fail).combine_chunks().to_batches()

    def clips(decisions: bool) -> Iterator[pa.RecordBatch]:
        first, placed = 0, 0
        for start in range(0, n_assets, CHUNK_ASSETS):
            table = make_assets(start, min(start + CHUNK_ASSETS, n_assets), seed, of_assets)
            asset_verdicts = ledger.decide(of_assets, table)
            made = make_clips(table, asset_verdicts.kept, first, seed, of_clips)
            decided = ledger.decide(of_clips, made)
            first += made.num_rows
            if decisions:
                for v, t in [*((v, table) for v in asset_verdicts.verdicts), *((v, made) for v in decided.verdicts)]:
                    yield from ledger.to_decisions(v, t, 0).combine_chunks().to_batches()
            else:
                made = ledger.with_state(made, decided.first_fail)
                yield from place(made, decided.kept, placed).combine_chunks().to_batches()
                placed += int(decided.kept.sum())

    run = Run(
        run_no=0, run_id="benchmark", command="curate", inputs_digest="", code_version="", config_sha256=configuration.digest(settings),
        config_json=configuration.to_record(settings), started_at=datetime(2026, 1, 1, tzinfo=UTC), ended_at=datetime(2026, 1, 1, tzinfo=UTC),
        policy=numbers,
    )  # fmt: skip
    reader = pa.RecordBatchReader.from_batches
    store.commit(
        "benchmark",
        append={"runs": to_table(Run, [run]), "rules": rule_rows, "decisions": reader(ledger.SCHEMA, clips(decisions=True))},
        replace={"assets": reader(arrow_schema(Asset), assets()), "clips": reader(arrow_schema(Clip), clips(decisions=False))},
    )
    return store


def make_assets(start: int, end: int, seed: int, policy: list[Any]) -> pa.Table:
    """Assets numbered [start, end)."""
    draw, n = np.random.default_rng((seed, 1, start)), end - start
    kind = draw.choice(["video", "image", "audio"], n, p=[0.87, 0.1, 0.03])
    size = _SIZES[draw.choice(len(_SIZES), n, p=[0.5, 0.25, 0.08, 0.08, 0.04, 0.05])]
    rate = _RATES[draw.choice(len(_RATES), n)]
    seconds = np.where(kind == "image", 0, draw.lognormal(4, 0.8, n))
    clips = _n_clips(kind, start, seed)
    digests = draw.bytes(32 * n)
    own = {
        "asset_id": [digests[32 * i : 32 * i + 16].hex() for i in range(n)],
        "asset_no": np.arange(start, end),
        "asset_sha256": [digests[32 * i : 32 * i + 32] for i in range(n)],
        "asset_md5": [digests[32 * i + 8 : 32 * i + 24] for i in range(n)],
        "size_bytes": draw.integers(10**6, 10**9, n),
        "uri": [f"collection/{i // 1000:05d}/{i:09d}.mp4" for i in range(start, end)],
        "n_copies": np.ones(n, np.int32), "source_no": np.zeros(n, np.int32), "kind": kind,
        "licence_class": draw.choice([0, 1], n, p=[0.97, 0.03]).astype(np.int32),
        "optout_state": draw.choice([0, 1], n, p=[0.99, 0.01]).astype(np.int32),
        "duration_us": (seconds * 1e6).astype(np.int64), "width": size[:, 0].astype(np.int32), "height": size[:, 1].astype(np.int32),
        "fps_num": rate[:, 0].astype(np.int32), "fps_den": rate[:, 1].astype(np.int32), "has_audio": draw.random(n) < 0.6,
        "readable": np.ones(n, np.float32), "short_side_px": size.min(1).astype(np.float32),
        "aspect_ratio": (size.max(1) / size.min(1)).astype(np.float32), "duration_s": seconds.astype(np.float32),
        "n_clips": clips.astype(np.float32), "decision": ["pending"] * n, "state": ["live"] * n,
    }  # fmt: skip
    return _table(Asset, n, _passing(n, policy) | own)


def _n_clips(kind: Column, start: int, seed: int) -> Column:
    draw = np.random.default_rng((seed, 2, start))
    return np.where(kind == "video", np.clip(draw.geometric(0.125, len(kind)), 1, 20), np.where(kind == "image", 1, 3))


def make_clips(assets: pa.Table, asset_kept: Column, first: int, seed: int, policy: list[Any]) -> pa.Table:
    """The clips of the assets, numbered from `first`, measured as far as the rules let them come."""
    start = assets.column("asset_no")[0].as_py()
    draw = np.random.default_rng((seed, 3, start))
    per_asset = assets.column("n_clips").to_numpy().astype(np.int64)
    of = np.repeat(np.arange(assets.num_rows), per_asset)
    n = len(of)
    columns = _passing(n, policy) | _identity(draw, assets, of, n, first, per_asset)
    columns["asset_kept"] = asset_kept[of].astype(np.float32)
    video, picture = columns["kind"] == "video", columns["kind"] != "audio"
    columns |= _masked(_on_tracks(draw, n, columns), video) | _masked(_of_pictures(draw, n), picture)
    columns |= _masked(_of_sound(draw, n), columns["has_audio"] | (columns["kind"] == "audio"))
    alive = _alive(columns, n, policy, ("analysed",))
    columns |= _masked(_of_networks(draw, n), alive & picture) | _masked(_of_sound_networks(draw, n), alive & columns["has_audio"])
    alive = _alive(columns, n, policy, ("analysed", "content"))
    columns |= _masked(_of_tables(draw, n, columns), alive)
    return _table(Clip, n, columns)


def place(clips: pa.Table, kept: Column, placed: int) -> pa.Table:
    """Kept clips have a caption and a shard of 10,000 samples."""
    number = placed + np.cumsum(kept) - 1
    own = {"caption_no": (number, pa.int64()), "shard_no": (number // 10_000, pa.int32())}
    for name, (values, type_) in own.items():
        clips = clips.set_column(clips.schema.get_field_index(name), name, pa.array(values, mask=~kept).cast(type_))
    return clips


def _identity(draw: Draw, assets: pa.Table, of: Column, n: int, first: int, per_asset: Column) -> dict[str, Column]:
    rows = pa.array(of)
    take = {c: assets.column(c).take(rows) for c in ("asset_id", "asset_no", "kind", "width", "height", "fps_num", "fps_den", "has_audio")}
    kind = np.asarray(take["kind"].to_pylist())
    frames = draw.integers(96, 384, n)
    rate = take["fps_num"].to_numpy() / take["fps_den"].to_numpy()
    span = np.where(kind == "image", 0, frames / rate * 1e6).astype(np.int64)
    gap = np.where(kind == "image", 0, draw.integers(0, 300, n) / rate * 1e6).astype(np.int64)
    total = np.cumsum(gap + span)
    begin = total - span - np.repeat(np.concatenate(([0], total))[np.cumsum(per_asset) - per_asset], per_asset)
    digests = draw.bytes(16 * n).hex()
    scan = [f"work/scan/9da892563395fc25/{i[::-1]}" for i in assets.column("asset_id").to_pylist()]
    part = pa.array([f"{s}.keyframes.parquet" for s in scan])
    return {
        "clip_id": [digests[32 * i : 32 * i + 32] for i in range(n)],
        "clip_no": np.arange(first, first + n), **take, "kind": kind, "has_audio": take["has_audio"].to_numpy(),
        "start_us": begin, "end_us": begin + span, "shot_no": np.arange(n) - np.repeat(np.cumsum(per_asset) - per_asset, per_asset),
        "n_frames": np.where(kind == "image", 1, frames), "scan_part": pa.array(scan).take(rows), "keyframe_part": part.take(rows),
        "duration_s": (span / 1e6).astype(np.float32), "decision": ["pending"] * n, "decided_run_no": np.zeros(n, np.int32),
    }  # fmt: skip


def _on_tracks(draw: Draw, n: int, columns: dict[str, Column]) -> dict[str, Column]:
    frames, seconds = columns["n_frames"], np.maximum(columns["duration_s"], 1e-3)
    seldom = lambda share, values: np.where(draw.random(n) < share, values, 0)  # noqa: E731
    return {
        "motion": draw.lognormal(1.3, 0.9, n), "motion_vector_px": draw.lognormal(0.8, 0.8, n),
        "motion_vector_source": draw.choice(["codec", "estimate"], n, p=[0.8, 0.2]), "damaged_frames": seldom(0.002, draw.integers(1, 40, n)),
        "static_fraction": seldom(0.35, draw.integers(0, 90, n)) / frames, "shots_per_s": (1 + (draw.random(n) < 0.05)) / seconds,
        "slideshow_score": seldom(0.08, draw.integers(1, 9, n)) / 8, "loop_score": seldom(0.4, draw.random(n)),
        "strobe_per_s": seldom(0.04, draw.integers(1, 9, n)) / seconds, "speed_ramp": seldom(0.3, draw.random(n)),
        "camera": draw.choice(np.array(_CAMERAS, object), n), "camera_confidence": draw.integers(300, 1000, n) / 1000,
        "shake": draw.lognormal(-4, 1.2, n), "unsteadiness": draw.lognormal(-3, 1, n), "interlaced": seldom(0.03, draw.integers(1, 9, n)) / 8,
        "duplicate_fraction": seldom(0.1, draw.integers(1, 60, n)) / frames,
    }  # fmt: skip


def _of_pictures(draw: Draw, n: int) -> dict[str, Column]:
    bars = (draw.random(n) < 0.12) * draw.choice([20, 132, 138, 140, 60], n)
    return {
        "border_share": bars / 540, "border_top": bars, "border_bottom": bars, "border_left": np.zeros(n), "border_right": np.zeros(n),
        "border_kind": np.where(bars > 0, "letterbox", "none"), "brightness": draw.beta(4, 5, n), "contrast": draw.beta(4, 12, n),
        "dark_fraction": np.where(draw.random(n) < 0.5, 0, draw.integers(0, 3000, n)) / 57_600,
        "bright_fraction": np.where(draw.random(n) < 0.4, 0, draw.integers(0, 3000, n)) / 57_600,
        "sharpness": draw.beta(5, 7, n), "noise": draw.lognormal(-1, 1, n), "blockiness": np.maximum(0, draw.normal(0, 0.01, n)),
        "effective_resolution": draw.beta(7, 3, n),
    }  # fmt: skip


def _of_sound(draw: Draw, n: int) -> dict[str, Column]:
    peak = -np.abs(draw.normal(3, 3, n))
    return {
        "loudness_db": draw.normal(-22, 6, n), "silence_fraction": np.where(draw.random(n) < 0.8, 0, draw.integers(0, 80, n)) / 80,
        "loudness_lufs": draw.normal(-20, 6, n), "loudness_range_lu": draw.gamma(2, 2, n), "peak_db": peak,
        "true_peak_db": peak + draw.random(n) / 4, "clipped_fraction": np.where(draw.random(n) < 0.95, 0, draw.random(n) * 1e-3),
        "speech_fraction": np.where(draw.random(n) < 0.5, 0, draw.integers(0, 300, n)) / 300,
    }  # fmt: skip


def _of_networks(draw: Draw, n: int) -> dict[str, Column]:
    text = np.where(draw.random(n) < 0.8, 0, draw.random(n))
    faces, people = draw.choice(5, n, p=[0.6, 0.25, 0.1, 0.03, 0.02]), draw.choice(6, n, p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.02])
    return {
        "colourfulness": draw.gamma(4, 10, n), "text_score": text, "text_area": text * draw.random(n) / 5,
        "text_unread_score": np.where(draw.random(n) < 0.95, 0, draw.random(n)), "text_overlay_score": np.where(draw.random(n) < 0.5, text, 0),
        "subtitle_score": np.where(draw.random(n) < 0.1, text, 0), "corner_mark_score": np.where(draw.random(n) < 0.1, text, 0),
        "scene_text_score": np.where(draw.random(n) < 0.3, text, 0), "text_frames": draw.integers(4, 9, n), "aesthetic": draw.normal(4.8, 0.7, n),
        "n_faces": faces, "face_share": np.where(faces, draw.beta(1, 12, n), 0), "n_people": people,
        "person_share": np.where(people, draw.beta(2, 6, n), 0), "has_people": people > 0, "single_face": faces == 1,
        "action": [f"action {i}" for i in draw.zipf(1.5, n) % 600], "action_score": draw.normal(0.2, 0.04, n),
        "action_margin": draw.gamma(1, 0.02, n), "human_action": draw.random(n) < 0.3,
    }  # fmt: skip


def _of_sound_networks(draw: Draw, n: int) -> dict[str, Column]:
    classes = np.array(["voice", "music", "sound", "voice+music", "music+sound", "none"])
    kind = draw.integers(0, 3, n)
    return {
        "voice_score": draw.beta(1, 4, n), "singing_score": draw.beta(1, 20, n), "music_score": draw.beta(1, 3, n), "sound_score": draw.beta(2, 4, n),
        "audio_video_similarity": draw.normal(0.2, 0.1, n), "audio_class": draw.choice(classes, n),
        "diegetic": np.array(["non_diegetic", "mixed", "diegetic"])[kind], "diegetic_score": kind / 2, "audio_quality": draw.normal(5.5, 1, n),
        "identity_agreement": draw.beta(9, 2, n),
    }  # fmt: skip


def _of_tables(draw: Draw, n: int, columns: dict[str, Column]) -> dict[str, Column]:
    copies = draw.random(n) < 0.08
    cluster = draw.zipf(1.3, n) % 50_000
    chance = np.minimum(1, 1 / np.sqrt(1 + 50_000 / (1 + cluster)) * 40)
    chosen = draw.random(n)
    portrait = np.asarray(columns["height"].to_numpy()) > np.asarray(columns["width"].to_numpy())
    name = np.where(columns["kind"] == "video", "low_res", columns["kind"])
    ids = np.asarray(columns["clip_id"], object)
    return {
        "dup_group": [i if c else None for i, c in zip(ids[draw.integers(0, n, n)], copies, strict=True)], "dup_rank": np.where(copies, draw.integers(0, 3, n), 0),
        "dup_distance": draw.integers(0, 31, n), "dup_similarity": 0.99 + draw.random(n) / 100, "cluster_no": cluster,
        "cluster_path": [f"{c // 100}/{c}" for c in cluster], "cluster_size": 50_000 // (1 + cluster) + 2, "keep_probability": chance,
        "draw": chosen, "concept_margin": chance - chosen, "mix_keep": draw.random(n) < 0.9, "set_name": name,
        "bucket": np.where(portrait, "9x16_128f", "16x9_128f"), "n_tokens": draw.choice([16384, 9216, 12288], n), "fits_sets": name,
        "set_fit": np.ones(n), "captioned": np.ones(n), "encoded": np.ones(n),
    }  # fmt: skip


def _alive(columns: dict[str, Column], n: int, policy: list[Any], stages: tuple[str, ...]) -> Column:
    return ledger.survivors([r for r in policy if r[1].stage in stages], _table(Clip, n, columns))


def _passing(n: int, policy: list[Any]) -> dict[str, Column]:
    """A value that passes for every measure of the rules: it stands where nothing here makes that measure."""
    return {r.measure: np.full(n, r.threshold + {"<": -1, ">": 1}.get(r.op, 0)) for _, r in policy}


def _masked(columns: dict[str, Column], there: Column) -> dict[str, Column]:
    """Null where the clip has no such thing."""
    return {name: (values, ~there) for name, values in columns.items()}


def _table(record: type, n: int, columns: dict[str, Column]) -> pa.Table:
    schema = arrow_schema(record)
    made = []
    for field in schema:
        values = columns.get(field.name)
        mask = None
        if isinstance(values, tuple):
            values, mask = values
        if values is None:
            made.append(pa.nulls(n, field.type))
        elif isinstance(values, pa.ChunkedArray | pa.Array):
            made.append(values)
        else:
            array = np.asarray(values)
            if array.dtype.kind in "bif" and not pa.types.is_boolean(field.type):
                array = array.astype(field.type.to_pandas_dtype())
            made.append(pa.array(array.tolist() if array.dtype.kind in "US" else array, field.type, mask=mask))
    return pa.table(made, schema=pa.schema([f.with_nullable(True) for f in schema])).cast(schema)
