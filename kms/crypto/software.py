"""The key operations in software: what the SDKs use, with keys as bytes in the process."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR, ECB
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import load_der_private_key

from kms.crypto import keywrap, limits
from kms.crypto.interface import Key, KeyOperations, UnsupportedKey, Use, VerificationError, WrongUse
from kms.crypto.prf import prf as compute_prf
from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc

_LONGEST_KEY = 255
_HASHES = {MacAlg.HMAC_SHA_1_160: SHA1(), MacAlg.HMAC_SHA_256_256: SHA256()}  # noqa: S303 - RFC 3830's HMAC


class SoftwareKey(Key):
    """A key of a SoftwareKeys object. Empty once its scope has ended."""

    __slots__ = ("owner", "value")

    def __init__(self, owner: "SoftwareKeys", use: Use, value: bytes) -> None:
        super().__init__(use, len(value))
        self.owner = owner
        self.value = bytearray(value)

    def wipe(self) -> None:
        """Overwrite the key and forget it."""
        self.value[:] = bytes(self.length)
        self.value.clear()


class SoftwareKeys(KeyOperations):
    """See KeyOperations. PRF keys may have 16 to 255 bytes (several blocks of RFC 3830's PRF). An UNWRAP key is
    loaded from the DER of its PKCS #8 form.

    `random` gives that many random bytes: the operating system's unless a test scripts it. Keys made in a scope are
    overwritten at its end; what Python copied on the way is not.
    """

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._scopes: list[list[SoftwareKey]] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        """See KeyOperations."""
        made: list[SoftwareKey] = []
        self._scopes.append(made)
        try:
            yield
        finally:
            self._scopes.pop()
            for key in made:
                key.wipe()

    def branch(self, parent: Key, label: bytes) -> Key:
        """See KeyOperations."""
        return self._keep(Use.BRANCH, self._derive(parent, label))

    def leaf(self, parent: Key, label: bytes, length: int, use: Use) -> Key:
        """See KeyOperations."""
        limits.check_new_key(use, length, limits.LEAF_USES)
        return self._keep(use, self._derive(parent, label)[:length])

    def release(self, parent: Key, label: bytes, length: int) -> bytes:
        """See KeyOperations."""
        limits.check_length("a release", length, 1, 32)
        return self._derive(parent, label)[:length]

    def prf_key(self, key: Key, prf: PrfFunc, label: bytes, length: int, use: Use) -> Key:
        """See KeyOperations."""
        limits.check_new_key(use, length, limits.PRF_USES)
        limits.check_prf(label, length, 16, 32)
        return self._keep(use, compute_prf(self._value(key, Use.PRF), prf, label, length))

    def prf_release(self, key: Key, prf: PrfFunc, label: bytes, length: int) -> bytes:
        """See KeyOperations."""
        limits.check_prf(label, length, 1, 64)
        return compute_prf(self._value(key, Use.PRF), prf, label, length)

    def mac(self, key: Key, alg: MacAlg, data: bytes) -> bytes:
        """See KeyOperations."""
        return self._hmac(self._value(key, Use.SIGN), key, alg, data).finalize()

    def verify(self, key: Key, alg: MacAlg, data: bytes, mac: bytes) -> None:
        """See KeyOperations."""
        context = self._hmac(self._value(key, Use.VERIFY), key, alg, data)
        try:
            context.verify(mac)
        except InvalidSignature:
            raise VerificationError("the MAC does not verify") from None

    def encrypt(self, key: Key, alg: EncrAlg, iv: bytes, data: bytes) -> bytes:
        """See KeyOperations."""
        value = self._value(key, Use.ENCRYPT)
        limits.check_cipher(key, alg, iv, data)
        if alg is EncrAlg.AES_KW_128:
            return keywrap.wrap(Cipher(AES(value), ECB()).encryptor().update, iv, data)  # noqa: S305 - RFC 3394
        return Cipher(AES(value), CTR(iv)).encryptor().update(data)

    def decrypt(self, key: Key, alg: EncrAlg, iv: bytes, data: bytes) -> bytes:
        """See KeyOperations."""
        value = self._value(key, Use.DECRYPT)
        limits.check_cipher(key, alg, iv, data)
        if alg is EncrAlg.AES_KW_128:
            return keywrap.unwrap(Cipher(AES(value), ECB()).decryptor().update, iv, data)  # noqa: S305 - RFC 3394
        return Cipher(AES(value), CTR(iv)).decryptor().update(data)

    def load(self, value: bytes, use: Use) -> Key:
        """See KeyOperations."""
        if use is Use.UNWRAP:
            _rsa_key(value)
        else:
            limits.check_new_key(use, len(value), limits.SYMMETRIC_USES, _LONGEST_KEY)
        return self._keep(use, value)

    def unwrap(self, key: Key, wrapped: bytes) -> Key:
        """See KeyOperations."""
        private_key = _rsa_key(self._value(key, Use.UNWRAP))
        value = _open_envelope(private_key, wrapped)
        try:
            limits.check_new_key(Use.PRF, len(value), limits.SYMMETRIC_USES)
        except UnsupportedKey:
            raise VerificationError("the envelope key does not open") from None
        return self._keep(Use.PRF, value)

    def random(self, length: int) -> bytes:
        """See KeyOperations."""
        return self._random(length)

    def _derive(self, parent: Key, label: bytes) -> bytes:
        encryptor = Cipher(AES(self._value(parent, Use.BRANCH)), CBC(bytes(16))).encryptor()
        return encryptor.update(sha256(label).digest())

    def _hmac(self, value: bytearray, key: Key, alg: MacAlg, data: bytes) -> HMAC:
        limits.mac_length(key, alg)
        context = HMAC(value, _HASHES[alg])
        context.update(data)
        return context

    def _keep(self, use: Use, value: bytes) -> SoftwareKey:
        key = SoftwareKey(self, use, value)
        if self._scopes:
            self._scopes[-1].append(key)
        return key

    def _value(self, key: Key, use: Use) -> bytearray:
        if not isinstance(key, SoftwareKey) or key.owner is not self:
            raise WrongUse("the key belongs to other key operations")
        if not key.value:
            raise WrongUse("the key was destroyed when its scope ended")
        limits.check_use(key, use)
        return key.value


def _open_envelope(private_key: RSAPrivateKey, wrapped: bytes) -> bytes:
    """RSAES-PKCS1-v1_5 decryption (RFC 8017 7.2.2) that says when it fails. Raises VerificationError.

    OpenSSL, from 3.2 on, gives random bytes for a wrong padding, which pass for a key when their length happens to fit.
    Not in constant time: software RSA keys are those of test vectors, the KMS's own is in the token.
    """
    numbers = private_key.private_numbers()
    modulus = numbers.public_numbers.n
    size = (modulus.bit_length() + 7) // 8
    cipher = int.from_bytes(wrapped, "big")
    if len(wrapped) == size and cipher < modulus:
        block = pow(cipher, numbers.d, modulus).to_bytes(size, "big")
        separator = block.find(b"\0", 2)
        if block.startswith(b"\0\2") and separator >= 10:
            return block[separator + 1 :]
    raise VerificationError("the envelope key does not open")


def _rsa_key(der: bytes | bytearray) -> RSAPrivateKey:
    try:
        key = load_der_private_key(bytes(der), password=None)
    except (ValueError, TypeError):
        raise UnsupportedKey("not the DER of an unencrypted private key (PKCS #8)") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < 2048:
        raise UnsupportedKey("an RSA key of 2048 bits or more is needed")
    return key
