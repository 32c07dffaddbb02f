"""The vectors of tests/vectors, the JSON form of their payloads, and the RFC's PRF by plain HMAC."""

import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from kms.cli.vectors.forms import (
    CLASSES,
    build,
    build_hdr,
    build_message,
    describe,
    describe_hdr,
    describe_message,
)
from kms.mikey.registry import MacAlg, PrfFunc

__all__ = [
    "CLASSES",
    "all_messages",
    "build",
    "build_hdr",
    "build_message",
    "describe",
    "describe_hdr",
    "describe_message",
    "exchanges",
    "load",
    "mac",
    "prf",
]

FOLDER = Path(__file__).parent.parent / "vectors"

Json = dict[str, Any]


@cache
def load(name: str) -> Any:
    """The content of tests/vectors/NAME.json."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def exchanges() -> list[Json]:
    """The exchanges with pre-shared keys."""
    return [e for e in load("exchanges")["exchanges"] if e["name"].startswith("psk")]


def all_messages() -> list[bytes]:
    """Every good message of exchanges.json and payloads.json, each once."""
    found = [m["hex"] for e in load("exchanges")["exchanges"] for m in e["messages"]]
    found += [e["hex"] for e in load("payloads")["errors"]]
    return [bytes.fromhex(text) for text in dict.fromkeys(found)]


# -- key derivation and MACs, from the text of RFC 3830 4.1 and RFC 6043 6.1 -------------------------------------------

_HASHES: dict[int, Callable[..., Any]] = {
    PrfFunc.MIKEY_1: hashlib.sha1,
    PrfFunc.PRF_HMAC_SHA_256: hashlib.sha256,
}
_MACS: dict[int, Callable[..., Any]] = {
    MacAlg.HMAC_SHA_1_160: hashlib.sha1,
    MacAlg.HMAC_SHA_256_256: hashlib.sha256,
}


def prf(func: int, inkey: bytes, label: bytes, bits: int) -> bytes:
    """PRF(inkey, label) of `bits` bits (RFC 3830 4.1.2)."""
    size = _HASHES[func]().digest_size * 8
    m = -(-bits // size)
    out = bytes(m * size // 8)
    for i in range(0, len(inkey), 32):  # blocks of 256 bits
        block = _p(func, inkey[i : i + 32], label, m)
        out = bytes(x ^ y for x, y in zip(out, block, strict=True))
    return out[: bits // 8]


def _p(func: int, s: bytes, label: bytes, m: int) -> bytes:
    out, a = b"", label
    for _ in range(m):
        a = hmac.digest(s, a, _HASHES[func])
        out += hmac.digest(s, a + label, _HASHES[func])
    return out


def mac(alg: int, key: bytes, data: bytes) -> bytes:
    """The MAC of `data`."""
    return hmac.digest(key, data, _MACS[alg])
