"""The focus SDK against the real engine in this process: group keys, verified callers, batches."""

from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from kms.client import Acceptance, AuthenticationError, Participant, ProtocolError, Refused, Stream
from kms.client.participant import CALL_FLAGS
from kms.engine.directory import Role
from kms.focus import Focus, GroupKeys, IncomingCall
from kms.mikey import policy as rules
from kms.mikey import sdp
from kms.mikey.errors import MikeyError, ReceivedError
from kms.mikey.payloads import Flags
from kms.mikey.registry import ErrorNo, KeyType
from kms.mikey.srtp import AES_CM_256_HMAC_SHA1_80
from kms.party.memory import InMemoryReplayCache
from kms.party.session import Session
from tests.kms.callers import ALICE, BOBBY, CAROL, FOCUS, focus, participant
from tests.kms.local_kms import LocalEndpoint, LocalKms

GTGK_FLAGS = CALL_FLAGS & ~Flags.H


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


@pytest.fixture
def conference(kms: LocalKms) -> Focus:
    return focus(kms)


@pytest.fixture
def callers(kms: LocalKms) -> list[Participant]:
    return [participant(kms, name) for name in (ALICE, BOBBY, CAROL)]


def join(
    who: Participant, conference: Focus, group: GroupKeys, streams: list[Stream], **ticket: object
) -> tuple[Session, Session]:
    """A call into the conference: the caller's session and the focus's."""
    offer = who.offer(who.request_ticket([conference.identity], **ticket), conference.identity, streams)  # type: ignore[arg-type]
    call = conference.receive(offer.sdp)
    assert call.caller == who.identity
    answer = call.answer(group)
    return offer.complete(answer.sdp or ""), answer.session


@pytest.mark.parametrize("suite", [256, 128])
def test_all_members_have_the_same_keys(conference: Focus, callers: list[Participant], suite: int) -> None:
    group = conference.group_keys(["audio", "video"])
    sessions = [
        join(who, conference, group, [Stream(0x100 + i), Stream(0x200 + i)], suite=suite)
        for i, who in enumerate(callers)
    ]
    for at_caller, at_focus in sessions:
        assert at_caller.srtp == at_focus.srtp
        assert at_caller.peer == FOCUS
        assert at_caller.peer_authenticated
        for keys, medium in zip(at_caller.srtp, ("audio", "video"), strict=True):
            key = group.key(medium)
            assert (keys.master_key, keys.master_salt, keys.mki) == (key.key, key.salt, key.spi)
    assert group.key("audio").key != group.key("video").key
    ssrcs = [keys.ssrc for at_caller, _ in sessions for keys in at_caller.srtp]
    assert len(set(ssrcs)) == 6
    shown = repr(group)
    assert group.key("audio").key.hex() not in shown
    assert repr(group.key("audio").key)[2:-1] not in shown


def test_a_gtgk_gives_all_members_the_same_tek(conference: Focus, callers: list[Participant]) -> None:
    group = conference.group_keys(["audio", "video"], kind=KeyType.GTGK_SALT)
    found = [join(who, conference, group, [Stream(), Stream()], flags=GTGK_FLAGS)[0] for who in callers]
    keys = [[(k.master_key, k.master_salt) for k in session.srtp] for session in found]
    assert keys[0] == keys[1] == keys[2]
    assert keys[0][0] != keys[0][1]
    with pytest.raises(ProtocolError, match="H = 0"):
        join(callers[0], conference, group, [Stream(), Stream()])
    alice = callers[0]
    offer = alice.offer(alice.request_ticket([FOCUS], flags=GTGK_FLAGS), FOCUS, [Stream(), Stream()])
    with pytest.raises(ProtocolError, match="must be CS 2"):
        conference.receive(offer.message).answer(group, ["video", "audio"])


