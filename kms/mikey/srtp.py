"""SRTP policies in SP payloads (RFC 3830 6.10.1) and their negotiation by a GENERIC-ID map (RFC 6043 6.1.1)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Sp
from kms.mikey.registry import ErrorNo, ProtType, SrtpParam

ENCR_NULL, ENCR_AES_CM, ENCR_AES_F8 = 0, 1, 2
AUTH_NULL, AUTH_HMAC_SHA_1 = 0, 1


@dataclass(frozen=True, slots=True)
class SrtpPolicy:
    """One SRTP policy. Lengths in bytes (AMBIGUITIES A-27); the defaults are SRTP's own (RFC 3711 section 5)."""

    encr_alg: int = ENCR_AES_CM
    encr_key_len: int = 16  # also the length of the master key
    auth_alg: int = AUTH_HMAC_SHA_1
    auth_key_len: int = 20
    salt_key_len: int = 14
    prf: int = 0
    key_derivation_rate: int = 0
    srtp_encryption: bool = True
    srtcp_encryption: bool = True
    fec_order: int = 0
    srtp_authentication: bool = True
    auth_tag_len: int = 10
    prefix_len: int = 0

    @classmethod
    def of(cls, sp: Sp) -> "SrtpPolicy":
        """Decode an SP payload. Raises ProtocolError: Invalid SP for another protocol, Invalid SPpar for parameters."""
        if sp.prot_type != ProtType.SRTP:
            raise ProtocolError(f"SP: Prot type {sp.prot_type} is not supported", ErrorNo.INVALID_SP)
        values: dict[int, int] = {}
        for number, value in sp.params:
            if number not in _FIELDS:
                raise ProtocolError(f"SP: SRTP parameter {number} is not supported", ErrorNo.INVALID_SPPAR)
            if number in values or len(value) > 8:
                raise ProtocolError(f"SP: SRTP parameter {number} is malformed", ErrorNo.INVALID_SPPAR)
            values[number] = int.from_bytes(value, "big")
        fields: dict[str, Any] = {_FIELDS[n]: bool(v) if n in _SWITCHES else v for n, v in values.items()}
        return cls(**fields)

    def sp(self, policy_no: int) -> Sp:
        """Encode as an SP payload with every parameter that differs from the default or names a length."""
        default = SrtpPolicy()
        params = []
        for number, name in _FIELDS.items():
            value = int(getattr(self, name))
            if number in _ALWAYS or value != getattr(default, name):
                size = max(1, (value.bit_length() + 7) // 8)
                params.append((int(number), value.to_bytes(size, "big")))
        return Sp(policy_no, ProtType.SRTP, tuple(params))


_FIELDS: dict[int, str] = {
    SrtpParam.ENCR_ALG: "encr_alg",
    SrtpParam.ENCR_KEY_LEN: "encr_key_len",
    SrtpParam.AUTH_ALG: "auth_alg",
    SrtpParam.AUTH_KEY_LEN: "auth_key_len",
    SrtpParam.SALT_KEY_LEN: "salt_key_len",
    SrtpParam.PRF: "prf",
    SrtpParam.KEY_DERIVATION_RATE: "key_derivation_rate",
    SrtpParam.ENCRYPTION: "srtp_encryption",
    SrtpParam.RTCP_ENCRYPTION: "srtcp_encryption",
    SrtpParam.FEC_ORDER: "fec_order",
    SrtpParam.AUTHENTICATION: "srtp_authentication",
    SrtpParam.AUTH_TAG_LEN: "auth_tag_len",
    SrtpParam.PREFIX_LEN: "prefix_len",
}
_SWITCHES = (SrtpParam.ENCRYPTION, SrtpParam.RTCP_ENCRYPTION, SrtpParam.AUTHENTICATION)
_ALWAYS = (
    SrtpParam.ENCR_ALG,
    SrtpParam.ENCR_KEY_LEN,
    SrtpParam.AUTH_ALG,
    SrtpParam.AUTH_KEY_LEN,
    SrtpParam.SALT_KEY_LEN,
    SrtpParam.ENCRYPTION,
    SrtpParam.RTCP_ENCRYPTION,
    SrtpParam.AUTHENTICATION,
    SrtpParam.AUTH_TAG_LEN,
)

AES_CM_128_HMAC_SHA1_80 = SrtpPolicy()
"""The profile AES_CM_128_HMAC_SHA1_80: SRTP's default."""
AES_CM_256_HMAC_SHA1_80 = SrtpPolicy(encr_key_len=32)
"""The profile AES_256_CM_HMAC_SHA1_80 of RFC 6188."""


def policies(sps: Iterable[Sp]) -> dict[int, SrtpPolicy]:
    """The policies of SP payloads by policy_no. A later one replaces an earlier one (AMBIGUITIES A-42)."""
    return {sp.policy_no: SrtpPolicy.of(sp) for sp in sps}
