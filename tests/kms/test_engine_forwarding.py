"""An engine that asks another KMS trusts neither what the frontend brings back nor what the peer says."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kms.client import Acceptance
from kms.crypto.interface import Use
from kms.crypto.protection import MessageProtection
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.engine.directory import Role
from kms.engine.peers import Peer, PeerPsk
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_CLIENT,
    OPERATION_RESOLVE_TICKET,
    EngineRequest,
    Forward,
    Outcome,
    PeerAnswer,
    Refusal,
)
from kms.mikey.errors import ReceivedError
from kms.mikey.labels import RESPONSE
from kms.mikey.message import Message
from kms.mikey.payloads import Idr, Payload, Randr, Ticket
from kms.mikey.registry import DataType, ErrorNo, IdRole, PrfFunc, RandRole
from kms.party.party import Party
from kms.party.responder import IncomingTransfer
from tests.kms.callers import participant, rebuilt
from tests.kms.local_kms import Clock, LocalKms

KMS_A, KMS_B = "sip:kms@a.example", "sip:kms@b.example"
ALICE, BOB, BILL = "sip:alice@a.example", "sip:bob@b.example", "sip:bill@b.example"


class TwoKmss:
    """KMS a with alice; KMS b with bob and bill; b is a peer of a, and b's engine knows how to ask a."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        for name in ("a", "b"):
            (folder / name).mkdir()
        self.a = LocalKms(folder / "a", self.clock, identity=KMS_A)
        self.psks = psks = {prf: os.urandom(32) for prf in PrfFunc}
        self.a.directory.enrol(KMS_B.encode(), Role.PEER, acts_for=("sip:*@b.example",))
        self.a._psks[b"b at a"] = KMS_B.encode(), 1, psks
        peer = Peer(KMS_A.encode(), {prf: PeerPsk(b"b at a", psk) for prf, psk in psks.items()})
        self.b = LocalKms(folder / "b", self.clock, identity=KMS_B, peers={KMS_A.encode(): peer})
        self.alice = participant(self.a, ALICE)
        self.bob, self.bill = (self.b.enrol(who) for who in (BOB, BILL))

    def transfer(self, to: str = BOB) -> bytes:
        """A TRANSFER_INIT of alice's with a new ticket."""
        return self.alice.offer(self.alice.request_ticket([to]), to).message

    def incoming(self, raw: bytes, who: str = BOB, acceptance: Acceptance | None = None) -> IncomingTransfer:
        party = Party.of(self.bob if who == BOB else self.bill, Sources(clock=self.clock))
        return IncomingTransfer(party, raw, acceptance)

    def ask(self, kms: LocalKms, who: str, message: bytes, answer: PeerAnswer | None = None) -> Outcome:
        request = EngineRequest(
            called_service=CALLED_SERVICE_CLIENT,
            operation=OPERATION_RESOLVE_TICKET,
            tls_identities=[who],
            mikey_messages=[message],
            peer_answer=answer,
        )
        (outcome,) = kms.engine.handle(request).outcomes
        return outcome

    def forward(self, message: bytes, who: str = BOB) -> Forward:
        outcome = self.ask(self.b, who, message)
        assert outcome.WhichOneof("outcome") == "forward", outcome
        return outcome.forward

    def peer_answer(self, forward: Forward) -> PeerAnswer:
        """What the frontend makes of a's answer."""
        outcome = self.ask(self.a, KMS_B, forward.mikey_message)
        if outcome.HasField("refusal"):
            return PeerAnswer(asked=forward.mikey_message, refusal=outcome.refusal)
        return PeerAnswer(asked=forward.mikey_message, mikey_message=outcome.mikey_message)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoKmss]:
    world = TwoKmss(tmp_path)
    yield world
    world.a.engine.close()
    world.b.engine.close()


def test_the_message_between_the_kmss_reuses_idr_r_and_ticket(two: TwoKmss) -> None:
    raw = two.transfer()
    sent = two.incoming(raw).resolve_init()
    forward = two.forward(sent.raw)
    asked = Message.decode(forward.mikey_message)
    assert forward.peer == KMS_A
    assert asked.hdr.data_type == DataType.RESOLVE_INIT_PSK
    assert asked.get(Ticket) == sent.get(Ticket)
    assert asked.idr(IdRole.RESPONDER) == BOB.encode()
    assert asked.idr(IdRole.KMS) == KMS_A.encode()
    assert asked.idr(IdRole.PSK) == b"b at a"
    assert asked.rand(RandRole.RESPONDER) != sent.rand(RandRole.RESPONDER)
    assert asked.hdr.csb_id != sent.hdr.csb_id
    assert two.forward(sent.raw).mikey_message != forward.mikey_message, "each is a message of its own"


