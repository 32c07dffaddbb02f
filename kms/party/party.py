"""Who speaks: a subscriber's identity, its keys with the KMS, and its clock and randomness."""

from dataclasses import dataclass, field

from kms.crypto.interface import Key, KeyOperations, Use
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.crypto.suite import SUITES, Suite
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Randr
from kms.mikey.registry import ErrorNo, RandRole
from kms.party.credential import Credential

RAND_LENGTH = 32
"""Bytes of every RANDR that is sent: as long as the longest PSK and MPK of either suite (RFC 6043 12.1)."""


@dataclass(frozen=True, slots=True)
class SuiteKey:
    """The PSK of one suite, as a PRF key, with its IDRpsk."""

    suite: Suite
    psk_id: bytes
    psk: Key


@dataclass(frozen=True, slots=True)
class Party:
    """A subscriber of one KMS. Identities are ID Data. `keys` has one entry per suite, the preferred first."""

    identity: bytes
    kms_identity: bytes
    keys: tuple[SuiteKey, ...]
    ops: KeyOperations = field(repr=False)
    sources: Sources = field(repr=False)

    @classmethod
    def of(cls, credential: Credential, sources: Sources | None = None) -> "Party":
        """The subscriber of an enrolment file, with software keys."""
        ops = SoftwareKeys()
        keys = (SuiteKey(SUITES[k.suite], k.psk_id, ops.load(k.psk, Use.PRF)) for k in credential.psks)
        identities = credential.identity.encode(), credential.kms_identity.encode()
        return cls(*identities, tuple(keys), ops, sources or Sources())

    def key_for(self, prf: int) -> SuiteKey:
        """The PSK of the suite with this PRF func. Raises ProtocolError (Invalid PRF) if there is none."""
        for key in self.keys:
            if key.suite.prf == prf:
                return key
        enrolled = ", ".join(f"{key.suite.bits}-bit" for key in self.keys)
        raise ProtocolError(
            f"PRF func {prf} is of another suite than those {self.identity.decode(errors='replace')} "
            f"is enrolled in ({enrolled})",
            ErrorNo.INVALID_PRF,
        )

    def new_csb_id(self) -> int:
        """A random CSB ID (RFC 3830 6.1)."""
        return int.from_bytes(self.sources.random(4, "CSB ID"), "big")

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
