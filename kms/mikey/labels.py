"""Every label that a key is derived with: the registry of both kinds of derivation.

*The RFC's PRF* takes labels whose bytes RFC 3830 4.1 and RFC 6043 5.1, 6.10 and A.2 prescribe. *This KMS's own
derivation* takes labels of its own (docs/ticket-type.md): fields behind 32-bit lengths, the label's name first.
No two calls with different arguments give the same label within a kind (tests/mikey/test_labels.py).
"""

from enum import IntEnum
from typing import Literal

from kms.mikey.errors import EncodeError
from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc, TsType
from kms.mikey.wire import block8, block16, u8, u16, u32

# -- the RFC's PRF ---------------------------------------------------------------------------------------------------

_NO_CSB_ID = b"\xff\xff\xff\xff"


class MessageKey(IntEnum):
    """Constants of keys that protect MIKEY messages (RFC 3830 4.1.4)."""

    ENCR = 0x150533E1
    AUTH = 0x2D22AC75
    SALT = 0x29B88916


class SessionKey(IntEnum):
    """Constants of keys for the security protocol (RFC 3830 4.1.3)."""

    TEK = 0x2AD01C64
    ENCR = 0x15798CEF
    AUTH = 0x1B5C7973
    SALT = 0x39A2C14B


class ForkedKey(IntEnum):
    """Constants of forked keys (RFC 6043 table 5.1)."""

    MPKR = 0x2B288856
    TGK = 0x1512B54A


class ProtectionKey(IntEnum):
    """Constants of MPKi and MPKr of a base ticket (RFC 6043 table A.1)."""

    MPKI = 0x220E99A2
    MPKR = 0x1F4D675B


INITIAL: Literal[1] = 1
"""Direction octet of an initial message (5.1.2)."""
RESPONSE: Literal[2] = 2
"""Direction octet of a response message (5.1.2)."""


def message_key(constant: MessageKey, csb_id: int, direction: int, randr_i: bytes, randr_r: bytes) -> bytes:
    """Label of 5.1.2: keys that protect a message, from an envelope key, PSK or MPK. An omitted RAND is empty.

    Raises EncodeError for a `direction` other than INITIAL and RESPONSE, or a RAND over 255 bytes.
    """
    if direction not in (INITIAL, RESPONSE):
        raise EncodeError(f"label: the direction {direction} is neither {INITIAL} nor {RESPONSE}")
    rands = block8(randr_i, "RANDRi") + block8(randr_r, "RANDRr")
    return _label(constant, b"\xff", u32(csb_id, "CSB ID"), direction, rands)


def session_key(constant: SessionKey, cs_id: int, randr_i: bytes, randr_r: bytes) -> bytes:
    """Label of 5.1.3: keys of a crypto session, from a TGK or GTGK. An unused RAND is empty. Raises EncodeError."""
    rands = block8(randr_i, "RANDRi") + block8(randr_r, "RANDRr")
    return _label(constant, u8(cs_id, "CS ID"), _NO_CSB_ID, 3, rands)


def forked_key(constant: ForkedKey, id_data: bytes, randr_kms: bytes) -> bytes:
    """Label of 5.1.1: MPKr' and TGK', from the modifier (ID Data of IDRr, RANDRkms). Raises EncodeError."""
    return _label(
        constant, b"\xff", _NO_CSB_ID, 0, block16(id_data, "ID Data") + block8(randr_kms, "RANDRkms")
    )


def vr_key() -> bytes:
    """Label of 6.10: the auth_key of Vr, from MPKr."""
    return _label(MessageKey.AUTH, b"\xff", _NO_CSB_ID, 4, b"")


def tpk_key(constant: MessageKey, rand: bytes) -> bytes:
    """Label of A.2.1: keys that protect a base ticket, from its TPK. Raises EncodeError."""
    return _label(constant, b"\xff", _NO_CSB_ID, 5, block8(rand, "RAND"))


def mpk_key(constant: ProtectionKey, rand: bytes) -> bytes:
    """Label of A.2.2: MPKi and MPKr, from the MPK of a base ticket. Raises EncodeError."""
    return _label(constant, b"\xff", _NO_CSB_ID, 6, block8(rand, "RAND"))


def _label(constant: IntEnum, cs_id: bytes, csb_id: bytes, purpose: int, inputs: bytes) -> bytes:
    return u32(constant, "constant") + cs_id + csb_id + bytes((purpose,)) + inputs


# -- this KMS's own derivation ---------------------------------------------------------------------------------------


