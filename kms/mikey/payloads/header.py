"""The Common Header payload, HDR (RFC 3830 6.1, RFC 6043 6.1), and its CS ID map."""

from dataclasses import dataclass

from kms.mikey.errors import EncodeError
from kms.mikey.registry import DataType, ErrorNo, MapType, ProtType
from kms.mikey.wire import Reader, bits, block8, block16, u8, u16, u32

VERSION = 1
"""The version of MIKEY (RFC 3830 6.1)."""


@dataclass(frozen=True, slots=True)
class SrtpIdSession:
    """One crypto session of an SRTP-ID map (RFC 3830 6.1.1). RFC 6043 6.1 forbids this map type in its messages."""

    policy_no: int
    ssrc: int
    roc: int

    @classmethod
    def read(cls, r: Reader) -> "SrtpIdSession":
        """Decode one 9-byte block."""
        return cls(r.u8("Policy_no"), r.u32("SSRC"), r.u32("ROC"))

    def body(self) -> bytes:
        """Encode one 9-byte block."""
        return u8(self.policy_no, "Policy_no") + u32(self.ssrc, "SSRC") + u32(self.roc, "ROC")


@dataclass(frozen=True, slots=True)
class GenericIdSession:
    """One crypto session of a GENERIC-ID map (RFC 6043 6.1.1).

    `policies` are the policy_no values of SP payloads, `session_data` is what `SrtpSessionData` encodes for the Prot
    type SRTP (empty if omitted), `s` says whether it holds ROC and SEQ, `spi` names the key (empty if omitted).
    """

    cs_id: int
    policies: tuple[int, ...] = ()
    session_data: bytes = b""
    spi: bytes = b""
    s: bool = False
    prot_type: int = ProtType.SRTP

    @classmethod
    def read(cls, r: Reader) -> "GenericIdSession":
        """Decode one block."""
        cs_id = r.u8("CS ID")
        prot_type = r.u8("Prot type")
        s_and_p = r.u8("S and #P")
        policies = tuple(r.take(s_and_p & 0x7F, "Ps"))
        session_data = r.block16("Session Data")
        spi = r.block8("SPI")
        return cls(cs_id, policies, session_data, spi, bool(s_and_p & 0x80), prot_type)

    def body(self) -> bytes:
        """Encode one block."""
        return b"".join(
            (
                u8(self.cs_id, "CS ID"),
                u8(self.prot_type, "Prot type"),
                bytes((self.s << 7 | bits(len(self.policies), 7, "#P"),)),
                *(u8(number, "Policy_no") for number in self.policies),
                block16(self.session_data, "Session Data"),
                block8(self.spi, "SPI"),
            )
        )


@dataclass(frozen=True, slots=True)
class SrtpSessionData:
    """Session Data of a GENERIC-ID crypto session for SRTP (RFC 6043 6.1.1): 4 bytes, or 10 with ROC and SEQ."""

    ssrc: int
    roc: int | None = None
    seq: int | None = None

    @classmethod
    def of(cls, session: GenericIdSession) -> "SrtpSessionData":
        """Decode the Session Data of `session`. Raises DecodeError unless its length agrees with the S flag."""
        r = Reader(session.session_data, f"HDR > CS {session.cs_id} > Session Data")
        ssrc = r.u32("SSRC")
        data = cls(ssrc, r.u32("ROC"), r.u16("SEQ")) if session.s else cls(ssrc)
        r.finish()
        return data

    def body(self) -> bytes:
        """Encode. Raises EncodeError unless ROC and SEQ are both there or both None."""
        if self.roc is None and self.seq is None:
            return u32(self.ssrc, "SSRC")
        if self.roc is None or self.seq is None:
            raise EncodeError("Session Data: ROC and SEQ go together")
        return u32(self.ssrc, "SSRC") + u32(self.roc, "ROC") + u16(self.seq, "SEQ")


@dataclass(frozen=True, slots=True)
class Hdr:
    """HDR. `v` asks for a response; `prf` is kept as sent, since the MAC covers it and a receiver judges it later.

    `n_cs` is #CS where it is not the number of `sessions`: an Empty map may count sessions that are mapped elsewhere.
    """

    NAME = "HDR"

    data_type: DataType
    csb_id: int
    prf: int
    v: bool = False
    map_type: MapType = MapType.EMPTY
    sessions: tuple[GenericIdSession, ...] | tuple[SrtpIdSession, ...] = ()
    n_cs: int | None = None

    @property
    def cs_count(self) -> int:
        """#CS."""
        return len(self.sessions) if self.n_cs is None else self.n_cs

    @classmethod
    def read(cls, r: Reader) -> tuple[int, "Hdr"]:
        """Decode HDR at the cursor; returns its Next Payload and itself. Raises DecodeError."""
        r.where = "HDR"
        version = r.u8("version")
        if version != VERSION:
            raise r.unknown("version", version)
        data_type = _data_type(r)
        following = r.u8("Next Payload")
        v_and_prf = r.u8("V and PRF func")
        csb_id = r.u32("CSB ID")
        n_cs = r.u8("#CS")
        map_type = r.u8("CS ID map type")
        sessions: tuple[GenericIdSession, ...] | tuple[SrtpIdSession, ...]
        if map_type == MapType.GENERIC_ID:
            sessions = tuple(GenericIdSession.read(r) for _ in range(n_cs))
        elif map_type == MapType.SRTP_ID:
            sessions = tuple(SrtpIdSession.read(r) for _ in range(n_cs))
        elif map_type == MapType.EMPTY:
            sessions = ()
        else:
            raise r.unknown("CS ID map type", map_type)
        count = None if n_cs == len(sessions) else n_cs
        return following, cls(
            data_type, csb_id, v_and_prf & 0x7F, bool(v_and_prf & 0x80), MapType(map_type), sessions, count
        )

    def encode(self, following: int) -> bytes:
        """Encode with the given Next Payload. Raises EncodeError, also for sessions that are not of the map type."""
        session = {MapType.GENERIC_ID: GenericIdSession, MapType.SRTP_ID: SrtpIdSession}.get(self.map_type)
        if any(type(s) is not session for s in self.sessions):
            raise EncodeError(f"CS ID map info: a session that is not of the map type {self.map_type.name}")
        if session is not None and self.cs_count != len(self.sessions):
            raise EncodeError(f"#CS: {self.cs_count} with {len(self.sessions)} sessions")
        return b"".join(
            (
                bytes((VERSION, self.data_type)) + u8(following, "Next Payload"),
                bytes((self.v << 7 | bits(self.prf, 7, "PRF func"),)),
                u32(self.csb_id, "CSB ID"),
                u8(self.cs_count, "#CS"),
                bytes((self.map_type,)),
                *(s.body() for s in self.sessions),
            )
        )


def _data_type(r: Reader) -> DataType:
    value = r.u8("Data Type")
    try:
        return DataType(value)
    except ValueError:
        raise r.unknown("Data Type", value, ErrorNo.INVALID_DT) from None