def test_an_ssrc_is_never_used_twice_under_a_key(conference: Focus, callers: list[Participant]) -> None:
    group = conference.group_keys()
    sessions = [join(who, conference, group, [Stream(7), Stream()])[0] for who in callers]
    ssrcs = [keys.ssrc for session in sessions for keys in session.srtp]
    assert ssrcs[0] == 7
    assert len(set(ssrcs)) == 6


def test_the_group_key_ticket(conference: Focus) -> None:
    group = conference.group_keys(["audio"], policy=AES_CM_256_HMAC_SHA1_80)
    policy = group.ticket.policy
    assert rules.responders(policy) == (FOCUS.encode(),)
    assert policy.flags.letters == "DEFGINO"
    assert [(k.key_type, len(k.key), len(k.salt)) for k in group.keys] == [(KeyType.TEK_SALT, 32, 14)]
    with_members = conference.group_keys(["audio"], members=[ALICE, BOBBY])
    assert rules.responders(with_members.ticket.policy) == (ALICE.encode(), BOBBY.encode())
    assert with_members.ticket.policy.flags & Flags.J


def test_group_keys_are_for_foci_only(kms: LocalKms) -> None:
    with pytest.raises(Refused, match="focus role"):
        focus(kms, kms.enrol(ALICE, Role.CLIENT)).group_keys()


@pytest.mark.parametrize(
    ("media", "kind"), [([], KeyType.TEK_SALT), (["a", "a"], KeyType.TEK_SALT), (["a"], KeyType.TGK)]
)
def test_arguments_of_group_keys(conference: Focus, media: list[str], kind: KeyType) -> None:
    with pytest.raises(ValueError, match=r"must be|is a"):
        conference.group_keys(media, kind=kind)


def test_a_factory_uri_is_an_alias(kms: LocalKms, callers: list[Participant]) -> None:
    factory = "sip:factory@example.com"
    conference = focus(kms, acceptance=Acceptance(aliases=frozenset({factory.encode()})), aliases=[factory])
    alice = callers[0]
    offer = alice.offer(alice.request_ticket([factory]), factory, [Stream(1)])
    answer = conference.receive(offer.message).answer(conference.group_keys())
    assert offer.complete(answer.message or b"").peer == factory


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_false_focus_is_found_out(kms: LocalKms, conference: Focus, callers: list[Participant]) -> None:
    """It has MPKi, as if it could resolve the ticket some other way, but not MPKr' of the focus."""
    alice = callers[0]
    ticket = alice.request_ticket([FOCUS])
    offer = alice.offer(ticket, FOCUS, [Stream(1)])
    false = focus(kms, "sip:false@example.com", Acceptance(groups=frozenset({FOCUS.encode()})))
    with pytest.raises(Refused, match="NOT_AUTHORIZED"):
        false.receive(offer.message)
    answer = conference.receive(offer.message).answer(conference.group_keys()).message or b""
    with pytest.raises(AuthenticationError):
        offer.complete(answer[:-1] + bytes((answer[-1] ^ 1,)))


def test_a_ticket_that_forbids_group_keys(conference: Focus, callers: list[Participant]) -> None:
    group = conference.group_keys()
    with pytest.raises(ProtocolError, match="M flag"):
        join(callers[0], conference, group, [Stream(1)], flags=rules.FORKED_MODE_1)


def test_long_keys_are_not_for_the_128_bit_suite(conference: Focus, callers: list[Participant]) -> None:
    group = conference.group_keys(policy=AES_CM_256_HMAC_SHA1_80)
    with pytest.raises(ProtocolError, match="128-bit suite"):
        join(callers[0], conference, group, [Stream(1)], suite=128)
    at_caller, _ = join(callers[1], conference, group, [Stream(1, (AES_CM_256_HMAC_SHA1_80,))])
    assert at_caller.srtp[0].ssrc == 1  # the failed call gave its SSRC back


