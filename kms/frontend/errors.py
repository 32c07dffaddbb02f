"""Refusals as they leave the frontend: one table from reason to gRPC code, one function to google.rpc.Status."""

from dataclasses import dataclass

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from kms.client.v1 import client_pb2
from kms.engine.v1.link_pb2 import CalledService, Refusal
from kms.focus.v1 import focus_pb2

DOMAIN = "kms"
_RETRY_SECONDS = 1


@dataclass(frozen=True)
class _Reason:
    code: int
    message: str
    retry: bool = False


# Refusals of the frontend itself. Those of the engine come with code, reason and message.
_REASONS = {
    "REQUEST_MISSING": _Reason(code_pb2.INVALID_ARGUMENT, "the call has no request message"),
    "REQUEST_MALFORMED": _Reason(
        code_pb2.INVALID_ARGUMENT, "the request is not the protobuf message of this method"
    ),
    "TOO_MANY_WAITING": _Reason(
        code_pb2.RESOURCE_EXHAUSTED,
        "too many calls of this client wait for their request: send each right behind its headers",
        retry=True,
    ),
    "MESSAGE_EMPTY": _Reason(
        code_pb2.INVALID_ARGUMENT, "mikey_message is empty: put the whole MIKEY message into it"
    ),
    "MESSAGE_TOO_LARGE": _Reason(code_pb2.INVALID_ARGUMENT, "mikey_message is longer than 65536 bytes"),
    "BATCH_TOO_LARGE": _Reason(code_pb2.INVALID_ARGUMENT, "the batch holds more than 256 requests: split it"),
    "TLS_IDENTITY_MISSING": _Reason(
        code_pb2.PERMISSION_DENIED,
        "the TLS client certificate names nobody: it needs a URI as subjectAltName (`kms user add` makes such a one)",
    ),
    "REPLAYED": _Reason(
        code_pb2.ALREADY_EXISTS, "this very message was answered before or is being answered: make a new one"
    ),
    "REPLAY_CACHE_FULL": _Reason(
        code_pb2.RESOURCE_EXHAUSTED, "too many messages in too short a time: send it again later", retry=True
    ),
    "NO_IDLE_ENGINE": _Reason(
        code_pb2.RESOURCE_EXHAUSTED, "every engine is busy or being replaced: send it again later", retry=True
    ),
    "ENGINE_LOST": _Reason(
        code_pb2.UNAVAILABLE,
        "the engines that had this message died or did not answer: the message was not answered",
    ),
    "PEER_UNAVAILABLE": _Reason(
        code_pb2.UNAVAILABLE,
        "the KMS that made the ticket cannot be asked at present: send a new message later",
        retry=True,
    ),
    "ENGINE_FAULT": _Reason(code_pb2.INTERNAL, "a fault of the KMS: its operator finds it in the log"),
    "FRONTEND_FAULT": _Reason(code_pb2.INTERNAL, "a fault of the KMS: its operator finds it in the log"),
}

MikeyErrorMessage = type[client_pb2.MikeyErrorMessage] | type[focus_pb2.MikeyErrorMessage]
_MIKEY_ERROR_MESSAGE: dict[int, MikeyErrorMessage] = {
    CalledService.CALLED_SERVICE_CLIENT: client_pb2.MikeyErrorMessage,
    CalledService.CALLED_SERVICE_FOCUS: focus_pb2.MikeyErrorMessage,
}


class StartError(Exception):
    """The frontend cannot start; the text is one line, what is wrong and what to do."""


class Refused(Exception):
    """A call is refused as a whole; ends it with the refusal's status."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def refusal(reason: str) -> Refusal:
    """A refusal of the frontend's own."""
    entry = _REASONS[reason]
    return Refusal(code=entry.code, reason=reason, message=entry.message)


def retry_after(refused: Refusal) -> int | None:
    """After how many seconds to try again what was refused for now; None for what is refused for good."""
    return _RETRY_SECONDS if refused.reason in _REASONS and _REASONS[refused.reason].retry else None


def status_of(refused: Refusal, called_service: CalledService.ValueType) -> status_pb2.Status:
    """The google.rpc.Status of a refusal, with its details."""
    metadata = {"peer_reason": refused.peer_reason} if refused.peer_reason else None
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=metadata)
    ]
    seconds = retry_after(refused)
    if seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds)))
    if refused.mikey_error_message:
        error_message = _MIKEY_ERROR_MESSAGE[called_service]
        details.append(error_message(mikey_message=refused.mikey_error_message))
    status = status_pb2.Status(code=refused.code, message=refused.message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
