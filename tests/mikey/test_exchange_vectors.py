"""Every message of exchanges.json: same fields, same bytes, accepted by the rules, with the MACs that RFC 6043 says.

The keys come from the vectors' credentials through the PRF of tests/mikey/vectors.py and the labels of kms.mikey.
"""

from dataclasses import dataclass, field

import pytest

from kms.mikey import labels, policy
from kms.mikey.exchange import check_message, check_response
from kms.mikey.labels import AUTH_KEY_LENGTHS, INITIAL, RESPONSE, ForkedKey, MessageKey, ProtectionKey
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, InitiatorData, Ticket, Tp
from kms.mikey.registry import DataType, IdRole, RandRole
from kms.mikey.ticket_data import TicketData, mac_coverage
from tests.mikey import vectors
from tests.mikey.vectors import Json

D = DataType
ALL: list[Json] = vectors.load("exchanges")["exchanges"]
EXCHANGES = vectors.exchanges()
FIRST_OF = {
    D.REQUEST_RESP: (D.REQUEST_INIT_PSK, D.REQUEST_INIT_PK),
    D.TRANSFER_RESP: (D.TRANSFER_INIT,),
    D.RESOLVE_RESP: (D.RESOLVE_INIT_PSK, D.RESOLVE_INIT_PK),
}


def ids(exchange: Json) -> str:
    return str(exchange["name"])


@pytest.mark.parametrize("exchange", ALL, ids=ids)
def test_codec_and_rules(exchange: Json) -> None:
    sent: list[Message] = []
    for form in exchange["messages"]:
        raw = bytes.fromhex(form["hex"])
        message = Message.decode(raw)
        assert vectors.describe_message(message) == form["decoded"]
        assert vectors.build_message(form["decoded"]).raw == raw
        check_message(message, message.hdr.data_type, update=form["name"].startswith("UPDATE"))
        if message.hdr.data_type in FIRST_OF:
            check_response(answered(sent, message), message)
        tp = message.find(Tp)
        if tp is not None:
            policy.check(tp.policy)
            policy.requested_keys(tp.policy)
        check_ticket(message)
        sent.append(message)


def answered(sent: list[Message], response: Message) -> Message:
    """The initial message that `response` answers: the last of its kind."""
    return next(m for m in reversed(sent) if m.hdr.data_type in FIRST_OF[response.hdr.data_type])


def check_ticket(message: Message) -> None:
    ticket = message.find(Ticket)
    if ticket is None:
        return
    policy.check_granted(ticket.policy)
    data = TicketData.decode(ticket.ticket_data)
    assert data.encode() == ticket.ticket_data
    if message.hdr.data_type != D.REQUEST_RESP:
        policy.check_initiator_data(ticket.policy, ticket.initiator_data)
    if ticket.initiator_data:
        assert InitiatorData.decode(ticket.initiator_data).encode() == ticket.initiator_data


@dataclass
class Call:
    """What the parties of one Ticket Transfer know when its messages are protected."""

    init: Message
    mpki: bytes
    mpkr: bytes
    update_key: bytes = field(default=b"", repr=False)
    identities: dict[int, bytes] = field(default_factory=dict)


