"""The participant SDK against the real engine in this process: tickets, calls, and what must be refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from grpc import StatusCode

from kms.client import (
    Acceptance,
    AuthenticationError,
    DecodeError,
    Participant,
    ProtocolError,
    ReceivedError,
    Refused,
    Stream,
    Unavailable,
)
from kms.client.participant import CALL_FLAGS
from kms.engine.directory import TpkRole
from kms.mikey import error_message
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, T, with_spi
from kms.mikey.registry import ErrorNo, KeyType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80, ENCR_NULL
from kms.mikey.ticket_data import BASE_TICKET
from kms.sdk.endpoint import with_retries
from tests.kms.callers import ALICE, BOBBY, CAROL, participant, rebuilt
from tests.kms.local_kms import LocalEndpoint, LocalKms


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


@pytest.fixture
def alice(kms: LocalKms) -> Participant:
    return participant(kms, ALICE)


@pytest.fixture
def bobby(kms: LocalKms) -> Participant:
    return participant(kms, BOBBY)


def asked(who: Participant) -> int:
    """How often a participant asked the KMS."""
    endpoint = who._endpoint
    assert isinstance(endpoint, LocalEndpoint)
    return endpoint.asked


def answered(call: bytes, by: Participant) -> bytes:
    """The answer to an offer."""
    message = by.answer(call).message
    assert message is not None
    return message


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [None, 256, 128])
@pytest.mark.parametrize("as_sdp", [True, False])
def test_two_party_call(alice: Participant, bobby: Participant, suite: int | None, as_sdp: bool) -> None:
    offer = alice.offer(alice.request_ticket([BOBBY], suite=suite), BOBBY, [Stream(0x11111111), Stream()])
    call = bobby.receive(f"v=0\r\n{offer.sdp}\r\nm=audio 9 RTP/SAVP 0\r\n" if as_sdp else offer.message)
    assert call.caller == ALICE
    answer = call.answer()
    session = offer.complete((answer.sdp if as_sdp else answer.message) or b"")
    assert (session.peer, answer.session.peer) == (BOBBY, ALICE)
    assert session.peer_authenticated
    assert answer.session.peer_authenticated
    assert offer.session is session
    assert session.srtp == answer.session.srtp
    first, second = session.srtp
    assert first.ssrc == 0x11111111
    assert first.master_key != second.master_key
    assert (len(first.master_key), len(first.master_salt), first.profile) == (
        16,
        14,
        "AES_CM_128_HMAC_SHA1_80",
    )
    assert first.mki
    assert first.libsrtp_key == first.master_key + first.master_salt


def test_secrets_are_in_no_repr(kms: LocalKms, alice: Participant, bobby: Participant) -> None:
    credential = kms.enrol(CAROL)
    ticket = alice.request_ticket([BOBBY])
    offer = alice.offer(ticket, BOBBY)
    session = offer.complete(answered(offer.message, bobby))
    shown = repr((credential, ticket, session.srtp, session.keys, session.static))
    secrets = [k.psk for k in credential.psks] + [k.key for k in (*ticket.session_keys, *session.keys)]
    secrets += [k.master_key for k in session.srtp]
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


def test_an_srtp_policy_is_negotiated(alice: Participant, bobby: Participant) -> None:
    null = replace(AES_CM_128_HMAC_SHA1_80, encr_alg=ENCR_NULL)
    offer = alice.offer(
        alice.request_ticket([BOBBY]), BOBBY, [Stream(policies=(null, AES_CM_256_HMAC_SHA1_80))]
    )
    session = offer.complete(answered(offer.message, bobby))
    assert session.srtp[0].profile == "AES_256_CM_HMAC_SHA1_80"
    assert len(session.srtp[0].master_key) == 32


def test_a_base_ticket_serves_as_well(alice: Participant, bobby: Participant) -> None:
    keys = [
        with_spi(KeyType.TGK_SALT, bytes(32), bytes(14), b"\1\2"),
        with_spi(KeyType.TGK, bytes(16), b"", b"\3"),
    ]
    ticket = alice.request_ticket([BOBBY], keys=keys, kind=BASE_TICKET)
    assert [k.spi for k in ticket.session_keys] == [b"\1\2", b"\3"]
    offer = alice.offer(ticket, BOBBY)
    answer = bobby.answer(offer.message)
    session = offer.complete(answer.message or b"")
    assert session.srtp == answer.session.srtp
    assert session.keys == answer.session.keys
    assert session.keys != ticket.session_keys  # TGKs are forked


def test_a_group_and_an_alias(kms: LocalKms, alice: Participant) -> None:
    support, desk = "sip:it-support@example.com", "sip:desk@example.com"
    bobby = participant(kms, BOBBY, Acceptance(groups=frozenset({support.encode()})))
    kms.directory.add_member(support.encode(), BOBBY.encode())
    ticket = alice.request_ticket([support], flags=CALL_FLAGS | Flags.J)
    offer = alice.offer(ticket, support, group=True)
    assert offer.complete(answered(offer.message, bobby)).peer == BOBBY
    strict = alice.offer(ticket, support)
    with pytest.raises(ProtocolError, match="another responder"):
        strict.complete(answered(strict.message, bobby))
    carol = participant(kms, CAROL, Acceptance(aliases=frozenset({desk.encode()})), aliases=[desk])
    offer = alice.offer(alice.request_ticket([desk]), desk)
    assert offer.complete(answered(offer.message, carol)).peer == desk


def test_the_kms_may_shorten_the_ticket(alice: Participant, kms: LocalKms) -> None:
    ticket = alice.request_ticket([BOBBY], lifetime=10_000_000)
    assert ticket.expires == kms.clock.now + 86400
    assert ticket.policy.flags & Flags.K


# -- reuse (RFC 6043 5.3, AMBIGUITIES A-40) ----------------------------------------------------------------------------


def test_a_ticket_for_one_responder_is_resolved_once(alice: Participant, bobby: Participant) -> None:
    ticket = alice.request_ticket([BOBBY], flags=CALL_FLAGS | Flags.J)
    sessions = []
    for _ in range(2):
        offer = alice.offer(ticket, BOBBY)
        sessions.append(offer.complete(answered(offer.message, bobby)))
    assert asked(bobby) == 1
    first, second = (session.static for session in sessions)
    assert first.csb_id != second.csb_id
    assert first.randr_i != second.randr_i
    assert first.randr_kms == second.randr_kms  # the same modifier
    assert sessions[0].srtp[0].master_key != sessions[1].srtp[0].master_key


def test_a_ticket_for_several_is_resolved_each_time(alice: Participant, bobby: Participant) -> None:
    ticket = alice.request_ticket([BOBBY, CAROL], flags=CALL_FLAGS | Flags.J)
    for count in (1, 2):
        offer = alice.offer(ticket, BOBBY)
        offer.complete(answered(offer.message, bobby))
        assert asked(bobby) == count


def test_with_several_responders_one_cannot_pose_as_the_initiator(kms: LocalKms, alice: Participant) -> None:
    """Carol has MPKi, since she may resolve the ticket; bobby has it resolved anew, and Vr is missed."""
    bobby, carol = participant(kms, BOBBY), participant(kms, CAROL)
    ticket = alice.request_ticket([BOBBY, CAROL], flags=CALL_FLAGS | Flags.J)
    bobby.answer(alice.offer(ticket, BOBBY).message)
    carol.receive(alice.offer(ticket, CAROL).message)
    forged = replace(ticket, mpkr=ticket.mpki)  # all that carol knows
    with pytest.raises(Refused, match="INITIATOR_NOT_AUTHENTIC"):
        bobby.receive(alice.offer(forged, BOBBY).message)


def test_a_ticket_that_must_not_be_reused(alice: Participant, bobby: Participant) -> None:
    ticket = alice.request_ticket([BOBBY])
    bobby.answer(alice.offer(ticket, BOBBY).message)
    with pytest.raises(ProtocolError, match="J flag"):
        bobby.answer(alice.offer(ticket, BOBBY).message)


# -- what must be refused ----------------------------------------------------------------------------------------------


def test_a_ticket_sent_by_another_is_refused_by_the_kms(
    kms: LocalKms, alice: Participant, bobby: Participant
) -> None:
    """Mallory has alice's ticket and even MPKi, but never MPKr (12.4)."""
    mallory = participant(kms, "sip:mallory@example.com")
    ticket, own = alice.request_ticket([BOBBY]), mallory.request_ticket([BOBBY])
    ops = mallory._party.ops
    mpki = ops.load(bytes(ticket.mpki.value), ticket.mpki.use)  # type: ignore[attr-defined]
    mallory._party = replace(mallory._party, identity=ALICE.encode())
    offer = mallory.offer(replace(own, ticket=ticket.ticket, mpki=mpki), BOBBY)
    with pytest.raises(Refused) as refused:
        bobby.receive(offer.message)
    assert refused.value.reason == "INITIATOR_NOT_AUTHENTIC"
    assert refused.value.mikey_error is not None
    assert Message.decode(refused.value.mikey_error).error_numbers == (ErrorNo.AUTH_FAILURE,)


