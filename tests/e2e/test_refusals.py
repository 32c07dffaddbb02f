"""Bad input to the real server: each kind gets its gRPC code, its ErrorInfo reason and, where allowed, a MIKEY Error.

The messages are made by the real party code and then broken, or by a party that breaks one rule.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from kms.client.v1.client_pb2 import MikeyErrorMessage, RequestTicketRequest, ResolveTicketRequest
from kms.client.v1.client_pb2_grpc import ClientServiceStub
from kms.crypto.sources import Sources
from kms.focus.v1 import focus_pb2
from kms.focus.v1.focus_pb2_grpc import FocusServiceStub
from kms.mikey import policy as rules
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, GenericIdSession, KeyData, Sp, TicketPolicy
from kms.mikey.registry import ErrorNo, KeyType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.credential import Credential
from kms.party.initiator import OutgoingTransfer
from kms.party.party import Party, SuiteKey
from kms.party.requesting import GrantedTicket, TicketRequest
from kms.party.responder import IncomingTransfer
from tests.e2e.home import Server

ALICE, BOB, MALLORY = (f"sip:ref-{who}@example.com" for who in ("alice", "bob", "mallory"))
SRTP: tuple[list[GenericIdSession], list[Sp]] = ([GenericIdSession(1, (0,))], [AES_CM_128_HMAC_SHA1_80.sp(0)])


@dataclass
class Caller:
    """A subscriber with a raw connection."""

    credential: Credential
    party: Party
    client: ClientServiceStub
    focus: FocusServiceStub

    def request(self, message: bytes) -> bytes:
        return self.client.RequestTicket(
            RequestTicketRequest(mikey_message=message), timeout=20
        ).mikey_message

    def resolve(self, message: bytes) -> bytes:
        return self.client.ResolveTicket(
            ResolveTicketRequest(mikey_message=message), timeout=20
        ).mikey_message

    def ticket_for(self, responder: str) -> GrantedTicket:
        request = TicketRequest(self.party, self.desired(responder))
        return request.complete(self.request(request.message.raw))

    def desired(self, responder: str, **changes: object) -> TicketPolicy:
        data = rules.tp_data(
            kms=self.party.kms_identity,
            initiator=self.party.identity,
            responders=[responder.encode()],
            end=int(self.party.sources.now()) + 600,
            keys=[KeyData(KeyType.TGK, bytes(32))],
        )
        return replace(TicketPolicy(*DERIVED_TICKET, 1, rules.FORKED_MODE_1, data), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def callers(server: Server) -> Iterator[dict[str, Caller]]:
    found, channels = {}, []
    for identity in (ALICE, BOB, MALLORY):
        credential = Credential.load(server.enrol(identity))
        tls = grpc.ssl_channel_credentials(
            credential.ca_cert.encode(), credential.tls_key.encode(), credential.tls_cert.encode()
        )
        channel = grpc.secure_channel(credential.target, tls)
        channels.append(channel)
        stubs = ClientServiceStub(channel), FocusServiceStub(channel)
        found[identity] = Caller(credential, Party.of(credential), *stubs)
    yield found
    for channel in channels:
        channel.close()


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, Message | None]:
    """Code, ErrorInfo reason and MIKEY Error message of a call that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    info, mikey = error_details_pb2.ErrorInfo(), None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        if detail.Is(MikeyErrorMessage.DESCRIPTOR):
            error = MikeyErrorMessage()
            detail.Unpack(error)
            mikey = Message.decode(error.mikey_message)
    assert info.domain == "kms"
    assert status.message
    code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
    return code, info.reason, mikey


