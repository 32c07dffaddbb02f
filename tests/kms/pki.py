"""A certification authority for signers, and a KMS in this process that answers public-key messages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kms.crypto.interface import Key, Use
from kms.crypto.software import SoftwareKeys
from kms.engine.certificates import ChainedCertificates
from kms.engine.context import PublicKey
from kms.engine.directory import Role
from kms.party.credential import Credential, KeyPair
from tests.kms.local_kms import KMS_IDENTITY, Clock, LocalKms

_EVERY_USE = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
)
_NO_USE = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """An RSA key of a test, one for each name."""
    return rsa.generate_private_key(65537, bits)


def pem(certificate: x509.Certificate) -> str:
    """A certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


def der(certificate: x509.Certificate) -> bytes:
    """A certificate as DER."""
    return certificate.public_bytes(Encoding.DER)


def private_pem(key: rsa.RSAPrivateKey) -> str:
    """A private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@dataclass
class Ca:
    """A CA, self-signed unless `issuer` is given. `now` is in the middle of its certificates' validity."""

    now: float
    name: str = "test CA"
    issuer: "Ca | None" = None

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        above = self.issuer or self
        builder = self._builder(self.subject, above.subject, self._key.public_key())
        usage = {name: name == "key_cert_sign" for name in (*_EVERY_USE, *_NO_USE)}
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        self.certificate = above._sign(builder)

    def issue(
        self,
        names: Sequence[str],
        key: CertificatePublicKeyTypes,
        *,
        start: float = -3600,
        end: float = 3600,
        use: str = "digital_signature",
    ) -> x509.Certificate:
        """A certificate with URIs as subjectAltName; `start` and `end` are seconds from now."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "subscriber")])
        builder = self._builder(subject, self.subject, key, start, end)
        usage = {name: name == use for name in (*_EVERY_USE, *_NO_USE)}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        if names:
            alternative = x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(name) for name in names]
            )
            builder = builder.add_extension(alternative, critical=False)
        return self._sign(builder)

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: CertificatePublicKeyTypes,
        start: float = -86400,
        end: float = 86400,
    ) -> x509.CertificateBuilder:
        now = datetime.fromtimestamp(self.now, UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(seconds=start))
            .not_valid_after(now + timedelta(seconds=end))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(identifier, critical=False).sign(self._key, hashes.SHA256())


class CountingKeys(SoftwareKeys):
    """Software keys that count the envelope keys they were asked to open."""

    unwraps = 0

    def unwrap(self, key: Key, wrapped: bytes) -> Key:
        """See KeyOperations."""
        self.unwraps += 1
        return super().unwrap(key, wrapped)


class PkKms(LocalKms):
    """A LocalKms with an RSA key, and users that are enrolled by certificate."""

    def __init__(self, folder: Path, anchors: Sequence[x509.Certificate] = ()) -> None:
        clock = Clock()
        self.ca = Ca(clock.now)
        self.ops = CountingKeys()
        key = rsa_key("kms")
        self.certificate = self.ca.issue([KMS_IDENTITY], key.public_key(), use="key_encipherment")
        value = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        unwrapping = self.ops.load(value, Use.UNWRAP)
        trust = ChainedCertificates([self.ca.certificate, *anchors])
        super().__init__(
            folder,
            clock,
            ops=self.ops,
            public_key=PublicKey(trust, der(self.certificate), lambda: unwrapping),
        )

    def enrol_signer(
        self,
        identity: str,
        certificate: x509.Certificate | None = None,
        chain: Sequence[x509.Certificate] = (),
        *,
        role: Role = Role.CLIENT,
        aliases: Sequence[str] = (),
    ) -> Credential:
        """A user that signs with `rsa_key(identity)`, by a certificate of this KMS's CA unless one is given."""
        key = rsa_key(identity)
        own = certificate or self.ca.issue([identity], key.public_key())
        names = tuple(alias.encode() for alias in aliases)
        self.directory.enrol(identity.encode(), role, aliases=names, certificate=der(own))
        return self.credential(identity, own, chain, role=role)

    def credential(
        self,
        identity: str,
        own: x509.Certificate,
        chain: Sequence[x509.Certificate] = (),
        *,
        role: Role = Role.CLIENT,
    ) -> Credential:
        """The enrolment of a user that signs, whether or not the KMS knows it."""
        texts = "".join(pem(certificate) for certificate in (own, *chain))
        pair = KeyPair(256, texts, private_pem(rsa_key(identity)), pem(self.certificate))
        common = Credential(identity, KMS_IDENTITY, "localhost:0", role.value, (), "-", "-", "-")
        return replace(common, key_pair=pair)
