"""Error messages (RFC 6043 5.4): HDR, T, (ERR), {SP}, [V]."""

from collections.abc import Iterable

from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Err, Hdr, Payload, Sp, T
from kms.mikey.registry import DataType, ErrorNo, MacAlg


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
    is still to be filled in, by the auth_key of the failed message (AMBIGUITIES A-25).
    """
    hdr = Hdr(DataType.ERROR, failed.csb_id, failed.prf)
    payloads: list[Payload] = [t, *(Err(number) for number in numbers), *policies]
    if auth_alg is not None:
        payloads.append(unsigned_v(auth_alg))
    return Message.build(hdr, payloads)
