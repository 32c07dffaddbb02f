"""Every length, flag, type and number of a message, changed systematically, at whoever receives it.

The MAC or signature fits none of them any more, so each must be refused, by nothing but MikeyError or a refusal of the
KMS, and must change nothing: the true message is accepted after all of them.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from kms.client import Stream
from kms.client.participant import CALL_FLAGS, Offer, Participant
from kms.engine.refusals import TABLE, Reason
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_CLIENT,
    OPERATION_REQUEST_TICKET,
    OPERATION_RESOLVE_TICKET,
    EngineRequest,
    Outcome,
)
from kms.mikey.errors import MikeyError, ReceivedError
from kms.mikey.exchange import Role
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, KeyData, with_spi
from kms.mikey.registry import DataType, ErrorNo, KeyType
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET
from kms.party.requesting import TicketRequest
from kms.party.responder import IncomingTransfer
from kms.party.session import Session
from kms.sdk.errors import KmsError
from tests.kms.callers import ALICE, BOBBY, participant
from tests.kms.conversation import desired
from tests.kms.pki import PkKms
from tests.mikey.fields import all_changes

FLAGS = CALL_FLAGS | Flags.L
KINDS = {"derived": DERIVED_TICKET, "base": BASE_TICKET}


@pytest.fixture
def kms(tmp_path: Path) -> PkKms:
    return PkKms(tmp_path)


@pytest.fixture
def alice(kms: PkKms) -> Participant:
    return participant(kms, ALICE)


@pytest.fixture
def bobby(kms: PkKms) -> Participant:
    return participant(kms, BOBBY)


def refuses_all(raw: bytes, receive: Callable[[bytes], object]) -> None:
    """`receive` must raise a refusal for every change of `raw`."""
    tried = 0
    for field, changed in all_changes(raw):
        try:
            receive(changed)
        except (MikeyError, KmsError):
            tried += 1
        else:
            raise AssertionError(f"accepted with another {field.name} (offset {field.offset})")
    assert tried > 100


def tek(spi: bytes) -> KeyData:
    return with_spi(KeyType.TEK_SALT, b"k" * 16, b"s" * 14, spi)


# -- at the KMS --------------------------------------------------------------------------------------------------------


def outcome(kms: PkKms, identity: str, raw: bytes, *, resolve: bool) -> Outcome:
    request = EngineRequest(
        called_service=CALLED_SERVICE_CLIENT,
        operation=OPERATION_RESOLVE_TICKET if resolve else OPERATION_REQUEST_TICKET,
        tls_identities=[identity],
        mikey_messages=[raw],
    )
    return kms.engine.handle(request).outcomes[0]


def check_kms_refuses_all(kms: PkKms, identity: str, raw: bytes, *, resolve: bool) -> None:
    """Every change is refused, for a reason of the table; the true message is answered after all of them."""
    tried = 0
    for field, changed in all_changes(raw):
        result = outcome(kms, identity, changed, resolve=resolve)
        assert result.WhichOneof("outcome") == "refusal", f"{field.name} (offset {field.offset})"
        refusal = result.refusal
        assert refusal.code == TABLE[Reason[refusal.reason]][0]
        if refusal.mikey_error_message:
            assert Message.decode(refusal.mikey_error_message).hdr.data_type == DataType.ERROR
        tried += 1
    assert tried > 100
    assert outcome(kms, identity, raw, resolve=resolve).WhichOneof("outcome") == "mikey_message"


@pytest.mark.parametrize("signed", [False, True], ids=["PSK", "PK"])
def test_request_init(kms: PkKms, signed: bool) -> None:
    alice = participant(kms, kms.enrol_signer(ALICE) if signed else ALICE)
    keys = [
        with_spi(KeyType.TGK, bytes(32), b"", b"1"),
        with_spi(KeyType.TGK_SALT, bytes(16), bytes(14), b"2"),
    ]
    policy = desired(keys=keys, end=int(kms.clock.now) + 600)
    raw = TicketRequest(alice._party, policy).message.raw
    assert raw[1] == (DataType.REQUEST_INIT_PK if signed else DataType.REQUEST_INIT_PSK)
    check_kms_refuses_all(kms, ALICE, raw, resolve=False)


@pytest.mark.parametrize("signed", [False, True], ids=["PSK", "PK"])
@pytest.mark.parametrize("kind", KINDS)
def test_resolve_init(kms: PkKms, alice: Participant, kind: str, signed: bool) -> None:
    bobby = participant(kms, kms.enrol_signer(BOBBY) if signed else BOBBY)
    offer = alice.offer(alice.request_ticket([BOBBY], kind=KINDS[kind]), BOBBY)
    raw = IncomingTransfer(bobby._party, offer.message).resolve_init().raw
    assert raw[1] == (DataType.RESOLVE_INIT_PK if signed else DataType.RESOLVE_INIT_PSK)
    check_kms_refuses_all(kms, BOBBY, raw, resolve=True)


# -- at the parties ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_request_resp(kms: PkKms, alice: Participant, kind: str) -> None:
    request = TicketRequest(alice._party, desired(kind=KINDS[kind]))
    response = outcome(kms, ALICE, request.message.raw, resolve=False).mikey_message
    refuses_all(response, request.complete)
    assert request.complete(response).session_keys


def _offered(alice: Participant, bobby: Participant, kind: str) -> Offer:
    ticket = alice.request_ticket([BOBBY], flags=FLAGS, kind=KINDS[kind])
    return alice.offer(ticket, BOBBY, [Stream(1), Stream()], keys=[tek(b"i")])


@pytest.mark.parametrize("kind", KINDS)
def test_transfer_init(alice: Participant, bobby: Participant, kind: str) -> None:
    offer = _offered(alice, bobby, kind)
    refuses_all(offer.message, bobby.receive)
    session = offer.complete(bobby.receive(offer.message).answer().message or b"")
    assert len(session.srtp) == 2


def test_resolve_resp(kms: PkKms, alice: Participant, bobby: Participant) -> None:
    offer = _offered(alice, bobby, "derived")
    incoming = IncomingTransfer(bobby._party, offer.message)
    response = outcome(kms, BOBBY, incoming.resolve_init().raw, resolve=True).mikey_message
    refuses_all(response, incoming.resolved)
    incoming.resolved(response)
    assert offer.complete(incoming.answer().raw).keys == (incoming.session and incoming.session.keys)


def test_transfer_resp(alice: Participant, bobby: Participant) -> None:
    offer = _offered(alice, bobby, "derived")
    answer = bobby.receive(offer.message).answer(keys=[tek(b"r")])
    assert answer.message is not None
    refuses_all(answer.message, offer.complete)
    assert offer.session is None
    assert offer.complete(answer.message).srtp == answer.session.srtp


def test_error_message(alice: Participant, bobby: Participant) -> None:
    """An Error message is a refusal anyway; a changed one must not count as authenticated, nor end the exchange."""
    offer = _offered(alice, bobby, "derived")
    error = bobby.receive(offer.message).refuse(ErrorNo.INVALID_SPPAR)

    authenticated = []

    def receive(raw: bytes) -> None:
        try:
            offer.complete(raw)
        except ReceivedError as received:
            authenticated.append(received.authenticated)
            raise

    refuses_all(error, receive)
    assert authenticated
    assert not any(authenticated)
    with pytest.raises(ReceivedError) as caught:
        offer.complete(error)
    assert caught.value.authenticated
    assert caught.value.numbers == (ErrorNo.INVALID_SPPAR,)


@pytest.mark.parametrize("starter", list(Role))
def test_update(alice: Participant, bobby: Participant, starter: Role) -> None:
    offer = _offered(alice, bobby, "derived")
    answer = bobby.receive(offer.message).answer()
    sessions: tuple[Session, Session] = offer.complete(answer.message or b""), answer.session
    one, other = sessions if starter is Role.INITIATOR else sessions[::-1]
    before = other.srtp
    update = one.start_update(keys=[tek(b"u")])
    refuses_all(update.raw, other.answer_update)
    assert other.srtp == before
    response = other.answer_update(update.raw, keys=[tek(b"v")])
    assert response is not None
    refuses_all(response.raw, one.complete_update)
    assert one.srtp == before
    one.complete_update(response.raw)
    assert one.keys == other.keys
