"""The tickets that this KMS makes and opens: derived tickets (docs/ticket-type.md) and MIKEY base tickets (RFC 6043 A).

A `TicketSecrets` is an open ticket. Its keys stay behind the token interface; the methods that give bytes give them for
their owner, into the KEMAC of the answer that is being built.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from kms.crypto import base_ticket
from kms.crypto.interface import Key, KeyOperations, Use, VerificationError
from kms.crypto.sources import Sources
from kms.crypto.suite import Suite, suite_of
from kms.engine.epochs import TicketKeys
from kms.engine.refusals import Reason, Refused
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.errors import AuthenticationError
from kms.mikey.labels import ForkedKey, ProtectionKey
from kms.mikey.message import unsigned_v
from kms.mikey.payloads import Idr, KeyData, Rand, Ticket, TicketPolicy, V, with_spi
from kms.mikey.policy import TGKS
from kms.mikey.registry import ErrorNo, IdRole, IdType, KeyType, PrfFunc
from kms.mikey.ticket_data import (
    BASE_TICKET,
    DERIVED_TICKET,
    KeyEntry,
    TicketData,
    entry_of,
    mac_coverage,
    read_key_list,
    write_key_list,
)

MPK_LENGTH = 32
"""Bytes of MPKs, in both suites."""
KEY_LENGTHS = range(16, 33)
"""Bytes of keys in a base ticket."""
MAX_SALT_LENGTH = 32
MAX_SESSION_KEYS = 16


@dataclass(frozen=True, slots=True)
class Modifier:
    """What a responder's keys are forked by (5.1.1): the ID Data of its IDRr, and RANDRkms."""

    id_data: bytes
    randr_kms: bytes

    def label(self, constant: ForkedKey) -> bytes:
        """The PRF label of a forked key."""
        return labels.forked_key(constant, self.id_data, self.randr_kms)


class TicketSecrets(ABC):
    """The keys of one ticket."""

    def __init__(self, ops: KeyOperations, policy: TicketPolicy, mpk_spi: bytes, mpk_length: int) -> None:
        self._ops = ops
        self._prf = suite_of(policy.prf).prf
        self._mpk_spi = mpk_spi
        self._mpk_length = mpk_length

    @abstractmethod
    def _mpki(self) -> bytes:
        """The bytes of MPKi."""

    @abstractmethod
    def _mpkr(self) -> bytes:
        """The bytes of MPKr."""

    @abstractmethod
    def mpkr_key(self) -> Key:
        """MPKr as a PRF key: for Vr and for MPKr'."""

    @abstractmethod
    def entries(self) -> tuple[KeyEntry, ...]:
        """What the session keys are."""

    @abstractmethod
    def session_keys(self) -> tuple[KeyData, ...]:
        """The session keys as they were granted."""

    @abstractmethod
    def _forked_session_key(self, index: int, label: bytes) -> KeyData:
        """TGK' of the TGK with this index."""

    def for_initiator(self, *, forking: bool) -> tuple[KeyData, ...]:
        """What REQUEST_RESP carries: MPKi, with forking MPKr, and the session keys (4.2.1.5)."""
        mpks = [self._mpki(), self._mpkr()] if forking else [self._mpki()]
        return (*map(self._mpk, mpks), *self.session_keys())

    def for_responder(self, modifier: Modifier | None) -> tuple[KeyData, ...]:
        """What RESOLVE_RESP carries: MPKi and the session keys; with forking MPKr' and TGKs forked (4.2.3.5)."""
        if modifier is None:
            return (self._mpk(self._mpki()), *self.session_keys())
        mpkr = self._ops.prf_release(
            self.mpkr_key(), self._prf, modifier.label(ForkedKey.MPKR), self._mpk_length
        )
        keys = [
            self._forked_session_key(i, modifier.label(ForkedKey.TGK)) if entry.key_type in TGKS else key
            for i, (entry, key) in enumerate(zip(self.entries(), self._unforked(), strict=True))
        ]
        return (self._mpk(self._mpki()), self._mpk(mpkr), *(k for k in keys if k is not None))

    @abstractmethod
    def _unforked(self) -> tuple[KeyData | None, ...]:
        """The session keys that are never forked, None in the place of each TGK."""

    def longest_forked(self) -> int:
        """Bytes of the longest MPKr or TGK: RANDRkms must be as long (12.1)."""
        return max([self._mpk_length, *(e.length for e in self.entries() if e.key_type in TGKS)])

    def _mpk(self, value: bytes) -> KeyData:
        return with_spi(KeyType.MPK, value, b"", self._mpk_spi)


# -- derived tickets -----------------------------------------------------------------------------------------------


