"""`removals.jsonl`: what was removed, as hashes only, so that holders of copies and derivatives can remove it too.

One JSON object a line: kind (sha256, md5, pdq …), value, takedown_no, reason. Never an address, a name or a title: they rot, and
they are what had to go.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

NAME = "removals.jsonl"

HASH_KINDS = ("sha256", "md5", "sha1", "pdq")
"""Kinds of blocklist rows that are hashes of media; addresses and names are not published."""


def write_removals(blocks: Iterable[dict[str, Any]], reasons: dict[int | None, str]) -> bytes:
    """The hashes of a blocklist's rows, sorted; `reasons` gives the basis of each takedown."""
    return _lines(
        {_line(b["kind"], b["value"], b["takedown_no"], reasons.get(b["takedown_no"])) for b in blocks if b["kind"] in HASH_KINDS}
    )


def with_hashes(data: bytes, sha256: Sequence[str], takedown_no: int, reason: str) -> bytes:
    """The list with these files added, each once."""
    return _lines({*data.decode().splitlines(), *(_line("sha256", h, takedown_no, reason) for h in sha256)})


def _line(kind: str, value: str, takedown_no: int | None, reason: str | None) -> str:
    return json.dumps({"kind": kind, "value": value, "takedown_no": takedown_no, "reason": reason or "not stated"}, sort_keys=True)


def _lines(lines: set[str]) -> bytes:
    return "".join(line + "\n" for line in sorted(lines)).encode()
