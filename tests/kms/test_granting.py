"""From the desired Ticket Policy to the granted one."""

from dataclasses import replace
from typing import Any

import pytest

from kms.crypto.sources import Sources
from kms.engine.directory import Role, TpkRole, User
from kms.engine.granting import Grant, Limits, decide
from kms.engine.refusals import Reason, Refused
from kms.mikey import policy as rules
from kms.mikey import timestamps
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Flags, Idr, Kemac, KeyData, Payload, TicketPolicy, Tr, with_spi
from kms.mikey.registry import EncrAlg, ErrorNo, IdRole, IdType, KeyType, TsRole, TsType
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET

NOW = 1_800_000_000
ALICE, BOB, KMS = b"sip:alice@example.com", b"sip:bob@example.com", b"sip:kms@example.com"
CLIENT = User(ALICE, Role.CLIENT, 1, aliases=frozenset({b"tel:+15551234"}))
FOCUS = User(ALICE, Role.FOCUS, 1)
TGK = KeyData(KeyType.TGK, bytes(32))
TEK = KeyData(KeyType.TEK_SALT, bytes(16), bytes(14))


def desired(
    *,
    kind: tuple[int, int, int] = DERIVED_TICKET,
    flags: Flags = rules.FORKED_MODE_1,
    prf: int = 1,
    initiator: bytes = ALICE,
    end: int | None = NOW + 3600,
    keys: tuple[KeyData, ...] | None = (TGK,),
) -> TicketPolicy:
    data = rules.tp_data(kms=KMS, initiator=initiator, responders=[BOB], end=end, keys=keys)
    return TicketPolicy(*kind, prf, flags, data)


def grant(
    policy: TicketPolicy,
    user: User = CLIENT,
    *,
    group_keys: bool = False,
    local_responder: User | None = None,
) -> Grant:
    return decide(
        policy,
        user,
        group_keys_allowed=group_keys,
        kms_identity=KMS,
        limits=Limits(86400),
        sources=Sources(clock=lambda: float(NOW)),
        local_responder=local_responder,
    )


def test_a_policy_that_needs_no_change_is_granted_as_desired() -> None:
    policy = desired()
    granted = grant(policy).policy
    assert granted.flags == policy.flags
    assert granted.tp_data == rules.tp_data(kms=KMS, initiator=ALICE, responders=[BOB], end=NOW + 3600)


def test_absent_identities_are_added_and_k_says_so() -> None:
    policy = desired()
    bare = replace(policy, tp_data=tuple(p for p in policy.tp_data if not isinstance(p, Idr) or p.role == 2))
    granted = grant(bare).policy
    assert rules.identity(granted, IdRole.INITIATOR) == ALICE
    assert rules.identity(granted, IdRole.KMS) == KMS
    assert granted.flags & Flags.K


def test_an_alias_may_be_the_initiator_and_a_stranger_may_not() -> None:
    granted = grant(desired(initiator=b"tel:+15551234"))
    assert rules.identity(granted.policy, IdRole.INITIATOR) == b"tel:+15551234"
    with pytest.raises(Refused) as refused:
        grant(desired(initiator=BOB))
    assert refused.value.reason is Reason.NOT_AUTHORIZED


@pytest.mark.parametrize("end", [None, NOW + 86401, NOW + 10 * 86400])
def test_validity_is_capped(end: int | None) -> None:
    granted = grant(desired(end=end)).policy
    assert rules.validity(granted) == (None, NOW + 86400)
    assert granted.flags & Flags.K


def test_validity_at_the_limit_is_not_a_change() -> None:
    granted = grant(desired(end=NOW + 86400)).policy
    assert not granted.flags & Flags.K


def test_a_past_end_is_refused() -> None:
    with pytest.raises(Refused, match="past"):
        grant(desired(end=NOW - 1))


@pytest.mark.parametrize("missing", [Flags.E, Flags.N, Flags.O])
def test_a_derived_ticket_needs_its_flags(missing: Flags) -> None:
    flags = (rules.FORKED_MODE_1 & ~Flags.I) & ~missing
    with pytest.raises(Refused) as refused:
        grant(desired(flags=flags))
    assert refused.value.error_no == ErrorNo.INVALID_TPPAR


def test_the_kms_makes_no_ticket_in_the_initiators_name() -> None:
    with pytest.raises(Refused, match="D flag"):
        grant(desired(flags=(rules.FORKED_MODE_1 | Flags.L) & ~Flags.D))


@pytest.mark.parametrize("kind", [(1, 2, 1), (1, 1, 2), (2, 1, 1), (61441, 1, 1), (61440, 1, 2)])
def test_unknown_ticket_types(kind: tuple[int, int, int]) -> None:
    with pytest.raises(Refused) as refused:
        grant(desired(kind=kind))
    assert refused.value.error_no == ErrorNo.INVALID_TICKET


