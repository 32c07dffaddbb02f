"""Ticket Data, the key list of a derived ticket, Initiator Data and SRTP policies: what is refused, and how."""

from dataclasses import replace

import pytest

from kms.mikey.errors import DecodeError, EncodeError, MikeyError, ProtocolError
from kms.mikey.message import unsigned_v
from kms.mikey.payloads import (
    GenericIdSession,
    Idr,
    InitiatorData,
    Kemac,
    KeyData,
    Payload,
    Rand,
    Sp,
    SrtpSessionData,
    T,
    V,
    with_spi,
    write_block,
)
from kms.mikey.registry import ErrorNo, IdRole, KeyType, MacAlg, ProtType, SrtpParam, TsType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80, SrtpPolicy, policies
from kms.mikey.ticket_data import KeyEntry, TicketData, entry_of, read_key_list, write_key_list

STAMP, RAND, V_1 = T(TsType.NTP_UTC, bytes(8)), Rand(bytes(32)), unsigned_v(MacAlg.HMAC_SHA_1_160)
KEMAC, IDR_PSK = Kemac(1, b""), Idr(IdRole.PSK, 2, b"tpk")
GOOD: tuple[Payload, ...] = (STAMP, RAND, KEMAC, IDR_PSK, V_1)

# -- Ticket Data -------------------------------------------------------------------------------------------------------


def test_ticket_data_fields() -> None:
    data = TicketData.decode(TicketData(b"thdr", GOOD).encode())
    assert (data.thdr_data, data.t, data.rand, data.kemac, data.psk_id, data.v) == (
        b"thdr",
        STAMP,
        RAND.rand,
        KEMAC,
        b"tpk",
        V_1,
    )
    bare = TicketData.decode(TicketData(b"", (STAMP, RAND, Idr(IdRole.KMS, 1, b"x"), V_1)).encode())
    assert bare.psk_id is None
    with pytest.raises(ProtocolError, match="KEMAC is missing") as caught:
        _ = bare.kemac
    assert caught.value.error_no == ErrorNo.INVALID_TICKET


@pytest.mark.parametrize(
    ("payloads", "text"),
    [
        ((), "V must come last"),
        ((STAMP, RAND), "V must come last"),
        ((STAMP, RAND, V_1, KEMAC), "V must come last"),
        ((RAND, V_1), "T appears 0 times"),
        ((STAMP, V_1), "RAND appears 0 times"),
        ((STAMP, *GOOD), "T appears 2 times"),
        ((RAND, *GOOD), "RAND appears 2 times"),
        ((V_1, *GOOD), "V appears 2 times"),
        ((KEMAC, *GOOD), "KEMAC appears 2 times"),
        ((IDR_PSK, *GOOD), "IDRpsk appears more than once"),
    ],
)
def test_ticket_data_that_is_refused(payloads: tuple[Payload, ...], text: str) -> None:
    with pytest.raises(MikeyError, match=f"Ticket Data: {text}") as caught:
        TicketData.decode(TicketData(b"", payloads).encode())
    assert caught.value.error_no == ErrorNo.INVALID_TICKET


def test_short_ticket_header() -> None:
    with pytest.raises(DecodeError) as caught:
        TicketData.decode(b"\5\0\4abc")
    assert str(caught.value) == "Ticket Data > THDR: THDR Data needs 4 bytes, only 3 left (offset 3)"


# -- key list ----------------------------------------------------------------------------------------------------------

MPK, TGK = KeyEntry(KeyType.MPK, 32, 0, b""), KeyEntry(KeyType.TGK, 16, 0, b"1")


@pytest.mark.parametrize("entries", [(), (TGK,), (TGK, MPK), (MPK, MPK), (MPK, TGK, MPK)])
def test_exactly_one_mpk_comes_first(entries: tuple[KeyEntry, ...]) -> None:
    with pytest.raises(DecodeError, match="exactly one MPK, the first key") as caught:
        read_key_list(write_key_list(entries))
    assert caught.value.error_no == ErrorNo.INVALID_TICKET


