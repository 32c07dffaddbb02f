"""What deploy/wireshark/mikey_ticket.lua should show for a message, worked out from what kms.mikey decodes."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

from kms.mikey.message import Message
from kms.mikey.payloads import (
    Dh,
    Flags,
    GenericIdSession,
    Hdr,
    Id,
    Idr,
    Kemac,
    KeyData,
    KeyValidity,
    Payload,
    Sp,
    SrtpSessionData,
    Ticket,
    TicketPolicy,
    Tp,
    read_chain,
)
from kms.mikey.payloads.base import read_block
from kms.mikey.registry import EncrAlg, IdType, ProtType, TicketType
from kms.mikey.ticket_data import read_key_list, read_thdr
from kms.mikey.wire import Reader
from tests.interop.tshark import Field
from tests.mikey import vectors

Line = tuple[str, int | str | None]
"""A field's name without its prefix, and its value: a number, hex, or None for a heading."""

PREFIX = "mikey_ticket."
_IMPLIED = ("length", "next_payload", "first_payload", "pke.length", "sign.length")
_OPEN_TICKETS = (TicketType.MIKEY_BASE, TicketType.DERIVED)


def lines_of(message: Message) -> list[Line]:
    """Every line but lengths and links, in order. Raises MikeyError where a block in the message is malformed."""
    lines = [*_hdr(message.hdr), *_chain(message.payloads)]
    return [line for line in lines if line[1] != ""]


def shown(found: Iterable[Field], expected: list[Line]) -> list[Line]:
    """What our dissector showed, less lengths and links, each value as `expected` has it in its place."""
    ours = (replace(f, name=f.name.removeprefix(PREFIX)) for f in found if f.name.startswith(PREFIX))
    return with_values([f for f in ours if f.name not in _IMPLIED], expected)


def with_values(found: Iterable[Field], expected: list[Line]) -> list[Line]:
    """Fields as lines: a number where `expected` has one in the same place, else hex; None where it has no value."""
    lines: list[Line] = []
    for i, field in enumerate(found):
        want = expected[i][1] if i < len(expected) else ""
        if isinstance(want, int):
            lines.append((field.name, int(field.value or "-1", 16)))
        else:
            lines.append((field.name, (field.value or None) if want is None else field.value))
    return lines


# -- HDR ---------------------------------------------------------------------------------------------------------------


def _hdr(hdr: Hdr) -> Iterator[Line]:
    yield "hdr", None
    yield "hdr.version", 1
    yield "hdr.data_type", int(hdr.data_type)
    yield "hdr.v", int(hdr.v)
    yield "hdr.prf", hdr.prf
    yield "hdr.csb_id", hdr.csb_id
    yield "hdr.n_cs", hdr.cs_count
    yield "hdr.map_type", int(hdr.map_type)
    for session in hdr.sessions:
        yield "cs", None
        if isinstance(session, GenericIdSession):
            yield from _generic(session)
        else:
            yield "cs.policy_no", session.policy_no
            yield "cs.ssrc", session.ssrc
            yield "cs.roc", session.roc


def _generic(session: GenericIdSession) -> Iterator[Line]:
    yield "cs.cs_id", session.cs_id
    yield "cs.prot_type", session.prot_type
    yield "cs.s", int(session.s)
    yield "cs.n_policies", len(session.policies)
    for number in session.policies:
        yield "cs.policy_no", number
    yield "cs.session_data", session.session_data.hex()
    if session.session_data and session.prot_type == ProtType.SRTP:
        data = SrtpSessionData.of(session)
        yield "cs.ssrc", data.ssrc
        if data.roc is not None and data.seq is not None:
            yield "cs.roc", data.roc
            yield "cs.seq", data.seq
    yield "cs.spi", session.spi.hex()


# -- payloads ----------------------------------------------------------------------------------------------------------


