"""Error messages (RFC 6043 5.4): HDR, T, (ERR), {SP}, [V]."""

from collections.abc import Iterable

from kms.mikey.errors import DecodeError, EncodeError
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Err, Hdr, Payload, Sp, T
from kms.mikey.registry import DataType, ErrorNo, MacAlg
from kms.mikey.wire import Reader


def build(
    failed: Hdr,
    numbers: Iterable[ErrorNo],
    t: T,
    *,
    policies: Iterable[Sp] = (),
    auth_alg: MacAlg | None = None,
) -> Message:
    """An Error message about the message whose HDR is `failed`.

    `policies` are the supported security policies (Ticket Transfer only). With `auth_alg` it ends with a V whose MAC
    is still to be filled in, by the auth_key of the failed message (AMBIGUITIES A-25). Raises EncodeError without a
    number, and for an Error message, about which none may be sent.
    """
    if failed.data_type == DataType.ERROR:
        raise EncodeError("an Error message must not answer an Error message (5.4)")
    hdr = Hdr(DataType.ERROR, failed.csb_id, failed.prf)
    errors = [Err(number) for number in numbers]
    if not errors:
        raise EncodeError("an Error message needs an Error no")
    payloads: list[Payload] = [t, *errors, *policies]
    if auth_alg is not None:
        payloads.append(unsigned_v(auth_alg))
    return Message.build(hdr, payloads)


def failed_hdr(raw: bytes) -> Hdr | None:
    """HDR of a received message that is refused, for `build`, even if the rest cannot be decoded.

    None if HDR itself cannot be, and for an Error message: then there is no answer (5.4).
    """
    try:
        _, hdr = Hdr.read(Reader(raw, "HDR"))
    except DecodeError:
        return None
    return None if hdr.data_type == DataType.ERROR else hdr