class DerivedSecrets(TicketSecrets):
    """Keys derived in the token from a TPK epoch and the ticket itself. Nothing secret travels in the ticket."""

    def __init__(
        self, ops: KeyOperations, policy: TicketPolicy, tpk: Key, rand: bytes, thdr_data: bytes
    ) -> None:
        mpk, *self._session = read_key_list(thdr_data)
        super().__init__(ops, policy, mpk.spi, mpk.length)
        self._branch = ops.branch(tpk, labels.ticket_branch(rand, thdr_data, policy.body()))

    def mac_key(self, length: int, use: Use) -> Key:
        """The key of the ticket's MAC."""
        return self._ops.leaf(self._branch, labels.ticket_mac_key(), length, use)

    def mpkr_key(self) -> Key:
        return self._ops.leaf(self._branch, labels.ticket_mpkr(), self._mpk_length, Use.PRF)

    def entries(self) -> tuple[KeyEntry, ...]:
        return tuple(self._session)

    def session_keys(self) -> tuple[KeyData, ...]:
        return tuple(self._session_key(i) for i in range(len(self._session)))

    def _mpki(self) -> bytes:
        return self._ops.release(self._branch, labels.ticket_mpki(), self._mpk_length)

    def _mpkr(self) -> bytes:
        return self._ops.release(self._branch, labels.ticket_mpkr(), self._mpk_length)

    def _session_key(self, index: int) -> KeyData:
        entry = self._session[index]
        key = self._ops.release(self._branch, labels.ticket_session_key(index), entry.length)
        return with_spi(entry.key_type, key, self._salt(index), entry.spi)

    def _forked_session_key(self, index: int, label: bytes) -> KeyData:
        entry = self._session[index]
        tgk = self._ops.leaf(self._branch, labels.ticket_session_key(index), entry.length, Use.PRF)
        key = self._ops.prf_release(tgk, self._prf, label, entry.length)
        return with_spi(entry.key_type, key, self._salt(index), entry.spi)

    def _unforked(self) -> tuple[KeyData | None, ...]:
        return tuple(
            None if entry.key_type in TGKS else self._session_key(i) for i, entry in enumerate(self._session)
        )

    def _salt(self, index: int) -> bytes:
        length = self._session[index].salt_length
        return self._ops.release(self._branch, labels.ticket_session_salt(index), length) if length else b""


def grant_derived(
    ops: KeyOperations, keys: TicketKeys, sources: Sources, policy: TicketPolicy, wanted: Iterable[KeyEntry]
) -> tuple[Ticket, TicketSecrets]:
    """A derived ticket with the granted policy, and its keys."""
    suite = suite_of(policy.prf)
    psk_id, tpk = keys.current(sources.now())
    mpk = KeyEntry(KeyType.MPK, MPK_LENGTH, 0, sources.random(4, "MPK SPI"))
    thdr_data = write_key_list((mpk, *wanted))
    rand = sources.random(32, "ticket RAND")
    secrets = DerivedSecrets(ops, policy, tpk, rand, thdr_data)
    payloads = (sources.timestamp(), Rand(rand), Idr(IdRole.PSK, IdType.BYTE_STRING, psk_id))
    data = TicketData(thdr_data, (*payloads, unsigned_v(suite.mac_alg)))
    mac_key = secrets.mac_key(suite.auth_key_length, Use.SIGN)
    mac = ops.mac(mac_key, suite.mac_alg, mac_coverage(Ticket(policy, data.encode()), data))
    data = TicketData(thdr_data, (*payloads, V(suite.mac_alg, mac)))
    return Ticket(policy, data.encode()), secrets


def _open_derived(ops: KeyOperations, keys: TicketKeys, ticket: Ticket, data: TicketData) -> TicketSecrets:
    suite = suite_of(ticket.policy.prf)
    tpk = keys.epoch(data.psk_id)
    if tpk is None or data.v.auth_alg != suite.mac_alg:
        raise _not_authentic()
    secrets = DerivedSecrets(ops, ticket.policy, tpk, data.rand, data.thdr_data)
    try:
        mac_key = secrets.mac_key(suite.auth_key_length, Use.VERIFY)
        ops.verify(mac_key, suite.mac_alg, mac_coverage(ticket, data), data.v.mac)
    except VerificationError:
        raise _not_authentic() from None
    return secrets


# -- MIKEY base tickets --------------------------------------------------------------------------------------------


class BaseSecrets(TicketSecrets):
    """Keys that travel encrypted in a base ticket: its MPK and session keys pass through the engine's memory."""

    def __init__(self, ops: KeyOperations, policy: TicketPolicy, opened: base_ticket.OpenedTicket) -> None:
        super().__init__(ops, policy, opened.mpk.spi, len(opened.mpk.key))
        self._keys = opened.session_keys
        self._rand = opened.rand
        self._mpk_key = ops.load(opened.mpk.key, Use.PRF)

    def mpkr_key(self) -> Key:
        label = labels.mpk_key(ProtectionKey.MPKR, self._rand)
        return self._ops.prf_key(self._mpk_key, self._prf, label, self._mpk_length, Use.PRF)

    def entries(self) -> tuple[KeyEntry, ...]:
        return tuple(map(entry_of, self._keys))

    def session_keys(self) -> tuple[KeyData, ...]:
        return self._keys

    def _mpki(self) -> bytes:
        return self._protection_key(ProtectionKey.MPKI)

    def _mpkr(self) -> bytes:
        return self._protection_key(ProtectionKey.MPKR)

    def _protection_key(self, constant: ProtectionKey) -> bytes:
        return base_ticket.protection_key(
            self._ops, self._mpk_key, self._prf, constant, self._rand, self._mpk_length
        )

    def _forked_session_key(self, index: int, label: bytes) -> KeyData:
        key = self._keys[index]
        tgk = self._ops.load(key.key, Use.PRF)
        forked = self._ops.prf_release(tgk, self._prf, label, len(key.key))
        return KeyData(key.key_type, forked, key.salt, key.kv)

    def _unforked(self) -> tuple[KeyData | None, ...]:
        return tuple(None if key.key_type in TGKS else key for key in self._keys)


