"""The PRF of RFC 3830 4.1.2, and with HMAC-SHA-256 of RFC 6043 6.1, on bytes."""

from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC

from kms.mikey.registry import PrfFunc

HASHES: dict[PrfFunc, HashAlgorithm] = {
    PrfFunc.MIKEY_1: SHA1(),  # noqa: S303 - HMAC-SHA-1 is what MIKEY-1 is
    PrfFunc.PRF_HMAC_SHA_256: SHA256(),
}
_BLOCK = 32


def prf(inkey: bytes | bytearray, func: PrfFunc, label: bytes, length: int) -> bytes:
    """`length` bytes of PRF(inkey, label). An inkey over 32 bytes is cut into blocks of 32, their outputs XORed."""
    out = 0
    for start in range(0, len(inkey), _BLOCK):
        out ^= int.from_bytes(_p(inkey[start : start + _BLOCK], HASHES[func], label, length), "big")
    return out.to_bytes(length, "big")


def _p(s: bytes | bytearray, algorithm: HashAlgorithm, label: bytes, length: int) -> bytes:
    out, a = b"", label
    while len(out) < length:
        a = _hmac(s, algorithm, a)
        out += _hmac(s, algorithm, a + label)
    return out[:length]


def _hmac(key: bytes | bytearray, algorithm: HashAlgorithm, data: bytes) -> bytes:
    context = HMAC(key, algorithm)
    context.update(data)
    return context.finalize()
