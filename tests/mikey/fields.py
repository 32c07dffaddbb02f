"""Where the length fields, flags, types and other numbers of a message stand, and systematic changes of them.

The places are those that the decoder itself reads as integers: no list of ours can miss one.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from kms.mikey.message import Message
from kms.mikey.payloads import GenericIdSession, InitiatorData, Kemac, KeyData, SrtpSessionData, Ticket, Tp
from kms.mikey.registry import EncrAlg
from kms.mikey.ticket_data import TicketData, read_key_list
from kms.mikey.wire import Reader


@dataclass(frozen=True, order=True)
class Field:
    """An integer of a message: its first byte, its size in bytes, and the decoder's name for it."""

    offset: int
    size: int
    name: str


def fields_of(raw: bytes) -> list[Field]:
    """Every integer in a good message, those in Ticket Data, Initiator Data and a NULL KEMAC included."""
    message, found, read = _recorded(raw, Message.decode, 0)
    assert read == set(range(len(raw))), "the decoder did not read every byte"
    for data, decode in _blocks(message):
        _, inner, _ = _recorded(data, decode, raw.index(data))
        found |= inner
    return sorted(found)


def _blocks(message: Message) -> Iterator[tuple[bytes, Callable[[bytes], Any]]]:
    """Blocks that are decoded on their own. What is encrypted cannot be."""
    for session in message.hdr.sessions:
        if isinstance(session, GenericIdSession) and session.session_data:
            yield session.session_data, _session_decoder(session)
    for payload in message.payloads:
        if isinstance(payload, Ticket):
            data = TicketData.decode(payload.ticket_data)
            yield payload.ticket_data, TicketData.decode
            if data.thdr_data:
                yield data.thdr_data, read_key_list
            if payload.initiator_data:
                yield payload.initiator_data, InitiatorData.decode
        inside = payload.policy.tp_data if isinstance(payload, Tp) else (payload,)
        for kemac in inside:
            if isinstance(kemac, Kemac) and kemac.encr_alg == EncrAlg.NULL:
                yield kemac.encr_data, KeyData.read_all


def _session_decoder(session: GenericIdSession) -> Callable[[bytes], Any]:
    return lambda _: SrtpSessionData.of(session)


def _recorded(raw: bytes, decode: Callable[[bytes], Any], base: int) -> tuple[Any, set[Field], set[int]]:
    """What `decode` gives, the integers that it read, and the offsets of all bytes that it read."""
    integers: set[Field] = set()
    read: set[int] = set()

    def integer(size: int, original: Callable[[Reader, str], int]) -> Callable[[Reader, str], int]:
        def wrapper(reader: Reader, field: str) -> int:
            start = reader.offset
            value = original(reader, field)
            integers.add(Field(base + start, size, f"{reader.where} > {field}"))
            read.update(range(start, start + size))
            return value

        return wrapper

    take = Reader.take

    def taken(reader: Reader, length: int, field: str) -> bytes:
        start = reader.offset
        value = take(reader, length, field)
        read.update(range(start, start + length))
        return value

    with (
        mock.patch.object(Reader, "u8", integer(1, Reader.u8)),
        mock.patch.object(Reader, "u16", integer(2, Reader.u16)),
        mock.patch.object(Reader, "u32", integer(4, Reader.u32)),
        mock.patch.object(Reader, "take", taken),
    ):
        return decode(raw), integers, read


def changes(raw: bytes, field: Field) -> Iterator[bytes]:
    """`raw` with this field 0, 1, the maximum, one more, one less, each bit of 8 or 16 flipped, and random."""
    bits = 8 * field.size
    top = (1 << bits) - 1
    old = int.from_bytes(raw[field.offset : field.offset + field.size], "big")
    draw = random.Random(field.offset)
    values = {0, 1, top, (old + 1) & top, (old - 1) & top, draw.randint(0, top), draw.randint(0, top)}
    values |= {old ^ 1 << bit for bit in (range(bits) if bits <= 16 else (0, bits - 1))}
    for value in sorted(values - {old}):
        yield raw[: field.offset] + value.to_bytes(field.size, "big") + raw[field.offset + field.size :]


def all_changes(raw: bytes) -> Iterator[tuple[Field, bytes]]:
    """Every change of every field."""
    for field in fields_of(raw):
        for changed in changes(raw, field):
            yield field, changed
