"""Who speaks: a subscriber's identity, its keys with the KMS, and its clock and randomness."""

from dataclasses import dataclass, field

from kms.crypto.interface import Key, KeyOperations, UnsupportedKey, Use
from kms.crypto.public_key import EnvelopeCertificate, SignatureKey
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.crypto.suite import SUITES, Suite
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Randr
from kms.mikey.registry import ErrorNo, RandRole
from kms.party.credential import Credential, CredentialError

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


@dataclass(frozen=True, slots=True)
class Party:
    """A subscriber of one KMS. Identities are ID Data. `keys` has one entry per suite, the preferred first."""

    identity: bytes
    kms_identity: bytes
    keys: tuple[KmsKey, ...]
    ops: KeyOperations = field(repr=False)
    sources: Sources = field(repr=False)

    @classmethod
    def of(cls, credential: Credential, sources: Sources | None = None) -> "Party":
        """The subscriber of an enrolment file, with software keys. Raises CredentialError."""
        ops = SoftwareKeys()
        identities = credential.identity.encode(), credential.kms_identity.encode()
        return cls(*identities, _keys(credential, ops), ops, sources or Sources())

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