def test_the_group_decides_the_srtp_policy(conference: Focus, callers: list[Participant]) -> None:
    """The suggested policies may be changed in group communication (6.1.1)."""
    group = conference.group_keys(policy=AES_CM_256_HMAC_SHA1_80)
    at_caller, at_focus = join(callers[0], conference, group, [Stream(1)])
    assert at_caller.srtp == at_focus.srtp
    assert at_caller.srtp[0].profile == "AES_256_CM_HMAC_SHA1_80"


def test_streams_must_match_the_media(conference: Focus, callers: list[Participant]) -> None:
    group = conference.group_keys(["audio", "video"])
    with pytest.raises(ProtocolError, match="1 streams are proposed for 2 media"):
        join(callers[0], conference, group, [Stream(1)])
    with pytest.raises(KeyError):
        group.key("text")


def test_a_replay_is_found_by_all_processes_of_a_focus(kms: LocalKms, callers: list[Participant]) -> None:
    shared, credential = InMemoryReplayCache(kms.clock), kms.enrol(FOCUS, Role.FOCUS)
    first, second = (focus(kms, credential, replay=shared) for _ in range(2))
    offer = callers[0].offer(callers[0].request_ticket([FOCUS]), FOCUS)
    first.receive(offer.message)
    with pytest.raises(ProtocolError, match="replay"):
        second.receive(offer.message)


def test_refusing_a_call(conference: Focus, callers: list[Participant]) -> None:
    alice = callers[0]
    offer = alice.offer(alice.request_ticket([FOCUS]), FOCUS)
    with pytest.raises(ReceivedError) as received:
        offer.complete(sdp.key_mgmt_line(conference.receive(offer.sdp).refuse(ErrorNo.INVALID_ID)))
    assert received.value.authenticated


# -- batches -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_one_call_and_each_fails_alone(
    kms: LocalKms, conference: Focus, callers: list[Participant]
) -> None:
    good = [who.offer(who.request_ticket([FOCUS]), FOCUS) for who in callers]
    ticket = callers[0].request_ticket([FOCUS])
    stolen = callers[0].offer(replace(ticket, mpkr=ticket.mpki), FOCUS).message  # by somebody without MPKr
    other = callers[2].offer(callers[2].request_ticket([BOBBY]), BOBBY)
    offers: list[bytes | str] = [
        good[0].message,
        b"\1",
        stolen,
        good[1].sdp,
        other.message,
        good[2].sdp,
        good[0].message,
    ]
    endpoint = conference._endpoint
    assert isinstance(endpoint, LocalEndpoint)
    results = conference.receive_batch(offers)
    assert endpoint.asked == 1
    assert len(endpoint.sent) == 4
    callers_found = [r.caller if isinstance(r, IncomingCall) else None for r in results]
    assert callers_found == [ALICE, None, None, BOBBY, None, CAROL, None]
    assert isinstance(results[1], MikeyError)
    assert isinstance(results[2], Refused)
    assert results[2].reason == "INITIATOR_NOT_AUTHENTIC"
    assert isinstance(results[4], ProtocolError)
    assert "replay" in str(results[6])
    group = conference.group_keys()
    call = results[0]
    assert isinstance(call, IncomingCall)
    assert good[0].complete(call.answer(group).message or b"").peer == FOCUS


def test_a_big_batch_is_split(
    kms: LocalKms, conference: Focus, callers: list[Participant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kms.sdk.calls.MAX_BATCH", 2)
    offers = [who.offer(who.request_ticket([FOCUS]), FOCUS).message for who in callers]
    assert [c.caller for c in conference.receive_batch(offers) if isinstance(c, IncomingCall)] == [
        ALICE,
        BOBBY,
        CAROL,
    ]
    assert isinstance(conference._endpoint, LocalEndpoint)
    assert conference._endpoint.asked == 2


def test_ssrcs_are_allocated_once_by_many_threads(conference: Focus) -> None:
    group = conference.group_keys()
    found: list[int] = []
    counter = iter(range(100, 10_000))
    threads = [
        Thread(target=lambda: found.extend(group.allocate_ssrc(7, lambda: next(counter)) for _ in range(50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 400
    assert 7 in found
