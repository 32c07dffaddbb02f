"""AES key wrap with an IV of the caller's (RFC 3394 2.2.1 and 2.2.2), as RFC 3830 4.2.3 uses it for KEMAC.

`cryptography` has it with the default IV only, tokens not at all for data: so here it is, over any AES-ECB.
"""

from collections.abc import Callable

from kms.crypto.interface import UnsupportedKey, VerificationError

AesBlock = Callable[[bytes], bytes]


def wrap(encrypt_block: AesBlock, iv: bytes, data: bytes) -> bytes:
    """Wrap `data` (16 bytes or more, in multiples of 8) with an 8-byte IV; 8 bytes longer.

    `encrypt_block` encrypts one AES block. Raises UnsupportedKey for another length.
    """
    if len(data) < 16 or len(data) % 8:
        raise UnsupportedKey(f"AES key wrap of {len(data)} bytes: give it 16 or more, in multiples of 8")
    a, r = iv, [data[i : i + 8] for i in range(0, len(data), 8)]
    for step in range(1, 6 * len(r) + 1):
        index = (step - 1) % len(r)
        block = encrypt_block(a + r[index])
        a, r[index] = _xor(block[:8], step), block[8:]
    return a + b"".join(r)


def unwrap(decrypt_block: AesBlock, iv: bytes, wrapped: bytes) -> bytes:
    """The inverse of `wrap`. Raises VerificationError unless `wrapped` was made with this key and IV."""
    if len(wrapped) < 24 or len(wrapped) % 8:
        raise VerificationError("not an AES key wrap: its length must be 24 or more, in multiples of 8")
    a, r = wrapped[:8], [wrapped[i : i + 8] for i in range(8, len(wrapped), 8)]
    for step in range(6 * len(r), 0, -1):
        index = (step - 1) % len(r)
        block = decrypt_block(_xor(a, step) + r[index])
        a, r[index] = block[:8], block[8:]
    if a != iv:
        raise VerificationError("the AES key wrap does not verify")
    return b"".join(r)


def _xor(a: bytes, step: int) -> bytes:
    return (int.from_bytes(a, "big") ^ step).to_bytes(8, "big")
