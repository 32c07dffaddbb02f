"""The Ticket Policy: every combination of flags, TP Data, validity, keys, and the Initiator's check of the answer."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kms.mikey import policy, timestamps
from kms.mikey.errors import MikeyError, ProtocolError
from kms.mikey.payloads import Flags, Idr, Kemac, KeyData, Payload, T, TicketPolicy, Tr, with_spi
from kms.mikey.policy import FORKED_MODE_1, tp_data
from kms.mikey.registry import EncrAlg, ErrorNo, IdRole, KeyType, MacAlg, TsRole, TsType
from tests.mikey import strategies

KMS, ALICE, BOB = b"sip:kms@example.com", b"sip:alice@example.com", b"sip:bob@example.com"
TGK = with_spi(KeyType.TGK, bytes(16), b"", b"1")
TEK = with_spi(KeyType.TEK_SALT, bytes(16), bytes(14), b"2")


def make(flags: Flags = FORKED_MODE_1, *extra: Payload, prf: int = 0) -> TicketPolicy:
    data = tp_data(kms=KMS, initiator=ALICE, responders=[BOB])
    return TicketPolicy(1, 1, 1, prf, flags, (*data, *extra))


def refused(call: object, *arguments: object, error_no: ErrorNo = ErrorNo.INVALID_TPPAR) -> str:
    assert callable(call)
    with pytest.raises(ProtocolError) as caught:
        call(*arguments)
    assert caught.value.error_no == error_no
    return str(caught.value)


def rules_of_6_10(letters: str, granted: bool) -> bool:
    """The flag rules of 6.10, from its sentences: which letters may stand together."""
    has = set(letters).issuperset
    return all(
        (
            has("D") or has("L"),  # an Initiator that makes the ticket supplies the session keys
            has("F") or not has("G"),  # RANDRr travels in TRANSFER_RESP
            has("G") or has("H"),  # one of the RANDs enters the derivation
            has("E") or not has("I"),  # the KMS forks when it resolves
            has("D") or not has("K") or not granted,  # only the KMS changes a policy; ignored in a TP
            has("F") or not has("M"),  # the Responder's keys travel in TRANSFER_RESP
        )
    )


def test_all_4096_combinations_of_flags() -> None:
    names = "DEFGHIJKLMNO"
    good = dict.fromkeys((policy.check, policy.check_granted), 0)
    for bits in range(4096):
        letters = "".join(name for i, name in enumerate(names) if bits >> (11 - i) & 1)
        flags = Flags(bits)
        assert flags.letters == letters
        for check in good:
            if rules_of_6_10(letters, granted=check == policy.check_granted):
                check(make(flags))
                good[check] += 1
                continue
            text = refused(check, make(flags))
            assert f"Ticket Policy: the flags {letters} break the rule" in text
    assert 0 < good[policy.check_granted] < good[policy.check] < 4096


@given(strategies.policies())
def test_checks_raise_nothing_but_protocol_errors(ticket_policy: TicketPolicy) -> None:
    for check in (policy.check, policy.check_granted, policy.requested_keys):
        try:
            check(ticket_policy)
        except MikeyError:
            continue
        assert ticket_policy.prf in (0, 1) or check is policy.requested_keys


# -- TP Data -----------------------------------------------------------------------------------------------------------

times = st.none() | st.integers(timestamps.FIRST, timestamps.LAST)


@given(
    times, times, st.none() | strategies.u32, st.lists(strategies.blob, min_size=1), st.lists(strategies.blob)
)
def test_tp_data_is_read_back(
    start: int | None,
    end: int | None,
    rekeying: int | None,
    responders: list[bytes],
    applications: list[bytes],
) -> None:
    data = tp_data(
        kms=KMS,
        initiator=ALICE,
        responders=responders,
        start=start,
        end=end,
        rekeying=rekeying,
        applications=applications,
    )
    made = TicketPolicy(1, 1, 1, 0, FORKED_MODE_1, data)
    policy.check_granted(made)
    assert policy.validity(made) == (start, end)
    assert policy.rekeying_interval(made) == rekeying
    assert policy.responders(made) == tuple(responders)
    assert policy.applications(made) == tuple(applications)
    assert policy.identity(made, IdRole.KMS) == KMS
    assert policy.identity(made, IdRole.INITIATOR) == ALICE
    assert policy.identity(made, IdRole.PSK) is None
    assert policy.requested_keys(made) is None


@settings(max_examples=50)
@given(strategies.key_lists)
def test_requested_keys_carry_no_bytes(keys: tuple[KeyData, ...]) -> None:
    data = tp_data(kms=KMS, initiator=ALICE, responders=[BOB], keys=keys)
    (kemac,) = (p for p in data if isinstance(p, Kemac))
    assert not any(any(k.key + k.salt) for k in KeyData.read_all(kemac.encr_data))
    made = TicketPolicy(1, 1, 1, 0, FORKED_MODE_1, data)
    spis = [k.spi for k in keys if k.spi]
    if any(k.key_type == KeyType.MPK for k in keys) or len(spis) != len(set(spis)):
        refused(policy.requested_keys, made)
        return
    wanted = [(k.key_type, len(k.key), len(k.salt), k.kv) for k in keys]
    assert [(k.key_type, len(k.key), len(k.salt), k.kv) for k in policy.requested_keys(made) or ()] == wanted


def test_no_keys_and_default_keys_differ() -> None:
    assert policy.requested_keys(make()) is None
    assert policy.requested_keys(make(FORKED_MODE_1, Kemac(EncrAlg.NULL, b""))) == ()


@pytest.mark.parametrize(
    ("kemacs", "text"),
    [
        ([Kemac(EncrAlg.AES_CM_128, b"")], "NULL encryption"),
        ([Kemac(EncrAlg.NULL, b"", MacAlg.HMAC_SHA_1_160, bytes(20))], "NULL authentication"),
        ([Kemac(EncrAlg.NULL, b"")] * 2, "more than one KEMAC"),
    ],
)
def test_requested_keys_that_are_refused(kemacs: list[Kemac], text: str) -> None:
    assert text in refused(policy.requested_keys, make(FORKED_MODE_1, *kemacs))


STAMP = bytes(4)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ([Idr(IdRole.KMS, 1, b"x")], "more than one IDR of role KMS"),
        ([Idr(IdRole.INITIATOR, 1, b"x")], "more than one IDR of role INITIATOR"),
        ([Tr(TsRole.START, TsType.COUNTER, STAMP)], "not a COUNTER"),
        ([Tr(TsRole.END, TsType.COUNTER, STAMP)], "not a COUNTER"),
        ([Tr(TsRole.END, TsType.NTP_UTC_32, STAMP)] * 2, "a TR role appears twice"),
        ([Tr(TsRole.REKEYING, TsType.NTP_UTC, bytes(8))], "NTP-UTC-32"),
    ],
)
def test_tp_data_that_is_refused(extra: list[Payload], text: str) -> None:
    assert text in refused(policy.check, make(FORKED_MODE_1, *extra))


def test_unexpected_payloads_are_ignored() -> None:
    policy.check_granted(make(FORKED_MODE_1, T(TsType.COUNTER, STAMP), Idr(9, 1, b"x")))


def test_granted_policy_has_no_keys_and_names_a_responder() -> None:
    with_kemac = make(FORKED_MODE_1, Kemac(EncrAlg.NULL, b""))
    policy.check(with_kemac)
    assert "KEMAC must not be present" in refused(policy.check_granted, with_kemac)
    assert "without a responder" in refused(policy.check, replace(make(), tp_data=()))
    assert "PRF 2 is not supported" in refused(policy.check, make(prf=2))


# -- validity, Initiator Data, keys ------------------------------------------------------------------------------------


@given(times, times, st.integers(timestamps.FIRST, timestamps.LAST))
def test_validity(start: int | None, end: int | None, now: int) -> None:
    data = tp_data(kms=KMS, initiator=ALICE, responders=[BOB], start=start, end=end)
    made = TicketPolicy(1, 1, 1, 0, FORKED_MODE_1, data)
    early, late = start is not None and now < start, end is not None and now > end
    if not early and not late:
        policy.check_valid_at(made, now)
        return
    text = refused(policy.check_valid_at, made, now, error_no=ErrorNo.INVALID_TICKET)
    assert ("not valid for another" if early else "expired") in text


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize("data", [b"", b"x"])
def test_initiator_data_if_and_only_if_forked(forked: bool, data: bytes) -> None:
    made = make(FORKED_MODE_1 if forked else FORKED_MODE_1 & ~Flags.I)
    if forked == bool(data):
        policy.check_initiator_data(made, data)
    else:
        refused(policy.check_initiator_data, made, data, error_no=ErrorNo.INVALID_TICKET)


def test_session_keys() -> None:
    unforked = make(FORKED_MODE_1 & ~Flags.F)
    policy.check_session_keys(make(), [TGK, TEK])
    policy.check_session_keys(unforked, [TEK])
    assert "F must be set" in refused(policy.check_session_keys, unforked, [TGK])
    assert "128 bits or more" in refused(policy.check_session_keys, make(), [KeyData(KeyType.TEK, bytes(15))])
    long = KeyData(KeyType.GTGK, bytes(17))
    policy.check_session_keys(make(prf=1), [long])
    assert "longer session keys" in refused(policy.check_session_keys, make(prf=0), [long])


def test_spis() -> None:
    mpk = with_spi(KeyType.MPK, bytes(16), b"", b"1")
    bare = KeyData(KeyType.TGK, bytes(16))
    policy.check_spis([mpk, mpk, TGK, TEK])
    policy.check_spis([bare, bare], required=False)
    assert "the same SPI" in refused(policy.check_spis, [TGK, TGK], error_no=ErrorNo.UNSPECIFIED)
    assert "must be specified" in refused(policy.check_spis, [bare], error_no=ErrorNo.UNSPECIFIED)


# -- the Initiator's check ---------------------------------------------------------------------------------------------


def desired(keys: Iterable[KeyData] | None = (TGK, TEK)) -> TicketPolicy:
    data = tp_data(kms=KMS, initiator=ALICE, responders=[BOB], end=1_800_000_000, keys=keys)
    return TicketPolicy(1, 1, 1, 0, FORKED_MODE_1, data)


def without_keys(wanted: TicketPolicy) -> TicketPolicy:
    return replace(wanted, tp_data=tuple(p for p in wanted.tp_data if not isinstance(p, Kemac)))


OTHER_TGK = with_spi(KeyType.TGK, b"k" * 16, b"", b"assigned")


def test_unchanged_answer() -> None:
    granted = without_keys(desired())
    policy.check_answer(desired(), granted, [OTHER_TGK, TEK])
    policy.check_answer(replace(desired(), flags=FORKED_MODE_1 | Flags.K), granted, [OTHER_TGK, TEK])
    policy.check_answer(desired(None), without_keys(desired(None)), [TGK])


@pytest.mark.parametrize(
    "change",
    [
        {"flags": FORKED_MODE_1 | Flags.J},
        {"flags": FORKED_MODE_1 & ~Flags.N},
        {"prf": 1},
        {"ticket_type": 2},
        {"subtype": 2},
        {"version": 2},
        {"tp_data": tp_data(kms=KMS, initiator=ALICE, responders=[BOB], end=1_800_000_001)},
        {"tp_data": tp_data(kms=KMS, initiator=ALICE, responders=[BOB, ALICE], end=1_800_000_000)},
    ],
)
def test_changed_answer_needs_k(change: dict[str, object]) -> None:
    granted = replace(without_keys(desired()), **change)  # type: ignore[arg-type]
    text = refused(policy.check_answer, desired(), granted, [TGK, TEK])
    assert "not the desired one but K is 0" in text
    policy.check_answer(desired(), replace(granted, flags=granted.flags | Flags.K), [TGK, TEK])


@pytest.mark.parametrize(
    "keys",
    [
        [TEK, TGK],
        [TGK],
        [TGK, TEK, TEK],
        [with_spi(KeyType.TGK, bytes(32), b"", b"1"), TEK],
        [TGK, with_spi(KeyType.TEK_SALT, bytes(16), bytes(12), b"2")],
        [with_spi(KeyType.GTGK, bytes(16), b"", b"1"), TEK],
    ],
)
def test_changed_keys_need_k(keys: list[KeyData]) -> None:
    granted = without_keys(desired())
    assert "keys are not the requested ones" in refused(policy.check_answer, desired(), granted, keys)
    policy.check_answer(desired(), replace(granted, flags=granted.flags | Flags.K), keys)
