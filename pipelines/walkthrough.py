"""One file from raw bytes to a training sample, in a straight line: the table of contents of curation.

Every step below is the same function that Ray and Spark run; here each is called once, in plain Python, and says what it made. The steps
that open the file run in a sandbox's child, as they do there.
"""

import dataclasses
import tempfile
from collections.abc import Generator, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation import buckets, captions, concepts, credentials, duplicates, embeddings, facts, ingest, keepers, listing, rights, text
from curation.encode_apart import encode_in, encode_sandbox
from curation.ffmpeg_program import EncodeError
from curation.isolate import Sandbox
from curation.keyframes import KeyFrame, of_clip
from curation.media import MediaError
from curation.probe import probe_asset
from curation.scan import Scan, failed, scan_asset
from curation.split import split_asset
from curation.tracks import Tracks, by_name
from manifests.records import Asset, Clip
from manifests.rules import Rule, decide
from manifests.schema import to_table
from manifests.shards import Payload, write_shard
from pipelines.jobs import GRACE_S
from pipelines.measures import MEASURES, run_measure
from pipelines.settings import CurateConfig

Lines = Iterator[str]


def walk(file: Path, config: CurateConfig) -> Lines:
    """What each stage makes of the file, as lines for a person; stops where a rule drops it."""
    limits = config.scan.media
    with Sandbox(limits.max_wall_s + GRACE_S, limits.memory_bytes) as box, encode_sandbox(config.encode, limits) as encoder:
        yield from _walk(file, config, box, encoder)


def _walk(file: Path, config: CurateConfig, box: Sandbox, encoder: Sandbox) -> Lines:
    # 1 ingest: bytes -> asset id, rights from the sidecar
    (listed,) = listing.list_inputs([str(file)])
    asset = ingest.complete(ingest.ingest(listed, config.ingest, Path(tempfile.gettempdir())), listed.sources, config.ingest)
    if credentials.library_version():
        try:
            said = box.call(credentials.read_credentials, str(file), credentials.trust_anchors(config.ingest.trust_anchors))
        except MediaError:  # the native library crashed or hung on it
            said = credentials.Credentials(c2pa_state="unreadable")
        asset = rights.with_credentials(asset, said)
    asset = dataclasses.replace(rights.settle(asset, config.rights, date.today()), blocked=0.0)
    yield from _shown(
        "1 ingest", asset, "asset_id size_bytes licence_expr licence_class reservation c2pa_state creator supplied_caption error_detail"
    )
    # 2 probe: container facts, first frame decoded
    try:
        asset = facts.derive_asset(box.call(probe_asset, asset, str(file), config.scan.media))
    except MediaError as e:
        asset = facts.derive_asset(dataclasses.replace(asset, error_stage="probe", error_code=e.code, error_detail=e.detail))
    yield from _shown(
        "2 probe", asset, "kind container vcodec width height rotation fps_num fps_den is_vfr duration_s has_audio error_code error_detail"
    )
    # 3 rules on rights and facts: a dropped asset costs nothing more
    yield "3 rules on rights and facts"
    if not (yield from _decided(config.policy(), ("rights", "facts"), asset)):
        return
    # 4 scan: one decode feeds every observer; what it leaves is all that measures read
    try:
        found = box.call(scan_asset, asset, str(file), config.scan)
    except MediaError as e:
        found = Scan(asset=failed(asset, e))
    asset = facts.derive_asset(found.asset)
    yield from _shown("4 scan (one decode)", asset, "n_frames duration_s error_code error_detail")
    tracks = by_name(found.tracks)
    for track in found.tracks:
        yield f"     track {track.name:<12} {len(track):,} times x {', '.join(track.fields)}"
    yield f"     {len(found.keyframes)} key frames"
    if asset.error_code is not None:
        return
    # 5 split: shots on the tracks, clips inside the shots
    split = split_asset(asset, tracks, config.split)
    yield f"5 split: {len(split.shots)} shots, {len(split.clips)} clips"
    for clip in split.clips:
        frames = of_clip(found.keyframes, clip)
        yield from _walk_clip(file, asset, dataclasses.replace(clip, asset_kept=1.0), tracks, frames, config, encoder)


