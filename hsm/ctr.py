"""AES in counter mode, as AES-CM of RFC 3830 4.2.3 needs it: by the token, or composed of CKM_AES_ECB."""

from hsm import cryptoki as ck
from hsm.cryptoki import AesCtrParams, Mechanism
from hsm.session import Session, wipe

_BLOCK = 16
_ECB = Mechanism(ck.AES_ECB)


def mechanism(iv: bytes) -> Mechanism:
    """CKM_AES_CTR that starts at this counter block (16 bytes)."""
    params = AesCtrParams(counter_bits=128)
    params.block[:] = iv
    return Mechanism(ck.AES_CTR, params)


def composed(session: Session, key: int, iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt, where the token has no counter mode: it encrypts the counters. No key passes through."""
    first, size = int.from_bytes(iv, "big"), len(data)
    if not size:
        return b""
    counters = ((first + i) % (1 << 128) for i in range(-(-size // _BLOCK)))
    stream = session.encrypt(_ECB, key, b"".join(counter.to_bytes(_BLOCK, "big") for counter in counters))
    try:
        mixed = int.from_bytes(bytes(stream[:size]), "big") ^ int.from_bytes(data, "big")
        return mixed.to_bytes(size, "big")
    finally:
        wipe(stream)
