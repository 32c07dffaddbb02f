"""The handful of key operations that MIKEY-TICKET needs, on opaque keys.

Two implementations stand behind this interface and pass one contract suite (tests/hsm/test_contract.py):
`hsm.Token`, where the keys are objects in a PKCS#11 token, and `kms.crypto.software.SoftwareKeys`, where they are
bytes in the process, for the SDKs. Code above the interface cannot tell them apart and never sees a key's bytes,
except through the two operations whose names say so: `release` and `prf_release`.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from enum import Enum
from typing import NoReturn

from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc


class Use(Enum):
    """The one use that a key has. An operation with a key of another use raises `WrongUse`."""

    BRANCH = "branch"
    """derive further branches and leaves, release leaves (this project's own derivation); AES-256"""
    PRF = "prf"
    """derive and release by the PRF of RFC 3830 4.1.2; up to 32 bytes in a token"""
    SIGN = "sign"
    """compute a MAC"""
    VERIFY = "verify"
    """verify a MAC"""
    ENCRYPT = "encrypt"
    """encrypt a KEMAC; AES"""
    DECRYPT = "decrypt"
    """decrypt a KEMAC; AES"""
    UNWRAP = "unwrap"
    """open PKE payloads; an RSA private key"""


class KeyOperationError(Exception):
    """A key operation failed. Its text never holds key bytes."""


class VerificationError(KeyOperationError):
    """A MAC does not verify. The only outcome of a wrong MAC: `verify` never returns a bool."""


class WrongUse(KeyOperationError):
    """A key was asked to do something that is not its one use, was destroyed, or is another implementation's."""


class UnsupportedKey(KeyOperationError):
    """A length or algorithm that this implementation refuses."""


class Key(ABC):
    """An opaque key. `repr` shows its use and length, never its bytes; it is neither copied nor pickled."""

    __slots__ = ("length", "use")

    def __init__(self, use: Use, length: int) -> None:
        self.use = use
        self.length = length  # bytes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.use.value} {self.length} bytes>"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        """Keep keys out of queues, caches and files. Raises TypeError."""
        raise TypeError("a key is neither copied nor pickled")


class KeyOperations(ABC):
    """What the protocol does with keys. Lengths are in bytes. Not thread-safe."""

    @abstractmethod
    def scope(self) -> AbstractContextManager[None]:
        """Destroy on exit every key that was made inside. Scopes nest; masters are never destroyed by one."""

    # -- this project's own derivation (docs/ticket-type.md), from BRANCH keys -------------------------------------

    @abstractmethod
    def branch(self, parent: Key, label: bytes) -> Key:
        """AES-256 key: AES-CBC-encrypt SHA-256(label) with `parent` and a zero IV. Has the use BRANCH."""

    @abstractmethod
    def leaf(self, parent: Key, label: bytes, length: int, use: Use) -> Key:
        """The first `length` bytes of the same derivation, as a key for PRF (16 to 32), SIGN or VERIFY (20 to 32)."""

    @abstractmethod
    def release(self, parent: Key, label: bytes, length: int) -> bytes:
        """The bytes (1 to 32) of the leaf with this label, for a key that is about to go to its owner.

        A master key releases nothing: only branches do.
        """

    # -- the PRF of RFC 3830 4.1.2 and RFC 6043 6.1, from PRF keys ---------------------------------------------------

    @abstractmethod
    def prf_key(self, key: Key, prf: PrfFunc, label: bytes, length: int, use: Use) -> Key:
        """PRF(key, label) as a key with any use but BRANCH: PRF of 16 to 32 bytes, SIGN or VERIFY of 20 to 32,
        ENCRYPT or DECRYPT of 16 or 32. The label must not be empty.
        """

    @abstractmethod
    def prf_release(self, key: Key, prf: PrfFunc, label: bytes, length: int) -> bytes:
        """The bytes (1 to 64) of PRF(key, label): salts, and forked keys on their way to their owner."""

    # -- using keys --------------------------------------------------------------------------------------------------

    @abstractmethod
    def mac(self, key: Key, alg: MacAlg, data: bytes) -> bytes:
        """The MAC (20 or 32 bytes) of `data` with a SIGN key that is not shorter than it.

        A NULL algorithm raises `UnsupportedKey`.
        """

    @abstractmethod
    def verify(self, key: Key, alg: MacAlg, data: bytes, mac: bytes) -> None:
        """Raise `VerificationError` unless `mac` is the MAC of `data` with this VERIFY key."""

    @abstractmethod
    def encrypt(self, key: Key, alg: EncrAlg, iv: bytes, data: bytes) -> bytes:
        """Encrypt with an ENCRYPT key of the algorithm's length; `iv` as made by kms.mikey.labels.kemac_iv."""

    @abstractmethod
    def decrypt(self, key: Key, alg: EncrAlg, iv: bytes, data: bytes) -> bytes:
        """The inverse of `encrypt`, with a DECRYPT key. Raises `VerificationError` if an AES key wrap does not open."""

    # -- keys from outside -------------------------------------------------------------------------------------------

    @abstractmethod
    def load(self, value: bytes, use: Use) -> Key:
        """A key whose bytes the caller already has, such as the MPK of a base ticket. Lengths as for `prf_key`.

        In software PRF, SIGN and VERIFY keys may have up to 255 bytes.
        """

    def unwrap(self, key: Key, wrapped: bytes) -> Key:
        """The envelope key (16 to 32 bytes) in a PKE payload, as a PRF key: RSAES-PKCS1-v1_5 with an UNWRAP key.

        Raises VerificationError for whatever is wrong with `wrapped`. The sender must never learn that it was raised:
        it would have a padding oracle.
        """
        raise UnsupportedKey("these key operations have no RSA keys")

    @abstractmethod
    def random(self, length: int) -> bytes:
        """`length` random bytes: from the token's generator, or the operating system's in software."""
