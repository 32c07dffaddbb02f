"""The `config` of a vector: the subscribers, the KMS and their keys; and the clock and randomness that play them."""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from kms.cli.vectors.entries import BrokenVector, Json, octets, optional, text
from kms.cli.vectors.entries import field as member
from kms.crypto.sources import Sources
from kms.mikey.message import Message
from kms.mikey.payloads import T
from kms.mikey.registry import IdRole

CLOCK_SKEW = 600.0
"""Seconds that a timestamp may be off when vectors are played."""


class ScriptedSources(Sources):
    """Gives the random values and timestamps that were put in, by purpose; when there are none, real ones.

    A value of the vector replaces what the code asks for whatever its length: RANDs may be longer than they must be.
    What the code makes of a wrong length shows as a difference.
    """

    def __init__(self, clock: float, random: Callable[[int], bytes] = os.urandom) -> None:
        """`clock` is the time, until it is set anew; `random` gives what is not put in."""
        super().__init__(lambda: self.clock, random)
        self.clock = clock
        self._values: dict[str, deque[bytes]] = {}
        self._stamps: deque[T] = deque()

    def clear(self) -> None:
        """Forget what was put in and not used."""
        self._values.clear()
        self._stamps.clear()

    def put(self, purpose: str, value: bytes) -> None:
        """Give `value` the next time that a random value is asked for with this purpose."""
        self._values.setdefault(purpose, deque()).append(value)

    def put_timestamp(self, t: T) -> None:
        """Give `t` as the next timestamp."""
        self._stamps.append(t)

    def random(self, length: int, purpose: str) -> bytes:
        """See Sources."""
        queue = self._values.get(purpose)
        return queue.popleft() if queue else super().random(length, purpose)

    def timestamp(self) -> T:
        """See Sources."""
        return self._stamps.popleft() if self._stamps else super().timestamp()

    def timestamp_in_lane(self, lane: int) -> T:
        """See Sources: a scripted timestamp has the lane that its vector chose."""
        return self._stamps.popleft() if self._stamps else super().timestamp_in_lane(lane)


@dataclass(frozen=True, slots=True)
class Setting:
    """A vector's `config`. Identities and ids are ID Data.

    `psks` is identity to (PSK, IDRpsk). `tpk` is the TPK of base tickets, `epochs` the TPK epochs of derived ones
    by their IDRpsk. `certificates` (DER) and `private_keys` (PKCS #8 in DER) are by identity.

    `kms_r` is another KMS, which has tickets of this one resolved by it (RFC 6043 10): it has subscribers of its own,
    and in `peers` the PSK that this KMS gave it, by this KMS's identity.
    """

    clock: float
    kms_identity: bytes
    psks: dict[bytes, tuple[bytes, bytes]] = field(repr=False)
    mpk_length: int = 32
    prf: int = 1
    tpk: bytes | None = field(default=None, repr=False)
    tpk_id: bytes = b""
    epochs: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    current_epoch: bytes | None = None
    groups: dict[bytes, frozenset[bytes]] = field(default_factory=dict)
    clients: frozenset[bytes] = frozenset()
    certificates: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    private_keys: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    peers: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    kms_r: "Setting | None" = None

    @property
    def subscribers(self) -> tuple[bytes, ...]:
        """Everybody who can authenticate to the KMS."""
        return tuple(dict.fromkeys((*self.psks, *(c for c in self.certificates if c != self.kms_identity))))

    @property
    def parties(self) -> tuple[bytes, ...]:
        """The subscribers of this KMS and of KMS R."""
        return self.subscribers if self.kms_r is None else (*self.subscribers, *self.kms_r.subscribers)

    @property
    def asking_kms(self) -> dict[bytes, tuple[bytes, bytes]]:
        """KMS R as this KMS knows it: its identity to the PSK that they share, and its IDRpsk."""
        return {} if self.kms_r is None else {self.kms_r.kms_identity: self.kms_r.peers[self.kms_identity]}

    def home(self, identity: bytes) -> "Setting":
        """The KMS that a party is enrolled with: KMS R or this one."""
        return self.kms_r if self.kms_r is not None and identity in self.kms_r.psks else self

    def sender(self, message: Message) -> bytes | None:
        """Who sent an initial message to a KMS: IDRi or IDRr, else whom its IDRpsk names."""
        claimed = message.idr(IdRole.RESPONDER) or message.idr(IdRole.INITIATOR)
        psk_id = message.idr(IdRole.PSK)
        psks = self.psks if self.kms_r is None else {**self.psks, **self.kms_r.psks}
        return claimed or next((i for i, (_, known) in psks.items() if known == psk_id), None)

    def is_forwarded(self, message: Message) -> bool:
        """Whether KMS R sent this message to this KMS: it is under the PSK between them."""
        return message.idr(IdRole.PSK) in {psk_id for _, psk_id in self.asking_kms.values()}


