"""Rights as stated: claims with their evidence, never a judgement, from sidecars, a rights table and source defaults.

Precedence: the rights table that the person who runs it names (`--rights`), then the file's sidecar, then the row or archive it was listed
from, then its source's default. Of each field the first statement counts; but of licence classes, opt-outs, consent and flags the strictest
does, whoever states it, and so it is among copies of the same bytes. Only a contract of the configuration lifts a reservation.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from curation.credentials import Credentials
from curation.licences import Class, parse_licence
from curation.optouts import SIGNALS, read_signals, reserves
from curation.plain_text import clean_text
from manifests.records import Asset

MAX_SIDECAR_BYTES = 1 << 20

_CONSENT = ("not-needed", "given")
"""Words that are a consent; every other is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractConfig:
    """What a contract says of training, whatever the file's own signals are."""

    training: bool
    expires: str | None = None
    """Last day on which it holds, ISO 8601."""
    evidence: str | None = None
    """Where the contract is kept."""

    def __post_init__(self) -> None:
        if self.expires is not None and _day(self.expires) is None:
            raise ValueError(f"expires: expected a day like 2027-12-31, found {self.expires!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RightsConfig:
    """What only you can know: your contracts by id, and the class of LicenseRefs that SPDX does not list."""

    contracts: dict[str, ContractConfig] = field(default_factory=dict)
    licences: dict[str, Class] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """The rights fields of an asset that somebody can state; None = not stated. Meanings: `manifests.records.Asset`."""

    licence_expr: str | None = None
    licence_class: int | None = None
    licence_evidence: str | None = None
    licence_evidence_uri: str | None = None
    licence_evidence_sha256: str | None = None
    licence_verified_by: str | None = None
    licence_verified_at: str | None = None
    licence_confidence: float | None = None
    annotation_licence: str | None = None
    legal_basis: str | None = None
    contract_id: str | None = None
    source_url: str | None = None
    canonical_url: str | None = None
    page_url: str | None = None
    platform: str | None = None
    platform_id: str | None = None
    channel_id: str | None = None
    title: str | None = None
    creator: str | None = None
    rights_holder: str | None = None
    consent: str | None = None
    consent_ref: str | None = None
    consent_expires: str | None = None
    supplier: str | None = None
    supplied_caption: str | None = None
    acquired_at: str | None = None
    acquired_by: str | None = None
    user_agent: str | None = None
    http_status: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    robots_sha256: str | None = None
    robots_verdict: str | None = None
    x_robots_tag: str | None = None
    tdm_reservation: int | None = None
    tdm_policy_url: str | None = None
    aipref_raw: str | None = None
    aipref_parsed: str | None = None
    aipref_parser: str | None = None
    optout_checks: str | None = None
    training_permission: str | None = None
    optout_state: int | None = None
    optout_signals: str | None = None
    synthetic_flag: int | None = None
    personal_data_flag: int | None = None
    minors_flag: int | None = None


STORED = tuple(n for n in Rights.__slots__ if n != "supplier")
"""The fields that an asset carries; the supplier is its source's."""

_ALIASES: dict[str, tuple[str, ...]] = {
    "licence_expr": ("licence", "license"),
    "source_url": ("source_url", "url"),
    "creator": ("creator", "author"),
    "supplied_caption": ("caption", "text"),
    "contract_id": ("contract_id", "contract"),
    "licence_evidence_uri": ("licence_evidence_uri", "license_url"),
    "tdm_policy_url": ("tdm_policy_url", "tdm_policy"),
    "licence_verified_by": ("licence_verified_by", "verified_by"),
    "licence_verified_at": ("licence_verified_at", "verified_at"),
}
"""Where a field may be called otherwise than its column."""

_SIGNAL_ALIASES = {
    "tdm-reservation": "tdm_reservation",
    "aipref": "content_usage",
    "aipref_raw": "content_usage",
    "robots": "robots_verdict",
}
_SPECIAL = {"licence_class", "licence_evidence", "aipref_raw", "aipref_parsed", "aipref_parser", "training_permission", "optout_state"}
_SPECIAL |= {"optout_signals", "x_robots_tag", "tdm_reservation", "robots_verdict"}
_FLAGS = ("synthetic_flag", "personal_data_flag", "minors_flag")
_INTEGERS = ("http_status", *_FLAGS)
_STRICTEST = ("licence_class", "optout_state", "tdm_reservation", *_FLAGS)
_TEXTS = tuple(n for n in Rights.__slots__ if n not in _SPECIAL and n not in _INTEGERS and n not in ("licence_expr", "licence_confidence"))

FIELDS = frozenset(
    {n for f in (*_TEXTS, *_INTEGERS, "licence_expr", "licence_confidence") for n in _ALIASES.get(f, (f,))} | {*SIGNALS, *_SIGNAL_ALIASES}
)
"""Names that a sidecar or table can state; others are ignored in sidecars and refused in a rights table."""


def read_sidecar(data: bytes, evidence: str) -> Rights:
    """The rights a JSON sidecar states. One that is not understood may hold the opt-out, so it reserves; the signals say why."""
    found = parse_sidecar(data)
    return not_understood(evidence, found) if isinstance(found, str) else from_fields(found, evidence)


def parse_sidecar(data: bytes) -> dict[str, Any] | str:
    """The fields of a JSON sidecar, or why it has none: too large, no JSON, no object, or a name that stands in one twice."""
    if len(data) > MAX_SIDECAR_BYTES:
        return f"sidecar larger than {MAX_SIDECAR_BYTES} bytes, not read"
    try:
        fields = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return f"sidecar is not JSON ({clean_text(str(error), 200)})"
    return fields if isinstance(fields, dict) else f"sidecar holds {type(fields).__name__}, expected an object"


def not_understood(evidence: str, reason: str) -> Rights:
    """What a statement that cannot be read says: that training is reserved, and why."""
    return Rights(licence_evidence=f"{evidence}: {reason}", optout_state=1, optout_signals=clean_text(f"sidecar={reason}", 300))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise ValueError(f"{clean_text(twice, 100)!r} is stated twice")
    return found


def from_fields(fields: Mapping[str, Any], evidence: str) -> Rights:
    """The rights in a dict of a sidecar or a table row; other keys are ignored. Names are told by their letters: `X-Robots-Tag` is one."""
    named: dict[str, Any] = {}
    for name, value in fields.items():
        named.setdefault(field_name(name), value)

    def first(name: str) -> str | None:
        return next((t for n in _ALIASES.get(name, (name,)) if (t := _text(named.get(n)))), None)

    licence = first("licence_expr") or _foreign_licence(named)
    expression, licence_class = parse_licence(licence) if licence else (None, None)
    signals: dict[str, Any] = {}
    for name, value in fields.items():
        signal = _SIGNAL_ALIASES.get(field_name(name), field_name(name))
        if signals.get(signal) is None or (value is not None and reserves(signal, str(value))):  # under two names: the stricter counts
            signals[signal] = value
    values: dict[str, Any] = {n: first(n) for n in _TEXTS}
    values |= {n: (_flag if n in _FLAGS else _integer)(named.get(n)) for n in _INTEGERS}
    values |= read_signals(signals, clean_text)
    return Rights(
        licence_expr=expression,
        licence_class=licence_class,
        licence_evidence=evidence if licence else None,
        licence_confidence=_share(named.get("licence_confidence")),
        **values,
    )


def field_name(name: str) -> str:
    """The name of a field however it is written: small letters, underscores for hyphens."""
    return name.strip().lower().replace("-", "_")


def _foreign_licence(named: Mapping[str, Any]) -> str | None:
    """A licence that is stated as no text, such as an object with a name: kept as it is, which no class of licences knows."""
    stated = next((v for n in _ALIASES["licence_expr"] if (v := named.get(n))), None)
    return None if stated is None or isinstance(stated, str) else clean_text(json.dumps(stated, ensure_ascii=False, default=str), 500)


def misread(fields: Mapping[str, str]) -> str | None:
    """What was expected and found where the value of a typed field would state nothing; None where all of them are understood."""
    for name, value in fields.items():
        if name in _FLAGS and _integer(value) not in (0, 1):
            return f"{name}: expected 0 or 1, found {clean_text(value, 100)!r}"
        if name in _INTEGERS and _integer(value) is None:
            return f"{name}: expected a whole number, found {clean_text(value, 100)!r}"
        if name == "licence_confidence" and _share(value) is None:
            return f"{name}: expected a number from 0 to 1, found {clean_text(value, 100)!r}"
    return None


def merge(mine: Rights, theirs: Rights) -> Rights:
    """What both state together: of each field my statement, else theirs; the strictest licence class, opt-out, consent and flags."""
    values = {n: getattr(mine, n) if getattr(mine, n) is not None else getattr(theirs, n) for n in Rights.__slots__}
    for name in _STRICTEST:
        values[name] = max((v for v in (getattr(mine, name), getattr(theirs, name)) if v is not None), default=None)
    if mine.licence_class is None and theirs.licence_class is not None:
        values["licence_evidence"] = theirs.licence_evidence
    elif theirs.licence_class is not None and theirs.licence_class == values["licence_class"] != mine.licence_class:
        values |= {n: getattr(theirs, n) for n in Rights.__slots__ if n.startswith("licence_")}
    values["contract_id"] = ", ".join(sorted(_contracts(mine.contract_id) | _contracts(theirs.contract_id))) or None
    values["optout_signals"] = "\n".join(dict.fromkeys(_lines(mine.optout_signals) + _lines(theirs.optout_signals))) or None
    values["licence_expr"] = _both_licences(mine, theirs, values["licence_expr"])
    if mine.consent is not None and theirs.consent is not None:
        strictest = min((mine, theirs), key=lambda r: (r.consent in _CONSENT, _end_of_consent(r)))
        values |= {n: getattr(strictest, n) for n in ("consent", "consent_ref", "consent_expires")}
    return Rights(**values)


def _both_licences(mine: Rights, theirs: Rights, chosen: str | None) -> str | None:
    """The strictest licence, and beside a LicenseRef, which the configuration may class as an open one, the other licence too."""
    stated = {p for r in (mine, theirs) for p in (r.licence_expr or "").split(" AND ") if p}
    if (
        mine.licence_expr == theirs.licence_expr
        or not any("LicenseRef-" in p for p in stated)
        or None in (mine.licence_expr, theirs.licence_expr)
    ):
        return chosen
    return " AND ".join(f"({p})" if " OR " in p and not p.startswith("(") else p for p in sorted(stated))


def _end_of_consent(stated: Rights) -> date:
    """The last day of the consent; of one that cannot be read it is over."""
    if stated.consent_expires is None:
        return date.max
    return _day(stated.consent_expires) or date.min


def fill(stated: Rights, default: Rights) -> Rights:
    """What is stated, completed by a default; a default never replaces a statement, but what it reserves is reserved."""
    values = {n: getattr(stated, n) if getattr(stated, n) is not None else getattr(default, n) for n in Rights.__slots__}
    owner = stated if stated.licence_expr is not None or default.licence_expr is None else default
    values |= {n: getattr(owner, n) for n in Rights.__slots__ if n.startswith("licence_")}
    values["optout_state"] = max((v for v in (stated.optout_state, default.optout_state) if v is not None), default=None)
    values["optout_signals"] = "\n".join(dict.fromkeys(_lines(stated.optout_signals) + _lines(default.optout_signals))) or None
    return Rights(**values)


def of_asset(asset: Asset) -> Rights:
    """What an asset states."""
    return Rights(**{n: getattr(asset, n) for n in STORED})


def put(asset: Asset, stated: Rights) -> Asset:
    """The asset with these statements."""
    return dataclasses.replace(asset, **{n: getattr(stated, n) for n in STORED})


def with_credentials(asset: Asset, found: Credentials) -> Asset:
    """The asset with what its Content Credentials say; what they reserve is reserved."""
    columns: dict[str, Any] = {f.name: getattr(found, f.name) for f in dataclasses.fields(Credentials)}
    if found.reserves_training:
        signal = "c2pa=" + ", ".join(_lines(found.c2pa_train_mine))
        columns |= {"optout_state": 1, "optout_signals": "\n".join([*_lines(asset.optout_signals), clean_text(signal, 500)])}
    if found.is_synthetic:
        columns["synthetic_flag"] = 1
    return dataclasses.replace(asset, **columns)


def settle(asset: Asset, config: RightsConfig, today: date) -> Asset:
    """The asset with the columns that rules compare: licence class, reservation and consent as they stand today under your contracts."""
    licence_class = asset.licence_class
    if asset.licence_expr is not None:
        licence_class = parse_licence(asset.licence_expr, config.licences)[1]
    return dataclasses.replace(
        asset,
        licence_class=licence_class,
        reservation=_reservation(asset, config, today),
        consent_valid=_consent(asset, today),
    )


def _reservation(asset: Asset, config: RightsConfig, today: date) -> float | None:
    """1 where a signal or a contract reserves training; a contract permits it while it runs, unless another forbids it."""
    said = [_permits(config.contracts[c], today) for c in _contracts(asset.contract_id) if c in config.contracts]
    if False in said:
        return 1.0
    if True in said:
        return 0.0
    return None if asset.optout_state is None else float(asset.optout_state)


def _permits(contract: ContractConfig, today: date) -> bool | None:
    """None once it has ended: then it says nothing any more."""
    end = _day(contract.expires) if contract.expires else None
    return None if end is not None and end < today else contract.training


def _consent(asset: Asset, today: date) -> float | None:
    if asset.consent is None:
        return None
    end = _day(asset.consent_expires) if asset.consent_expires else None
    unreadable = asset.consent_expires is not None and end is None
    return float(asset.consent in _CONSENT and not unreadable and (end is None or end >= today))


def _contracts(text: str | None) -> set[str]:
    return {c for part in (text or "").split(",") if (c := part.strip())}


def _lines(text: str | None) -> list[str]:
    return (text or "").splitlines()


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def _text(value: Any) -> str | None:
    return clean_text(value) or None if isinstance(value, str) else None


def _number(value: Any, kind: Callable[[Any], Any]) -> Any:
    try:
        return kind(value) if isinstance(value, (int, float, str)) and value != "" else None
    except (ValueError, OverflowError):
        return None


def _integer(value: Any) -> int | None:
    found: int | None = None if isinstance(value, float) else _number(value, int)
    if found is None and (number := _number(value, float)) is not None and number.is_integer():
        found = int(number)  # '1.0': what becomes of 1 in a column that also has empty cells
    return found if found is not None and abs(found) < 1 << 31 else None


def _flag(value: Any) -> int | None:
    """0 or 1; 1 too where something is stated that is neither, as what is not understood may say yes."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.strip().lower() in ("false", "no"):
        return 0
    return 0 if _integer(value) == 0 else 1


def _share(value: Any) -> float | None:
    found: float | None = _number(value, float)
    return found if found is not None and 0 <= found <= 1 else None
