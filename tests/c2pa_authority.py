"""A certificate authority made up for tests, and a signer it vouches for."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")


def make_authority() -> tuple[bytes, bytes, str]:
    """The signer's chain and private key in PEM, and the authority in PEM: what is trusted when it is named."""
    of_authority, of_signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority, signer = _name("authority"), _name("signer")
    root = (
        _certificate(authority, authority, of_authority.public_key())
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), True)
        .sign(of_authority, hashes.SHA256())
    )
    leaf = (
        _certificate(signer, authority, of_signer.public_key())
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(_usage("digital_signature"), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(of_authority.public_key()), False)
        .sign(of_authority, hashes.SHA256())
    )
    text = root.public_bytes(pem.Encoding.PEM)
    private = of_signer.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    return leaf.public_bytes(pem.Encoding.PEM) + text, private, text.decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests")])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
    )


def _usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{u: u in uses for u in _USES}, encipher_only=False, decipher_only=False)
