"""Charts of what the report compares, as inline SVG: rights matrix, drift of the rules, sources, the paper's funnel. See `manifests.charts`."""

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from manifests.charts import circle, path, rect, stack, svg, text
from manifests.comparisons import (
    Drift,
    DriftPoint,
    Heading,
    PaperFunnel,
    PaperStep,
    RightsCell,
    RightsMatrix,
    RuleDrift,
    SourceCell,
    SourceRates,
    SourceRow,
)
from manifests.funnel import Amount
from manifests.wording import (
    compact_text,
    condition_text,
    count_text,
    name_text,
    number_text,
    percent_text,
    points_text,
    short_text,
    time_text,
)

_WIDTH = 1080.0
_LABEL = 268.0
_MIN_SPAN = 0.2
"""A small picture of a pass rate spans at least 20 points, so that a change of one point does not look like a fall."""

_FULL_POINTS = 40.0
"""Difference from all sources, in points, at which a cell has its full colour."""

MAX_DRIFT_ROWS = 24


def heading_text(heading: Heading, what: str = "") -> str:
    """A row's or column's name: 'not stated' for none, '12 others' for a sum; a path by its last two parts."""
    if heading.others:
        return f"{number_text(heading.others)} other{'' if heading.others == 1 else 's'}"
    if heading.label is None:
        return "not stated" if what == "licence" else "source unknown"
    return name_text(heading.label) if what == "source" else heading.label


def paper_chart(paper: PaperFunnel) -> Markup:
    """Two bars a filter: the share of what reaches it that the paper keeps (pale), and that we keep (solid)."""
    row, width = 42.0, 430.0
    body = text(_LABEL, 10, "share kept of what reaches the filter", "axis")
    for i, s in enumerate(paper.steps):
        y = 20 + i * row
        body += text(0, y + 14, s.name, "name") + text(0, y + 29, short_text(f"{s.stage}: {s.asks}", 46), "note")
        for k, (share, kind, said) in enumerate(((s.share, "unknown", paper_said(s)), (_ours(s), "keep", ours_said(s)))):
            at = y + 3 + 16 * k
            if share is not None:
                body += rect("track", _LABEL, at, width, 13, "") + (rect(kind, _LABEL, at, width * share, 13, said) if share else "")
            body += text(_LABEL + width + 12, at + 11, said, "said" if share is not None else "said absent")
    return svg(_WIDTH, 20 + row * len(paper.steps), "shares kept by each filter of the paper and by ours", body)


def paper_said(step: PaperStep) -> str:
    """What the paper keeps at this filter, in words."""
    if step.left_percent is None:
        return "paper: no share given"
    if step.share is None:
        return f"paper: {step.left_percent:g} %, where its pool starts"
    return f"paper: keeps {percent_text(step.share)}, {step.left_percent:g} % of its pool left"


def ours_said(step: PaperStep) -> str:
    """What we keep at this filter, in words."""
    if not step.rules:
        return "ours: no rule"
    share, unit = _ours(step), "file" if step.subject == "asset" else "clip"
    if share is None:
        return "ours: nothing reached it"
    return f"ours: keeps {percent_text(share)}, {number_text(step.survived.n)} of {count_text(step.entered.n, unit)}"


def _ours(step: PaperStep) -> float | None:
    return step.survived.n / step.entered.n if step.entered.n else None


def moved(drift: Drift) -> list[RuleDrift]:
    """The rules that came, went, changed their condition or passed another share in these runs: most moved in the last run first."""
    found = [r for r in drift.rules if any(_differs(a, b) for a, b in pairwise(r.points))]
    return sorted(found, key=lambda r: (not r.other_condition, -abs(r.points_changed or 0.0)))


def _differs(before: DriftPoint | None, after: DriftPoint | None) -> bool:
    if before is None or after is None:
        return before is not after
    rates = [p.said.rate for p in (before, after)]
    if rates[0] is None or rates[1] is None:
        return rates[0] is not rates[1] or _condition(before) != _condition(after)
    return _condition(before) != _condition(after) or abs(rates[1] - rates[0]) >= 0.0005


