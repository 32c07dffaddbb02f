"""Fields and payloads of the six messages of RFC 6043 4.2, message by message, and what a receiver must overlook."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kms.client import Acceptance, ProtocolError
from kms.client.participant import CALL_FLAGS
from kms.mikey import policy as rules
from kms.mikey import timestamps
from kms.mikey.message import Message
from kms.mikey.payloads import (
    Err,
    Flags,
    GeneralExtension,
    GenericIdSession,
    Hdr,
    Id,
    Idr,
    Kemac,
    KeyData,
    Payload,
    Rand,
    Randr,
    Sp,
    SrtpSessionData,
    T,
    Ticket,
    Tp,
    V,
    with_spi,
)
from kms.mikey.registry import EncrAlg, IdRole, IdType, KeyType, MacAlg, MapType, RandRole, TsType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET, TicketData
from kms.party.requesting import TicketRequest
from kms.party.session import Session
from tests.kms.callers import ALICE, BOBBY
from tests.kms.conversation import KMS, Change, Conversation, asked, desired, enrolled, identities
from tests.kms.local_kms import LocalKms

TO_KMS = {"REQUEST_INIT_PSK": "REQUEST_RESP", "RESOLVE_INIT_PSK": "RESOLVE_RESP"}
PAIRS = TO_KMS | {"TRANSFER_INIT": "TRANSFER_RESP"}
ALL = [name for pair in PAIRS.items() for name in pair]


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


@pytest.fixture
def call(kms: LocalKms) -> Conversation:
    return enrolled(kms)


@pytest.fixture
def played(call: Conversation) -> dict[str, Message]:
    """The messages of a call with key forking."""
    call.play(desired())
    return call.messages


# -- HDR ---------------------------------------------------------------------------------------------------------------


def test_v_flag_of_each_message(call: Conversation) -> None:
    """1 to the KMS, F in TRANSFER_INIT, 0 in responses (4.2.1.1, 4.2.2.1, 4.2.3.1; AMBIGUITIES A-18)."""
    call.play(desired())
    assert {name: m.hdr.v for name, m in call.messages.items()} == {
        "REQUEST_INIT_PSK": True,
        "REQUEST_RESP": False,
        "TRANSFER_INIT": True,
        "RESOLVE_INIT_PSK": True,
        "RESOLVE_RESP": False,
        "TRANSFER_RESP": False,
    }
    policy = desired(flags=Flags.D | Flags.E | Flags.H | Flags.N | Flags.O)
    call.transfer(call.request(policy), sessions=[])
    assert not call.messages["TRANSFER_INIT"].hdr.v, "F = 0"


@pytest.mark.parametrize("name", ALL)
def test_the_v_flag_is_ignored(call: Conversation, name: str) -> None:
    def flipped(hdr: Hdr, payloads: Sequence[Payload]) -> tuple[Hdr, Iterable[Payload]]:
        return replace(hdr, v=not hdr.v), payloads

    call.play(desired(), {name: flipped})


def test_no_crypto_sessions_with_the_kms(played: dict[str, Message]) -> None:
    for name in (*TO_KMS, *TO_KMS.values()):
        assert (played[name].hdr.cs_count, played[name].hdr.map_type) == (0, MapType.EMPTY)
    assert played["TRANSFER_INIT"].hdr.map_type == played["TRANSFER_RESP"].hdr.map_type == MapType.GENERIC_ID


def test_responses_repeat_prf_and_csb_id(played: dict[str, Message]) -> None:
    for initial, response in PAIRS.items():
        assert played[initial].raw[0] == played[response].raw[0] == 1, "version"
        assert played[initial].hdr.prf == played[response].hdr.prf
        assert played[initial].hdr.csb_id == played[response].hdr.csb_id


def test_csb_ids_are_new_in_each_exchange(call: Conversation) -> None:
    found = set()
    for _ in range(20):
        call.play(desired())
        found |= {call.messages[name].hdr.csb_id for name in PAIRS}
    assert len(found) == 60


# -- payloads ----------------------------------------------------------------------------------------------------------


def test_mandatory_and_recommended_payloads(played: dict[str, Message]) -> None:
    alice, bobby = ALICE.encode(), BOBBY.encode()
    assert (
        identities(played["REQUEST_INIT_PSK"]).items() >= {IdRole.INITIATOR: alice, IdRole.KMS: KMS}.items()
    )
    assert identities(played["REQUEST_RESP"]) == {IdRole.KMS: KMS}
    assert identities(played["TRANSFER_INIT"]) == {IdRole.INITIATOR: alice, IdRole.RESPONDER: bobby}
    assert (
        identities(played["RESOLVE_INIT_PSK"]).items() >= {IdRole.RESPONDER: bobby, IdRole.KMS: KMS}.items()
    )
    assert identities(played["RESOLVE_RESP"]) == {IdRole.KMS: KMS, IdRole.RESPONDER: bobby}
    assert identities(played["TRANSFER_RESP"]) == {IdRole.RESPONDER: bobby}
    for name, role in {"REQUEST_INIT_PSK": 1, "TRANSFER_INIT": 1, "RESOLVE_INIT_PSK": 2}.items():
        assert played[name].rand(role)
    for message in played.values():
        assert message.find(T)
        assert message.find(Id) is None, "IDR is used instead of ID (6.6)"
        assert isinstance(message.payloads[-1], V)
        assert all(k.mac_alg == MacAlg.NULL for k in message.find_all(Kemac))
    assert played["TRANSFER_INIT"].find(Kemac) is None, "L = 0"
    assert played["TRANSFER_RESP"].find(Kemac) is None


def test_the_granted_policy_names_the_requester(call: Conversation) -> None:
    bare = desired()
    data = tuple(p for p in bare.tp_data if not (isinstance(p, Idr) and p.role == IdRole.INITIATOR))
    granted = call.request(replace(bare, tp_data=data)).policy
    assert rules.identity(granted, IdRole.INITIATOR) == ALICE.encode()
    assert granted.flags & Flags.K


def _without(role: IdRole) -> Change:
    def change(hdr: Hdr, payloads: Sequence[Payload]) -> tuple[Hdr, Iterable[Payload]]:
        return hdr, [p for p in payloads if not (isinstance(p, Idr) and p.role == role)]

    return change


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("REQUEST_INIT_PSK", IdRole.INITIATOR),
        ("REQUEST_INIT_PSK", IdRole.KMS),
        ("TRANSFER_INIT", IdRole.INITIATOR),
        ("TRANSFER_INIT", IdRole.RESPONDER),
        ("RESOLVE_INIT_PSK", IdRole.RESPONDER),
        ("RESOLVE_INIT_PSK", IdRole.KMS),
        ("REQUEST_RESP", IdRole.KMS),
        ("RESOLVE_RESP", IdRole.KMS),
    ],
)
def test_identities_may_be_left_out(call: Conversation, name: str, role: IdRole) -> None:
    """They enter the MAC all the same (A-04)."""
    call.play(desired(), {name: _without(role)})
    assert role not in identities(call.messages[name])


UNEXPECTED = [GeneralExtension(0, b"vendor"), Err(12), Rand(bytes(16)), Id(0, b"sip:x@example.com")]


@pytest.mark.parametrize("name", ALL)
def test_unexpected_payloads_are_ignored(call: Conversation, name: str) -> None:
    def more(hdr: Hdr, payloads: Sequence[Payload]) -> tuple[Hdr, Iterable[Payload]]:
        return hdr, [*payloads[:1], *UNEXPECTED, *payloads[1:]]

    call.play(desired(), {name: more})
    assert [type(p) for p in call.messages[name].payloads[1:5]] == [type(p) for p in UNEXPECTED]


def test_unexpected_payloads_in_tp_data_are_ignored(call: Conversation) -> None:
    policy = desired(end=int(call.alice._party.sources.now()) + 60)
    more = replace(policy, tp_data=(*policy.tp_data, GeneralExtension(0, b"vendor")))
    call.play(more)


# -- time and randomness -----------------------------------------------------------------------------------------------


def test_timestamps_are_fresh(kms: LocalKms, call: Conversation) -> None:
    """The responder to a message takes its own time, not that of the message (unlike RFC 3830)."""
    party = call.alice._party
    slow = replace(party, sources=type(party.sources)(clock=lambda: kms.clock.now - 30))
    call.alice._party = slow
    call.play(desired())
    for initial, response in PAIRS.items():
        sent, got = (call.messages[name].get(T) for name in (initial, response))
        assert sent != got
        assert abs(timestamps.unix_time(got) - kms.clock.now) < 1
    assert timestamps.unix_time(call.messages["REQUEST_INIT_PSK"].get(T)) < kms.clock.now - 29


@pytest.mark.parametrize("prf", [0, 1])
@pytest.mark.parametrize("kind", [BASE_TICKET, DERIVED_TICKET])
def test_lengths_of_rands_and_keys(call: Conversation, kind: tuple[int, int, int], prf: int) -> None:
    """12.1: RANDs as long as the longest key they protect against pre-computation; keys of 128 bits or more."""
    length = 16 if prf == 0 else 32
    keys = [
        with_spi(KeyType.TGK, bytes(length), b"", b"1"),
        with_spi(KeyType.TGK_SALT, bytes(16), bytes(14), b"2"),
    ]
    granted = call.request(desired(kind=kind, prf=prf, keys=keys))
    outgoing = call.transfer(granted)
    incoming = call.receive(outgoing)
    call.answer(outgoing, incoming)
    assert granted.mpkr is not None
    assert incoming._resolution is not None
    mpks = [granted.mpki.length, granted.mpkr.length]
    tgks = [len(k.key) for k in granted.session_keys]
    psks = [len(k.psk.value) for k in call.alice._party.keys]  # type: ignore[union-attr]
    sent = call.messages
    assert len(sent["REQUEST_INIT_PSK"].rand(RandRole.INITIATOR)) >= max(psks)
    assert len(sent["RESOLVE_INIT_PSK"].rand(RandRole.RESPONDER)) >= max(psks)
    both = sent["TRANSFER_INIT"].rand(RandRole.INITIATOR) + sent["TRANSFER_RESP"].rand(RandRole.RESPONDER)
    assert len(both) >= max(mpks + tgks)
    assert len(sent["TRANSFER_INIT"].rand(RandRole.INITIATOR)) >= max(mpks), (
        "it alone protects TRANSFER_INIT (A-36)"
    )
    assert len(sent["RESOLVE_RESP"].rand(RandRole.KMS)) >= max(mpks + tgks)
    assert len(TicketData.decode(granted.ticket.ticket_data).rand) >= max(32, *mpks), "TPKs have 32 bytes"
    assert min(mpks + tgks + psks) >= 16
    assert all(k.spi for k in (*granted.session_keys, *incoming.session_keys)), "6.2.1"


def test_rands_are_never_the_same(call: Conversation) -> None:
    found: list[bytes] = []
    for _ in range(10):
        call.play(desired())
        found += (p.rand for m in call.messages.values() for p in m.find_all(Randr))
    # RANDRkms is in RESOLVE_RESP and, passed on, in TRANSFER_RESP
    assert len(set(found)) == len(found) - 10


def test_a_call_after_the_overflow_of_2036(kms: LocalKms, call: Conversation) -> None:
    """NTP's seconds start again on 7 February 2036: read as 1968-2104 (6.3, 6.10; RFC 4330)."""
    kms.clock.now = 2_200_000_000.0  # 2039
    call.play(desired(end=2_200_000_600))
    assert call.messages["TRANSFER_INIT"].get(T).value[0] < 0x80
    policy = call.messages["TRANSFER_INIT"].get(Ticket).policy
    assert rules.validity(policy)[1] == 2_200_000_600


