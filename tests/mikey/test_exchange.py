"""Who may send what, when, and with which payloads."""

from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.mikey import error_message
from kms.mikey.errors import EncodeError, ProtocolError
from kms.mikey.exchange import (
    RECEIVE,
    RULES,
    SEND,
    SETTLEMENTS,
    TRANSITIONS,
    UPDATE_RULES,
    Progress,
    Role,
    Rule,
    Slot,
    State,
    check_message,
    check_response,
)
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Cert,
    Chash,
    Err,
    Flags,
    GenericIdSession,
    Hdr,
    Id,
    Idr,
    Kemac,
    Payload,
    Pke,
    Randr,
    Sign,
    Sp,
    T,
    Ticket,
    TicketPolicy,
    Tp,
    V,
)
from kms.mikey.registry import DataType, ErrorNo, HashFunc, MacAlg, MapType, TsType
from tests.mikey import vectors

D = DataType
EVERYTHING = list(product(Role, State, (SEND, RECEIVE), DataType))

# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_exactly_the_table(role: Role) -> None:
    for _, state, direction, message in (e for e in EVERYTHING if e[0] == role):
        progress = Progress(role, state)
        following = TRANSITIONS.get((role, state, direction, message))
        if following is not None:
            assert progress.check(direction, message) == following
            assert progress.state == state
            progress.move(direction, message)
            assert progress.state == following
            continue
        for call in (progress.check, progress.move):
            with pytest.raises(
                ProtocolError, match=f"{role.value} cannot {direction} {message.name}"
            ) as caught:
                call(direction, message)
            assert caught.value.error_no == ErrorNo.INVALID_DT
            assert state.value in str(caught.value)
        assert progress.state == state


@given(
    st.sampled_from(Role), st.lists(st.tuples(st.sampled_from([SEND, RECEIVE]), st.sampled_from(DataType)))
)
def test_any_walk_keeps_the_rules_of_the_rfc(role: Role, steps: list[tuple[str, DataType]]) -> None:
    """What holds for every walk, said without the table."""
    progress, taken = Progress(role), []
    for direction, message in steps:
        try:
            progress.move(direction, message)
        except ProtocolError:
            continue
        taken.append((direction, message))
    sent = [m for d, m in taken if d == SEND]
    received = [m for d, m in taken if d == RECEIVE]
    if role is Role.INITIATOR:
        assert not {D.RESOLVE_INIT_PSK, D.RESOLVE_INIT_PK} & set(sent)
        assert D.RESOLVE_RESP not in received
    else:
        assert not {D.REQUEST_INIT_PSK, D.REQUEST_INIT_PK} & set(sent)
        assert D.REQUEST_RESP not in received
        if D.TRANSFER_RESP in sent:
            first = taken.index((SEND, D.TRANSFER_RESP))
            assert (RECEIVE, D.TRANSFER_INIT) in taken[:first]
            assert (RECEIVE, D.RESOLVE_RESP) in taken[:first]
    for initial, response in (
        ({D.REQUEST_INIT_PSK, D.REQUEST_INIT_PK}, D.REQUEST_RESP),
        ({D.RESOLVE_INIT_PSK, D.RESOLVE_INIT_PK}, D.RESOLVE_RESP),
        ({D.TRANSFER_INIT}, D.TRANSFER_RESP),
    ):
        for mine, theirs in ((sent, received), (received, sent)):
            assert theirs.count(response) <= sum(m in initial for m in mine)


def test_settlements() -> None:
    for role, state, following in product(Role, State, State):
        progress = Progress(role, state)
        if (role, state, following) in SETTLEMENTS:
            progress.settle(following)
            assert progress.state == following
            continue
        with pytest.raises(ProtocolError, match="cannot go from"):
            progress.settle(following)
        assert progress.state == state


@pytest.mark.parametrize("role", Role)
def test_every_state_of_a_role_is_reached_and_only_refusal_ends(role: Role) -> None:
    steps = {(s, n) for (r, s, _, _), n in TRANSITIONS.items() if r == role}
    steps |= {(s, n) for r, s, n in SETTLEMENTS if r == role}
    reached = {State.START}
    for _ in State:
        reached |= {n for s, n in steps if s in reached}
    other = {Role.INITIATOR: {State.RECEIVED, State.RESOLVING, State.RESOLVED}}
    unused = other.get(role, {State.REQUESTED, State.TICKET, State.OFFERED})
    assert reached == set(State) - unused
    assert {s for s in reached if all(n == s for a, n in steps if a == s)} == {State.REFUSED}


# -- payloads of a message ---------------------------------------------------------------------------------------------

