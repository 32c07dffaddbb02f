"""Certificates of subscribers that authenticate by signature (RFC 6043 4.2.1.3, 4.2.3.3), and the KMS's own.

The certificate must chain to a trust anchor, be valid now, and name the subscriber as a URI in its subjectAltName. That
the subscriber is enrolled with this certificate, and not revoked, is the directory's part (kms.engine.caller).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha1, sha256
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from kms.mikey.errors import AuthenticationError, ProtocolError
from kms.mikey.payloads import Cert, Chash, Sign
from kms.mikey.registry import CertType, ErrorNo, HashFunc, SignType

_MAX_CHAIN = 4


class Certificates(Protocol):
    """What the engine asks about certificates."""

    def signer(self, certs: Sequence[Cert], claimed: bytes, now: float) -> x509.Certificate:
        """The certificate of the sender that `claimed` names. Raises AuthenticationError if it is not to be trusted."""

    def check_chash(self, chash: Chash | None) -> None:
        """Raise ProtocolError (Invalid certificate) if CHASH names another certificate than the KMS's."""


class ChainedCertificates:
    """Certificates that chain to trust anchors. `own` is the KMS's certificate, for PKE."""

    def __init__(self, anchors: list[x509.Certificate], own: x509.Certificate) -> None:
        self._store = Store(anchors)
        self._own = own.public_bytes(Encoding.DER)

    def signer(self, certs: Sequence[Cert], claimed: bytes, now: float) -> x509.Certificate:
        """See Certificates. The sender's certificate comes first, each next one certifies the one before."""
        if not certs or len(certs) > _MAX_CHAIN or any(c.cert_type != CertType.X509V3 for c in certs):
            raise untrusted()
        try:
            leaf, *rest = (x509.load_der_x509_certificate(c.data) for c in certs)
            builder = (
                PolicyBuilder().store(self._store).time(datetime.fromtimestamp(now, UTC).replace(tzinfo=None))
            )
            builder = builder.extension_policies(
                ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_END_ENTITY
            )
            builder.max_chain_depth(_MAX_CHAIN).build_client_verifier().verify(leaf, rest)
        except (ValueError, TypeError, VerificationError, x509.ExtensionNotFound):
            raise untrusted() from None
        if claimed.decode("utf-8", "replace") not in _uris(leaf):
            raise untrusted()
        return leaf

    def check_chash(self, chash: Chash | None) -> None:
        """See Certificates."""
        if chash is None:
            return
        known = {HashFunc.SHA_1: sha1(self._own).digest(), HashFunc.SHA_256: sha256(self._own).digest()}  # noqa: S324
        if known.get(chash.hash_func) != chash.hash:
            raise ProtocolError("CHASH names another certificate than this KMS's", ErrorNo.INVALID_CERT)


def _uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _check_key_usage(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the certificate is not for signatures")


# No demand on extendedKeyUsage: it is a MIKEY certificate, not necessarily one for TLS.
_END_ENTITY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_key_usage)
)


def untrusted() -> AuthenticationError:
    """One answer for every certificate that is not to be trusted, and for a wrong signature."""
    return AuthenticationError("the signature or certificate of the sender is not valid")


def verify_signature(certificate: x509.Certificate, sign: Sign, covered: bytes) -> None:
    """Verify SIGN (RSASSA-PKCS1-v1_5 with SHA-1 or SHA-256: the hash is not signalled, AMBIGUITIES A-16).

    Raises AuthenticationError, or ProtocolError for a signature type that is not supported.
    """
    if sign.s_type != SignType.RSA_PKCS1_V1_5:
        raise ProtocolError(f"SIGN: S type {sign.s_type} is not supported", ErrorNo.INVALID_CERT)
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise untrusted()
    for algorithm in (hashes.SHA256(), hashes.SHA1()):  # noqa: S303 - the hash of the 128-bit suite
        try:
            key.verify(sign.signature, covered, padding.PKCS1v15(), algorithm)
        except InvalidSignature:
            continue
        return
    raise untrusted()
