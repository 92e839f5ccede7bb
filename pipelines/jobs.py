"""The jobs of the stages: input rows -> output tables, each the thin skin over one function of `curation`."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from curation import buckets, captions, credentials, facts, ingest, keyframes, quarantine, rights, soundtrack, tracks
from curation.blocklist import Blocklist
from curation.captions import CaptionText
from curation.listed import Listing
from curation.media import PASSING, MediaError
from manifests import ids
from manifests.events import Block
from manifests.purgeable import redact
from manifests.records import Asset, Clip
from manifests.schema import arrow_schema, from_row, from_table, to_table
from manifests.tables import ManifestStore
from pipelines.batches import ERRORS, pictures_of
from pipelines.settings import CurateConfig
from pipelines.stage import Job, Place, canonical

_ASSET, _CLIP = arrow_schema(Asset), arrow_schema(Clip)
T = TypeVar("T")
FACT_COLUMNS = (
    "kind",
    "container",
    "vcodec",
    "acodec",
    "duration_us",
    "start_us",
    "width",
    "height",
    "rotation",
    "fps_num",
    "fps_den",
    "time_base_num",
    "time_base_den",
    "n_frames",
    "is_vfr",
    "has_audio",
    "sample_rate_hz",
    "channels",
    "readable",
    "short_side_px",
    "aspect_ratio",
    "duration_s",
    "error_stage",
    "error_code",
    "error_detail",
)
"""What probing tells of an asset."""

SCANNED_COLUMNS = (
    "start_us",
    "duration_us",
    "n_frames",
    "n_spared",
    "is_vfr",
    "duration_s",
    "readable",
    "scan_part",
    "error_stage",
    *ERRORS,
)
"""What decoding tells of an asset, better than its container did."""

_DERIVED = (*FACT_COLUMNS, "n_spared", "n_clips", "scan_part", "first_fail_rule")


def without_facts(asset: Asset) -> Asset:
    """The asset as ingest left it: identity, rights, and the error of an ingest that failed."""
    if asset.error_stage == "ingest":
        return dataclasses.replace(asset, decision="pending", first_fail_rule=None)
    nothing: dict[str, Any] = dict.fromkeys(_DERIVED)
    return dataclasses.replace(asset, decision="pending", **nothing)


def with_asset_columns(clips: pa.Table, assets: pa.Table) -> pa.Table:
    """Rows for stages that need a clip and its asset: columns key (the clip's id; `row_keys` sets the stage's own), clip_id, clip and asset."""
    import pyarrow.compute as pc

    rows = pc.index_in(clips.column("asset_id"), value_set=assets.column("asset_id").combine_chunks())
    ids_of = clips.column("clip_id")
    return pa.table([ids_of, ids_of, _struct(clips, _CLIP), _struct(assets.take(rows), _ASSET)], schema=CLIP_AND_ASSET)


def with_noted(rows: pa.Table, noted: pa.Table) -> pa.Table:
    """The rows of assets, or of clips with their asset, and when the asset's file was last written, as ingest noted in this run.

    Null where ingest saw other bytes at the asset's address, or did not look there: the file is then hashed before it is opened.
    """
    inside = "asset" in rows.column_names
    asset_ids, uris = (pc.struct_field(rows.column("asset"), [n]) if inside else rows.column(n) for n in ("asset_id", "uri"))
    at = pc.index_in(uris, value_set=noted.column("uri").combine_chunks())
    same = pc.equal(noted.column("asset_id").take(at), asset_ids)
    return rows.append_column(NOTED, pc.if_else(same, noted.column(NOTED).take(at), pa.scalar(None, pa.int64())))


def _noted(rows: pa.Table) -> list[int | None]:
    times: list[int | None] = rows.column(NOTED).to_pylist() if NOTED in rows.column_names else [None] * rows.num_rows
    return times


def _struct(table: pa.Table, schema: pa.Schema) -> pa.StructArray:
    columns = [table.column(f.name).combine_chunks() for f in schema]
    return pa.StructArray.from_arrays(columns, fields=[f.with_nullable(True) for f in schema])


CLIP_AND_ASSET = pa.schema(
    [
        ("key", pa.string()),
        ("clip_id", pa.string()),
        ("clip", pa.struct([f.with_nullable(True) for f in _CLIP])),
        ("asset", pa.struct([f.with_nullable(True) for f in _ASSET])),
    ]
)


NOTED = "mtime_ns"
"""Column of ingest's rows beside those of an asset, and of the inputs of the stages that open one: when its file was last written."""

