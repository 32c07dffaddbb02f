"""All payloads, each with its paired decoder and encoder (RFC 3830 section 6, RFC 6043 section 6)."""

from kms.mikey.payloads.base import (
    Payload,
    payload_class,
    read_block,
    read_chain,
    read_payload,
    write_block,
    write_chain,
)
from kms.mikey.payloads.basic import (
    MAC_LENGTHS,
    Err,
    GeneralExtension,
    Id,
    Idr,
    Rand,
    Randr,
    Sp,
    T,
    Tr,
    V,
)
from kms.mikey.payloads.header import GenericIdSession, Hdr, SrtpIdSession, SrtpSessionData
from kms.mikey.payloads.keys import Kemac, KeyData, KeyValidity, with_spi
from kms.mikey.payloads.public_key import Cert, Chash, Dh, Pke, Sign
from kms.mikey.payloads.ticket import Flags, InitiatorData, Ticket, TicketPolicy, Tp

__all__ = [
    "MAC_LENGTHS",
    "Cert",
    "Chash",
    "Dh",
    "Err",
    "Flags",
    "GeneralExtension",
    "GenericIdSession",
    "Hdr",
    "Id",
    "Idr",
    "InitiatorData",
    "Kemac",
    "KeyData",
    "KeyValidity",
    "Payload",
    "Pke",
    "Rand",
    "Randr",
    "Sign",
    "Sp",
    "SrtpIdSession",
    "SrtpSessionData",
    "T",
    "Ticket",
    "TicketPolicy",
    "Tp",
    "Tr",
    "V",
    "payload_class",
    "read_block",
    "read_chain",
    "read_payload",
    "with_spi",
    "write_block",
    "write_chain",
]
