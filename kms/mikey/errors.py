"""What can be wrong with a MIKEY message.

Every error carries the RFC's Error no (RFC 3830 6.12, RFC 6043 6.9), so that a receiver can answer with an Error
message, and a text that names the payload, the field and the reason. No text holds key material.
"""

from typing import TYPE_CHECKING

from kms.mikey.registry import ErrorNo

if TYPE_CHECKING:
    from kms.mikey.payloads import Sp


class MikeyError(Exception):
    """A MIKEY message or its content is refused. `error_no` is the number for an Error message (5.4)."""

    def __init__(self, text: str, error_no: ErrorNo = ErrorNo.UNSPECIFIED) -> None:
        super().__init__(text)
        self.error_no = error_no


class DecodeError(MikeyError):
    """The bytes are not a well-formed message.

    `where` names the payload (or the block, such as "TP Data > IDR"), `offset` is the absolute offset in the decoded
    input, in bytes, at which the field that could not be read starts.
    """

    def __init__(self, where: str, offset: int, reason: str, error_no: ErrorNo = ErrorNo.UNSPECIFIED) -> None:
        super().__init__(f"{where}: {reason} (offset {offset})", error_no)
        self.where = where
        self.offset = offset
        self.reason = reason


class EncodeError(MikeyError):
    """A field holds what its encoding cannot carry, such as an identity of more than 65535 bytes."""


class ProtocolError(MikeyError):
    """A well-formed message breaks a rule of RFC 6043 or of the receiver's policy."""


class AuthenticationError(ProtocolError):
    """A MAC or signature does not verify, or the sender is unknown: the two are not told apart."""

    def __init__(self, text: str) -> None:
        super().__init__(text, ErrorNo.AUTH_FAILURE)


class ReceivedError(MikeyError):
    """The other party answered with an Error message. `numbers` are its Error nos, in order.

    `policies` are the security policies that it supports, if it says so. An Error message is often unauthenticated
    (5.4): it may say why, and proves nothing.
    """

    def __init__(
        self, numbers: tuple[int, ...], authenticated: bool, policies: "tuple[Sp, ...]" = ()
    ) -> None:
        names = ", ".join(_name(n) for n in numbers)
        kind = "authenticated" if authenticated else "unauthenticated"
        super().__init__(f"the other party sent an {kind} Error message: {names}")
        self.numbers = numbers
        self.authenticated = authenticated
        self.policies = policies


def _name(number: int) -> str:
    try:
        return f"{ErrorNo(number).name} ({number})"
    except ValueError:
        return str(number)