GRACE_S = 30.0
"""What a decode gets beyond its own time limit before its process is ended from outside."""

# Jobs: input rows -> output tables. Each is the thin skin over one function of `curation`.


def make_ingest(config: CurateConfig, place: Place) -> Job:
    """Listings become assets, hashed and with their rights; of one that is on the blocklist nothing but its hashes is kept."""
    from curation.isolate import Sandbox

    blocked = Blocklist.of(from_table(Block, ManifestStore(place.dataset).read("blocklist")))
    anchors = credentials.trust_anchors(config.ingest.trust_anchors)
    limits = config.scan.media
    sandbox = Sandbox(limits.max_wall_s + GRACE_S, limits.memory_bytes) if credentials.library_version() else None

    def take_in(listing: Listing) -> ingest.Taken:
        taken = ingest.take_in(listing, config.ingest, place.fetched)
        asset = taken.asset
        if blocked.blocks(asset):
            (place.fetched / asset.asset_id).unlink(missing_ok=True)
            return ingest.Taken(dataclasses.replace(redact(asset), blocked=1.0))
        if sandbox is None or asset.error_stage is not None:
            return taken
        try:
            with ingest.bytes_of(asset, place.fetched, config.ingest, taken.mtime_ns) as path:
                found = sandbox.call(credentials.read_credentials, path, anchors)
        except MediaError as lost:
            if lost.code in PASSING:  # it went, or was written to, since it was hashed
                return ingest.Taken(ingest.unreadable(listing, lost.detail, rights.of_asset(asset), lost.code))
            # The native library crashed or hung on it: that is the file's doing, and probing will say more.
            found = credentials.Credentials(c2pa_state="unreadable")
        return dataclasses.replace(taken, asset=rights.with_credentials(asset, found))

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        listings = from_table(Listing, rows)
        taken = [take_in(listing) for listing in listings]
        assets = to_table(Asset, [t.asset for t in taken]).append_column("key", pa.array([x.key for x in listings], pa.string()))
        return {"rows": assets.append_column(NOTED, pa.array([t.mtime_ns for t in taken], pa.int64()))}

    return job


def make_probe(config: CurateConfig, place: Place) -> Job:
    """Assets get their container facts; what a decoder cannot survive is the asset's error."""
    from curation.isolate import Sandbox
    from curation.probe import probe as probe_file
    from curation.probe import with_facts

    limits, under = config.scan.media, counted_under("probe", config)
    sandbox = Sandbox(limits.max_wall_s + GRACE_S, limits.memory_bytes)

    def probe(asset: Asset, noted: int | None) -> Asset:
        try:
            with ingest.bytes_of(asset, place.fetched, config.ingest, noted) as path:
                found = with_facts(asset, _tried(lambda: sandbox.call(probe_file, path, limits), place, asset, under, config))
        except MediaError as e:  # broken, or the child crashed, hung or grew: the file's fault, and its row says so
            found = dataclasses.replace(asset, error_stage="probe", error_code=e.code, error_detail=e.detail)
        return facts.derive_asset(found)

    return lambda rows, part: {"rows": to_table(Asset, map(probe, from_table(Asset, rows), _noted(rows)))}


def make_scan(config: CurateConfig, place: Place) -> Job:
    """Assets become tracks, key frames and a sound copy, in one decode inside a sandbox."""
    from curation.isolate import Sandbox
    from curation.scan import Scan, failed
    from curation.scan import scan as scan_file

    settings, under = config.scan, counted_under("scan", config)
    sandbox = Sandbox(settings.media.max_wall_s + GRACE_S, settings.media.memory_bytes)

    def scan(asset: Asset, noted: int | None) -> Scan:
        try:
            with ingest.bytes_of(asset, place.fetched, config.ingest, noted) as path:
                return _tried(lambda: sandbox.call(scan_file, asset, path, settings), place, asset, under, config)
        except MediaError as lost:
            return Scan(asset=failed(asset, lost))

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        found = list(map(scan, from_table(Asset, rows), _noted(rows)))
        # What was not looked at, as its file was not there, has nothing to cut: no part, or it would have no clips for good.
        parts = [None if f.asset.error_code in PASSING else part for f in found]
        assets = [facts.derive_asset(dataclasses.replace(f.asset, scan_part=p)) for f, p in zip(found, parts, strict=True)]
        return {
            "rows": to_table(Asset, assets),
            "tracks": pa.concat_tables([tracks.to_table(f.asset.asset_id, f.tracks) for f in found]),
            "keyframes": keyframes.to_table(k for f in found for k in f.keyframes),
            "sound": soundtrack.to_table(s for f in found for s in f.soundtrack),
        }

    return job


