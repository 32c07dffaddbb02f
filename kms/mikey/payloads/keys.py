"""Payloads that carry keys: KEMAC (RFC 3830 6.2, RFC 6043 6.2) and Key Data (RFC 3830 6.13, RFC 6043 6.2.1)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kms.mikey.errors import EncodeError
from kms.mikey.payloads.base import Payload, read_payload, register, write_chain
from kms.mikey.payloads.basic import MAC_LENGTHS, read_mac_alg
from kms.mikey.registry import KeyType, KvType, MacAlg, PayloadType
from kms.mikey.wire import Reader, block8, block16, exact, u8

_SALTED = {KeyType.TGK_SALT, KeyType.TEK_SALT, KeyType.GTGK_SALT}


@register
@dataclass(frozen=True, slots=True)
class Kemac(Payload):
    """Key data transport payload, KEMAC. `encr_alg` is kept as sent; `encr_data` is decoded by `KeyData.read_all`."""

    TYPE = PayloadType.KEMAC
    NAME = "KEMAC"

    encr_alg: int
    encr_data: bytes = field(repr=False)
    mac_alg: MacAlg = MacAlg.NULL
    mac: bytes = b""

    @classmethod
    def read(cls, r: Reader) -> "Kemac":
        encr_alg = r.u8("Encr alg")
        encr_data = r.block16("Encr data")
        mac_alg = read_mac_alg(r, "MAC alg")
        return cls(encr_alg, encr_data, mac_alg, r.take(MAC_LENGTHS[mac_alg], "MAC"))

    def body(self) -> bytes:
        return b"".join(
            (
                u8(self.encr_alg, "Encr alg"),
                block16(self.encr_data, "Encr data"),
                bytes((self.mac_alg,)),
                exact(self.mac, MAC_LENGTHS[self.mac_alg], "MAC"),
            )
        )


@dataclass(frozen=True, slots=True)
class KeyValidity:
    """KV data: nothing, an SPI (or MKI), or an interval from `valid_from` to `valid_to` (RFC 3830 6.14)."""

    kv_type: KvType = KvType.NULL
    spi: bytes = b""
    valid_from: bytes = b""
    valid_to: bytes = b""

    @classmethod
    def read(cls, r: Reader, number: int) -> "KeyValidity":
        """Decode KV data of the type that the 4-bit field `number` gives."""
        if number == KvType.NULL:
            return cls()
        if number == KvType.SPI:
            return cls(KvType.SPI, spi=r.block8("SPI"))
        if number == KvType.INTERVAL:
            return cls(KvType.INTERVAL, valid_from=r.block8("Valid From"), valid_to=r.block8("Valid To"))
        raise r.fail(f"KV {number} is unknown")

    def body(self) -> bytes:
        """Encode KV data, without its type. Raises EncodeError for a field that the type does not have."""
        if (self.spi and self.kv_type != KvType.SPI) or (
            (self.valid_from or self.valid_to) and self.kv_type != KvType.INTERVAL
        ):
            raise EncodeError(f"KV {self.kv_type.name} with the data of another type")
        if self.kv_type == KvType.SPI:
            return block8(self.spi, "SPI")
        if self.kv_type == KvType.INTERVAL:
            return block8(self.valid_from, "Valid From") + block8(self.valid_to, "Valid To")
        return b""


NO_VALIDITY = KeyValidity()
"""KV of type NULL."""


@register
@dataclass(frozen=True, slots=True)
class KeyData(Payload):
    """Key data sub-payload: one key of 0 to 65535 bytes with its salt (+SALT types) and KV. `repr` hides both."""

    TYPE = PayloadType.KEY_DATA
    NAME = "Key Data"

    key_type: KeyType
    key: bytes = field(repr=False)
    salt: bytes = field(default=b"", repr=False)
    kv: KeyValidity = NO_VALIDITY

    @property
    def spi(self) -> bytes:
        """The SPI, empty if there is none."""
        return self.kv.spi

    @classmethod
    def read(cls, r: Reader) -> "KeyData":
        type_and_kv = r.u8("Type and KV")
        try:
            key_type = KeyType(type_and_kv >> 4)
        except ValueError:
            raise r.unknown("Type", type_and_kv >> 4) from None
        key = r.block16("Key data")
        salt = r.block16("Salt") if key_type in _SALTED else b""
        return cls(key_type, key, salt, KeyValidity.read(r, type_and_kv & 0x0F))

    def body(self) -> bytes:
        parts = [bytes((self.key_type << 4 | self.kv.kv_type,)), block16(self.key, "Key data")]
        if self.key_type in _SALTED:
            parts.append(block16(self.salt, "Salt"))
        elif self.salt:
            raise EncodeError(f"Salt: a {self.key_type.name} has none")
        parts.append(self.kv.body())
        return b"".join(parts)

    @staticmethod
    def read_all(data: bytes, where: str = "KEMAC > Encr data") -> tuple["KeyData", ...]:
        """Decode the decrypted Encr data of a KEMAC: Key Data sub-payloads and nothing else. May be empty.

        Raises DecodeError; its offsets count from the start of `data`.
        """
        r = Reader(data, where)
        keys: list[KeyData] = []
        number: int = PayloadType.KEY_DATA if data else PayloadType.LAST
        while number == PayloadType.KEY_DATA:
            number, payload = read_payload(r, number)
            assert isinstance(payload, KeyData)
            keys.append(payload)
        if number != PayloadType.LAST:
            raise r.fail(f"Next Payload {number} where only Key Data may follow")
        r.finish()
        return tuple(keys)

    @staticmethod
    def write_all(keys: Iterable["KeyData"]) -> bytes:
        """Encode the plain Encr data of a KEMAC."""
        return write_chain(keys)


def with_spi(key_type: KeyType, key: bytes, salt: bytes, spi: bytes) -> KeyData:
    """A key with an SPI, as RFC 6043 6.2.1 wants every key to be."""
    return KeyData(key_type, key, salt, KeyValidity(KvType.SPI, spi=spi))