# -- Ticket Request ----------------------------------------------------------------------------------------------------


def test_key_bytes_in_tp_are_zero_and_ignored(call: Conversation) -> None:
    policy = desired(keys=[with_spi(KeyType.TGK, b"\xaa" * 16, b"", b"1")])
    granted = call.request(policy)
    (kemac,) = (p for p in call.messages["REQUEST_INIT_PSK"].get(Tp).policy.tp_data if isinstance(p, Kemac))
    (wanted,) = KeyData.read_all(kemac.encr_data)
    assert (wanted.key, kemac.encr_alg, kemac.mac_alg) == (bytes(16), EncrAlg.NULL, MacAlg.NULL)
    assert not any(isinstance(p, Kemac) for p in granted.policy.tp_data)
    own = KeyData.write_all([with_spi(KeyType.TGK, b"\xaa" * 16, b"", b"1")])
    chosen = tuple(replace(p, encr_data=own) if isinstance(p, Kemac) else p for p in policy.tp_data)
    (key,) = call.request(replace(policy, tp_data=chosen)).session_keys
    assert key.key not in (b"\xaa" * 16, bytes(16))


def test_the_k_flag_of_a_desired_policy_is_ignored(call: Conversation) -> None:
    policy = desired(end=int(call.alice._party.sources.now()) + 60)
    request = TicketRequest(call.alice._party, replace(policy, flags=policy.flags | Flags.K))
    assert not request.message.get(Tp).policy.flags & Flags.K, "set to 0 by the Initiator"

    def with_k(hdr: Hdr, payloads: Sequence[Payload]) -> tuple[Hdr, Iterable[Payload]]:
        changed = Tp(replace(policy, flags=policy.flags | Flags.K))
        return hdr, [changed if isinstance(p, Tp) else p for p in payloads]

    granted = call.request(policy, with_k)
    assert call.messages["REQUEST_INIT_PSK"].get(Tp).policy.flags & Flags.K
    assert not granted.policy.flags & Flags.K