def drift_chart(drift: Drift) -> Markup:
    """One row a rule that moved: its pass rate over the runs as a small picture, where its condition changed as other dots."""
    row, x0, width = 60.0, 356.0, 400.0
    rules = moved(drift)[:MAX_DRIFT_ROWS]
    xs = [x0 + width * (i + 0.5) / len(drift.runs) for i in range(len(drift.runs))]
    body = "".join(text(x, 10, f"run {r.run_no}", "tick middle") for x, r in zip(xs, drift.runs, strict=True))
    body += text(870, 10, "passes now", "tick end") + text(_WIDTH, 10, "points since the run before", "tick end")
    for i, rule in enumerate(rules):
        y, now, before = 18 + i * row, rule.points[-1], rule.points[-2]
        body += text(0, y + 20, short_text(rule.name, 40), "name") + text(0, y + 36, short_text(_conditions(now, before), 52), "note")
        body += _spark(rule.points, xs, y + 8, row - 24)
        body += text(870, y + 28, "off" if now is None else _rate(now), "number")
        change = rule.points_changed
        kind = "number zero" if change is None or abs(change) < 0.05 else "number lost" if change < 0 else "number gained"
        body += text(_WIDTH, y + 28, "–" if change is None else points_text(change), kind)
    return svg(_WIDTH, 22 + row * len(rules), "pass rates of the rules over the runs", body)


def _conditions(now: DriftPoint | None, before: DriftPoint | None) -> str:
    if now is None:
        return "off" if before is None else f"off; was {_condition(before)}"
    if before is None:
        return f"{_condition(now)}; new"
    return _condition(now) if _condition(now) == _condition(before) else f"{_condition(now)}; was {_condition(before)}"


def _condition(point: DriftPoint) -> str:
    return condition_text(point.measure, point.op, point.threshold, point.unit)


def _rate(point: DriftPoint) -> str:
    return "none measured" if point.said.rate is None else percent_text(point.said.rate)


def _spark(points: Sequence[DriftPoint | None], xs: Sequence[float], y: float, height: float) -> str:
    """The rates as dots joined by a line, which breaks where a run has none; the scale's ends stand at the left."""
    rates = [None if p is None else p.said.rate for p in points]
    known = [r for r in rates if r is not None]
    if not known:
        return ""
    low, high = _span(min(known), max(known))
    ys = [None if r is None else y + height * (high - r) / (high - low) for r in rates]
    left = xs[0] - 18
    out = text(left, y + 4, percent_text(high), "small end") + text(left, y + height + 4, percent_text(low), "small end")
    out += "".join(path("grid", [(xs[0] - 12, at), (xs[-1] + 12, at)]) for at in (y, y + height))
    run: list[tuple[float, float]] = []
    for x, at in [*zip(xs, ys, strict=True), (0.0, None)]:
        if at is None:
            out += path("line", run) if len(run) > 1 else ""
            run = []
        else:
            run.append((x, at))
    last: DriftPoint | None = None
    for p, x, at in zip(points, xs, ys, strict=True):
        if p is not None and at is not None:
            turned = last is not None and (last.measure, last.op, last.threshold) != (p.measure, p.op, p.threshold)
            said = f"run {p.run_no}: {_rate(p)} of {number_text(p.said.measured)} pass {_condition(p)}"
            out += circle("drop" if turned else "keep", x, at, 4.5 if turned else 3.0, said)
        last = p or last
    return out


def _span(low: float, high: float) -> tuple[float, float]:
    """[low, high] widened to the least span, within 0 to 1."""
    missing = max(_MIN_SPAN - (high - low), 0.0)
    low = min(max(low - missing / 2, 0.0), 1.0 - _MIN_SPAN)
    return low, max(min(high + missing / 2, 1.0), low + _MIN_SPAN)


def source_chart(rates: SourceRates) -> Markup:
    """Rules by sources: the pass rate, coloured by how far it is from that of all sources where chance does not explain it."""
    rows = telling(rates)
    width = min(140.0, (_WIDTH - _LABEL) / (len(rates.sources) + 1))
    fits = int(width / 7)
    names = ["all", *(heading_text(s, "source") for s in rates.sources)]
    body = "".join(
        text(_LABEL + (i + 0.5) * width, 12, n if len(n) <= fits else "…" + n[1 - fits :], "tick middle", title=n)
        for i, n in enumerate(names)
    )
    for j, r in enumerate(rows):
        y = 22.0 + j * 30
        body += text(0, y + 19, short_text(r.name + (f" (set {r.set_name})" if r.set_name else ""), 36), "name", title=r.condition)
        cells = [SourceCell(said=r.whole, points=None, sigmas=None), *r.cells]
        body += "".join(_source_cell(c, _LABEL + i * width, y, width) for i, c in enumerate(cells))
    return svg(_LABEL + width * len(names), 24.0 + 30 * len(rows), "pass rate of each rule by source", body, natural=True)


