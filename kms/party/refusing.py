"""Error messages about messages that were refused before they could be verified (RFC 6043 5.4)."""

from kms.mikey import error_message
from kms.mikey.errors import MikeyError
from kms.mikey.message import Message
from kms.mikey.registry import DataType, ErrorNo
from kms.party.acceptance import Acceptance
from kms.party.party import Party

_ABOUT_POLICIES = (ErrorNo.INVALID_SP, ErrorNo.INVALID_SPPAR)
_TRANSFER = (DataType.TRANSFER_INIT, DataType.TRANSFER_RESP)


def refusal(party: Party, raw: bytes, error: MikeyError, acceptance: Acceptance) -> Message | None:
    """The Error message for the sender of `raw`, which `error` refused; None if there should be none.

    It is not authenticated: `IncomingTransfer.refuse` makes one that is. If the SRTP policies were not acceptable, it
    has those that are. There is none about an Error message, or a message whose HDR cannot be decoded, and none if the
    sender could not be authenticated: it is optional then, and anybody could have it sent to anybody (RFC 3830 5.1.2).
    """
    failed = error_message.failed_hdr(raw)
    if failed is None or error.error_no == ErrorNo.AUTH_FAILURE:
        return None
    about_policies = failed.data_type in _TRANSFER and error.error_no in _ABOUT_POLICIES
    policies = [p.sp(number) for number, p in enumerate(acceptance.srtp)] if about_policies else []
    return error_message.build(failed, [error.error_no], party.sources.timestamp(), policies=policies)
