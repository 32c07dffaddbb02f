"""What RFC 6043 asks beyond single messages: errors, ticket reuse, CSB updates, pre-encrypted content, groups."""

from dataclasses import replace
from pathlib import Path

import pytest

from kms.client import Acceptance, ProtocolError, ReceivedError, Refused
from kms.client.participant import CALL_FLAGS
from kms.crypto import base_ticket
from kms.crypto.interface import Use
from kms.crypto.sources import Sources
from kms.engine.directory import Role
from kms.engine.v1.link_pb2 import CALLED_SERVICE_FOCUS
from kms.mikey import error_message, timestamps
from kms.mikey.errors import AuthenticationError, DecodeError
from kms.mikey.labels import vr_key
from kms.mikey.message import Message
from kms.mikey.payloads import (
    Flags,
    GeneralExtension,
    InitiatorData,
    Randr,
    Sp,
    T,
    Ticket,
    V,
    with_spi,
)
from kms.mikey.registry import ErrorNo, IdRole, KeyType, MapType, PrfFunc, RandRole
from kms.mikey.sdp import sdp_ids
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80, SrtpPolicy
from kms.mikey.ticket_data import BASE_TICKET, TicketData, mac_coverage
from kms.party.party import CsbIds
from kms.party.requesting import GrantedTicket
from kms.sdk.streams import Stream
from tests.kms.callers import ALICE, BOBBY, CAROL, participant
from tests.kms.conversation import Conversation, asked, desired, enrolled
from tests.kms.local_kms import LocalKms

LOOSE = Acceptance(required_flags=Flags(0), same_initiator=False)
TEK = with_spi(KeyType.TEK_SALT, b"k" * 16, b"s" * 14, b"tek")


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


@pytest.fixture
def call(kms: LocalKms) -> Conversation:
    return enrolled(kms)


# -- Error messages (5.4) ----------------------------------------------------------------------------------------------


def test_fields_of_error_messages(kms: LocalKms, call: Conversation) -> None:
    """HDR repeats version, PRF and CSB ID, V is 0, T is fresh, and the MAC is by the auth_key of what was refused."""
    slow = Sources(clock=lambda: kms.clock.now - 30)
    call.alice._party = replace(call.alice._party, sources=slow)
    with pytest.raises(Refused) as refused:
        call.alice.request_ticket([BOBBY], kind=(61441, 1, 1))
    sent = Message.decode(call.alice._endpoint.sent[-1])  # type: ignore[attr-defined]
    error = Message.decode(refused.value.mikey_error or b"")
    assert (error.hdr.csb_id, error.hdr.prf, error.raw[0]) == (sent.hdr.csb_id, sent.hdr.prf, sent.raw[0])
    assert (error.hdr.v, error.hdr.cs_count, error.hdr.map_type) == (False, 0, MapType.EMPTY)
    assert timestamps.unix_time(error.get(T)) > timestamps.unix_time(sent.get(T)) + 29
    assert error.error_numbers == (ErrorNo.INVALID_TICKET,)
    assert error.v.auth_alg == sent.v.auth_alg


def test_the_error_message_of_a_responder_is_authenticated(call: Conversation) -> None:
    outgoing = call.transfer(call.request(desired()))
    incoming = call.receive(outgoing)
    with pytest.raises(ReceivedError) as received:
        outgoing.complete(incoming.refuse(ErrorNo.INVALID_SP, [AES_CM_128_HMAC_SHA1_80.sp(0)]).raw)
    assert received.value.authenticated
    assert received.value.policies == (AES_CM_128_HMAC_SHA1_80.sp(0),)


def test_unexpected_payloads_and_v_of_an_error_message_are_ignored(call: Conversation) -> None:
    outgoing = call.transfer(call.request(desired()))
    error = call.receive(outgoing).refuse(ErrorNo.UNSPECIFIED)
    draft = Message.build(replace(error.hdr, v=True), [GeneralExtension(0, b"x"), *error.payloads])
    with pytest.raises(ReceivedError) as received:
        outgoing.complete(outgoing._initial.sign(draft).raw)
    assert received.value.authenticated