_POLICY = TicketPolicy(1, 1, 1, 0, Flags(0), (Id(0, b"x"),))
_SAMPLES: dict[type[Payload], Payload] = {
    T: T(TsType.NTP_UTC, bytes(8)),
    Tp: Tp(_POLICY),
    Ticket: Ticket(_POLICY, b""),
    V: unsigned_v(MacAlg.HMAC_SHA_1_160),
    Kemac: Kemac(1, b""),
    Sp: Sp(0, 0),
    Pke: Pke(b""),
    Sign: Sign(0, b""),
    Cert: Cert(0, b""),
    Chash: Chash(HashFunc.SHA_1, bytes(20)),
    Err: Err(0),
}


def sample(slot: Slot) -> Payload:
    if slot.kind is Idr:
        return Idr(slot.role or 0, 1, b"sip:x@example.com")
    if slot.kind is Randr:
        return Randr(slot.role or 0, bytes(16))
    return _SAMPLES[slot.kind]


def order(payload: Payload) -> bool:
    return isinstance(payload, V | Sign)


def make(kind: DataType, payloads: Iterable[Payload], hdr: Hdr | None = None) -> Message:
    """A message with V or SIGN at the end, where the encoding wants them."""
    return Message.build(hdr or Hdr(kind, 1, 0), sorted(payloads, key=order))


CASES = [(kind, rule, False) for kind, rule in RULES.items()] + [
    (k, r, True) for k, r in UPDATE_RULES.items()
]


def case_id(value: object) -> str | None:
    return value.name if isinstance(value, DataType) else None


@pytest.mark.parametrize(("kind", "rule", "update"), CASES, ids=case_id)
def test_payloads(kind: DataType, rule: Rule, update: bool) -> None:
    needed = [sample(slot) for slot in rule.mandatory + rule.several]
    optional = [sample(slot) for slot in rule.optional if slot.kind is not Sign]
    repeated = [sample(slot) for slot in rule.repeated]
    check_message(make(kind, needed), kind, update=update)
    check_message(make(kind, needed + optional + repeated * 3), kind, update=update)
    check_message(make(kind, [*needed, Id(0, b"unexpected")]), kind, update=update)

    for slot in rule.mandatory + rule.several:
        rest = [p for p in needed if not slot.holds(p)]
        with pytest.raises(ProtocolError, match="mandatory payload") as caught:
            check_message(make(kind, [*rest, Id(0, b"")]), kind, update=update)
        assert f"{kind.name}: mandatory payload {slot} is missing" in str(caught.value)
    for slot in rule.mandatory + rule.optional:
        if slot.kind is Sign:
            continue  # a SIGN cannot be followed by another
        rest = [p for p in needed if not slot.holds(p)]
        doubled = make(kind, [*rest, sample(slot), sample(slot)])
        with pytest.raises(ProtocolError, match="appears 2 times"):
            check_message(doubled, kind, update=update)
    for slot in rule.several:
        check_message(make(kind, [*needed, sample(slot)]), kind, update=update)


@pytest.mark.parametrize("kind", [k for k, rule in RULES.items() if rule.last is V], ids=case_id)
def test_v_comes_last(kind: DataType) -> None:
    payloads = [sample(slot) for slot in RULES[kind].mandatory]
    with pytest.raises(ProtocolError, match="V must come last"):
        check_message(Message.build(Hdr(kind, 1, 0), [*payloads, Id(0, b"")]), kind)


def test_wrong_type() -> None:
    request = Message.decode(vectors.all_messages()[0])
    for kind in DataType:
        if kind == request.hdr.data_type:
            check_message(request, kind)
            continue
        with pytest.raises(ProtocolError, match=f"REQUEST_INIT_PSK where {kind.name} is expected") as caught:
            check_message(request, kind)
        assert caught.value.error_no == ErrorNo.INVALID_DT


@pytest.mark.parametrize("kind", [k for k in DataType if k not in RULES], ids=case_id)
def test_messages_of_rfc_3830_have_no_rules_here(kind: DataType) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_message(make(kind, [sample(Slot(T))]), kind)
    assert caught.value.error_no == ErrorNo.INVALID_DT


@pytest.mark.parametrize("kind", [k for k, rule in RULES.items() if rule.empty_map], ids=case_id)
def test_no_crypto_sessions_outside_of_ticket_transfer(kind: DataType) -> None:
    payloads = [sample(slot) for slot in RULES[kind].mandatory]
    for hdr in (
        Hdr(kind, 1, 0, n_cs=1),
        Hdr(kind, 1, 0, map_type=MapType.GENERIC_ID),
        Hdr(kind, 1, 0, map_type=MapType.SRTP_ID),
        Hdr(kind, 1, 0, map_type=MapType.GENERIC_ID, sessions=(GenericIdSession(1),)),
    ):
        with pytest.raises(ProtocolError, match="Empty map"):
            check_message(make(kind, payloads, hdr), kind)


