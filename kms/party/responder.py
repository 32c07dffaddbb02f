"""Ticket Transfer and Ticket Resolve (RFC 6043 4.2.2, 4.2.3), the Responder's side.

The order is the RFC's: TRANSFER_INIT in and judged by what can be seen (early reject), the ticket resolved by the KMS,
from a TPK or from an earlier resolution, then TRANSFER_INIT verified, then TRANSFER_RESP out.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from kms.crypto import base_ticket
from kms.crypto.interface import Key, Use
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import suite_of
from kms.mikey import error_message
from kms.mikey import policy as rules
from kms.mikey.errors import AuthenticationError, MikeyError, ProtocolError
from kms.mikey.exchange import RECEIVE, SEND, Progress, Role, State, check_message
from kms.mikey.labels import INITIAL, RESPONSE, ProtectionKey
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Flags,
    GenericIdSession,
    Hdr,
    Idr,
    InitiatorData,
    Kemac,
    KeyData,
    Payload,
    Randr,
    Sp,
    T,
    Ticket,
)
from kms.mikey.registry import DataType, ErrorNo, IdRole, IdType, MapType, PrfFunc, RandRole, TicketType
from kms.mikey.srtp import SrtpPolicy
from kms.mikey.ticket_data import BASE_TICKET, TicketData
from kms.party import asking
from kms.party.acceptance import Acceptance
from kms.party.asking import Asked
from kms.party.bundle import Bundle, check_supplied, open_keys
from kms.party.party import Party
from kms.party.receiving import load_prf_key, open_kemac, receive_response, split_mpks
from kms.party.session import Session, Static


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is in a ticket: MPKi, MPKr' with key forking, the session keys, and the modifier to send on."""

    mpki: Key
    mpkr: Key | None
    session_keys: tuple[KeyData, ...] = field(repr=False)
    identity_r: bytes | None = None
    randr_kms: bytes = b""


