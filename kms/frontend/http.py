"""REQUEST and RESOLVE over HTTP, for terminals that speak that to a KMS: docs/http.md.

The same mutual TLS, limits, replay cache and engines as over gRPC; only the wrapping differs. Threads are bounded, and
each request has a time to arrive in, so that a slow client cannot keep one.
"""

import io
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

import grpc
import structlog

from kms import logs
from kms.config import Address, Config
from kms.engine.v1.link_pb2 import CalledService, Operation, Refusal
from kms.frontend.answering import MAX_MESSAGE, Answering, Call
from kms.frontend.errors import Refused, StartError, refusal, retry_after
from kms.frontend.metrics import Metrics
from kms.frontend.services import CLIENT, FOCUS, REQUEST_TICKET, RESOLVE_TICKET

MEDIA_TYPE = "application/mikey"  # RFC 3830 10.1
REASON_HEADER, PEER_REASON_HEADER = "Kms-Reason", "Kms-Peer-Reason"

_PATHS: dict[str, tuple[CalledService.ValueType, Operation.ValueType]] = {
    "/client/v1/request": (CLIENT, REQUEST_TICKET),
    "/client/v1/resolve": (CLIENT, RESOLVE_TICKET),
    "/focus/v1/request": (FOCUS, REQUEST_TICKET),
    "/focus/v1/resolve": (FOCUS, RESOLVE_TICKET),
}
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    # Not 401: that asks for HTTP authentication (RFC 9110 15.5.2), which would not help.
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}

_CONNECTIONS = 64
_HANDSHAKE_SECONDS = 5.0
# For one request to arrive, counted from the end of the one before; also how long a connection may idle.
_REQUEST_SECONDS = 10.0
# For a client to take its last answer and close its end.
_LINGER_SECONDS = 2.0

_log = structlog.get_logger()


class HttpServer:
    """The endpoint, bound but not serving. Raises StartError."""

    def __init__(self, config: Config, address: Address, answering: Answering, metrics: Metrics) -> None:
        self._server = _Server(address, _tls(config), answering, metrics)
        self.address = Address(address.host, self._server.server_address[1])

    def start(self) -> None:
        """Accept connections, in threads of its own."""
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def stop(self) -> None:
        """Accept no more connections; an answer that is still sent ends its connection."""
        self._server.draining = True
        self._server.shutdown()
        self._server.server_close()

    def drain(self, seconds: float) -> None:
        """After stop: wait so long for requests in flight."""
        self._server.wait_answered(seconds)