def read_setting(config: Json) -> Setting:
    """The setting that a `config` describes. Raises BrokenVector; members that are not known are ignored."""
    suite = optional(config, "suite", dict, {})
    certificates = _certificates(optional(config, "certs", dict, {}))
    epochs = {
        _hex(psk_id): octets(optional(config, "tpk_epochs", dict, {}), psk_id, "tpk_epochs")
        for psk_id in optional(config, "tpk_epochs", dict, {})
    }
    setting = Setting(
        clock=float(optional(config, "clock_unix", (int, float), 0)),
        kms_identity=octets(config, "kms_id"),
        psks=_psks(optional(config, "psk", dict, {})),
        mpk_length=optional(suite, "size", int, 32),
        prf=optional(suite, "prf", int, 1),
        tpk=octets(config, "tpk") if config.get("tpk") is not None else None,
        tpk_id=octets(config, "tpk_id") if config.get("tpk_id") is not None else b"",
        epochs=epochs,
        current_epoch=octets(config, "current_epoch") if config.get("current_epoch") is not None else None,
        groups=_groups(optional(config, "groups", dict, {})),
        clients=frozenset(
            _utf8(i) for i, role in optional(config, "roles", dict, {}).items() if role == "client"
        ),
        certificates=dict(certificates.values()),
        private_keys=_private_keys(optional(config, "private_keys_pem", dict, {}), certificates),
    )
    kms_r = optional(config, "kms_r", dict, None)
    return setting if kms_r is None else replace(setting, kms_r=_kms_r(kms_r, setting))


def _kms_r(entry: Json, asked: Setting) -> Setting:
    """KMS R, which has tickets of `asked` resolved."""
    where = "config.kms_r"
    peers = _psks(optional(entry, "peers", dict, {}, where), f"{where}.peers")
    if asked.kms_identity not in peers:
        raise BrokenVector(f"{where}.peers has no PSK for {asked.kms_identity.decode(errors='replace')}")
    return Setting(
        clock=asked.clock,
        kms_identity=octets(entry, "kms_id", where),
        psks=_psks(optional(entry, "psk", dict, {}, where), f"{where}.psk"),
        mpk_length=asked.mpk_length,
        prf=asked.prf,
        clients=asked.clients,
        peers=peers,
    )


def _psks(entries: Json, where: str = "config.psk") -> dict[bytes, tuple[bytes, bytes]]:
    return {
        _utf8(identity): (octets(entry, "psk", where), octets(entry, "psk_id", where))
        for identity, entry in entries.items()
    }


def _groups(entries: Json) -> dict[bytes, frozenset[bytes]]:
    return {
        _utf8(group): frozenset(
            _utf8(m) for m in member(entries, group, list, "groups") if isinstance(m, str)
        )
        for group in entries
    }


def _certificates(entries: Json) -> dict[str, tuple[bytes, bytes]]:
    """Name in the vector to identity (the URI in subjectAltName) and DER."""
    found = {}
    for name in entries:
        der = octets(entries, name, "certs")
        try:
            certificate = x509.load_der_x509_certificate(der)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            identity = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        except (ValueError, IndexError, x509.ExtensionNotFound):
            raise BrokenVector(f"certs.{name} is no certificate with a URI in subjectAltName") from None
        found[name] = (identity.encode(), der)
    return found


def _private_keys(entries: Json, certificates: dict[str, tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found = {}
    for name in entries:
        if name not in certificates:
            continue
        try:
            key: Any = load_pem_private_key(text(entries, name, "private_keys_pem").encode(), None)
        except (ValueError, TypeError):
            raise BrokenVector(f"private_keys_pem.{name} is no unencrypted private key in PEM") from None
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        found[certificates[name][0]] = der
    return found


def _utf8(identity: str) -> bytes:
    try:
        return identity.encode()
    except UnicodeEncodeError:
        raise BrokenVector("config: an identity is not text") from None


def _hex(value: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise BrokenVector("config.tpk_epochs: a name is not hex") from None
