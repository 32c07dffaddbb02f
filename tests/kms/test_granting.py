"""From the desired Ticket Policy to the granted one."""

from dataclasses import replace

import pytest

from kms.crypto.sources import Sources
from kms.engine.directory import Role, User
from kms.engine.granting import Grant, Limits, decide
from kms.engine.refusals import Reason, Refused
from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Flags, Idr, KeyData, TicketPolicy
from kms.mikey.registry import ErrorNo, IdRole, KeyType
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


def grant(policy: TicketPolicy, user: User = CLIENT, *, group_keys: bool = False) -> Grant:
    return decide(
        policy,
        user,
        group_keys_allowed=group_keys,
        kms_identity=KMS,
        limits=Limits(86400),
        sources=Sources(clock=lambda: float(NOW)),
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


def test_more_keys_than_the_limit() -> None:
    with pytest.raises(Refused, match="more than 16"):
        grant(desired(keys=(TGK,) * 17))