class IncomingTransfer:
    """One received TRANSFER_INIT, from early reject to the established session.

    Call, in this order: `resolve_init` and `resolved` (or `resolve_locally`, or `reuse`), then `answer`. With F = 0 no
    answer is sent and `session` is there after the ticket is resolved. `identity` is the name it is resolved by.
    """

    def __init__(self, party: Party, raw: bytes, acceptance: Acceptance | None = None) -> None:
        """Decode and judge a TRANSFER_INIT by the information at hand (4.2.2.2): nothing in it is proven yet.

        Raises DecodeError or ProtocolError; then the KMS need not be asked.
        """
        self._party = party
        self._acceptance = acceptance or Acceptance()
        self._progress = Progress(Role.RESPONDER)
        self.message = Message.decode(raw)
        self._progress.check(RECEIVE, self.message.hdr.data_type)
        check_message(self.message, DataType.TRANSFER_INIT)
        self.ticket = self.message.get(Ticket)
        self._flags = self.ticket.policy.flags
        self._names = {party.identity, *self._acceptance.aliases, *self._acceptance.groups}
        self._suite = suite_of(self.message.hdr.prf)
        self._check_ticket()
        self._check_addressing()
        self._offered = Bundle().extended(self.message)
        self._offered.check_choice(self._acceptance)
        self._asked: Asked | None = None
        self._resolution: Resolution | None = None
        self._keys: tuple[KeyData, ...] = ()
        self.session: Session | None = None
        self._progress.move(RECEIVE, DataType.TRANSFER_INIT)

    # -- early reject --------------------------------------------------------------------------------------------------

    def _check_ticket(self) -> None:
        ticket, now = self.ticket, self._party.sources.now()
        rules.check_granted(ticket.policy)
        rules.check_initiator_data(ticket.policy, ticket.initiator_data)
        rules.check_valid_at(ticket.policy, now)
        self._acceptance.check_flags(self._flags)
        self._acceptance.check_application(ticket.policy)
        self._acceptance.check_fresh(self.message.get(T), now)
        if not self._flags & Flags.O:
            raise ProtocolError(
                "the ticket needs processing beyond RFC 6043 (O flag)", ErrorNo.INVALID_TICKET
            )
        if ticket.policy.prf != self.message.hdr.prf:
            raise ProtocolError(
                "TRANSFER_INIT and its ticket are of different suites (12.1)", ErrorNo.INVALID_PRF
            )
        if self.message.find(Kemac) and not self._flags & Flags.L:
            raise ProtocolError("TRANSFER_INIT: KEMAC although the L flag forbids it", ErrorNo.INVALID_TPPAR)
        if self._flags & Flags.I:
            # 4.2.3.6 asks for this after the resolution; the bytes are the same now, and the KMS is spared.
            vi = InitiatorData.decode(ticket.initiator_data).vi
            if vi != self.message.v:
                raise AuthenticationError("V of TRANSFER_INIT is not identical to Vi in Initiator Data")
        if not self._names.intersection(rules.responders(ticket.policy)):
            raise ProtocolError("the ticket is for other responders", ErrorNo.INVALID_ID)

    def _check_addressing(self) -> None:
        """Identity_i and Identity_r that the MAC covers (A-04), both known before the ticket is resolved."""
        message, own = self.message, self._party.identity
        self._called = message.idr(IdRole.RESPONDER) or own
        if self._called not in self._names:
            raise ProtocolError("TRANSFER_INIT is addressed to somebody else (IDRr)", ErrorNo.INVALID_ID)
        self.identity = self._called if self._called in self._acceptance.aliases else own
        requester = rules.identity(self.ticket.policy, IdRole.INITIATOR)
        sender = message.idr(IdRole.INITIATOR) or requester
        if sender is None:
            raise ProtocolError(
                "neither TRANSFER_INIT nor its ticket names the Initiator (IDRi)", ErrorNo.INVALID_ID
            )
        if self._acceptance.same_initiator and sender != requester:
            raise ProtocolError("IDRi is not the one the ticket was granted to", ErrorNo.INVALID_ID)
        self._sender, self._requester = sender, requester

    # -- resolving the ticket ------------------------------------------------------------------------------------------

    @property
    def digest(self) -> bytes:
        """What a replay cache keeps: SHA-256 over all that V covers, and V."""
        return hashlib.sha256(self.message.coverage(self.message.v.mac)).digest()

    def resolve_init(self) -> Message:
        """A RESOLVE_INIT for the KMS. May be called again if no answer came: each is a new message."""
        self._progress.check(SEND, DataType.RESOLVE_INIT_PSK)
        party = self._party
        asked = asking.resolve(party, party.key_for(self.ticket.policy.prf), self.identity, self.ticket)
        self._progress.move(SEND, asked.message.hdr.data_type)
        self._asked = asked
        return asked.message

    def resolved(self, raw: bytes) -> Resolution:
        """Verify the RESOLVE_RESP, open it, and verify the TRANSFER_INIT with it (4.2.3.6).

        Raises ReceivedError for an Error message of the KMS, AuthenticationError, ProtocolError or DecodeError.
        """
        asked = self._asked
        if asked is None:
            raise ProtocolError("no RESOLVE_INIT was sent", ErrorNo.INVALID_DT)
        message = receive_response(raw, asked.message, DataType.RESOLVE_RESP, self._progress, asked.initial)
        asked.response.verify(message, asked.message.raw)
        keys = open_kemac(message, asked.response)
        mpks, session_keys = split_mpks(keys, self.ticket.policy)
        identity_r, randr_kms = message.idr(IdRole.RESPONDER), message.rand(RandRole.KMS)
        if self._flags & Flags.I and (identity_r is None or not randr_kms):
            raise ProtocolError("RESOLVE_RESP: IDRr and RANDRkms are mandatory with key forking (I flag)")
        self._progress.move(RECEIVE, DataType.RESOLVE_RESP)
        loaded = [load_prf_key(self._party.ops, mpk) for mpk in mpks]
        mpkr = loaded[1] if len(loaded) > 1 else None
        return self._verify(Resolution(loaded[0], mpkr, session_keys, identity_r, randr_kms))

    def resolve_locally(
        self, tpk: bytes, tpk_id: bytes | None = None, *, initiator: bytes | None = None
    ) -> Resolution:
        """Open a MIKEY base ticket with a TPK that this party shares, and verify the TRANSFER_INIT.

        In mode 2 the TPK is shared with the KMS, which made the ticket for this party alone. In mode 4 it is shared
        with `initiator`, which made the ticket itself. `tpk_id` is the IDRpsk that the ticket must name. Only for
        tickets with E = 0, hence without key forking. Raises AuthenticationError, ProtocolError or DecodeError.
        """
        self._progress.check(SEND, DataType.RESOLVE_INIT_PSK)
        policy = self.ticket.policy
        if policy.flags & Flags.E:
            raise ProtocolError("the ticket must be resolved by the KMS (E flag)", ErrorNo.INVALID_TPPAR)
        if (policy.ticket_type, policy.subtype, policy.version) != BASE_TICKET:
            raise ProtocolError(
                f"only a {TicketType.MIKEY_BASE.name} ticket can be resolved locally", ErrorNo.INVALID_TICKET
            )
        if rules.responders(policy) != (self._party.identity,):
            raise ProtocolError(
                "the ticket is not for this Responder alone, as its TPK is", ErrorNo.INVALID_ID
            )
        if bool(policy.flags & Flags.D) != (initiator is None):
            maker = "the KMS" if initiator is None else "the Initiator"
            raise ProtocolError(f"only {maker} makes tickets with this TPK (D flag)", ErrorNo.INVALID_TPPAR)
        if initiator is not None and self._requester != initiator:
            raise ProtocolError(
                "IDRi of the Ticket Policy does not share the ticket's TPK", ErrorNo.INVALID_ID
            )
        data = TicketData.decode(self.ticket.ticket_data)
        if tpk_id is not None and data.psk_id != tpk_id:
            raise ProtocolError("the ticket is protected by another TPK", ErrorNo.INVALID_TICKET)
        ops, prf = self._party.ops, suite_of(policy.prf).prf
        opened = base_ticket.open_ticket(ops, ops.load(tpk, Use.PRF), self.ticket, data)
        split_mpks((opened.mpk, *opened.session_keys), policy)
        mpk = load_prf_key(ops, opened.mpk)
        mpki = base_ticket.protection_key(ops, mpk, prf, ProtectionKey.MPKI, opened.rand, mpk.length)
        self._progress.settle(State.RESOLVED)
        return self._verify(Resolution(ops.load(mpki, Use.PRF), None, opened.session_keys))

    def reuse(self, resolution: Resolution) -> None:
        """Use an earlier resolution of the same ticket (5.3): see `ResolutionCache`. Verifies the TRANSFER_INIT."""
        self._progress.check(SEND, DataType.RESOLVE_INIT_PSK)
        self._progress.settle(State.RESOLVED)
        self._verify(resolution)

    def _verify(self, resolution: Resolution) -> Resolution:
        """Verify V with MPKi and open what the Initiator supplied. A TRANSFER_INIT that fails is at its end."""
        try:
            prf, csb_id = self._suite.prf, self.message.hdr.csb_id
            randr_i = self.message.rand(RandRole.INITIATOR)
            protection = MessageProtection(
                self._party.ops, resolution.mpki, prf, csb_id, INITIAL, randr_i=randr_i
            )
            protection.verify(self.message, self._sender, self._called)
            self._initial = protection
            supplied = open_keys(self.message, protection, allowed=bool(self._flags & Flags.L))
            self._keys = (*resolution.session_keys, *supplied)
            self._offered = self._offered.extended(self.message, self._keys)
            if not self._flags & Flags.F:
                self.session = self._establish(resolution, self._offered, protection, None)
        except MikeyError:
            self._progress.settle(State.REFUSED)
            raise
        self._resolution = resolution
        if not self._flags & Flags.F:
            self._progress.settle(State.ESTABLISHED)
        return resolution

    @property
    def caller(self) -> str:
        """Who sent the TRANSFER_INIT: IDRi of the Ticket Policy, verified.

        The KMS vouches for the policy and, with key forking, that its requester sent this very message (Vr). Raises
        ProtocolError before the ticket was resolved, and if the ticket names no Initiator.
        """
        if self._resolution is None:
            raise ProtocolError("the caller is not known before the ticket is resolved")
        if self._requester is None:
            raise ProtocolError("the ticket names no Initiator (IDRi)", ErrorNo.INVALID_ID)
        return self._requester.decode(errors="replace")

    @property
    def offered(self) -> tuple[GenericIdSession, ...]:
        """The proposed crypto sessions, by CS ID."""
        return tuple(session for _, session in sorted(self._offered.sessions.items()))

    def policy(self, number: int) -> SrtpPolicy:
        """The SRTP policy of a number that the proposed crypto sessions name."""
        return self._offered.policies[number]

    @property
    def session_keys(self) -> tuple[KeyData, ...]:
        """The session keys so far: from the ticket (forked) and from the Initiator. Empty before it was resolved."""
        return self._keys

    # -- answering -----------------------------------------------------------------------------------------------------

    def answer(
        self,
        sessions: Iterable[GenericIdSession] = (),
        keys: Iterable[KeyData] = (),
        *,
        policies: Iterable[Sp] = (),
        randr_r: bytes | None = None,
    ) -> Message:
        """The TRANSFER_RESP; afterwards `session` is established.

        `sessions` replace or add to the proposed ones; all others are confirmed with their first acceptable policy,
        and an SSRC and SPI where the Initiator left them out. `keys` are session keys of the Responder (M flag).
        `randr_r` fixes RANDRr, for a GTGK whose members must all derive the same TEK (A-38); by default it is fresh.
        """
        self._progress.check(SEND, DataType.TRANSFER_RESP)
        assert self._resolution is not None
        party, suite, resolution, supplied = self._party, self._suite, self._resolution, tuple(keys)
        if supplied and not self._flags & Flags.M:
            raise ProtocolError(
                "the ticket forbids the Responder to supply keys (M flag)", ErrorNo.INVALID_TPPAR
            )
        check_supplied(supplied, suite.prf)
        t = party.sources.timestamp()
        payloads: list[Payload] = [t]
        if self._flags & Flags.G:
            fixed = None if randr_r is None else Randr(RandRole.RESPONDER, randr_r)
            payloads.append(fixed or party.new_randr(RandRole.RESPONDER))
        payloads.append(Idr(IdRole.RESPONDER, IdType.URI, resolution.identity_r or self.identity))
        if resolution.randr_kms:
            payloads.append(Randr(RandRole.KMS, resolution.randr_kms))
        offered = Bundle(self._offered.sessions, self._offered.policies, (*self._keys, *supplied))
        proposed = {**offered.sessions, **{s.cs_id: s for s in sessions}}
        own = list(policies)
        proposed, offered, added = offered.profiled(proposed, self._acceptance, [sp.policy_no for sp in own])
        confirmed = [
            offered.confirmed(s, self._acceptance, party.new_ssrc) for _, s in sorted(proposed.items())
        ]
        protection = MessageProtection(
            party.ops,
            resolution.mpkr or resolution.mpki,
            suite.prf,
            self.message.hdr.csb_id,
            RESPONSE,
            randr_i=self.message.rand(RandRole.INITIATOR),
            randr_r=next(
                (p.rand for p in payloads if isinstance(p, Randr) and p.role == RandRole.RESPONDER), b""
            ),
        )
        payloads += own + added
        if supplied:
            payloads.append(protection.seal(supplied, suite.encr_alg, t))
        payloads.append(unsigned_v(suite.mac_alg))
        hdr = Hdr(
            DataType.TRANSFER_RESP,
            self.message.hdr.csb_id,
            suite.prf,
            map_type=MapType.GENERIC_ID,
            sessions=tuple(confirmed),
        )
        message = protection.sign(Message.build(hdr, payloads), self.message.raw)
        self.session = self._establish(resolution, offered.extended(message), protection, message)
        self._progress.move(SEND, DataType.TRANSFER_RESP)
        return message

    def refuse(self, error_no: ErrorNo, policies: Iterable[Sp] = ()) -> Message:
        """An Error message (5.4), authenticated if the TRANSFER_INIT was. `policies` are the supported ones."""
        verified = self._resolution is not None
        self._progress.check(SEND, DataType.ERROR)
        alg = self._suite.mac_alg if verified else None
        t = self._party.sources.timestamp()
        message = error_message.build(self.message.hdr, [error_no], t, policies=policies, auth_alg=alg)
        if verified:
            message = self._initial.sign(message)
        self._progress.move(SEND, DataType.ERROR)
        return message

    def _establish(
        self, resolution: Resolution, bundle: Bundle, protection: MessageProtection, sent: Message | None
    ) -> Session:
        static = Static(
            Role.RESPONDER,
            PrfFunc(self._suite.prf),
            self.message.hdr.csb_id,
            self.ticket,
            self._sender,
            (resolution.identity_r or self.identity) if sent else self._called,
            protection,
            self.message.rand(RandRole.INITIATOR),
            sent.rand(RandRole.RESPONDER) if sent else b"",
            resolution.randr_kms,
        )
        used = [self.message.get(T), *([sent.get(T)] if sent else [])]
        return Session(self._party, static, bundle, self._acceptance, used, self._progress)