def _tried(work: Callable[[], T], place: Place, asset: Asset, under: str, config: CurateConfig) -> T:
    """The result of work in a process that may die of the asset: tried again a few times, then the asset is quarantined."""
    return quarantine.try_often(work, place.quarantine, asset.asset_id, under, config.quarantine)


def counted_under(stage: str, config: CurateConfig) -> str:
    """The name under which attempts at a stage are counted: another limit or version of it has attempts of its own."""
    from pipelines.plan import stage_named  # it imports this file

    return f"{stage}-{stage_named(stage).digest(config)}"


def counted_of_clip(clip_id: str, config: CurateConfig) -> str:
    """The name under which attempts to encode one clip of an asset are counted. Memory decides nothing of a sample, but whether one is lost."""
    return f"encode-{ids.digest('encode/tried/v1', counted_under('encode', config), config.scan.media.memory_bytes)[:16]}-{clip_id}"


def counted_of_caption(clip_id: str, config: CurateConfig) -> str:
    """The name under which an endpoint's refusals to caption one clip of an asset are counted: other words, or another address, are others."""
    addresses = (part for name, e in sorted(config.captions.endpoints.items()) for part in (name, e.base_url))
    return f"caption-{ids.digest('caption/asked/v1', counted_under('caption', config), *addresses)[:16]}-{clip_id}"


def make_split(config: CurateConfig, place: Place) -> Job:
    """Scanned assets become clips, from their tracks."""
    from curation.split import SHOTS_SCHEMA, Split, shots_table, split_asset
    from pipelines.measures import read_tracks

    def split(asset: Asset) -> Split:
        found = read_tracks(place, asset.scan_part, ("shots", "transitions")).get(asset.asset_id, {})
        if asset.error_code is not None and not found:
            return Split(clips=[], shots=[])  # nothing of it was seen; of a file that breaks off, what was seen is cut
        return split_asset(asset, found, config.split)

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        assets = from_table(Asset, rows)
        found = [split(asset) for asset in assets]
        pairs = list(zip(assets, found, strict=True))
        return {
            "rows": pa.Table.from_pylist([{"asset_id": a.asset_id, "n_clips": float(len(f.clips))} for a, f in pairs], schema=SPLIT_SCHEMA),
            "clips": to_table(Clip, [clip for f in found for clip in f.clips]),
            "shots": pa.concat_tables([SHOTS_SCHEMA.empty_table(), *(shots_table(a.asset_id, f.shots) for a, f in pairs)]),
        }

    return job


def _pairs(rows: pa.Table) -> list[tuple[Clip, Asset]]:
    return [(from_row(Clip, r["clip"]), from_row(Asset, r["asset"])) for r in rows.to_pylist()]


def make_caption(config: CurateConfig, place: Place) -> Job:
    """Clips get a caption."""
    stage = captions.CaptionClips(config.captions)

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        pairs = _pairs(rows)
        frames = pictures_of(place, [clip for clip, _ in pairs])
        found = stage([(clip, asset, pictures) for (clip, asset), pictures in zip(pairs, frames, strict=True)])
        if config.quarantine.enabled and config.captions.endpoints:
            for row, (_, asset) in zip(found, pairs, strict=True):
                _count_refusal(row, asset.asset_id, place, config)
        keys = rows.column("key").to_pylist()
        made = [{"key": k, "asset_id": a.asset_id} | dataclasses.asdict(r) for k, r, (_, a) in zip(keys, found, pairs, strict=True)]
        return {"rows": pa.Table.from_pylist(made, schema=CAPTION_SCHEMA)}

    return job


