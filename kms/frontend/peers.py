"""The way to other KMSs (RFC 6043 10): their ClientService over mutual TLS, with the certificates that they gave us.

The messages are made and opened by engines; what passes through here is ciphertext.
"""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from kms.client.v1.client_pb2 import MikeyErrorMessage, ResolveTicketRequest, ResolveTicketResponse
from kms.client.v1.client_pb2_grpc import ClientServiceStub
from kms.config import PeerConfig
from kms.engine.v1.link_pb2 import Forward, PeerAnswer, Refusal
from kms.frontend.errors import DOMAIN, StartError
from kms.frontend.metrics import Metrics

# How long a peer may take, unless the caller's own deadline is shorter.
ANSWER_SECONDS = 4.0
# Of the threads that answer calls, so many may wait for peers at a time. Each peer has its share: one that hangs holds
# up neither the others nor our own tickets.
_WAITING = 32

# What a peer says about the ticket or its responder. Anything else is between the two KMSs: wrong clocks, a revoked
# enrolment, overload.
_ABOUT_THE_TICKET = frozenset(
    {
        "MALFORMED_MESSAGE",
        "UNSUPPORTED_ALGORITHM",
        "WRONG_KMS",
        "NOT_AUTHORIZED",
        "INVALID_TICKET_POLICY",
        "INVALID_TICKET",
        "TICKET_NOT_VALID_NOW",
        "TICKET_NOT_AUTHENTIC",
        "INITIATOR_NOT_AUTHENTIC",
    }
)

_OPTIONS = [
    ("grpc.enable_retries", 0),
    # A peer that was down is found again within seconds, and a connection that died silently is noticed.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 3000),
    ("grpc.keepalive_time_ms", 20000),
    ("grpc.keepalive_timeout_ms", 5000),
]

_log = structlog.get_logger()


class Peers:
    """The peers of kms.toml. Thread-safe. Raises StartError for certificates that cannot be used."""

    def __init__(self, configs: Mapping[str, PeerConfig], metrics: Metrics) -> None:
        share = max(1, _WAITING // max(1, len(configs)))
        self._peers = {
            identity: _Peer(identity, config, share, metrics) for identity, config in configs.items()
        }

    def ask(self, forwards: Sequence[Forward], deadline: float) -> list[PeerAnswer | None]:
        """Ask for all at once; the answer to each, or None where the peer gave none. Blocks at most ANSWER_SECONDS.

        deadline: time.monotonic at which the caller is gone.
        """
        seconds = min(ANSWER_SECONDS, deadline - time.monotonic())
        with contextlib.ExitStack() as stack:
            open_to = {name: self._enter(name, stack) for name in {forward.peer for forward in forwards}}
            calls = [_start(open_to[forward.peer], forward, seconds) for forward in forwards]
            return [None if call is None else call.answer() for call in calls]

    def close(self) -> None:
        """Close the connections."""
        for peer in self._peers.values():
            peer.channel.close()

    def _enter(self, name: str, stack: contextlib.ExitStack) -> "_Peer | None":
        """The peer, with one of its places taken until the stack ends; None if all are taken."""
        peer = self._peers.get(name)
        if peer is None:
            _log.error("an engine forwards to a peer that this frontend does not know", peer=name)
            return None
        if not peer.places.acquire(blocking=False):
            peer.count("busy")
            return None
        stack.callback(peer.places.release)
        return peer


class _Peer:
    """The connection to one peer; it connects when first used."""

    def __init__(self, identity: str, config: PeerConfig, share: int, metrics: Metrics) -> None:
        self.identity = identity
        self.places = threading.BoundedSemaphore(share)
        self._forwards = metrics.forwards
        ca, key, cert = (_read(path) for path in (config.ca, config.key, config.cert))
        try:
            self.channel = grpc.secure_channel(
                config.target, grpc.ssl_channel_credentials(ca, key, cert), _OPTIONS
            )
        except (ValueError, TypeError, RuntimeError):
            raise StartError(
                f"the TLS files of peer {identity} cannot be used; run `kms peer add` again"
            ) from None
        self.stub = ClientServiceStub(self.channel)

    def count(self, outcome: str) -> None:
        self._forwards.labels(self.identity, outcome).inc()


class _Call:
    """One ResolveTicket under way."""

    def __init__(self, peer: _Peer, asked: bytes, seconds: float) -> None:
        self._peer = peer
        self._asked = asked
        self._future: Any = peer.stub.ResolveTicket.future(
            ResolveTicketRequest(mikey_message=asked), timeout=max(seconds, 0.0)
        )

    def answer(self) -> PeerAnswer | None:
        try:
            response = cast(ResolveTicketResponse, self._future.result())
        except grpc.RpcError as error:
            return self._refused(cast(Any, error))
        self._peer.count("answered")
        return PeerAnswer(asked=self._asked, mikey_message=response.mikey_message)

    def _refused(self, error: Any) -> PeerAnswer | None:
        refusal = _refusal(rpc_status.from_call(error))
        if refusal.reason in _ABOUT_THE_TICKET:
            self._peer.count("refused")
            return PeerAnswer(asked=self._asked, refusal=refusal)
        self._peer.count("unavailable")
        _log.warning(
            "peer does not resolve", peer=self._peer.identity, code=error.code().name, reason=refusal.reason
        )
        return None


def _start(peer: _Peer | None, forward: Forward, seconds: float) -> _Call | None:
    return None if peer is None else _Call(peer, forward.mikey_message, seconds)


def _refusal(status: status_pb2.Status | None) -> Refusal:
    """What a KMS says in the details of a status; an empty reason if it is not a KMS's."""
    refusal, info, error_message = Refusal(), error_details_pb2.ErrorInfo(), MikeyErrorMessage()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            refusal.reason = info.reason
        if detail.Unpack(error_message):
            refusal.mikey_error_message = error_message.mikey_message
    return refusal


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}; run `kms peer add` again") from None
