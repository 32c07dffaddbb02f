"""Examining a conversation of MIKEY messages: RFC 6043's rules, and with a credential MACs and KEMACs as well.

Messages are given in the order they were sent. What one teaches (a PSK opens REQUEST_RESP, which has MPKi and MPKr)
serves for the next. Keys are shown as fingerprints, never as bytes.
"""

from dataclasses import dataclass
from hashlib import sha256

from kms.crypto.interface import Key, Use, VerificationError
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import suite_of
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ProtocolError
from kms.mikey.exchange import RULES, UPDATE_RULES, check_message, check_response
from kms.mikey.labels import INITIAL, RESPONSE, ForkedKey
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, InitiatorData, Kemac, KeyData, T, Ticket, Tp, V
from kms.mikey.registry import DataType, IdRole, KeyType, RandRole
from kms.party.credential import Credential
from kms.party.party import Party, SuiteKey

_D = DataType
_ANSWERS = {
    _D.REQUEST_RESP: (_D.REQUEST_INIT_PSK, _D.REQUEST_INIT_PK),
    _D.RESOLVE_RESP: (_D.RESOLVE_INIT_PSK, _D.RESOLVE_INIT_PK),
    _D.TRANSFER_RESP: (_D.TRANSFER_INIT,),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark on a message. `level` is ok, note, or error."""

    level: str
    text: str


class Examiner:
    """Examines messages one after the other."""

    def __init__(self, credential: Credential | None = None) -> None:
        self._party = None if credential is None else Party.of(credential)
        self._sent: dict[tuple[DataType, int], Message] = {}
        self._mpki: Key | None = None
        self._mpkr: Key | None = None
        self._forked: Key | None = None

    def examine(self, raw: bytes) -> list[Finding]:
        """What can be said of one message that decodes; nothing of one that does not."""
        try:
            message = Message.decode(raw)
        except MikeyError:
            return []
        findings = self._lint(message)
        if self._party is not None:
            findings += self._check(message, self._party)
        self._sent[message.hdr.data_type, message.hdr.csb_id] = message
        return findings

    # -- rules -------------------------------------------------------------------------------------------------------

    def _lint(self, message: Message) -> list[Finding]:
        kind = message.hdr.data_type
        if kind not in RULES:
            return [
                Finding("note", f"{message.name} is not a MIKEY-TICKET message: its rules are not checked")
            ]
        try:
            update = kind in UPDATE_RULES and kind is _D.TRANSFER_INIT and message.find(Ticket) is None
            check_message(message, kind, update=update)
            for ticket in message.find_all(Ticket):
                rules.check_granted(ticket.policy)
                if kind is not _D.REQUEST_RESP:
                    rules.check_initiator_data(ticket.policy, ticket.initiator_data)
            for tp in message.find_all(Tp):
                rules.check(tp.policy)
                rules.requested_keys(tp.policy)
            initial = self._initial(message)
            if initial is not None:
                check_response(initial, message)
        except MikeyError as error:
            return [Finding("error", str(error))]
        return [Finding("ok", "payloads and policy keep the rules of RFC 6043")]

    def _initial(self, response: Message) -> Message | None:
        kinds = _ANSWERS.get(response.hdr.data_type, ())
        return next(
            (self._sent[k, response.hdr.csb_id] for k in kinds if (k, response.hdr.csb_id) in self._sent),
            None,
        )

    # -- MACs and KEMACs ---------------------------------------------------------------------------------------------

    def _check(self, message: Message, party: Party) -> list[Finding]:
        kind = message.hdr.data_type
        try:
            if kind in (_D.REQUEST_INIT_PSK, _D.RESOLVE_INIT_PSK):
                protection = self._by_psk(message, party, INITIAL)
                return [self._verify(message, protection, self._sender(message, party), party.kms_identity)]
            if kind in (_D.REQUEST_RESP, _D.RESOLVE_RESP):
                return self._check_kms_response(message, party)
            if kind is _D.TRANSFER_INIT:
                return self._check_transfer_init(message, party)
            if kind is _D.TRANSFER_RESP:
                return self._check_transfer_resp(message, party)
        except MikeyError as error:
            return [Finding("error", str(error))]
        return []

    def _check_kms_response(self, message: Message, party: Party) -> list[Finding]:
        initial = self._initial(message)
        if initial is None:
            return [Finding("note", "give the initial message first, to verify the MAC of its answer")]
        if not isinstance(initial.payloads[-1], V):
            return [Finding("note", "protected by an envelope key: its MAC cannot be verified here")]
        protection = self._by_psk(initial, party, RESPONSE)
        findings = [self._verify(message, protection, initial.raw)]
        if findings[0].level == "error":
            return findings
        keys = protection.open(message.get(Kemac), message.get(T))
        mpks = [party.ops.load(k.key, Use.PRF) for k in keys if k.key_type == KeyType.MPK]
        self._mpki = mpks[0] if mpks else None
        second = mpks[1] if len(mpks) > 1 else None
        if message.hdr.data_type is _D.REQUEST_RESP:
            self._mpkr = second
        else:
            self._forked = second
        return [*findings, *_shown(keys)]

    def _check_transfer_init(self, message: Message, party: Party) -> list[Finding]:
        if self._mpki is None:
            return [Finding("note", "MPKi is not known: give the REQUEST or RESOLVE messages first")]
        protection = self._by_mpk(message, party, self._mpki, INITIAL)
        ticket = message.find(Ticket)
        policy_initiator = rules.identity(ticket.policy, IdRole.INITIATOR) if ticket else None
        sender = message.idr(IdRole.INITIATOR) or policy_initiator or b""
        called = message.idr(IdRole.RESPONDER) or party.identity
        findings = [self._verify(message, protection, sender, called)]
        if ticket is not None and ticket.initiator_data:
            findings += self._check_initiator_data(message, ticket, party)
        return [*findings, *self._opened(message, protection, findings)]

    def _check_initiator_data(self, message: Message, ticket: Ticket, party: Party) -> list[Finding]:
        data = InitiatorData.decode(ticket.initiator_data)
        same = data.vi == message.v
        findings = [
            Finding("ok", "Vi is V") if same else Finding("error", "Vi is not identical to V (4.2.3.6)")
        ]
        if self._mpkr is None:
            return [*findings, Finding("note", "MPKr is not known: Vr cannot be verified")]
        alg = data.vr.auth_alg
        prf = suite_of(ticket.policy.prf).prf
        key = party.ops.prf_key(self._mpkr, prf, labels.vr_key(), labels.AUTH_KEY_LENGTHS[alg], Use.VERIFY)
        try:
            party.ops.verify(key, alg, data.vr_coverage(), data.vr.mac)
        except VerificationError:
            return [*findings, Finding("error", "Vr does not verify")]
        return [*findings, Finding("ok", "Vr verifies")]

    def _check_transfer_resp(self, message: Message, party: Party) -> list[Finding]:
        initial = self._initial(message)
        if initial is None:
            return [Finding("note", "give the TRANSFER_INIT first, to verify the MAC of its answer")]
        mpk = self._answering_mpk(message, initial, party)
        if mpk is None:
            return [
                Finding(
                    "note", "the MPK of the answer is not known: give the REQUEST or RESOLVE messages first"
                )
            ]
        protection = self._by_mpk(initial, party, mpk, RESPONSE, message.rand(RandRole.RESPONDER))
        findings = [self._verify(message, protection, initial.raw)]
        return [*findings, *self._opened(message, protection, findings)]

    def _answering_mpk(self, message: Message, initial: Message, party: Party) -> Key | None:
        ticket = initial.get(Ticket)
        if not ticket.policy.flags & Flags.I:
            return self._mpki
        if self._mpkr is None:
            return self._forked
        identity_r, randr_kms = message.idr(IdRole.RESPONDER) or b"", message.rand(RandRole.KMS)
        label = labels.forked_key(ForkedKey.MPKR, identity_r, randr_kms)
        prf = suite_of(ticket.policy.prf).prf
        return party.ops.prf_key(self._mpkr, prf, label, self._mpkr.length, Use.PRF)

    def _opened(
        self, message: Message, protection: MessageProtection, so_far: list[Finding]
    ) -> list[Finding]:
        kemac = message.find(Kemac)
        if kemac is None or any(f.level == "error" for f in so_far):
            return []
        return _shown(protection.open(kemac, message.get(T)))

    def _sender(self, message: Message, party: Party) -> bytes:
        role = IdRole.INITIATOR if message.hdr.data_type is _D.REQUEST_INIT_PSK else IdRole.RESPONDER
        return message.idr(role) or party.identity

    def _by_psk(self, initial: Message, party: Party, direction: int) -> MessageProtection:
        key = party.key_for(initial.hdr.prf)
        if not isinstance(key, SuiteKey):
            raise ProtocolError("the credential has no PSK, which protects this message")
        return MessageProtection(
            party.ops,
            key.psk,
            key.suite.prf,
            initial.hdr.csb_id,
            direction,
            randr_i=initial.rand(RandRole.INITIATOR),
            randr_r=initial.rand(RandRole.RESPONDER),
        )

    def _by_mpk(
        self, initial: Message, party: Party, mpk: Key, direction: int, randr_r: bytes = b""
    ) -> MessageProtection:
        prf, randr_i = suite_of(initial.hdr.prf).prf, initial.rand(RandRole.INITIATOR)
        return MessageProtection(
            party.ops, mpk, prf, initial.hdr.csb_id, direction, randr_i=randr_i, randr_r=randr_r
        )

    def _verify(self, message: Message, protection: MessageProtection, *suffixes: bytes) -> Finding:
        try:
            protection.verify(message, *suffixes)
        except MikeyError as error:
            return Finding("error", str(error))
        return Finding("ok", f"the MAC of {message.name} verifies")


def _shown(keys: tuple[KeyData, ...]) -> list[Finding]:
    """What a KEMAC holds. Two keys with one fingerprint (4 bytes of SHA-256) are the same key."""
    found = []
    for key in keys:
        salt = f", salt of {len(key.salt)} bytes" if key.salt else ""
        mark = sha256(key.key).hexdigest()[:8]
        spi = key.spi.hex() or "none"
        text = f"KEMAC: {key.key_type.name} of {len(key.key)} bytes{salt}, SPI {spi}, fingerprint {mark}"
        found.append(Finding("ok", text))
    return found
