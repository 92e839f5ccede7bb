"""Rights as stated: licences as SPDX expressions, opt-outs as signals, read from sidecars before any media is touched.

Everything here is a claim with its evidence, never a judgement. Where copies of the same bytes disagree, the strictest wins.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

MAX_SIDECAR_BYTES = 1 << 20
MAX_TEXT = 8192
COMMERCIAL, NON_COMMERCIAL, ACADEMIC, UNSPECIFIED = range(4)

_CLASSES = (
    (
        COMMERCIAL,
        re.compile(
            r"^(CC0-1\.0|CC-BY(-SA)?-[\d.]+(-[A-Z]+)?|CC-PDDC|CC-PDM-1\.0|MIT(-0)?|Apache-2\.0|BSD-[\w-]+|ISC|Unlicense|PDDL-1\.0|0BSD)$"
        ),
    ),
    (NON_COMMERCIAL, re.compile(r"^CC-BY-NC(-SA|-ND)?-[\d.]+")),
)
"""Licences of media that people meet. Copyleft software licences and no-derivatives are left to a person: unspecified."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
_TRAINING = {"allowed": 0, "reserved": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """The rights fields of an asset that a sidecar, a table row or a source default can state; None = not stated."""

    licence_expr: str | None = None
    licence_class: int | None = None
    licence_evidence: str | None = None
    source_url: str | None = None
    title: str | None = None
    creator: str | None = None
    consent: str | None = None
    supplier: str | None = None
    supplied_caption: str | None = None
    optout_state: int | None = None
    optout_signals: str | None = None


def read_sidecar(data: bytes, evidence: str) -> Rights:
    """The rights a JSON sidecar states. One that cannot be read states nothing, and the evidence says why."""
    if len(data) > MAX_SIDECAR_BYTES:
        return Rights(licence_evidence=f"{evidence}: sidecar larger than {MAX_SIDECAR_BYTES} bytes, not read")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        return Rights(licence_evidence=f"{evidence}: sidecar is not JSON ({_clean(str(error), 200)})")
    if not isinstance(fields, dict):
        return Rights(licence_evidence=f"{evidence}: sidecar holds {type(fields).__name__}, expected an object")
    return from_fields(fields, evidence)


def from_fields(fields: dict[str, Any], evidence: str) -> Rights:
    """The rights in a dict of a sidecar or a table row; other keys are ignored."""

    def first(*names: str) -> str | None:
        return next((t for n in names if (t := _text(fields.get(n)))), None)

    licence = first("licence", "license")
    expression, licence_class = parse_licence(licence) if licence else (None, None)
    state, signals = _optout(fields)
    return Rights(
        licence_expr=expression,
        licence_class=licence_class,
        licence_evidence=evidence if licence else None,
        source_url=first("source_url", "url"),
        title=first("title"),
        creator=first("creator", "author"),
        consent=first("consent"),
        supplier=first("supplier"),
        supplied_caption=first("caption", "text"),
        optout_state=state,
        optout_signals=signals,
    )


def parse_licence(stated: str) -> tuple[str, int]:
    """The normal form of an SPDX expression and its class; text that is no SPDX expression is kept as stated, unspecified.

    Of several licences joined by AND the strictest counts, by OR the most open.
    """
    from license_expression import ExpressionError

    licensing = _licensing()
    try:
        parsed = licensing.parse(stated.strip(), validate=False)
    except (ExpressionError, ValueError):
        return stated, UNSPECIFIED
    return (str(parsed), _class_of(parsed)) if parsed is not None else (stated, UNSPECIFIED)


def merge(mine: Rights, theirs: Rights) -> Rights:
    """What two copies of the same bytes state together: the first statement of each field, the strictest licence class and opt-out."""
    values = {n: getattr(mine, n) if getattr(mine, n) is not None else getattr(theirs, n) for n in Rights.__slots__}
    for name in ("licence_class", "optout_state"):
        stated = [v for v in (getattr(mine, name), getattr(theirs, name)) if v is not None]
        values[name] = max(stated, default=None)
    if theirs.licence_class is not None and theirs.licence_class == values["licence_class"] != mine.licence_class:
        values |= {"licence_expr": theirs.licence_expr, "licence_evidence": theirs.licence_evidence}
    return Rights(**values)


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Text from outside without control and direction-changing characters, at most `limit` characters."""
    return _clean(text, limit)


def _optout(fields: dict[str, Any]) -> tuple[int, str | None]:
    """State and raw signals: `training`, TDMRep's `tdm_reservation`, robots tags. An unknown word is a reservation: never a pass."""
    signals, state = [], 0
    if "training" in fields:
        word = str(fields["training"]).strip().lower()
        signals.append(f"training={_clean(word, 100)}")
        state = max(state, _TRAINING.get(word, 1))
    if "tdm_reservation" in fields:
        value = str(fields["tdm_reservation"]).strip()
        signals.append(f"tdm_reservation={_clean(value, 100)}")
        state = max(state, 0 if value == "0" else 1)
    if "x_robots_tag" in fields:
        tags = str(fields["x_robots_tag"]).lower()
        signals.append(f"x_robots_tag={_clean(tags, 200)}")
        state = max(state, int(any(t in tags for t in ("noai", "noimageai", "noml"))))
    return state, "\n".join(signals) or None


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _class_of(node: Any) -> int:
    arguments = getattr(node, "args", ())
    if arguments:
        classes = [_class_of(a) for a in arguments]
        return min(classes) if type(node).__name__ == "OR" else max(classes)
    key = str(getattr(node, "key", node))
    return next((c for c, pattern in _CLASSES if pattern.match(key)), UNSPECIFIED)


def _text(value: Any) -> str | None:
    return _clean(value, MAX_TEXT) or None if isinstance(value, str) else None


def _clean(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    return _CONTROL.sub("", text)[:limit].strip()