def _count_refusal(row: CaptionText, asset_id: str, place: Place, config: CurateConfig) -> None:
    """A clip that an endpoint would not have is one refusal nearer to being left alone; of one that has its caption nothing is counted."""
    if captions.is_refusal(row.error_code or ""):
        under = counted_of_caption(row.clip_id, config)
        quarantine.note_failure(place.quarantine, asset_id, under, row.error_code or "", row.error_detail or "")
    elif row.error_code is None:
        quarantine.forget(place.quarantine, asset_id, counted_of_caption(row.clip_id, config))


def make_encode(config: CurateConfig, place: Place) -> Job:
    """Clips become payloads in the shape of their bucket; one that cannot is a row with the reason."""
    from curation.encode import made_by
    from curation.encode_apart import encode_in, encode_sandbox
    from curation.ffmpeg_program import EncodeError

    sandbox = encode_sandbox(config.encode, config.scan.media)
    made_how = made_by(config.encode, config.scan.media)
    digests = {name: ids.digest("encode/v3", canonical((*made_how, s.shape)))[:16] for name, s in config.sets.items()}

    def encode(clip: Clip, asset: Asset, noted: int | None, part: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        fit = buckets.bucket_of(clip, config.sets[clip.set_name or ""])
        if fit.bucket is None or fit.start_us is None or fit.end_us is None:
            raise ValueError(f"clip {clip.clip_id}: set {clip.set_name} has no bucket for it ({fit.reason}); compose_sets gave it one")
        under = counted_of_clip(clip.clip_id, config)
        try:
            shape = (fit.bucket.width or 0, fit.bucket.height or 0, fit.bucket.n_frames or 0, fit.fps_num or 0, fit.fps_den or 0)
            with ingest.bytes_of(asset, place.fetched, config.ingest, noted) as path:
                arguments = (path, clip, asset, shape, config.encode, (fit.start_us, fit.end_us), config.scan.media)
                made = _tried(lambda: encode_in(sandbox, *arguments), place, asset, under, config)
        except (EncodeError, MediaError) as error:
            if error.code == "ffmpeg_failed" and config.quarantine.enabled:  # tried again in another run, as often as a loss
                quarantine.note_failure(place.quarantine, asset.asset_id, under, error.code, error.detail)
            said = {"error_code": error.code, "error_detail": error.detail[:2000]}
            return {"clip_id": clip.clip_id, "asset_id": clip.asset_id, "encoded": 0.0, **said}, None
        row = {
            "clip_id": clip.clip_id,
            "asset_id": clip.asset_id,
            "encoded": 1.0,
            "extension": made.extension,
            "width": made.width,
            "height": made.height,
            "n_frames": made.n_frames,
            "fps_num": made.fps_num,
            "fps_den": made.fps_den,
            "part": part,
            "encode_digest": digests[clip.set_name or ""],
            "payload_sha256": hashlib.sha256(made.data).hexdigest(),
        }
        return row, {"clip_id": clip.clip_id, "data": made.data}

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        keys, clips = rows.column("key").to_pylist(), _pairs(rows)
        made = [(key, *encode(clip, asset, noted, part)) for key, (clip, asset), noted in zip(keys, clips, _noted(rows), strict=True)]
        return {
            "rows": pa.Table.from_pylist([{"key": key} | row for key, row, _ in made], schema=ENCODED_SCHEMA),
            "payload": pa.Table.from_pylist([{"key": key} | data for key, _, data in made if data], schema=PAYLOAD_SCHEMA),
        }

    return job


_ERROR_FIELDS = [("error_code", pa.string()), ("error_detail", pa.string())]
SPLIT_SCHEMA = pa.schema([("asset_id", pa.string()), ("n_clips", pa.float32())])
CAPTION_SCHEMA = pa.schema(
    [("key", pa.string()), ("asset_id", pa.string()), *((f.name, pa.string()) for f in dataclasses.fields(CaptionText))]
)
ENCODED_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("clip_id", pa.string()),
        ("asset_id", pa.string()),
        ("encoded", pa.float32()),
        ("extension", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("n_frames", pa.int32()),
        ("fps_num", pa.int32()),
        ("fps_den", pa.int32()),
        ("part", pa.string()),
        ("encode_digest", pa.string()),
        ("payload_sha256", pa.string()),
        *_ERROR_FIELDS,
    ]
)
PAYLOAD_SCHEMA = pa.schema([("key", pa.string()), ("clip_id", pa.string()), ("data", pa.binary())])
