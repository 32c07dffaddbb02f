"""Ticket Request (RFC 6043 4.2.1), the Initiator's side: REQUEST_INIT_PSK out, REQUEST_RESP in."""

from dataclasses import dataclass, field, replace

from kms.crypto.interface import Key
from kms.crypto.protection import MessageProtection
from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.exchange import RECEIVE, SEND, Progress, Role
from kms.mikey.labels import INITIAL, RESPONSE
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Flags, Hdr, Idr, KeyData, Payload, Ticket, TicketPolicy, Tp
from kms.mikey.registry import DataType, ErrorNo, IdRole, IdType, RandRole
from kms.party.party import Party, SuiteKey
from kms.party.receiving import load_prf_key, open_kemac, receive_response, split_mpks


@dataclass(frozen=True, slots=True)
class GrantedTicket:
    """A ticket and the keys that came with it. `mpkr` is None without key forking (I flag).

    `session_keys` are the keys encoded in the ticket, TGKs not forked. Keep it secret: whoever has it is the Initiator.
    """

    ticket: Ticket
    mpki: Key
    mpkr: Key | None
    session_keys: tuple[KeyData, ...] = field(repr=False)

    @property
    def policy(self) -> TicketPolicy:
        """The granted Ticket Policy."""
        return self.ticket.policy

    @property
    def expires(self) -> float | None:
        """TRe in seconds since 1970, or None."""
        return rules.validity(self.policy)[1]


class TicketRequest:
    """One Ticket Request: `message` goes to the KMS, `complete` takes its answer. Good for one attempt."""

    def __init__(self, party: Party, desired: TicketPolicy, *, key: SuiteKey | None = None) -> None:
        """Make the REQUEST_INIT_PSK. `key` is the PSK that protects it, by default that of the policy's suite.

        Raises ProtocolError if the desired policy breaks a rule of RFC 6043 6.10.
        """
        rules.check(desired)
        rules.check_session_keys(desired, rules.requested_keys(desired) or ())
        self._party = party
        self._desired = desired
        self._key = key or party.key_for(desired.prf)
        self._progress = Progress(Role.INITIATOR)
        self.message = self._request_init()
        self._progress.move(SEND, DataType.REQUEST_INIT_PSK)

    def _request_init(self) -> Message:
        party, suite = self._party, self._key.suite
        randr_i = party.new_randr(RandRole.INITIATOR)
        payloads: tuple[Payload, ...] = (
            party.sources.timestamp(),
            randr_i,
            Idr(IdRole.INITIATOR, IdType.URI, party.identity),
            Idr(IdRole.KMS, IdType.URI, party.kms_identity),
            Tp(self._desired),
            Idr(IdRole.PSK, IdType.BYTE_STRING, self._key.psk_id),
            unsigned_v(suite.mac_alg),
        )
        hdr = Hdr(DataType.REQUEST_INIT_PSK, party.new_csb_id(), suite.prf, v=True)
        inputs = party.ops, self._key.psk, suite.prf, hdr.csb_id
        self._initial = MessageProtection(*inputs, INITIAL, randr_i=randr_i.rand)
        self._response = MessageProtection(*inputs, RESPONSE, randr_i=randr_i.rand)
        return self._initial.sign(Message.build(hdr, payloads), party.identity, party.kms_identity)

    def complete(self, raw: bytes) -> GrantedTicket:
        """Verify the REQUEST_RESP and open it.

        Raises ReceivedError for an Error message, AuthenticationError for a wrong MAC, DecodeError or ProtocolError
        for everything else, such as a granted policy that is not acceptable.
        """
        message = receive_response(raw, self.message, DataType.REQUEST_RESP, self._progress, self._initial)
        self._response.verify(message, self.message.raw)
        ticket = message.get(Ticket)
        rules.check_granted(ticket.policy)
        keys = open_kemac(message, self._response)
        mpks, session_keys = split_mpks(keys, ticket.policy)
        rules.check_answer(self._desired, ticket.policy, session_keys)
        check_changes(self._desired, ticket.policy, session_keys)
        self._progress.move(RECEIVE, DataType.REQUEST_RESP)
        loaded = [load_prf_key(self._party.ops, mpk) for mpk in mpks]
        return GrantedTicket(
            replace(ticket, initiator_data=b""),
            loaded[0],
            loaded[1] if len(loaded) > 1 else None,
            session_keys,
        )


def check_changes(desired: TicketPolicy, granted: TicketPolicy, keys: tuple[KeyData, ...]) -> None:
    """Raise ProtocolError (Invalid TPpar) unless every change that the KMS made (K = 1) is acceptable (4.2.1.6).

    Acceptable are a shorter validity, and an IDRi and IDRkms that were not in the desired policy. A ticket of another
    type, with other flags, for other responders or with other keys is not what the caller is about to rely on.
    """
    if not granted.flags & Flags.K:
        return
    wanted, got = (
        (
            p.ticket_type,
            p.subtype,
            p.version,
            p.prf,
            p.flags & ~Flags.K,
            rules.responders(p),
            rules.applications(p),
        )
        for p in (desired, granted)
    )
    if wanted != got:
        raise ProtocolError(
            "the KMS changed the ticket's type, flags, PRF, responders or applications", ErrorNo.INVALID_TPPAR
        )
    for role in (IdRole.INITIATOR, IdRole.KMS):
        identity = rules.identity(desired, role)
        if identity is not None and identity != rules.identity(granted, role):
            raise ProtocolError(
                f"the KMS changed the {role.name} identity of the ticket", ErrorNo.INVALID_TPPAR
            )
    (want_start, want_end), (start, end) = rules.validity(desired), rules.validity(granted)
    widened = (want_start is not None and (start is None or start < want_start)) or (
        want_end is not None and (end is None or end > want_end)
    )
    if widened or rules.rekeying_interval(desired) != rules.rekeying_interval(granted):
        raise ProtocolError("the KMS widened the ticket's validity or changed TRr", ErrorNo.INVALID_TPPAR)
    requested = rules.requested_keys(desired)
    if requested is not None and _shapes(requested) != _shapes(keys):
        raise ProtocolError("the keys are not the requested ones", ErrorNo.INVALID_TPPAR)


def _shapes(keys: tuple[KeyData, ...]) -> list[tuple[int, int, int]]:
    return [(k.key_type, len(k.key), len(k.salt)) for k in keys]
