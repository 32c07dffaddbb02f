"""Pre-shared keys: diversified from a PSK master in the token, named by IDRpsk.

IDRpsk is a byte string: format (1 byte, 1), kind (1 byte, 0 = diversified), PSK master version (2 bytes), the
subscriber's version (4 bytes), and the subscriber's identity. It says all that is needed to derive the PSK, so an
unknown subscriber has a PSK as well and costs the same time.
"""

from dataclasses import dataclass
from typing import Protocol

from hsm import KeyNotFound, Token
from kms.crypto.interface import Key, Use
from kms.mikey import labels
from kms.mikey.registry import PrfFunc

PSK_LENGTH = 32
"""Bytes of a PSK, in both suites."""
MASTER_LABEL = "kms PSK master {}"
CURRENT_MASTER = 1

_FORMAT, _DIVERSIFIED = 1, 0
_HEAD = 8


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Who a message claims to be from: true once its MAC verified with `psk` (a PRF key)."""

    identity: bytes
    version: int
    psk: Key


class PskSource(Protocol):
    """Where the engine finds PSKs."""

    def find(self, psk_id: bytes | None, claimed: bytes | None, prf: PrfFunc) -> Subscriber:
        """The subscriber whom IDRpsk names, or `claimed` (IDRi or IDRr) does. Never fails for an unknown one."""


def encode_psk_id(identity: bytes, version: int, master: int = CURRENT_MASTER) -> bytes:
    """ID Data of IDRpsk."""
    return b"".join(
        (bytes((_FORMAT, _DIVERSIFIED)), master.to_bytes(2, "big"), version.to_bytes(4, "big"), identity)
    )


class DiversifiedPsks:
    """PSKs derived in the token; version 0 is never enrolled, so its PSK verifies nothing."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def find(self, psk_id: bytes | None, claimed: bytes | None, prf: PrfFunc) -> Subscriber:
        """See PskSource. An absent or malformed IDRpsk, or an unknown master, is taken as version 0."""
        identity, version, master = claimed or b"", 0, CURRENT_MASTER
        if psk_id is not None and len(psk_id) > _HEAD and psk_id[:2] == bytes((_FORMAT, _DIVERSIFIED)):
            identity = psk_id[_HEAD:]
            version = int.from_bytes(psk_id[4:8], "big")
            master = int.from_bytes(psk_id[2:4], "big")
        try:
            key = self._token.master(MASTER_LABEL.format(master))
        except KeyNotFound:
            key, version = self._token.master(MASTER_LABEL.format(CURRENT_MASTER)), 0
        branch = self._token.branch(key, labels.user_branch(identity, version, prf))
        return Subscriber(identity, version, self._token.leaf(branch, labels.psk(), PSK_LENGTH, Use.PRF))

    def release(self, identity: bytes, version: int, prf: PrfFunc) -> bytes:
        """The PSK's 32 bytes, for the one time that they leave the KMS: enrolment."""
        master = self._token.master(MASTER_LABEL.format(CURRENT_MASTER))
        with self._token.scope():
            branch = self._token.branch(master, labels.user_branch(identity, version, prf))
            return self._token.release(branch, labels.psk(), PSK_LENGTH)
