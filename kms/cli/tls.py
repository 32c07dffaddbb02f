"""The home's own CA and the certificates that it signs, X.509 v3: EC P-256 for TLS, RSA for MIKEY messages."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kms.cli.errors import CommandError

CA_LIFETIME = timedelta(days=3650)
CERTIFICATE_LIFETIME = timedelta(days=825)
# A client's clock may be behind ours.
_BACKDATED = timedelta(minutes=5)
_MAX_COMMON_NAME = 64
RSA_BITS = 3072

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class Issued:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)

    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key in PEM (PKCS#8, not encrypted)."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_ca(name: str) -> Issued:
    """A self-signed CA whose certificates can be checked for CA_LIFETIME."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
    return Issued(builder.sign(key, hashes.SHA256()), key)


def issue_server(ca: Issued, hosts: Iterable[str]) -> Issued:
    """A server certificate for these DNS names and IP addresses."""
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    return _issue_tls(ca, "kms", names, ExtendedKeyUsageOID.SERVER_AUTH)


def issue_client(ca: Issued, identity: str) -> Issued:
    """A client certificate that names the identity, a URI, as subjectAltName."""
    names = [x509.UniformResourceIdentifier(identity)]
    return _issue_tls(ca, identity[:_MAX_COMMON_NAME], names, ExtendedKeyUsageOID.CLIENT_AUTH)


def issue_signer(ca: Issued, identity: str) -> Issued:
    """An RSA key that signs MIKEY messages, with a certificate that names the identity as subjectAltName."""
    key = rsa.generate_private_key(65537, RSA_BITS)
    names = [x509.UniformResourceIdentifier(identity)]
    return Issued(_issue(ca, identity[:_MAX_COMMON_NAME], names, key.public_key(), "digital_signature"), key)


def issue_kms(ca: Issued, identity: str, key: rsa.RSAPublicKey) -> x509.Certificate:
    """The certificate of the KMS's RSA key, which is in the token: envelope keys are encrypted for it."""
    names = [x509.UniformResourceIdentifier(identity)]
    return _issue(ca, identity[:_MAX_COMMON_NAME], names, key, "key_encipherment")


def load_ca(certificate: Path, key: Path) -> Issued:
    """The CA of a home. Raises CommandError."""
    try:
        private_key = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise CommandError(
            f"{key}: {error.strerror}; only the owner of the CA's key can enrol users"
        ) from None
    except (ValueError, TypeError):
        raise CommandError(f"{key} is not an unencrypted private key in PEM") from None
    if not isinstance(private_key, ec.EllipticCurvePrivateKey):
        raise CommandError(f"{key} must be an elliptic curve key")
    issued = Issued(load_certificate(certificate), private_key)
    if issued.certificate.public_key() != private_key.public_key():
        raise CommandError(f"{key} is not the key of {certificate}")
    return issued


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises CommandError."""
    return load_certificates(path)[0]


def load_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one. Raises CommandError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise CommandError(f"{path} is not a certificate in PEM") from None


def pem(certificate: x509.Certificate) -> str:
    """A certificate as PEM text."""
    return certificate.public_bytes(Encoding.PEM).decode()


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as browsers and openssl print it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def server_hosts(host: str) -> list[str]:
    """The names under which a server that listens on host is reached: always this machine, and host itself.

    A wildcard address is no name: the machine's own host name stands for it.
    """
    hosts = ["localhost", "127.0.0.1", "::1"]
    return [*hosts, socket.gethostname() if is_wildcard(host) else host]


def is_wildcard(host: str) -> bool:
    """Whether host means every address of the machine, such as 0.0.0.0."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _issue_tls(
    ca: Issued, common_name: str, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    return Issued(_issue(ca, common_name, names, key.public_key(), "digital_signature", usage), key)


def _issue(
    ca: Issued,
    common_name: str,
    names: Sequence[x509.GeneralName],
    key: _PublicKey,
    key_usage: str,
    *usages: x509.ObjectIdentifier,
) -> x509.Certificate:
    builder = _builder(_name(common_name), ca.certificate.subject, key, CERTIFICATE_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(key_usage), critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    return builder.sign(ca.key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: _PublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*uses: str) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: name in uses for name in names})


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
