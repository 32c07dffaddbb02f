"""Payloads of the public-key variants: PKE, DH, SIGN, CERT, CHASH (RFC 3830 6.3, 6.4, 6.5, 6.7, 6.8)."""

from dataclasses import dataclass

from kms.mikey.payloads.base import Payload, register
from kms.mikey.payloads.keys import NO_VALIDITY, KeyValidity
from kms.mikey.registry import ErrorNo, HashFunc, PayloadType
from kms.mikey.wire import Reader, block16, u8, u16

_HASH_LENGTHS = {HashFunc.SHA_1: 20, HashFunc.MD5: 16, HashFunc.SHA_256: 32}
_DH_LENGTHS = {0: 192, 1: 96, 2: 128}  # OAKLEY 5, 1 and 2 (RFC 3830 table 6.4)


@register
@dataclass(frozen=True, slots=True)
class Pke(Payload):
    """Envelope data payload, PKE: the envelope key under the receiver's public key. `cache` is the 2-bit field C."""

    TYPE = PayloadType.PKE
    NAME = "PKE"

    data: bytes
    cache: int = 0

    @classmethod
    def read(cls, r: Reader) -> "Pke":
        c_and_length = r.u16("C and Data length")
        return cls(r.take(c_and_length & 0x3FFF, "Data"), c_and_length >> 14)

    def body(self) -> bytes:
        return _bits_and_length(self.cache, 14, len(self.data), "C and Data length") + self.data


@register
@dataclass(frozen=True, slots=True)
class Dh(Payload):
    """DH data payload (RFC 3830 6.4). Not used by RFC 6043; decoded for inspection."""

    TYPE = PayloadType.DH
    NAME = "DH"

    group: int
    value: bytes
    kv: KeyValidity = NO_VALIDITY
    reserved: int = 0

    @classmethod
    def read(cls, r: Reader) -> "Dh":
        group = r.u8("DH-Group")
        if group not in _DH_LENGTHS:
            raise r.fail(f"DH-Group {group} is unknown", ErrorNo.INVALID_DH)
        value = r.take(_DH_LENGTHS[group], "DH-value")
        reserved_and_kv = r.u8("Reserv and KV")
        return cls(group, value, KeyValidity.read(r, reserved_and_kv & 0x0F), reserved_and_kv >> 4)

    def body(self) -> bytes:
        reserved_and_kv = u8(self.reserved << 4 | self.kv.kv_type, "Reserv and KV")
        return u8(self.group, "DH-Group") + self.value + reserved_and_kv + self.kv.body()


@register
@dataclass(frozen=True, slots=True)
class Sign(Payload):
    """Signature payload, SIGN. It has no Next Payload field, so it is the last payload of a message."""

    TYPE = PayloadType.SIGN
    NAME = "SIGN"
    HAS_NEXT = False

    s_type: int
    signature: bytes

    @classmethod
    def read(cls, r: Reader) -> "Sign":
        s_and_length = r.u16("S type and signature length")
        return cls(s_and_length >> 12, r.take(s_and_length & 0x0FFF, "Signature"))

    def body(self) -> bytes:
        length = _bits_and_length(self.s_type, 12, len(self.signature), "S type and signature length")
        return length + self.signature


@register
@dataclass(frozen=True, slots=True)
class Cert(Payload):
    """Certificate payload, CERT: a certificate in DER, or a URL of one."""

    TYPE = PayloadType.CERT
    NAME = "CERT"

    cert_type: int
    data: bytes

    @classmethod
    def read(cls, r: Reader) -> "Cert":
        return cls(r.u8("Cert Type"), r.block16("Certificate"))

    def body(self) -> bytes:
        return u8(self.cert_type, "Cert Type") + block16(self.data, "Certificate")


@register
@dataclass(frozen=True, slots=True)
class Chash(Payload):
    """Cert hash payload, CHASH: which of its public keys the receiver shall use."""

    TYPE = PayloadType.CHASH
    NAME = "CHASH"

    hash_func: HashFunc
    hash: bytes

    @classmethod
    def read(cls, r: Reader) -> "Chash":
        number = r.u8("Hash func")
        try:
            hash_func = HashFunc(number)
        except ValueError:
            raise r.fail(f"Hash func {number} is unknown", ErrorNo.INVALID_HA) from None
        return cls(hash_func, r.take(_HASH_LENGTHS[hash_func], "Hash"))

    def body(self) -> bytes:
        return bytes((self.hash_func,)) + self.hash


def _bits_and_length(bits: int, width: int, length: int, field: str) -> bytes:
    if length >> width:
        length = 1 << 16  # cannot be carried: u16 says so
    return u16(bits << width | length, field)
