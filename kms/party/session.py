"""An established crypto session bundle: who is at its ends, its keys, and its updates (RFC 6043 5.2)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kms.crypto.protection import MessageProtection
from kms.crypto.suite import suite_of
from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.exchange import RECEIVE, SEND, Progress, Role, State, check_message
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Flags,
    GeneralExtension,
    GenericIdSession,
    Hdr,
    Idr,
    KeyData,
    Payload,
    Randr,
    Sp,
    T,
    Ticket,
)
from kms.mikey.registry import DataType, ErrorNo, IdRole, IdType, KeyType, MapType, PrfFunc, RandRole, TsType
from kms.party.acceptance import Acceptance
from kms.party.bundle import Bundle, check_answered, check_supplied, open_keys
from kms.party.media import SrtpKeys, derive
from kms.party.party import Party
from kms.party.receiving import receive_response

_MASTERS = (KeyType.TGK, KeyType.TGK_SALT, KeyType.GTGK, KeyType.GTGK_SALT)


@dataclass(frozen=True, slots=True)
class Static:
    """What never changes in a bundle. Identities are ID Data; a RAND that was not sent is empty.

    `identity_r` is the identity that answered (IDRr of TRANSFER_RESP), not a group that was called. `protection` are
    the very keys that protected the last message of the initial exchange: updates use them both ways (A-39).
    """

    role: Role
    prf: PrfFunc
    csb_id: int
    ticket: Ticket
    identity_i: bytes
    identity_r: bytes
    protection: MessageProtection = field(repr=False)
    randr_i: bytes = b""
    randr_r: bytes = b""
    randr_kms: bytes = b""

    @property
    def flags(self) -> Flags:
        """The flags of the granted Ticket Policy."""
        return self.ticket.policy.flags


class Session:
    """One crypto session bundle, from one party's side. Not thread-safe."""

    def __init__(
        self,
        party: Party,
        static: Static,
        bundle: Bundle,
        acceptance: Acceptance,
        used: Iterable[T],
        progress: Progress,
    ) -> None:
        """Made by OutgoingTransfer and IncomingTransfer once their messages were verified.

        `used` are the timestamps of the initial exchange. Raises ProtocolError if `bundle` is not complete.
        """
        self._party = party
        self._static = static
        self._acceptance = acceptance
        self._used = set(used)
        self._updated = 0  # order of T of the other party's last update
        self._progress = progress
        self._sent: Message | None = None
        self._proposed: Bundle | None = None
        self._bundle, self._srtp = bundle, self._derive(bundle)

    # -- what was established --------------------------------------------------------------------------------------

    @property
    def static(self) -> Static:
        """Identities, RANDs, flags and ticket."""
        return self._static

    @property
    def peer(self) -> str:
        """The other party's identity. Proven only if `peer_authenticated`."""
        static = self._static
        return (static.identity_r if static.role is Role.INITIATOR else static.identity_i).decode(
            errors="replace"
        )

    @property
    def peer_authenticated(self) -> bool:
        """Whether `peer` is proven: by Vr and MPKr' (I flag), and for the Initiator by a TRANSFER_RESP (F flag).

        Without key forking the peer is anybody who may resolve the ticket, or the one who requested it.
        """
        needed = Flags.I | Flags.F if self._static.role is Role.INITIATOR else Flags.I
        return self._static.flags & needed == needed

    @property
    def keys(self) -> tuple[KeyData, ...]:
        """All session keys of the bundle: from the ticket (TGKs forked), from Transfer, from updates."""
        return self._bundle.keys

    @property
    def rekeying_interval(self) -> int | None:
        """TRr: the most seconds between two rekeyings that the ticket allows (6.10), None for any.

        Keeping to it is the application's part: by a CSB update that brings new keys, or by a new ticket.
        """
        return rules.rekeying_interval(self._static.ticket.policy)

    @property
    def sessions(self) -> tuple[GenericIdSession, ...]:
        """The crypto sessions, by CS ID."""
        return tuple(session for _, session in sorted(self._bundle.sessions.items()))

    @property
    def srtp(self) -> tuple[SrtpKeys, ...]:
        """Keys for SRTP, one entry for each crypto session, by CS ID."""
        return self._srtp

    # -- CSB update ------------------------------------------------------------------------------------------------

    def start_update(
        self,
        sessions: Iterable[GenericIdSession] = (),
        keys: Iterable[KeyData] = (),
        *,
        policies: Iterable[Sp] = (),
        response: bool = True,
        extensions: Iterable[GeneralExtension] = (),
    ) -> Message:
        """A TRANSFER_INIT that adds or changes crypto sessions and brings new keys.

        `sessions` are those that change; without `response` (V flag 0) they must be complete and apply at once.
        `extensions` go into the message, such as SDP IDs if it goes into a new SDP offer.
        Raises ProtocolError if the ticket forbids this party to supply keys (L or M flag).
        """
        self._progress.check(SEND, DataType.TRANSFER_INIT)
        message = self._build(
            DataType.TRANSFER_INIT, sessions, keys, policies, v=response, extensions=extensions
        )
        static = self._static
        message = static.protection.sign(message, static.identity_i, static.identity_r)
        proposed = self._bundle.extended(message, keys)
        if not response:
            self._apply(proposed)
        self._used.add(message.get(T))
        if response:
            self._progress.move(SEND, DataType.TRANSFER_INIT)
            self._sent, self._proposed = message, proposed
        return message

    def answer_update(
        self,
        raw: bytes,
        sessions: Iterable[GenericIdSession] = (),
        keys: Iterable[KeyData] = (),
        *,
        policies: Iterable[Sp] = (),
    ) -> Message | None:
        """Verify and apply the other party's TRANSFER_INIT; the TRANSFER_RESP, or None if none is asked for.

        `sessions` replace or add to what the other party proposed; all others are confirmed with their first
        acceptable policy. Nothing changes if anything is refused: MikeyError says what.
        """
        message = Message.decode(raw)
        self._progress.check(RECEIVE, message.hdr.data_type)
        check_message(message, DataType.TRANSFER_INIT, update=True)
        static = self._static
        self._check_update(message)
        static.protection.verify(message, static.identity_i, static.identity_r)
        received = open_keys(message, static.protection, allowed=self._may_supply(_other(static.role)))
        bundle = self._bundle.extended(message, received)
        if not message.hdr.v:
            self._apply(bundle)
            self._note(message)
            return None
        bundle.check_choice(self._acceptance)
        chosen = {**bundle.sessions, **{s.cs_id: s for s in sessions}}
        own = list(policies)
        chosen, bundle, added = bundle.profiled(chosen, self._acceptance, [sp.policy_no for sp in own])
        new_ssrc = self._party.new_ssrc
        confirmed = [bundle.confirmed(s, self._acceptance, new_ssrc) for _, s in sorted(chosen.items())]
        answer = self._build(DataType.TRANSFER_RESP, confirmed, keys, own + added)
        answer = static.protection.sign(answer, message.raw)
        bundle = bundle.extended(answer, keys)
        self._apply(bundle)
        self._note(message)
        self._used.add(answer.get(T))
        self._progress.move(RECEIVE, DataType.TRANSFER_INIT)
        self._progress.move(SEND, DataType.TRANSFER_RESP)
        return answer

    def complete_update(self, raw: bytes) -> None:
        """Verify and apply the TRANSFER_RESP to `start_update`. Nothing changes if it is refused (MikeyError)."""
        static = self._static
        if self._sent is None or self._proposed is None:
            raise ProtocolError("no update was started", ErrorNo.INVALID_DT)
        protection = static.protection
        message = receive_response(
            raw, self._sent, DataType.TRANSFER_RESP, self._progress, protection, update=True
        )
        self._check_update(message)
        protection.verify(message, self._sent.raw)
        received = open_keys(message, protection, allowed=self._may_supply(_other(static.role)))
        check_answered(self._sent, message)
        bundle = self._proposed.extended(message, received)
        self._apply(bundle)
        self._note(message)
        self._progress.move(RECEIVE, DataType.TRANSFER_RESP)
        self._sent = self._proposed = None

    def give_up_update(self) -> None:
        """Forget an update that nobody answered, so that another may start. The old keys stay."""
        if self._progress.state is State.UPDATING:
            self._progress.settle(State.ESTABLISHED)
        self._sent = self._proposed = None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _build(
        self,
        data_type: DataType,
        sessions: Iterable[GenericIdSession],
        keys: Iterable[KeyData],
        policies: Iterable[Sp],
        *,
        v: bool = False,
        extensions: Iterable[GeneralExtension] = (),
    ) -> Message:
        """An update message without its MAC.

        Both directions share encr_key and salt_key, so a T used twice would encrypt two KEMACs alike (A-01): each role
        has a lane of its own.
        """
        static, supplied = self._static, tuple(keys)
        if supplied and not self._may_supply(static.role):
            raise ProtocolError(
                "the ticket forbids this party to supply keys (L or M flag)", ErrorNo.INVALID_TPPAR
            )
        check_supplied(supplied, static.prf)
        lane = 0 if static.role is Role.INITIATOR else 1
        t = self._party.sources.timestamp_in_lane(lane)
        while t in self._used:
            t = self._party.sources.timestamp_in_lane(lane)
        own, other = (IdRole.INITIATOR, static.identity_i), (IdRole.RESPONDER, static.identity_r)
        if static.role is Role.RESPONDER:
            own, other = other, own
        payloads: list[Payload] = [t, Idr(own[0], IdType.URI, own[1])]
        if data_type == DataType.TRANSFER_INIT:
            payloads.append(Idr(other[0], IdType.URI, other[1]))
        payloads += policies
        suite = suite_of(static.prf)
        if supplied:
            payloads.append(static.protection.seal(supplied, suite.encr_alg, t))
        payloads += (*extensions, unsigned_v(suite.mac_alg))
        hdr = Hdr(data_type, static.csb_id, static.prf, v, MapType.GENERIC_ID, tuple(sessions))
        return Message.build(hdr, payloads)

    def _check_update(self, message: Message) -> None:
        """What an update may not change (5.2): CSB ID, PRF, RANDs, TICKET, identities; and T must be new.

        It must also be later than T of the other party's last update: one that was held back must not undo it.
        """
        static, t = self._static, message.get(T)
        if (message.hdr.csb_id, message.hdr.prf) != (static.csb_id, static.prf):
            raise ProtocolError(f"{message.name}: not of this crypto session bundle")
        if t in self._used:
            raise ProtocolError(
                f"{message.name}: its timestamp was already used in this bundle", ErrorNo.INVALID_TS
            )
        self._acceptance.check_fresh(t, self._party.sources.now())
        if _order(t) < self._updated:
            raise ProtocolError(
                f"{message.name}: it is older than an update that was received before", ErrorNo.INVALID_TS
            )
        rands = {
            RandRole.INITIATOR: static.randr_i,
            RandRole.RESPONDER: static.randr_r,
            RandRole.KMS: static.randr_kms,
        }
        if any(rands.get(RandRole(r.role)) != r.rand for r in message.find_all(Randr) if r.role in rands):
            raise ProtocolError(f"{message.name}: an update must not bring new RANDs")
        if any(ticket != static.ticket for ticket in message.find_all(Ticket)):
            raise ProtocolError(
                f"{message.name}: an update must not bring a new ticket", ErrorNo.INVALID_TICKET
            )
        identities = {IdRole.INITIATOR: static.identity_i, IdRole.RESPONDER: static.identity_r}
        if any(
            identities.get(IdRole(i.role)) != i.data for i in message.find_all(Idr) if i.role in identities
        ):
            raise ProtocolError(f"{message.name}: an identity is not that of the bundle", ErrorNo.INVALID_ID)

    def _note(self, received: Message) -> None:
        t = received.get(T)
        self._used.add(t)
        self._updated = max(self._updated, _order(t))

    def _may_supply(self, role: Role) -> bool:
        """Whether a party may supply keys: L is the Initiator's flag, M the Responder's, whoever starts (A-39)."""
        return bool(self._static.flags & (Flags.L if role is Role.INITIATOR else Flags.M))

    def _apply(self, bundle: Bundle) -> None:
        self._srtp = self._derive(bundle)
        self._bundle = bundle

    def _derive(self, bundle: Bundle) -> tuple[SrtpKeys, ...]:
        bundle.check_complete(self._acceptance)
        static = self._static
        randr_i = static.randr_i if static.flags & Flags.H else b""
        randr_r = static.randr_r if static.flags & Flags.G else b""
        found = []
        for _, session in sorted(bundle.sessions.items()):
            key = bundle.key(session.spi)
            assert key is not None
            policy = bundle.policies[session.policies[0]]
            if key.key_type in _MASTERS and len(key.key) > len(static.randr_i) + len(static.randr_r):
                raise ProtocolError(f"CS {session.cs_id}: the RANDs are shorter than its key (12.1)")
            ops = self._party.ops
            found.append(derive(ops, static.prf, session, policy, key, randr_i=randr_i, randr_r=randr_r))
        return tuple(found)


def _order(t: T) -> int:
    """Later timestamps of one type have greater numbers, also across the overflow of NTP in 2036 (RFC 4330 3)."""
    if t.ts_type == TsType.COUNTER:
        return int.from_bytes(t.value, "big")
    return int.from_bytes(t.value.ljust(8, b"\0"), "big") ^ 1 << 63


def _other(role: Role) -> Role:
    return Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR
