"""Payloads with plain content: timestamps, identities, RANDs, verification, errors, security policies, extensions."""

from dataclasses import dataclass

from kms.mikey.payloads.base import Payload, register
from kms.mikey.registry import ErrorNo, MacAlg, PayloadType, TsType
from kms.mikey.wire import Reader, block8, block16, exact, u8, u16

_TS_LENGTHS = {TsType.NTP_UTC: 8, TsType.NTP: 8, TsType.COUNTER: 4, TsType.NTP_UTC_32: 4}
MAC_LENGTHS = {MacAlg.NULL: 0, MacAlg.HMAC_SHA_1_160: 20, MacAlg.HMAC_SHA_256_256: 32}
"""Bytes of a MAC (RFC 3830 tables 6.2.b and 6.9, RFC 6043 table 6.6)."""


def _read_timestamp(r: Reader) -> tuple[TsType, bytes]:
    number = r.u8("TS Type")
    try:
        ts_type = TsType(number)
    except ValueError:
        raise r.unknown("TS Type", number, ErrorNo.INVALID_TS) from None
    return ts_type, r.take(_TS_LENGTHS[ts_type], "TS Value")


def _write_timestamp(ts_type: TsType, value: bytes) -> bytes:
    return bytes((ts_type,)) + exact(value, _TS_LENGTHS[ts_type], "TS Value")


def read_mac_alg(r: Reader, field: str) -> MacAlg:
    """A MAC or Auth alg octet. An unknown algorithm has an unknown MAC length: DecodeError with Invalid MAC."""
    number = r.u8(field)
    try:
        return MacAlg(number)
    except ValueError:
        raise r.unknown(field, number, ErrorNo.INVALID_MAC) from None


@register
@dataclass(frozen=True, slots=True)
class T(Payload):
    """Timestamp payload (RFC 3830 6.6, RFC 6043 6.3). `value` is 8 bytes, or 4 for COUNTER and NTP-UTC-32."""

    TYPE = PayloadType.T
    NAME = "T"

    ts_type: TsType
    value: bytes

    @classmethod
    def read(cls, r: Reader) -> "T":
        return cls(*_read_timestamp(r))

    def body(self) -> bytes:
        return _write_timestamp(self.ts_type, self.value)


@register
@dataclass(frozen=True, slots=True)
class Tr(Payload):
    """Timestamp payload with role indicator, TR (RFC 6043 6.4). `role` is a TsRole or a private number."""

    TYPE = PayloadType.TR
    NAME = "TR"

    role: int
    ts_type: TsType
    value: bytes

    @classmethod
    def read(cls, r: Reader) -> "Tr":
        return cls(r.u8("TS Role"), *_read_timestamp(r))

    def body(self) -> bytes:
        return u8(self.role, "TS Role") + _write_timestamp(self.ts_type, self.value)


@register
@dataclass(frozen=True, slots=True)
class Id(Payload):
    """ID payload (RFC 3830 6.7). RFC 6043 6.6 uses IDR instead in all its messages."""

    TYPE = PayloadType.ID
    NAME = "ID"

    id_type: int
    data: bytes

    @classmethod
    def read(cls, r: Reader) -> "Id":
        return cls(r.u8("ID Type"), r.block16("ID Data"))

    def body(self) -> bytes:
        return u8(self.id_type, "ID Type") + block16(self.data, "ID Data")


@register
@dataclass(frozen=True, slots=True)
class Idr(Payload):
    """ID payload with role indicator, IDR (RFC 6043 6.6). `data` is the ID Data, for instance a SIP URI in UTF-8."""

    TYPE = PayloadType.IDR
    NAME = "IDR"

    role: int
    id_type: int
    data: bytes

    @classmethod
    def read(cls, r: Reader) -> "Idr":
        return cls(r.u8("ID Role"), r.u8("ID Type"), r.block16("ID Data"))

    def body(self) -> bytes:
        return u8(self.role, "ID Role") + u8(self.id_type, "ID Type") + block16(self.data, "ID Data")


@register
@dataclass(frozen=True, slots=True)
class V(Payload):
    """Verification payload (RFC 3830 6.9). `mac` has the algorithm's length; NULL has none."""

    TYPE = PayloadType.V
    NAME = "V"

    auth_alg: MacAlg
    mac: bytes

    @classmethod
    def read(cls, r: Reader) -> "V":
        alg = read_mac_alg(r, "Auth alg")
        return cls(alg, r.take(MAC_LENGTHS[alg], "Ver data"))

    def body(self) -> bytes:
        return bytes((self.auth_alg,)) + exact(self.mac, MAC_LENGTHS[self.auth_alg], "Ver data")


@register
@dataclass(frozen=True, slots=True)
class Sp(Payload):
    """Security Policy payload, SP (RFC 3830 6.10): (type, value) parameters in their order."""

    TYPE = PayloadType.SP
    NAME = "SP"

    policy_no: int
    prot_type: int
    params: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def read(cls, r: Reader) -> "Sp":
        policy_no = r.u8("Policy no")
        prot_type = r.u8("Prot type")
        block = r.sub(r.block16("Policy param"), "Policy param")
        params = []
        while block.left:
            params.append((block.u8("type"), block.block8("value")))
        return cls(policy_no, prot_type, tuple(params))

    def body(self) -> bytes:
        params = b"".join(u8(t, "type") + block8(value, "value") for t, value in self.params)
        return (
            u8(self.policy_no, "Policy no")
            + u8(self.prot_type, "Prot type")
            + block16(params, "Policy param")
        )


@register
@dataclass(frozen=True, slots=True)
class Rand(Payload):
    """RAND payload (RFC 3830 6.11): 0 to 255 random bytes."""

    TYPE = PayloadType.RAND
    NAME = "RAND"

    rand: bytes

    @classmethod
    def read(cls, r: Reader) -> "Rand":
        return cls(r.block8("RAND"))

    def body(self) -> bytes:
        return block8(self.rand, "RAND")


@register
@dataclass(frozen=True, slots=True)
class Randr(Payload):
    """RAND payload with role indicator, RANDR (RFC 6043 6.8)."""

    TYPE = PayloadType.RANDR
    NAME = "RANDR"

    role: int
    rand: bytes

    @classmethod
    def read(cls, r: Reader) -> "Randr":
        return cls(r.u8("RAND Role"), r.block8("RAND"))

    def body(self) -> bytes:
        return u8(self.role, "RAND Role") + block8(self.rand, "RAND")


@register
@dataclass(frozen=True, slots=True)
class Err(Payload):
    """Error payload, ERR (RFC 3830 6.12). `error_no` is an ErrorNo or a number of a later specification."""

    TYPE = PayloadType.ERR
    NAME = "ERR"

    error_no: int
    reserved: int = 0

    @classmethod
    def read(cls, r: Reader) -> "Err":
        return cls(r.u8("Error no"), r.u16("Reserved"))

    def body(self) -> bytes:
        return u8(self.error_no, "Error no") + u16(self.reserved, "Reserved")


@register
@dataclass(frozen=True, slots=True)
class GeneralExtension(Payload):
    """General Extension payload (RFC 3830 6.15, RFC 4563): Vendor ID, SDP IDs, Key ID and later ones."""

    TYPE = PayloadType.GENERAL_EXTENSION
    NAME = "General Extension"

    ext_type: int
    data: bytes

    @classmethod
    def read(cls, r: Reader) -> "GeneralExtension":
        return cls(r.u8("Type"), r.block16("Data"))

    def body(self) -> bytes:
        return u8(self.ext_type, "Type") + block16(self.data, "Data")
