"""Requesting tickets and receiving calls: the exchanges with the KMS that a participant and a focus have in common."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kms.crypto.suite import SUITES, suite_of
from kms.mikey import policy as rules
from kms.mikey import timestamps
from kms.mikey.errors import MikeyError
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, KeyData, T, TicketPolicy
from kms.mikey.registry import KeyType, TsType
from kms.mikey.sdp import key_mgmt_line
from kms.mikey.ticket_data import BASE_TICKET, TicketData
from kms.party import making
from kms.party.acceptance import Acceptance
from kms.party.making import MODE_3_FLAGS, MODE_4_FLAGS
from kms.party.memory import ReplayCache, ResolutionCache
from kms.party.party import Party
from kms.party.requesting import GrantedTicket, TicketRequest
from kms.party.responder import IncomingTransfer, Resolution
from kms.party.session import Session
from kms.sdk.endpoint import BatchEndpoint, Endpoint, with_retries
from kms.sdk.errors import KmsError

MAX_BATCH = 256
"""Tickets in one BatchResolveTickets."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A TRANSFER_RESP to send, and the session it establishes. `message` is None for a ticket with F = 0."""

    message: bytes | None
    session: Session

    @classmethod
    def of(cls, transfer: IncomingTransfer, message: Message | None) -> "Answer":
        """The answer to an established transfer."""
        assert transfer.session is not None
        return cls(None if message is None else message.raw, transfer.session)

    @property
    def sdp(self) -> str | None:
        """The SDP attribute line with the message."""
        return None if self.message is None else key_mgmt_line(self.message)


def request_ticket(party: Party, endpoint: Endpoint, desired: TicketPolicy) -> GrantedTicket:
    """Ticket Request (RFC 6043 4.2.1), with a new message for each attempt. Raises KmsError or MikeyError."""

    def attempt() -> GrantedTicket:
        request = TicketRequest(party, desired)
        return request.complete(endpoint.request_ticket(request.message.raw))

    return with_retries(attempt)


def make_ticket(
    party: Party,
    responders: Iterable[str],
    *,
    mode: int = 3,
    lifetime: int = 3600,
    flags: Flags | None = None,
    keys: Iterable[KeyData] | None = None,
    suite: int | None = None,
    applications: Iterable[str] = (),
) -> GrantedTicket:
    """A ticket that `party` makes itself. See kms.client.Participant.make_ticket and kms.focus.Focus.make_ticket."""
    if mode not in (3, 4):
        raise ValueError(f"an Initiator makes tickets in mode 3 or 4, not {mode}")
    own = party.keys[0].suite if suite is None else SUITES[suite]
    wanted = [KeyData(KeyType.TGK, bytes(own.key_length))] if keys is None else list(keys)
    tp_data = rules.tp_data(
        kms=party.kms_identity,
        initiator=party.identity,
        responders=[responder.encode() for responder in responders],
        end=int(party.sources.now()) + lifetime,
        applications=[application.encode() for application in applications],
    )
    default = MODE_3_FLAGS if mode == 3 else MODE_4_FLAGS
    chosen = default if flags is None else flags
    if bool(chosen & Flags.E) != (mode == 3):
        raise ValueError("a ticket of mode 3 has the flag E, one of mode 4 has not")
    return making.make_ticket(party, TicketPolicy(*BASE_TICKET, own.prf, chosen, tp_data), wanted)


