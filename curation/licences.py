"""Licences as SPDX expressions, parsed by the library `license-expression`, and the class of use that each allows.

Classes are those of the Data Provenance Initiative: commercial, non-commercial, academic, unspecified. They sort from open to strict. A
licence that this file does not class is unspecified, which is for a person to look at: never a pass by itself.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

Class = Literal["commercial", "non_commercial", "academic", "unspecified"]
COMMERCIAL, NON_COMMERCIAL, ACADEMIC, UNSPECIFIED = range(4)
CLASSES: tuple[Class, ...] = ("commercial", "non_commercial", "academic", "unspecified")

REGISTERED: dict[str, int] = {
    "NOASSERTION": UNSPECIFIED,
    "LicenseRef-pexels": UNSPECIFIED,
    "LicenseRef-pixabay": UNSPECIFIED,
    "LicenseRef-unsplash": UNSPECIFIED,
    "LicenseRef-public-domain": COMMERCIAL,
    "LicenseRef-academic-only": ACADEMIC,
}
"""Names beyond SPDX's own that are taken as licences. Stock sites' terms allow commercial use and say other things of training: unspecified
until `rights.licences` classes them."""

VENDOR = re.compile(r"LicenseRef-vendor-[A-Za-z0-9.-]+")
"""Licences by contract: one name a contract, classed by `rights.licences`."""

MOST_CHARACTERS = 1000
"""Of an expression: a longer one is kept as stated."""

_OPEN = {
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-2-Clause-Patent",
    "BSD-2-Clause-Views",
    "BSD-3-Clause",
    "BSD-3-Clause-Attribution",
    "BSD-3-Clause-Clear",
    "BSD-4-Clause",
    "CC-PDDC",
    "CC-PDM-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "ODC-By-1.0",
    "PDDL-1.0",
    "Unlicense",
}
_OPEN_FAMILIES = ("CC-BY-SA-",)
"""Licences of media that people meet. Copyleft software licences and no-derivatives are left to a person: unspecified."""


def parse_licence(stated: str, registered: Mapping[str, Class] | None = None) -> tuple[str, int]:
    """The normal form of an SPDX expression and its class; text that is no SPDX expression is kept as stated, unspecified.

    Of several licences joined by AND the strictest counts, by OR the most open. `registered` adds LicenseRefs and their classes.
    """
    if len(stated) > MOST_CHARACTERS:
        return stated, UNSPECIFIED
    licensing, own = _licensing(), {k: CLASSES.index(c) for k, c in (registered or {}).items()}
    try:
        parsed = licensing.parse(stated.strip(), validate=False)
        unknown = [] if parsed is None else licensing.unknown_license_keys(parsed)
        if parsed is None or any(k not in own and not VENDOR.fullmatch(k) for k in unknown):
            return stated, UNSPECIFIED
        return str(parsed), _class_of(parsed, own)
    except Exception:  # IndexError, AssertionError, RecursionError …: the library promises none of them
        return stated, UNSPECIFIED


@cache
def _licensing() -> Any:
    from license_expression import LicenseSymbol, Licensing, get_spdx_licensing

    known = get_spdx_licensing().known_symbols
    return Licensing([*known.values(), *(LicenseSymbol(k) for k in REGISTERED if k not in known)])


def _class_of(node: Any, own: Mapping[str, int]) -> int:
    arguments = getattr(node, "args", ())
    if arguments:
        classes = [_class_of(a, own) for a in arguments]
        return min(classes) if type(node).__name__ == "OR" else max(classes)
    key = str(getattr(node, "key", node))
    if key in own or key in REGISTERED:
        return own.get(key, REGISTERED.get(key, UNSPECIFIED))
    if key.startswith("CC-BY-NC-"):
        return NON_COMMERCIAL
    is_plain_by = key.startswith("CC-BY-") and key[6:7].isdigit()
    return COMMERCIAL if key in _OPEN or is_plain_by or key.startswith(_OPEN_FAMILIES) else UNSPECIFIED
