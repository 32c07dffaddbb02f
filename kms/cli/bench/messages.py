"""Messages for the load: made before the clock runs, so that only the KMS is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kms.crypto.suite import SUITE_256
from kms.mikey import policy as rules
from kms.mikey.payloads import GenericIdSession, KeyData, TicketPolicy
from kms.mikey.registry import KeyType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.credential import Credential
from kms.party.initiator import OutgoingTransfer
from kms.party.party import Party
from kms.party.requesting import GrantedTicket, TicketRequest
from kms.party.responder import IncomingTransfer

Ask = Callable[[bytes], bytes]
"""Sends a message to the KMS and gives its answer."""


@dataclass(frozen=True, slots=True)
class Load:
    """A participant and a focus that can make any number of fresh messages. The tickets are derived and forked."""

    participant: Party
    focus: Party

    @classmethod
    def of(cls, participant_file: Path, focus_file: Path) -> "Load":
        """From two enrolment files."""
        return cls(Party.of(Credential.load(participant_file)), Party.of(Credential.load(focus_file)))

    def requests(self, count: int) -> list[bytes]:
        """REQUEST_INIT messages, each for one TGK."""
        return [TicketRequest(self.participant, self._desired()).message.raw for _ in range(count)]

    def resolves(self, count: int, ask: Ask) -> list[bytes]:
        """RESOLVE_INIT messages for one ticket, which is requested through `ask`."""
        request = TicketRequest(self.participant, self._desired())
        granted = request.complete(ask(request.message.raw))
        transfer = self._transfer(granted)
        incoming = IncomingTransfer(self.focus, transfer.message.raw)
        return [incoming.resolve_init().raw for _ in range(count)]

    def exchange(self, request: Ask, resolve: Ask) -> list[bytes]:
        """The six messages of one forked exchange, with the KMS's answers through `request` and `resolve`."""
        asked = TicketRequest(self.participant, self._desired())
        granted = request(asked.message.raw)
        transfer = self._transfer(asked.complete(granted))
        incoming = IncomingTransfer(self.focus, transfer.message.raw)
        resolving = incoming.resolve_init().raw
        resolved = resolve(resolving)
        incoming.resolved(resolved)
        answer = incoming.answer().raw
        transfer.complete(answer)
        return [asked.message.raw, granted, transfer.message.raw, resolving, resolved, answer]

    def _transfer(self, granted: GrantedTicket) -> OutgoingTransfer:
        policies = [AES_CM_128_HMAC_SHA1_80.sp(0)]
        return OutgoingTransfer(
            self.participant, granted, self.focus.identity, [GenericIdSession(1, (0,))], policies
        )

    def _desired(self) -> TicketPolicy:
        data = rules.tp_data(
            kms=self.participant.kms_identity,
            initiator=self.participant.identity,
            responders=[self.focus.identity],
            end=int(self.participant.sources.now()) + 3600,
            keys=[KeyData(KeyType.TGK, bytes(SUITE_256.key_length))],
        )
        return TicketPolicy(*DERIVED_TICKET, SUITE_256.prf, rules.FORKED_MODE_1, data)
