"""REQUEST and RESOLVE over HTTP (docs/http.md): a real `kms serve`, real TLS, http.client."""

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest

from kms.client.v1.client_pb2_grpc import ClientServiceStub
from kms.mikey.message import Message
from kms.mikey.payloads import KeyData
from kms.mikey.registry import DataType, ErrorNo, KeyType
from kms.party.credential import Credential
from kms.party.initiator import OutgoingTransfer
from kms.party.party import Party
from kms.party.requesting import TicketRequest
from kms.party.responder import IncomingTransfer
from tests.e2e.home import Server, init, serving
from tests.e2e.test_forwarding import _connected
from tests.e2e.test_refusals import SRTP, Caller

ALICE, BOB, FOCUS = "sip:alice@example.com", "sip:bob@example.com", "sip:focus@example.com"
MIKEY = {"Content-Type": "application/mikey"}
REQUEST, RESOLVE = "/client/v1/request", "/client/v1/resolve"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A KMS with the HTTP endpoint."""
    home = tmp_path_factory.mktemp("http") / "home"
    init(home)
    config = home / "kms.toml"
    text = config.read_text()
    assert '# http = "127.0.0.1:8443"' in text, "off by default, and the file says how to turn it on"
    config.write_text(text.replace('# http = "127.0.0.1:8443"', 'http = "127.0.0.1:0"'))
    with serving(home) as running:
        yield running


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def reason(self) -> str:
        return self.headers["Kms-Reason"]

    @property
    def message(self) -> Message:
        assert self.headers["Content-Type"] == "application/mikey"
        return Message.decode(self.body)


class Terminal:
    """Somebody with a certificate and an HTTP client."""

    def __init__(self, server: Server, file: Path) -> None:
        credential = Credential.load(file)
        self.party = Party.of(credential)
        context = ssl.create_default_context(cadata=credential.ca_cert)
        with contextlib.ExitStack() as stack:
            tmp = file.with_suffix(".pem")
            tmp.write_text(credential.tls_cert + credential.tls_key)
            stack.callback(tmp.unlink)
            context.load_cert_chain(tmp)
        self.context = context
        self.host, port = server.http.rsplit(":", 1)
        self.port = int(port)
        self.connection = self.connect()

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, timeout=20, context=self.context)

    def post(
        self, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST"
    ) -> Answer:
        self.connection.request(method, path, body, MIKEY if headers is None else headers)
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read())


@pytest.fixture(scope="module")
def terminals(web: Server) -> Iterator[dict[str, Terminal]]:
    found = {
        identity: Terminal(web, web.enrol(identity, "focus" if identity == FOCUS else "client"))
        for identity in (ALICE, BOB, FOCUS)
    }
    yield found
    for terminal in found.values():
        terminal.connection.close()


@pytest.fixture
def desired(web: Server) -> Iterator[Caller]:
    with _connected(web.enrol(ALICE)) as caller:
        yield caller


def _request(caller: Caller, party: Party, responder: str = BOB) -> TicketRequest:
    return TicketRequest(party, caller.desired(responder))


def test_request_and_resolve(terminals: dict[str, Terminal], desired: Caller) -> None:
    """A whole call over HTTP, several requests on one connection."""
    alice, bob = terminals[ALICE], terminals[BOB]
    for _ in range(2):
        request = _request(desired, alice.party)
        answer = alice.post(REQUEST, request.message.raw)
        assert answer.status == HTTPStatus.OK
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.message.hdr.data_type == DataType.REQUEST_RESP
        granted = request.complete(answer.body)
        transfer = OutgoingTransfer(alice.party, granted, BOB.encode(), *SRTP)
        incoming = IncomingTransfer(bob.party, transfer.message.raw)
        incoming.resolved(bob.post(RESOLVE, incoming.resolve_init().raw).body)
        session = transfer.complete(incoming.answer().raw)
        assert session.keys == incoming.session.keys  # type: ignore[union-attr]


def test_group_keys_need_the_focus_s_path(terminals: dict[str, Terminal], desired: Caller) -> None:
    focus = terminals[FOCUS]
    from dataclasses import replace

    from kms.mikey import policy as rules

    data = rules.tp_data(
        kms=focus.party.kms_identity,
        initiator=focus.party.identity,
        responders=[FOCUS.encode()],
        end=int(focus.party.sources.now()) + 600,
        keys=[KeyData(KeyType.GTGK, bytes(32))],
    )
    wanted = replace(desired.desired(FOCUS), tp_data=data)
    answer = focus.post(REQUEST, TicketRequest(focus.party, wanted).message.raw)
    assert (answer.status, answer.reason) == (HTTPStatus.FORBIDDEN, "NOT_AUTHORIZED")
    request = TicketRequest(focus.party, wanted)
    assert request.complete(focus.post("/focus/v1/request", request.message.raw).body).session_keys


def test_refusals_are_those_of_grpc(terminals: dict[str, Terminal], desired: Caller) -> None:
    alice, bob = terminals[ALICE], terminals[BOB]
    good = _request(desired, alice.party).message.raw
    answer = alice.post(REQUEST, b"\1")
    assert (answer.status, answer.reason) == (HTTPStatus.BAD_REQUEST, "MALFORMED_MESSAGE")
    assert answer.headers.get_content_type() == "text/plain", "an unreadable HDR has no Error message"
    assert answer.body.strip()
    answer = bob.post(REQUEST, good)
    assert (answer.status, answer.reason) == (HTTPStatus.FORBIDDEN, "TLS_IDENTITY_MISMATCH")
    tampered = bytearray(good)
    tampered[40] ^= 1  # in RANDRi
    answer = alice.post(REQUEST, bytes(tampered))
    assert (answer.status, answer.reason) == (HTTPStatus.FORBIDDEN, "AUTHENTICATION_FAILED")
    assert answer.message.error_numbers == (ErrorNo.AUTH_FAILURE,)
    answer = alice.post("/focus/v1/request", good)
    assert (answer.status, answer.reason) == (HTTPStatus.FORBIDDEN, "NOT_AUTHORIZED")
    assert alice.post(REQUEST, good).status == HTTPStatus.OK, "what was refused has not used the message up"
    answer = alice.post(REQUEST, b"")
    assert (answer.status, answer.reason) == (HTTPStatus.BAD_REQUEST, "MESSAGE_EMPTY")


def test_one_replay_cache_for_both_transports(terminals: dict[str, Terminal], desired: Caller) -> None:
    alice = terminals[ALICE]
    message = _request(desired, alice.party).message.raw
    assert desired.request(message)
    answer = alice.post(REQUEST, message)
    assert (answer.status, answer.reason) == (HTTPStatus.CONFLICT, "REPLAYED")
    assert isinstance(desired.client, ClientServiceStub)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", REQUEST, {}, HTTPStatus.METHOD_NOT_ALLOWED),
        ("PUT", REQUEST, MIKEY, HTTPStatus.METHOD_NOT_ALLOWED),
        ("POST", "/", MIKEY, HTTPStatus.NOT_FOUND),
        ("POST", REQUEST + "?x", MIKEY, HTTPStatus.NOT_FOUND),
        ("POST", REQUEST, {"Content-Type": "application/json"}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        ("POST", REQUEST, {}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        ("POST", REQUEST, {**MIKEY, "Transfer-Encoding": "chunked"}, HTTPStatus.LENGTH_REQUIRED),
        ("POST", REQUEST, {**MIKEY, "Content-Length": "-1"}, HTTPStatus.LENGTH_REQUIRED),
        ("POST", REQUEST, {**MIKEY, "Content-Length": "9" * 5000}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        ("POST", REQUEST, {**MIKEY, "X": "x" * 70000}, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
)
def test_what_is_no_request(
    terminals: dict[str, Terminal], method: str, path: str, headers: dict[str, str], status: HTTPStatus
) -> None:
    terminal = terminals[ALICE]
    answer = terminal.post(path, b"" if "Transfer-Encoding" in headers else b"\1\2", headers, method)
    assert answer.status == status
    assert answer.headers["Server"] == "kms"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        assert answer.headers["Allow"] == "POST"


def test_a_message_that_is_too_large_is_not_read(terminals: dict[str, Terminal]) -> None:
    answer = terminals[ALICE].post(REQUEST, b"", {**MIKEY, "Content-Length": "65537"})
    assert (answer.status, answer.reason) == (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "MESSAGE_TOO_LARGE")


def test_a_client_without_our_certificate_is_not_served(web: Server, terminals: dict[str, Terminal]) -> None:
    stranger = ssl.create_default_context(cadata=Credential.load(web.enrol(ALICE)).ca_cert)
    host, port = terminals[ALICE].host, terminals[ALICE].port
    for connection in (
        http.client.HTTPSConnection(host, port, timeout=20, context=stranger),
        http.client.HTTPConnection(host, port, timeout=20),
    ):
        with pytest.raises((OSError, http.client.HTTPException)):
            _exchange(connection)


def _exchange(connection: http.client.HTTPConnection) -> None:
    with contextlib.closing(connection):
        connection.request("POST", REQUEST, b"\1", MIKEY)
        connection.getresponse()


def test_connections_without_an_end_are_bounded_and_end(
    terminals: dict[str, Terminal], desired: Caller
) -> None:
    """More half-open connections than there are places: they are closed in time, and then the next one is served."""
    alice = terminals[ALICE]
    alice.connection.close()
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((alice.host, alice.port), 30)) for _ in range(70)
        ]
        for sock in idle:
            assert sock.recv(1) == b"", "closed at once, or after the time for a handshake"
        assert alice.post(REQUEST, _request(desired, alice.party).message.raw).status == HTTPStatus.OK


def test_a_request_that_does_not_arrive_ends_the_connection(terminals: dict[str, Terminal]) -> None:
    alice = terminals[ALICE]
    with (
        socket.create_connection((alice.host, alice.port), 30) as sock,
        alice.context.wrap_socket(sock, server_hostname=alice.host) as tls,
    ):
        tls.sendall(
            b"POST /client/v1/request HTTP/1.1\r\nContent-Type: application/mikey\r\nContent-Length: 9\r\n\r\nx"
        )
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert tls.recv(1) == b""


def test_the_server_stops_with_a_connection_open(tmp_path: Path) -> None:
    home = tmp_path / "home"
    init(home)
    config = home / "kms.toml"
    config.write_text(config.read_text().replace('# http = "127.0.0.1:8443"', 'http = "127.0.0.1:0"'))
    with serving(home) as server:
        terminal = Terminal(server, server.enrol(ALICE))
        assert terminal.post(REQUEST, b"\1").status == HTTPStatus.BAD_REQUEST
    terminal.connection.close()
