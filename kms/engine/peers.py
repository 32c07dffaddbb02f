"""The other KMSs that this one has tickets resolved by (RFC 6043 10), as an engine knows them: identity and PSKs.

How to reach a peer, and the TLS key for it, is the frontend's part of the same table of kms.toml.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kms.config import PeerConfig
from kms.crypto.suite import SUITES
from kms.engine.faults import StartRefused
from kms.mikey.registry import PrfFunc


@dataclass(frozen=True, slots=True)
class PeerPsk:
    """The PSK (16 to 32 bytes) of one suite that a peer gave this KMS, and its IDRpsk. `repr` hides the PSK."""

    psk_id: bytes
    psk: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Peer:
    """A KMS whose tickets are forwarded to it. `identity` is its IDRkms."""

    identity: bytes
    psks: Mapping[PrfFunc, PeerPsk]


def read_peers(configs: Mapping[str, PeerConfig]) -> dict[bytes, Peer]:
    """The peers of kms.toml by identity. Raises StartRefused."""
    return {identity.encode(): _read(identity, config.psk) for identity, config in configs.items()}


def _read(identity: str, path: Path) -> Peer:
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_bytes()
    except OSError as error:
        raise StartRefused(f"{path} cannot be read: {error.strerror}; run `kms peer add` again") from None
    if mode & 0o077:
        raise StartRefused(f"{path} holds a PSK but has the mode {mode:04o}; run: chmod 600 {path}")
    try:
        psks = dict(_entry(entry) for entry in json.loads(text)["psks"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StartRefused(f"{path} does not hold the PSKs of a peer; run `kms peer add` again") from None
    return Peer(identity.encode(), psks)


def _entry(entry: Mapping[str, Any]) -> tuple[PrfFunc, PeerPsk]:
    psk = bytes.fromhex(entry["psk"])
    if not 16 <= len(psk) <= 32:
        raise ValueError
    return SUITES[entry["suite"]].prf, PeerPsk(bytes.fromhex(entry["psk_id"]), psk)