def test_mpks_and_the_default_key(call: Conversation) -> None:
    """MPKi alone, or with forking MPKr too, then a single TGK by default (4.2.1.5)."""
    forked = call.request(desired())
    assert forked.mpkr is not None
    assert [k.key_type for k in forked.session_keys] == [KeyType.TGK]
    plain = call.request(desired(flags=CALL_FLAGS & ~Flags.I))
    assert plain.mpkr is None


# -- Ticket Transfer ---------------------------------------------------------------------------------------------------


def test_the_modifier_is_passed_on(played: dict[str, Message]) -> None:
    """IDRr and RANDRkms of RESOLVE_RESP are those of TRANSFER_RESP (4.2.2.3)."""
    resolved, answered = played["RESOLVE_RESP"], played["TRANSFER_RESP"]
    assert resolved.idr(IdRole.RESPONDER) == answered.idr(IdRole.RESPONDER) == BOBBY.encode()
    assert resolved.rand(RandRole.KMS) == answered.rand(RandRole.KMS) != b""


def test_transfer_resp_completes_the_map(call: Conversation) -> None:
    """One policy, Session Data and SPI for each crypto session; no SP twice; an added session counts (4.2.2.3)."""
    sps = [AES_CM_256_HMAC_SHA1_80.sp(0), AES_CM_128_HMAC_SHA1_80.sp(1)]
    sessions = [
        GenericIdSession(1, (0, 1), SrtpSessionData(7).body(), b""),
        GenericIdSession(2, (1, 0)),
    ]
    granted = call.request(desired())
    outgoing = call.transfer(granted, sessions=sessions, policies=sps)
    incoming = call.receive(outgoing)
    added = GenericIdSession(9, (1,))
    session = outgoing.complete(call.answer(outgoing, incoming, sessions=[added]))
    answer = call.messages["TRANSFER_RESP"]
    assert answer.hdr.cs_count == 3
    found = {s.cs_id: s for s in answer.hdr.sessions if isinstance(s, GenericIdSession)}
    assert [found[i].policies for i in (1, 2, 9)] == [(0,), (1,), (1,)], "one of the suggested policies"
    assert all(len(s.session_data) == 4 and s.spi for s in found.values())
    assert found[1].session_data == SrtpSessionData(7).body()
    assert {s.spi for s in found.values()} <= {k.spi for k in session.keys}
    assert answer.find(Sp) is None, "the Initiator's SP payloads are not sent again"
    assert [k.ssrc for k in session.srtp] == [SrtpSessionData.of(found[i]).ssrc for i in (1, 2, 9)]