class _Server(socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: Address, tls: ssl.SSLContext, answering: Answering, metrics: Metrics) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.tls, self.answering, self.metrics = tls, answering, metrics
        self.draining = False
        self._places = threading.BoundedSemaphore(_CONNECTIONS)
        self._answered = threading.Condition()
        self._in_flight = 0
        super().__init__((address.host, address.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection, if one is free: with none, the connection is closed at once."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            threading.Thread(
                target=self._serve, args=(request, client_address), name="http-call", daemon=True
            ).start()
        except RuntimeError:
            self._places.release()
            self.shutdown_request(request)

    def _serve(self, sock: socket.socket, client_address: Any) -> None:
        try:
            sock.settimeout(_HANDSHAKE_SECONDS)
            with self.tls.wrap_socket(sock, server_side=True) as secured:
                _Handler(secured, client_address, self)
                _close_gently(secured)
        except (OSError, ValueError):
            pass  # the client's end of it: no TLS, no certificate of ours, gone in the middle
        except Exception as error:  # noqa: BLE001 - one connection must not end the endpoint
            _log.error("fault while serving an HTTP connection", **logs.where(error))
        finally:
            sock.close()
            self._places.release()

    def answer(self, run: Callable[[], None]) -> None:
        """Run what answers one request, so that wait_answered knows of it."""
        with self._answered:
            self._in_flight += 1
        try:
            run()
        finally:
            with self._answered:
                self._in_flight -= 1
                self._answered.notify_all()

    def wait_answered(self, seconds: float) -> None:
        with self._answered:
            self._answered.wait_for(lambda: self._in_flight == 0, seconds)


class _BadRequest(Exception):
    """An HTTP request without a MIKEY message that could be answered; the text says what to do."""

    def __init__(self, status: HTTPStatus, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.headers = {REASON_HEADER: reason} if reason else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    connection: ssl.SSLSocket
    # Head and body are two writes: the second must not wait for the first one's acknowledgement.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._arriving = _Arriving(self.connection)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._arriving)

    def handle_one_request(self) -> None:
        self._arriving.restart(_REQUEST_SECONDS)
        super().handle_one_request()

    def do_POST(self) -> None:
        """Answer one MIKEY message."""
        self.server.answer(self._post)

    def _post(self) -> None:
        try:
            if self.path not in _PATHS:
                raise _BadRequest(HTTPStatus.NOT_FOUND, f"POST to one of {', '.join(_PATHS)}")
            body = self._body()
        except _BadRequest as bad:
            # Where the next request would begin is not known.
            self.close_connection = True
            self._send_text(bad.status, str(bad), bad.headers)
            return
        metrics, started = self.server.metrics, time.perf_counter()
        answer = self._answer(_PATHS[self.path], body)
        code = _CODES[answer.code] if isinstance(answer, Refusal) else grpc.StatusCode.OK
        metrics.duration.labels("http", self.path).observe(time.perf_counter() - started)
        metrics.requests.labels("http", self.path, code.name).inc()
        if isinstance(answer, Refusal):
            metrics.refusals.labels(answer.reason).inc()
            self._refuse(answer, _STATUS.get(code, HTTPStatus.INTERNAL_SERVER_ERROR))
        else:
            self._send(HTTPStatus.OK, MEDIA_TYPE, answer)

    def _answer(
        self, called: tuple[CalledService.ValueType, Operation.ValueType], body: bytes
    ) -> bytes | Refusal:
        try:
            identities = self._tls_identities()
            (outcome,) = self.server.answering.answer(Call.start(*called, identities, None), [body])
        except Refused as error:
            return error.refusal
        except Exception as error:  # noqa: BLE001 - its text must not reach the caller
            _log.error("fault while answering a call", method=self.path, **logs.where(error))
            return refusal("FRONTEND_FAULT")
        return outcome.refusal if outcome.HasField("refusal") else outcome.mikey_message

    def _tls_identities(self) -> list[str]:
        """The URIs of the client certificate that TLS has verified. Raises Refused if it has none."""
        names: Any = (self.connection.getpeercert() or {}).get("subjectAltName", ())
        uris = [value for kind, value in names if kind == "URI" and value.isascii()]
        if not uris:
            raise Refused(refusal("TLS_IDENTITY_MISSING"))
        return uris

    def _body(self) -> bytes:
        """The message. Raises _BadRequest, OSError."""
        lengths = self.headers.get_all("Content-Length", [])
        length = lengths[0] if len(lengths) == 1 else ""
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            raise _BadRequest(
                HTTPStatus.LENGTH_REQUIRED, "send the message with one Content-Length, not chunked"
            )
        if len(length) > 9 or int(length) > MAX_MESSAGE:
            refused = refusal("MESSAGE_TOO_LARGE")
            raise _BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, refused.message, refused.reason)
        if self.headers.get_content_type() != MEDIA_TYPE:
            raise _BadRequest(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type must be {MEDIA_TYPE}")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise ConnectionError
        return body

    def _refuse(self, refused: Refusal, status: HTTPStatus) -> None:
        """The MIKEY Error message where there is one, else the text for a person."""
        headers = {REASON_HEADER: refused.reason}
        if refused.peer_reason:
            headers[PEER_REASON_HEADER] = refused.peer_reason
        seconds = retry_after(refused)
        if seconds is not None:
            headers["Retry-After"] = str(seconds)
        if refused.mikey_error_message:
            self._send(status, MEDIA_TYPE, refused.mikey_error_message, headers)
        else:
            self._send_text(status, refused.message, headers)

    def _send_text(self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers)

    def _send(
        self, status: HTTPStatus, content_type: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.connection.settimeout(_REQUEST_SECONDS)
        self.close_connection = self.close_connection or self.server.draining
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, such as another method: as text, without what the client sent."""
        status = HTTPStatus(code)
        # It has no handler for another method, which it answers with 501.
        status = HTTPStatus.METHOD_NOT_ALLOWED if status == HTTPStatus.NOT_IMPLEMENTED else status
        headers = {"Allow": "POST"} if status == HTTPStatus.METHOD_NOT_ALLOWED else None
        self.close_connection = True
        self._send_text(status, status.phrase, headers)

    def version_string(self) -> str:
        """The Server header: no versions."""
        return "kms"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """No access log: it would say who called when."""


class _Arriving(io.RawIOBase):
    """What a client sends, read until a deadline: a client that sends a byte now and then gains nothing."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._deadline = 0.0

    def restart(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining)
        return self._connection.recv_into(buffer)


def _close_gently(connection: ssl.SSLSocket) -> None:
    """End an answered connection. Closed with something unread, it would take its last answer away from the client."""
    deadline = time.monotonic() + _LINGER_SECONDS
    connection.shutdown(socket.SHUT_WR)
    while (remaining := deadline - time.monotonic()) > 0:
        connection.settimeout(remaining)
        if not connection.recv(MAX_MESSAGE):
            return


def _tls(config: Config) -> ssl.SSLContext:
    """As for gRPC: a client certificate of our CA is demanded. The gRPC server has checked the files already."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Each connection shows its certificate anew: no resumption.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_verify_locations(config.tls_ca)
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except OSError as error:
        raise StartError(f"the TLS files cannot be used for HTTP: {error.strerror}") from None
    return context
