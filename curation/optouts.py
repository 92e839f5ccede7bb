"""Opt-outs as signals: kept raw as they were seen, and judged conservatively. What is not understood is a reservation, never a pass.

training             a word: allowed, or anything else (reserved, no_training …)
tdm_reservation      TDMRep: 0 or 1; tdm_policy_url beside it
x_robots_tag         noai, noimageai, noml reserve; noindex and the like are about search
robots_verdict       what robots.txt said to the crawler: allowed, or anything else
content_usage        IETF AIPREF, the raw header text; parsed as a structured field's dictionary without knowing its categories, which
                     are a draft: any preference but the token `y` reserves, and so does a category that is stated twice
c2pa                 `c2pa.training-mining` or `cawg.training-mining` of Content Credentials: training and mining must be `allowed`
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

AIPREF_PARSER = "dictionary/1"
"""Version of `parse_content_usage`; what it understood is stored beside the raw text."""

NO_TRAINING_TAGS = ("noai", "noimageai", "noml")
SIGNALS = ("training", "tdm_reservation", "x_robots_tag", "robots_verdict", "content_usage")
_MAX = {"training": 100, "tdm_reservation": 100, "robots_verdict": 100, "x_robots_tag": 200, "content_usage": 1000}
_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_VALUE = re.compile(r"\?[01]|[A-Za-z*][\w!#$%&'*+.^`|~:/-]*|-?\d+(?:\.\d+)?|\"[^\"]*\"")


def parse_content_usage(raw: str) -> dict[str, str] | None:
    """The preferences of a `Content-Usage` text, category -> value as written ('?1' where none is); None when it is no dictionary (RFC 9651)
    that states each category once, or longer than one is kept."""
    found: dict[str, str] = {}
    for piece in raw.split(",") if len(raw) <= _MAX["content_usage"] else [""]:
        key, equals, value = (part.strip() for part in piece.split(";", 1)[0].partition("="))
        if not _KEY.fullmatch(key) or key in found or (equals and not _VALUE.fullmatch(value)):
            return None
        found[key] = value if equals else "?1"
    return found


def reserves(name: str, value: str) -> bool:
    """Whether the signal `name`, with this value as seen, reserves training."""
    word = value.strip().lower()
    if name in ("training", "robots_verdict"):
        return word != "allowed"
    if name == "tdm_reservation":
        return word != "0"
    if name == "x_robots_tag":
        return any(tag in word for tag in NO_TRAINING_TAGS)
    preferences = parse_content_usage(value)
    return preferences is None or any(v != "y" for v in preferences.values())


def reserves_by_credentials(entries: Iterable[str]) -> bool:
    """Whether `name=use` entries of a training-mining assertion reserve training; inference on a finished work is not training."""
    return any(
        use.strip() != "allowed" for name, _, use in (e.partition("=") for e in entries) if name.strip().split(".")[-1] != "ai_inference"
    )


def read_signals(fields: Mapping[str, Any], clean: Any) -> dict[str, Any]:
    """The columns of an asset that a dict of signals gives; `clean(text, limit)` makes foreign text storable.

    `optout_state` is 0 where there is a statement without any reservation, 1 where one reserves.
    """
    raw = {n: str(fields[n]) for n in SIGNALS if fields.get(n) is not None and str(fields[n]).strip() != ""}
    if "training" in fields:
        raw.setdefault("training", "")  # said without a word: not understood, so reserved
    seen = {n: clean(v, _MAX[n]) for n, v in raw.items()}
    columns: dict[str, Any] = {
        "optout_state": int(any(reserves(n, v) for n, v in raw.items())),
        "optout_signals": "\n".join(f"{n}={v}" for n, v in seen.items()) or None,
        "training_permission": seen.get("training"),
        "x_robots_tag": seen.get("x_robots_tag"),
        "robots_verdict": seen.get("robots_verdict"),
        "aipref_raw": seen.get("content_usage"),
    }
    if "tdm_reservation" in seen:
        columns["tdm_reservation"] = int(reserves("tdm_reservation", seen["tdm_reservation"]))
    if said := seen.get("content_usage"):
        found = parse_content_usage(said)
        columns["aipref_parsed"] = None if found is None else ", ".join(f"{k}={v}" for k, v in sorted(found.items()))
        columns["aipref_parser"] = AIPREF_PARSER
    return columns