def telling(rates: SourceRates) -> list[SourceRow]:
    """The rules that drop something somewhere."""
    return [r for r in rates.rows if r.whole.rejected]


def _source_cell(cell: SourceCell, x: float, y: float, width: float) -> str:
    said, rate = cell.said, cell.said.rate
    title = f"{number_text(said.passed)} of {number_text(said.measured)} pass; {number_text(said.unknown)} unknown"
    kind, depth = "track", 1.0
    if cell.differs and cell.points is not None:
        kind, depth = "keep" if cell.points > 0 else "drop", min(0.2 + 0.8 * abs(cell.points) / _FULL_POINTS, 1.0)
    out = rect(kind, x + 1, y + 1, width - 2, 28, title, opacity=depth)
    strong = "strong" if kind != "track" and depth > 0.8 else "pale"
    return out + text(x + width / 2, y + 19, "–" if rate is None else percent_text(rate), f"cell {strong}")


def matrix_chart(matrix: RightsMatrix) -> Markup:
    """Licences by sources: in each cell a bar of kept and dropped clips, and both in clips and playing time."""
    licences, sources = [*matrix.licences], [*matrix.sources]
    cells = {(c.licence, c.source): (c,) for c in matrix.cells}
    columns = [(heading_text(s, "source"), [s]) for s in sources] + ([("all sources", sources)] if len(sources) > 1 else [])
    rows = [(heading_text(n, "licence"), [n]) for n in licences] + ([("all licences", licences)] if len(licences) > 1 else [])
    height = 80.0 if any(c.held.n for c in matrix.cells) else 66.0
    label = 190.0
    width = min((_WIDTH - label) / max(len(columns), 1), 200.0)
    fits = int(width / 7)
    out = "".join(
        text(label + i * width + 4, 12, n if len(n) <= fits else "…" + n[1 - fits :], "tick", title=n) for i, (n, _) in enumerate(columns)
    )
    for j, (name, rows_of) in enumerate(rows):
        y = 20 + j * height
        out += path("grid", [(0, y), (label + width * len(columns), y)])
        out += text(0, y + 22, short_text(name, 24), "name", title=name)
        for i, (_, columns_of) in enumerate(columns):
            mine = [c for n in rows_of for s in columns_of for c in cells.get((n, s), ())]
            out += _matrix_cell(mine, label + i * width + 4, y + 8, width - 16)
    return svg(label + width * len(columns), 24 + height * len(rows), "clips and playing time by licence and source", out, natural=True)


def _matrix_cell(cells: Sequence[RightsCell], x: float, y: float, width: float) -> str:
    """A bar of the clips and, in their colours, a line each for kept, dropped, not cut and held; only what there is."""
    if not cells:
        return text(x, y + 14, "–", "note")
    kept, dropped, held, uncut = (sum((getattr(c, k) for c in cells), Amount()) for k in ("kept", "dropped", "held", "uncut"))
    whole = kept + dropped + held
    out = stack(x, y, width, 7, whole.n, (("keep", kept.n), ("drop", dropped.n), ("unknown", held.n))) if whole.n else ""
    lines = [("kept", kept, "cellkept"), ("dropped", dropped, "celldrop"), ("held", held, "note"), ("not cut", uncut, "note")]
    shown = [(word, amount, kind) for word, amount, kind in lines if amount.n or (word == "kept" and whole.n)]
    for k, (word, amount, kind) in enumerate(shown):
        said = f"{count_text(amount.n, 'file' if word == 'not cut' else 'clip')} {word}, {time_text(amount.time_us)}"
        first = f"{compact_text(amount.n)} uncut" if word == "not cut" else compact_text(amount.n)
        out += text(x, y + (22 if whole.n else 14) + 14 * k, f"{first} · {time_text(amount.time_us)}", kind, title=said)
    return out
