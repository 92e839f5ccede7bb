"""The facts of a release that its exports tell: counts over the released version's tables, taken once, bounded whatever the size."""

# SQL is put together from texts of this file and names of the schema.
# ruff: noqa: S608

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from manifests.policy import numbers_in_force
from manifests.query import rows
from manifests.schema import TABLES

MAX_ROWS = 1000
"""Rows of a list that a document shows: beyond it nobody reads on, and the tables have them all."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is told of a release. Durations in microseconds; `kept` are the clips of the released set."""

    name: str
    dataset: str
    version: int
    created_at: datetime
    code_version: str
    root: str
    signed: bool
    kinds: tuple[Row, ...]
    """By kind: assets, asset_us, asset_bytes, clips, kept, kept_us."""
    sets: tuple[Row, ...]
    """By set and bucket: kept, kept_us."""
    licences: tuple[Row, ...]
    """By licence and class: assets, kept_assets, kept, kept_us."""
    sources: tuple[Row, ...]
    """By source: name, supplier, licence_default, assets, kept, kept_us."""
    domains: tuple[Row, ...]
    """By domain of the address: assets, asset_bytes, largest first."""
    signals: tuple[Row, ...]
    """By opt-out state, consent and kind: assets, kept."""
    captioners: tuple[Row, ...]
    """By captioner: captions, kept."""
    policy: tuple[Row, ...]
    """The rules in force, in funnel order, with passed, rejected, unknown."""
    runs: tuple[Row, ...]
    """Every run up to the version, without its configuration's text."""
    synthetic: tuple[Row, ...]
    """Kept assets said to be made by a model, where the dataset records it."""
    shards: int
    shard_bytes: int
    samples: int
    tables: dict[str, int]
    """Rows of each table."""

    @property
    def kept(self) -> int:
        """Clips in the set."""
        return sum(k["kept"] for k in self.kinds)

    @property
    def kept_us(self) -> int:
        """Their time."""
        return sum(k["kept_us"] for k in self.kinds)


