"""Calls over the real server: real token, real gRPC with mTLS, the SDKs as a conference system uses them."""

import re
from pathlib import Path

import pytest

from kms.client import Participant, Refused
from kms.focus import Focus
from kms.mikey.payloads import KeyData
from kms.mikey.registry import KeyType
from kms.mikey.ticket_data import BASE_TICKET
from tests.e2e.home import Server

ALICE, BOB, FOCUS = "sip:alice@example.com", "sip:bob@example.com", "sip:focus@example.com"
both_tokens = pytest.mark.parametrize("server", ["softhsm", "nss"], indirect=True)


def _example() -> str:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@both_tokens
def test_the_example_of_the_readme(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, identity, role in (("alice", ALICE, "client"), ("focus", FOCUS, "focus")):
        (tmp_path / f"{name}.json").symlink_to(server.enrol(identity, role))
    monkeypatch.chdir(tmp_path)
    exec(compile(_example(), "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == [ALICE, FOCUS, "AES_CM_128_HMAC_SHA1_80"]


@both_tokens
@pytest.mark.parametrize("suite", [256, 128])
@pytest.mark.parametrize("kind", ["derived", "base"])
def test_a_two_party_call(server: Server, kind: str, suite: int) -> None:
    """Both participants of one suite; TGKs are forked, and both sides derive the same SRTP keys."""
    names = [f"sip:{who}-{suite}@example.com" for who in ("caller", "callee")]
    files = [server.enrol(name, "client", "--suite", str(suite)) for name in names]
    keys = [KeyData(KeyType.TGK_SALT, bytes(suite // 8), bytes(14)), KeyData(KeyType.TGK, bytes(16))]
    options = {"kind": BASE_TICKET} if kind == "base" else {}
    with Participant.load(files[0]) as caller, Participant.load(files[1]) as callee:
        ticket = caller.request_ticket([names[1]], keys=keys, **options)  # type: ignore[arg-type]
        offer = caller.offer(ticket, names[1])
        call = callee.receive(offer.message)
        assert call.caller == names[0]
        answer = call.answer()
        assert answer.message is not None
        session = offer.complete(answer.message)
    assert session.peer == names[1]
    assert session.peer_authenticated
    assert [k.libsrtp_key for k in session.srtp] == [k.libsrtp_key for k in answer.session.srtp]
    assert [k.key for k in session.keys] != [k.key for k in ticket.session_keys], "TGKs must be forked"


def test_a_focus_resolves_tickets_of_both_suites_in_one_batch(server: Server) -> None:
    callers = [
        server.enrol(f"sip:batch-{suite}@example.com", "client", "--suite", str(suite))
        for suite in (256, 128)
    ]
    with Focus.load(server.enrol(FOCUS, "focus")) as focus:
        offers, sent = [], []
        for file in callers:
            with Participant.load(file) as caller:
                offer = caller.offer(caller.request_ticket([FOCUS]), FOCUS)
                offers.append(offer)
                sent.append(offer.message)
        group = focus.group_keys(["audio"])
        received = focus.receive_batch([*sent, sent[0]])
        assert isinstance(received[2], Exception), "a doubled offer is a replay"
        keys = set()
        for offer, call in zip(offers, received, strict=False):
            assert not isinstance(call, Exception), call
            answer = call.answer(group)
            assert answer.message is not None
            keys.add(offer.complete(answer.message).srtp[0].libsrtp_key)
        assert len(keys) == 1, "both members have the group key"


def test_a_client_cannot_have_group_keys(server: Server) -> None:
    with Participant.load(server.enrol(ALICE)) as alice, pytest.raises(Refused) as refused:
        alice.request_ticket([FOCUS], keys=[KeyData(KeyType.GTGK, bytes(32))])
    assert refused.value.reason == "NOT_AUTHORIZED"
    assert refused.value.mikey_error is not None


def test_an_uninvited_subscriber_cannot_resolve(server: Server) -> None:
    with Participant.load(server.enrol(ALICE)) as alice, Participant.load(server.enrol(BOB)) as bob:
        offer = alice.offer(alice.request_ticket([FOCUS, BOB]), FOCUS)
        # Bob may resolve it, but was not called: his SDK refuses before it asks.
        with pytest.raises(Exception, match="addressed to somebody else"):
            bob.receive(offer.message)


def test_a_revoked_user_is_refused_like_a_stranger(server: Server) -> None:
    from tests.e2e.home import kms

    identity = "sip:leaver@example.com"
    file = server.enrol(identity)
    with Participant.load(file) as leaver:
        leaver.request_ticket([FOCUS])
        assert kms("user", "revoke", identity, "--home", server.home).returncode == 0
        with pytest.raises(Refused) as refused:
            leaver.request_ticket([FOCUS])
    assert refused.value.reason == "AUTHENTICATION_FAILED"
