"""The KMS as an SDK sees it, and the gRPC connection that implements it."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import grpc
from google.rpc import status_pb2
from grpc_status import rpc_status

from kms.party.credential import Credential, CredentialError
from kms.sdk.errors import KmsError, TimedOut, Unavailable, of_status

R = TypeVar("R")

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0
_MAX_MESSAGE = 32 * 1024 * 1024  # bytes of a response: a batch of 256 messages of 64 KiB, and some


class Endpoint(Protocol):
    """A KMS that answers MIKEY messages. One call is one attempt; it raises KmsError. Thread-safe."""

    def request_ticket(self, message: bytes) -> bytes:
        """The REQUEST_RESP to a REQUEST_INIT."""

    def resolve_ticket(self, message: bytes) -> bytes:
        """The RESOLVE_RESP to a RESOLVE_INIT."""


class BatchEndpoint(Endpoint, Protocol):
    """An Endpoint that resolves several tickets in one call."""

    def resolve_tickets(self, messages: Sequence[bytes]) -> list[bytes | KmsError]:
        """For each RESOLVE_INIT, in order, its RESOLVE_RESP or why it was refused."""


class Connection:
    """A gRPC channel to the KMS with mutual TLS: the certificates of the enrolment file, and no others."""

    def __init__(self, credential: Credential, *, timeout: float = 5.0) -> None:
        """Connects when first used. `timeout` is in seconds, for each call. Raises CredentialError."""
        self._timeout = timeout
        try:
            tls = grpc.ssl_channel_credentials(
                credential.ca_cert.encode(), credential.tls_key.encode(), credential.tls_cert.encode()
            )
            options = [("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.enable_retries", 0)]
            self.channel = grpc.secure_channel(credential.target, tls, options)
        except (ValueError, TypeError, RuntimeError):
            raise CredentialError(
                "target, ca_cert, tls_cert or tls_key of the enrolment cannot be used"
            ) from None

    def call(self, method: Callable[..., R], request: object) -> R:
        """Call a method of a stub on `channel`. Raises KmsError."""
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise _of_call(cast(Any, error), self._timeout) from None

    def close(self) -> None:
        """Close the channel. Calls that are under way fail."""
        self.channel.close()


def with_retries(
    attempt: Callable[[], R], *, attempts: int = 4, sleep: Callable[[float], None] = time.sleep
) -> R:
    """Call `attempt` until it does not raise Unavailable, at most so often, with growing random pauses between.

    Each attempt must make a new MIKEY message. What was refused, and what timed out, is not tried again.
    """
    for number in range(attempts - 1):
        try:
            return attempt()
        except TimedOut:
            raise
        except Unavailable as error:
            longest = min(_FIRST_BACKOFF * 2**number, _LONGEST_BACKOFF)
            sleep(max(random.uniform(0, longest), min(error.retry_after or 0.0, _LONGEST_BACKOFF)))  # noqa: S311
    return attempt()


def _of_call(error: Any, timeout: float) -> KmsError:
    status = rpc_status.from_call(error)
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(f"no answer within {timeout:g} s")
    return of_status(status)