@pytest.mark.parametrize("kind", [BASE_TICKET, DERIVED_TICKET])
def test_group_keys_only_for_a_focus_that_calls_the_focus_service(kind: tuple[int, int, int]) -> None:
    policy = desired(kind=kind, keys=(TEK,))
    assert [e.key_type for e in grant(policy, FOCUS, group_keys=True).entries] == [KeyType.TEK_SALT]
    for user, allowed in ((CLIENT, True), (FOCUS, False), (CLIENT, False)):
        with pytest.raises(Refused) as refused:
            grant(policy, user, group_keys=allowed)
        assert refused.value.reason is Reason.NOT_AUTHORIZED


def test_the_default_is_one_tgk_of_the_suite() -> None:
    for prf, length in ((0, 16), (1, 32)):
        (entry,) = grant(desired(prf=prf, keys=None)).entries
        assert (entry.key_type, entry.length, entry.salt_length, len(entry.spi)) == (
            KeyType.TGK,
            length,
            0,
            4,
        )


def test_no_keys_at_all_is_a_choice() -> None:
    assert grant(desired(keys=())).entries == ()


@pytest.mark.parametrize("length", [0, 8, 15, 24, 33, 64])
def test_key_lengths_of_a_derived_ticket(length: int) -> None:
    with pytest.raises((Refused, ProtocolError)) as refused:
        grant(desired(keys=(KeyData(KeyType.TGK, bytes(length)),)))
    assert isinstance(refused.value, Refused | ProtocolError)
    assert refused.value.error_no == ErrorNo.INVALID_TPPAR


def test_long_keys_need_the_long_suite() -> None:
    with pytest.raises(ProtocolError, match=r"12\.1"):
        grant(desired(prf=0, keys=(TGK,)))


# -- every field of the policy (6.10) ----------------------------------------------------------------------------------


def fields(**changes: Any) -> tuple[Payload, ...]:
    return rules.tp_data(**{"kms": KMS, "initiator": ALICE, "responders": [BOB], "end": NOW + 60, **changes})


def test_everything_that_the_kms_has_no_say_in_is_granted_as_desired() -> None:
    """TRs, TRr, IDRapp, several IDRr: in their order; KEMAC goes, and its going is no change."""
    names = [BOB, b"sip:carol@example.com", b"sip:staff@example.com"]
    wanted = {"responders": names, "start": NOW - 60, "rekeying": 900, "applications": [b"voice", b"video"]}
    policy = replace(desired(), tp_data=fields(**wanted, keys=[TGK]))
    granted = grant(policy).policy
    assert granted == replace(policy, tp_data=fields(**wanted))
    assert rules.responders(granted) == tuple(names)
    assert rules.applications(granted) == (b"voice", b"video")
    assert rules.validity(granted) == (NOW - 60, NOW + 60)
    assert rules.rekeying_interval(granted) == 900


def test_a_validity_that_starts_later_is_granted_and_one_that_never_is_is_not() -> None:
    assert grant(replace(desired(), tp_data=fields(start=NOW + 30))).policy.flags == desired().flags
    with pytest.raises(Refused, match="before it starts"):
        grant(replace(desired(), tp_data=fields(start=NOW + 61)))


@pytest.mark.parametrize("flag", [Flags.F, Flags.G, Flags.H, Flags.J, Flags.L, Flags.M, Flags.N, Flags.O])
@pytest.mark.parametrize("kind", [BASE_TICKET, DERIVED_TICKET])
def test_flags_are_granted_as_desired(kind: tuple[int, int, int], flag: Flags) -> None:
    flags = (Flags.D | Flags.E | Flags.H | Flags.N | Flags.O) ^ flag
    if not flags & Flags.H:
        flags |= Flags.G
    if flags & (Flags.G | Flags.M):
        flags |= Flags.F
    if kind == DERIVED_TICKET and flag in (Flags.N, Flags.O):
        with pytest.raises(Refused, match="derived ticket needs"):
            grant(desired(kind=kind, flags=flags))
    else:
        assert grant(desired(kind=kind, flags=flags)).policy.flags == flags


def test_k_of_the_desired_policy_is_ignored() -> None:
    assert not grant(desired(flags=rules.FORKED_MODE_1 | Flags.K)).policy.flags & Flags.K


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({}, False),
        ({"kms": b"sip:other-kms@example.com"}, True),
        ({"end": NOW + 86401}, True),
        ({"end": None}, True),
        ({"initiator": b"tel:+15551234"}, False),
        ({"keys": [TGK]}, False),
    ],
)
def test_k_says_whether_anything_was_changed(changes: dict[str, Any], changed: bool) -> None:
    granted = grant(replace(desired(), tp_data=fields(**changes))).policy
    assert bool(granted.flags & Flags.K) is changed
    assert rules.identity(granted, IdRole.KMS) == KMS
    rules.check_granted(granted)