def test_a_session_without_policy_gets_one(call: Conversation) -> None:
    """#P = 0: the security profile comes with the response (6.1.1)."""
    outgoing = call.transfer(call.request(desired()), sessions=[GenericIdSession(1)], policies=[])
    incoming = call.receive(outgoing)
    session = outgoing.complete(call.answer(outgoing, incoming))
    assert [sp.policy_no for sp in call.messages["TRANSFER_RESP"].find_all(Sp)] == [0]
    assert session.srtp[0].profile == "AES_CM_128_HMAC_SHA1_80"
    assert incoming.session is not None
    grown = incoming.session.start_update([GenericIdSession(2, spi=session.sessions[0].spi)])
    answer = session.answer_update(grown.raw)
    assert answer is not None
    incoming.session.complete_update(answer.raw)
    assert session.srtp == incoming.session.srtp
    assert len(session.srtp) == 2


def test_a_session_without_policy_where_none_is_acceptable(call: Conversation) -> None:
    outgoing = call.transfer(call.request(desired()), sessions=[GenericIdSession(1)], policies=[])
    incoming = call.receive(outgoing, acceptance=Acceptance(srtp=()))
    with pytest.raises(ProtocolError, match="no SRTP policy can be chosen"):
        incoming.answer()


def test_responses_without_what_they_must_bring(call: Conversation) -> None:
    """The Initiator refuses a map that leaves a session with two policies, no Session Data or no SPI (6.1.1)."""
    outgoing = call.transfer(call.request(desired()))
    incoming = call.receive(outgoing)
    good = incoming.answer()
    assert incoming.session is not None
    for fault in (
        {"policies": (0, 0)},
        {"policies": ()},
        {"session_data": b""},
        {"spi": b""},
        {"spi": b"unknown"},
    ):
        sessions = tuple(replace(s, **fault) for s in good.hdr.sessions if isinstance(s, GenericIdSession))
        draft = Message.build(replace(good.hdr, sessions=sessions), good.payloads)
        bad = incoming.session.static.protection.sign(draft, outgoing.message.raw)
        with pytest.raises(ProtocolError, match=r"#P|Session Data|SPI"):
            outgoing.complete(bad.raw)
    assert outgoing.complete(good.raw)