def test_another_responder_cannot_answer(kms: LocalKms, alice: Participant, bobby: Participant) -> None:
    """Carol may resolve the ticket too, but not answer as bobby: hers is another MPKr' (5.1.1)."""
    carol = participant(kms, CAROL, Acceptance(groups=frozenset({BOBBY.encode()})))
    offer = alice.offer(alice.request_ticket([BOBBY, CAROL]), BOBBY)
    answer = answered(offer.message, carol)
    with pytest.raises(ProtocolError, match="another responder"):
        offer.complete(answer)
    with pytest.raises(AuthenticationError):
        offer.complete(answer.replace(CAROL.encode(), BOBBY.encode()))
    assert offer.complete(answered(offer.message, bobby)).peer == BOBBY


def test_an_uninvited_responder_gets_nothing(kms: LocalKms, alice: Participant) -> None:
    carol = participant(kms, CAROL, Acceptance(groups=frozenset({BOBBY.encode()})))
    with pytest.raises(Refused, match="NOT_AUTHORIZED"):
        carol.receive(alice.offer(alice.request_ticket([BOBBY]), BOBBY).message)


def test_a_wrong_psk_is_refused(kms: LocalKms) -> None:
    credential = kms.enrol(ALICE)
    wrong = replace(credential, psks=tuple(replace(k, psk=bytes(32)) for k in credential.psks))
    with pytest.raises(Refused) as refused:
        participant(kms, wrong).request_ticket([BOBBY])
    assert refused.value.reason == "AUTHENTICATION_FAILED"


