"""Certificates of subscribers that authenticate by signature (RFC 6043 4.2.1.3, 4.2.3.3), and the KMS's own.

A signer is trusted if its certificate chains to a trust anchor and is valid now. Who it is, and that it is enrolled
with this very certificate and not revoked, is the directory's part (kms.engine.caller).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha1, sha256
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
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

MAX_CHAIN = 4
"""Certificates of a chain, the sender's own included."""
_RSA_BITS = range(2048, 8193)
_NOT_A_CERTIFICATE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the parser raises for bytes that are none."""


class CertificateRefused(Exception):
    """A certificate or signature is refused. The text is for the operator; a sender hears `untrusted` only."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The sender as its certificates say: the chain (its own first), its RSA key and the URIs that it is named by.

    Nothing of it is proven before `verify` and `Certificates.check` have passed.
    """

    chain: tuple[x509.Certificate, ...]
    key: rsa.RSAPublicKey
    names: tuple[bytes, ...]

    @classmethod
    def of(cls, certs: Sequence[Cert]) -> "Signer":
        """Read CERT payloads: the sender's first, each next one certifies the one before. Raises CertificateRefused."""
        if not 0 < len(certs) <= MAX_CHAIN:
            raise CertificateRefused(f"{len(certs)} certificates: 1 to {MAX_CHAIN} are expected")
        if any(cert.cert_type != CertType.X509V3 for cert in certs):
            raise CertificateRefused("a certificate of another type than X.509v3")
        try:
            chain = tuple(x509.load_der_x509_certificate(cert.data) for cert in certs)
            key = chain[0].public_key()
            names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            raise CertificateRefused("the certificate has no subjectAltName") from None
        except _NOT_A_CERTIFICATE:
            raise CertificateRefused("not a certificate in DER") from None
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in _RSA_BITS:
            raise CertificateRefused(
                f"the certificate's key is no RSA key of {_RSA_BITS[0]} to {_RSA_BITS[-1]} bits"
            )
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        return cls(chain, key, tuple(uri.encode() for uri in uris))

    @property
    def certificate(self) -> bytes:
        """The sender's certificate, DER."""
        return self.chain[0].public_bytes(Encoding.DER)

    def verify(self, sign: Sign, covered: bytes) -> None:
        """Verify SIGN. Raises CertificateRefused.

        RSASSA-PKCS1-v1_5 with SHA-1 or SHA-256: the hash is not signalled (AMBIGUITIES A-16).
        """
        for algorithm in (hashes.SHA256(), hashes.SHA1()):  # noqa: S303 - the hash of the 128-bit suite
            try:
                self.key.verify(sign.signature, covered, padding.PKCS1v15(), algorithm)
            except InvalidSignature:
                continue
            return
        raise CertificateRefused("the signature does not verify")


class Certificates(Protocol):
    """Which certificates the engine trusts."""

    def check(self, signer: Signer, now: float) -> None:
        """Raise CertificateRefused unless the signer's certificate is to be trusted at `now` (Unix seconds)."""


class ChainedCertificates:
    """Trust in certificates that chain to trust anchors, for signatures."""

    def __init__(self, anchors: list[x509.Certificate]) -> None:
        self._store = Store(anchors)

    def check(self, signer: Signer, now: float) -> None:
        """See Certificates."""
        leaf, *rest = signer.chain
        for certificate, issuer in zip(signer.chain, rest, strict=False):
            # 4.2.1.3: each following certificate directly certifies the one preceding it.
            if certificate.issuer != issuer.subject:
                raise CertificateRefused("the certificates are not in the order of a chain")
        builder = (
            PolicyBuilder().store(self._store).time(datetime.fromtimestamp(now, UTC).replace(tzinfo=None))
        )
        builder = builder.max_chain_depth(MAX_CHAIN).extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_END_ENTITY
        )
        try:
            builder.build_client_verifier().verify(leaf, rest)
        except (ValueError, VerificationError) as error:
            raise CertificateRefused(f"the certificate is not trusted: {_first_line(error)}") from None


def _check_key_usage(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the certificate is not for signatures")


# No demand on extendedKeyUsage: it is a MIKEY certificate, not necessarily one for TLS.
_END_ENTITY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_key_usage)
)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def check_sign_type(sign: Sign) -> None:
    """Raise ProtocolError unless SIGN is of the one type that RFC 3830 4.2.6 makes mandatory."""
    if sign.s_type != SignType.RSA_PKCS1_V1_5:
        raise ProtocolError(f"SIGN: S type {sign.s_type} is not supported", ErrorNo.AUTH_FAILURE)


def check_chash(chash: Chash | None, own: bytes) -> None:
    """Raise ProtocolError (Invalid certificate) if CHASH names another certificate than the KMS's `own` (DER)."""
    if chash is None:
        return
    known = {HashFunc.SHA_1: sha1(own).digest(), HashFunc.SHA_256: sha256(own).digest()}  # noqa: S324
    if known.get(chash.hash_func) != chash.hash:
        raise ProtocolError("CHASH names another certificate than this KMS's", ErrorNo.INVALID_CERT)


def untrusted() -> AuthenticationError:
    """One answer for every certificate that is not to be trusted, and a wrong signature."""
    return AuthenticationError("the signature or certificate of the sender is not valid")