@pytest.mark.parametrize("flag", [Flags.F, Flags.G])
def test_f_and_g_flags(kms: LocalKms, call: Conversation, flag: Flags) -> None:
    """F: whether there is a TRANSFER_RESP. G: whether it has RANDRr."""
    loose = Acceptance(required_flags=Flags(0))
    flags = Flags.D | Flags.E | Flags.H | Flags.N | Flags.O | (Flags.F if flag is Flags.G else Flags(0))
    granted = call.request(desired(flags=flags))
    spi = granted.session_keys[0].spi
    sps = [AES_CM_128_HMAC_SHA1_80.sp(0)]
    outgoing = call.transfer(
        granted, sessions=[GenericIdSession(1, (0,), SrtpSessionData(1).body(), spi)], policies=sps
    )
    incoming = call.receive(outgoing, acceptance=loose)
    if flag is Flags.G:
        outgoing.complete(call.answer(outgoing, incoming))
        assert call.messages["TRANSFER_RESP"].rand(RandRole.RESPONDER) == b""
    else:
        with pytest.raises(ProtocolError, match="cannot send TRANSFER_RESP"):
            incoming.answer()
    assert outgoing.session is not None
    assert incoming.session is not None
    assert outgoing.session.srtp == incoming.session.srtp


def test_the_h_flag_decides_on_randr_i(call: Conversation) -> None:
    """5.1.3: without H the TEK does not depend on RANDRi, with H it does."""
    for flags, depends in ((CALL_FLAGS, True), (CALL_FLAGS & ~Flags.H, False)):
        outgoing = call.transfer(call.request(desired(flags=flags)))
        incoming = call.receive(outgoing)
        session = outgoing.complete(call.answer(outgoing, incoming))
        before = session.srtp[0].master_key
        session._static = replace(session.static, randr_i=bytes(32))
        assert (session._derive(session._bundle)[0].master_key != before) is depends