def user_branch(identity: bytes, version: int, prf: PrfFunc) -> bytes:
    """From the PSK master: everything of one subscriber, one enrolment, one suite."""
    return _own("user", identity, u32(version, "version"), bytes((prf,)))


def psk() -> bytes:
    """From a user branch: the PSK."""
    return _own("PSK")


def ticket_branch(rand: bytes, thdr_data: bytes, ticket_body: bytes) -> bytes:
    """From a TPK epoch: everything of one derived ticket. `ticket_body` is from Ticket Type to the end of TP Data."""
    return _own("ticket", rand, thdr_data, ticket_body)


def ticket_mac_key() -> bytes:
    """From a ticket branch: the key of the ticket's MAC."""
    return _own("ticket MAC key")


def ticket_mpki() -> bytes:
    """From a ticket branch: MPKi."""
    return _own("MPKi")


def ticket_mpkr() -> bytes:
    """From a ticket branch: MPKr."""
    return _own("MPKr")


def ticket_session_key(index: int) -> bytes:
    """From a ticket branch: the session key with this index, from 0, in the order of THDR."""
    return _own("session key", u16(index, "index"))


def ticket_session_salt(index: int) -> bytes:
    """From a ticket branch: the salt of the session key with this index."""
    return _own("session salt", u16(index, "index"))


def base_ticket_tpk() -> bytes:
    """From a TPK epoch: the TPK of this KMS's own base tickets."""
    return _own("base ticket TPK")


def shared_tpk_branch(
    role: int, owner: bytes, version: int, peer: bytes, peer_version: int, prf: PrfFunc
) -> bytes:
    """From the shared TPK master: one TPK that is shared with its owner (docs/modes.md).

    `role` is the mode it is for, 2 to 4. `peer` is empty but in mode 4, where the owner is the Initiator and the peer
    the Responder; versions are those of the enrolments.
    """
    enrolments = owner, u32(version, "version"), peer, u32(peer_version, "version")
    return _own("shared TPK", bytes((role,)), *enrolments, bytes((prf,)))


def shared_tpk() -> bytes:
    """From a shared TPK's branch: the TPK."""
    return _own("TPK")


def fingerprint() -> bytes:
    """From any master: a public value that names the key without telling anything of it."""
    return _own("fingerprint")


def _own(*fields: str | bytes) -> bytes:
    parts = []
    for item in fields:
        data = item.encode() if isinstance(item, str) else item
        parts.append(len(data).to_bytes(4, "big") + data)
    return b"".join(parts)


# -- lengths and IVs -------------------------------------------------------------------------------------------------

AUTH_KEY_LENGTHS = {MacAlg.HMAC_SHA_1_160: 20, MacAlg.HMAC_SHA_256_256: 32}
"""Bytes of an auth_key (RFC 3830 4.2.4, RFC 6043 6.2)."""
ENCR_KEY_LENGTHS = {EncrAlg.AES_CM_128: 16, EncrAlg.AES_KW_128: 16, EncrAlg.AES_CM_256: 32}
"""Bytes of an encr_key (RFC 3830 4.2.3, RFC 6043 6.2)."""
SALT_KEY_LENGTHS = {EncrAlg.AES_CM_128: 14, EncrAlg.AES_KW_128: 8, EncrAlg.AES_CM_256: 14}
"""Bytes of a salt_key (RFC 3830 4.2.3)."""


def kemac_iv(alg: EncrAlg, salt_key: bytes, csb_id: int, ts_type: TsType, ts_value: bytes) -> bytes:
    """The IV of a KEMAC (RFC 3830 4.2.3): 16 bytes for AES-CM, the 8-byte salt for AES key wrap.

    `salt_key` has the algorithm's length in SALT_KEY_LENGTHS, `ts_value` the bytes of T's TS Value.

    The timestamp is the one of the message that carries the KEMAC (A-01); a COUNTER is padded with leading zeros
    (A-02), an NTP-UTC-32 with trailing ones (RFC 6043 6.3). The CSB ID of a base ticket is 0xFFFFFFFF (A.1).
    """
    if alg == EncrAlg.AES_KW_128:
        return salt_key
    t = ts_value.rjust(8, b"\0") if ts_type == TsType.COUNTER else ts_value.ljust(8, b"\0")
    mask = b"\0\0" + csb_id.to_bytes(4, "big") + t
    return bytes(s ^ m for s, m in zip(salt_key, mask, strict=True)) + b"\0\0"