def test_unsupported_policies_are_answered_with_the_supported_ones(kms: LocalKms) -> None:
    """Early reject, an Error message with SP payloads, and a second offer that follows it (4.2.2.2, 4.2.2.4, 5.4)."""
    f8 = SrtpPolicy(encr_alg=2)
    alice = participant(kms, ALICE)
    bobby = participant(kms, BOBBY, Acceptance(srtp=(AES_CM_256_HMAC_SHA1_80, AES_CM_128_HMAC_SHA1_80)))
    ticket = alice.request_ticket([BOBBY])
    offer = alice.offer(ticket, BOBBY, [Stream(policies=(f8,))])
    with pytest.raises(ProtocolError) as refused:
        bobby.receive(offer.message)
    assert asked(bobby) == 0, "rejected without contacting the KMS"
    error = bobby.refusal(offer.message, refused.value)
    assert error is not None
    with pytest.raises(ReceivedError) as received:
        offer.complete(error)
    assert received.value.numbers == (ErrorNo.INVALID_SPPAR,)
    assert not received.value.authenticated
    supported = tuple(SrtpPolicy.of(sp) for sp in received.value.policies)
    assert supported == (AES_CM_256_HMAC_SHA1_80, AES_CM_128_HMAC_SHA1_80)
    second = alice.offer(ticket, BOBBY, [Stream(policies=supported)])
    assert second.complete(bobby.answer(second.message).message or b"").srtp[0].policy == supported[0]


def test_an_initiator_refuses_policies_that_it_does_not_accept(kms: LocalKms) -> None:
    f8 = SrtpPolicy(encr_alg=2)
    alice, careless = participant(kms, ALICE), participant(kms, BOBBY, Acceptance(srtp=(f8,)))
    offer = alice.offer(alice.request_ticket([BOBBY]), BOBBY, [Stream(policies=(f8,))])
    answer = careless.answer(offer.message).message or b""
    with pytest.raises(ProtocolError) as refused:
        offer.complete(answer)
    assert offer.session is None, "discarded"
    error = Message.decode(alice.refusal(answer, refused.value) or b"")
    assert [SrtpPolicy.of(sp) for sp in error.find_all(Sp)] == list(Acceptance().srtp)


def test_what_cannot_be_parsed_is_answered_if_hdr_can(kms: LocalKms, call: Conversation) -> None:
    sent = call.transfer(call.request(desired())).message.raw
    for bad in (sent[:-1], sent[:40], sent + b"\0"):
        with pytest.raises(DecodeError) as refused:
            Message.decode(bad)
        error = call.bobby.refusal(bad, refused.value)
        assert Message.decode(error or b"").hdr.csb_id == Message.decode(sent).hdr.csb_id
    for bad in (b"", sent[:9], b"\2" + sent[1:]):
        assert call.bobby.refusal(bad, ProtocolError("no message")) is None


def test_no_error_message_about_errors_or_strangers(kms: LocalKms, call: Conversation) -> None:
    sent = call.transfer(call.request(desired())).message
    error = error_message.build(sent.hdr, [ErrorNo.UNSPECIFIED], sent.get(T)).raw
    assert call.bobby.refusal(error, ProtocolError("unexpected")) is None
    assert call.bobby.refusal(sent.raw, AuthenticationError("wrong MAC")) is None
    with pytest.raises(Refused) as refused:
        call.alice._endpoint.request_ticket(error)
    assert refused.value.mikey_error is None


# -- Ticket Types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [(2, 1, 1), (1, 2, 1), (1, 1, 2), (3, 1, 1)])
def test_other_ticket_types_are_decoded_and_refused(call: Conversation, kind: tuple[int, int, int]) -> None:
    """The 3GPP base ticket (type 2) among them: its Ticket Policy is readable, its Ticket Data is not ours."""
    with pytest.raises(Refused) as refused:
        call.alice.request_ticket([BOBBY], kind=kind)
    assert Message.decode(refused.value.mikey_error or b"").error_numbers == (ErrorNo.INVALID_TICKET,)
    granted = call.request(desired())
    policy = replace(granted.policy, ticket_type=kind[0], subtype=kind[1], version=kind[2])
    foreign = replace(granted, ticket=Ticket(policy, b"what 3GPP puts there"))
    outgoing = call.transfer(foreign)
    assert Message.decode(outgoing.message.raw).get(Ticket).policy == policy
    with pytest.raises(Refused) as refused:
        call.receive(outgoing)
    assert Message.decode(refused.value.mikey_error or b"").error_numbers == (ErrorNo.INVALID_TICKET,)


