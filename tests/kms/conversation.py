"""A whole conversation message by message, with any message changed under a right MAC."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from kms.client import Acceptance, Participant
from kms.client.participant import CALL_FLAGS
from kms.mikey import policy as rules
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, GenericIdSession, Hdr, Idr, KeyData, Payload, Sp, Ticket, TicketPolicy
from kms.mikey.registry import IdRole
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.asking import Asked
from kms.party.initiator import OutgoingTransfer
from kms.party.requesting import GrantedTicket, TicketRequest
from kms.party.responder import IncomingTransfer
from kms.sdk.streams import Stream, encode
from tests.kms.callers import ALICE, BOBBY, participant
from tests.kms.local_kms import LocalEndpoint, LocalKms

Change = Callable[[Hdr, Sequence[Payload]], tuple[Hdr, Iterable[Payload]]]
"""What happens to a message before its MAC is made: HDR and payloads, of which the last is V."""

KMS = b"sip:kms@example.com"


def unchanged(hdr: Hdr, payloads: Sequence[Payload]) -> tuple[Hdr, Iterable[Payload]]:
    """No change."""
    return hdr, payloads


def _draft(message: Message, change: Change) -> Message:
    hdr, payloads = change(message.hdr, message.payloads)
    return Message.build(hdr, payloads)


def _ask(asked: Asked, change: Change, name: bytes) -> Asked:
    return replace(asked, message=asked.initial.sign(_draft(asked.message, change), name, KMS))


def desired(
    responders: Iterable[str] = (BOBBY,),
    flags: Flags = CALL_FLAGS,
    *,
    kind: tuple[int, int, int] = DERIVED_TICKET,
    prf: int = 1,
    end: int | None = None,
    keys: Iterable[KeyData] | None = None,
) -> TicketPolicy:
    """A desired policy of alice."""
    names = [name.encode() for name in responders]
    return TicketPolicy(
        *kind,
        prf,
        flags,
        rules.tp_data(kms=KMS, initiator=ALICE.encode(), responders=names, end=end, keys=keys),
    )


@dataclass
class Conversation:
    """The messages of a call from alice to bobby, by name, as they were sent."""

    alice: Participant
    bobby: Participant
    messages: dict[str, Message]

    def __init__(self, alice: Participant, bobby: Participant) -> None:
        self.alice, self.bobby, self.messages = alice, bobby, {}

    def request(
        self, policy: TicketPolicy, sent: Change = unchanged, got: Change = unchanged
    ) -> GrantedTicket:
        """Ticket Request."""
        party, endpoint = self.alice._party, self.alice._endpoint
        request = TicketRequest(party, policy)
        request._asked = asked = _ask(request._asked, sent, party.identity)
        response = Message.decode(endpoint.request_ticket(asked.message.raw))
        response = asked.response.sign(_draft(response, got), asked.message.raw)
        self._keep(asked.message, response)
        return request.complete(response.raw)

    def transfer(
        self,
        granted: GrantedTicket,
        change: Change = unchanged,
        *,
        sessions: Sequence[GenericIdSession] | None = None,
        policies: Sequence[Sp] | None = None,
        keys: Iterable[KeyData] = (),
        to: str = BOBBY,
    ) -> OutgoingTransfer:
        """TRANSFER_INIT; by default with two SRTP streams, one of which has an SSRC."""
        proposed, named = encode([Stream(1), Stream()])
        outgoing = OutgoingTransfer(
            self.alice._party,
            granted,
            to.encode(),
            proposed if sessions is None else sessions,
            named if policies is None else policies,
            keys=keys,
            acceptance=self.alice._acceptance,
        )
        if change is not unchanged:
            signed = outgoing._initial.sign(_draft(outgoing.message, change), ALICE.encode(), to.encode())
            if granted.mpkr is not None:
                data = outgoing._initiator_data(signed.v, granted.mpkr)
                payloads = [
                    replace(p, initiator_data=data) if isinstance(p, Ticket) else p for p in signed.payloads
                ]
                signed = Message.build(signed.hdr, payloads)
            outgoing.message = signed
        self._keep(outgoing.message)
        return outgoing

    def receive(
        self,
        outgoing: OutgoingTransfer,
        sent: Change = unchanged,
        got: Change = unchanged,
        acceptance: Acceptance | None = None,
    ) -> IncomingTransfer:
        """Ticket Resolve, and TRANSFER_INIT verified."""
        party, endpoint = self.bobby._party, self.bobby._endpoint
        incoming = IncomingTransfer(party, outgoing.message.raw, acceptance or self.bobby._acceptance)
        incoming.resolve_init()
        assert incoming._asked is not None
        incoming._asked = asked = _ask(incoming._asked, sent, incoming.identity)
        response = Message.decode(endpoint.resolve_ticket(asked.message.raw))
        response = asked.response.sign(_draft(response, got), asked.message.raw)
        self._keep(asked.message, response)
        incoming.resolved(response.raw)
        return incoming

    def answer(
        self,
        outgoing: OutgoingTransfer,
        incoming: IncomingTransfer,
        change: Change = unchanged,
        *,
        sessions: Iterable[GenericIdSession] = (),
        keys: Iterable[KeyData] = (),
        policies: Iterable[Sp] = (),
    ) -> bytes:
        """TRANSFER_RESP."""
        message = incoming.answer(sessions, keys, policies=policies)
        assert incoming.session is not None
        if change is not unchanged:
            message = incoming.session.static.protection.sign(_draft(message, change), outgoing.message.raw)
        self._keep(message)
        return message.raw

    def play(self, policy: TicketPolicy, changes: dict[str, Change] | None = None) -> None:
        """All six messages, some of them changed; both sides must end with the same keys."""
        by_name = dict.fromkeys(_NAMES, unchanged) | (changes or {})
        granted = self.request(policy, by_name["REQUEST_INIT_PSK"], by_name["REQUEST_RESP"])
        outgoing = self.transfer(granted, by_name["TRANSFER_INIT"])
        incoming = self.receive(outgoing, by_name["RESOLVE_INIT_PSK"], by_name["RESOLVE_RESP"])
        session = outgoing.complete(self.answer(outgoing, incoming, by_name["TRANSFER_RESP"]))
        assert incoming.session is not None
        assert session.srtp == incoming.session.srtp
        assert session.srtp

    def _keep(self, *messages: Message) -> None:
        self.messages |= {message.name: Message.decode(message.raw) for message in messages}


_NAMES = (
    "REQUEST_INIT_PSK",
    "REQUEST_RESP",
    "TRANSFER_INIT",
    "RESOLVE_INIT_PSK",
    "RESOLVE_RESP",
    "TRANSFER_RESP",
)


def asked(who: Participant) -> int:
    """How often a participant asked the KMS."""
    assert isinstance(who._endpoint, LocalEndpoint)
    return who._endpoint.asked


def enrolled(kms: LocalKms, responder: Acceptance | None = None) -> Conversation:
    """Alice and bobby, enrolled now."""
    return Conversation(participant(kms, ALICE), participant(kms, BOBBY, responder))


def identities(message: Message) -> dict[IdRole, bytes]:
    """The IDR payloads of a message."""
    return {IdRole(p.role): p.data for p in message.find_all(Idr)}
