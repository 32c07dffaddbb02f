"""The parties' own rules: enrolment files, what a KMS may change, order of messages, CSB updates, memory."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kms.client import (
    Acceptance,
    AuthenticationError,
    Credential,
    CredentialError,
    ProtocolError,
    Stream,
)
from kms.client.participant import CALL_FLAGS
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError
from kms.mikey.exchange import Role
from kms.mikey.message import Message
from kms.mikey.payloads import (
    Flags,
    GenericIdSession,
    Idr,
    KeyData,
    Payload,
    Randr,
    SrtpSessionData,
    T,
    TicketPolicy,
    with_spi,
)
from kms.mikey.registry import ErrorNo, IdRole, KeyType, PrfFunc, RandRole
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.memory import InMemoryReplayCache
from kms.party.requesting import check_changes
from kms.party.session import Session
from kms.sdk.calls import request_ticket
from tests.kms.callers import ALICE, BOBBY, participant
from tests.kms.local_kms import Clock, LocalKms

ALL_SUPPLY = CALL_FLAGS | Flags.L


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


def established(kms: LocalKms, flags: Flags = ALL_SUPPLY, suite: int = 256) -> tuple[Session, Session]:
    """The sessions of a call from alice to bobby, with two streams."""
    alice, bobby = participant(kms, ALICE), participant(kms, BOBBY)
    offer = alice.offer(
        alice.request_ticket([BOBBY], flags=flags, suite=suite), BOBBY, [Stream(1), Stream(2)]
    )
    answer = bobby.answer(offer.message)
    return offer.complete(answer.message or b""), answer.session


def tek(spi: bytes) -> KeyData:
    return with_spi(KeyType.TEK_SALT, spi.ljust(16, b"k"), spi.ljust(14, b"s"), spi)


# -- CSB update (RFC 6043 5.2) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [256, 128])
@pytest.mark.parametrize("starter", list(Role))
def test_either_side_brings_a_new_key(kms: LocalKms, starter: Role, suite: int) -> None:
    sessions = established(kms, suite=suite)
    one, other = sessions if starter is Role.INITIATOR else reversed(sessions)
    before = one.srtp
    changed = [replace(s, spi=b"new") for s in one.sessions]
    update = one.start_update(changed, [tek(b"new")])
    answer = other.answer_update(update.raw)
    assert answer is not None
    assert other.srtp != before
    assert one.srtp == before  # nothing changes before the answer
    one.complete_update(answer.raw)
    assert one.srtp == other.srtp
    assert {k.master_key for k in one.srtp} == {tek(b"new").key}
    assert [k.ssrc for k in one.srtp] == [1, 2]


def test_updates_follow_each_other_and_add_streams(kms: LocalKms) -> None:
    alice, bobby = established(kms)
    for number in range(3, 8):
        added = GenericIdSession(number, (0,), SrtpSessionData(number).body(), alice.sessions[0].spi)
        one, other = (alice, bobby) if number % 2 else (bobby, alice)
        answer = other.answer_update(one.start_update([added]).raw)
        assert answer
        one.complete_update(answer.raw)
    assert alice.srtp == bobby.srtp
    assert [k.ssrc for k in alice.srtp] == list(range(1, 8))
    assert len({k.master_key for k in alice.srtp}) == 7


def test_an_update_without_response(kms: LocalKms) -> None:
    alice, bobby = established(kms)
    update = alice.start_update([replace(alice.sessions[0], spi=b"new")], [tek(b"new")], response=False)
    assert bobby.answer_update(update.raw) is None
    assert alice.srtp == bobby.srtp
    assert alice.srtp[0].mki == b"new"


def test_flags_say_who_may_supply_keys(kms: LocalKms) -> None:
    alice, bobby = established(kms, CALL_FLAGS)  # M, not L
    with pytest.raises(ProtocolError, match="forbids this party"):
        alice.start_update(keys=[tek(b"new")])
    update = bobby.start_update(keys=[tek(b"new")])
    answer = alice.answer_update(update.raw)
    assert answer
    bobby.complete_update(answer.raw)
    assert alice.keys == bobby.keys
    # a party that breaks the rule is refused by the other
    alice._static = replace(alice.static, ticket=replace(alice.static.ticket, policy=_with(alice, Flags.L)))
    with pytest.raises(ProtocolError, match="KEMAC although"):
        bobby.answer_update(alice.start_update(keys=[tek(b"bad")]).raw)


def _with(session: Session, flag: Flags) -> TicketPolicy:
    policy = session.static.ticket.policy
    return replace(policy, flags=policy.flags | flag)


def _signed_again(session: Session, raw: bytes, change: Callable[[Payload], Payload | None]) -> bytes:
    """A TRANSFER_INIT of an update with changed payloads, under a right MAC."""
    message = Message.decode(raw)
    changed = [c for c in map(change, message.payloads) if c is not None]
    static = session.static
    draft = Message.build(message.hdr, changed)
    return static.protection.sign(draft, static.identity_i, static.identity_r).raw


_UPDATE_FAULTS: dict[str, Callable[[Payload], Payload | None]] = {
    "new RANDs": lambda p: Randr(RandRole.INITIATOR, bytes(32)) if isinstance(p, Idr) and p.role == 1 else p,
    "identity": lambda p: (
        replace(p, data=b"sip:x@y") if isinstance(p, Idr) and p.role == IdRole.RESPONDER else p
    ),
    "mandatory payload T": lambda p: None if isinstance(p, T) else p,
    "old": lambda p: replace(p, value=bytes(4) + b"\x83\xaa\x7e\x80") if isinstance(p, T) else p,
}


@pytest.mark.parametrize("fault", _UPDATE_FAULTS)
def test_faulty_updates_change_nothing(kms: LocalKms, fault: str) -> None:
    alice, bobby = established(kms)
    before = bobby.srtp
    update = alice.start_update([replace(alice.sessions[0], spi=b"new")], [tek(b"new")])
    with pytest.raises(ProtocolError, match=fault if fault != "old" else "old|future"):
        bobby.answer_update(_signed_again(alice, update.raw, _UPDATE_FAULTS[fault]))
    assert bobby.srtp == before
    answer = bobby.answer_update(update.raw)
    assert answer
    alice.complete_update(answer.raw)


def test_replayed_and_changed_updates(kms: LocalKms) -> None:
    alice, bobby = established(kms)
    update = alice.start_update([replace(alice.sessions[0], spi=b"new")], [tek(b"new")])
    with pytest.raises(AuthenticationError):
        bobby.answer_update(update.raw[:-1] + bytes((update.raw[-1] ^ 1,)))
    answer = bobby.answer_update(update.raw)
    assert answer
    with pytest.raises(AuthenticationError):
        alice.complete_update(answer.raw[:-1] + bytes((answer.raw[-1] ^ 1,)))
    alice.complete_update(answer.raw)
    with pytest.raises(ProtocolError, match="no update was started"):
        alice.complete_update(answer.raw)
    with pytest.raises(ProtocolError, match="already used"):
        bobby.answer_update(update.raw)
    with pytest.raises(MikeyError):
        alice.answer_update(update.raw)  # reflected to its sender


def test_an_spi_in_use_and_one_that_is_unknown(kms: LocalKms) -> None:
    alice, bobby = established(kms)
    spi = alice.sessions[0].spi
    with pytest.raises(ProtocolError, match="same SPI"):
        alice.start_update(keys=[replace(tek(b"x"), kv=replace(tek(b"x").kv, spi=spi))])
    with pytest.raises(ProtocolError, match="no key has its SPI"):
        bobby.answer_update(alice.start_update([replace(alice.sessions[0], spi=b"none")]).raw)


def test_two_updates_at_once_are_refused_and_can_be_given_up(kms: LocalKms) -> None:
    alice, bobby = established(kms)
    first, second = alice.start_update(), bobby.start_update()
    for session, update in ((alice, second), (bobby, first)):
        with pytest.raises(ProtocolError, match="update sent"):
            session.answer_update(update.raw)
    alice.give_up_update()
    answer = alice.answer_update(second.raw)
    assert answer
    bobby.complete_update(answer.raw)


def test_both_directions_never_share_a_timestamp(kms: LocalKms) -> None:
    """encr_key and salt_key are the same both ways: T alone keeps the IVs apart (A-01). The clock stands still here."""
    alice, bobby = established(kms)
    update = alice.start_update(keys=[tek(b"a")])
    answer = bobby.answer_update(update.raw, keys=[tek(b"b")])
    assert answer
    alice.complete_update(answer.raw)
    assert update.get(T) != answer.get(T)
    assert alice.keys == bobby.keys


# -- what a KMS may change (K flag) ------------------------------------------------------------------------------------


def _policy(**changes: Any) -> TicketPolicy:
    given: dict[str, Any] = {"kms": b"k", "initiator": b"i", "responders": [b"r"], "start": 1000, "end": 2000}
    flags = changes.pop("flags", CALL_FLAGS)
    return TicketPolicy(*DERIVED_TICKET, PrfFunc(1), flags, rules.tp_data(**given | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": CALL_FLAGS & ~Flags.I},
        {"flags": CALL_FLAGS | Flags.J},
        {"responders": [b"r", b"other"]},
        {"responders": [b"other"]},
        {"initiator": b"other"},
        {"kms": b"other"},
        {"end": 2001},
        {"end": None},
        {"start": 999},
        {"rekeying": 60},
        {"applications": [b"a"]},
    ],
)
def test_changes_that_are_not_acceptable(changes: dict[str, Any]) -> None:
    granted = _policy(**changes)
    with pytest.raises(ProtocolError, match="the KMS"):
        check_changes(_policy(), replace(granted, flags=granted.flags | Flags.K), ())


def test_changes_that_are_acceptable() -> None:
    granted = _policy(start=1500, end=1600)
    check_changes(_policy(), replace(granted, flags=granted.flags | Flags.K), ())


# -- enrolment files ---------------------------------------------------------------------------------------------------

PEM = "-----BEGIN CERTIFICATE-----\n"
ENROLMENT: dict[str, Any] = {
    "identity": ALICE,
    "kms_identity": "sip:kms@example.com",
    "target": "localhost:1",
    "role": "client",
    "psk_id": "0102",
    "psk": "ab" * 32,
    "suite": 256,
    "ca_cert": PEM,
    "tls_cert": PEM,
    "tls_key": PEM,
}


TPK: dict[str, Any] = {"role": "responder", "suite": 256, "tpk_id": "0201", "tpk": "cd" * 32}


def _file(folder: Path, content: str, mode: int = 0o600) -> Path:
    file = folder / "alice.json"
    file.write_text(content)
    file.chmod(mode)
    return file


def test_an_enrolment_file(tmp_path: Path) -> None:
    both = ENROLMENT | {"psks": [{"suite": 128, "psk_id": "03", "psk": "cd" * 16}]}
    credential = Credential.load(_file(tmp_path, json.dumps(both)))
    assert credential.identity == ALICE
    assert [(k.suite, k.psk_id, len(k.psk)) for k in credential.psks] == [
        (256, b"\1\2", 32),
        (128, b"\3", 16),
    ]
    assert "ab" * 32 not in repr(credential)
    assert repr(credential.psks[0].psk)[2:-1] not in repr(credential)


def test_shared_tpks_of_an_enrolment_file(tmp_path: Path) -> None:
    both = ENROLMENT | {"tpks": [TPK, TPK | {"role": "initiator", "peer": BOBBY}]}
    credential = Credential.load(_file(tmp_path, json.dumps(both)))
    assert [(t.role, t.suite, t.tpk_id, t.peer) for t in credential.tpks] == [
        ("responder", 256, b"\2\1", None),
        ("initiator", 256, b"\2\1", BOBBY),
    ]
    assert "cd" * 32 not in repr(credential)
    assert repr(credential.tpks[0].tpk)[2:-1] not in repr(credential)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    file = _file(tmp_path, json.dumps(ENROLMENT), mode)
    with pytest.raises(CredentialError, match="chmod 600"):
        Credential.load(file)
    assert Credential.load(file, allow_readable=True).identity == ALICE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"identity": None}, "identity is missing"),
        ({"target": 5}, "target is not a non-empty text"),
        ({"role": "admin"}, "role is neither"),
        ({"suite": 512}, "suite is neither 256 nor 128"),
        ({"psk": "xyz"}, "psk is not hexadecimal"),
        ({"psk": "ab"}, "psk has 1 bytes"),
        ({"psk_id": ""}, "psk_id is not a non-empty text"),
        ({"tls_key": "secret"}, "tls_key is not PEM"),
        ({"psks": 7}, "psks is not a list"),
        ({"psks": [{"suite": 128}]}, r"psks\[0\].psk_id is missing"),
        ({"tpks": {}}, "tpks is not a list"),
        ({"tpks": [{"role": "kms"}]}, r"tpks\[0\].role is neither responder nor initiator"),
        ({"tpks": [TPK | {"tpk": "ab"}]}, r"tpks\[0\].tpk has 1 bytes"),
        ({"tpks": [TPK | {"suite": 1}]}, r"tpks\[0\].suite is neither"),
        ({"tpks": [TPK | {"peer": ""}]}, r"tpks\[0\].peer is not a non-empty text"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    content = {k: v for k, v in (ENROLMENT | change).items() if v is not None}
    with pytest.raises(CredentialError, match=says) as error:
        Credential.load(_file(tmp_path, json.dumps(content)))
    assert "alice.json" in str(error.value)
    assert "ab" * 32 not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "\0"])
def test_files_that_are_no_enrolment(tmp_path: Path, content: str) -> None:
    with pytest.raises(CredentialError, match=r"alice\.json"):
        Credential.load(_file(tmp_path, content))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="No such file"):
        Credential.load(tmp_path / "none.json")


# -- what the Ticket Policy says to the application (6.10) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("applications", "own", "accepted"),
    [
        ((), b"voice", True),
        ((), None, True),
        (("voice", "video"), b"video", True),
        (("voice", "video"), None, True),
        (("voice", "video"), b"chat", False),
    ],
)
def test_a_ticket_for_other_applications(
    kms: LocalKms, applications: tuple[str, ...], own: bytes | None, accepted: bool
) -> None:
    alice, bobby = participant(kms, ALICE), participant(kms, BOBBY, Acceptance(application=own))
    ticket = alice.request_ticket([BOBBY], applications=applications)
    assert rules.applications(ticket.policy) == tuple(name.encode() for name in applications)
    offer = alice.offer(ticket, BOBBY)
    if accepted:
        assert bobby.receive(offer.message).caller == ALICE
    else:
        with pytest.raises(ProtocolError, match="not for this application") as refused:
            bobby.receive(offer.message)
        assert refused.value.error_no == ErrorNo.INVALID_TPPAR


@pytest.mark.parametrize("seconds", [None, 900])
def test_both_applications_learn_how_often_to_rekey(kms: LocalKms, seconds: int | None) -> None:
    alice, bobby = participant(kms, ALICE), participant(kms, BOBBY)
    data = rules.tp_data(
        kms=kms.identity.encode(),
        initiator=ALICE.encode(),
        responders=[BOBBY.encode()],
        end=int(kms.clock()) + 60,
        rekeying=seconds,
    )
    desired = TicketPolicy(*DERIVED_TICKET, PrfFunc(1), CALL_FLAGS, data)
    offer = alice.offer(request_ticket(alice._party, alice._endpoint, desired), BOBBY)
    answer = bobby.answer(offer.message)
    session = offer.complete(answer.message or b"")
    assert session.rekeying_interval == answer.session.rekeying_interval == seconds


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_replay_cache_is_bounded_by_time_and_number() -> None:
    clock = Clock(0.0)
    cache = InMemoryReplayCache(clock, limit=2)
    cache.reserve(b"a", 60)
    cache.reserve(b"b", 120)
    with pytest.raises(ProtocolError, match="replay") as replayed:
        cache.reserve(b"a", 60)
    assert replayed.value.error_no == ErrorNo.INVALID_TS
    with pytest.raises(ProtocolError, match="full"):
        cache.reserve(b"c", 60)
    cache.release(b"a")
    cache.reserve(b"a", 60)
    clock.now = 61
    cache.reserve(b"c", 200)  # "a" is outside the skew now
    with pytest.raises(ProtocolError, match="replay"):
        cache.reserve(b"b", 120)
