"""Attacks of subscribers, peers and the network: on the engine, over software keys, and on the parties.

An attack that has a file of its own (shared TPKs, public-key messages, forwarding) is not repeated here.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from kms.client import Stream
from kms.client.participant import CALL_FLAGS
from kms.crypto.interface import Key, UnsupportedKey, Use
from kms.crypto.protection import MessageProtection
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.crypto.suite import SUITE_128, SUITE_256, Suite
from kms.engine.directory import Role, User
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_CLIENT,
    OPERATION_REQUEST_TICKET,
    OPERATION_RESOLVE_TICKET,
    EngineRequest,
    Operation,
    Outcome,
)
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ProtocolError
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Cert,
    Flags,
    GenericIdSession,
    Hdr,
    Idr,
    InitiatorData,
    KeyData,
    Payload,
    Pke,
    Rand,
    Randr,
    T,
    Ticket,
    TicketPolicy,
    Tp,
    V,
    with_spi,
)
from kms.mikey.registry import DataType, IdRole, IdType, KeyType, MacAlg, PrfFunc, RandRole
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80
from kms.mikey.ticket_data import DERIVED_TICKET, TicketData
from kms.mikey.wire import MAX_PAYLOADS
from kms.party.initiator import OutgoingTransfer
from kms.party.memory import InMemoryReplayCache
from kms.party.party import Party, SigningKey, SuiteKey
from kms.party.requesting import GrantedTicket, TicketRequest
from kms.party.responder import IncomingTransfer
from kms.party.session import Session
from kms.sdk.errors import Refused
from tests.kms.callers import ALICE, BOBBY, FOCUS, focus, participant
from tests.kms.local_kms import KMS_IDENTITY, LocalEndpoint, LocalKms
from tests.kms.pki import PkKms, rsa_key

MALLORY, PEER = "sip:mallory@example.com", "sip:kms@peer.example"
SRTP = [GenericIdSession(1, (0,))], [AES_CM_128_HMAC_SHA1_80.sp(0)]


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


def desired(party: Party, *responders: str, suite: Suite = SUITE_256) -> TicketPolicy:
    """A Ticket Policy to ask for."""
    tp_data = rules.tp_data(
        kms=party.kms_identity,
        initiator=party.identity,
        responders=[r.encode() for r in responders],
        end=int(party.sources.now()) + 600,
    )
    return TicketPolicy(*DERIVED_TICKET, suite.prf, rules.FORKED_MODE_1, tp_data)


class Mallory:
    """A subscriber who signs what he likes with his own PSK, and sends it to the engine over his own connection."""

    def __init__(self, kms: LocalKms, identity: str = MALLORY, role: Role = Role.CLIENT) -> None:
        self.kms = kms
        self.credential = kms.enrol(identity, role)
        self.party = Party.of(self.credential, Sources(clock=kms.clock))

    def ticket(self, *responders: str, suite: Suite = SUITE_256) -> GrantedTicket:
        """A ticket of his own."""
        request = TicketRequest(self.party, desired(self.party, *responders, suite=suite))
        return request.complete(LocalEndpoint(self.kms, self.credential).request_ticket(request.message.raw))

    def signed(
        self,
        kind: DataType,
        *payloads: Payload,
        identity: bytes | None = None,
        suite: Suite = SUITE_256,
        psk_id: bytes | None = None,
    ) -> bytes:
        """A message of any kind with any payloads, and IDRpsk and a right MAC; `identity` is that in the MAC."""
        key = self.party.key_for(suite.prf)
        assert isinstance(key, SuiteKey)
        named = Idr(IdRole.PSK, IdType.BYTE_STRING, key.psk_id if psk_id is None else psk_id)
        hdr = Hdr(kind, 7, suite.prf, v=True)
        draft = Message.build(hdr, [*payloads, named, unsigned_v(suite.mac_alg)])
        protection = MessageProtection(
            self.party.ops,
            key.psk,
            suite.prf,
            hdr.csb_id,
            labels.INITIAL,
            randr_i=draft.rand(RandRole.INITIATOR),
            randr_r=draft.rand(RandRole.RESPONDER),
        )
        return protection.sign(draft, identity or self.party.identity, KMS_IDENTITY.encode()).raw

    def resolve_init(self, ticket: Ticket, *others: Payload) -> bytes:
        """A RESOLVE_INIT for a ticket."""
        rand = Randr(RandRole.RESPONDER, bytes(32))
        return self.signed(DataType.RESOLVE_INIT_PSK, self.party.sources.timestamp(), rand, *others, ticket)

    def send(self, operation: Operation.ValueType, *messages: bytes, tls: str | None = None) -> list[Outcome]:
        """What the engine makes of messages."""
        request = EngineRequest(
            called_service=CALLED_SERVICE_CLIENT,
            operation=operation,
            tls_identities=[tls or self.credential.identity],
            mikey_messages=messages,
        )
        return list(self.kms.engine.handle(request).outcomes)

    def refused(self, operation: Operation.ValueType, message: bytes, tls: str | None = None) -> str:
        """The reason of the refusal of a message."""
        (outcome,) = self.send(operation, message, tls=tls)
        assert outcome.WhichOneof("outcome") == "refusal", outcome
        return outcome.refusal.reason


def transfer(granted: GrantedTicket, party: Party, to: str) -> Message:
    """A TRANSFER_INIT."""
    return OutgoingTransfer(party, granted, to.encode(), *SRTP).message


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_key_leaves_in_no_copy(keep: Callable[[Key], object]) -> None:
    """A key that is put into a queue, a cache or a task's arguments would be written out in full."""
    key = SoftwareKeys().load(bytes(32), Use.PRF)
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        keep(key)