def test_the_answer_is_encrypted_anew_for_the_responder(two: TwoKmss) -> None:
    raw = two.transfer()
    incoming = two.incoming(raw)
    message = incoming.resolve_init().raw
    answer = two.peer_answer(two.forward(message))
    outcome = two.ask(two.b, BOB, message, answer)
    resolution = incoming.resolved(outcome.mikey_message)
    assert resolution.identity_r == BOB.encode()
    assert resolution.randr_kms == Message.decode(answer.mikey_message).rand(RandRole.KMS)
    assert incoming.caller == ALICE


def _of_another_ticket(two: TwoKmss, _message: bytes, _answer: PeerAnswer) -> PeerAnswer:
    raw = two.transfer()
    return two.peer_answer(two.forward(two.incoming(raw).resolve_init().raw))


def _of_another_responder(two: TwoKmss, _message: bytes, _answer: PeerAnswer) -> PeerAnswer:
    """Bill's keys for bob: as the frontend could mix two calls up."""
    raw = two.transfer(BILL)
    return two.peer_answer(two.forward(two.incoming(raw, BILL).resolve_init().raw, BILL))


def _with_another_question(two: TwoKmss, message: bytes, answer: PeerAnswer) -> PeerAnswer:
    """A second RESOLVE_INIT for the same ticket and responder: the answer is not to that."""
    return PeerAnswer(asked=two.forward(message).mikey_message, mikey_message=answer.mikey_message)


def _changed(
    kind: type[Payload], change: Callable[[Payload], Payload]
) -> Callable[[TwoKmss, bytes, PeerAnswer], PeerAnswer]:
    def apply(_two: TwoKmss, _message: bytes, answer: PeerAnswer) -> PeerAnswer:
        raw = rebuilt(answer.mikey_message, lambda p: change(p) if isinstance(p, kind) else p)
        assert raw != answer.mikey_message
        return PeerAnswer(asked=answer.asked, mikey_message=raw)

    return apply


def _other_idr(payload: Payload) -> Payload:
    assert isinstance(payload, Idr)
    return Idr(payload.role, payload.id_type, BILL.encode()) if payload.role == IdRole.RESPONDER else payload


def _other_randr(payload: Payload) -> Payload:
    assert isinstance(payload, Randr)
    return Randr(payload.role, bytes(len(payload.rand)))


MISTRUSTED: dict[str, Callable[[TwoKmss, bytes, PeerAnswer], PeerAnswer]] = {
    "of another ticket": _of_another_ticket,
    "of another responder": _of_another_responder,
    "to another question": _with_another_question,
    "with another IDRr": _changed(Idr, _other_idr),
    "with another RANDRkms": _changed(Randr, _other_randr),
    "to a question that is bytes": lambda _two, _message, answer: PeerAnswer(
        asked=b"\1", mikey_message=answer.mikey_message
    ),
    "that is bytes": lambda _two, _message, answer: PeerAnswer(asked=answer.asked, mikey_message=b"\1"),
    "that is empty": lambda _two, _message, answer: PeerAnswer(asked=answer.asked),
    "that is the question": lambda _two, _message, answer: PeerAnswer(
        asked=answer.asked, mikey_message=answer.asked
    ),
    "that is a refusal of something else": lambda _two, _message, answer: PeerAnswer(
        asked=answer.asked[:-1] + bytes((answer.asked[-1] ^ 1,)), refusal=Refusal(reason="NOT_AUTHORIZED")
    ),
    "that is a forged Error message": lambda _two, _message, answer: PeerAnswer(
        asked=answer.asked, refusal=Refusal(reason="NOT_AUTHORIZED", mikey_error_message=answer.mikey_message)
    ),
}


@pytest.mark.parametrize("kind", MISTRUSTED)
def test_an_answer_is_not_trusted(two: TwoKmss, kind: str) -> None:
    raw = two.transfer()
    message = two.incoming(raw).resolve_init().raw
    good = two.peer_answer(two.forward(message))
    outcome = two.ask(two.b, BOB, message, MISTRUSTED[kind](two, message, good))
    assert (outcome.refusal.code, outcome.refusal.reason) == (14, "PEER_UNAVAILABLE")
    assert two.ask(two.b, BOB, message, good).mikey_message, "the true one is"


