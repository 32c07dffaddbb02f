"""Whole MIKEY messages: HDR and a chain of payloads, with the bytes as they were sent.

A received message keeps its bytes: MACs are computed over those, never over a normalised copy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from kms.mikey.errors import DecodeError, EncodeError, ProtocolError
from kms.mikey.payloads.base import Payload, read_payload, write_chain
from kms.mikey.payloads.basic import MAC_LENGTHS, Err, Idr, Randr, V
from kms.mikey.payloads.header import Hdr
from kms.mikey.payloads.public_key import Sign
from kms.mikey.payloads.ticket import Ticket
from kms.mikey.registry import DataType, MacAlg, PayloadType
from kms.mikey.wire import Reader, exact

MAX_MESSAGE_LENGTH = 65536
"""Longest message that is decoded, in bytes. A local limit: MIKEY itself sets none."""

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Message:
    """A MIKEY message with at least one payload. `raw` are its bytes; `_ends` the offset behind each payload."""

    hdr: Hdr
    payloads: tuple[Payload, ...]
    raw: bytes = field(repr=False)
    _ends: tuple[int, ...] = field(repr=False, compare=False)

    @classmethod
    def decode(cls, raw: bytes) -> "Message":
        """Decode one message that fills `raw` exactly. Raises DecodeError."""
        if len(raw) > MAX_MESSAGE_LENGTH:
            raise DecodeError(
                "message", 0, f"{len(raw)} bytes are more than the limit of {MAX_MESSAGE_LENGTH}"
            )
        r = Reader(raw, "message")
        number, hdr = Hdr.read(r)
        if number == PayloadType.LAST:
            raise DecodeError("HDR", 2, "Next Payload is 0, but a payload must follow HDR")
        r.where = "message"
        payloads, ends = [], []
        while number != PayloadType.LAST:
            number, payload = read_payload(r, number)
            payloads.append(payload)
            ends.append(r.offset)
        r.finish()
        return cls(hdr, tuple(payloads), raw, tuple(ends))

    @classmethod
    def build(cls, hdr: Hdr, payloads: Iterable[Payload]) -> "Message":
        """Encode a message. Raises EncodeError, also for a message that is longer than MAX_MESSAGE_LENGTH."""
        items = tuple(payloads)
        if not items:
            raise EncodeError("message: a payload must follow HDR")
        head = hdr.encode(items[0].TYPE)
        ends, offset = [], len(head)
        for payload in items:
            offset += payload.HAS_NEXT + len(payload.body())
            ends.append(offset)
        if offset > MAX_MESSAGE_LENGTH:
            raise EncodeError(f"message: {offset} bytes are more than the limit of {MAX_MESSAGE_LENGTH}")
        return cls(hdr, items, head + write_chain(items), tuple(ends))

    # -- finding payloads ----------------------------------------------------------------------------------------

    def find(self, kind: type[P]) -> P | None:
        """The first payload of a class, or None."""
        return next((p for p in self.payloads if isinstance(p, kind)), None)

    def find_all(self, kind: type[P]) -> tuple[P, ...]:
        """All payloads of a class, in order."""
        return tuple(p for p in self.payloads if isinstance(p, kind))

    def get(self, kind: type[P]) -> P:
        """The payload of a class that the exchange rules made mandatory. Raises ProtocolError if it is missing."""
        found = self.find(kind)
        if found is None:
            raise ProtocolError(f"{self.name}: mandatory payload {kind.NAME} is missing")
        return found

    def idr(self, role: int) -> bytes | None:
        """ID Data of the IDR payload with this role, or None."""
        return next((p.data for p in self.find_all(Idr) if p.role == role), None)

    def rand(self, role: int) -> bytes:
        """The RAND of the RANDR payload with this role; empty if there is none (AMBIGUITIES A-37)."""
        return next((p.rand for p in self.find_all(Randr) if p.role == role), b"")

    @property
    def name(self) -> str:
        """The Data Type's name."""
        return self.hdr.data_type.name

    @property
    def error_numbers(self) -> tuple[int, ...]:
        """The Error nos of an Error message."""
        return tuple(p.error_no for p in self.find_all(Err))

    # -- what a MAC or signature covers (RFC 6043 5.5) ---------------------------------------------------------------

    @property
    def v(self) -> V:
        """The V payload that ends the message. Raises ProtocolError if it does not."""
        last = self.payloads[-1]
        if not isinstance(last, V):
            raise ProtocolError(f"{self.name}: a V payload must come last")
        return last

    def coverage(self, *suffixes: bytes) -> bytes:
        """The input of the MAC or signature that ends this message.

        For an initial message `suffixes` are the two identities (ID Data, A-03), for a response the initial message
        with its MAC, for an Error message nothing. A TRANSFER_INIT leaves out Initiator Data and its length.
        Raises ProtocolError if neither V nor SIGN comes last.
        """
        last = self.payloads[-1]
        if isinstance(last, V):
            tail = len(last.mac)
        elif isinstance(last, Sign):
            tail = len(last.signature)
        else:
            raise ProtocolError(f"{self.name}: a V or SIGN payload must come last")
        covered = self.raw[: len(self.raw) - tail]
        if self.hdr.data_type == DataType.TRANSFER_INIT:
            for payload, end in reversed(tuple(zip(self.payloads, self._ends, strict=True))):
                if isinstance(payload, Ticket):
                    start = end - len(payload.initiator_data) - 2
                    covered = covered[:start] + covered[end:]
        return b"".join((covered, *suffixes))

    def with_mac(self, mac: bytes) -> "Message":
        """This message with the MAC of its last payload, V, filled in. Raises EncodeError for another length."""
        v = V(self.v.auth_alg, exact(mac, len(self.v.mac), "Ver data"))
        raw = self.raw[: len(self.raw) - len(self.v.mac)] + mac
        return Message(self.hdr, (*self.payloads[:-1], v), raw, self._ends)

    def with_signature(self, signature: bytes) -> "Message":
        """This message with the signature of its last payload, SIGN, filled in. Raises EncodeError as `with_mac`."""
        last = self.payloads[-1]
        if not isinstance(last, Sign):
            raise ProtocolError(f"{self.name}: a SIGN payload must come last")
        size = len(last.signature)
        sign = Sign(last.s_type, exact(signature, size, "Signature"))
        raw = self.raw[: len(self.raw) - size] + signature
        return Message(self.hdr, (*self.payloads[:-1], sign), raw, self._ends)


def unsigned_v(alg: MacAlg) -> V:
    """A V payload whose MAC is still zero: the place that `with_mac` fills."""
    return V(alg, bytes(MAC_LENGTHS[alg]))
