"""Why a message is refused: one table from reason to gRPC code and MIKEY Error no.

A refusal is the sender's fault, never ours: none maps to UNKNOWN or INTERNAL, and to UNAVAILABLE only PEER_UNAVAILABLE,
which is another KMS's fault.
"""

from enum import Enum, auto

from kms.mikey.errors import DecodeError, MikeyError
from kms.mikey.registry import ErrorNo

_INVALID_ARGUMENT, _PERMISSION_DENIED, _FAILED_PRECONDITION, _UNAUTHENTICATED = 3, 7, 9, 16  # google.rpc.Code
_UNAVAILABLE = 14


class Reason(Enum):
    """ErrorInfo reasons of the engine."""

    MALFORMED_MESSAGE = auto()
    UNEXPECTED_MESSAGE = auto()
    UNSUPPORTED_ALGORITHM = auto()
    TIMESTAMP_OUT_OF_RANGE = auto()
    AUTHENTICATION_FAILED = auto()
    WRONG_KMS = auto()
    TLS_IDENTITY_MISMATCH = auto()
    NOT_AUTHORIZED = auto()
    INVALID_TICKET_POLICY = auto()
    INVALID_TICKET = auto()
    TICKET_NOT_VALID_NOW = auto()
    TICKET_NOT_AUTHENTIC = auto()
    INITIATOR_NOT_AUTHENTIC = auto()
    PEER_REFUSED = auto()
    PEER_UNAVAILABLE = auto()


TABLE: dict[Reason, tuple[int, ErrorNo]] = {
    Reason.MALFORMED_MESSAGE: (_INVALID_ARGUMENT, ErrorNo.UNSPECIFIED),
    Reason.UNEXPECTED_MESSAGE: (_INVALID_ARGUMENT, ErrorNo.INVALID_DT),
    Reason.UNSUPPORTED_ALGORITHM: (_INVALID_ARGUMENT, ErrorNo.UNSPECIFIED),
    Reason.TIMESTAMP_OUT_OF_RANGE: (_FAILED_PRECONDITION, ErrorNo.INVALID_TS),
    Reason.AUTHENTICATION_FAILED: (_UNAUTHENTICATED, ErrorNo.AUTH_FAILURE),
    Reason.WRONG_KMS: (_FAILED_PRECONDITION, ErrorNo.INVALID_ID),
    Reason.TLS_IDENTITY_MISMATCH: (_PERMISSION_DENIED, ErrorNo.INVALID_ID),
    Reason.NOT_AUTHORIZED: (_PERMISSION_DENIED, ErrorNo.INVALID_ID),
    Reason.INVALID_TICKET_POLICY: (_INVALID_ARGUMENT, ErrorNo.INVALID_TPPAR),
    Reason.INVALID_TICKET: (_INVALID_ARGUMENT, ErrorNo.INVALID_TICKET),
    Reason.TICKET_NOT_VALID_NOW: (_FAILED_PRECONDITION, ErrorNo.INVALID_TICKET),
    Reason.TICKET_NOT_AUTHENTIC: (_PERMISSION_DENIED, ErrorNo.AUTH_FAILURE),
    Reason.INITIATOR_NOT_AUTHENTIC: (_PERMISSION_DENIED, ErrorNo.AUTH_FAILURE),
    Reason.PEER_REFUSED: (_PERMISSION_DENIED, ErrorNo.INVALID_TICKET),
    Reason.PEER_UNAVAILABLE: (_UNAVAILABLE, ErrorNo.UNSPECIFIED),
}
"""google.rpc.Code and, unless the refusal has its own, Error no of each reason."""


class Refused(Exception):
    """A message is refused: the text says what is wrong and what to do, never a secret. `code` is a google.rpc.Code.

    `peer_reason` is that of the KMS that a ticket was forwarded to.
    """

    def __init__(
        self, reason: Reason, text: str, error_no: ErrorNo | None = None, *, peer_reason: str = ""
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.peer_reason = peer_reason
        self.code, default = TABLE[reason]
        self.error_no = default if error_no is None else error_no


_REASONS = {
    ErrorNo.AUTH_FAILURE: Reason.AUTHENTICATION_FAILED,
    ErrorNo.INVALID_TS: Reason.TIMESTAMP_OUT_OF_RANGE,
    ErrorNo.INVALID_PRF: Reason.UNSUPPORTED_ALGORITHM,
    ErrorNo.INVALID_MAC: Reason.UNSUPPORTED_ALGORITHM,
    ErrorNo.INVALID_EA: Reason.UNSUPPORTED_ALGORITHM,
    ErrorNo.INVALID_HA: Reason.UNSUPPORTED_ALGORITHM,
    ErrorNo.INVALID_ID: Reason.NOT_AUTHORIZED,
    ErrorNo.INVALID_CERT: Reason.WRONG_KMS,  # CHASH
    ErrorNo.INVALID_DT: Reason.UNEXPECTED_MESSAGE,
    ErrorNo.INVALID_TICKET: Reason.INVALID_TICKET,
    ErrorNo.INVALID_TPPAR: Reason.INVALID_TICKET_POLICY,
}


def of(error: MikeyError) -> Refused:
    """The refusal that a protocol error amounts to."""
    if isinstance(error, DecodeError):
        reason = (
            Reason.UNSUPPORTED_ALGORITHM
            if error.error_no == ErrorNo.INVALID_MAC
            else Reason.MALFORMED_MESSAGE
        )
    else:
        reason = _REASONS.get(error.error_no, Reason.MALFORMED_MESSAGE)
    return Refused(reason, str(error), error.error_no)
