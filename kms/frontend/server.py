"""The gRPC server: mutual TLS, limits, services, health, reflection."""

import errno
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from kms.client.v1 import client_pb2_grpc
from kms.config import Address, Config
from kms.focus.v1 import focus_pb2_grpc
from kms.frontend.answering import MAX_MESSAGE, Answering
from kms.frontend.edge import CLIENT_SERVICE, FOCUS_SERVICE, Edge
from kms.frontend.errors import StartError
from kms.frontend.metrics import Metrics
from kms.frontend.services import MAX_BATCH, ClientService, FocusService

# Threads wait for engines and for request bodies; few of them run at a time.
_THREADS = 64
_MAX_CALLS = 1024
_MAX_REFLECTION_STREAMS = 4
# A whole batch, with what protobuf adds to each message.
_MAX_GRPC_MESSAGE = MAX_BATCH * (MAX_MESSAGE + 64)

_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_GRPC_MESSAGE),
    ("grpc.max_send_message_length", _MAX_GRPC_MESSAGE),
    # Two servers on one port would share its connections unnoticed, each with a replay cache of its own.
    ("grpc.so_reuseport", 0),
]


class Server:
    """A gRPC server that is bound but not started. Raises StartError."""

    def __init__(self, config: Config, address: Address, answering: Answering, metrics: Metrics) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="call"),
            interceptors=[Edge(metrics)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        client_pb2_grpc.add_ClientServiceServicer_to_server(ClientService(answering), self._server)
        focus_pb2_grpc.add_FocusServiceServicer_to_server(FocusService(answering, metrics), self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = [CLIENT_SERVICE, FOCUS_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            _Reflection(services), self._server
        )
        self._services = ["", CLIENT_SERVICE, FOCUS_SERVICE]
        self.set_serving(False)
        credentials = _credentials(config)
        check_free("[listen] grpc", address)
        self.address = Address(address.host, self._server.add_secure_port(str(address), credentials))

    def start(self) -> None:
        """Accept calls."""
        self._server.start()

    def set_serving(self, serving: bool) -> None:
        """What the health service says, for the server and for both services. Ignored once the server drains."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in self._services:
            self._health.set(service, status)

    def drain(self, seconds: float) -> None:
        """Health says NOT_SERVING, new calls are refused, those in flight get so many seconds. Blocks."""
        self._health.enter_graceful_shutdown()
        self._server.stop(seconds).wait()


class _Reflection(reflection.ReflectionServicer):
    """Each open reflection stream keeps one of the server's threads: a few are enough."""

    def __init__(self, service_names: list[str]) -> None:
        super().__init__(service_names)
        self._slots = threading.BoundedSemaphore(_MAX_REFLECTION_STREAMS)

    def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: Iterable[Any], context: Any
    ) -> Iterator[Any]:
        if not self._slots.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reflection streams are open")
        try:
            yield from super().ServerReflectionInfo(request_iterator, context)
        finally:
            self._slots.release()


def check_free(key: str, address: Address) -> None:
    """Bind the address once, for an error that says what is wrong; grpc's own does not. Raises StartError."""
    try:
        family, kind, protocol, _name, sockaddr = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(sockaddr)
            # On Linux a listener is only in the way of another listener.
            probe.listen(1)
    except OSError as error:
        reason = (
            "is in use by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        )
        raise StartError(f"{address} {reason}; free it or set {key} in kms.toml") from None


def _credentials(config: Config) -> grpc.ServerCredentials:
    """TLS credentials that demand a client certificate; the files are checked first, for a clear error."""
    ca, cert, key = (
        _read(name, path)
        for name, path in (("ca", config.tls_ca), ("cert", config.tls_cert), ("key", config.tls_key))
    )
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(config.tls_ca)
    except ssl.SSLError as error:
        raise StartError(f"{config.tls_ca} holds no usable CA certificate (PEM): {_why(error)}") from None
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
    except ssl.SSLError as error:
        raise StartError(
            f"{config.tls_cert} and {config.tls_key} are no certificate and its key (PEM): {_why(error)}"
        ) from None
    return grpc.ssl_server_credentials([(key, cert)], root_certificates=ca, require_client_auth=True)


def _why(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").replace("_", " ").lower()


def _no_password() -> str:
    raise StartError("the TLS key is encrypted: set [tls] key in kms.toml to one that is not")


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}; set [tls] {name} in kms.toml") from None