def _chain(payloads: Iterable[Payload]) -> Iterator[Line]:
    for payload in payloads:
        name = vectors.describe(payload)["payload"].lower()
        yield name, None
        if isinstance(payload, Kemac):
            yield from _kemac(payload)
        elif isinstance(payload, KeyData):
            yield "keydata.key_type", int(payload.key_type)
            yield "keydata.kv_type", int(payload.kv.kv_type)
            yield "keydata.key", payload.key.hex()
            yield "keydata.salt", payload.salt.hex()
            yield from _validity(payload.kv)
        elif isinstance(payload, Dh):
            yield "dh.group", payload.group
            yield "dh.value", payload.value.hex()
            yield "dh.reserved", payload.reserved
            yield "dh.kv_type", int(payload.kv.kv_type)
            yield from _validity(payload.kv)
        elif isinstance(payload, Id | Idr):
            if isinstance(payload, Idr):
                yield "idr.role", payload.role
            yield f"{name}.id_type", payload.id_type
            is_text = payload.id_type != IdType.BYTE_STRING and b"\0" not in payload.data
            label = "identity" if is_text else "data"
            yield f"{name}.{label}", payload.data.hex()
        elif isinstance(payload, Sp):
            yield "sp.policy_no", payload.policy_no
            yield "sp.prot_type", payload.prot_type
            for kind, value in payload.params:
                yield from (("sp.param", None), ("sp.param.type", kind), ("sp.param.value", value.hex()))
        elif isinstance(payload, Tp):
            yield from _policy(payload.policy)
        elif isinstance(payload, Ticket):
            yield from _ticket(payload)
        else:
            yield from _plain(name, payload)


def _plain(name: str, payload: Any) -> Iterator[Line]:
    """A payload whose fields are numbers and bytes, shown by their own names in the order of the wire."""
    names = [f.name for f in fields(payload)]
    if name == "pke":
        names.reverse()  # C stands before Data
    for field in names:
        value = getattr(payload, field)
        yield f"{name}.{field}", value.hex() if isinstance(value, bytes) else int(value)


def _kemac(kemac: Kemac) -> Iterator[Line]:
    yield "kemac.encr_alg", kemac.encr_alg
    if kemac.encr_alg != EncrAlg.NULL:
        yield "kemac.encr_data", kemac.encr_data.hex()
    elif kemac.encr_data:
        yield "kemac.keys", None
        yield from _chain(KeyData.read_all(kemac.encr_data))
    yield "kemac.mac_alg", int(kemac.mac_alg)
    yield "kemac.mac", kemac.mac.hex()


def _validity(kv: KeyValidity) -> Iterator[Line]:
    yield "kv.spi", kv.spi.hex()
    yield "kv.valid_from", kv.valid_from.hex()
    yield "kv.valid_to", kv.valid_to.hex()


def _policy(policy: TicketPolicy) -> Iterator[Line]:
    yield "policy.ticket_type", policy.ticket_type
    yield "policy.subtype", policy.subtype
    yield "policy.version", policy.version
    yield "policy.prf", policy.prf
    for flag in Flags:
        yield f"policy.{str(flag.name).lower()}", int(flag in policy.flags)
    yield "policy.res", policy.res
    yield "policy.tp_data", None
    yield from _chain(policy.tp_data)


def _ticket(ticket: Ticket) -> Iterator[Line]:
    yield from _policy(ticket.policy)
    if ticket.policy.ticket_type not in _OPEN_TICKETS:
        yield "ticket.opaque", ticket.ticket_data.hex()
    elif ticket.ticket_data:
        yield "ticket.ticket_data", None
        r = Reader(ticket.ticket_data, "Ticket Data")
        following, thdr_data = read_thdr(r)
        yield "thdr", None
        yield "thdr.data", thdr_data.hex()
        if thdr_data and ticket.policy.ticket_type == TicketType.DERIVED:
            yield from _key_list(thdr_data)
        yield from _chain(read_chain(r, following))
    if ticket.initiator_data:
        yield "ticket.initiator_data", None
        yield from _chain(read_block(Reader(ticket.initiator_data, "Initiator Data")))


def _key_list(thdr_data: bytes) -> Iterator[Line]:
    entries = read_key_list(thdr_data)
    yield "thdr.count", len(entries)
    for entry in entries:
        yield "entry", None
        yield "entry.key_type", int(entry.key_type)
        yield "entry.key_length", entry.length
        yield "entry.salt_length", entry.salt_length
        yield "entry.spi", entry.spi.hex()
