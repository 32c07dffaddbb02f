"""Ticket Request (RFC 6043 4.2.1), the Initiator's side: REQUEST_INIT out, REQUEST_RESP in."""

from dataclasses import dataclass, field, replace

from kms.crypto.interface import Key
from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.exchange import RECEIVE, SEND, Progress, Role
from kms.mikey.payloads import Flags, KeyData, Ticket, TicketPolicy, Tp
from kms.mikey.registry import DataType, ErrorNo, IdRole
from kms.party import asking
from kms.party.party import KmsKey, Party
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
    _sessions: list[int] = field(default_factory=list, repr=False, compare=False)

    @property
    def policy(self) -> TicketPolicy:
        """The granted Ticket Policy."""
        return self.ticket.policy

    @property
    def expires(self) -> float | None:
        """TRe in seconds since 1970, or None."""
        return rules.validity(self.policy)[1]

    def check_unused(self) -> None:
        """Raise ProtocolError (Invalid TICKET) if a session came of the ticket, and it must not be reused (5.3)."""
        if self._sessions and not self.policy.flags & Flags.J:
            raise ProtocolError(
                "the ticket was used before and must not be reused (J flag)", ErrorNo.INVALID_TICKET
            )

    def use(self, csb_id: int) -> None:
        """Note that a session came of the ticket. Raises ProtocolError like `check_unused`."""
        self.check_unused()
        self._sessions.append(csb_id)


class TicketRequest:
    """One Ticket Request: `message` goes to the KMS, `complete` takes its answer. Good for one attempt."""

    def __init__(self, party: Party, desired: TicketPolicy, *, key: KmsKey | None = None) -> None:
        """Make the REQUEST_INIT. `key` is what protects it, by default the party's for the policy's suite.

        Raises ProtocolError if the desired policy breaks a rule of RFC 6043 6.10.
        """
        rules.check(desired)
        rules.check_session_keys(desired, rules.requested_keys(desired) or ())
        self._party = party
        self._desired = desired = replace(desired, flags=desired.flags & ~Flags.K)
        self._progress = Progress(Role.INITIATOR)
        self._asked = asking.request(party, key or party.key_for(desired.prf), Tp(desired))
        self.message = self._asked.message
        self._progress.move(SEND, self.message.hdr.data_type)

    def complete(self, raw: bytes) -> GrantedTicket:
        """Verify the REQUEST_RESP and open it.

        Raises ReceivedError for an Error message, AuthenticationError for a wrong MAC, DecodeError or ProtocolError
        for everything else, such as a granted policy that is not acceptable.
        """
        asked, progress = self._asked, self._progress
        message = receive_response(raw, asked.message, DataType.REQUEST_RESP, progress, asked.initial)
        asked.response.verify(message, asked.message.raw)
        ticket = message.get(Ticket)
        rules.check_granted(ticket.policy)
        keys = open_kemac(message, asked.response)
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
