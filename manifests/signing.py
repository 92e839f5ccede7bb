"""Keys, and statements signed with them: in-toto Statement v1 in a DSSE envelope, Ed25519.

The libraries that do it are securesystemslib (DSSE, keys), in-toto-attestation (the statement) and cryptography; they are imported
when they are needed, as they take 0.6 s.
"""

import binascii
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.files import sync_folder

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


class SigningError(Exception):
    """A key or signature is not what it should be; the message says what was expected, what was found and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is signed: `predicate`, of the type `predicate_type`, holds for the subject with this SHA-256."""

    subject: str
    sha256: str
    predicate_type: str
    predicate: dict[str, Any]


def generate_key(path: Path) -> str:
    """An Ed25519 key pair: `path` (PEM, PKCS 8, mode 0600) and `path`.pub (PEM); returns the key's id. Nothing is overwritten."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public_path = public_path_of(path)
    for taken in (path, public_path):
        if taken.exists():
            raise SigningError(f"{taken}: expected no file there, found one; a key is never overwritten: choose another name")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    _create(path, private, 0o600)
    _create(public_path, key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo), 0o644)
    sync_folder(path.parent)
    return str(load_signer(path).public_key.keyid)


def public_path_of(path: Path) -> Path:
    """Where the public half of a key file lies."""
    return path.with_name(path.name + ".pub")


def load_signer(path: Path) -> "CryptoSigner":
    """The signer of a private key file. SigningError when it is absent, no Ed25519 private key, or locked by a password."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError) as error:
        raise SigningError(
            f"{path}: expected a private key in PEM without a password, found none ({error}); make one with `dailies keygen FILE`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{path}: expected an Ed25519 key, found {type(key).__name__}; make one with `dailies keygen FILE`")
    return CryptoSigner(key)


def load_public(path: Path) -> "SSlibKey":
    """The key of a public key file; SigningError says so when it is something else, a private key for instance."""
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise SigningError(
            f"{path}: expected a public key, found a private one; give {public_path_of(path).name} and keep this file to yourself"
        )
    try:
        return public_from_pem(data)
    except ValueError as error:
        raise SigningError(f"{path}: expected an Ed25519 public key in PEM, found something else ({error})") from error


def public_from_pem(data: bytes) -> "SSlibKey":
    """The key in PEM text; ValueError when there is no Ed25519 public key in it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    try:
        key = load_pem_public_key(data)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"expected an Ed25519 key, found {type(key).__name__}")
    return SSlibKey.from_crypto(key)


def public_pem(signer: "CryptoSigner") -> str:
    """The public half of a signer's key as PEM text."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer.public_key.keyval["public"]))
    return raw.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo).decode()


def seal(statement: Statement, signer: "CryptoSigner | None") -> dict[str, Any]:
    """The DSSE envelope around the statement; without a signer its list of signatures is empty."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(_encode(statement), PAYLOAD_TYPE, {})
    if signer is not None:
        envelope.sign(signer)
    sealed: dict[str, Any] = envelope.to_dict()
    return sealed


def signers_of(envelope: Any) -> list[str]:
    """The key ids that an envelope names, whether or not their signatures hold."""
    return sorted(_envelope(envelope).signatures)


def unseal(envelope: Any, key: "SSlibKey | None") -> Statement:
    """The statement inside; with a key given, only if that key's signature holds. SigningError says what does not."""
    from securesystemslib.exceptions import VerificationError

    parsed = _envelope(envelope)
    if parsed.payload_type != PAYLOAD_TYPE:
        raise SigningError(f"expected a payload of type {PAYLOAD_TYPE}, found {parsed.payload_type!r}")
    if key is not None:
        try:
            parsed.verify([key], 1)
        except VerificationError as error:
            found = (
                "no signature"
                if not parsed.signatures
                else "one by another key"
                if key.keyid not in parsed.signatures
                else "one that does not hold"
            )
            names = ", ".join(sorted(parsed.signatures))
            raise SigningError(f"expected a signature by key {key.keyid}, found {found}" + (f" ({names})" if names else "")) from error
    return _decode(parsed.payload)


def _encode(statement: Statement) -> bytes:
    from google.protobuf.json_format import Parse
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement as Checked

    subject = [{"name": statement.subject, "digest": {"sha256": statement.sha256}}]
    whole = {"_type": STATEMENT_TYPE, "subject": subject, "predicateType": statement.predicate_type, "predicate": statement.predicate}
    payload = json.dumps(whole, sort_keys=True, allow_nan=False)  # written by json and not by protobuf, which makes 1 to 1.0
    Checked.copy_from_pb(Parse(payload, statement_pb2.Statement())).validate()
    return payload.encode()


def _decode(payload: bytes) -> Statement:
    try:
        data = json.loads(payload)
        (subject,) = data["subject"]
        if data["_type"] != STATEMENT_TYPE or not isinstance(data["predicate"], dict):
            raise ValueError(f"its type is {data['_type']!r}")
        return Statement(
            subject=str(subject["name"]),
            sha256=str(subject["digest"]["sha256"]),
            predicate_type=str(data["predicateType"]),
            predicate=data["predicate"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SigningError(f"expected an in-toto Statement v1 with one subject and a predicate, found something else ({error})") from error


def _envelope(data: Any) -> Any:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        signatures = [{"keyid": str(s["keyid"]), "sig": str(s["sig"])} for s in data["signatures"]]  # a copy: the library writes into it
        return Envelope.from_dict({"payload": str(data["payload"]), "payloadType": str(data["payloadType"]), "signatures": signatures})
    except (Error, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise SigningError(
            f"expected a DSSE envelope with payload, payloadType and signatures, found something else ({error!r})"
        ) from error


def _create(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(data)
        sink.flush()
        os.fsync(sink.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningError(
            f"{path}: expected a key file, found none that can be read ({error.strerror}); make one with `dailies keygen FILE`"
        ) from error