def test_malformed_truncated_oversized_and_empty(callers: dict[str, Caller]) -> None:
    alice = callers[ALICE]
    good = TicketRequest(alice.party, alice.desired(BOB)).message.raw
    for bad in (b"\1", good[:-1], good[: len(good) // 2], good + b"\0", b"\2" + good[1:], bytes(300)):
        code, reason, mikey = refusal(lambda bad=bad: alice.request(bad))  # type: ignore[misc]
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
        if bad[:10] != good[:10]:
            assert mikey is None, "without HDR there is nothing that an Error message could repeat"
            continue
        assert mikey is not None
        assert mikey.hdr.csb_id == Message.decode(good).hdr.csb_id
        assert mikey.error_numbers == (ErrorNo.UNSPECIFIED,)
    assert refusal(lambda: alice.request(bytes(65537)))[:2] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "MESSAGE_TOO_LARGE",
    )
    assert refusal(lambda: alice.request(b""))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_EMPTY")
    assert alice.request(good), "what was refused has done no harm to the good one"


def test_a_replay_is_refused_and_a_refused_message_is_not_remembered(callers: dict[str, Caller]) -> None:
    alice = callers[ALICE]
    message = TicketRequest(alice.party, alice.desired(BOB)).message.raw
    assert refusal(lambda: alice.resolve(message))[1] == "UNEXPECTED_MESSAGE"
    assert alice.request(message)
    assert refusal(lambda: alice.request(message))[:2] == (grpc.StatusCode.ALREADY_EXISTS, "REPLAYED")


@pytest.mark.parametrize("offset", [-3600, -90, 90, 3600])
def test_stale_and_future_messages(callers: dict[str, Caller], offset: int) -> None:
    alice = callers[ALICE]
    elsewhen = replace(alice.party, sources=Sources(clock=lambda: Sources().now() + offset))
    code, reason, mikey = refusal(
        lambda: alice.request(TicketRequest(elsewhen, alice.desired(BOB)).message.raw)
    )
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TIMESTAMP_OUT_OF_RANGE")
    assert mikey is not None
    assert mikey.error_numbers == (ErrorNo.INVALID_TS,)


def test_a_wrong_key_and_an_unknown_user_look_the_same(callers: dict[str, Caller]) -> None:
    alice = callers[ALICE]
    (key,) = alice.party.keys
    assert isinstance(key, SuiteKey)
    wrong = replace(alice.party, keys=(replace(key, psk=alice.party.ops.load(bytes(32), key.psk.use)),))
    unknown_id = key.psk_id[:8] + b"sip:nobody@example.com"
    unknown = replace(wrong, identity=b"sip:nobody@example.com", keys=(replace(key, psk_id=unknown_id),))
    next_version = replace(wrong, keys=(replace(key, psk_id=key.psk_id[:7] + b"\7" + key.psk_id[8:]),))
    garbled = replace(wrong, keys=(replace(key, psk_id=b"\xff" * 9),))
    answers = []
    for party in (wrong, unknown, next_version, garbled):
        message = TicketRequest(party, alice.desired(BOB)).message.raw
        code, reason, mikey = refusal(lambda message=message: alice.request(message))  # type: ignore[misc]
        assert mikey is not None
        answers.append((code, reason, mikey.error_numbers, len(mikey.raw), mikey.payloads[1:]))
    assert answers[0][:2] == (grpc.StatusCode.UNAUTHENTICATED, "AUTHENTICATION_FAILED")
    assert answers == [answers[0]] * 4


def test_a_tampered_message(callers: dict[str, Caller]) -> None:
    alice = callers[ALICE]
    good = bytearray(TicketRequest(alice.party, alice.desired(BOB)).message.raw)
    good[40] ^= 1  # in RANDRi
    assert refusal(lambda: alice.request(bytes(good)))[1] == "AUTHENTICATION_FAILED"


def test_a_message_over_the_connection_of_another(callers: dict[str, Caller]) -> None:
    message = TicketRequest(callers[ALICE].party, callers[ALICE].desired(BOB)).message.raw
    code, reason, _ = refusal(lambda: callers[MALLORY].request(message))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "TLS_IDENTITY_MISMATCH")
    assert callers[ALICE].request(message), "the refused attempt has not used the message up"


def test_a_gateway_carries_what_it_may(server: Server, callers: dict[str, Caller]) -> None:
    file = server.enrol("sip:gateway@example.com", "gateway", "--acts-for", "sip:ref-a*@example.com")
    entry = json.loads(file.read_text())
    tls = grpc.ssl_channel_credentials(*(entry[k].encode() for k in ("ca_cert", "tls_key", "tls_cert")))
    with grpc.secure_channel(entry["target"], tls) as channel:
        stub = ClientServiceStub(channel)
        message = TicketRequest(callers[ALICE].party, callers[ALICE].desired(BOB)).message.raw
        assert stub.RequestTicket(RequestTicketRequest(mikey_message=message), timeout=20).mikey_message
        message = TicketRequest(callers[BOB].party, callers[BOB].desired(ALICE)).message.raw
        code, reason, _ = refusal(
            lambda: stub.RequestTicket(RequestTicketRequest(mikey_message=message), timeout=20)
        )
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "TLS_IDENTITY_MISMATCH")