@pytest.mark.parametrize("kind", [D.TRANSFER_INIT, D.TRANSFER_RESP, D.ERROR], ids=case_id)
def test_srtp_id_map_is_refused(kind: DataType) -> None:
    payloads = [sample(slot) for slot in RULES[kind].mandatory + RULES[kind].several]
    with pytest.raises(ProtocolError, match="SRTP-ID must not be used"):
        check_message(make(kind, payloads, Hdr(kind, 1, 0, map_type=MapType.SRTP_ID)), kind)


@pytest.mark.parametrize(("prf", "mac", "encr"), list(product(range(3), MacAlg, range(5))))
def test_suites_are_not_mixed(prf: int, mac: MacAlg, encr: int) -> None:
    payloads = [sample(Slot(T)), sample(Slot(Ticket)), Kemac(encr, b""), unsigned_v(mac)]
    message = make(D.REQUEST_RESP, payloads, Hdr(D.REQUEST_RESP, 1, prf))
    if (prf, int(mac), encr) in {(0, 1, 1), (0, 1, 2), (1, 2, 3)}:
        check_message(message, D.REQUEST_RESP)
        return
    with pytest.raises(ProtocolError) as caught:
        check_message(message, D.REQUEST_RESP)
    assert caught.value.error_no in (ErrorNo.INVALID_PRF, ErrorNo.INVALID_MAC, ErrorNo.INVALID_EA)


@pytest.mark.parametrize("mac", [MacAlg.HMAC_SHA_1_160, MacAlg.HMAC_SHA_256_256])
def test_kemac_has_no_mac_of_its_own(mac: MacAlg) -> None:
    v = unsigned_v(mac)
    kemac = Kemac(1, b"", mac, v.mac)
    with pytest.raises(ProtocolError, match="KEMAC must use NULL authentication"):
        check_message(
            make(D.REQUEST_RESP, [sample(Slot(T)), sample(Slot(Ticket)), kemac, _SAMPLES[V]]), D.REQUEST_RESP
        )


# -- responses and Error messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [D.REQUEST_RESP, D.RESOLVE_RESP, D.TRANSFER_RESP, D.ERROR], ids=case_id)
def test_responses_repeat_hdr(kind: DataType) -> None:
    initial = make(D.TRANSFER_INIT, [sample(Slot(T))], Hdr(D.TRANSFER_INIT, 7, 1, v=True))
    good = Hdr(kind, 7, 1)
    check_response(initial, make(kind, [sample(Slot(T))], good))
    check_response(initial, make(kind, [sample(Slot(T))], Hdr(kind, 7, 1, v=True)))  # V is ignored
    for hdr in (Hdr(kind, 8, 1), Hdr(kind, 7, 0)):
        with pytest.raises(ProtocolError, match="does not repeat the fields of TRANSFER_INIT"):
            check_response(initial, make(kind, [sample(Slot(T))], hdr))
    for hdr in (Hdr(kind, 7, 1, n_cs=1), Hdr(kind, 7, 1, map_type=MapType.GENERIC_ID)):
        response = make(kind, [sample(Slot(T))], hdr)
        if kind in (D.TRANSFER_RESP, D.ERROR):
            check_response(initial, response)
            continue
        with pytest.raises(ProtocolError, match="does not repeat"):
            check_response(initial, response)


def test_error_message_about_an_unknown_prf() -> None:
    failed = Hdr(D.REQUEST_INIT_PSK, 7, 99)
    message = error_message.build(failed, [ErrorNo.INVALID_PRF], T(TsType.NTP_UTC, bytes(8)))
    assert message.hdr == Hdr(D.ERROR, 7, 99)
    check_message(Message.decode(message.raw), D.ERROR)


def test_error_message_with_policies() -> None:
    failed = Hdr(D.TRANSFER_INIT, 7, 0, v=True, map_type=MapType.GENERIC_ID)
    numbers = [ErrorNo.INVALID_SP, ErrorNo.INVALID_SPPAR]
    message = error_message.build(
        failed,
        numbers,
        T(TsType.NTP_UTC, bytes(8)),
        policies=[Sp(0, 0), Sp(1, 0)],
        auth_alg=MacAlg.HMAC_SHA_1_160,
    )
    check_message(message, D.ERROR)
    assert message.error_numbers == (9, 10)
    assert message.hdr.map_type == MapType.EMPTY
    assert [type(p) for p in message.payloads] == [T, Err, Err, Sp, Sp, V]


def test_error_messages_that_must_not_be() -> None:
    stamp = T(TsType.NTP_UTC, bytes(8))
    with pytest.raises(EncodeError, match="needs an Error no"):
        error_message.build(Hdr(D.REQUEST_INIT_PSK, 7, 0), [], stamp)
    with pytest.raises(EncodeError, match="must not answer an Error message"):
        error_message.build(Hdr(D.ERROR, 7, 0), [ErrorNo.UNSPECIFIED], stamp)
