"""Numbers, units, measures and file names as people read them. Text in, text out; escaping is the template's work."""

import math
import re

_OPS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "="}
_UNIT_ENDINGS = ("_us", "_bytes", "_px", "_db", "_hz", "_bits", "_lu", "_s")
_NAME_CHARACTERS = 96
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"  # controls, bidi overrides, zero width
)


def number_text(n: float) -> str:
    """12345 -> '12,345'; fractions to four significant digits."""
    return f"{n:,}" if isinstance(n, int) else f"{int(n):,}" if float(n).is_integer() and abs(n) < 1e15 else f"{n:.4g}"


def time_text(time_us: int) -> str:
    """A playing time in microseconds as the largest fitting unit: '4.2 s', '12 min', '3.5 h', '1,204 h'."""
    seconds = time_us / 1e6
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def count_text(n: int, what: str) -> str:
    """A number with its noun: '1 clip', '1,204 clips'."""
    return f"{number_text(n)} {what}{'' if n == 1 else 's'}"


def compact_text(n: int) -> str:
    """A count that fits a small place: '1,204', '123k', '4.57M'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if n >= size:
            return f"{n / (1e3 if letter == 'k' else size):.3g}{letter}"
    return number_text(n)


def bytes_text(size_bytes: float) -> str:
    """A size as '90 B', '1.2 MB', '3.4 TB' (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.3g} TB"


def share_text(part: float, whole: float) -> str:
    """A share as '17.8 %'; never rounds something to nothing or less than all to all; '–' of nothing."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.3g} %"


def percent_text(share: float) -> str:
    """A share as '17.8 %', with the same care at the ends as `share_text`."""
    return share_text(share, 1.0)


def points_text(points: float) -> str:
    """A difference of two percentages with its sign: '+2.3', '−11.7', '0.0'."""
    return f"{points:+.1f}".replace("-", "−") if abs(points) >= 0.05 else "0.0"


def short_text(text: str, characters: int = 34) -> str:
    """The text, its end cut off where it is longer."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def value_text(value: float | None, unit: str = "") -> str:
    """A score or threshold with its unit, microseconds and bytes in larger units; 'not measured' for None."""
    if value is None:
        return "not measured"
    if unit == "us":
        return f"{value / 1e6:.4g} s"
    if unit == "byte":
        return bytes_text(value)
    return f"{number_text(value) if float(value).is_integer() else f'{value:.4g}'} {unit}".rstrip()


def near_text(score: float, threshold: float, unit: str = "") -> str:
    """A score with as many digits as tell it from the threshold, three at least: '4.4997' beside a threshold of 4.5."""
    if unit in ("us", "byte") or score == threshold:
        return value_text(score, unit)
    scale = max(abs(score), abs(threshold), 1e-12)
    digits = min(max(3, 1 - math.floor(math.log10(abs(score - threshold) / scale))), 8)
    text = f"{score:.{digits}g}" if abs(score) >= 1e-3 or not score else f"{score:.1e}".replace("e-0", "e-")
    return text.replace("-", "−", 1) if text.startswith("-") else text


def measure_text(measure: str) -> str:
    """A column name as words, without the unit: 'duration_us' -> 'duration'; a rate keeps it: 'shots per s'."""
    ending = next((e for e in _UNIT_ENDINGS if measure.endswith(e) and not measure.endswith(f"_per{e}")), "")
    return measure.removesuffix(ending).replace("_", " ")


def condition_text(measure: str, op: str, threshold: float, unit: str = "") -> str:
    """What a rule asks for: 'duration ≥ 4 s'."""
    return f"{measure_text(measure)} {_OPS[op]} {value_text(threshold, unit)}"


def visible(text: str) -> str:
    """The text with control, bidi-override and zero-width characters written out, so that a name shows what it is."""
    return _INVISIBLE.sub(lambda m: f"\\u{ord(m[0]):04x}" if ord(m[0]) > 0xFF else f"\\x{ord(m[0]):02x}", text)


def name_text(uri: str) -> str:
    """The last two parts of a path or address, visible, at most 96 characters with its middle cut out."""
    shown = visible("/".join(uri.rstrip("/").rsplit("/", 2)[-2:]))
    half = _NAME_CHARACTERS // 2
    return shown if len(shown) <= _NAME_CHARACTERS else f"{shown[: half - 1]} … {shown[-half + 2 :]}"
