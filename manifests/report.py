"""The report of a dataset: one HTML file that needs nothing else, and its JSON twin with the same numbers.

Nothing from outside is trusted: the template escapes everything, names are shown with their invisible characters written out
and never enter an attribute, and the page's content security policy allows inline styles and data: pictures only.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from manifests import charts, comparison_charts, wording
from manifests.files import write_atomic
from manifests.funnel import Funnel
from manifests.query import Snapshot
from manifests.report_data import BucketCell, Concepts, CountRow, ReportData
from manifests.summary import Images, SummaryConfig, collect, collect_store

__all__ = ["ReportData", "collect", "collect_store", "render", "to_json", "write_report"]

_CLASSES = {"commercial use allowed": "keep", "non-commercial": "drop", "academic": "else", None: "unknown"}


def render(data: ReportData) -> str:
    """The page as HTML text."""
    return _environment().get_template("report.html.j2").render(d=data, h=data.headline, concept_chart=_concept_chart(data.concepts))


def to_json(data: ReportData) -> str:
    """The same numbers as JSON; a picture is given by its size and SHA-256. The same data always gives the same text."""
    return json.dumps(dataclasses.asdict(data), default=_digest_of, ensure_ascii=False, allow_nan=False, indent=1)


def write_report(
    store: Snapshot, folder: Path, images: Images, *, title: str, version: int | None = None, config: SummaryConfig | None = None
) -> Path:
    """`report.html` and `report.json` stand in the folder, each whole or not at all; gives the path of the page."""
    data = collect_store(store, images, title=title, version=version, config=config)
    page = folder / "report.html"
    write_atomic(folder / "report.json", to_json(data).encode())
    write_atomic(page, render(data).encode())
    return page


def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # Every text that is put out, before it is escaped: no template line can forget it.
        finalize=lambda v: wording.visible(v) if type(v) is str else v,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        number=wording.number_text,
        time=wording.time_text,
        bytes=wording.bytes_text,
        words=wording.measure_text,
        filename=wording.name_text,
        data_uri=charts.jpeg_uri,
    )
    env.globals.update(
        share=wording.share_text,
        value=wording.value_text,
        near=wording.near_text,
        condition=wording.condition_text,
        percent=wording.percent_text,
        points=wording.points_text,
        count=wording.count_text,
        paper_chart=comparison_charts.paper_chart,
        drift_chart=comparison_charts.drift_chart,
        source_chart=comparison_charts.source_chart,
        matrix_chart=comparison_charts.matrix_chart,
        moved=comparison_charts.moved,
        telling=comparison_charts.telling,
        heading=comparison_charts.heading_text,
        max_drift=comparison_charts.MAX_DRIFT_ROWS,
        funnel_chart=charts.funnel_chart,
        histogram_chart=charts.histogram_chart,
        share_chart=charts.share_chart,
        licence_parts=_licence_parts,
        bucket_grids=_bucket_grids,
        heat_chart=charts.heat_chart,
        funnel_sentence=_funnel_sentence,
    )
    return env


def _digest_of(value: object) -> dict[str, Any]:
    if not isinstance(value, bytes):
        raise TypeError(f"report: expected a value that JSON holds, found {type(value).__name__}")
    return {"size_bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}


def _concept_chart(concepts: Concepts) -> str:
    pairs = [
        charts.Pair(label=f"no. {r.cluster_no}", before=r.before, after=r.after, jpeg=r.picture.jpeg if r.picture else None)
        for r in concepts.rows.shown
    ]
    return charts.pair_chart(pairs)


def _licence_parts(rows: Sequence[CountRow]) -> list[tuple[str, str, int]]:
    """Assets by licence class, for the bar: what may be used first, what nothing is known of last."""
    classes: dict[str | None, int] = {}
    for row in rows:
        label = None if row.note == "unspecified" else row.note
        classes[label] = classes.get(label, 0) + row.assets.n
    return [(label or "not stated", kind, classes[label]) for label, kind in _CLASSES.items() if label in classes]


def _bucket_grids(cells: Sequence[BucketCell]) -> list[tuple[str, list[str], list[str], dict[tuple[str, str], int]]]:
    """For each set: rows (aspects), columns (lengths) and counts. A bucket is '<aspect>_<length>', or a length alone."""
    grids: dict[str, dict[tuple[str, str], int]] = {}
    for c in cells:
        aspect, _, length = c.bucket.rpartition("_")
        grids.setdefault(c.set_name, {})[aspect or "any", length] = c.clips.n
    return [
        (name, sorted({a for a, _ in g}, key=_aspect_order)[:24], sorted({n for _, n in g}, key=_length_order)[:9], g)
        for name, g in sorted(grids.items())
    ]


def _aspect_order(name: str) -> tuple[float, str]:
    """Widest first; what is no aspect last."""
    width, _, height = name.partition("x")
    if width.isdecimal() and height.isdecimal() and int(height):
        return -int(width) / int(height), name
    return 1.0, name


def _length_order(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdecimal())
    return int(digits[:18] or 0), name


def _funnel_sentence(funnel: Funnel) -> str:
    """The rule that costs most, in words."""
    lost = [(s.before.n - s.left.n, s.name) for s in funnel.steps]
    most, name = max(lost, default=(0, ""))
    if not most:
        return "No rule drops anything."
    whole = funnel.start.n - funnel.left.n
    return f"“{wording.visible(name)}” drops most: {wording.number_text(most)} of the {wording.number_text(whole)} that are dropped."
