"""Ticket Data: of the MIKEY base ticket (RFC 6043 A.1) and of the derived ticket (docs/ticket-type.md).

Both are THDR and a chain of payloads that ends with V, whose MAC covers the whole TICKET payload but its Next Payload,
Initiator Data and the MAC itself (AMBIGUITIES A-23). THDR (A.3) has no payload number, since it only ever stands first.
Offsets in errors count from the start of Ticket Data, or of THDR Data.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kms.mikey.errors import DecodeError, ProtocolError
from kms.mikey.payloads.base import Payload, read_chain, write_chain
from kms.mikey.payloads.basic import Idr, Rand, T, V
from kms.mikey.payloads.keys import Kemac, KeyData
from kms.mikey.payloads.ticket import Ticket
from kms.mikey.registry import ErrorNo, IdRole, KeyType, PayloadType, TicketType
from kms.mikey.wire import Reader, block8, block16, u8

BASE_TICKET = (TicketType.MIKEY_BASE, 1, 1)
"""Ticket Type, Subtype and Version of the MIKEY base ticket."""
DERIVED_TICKET = (TicketType.DERIVED, 1, 1)
"""Ticket Type, Subtype and Version of this project's derived ticket."""


@dataclass(frozen=True, slots=True)
class TicketData:
    """Decoded Ticket Data, its last payload V. Payloads that no ticket type expects are covered by the MAC too."""

    thdr_data: bytes
    payloads: tuple[Payload, ...]

    @classmethod
    def decode(cls, data: bytes) -> "TicketData":
        """Decode. Raises DecodeError if the bytes are malformed or V is not last.

        Raises ProtocolError (Invalid TICKET) unless T, RAND and V are there once, KEMAC and IDRpsk at most once.
        """
        r = Reader(data, "Ticket Data")
        following, thdr_data = read_thdr(r)
        payloads = read_chain(r, following)
        if not payloads or not isinstance(payloads[-1], V):
            raise r.fail("V must come last", ErrorNo.INVALID_TICKET)
        for kind, least in ((T, 1), (Rand, 1), (V, 1), (Kemac, 0)):
            count = sum(isinstance(p, kind) for p in payloads)
            if not least <= count <= 1:
                raise ProtocolError(f"Ticket Data: {kind.NAME} appears {count} times", ErrorNo.INVALID_TICKET)
        if sum(isinstance(p, Idr) and p.role == IdRole.PSK for p in payloads) > 1:
            raise ProtocolError("Ticket Data: IDRpsk appears more than once", ErrorNo.INVALID_TICKET)
        return cls(thdr_data, payloads)

    def encode(self) -> bytes:
        """Encode. Raises EncodeError."""
        following = self.payloads[0].TYPE if self.payloads else PayloadType.LAST
        return bytes((following,)) + block16(self.thdr_data, "THDR Data") + write_chain(self.payloads)

    @property
    def t(self) -> T:
        """When the ticket was made."""
        return next(p for p in self.payloads if isinstance(p, T))

    @property
    def rand(self) -> bytes:
        """The RAND that enters every key of the ticket."""
        return next(p.rand for p in self.payloads if isinstance(p, Rand))

    @property
    def v(self) -> V:
        """The V payload with the ticket's MAC."""
        return next(p for p in self.payloads if isinstance(p, V))

    @property
    def psk_id(self) -> bytes | None:
        """ID Data of IDRpsk: which TPK, or which epoch, protects the ticket. None if omitted."""
        return next((p.data for p in self.payloads if isinstance(p, Idr) and p.role == IdRole.PSK), None)

    @property
    def kemac(self) -> Kemac:
        """The KEMAC of a base ticket. Raises ProtocolError (Invalid TICKET) if there is none."""
        kemac = next((p for p in self.payloads if isinstance(p, Kemac)), None)
        if kemac is None:
            raise ProtocolError("Ticket Data: KEMAC is missing", ErrorNo.INVALID_TICKET)
        return kemac


def read_thdr(r: Reader) -> tuple[int, bytes]:
    """Decode THDR, the start of Ticket Data, at the cursor: its Next Payload and its THDR Data. Raises DecodeError."""
    r.where = "Ticket Data > THDR"
    following, thdr_data = r.u8("Next Payload"), r.block16("THDR Data")
    r.where = "Ticket Data"
    return following, thdr_data


def mac_coverage(ticket: Ticket, data: TicketData) -> bytes:
    """What the MAC in Ticket Data covers (A.1). `data` is the decoded Ticket Data of `ticket`."""
    covered = ticket.without_initiator_data()
    return covered[: len(covered) - len(data.v.mac)]


# -- THDR of a derived ticket --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key of a derived ticket: what it is, not its bytes. Lengths in bytes."""

    key_type: KeyType
    length: int
    salt_length: int
    spi: bytes


def write_key_list(entries: Iterable[KeyEntry]) -> bytes:
    """THDR Data of a derived ticket: a count, then type, key length, salt length and SPI of each key, the MPK first.

    Raises EncodeError for a length over 255 bytes.
    """
    items = tuple(entries)
    parts = [u8(len(items), "count")]
    for entry in items:
        parts += (
            u8(entry.key_type, "type"),
            u8(entry.length, "key length"),
            u8(entry.salt_length, "salt length"),
            block8(entry.spi, "SPI"),
        )
    return b"".join(parts)


def read_key_list(thdr_data: bytes) -> tuple[KeyEntry, ...]:
    """Decode the THDR Data of a derived ticket. Raises DecodeError (Invalid TICKET)."""
    r = Reader(thdr_data, "THDR Data")
    entries = []
    for _ in range(r.u8("count")):
        number = r.u8("type")
        try:
            key_type = KeyType(number)
        except ValueError:
            raise r.unknown("type", number, ErrorNo.INVALID_TICKET) from None
        entries.append(KeyEntry(key_type, r.u8("key length"), r.u8("salt length"), r.block8("SPI")))
    r.finish()
    if (
        not entries
        or entries[0].key_type != KeyType.MPK
        or any(e.key_type == KeyType.MPK for e in entries[1:])
    ):
        raise DecodeError(
            "THDR Data", 0, "exactly one MPK, the first key, is expected", ErrorNo.INVALID_TICKET
        )
    return tuple(entries)


def entry_of(key: KeyData) -> KeyEntry:
    """The entry that describes `key`."""
    return KeyEntry(key.key_type, len(key.key), len(key.salt), key.spi)
