"""Who speaks: a subscriber's identity, its keys with the KMS, and its clock and randomness."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from kms.crypto.interface import Key, KeyOperations, UnsupportedKey, Use
from kms.crypto.public_key import EnvelopeCertificate, SignatureKey
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.crypto.suite import SUITES, Suite
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Randr
from kms.mikey.registry import ErrorNo, RandRole
from kms.party.credential import Credential, CredentialError, SharedTpk

RAND_LENGTH = 32
"""Bytes of every RANDR that is sent: as long as the longest PSK and MPK of either suite (RFC 6043 12.1)."""


@dataclass(frozen=True, slots=True)
class SuiteKey:
    """The PSK of one suite, as a PRF key, with its IDRpsk."""

    suite: Suite
    psk_id: bytes
    psk: Key


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What a subscriber without PSK has for one suite: its signature key, and the KMS's certificate for PKE."""

    suite: Suite
    signer: SignatureKey = field(repr=False)
    kms: EnvelopeCertificate = field(repr=False)


KmsKey = SuiteKey | SigningKey


class CsbIds:
    """The CSB IDs that a party took last, so that no two of its bundles have the same. Thread-safe."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._taken: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, draw: Callable[[], int]) -> int:
        """The first drawn number that is not taken. The oldest of more than `limit` numbers are forgotten."""
        with self._lock:
            number = draw()
            while number in self._taken:
                number = draw()
            self._taken[number] = None
            if len(self._taken) > self._limit:
                self._taken.popitem(last=False)
            return number


@dataclass(frozen=True, slots=True)
class Party:
    """A subscriber of one KMS. Identities are ID Data. `keys` has one entry per suite, the preferred first.

    `tpks` are the TPKs that are shared with it, for modes 2 to 4.
    """

    identity: bytes
    kms_identity: bytes
    keys: tuple[KmsKey, ...]
    ops: KeyOperations = field(repr=False)
    sources: Sources = field(repr=False)
    tpks: tuple[SharedTpk, ...] = ()
    _csb_ids: "CsbIds" = field(default_factory=lambda: CsbIds(), repr=False, compare=False)

    @classmethod
    def of(cls, credential: Credential, sources: Sources | None = None) -> "Party":
        """The subscriber of an enrolment file, with software keys. Raises CredentialError."""
        ops = SoftwareKeys()
        identities = credential.identity.encode(), credential.kms_identity.encode()
        return cls(*identities, _keys(credential, ops), ops, sources or Sources(), credential.tpks)

    def key_for(self, prf: int) -> KmsKey:
        """The key of the suite with this PRF func. Raises ProtocolError (Invalid PRF) if there is none."""
        for key in self.keys:
            if key.suite.prf == prf:
                return key
        enrolled = ", ".join(f"{key.suite.bits}-bit" for key in self.keys)
        raise ProtocolError(
            f"PRF func {prf} is of another suite than those {self.identity.decode(errors='replace')} "
            f"is enrolled in ({enrolled})",
            ErrorNo.INVALID_PRF,
        )

    def tpk_for_making(self, suite: int, peer: str | None) -> SharedTpk:
        """The TPK of a suite (128 or 256) for making tickets: that the KMS opens, or `peer`. Raises ProtocolError."""
        for tpk in self.tpks:
            if (tpk.role, tpk.suite, tpk.peer) == ("initiator", suite, peer):
                return tpk
        other = "the KMS, for making tickets" if peer is None else peer
        raise ProtocolError(f"no TPK of the {suite}-bit suite is shared with {other}: enrol with --share-tpk")

    def tpk_for_opening(self, suite: int, tpk_id: bytes | None) -> SharedTpk | None:
        """The TPK that IDRpsk of a ticket names, if this party may open tickets with it."""
        for tpk in self.tpks:
            if (tpk.role, tpk.suite, tpk.tpk_id) == ("responder", suite, tpk_id):
                return tpk
        return None

    def new_csb_id(self) -> int:
        """A random CSB ID that none of this party's last bundles has (RFC 3830 6.1)."""
        return self._csb_ids.new(lambda: int.from_bytes(self.sources.random(4, "CSB ID"), "big"))

    def new_ssrc(self) -> int:
        """A random SSRC (RFC 3550 8.1)."""
        return int.from_bytes(self.sources.random(4, "SSRC"), "big")

    def new_spi(self) -> bytes:
        """A random SPI of 4 bytes, for a key that this party makes or asks for."""
        return self.sources.random(4, "SPI")

    def new_randr(self, role: RandRole) -> Randr:
        """A fresh RANDRi or RANDRr."""
        name = {RandRole.INITIATOR: "RANDRi", RandRole.RESPONDER: "RANDRr", RandRole.KMS: "RANDRkms"}[role]
        return Randr(role, self.sources.random(RAND_LENGTH, name))


def _keys(credential: Credential, ops: SoftwareKeys) -> tuple[KmsKey, ...]:
    pair = credential.key_pair
    if pair is None:
        return tuple(SuiteKey(SUITES[k.suite], k.psk_id, ops.load(k.psk, Use.PRF)) for k in credential.psks)
    try:
        signer = SignatureKey.load(pair.cert.encode(), pair.key.encode())
    except UnsupportedKey as error:
        raise CredentialError(f"cert or key of {credential.identity} cannot be used: {error}") from None
    try:
        kms = EnvelopeCertificate.load(pair.kms_cert.encode())
    except UnsupportedKey as error:
        raise CredentialError(f"kms_cert of {credential.identity} cannot be used: {error}") from None
    suites = sorted(SUITES.values(), key=lambda suite: (suite.bits != pair.suite, -suite.bits))
    return tuple(SigningKey(suite, signer, kms) for suite in suites)