def test_group_keys_are_not_for_a_participant(alice: Participant) -> None:
    with pytest.raises(Refused, match="focus role"):
        alice.request_ticket([BOBBY], keys=[with_spi(KeyType.TEK_SALT, bytes(16), bytes(14), b"\1")])


@pytest.mark.parametrize("dropped", ["I", "E"])
def test_tickets_without_forking_are_refused_by_default(
    kms: LocalKms, alice: Participant, dropped: str
) -> None:
    """Without E the responder opens it without the KMS (mode 2): one that shares a TPK with the KMS."""
    flags = CALL_FLAGS & ~(Flags.I if dropped == "I" else Flags.I | Flags.E)
    kind, shared = BASE_TICKET, [TpkRole.RESPONDER]
    bobby = participant(kms, kms.enrol(BOBBY, tpk_roles=shared))
    ticket = alice.request_ticket([BOBBY], flags=flags, kind=kind)
    offer = alice.offer(ticket, BOBBY)
    with pytest.raises(ProtocolError, match="not accepted here"):
        bobby.receive(offer.message)
    carol = participant(kms, kms.enrol(CAROL, tpk_roles=shared), Acceptance(required_flags=Flags(0)))
    offer = alice.offer(alice.request_ticket([CAROL], flags=flags, kind=kind), CAROL)
    session = offer.complete(answered(offer.message, carol))
    assert not session.peer_authenticated