def collect(con: duckdb.DuckDBPyConnection, **given: Any) -> Facts:
    """The facts in the tables behind a connection; `given` are those that no table holds."""
    (shards,) = rows(
        con, "SELECT count(*) n, coalesce(sum(size_bytes), 0)::BIGINT size, coalesce(sum(n_samples), 0)::BIGINT samples FROM shards"
    )
    return Facts(
        kinds=_rows(con, _KINDS),
        sets=_rows(con, _SETS),
        licences=_rows(con, _LICENCES),
        sources=_rows(con, _SOURCES),
        domains=_domains(con),
        signals=_rows(con, _SIGNALS),
        captioners=_rows(con, _CAPTIONERS),
        policy=_policy(con),
        runs=_rows(con, "SELECT * EXCLUDE (config_json) FROM runs ORDER BY run_no"),
        synthetic=_synthetic(con),
        shards=shards["n"],
        shard_bytes=shards["size"],
        samples=shards["samples"],
        tables={name: con.sql(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in TABLES},
        **given,
    )


def hours(duration_us: int) -> float:
    """Hours, to a tenth of a second."""
    return round(duration_us / 3.6e9, 5)


def table(names: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table; what would end a cell is written out."""
    out = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    out += [f"| {' | '.join(text(v) for v in line)} |" for line in lines]
    return "\n".join(out)


def text(value: object) -> str:
    """A value inside Markdown: no markup, no line break, no HTML of its own."""
    from manifests.wording import visible

    if value is None or value == "":
        return "not stated"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,}"
    plain = visible(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in plain)


_KEPT = "c.decision = 'keep'"
_KINDS = f"""
SELECT coalesce(a.kind, 'unreadable') AS kind, count(*) assets, coalesce(sum(a.duration_us), 0)::BIGINT asset_us,
       sum(a.size_bytes)::BIGINT asset_bytes, coalesce(sum(c.clips), 0)::BIGINT clips, coalesce(sum(c.kept), 0)::BIGINT kept,
       coalesce(sum(c.kept_us), 0)::BIGINT kept_us
FROM assets a LEFT JOIN (
    SELECT asset_no, count(*) clips, count(*) FILTER ({_KEPT}) kept, sum(end_us - start_us) FILTER ({_KEPT}) kept_us FROM clips c GROUP BY 1
) c USING (asset_no) GROUP BY 1 ORDER BY 1
"""
_SETS = f"""
SELECT coalesce(set_name, 'none') set_name, coalesce(bucket, 'none') bucket, kind, count(*) kept, sum(end_us - start_us)::BIGINT kept_us
FROM clips c WHERE {_KEPT} GROUP BY ALL ORDER BY 1, 2, 3 LIMIT {MAX_ROWS}
"""
_PER_ASSET = f"(SELECT asset_no, count(*) kept, sum(end_us - start_us) kept_us FROM clips c WHERE {_KEPT} GROUP BY 1)"
_LICENCES = f"""
SELECT a.licence_expr AS licence, a.licence_class AS class, count(*) assets, count(c.kept) kept_assets, coalesce(sum(c.kept), 0)::BIGINT kept,
       coalesce(sum(c.kept_us), 0)::BIGINT kept_us
FROM assets a LEFT JOIN {_PER_ASSET} c USING (asset_no) GROUP BY ALL ORDER BY kept DESC, assets DESC, licence NULLS LAST LIMIT {MAX_ROWS}
"""
_SOURCES = f"""
SELECT s.source_no, any_value(s.name) AS name, any_value(s.supplier) supplier, any_value(s.licence_default) licence_default,
       count(a.asset_no) assets, count(a.source_url) with_url, coalesce(sum(c.kept), 0)::BIGINT kept, coalesce(sum(c.kept_us), 0)::BIGINT kept_us
FROM sources s LEFT JOIN assets a USING (source_no) LEFT JOIN {_PER_ASSET} c USING (asset_no) GROUP BY 1 ORDER BY 1 LIMIT {MAX_ROWS}
"""
_SIGNALS = f"""
SELECT a.optout_state, a.consent, count(*) assets, coalesce(sum(c.kept), 0)::BIGINT kept
FROM assets a LEFT JOIN {_PER_ASSET} c USING (asset_no) GROUP BY ALL ORDER BY 1 NULLS FIRST, 2 NULLS FIRST LIMIT {MAX_ROWS}
"""
_CAPTIONERS = f"""
SELECT t.captioner, t.captioner_version, count(*) captions, count(*) FILTER ({_KEPT}) kept
FROM captions t JOIN clips c USING (clip_no) GROUP BY ALL ORDER BY captions DESC, 1, 2 LIMIT {MAX_ROWS}
"""
_POLICY = """
WITH counted AS (
    SELECT rule_no, coalesce(sum(n) FILTER (verdict = 'pass'), 0)::BIGINT passed, coalesce(sum(n) FILTER (verdict = 'reject'), 0)::BIGINT rejected,
           coalesce(sum(n) FILTER (verdict = 'unknown'), 0)::BIGINT "unknown"
    FROM cubes WHERE name = 'funnel' AND run_no = (SELECT max(run_no) FROM cubes WHERE name = 'funnel') GROUP BY 1
)
SELECT r.*, c.passed, c.rejected, c."unknown" FROM rules r LEFT JOIN counted c USING (rule_no)
WHERE list_contains(?::INTEGER[], r.rule_no) ORDER BY list_position(?::INTEGER[], r.rule_no)
"""
_DOMAIN = r"lower(regexp_extract(source_url, '^[a-zA-Z][a-zA-Z0-9+.-]*://([^/@]*@)?([^/:?#]+)', 2))"
_DOMAINS = f"""
WITH hosts AS (SELECT {_DOMAIN} AS host, size_bytes FROM assets WHERE source_url IS NOT NULL)
SELECT CASE WHEN regexp_matches(host, '^[0-9.]+$|^$') THEN host
            WHEN regexp_matches(host, '\\.(ac|co|com|edu|gov|net|or|org)\\.[a-z]{{2}}$') THEN regexp_extract(host, '([^.]+\\.[^.]+\\.[^.]+)$', 1)
            ELSE coalesce(nullif(regexp_extract(host, '([^.]+\\.[^.]+)$', 1), ''), host) END AS domain,
       count(*) assets, sum(size_bytes)::BIGINT asset_bytes
FROM hosts GROUP BY 1 ORDER BY asset_bytes DESC, 1 LIMIT {MAX_ROWS}
"""


def _rows(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[Row, ...]:
    return tuple(rows(con, sql))


def _policy(con: duckdb.DuckDBPyConnection) -> tuple[Row, ...]:
    """The rules in force, with what the newest run counted where it did."""
    numbers = numbers_in_force(con)
    return tuple(rows(con, _POLICY, numbers, numbers))


def _domains(con: duckdb.DuckDBPyConnection) -> tuple[Row, ...]:
    return _rows(con, _DOMAINS)


def _synthetic(con: duckdb.DuckDBPyConnection) -> tuple[Row, ...]:
    """By flag, where the dataset has the column."""
    names = {row[0] for row in con.sql("DESCRIBE assets").fetchall()}
    if "synthetic_flag" not in names:
        return ()
    return _rows(
        con,
        f"SELECT a.synthetic_flag, count(*) assets, count(c.kept) kept_assets FROM assets a LEFT JOIN {_PER_ASSET} c USING (asset_no) GROUP BY 1 ORDER BY 1",
    )