@pytest.mark.parametrize("flag", [Flags.N, Flags.O])
def test_n_and_o_flags(call: Conversation, flag: Flags) -> None:
    """Without N or O more than RFC 6043 is needed, which is not known here: nobody goes on as if it were."""
    granted = call.request(desired(kind=BASE_TICKET, flags=CALL_FLAGS & ~flag))
    if flag is Flags.N:
        with pytest.raises(ProtocolError, match="N flag"):
            call.transfer(granted)
        return
    with pytest.raises(ProtocolError, match="O flag"):
        call.receive(call.transfer(granted))


def _changed_data(granted: GrantedTicket, call: Conversation, kms: LocalKms) -> GrantedTicket:
    """The base ticket with THDR Data and payloads that nobody expects, under a right MAC."""
    data = TicketData.decode(granted.ticket.ticket_data)
    more = replace(data, thdr_data=b"for nobody", payloads=(GeneralExtension(0, b"x"), *data.payloads))
    ops, policy = kms.engine._context.ops, granted.policy
    _, tpk = kms.current_base(0, policy.prf)  # type: ignore[arg-type]
    draft = replace(granted.ticket, ticket_data=more.encode())
    key = base_ticket._auth_key(ops, tpk, PrfFunc(policy.prf), data.rand, data.v.auth_alg, Use.SIGN)
    mac = ops.mac(key, data.v.auth_alg, mac_coverage(draft, more))
    signed = replace(more, payloads=(*more.payloads[:-1], V(data.v.auth_alg, mac)))
    return replace(granted, ticket=replace(granted.ticket, ticket_data=signed.encode()))


def test_unexpected_ticket_data_is_ignored(kms: LocalKms, call: Conversation) -> None:
    """Payloads in Ticket Data and THDR Data that are not expected (A, A.3)."""
    granted = _changed_data(call.request(desired(kind=BASE_TICKET)), call, kms)
    outgoing = call.transfer(granted)
    assert outgoing.complete(call.answer(outgoing, call.receive(outgoing))).peer == BOBBY


def test_unexpected_initiator_data_is_ignored(call: Conversation) -> None:
    """A payload between Vi and Vr, covered by Vr (6.10)."""
    granted = call.request(desired())
    outgoing = call.transfer(granted)
    assert granted.mpkr is not None
    message = outgoing.message
    own = InitiatorData.decode(message.get(Ticket).initiator_data)
    draft = replace(own, others=(GeneralExtension(0, b"x"),))
    party = call.alice._party
    key = party.ops.prf_key(granted.mpkr, PrfFunc(granted.policy.prf), vr_key(), 32, Use.SIGN)
    vr = V(own.vr.auth_alg, party.ops.mac(key, own.vr.auth_alg, draft.vr_coverage()))
    data = replace(draft, vr=vr).encode()
    payloads = [replace(p, initiator_data=data) if isinstance(p, Ticket) else p for p in message.payloads]
    outgoing.message = Message.build(message.hdr, payloads)
    assert outgoing.complete(call.answer(outgoing, call.receive(outgoing))).peer == BOBBY


# -- ticket reuse (5.3) ------------------------------------------------------------------------------------------------


def test_reuse_takes_a_new_csb_id_timestamp_and_rands(kms: LocalKms) -> None:
    alice, bobby = participant(kms, ALICE), participant(kms, BOBBY)
    ticket = alice.request_ticket([BOBBY], flags=CALL_FLAGS | Flags.J)
    seen: list[object] = []
    modifiers = set()
    for _ in range(3):
        kms.clock.now += 1
        offer = alice.offer(ticket, BOBBY)
        kms.clock.now += 1
        answer = bobby.answer(offer.message).message or b""
        offer.complete(answer)
        sent, got = Message.decode(offer.message), Message.decode(answer)
        seen += [
            sent.hdr.csb_id,
            sent.get(T),
            got.get(T),
            sent.rand(RandRole.INITIATOR),
            got.rand(RandRole.RESPONDER),
        ]
        modifiers.add((got.idr(IdRole.RESPONDER), got.rand(RandRole.KMS)))
    assert len(set(seen)) == 15
    assert len(modifiers) == 1, "the same modifier"
    assert asked(bobby) == 1