def test_a_session_key_that_is_longer_than_the_rands(call: Conversation) -> None:
    """12.1, where G = 0 leaves RANDRi alone: a TGK of 64 bytes is for G = 1."""
    tgk = with_spi(KeyType.TGK, b"t" * 64, b"", b"tgk")
    sessions = [GenericIdSession(1, (0,), SrtpSessionData(1).body(), tgk.spi)]
    sps = [AES_CM_128_HMAC_SHA1_80.sp(0)]
    for flags in (CALL_FLAGS | Flags.L, (CALL_FLAGS | Flags.L) & ~Flags.G):
        outgoing = call.transfer(
            call.request(desired(flags=flags)), sessions=sessions, policies=sps, keys=[tgk]
        )
        incoming = call.receive(outgoing)
        if flags & Flags.G:
            assert outgoing.complete(call.answer(outgoing, incoming)).keys[-1] == tgk
            continue
        with pytest.raises(ProtocolError, match="RANDs are shorter"):
            incoming.answer()


@pytest.mark.parametrize("by", ["Initiator", "Responder"])
def test_l_and_m_flags(call: Conversation, by: str) -> None:
    """L and M say who may supply session keys, in Ticket Transfer already."""
    tek = with_spi(KeyType.TEK_SALT, b"k" * 16, b"s" * 14, b"tek")
    initiators, responders = ([tek], []) if by == "Initiator" else ([], [tek])

    def play(flags: Flags) -> Session:
        outgoing = call.transfer(call.request(desired(flags=flags)), keys=initiators)
        return outgoing.complete(call.answer(outgoing, call.receive(outgoing), keys=responders))

    allowed = CALL_FLAGS | Flags.L | Flags.M
    assert play(allowed).keys[-1] == tek
    with pytest.raises(ProtocolError, match=f"forbids the {by}"):
        play(allowed & ~(Flags.L if by == "Initiator" else Flags.M))


def test_a_kemac_that_l_forbids_is_refused_early(call: Conversation) -> None:
    def with_kemac(hdr: Hdr, payloads: Sequence[Payload]) -> tuple[Hdr, Iterable[Payload]]:
        return hdr, [*payloads[:-1], Kemac(EncrAlg.AES_CM_256, bytes(40)), payloads[-1]]

    outgoing = call.transfer(call.request(desired()), with_kemac)
    with pytest.raises(ProtocolError, match="L flag forbids"):
        call.receive(outgoing)
    assert asked(call.bobby) == 0


def test_counter_timestamps(kms: LocalKms, call: Conversation) -> None:
    """A COUNTER has no age: parties take it only if told to (A-41)."""

    def counted(hdr: Hdr, payloads: Sequence[Payload]) -> tuple[Hdr, Iterable[Payload]]:
        return hdr, [T(TsType.COUNTER, b"\0\0\0\7"), *payloads[1:]]

    outgoing = call.transfer(call.request(desired()), counted)
    with pytest.raises(ProtocolError, match="COUNTER"):
        call.receive(outgoing)
    incoming = call.receive(outgoing, acceptance=Acceptance(counter=True))
    assert outgoing.complete(call.answer(outgoing, incoming)).peer == BOBBY


def test_idr_types(played: dict[str, Message]) -> None:
    """Identities are URIs; a pre-shared key is named by a byte string (6.5)."""
    for message in played.values():
        for idr in message.find_all(Idr):
            assert idr.id_type == (IdType.BYTE_STRING if idr.role == IdRole.PSK else IdType.URI)
