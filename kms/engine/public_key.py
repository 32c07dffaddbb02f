"""The KMS's RSA key, which opens the envelope keys of the public-key messages (RFC 6043 4.2.1.3, 4.2.3.3).

It is made at the key ceremony, inside the token, and cannot be taken out of it. A home whose token has none, because it
is old or its token refuses RSA keys for PKCS#1 v1.5, answers the PSK messages only.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import hsm
from kms.config import Config
from kms.engine.certificates import CertificateRefused, ChainedCertificates, Signer
from kms.engine.context import Context, PublicKey
from kms.engine.directory import DirectoryError, Role
from kms.engine.faults import StartRefused
from kms.mikey.payloads import Cert
from kms.mikey.registry import CertType

LABEL = "kms RSA 1"
BITS = 3072
"""As strong as 128 bits (SP 800-57); SoftHSM makes one in 1 to 3 s and opens an envelope key with it in 5 ms."""
_FINGERPRINT_LENGTH = 3


def create(token: hsm.Token) -> rsa.RSAPublicKey | None:
    """Make the RSA key; its public part, or None if the token refuses such keys. Raises hsm.KeyExists."""
    try:
        token.create_private_key(LABEL, BITS)
    except hsm.TokenGone:
        raise
    except hsm.TokenFault:
        return None
    return find(token)


def find(token: hsm.Token) -> rsa.RSAPublicKey | None:
    """The public part of the RSA key, or None if the token has none."""
    try:
        exponent, modulus = token.public_key(LABEL)
    except hsm.KeyNotFound:
        return None
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def fingerprint(key: rsa.RSAPublicKey) -> str:
    """The first 3 bytes of SHA-256 over SubjectPublicKeyInfo, hex."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(spki).digest()[:_FINGERPRINT_LENGTH].hex()


def open_public_key(config: Config, token: hsm.Token) -> PublicKey | None:
    """What the engine needs for the public-key messages, or None without RSA key. Raises StartRefused."""
    key = find(token)
    if key is None:
        return None
    anchors, (own, *_) = _read(config.pk_ca, "ca"), _read(config.pk_cert, "cert")
    if own.public_key() != key:
        raise StartRefused(
            f"{config.pk_cert} is not the certificate of the token's key {LABEL!r}: correct [pk] cert"
        )
    token.private_key(LABEL)  # learns now how the token refuses a PKE, not at the first message
    return PublicKey(
        ChainedCertificates(anchors), own.public_bytes(Encoding.DER), lambda: token.private_key(LABEL)
    )


def own_certificate(context: Context) -> bytes:
    """The certificate of the KMS's RSA key (DER). Raises DirectoryError without RSA key."""
    if context.public_key is None:
        raise DirectoryError("this KMS has no RSA key, which `kms init` makes: enrol users with PSKs")
    return context.public_key.certificate


def check_enrolment(
    context: Context, identity: bytes, role: Role, certificates: Sequence[bytes]
) -> bytes | None:
    """The certificate (DER) that a user is enrolled with, None if with a PSK. Raises DirectoryError.

    `certificates` are its own and those that certify it.
    """
    if not certificates:
        return None
    if role not in (Role.CLIENT, Role.FOCUS):
        raise DirectoryError("only clients and foci are enrolled by certificate")
    own_certificate(context)
    assert context.public_key is not None
    try:
        signer = Signer.of([Cert(CertType.X509V3, certificate) for certificate in certificates])
        context.public_key.certificates.check(signer, context.sources.now())
    except CertificateRefused as error:
        raise DirectoryError(f"the certificate cannot be enrolled: {error}") from None
    if identity not in signer.names:
        names = ", ".join(name.decode() for name in signer.names) or "no URI"
        raise DirectoryError(
            f"the certificate names {names} in subjectAltName: it must name {identity.decode()}"
        )
    return signer.certificate


def _read(path: Path, key: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise StartRefused(f"{path} cannot be read: {error.strerror}; correct [pk] {key}") from None
    except ValueError:
        raise StartRefused(f"{path} holds no certificate in PEM: correct [pk] {key}") from None