_BASE = Flags.D | Flags.E | Flags.F | Flags.G | Flags.H | Flags.I | Flags.N | Flags.O


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (_BASE & ~(Flags.F | Flags.I), "G implies F"),
        (_BASE & ~(Flags.G | Flags.H), "NOT G implies H"),
        (_BASE & ~Flags.E, "I implies E"),
        ((_BASE & ~(Flags.F | Flags.G | Flags.I)) | Flags.M, "M implies F"),
        (_BASE & ~(Flags.F | Flags.G), "F must be set"),
    ],
)
def test_flags_that_contradict_each_other(flags: Flags, rule: str) -> None:
    with pytest.raises(ProtocolError, match=rule) as refused:
        grant(desired(kind=BASE_TICKET, flags=flags))
    assert refused.value.error_no == ErrorNo.INVALID_TPPAR


def test_f_may_be_clear_with_forking_when_no_tgk_is_in_the_ticket() -> None:
    flags = _BASE & ~(Flags.F | Flags.G)
    assert grant(desired(kind=BASE_TICKET, flags=flags, keys=())).policy.flags == flags
    assert grant(desired(kind=BASE_TICKET, flags=flags, keys=(TEK,)), FOCUS, group_keys=True).entries


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        (Tr(TsRole.REKEYING, TsType.NTP_UTC, bytes(8)), "TRr must have"),
        (Tr(TsRole.START, TsType.COUNTER, bytes(4)), "not a COUNTER"),
        (timestamps.tr(TsRole.END, NOW + 30), "appears twice"),
        (Idr(IdRole.INITIATOR, IdType.URI, BOB), "more than one IDR"),
        (Kemac(EncrAlg.AES_CM_128, b"\0" * 16), "NULL encryption"),
        (
            Kemac(EncrAlg.NULL, KeyData.write_all([KeyData(KeyType.MPK, bytes(32))])),
            "MPK cannot be requested",
        ),
        (
            Kemac(EncrAlg.NULL, KeyData.write_all([with_spi(KeyType.TGK, bytes(32), b"", b"1")] * 2)),
            "same SPI",
        ),
    ],
)
def test_fields_that_no_policy_may_have(extra: Payload, error: str) -> None:
    with pytest.raises(ProtocolError, match=error) as refused:
        grant(replace(desired(), tp_data=(*fields(), extra)))
    assert refused.value.error_no == ErrorNo.INVALID_TPPAR


def test_a_policy_without_responder_and_one_of_an_unknown_prf() -> None:
    with pytest.raises(ProtocolError, match="without a responder"):
        grant(replace(desired(), tp_data=fields(responders=[])))
    with pytest.raises(ProtocolError, match="PRF 2 is not supported"):
        grant(desired(prf=2))


def test_the_keys_asked_for_are_what_is_granted() -> None:
    """Number, order, types, lengths and SPIs; a key without SPI gets one."""
    asked = (
        with_spi(KeyType.TGK_SALT, bytes(32), bytes(14), b"first"),
        with_spi(KeyType.TGK, bytes(16), b"", b"second"),
        KeyData(KeyType.TGK, bytes(32)),
    )
    entries = grant(desired(keys=asked)).entries
    assert [(e.key_type, e.length, e.salt_length) for e in entries] == [
        (k.key_type, len(k.key), len(k.salt)) for k in asked
    ]
    assert [e.spi for e in entries[:2]] == [b"first", b"second"]
    assert len(entries[2].spi) == 4


def test_e_0_needs_a_responder_that_opens_its_tickets_itself() -> None:
    flags = Flags.D | Flags.F | Flags.G | Flags.H | Flags.N | Flags.O
    with pytest.raises(Refused, match="E = 0"):
        grant(desired(kind=BASE_TICKET, flags=flags))
    responder = User(BOB, Role.CLIENT, 1, tpk_roles=frozenset({TpkRole.RESPONDER}))
    assert grant(desired(kind=BASE_TICKET, flags=flags), local_responder=responder).policy.flags == flags
    with pytest.raises(Refused, match="derived ticket needs"):
        grant(desired(flags=flags), local_responder=responder)


def test_more_keys_than_the_limit() -> None:
    with pytest.raises(Refused, match="more than 16"):
        grant(desired(keys=(TGK,) * 17))
