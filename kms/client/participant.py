"""The participant of a call or conference: tickets from the KMS, calls out, calls in, keys for SRTP."""

import os
from collections.abc import Iterable, Sequence
from types import TracebackType

from kms.client.endpoint import ClientEndpoint
from kms.crypto.sources import Sources
from kms.crypto.suite import SUITES
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError
from kms.mikey.payloads import Flags, KeyData, TicketPolicy
from kms.mikey.registry import ErrorNo
from kms.mikey.sdp import MIKEY, Level, key_mgmt_line, sdp_ids
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.acceptance import Acceptance
from kms.party.credential import Credential
from kms.party.initiator import OutgoingTransfer
from kms.party.memory import InMemoryReplayCache, ReplayCache
from kms.party.party import Party
from kms.party.refusing import refusal
from kms.party.requesting import GrantedTicket
from kms.party.responder import IncomingTransfer
from kms.party.session import Session
from kms.sdk.calls import Answer, Receiver, make_ticket, request_ticket
from kms.sdk.endpoint import Endpoint
from kms.sdk.streams import Stream, encode, message_of, messages_of

CALL_FLAGS = rules.FORKED_MODE_1 | Flags.M
"""Flags of the tickets that are asked for by default: mode 1 with key forking, both parties' RANDs, no reuse, and M,
so that a focus may supply group keys."""


class Participant:
    """One subscriber. Its methods may be called from several threads; each Offer and Session belongs to one.

    Raises, besides what each method says: kms.sdk.errors.KmsError when the KMS did not give what it was asked for
    (Refused, Unavailable, KmsFault), and kms.mikey.errors.MikeyError when a message or its content is refused here.
    """

    def __init__(
        self,
        credential: Credential,
        *,
        endpoint: Endpoint | None = None,
        sources: Sources | None = None,
        acceptance: Acceptance | None = None,
        replay: ReplayCache | None = None,
    ) -> None:
        """`endpoint` replaces the connection to `credential.target`; `acceptance` says what is accepted from others."""
        self._party = Party.of(credential, sources)
        self._endpoint: Endpoint = endpoint or ClientEndpoint(credential)
        self._acceptance = acceptance or Acceptance()
        cache = replay or InMemoryReplayCache(self._party.sources.now)
        self._receiver = Receiver(self._party, self._endpoint, self._acceptance, cache)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Participant":
        """The subscriber of an enrolment file. Raises CredentialError."""
        return cls(Credential.load(path))

    @property
    def identity(self) -> str:
        """The subscriber's URI."""
        return self._party.identity.decode()

    def close(self) -> None:
        """Close the connection to the KMS. An endpoint that was handed in stays open."""
        if isinstance(self._endpoint, ClientEndpoint):
            self._endpoint.close()

    def __enter__(self) -> "Participant":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- calling out ---------------------------------------------------------------------------------------------------

    def request_ticket(
        self,
        responders: Iterable[str],
        *,
        lifetime: int = 3600,
        flags: Flags = CALL_FLAGS,
        keys: Iterable[KeyData] | None = None,
        suite: int | None = None,
        kind: tuple[int, int, int] = DERIVED_TICKET,
        applications: Iterable[str] = (),
    ) -> GrantedTicket:
        """Ask the KMS for a ticket (RFC 6043 4.2.1).

        `responders` are the URIs of those, or of groups, that may resolve it. `lifetime` is in seconds from now; the
        KMS may shorten it. `keys` are the session keys wanted, their bytes ignored; None is the KMS's default, one TGK.
        `suite` is 256 or 128, by default the strongest that the subscriber is enrolled in. `kind` is Ticket Type,
        Subtype and Version. `applications` are the application IDs that may use it (IDRapp), all if none is
        given. Raises ProtocolError if the granted policy is not acceptable.
        """
        party = self._party
        prf = party.keys[0].suite.prf if suite is None else party.key_for(SUITES[suite].prf).suite.prf
        tp_data = rules.tp_data(
            kms=party.kms_identity,
            initiator=party.identity,
            responders=[responder.encode() for responder in responders],
            end=int(party.sources.now()) + lifetime,
            keys=keys,
            applications=[application.encode() for application in applications],
        )
        return request_ticket(party, self._endpoint, TicketPolicy(*kind, prf, flags, tp_data))

    def make_ticket(
        self,
        responders: Iterable[str],
        *,
        mode: int = 3,
        lifetime: int = 3600,
        flags: Flags | None = None,
        keys: Iterable[KeyData] | None = None,
        suite: int | None = None,
        applications: Iterable[str] = (),
    ) -> GrantedTicket:
        """A ticket that the subscriber makes itself, with a TPK of its enrolment file (RFC 6043 4.1.1, docs/modes.md).

        In mode 3 the KMS opens it for the `responders`; in mode 4 the only responder does, which shares the TPK and
        must accept tickets without the flags I and E. `lifetime` is in seconds; the KMS opens none that is valid longer
        than it would grant. `flags` are MODE_3_FLAGS or MODE_4_FLAGS by default. `keys` are the session keys wanted,
        their bytes ignored; None is one TGK. `suite` is 256 or 128. `applications` are IDRapp. Raises ProtocolError if
        there is no such TPK, or the policy is not allowed; ValueError for another mode.
        """
        return make_ticket(
            self._party,
            responders,
            mode=mode,
            lifetime=lifetime,
            flags=flags,
            keys=keys,
            suite=suite,
            applications=applications,
        )

    def offer(
        self,
        ticket: GrantedTicket,
        to: str,
        streams: Sequence[Stream] = (Stream(),),
        *,
        keys: Iterable[KeyData] = (),
        group: bool = False,
        protocols: Iterable[str] = (MIKEY,),
    ) -> "Offer":
        """A call with a ticket to one of its responders: the message for the INVITE.

        `streams` are the SRTP streams to be keyed. `keys` are session keys of the caller (a ticket with the L flag).
        With `group`, `to` names a group: whoever of it answers is accepted, and the session's `peer` says who.
        `protocols` are the key management protocols of all key-mgmt lines of the SDP offer, in order (RFC 4567 4.1.4).
        """
        sessions, policies = encode(streams)
        transfer = OutgoingTransfer(
            self._party,
            ticket,
            to.encode(),
            sessions,
            policies,
            keys=keys,
            acceptance=self._acceptance,
            extensions=[sdp_ids(protocols)],
        )
        return Offer(transfer, to, group=group)

    # -- being called --------------------------------------------------------------------------------------------------

    def receive(self, offer: bytes | str) -> "IncomingCall":
        """Verify a call: MIKEY bytes, or SDP text with one key-mgmt line. The caller's identity is proven then."""
        return IncomingCall(self._receiver.receive(message_of(offer)))

    def receive_all(self, offer: str) -> "dict[Level, IncomingCall]":
        """Verify an SDP offer with a MIKEY message at several levels: the session (None), media by position from 0.

        If one is refused, so is the whole offer (RFC 4567 4.1.2). Each is answered at its level: see kms.mikey.sdp.
        """
        return {level: self.receive(raw) for level, raw in messages_of(offer).items()}

    def refusal(self, received: bytes, error: MikeyError) -> bytes | None:
        """The Error message (RFC 6043 5.4) for the sender of a message that `error` refused; None if there is none.

        If its SRTP policies were not acceptable, it names those that are. It is not authenticated.
        """
        message = refusal(self._party, received, error, self._acceptance)
        return None if message is None else message.raw

    def answer(self, offer: bytes | str) -> Answer:
        """Verify a call and answer it, whoever the caller is. See `receive` for deciding by the caller."""
        return self.receive(offer).answer()