class Receiver:
    """Turns received TRANSFER_INITs into verified transfers, asking the KMS where it must."""

    def __init__(self, party: Party, endpoint: Endpoint, acceptance: Acceptance, replay: ReplayCache) -> None:
        self._party = party
        self._endpoint = endpoint
        self._acceptance = acceptance
        self._replay = replay
        self._resolutions = ResolutionCache()

    def receive(self, raw: bytes) -> IncomingTransfer:
        """Early reject, replay check, ticket resolved, V and Vi verified. Raises KmsError or MikeyError."""
        incoming = self._admit(raw)
        try:
            if not self._without_kms(incoming):
                self._keep(incoming, with_retries(lambda: self._resolve(incoming)))
        except (KmsError, MikeyError):
            self._replay.release(incoming.digest)
            raise
        return incoming

    def receive_batch(
        self, raws: Sequence[bytes], endpoint: BatchEndpoint
    ) -> list[IncomingTransfer | KmsError | MikeyError]:
        """As `receive` for many, with one call of the KMS for up to MAX_BATCH of them. Each fails alone."""
        results: list[IncomingTransfer | KmsError | MikeyError] = []
        waiting: list[tuple[int, IncomingTransfer]] = []
        for position, raw in enumerate(raws):
            try:
                incoming = self._admit(raw)
            except MikeyError as error:
                results.append(error)
                continue
            results.append(incoming)
            try:
                if not self._without_kms(incoming):
                    waiting.append((position, incoming))
            except MikeyError as error:
                self._replay.release(incoming.digest)
                results[position] = error
        for start in range(0, len(waiting), MAX_BATCH):
            chunk = waiting[start : start + MAX_BATCH]
            for (position, _), result in zip(chunk, self._resolve_chunk(chunk, endpoint), strict=True):
                results[position] = result
        return results

    # -- inside --------------------------------------------------------------------------------------------------------

    def _admit(self, raw: bytes) -> IncomingTransfer:
        incoming = IncomingTransfer(self._party, raw, self._acceptance)
        self._party.key_for(incoming.ticket.policy.prf)  # else the KMS could not be asked
        self._replay.reserve(incoming.digest, self._fresh_until(incoming))
        return incoming

    def _fresh_until(self, incoming: IncomingTransfer) -> float:
        """Until when the message passes the check of its timestamp. A COUNTER passes as long as its ticket is valid."""
        t = incoming.message.get(T)
        if t.ts_type != TsType.COUNTER:
            return timestamps.unix_time(t) + self._acceptance.skew
        return rules.validity(incoming.ticket.policy)[1] or float("inf")

    def _without_kms(self, incoming: IncomingTransfer) -> bool:
        """Use an earlier resolution of the ticket where that is safe (ResolutionCache says when), or a shared TPK."""
        earlier = self._resolutions.find(incoming.ticket)
        if earlier is not None:
            incoming.reuse(earlier)
            return True
        policy = incoming.ticket.policy
        if policy.flags & Flags.E or (policy.ticket_type, policy.subtype, policy.version) != BASE_TICKET:
            return False
        tpk_id = TicketData.decode(incoming.ticket.ticket_data).psk_id
        tpk = self._party.tpk_for_opening(suite_of(policy.prf).bits, tpk_id)
        if tpk is None:
            return False
        initiator = None if tpk.peer is None else tpk.peer.encode()
        self._keep(incoming, incoming.resolve_locally(tpk.tpk, tpk.tpk_id, initiator=initiator))
        return True

    def _resolve(self, incoming: IncomingTransfer) -> Resolution:
        return incoming.resolved(self._endpoint.resolve_ticket(incoming.resolve_init().raw))

    def _resolve_chunk(
        self, chunk: Sequence[tuple[int, IncomingTransfer]], endpoint: BatchEndpoint
    ) -> list[IncomingTransfer | KmsError | MikeyError]:
        transfers = [incoming for _, incoming in chunk]
        try:
            answers: Sequence[bytes | KmsError] = with_retries(
                lambda: endpoint.resolve_tickets([incoming.resolve_init().raw for incoming in transfers])
            )
        except KmsError as error:
            answers = [error] * len(transfers)
        results: list[IncomingTransfer | KmsError | MikeyError] = []
        for incoming, answer in zip(transfers, answers, strict=True):
            try:
                if isinstance(answer, KmsError):
                    raise answer
                self._keep(incoming, incoming.resolved(answer))
                results.append(incoming)
            except (KmsError, MikeyError) as error:
                self._replay.release(incoming.digest)
                results.append(error)
        return results

    def _keep(self, incoming: IncomingTransfer, resolution: Resolution) -> None:
        self._resolutions.keep(incoming.ticket, incoming.identity, resolution)