def _walk_clip(
    file: Path, asset: Asset, clip: Clip, tracks: Tracks, frames: list[KeyFrame], config: CurateConfig, encoder: Sandbox
) -> Lines:
    yield f"\nclip {clip.clip_id}  {clip.start_us / 1e6:.3f} s to {clip.end_us / 1e6:.3f} s, shot {clip.shot_no}"
    # 6 measures on tracks, then the rules on them
    for measure in MEASURES:
        clip = dataclasses.replace(clip, **run_measure(measure, clip, tracks, getattr(config.measures, measure.name)))
        yield from _shown(f"  6 {measure.name}", clip, " ".join(measure.columns))
    yield "  rules on what the tracks tell"
    if not (yield from _decided(config.policy(), ("analysed",), clip)):
        return
    # 7 measures on key frames: text, descriptors (networks need weights)
    (score,) = text.ScoreText(config.text)([(clip, frames)])
    (described,) = embeddings.DescribeClips(config.descriptors)([(clip, frames, tracks.get("hashes"))])
    clip = dataclasses.replace(clip, **{n: getattr(score, n) for n in text.COLUMNS})
    yield from _shown("  7 text", clip, " ".join(text.COLUMNS))
    yield f"     {len(described.pdq)} PDQ hashes over {len(frames)} key frames, concept vector of {len(described.concept)}"
    yield "  rules on content"
    if not (yield from _decided(config.policy(), ("content",), clip)):
        return
    # 8, 9 table stages see the whole dataset; a table of one clip shows their shape
    clip = _tables(clip, asset, described, config)
    yield from _shown("  8-9 duplicates, concepts, sets", clip, "dup_rank cluster_no keep_probability draw set_name bucket")
    if clip.set_name is None:
        return
    # 10 caption
    said = captions.caption(clip, asset, frames, config.captions)
    yield f"  10 caption by {said.captioner}: {said.camera_prefix or ''} {said.text}"
    # 11 encode for the bucket, and a shard of one sample
    yield from _encoded(file, asset, clip, said.text or "", config, encoder)


def _tables(clip: Clip, asset: Asset, described: embeddings.Descriptor, config: CurateConfig) -> Clip:
    alike = pa.table(
        {
            "clip_id": [clip.clip_id],
            "kind": [clip.kind],
            "quality": keepers.copy_quality(to_table(Clip, [clip]), to_table(Asset, [asset])),
            "n_pixels": [(clip.width or 0) * (clip.height or 0)],
            "pdq": pa.array([described.pdq], pa.list_(pa.binary())),
            "pdq_frame": pa.array([described.pdq_frame], pa.list_(pa.int32())),
            "pdq_own": pa.array([described.pdq_own], pa.list_(pa.bool_())),
        }
    )
    found: dict[str, Any] = dict(duplicates.label_duplicates(alike, config.duplicates).to_pylist()[0])
    if described.concept:
        vectors = pa.table({"clip_id": [clip.clip_id], "vector": pa.array([described.concept], pa.list_(pa.float32()))})
        found |= concepts.label_concepts(vectors, config.concepts).to_pylist()[0]
    member = buckets.assign_set(clip, tuple(config.sets.values()))
    found |= {"set_name": member.set_name, "bucket": member.fit.bucket.name if member.fit.bucket else None}
    known = {f.name for f in dataclasses.fields(Clip)}
    return dataclasses.replace(clip, **{k: v for k, v in found.items() if k in known})


def _encoded(file: Path, asset: Asset, clip: Clip, caption: str, config: CurateConfig, encoder: Sandbox) -> Lines:
    fit = buckets.bucket_of(clip, config.sets[clip.set_name or ""])
    if fit.bucket is None or fit.start_us is None or fit.end_us is None:
        raise ValueError(f"clip {clip.clip_id}: expected a bucket in set {clip.set_name}, found none ({fit.reason})")
    shape = (fit.bucket.width or 0, fit.bucket.height or 0, fit.bucket.n_frames or 0, fit.fps_num or 0, fit.fps_den or 0)
    try:
        made = encode_in(encoder, str(file), clip, asset, shape, config.encode, (fit.start_us, fit.end_us), config.scan.media)
    except (EncodeError, MediaError) as error:
        yield f"  11 encode failed: {error}"
        return
    yield f"  11 encoded {len(made.data):,} bytes .{made.extension}: {made.width} x {made.height}, {made.n_frames} frames at {made.fps_num}/{made.fps_den}"
    with tempfile.TemporaryDirectory() as folder:
        payloads = [
            Payload(clip_id=clip.clip_id, extension=made.extension, data=made.data),
            Payload(clip_id=clip.clip_id, extension="txt", data=caption.encode()),
        ]
        written = write_shard(Path(folder) / "walkthrough.tar", payloads)
    for member in written.members:
        yield f"     member {member.clip_id}.{member.extension} at byte {member.offset}, {member.size_bytes:,} bytes, sha256 {member.sha256.hex()[:16]}…"


def _decided(policy: tuple[Rule, ...], stages: tuple[str, ...], subject: Asset | Clip) -> Generator[str, None, bool]:
    """A line per rule; returns whether the subject survives them."""
    rules = [(i, r) for i, r in enumerate(policy) if r.stage in stages]
    alive = True
    for outcome in decide(rules, subject):
        rule = policy[outcome.rule]
        verdict = {True: "pass", False: "REJECT", None: "unknown"}[outcome.passed]
        yield f"     {verdict:<8} {rule.name:<22} {rule.sentence(outcome.score)}"
        alive = alive and rule.survives(outcome.passed)
    return alive


def _shown(title: str, record: Any, names: str) -> Lines:
    """The record's fields that hold something."""
    held = {n: getattr(record, n) for n in names.split() if getattr(record, n) is not None}
    yield title
    for name, value in held.items():
        yield f"     {name:<18} {round(value, 4) if isinstance(value, float) else value}"