def test_a_replay_is_refused_but_not_a_retransmission_after_a_failure(
    kms: LocalKms, alice: Participant, bobby: Participant
) -> None:
    offer = alice.offer(alice.request_ticket([BOBBY], flags=CALL_FLAGS | Flags.J), BOBBY)
    endpoint = bobby._receiver._endpoint
    bobby._receiver._endpoint = _Failing(Refused("BUSY", "", StatusCode.FAILED_PRECONDITION))
    with pytest.raises(Refused):
        bobby.receive(offer.message)
    bobby._receiver._endpoint = endpoint
    bobby.receive(offer.message)
    with pytest.raises(ProtocolError, match="replay"):
        bobby.receive(offer.message)
    assert asked(bobby) == 1


def test_times(kms: LocalKms, alice: Participant, bobby: Participant) -> None:
    ticket = alice.request_ticket([BOBBY], lifetime=600)
    offer = alice.offer(ticket, BOBBY)
    kms.clock.now += 61
    with pytest.raises(ProtocolError, match="61 s old"):
        bobby.receive(offer.message)
    kms.clock.now -= 122
    with pytest.raises(ProtocolError, match="future"):
        bobby.receive(offer.message)
    kms.clock.now += 61 + 601
    with pytest.raises(ProtocolError, match="expired 1 s ago"):
        alice.offer(ticket, BOBBY)
    with pytest.raises(ProtocolError, match="expired"):
        bobby.receive(offer.message)
    assert asked(bobby) == 0


def test_a_caller_who_uses_another_name(alice: Participant, bobby: Participant) -> None:
    ticket = alice.request_ticket([BOBBY])
    alice._party = replace(alice._party, identity=CAROL.encode())
    with pytest.raises(ProtocolError, match="IDRi"):
        bobby.receive(alice.offer(ticket, BOBBY).message)
    assert asked(bobby) == 0


def test_a_responder_that_the_ticket_does_not_name(alice: Participant, bobby: Participant) -> None:
    ticket = alice.request_ticket([CAROL])
    with pytest.raises(ProtocolError, match="does not name"):
        alice.offer(ticket, BOBBY)
    with pytest.raises(ProtocolError, match="other responders"):
        bobby.receive(alice.offer(ticket, CAROL).message)


def test_null_encryption_is_refused_by_both_sides(
    kms: LocalKms, alice: Participant, bobby: Participant
) -> None:
    null = replace(AES_CM_128_HMAC_SHA1_80, encr_alg=ENCR_NULL)
    with pytest.raises(ProtocolError, match="acceptable") as refused:
        bobby.receive(alice.offer(alice.request_ticket([BOBBY]), BOBBY, [Stream(policies=(null,))]).message)
    assert refused.value.error_no == ErrorNo.INVALID_SPPAR
    careless = participant(kms, CAROL, Acceptance(srtp=(null,)))
    offer = alice.offer(
        alice.request_ticket([CAROL]), CAROL, [Stream(policies=(null, AES_CM_128_HMAC_SHA1_80))]
    )
    with pytest.raises(ProtocolError, match="acceptable"):
        offer.complete(answered(offer.message, careless))


def test_a_changed_initiator_data_or_v(alice: Participant, bobby: Participant) -> None:
    message = alice.offer(alice.request_ticket([BOBBY]), BOBBY).message
    with pytest.raises(AuthenticationError, match="Vi"):
        bobby.receive(message[:-1] + bytes((message[-1] ^ 1,)))
    later = rebuilt(message, lambda p: T(p.ts_type, p.value[:7] + b"\x77") if isinstance(p, T) else p)
    with pytest.raises(AuthenticationError, match="TRANSFER_INIT"):
        bobby.receive(later)


# -- Error messages ----------------------------------------------------------------------------------------------------


def test_the_called_side_refuses(alice: Participant, bobby: Participant) -> None:
    offer = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    refusal = bobby.receive(offer.message).refuse(ErrorNo.INVALID_SP)
    with pytest.raises(ReceivedError) as received:
        offer.complete(refusal)
    assert received.value.authenticated
    assert received.value.numbers == (ErrorNo.INVALID_SP,)
    with pytest.raises(ProtocolError, match="refused"):
        offer.complete(refusal)


