"""The conference focus: group keys from the KMS, verified callers, answers with group keys."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType

from kms.crypto.sources import Sources
from kms.focus.endpoint import FocusEndpoint
from kms.focus.group_keys import GROUP_KEY_FLAGS, GROUP_KEY_TYPES, GroupKeys
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ProtocolError
from kms.mikey.payloads import Flags, GenericIdSession, KeyData, SrtpSessionData, TicketPolicy, with_spi
from kms.mikey.registry import ErrorNo, KeyType
from kms.mikey.sdp import Level
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, SrtpPolicy
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.acceptance import Acceptance
from kms.party.credential import Credential
from kms.party.memory import InMemoryReplayCache, ReplayCache
from kms.party.party import RAND_LENGTH, Party
from kms.party.refusing import refusal
from kms.party.requesting import GrantedTicket
from kms.party.responder import IncomingTransfer
from kms.sdk.calls import Answer, Receiver, make_ticket, request_ticket
from kms.sdk.endpoint import BatchEndpoint
from kms.sdk.errors import KmsError
from kms.sdk.streams import message_of, messages_of


class Focus:
    """A conference focus. Its methods may be called from several threads; each IncomingCall belongs to one.

    Raises, besides what each method says: kms.sdk.errors.KmsError when the KMS did not give what it was asked for
    (Refused, Unavailable, KmsFault), and kms.mikey.errors.MikeyError when a message or its content is refused here.
    """

    def __init__(
        self,
        credential: Credential,
        *,
        endpoint: BatchEndpoint | None = None,
        sources: Sources | None = None,
        acceptance: Acceptance | None = None,
        replay: ReplayCache | None = None,
    ) -> None:
        """`acceptance` says what is accepted from callers, and by which other names the focus is called: conference
        and factory URIs are aliases of it. `replay` may be shared by the processes of a focus. `endpoint` replaces the
        connection to `credential.target`.
        """
        self._party = Party.of(credential, sources)
        self._endpoint: BatchEndpoint = endpoint or FocusEndpoint(credential)
        self._acceptance = acceptance or Acceptance()
        cache = replay or InMemoryReplayCache(self._party.sources.now)
        self._receiver = Receiver(self._party, self._endpoint, self._acceptance, cache)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Focus":
        """The focus of an enrolment file. Raises CredentialError."""
        return cls(Credential.load(path))

    @property
    def identity(self) -> str:
        """The focus's URI."""
        return self._party.identity.decode()

    def close(self) -> None:
        """Close the connection to the KMS. An endpoint that was handed in stays open."""
        if isinstance(self._endpoint, FocusEndpoint):
            self._endpoint.close()

    def __enter__(self) -> "Focus":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- group keys ----------------------------------------------------------------------------------------------------

    def group_keys(
        self,
        media: Sequence[str] = ("audio",),
        *,
        members: Sequence[str] = (),
        kind: KeyType = KeyType.TEK_SALT,
        policy: SrtpPolicy = AES_CM_128_HMAC_SHA1_80,
        lifetime: int = 3600,
    ) -> GroupKeys:
        """New group keys from the KMS, one for each medium, by a group-key ticket (kms.focus.group_keys says why so).

        `members` are URIs the focus will call with the ticket itself; without, the ticket is for the focus alone.
        `kind` is TEK_SALT or GTGK_SALT. `lifetime` of the ticket is in seconds. Raises ValueError for other kinds and
        for doubled media.
        """
        if kind not in GROUP_KEY_TYPES:
            raise ValueError(f"a group key is a TEK_SALT or a GTGK_SALT, not a {kind.name}")
        if not media or len(set(media)) != len(media):
            raise ValueError("media must be one or more different names")
        party = self._party
        wanted = [
            with_spi(kind, bytes(policy.encr_key_len), bytes(policy.salt_key_len), party.new_spi())
            for _ in media
        ]
        tp_data = rules.tp_data(
            kms=party.kms_identity,
            initiator=party.identity,
            responders=[member.encode() for member in members] or [party.identity],
            end=int(party.sources.now()) + lifetime,
            keys=wanted,
        )
        flags = GROUP_KEY_FLAGS | Flags.J if members else GROUP_KEY_FLAGS
        desired = TicketPolicy(*DERIVED_TICKET, party.keys[0].suite.prf, flags, tp_data)
        granted = request_ticket(party, self._endpoint, desired)
        randr_r = party.sources.random(RAND_LENGTH, "RANDRr") if kind == KeyType.GTGK_SALT else None
        return GroupKeys(tuple(media), granted.session_keys, policy, granted, randr_r)

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
        """A ticket that the focus makes itself, with a TPK of its enrolment file (RFC 6043 4.1.1, docs/modes.md).

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

    # -- callers -------------------------------------------------------------------------------------------------------

    def receive(self, offer: bytes | str) -> "IncomingCall":
        """Verify a call: MIKEY bytes, or SDP text with one key-mgmt line.

        Refuses early what needs no KMS, has the KMS resolve the ticket, and verifies V and Vi = V. Whoever comes back
        in `caller` is who the KMS granted the ticket to, and sent this very message.
        """
        return IncomingCall(self._party, self._receiver.receive(message_of(offer)))

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

    def receive_batch(self, offers: Sequence[bytes | str]) -> "list[IncomingCall | KmsError | MikeyError]":
        """As `receive` for many calls at once; each that is refused has the exception in its place."""
        results: list[IncomingCall | KmsError | MikeyError] = []
        raws: list[bytes] = []
        places: list[int] = []
        for place, offer in enumerate(offers):
            try:
                raws.append(message_of(offer))
                places.append(place)
                results.append(KmsError("not received"))
            except MikeyError as error:
                results.append(error)
        for place, received in zip(places, self._receiver.receive_batch(raws, self._endpoint), strict=True):
            if isinstance(received, IncomingTransfer):
                results[place] = IncomingCall(self._party, received)
            else:
                results[place] = received
        return results


class IncomingCall:
    """A verified call to the focus."""

    def __init__(self, party: Party, transfer: IncomingTransfer) -> None:
        self._party = party
        self._transfer = transfer

    @property
    def caller(self) -> str:
        """Who calls: IDRi of the Ticket Policy, verified."""
        return self._transfer.caller

    @property
    def streams(self) -> tuple[GenericIdSession, ...]:
        """The proposed crypto sessions, by CS ID."""
        return self._transfer.offered

    def answer(self, group: GroupKeys, media: Sequence[str] | None = None) -> Answer:
        """Accept the call with the group's keys, in the KEMAC of TRANSFER_RESP.

        `media` names the medium of each proposed crypto session, in order; by default the group's media in their order,
        or its only one for all. An SSRC that another stream under the group's keys has is replaced. Raises
        ProtocolError if the caller's ticket does not let the focus supply keys, or does not suit a GTGK.
        """
        flags, offered = self._transfer.ticket.policy.flags, self._transfer.offered
        chosen = self._media(group, media, len(offered))
        if not flags & Flags.M or not flags & Flags.F:
            raise ProtocolError(
                "the caller's ticket does not let the focus supply keys (M flag)", ErrorNo.INVALID_TPPAR
            )
        if group.randr_r is not None and (flags & Flags.H or not flags & Flags.G):
            raise ProtocolError("a GTGK needs tickets with H = 0 and G = 1", ErrorNo.INVALID_TPPAR)
        numbers = {number for session in offered for number in session.policies}
        spare = next((number for number in range(256) if number not in numbers), None)
        allocated: list[int] = []
        try:
            sessions = [
                self._session(group, medium, session, spare, allocated)
                for session, medium in zip(offered, chosen, strict=True)
            ]
            needed = spare is not None and any(spare in s.policies for s in sessions)
            added = [group.policy.sp(spare)] if spare is not None and needed else []
            keys = [group.key(medium) for medium in dict.fromkeys(chosen)]
            message = self._transfer.answer(sessions, keys, policies=added, randr_r=group.randr_r)
        except MikeyError:
            group.release_ssrcs(*allocated)
            raise
        return Answer.of(self._transfer, message)

    def refuse(self, error_no: ErrorNo = ErrorNo.UNSPECIFIED) -> bytes:
        """An Error message (RFC 6043 5.4) to send instead of an answer."""
        return self._transfer.refuse(error_no).raw

    # -- inside --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _media(group: GroupKeys, media: Sequence[str] | None, count: int) -> Sequence[str]:
        if media is None:
            media = group.media * count if len(group.media) == 1 else group.media
        if len(media) != count:
            raise ProtocolError(f"{count} streams are proposed for {len(media)} media", ErrorNo.INVALID_SPPAR)
        return media

    def _session(
        self,
        group: GroupKeys,
        medium: str,
        session: GenericIdSession,
        spare: int | None,
        allocated: list[int],
    ) -> GenericIdSession:
        """The answer to one proposed crypto session: the group's key and SRTP policy, and an SSRC of its own."""
        fixed = group.cs_id(medium)
        if fixed is not None and session.cs_id != fixed:
            raise ProtocolError(
                f"CS {session.cs_id}: {medium} must be CS {fixed} for a GTGK", ErrorNo.INVALID_SPPAR
            )
        number = next((n for n in session.policies if self._transfer.policy(n) == group.policy), spare)
        if number is None:
            raise ProtocolError(
                "the offer uses every policy number: none is left for the group's SRTP policy",
                ErrorNo.INVALID_SPPAR,
            )
        proposed = SrtpSessionData.of(session) if session.session_data else None
        ssrc = group.allocate_ssrc(proposed.ssrc if proposed else None, self._party.new_ssrc)
        allocated.append(ssrc)
        session = replace(session, policies=(number,), spi=group.key(medium).spi)
        if proposed and proposed.ssrc == ssrc:
            return session
        return replace(session, session_data=SrtpSessionData(ssrc).body(), s=False)