def test_an_old_answer_is_not_trusted(two: TwoKmss) -> None:
    """The keys of a ticket are the same each time, but whether it may be opened is for its KMS to say each time."""
    incoming = two.incoming(two.transfer())
    answer = two.peer_answer(two.forward(incoming.resolve_init().raw))
    two.clock.now += 61
    outcome = two.ask(two.b, BOB, incoming.resolve_init().raw, answer)
    assert outcome.refusal.reason == "PEER_UNAVAILABLE"


def test_a_peer_that_answers_for_somebody_else_is_not_trusted(two: TwoKmss) -> None:
    message = two.incoming(two.transfer()).resolve_init().raw
    good = two.peer_answer(two.forward(message))
    asked, ops = Message.decode(good.asked), SoftwareKeys()
    psk = ops.load(two.psks[PrfFunc(asked.hdr.prf)], Use.PRF)
    randr_r = asked.rand(RandRole.RESPONDER)
    protection = MessageProtection(
        ops, psk, PrfFunc(asked.hdr.prf), asked.hdr.csb_id, RESPONSE, randr_r=randr_r
    )
    for change, trusted in ((lambda p: p, True), (_other_idr, False)):
        changed = Message.decode(
            rebuilt(good.mikey_message, lambda p, change=change: change(p) if isinstance(p, Idr) else p)  # type: ignore[misc]
        )
        signed = protection.sign(changed, good.asked).raw
        outcome = two.ask(two.b, BOB, message, PeerAnswer(asked=good.asked, mikey_message=signed))
        assert bool(outcome.mikey_message) is trusted
        assert outcome.refusal.reason == ("" if trusted else "PEER_UNAVAILABLE")


def test_the_responder_is_authenticated_before_anything_is_forwarded_or_opened(two: TwoKmss) -> None:
    raw = two.transfer()
    message = two.incoming(raw).resolve_init().raw
    answer = two.peer_answer(two.forward(message))
    tampered = message[:-1] + bytes((message[-1] ^ 1,))
    for given in (None, answer):
        assert two.ask(two.b, BOB, tampered, given).refusal.reason == "AUTHENTICATION_FAILED"
        assert two.ask(two.b, BILL, message, given).refusal.reason == "TLS_IDENTITY_MISMATCH"
    two.b.directory.revoke(BOB.encode())
    for given in (None, answer):
        assert two.ask(two.b, BOB, message, given).refusal.reason == "AUTHENTICATION_FAILED"


def test_what_the_peer_refuses_is_passed_on_with_its_error_no(two: TwoKmss) -> None:
    raw = two.transfer(BOB)
    # Bill's software takes calls to bob for calls to a group that bill is in; the ticket says otherwise.
    incoming = two.incoming(raw, BILL, Acceptance(groups=frozenset({BOB.encode()})))
    message = incoming.resolve_init().raw
    answer = two.peer_answer(two.forward(message, BILL))
    assert answer.refusal.reason == "NOT_AUTHORIZED"
    refusal = two.ask(two.b, BILL, message, answer).refusal
    assert (refusal.reason, refusal.peer_reason) == ("PEER_REFUSED", "NOT_AUTHORIZED")
    with pytest.raises(ReceivedError) as received:
        incoming.resolved(refusal.mikey_error_message)
    assert received.value.numbers == (ErrorNo.INVALID_ID,)
    assert received.value.authenticated, "by bob's own KMS"
    # Without an Error message the refusal stands, but not its Error no.
    answer.refusal.mikey_error_message = b""
    refusal = two.ask(two.b, BILL, message, answer).refusal
    assert Message.decode(refusal.mikey_error_message).error_numbers == (ErrorNo.INVALID_TICKET,)


def test_a_group_of_the_issuer_may_have_members_elsewhere(two: TwoKmss) -> None:
    team = "sip:team@a.example"
    raw = two.transfer(team)
    incoming = two.incoming(raw, BOB, Acceptance(groups=frozenset({team.encode()})))
    message = incoming.resolve_init().raw
    refused = two.ask(two.b, BOB, message, two.peer_answer(two.forward(message)))
    assert refused.refusal.peer_reason == "NOT_AUTHORIZED"
    two.a.directory.add_member(team.encode(), BOB.encode())
    outcome = two.ask(two.b, BOB, message, two.peer_answer(two.forward(message)))
    assert incoming.resolved(outcome.mikey_message).identity_r == BOB.encode()
