"""A made-up dataset of any size whose tables agree with one another: clips, verdicts by the real rules, shards, captions, errors.

Numbers are drawn from a keyed Philox stream, so the same size always gives the same tables.
"""

import dataclasses
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from manifests import events, ids, records
from manifests.rules import Rule, decide
from manifests.schema import TABLES, to_table

S = TypeVar("S", records.Asset, records.Clip)

HOSTILE_NAMES = (
    "<script>alert(1)</script>.mp4",
    "\"onmouseover='alert(2)' x=\".mp4",
    "two\nlines\tand a tab.mp4",
    "\u202egnp.exe.mp4",
    "מילים בעברית.mp4",
    "n" * 300 + ".mp4",
    "{{ 7 * 7 }} & &lt;b&gt;.mp4",
    "]]></svg><img src=x onerror=alert(3)>.mp4",
)

RULES: tuple[Rule, ...] = (
    Rule(name="readable size", stage="facts", subject="asset", measure="size_bytes", op=">=", threshold=20_000, unit="byte"),
    Rule(
        name="long enough",
        stage="facts",
        subject="asset",
        measure="duration_us",
        op=">=",
        threshold=4e6,
        unit="us",
        kinds=("video", "audio"),
    ),
    Rule(name="no reservation", stage="rights", subject="asset", measure="optout_state", op="==", threshold=0, on_unknown="accept"),
    Rule(
        name="moves",
        stage="motion",
        subject="clip",
        measure="motion",
        op=">",
        threshold=2.0,
        kinds=("video",),
        reason="still pictures teach no motion",
    ),
    Rule(name="calm", stage="motion", subject="clip", measure="motion", op="<", threshold=14.0, kinds=("video",)),
    Rule(name="few borders", stage="motion", subject="clip", measure="border_share", op="<=", threshold=0.1, kinds=("video", "image")),
    Rule(name="little text", stage="content", subject="clip", measure="text_score", op="<", threshold=0.5, kinds=("video", "image")),
    Rule(name="pleasing", stage="content", subject="clip", measure="aesthetic", op=">=", threshold=4.5, kinds=("video", "image")),
    Rule(name="audible", stage="content", subject="clip", measure="loudness_db", op=">", threshold=-45.0, unit="dBFS", kinds=("audio",)),
    Rule(name="not a copy", stage="tables", subject="clip", measure="dup_rank", op="==", threshold=0),
    Rule(
        name="concept draw",
        stage="tables",
        subject="clip",
        measure="concept_margin",
        op=">",
        threshold=0.0,
        kinds=("video", "image"),
        on_unknown="accept",
    ),
    Rule(
        name="landscape mix",
        stage="tables",
        subject="clip",
        measure="mix_keep",
        op="==",
        threshold=1,
        kinds=("video",),
        set_name="high_res",
        on_unknown="accept",
    ),
)


def make(record: type, **given: object) -> Any:
    """A record with the given values; a required column that is not given, say one added later, gets an empty value of its type."""
    empty = {pa.string(): "", pa.binary(): b"", pa.bool_(): False, pa.float32(): 0.0, pa.float64(): 0.0}
    required = (f for f in dataclasses.fields(record) if f.default is dataclasses.MISSING)
    return record(**{f.name: empty.get(f.metadata["type"], 0) for f in required} | given)


