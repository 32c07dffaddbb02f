"""Attacks on the running server: clients that hold its threads, and what is sent to its sockets."""

import contextlib
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from kms import link
from kms.admin.v1.admin_pb2 import AdminReply, AdminRequest, ListUsersRequest
from kms.client.v1.client_pb2 import RequestTicketRequest
from kms.client.v1.client_pb2_grpc import ClientServiceStub
from kms.crypto.sources import Sources
from kms.engine.process import ADMIN_SOCKET
from kms.mikey import policy as rules
from kms.mikey.payloads import TicketPolicy
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.credential import Credential
from kms.party.party import Party
from kms.party.requesting import TicketRequest
from tests.e2e.home import Server

ALICE, MALLORY = "sip:attack-alice@example.com", "sip:attack-mallory@example.com"
METHOD = "/kms.client.v1.ClientService/RequestTicket"
THREADS = 64


@contextlib.contextmanager
def channel(server: Server, identity: str) -> Iterator[grpc.Channel]:
    """A subscriber's raw connection."""
    credential = Credential.load(server.enrol(identity))
    tls = grpc.ssl_channel_credentials(
        credential.ca_cert.encode(), credential.tls_key.encode(), credential.tls_cert.encode()
    )
    with grpc.secure_channel(credential.target, tls) as opened:
        yield opened


def request_ticket(server: Server, opened: grpc.Channel) -> None:
    """Alice is granted a ticket."""
    party = Party.of(Credential.load(server.enrol(ALICE)), Sources())
    tp_data = rules.tp_data(
        kms=party.kms_identity, initiator=party.identity, responders=[b"sip:bob@example.com"]
    )
    request = TicketRequest(party, TicketPolicy(*DERIVED_TICKET, 1, rules.FORKED_MODE_1, tp_data))
    answer = ClientServiceStub(opened).RequestTicket(
        RequestTicketRequest(mikey_message=request.message.raw), timeout=20
    )
    request.complete(answer.mikey_message)


def test_headers_without_requests_do_not_stop_the_others(server: Server) -> None:
    """A call has a thread of the server while it waits for its request: one client once held all of them for ever."""
    released = threading.Event()

    def never() -> Iterator[bytes]:
        released.wait(60)
        yield from ()

    with channel(server, ALICE) as alice, channel(server, MALLORY) as mallory:
        request_ticket(server, alice)
        method: Any = mallory.stream_unary(METHOD)
        calls = [method.future(never()) for _ in range(THREADS)]
        ended = threading.Semaphore(0)
        for call in calls:
            call.add_done_callback(lambda _call: ended.release())
        try:
            for _ in range(THREADS - 8):
                assert ended.acquire(timeout=20)
            request_ticket(server, alice)
        finally:
            released.set()
            for call in calls:
                call.cancel()


@pytest.mark.parametrize(
    ("request_bytes", "reason"), [(b"\x0a\xff", "REQUEST_MALFORMED"), (None, "REQUEST_MISSING")]
)
def test_a_request_that_is_none(server: Server, request_bytes: bytes | None, reason: str) -> None:
    with channel(server, ALICE) as alice:
        requests = iter(() if request_bytes is None else (request_bytes,))
        method: Any = alice.stream_unary(METHOD)
        with pytest.raises(grpc.RpcError) as caught:
            method(requests, timeout=20)
        status = rpc_status.from_call(cast(Any, caught.value))
        assert status is not None
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in status.details)
        assert (status.code, info.reason) == (code_pb2.INVALID_ARGUMENT, reason)
        request_ticket(server, alice)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("!I", link.MAX_FRAME + 1),
        struct.pack("!I", 0xFFFFFFFF),
        struct.pack("!I", 4) + b"\xff\xff\xff\xff",
        struct.pack("!I", 1000) + b"half",
        b"\0",
    ],
)
def test_what_is_no_command_does_not_stop_the_engine(server: Server, sent: bytes) -> None:
    """The admin socket is served by the one thread that answers messages."""
    path = server.home / ADMIN_SOCKET
    with (
        link.connect_path(path) as hostile,
        link.connect_path(path) as operator,
        channel(server, ALICE) as alice,
    ):
        hostile.sendall(sent)
        hostile.shutdown(socket.SHUT_WR)
        request_ticket(server, alice)
        link.send(operator, AdminRequest(list_users=ListUsersRequest()), timeout=20)
        assert link.receive(operator, AdminReply, timeout=20).WhichOneof("reply") == "list_users"


def test_nobody_else_may_read_the_home(server: Server) -> None:
    """Not even what SQLite puts beside the directory. Certificates are public."""
    server.enrol(ALICE)
    open_to_others = {
        str(path.relative_to(server.home))
        for path in server.home.rglob("*")
        if stat.S_IMODE(path.lstat().st_mode) & 0o077 and path.suffix not in (".pem", ".toml")
    }
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700
    assert open_to_others == set()