def test_key_list_that_is_malformed() -> None:
    raw = write_key_list((MPK, TGK))
    for length in range(len(raw)):
        with pytest.raises(DecodeError, match="THDR Data: "):
            read_key_list(raw[:length])
    with pytest.raises(DecodeError, match="1 bytes left over"):
        read_key_list(raw + b"\0")
    with pytest.raises(DecodeError, match=r"type 7 is unknown \(offset 1\)"):
        read_key_list(b"\1\7\0\0\0")
    for entry in (replace(TGK, length=256), replace(TGK, salt_length=256), replace(TGK, spi=bytes(256))):
        with pytest.raises(EncodeError, match="256 does not fit"):
            write_key_list((entry,))


def test_entry_of_a_key() -> None:
    key = with_spi(KeyType.TGK_SALT, bytes(32), bytes(14), b"spi")
    assert entry_of(key) == KeyEntry(KeyType.TGK_SALT, 32, 14, b"spi")
    assert entry_of(KeyData(KeyType.TEK, bytes(16))).spi == b""


# -- Initiator Data ----------------------------------------------------------------------------------------------------

V_256, V_NULL = unsigned_v(MacAlg.HMAC_SHA_256_256), V(MacAlg.NULL, b"")


@pytest.mark.parametrize("chain", [(), (V_1,), (V_1, RAND), (RAND, V_1)])
def test_initiator_data_is_vi_first_and_vr_last(chain: tuple[Payload, ...]) -> None:
    with pytest.raises(DecodeError, match="Vi first and Vr last"):
        InitiatorData.decode(write_block(chain))


@pytest.mark.parametrize("chain", [(V_1, V_256), (V_256, V_1), (V_NULL, V_NULL), (V_1, V_NULL)])
def test_vr_uses_the_algorithm_of_vi(chain: tuple[V, V]) -> None:
    with pytest.raises(ProtocolError, match="Vr does not use the authentication algorithm") as caught:
        InitiatorData.decode(InitiatorData(*chain).encode())
    assert caught.value.error_no == ErrorNo.AUTH_FAILURE


def test_unexpected_payloads_are_covered_by_vr() -> None:
    data = InitiatorData(V_1, V_1, (RAND,))
    assert RAND.rand in data.vr_coverage()
    assert InitiatorData(V_NULL, V_NULL).vr_coverage() == InitiatorData(V_NULL, V_NULL).encode()


def test_vi_as_a_byte_copy_of_v_is_refused() -> None:
    """AMBIGUITIES A-07: V has Next Payload 0, but Vi must name Vr."""
    vi = b"\0" + V_1.body()
    with pytest.raises(DecodeError, match="22 bytes left over"):
        InitiatorData.decode(b"\x09" + vi + vi)


# -- SRTP --------------------------------------------------------------------------------------------------------------


def test_session_data_has_the_length_that_s_says() -> None:
    for length in range(12):
        for s in (False, True):
            session = GenericIdSession(7, session_data=bytes(length), s=s)
            if length == (10 if s else 4):
                assert SrtpSessionData.of(session).ssrc == 0
                continue
            with pytest.raises(DecodeError, match="HDR > CS 7 > Session Data"):
                SrtpSessionData.of(session)


def test_profiles() -> None:
    for profile in (AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80):
        assert SrtpPolicy.of(profile.sp(1)) == profile
    assert SrtpPolicy.of(Sp(0, ProtType.SRTP)) == AES_CM_128_HMAC_SHA1_80
    assert policies([Sp(1, 0), AES_CM_256_HMAC_SHA1_80.sp(1)]) == {1: AES_CM_256_HMAC_SHA1_80}


@pytest.mark.parametrize(
    ("sp", "error_no"),
    [
        (Sp(0, 1), ErrorNo.INVALID_SP),
        (Sp(0, 0, ((13, b"\1"),)), ErrorNo.INVALID_SPPAR),
        (Sp(0, 0, ((SrtpParam.AUTH_TAG_LEN, bytes(9)),)), ErrorNo.INVALID_SPPAR),
        (Sp(0, 0, ((SrtpParam.AUTH_TAG_LEN, b"\4"), (SrtpParam.AUTH_TAG_LEN, b"\4"))), ErrorNo.INVALID_SPPAR),
    ],
)
def test_policies_that_are_refused(sp: Sp, error_no: ErrorNo) -> None:
    with pytest.raises(ProtocolError) as caught:
        SrtpPolicy.of(sp)
    assert caught.value.error_no == error_no