@pytest.mark.parametrize("with_v", [True, False])
def test_a_forged_error_message_ends_nothing(alice: Participant, bobby: Participant, with_v: bool) -> None:
    offer = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    sent = Message.decode(offer.message)
    alg = sent.v.auth_alg if with_v else None
    forged = error_message.build(sent.hdr, [ErrorNo.UNSPECIFIED], sent.get(T), auth_alg=alg)
    with pytest.raises(ReceivedError) as received:
        offer.complete(forged.raw)
    assert not received.value.authenticated
    assert offer.complete(answered(offer.message, bobby)).peer == BOBBY


def test_an_answer_counts_once(alice: Participant, bobby: Participant) -> None:
    offer = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    answer = answered(offer.message, bobby)
    offer.complete(answer)
    with pytest.raises(ProtocolError, match="established"):
        offer.complete(answer)


# -- retries, SDP, input -----------------------------------------------------------------------------------------------


class _Failing:
    """A fault: an endpoint that raises. `seen` are the messages it got."""

    def __init__(self, error: Exception, after: LocalEndpoint | None = None, times: int = 1000) -> None:
        self._error, self._after, self._times = error, after, times
        self.seen: list[bytes] = []

    def _attempt(self, message: bytes) -> None:
        self.seen.append(message)
        if len(self.seen) <= self._times:
            raise self._error

    def request_ticket(self, message: bytes) -> bytes:
        self._attempt(message)
        assert self._after
        return self._after.request_ticket(message)

    def resolve_ticket(self, message: bytes) -> bytes:
        self._attempt(message)
        assert self._after
        return self._after.resolve_ticket(message)


def test_each_retry_is_a_new_message(kms: LocalKms, alice: Participant, bobby: Participant) -> None:
    endpoint = alice._endpoint
    assert isinstance(endpoint, LocalEndpoint)
    flaky = alice._endpoint = _Failing(Unavailable("down"), endpoint, times=2)
    ticket = alice.request_ticket([BOBBY])
    assert len({Message.decode(m).hdr.csb_id for m in flaky.seen}) == len(flaky.seen) == 3
    resolver = bobby._endpoint
    assert isinstance(resolver, LocalEndpoint)
    flaky = bobby._receiver._endpoint = _Failing(Unavailable("down"), resolver, times=1)
    assert bobby.receive(alice.offer(ticket, BOBBY).message).caller == ALICE
    assert len({Message.decode(m).hdr.csb_id for m in flaky.seen}) == len(flaky.seen) == 2


def test_retries_are_bounded_and_refusals_not_retried(alice: Participant) -> None:
    down = _Failing(Unavailable("down", retry_after=0.5))
    slept: list[float] = []
    with pytest.raises(Unavailable):
        with_retries(lambda: down.request_ticket(b""), sleep=slept.append)
    assert len(down.seen) == 4
    assert all(0.5 <= pause <= 2.0 for pause in slept)
    refusing = alice._endpoint = _Failing(Refused("NOT_AUTHORIZED", "no", StatusCode.FAILED_PRECONDITION))
    with pytest.raises(Refused):
        alice.request_ticket([BOBBY])
    assert len(refusing.seen) == 1


@pytest.mark.parametrize("received", ["", "v=0\r\n", "a=key-mgmt:mikey !!!", b"", b"\1"])
def test_malformed_offers(bobby: Participant, received: bytes | str) -> None:
    with pytest.raises(DecodeError):
        bobby.receive(received)


def test_a_suite_that_is_not_enrolled(kms: LocalKms, alice: Participant) -> None:
    credential = kms.enrol(CAROL)
    carol = participant(kms, replace(credential, psks=credential.psks[:1]))
    with pytest.raises(ProtocolError, match=r"enrolled in \(256-bit\)"):
        carol.request_ticket([BOBBY], suite=128)
    offer = alice.offer(alice.request_ticket([CAROL], suite=128), CAROL)
    with pytest.raises(ProtocolError, match=r"enrolled in \(256-bit\)"):
        carol.receive(offer.message)
