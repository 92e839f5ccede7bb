"""Charts as inline SVG, drawn on the server: no script, no request, colours from the page's style sheet.

Every text that comes from outside goes through `escape`. Sizes are SVG units, which are CSS pixels at the width of the page.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from manifests.funnel import Amount, Funnel, Step
from manifests.histogram import Histogram
from manifests.wording import condition_text, number_text, share_text, short_text, time_text, value_text, visible

_FUNNEL_ROW = 40
_LABEL_WIDTH = 268


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A labelled count before and after, with a small picture where there is one."""

    label: str
    before: int
    after: int
    jpeg: bytes | None


def jpeg_uri(jpeg: bytes) -> str:
    """The picture as a data: URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def funnel_chart(funnel: Funnel) -> Markup:
    """One row a rule: what is left (solid), what it rejects, what it drops as unknown; clips on the left, hours on the right."""
    columns = _Columns.of(funnel)
    rows: list[tuple[str, str, Amount, Step | None]] = [("found", "", funnel.start, None)]
    rows += [(s.name, _condition(s), s.before, s) for s in funnel.steps]
    body = "".join(_funnel_row(18 + i * _FUNNEL_ROW, *row, funnel.start, columns) for i, row in enumerate(rows))
    body += text(_LABEL_WIDTH, 10, "files" if funnel.subject == "asset" else "clips", "axis")
    body += text(columns.hours_x, 10, "playing time", "axis") if columns.hours_width else ""
    title = f"{funnel.name}: {number_text(funnel.start.n)} found, {number_text(funnel.left.n)} left"
    return svg(1080, 18 + _FUNNEL_ROW * len(rows), title, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Where the parts of a funnel row lie; the bars take what the longest number leaves."""

    bar_width: float
    left_x: float
    lost_x: float
    hours_x: float
    hours_width: float

    @classmethod
    def of(cls, funnel: Funnel) -> "_Columns":
        digits = 8.5 * len(number_text(funnel.start.n)) + 14
        hours_width = 150.0 if funnel.start.time_us else 0.0
        right = 1080 - (hours_width + 104 if hours_width else 0)
        lost_x, left_x = right, right - digits - 6
        return cls(bar_width=left_x - digits - _LABEL_WIDTH, left_x=left_x, lost_x=lost_x, hours_x=right + 32, hours_width=hours_width)


def _funnel_row(y: float, name: str, condition: str, before: Amount, step: Step | None, start: Amount, columns: _Columns) -> str:
    left = step.left if step else before
    rejected, unknown = (step.rejected, step.before - step.left - step.rejected) if step else (Amount(), Amount())
    out = text(0, y + (16 if condition else 22), short_text(name), "name") + text(0, y + 31, short_text(condition, 44), "note")
    out += stack(_LABEL_WIDTH, y + 6, columns.bar_width, 22, start.n, (("keep", left.n), ("drop", rejected.n), ("unknown", unknown.n)))
    out += text(columns.left_x, y + 22, number_text(left.n), "number")
    if step:
        lost = before.n - left.n
        out += text(columns.lost_x, y + 22, f"−{number_text(lost)}" if lost else "0", "number lost" if lost else "number zero")
    if columns.hours_width:
        parts = (("keep", left.time_us), ("drop", rejected.time_us), ("unknown", unknown.time_us))
        out += stack(columns.hours_x, y + 11, columns.hours_width, 12, start.time_us, parts)
        out += text(1080, y + 22, time_text(left.time_us), "number")
    return out


def stack(x: float, y: float, width: float, height: float, whole: int, parts: Iterable[tuple[str, int]]) -> str:
    """A bar cut into parts of a whole, on a pale track."""
    out = f'<rect class="track" x="{x}" y="{y}" width="{width}" height="{height}"/>'
    for kind, n in parts:
        w = width * n / whole if whole else 0.0
        if n > 0:
            out += rect(kind, x, y, max(w, 0.75), height, number_text(n))
        x += w
    return out


def _condition(step: Step) -> str:
    of_set = f" · set {step.set_name}" if step.set_name else ""
    return condition_text(step.measure, step.op, step.threshold, step.unit) + of_set


