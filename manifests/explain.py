"""Why one asset or clip is in the dataset or not: every measure, every rule with its verdict, where the bytes went, what saw them.

Answers are read from the manifest as it stands; the verdicts are those of the ledger, the newest of each rule in force.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from manifests import events, records
from manifests.find import LookupFailed, find
from manifests.lookup import clip_by_id, is_id
from manifests.policy import PICKED, numbers_in_force, rule_of
from manifests.query import Snapshot, rows
from manifests.schema import TABLES, from_row
from manifests.whatif import Limits, open_files

Exposed = Callable[[events.Exposure, str], int | None]
"""(checkpoint's exposure, clip_id) -> the first step that consumed the clip, or None. The plan replay behind it lives in training."""

_SPAN = {"asset": ("size_bytes", "channels"), "clip": ("shot_no", "mix_keep")}
"""First and last column that says what was measured, in the order of `manifests.records`."""
_ASSET_FIELDS = [f.name for f in dataclasses.fields(records.Asset)]
_STATED = _ASSET_FIELDS[_ASSET_FIELDS.index("source_url") : _ASSET_FIELDS.index("blocked") + 1]
_RIGHTS = (*(n for n in _STATED if n != "supplied_caption"), "state")
_ALWAYS = {"licence_expr", "licence_class", "licence_evidence", "consent", "optout_state", "optout_signals", "reservation", "state"}
_ALWAYS |= {"source_url", "title", "creator"}
"""Rights that are told also where nobody stated them."""
_NOT_MEASURES = ("keyframe_part", "scan_part", "set_name", "bucket", "uri", "n_copies", "source_no", "kind", "supplied_caption", *_RIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One stored column of the subject. None = not measured."""

    name: str
    value: float | int | bool | str | None
    unit: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one rule said. `decisive`: the first that the subject did not pass. `sentence` says it to a person."""

    subject: str
    rule_no: int
    name: str
    stage: str
    measure: str
    score: float | None
    op: str
    threshold: float
    unit: str
    passed: bool | None
    reason_code: str
    sentence: str
    decisive: bool
    run_no: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPlace:
    """The bytes of one file of the clip: at [offset, offset + size_bytes) of the shard."""

    extension: str
    offset: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a kept clip was written."""

    set_name: str | None
    bucket: str | None
    shard: str | None
    shard_sha256: str | None
    members: tuple[MemberPlace, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Another clip of the same near-duplicate group."""

    clip_id: str
    rank: int | None
    distance_bits: int | None
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A checkpoint that has seen the clip (of an asset: any of its clips). `first_step` is None where no replay was given."""

    run_path: str
    checkpoint: str
    stage: str
    manifest_version: int
    first_step: int | None
    clip_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLine:
    """One clip of an asset."""

    clip_id: str
    start_us: int
    end_us: int
    decision: str
    set_name: str | None
    bucket: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything the manifest says of one subject. Clip-only parts are empty for an asset, `clips` for a clip."""

    subject: Literal["asset", "clip"]
    id: str
    asset_id: str
    asset_sha256: str
    uri: str
    kind: str | None
    start_us: int | None
    end_us: int | None
    decision: str
    error: str | None
    measures: tuple[Measured, ...]
    verdicts: tuple[Verdict, ...]
    earlier_runs: tuple[int, ...]
    decided_by: str | None
    place: Place | None
    caption: str | None
    captioner: str | None
    duplicates: tuple[Duplicate, ...]
    rights: tuple[Measured, ...]
    source: str | None
    clips: tuple[ClipLine, ...]
    exposures: tuple[Sighting, ...]
    exposures_replayed: bool


def explain(store: Snapshot, key: str, *, exposed: Exposed | None = None, version: int | None = None) -> Explanation:
    """What the manifest says of the asset or clip that `key` names.

    `key` is an id, the first six or more digits of one, a SHA-256 or MD5 of the file, or a URI, address or file name as found.
    Raises LookupFailed when it names nothing or several things.
    """
    whole = key.strip().lower()
    clip = clip_by_id(store, whole, version) if is_id(whole) else None  # by any other key, every clip's id is looked at
    version = store.version() if version is None else version
    con = open_files(store, version, tuple(TABLES), Limits())  # our own SQL: DuckDB itself skips what cannot hold a number
    try:
        if clip is not None:
            return _explain_clip(con, clip, exposed)
        subject, found = find(con, key)
        if subject == "asset":
            return _explain_asset(con, found, exposed)
        clip = from_row(records.Clip, rows(con, "SELECT * FROM clips WHERE clip_id = ?", found)[0])
        return _explain_clip(con, clip, exposed)
    finally:
        con.close()


def _explain_clip(con: duckdb.DuckDBPyConnection, clip: records.Clip, exposed: Exposed | None) -> Explanation:
    asset = _asset(con, "asset_no", clip.asset_no)
    asset_verdicts, _ = _verdicts(con, asset, None) if asset else ((), ())
    verdicts, earlier = _verdicts(con, clip, clip.clip_no)
    caption = rows(con, "SELECT * FROM captions WHERE caption_no = ?", clip.caption_no)[:1]
    return Explanation(
        subject="clip",
        id=clip.clip_id,
        start_us=clip.start_us,
        end_us=clip.end_us,
        decision=clip.decision,
        error=_error(clip),
        measures=_columns(clip),
        verdicts=asset_verdicts + verdicts,
        earlier_runs=earlier,
        decided_by=_run(con, verdicts),
        place=_place(con, clip),
        caption=f"{caption[0]['camera_prefix'] or ''}{caption[0]['text']}" if caption else None,
        captioner=f"{caption[0]['captioner']} {caption[0]['captioner_version']}" if caption else None,
        duplicates=_duplicates(con, clip),
        clips=(),
        exposures=_sightings(con, [clip.clip_id], exposed),
        exposures_replayed=exposed is not None,
        **_of_asset(con, asset, clip.asset_id, clip.kind),
    )


def _explain_asset(con: duckdb.DuckDBPyConnection, asset_id: str, exposed: Exposed | None) -> Explanation:
    asset = _asset(con, "asset_id", asset_id)
    if asset is None:
        raise LookupFailed(f"explain: asset {asset_id} is not in the manifest")
    verdicts, earlier = _verdicts(con, asset, None)
    clips = rows(
        con,
        "SELECT clip_id, start_us, end_us, decision, set_name, bucket FROM clips WHERE asset_id = ? ORDER BY start_us, clip_id",
        asset_id,
    )
    return Explanation(
        subject="asset",
        id=asset.asset_id,
        start_us=None,
        end_us=None,
        decision=asset.decision,
        error=_error(asset),
        measures=_columns(asset),
        verdicts=verdicts,
        earlier_runs=earlier,
        decided_by=_run(con, verdicts),
        place=None,
        caption=asset.supplied_caption,
        captioner="supplied with the file" if asset.supplied_caption else None,
        duplicates=(),
        clips=tuple(ClipLine(**c) for c in clips),
        exposures=_sightings(con, [c["clip_id"] for c in clips], exposed),
        exposures_replayed=exposed is not None,
        **_of_asset(con, asset, asset_id, asset.kind),
    )


def _asset(con: duckdb.DuckDBPyConnection, key: Literal["asset_id", "asset_no"], value: str | int) -> records.Asset | None:
    found = rows(con, f"SELECT * FROM assets WHERE {key} = ?", value)  # noqa: S608 (a column's name)
    return from_row(records.Asset, found[0]) if found else None


def _of_asset(con: duckdb.DuckDBPyConnection, asset: records.Asset | None, asset_id: str, kind: str | None) -> dict[str, Any]:
    """The parts of an explanation that lie with the file."""
    source = rows(con, "SELECT name, supplier FROM sources WHERE source_no = ? LIMIT 1", asset.source_no) if asset else []
    fields = {f.name: f for f in dataclasses.fields(records.Asset)}
    return {
        "asset_id": asset_id,
        "asset_sha256": asset.asset_sha256.hex() if asset else "",
        "uri": asset.uri if asset else "",
        "kind": kind,
        "rights": tuple(_measured(asset, fields[n]) for n in _RIGHTS if n in _ALWAYS or getattr(asset, n) is not None) if asset else (),
        "source": " / ".join(filter(None, (source[0]["name"], source[0]["supplier"]))) if source else None,
    }


def _error(subject: Any) -> str | None:
    if subject.error_code is None:
        return None
    stage = getattr(subject, "error_stage", None)
    return ": ".join(filter(None, (stage, subject.error_code, subject.error_detail)))


def _columns(subject: Any) -> tuple[Measured, ...]:
    """What was measured of the subject: the columns between its first and last measure."""
    fields = list(dataclasses.fields(subject))
    names = [f.name for f in fields]
    first, last = _SPAN["clip" if isinstance(subject, records.Clip) else "asset"]
    span = fields[names.index(first) : names.index(last) + 1]
    told = [_measured(subject, f) for f in span if f.name not in _NOT_MEASURES and not f.name.endswith(("_num", "_den"))]
    if subject.fps_num and subject.fps_den:
        told.append(Measured(name="fps", value=subject.fps_num / subject.fps_den, unit="1/s", doc="average frame rate"))
    return tuple(told)


def _measured(subject: Any, column: "dataclasses.Field[Any]") -> Measured:
    return Measured(name=column.name, value=getattr(subject, column.name), unit=column.metadata["unit"], doc=column.metadata["doc"])


def _verdicts(con: duckdb.DuckDBPyConnection, subject: Any, clip_no: int | None) -> tuple[tuple[Verdict, ...], tuple[int, ...]]:
    """The newest verdict of each rule in force on the subject, in funnel order, and the runs whose verdicts were others."""
    found = rows(
        con,
        f"""SELECT d.run_no, d.score, d.passed, d.reason_code, r.* FROM decisions d JOIN rules r USING (rule_no)
        WHERE d.asset_no = ? AND d.clip_no {"IS NULL" if clip_no is None else "= ?"} ORDER BY d.run_no""",  # noqa: S608
        # An equality skips the row groups that cannot hold the number; IS NOT DISTINCT FROM would not.
        subject.asset_no,
        *([] if clip_no is None else [clip_no]),
    )
    newest = {r["rule_no"]: r for r in found}
    numbers = numbers_in_force(con)
    numbers += [n for n, row in newest.items() if row["name"] == PICKED and n not in numbers]  # said by people, not by a run
    in_force = [newest[n] for n in numbers if n in newest and newest[n]["reason_code"] != "not_applicable"]
    holding = {r["run_no"] for r in in_force}
    return tuple(_verdict(r, subject.first_fail_rule) for r in in_force), tuple(sorted({r["run_no"] for r in found} - holding))


def _verdict(row: dict[str, Any], first_fail: int | None) -> Verdict:
    same = {f.name: row[f.name] for f in dataclasses.fields(Verdict) if f.name in row}
    return Verdict(**same, sentence=rule_of(row).sentence(row["score"]), decisive=row["rule_no"] == first_fail)


def _run(con: duckdb.DuckDBPyConnection, verdicts: tuple[Verdict, ...]) -> str | None:
    if not verdicts:
        return None
    no = max(v.run_no for v in verdicts)
    found = rows(con, "SELECT * FROM runs WHERE run_no = ? LIMIT 1", no)
    told = "".join(f", {r['command']}, code {r['code_version']}, configuration {r['config_sha256']}" for r in found)
    return f"run {no}{told}"


def _place(con: duckdb.DuckDBPyConnection, clip: records.Clip) -> Place | None:
    if clip.shard_no is None and clip.set_name is None:
        return None
    shard = rows(con, "SELECT path, sha256 FROM shards WHERE shard_no = ? LIMIT 1", clip.shard_no)
    members = rows(
        con,
        """SELECT extension, "offset", size_bytes, lower(hex(sha256)) AS sha256 FROM members WHERE clip_no = ? AND shard_no = ?
        ORDER BY "offset\"""",
        clip.clip_no,
        clip.shard_no,
    )
    return Place(
        set_name=clip.set_name,
        bucket=clip.bucket,
        shard=shard[0]["path"] if shard else None,
        shard_sha256=shard[0]["sha256"].hex() if shard else None,
        members=tuple(MemberPlace(**m) for m in members),
    )


def _duplicates(con: duckdb.DuckDBPyConnection, clip: records.Clip) -> tuple[Duplicate, ...]:
    if clip.dup_group is None:
        return ()
    found = rows(
        con,
        """SELECT c.clip_id, c.dup_rank AS rank, c.dup_distance AS distance_bits, coalesce(a.uri, '') AS uri FROM clips c
        LEFT JOIN assets a USING (asset_id) WHERE c.dup_group = ? AND c.clip_id <> ? ORDER BY c.dup_rank, c.clip_id""",
        clip.dup_group,
        clip.clip_id,
    )
    return tuple(Duplicate(**r) for r in found)


def _sightings(con: duckdb.DuckDBPyConnection, clip_ids: list[str], exposed: Exposed | None) -> tuple[Sighting, ...]:
    """One a checkpoint, with the first step at which it saw any of the clips; without a replay, every checkpoint there is, unproved."""
    seen = []
    for row in rows(con, "SELECT * FROM exposures ORDER BY run_no, end_step, checkpoint"):
        exposure: events.Exposure = from_row(events.Exposure, row)
        steps = ((exposed(exposure, c), c) for c in clip_ids) if exposed else iter(())
        first = min(((step, c) for step, c in steps if step is not None), default=None)
        if exposed is None or first is not None:
            shown = {k: row[k] for k in ("run_path", "checkpoint", "stage", "manifest_version")}
            seen.append(Sighting(**shown, first_step=first[0] if first else None, clip_id=first[1] if first else ""))
    return tuple(seen)


def to_dict(e: Explanation) -> dict[str, Any]:
    """The explanation as plain values, for JSON."""
    return dataclasses.asdict(e)
