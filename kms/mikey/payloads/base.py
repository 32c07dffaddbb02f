"""What every payload is, and chains of payloads linked by their Next Payload fields."""

from collections.abc import Iterable
from typing import ClassVar, Self, TypeVar

from kms.mikey.errors import EncodeError
from kms.mikey.registry import PayloadType
from kms.mikey.wire import Reader


class Payload:
    """A payload. `read` starts behind the Next Payload field; `body` gives what follows it."""

    __slots__ = ()
    TYPE: ClassVar[PayloadType]
    NAME: ClassVar[str]
    HAS_NEXT: ClassVar[bool] = True

    @classmethod
    def read(cls, r: Reader) -> Self:
        """Decode one payload. Raises DecodeError."""
        raise NotImplementedError

    def body(self) -> bytes:
        """Encode everything behind Next Payload. Raises EncodeError."""
        raise NotImplementedError


_CLASSES: dict[int, type[Payload]] = {}
_PayloadClass = TypeVar("_PayloadClass", bound=type[Payload])


def register(cls: _PayloadClass) -> _PayloadClass:
    """Class decorator: payloads of this type may stand in a chain."""
    _CLASSES[cls.TYPE] = cls
    return cls


def payload_class(number: int) -> type[Payload] | None:
    """The class that decodes a payload type, or None."""
    return _CLASSES.get(number)


def read_payload(r: Reader, number: int) -> tuple[int, Payload]:
    """Decode the payload of type `number` at the cursor; returns its Next Payload and itself.

    An unknown payload has an unknown length, so it cannot be ignored: DecodeError (AMBIGUITIES A-21).
    """
    cls = _CLASSES.get(number)
    if cls is None:
        raise r.fail(f"Next Payload {number} is unknown, so is the length of what starts here")
    r.count_payload()
    block = r.where
    r.where = f"{block} > {cls.NAME}"
    following = r.u8("Next Payload") if cls.HAS_NEXT else PayloadType.LAST
    payload = cls.read(r)
    r.where = block
    return following, payload


def read_chain(r: Reader, first: int) -> tuple[Payload, ...]:
    """Decode payloads from type `first` on, up to Next Payload 0, which must be the end of the block.

    Raises DecodeError.
    """
    payloads = []
    number = first
    while number != PayloadType.LAST:
        number, payload = read_payload(r, number)
        payloads.append(payload)
    r.finish()
    return tuple(payloads)


def write_chain(payloads: Iterable[Payload]) -> bytes:
    """Encode payloads, each naming the next, the last naming 0. Raises EncodeError."""
    items = tuple(payloads)
    parts = []
    for i, payload in enumerate(items):
        following = items[i + 1].TYPE if i + 1 < len(items) else PayloadType.LAST
        if payload.HAS_NEXT:
            parts.append(bytes((following,)))
        elif following != PayloadType.LAST:
            raise EncodeError(f"{payload.NAME} has no Next Payload, so it must come last")
        parts.append(payload.body())
    return b"".join(parts)


def read_block(r: Reader) -> tuple[Payload, ...]:
    """Decode a block that starts with a First Payload octet (TP Data, Initiator Data). Raises DecodeError."""
    return read_chain(r, r.u8("First Payload"))


def write_block(payloads: Iterable[Payload]) -> bytes:
    """Encode a block that starts with a First Payload octet, 0 if nothing follows it (AMBIGUITIES A-24)."""
    items = tuple(payloads)
    return bytes((items[0].TYPE if items else PayloadType.LAST,)) + write_chain(items)
