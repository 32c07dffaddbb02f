"""Ticket Policy (TP) and TICKET payloads, and Initiator Data (RFC 6043 6.10)."""

from dataclasses import dataclass
from enum import IntFlag

from kms.mikey.errors import DecodeError, ProtocolError
from kms.mikey.payloads.base import Payload, read_block, register, write_block
from kms.mikey.payloads.basic import V
from kms.mikey.registry import ErrorNo, MacAlg, PayloadType
from kms.mikey.wire import Reader, bits, block16, u8, u16


class Flags(IntFlag):
    """The flags D to O of a Ticket Policy, in the order of the wire."""

    D = 1 << 11
    """the KMS, not the Initiator, made the ticket"""
    E = 1 << 10
    """Ticket Resolve is mandatory"""
    F = 1 << 9
    """TRANSFER_RESP is sent"""
    G = 1 << 8
    """the Responder makes RANDRr"""
    H = 1 << 7
    """RANDRi goes into keys from a TGK or GTGK"""
    I = 1 << 6  # noqa: E741
    """key forking"""
    J = 1 << 5
    """the ticket may be reused"""
    K = 1 << 4
    """the KMS changed the desired policy or keys"""
    L = 1 << 3
    """the Initiator may supply session keys"""
    M = 1 << 2
    """the Responder may supply session keys"""
    N = 1 << 1
    """an Initiator that follows RFC 6043 can use the ticket"""
    O = 1 << 0  # noqa: E741
    """a Responder that follows RFC 6043 can process the ticket"""

    @property
    def letters(self) -> str:
        """The set flags as letters, such as "DEFGI"."""
        return "".join(flag.name or "" for flag in type(self) if flag in self)


@dataclass(frozen=True, slots=True)
class TicketPolicy:
    """What TP and TICKET share: the fields from Ticket Type to the end of TP Data (RFC 6043 6.10).

    `res` are the 5 reserved bits, kept because MACs cover them.
    """

    ticket_type: int
    subtype: int
    version: int
    prf: int
    flags: Flags
    tp_data: tuple[Payload, ...]
    res: int = 0

    @classmethod
    def read(cls, r: Reader) -> "TicketPolicy":
        """Decode from Ticket Type on. Raises DecodeError."""
        ticket_type = r.u16("Ticket Type")
        subtype = r.u8("Subtype")
        version = r.u8("Version")
        prf_and_d = r.u8("PRF Func and D")
        rest = r.u16("flags E to O and Res")
        flags = Flags((prf_and_d & 1) << 11 | rest >> 5)
        tp_data = read_block(r.sub(r.block16("TP Data"), "TP Data"))
        return cls(ticket_type, subtype, version, prf_and_d >> 1, flags, tp_data, rest & 0x1F)

    def body(self) -> bytes:
        """Encode from Ticket Type on. Raises EncodeError."""
        flags = bits(self.flags, 12, "flags")
        return b"".join(
            (
                u16(self.ticket_type, "Ticket Type"),
                u8(self.subtype, "Subtype"),
                u8(self.version, "Version"),
                bytes((bits(self.prf, 7, "PRF Func") << 1 | flags >> 11,)),
                u16((flags & 0x7FF) << 5 | bits(self.res, 5, "Res"), "flags E to O and Res"),
                block16(write_block(self.tp_data), "TP Data"),
            )
        )


@register
@dataclass(frozen=True, slots=True)
class Tp(Payload):
    """Ticket Policy payload, TP: the desired policy."""

    TYPE = PayloadType.TP
    NAME = "TP"

    policy: TicketPolicy

    @classmethod
    def read(cls, r: Reader) -> "Tp":
        return cls(TicketPolicy.read(r))

    def body(self) -> bytes:
        return self.policy.body()


@register
@dataclass(frozen=True, slots=True)
class Ticket(Payload):
    """TICKET payload: the granted policy, Ticket Data, and Initiator Data (empty where unused; AMBIGUITIES A-22)."""

    TYPE = PayloadType.TICKET
    NAME = "TICKET"

    policy: TicketPolicy
    ticket_data: bytes
    initiator_data: bytes = b""

    @classmethod
    def read(cls, r: Reader) -> "Ticket":
        return cls(TicketPolicy.read(r), r.block16("Ticket Data"), r.block16("Initiator Data"))

    def body(self) -> bytes:
        return self.without_initiator_data() + block16(self.initiator_data, "Initiator Data")

    def without_initiator_data(self) -> bytes:
        """The encoding up to the end of Ticket Data: what the ticket's MAC covers, with the MAC (A.1, A-23)."""
        return self.policy.body() + block16(self.ticket_data, "Ticket Data")


@dataclass(frozen=True, slots=True)
class InitiatorData:
    """Initiator Data (RFC 6043 6.10): Vi, the V of the TRANSFER_INIT, and Vr, keyed from MPKr.

    `others` are unexpected payloads between the two: ignored, but covered by Vr.
    """

    vi: V
    vr: V
    others: tuple[Payload, ...] = ()

    def encode(self) -> bytes:
        """First Payload, Vi, Vr. Vi differs from V in its Next Payload alone (AMBIGUITIES A-07)."""
        return write_block((self.vi, *self.others, self.vr))

    def vr_coverage(self) -> bytes:
        """What the MAC in Vr covers: the field except the MAC itself."""
        encoded = self.encode()
        return encoded[: len(encoded) - len(self.vr.mac)]

    @classmethod
    def decode(cls, data: bytes) -> "InitiatorData":
        """Decode; Vi stands first and Vr last.

        Raises DecodeError, or ProtocolError (authentication failure) if Vr's algorithm is NULL or not Vi's.
        """
        chain = read_block(Reader(data, "Initiator Data"))
        if len(chain) < 2 or not isinstance(chain[0], V) or not isinstance(chain[-1], V):
            raise DecodeError("Initiator Data", 0, "Vi first and Vr last are expected")
        vi, vr = chain[0], chain[-1]
        if vr.auth_alg != vi.auth_alg or vr.auth_alg == MacAlg.NULL:
            raise ProtocolError("Vr does not use the authentication algorithm of Vi", ErrorNo.AUTH_FAILURE)
        return cls(vi, vr, chain[1:-1])
