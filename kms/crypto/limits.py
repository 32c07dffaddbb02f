"""What every implementation of KeyOperations refuses, so that they refuse the same. Lengths are in bytes."""

from kms.crypto.interface import Key, UnsupportedKey, Use, WrongUse
from kms.mikey.registry import EncrAlg, MacAlg

MAC_LENGTHS = {MacAlg.HMAC_SHA_1_160: 20, MacAlg.HMAC_SHA_256_256: 32}
_CIPHER_KEYS = {EncrAlg.AES_CM_128: 16, EncrAlg.AES_KW_128: 16, EncrAlg.AES_CM_256: 32}
_IVS = {EncrAlg.AES_CM_128: 16, EncrAlg.AES_KW_128: 8, EncrAlg.AES_CM_256: 16}
_MAX_AES_CM = 1 << 20  # the counter has 16 bits (RFC 3830 4.2.3)

SYMMETRIC_USES = tuple(use for use in Use if use is not Use.UNWRAP)
LEAF_USES = (Use.PRF, Use.SIGN, Use.VERIFY)
PRF_USES = (*LEAF_USES, Use.ENCRYPT, Use.DECRYPT)


def check_use(key: Key, *uses: Use) -> None:
    """Raise WrongUse unless the key has one of these uses."""
    if key.use not in uses:
        raise WrongUse(f"a {key.use.value} key was used as a {uses[0].value} key")


def check_length(what: str, length: int, least: int, most: int) -> None:
    """Raise UnsupportedKey unless the length is from least to most."""
    if not least <= length <= most:
        raise UnsupportedKey(f"{what} of {length} bytes: must be from {least} to {most}")


def check_new_key(use: Use, length: int, allowed: tuple[Use, ...], most: int = 32) -> None:
    """Raise WrongUse or UnsupportedKey unless a key of this use may be made, with this length."""
    if use not in allowed:
        raise WrongUse(f"a {use.value} key cannot be made this way")
    if use is Use.BRANCH:
        check_length("a branch", length, 32, 32)
    elif use in (Use.ENCRYPT, Use.DECRYPT):
        if length not in (16, 32):
            raise UnsupportedKey(f"an AES key of {length} bytes: must be 16 or 32")
    elif use is Use.PRF:
        check_length("a PRF key", length, 16, most)
    else:
        check_length("a MAC key", length, 20, most)


def check_prf(label: bytes, length: int, least: int, most: int) -> None:
    """Raise UnsupportedKey for an empty label, which no RFC has and NSS does not take, or a wrong output length."""
    check_length("a PRF output", length, least, most)
    if not label:
        raise UnsupportedKey("a PRF label must not be empty")


def mac_length(key: Key, alg: MacAlg) -> int:
    """Bytes of the MAC. Raises UnsupportedKey for NULL and for a key that is shorter than the MAC."""
    length = MAC_LENGTHS.get(alg)
    if length is None:
        raise UnsupportedKey(f"MAC algorithm {alg.name} authenticates nothing")
    if key.length < length:
        raise UnsupportedKey(f"{alg.name} needs a key of {length} bytes or more, this one has {key.length}")
    return length


def check_cipher(key: Key, alg: EncrAlg, iv: bytes, data: bytes) -> None:
    """Raise UnsupportedKey unless key, IV and data have the algorithm's lengths."""
    if alg not in _CIPHER_KEYS:
        raise UnsupportedKey(f"encryption algorithm {alg.name} encrypts nothing")
    if key.length != _CIPHER_KEYS[alg]:
        raise UnsupportedKey(
            f"{alg.name} needs a key of {_CIPHER_KEYS[alg]} bytes, this one has {key.length}"
        )
    if len(iv) != _IVS[alg]:
        raise UnsupportedKey(f"{alg.name} needs an IV of {_IVS[alg]} bytes, not {len(iv)}")
    if len(data) > _MAX_AES_CM:
        raise UnsupportedKey(f"{len(data)} bytes are more than {alg.name} encrypts under one IV")
