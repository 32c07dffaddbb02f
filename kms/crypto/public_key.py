"""RSA on the sender's side of the public-key messages: its signature, and envelope keys for the KMS.

SIGN is RSASSA-PKCS1-v1_5 and PKE is RSAES-PKCS1-v1_5, the mandatory ones of RFC 3830 4.2.5 and 4.2.6 (AMBIGUITIES
A-16).
"""

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from kms.crypto.interface import UnsupportedKey
from kms.mikey.registry import HashFunc

MIN_RSA_BITS = 2048

_HASHES: dict[HashFunc, HashAlgorithm] = {
    HashFunc.SHA_1: SHA1(),  # noqa: S303 - the hash of the 128-bit suite
    HashFunc.SHA_256: SHA256(),
}


class SignatureKey:
    """A subscriber's RSA key with its certificates: `chain` is DER, its own first. `repr` shows neither."""

    def __init__(self, chain: Sequence[bytes], key: RSAPrivateKey) -> None:
        """Raises UnsupportedKey unless `key` is that of the first certificate, with 2048 bits or more."""
        if not chain or _public_key(chain[0]) != key.public_key():
            raise UnsupportedKey("the private key is not the certificate's")
        self.chain = tuple(chain)
        self._key = key

    @classmethod
    def load(cls, chain: bytes, key: bytes) -> "SignatureKey":
        """From PEM: certificates, the subscriber's own first, and its plain private key. Raises UnsupportedKey."""
        try:
            private_key = load_pem_private_key(key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UnsupportedKey("not an unencrypted private key in PEM") from None
        if not isinstance(private_key, RSAPrivateKey):
            raise UnsupportedKey("the private key is not an RSA key")
        return cls(read_certificates(chain), private_key)

    @property
    def length(self) -> int:
        """Bytes of a signature."""
        return (self._key.key_size + 7) // 8

    def sign(self, data: bytes, hash_func: HashFunc) -> bytes:
        """The signature of `data`, with the hash of the suite."""
        return self._key.sign(data, PKCS1v15(), _HASHES[hash_func])


class EnvelopeCertificate:
    """The KMS's RSA certificate, whose key envelope keys are encrypted for."""

    def __init__(self, certificate: bytes) -> None:
        """`certificate` is DER. Raises UnsupportedKey unless its key is an RSA key of 2048 bits or more."""
        self._certificate = certificate
        self._key = _public_key(certificate)

    @classmethod
    def load(cls, certificate: bytes) -> "EnvelopeCertificate":
        """From PEM. Raises UnsupportedKey."""
        return cls(read_certificates(certificate)[0])

    def encrypt(self, envelope_key: bytes) -> bytes:
        """Data of PKE."""
        return self._key.encrypt(envelope_key, PKCS1v15())

    def hash(self, hash_func: HashFunc) -> bytes:
        """The hash in CHASH: of the certificate in DER, with the hash of the suite."""
        return hashlib.new(_HASHES[hash_func].name, self._certificate).digest()


def read_certificates(pem: bytes) -> list[bytes]:
    """The certificates of a PEM text, as DER, at least one. Raises UnsupportedKey."""
    try:
        return [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(pem)]
    except ValueError:
        raise UnsupportedKey("not a certificate in PEM") from None


def _public_key(certificate: bytes) -> RSAPublicKey:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnsupportedKey("not a certificate") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < MIN_RSA_BITS:
        raise UnsupportedKey(f"the certificate's key is no RSA key of {MIN_RSA_BITS} bits or more")
    return key
