"""Making and opening MIKEY base tickets (RFC 6043 appendix A), over any KeyOperations."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kms.crypto.interface import Key, KeyOperations, Use, VerificationError
from kms.crypto.protection import encr_alg, unseal
from kms.crypto.sources import Sources
from kms.crypto.suite import suite_of
from kms.mikey import labels
from kms.mikey.errors import AuthenticationError, ProtocolError
from kms.mikey.labels import MessageKey, ProtectionKey
from kms.mikey.message import unsigned_v
from kms.mikey.payloads import Idr, Kemac, KeyData, Rand, T, Ticket, TicketPolicy, V, with_spi
from kms.mikey.registry import EncrAlg, ErrorNo, IdRole, IdType, KeyType, MacAlg, PrfFunc
from kms.mikey.ticket_data import KeyEntry, TicketData, mac_coverage

_CSB_ID = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class OpenedTicket:
    """What a base ticket holds: its MPK, with RAND to derive MPKi and MPKr, and the session keys."""

    rand: bytes
    mpk: KeyData = field(repr=False)
    session_keys: tuple[KeyData, ...] = field(repr=False)


def seal(
    ops: KeyOperations,
    tpk: Key,
    policy: TicketPolicy,
    keys: Iterable[KeyData],
    *,
    t: T,
    rand: bytes,
    psk_id: bytes,
    thdr_data: bytes = b"",
) -> Ticket:
    """A ticket with the granted `policy` that encodes `keys`, the MPK first. `tpk` is a PRF key."""
    suite = suite_of(policy.prf)
    iv, key = _cipher(ops, tpk, suite.prf, rand, suite.encr_alg, t, Use.ENCRYPT)
    kemac = Kemac(suite.encr_alg, ops.encrypt(key, suite.encr_alg, iv, KeyData.write_all(keys)))
    payloads = (t, Rand(rand), kemac, Idr(IdRole.PSK, IdType.BYTE_STRING, psk_id))
    data = TicketData(thdr_data, (*payloads, unsigned_v(suite.mac_alg)))
    draft = Ticket(policy, data.encode())
    auth_key = _auth_key(ops, tpk, suite.prf, rand, suite.mac_alg, Use.SIGN)
    mac = ops.mac(auth_key, suite.mac_alg, mac_coverage(draft, data))
    return Ticket(policy, TicketData(thdr_data, (*payloads, V(suite.mac_alg, mac))).encode())


def make(
    ops: KeyOperations,
    sources: Sources,
    psk_id: bytes,
    tpk: Key,
    policy: TicketPolicy,
    wanted: Iterable[KeyEntry],
    mpk_length: int,
) -> tuple[Ticket, OpenedTicket]:
    """A new ticket with a fresh MPK of `mpk_length` bytes and fresh session keys as `wanted`, and what is in it."""
    # As long as the longest of TPK and MPK (12.1).
    rand = sources.random(max(mpk_length, tpk.length), "ticket RAND")
    mpk = with_spi(KeyType.MPK, sources.random(mpk_length, "MPK"), b"", sources.random(4, "MPK SPI"))
    session_keys = tuple(
        with_spi(
            entry.key_type,
            sources.random(entry.length, "session key"),
            sources.random(entry.salt_length, "session salt") if entry.salt_length else b"",
            entry.spi,
        )
        for entry in wanted
    )
    ticket = seal(ops, tpk, policy, (mpk, *session_keys), t=sources.timestamp(), rand=rand, psk_id=psk_id)
    return ticket, OpenedTicket(rand, mpk, session_keys)


def open_ticket(ops: KeyOperations, tpk: Key, ticket: Ticket, data: TicketData) -> OpenedTicket:
    """Verify the ticket's MAC and decrypt its keys. `data` is the decoded Ticket Data.

    Raises AuthenticationError if the MAC does not verify, ProtocolError or DecodeError for what is inside.
    """
    prf = suite_of(ticket.policy.prf).prf
    if data.v.auth_alg not in labels.AUTH_KEY_LENGTHS:
        raise ProtocolError("the ticket's V has NULL authentication", ErrorNo.INVALID_MAC)
    key = _auth_key(ops, tpk, prf, data.rand, data.v.auth_alg, Use.VERIFY)
    try:
        ops.verify(key, data.v.auth_alg, mac_coverage(ticket, data), data.v.mac)
    except VerificationError:
        raise AuthenticationError("the MAC of the ticket does not verify") from None
    alg = encr_alg(data.kemac)
    iv, cipher_key = _cipher(ops, tpk, prf, data.rand, alg, data.t, Use.DECRYPT)
    keys = KeyData.read_all(unseal(ops, cipher_key, alg, iv, data.kemac), "Ticket Data > KEMAC")
    if not keys or keys[0].key_type != KeyType.MPK or any(k.key_type == KeyType.MPK for k in keys[1:]):
        raise ProtocolError(
            "the ticket must encode one MPK, followed by session keys", ErrorNo.INVALID_TICKET
        )
    return OpenedTicket(data.rand, keys[0], keys[1:])


def protection_key(
    ops: KeyOperations, mpk: Key, prf: PrfFunc, constant: ProtectionKey, rand: bytes, length: int
) -> bytes:
    """The bytes of MPKi or MPKr (A.2.2), for their owner; `length` is the MPK's."""
    return ops.prf_release(mpk, prf, labels.mpk_key(constant, rand), length)


def _auth_key(ops: KeyOperations, tpk: Key, prf: PrfFunc, rand: bytes, alg: MacAlg, use: Use) -> Key:
    label = labels.tpk_key(MessageKey.AUTH, rand)
    return ops.prf_key(tpk, prf, label, labels.AUTH_KEY_LENGTHS[alg], use)


def _cipher(
    ops: KeyOperations, tpk: Key, prf: PrfFunc, rand: bytes, alg: EncrAlg, t: T, use: Use
) -> tuple[bytes, Key]:
    salt_label = labels.tpk_key(MessageKey.SALT, rand)
    salt = ops.prf_release(tpk, prf, salt_label, labels.SALT_KEY_LENGTHS[alg])
    key_label = labels.tpk_key(MessageKey.ENCR, rand)
    key = ops.prf_key(tpk, prf, key_label, labels.ENCR_KEY_LENGTHS[alg], use)
    return labels.kemac_iv(alg, salt, _CSB_ID, t.ts_type, t.value), key
