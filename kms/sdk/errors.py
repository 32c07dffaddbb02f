"""What can go wrong between an SDK and its KMS, as exceptions a caller can act on."""

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

_CODES = {code.value[0]: code for code in StatusCode}
_FAULTS = (StatusCode.UNKNOWN, StatusCode.INTERNAL, StatusCode.DATA_LOSS)


class KmsError(Exception):
    """The KMS did not give what it was asked for."""


class Refused(KmsError):
    """The KMS refuses, and would refuse a new attempt too: something must change first.

    `reason` is the ErrorInfo reason, such as NOT_AUTHORIZED; empty if the refusal is not the KMS's own but of something
    between. `message` says what is wrong and what to do. `mikey_error` is the MIKEY Error message, or None.
    """

    def __init__(self, reason: str, message: str, code: StatusCode, mikey_error: bytes | None = None) -> None:
        super().__init__(f"the KMS refused ({reason or code.name}): {message}")
        self.reason = reason
        self.message = message
        self.code = code
        self.mikey_error = mikey_error


class Unavailable(KmsError):
    """The KMS cannot be reached, or is too busy: later it may work. `retry_after` is its own wish, in seconds."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"the KMS is not available: {message}")
        self.retry_after = retry_after


class TimedOut(Unavailable):
    """The KMS did not answer in time. It may have got the message."""


class KmsFault(KmsError):
    """The KMS says that it failed itself. Its operator finds the cause in its log."""


def of_status(status: status_pb2.Status) -> KmsError:
    """The exception for a google.rpc.Status that is not OK."""
    code = _CODES.get(status.code, StatusCode.UNKNOWN)
    info, retry, mikey_error = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), None
    busy = False
    for detail in status.details:
        if detail.Unpack(info):
            continue
        if detail.Unpack(retry):
            busy = True
        elif detail.type_url.endswith(".v1.MikeyErrorMessage"):
            mikey_error = _mikey_error(detail.value)
    if code is StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(status.message)
    if code is StatusCode.UNAVAILABLE or busy:
        return Unavailable(status.message, retry.retry_delay.ToTimedelta().total_seconds() if busy else None)
    if code in _FAULTS:
        return KmsFault(f"the KMS failed ({info.reason or code.name}): {status.message}")
    return Refused(info.reason, status.message, code, mikey_error)


def _mikey_error(value: bytes) -> bytes | None:
    """kms.client.v1 and kms.focus.v1 have the same MikeyErrorMessage: bytes in field 1, as BytesValue has."""
    try:
        return BytesValue.FromString(value).value or None
    except DecodeError:
        return None