def histogram_chart(h: Histogram) -> Markup:
    """Stacked bars: kept, dropped by another rule, failing this one; the threshold is a dashed line with its passing side marked."""
    x0, y0, width, height = 46.0, 22.0, 466.0, 128.0
    tops = [b.kept + b.elsewhere + b.fails for b in h.bins]
    top, broken = _top(tops)
    ticks, slot = [t for t in nice_ticks(0, top, 3) if t.is_integer()], width / len(h.bins)
    out = ""
    for t in ticks:
        y = y0 + height - height * t / top
        out += f'<line class="grid" x1="{x0}" x2="{x0 + width}" y1="{y:.1f}" y2="{y:.1f}"/>' + text(x0 - 6, y + 4, _compact(t), "tick end")
    gap = max(slot - 72, slot * 0.25) if h.scale == "values" else 0.8
    for i, b in enumerate(h.bins):
        y, shrink = y0 + height, tops[i] / top if i == broken else 1.0
        for kind, n in (("keep", b.kept), ("else", b.elsewhere), ("drop", b.fails)):
            tall = max(height * n / top / shrink, 1.0) if n else 0.0
            y -= tall
            if n:
                x, w = x0 + i * slot + gap / 2, max(slot - gap, 0.5)
                out += rect(kind, x, y, w, tall, _bin_title(h, i, n))
    if broken is not None:
        out += _break(x0 + broken * slot, y0, slot, tops[broken], broken > len(h.bins) / 2)
    out += f'<line class="base" x1="{x0}" x2="{x0 + width}" y1="{y0 + height}" y2="{y0 + height}"/>'
    out += _x_axis(h, x0, y0 + height, width, slot) + _threshold(h, x0, y0, width, height)
    return svg(520, 176, f"histogram of {h.measure}: {number_text(h.n_measured)} measured", out)


def _top(tops: Sequence[int]) -> tuple[float, int | None]:
    """The upper end of the count axis, and the one bar that is cut because it would flatten all others (scores that are mostly 0)."""
    most, second = sorted([*tops, 0], reverse=True)[:2]
    if len(tops) > 12 and second and most > 4 * second:
        return 1.5 * second, tops.index(most)
    return float(max(most, 1)), None


def _break(x: float, y0: float, slot: float, n: int, at_end: bool) -> str:
    """A gap in the cut bar with its true count beside it."""
    gap = f'<path class="gap" d="M{x - 2:.1f} {y0 + 20} l{slot + 4:.1f} -6"/>'
    return gap + text(x - 6 if at_end else x + slot + 6, y0 + 12, number_text(n), "small end" if at_end else "small")


def _bin_title(h: Histogram, i: int, n: int) -> str:
    b = h.bins[i]
    span = value_text(b.low, h.unit) if h.scale == "values" else f"{value_text(b.low, h.unit)} – {value_text(b.high, h.unit)}"
    return f"{span}: {number_text(n)}"


def _x_axis(h: Histogram, x0: float, y: float, width: float, slot: float) -> str:
    if h.scale == "values":
        places = [(x0 + (i + 0.5) * slot, b.low) for i, b in enumerate(h.bins)]
    else:
        low, high = h.bins[0].low, h.bins[-1].high
        ticks = log_ticks(low, high) if h.scale == "log" else nice_ticks(low, high, 5)
        places = [(x0 + width * _place(t, low, high, h.scale), t) for t in ticks if low <= t <= high]
    return "".join(
        f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>' + text(x, y + 17, _tick_text(v, h.unit), "tick middle")
        for x, v in places
    )


def _threshold(h: Histogram, x0: float, y0: float, width: float, height: float) -> str:
    if h.rule is None or h.scale == "values":
        return ""
    x = x0 + width * _place(h.rule.threshold, h.bins[0].low, h.bins[-1].high, h.scale)
    right = h.rule.op in (">", ">=")
    label = f"passes {'→' if right else '←'}" if h.rule.op != "==" else "must equal"
    # On the side that has room, so that a threshold near the edge keeps its label inside the picture.
    anchor, dx = ("start", 5) if (right and x < x0 + width - 70) or x < x0 + 70 else ("end", -5)
    out = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y0 - 14}" y2="{y0 + height}"/>'
    return out + f'<text class="marked" x="{x + dx:.1f}" y="{y0 - 5}" text-anchor="{anchor}">{label}</text>'


def _place(value: float, low: float, high: float, scale: str) -> float:
    """Where the value lies between low (0) and high (1)."""
    if scale == "log":
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low) if high > low else 0.5