# -- messages that are meant to break the engine ----------------------------------------------------------------------


def test_an_operation_that_the_keys_refuse_is_no_fault(
    kms: LocalKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A length or algorithm that only the token refuses costs its sender an answer, and the operator no alarm."""
    mallory = Mallory(kms)

    def refuse(*_args: object) -> bytes:
        raise UnsupportedKey("too long for this token")

    message = TicketRequest(mallory.party, desired(mallory.party, BOBBY)).message.raw
    monkeypatch.setattr(SoftwareKeys, "release", refuse)
    assert mallory.refused(OPERATION_REQUEST_TICKET, message) == "UNSUPPORTED_ALGORITHM"


def test_a_certificate_of_no_version(tmp_path: Path) -> None:
    """The parser of certificates has exceptions of its own for some bytes."""
    kms = PkKms(tmp_path)
    alice = kms.enrol_signer(ALICE)
    party = Party.of(alice, Sources(clock=kms.clock))
    message = TicketRequest(party, desired(party, BOBBY)).message

    def version_99(p: Payload) -> Payload:
        version = bytes.fromhex("a003020102")  # [0] INTEGER 2: version 3
        assert not isinstance(p, Cert) or p.data.count(version) == 1
        return (
            Cert(p.cert_type, p.data.replace(version, version[:-1] + b"\x63")) if isinstance(p, Cert) else p
        )

    raw = Message.build(message.hdr, map(version_99, message.payloads)).raw
    with pytest.raises(Refused) as refused:
        LocalEndpoint(kms, alice).request_ticket(raw)
    assert refused.value.reason == "AUTHENTICATION_FAILED"


def test_no_message_has_more_payloads_than_are_soon_read(kms: LocalKms) -> None:
    """In the message, in TP Data, and spread over several TPs in TP Data."""
    mallory = Mallory(kms)
    policy = desired(mallory.party, BOBBY)
    many = (Rand(b""),) * MAX_PAYLOADS
    parts = [Tp(replace(policy, tp_data=(*policy.tp_data, *many[: MAX_PAYLOADS // 8]))) for _ in range(8)]
    t, randr = mallory.party.sources.timestamp(), Randr(RandRole.INITIATOR, bytes(32))
    for payloads in (
        (t, randr, Tp(policy), *many),
        (t, randr, Tp(replace(policy, tp_data=(*policy.tp_data, *many)))),
        (t, randr, Tp(replace(policy, tp_data=(*policy.tp_data, *parts)))),
    ):
        raw = mallory.signed(DataType.REQUEST_INIT_PSK, *payloads)
        (outcome,) = mallory.send(OPERATION_REQUEST_TICKET, raw)
        assert outcome.refusal.reason == "MALFORMED_MESSAGE"
        assert f"more than {MAX_PAYLOADS} payloads" in outcome.refusal.message
    many_names = [f"sip:{i}@example.com" for i in range(1500)]
    assert len(rules.responders(mallory.ticket(*many_names).policy)) == 1500


def test_a_refused_message_does_not_touch_its_neighbours(kms: LocalKms) -> None:
    """One hostile message of a batch, at every position of its bytes."""
    mallory = Mallory(kms)
    good = TicketRequest(mallory.party, desired(mallory.party, BOBBY)).message.raw
    hostile = [good[:i] + bytes((good[i] ^ 0xFF,)) + good[i + 1 :] for i in range(len(good))]
    outcomes = mallory.send(OPERATION_REQUEST_TICKET, *hostile, good)
    assert [o.WhichOneof("outcome") for o in outcomes] == ["refusal"] * len(good) + ["mikey_message"]
    assert all(o.refusal.code in (3, 7, 9, 16) for o in outcomes[:-1])


# -- who it is ---------------------------------------------------------------------------------------------------------


def test_a_name_that_continues_into_the_next_is_not_another(kms: LocalKms) -> None:
    """The MAC covers the two identities one after the other, without a mark between them (AMBIGUITIES A-03)."""
    mallory = Mallory(kms, "sip:a")
    kms.enrol("sip:as")
    t, rand = mallory.party.sources.timestamp(), Randr(RandRole.RESPONDER, bytes(32))
    ticket = mallory.ticket("sip:as").ticket
    named = Idr(IdRole.RESPONDER, IdType.URI, b"sip:as")
    for psk_id in (None, b"psk of sip:as"):
        for payloads in ((t, rand, ticket), (t, rand, named, ticket)):
            for identity in (b"sip:a", b"sip:as", b"sip:"):
                raw = mallory.signed(DataType.RESOLVE_INIT_PSK, *payloads, identity=identity, psk_id=psk_id)
                reason = mallory.refused(OPERATION_RESOLVE_TICKET, raw)
                assert reason in ("AUTHENTICATION_FAILED", "NOT_AUTHORIZED", "INVALID_TICKET")


@pytest.mark.parametrize(
    "name",
    [b"SIP:BOBBY@example.com", b"sip:bobby@EXAMPLE.com", b"sip:bobby@example.com\0", b"sip:bobby@example.com ",
     b"\0sip:bobby@example.com", b"sip:bobby%40example.com", b"sip:bobby@example.com;x", b"sip:\xffobby", b"*", b""],
)  # fmt: skip
def test_names_are_bytes(kms: LocalKms, name: bytes) -> None:
    """Neither case nor white space, escapes, NUL, patterns or invalid UTF-8 make one name another."""
    mallory = Mallory(kms, name.decode("latin-1"))  # as far as the engine lets him have it
    kms.enrol(BOBBY)
    ticket = replace(mallory.ticket(BOBBY).ticket, initiator_data=b"")
    forked = InitiatorData(unsigned_v(MacAlg.HMAC_SHA_256_256), unsigned_v(MacAlg.HMAC_SHA_256_256)).encode()
    raw = mallory.resolve_init(replace(ticket, initiator_data=forked))
    assert mallory.refused(OPERATION_RESOLVE_TICKET, raw) == "NOT_AUTHORIZED"


def test_an_alias_is_nothing_without_its_owners_psk(kms: LocalKms) -> None:
    mallory = Mallory(kms)
    kms.enrol(BOBBY, aliases=["sip:sales@example.com"])
    ticket = mallory.ticket("sip:sales@example.com").ticket
    alias = Idr(IdRole.RESPONDER, IdType.URI, b"sip:sales@example.com")
    rest = mallory.party.sources.timestamp(), Randr(RandRole.RESPONDER, bytes(32)), alias, ticket
    raw = mallory.signed(DataType.RESOLVE_INIT_PSK, *rest, identity=alias.data)
    assert mallory.refused(OPERATION_RESOLVE_TICKET, raw) == "NOT_AUTHORIZED"
    raw = mallory.signed(
        DataType.RESOLVE_INIT_PSK, *rest, identity=alias.data, psk_id=b"psk of " + BOBBY.encode()
    )
    assert mallory.refused(OPERATION_RESOLVE_TICKET, raw) == "AUTHENTICATION_FAILED"


def test_a_pattern_has_one_wildcard() -> None:
    """An IPv6 address in brackets is no set of characters: `sip:*@[::1]` once let one carry for the domain `1`."""
    gateway = User(b"sip:gw", Role.GATEWAY, 1, acts_for=("sip:*@[2001:db8::1]", "sip:a?@x", "sip:!*[!a]@y"))
    for carried in (b"sip:bob@[2001:db8::1]", b"sip:a?@x", b"sip:!bob[!a]@y"):
        assert gateway.may_carry(carried)
    for other in (
        b"sip:bob@1",
        b"sip:bob@2",
        b"sip:bob@d",
        b"sip:ab@x",
        b"sip:!bobb@y",
        b"sip:bob@[2001:db8::1]\n",
    ):
        assert not gateway.may_carry(other)


def test_a_peer_does_not_answer_for_a_group_of_ours(kms: LocalKms) -> None:
    """A group may have the peer's domain in its name; only members open its tickets, not whoever is called as it is."""
    alice = Mallory(kms, ALICE)
    peer = Mallory(kms, PEER, Role.PEER)
    kms.directory.revoke(PEER.encode())
    user = kms.directory.enrol(PEER.encode(), Role.PEER, acts_for=("sip:*@peer.example",))
    psk_id = b"psk of " + PEER.encode()
    kms._psks[psk_id] = (user.identity, user.version, kms._psks[psk_id][2])
    group, member = b"sip:team@peer.example", b"sip:bob@peer.example"
    kms.directory.add_member(group, member)
    message = transfer(alice.ticket(group.decode()), alice.party, group.decode())

    def resolve(name: bytes) -> str | None:
        idr = Idr(IdRole.RESPONDER, IdType.URI, name)
        rest = peer.party.sources.timestamp(), Randr(RandRole.RESPONDER, bytes(32)), idr, message.get(Ticket)
        (outcome,) = peer.send(
            OPERATION_RESOLVE_TICKET, peer.signed(DataType.RESOLVE_INIT_PSK, *rest, identity=name)
        )
        return outcome.WhichOneof("outcome") and outcome.refusal.reason

    assert resolve(member) == ""
    assert resolve(b"sip:mallory@peer.example") == "NOT_AUTHORIZED"
    assert resolve(b"sip:\xff@peer.example") == "NOT_AUTHORIZED"
    assert resolve(group) == "NOT_AUTHORIZED"


# -- public-key messages -----------------------------------------------------------------------------------------------


def test_every_envelope_that_does_not_open_has_one_answer(tmp_path: Path) -> None:
    """Padding, length and range look the same; and a subscriber gets few answers (test_public_key.py)."""
    kms = PkKms(tmp_path)
    alice = kms.enrol_signer(ALICE)
    party = Party.of(alice, Sources(clock=kms.clock))
    public, other = rsa_key("kms").public_key(), rsa_key("other").public_key()
    envelopes = [
        *(public.encrypt(bytes(n), PKCS1v15()) for n in (0, 1, 15, 33, 64)),
        other.encrypt(bytes(32), PKCS1v15()),
        bytes(256),
        b"\xff" * 256,
        bytes(255),
        bytes(257),
        b"",
    ]
    answers = set()
    for envelope in envelopes:
        message = TicketRequest(party, desired(party, BOBBY)).message
        changed = [Pke(envelope) if isinstance(p, Pke) else p for p in message.payloads]
        unsigned = Message.build(message.hdr, changed)
        covered = unsigned.coverage(party.identity, KMS_IDENTITY.encode())
        key = party.keys[0]
        assert isinstance(key, SigningKey)
        raw = unsigned.with_signature(key.signer.sign(covered, SUITE_256.hash_func)).raw
        with pytest.raises(Refused) as refused:
            LocalEndpoint(kms, alice).request_ticket(raw)
        answers.add((refused.value.reason, refused.value.message, refused.value.code))
    assert {reason for reason, _, _ in answers} == {"AUTHENTICATION_FAILED"}
    assert len(answers) == 1


# -- tickets -----------------------------------------------------------------------------------------------------------


def test_a_message_is_answered_for_its_own_method_only(kms: LocalKms) -> None:
    mallory = Mallory(kms)
    request = TicketRequest(mallory.party, desired(mallory.party, MALLORY)).message.raw
    resolve = mallory.resolve_init(transfer(mallory.ticket(MALLORY), mallory.party, MALLORY).get(Ticket))
    assert mallory.refused(OPERATION_RESOLVE_TICKET, request) == "UNEXPECTED_MESSAGE"
    assert mallory.refused(OPERATION_REQUEST_TICKET, resolve) == "UNEXPECTED_MESSAGE"


def test_a_ticket_is_for_the_policy_that_was_granted(kms: LocalKms) -> None:
    """No field of a ticket can be exchanged: not a responder, not its end, not a flag, not the suite, not its keys."""
    mallory = Mallory(kms)
    ticket = transfer(mallory.ticket(BOBBY), mallory.party, BOBBY).get(Ticket)
    other = mallory.ticket(MALLORY).ticket
    policy = ticket.policy
    data, others = TicketData.decode(ticket.ticket_data), TicketData.decode(other.ticket_data)
    end = next(p for p in policy.tp_data if p.NAME == "TR")
    forged = [
        replace(ticket, policy=other.policy),
        replace(ticket, ticket_data=other.ticket_data),
        replace(ticket, policy=replace(policy, tp_data=(*policy.tp_data, *other.policy.tp_data[-1:]))),
        replace(ticket, policy=replace(policy, tp_data=tuple(p for p in policy.tp_data if p is not end))),
        replace(ticket, policy=replace(policy, flags=policy.flags | Flags.J)),
        replace(ticket, policy=replace(policy, res=1)),
        replace(ticket, ticket_data=TicketData(others.thdr_data, data.payloads).encode()),
        replace(
            ticket,
            ticket_data=TicketData(data.thdr_data, (*others.payloads[:1], *data.payloads[1:])).encode(),
        ),
        replace(
            ticket,
            ticket_data=TicketData(data.thdr_data, (*data.payloads[:1], *others.payloads[1:])).encode(),
        ),
        replace(ticket, ticket_data=TicketData(data.thdr_data, (*data.payloads[:-1], others.v)).encode()),
        replace(
            ticket,
            ticket_data=TicketData(data.thdr_data, (*data.payloads[:-1], V(MacAlg.NULL, b""))).encode(),
        ),
        replace(
            ticket,
            ticket_data=TicketData(
                data.thdr_data, (*data.payloads[:-1], V(MacAlg.HMAC_SHA_1_160, data.v.mac[:20]))
            ).encode(),
        ),
    ]
    assert ticket not in forged
    for bad in forged:
        reason = mallory.refused(OPERATION_RESOLVE_TICKET, mallory.resolve_init(bad))
        assert reason == "TICKET_NOT_AUTHENTIC"


def test_a_ticket_of_one_suite_is_not_resolved_in_the_other(kms: LocalKms) -> None:
    mallory = Mallory(kms)
    ticket = transfer(mallory.ticket(MALLORY), mallory.party, MALLORY).get(Ticket)
    weaker = replace(ticket, policy=replace(ticket.policy, prf=PrfFunc.MIKEY_1))
    rest = mallory.party.sources.timestamp(), Randr(RandRole.RESPONDER, bytes(32))
    for bad, suite, reason in (
        (ticket, SUITE_128, "INVALID_TICKET"),
        (weaker, SUITE_256, "INVALID_TICKET"),
        (weaker, SUITE_128, "TICKET_NOT_AUTHENTIC"),
    ):
        raw = mallory.signed(DataType.RESOLVE_INIT_PSK, *rest, bad, suite=suite)
        assert mallory.refused(OPERATION_RESOLVE_TICKET, raw) == reason


def test_initiator_data_of_another_ticket_or_algorithm(kms: LocalKms) -> None:
    """Vr is keyed from MPKr of the very ticket, by the MAC algorithm of its suite."""
    mallory = Mallory(kms)
    mine, weak = mallory.ticket(MALLORY), mallory.ticket(MALLORY, suite=SUITE_128)
    ticket = transfer(mine, mallory.party, MALLORY).get(Ticket)
    data = InitiatorData.decode(ticket.initiator_data)
    sha_1 = V(MacAlg.HMAC_SHA_1_160, bytes(20))
    another = transfer(mallory.ticket(MALLORY), mallory.party, MALLORY).get(Ticket)
    for initiator_data in (
        another.initiator_data,
        transfer(weak, mallory.party, MALLORY).get(Ticket).initiator_data,
        InitiatorData(data.vr, data.vi).encode(),
        InitiatorData(data.vi, unsigned_v(MacAlg.HMAC_SHA_256_256)).encode(),
        InitiatorData(data.vi, V(MacAlg.HMAC_SHA_1_160, data.vr.mac[:20])).encode(),
        InitiatorData(sha_1, sha_1).encode(),
        InitiatorData(V(MacAlg.NULL, b""), V(MacAlg.NULL, b"")).encode(),
        InitiatorData(data.vi, data.vr, (data.vi,)).encode(),
    ):
        raw = mallory.resolve_init(replace(ticket, initiator_data=initiator_data))
        assert mallory.refused(OPERATION_RESOLVE_TICKET, raw) == "INITIATOR_NOT_AUTHENTIC"
    (outcome,) = mallory.send(OPERATION_RESOLVE_TICKET, mallory.resolve_init(ticket))
    assert outcome.WhichOneof("outcome") == "mikey_message"


def test_revocation_counts_from_the_next_message(kms: LocalKms) -> None:
    """Revoked, and revoked and enrolled anew: the old PSK verifies nothing, in the words for a wrong MAC."""
    mallory = Mallory(kms)
    wrong_mac = mallory.signed(DataType.REQUEST_INIT_PSK, *_request(mallory), identity=b"sip:nobody")
    right = [mallory.signed(DataType.REQUEST_INIT_PSK, *_request(mallory)) for _ in range(2)]
    kms.directory.revoke(MALLORY.encode())
    revoked = mallory.send(OPERATION_REQUEST_TICKET, wrong_mac, right[0])
    kms.directory.enrol(MALLORY.encode(), Role.FOCUS)
    anew = mallory.send(OPERATION_REQUEST_TICKET, right[1])
    seen = {(o.refusal.code, o.refusal.reason, o.refusal.message) for o in (*revoked, *anew)}
    assert seen == {(16, "AUTHENTICATION_FAILED", "the MAC in V of REQUEST_INIT_PSK does not verify")}
    errors = [Message.decode(o.refusal.mikey_error_message) for o in (*revoked, *anew)]
    assert {tuple(type(p) for p in e.payloads) for e in errors} == {
        tuple(type(p) for p in errors[0].payloads)
    }


def _request(sender: Mallory) -> tuple[Payload, ...]:
    made = TicketRequest(sender.party, desired(sender.party, BOBBY)).message
    return made.payloads[:-2]


# -- parties -----------------------------------------------------------------------------------------------------------


def test_answers_are_not_reflected(kms: LocalKms) -> None:
    """RESOLVE_RESP for REQUEST_RESP, a message back to its sender, an Error message of another exchange."""
    mallory = Mallory(kms)
    endpoint = LocalEndpoint(kms, mallory.credential)
    request = TicketRequest(mallory.party, desired(mallory.party, MALLORY))
    granted = mallory.ticket(MALLORY)
    incoming = IncomingTransfer(mallory.party, transfer(granted, mallory.party, MALLORY).raw)
    resolve_resp = endpoint.resolve_ticket(incoming.resolve_init().raw)
    request_resp = endpoint.request_ticket(request.message.raw)
    other = TicketRequest(mallory.party, desired(mallory.party, BOBBY)).message.raw
    for wrong in (resolve_resp, request.message.raw, other, endpoint.request_ticket(other)):
        with pytest.raises(MikeyError):
            request.complete(wrong)
    for wrong in (request_resp, incoming.message.raw):
        with pytest.raises(MikeyError):
            incoming.resolved(wrong)
    assert request.complete(request_resp).policy == granted.policy
    incoming.resolved(resolve_resp)


def test_transfer_inits_that_differ_in_initiator_data_are_one_to_the_replay_cache(kms: LocalKms) -> None:
    """V does not cover Initiator Data, so anybody can change it: it must not make a replay a new message."""
    mallory = Mallory(kms)
    made = transfer(mallory.ticket(MALLORY), mallory.party, MALLORY)
    ticket = made.get(Ticket)
    data = InitiatorData.decode(ticket.initiator_data)
    changed = replace(ticket, initiator_data=InitiatorData(data.vi, data.vr, (made.get(T),)).encode())
    again = Message.build(made.hdr, [changed if isinstance(p, Ticket) else p for p in made.payloads])
    first, second = (IncomingTransfer(mallory.party, m.raw) for m in (made, again))
    assert made.raw != again.raw
    cache = InMemoryReplayCache(kms.clock)
    cache.reserve(first.digest, kms.clock.now + 60)
    with pytest.raises(ProtocolError, match="replay"):
        cache.reserve(second.digest, kms.clock.now + 60)


def call(kms: LocalKms, flags: Flags = CALL_FLAGS | Flags.L) -> tuple[Session, Session]:
    """The two ends of a call from alice to bobby with two streams."""
    alice, bobby = participant(kms, ALICE), participant(kms, BOBBY)
    offer = alice.offer(alice.request_ticket([BOBBY], flags=flags), BOBBY, [Stream(1), Stream(2)])
    answer = bobby.answer(offer.message)
    return offer.complete(answer.message or b""), answer.session


def tek(spi: bytes) -> KeyData:
    return with_spi(KeyType.TEK_SALT, bytes(range(16)), bytes(14), spi)


def test_an_update_does_not_come_back(kms: LocalKms) -> None:
    """Both directions of a CSB update have the same keys: neither message is taken for the other's."""
    alice, bobby = call(kms)
    update = alice.start_update(keys=[tek(b"new")])
    alice.give_up_update()
    with pytest.raises(ProtocolError, match="timestamp was already used"):
        alice.answer_update(update.raw)
    answer = bobby.answer_update(update.raw)
    assert answer is not None
    with pytest.raises(ProtocolError, match="timestamp was already used"):
        bobby.answer_update(update.raw)
    with pytest.raises(MikeyError):
        bobby.complete_update(answer.raw)


def test_an_update_that_was_held_back_does_not_undo_a_newer_one(kms: LocalKms) -> None:
    """The network holds back an update until its sender has given it up and made another."""
    alice, bobby = call(kms)
    first = alice.sessions[0]
    held_back = alice.start_update([replace(first, spi=b"old")], [tek(b"old")])
    alice.give_up_update()
    answer = bobby.answer_update(alice.start_update([replace(first, spi=b"new")], [tek(b"new")]).raw)
    assert answer is not None
    alice.complete_update(answer.raw)
    with pytest.raises(ProtocolError, match="older than"):
        bobby.answer_update(held_back.raw)
    assert alice.srtp == bobby.srtp


def test_a_caller_that_uses_up_all_policy_numbers(kms: LocalKms) -> None:
    """The focus needs a number for its own SRTP policy; there are 256, and a caller may name them all."""
    alice, conference = Mallory(kms, ALICE), focus(kms)
    group = conference.group_keys(
        ["audio"], policy=replace(conference.group_keys(["x"]).policy, auth_tag_len=4)
    )
    numbers = [tuple(range(127)), tuple(range(127, 254)), (254, 255)]
    sessions = [GenericIdSession(i, policies) for i, policies in enumerate(numbers)]
    policies = [AES_CM_128_HMAC_SHA1_80.sp(number) for number in range(256)]
    granted = _granted(alice, CALL_FLAGS)
    made = OutgoingTransfer(alice.party, granted, FOCUS.encode(), sessions, policies).message
    joining = conference.receive(made.raw)
    with pytest.raises(ProtocolError, match="policy number"):
        joining.answer(group)


def _granted(mallory: Mallory, flags: Flags) -> GrantedTicket:
    request = TicketRequest(mallory.party, replace(desired(mallory.party, FOCUS), flags=flags))
    return request.complete(
        LocalEndpoint(mallory.kms, mallory.credential).request_ticket(request.message.raw)
    )
