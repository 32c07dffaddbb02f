"""RFC 4567 through the SDKs: offers and answers at several levels, and the protocol list that V authenticates."""

from pathlib import Path

import pytest

from kms.client import AuthenticationError, Participant, ProtocolError, Stream
from kms.client.participant import Offer
from kms.mikey import sdp
from kms.mikey.errors import DecodeError
from kms.mikey.message import Message
from kms.mikey.payloads import GeneralExtension
from tests.kms.callers import ALICE, BOBBY, focus, participant, rebuilt
from tests.kms.local_kms import LocalEndpoint, LocalKms

BARE = "v=0\r\ns=-\r\nm=audio 9 RTP/SAVP 0\r\nm=video 9 RTP/SAVP 31\r\n"


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


@pytest.fixture
def alice(kms: LocalKms) -> Participant:
    return participant(kms, ALICE)


@pytest.fixture
def bobby(kms: LocalKms) -> Participant:
    return participant(kms, BOBBY)


def offer(who: Participant, to: str, *protocols: str) -> Offer:
    return who.offer(who.request_ticket([to]), to, [Stream(), Stream()], protocols=protocols)


def test_audio_and_video_are_keyed_by_messages_of_their_own(kms: LocalKms, alice: Participant) -> None:
    conference = focus(kms)
    offers = {level: offer(alice, conference.identity, "mikey", "mikey") for level in (None, 1)}
    calls = conference.receive_all(sdp.with_messages(BARE, {level: o.message for level, o in offers.items()}))
    assert list(calls) == [None, 1]
    group = conference.group_keys(["audio"])
    answers = {level: call.answer(group) for level, call in calls.items()}
    text = sdp.with_messages(BARE, {level: a.message or b"" for level, a in answers.items()})
    for level, raw in sdp.Description.parse(text).mikey.items():
        assert offers[level].complete(raw).srtp == answers[level].session.srtp


def test_one_refused_level_refuses_the_offer(alice: Participant, bobby: Participant) -> None:
    good, bad = (offer(alice, BOBBY, "mikey", "mikey") for _ in range(2))
    text = sdp.with_messages(BARE, {0: good.message, 1: bad.message[:-1] + bytes((bad.message[-1] ^ 1,))})
    with pytest.raises(AuthenticationError):
        bobby.receive_all(text)


def test_a_peeled_off_protocol_is_noticed_before_the_kms_is_asked(
    alice: Participant, bobby: Participant
) -> None:
    text = offer(alice, BOBBY, "keyp1", "mikey").sdp
    with pytest.raises(ProtocolError, match="bidding-down"):
        bobby.receive(text)
    endpoint = bobby._endpoint
    assert isinstance(endpoint, LocalEndpoint)
    assert endpoint.asked == 0
    assert bobby.receive("a=key-mgmt:keyp1 x\n" + offer(alice, BOBBY, "keyp1", "mikey").sdp).caller == ALICE


def test_v_authenticates_the_list(alice: Participant, bobby: Participant) -> None:
    """Whoever peels off a protocol cannot change the list as well."""
    sent = offer(alice, BOBBY, "keyp1", "mikey").message
    changed = rebuilt(sent, lambda p: sdp.sdp_ids(["mikey"]) if isinstance(p, GeneralExtension) else p)
    with pytest.raises(AuthenticationError, match="TRANSFER_INIT"):
        bobby.receive(sdp.key_mgmt_line(changed))


def test_mikey_names_itself_by_default(alice: Participant, bobby: Participant) -> None:
    """Even the sole protocol authenticates its own identifier (RFC 4567 4.1.4)."""
    sent = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    assert Message.decode(sent.message).find(GeneralExtension) == sdp.sdp_ids(["mikey"])
    assert bobby.receive(sent.sdp).caller == ALICE


def test_the_answer_is_under_mikey(alice: Participant, bobby: Participant) -> None:
    sent = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    answer = bobby.answer(sent.sdp).sdp or ""
    with pytest.raises(DecodeError, match="0 a=key-mgmt:mikey lines"):
        sent.complete(answer.replace("mikey", "keyp1"))
    assert sent.complete(answer).peer == BOBBY