def heat_chart(rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], int]) -> Markup:
    """A grid of counts, darker for more, on a logarithmic scale so that a small bucket next to a large one is still seen."""
    left, top, w, h = 84, 24, 104, 40
    most = max(cells.values(), default=1)
    out = "".join(text(left + (i + 0.5) * w, 14, _length(c), "tick middle") for i, c in enumerate(columns))
    for j, r in enumerate(rows):
        out += text(left - 10, top + j * h + h / 2 + 4, short_text(r.replace("x", ":"), 12), "tick end")
        for i, c in enumerate(columns):
            n = cells.get((r, c), 0)
            depth = math.log1p(n) / math.log1p(most) if n else 0.0
            x, y = left + i * w + 1, top + j * h + 1
            fill = f'class="keep" fill-opacity="{0.12 + 0.88 * depth:.2f}"' if n else 'class="track"'
            out += f'<rect {fill} x="{x}" y="{y}" width="{w - 2}" height="{h - 2}" rx="3"/>'
            out += text(x + w / 2 - 1, y + h / 2 + 4, number_text(n) if n else "·", "cell " + ("strong" if depth > 0.6 else "pale"))
    return svg(left + w * len(columns), top + h * len(rows) + 2, "kept clips by aspect and length", out, natural=True)


def _length(name: str) -> str:
    """'128f' as '128 frames'; anything else as it is."""
    frames = name.removesuffix("f")
    return f"{frames} frame{'' if frames == '1' else 's'}" if frames.isdecimal() and frames != name else short_text(name, 14)


def pair_chart(pairs: Sequence[Pair]) -> Markup:
    """Two columns of log-scaled bars, before (pale) and after (solid), with a picture of what each stands for."""
    row, per_column = 38, math.ceil(len(pairs) / 2)
    most = max((p.before for p in pairs), default=1)
    out = ""
    for i, p in enumerate(pairs):
        x, y = (i // per_column) * 552, (i % per_column) * row + 2
        if p.jpeg:
            out += f'<image href="{jpeg_uri(p.jpeg)}" x="{x}" y="{y}" width="58" height="32" preserveAspectRatio="xMidYMid slice"/>'
        else:
            out += f'<rect class="track" x="{x}" y="{y}" width="58" height="32"/>'
        out += text(x + 68, y + 21, p.label, "note")
        for k, (kind, n) in enumerate((("unknown", p.before), ("keep", p.after))):
            w = 1 + 330 * math.log1p(n) / math.log1p(most) if n else 0.0
            out += f'<rect class="{kind}" x="{x + 138}" y="{y + 4 + 13 * k}" width="{w:.1f}" height="11"/>'
            out += text(x + 138 + w + 6, y + 13.5 + 13 * k, number_text(n), "small")
    return svg(1080, max(per_column, 1) * row, "clips in each concept before and after sampling, logarithmic", out)


def share_chart(parts: Sequence[tuple[str, str, int]]) -> Markup:
    """One bar cut into shares: (label, colour class, count)."""
    whole = sum(n for _, _, n in parts)
    out = stack(0, 0, 1080, 16, whole, [(kind, n) for _, kind, n in parts])
    title = "; ".join(f"{label} {number_text(n)} ({share_text(n, whole)})" for label, _, n in parts)
    return svg(1080, 16, title, out)


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at or above `low` to at or below `high`, some `about` of them, steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [float(low)]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(float(k * step), 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], thinned to seven; with 2 and 5 between them where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 3 else (1,)
    ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
    return ticks[:: math.ceil(len(ticks) / 7)] if ticks else [low, high]


def _tick_text(value: float, unit: str) -> str:
    return value_text(value, unit if unit in ("us", "byte") else "")


def _compact(n: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:g}{letter}"
    return f"{n:g}"


def text(x: float, y: float, words: str, kind: str, title: str = "") -> str:
    """The words at (x, y), or nothing; `title` is what they show when pointed at."""
    more = f"<title>{escape(visible(title))}</title>" if title else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(visible(words))}{more}</text>' if words else ""


def rect(kind: str, x: float, y: float, width: float, height: float, title: str, opacity: float = 1.0) -> str:
    """A filled rectangle."""
    place = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"' + (f' fill-opacity="{opacity:.2f}"' if opacity < 1 else "")
    return f'<rect class="{kind}" {place}><title>{escape(visible(title))}</title></rect>' if title else f'<rect class="{kind}" {place}/>'


def circle(kind: str, x: float, y: float, radius: float, title: str) -> str:
    """A dot."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"><title>{escape(visible(title))}</title></circle>'


def path(kind: str, points: Sequence[tuple[float, float]]) -> str:
    """A line through the points."""
    return f'<path class="{kind}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def svg(width: float, height: float, title: str, body: str, natural: bool = False) -> Markup:
    """The picture, as wide as its place, or at its natural size."""
    size = f' style="width:{width:g}px;--natural:{width:g}px"' if natural else ""
    # Every part was escaped when it was made: numbers of ours, or text through `escape`.
    return Markup(f'<svg viewBox="0 0 {width:g} {height:g}" role="img"{size}><title>{escape(visible(title))}</title>{body}</svg>')  # noqa: S704
