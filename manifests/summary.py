"""The numbers of a dataset that people look at: everything the report shows, bounded whatever the size of the dataset.

`collect` reads the tables through SQL and gives one `ReportData`; pictures come from the caller's `images` function, because
key frames lie outside the manifest.
"""

# SQL is put together from names of this file and of the schema; values are parameters.
# ruff: noqa: S608

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import duckdb
import pyarrow as pa

from manifests.comparisons import RightsMatrix
from manifests.funnel import Amount, Funnel, count_funnels
from manifests.histogram import Histogram, applies_sql, count_histograms
from manifests.paper_funnel import beside
from manifests.query import Snapshot, connect, connection, hold, rows
from manifests.report_data import (
    BucketCell,
    CaptionRow,
    Captions,
    Check,
    ConceptRow,
    Concepts,
    Duplicates,
    ErrorRow,
    Group,
    Headline,
    KindRow,
    MeasureCard,
    Member,
    Picture,
    ReportData,
    RunFacts,
    SetRow,
    ShardRow,
    Top,
    top,
)
from manifests.rights_summary import rights, rights_matrix
from manifests.rule_rates import counted_by_source, rule_drift, source_rates

Images = Callable[[str, str], bytes | None]
"""(clip_id, keyframe_part) -> a small JPEG of the clip, or None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryConfig:
    """How much of everything is shown. All ours: they keep the page below about 5 MB and readable in one sitting."""

    max_rows: int = 40
    max_runs: int = 12
    max_licences: int = 12
    max_sources: int = 6
    max_matrix_sources: int = 5
    max_concepts: int = 24
    max_groups: int = 12
    max_copies: int = 3
    max_captions: int = 12
    max_examples: int = 4
    max_image_bytes: int = 20_000  # a larger picture is left out, not shrunk: this package has no decoder
    max_images: int = 320


def collect(
    tables: Mapping[str, pa.Table],
    images: Images,
    *,
    title: str = "dataset",
    version: int | None = None,
    config: SummaryConfig | None = None,
) -> ReportData:
    """The numbers of tables at hand, by the names of `manifests.schema.TABLES`; a table that is not given is empty."""
    con = connection(tables)
    try:
        return _collect(con, images, title, version, config or SummaryConfig())
    finally:
        con.close()


def collect_store(
    store: Snapshot, images: Images, *, title: str = "dataset", version: int | None = None, config: SummaryConfig | None = None
) -> ReportData:
    """The numbers of a manifest version (newest by default), read from its Parquet files column by column as they are needed."""
    version = store.version() if version is None else version
    con = connect(store, version)
    try:
        hold(con)
        return _collect(con, images, title, version, config or SummaryConfig())
    finally:
        con.close()


def _collect(con: duckdb.DuckDBPyConnection, images: Images, title: str, version: int | None, cfg: SummaryConfig) -> ReportData:
    gallery = _Gallery(images, cfg)
    headline, funnels = _headline(con, version), count_funnels(con)
    matrix = rights_matrix(con, cfg.max_licences, cfg.max_matrix_sources)
    return ReportData(
        title=title,
        headline=headline,
        checks=_checks(con, headline, funnels, matrix),
        funnels=funnels,
        paper=beside(con, funnels),
        drift=rule_drift(con, cfg.max_runs),
        source_rates=source_rates(con, cfg.max_sources),
        cards=tuple(_card(con, h, gallery, cfg) for h in count_histograms(con)),
        buckets=_buckets(con),
        concepts=_concepts(con, gallery, cfg),
        duplicates=_duplicates(con, gallery, cfg),
        errors=_errors(con, cfg),
        rights=rights(con, cfg.max_rows),
        rights_matrix=matrix,
        captions=_captions(con, gallery, cfg),
        sets=_sets(con),
        shards=_shards(con, cfg),
        pictures_left_out=gallery.left_out,
    )


class _Gallery:
    """Pictures by clip, each asked for once; what is no JPEG, too large or too many is counted and left out."""

    def __init__(self, images: Images, cfg: SummaryConfig) -> None:
        self._images, self._cfg = images, cfg
        self._seen: dict[str, bytes | None] = {}
        self._given = 0
        self.left_out = 0

    def picture(self, row: dict[str, Any], score: float | None = None) -> Picture:
        """The picture of a row with clip_id, keyframe_part, uri and decision."""
        jpeg = self._jpeg(row["clip_id"], row["keyframe_part"])
        return Picture(clip_id=row["clip_id"], uri=row["uri"] or "", decision=row["decision"], score=score, jpeg=jpeg)

    def _jpeg(self, clip_id: str, part: str | None) -> bytes | None:
        if part is None:
            return None
        if clip_id not in self._seen:
            self._seen[clip_id] = self._images(clip_id, part)
        jpeg = self._seen[clip_id]
        if jpeg is None:
            return None
        small = jpeg[:3] == b"\xff\xd8\xff" and len(jpeg) <= self._cfg.max_image_bytes
        if not small or self._given >= self._cfg.max_images:
            self.left_out += 1
            return None
        self._given += 1
        return jpeg


_PICTURE = "c.clip_id, c.keyframe_part, c.decision, a.uri"
_WITH_ASSET = "FROM clips c LEFT JOIN assets a USING (asset_id)"


def _headline(con: duckdb.DuckDBPyConnection, version: int | None) -> Headline:
    a = rows(
        con,
        """SELECT count(*) AS n, coalesce(sum(duration_us), 0)::BIGINT AS time_us, coalesce(sum(size_bytes), 0)::BIGINT AS size_bytes,
        count(*) FILTER (WHERE readable = 0) AS unreadable, coalesce(sum(n_copies - 1), 0)::BIGINT AS copies FROM assets""",
    )[0]
    kinds = rows(
        con,
        """SELECT kind, count(*) AS n, coalesce(sum(end_us - start_us), 0)::BIGINT AS time_us,
        count(*) FILTER (WHERE decision = 'keep') AS kept_n, count(*) FILTER (WHERE decision = 'pending') AS pending,
        coalesce(sum(end_us - start_us) FILTER (WHERE decision = 'keep'), 0)::BIGINT AS kept_us
        FROM clips GROUP BY kind ORDER BY kind = 'audio', kind = 'image', kind""",
    )
    s = rows(
        con, "SELECT count(*) AS n, coalesce(sum(size_bytes), 0)::BIGINT AS b, coalesce(sum(n_samples), 0)::BIGINT AS samples FROM shards"
    )[0]
    table = tuple(
        KindRow(kind=k["kind"], clips=Amount(n=k["n"], time_us=k["time_us"]), kept=Amount(n=k["kept_n"], time_us=k["kept_us"]))
        for k in kinds
    )
    runs = rows(con, "SELECT * FROM runs ORDER BY run_no DESC LIMIT 1")
    return Headline(
        version=version,
        run=_run(runs[0]) if runs else None,
        n_runs=_count(con, "runs"),
        assets=Amount(n=a["n"], time_us=a["time_us"]),
        asset_bytes=a["size_bytes"],
        unreadable=a["unreadable"],
        exact_copies=a["copies"],
        clips=sum((k.clips for k in table), Amount()),
        kept=sum((k.kept for k in table), Amount()),
        pending=sum(k["pending"] for k in kinds),
        kinds=table,
        shards=s["n"],
        shard_bytes=s["b"],
        samples=s["samples"],
    )


def _run(row: dict[str, Any]) -> RunFacts:
    facts = {k: row[k] for k in ("run_no", "run_id", "command", "code_version", "config_sha256")}
    for k in ("started_at", "ended_at"):
        facts[k] = None if row[k] is None else row[k].isoformat(timespec="seconds")
    return RunFacts(**facts)


def _checks(con: duckdb.DuckDBPyConnection, head: Headline, funnels: tuple[Funnel, ...], matrix: RightsMatrix) -> tuple[Check, ...]:
    checks = []
    for f in funnels:
        if f.steps:
            checks.append(
                Check(
                    name=f"{f.name}: kept = left by the rules, less undecided and taken down",
                    expected=f.left.n - f.undecided.n - f.held.n,
                    found=f.kept.n,
                )
            )
            dropped = sum(s.before.n - s.left.n for s in f.steps)
            checks.append(Check(name=f"{f.name}: in = dropped + left", expected=f.start.n, found=dropped + f.left.n))
            worst = min(s.skipped.n for s in f.steps)
            checks.append(Check(name=f"{f.name}: no rule met more than were left", expected=0, found=min(worst, 0)))
    if head.assets.n:
        cells = matrix.cells
        checks.append(Check(name="files by licence and source = files", expected=head.assets.n, found=sum(c.files.n for c in cells)))
        checks.append(Check(name="clips by licence and source = clips", expected=head.clips.n, found=sum(c.clips.n for c in cells)))
        checks.append(Check(name="kept by licence and source = kept", expected=head.kept.n, found=sum(c.kept.n for c in cells)))
    checks += counted_by_source(con)
    if head.shards:
        placed = rows(con, "SELECT count(*) AS n, count(*) FILTER (WHERE decision = 'keep') AS kept FROM clips WHERE shard_no IS NOT NULL")[
            0
        ]
        members = rows(con, "SELECT count(*) AS n FROM (SELECT DISTINCT shard_no, clip_no FROM members)")[0]["n"]
        checks.append(Check(name="kept clips are in a shard", expected=head.kept.n, found=placed["kept"]))
        # Not all samples are of placed clips: one that was decided again since its shard was written lies there and is not read.
        held = rows(con, "SELECT count(DISTINCT clip_no) AS n FROM clips JOIN members USING (shard_no, clip_no) WHERE shard_no IS NOT NULL")
        checks.append(Check(name="clips placed = those with a sample in their shard", expected=placed["n"], found=held[0]["n"]))
        checks.append(Check(name="samples in shards = samples in the member index", expected=head.samples, found=members))
    return tuple(checks)


def _card(con: duckdb.DuckDBPyConnection, h: Histogram, gallery: _Gallery, cfg: SummaryConfig) -> MeasureCard:
    if h.rule is None or h.subject != "clip" or h.scale == "values":  # among equal values none is near the threshold
        return MeasureCard(histogram=h, rejected=(), passed=())
    sides = []
    for side in (f"NOT {h.rule.sql()}", h.rule.sql()):
        near = rows(
            con,
            f"""WITH near AS (SELECT *, {h.measure}::DOUBLE AS score FROM clips s WHERE {applies_sql(h.rule)} AND {side}
                AND keyframe_part IS NOT NULL ORDER BY abs(score - ?), clip_id LIMIT ?)
            SELECT {_PICTURE}, c.score FROM near c LEFT JOIN assets a USING (asset_id) ORDER BY abs(c.score - ?), c.clip_id""",
            h.rule.threshold,
            3 * cfg.max_examples,  # some may have no small key frame
            h.rule.threshold,
        )
        shown = (gallery.picture(r, r["score"]) for r in near)
        sides.append(tuple(islice((p for p in shown if p.jpeg is not None), cfg.max_examples)))
    return MeasureCard(histogram=h, rejected=sides[0], passed=sides[1])


def _buckets(con: duckdb.DuckDBPyConnection) -> tuple[BucketCell, ...]:
    found = rows(
        con,
        """SELECT coalesce(set_name, '') AS set_name, bucket, count(*) AS n, sum(end_us - start_us)::BIGINT AS time_us FROM clips
        WHERE decision = 'keep' AND bucket IS NOT NULL GROUP BY ALL ORDER BY set_name, n DESC, bucket LIMIT 2000""",
    )
    return tuple(BucketCell(set_name=r["set_name"], bucket=r["bucket"], clips=Amount(n=r["n"], time_us=r["time_us"])) for r in found)


def _concepts(con: duckdb.DuckDBPyConnection, gallery: _Gallery, cfg: SummaryConfig) -> Concepts:
    clusters = """(SELECT cluster_no, count(*) AS before, count(*) FILTER (WHERE concept_margin > 0) AS after,
        max(keep_probability) AS p, min(clip_id) AS clip_id FROM clips WHERE cluster_no IS NOT NULL GROUP BY cluster_no)"""
    total = rows(
        con,
        f"""SELECT count(*) AS n, coalesce(sum(before), 0)::BIGINT AS before, coalesce(sum(after), 0)::BIGINT AS after,
        exp(-sum(b * ln(b) ORDER BY cluster_no)) AS eb,
        exp(-sum(CASE WHEN a > 0 THEN a * ln(a) ELSE 0 END ORDER BY cluster_no)) AS ea FROM (SELECT *,
        before / sum(before) OVER () AS b, CASE WHEN sum(after) OVER () > 0 THEN after / sum(after) OVER () END AS a FROM {clusters})""",
    )[0]
    found = rows(
        con,
        f"""SELECT k.*, c.keyframe_part, c.decision, a.uri
        FROM {clusters} k JOIN clips c USING (clip_id) LEFT JOIN assets a USING (asset_id)
        ORDER BY before DESC, k.cluster_no LIMIT ?""",
        cfg.max_concepts,
    )
    shown = tuple(
        ConceptRow(cluster_no=r["cluster_no"], before=r["before"], after=r["after"], keep_probability=r["p"], picture=gallery.picture(r))
        for r in found
    )
    return Concepts(
        clusters=total["n"],
        before=total["before"],
        after=total["after"],
        effective_before=total["eb"],
        effective_after=total["ea"] if total["after"] else None,
        rows=Top(shown=shown, more=total["n"] - len(shown)),
    )


def _duplicates(con: duckdb.DuckDBPyConnection, gallery: _Gallery, cfg: SummaryConfig) -> Duplicates:
    total = rows(
        con,
        """SELECT count(*) AS groups, coalesce(sum(n - 1), 0)::BIGINT AS copies FROM
        (SELECT count(*) AS n FROM clips WHERE dup_group IS NOT NULL GROUP BY dup_group HAVING n > 1)""",
    )[0]
    largest = rows(
        con,
        "SELECT dup_group, count(*) AS n FROM clips WHERE dup_group IS NOT NULL GROUP BY 1 HAVING count(*) > 1 ORDER BY n DESC, 1 LIMIT ?",
        cfg.max_groups,
    )
    groups = []
    for g in largest:
        found = rows(
            con,
            f"""SELECT {_PICTURE}, c.dup_rank, c.dup_distance, c.width, c.height {_WITH_ASSET} WHERE c.dup_group = ?
            ORDER BY c.dup_rank, c.clip_id LIMIT ?""",
            g["dup_group"],
            cfg.max_copies + 1,
        )
        members = [_member(r, gallery) for r in found]
        keeper = next((m for m in members if m.rank == 0), None)
        copies = tuple(m for m in members if m is not keeper)[: cfg.max_copies]
        groups.append(Group(keeper=keeper, copies=Top(shown=copies, more=g["n"] - len(copies) - (keeper is not None))))
    return Duplicates(groups=total["groups"], copies=total["copies"], rows=Top(shown=tuple(groups), more=total["groups"] - len(groups)))


def _member(row: dict[str, Any], gallery: _Gallery) -> Member:
    size = {k: row[k] for k in ("width", "height")}
    return Member(picture=gallery.picture(row), rank=row["dup_rank"] or 0, distance_bits=row["dup_distance"], **size)


def _errors(con: duckdb.DuckDBPyConnection, cfg: SummaryConfig) -> Top[ErrorRow]:
    grouped = """SELECT stage, error_code AS code, count(*) AS n,
        arg_min({'uri': uri, 'detail': detail}, uri || chr(1) || detail, 5) AS examples FROM (
            SELECT coalesce(error_stage, 'unknown') AS stage, error_code, uri, coalesce(error_detail, '') AS detail FROM assets
            WHERE error_code IS NOT NULL UNION ALL
            SELECT 'clip', c.error_code, coalesce(a.uri, c.clip_id), coalesce(c.error_detail, '')
            FROM clips c LEFT JOIN assets a USING (asset_id) WHERE c.error_code IS NOT NULL) GROUP BY 1, 2"""
    found = rows(con, f"{grouped} ORDER BY n DESC, 1, 2 LIMIT ?", cfg.max_rows)
    total = rows(con, f"SELECT count(*) AS n FROM ({grouped})")[0]["n"]
    shown = tuple(
        ErrorRow(stage=r["stage"], code=r["code"], n=r["n"], examples=tuple((e["uri"], e["detail"]) for e in r["examples"])) for r in found
    )
    return Top(shown=shown, more=total - len(shown))


def _captions(con: duckdb.DuckDBPyConnection, gallery: _Gallery, cfg: SummaryConfig) -> Captions:
    used = f"{_WITH_ASSET} JOIN captions t ON t.caption_no = c.caption_no WHERE c.decision = 'keep'"
    found = rows(con, f"SELECT {_PICTURE}, t.text, t.camera_prefix, t.captioner {used} ORDER BY c.clip_id LIMIT ?", cfg.max_captions)
    counts = rows(con, f"SELECT t.captioner, count(*) AS n {used} GROUP BY 1 ORDER BY n DESC, 1")
    kept = rows(con, "SELECT count(*) AS n FROM clips WHERE decision = 'keep'")[0]["n"]
    captioned = sum(r["n"] for r in counts)
    sample = tuple(
        CaptionRow(picture=gallery.picture(r), text=r["text"], prefix=r["camera_prefix"], captioner=r["captioner"]) for r in found
    )
    return Captions(
        captioned=captioned,
        without=kept - captioned,
        captioners=top([(r["captioner"], r["n"]) for r in counts], cfg.max_rows),
        sample=Top(shown=sample, more=captioned - len(sample)),
    )


def _sets(con: duckdb.DuckDBPyConnection) -> tuple[SetRow, ...]:
    found = rows(
        con,
        """SELECT set_name, count(*) AS shards, sum(n_samples)::BIGINT AS samples, sum(size_bytes)::BIGINT AS size_bytes
        FROM shards GROUP BY 1 ORDER BY 1""",
    )
    return tuple(SetRow(**r) for r in found)


def _shards(con: duckdb.DuckDBPyConnection, cfg: SummaryConfig) -> Top[ShardRow]:
    found = rows(
        con,
        "SELECT path, set_name, bucket, n_samples AS samples, size_bytes, lower(hex(sha256)) AS sha256 FROM shards ORDER BY path LIMIT ?",
        cfg.max_rows,
    )
    return Top(shown=tuple(ShardRow(**r) for r in found), more=_count(con, "shards") - len(found))


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    n: int = rows(con, f"SELECT count(*) AS n FROM {table}")[0]["n"]
    return n
