"""TPKs that the KMS shares with a subscriber, for modes 2 to 4 of RFC 6043 4.1.1 (docs/modes.md).

Each is a key of its own, diversified in the token from a master of its own kind, and bound to its owner, the owner's
enrolment and the one thing it is for:

- mode 2, *responder*: the KMS makes tickets with it that the owner opens itself;
- mode 3, *initiator*: the owner makes tickets with it that the KMS opens;
- mode 4: the owner, as the Initiator, makes tickets with it that one peer opens. The KMS neither makes nor opens them.

IDRpsk in Ticket Data names it: format (1 byte, 2), mode (1 byte), version of the master (2 bytes), then the owner, in
mode 4 followed by its peer: version of the enrolment (4 bytes), length of the identity (2 bytes), identity.
What tickets with such a key may say is in kms.engine.modes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from hsm import KeyNotFound, Token
from kms.crypto.interface import Key, KeyOperations, Use
from kms.engine.directory import Directory, TpkRole, User
from kms.mikey import labels
from kms.mikey.errors import DecodeError
from kms.mikey.registry import PrfFunc
from kms.mikey.wire import Reader, block16, u8, u16, u32

_LABEL_PREFIX = "kms shared TPK master "
MASTER_LABEL = _LABEL_PREFIX + "{}"
CURRENT_MASTER = 1
TPK_LENGTH = 32
"""Bytes of a shared TPK, in both suites."""

_FORMAT = 2
_PAIR = 4
_MODES = {TpkRole.RESPONDER: 2, TpkRole.INITIATOR: 3}
_ROLES = {mode: role for role, mode in _MODES.items()}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One enrolment of a subscriber: what a shared TPK is bound to."""

    identity: bytes
    version: int


@dataclass(frozen=True, slots=True)
class SharedTpk:
    """Whose TPK IDRpsk of a ticket names, and what for. True once the ticket's MAC verified with `key` (a PRF key)."""

    role: TpkRole
    owner: Enrolment
    key: Key


class SharedTpks(Protocol):
    """Where the engine finds shared TPKs."""

    def shared_tpk(self, psk_id: bytes | None, prf: PrfFunc) -> SharedTpk | None:
        """The TPK of mode 2 or 3 that IDRpsk names; None if it names none. Never fails for an unknown owner."""

    def responder_tpk(self, responder: User, prf: PrfFunc) -> tuple[bytes, Key]:
        """Id (ID Data of IDRpsk) and PRF key of the TPK for mode 2 of a user that has one."""


class DiversifiedTpks:
    """Shared TPKs derived from their master. `master` gives the BRANCH key of a version, or raises KeyNotFound."""

    def __init__(self, ops: KeyOperations, master: Callable[[int], Key]) -> None:
        self._ops = ops
        self._master = master

    @classmethod
    def of(cls, token: Token) -> "DiversifiedTpks":
        """Those of a token."""
        return cls(token, lambda version: token.master(MASTER_LABEL.format(version)))

    @property
    def available(self) -> bool:
        """Whether there is a master."""
        try:
            self._master(CURRENT_MASTER)
        except KeyNotFound:
            return False
        return True

    def shared_tpk(self, psk_id: bytes | None, prf: PrfFunc) -> SharedTpk | None:
        """See SharedTpks."""
        named = _decode(psk_id)
        if named is None:
            return None
        role, owner, master = named
        try:
            return SharedTpk(role, owner, self._key(_MODES[role], owner, prf, master))
        except KeyNotFound:
            return None

    def responder_tpk(self, responder: User, prf: PrfFunc) -> tuple[bytes, Key]:
        """See SharedTpks."""
        owner = Enrolment(responder.identity, responder.version)
        mode = _MODES[TpkRole.RESPONDER]
        return _encode(mode, owner), self._key(mode, owner, prf, CURRENT_MASTER)

    def release(self, role: TpkRole, owner: Enrolment, prf: PrfFunc) -> tuple[bytes, bytes]:
        """Id and the 32 bytes of a TPK, for the one time that they leave the KMS: enrolment. Raises KeyNotFound."""
        return self._release(_MODES[role], owner, None, prf)

    def release_pair(self, initiator: Enrolment, responder: Enrolment, prf: PrfFunc) -> tuple[bytes, bytes]:
        """As `release`, of a TPK that two subscribers share (mode 4)."""
        return self._release(_PAIR, initiator, responder, prf)

    def _release(
        self, mode: int, owner: Enrolment, peer: Enrolment | None, prf: PrfFunc
    ) -> tuple[bytes, bytes]:
        with self._ops.scope():
            branch = self._ops.branch(self._master(CURRENT_MASTER), _label(mode, owner, peer, prf))
            tpk = self._ops.release(branch, labels.shared_tpk(), TPK_LENGTH)
        return _encode(mode, owner, peer), tpk

    def _key(self, mode: int, owner: Enrolment, prf: PrfFunc, version: int) -> Key:
        branch = self._ops.branch(self._master(version), _label(mode, owner, None, prf))
        return self._ops.leaf(branch, labels.shared_tpk(), TPK_LENGTH, Use.PRF)


def release_tpks(
    tpks: DiversifiedTpks, directory: Directory, user: User, peers: Iterable[str], prf: PrfFunc
) -> Iterator[tuple[TpkRole, str | None, bytes, bytes]]:
    """The TPKs that a user gets with its enrolment, of modes 2 and 3, and with each peer both ways (mode 4).

    Each is the user's role, the peer, id and the key's bytes. A peer that is not enrolled gets the same keys with its
    own, next enrolment.
    """
    own = Enrolment(user.identity, user.version)
    for role in TpkRole:
        if role in user.tpk_roles:
            yield role, None, *tpks.release(role, own, prf)
    for name in peers:
        peer = Enrolment(name.encode(), directory.next_version(name.encode()))
        yield TpkRole.INITIATOR, name, *tpks.release_pair(own, peer, prf)
        yield TpkRole.RESPONDER, name, *tpks.release_pair(peer, own, prf)


def is_shared_tpk_master(token_label: str) -> bool:
    """Whether a token label is that of a shared TPK master."""
    return token_label.startswith(_LABEL_PREFIX)


def _label(mode: int, owner: Enrolment, peer: Enrolment | None, prf: PrfFunc) -> bytes:
    other = peer or Enrolment(b"", 0)
    return labels.shared_tpk_branch(mode, owner.identity, owner.version, other.identity, other.version, prf)


def _encode(mode: int, owner: Enrolment, peer: Enrolment | None = None) -> bytes:
    parts = [u8(_FORMAT, "format"), u8(mode, "mode"), u16(CURRENT_MASTER, "master")]
    for enrolment in (owner, *([peer] if peer else [])):
        parts += u32(enrolment.version, "version"), block16(enrolment.identity, "identity")
    return b"".join(parts)


def _decode(psk_id: bytes | None) -> tuple[TpkRole, Enrolment, int] | None:
    """Role, owner and version of the master, or None if IDRpsk names no TPK of mode 2 or 3."""
    if psk_id is None or psk_id[:1] != u8(_FORMAT, "format"):
        return None
    try:
        r = Reader(psk_id[1:], "IDRpsk")
        mode, master, version, identity = (
            r.u8("mode"),
            r.u16("master"),
            r.u32("version"),
            r.block16("identity"),
        )
        r.finish()
    except DecodeError:
        return None
    return (_ROLES[mode], Enrolment(identity, version), master) if mode in _ROLES else None