def test_identity_and_policy_rules(callers: dict[str, Caller]) -> None:
    alice, bob = callers[ALICE], callers[BOB]
    as_bob = replace(alice.party, identity=bob.party.identity)
    assert (
        refusal(lambda: alice.request(TicketRequest(as_bob, alice.desired(BOB)).message.raw))[1]
        == "NOT_AUTHORIZED"
    )
    for_bob = bob.desired(ALICE)
    assert (
        refusal(lambda: alice.request(TicketRequest(alice.party, for_bob).message.raw))[1] == "NOT_AUTHORIZED"
    )
    unknown = alice.desired(BOB, ticket_type=61441)
    code, reason, mikey = refusal(lambda: alice.request(TicketRequest(alice.party, unknown).message.raw))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TICKET")
    assert mikey is not None
    assert mikey.error_numbers == (ErrorNo.INVALID_TICKET,)
    (own,) = alice.party.keys
    assert own.suite.mac_alg == mikey.v.auth_alg, (
        "the Error message to an authenticated sender is authenticated"
    )
    no_e = alice.desired(BOB, flags=rules.FORKED_MODE_1 & ~(Flags.E | Flags.I))
    assert (
        refusal(lambda: alice.request(TicketRequest(alice.party, no_e).message.raw))[1]
        == "INVALID_TICKET_POLICY"
    )


def test_the_focus_service_needs_the_focus_role(callers: dict[str, Caller]) -> None:
    alice = callers[ALICE]
    message = TicketRequest(alice.party, alice.desired(BOB)).message.raw
    with pytest.raises(grpc.RpcError) as caught:
        alice.focus.RequestTicket(focus_pb2.RequestTicketRequest(mikey_message=message), timeout=20)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def _resolve_init(sender: Caller, responder: Caller, granted: GrantedTicket, to: str) -> bytes:
    transfer = OutgoingTransfer(sender.party, granted, to.encode(), *SRTP)
    return IncomingTransfer(responder.party, transfer.message.raw).resolve_init().raw


def test_tickets_that_must_not_be_opened(callers: dict[str, Caller]) -> None:
    alice, bob, mallory = callers[ALICE], callers[BOB], callers[MALLORY]
    granted = alice.ticket_for(BOB)
    assert bob.resolve(_resolve_init(alice, bob, granted, BOB))

    # Mallory asks for a ticket that does not name her: her own SDK would not, so she poses as bob to it.
    as_bob = replace(mallory.party, identity=bob.party.identity)
    transfer = OutgoingTransfer(alice.party, granted, BOB.encode(), *SRTP)
    incoming = IncomingTransfer(as_bob, transfer.message.raw)
    incoming._party = mallory.party
    code, reason, _ = refusal(lambda: mallory.resolve(incoming.resolve_init().raw))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_AUTHORIZED")

    # A byte of the ticket's MAC, and one of its RAND.
    data = granted.ticket.ticket_data
    for at in (len(data) - 1, 40):
        broken = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        forged = replace(granted, ticket=replace(granted.ticket, ticket_data=broken))
        message = _resolve_init(alice, bob, forged, BOB)
        code, reason, _ = refusal(lambda message=message: bob.resolve(message))  # type: ignore[misc]
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "TICKET_NOT_AUTHENTIC")

    # Initiator Data made with MPKi, as a legitimate recipient could.
    grafted = replace(granted, mpkr=granted.mpki)
    code, reason, mikey = refusal(lambda: bob.resolve(_resolve_init(alice, bob, grafted, BOB)))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "INITIATOR_NOT_AUTHENTIC")
    assert mikey is not None
    assert mikey.error_numbers == (ErrorNo.AUTH_FAILURE,)


def test_the_server_wants_a_client_certificate(server: Server, callers: dict[str, Caller]) -> None:
    tls = grpc.ssl_channel_credentials(callers[ALICE].credential.ca_cert.encode())
    with grpc.secure_channel(server.grpc, tls) as channel, pytest.raises(grpc.RpcError) as caught:
        ClientServiceStub(channel).RequestTicket(RequestTicketRequest(mikey_message=b"\1"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
