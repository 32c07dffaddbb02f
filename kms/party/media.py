"""Keys for SRTP: the derivation of a crypto session's master key and salt (RFC 6043 5.1.3)."""

from dataclasses import dataclass, field

from kms.crypto.interface import KeyOperations, Use
from kms.mikey import labels
from kms.mikey.errors import ProtocolError
from kms.mikey.labels import SessionKey
from kms.mikey.payloads import GenericIdSession, KeyData, SrtpSessionData
from kms.mikey.registry import ErrorNo, KeyType, PrfFunc
from kms.mikey.srtp import AUTH_HMAC_SHA_1, ENCR_AES_CM, SrtpPolicy

_PROFILES = {
    SrtpPolicy(): "AES_CM_128_HMAC_SHA1_80",
    SrtpPolicy(auth_tag_len=4): "AES_CM_128_HMAC_SHA1_32",
    SrtpPolicy(encr_key_len=32): "AES_256_CM_HMAC_SHA1_80",
    SrtpPolicy(encr_key_len=32, auth_tag_len=4): "AES_256_CM_HMAC_SHA1_32",
}
"""Names of RFC 4568 section 6.2 and RFC 6188."""
assert all((p.encr_alg, p.auth_alg) == (ENCR_AES_CM, AUTH_HMAC_SHA_1) for p in _PROFILES)


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """What an SRTP library needs for one crypto session, in either direction. `repr` hides key and salt.

    `ssrc` is the stream's; `roc` and `seq` its rollover counter and sequence number at the start, if they were sent.
    `mki` is the SPI of the key. The lengths of `master_key` and `master_salt`, in bytes, are those of `policy`.
    """

    cs_id: int
    ssrc: int
    roc: int | None
    seq: int | None
    master_key: bytes = field(repr=False)
    master_salt: bytes = field(repr=False)
    mki: bytes
    policy: SrtpPolicy

    @property
    def profile(self) -> str:
        """The crypto suite's name, such as AES_CM_128_HMAC_SHA1_80. Raises ProtocolError if it has none."""
        name = _PROFILES.get(self.policy)
        if name is None:
            raise ProtocolError("the SRTP policy is none of the named crypto suites", ErrorNo.INVALID_SPPAR)
        return name

    @property
    def libsrtp_key(self) -> bytes:
        """Master key and master salt in one, as libsrtp's policy takes them."""
        return self.master_key + self.master_salt


def derive(
    ops: KeyOperations,
    prf: PrfFunc,
    session: GenericIdSession,
    policy: SrtpPolicy,
    key: KeyData,
    *,
    randr_i: bytes,
    randr_r: bytes,
) -> SrtpKeys:
    """The SRTP keys of one crypto session from the key that its SPI names.

    `prf` is HDR's; `randr_i` is empty unless the H flag is set, `randr_r` unless G is (5.1.3). A TEK is used as it is,
    without salt if it has none (A-28). Raises ProtocolError if the key does not fit the policy.
    """
    where = f"CS {session.cs_id}"
    if key.key_type in (KeyType.TEK, KeyType.TEK_SALT):
        tek, salt = key.key, key.salt
    else:
        if not randr_i and not randr_r:
            raise ProtocolError(
                f"{where}: a TGK or GTGK needs RANDRi or RANDRr (5.1.3)", ErrorNo.INVALID_TPPAR
            )
        master = ops.load(key.key, Use.PRF)
        label = labels.session_key(SessionKey.TEK, session.cs_id, randr_i, randr_r)
        tek = ops.prf_release(master, prf, label, policy.encr_key_len)
        salt = key.salt
        if not salt:
            label = labels.session_key(SessionKey.SALT, session.cs_id, randr_i, randr_r)
            salt = ops.prf_release(master, prf, label, policy.salt_key_len)
    if len(tek) != policy.encr_key_len or len(salt) not in (policy.salt_key_len, 0):
        raise ProtocolError(
            f"{where}: a key of {len(tek)} bytes with {len(salt)} of salt does not fit its SRTP policy "
            f"({policy.encr_key_len} and {policy.salt_key_len})",
            ErrorNo.INVALID_SPPAR,
        )
    if prf == PrfFunc.MIKEY_1 and len(tek) > 16:
        raise ProtocolError(
            f"{where}: the 128-bit suite must not be used with a TEK of {len(tek)} bytes (12.1)",
            ErrorNo.INVALID_SPPAR,
        )
    data = SrtpSessionData.of(session)
    return SrtpKeys(session.cs_id, data.ssrc, data.roc, data.seq, tek, salt, session.spi, policy)