class Macs:
    """Computes the MACs of one exchange and compares the derivations with the vector's prf_calls."""

    def __init__(self, exchange: Json) -> None:
        self.psks = {u.encode(): bytes.fromhex(p["psk"]) for u, p in exchange["config"]["psk"].items()}
        self.tpk = bytes.fromhex(exchange["config"]["tpk"])
        self.kms = bytes.fromhex(exchange["config"]["kms_id"])
        self.calls = {(c["inkey"], c["label"]): c["outkey"] for c in exchange["prf_calls"]}
        # the MPK is encrypted in the ticket: its PRF calls name it by the RAND that only this ticket has
        self.mpks = {c["label"]: bytes.fromhex(c["inkey"]) for c in exchange["prf_calls"]}
        self.sent: list[Message] = []
        self.transfers: dict[int, Call] = {}

    def derive(self, prf: int, key: bytes, label: bytes, bits: int) -> bytes:
        out = vectors.prf(prf, key, label, bits)
        assert self.calls.get((key.hex(), label.hex()), out.hex()) == out.hex()
        return out

    def auth_key(self, message: Message, key: bytes, direction: int, randr_i: bytes, randr_r: bytes) -> bytes:
        label = labels.message_key(MessageKey.AUTH, message.hdr.csb_id, direction, randr_i, randr_r)
        return self.derive(message.hdr.prf, key, label, 8 * AUTH_KEY_LENGTHS[message.v.auth_alg])

    def check(self, message: Message, update: bool) -> None:
        self.sent.append(message)
        if update:
            key, suffixes = self.of_update(message)
        elif message.hdr.data_type == D.TRANSFER_INIT:
            key, suffixes = self.of_transfer_init(message)
        elif message.hdr.data_type == D.TRANSFER_RESP:
            key, suffixes = self.of_transfer_resp(message)
        else:
            key, suffixes = self.of_kms(message)
        assert vectors.mac(message.v.auth_alg, key, message.coverage(*suffixes)) == message.v.mac

    def of_kms(self, message: Message) -> tuple[bytes, tuple[bytes, ...]]:
        first = message.hdr.data_type not in FIRST_OF
        init = message if first else answered(self.sent, message)
        asks = init.hdr.data_type == D.REQUEST_INIT_PSK
        party = init.idr(IdRole.INITIATOR if asks else IdRole.RESPONDER)
        assert party is not None
        randr_i, randr_r = init.rand(RandRole.INITIATOR), init.rand(RandRole.RESPONDER)
        assert (not randr_r) if asks else (not randr_i)
        key = self.auth_key(message, self.psks[party], INITIAL if first else RESPONSE, randr_i, randr_r)
        return key, (party, self.kms) if first else (init.raw,)

    def of_transfer_init(self, message: Message) -> tuple[bytes, tuple[bytes, ...]]:
        mpki, mpkr = self.open(message.get(Ticket))
        i, r = message.idr(IdRole.INITIATOR), message.idr(IdRole.RESPONDER)
        assert i is not None
        assert r is not None
        rand = message.rand(RandRole.INITIATOR)
        key = self.auth_key(message, mpki, INITIAL, rand, b"")
        self.check_vr(message, mpkr)
        self.transfers[message.hdr.csb_id] = Call(message, mpki, mpkr, key, {1: i, 2: r})
        return key, (i, r)

    def of_transfer_resp(self, message: Message) -> tuple[bytes, tuple[bytes, ...]]:
        call = self.transfers[message.hdr.csb_id]
        ticket_policy = call.init.get(Ticket).policy
        key, r = call.mpki, message.idr(IdRole.RESPONDER)
        if ticket_policy.flags & Flags.I:
            assert r is not None
            label = labels.forked_key(ForkedKey.MPKR, r, message.rand(RandRole.KMS))
            key = self.derive(ticket_policy.prf, call.mpkr, label, 8 * len(call.mpkr))
        call.identities[IdRole.RESPONDER] = r or call.identities[IdRole.RESPONDER]
        rand_i, rand_r = call.init.rand(RandRole.INITIATOR), message.rand(RandRole.RESPONDER)
        call.update_key = self.auth_key(message, key, RESPONSE, rand_i, rand_r)
        return call.update_key, (call.init.raw,)

    def of_update(self, message: Message) -> tuple[bytes, tuple[bytes, ...]]:
        """AMBIGUITIES A-39: both directions use the very keys of the last message of the first exchange."""
        call = self.transfers[message.hdr.csb_id]
        if message.hdr.data_type == D.TRANSFER_RESP:
            return call.update_key, (answered(self.sent, message).raw,)
        return call.update_key, (call.identities[IdRole.INITIATOR], call.identities[IdRole.RESPONDER])

    def open(self, ticket: Ticket) -> tuple[bytes, bytes]:
        """Check the MAC of a base ticket; returns MPKi and MPKr."""
        prf, data = ticket.policy.prf, TicketData.decode(ticket.ticket_data)
        alg = data.v.auth_alg
        key = self.derive(
            prf, self.tpk, labels.tpk_key(MessageKey.AUTH, data.rand), 8 * AUTH_KEY_LENGTHS[alg]
        )
        assert vectors.mac(alg, key, mac_coverage(ticket, data)) == data.v.mac
        mpk = self.mpks[labels.mpk_key(ProtectionKey.MPKI, data.rand).hex()]
        i, r = (
            self.derive(prf, mpk, labels.mpk_key(constant, data.rand), 8 * len(mpk))
            for constant in ProtectionKey
        )
        return i, r

    def check_vr(self, message: Message, mpkr: bytes) -> None:
        ticket = message.get(Ticket)
        if ticket.policy.flags & Flags.I:
            initiator_data = InitiatorData.decode(ticket.initiator_data)
            assert initiator_data.vi == message.v
            alg = initiator_data.vr.auth_alg
            key = self.derive(ticket.policy.prf, mpkr, labels.vr_key(), 8 * AUTH_KEY_LENGTHS[alg])
            assert vectors.mac(alg, key, initiator_data.vr_coverage()) == initiator_data.vr.mac


@pytest.mark.parametrize("exchange", EXCHANGES, ids=ids)
def test_mac_coverage(exchange: Json) -> None:
    macs = Macs(exchange)
    for form in exchange["messages"]:
        macs.check(Message.decode(bytes.fromhex(form["hex"])), form["name"].startswith("UPDATE"))
    assert len(macs.sent) == len(exchange["messages"])


def test_both_suites_are_covered() -> None:
    assert {e["config"]["suite"]["prf"] for e in EXCHANGES} == {0, 1}