def test_an_initiator_does_not_reuse_a_ticket_without_j(kms: LocalKms) -> None:
    alice, bobby = participant(kms, ALICE), participant(kms, BOBBY)
    ticket = alice.request_ticket([BOBBY])
    offer, other = alice.offer(ticket, BOBBY), alice.offer(ticket, BOBBY)
    offer.complete(bobby.answer(offer.message).message or b"")
    with pytest.raises(ProtocolError, match="J flag"):
        alice.offer(ticket, BOBBY)
    with pytest.raises(ProtocolError, match="J flag"):
        bobby.receive(other.message)


def test_group_tickets_are_not_reused_unasked(kms: LocalKms) -> None:
    """J is not among the flags that are asked for by default: with groups the KMS must see every call (5.3, 12.5)."""
    assert not CALL_FLAGS & Flags.J
    group = "sip:it-support@example.com"
    alice = participant(kms, ALICE)
    bobby = participant(kms, BOBBY, Acceptance(groups=frozenset({group.encode()})))
    kms.directory.add_member(group.encode(), BOBBY.encode())
    ticket = alice.request_ticket([group], flags=CALL_FLAGS | Flags.J)
    bobby.receive(alice.offer(ticket, group, group=True).message)
    kms.directory.remove_member(group.encode(), BOBBY.encode())
    with pytest.raises(Refused, match="NOT_AUTHORIZED"):
        bobby.receive(alice.offer(ticket, group, group=True).message)


def test_a_csb_id_that_is_taken_is_drawn_again() -> None:
    """RFC 3830 6.1: collisions with the bundles there are."""
    ids, drawn = CsbIds(limit=3), iter([5, 5, 6, 5, 6, 7, 8, 5])
    assert [ids.new(lambda: next(drawn)) for _ in range(5)] == [5, 6, 7, 8, 5], "the oldest is forgotten"


# -- CSB update (5.2) --------------------------------------------------------------------------------------------------


def test_updates_carry_no_static_payloads_and_the_same_csb_id(call: Conversation) -> None:
    outgoing = call.transfer(call.request(desired(flags=CALL_FLAGS | Flags.L)))
    incoming = call.receive(outgoing)
    alice = outgoing.complete(call.answer(outgoing, incoming))
    bobby = incoming.session
    assert bobby is not None
    used = {m.get(T) for name, m in call.messages.items() if name.startswith("TRANSFER")}
    for one, other in ((alice, bobby), (bobby, alice)):
        update = one.start_update(keys=[replace(TEK, kv=replace(TEK.kv, spi=one.static.role.value.encode()))])
        answer = other.answer_update(update.raw)
        assert answer is not None
        one.complete_update(answer.raw)
        for message in (update, answer):
            assert message.hdr.csb_id == outgoing.message.hdr.csb_id
            assert not message.find_all(Randr)
            assert message.find(Ticket) is None
            assert message.get(T) not in used
            used.add(message.get(T))
        assert (update.hdr.v, answer.hdr.v) == (True, False)


def test_a_tgk_of_an_update_is_not_forked(call: Conversation) -> None:
    tgk = with_spi(KeyType.TGK, b"t" * 16, b"", b"new")
    outgoing = call.transfer(call.request(desired(flags=CALL_FLAGS | Flags.L)))
    incoming = call.receive(outgoing)
    alice = outgoing.complete(call.answer(outgoing, incoming))
    assert incoming.session is not None
    answer = incoming.session.answer_update(alice.start_update(keys=[tgk]).raw)
    assert answer is not None
    alice.complete_update(answer.raw)
    assert alice.keys[-1] == incoming.session.keys[-1] == tgk


