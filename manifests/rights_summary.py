"""Rights as people look at them: files and kept clips by what is stated, and licence by source.

These are counted from the tables, not from the cubes, which know rules and sources but no rights.
"""

# SQL is put together from names of this file and of the schema; values are parameters.
# ruff: noqa: S608

from typing import Any

import duckdb

from manifests.comparisons import Heading, RightsCell, RightsMatrix
from manifests.funnel import Amount
from manifests.query import rows
from manifests.report_data import CountRow, Rights, top

_LICENCE_CLASSES = """CASE licence_class WHEN 0 THEN 'commercial use allowed' WHEN 1 THEN 'non-commercial' WHEN 2 THEN 'academic'
    WHEN 3 THEN 'unspecified' END"""
_OPTOUT_STATES = "CASE optout_state WHEN 0 THEN 'none seen' WHEN 1 THEN 'training reserved' ELSE 'state ' || optout_state END"


def rights(con: duckdb.DuckDBPyConnection, max_rows: int) -> Rights:
    """What the files say about rights."""
    licences = _count_rows(con, "licence_expr", _LICENCE_CLASSES)
    optouts = _count_rows(con, _OPTOUT_STATES, "NULL")
    of_source = "FROM sources s WHERE s.source_no = a.source_no LIMIT 1"
    sources = _count_rows(con, f"coalesce((SELECT name {of_source}), 'source ' || source_no)", f"(SELECT supplier {of_source})")
    signals = rows(
        con,
        """SELECT signal, count(*) AS n FROM (SELECT unnest(string_split(optout_signals, chr(10))) AS signal FROM assets
        WHERE optout_signals IS NOT NULL) WHERE signal <> '' GROUP BY 1 ORDER BY n DESC, 1""",
    )
    states = rows(con, "SELECT state, count(*) AS n FROM assets GROUP BY 1 ORDER BY n DESC, 1")
    return Rights(
        licences=top(licences, max_rows),
        optouts=tuple(optouts),
        consents=tuple(_count_rows(con, "consent", "NULL"))[:max_rows],
        signals=top([(r["signal"], r["n"]) for r in signals], max_rows // 2),
        sources=top(sources, max_rows),
        states=tuple((r["state"], r["n"]) for r in states),
        takedowns=rows(con, "SELECT count(DISTINCT takedown_no) AS n FROM takedowns")[0]["n"],
        reserved_kept=sum(r.kept_clips for r in optouts if r.value == "training reserved"),
    )


def _count_rows(con: duckdb.DuckDBPyConnection, value: str, note: str) -> list[CountRow]:
    found = rows(
        con,
        f"""WITH kept AS (SELECT asset_id, count(*) AS n FROM clips WHERE decision = 'keep' GROUP BY 1)
        SELECT {value} AS value, {note} AS note, count(*) AS n, coalesce(sum(a.duration_us), 0)::BIGINT AS time_us,
        coalesce(sum(k.n), 0)::BIGINT AS kept FROM assets a LEFT JOIN kept k USING (asset_id) GROUP BY 1, 2 ORDER BY n DESC, 1, 2""",
    )
    return [CountRow(value=r["value"], note=r["note"], assets=Amount(n=r["n"], time_us=r["time_us"]), kept_clips=r["kept"]) for r in found]


SOURCE_NAME = "coalesce((SELECT min(name) FROM sources s WHERE s.source_no = {0}.source_no), 'source ' || {0}.source_no)"
"""SQL for the name of the source of a row of a table."""


def rights_matrix(con: duckdb.DuckDBPyConnection, max_licences: int, max_sources: int) -> RightsMatrix:
    """Files and clips by licence and source; what does not fit is summed as others, so that every file and clip is in a cell."""
    found = rows(
        con,
        f"""WITH of_asset AS (SELECT asset_no, {_by_decision()} FROM clips GROUP BY asset_no),
        pairs AS (SELECT licence_expr, source_no, count(*) AS files_n, coalesce(sum(duration_us), 0)::BIGINT AS files_us,
            count(*) FILTER (WHERE c.asset_no IS NULL) AS uncut_n,
            coalesce(sum(duration_us) FILTER (WHERE c.asset_no IS NULL), 0)::BIGINT AS uncut_us, {_sums()}
            FROM assets a LEFT JOIN of_asset c USING (asset_no) GROUP BY ALL),
        licences AS (SELECT licence_expr, row_number() OVER (ORDER BY sum(files_n) DESC, licence_expr NULLS LAST) AS place
            FROM pairs GROUP BY 1),
        names AS (SELECT source_no, {SOURCE_NAME.format("pairs")} AS name,
            row_number() OVER (ORDER BY sum(files_n) DESC, source_no) AS place FROM pairs GROUP BY 1)
        SELECT least(l.place, {max_licences + 1}) AS i, least(n.place, {max_sources + 1}) AS j,
            arg_min({{'v': p.licence_expr}}, l.place).v AS licence, min(n.name) AS source,
            (SELECT count(*) FROM licences) AS all_licences, (SELECT count(*) FROM names) AS all_sources,
            sum(files_n)::BIGINT AS files_n, sum(files_us)::BIGINT AS files_us, sum(uncut_n)::BIGINT AS uncut_n,
            sum(uncut_us)::BIGINT AS uncut_us, {_sums()}
        FROM pairs p JOIN licences l ON l.licence_expr IS NOT DISTINCT FROM p.licence_expr JOIN names n USING (source_no)
        GROUP BY 1, 2 ORDER BY 1, 2""",
    )
    licences: dict[int, Heading] = {}
    sources: dict[int, Heading] = {}
    for r in found:
        rest = r["all_licences"] - max_licences
        licences.setdefault(r["i"], Heading(label=None, others=rest) if r["i"] > max_licences else Heading(label=r["licence"]))
        rest = r["all_sources"] - max_sources
        sources.setdefault(r["j"], Heading(label=None, others=rest) if r["j"] > max_sources else Heading(label=r["source"]))
    return RightsMatrix(
        licences=tuple(licences[i] for i in sorted(licences)),
        sources=tuple(sources[j] for j in sorted(sources)),
        cells=tuple(_cell(r, licences[r["i"]], sources[r["j"]]) for r in found),
    )


_PARTS = {"kept": "decision = 'keep'", "dropped": "decision = 'drop'", "held": "decision NOT IN ('keep', 'drop')"}


def _by_decision() -> str:
    parts = [
        f"count(*) FILTER (WHERE {is_}) AS {name}_n, coalesce(sum(end_us - start_us) FILTER (WHERE {is_}), 0)::BIGINT AS {name}_us"
        for name, is_ in _PARTS.items()
    ]
    return ", ".join(parts)


def _sums() -> str:
    return ", ".join(f"coalesce(sum({name}_{of}), 0)::BIGINT AS {name}_{of}" for name in _PARTS for of in ("n", "us"))


def _cell(row: dict[str, Any], licence: Heading, source: Heading) -> RightsCell:
    parts = {name: Amount(n=row[f"{name}_n"], time_us=row[f"{name}_us"]) for name in ("files", "uncut", *_PARTS)}
    return RightsCell(licence=licence, source=source, **parts)
