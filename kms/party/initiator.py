"""Ticket Transfer (RFC 6043 4.2.2), the Initiator's side: TRANSFER_INIT out, TRANSFER_RESP in."""

from collections.abc import Iterable
from dataclasses import replace

from kms.crypto.interface import Key, Use
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import Suite, suite_of
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.exchange import RECEIVE, SEND, Progress, Role, State
from kms.mikey.labels import INITIAL, RESPONSE, ForkedKey
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Flags,
    GeneralExtension,
    GenericIdSession,
    Hdr,
    Idr,
    InitiatorData,
    KeyData,
    Payload,
    Randr,
    Sp,
    T,
    Ticket,
    V,
)
from kms.mikey.registry import DataType, ErrorNo, IdRole, IdType, MapType, RandRole
from kms.party.acceptance import Acceptance
from kms.party.bundle import Bundle, check_answered, check_supplied, open_keys
from kms.party.party import Party
from kms.party.receiving import receive_response
from kms.party.requesting import GrantedTicket
from kms.party.session import Session, Static


class OutgoingTransfer:
    """One Ticket Transfer with a granted ticket: `message` goes to the Responder, `complete` takes its answer.

    With F = 0 there is no answer, and `session` is there at once.
    """

    def __init__(
        self,
        party: Party,
        granted: GrantedTicket,
        responder: bytes,
        sessions: Iterable[GenericIdSession],
        policies: Iterable[Sp],
        *,
        keys: Iterable[KeyData] = (),
        acceptance: Acceptance | None = None,
        extensions: Iterable[GeneralExtension] = (),
    ) -> None:
        """Make the TRANSFER_INIT to `responder`, an identity or group in the ticket.

        `sessions` are the proposed crypto sessions, `policies` the SP payloads they name. `keys` are session keys of
        the Initiator (L flag); they are readable by everybody who may resolve the ticket (12.2). `acceptance.srtp` are
        the SRTP policies that a Responder may choose. `extensions` go into the message, such as SDP IDs. Raises
        ProtocolError if the ticket does not allow this.
        """
        policy = granted.policy
        rules.check_valid_at(policy, party.sources.now())
        granted.check_unused()
        if not policy.flags & Flags.N:
            raise ProtocolError(
                "the ticket needs processing beyond RFC 6043 (N flag)", ErrorNo.INVALID_TICKET
            )
        if responder not in rules.responders(policy):
            raise ProtocolError("the ticket does not name this responder", ErrorNo.INVALID_ID)
        self._party = party
        self._granted = granted
        self._responder = responder
        self._acceptance = acceptance or Acceptance()
        self._suite: Suite = suite_of(policy.prf)
        self._keys = tuple(keys)
        self._progress = Progress(Role.INITIATOR, State.TICKET)
        self.session: Session | None = None
        self.message = self._transfer_init(sessions, policies, extensions)
        self._offered = Bundle().extended(self.message, self._keys)
        self._progress.move(SEND, DataType.TRANSFER_INIT)
        if not policy.flags & Flags.F:
            self._progress.settle(State.ESTABLISHED)
            bundle = Bundle(
                self._offered.sessions, self._offered.policies, (*granted.session_keys, *self._keys)
            )
            self.session = self._establish(bundle, self._initial, responder, response=None)

    # -- TRANSFER_INIT -------------------------------------------------------------------------------------------------

    def _transfer_init(
        self,
        sessions: Iterable[GenericIdSession],
        policies: Iterable[Sp],
        extensions: Iterable[GeneralExtension],
    ) -> Message:
        party, suite, policy = self._party, self._suite, self._granted.policy
        if self._keys and not policy.flags & Flags.L:
            raise ProtocolError(
                "the ticket forbids the Initiator to supply keys (L flag)", ErrorNo.INVALID_TPPAR
            )
        check_supplied(self._keys, suite.prf)
        hdr = Hdr(
            DataType.TRANSFER_INIT,
            party.new_csb_id(),
            suite.prf,
            bool(policy.flags & Flags.F),
            MapType.GENERIC_ID,
            tuple(sessions),
        )
        t, randr_i = party.sources.timestamp(), party.new_randr(RandRole.INITIATOR)
        inputs = party.ops, self._granted.mpki, suite.prf, hdr.csb_id
        self._initial = MessageProtection(*inputs, INITIAL, randr_i=randr_i.rand)
        payloads: list[Payload] = [
            t,
            randr_i,
            Idr(IdRole.INITIATOR, IdType.URI, party.identity),
            Idr(IdRole.RESPONDER, IdType.URI, self._responder),
            *policies,
            self._granted.ticket,
        ]
        if self._keys:
            payloads.append(self._initial.seal(self._keys, suite.encr_alg, t))
        payloads += (*extensions, unsigned_v(suite.mac_alg))
        signed = self._initial.sign(Message.build(hdr, payloads), party.identity, self._responder)
        if self._granted.mpkr is None:
            return signed
        # V does not cover Initiator Data, so that Initiator Data can hold it (5.5, 6.10).
        ticket = replace(
            self._granted.ticket, initiator_data=self._initiator_data(signed.v, self._granted.mpkr)
        )
        return Message.build(hdr, [ticket if isinstance(p, Ticket) else p for p in signed.payloads])

    def _initiator_data(self, v: V, mpkr: Key) -> bytes:
        """Vi and Vr (6.10). Vr proves to the KMS that this party, the only other one with MPKr, made V."""
        ops, alg = self._party.ops, v.auth_alg
        prf = suite_of(
            self._granted.policy.prf
        ).prf  # of the Ticket Policy: the KMS never sees this HDR
        key = ops.prf_key(mpkr, prf, labels.vr_key(), labels.AUTH_KEY_LENGTHS[alg], Use.SIGN)
        draft = InitiatorData(v, unsigned_v(alg))
        return InitiatorData(v, V(alg, ops.mac(key, alg, draft.vr_coverage()))).encode()

    # -- TRANSFER_RESP -------------------------------------------------------------------------------------------------

    def complete(self, raw: bytes, *, expected: bytes | None = None) -> Session:
        """Verify the TRANSFER_RESP; the established session. `expected` is who must have answered; None is anybody.

        Raises ReceivedError for an Error message, AuthenticationError if the sender is not who the KMS told us,
        ProtocolError or DecodeError for everything else. A refused message changes nothing: another may follow.
        """
        # Once there is a session, its progress is the session's, which may wait for the answer to an update.
        if self.session is not None:
            raise ProtocolError(
                "the session is established already: no answer is expected", ErrorNo.INVALID_DT
            )
        message = receive_response(raw, self.message, DataType.TRANSFER_RESP, self._progress, self._initial)
        flags = self._granted.policy.flags
        identity_r, randr_kms = self._modifier(message)
        randr_r = self._randr_r(message)
        mpk, session_keys = self._granted.mpki, self._granted.session_keys
        if self._granted.mpkr is not None:
            mpk = self._fork(self._granted.mpkr, identity_r, randr_kms)
            session_keys = tuple(self._fork_tgk(key, identity_r, randr_kms) for key in session_keys)
        protection = MessageProtection(
            self._party.ops,
            mpk,
            self._suite.prf,
            self.message.hdr.csb_id,
            RESPONSE,
            randr_i=self.message.rand(RandRole.INITIATOR),
            randr_r=randr_r,
        )
        protection.verify(message, self.message.raw)
        if expected is not None and identity_r != expected:
            raise ProtocolError(
                "TRANSFER_RESP: another responder of the ticket answered (IDRr)", ErrorNo.INVALID_ID
            )
        received = open_keys(message, protection, allowed=bool(flags & Flags.M))
        check_answered(self.message, message)
        known = (*session_keys, *self._keys)
        bundle = Bundle(self._offered.sessions, self._offered.policies, known).extended(message, received)
        session = self._establish(bundle, protection, identity_r, message)
        self._progress.move(RECEIVE, DataType.TRANSFER_RESP)
        self.session = session
        return session

    def _modifier(self, message: Message) -> tuple[bytes, bytes]:
        """IDRr and RANDRkms of a TRANSFER_RESP: mandatory with key forking, whose modifier they are (5.1.1)."""
        identity_r, randr_kms = message.idr(IdRole.RESPONDER), message.rand(RandRole.KMS)
        if self._granted.policy.flags & Flags.I and (identity_r is None or not randr_kms):
            raise ProtocolError("TRANSFER_RESP: IDRr and RANDRkms are mandatory with key forking (I flag)")
        return self._responder if identity_r is None else identity_r, randr_kms

    def _randr_r(self, message: Message) -> bytes:
        randr_r = message.rand(RandRole.RESPONDER)
        if bool(randr_r) != bool(self._granted.policy.flags & Flags.G):
            raise ProtocolError("TRANSFER_RESP: RANDRr must be present if and only if the G flag is set")
        return randr_r

    def _fork(self, mpkr: Key, identity_r: bytes, randr_kms: bytes) -> Key:
        ops, prf = self._party.ops, suite_of(self._granted.policy.prf).prf
        label = labels.forked_key(ForkedKey.MPKR, identity_r, randr_kms)
        return ops.load(ops.prf_release(mpkr, prf, label, mpkr.length), Use.PRF)

    def _fork_tgk(self, key: KeyData, identity_r: bytes, randr_kms: bytes) -> KeyData:
        """TGK' for a TGK encoded in the ticket; other keys are never forked, salts neither (5.1.1)."""
        if key.key_type not in rules.TGKS:
            return key
        ops, prf = self._party.ops, suite_of(self._granted.policy.prf).prf
        label = labels.forked_key(ForkedKey.TGK, identity_r, randr_kms)
        return replace(key, key=ops.prf_release(ops.load(key.key, Use.PRF), prf, label, len(key.key)))

    def _establish(
        self, bundle: Bundle, protection: MessageProtection, identity_r: bytes, response: Message | None
    ) -> Session:
        sent = self.message
        static = Static(
            Role.INITIATOR,
            self._suite.prf,
            sent.hdr.csb_id,
            sent.get(Ticket),
            self._party.identity,
            identity_r,
            protection,
            sent.get(Randr).rand,
            response.rand(RandRole.RESPONDER) if response else b"",
            response.rand(RandRole.KMS) if response else b"",
        )
        used = [sent.get(T), *([response.get(T)] if response else [])]
        session = Session(self._party, static, bundle, self._acceptance, used, self._progress)
        self._granted.use(sent.hdr.csb_id)
        return session