def grant_base(
    ops: KeyOperations,
    keys: TicketKeys,
    sources: Sources,
    policy: TicketPolicy,
    wanted: Iterable[KeyEntry],
    mpk_length: int = MPK_LENGTH,
    shared: tuple[bytes, Key] | None = None,
) -> tuple[Ticket, TicketSecrets]:
    """A MIKEY base ticket with the granted policy, and its keys: fresh random ones.

    `shared` is id and key of the TPK that protects it in mode 2; None is the KMS's own.
    """
    prf: PrfFunc = suite_of(policy.prf).prf
    psk_id, tpk = shared or keys.current_base(sources.now(), prf)
    ticket, made = base_ticket.make(ops, sources, psk_id, tpk, policy, wanted, mpk_length)
    return ticket, BaseSecrets(ops, policy, made)


def _open_base(
    ops: KeyOperations, keys: TicketKeys, ticket: Ticket, data: TicketData, shared: Key | None
) -> TicketSecrets:
    suite = suite_of(ticket.policy.prf)
    tpk = shared or keys.base(data.psk_id, suite.prf)
    if tpk is None:
        raise _not_authentic()
    try:
        if shared is not None:
            _check_algorithms(data, suite)
        opened = base_ticket.open_ticket(ops, tpk, ticket, data)
    except AuthenticationError:
        raise _not_authentic() from None
    if shared is not None:
        _check_made_outside(opened, tpk, ticket.policy)
    return BaseSecrets(ops, ticket.policy, opened)


def _check_algorithms(data: TicketData, suite: Suite) -> None:
    """They are signalled in Ticket Data (A-13), and must be the suite's: suites are not mixed."""
    if data.v.auth_alg != suite.mac_alg or data.kemac.encr_alg != suite.encr_alg:
        raise Refused(
            Reason.INVALID_TICKET, "Ticket Data does not use the algorithms of the ticket's PRF Func"
        )


def _check_made_outside(opened: base_ticket.OpenedTicket, tpk: Key, policy: TicketPolicy) -> None:
    """What this KMS keeps to in its own tickets, an owner of a shared TPK must keep to as well."""
    keys = (opened.mpk, *opened.session_keys)
    if any(len(key.key) not in KEY_LENGTHS or len(key.salt) > MAX_SALT_LENGTH for key in keys):
        raise Refused(Reason.INVALID_TICKET, "keys in a ticket have 16 to 32 bytes and salts at most 32")
    if len(opened.session_keys) > MAX_SESSION_KEYS:
        raise Refused(Reason.INVALID_TICKET, f"a ticket has at most {MAX_SESSION_KEYS} session keys")
    if len(opened.rand) < max(tpk.length, len(opened.mpk.key)):
        raise Refused(Reason.INVALID_TICKET, "RAND in the ticket is shorter than its TPK or MPK (12.1)")
    rules.check_spis(keys, error_no=ErrorNo.INVALID_TICKET)
    rules.check_session_keys(policy, opened.session_keys)


# -- both ------------------------------------------------------------------------------------------------------------


def open_ticket(
    ops: KeyOperations, keys: TicketKeys, ticket: Ticket, shared: Key | None = None
) -> TicketSecrets:
    """Verify a ticket's MAC and give its keys. `shared` is the shared TPK that the ticket names, if it names one.

    Raises Refused: INVALID_TICKET for an unknown type, TICKET_NOT_AUTHENTIC for a wrong MAC, an unknown and a
    destroyed TPK alike. Raises MikeyError for malformed Ticket Data.
    """
    policy = ticket.policy
    kind = (policy.ticket_type, policy.subtype, policy.version)
    if kind == DERIVED_TICKET:
        return _open_derived(ops, keys, ticket, TicketData.decode(ticket.ticket_data))
    if kind == BASE_TICKET:
        return _open_base(ops, keys, ticket, TicketData.decode(ticket.ticket_data), shared)
    raise unsupported(policy)


def unsupported(policy: TicketPolicy) -> Refused:
    """The refusal of a Ticket Type, Subtype or Version that this KMS does not know."""
    kind = f"{policy.ticket_type}/{policy.subtype}/{policy.version}"
    return Refused(Reason.INVALID_TICKET, f"Ticket Type {kind} is not supported; 1/1/1 and 61440/1/1 are")


def _not_authentic() -> Refused:
    return Refused(
        Reason.TICKET_NOT_AUTHENTIC,
        "the ticket was not made by this KMS, was altered, or its key was destroyed",
    )
