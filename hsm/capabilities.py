"""What a token can do, as found by trying (hsm.probe), and how that is reported."""

from dataclasses import dataclass, field

from hsm import ckr
from hsm import cryptoki as ck
from kms.mikey.registry import PrfFunc

NATIVE = "native"
COMPOSED = "composed"


@dataclass
class Capabilities:
    """How the operations are to be done on one token. Starts with the least, which every token must have."""

    missing: frozenset[int] = frozenset((ck.ALLOWED_MECHANISMS, ck.COPYABLE))
    """attributes that session keys must do without: the token does not take them"""
    native_derivation: bool = False
    """derives branches and leaves by itself, with CKM_AES_CBC_ENCRYPT_DATA"""
    native_ctr: bool = False
    """has CKM_AES_CTR"""
    short_hmac: bool = False
    """HMAC works with keys that are shorter than the hash"""
    native_prf: set[PrfFunc] = field(default_factory=set)
    """PRFs that the token computes by itself: rung 1"""
    wrong_wrap: set[int] = field(default_factory=set)
    """what C_UnwrapKey and C_Decrypt return for a PKE that does not open; learnt when an RSA key is looked up"""
    wrong_mac: set[int] = field(default_factory=lambda: {ckr.SIGNATURE_INVALID})
    """what C_Verify returns for a wrong MAC"""


@dataclass(frozen=True, slots=True)
class Rung:
    """How one operation is done on a token. `rung` is "native" or "composed"; `mechanism` names what is used.

    A composed key passes through this process, inside one function; composed AES key wrap passes no key. Every
    operation has passed its known-answer test: a token that fails one is not opened.
    """

    operation: str
    rung: str
    mechanism: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found when the token was opened.

    `mechanisms` is the token's own list, of which nothing is believed. `weaknesses` are sentences for the operator:
    what the token would let its caller do with keys although their attributes forbid it.
    """

    token: str
    library: str
    rungs: tuple[Rung, ...]
    mechanisms: tuple[str, ...]
    weaknesses: tuple[str, ...]