def test_an_update_may_bring_sdp_ids(call: Conversation) -> None:
    outgoing = call.transfer(call.request(desired()))
    incoming = call.receive(outgoing)
    alice = outgoing.complete(call.answer(outgoing, incoming))
    update = alice.start_update(extensions=[sdp_ids()])
    assert update.find(GeneralExtension) == sdp_ids()
    assert incoming.session is not None
    assert incoming.session.answer_update(update.raw)


# -- pre-encrypted content (8) -----------------------------------------------------------------------------------------


def test_pre_encrypted_content(call: Conversation) -> None:
    """A ticket without session keys; the TEK of the content comes in the KEMAC of TRANSFER_RESP."""
    granted = call.request(desired(keys=[], flags=CALL_FLAGS | Flags.M))
    assert granted.session_keys == ()
    outgoing = call.transfer(granted)
    incoming = call.receive(outgoing)
    assert incoming.session_keys == ()
    session = outgoing.complete(call.answer(outgoing, incoming, keys=[TEK]))
    assert session.keys == (TEK,)
    assert {(k.master_key, k.master_salt, k.mki) for k in session.srtp} == {(TEK.key, TEK.salt, TEK.spi)}


# -- groups (9, 12.2) --------------------------------------------------------------------------------------------------


def test_decentralized_signalling_names_its_own_ends(kms: LocalKms) -> None:
    """A calls B, then B calls C with A's ticket: the identities of B and C are used, and the group key in KEMAC (9)."""
    alice, bobby, carol = (participant(kms, who, LOOSE) for who in (ALICE, BOBBY, CAROL))
    flags = (CALL_FLAGS | Flags.J | Flags.L) & ~Flags.I
    ticket = alice.request_ticket([BOBBY, CAROL], flags=flags)
    first = alice.offer(ticket, BOBBY, keys=[TEK])
    received = bobby.receive(first.message)
    first.complete(received.answer().message or b"")
    resolution = received._transfer._resolution
    assert resolution is not None
    forwarded = GrantedTicket(ticket.ticket, resolution.mpki, None, resolution.session_keys)
    second = bobby.offer(forwarded, CAROL, keys=[TEK])
    sent = Message.decode(second.message)
    assert (sent.idr(IdRole.INITIATOR), sent.idr(IdRole.RESPONDER)) == (BOBBY.encode(), CAROL.encode())
    call = carol.receive(second.message)
    assert second.complete(call.answer().message or b"").keys[-1] == TEK
    strict = participant(kms, "sip:strict@example.com")
    assert strict._acceptance.same_initiator, "by default IDRi must be who the ticket was granted to (A-35)"


def test_forked_keys_are_the_responders_own(kms: LocalKms) -> None:
    """Each responder gets a TGK' and MPKr' of its own; TEKs and GTGKs are everybody's (5.1.1, 9.1, 12.2)."""
    alice = participant(kms, kms.enrol(ALICE, Role.FOCUS))
    keys = [
        with_spi(KeyType.TGK, bytes(32), b"", b"1"),
        with_spi(KeyType.TGK_SALT, bytes(32), bytes(14), b"2"),
        with_spi(KeyType.GTGK, bytes(32), b"", b"3"),
        with_spi(KeyType.TEK_SALT, bytes(16), bytes(14), b"4"),
    ]
    alice._endpoint._service = CALLED_SERVICE_FOCUS  # type: ignore[attr-defined]
    ticket = alice.request_ticket([BOBBY, CAROL], keys=keys)
    found = []
    for who in (BOBBY, CAROL):
        responder = participant(kms, who)
        incoming = responder.receive(alice.offer(ticket, who).message)._transfer
        assert incoming._resolution is not None
        found.append(incoming._resolution)
    one, other = found
    for position, forked in enumerate((True, True, False, False)):
        mine, theirs, master = (
            keys[position] for keys in (one.session_keys, other.session_keys, ticket.session_keys)
        )
        assert (mine.key != theirs.key) is forked
        assert (mine.key != master.key) is forked
        assert mine.salt == theirs.salt == master.salt, "salts are never forked (A-28)"
    assert one.mpki.value == other.mpki.value  # type: ignore[attr-defined]
    assert one.mpkr.value != other.mpkr.value != ticket.mpkr.value  # type: ignore[union-attr]
