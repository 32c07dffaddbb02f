"""Payloads of the public-key variants: PKE, DH, SIGN, CERT, CHASH (RFC 3830 6.3, 6.4, 6.5, 6.7, 6.8)."""

from dataclasses import dataclass

from kms.mikey.errors import EncodeError
from kms.mikey.payloads.base import Payload, register
from kms.mikey.payloads.keys import NO_VALIDITY, KeyValidity
from kms.mikey.registry import ErrorNo, HashFunc, PayloadType
from kms.mikey.wire import Reader, bits, block16, exact, u8, u16

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
        length = bits(len(self.data), 14, "Data length")
        return u16(bits(self.cache, 2, "C") << 14 | length, "C and Data length") + self.data


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
            raise r.unknown("DH-Group", group, ErrorNo.INVALID_DH)
        value = r.take(_DH_LENGTHS[group], "DH-value")
        reserved_and_kv = r.u8("Reserv and KV")
        return cls(group, value, KeyValidity.read(r, reserved_and_kv & 0x0F), reserved_and_kv >> 4)

    def body(self) -> bytes:
        if self.group not in _DH_LENGTHS:
            raise EncodeError(f"DH-Group: {self.group} is unknown")
        value = exact(self.value, _DH_LENGTHS[self.group], "DH-value")
        reserved_and_kv = bits(self.reserved, 4, "Reserv") << 4 | self.kv.kv_type
        return bytes((self.group,)) + value + bytes((reserved_and_kv,)) + self.kv.body()


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
        s_and_length = r.u16("S type and Signature len")
        return cls(s_and_length >> 12, r.take(s_and_length & 0x0FFF, "Signature"))

    def body(self) -> bytes:
        length = bits(len(self.signature), 12, "Signature len")
        return u16(bits(self.s_type, 4, "S type") << 12 | length, "S type and Signature len") + self.signature


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
            raise r.unknown("Hash func", number, ErrorNo.INVALID_HA) from None
        return cls(hash_func, r.take(_HASH_LENGTHS[hash_func], "Hash"))

    def body(self) -> bytes:
        return bytes((self.hash_func,)) + exact(self.hash, _HASH_LENGTHS[self.hash_func], "Hash")
