"""Media streams as MIKEY sees them: crypto sessions of a GENERIC-ID map (RFC 6043 6.1.1) with their SRTP policies."""

from collections.abc import Iterable
from dataclasses import dataclass

from kms.mikey.errors import DecodeError
from kms.mikey.message import Message
from kms.mikey.payloads import GenericIdSession, Sp, SrtpSessionData
from kms.mikey.registry import DataType
from kms.mikey.sdp import Description, Level, check_sdp_ids
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, SrtpPolicy


@dataclass(frozen=True, slots=True)
class Stream:
    """One SRTP stream, in one direction: a crypto session.

    `ssrc` is the sender's, or None if the answering side shall choose it; a call in both directions has two streams.
    `policies` are the SRTP policies to choose from, the preferred first.
    """

    ssrc: int | None = None
    policies: tuple[SrtpPolicy, ...] = (AES_CM_128_HMAC_SHA1_80,)


def encode(streams: Iterable[Stream]) -> tuple[list[GenericIdSession], list[Sp]]:
    """Crypto sessions, numbered from 1 in the order of the streams, and the SP payloads that they name."""
    numbers: dict[SrtpPolicy, int] = {}
    sessions = []
    for cs_id, stream in enumerate(streams, 1):
        chosen = tuple(numbers.setdefault(policy, len(numbers)) for policy in stream.policies)
        data = b"" if stream.ssrc is None else SrtpSessionData(stream.ssrc).body()
        sessions.append(GenericIdSession(cs_id, chosen, data))
    return sessions, [policy.sp(number) for policy, number in numbers.items()]


def message_of(received: bytes | str) -> bytes:
    """A MIKEY message from its bytes, or from SDP text in which one key-mgmt:mikey line is to be processed.

    Raises DecodeError, and ProtocolError for an offer whose protocols are not those that its message lists.
    """
    if isinstance(received, bytes):
        return received
    found = messages_of(received)
    if len(found) != 1:
        raise DecodeError("SDP", 0, f"{len(found)} a=key-mgmt:mikey lines where one is expected")
    return next(iter(found.values()))


def messages_of(text: str) -> dict[Level, bytes]:
    """The MIKEY messages of an offer or answer in SDP, by level (kms.mikey.sdp).

    Raises DecodeError, and ProtocolError for an offer whose protocols are not those that its messages list (RFC 4567).
    """
    description = Description.parse(text)
    for raw in description.mikey.values():
        message = Message.decode(raw)
        if message.hdr.data_type == DataType.TRANSFER_INIT:
            check_sdp_ids(message, description)
    return description.mikey