class Offer:
    """A TRANSFER_INIT on its way: `message` or `sdp` goes into the INVITE, `complete` takes the answer."""

    def __init__(self, transfer: OutgoingTransfer, to: str, *, group: bool) -> None:
        self._transfer = transfer
        self._to = to
        self._group = group

    @property
    def message(self) -> bytes:
        """The TRANSFER_INIT."""
        return self._transfer.message.raw

    @property
    def sdp(self) -> str:
        """The SDP attribute line with the message."""
        return key_mgmt_line(self.message)

    @property
    def session(self) -> Session | None:
        """The established session: after `complete`, or at once for a ticket with F = 0. None before."""
        return self._transfer.session

    def complete(self, answer: bytes | str) -> Session:
        """Verify the TRANSFER_RESP (MIKEY bytes, or SDP text) and establish the session.

        Raises AuthenticationError if it does not come from whom the KMS gave the keys, ReceivedError for an Error
        message, ProtocolError if somebody else than the one who was called answered.
        """
        expected = None if self._group else self._to.encode()
        return self._transfer.complete(message_of(answer), expected=expected)


class IncomingCall:
    """A verified call. `caller` is the identity that the KMS vouches for."""

    def __init__(self, transfer: IncomingTransfer) -> None:
        self._transfer = transfer

    @property
    def caller(self) -> str:
        """Who calls: IDRi of the Ticket Policy, verified."""
        return self._transfer.caller

    def answer(self, *, keys: Iterable[KeyData] = ()) -> Answer:
        """Accept the proposed streams, each with its first acceptable policy; streams without SSRC get one.

        `keys` are session keys of this side (a ticket with the M flag); by default those in the ticket are used.
        """
        established = self._transfer.session is not None  # F = 0: nothing to send
        return Answer.of(self._transfer, None if established else self._transfer.answer(keys=keys))

    def refuse(self, error_no: ErrorNo = ErrorNo.UNSPECIFIED) -> bytes:
        """An Error message (RFC 6043 5.4) to send instead of an answer."""
        return self._transfer.refuse(error_no).raw