def fake_tables(n_clips: int, seed: int = 7) -> dict[str, pa.Table]:
    """Every table of a dataset with this many clips; with 0 clips there is one broken asset and a run, nothing more."""
    draw = np.random.Generator(np.random.Philox(key=seed))
    assets = _assets(max(1, n_clips // 6), n_clips, draw)
    rules = [(i, r) for i, r in enumerate(RULES)]
    assets, decisions = _decided(assets, rules, "asset")
    clips = _clips([a for a in assets if a.decision == "keep" and a.kind], n_clips, draw)
    clips, more = _decided(clips, rules, "clip")
    clips, shards, members = _placed(clips)
    captions = [_caption(c, draw) for c in clips if c.decision == "keep"]
    number = {c.clip_no: c.caption_no for c in captions}
    clips = [dataclasses.replace(c, caption_no=number.get(c.clip_no)) for c in clips]
    found: dict[str, list[object]] = {
        "sources": [_source(i) for i in range(3)],
        "assets": [*assets],
        "clips": [*clips],
        "decisions": [*decisions, *more],
        "rules": [_rule_row(i, r) for i, r in rules],
        "runs": [_run()],
        "captions": [*captions],
        "shards": [*shards],
        "members": [*members],
    }
    return {name: to_table(record, found.get(name, [])) for name, record in TABLES.items()}


def fake_jpeg(clip_id: str, keyframe_part: str | None = None) -> bytes:
    """A small JPEG whose colours and shapes depend on the clip id."""
    from PIL import Image

    bits = np.random.Generator(np.random.Philox(key=int(clip_id[:15], 16)))
    y, x = np.mgrid[0:72, 0:128].astype(np.float64)
    centre, hue = bits.uniform(20, 100, 2), bits.uniform(40, 220, (2, 3))
    glow = np.exp(-((x - centre[0]) ** 2 + (y - centre[1] * 0.6) ** 2) / 900)[..., None]
    rgb = hue[0] * (0.4 + 0.6 * y / 72)[..., None] * (1 - glow) + hue[1] * glow
    out = io.BytesIO()
    Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=70)
    return out.getvalue()


def write_store(root: Path, tables: dict[str, pa.Table]) -> None:
    """The tables are committed as the first version of a manifest under `root`."""
    from manifests.tables import ManifestStore

    ManifestStore(root).commit("0" * 32, append={name: table for name, table in tables.items() if table.num_rows})


def _assets(n: int, n_clips: int, draw: np.random.Generator) -> list[records.Asset]:
    return [_asset(i, draw) if n_clips else _broken(i) for i in range(n)]


def _asset(i: int, draw: np.random.Generator) -> records.Asset:
    if i and i % 29 == 0:
        return _broken(i)
    kind = "audio" if i % 17 == 5 else "image" if i % 5 == 3 else "video"
    licence, level = [("CC-BY-4.0", 0), ("CC0-1.0", 0), ("CC-BY-NC-4.0", 1), ("LicenseRef-vendor-7", 0), (None, None)][
        int(draw.integers(5))
    ]
    size = None if kind == "audio" else [(1920, 1080), (1280, 720), (1080, 1920), (3840, 2160), (1000, 1000)][int(draw.integers(5))]
    reserved = None if draw.random() < 0.2 else int(i > 0 and draw.random() < 0.06)
    return make(
        records.Asset,
        **_identity(i),
        asset_no=i,
        uri="raw/" + (HOSTILE_NAMES[i % len(HOSTILE_NAMES)] if 0 < i <= len(HOSTILE_NAMES) else f"collection_{i % 3}/take_{i:05d}.mp4"),
        size_bytes=int(np.exp(draw.normal(14.5, 1.6))) if i else 5_000_000,
        source_no=i % 3,
        kind=kind,
        licence_expr=licence,
        licence_class=level,
        licence_evidence=licence and "LICENSE.txt",
        creator="a <b>creator</b>" if i % 4 == 0 else None,
        optout_state=reserved,
        optout_signals="tdm-reservation=1\nX-Robots-Tag=noai" if reserved else None,
        consent="given" if i % 3 == 0 else None,
        duration_us=None if kind == "image" else int(draw.gamma(2.0, 18.0) * 1e6) + (500_000 if i else 5_000_000),
        width=size and size[0],
        height=size and size[1],
        n_copies=1 + int(draw.random() < 0.05),
    )


def _broken(i: int) -> records.Asset:
    code, detail = [
        ("truncated", "expected 48 packets, found 31"),
        ("not_media", "expected a media container, found '<!DOCTYPE html>'"),
        ("timeout", "expected an answer within 60 s, found none"),
    ][i % 3]
    name = HOSTILE_NAMES[i % len(HOSTILE_NAMES)] if i % 2 == 0 else f"broken_{i:05d}.mkv"
    return make(
        records.Asset,
        **_identity(i),
        asset_no=i,
        uri=f"raw/{name}",
        size_bytes=100 + i,
        error_stage="probe",
        error_code=code,
        error_detail=detail,
    )


def _identity(i: int) -> dict[str, object]:
    sha256 = bytes.fromhex(ids.digest("fake", i) + ids.digest("fake, second half", i))
    return {"asset_id": ids.asset_id(sha256), "asset_sha256": sha256, "asset_md5": sha256[:16]}


def _clips(assets: list[records.Asset], n: int, draw: np.random.Generator) -> list[records.Clip]:
    clips: list[records.Clip] = []
    for i in range(n):
        asset, at = assets[i % len(assets)], i // len(assets) * 16_000_000
        clips.append(_clip(i, asset, at, clips, draw))
    groups = {c.dup_group for c in clips if c.dup_rank}
    ranks = {g: iter(range(1, n + 1)) for g in groups}
    clips = [dataclasses.replace(c, dup_rank=next(ranks[c.dup_group])) if c.dup_rank else c for c in clips]
    return [dataclasses.replace(c, dup_group=c.clip_id) if c.clip_id in groups else c for c in clips]


def _clip(i: int, asset: records.Asset, start_us: int, others: list[records.Clip], draw: np.random.Generator) -> records.Clip:
    kind = str(asset.kind)
    span = 0 if kind == "image" else int(draw.choice([4.2, 6.5, 9.0, 13.0, 15.5]) * 1e6)
    clip_id = ids.clip_id(asset.asset_id, kind, start_us, start_us + span)
    clip = make(
        records.Clip,
        clip_id=clip_id,
        clip_no=i,
        asset_id=asset.asset_id,
        asset_no=asset.asset_no,
        kind=kind,
        start_us=start_us,
        end_us=start_us + span,
        decided_run_no=1,
        has_audio=kind == "audio",
    )
    if kind == "audio":
        return dataclasses.replace(clip, loudness_db=float(draw.normal(-30, 10)), silence_fraction=float(draw.beta(1, 4)), dup_rank=0)
    if draw.random() < 0.01:
        return dataclasses.replace(clip, error_code="decode_failed", error_detail="expected 96 frames, found 12")
    cluster = int(min(draw.zipf(1.5), 400))
    probability = min(1.0, 1.4 / cluster**-0.75 / 40 + 0.1)
    copied = next((o for o in reversed(others[-40:]) if o.kind == kind and o.dup_rank == 0), None) if draw.random() < 0.06 else None
    key = "9x16" if (asset.width or 0) < (asset.height or 0) else "1x1" if asset.width == asset.height else "16x9"
    frames = "1f" if kind == "image" else {4.2: "128f", 6.5: "128f", 9.0: "192f"}.get(span / 1e6, "256f")
    chance = ids.uniform(1, "concept", clip_id)
    return dataclasses.replace(
        clip,
        keyframe_part=f"keyframes/part-{i // 512:05d}.parquet",
        width=asset.width,
        height=asset.height,
        n_frames=None if kind == "image" else round(span * 24e-6),
        motion=None if kind == "image" else float(draw.gamma(2.2, 2.4)),
        border_share=float(draw.choice([0.0, draw.beta(1, 8)], p=[0.8, 0.2])),
        brightness=float(draw.beta(4, 4)),
        contrast=float(draw.beta(4, 6) * 0.5),
        sharpness=float(np.exp(draw.normal(5, 1.3))),
        text_score=float(draw.choice([0.0, draw.beta(2, 3)], p=[0.6, 0.4])),
        aesthetic=None if draw.random() < 0.02 else float(draw.normal(5.0, 0.7)),
        camera=str(draw.choice(["static", "pan left", "tilt up", "zoom in", "tracking"])),
        camera_confidence=float(draw.beta(5, 2)),
        dup_rank=1 if copied else 0,
        dup_group=(copied.dup_group or copied.clip_id) if copied else None,
        dup_distance=int(draw.integers(0, 31)) if copied else None,
        cluster_no=cluster,
        keep_probability=probability,
        draw=chance,
        concept_margin=probability - chance,
        mix_keep=float(draw.random() < 0.9) if kind == "video" else None,
        set_name={"image": "image", "video": "high_res" if (asset.width or 0) > 1200 else "low_res"}[kind],
        bucket=f"{key}_{frames}",
    )


def _decided(subjects: list[S], rules: list[tuple[int, Rule]], subject: str) -> tuple[list[S], list[events.Decision]]:
    mine = [(i, r) for i, r in rules if r.subject == subject]
    decisions, out = [], []
    for s in subjects:
        outcomes = list(decide(mine, s))
        first = next((o.rule for o in outcomes if not RULES[o.rule].survives(o.passed)), None)
        out.append(dataclasses.replace(s, decision="keep" if first is None else "drop", first_fail_rule=first))
        clip_no = s.clip_no if isinstance(s, records.Clip) else None
        decisions += [
            make(
                events.Decision,
                run_no=1,
                rule_no=o.rule,
                asset_no=s.asset_no,
                clip_no=clip_no,
                score=o.score,
                passed=o.passed,
                reason_code=o.reason_code,
            )
            for o in outcomes
        ]
    return out, decisions


def _placed(clips: list[records.Clip]) -> tuple[list[records.Clip], list[records.Shard], list[records.Member]]:
    """Kept clips in shards of at most 32, by set and bucket."""
    groups: dict[tuple[str, str], list[records.Clip]] = {}
    for c in clips:
        if c.decision == "keep":
            groups.setdefault((c.set_name or "audio", c.bucket or "4s"), []).append(c)
    shards, members, place = [], [], {}
    for (set_name, bucket), inside in sorted(groups.items()):
        for part in range(0, len(inside), 32):
            samples, no = inside[part : part + 32], len(shards)
            for at, c in enumerate(samples):
                place[c.clip_id] = no
                name = {"video": "mp4", "image": "jpg", "audio": "flac"}[c.kind]
                for extension, offset, size in ((name, 512 + at * 100_000, 90_000), ("txt", 95_000 + at * 100_000, 120)):
                    members.append(
                        make(
                            records.Member,
                            shard_no=no,
                            clip_no=c.clip_no,
                            clip_id=c.clip_id,
                            extension=extension,
                            offset=offset,
                            size_bytes=size,
                            sha256=b"m" * 32,
                        )
                    )
            path = f"shards/{set_name}/{bucket}/{set_name}-{bucket}-{part // 32:06d}.tar"
            shards.append(
                make(
                    records.Shard,
                    shard_no=no,
                    path=path,
                    set_name=set_name,
                    bucket=bucket,
                    size_bytes=100_000 * len(samples) + 1024,
                    sha256=bytes([no % 256]) * 32,
                    n_samples=len(samples),
                    created_run_no=1,
                )
            )
    return [dataclasses.replace(c, shard_no=place.get(c.clip_id)) for c in clips], shards, members


def _caption(clip: records.Clip, draw: np.random.Generator) -> records.Caption:
    subject = draw.choice(["A heron", "A tram", "An old lighthouse", "A potter", "<b>Two</b> dogs"])
    action = draw.choice(["crosses a flooded street at dusk", "turns slowly under a bright sky", "stands in fog while gulls circle above"])
    prefix = f"{clip.camera}. " if clip.camera else None
    return make(
        records.Caption,
        caption_no=clip.clip_no + 1000,
        clip_no=clip.clip_no,
        text=f"{subject} {action}.",
        captioner="facts",
        captioner_version="1",
        camera_prefix=prefix,
    )


def _source(i: int) -> records.Source:
    name = f"collection_{i}" if i else "<i>collection</i>"
    return make(
        records.Source, source_no=i, name=name, supplier=["Archive & Sons", "City", None][i], licence_default="CC-BY-4.0" if i else None
    )


def _rule_row(number: int, rule: Rule) -> events.RuleRow:
    same = {
        f: getattr(rule, f)
        for f in ("name", "version", "stage", "subject", "set_name", "measure", "measure_version", "op", "unit", "on_unknown", "reason")
    }
    return make(events.RuleRow, rule_no=number, position=number, kinds=",".join(rule.kinds), threshold=float(rule.threshold), **same)


def _run() -> events.Run:
    start = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    config = json.dumps({"name": "tiny"})
    return make(
        events.Run,
        run_no=1,
        run_id=ids.digest("run"),
        command="curate",
        code_version="0.1.0",
        config_sha256=ids.digest(config) * 2,
        config_json=config,
        parent_version=-1,
        started_at=start,
        ended_at=start + timedelta(minutes=42),
    )
