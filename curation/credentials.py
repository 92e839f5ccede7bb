"""Content Credentials (C2PA): read from the original file before any re-encoding, which loses them.

The library is native and parses hostile bytes, so it runs in the sandbox's child. It may not fetch anything: remote manifests and OCSP
are off. Without trust anchors a signature can only be found intact, and its signer stays unknown: `untrusted`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from curation.media import open_regular
from curation.optouts import reserves_by_credentials
from manifests import ids

VERSION = "1"
_SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_STATES = {"Trusted": "valid", "Valid": "untrusted", "Invalid": "invalid"}
_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a file's Content Credentials say. None of the rest is set where there are none."""

    c2pa_state: str
    """none, valid (signed by somebody trusted), untrusted (intact, signer unknown), invalid, or unreadable."""
    c2pa_train_mine: str | None = None
    """Training and mining entries, one 'name=use' a line."""
    c2pa_source_type: str | None = None
    """The digital source type of its creation, e.g. trainedAlgorithmicMedia."""
    c2pa_manifest_sha256: str | None = None
    """SHA-256 of the active manifest as the library writes it in JSON, hexadecimal."""

    @property
    def reserves_training(self) -> bool:
        """Whether they reserve training; of a file that cannot be read, nothing is said."""
        return reserves_by_credentials((self.c2pa_train_mine or "").splitlines())

    @property
    def is_synthetic(self) -> bool:
        """Whether they say that a model made it, or part of it."""
        return "algorithmicmedia" in (self.c2pa_source_type or "").lower()


def library_version() -> str | None:
    """The version of c2pa-python; None where it is not installed, and then nothing is read."""
    try:
        return metadata.version("c2pa-python")
    except metadata.PackageNotFoundError:
        return None


def trust_anchors(path: str | None) -> str:
    """The PEM text of a file of trust anchors; empty without one."""
    return "" if path is None else Path(path).read_text("utf-8")


def trust_digest(path: str | None) -> str:
    """What changes with the trust anchors."""
    return ids.digest("anchors/v1", trust_anchors(path))


def read_credentials(path: str, anchors: str = "") -> Credentials:
    """The Content Credentials of a local file; `anchors` is PEM text of the authorities whose signers are trusted.

    Raises MediaError where there is no such file.
    """
    import c2pa

    settings: dict[str, Any] = dict(_SETTINGS)
    if anchors:
        settings["trust"] = {"trust_anchors": anchors}
    with open_regular(path) as source:
        try:
            reader = c2pa.Reader.try_create(source, context=c2pa.Context.from_dict(settings))
        except c2pa.C2paError.NotSupported:
            return Credentials(c2pa_state="none")
        except c2pa.C2paError:
            # Damaged files end here too: what is no container has no credentials, and probing says what is wrong with it.
            return Credentials(c2pa_state="unreadable")
        if reader is None:
            return Credentials(c2pa_state="none")
        return from_report(json.loads(reader.json()), str(reader.get_validation_state()))


def from_report(report: dict[str, Any], state: str) -> Credentials:
    """The credentials in a reader's JSON report."""
    manifest = report.get("manifests", {}).get(report.get("active_manifest"), {})
    assertions = [a for a in manifest.get("assertions", []) if isinstance(a, dict) and isinstance(a.get("data"), dict)]
    # What reserves comes first: it is not cut off.
    entries = sorted(set(_entries(manifest.get("assertions", []))), key=lambda entry: (not reserves_by_credentials([entry]), entry))
    types = sorted({t.rpartition("/")[2] for a in assertions for t in _source_types(a["data"])})
    return Credentials(
        c2pa_state=_STATES.get(state, "invalid"),
        c2pa_train_mine="\n".join(entries)[:_MAX_TEXT] or None,
        c2pa_source_type=", ".join(types)[:_MAX_TEXT] or None,
        c2pa_manifest_sha256=hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest(),
    )


def _entries(assertions: list[Any]) -> Iterator[str]:
    for assertion in assertions:
        label = str(assertion.get("label")) if isinstance(assertion, dict) else ""
        if "training-mining" not in label:
            continue
        data = assertion.get("data")
        entries = data.get("entries") if isinstance(data, dict) else None
        if not isinstance(entries, dict):
            yield _plain(f"{label}=not understood")
            continue
        for name, said in entries.items():
            use = said.get("use") if isinstance(said, dict) else said
            yield _plain(f"{name}={use}")


def _source_types(data: dict[str, Any]) -> Iterator[str]:
    actions = data.get("actions")
    for action in actions if isinstance(actions, list) else []:
        if isinstance(action, dict) and isinstance(kind := action.get("digitalSourceType"), str):
            yield _plain(kind)


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:200]
