"""The two suites of RFC 6043 12.1. Their algorithms are never mixed."""

from dataclasses import dataclass

from kms.mikey.errors import ProtocolError
from kms.mikey.labels import AUTH_KEY_LENGTHS
from kms.mikey.registry import EncrAlg, ErrorNo, HashFunc, MacAlg, PrfFunc


@dataclass(frozen=True, slots=True)
class Suite:
    """A PRF with the algorithms that go with it. `bits` names the suite: 128 or 256."""

    bits: int
    prf: PrfFunc
    encr_alg: EncrAlg
    mac_alg: MacAlg
    hash_func: HashFunc

    @property
    def key_length(self) -> int:
        """Bytes of a session key or encr_key."""
        return self.bits // 8

    @property
    def auth_key_length(self) -> int:
        """Bytes of an auth_key."""
        return AUTH_KEY_LENGTHS[self.mac_alg]


SUITE_128 = Suite(128, PrfFunc.MIKEY_1, EncrAlg.AES_CM_128, MacAlg.HMAC_SHA_1_160, HashFunc.SHA_1)
"""MIKEY-1 PRF, AES-CM-128, HMAC-SHA-1-160."""
SUITE_256 = Suite(
    256, PrfFunc.PRF_HMAC_SHA_256, EncrAlg.AES_CM_256, MacAlg.HMAC_SHA_256_256, HashFunc.SHA_256
)
"""PRF-HMAC-SHA-256, AES-CM-256, HMAC-SHA-256-256: the default."""
SUITES = {suite.bits: suite for suite in (SUITE_128, SUITE_256)}
"""The suites by their size in bits."""


def suite_of(prf: int) -> Suite:
    """The suite of a PRF func. Raises ProtocolError (Invalid PRF) for an unknown one."""
    for suite in SUITES.values():
        if suite.prf == prf:
            return suite
    raise ProtocolError(f"PRF func {prf} is not supported", ErrorNo.INVALID_PRF)
