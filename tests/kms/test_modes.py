"""Modes 2, 3 and 4 (RFC 6043 4.1.1): what a shared TPK is good for, and what its owner cannot do with it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hsm
from kms.client import (
    Acceptance,
    AuthenticationError,
    Credential,
    GrantedTicket,
    Participant,
    ProtocolError,
    Refused,
    Stream,
)
from kms.client.participant import CALL_FLAGS
from kms.crypto import base_ticket
from kms.crypto.interface import Use
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.crypto.suite import suite_of
from kms.engine.directory import Role, TpkRole
from kms.engine.shared_tpks import CURRENT_MASTER, MASTER_LABEL, DiversifiedTpks, Enrolment
from kms.mikey import labels, timestamps
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError
from kms.mikey.labels import MessageKey, ProtectionKey
from kms.mikey.message import unsigned_v
from kms.mikey.payloads import Flags, Idr, Kemac, KeyData, Rand, T, Ticket, TicketPolicy, V, with_spi
from kms.mikey.registry import IdRole, IdType, KeyType, PrfFunc, TsType
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET, TicketData, mac_coverage
from kms.party.credential import SharedTpk
from kms.party.initiator import OutgoingTransfer
from kms.party.making import MODE_3_FLAGS, MODE_4_FLAGS, make_ticket
from kms.party.party import Party
from kms.sdk.streams import encode
from tests.hsm.tokens import PIN
from tests.kms.callers import ALICE, BOBBY, CAROL, FOCUS, focus, participant
from tests.kms.local_kms import LocalEndpoint, LocalKms

MALLORY = "sip:mallory@example.com"
ANY = Acceptance(required_flags=Flags(0))
MODE_2_FLAGS = CALL_FLAGS & ~(Flags.E | Flags.I)
BOTH = (TpkRole.RESPONDER, TpkRole.INITIATOR)
TGK = with_spi(KeyType.TGK, bytes(32), b"", b"\1")
MPK = with_spi(KeyType.MPK, b"m" * 32, b"", b"mpk")
STAFF = "sip:staff@example.com"


@pytest.fixture(scope="module")
def token(specs: dict[str, hsm.TokenSpec]) -> Iterator[hsm.Token]:
    opened = hsm.open_token(specs["softhsm"], PIN)
    opened.create_master(MASTER_LABEL.format(CURRENT_MASTER))
    yield opened
    opened.destroy_master(MASTER_LABEL.format(CURRENT_MASTER))
    opened.close()


@pytest.fixture(params=["software", "softhsm"])
def kms(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalKms]:
    """The engine over software keys, and over a real token."""
    if request.param == "software":
        yield LocalKms(tmp_path)
        return
    token: hsm.Token = request.getfixturevalue("token")
    with token.scope():
        yield LocalKms(tmp_path, ops=token, tpks=DiversifiedTpks.of(token))


@pytest.fixture
def software(tmp_path: Path) -> LocalKms:
    return LocalKms(tmp_path)


@pytest.fixture(params=[256, 128])
def suite(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def asked(who: Participant) -> int:
    """How often somebody called the KMS."""
    endpoint = who._endpoint
    assert isinstance(endpoint, LocalEndpoint)
    return endpoint.asked


def tpk_of(credential: Credential, role: TpkRole, suite: int = 256, peer: str | None = None) -> SharedTpk:
    (found,) = (t for t in credential.tpks if (t.role, t.suite, t.peer) == (role.value, suite, peer))
    return found


@dataclass
class Forger:
    """Somebody who makes tickets with a TPK of a subscriber, by no rule of the SDKs. Times are seconds from now."""

    kms: LocalKms
    tpk: SharedTpk
    flags: Flags = MODE_3_FLAGS
    initiator: str = ALICE
    responder: str = BOBBY
    start: int | None = None
    end: int | None = 3600
    issued: T | int = 0
    mpk: KeyData = MPK
    keys: tuple[KeyData, ...] = (TGK,)
    rand: bytes = b"r" * 32
    prf: int = 1
    algorithms: int = 1

    def send(self) -> bytes:
        """The TRANSFER_INIT with the ticket, in the name of the initiator."""
        name = Credential(self.initiator, self.kms.identity, "-", "client", (), "-", "-", "-")
        sender = Party.of(name, Sources(clock=self.kms.clock))
        sessions, policies = encode([Stream(1)])
        if not self.flags & Flags.F:
            sessions = [replace(session, spi=self.keys[0].spi) for session in sessions]
        granted = self._granted(sender)
        return OutgoingTransfer(sender, granted, self.responder.encode(), sessions, policies).message.raw

    def _granted(self, party: Party) -> GrantedTicket:
        ops, suite = party.ops, suite_of(self.prf)
        mpk = ops.load(self.mpk.key.ljust(16, b"\0"), Use.PRF)
        mpki, mpkr = (
            ops.load(base_ticket.protection_key(ops, mpk, suite.prf, c, self.rand, 32), Use.PRF)
            for c in (ProtectionKey.MPKI, ProtectionKey.MPKR)
        )
        return GrantedTicket(self._ticket(), mpki, mpkr if self.flags & Flags.I else None, self.keys)

    def _ticket(self) -> Ticket:
        """As base_ticket.seal, with the algorithms of any suite."""
        now = int(self.kms.clock())
        policy = TicketPolicy(
            *BASE_TICKET,
            self.prf,
            self.flags,
            rules.tp_data(
                kms=self.kms.identity.encode(),
                initiator=self.initiator.encode(),
                responders=[self.responder.encode()],
                start=None if self.start is None else now + self.start,
                end=None if self.end is None else now + self.end,
            ),
        )
        ops, suite, algorithms = SoftwareKeys(), suite_of(self.prf), suite_of(self.algorithms)
        t = timestamps.ntp_utc(now + self.issued) if isinstance(self.issued, int) else self.issued
        tpk = ops.load(self.tpk.tpk, Use.PRF)

        def derived(constant: MessageKey, length: int) -> bytes:
            return ops.prf_release(tpk, suite.prf, labels.tpk_key(constant, self.rand), length)

        salt = derived(MessageKey.SALT, 14)
        iv = labels.kemac_iv(algorithms.encr_alg, salt, 0xFFFFFFFF, t.ts_type, t.value)
        encr_key = ops.load(derived(MessageKey.ENCR, algorithms.key_length), Use.ENCRYPT)
        plain = KeyData.write_all((self.mpk, *self.keys))
        kemac = Kemac(algorithms.encr_alg, ops.encrypt(encr_key, algorithms.encr_alg, iv, plain))
        psk_id = Idr(IdRole.PSK, IdType.BYTE_STRING, self.tpk.tpk_id)
        head = t, Rand(self.rand), kemac, psk_id
        data = TicketData(b"", (*head, unsigned_v(algorithms.mac_alg)))
        auth_key = ops.load(derived(MessageKey.AUTH, algorithms.auth_key_length), Use.SIGN)
        mac = ops.mac(auth_key, algorithms.mac_alg, mac_coverage(Ticket(policy, data.encode()), data))
        return Ticket(policy, TicketData(b"", (*head, V(algorithms.mac_alg, mac))).encode())


def initiators(kms: LocalKms, role: Role = Role.CLIENT, suite: int = 256) -> Forger:
    """Alice, who has a TPK for making tickets. What she forges is for bobby."""
    credential = kms.enrol(ALICE, role, tpk_roles=[TpkRole.INITIATOR])
    return Forger(kms, tpk_of(credential, TpkRole.INITIATOR, suite))


def refusal(forger: Forger, resolver: Participant | None = None) -> Refused:
    """What the KMS says to a responder, by default one enrolled now, that has a forger's ticket resolved."""
    kms = forger.kms
    who = resolver or participant(kms, forger.responder, ANY)
    with pytest.raises(Refused) as refused:
        who.receive(forger.send())
    return refused.value


# -- the modes work ----------------------------------------------------------------------------------------------------


def test_mode_2_needs_no_resolve(kms: LocalKms, suite: int) -> None:
    alice = participant(kms, ALICE)
    bobby = participant(kms, kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER]), ANY)
    ticket = alice.request_ticket([BOBBY], flags=MODE_2_FLAGS, kind=BASE_TICKET, suite=suite)
    offer = alice.offer(ticket, BOBBY)
    call = bobby.receive(offer.message)
    assert call.caller == ALICE
    answer = call.answer()
    assert offer.complete(answer.message or b"").srtp == answer.session.srtp
    assert (asked(alice), asked(bobby)) == (1, 0)


def test_mode_2_in_a_batch(software: LocalKms) -> None:
    kms = software
    alice = participant(kms, ALICE)
    credential = kms.enrol(FOCUS, Role.FOCUS, tpk_roles=[TpkRole.RESPONDER])
    with focus(kms, credential, ANY) as conference:
        offers = [
            alice.offer(alice.request_ticket([FOCUS], flags=flags, kind=kind), FOCUS)
            for flags, kind in ((MODE_2_FLAGS, BASE_TICKET), (CALL_FLAGS, DERIVED_TICKET))
        ]
        group = conference.group_keys()
        keys = set()
        for offer, call in zip(offers, conference.receive_batch([o.message for o in offers]), strict=True):
            assert not isinstance(call, Exception), call
            keys.add(offer.complete(call.answer(group).message or b"").srtp[0].libsrtp_key)
        endpoint = conference._endpoint
        assert isinstance(endpoint, LocalEndpoint)
        assert len(endpoint.sent) == 2, "one REQUEST, and one RESOLVE for two calls"
    assert len(keys) == 1


def test_mode_3_needs_no_request_and_authenticates_both(kms: LocalKms, suite: int) -> None:
    alice = participant(kms, kms.enrol(ALICE, tpk_roles=[TpkRole.INITIATOR]))
    bobby = participant(kms, BOBBY)
    ticket = alice.make_ticket([BOBBY], suite=suite)
    offer = alice.offer(ticket, BOBBY)
    call = bobby.receive(offer.message)
    assert call.caller == ALICE
    answer = call.answer()
    session = offer.complete(answer.message or b"")
    assert session.srtp == answer.session.srtp
    assert session.peer_authenticated
    assert answer.session.peer_authenticated
    assert session.keys[0].key != ticket.session_keys[0].key, "the KMS forks the TGK"
    assert (asked(alice), asked(bobby)) == (0, 1)


def test_mode_4_needs_no_kms(kms: LocalKms, suite: int) -> None:
    alice = participant(kms, kms.enrol(ALICE, tpk_peers=[BOBBY]), ANY)
    bobby = participant(kms, kms.enrol(BOBBY, tpk_peers=[ALICE]), ANY)
    for caller, callee in ((alice, bobby), (bobby, alice)):
        offer = caller.offer(caller.make_ticket([callee.identity], mode=4, suite=suite), callee.identity)
        call = callee.receive(offer.message)
        assert call.caller == caller.identity
        answer = call.answer()
        assert offer.complete(answer.message or b"").srtp == answer.session.srtp
    assert (asked(alice), asked(bobby)) == (0, 0)


def test_a_focus_makes_a_ticket_with_group_keys(kms: LocalKms) -> None:
    """Mode 3 of an IMS conference focus: the members have it resolved."""
    credential = kms.enrol(FOCUS, Role.FOCUS, tpk_roles=[TpkRole.INITIATOR])
    tek = with_spi(KeyType.TEK_SALT, bytes(16), bytes(14), b"\1")
    with focus(kms, credential) as conference:
        ticket = conference.make_ticket([ALICE, BOBBY], flags=MODE_3_FLAGS | Flags.J, keys=[tek])
        for name in (ALICE, BOBBY):
            transfer = OutgoingTransfer(conference._party, ticket, name.encode(), *encode([Stream()]))
            answer = participant(kms, name).answer(transfer.message.raw)
            session = transfer.complete(answer.message or b"")
            assert session.keys == answer.session.keys == ticket.session_keys


def test_modes_without_forking_are_refused_by_default(software: LocalKms) -> None:
    kms = software
    alice = participant(kms, kms.enrol(ALICE, tpk_peers=[BOBBY]))
    bobby = participant(kms, kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER], tpk_peers=[ALICE]))
    mode_2 = alice.request_ticket([BOBBY], flags=MODE_2_FLAGS, kind=BASE_TICKET)
    for ticket in (mode_2, alice.make_ticket([BOBBY], mode=4)):
        with pytest.raises(ProtocolError, match="without the flags"):
            bobby.receive(alice.offer(ticket, BOBBY).message)


# -- what the KMS grants (mode 2) --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["no TPK", "two responders", "revoked", "group", "unknown", "alias", "other role"]
)
def test_e_0_is_granted_for_one_responder_with_a_tpk_alone(kms: LocalKms, case: str) -> None:
    roles = {"no TPK": (), "other role": (TpkRole.INITIATOR,)}.get(case, (TpkRole.RESPONDER,))
    kms.enrol(BOBBY, aliases=["tel:+1555"], tpk_roles=roles)
    kms.enrol(CAROL, tpk_roles=[TpkRole.RESPONDER])
    kms.directory.add_member(STAFF.encode(), BOBBY.encode())
    if case == "revoked":
        kms.directory.revoke(BOBBY.encode())
    responders = {
        "two responders": [BOBBY, CAROL],
        "group": [STAFF],
        "unknown": [MALLORY],
        "alias": ["tel:+1555"],
    }.get(case, [BOBBY])
    with pytest.raises(Refused) as refused:
        participant(kms, ALICE).request_ticket(responders, flags=MODE_2_FLAGS, kind=BASE_TICKET)
    assert refused.value.reason == "INVALID_TICKET_POLICY"
    assert "E = 0" in refused.value.message


def test_e_0_is_never_granted_with_forking_or_as_a_derived_ticket(software: LocalKms) -> None:
    kms = software
    kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    alice = participant(kms, ALICE)
    with pytest.raises(ProtocolError, match="I implies E"):
        alice.request_ticket([BOBBY], flags=CALL_FLAGS & ~Flags.E, kind=BASE_TICKET)
    with pytest.raises(Refused, match="derived ticket needs"):
        alice.request_ticket([BOBBY], flags=MODE_2_FLAGS, kind=DERIVED_TICKET)


def test_a_ticket_with_e_is_not_protected_by_the_responders_tpk(kms: LocalKms) -> None:
    """It would tell the responder MPKr: whoever has the TPK can open the whole ticket."""
    credential = kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    ticket = participant(kms, ALICE).request_ticket([BOBBY], kind=BASE_TICKET).ticket
    data = TicketData.decode(ticket.ticket_data)
    own = tpk_of(credential, TpkRole.RESPONDER)
    assert data.psk_id != own.tpk_id
    ops = SoftwareKeys()
    with pytest.raises(AuthenticationError):
        base_ticket.open_ticket(ops, ops.load(own.tpk, Use.PRF), ticket, data)


def test_the_kms_resolves_a_mode_2_ticket_for_its_responder(kms: LocalKms) -> None:
    """E = 0 says that the responder MAY open it itself: one whose SDK has no TPK asks as ever."""
    credential = kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    alice, bobby = participant(kms, ALICE), participant(kms, replace(credential, tpks=()), ANY)
    offer = alice.offer(alice.request_ticket([BOBBY], flags=MODE_2_FLAGS, kind=BASE_TICKET), BOBBY)
    assert bobby.receive(offer.message).caller == ALICE
    assert asked(bobby) == 1


def test_another_responders_tpk_opens_nothing(kms: LocalKms) -> None:
    kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    carol = kms.enrol(CAROL, tpk_roles=[TpkRole.RESPONDER])
    ticket = participant(kms, ALICE).request_ticket([BOBBY], flags=MODE_2_FLAGS, kind=BASE_TICKET).ticket
    ops = SoftwareKeys()
    with pytest.raises(AuthenticationError):
        base_ticket.open_ticket(
            ops,
            ops.load(tpk_of(carol, TpkRole.RESPONDER).tpk, Use.PRF),
            ticket,
            TicketData.decode(ticket.ticket_data),
        )


# -- what the owner of a responder's TPK cannot do ---------------------------------------------------------------------


def test_a_forged_ticket_deceives_nobody_but_its_forger(kms: LocalKms) -> None:
    """Mallory makes a ticket that says "the KMS granted this to Alice, for Bobby"."""
    mallory = kms.enrol(MALLORY, tpk_roles=[TpkRole.RESPONDER])
    refused = refusal(Forger(kms, tpk_of(mallory, TpkRole.RESPONDER), MODE_2_FLAGS))
    assert refused.reason == "NOT_AUTHORIZED"
    assert "that Responder alone" in refused.message


def test_a_forged_ticket_for_a_group_that_its_forger_is_in(kms: LocalKms) -> None:
    mallory = kms.enrol(MALLORY, tpk_roles=[TpkRole.RESPONDER])
    for member in (MALLORY, BOBBY):
        kms.directory.add_member(STAFF.encode(), member.encode())
    bobby = participant(kms, BOBBY, replace(ANY, groups=frozenset({STAFF.encode()})))
    forger = Forger(kms, tpk_of(mallory, TpkRole.RESPONDER), MODE_2_FLAGS, responder=STAFF)
    assert "that Responder alone" in refusal(forger, bobby).message
    own = participant(kms, mallory, replace(ANY, groups=frozenset({STAFF.encode()})))
    assert "not for this Responder alone" in str(_error(own, forger))


@pytest.mark.parametrize("flags", [CALL_FLAGS, CALL_FLAGS & ~Flags.I, MODE_4_FLAGS], ids=["I", "E", "not D"])
def test_the_kms_forks_nothing_of_a_ticket_with_a_responders_tpk(kms: LocalKms, flags: Flags) -> None:
    bobby = kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    forger = Forger(kms, tpk_of(bobby, TpkRole.RESPONDER), flags)
    refused = refusal(forger, participant(kms, replace(bobby, tpks=()), ANY))
    assert refused.reason == "INVALID_TICKET"
    assert "neither E nor I" in refused.message


def test_a_responders_tpk_makes_no_tickets(kms: LocalKms) -> None:
    bobby = kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    forger = Forger(kms, tpk_of(bobby, TpkRole.RESPONDER), initiator=BOBBY, responder=CAROL)
    assert refusal(forger).reason == "NOT_AUTHORIZED"
    with pytest.raises(ProtocolError, match="--share-tpk"):
        participant(kms, bobby).make_ticket([CAROL])


# -- what the owner of an initiator's TPK cannot do --------------------------------------------------------------------


def test_what_the_forger_makes_is_good_but_for_the_forgery(kms: LocalKms, suite: int) -> None:
    """Else its refusals would prove nothing."""
    prf, tgk = suite_of(1 if suite == 256 else 0).prf, replace(TGK, key=bytes(suite // 8))
    forger = replace(initiators(kms, suite=suite), prf=prf, algorithms=prf, keys=(tgk,))
    assert participant(kms, BOBBY).receive(forger.send()).caller == ALICE


def test_it_speaks_in_nobody_elses_name(kms: LocalKms) -> None:
    kms.enrol(ALICE, tpk_roles=[TpkRole.INITIATOR])
    mallory = kms.enrol(MALLORY, aliases=["tel:+1666"], tpk_roles=[TpkRole.INITIATOR])
    bobby = participant(kms, BOBBY)
    for name in (ALICE, "sip:nobody@example.com", "tel:+1666"):
        refused = refusal(Forger(kms, tpk_of(mallory, TpkRole.INITIATOR), initiator=name), bobby)
        assert refused.reason == "NOT_AUTHORIZED"
        assert "not the owner" in refused.message


def test_it_names_another_owner_in_vain(kms: LocalKms) -> None:
    """IDRpsk of Alice, the key of Mallory."""
    alice = initiators(kms)
    mallory = tpk_of(kms.enrol(MALLORY, tpk_roles=[TpkRole.INITIATOR]), TpkRole.INITIATOR)
    assert refusal(replace(alice, tpk=replace(alice.tpk, tpk=mallory.tpk))).reason == "TICKET_NOT_AUTHENTIC"


@pytest.mark.parametrize("flags", [CALL_FLAGS, MODE_4_FLAGS, MODE_2_FLAGS], ids=["D", "not E", "D, not E"])
def test_it_pretends_in_vain_that_the_kms_or_nobody_else_made_the_ticket(kms: LocalKms, flags: Flags) -> None:
    refused = refusal(replace(initiators(kms), flags=flags))
    assert refused.reason == "INVALID_TICKET"
    assert "the Initiator made it" in refused.message


@pytest.mark.parametrize("flag", [Flags.L, Flags.F, Flags.D | Flags.K])
def test_the_flags_of_its_tickets_depend_on_each_other_as_ever(kms: LocalKms, flag: Flags) -> None:
    """NOT D implies L; F with I and a TGK; K implies D."""
    flags = MODE_3_FLAGS | Flags.K if flag & Flags.K else MODE_3_FLAGS & ~flag
    if flag == Flags.F:
        flags &= ~(Flags.G | Flags.M)
    with pytest.raises((ProtocolError, Refused), match=r"break the rule|F must be set"):
        participant(kms, BOBBY, ANY).receive(replace(initiators(kms), flags=flags).send())


@pytest.mark.parametrize("kind", [KeyType.TEK_SALT, KeyType.GTGK])
def test_group_keys_in_its_tickets_are_for_foci(kms: LocalKms, kind: KeyType) -> None:
    key = with_spi(kind, bytes(16), bytes(14) if kind == KeyType.TEK_SALT else b"", b"\1")
    refused = refusal(replace(initiators(kms), keys=(key,)))
    assert refused.reason == "NOT_AUTHORIZED"
    assert "focus role" in refused.message


# the issue, start and end of a ticket in seconds from now; the KMS grants for a day
@pytest.mark.parametrize(
    ("issued", "start", "end", "reason"),
    [
        (0, None, None, "INVALID_TICKET"),
        (0, None, 86401, "INVALID_TICKET"),
        (0, -10, 86401, "INVALID_TICKET"),
        (-86400, None, 1, "INVALID_TICKET"),
        (-86400, -10, 10, "INVALID_TICKET"),
        (61, None, 3600, "TICKET_NOT_VALID_NOW"),
        (86400, None, 2 * 86400, "TICKET_NOT_VALID_NOW"),
        (T(TsType.COUNTER, bytes(4)), None, 3600, "INVALID_TICKET"),
        (0, None, 86400, None),
        (-86000, None, 400, None),
        (30, None, 3600, None),
    ],
)
def test_its_tickets_live_no_longer_than_those_of_the_kms(
    kms: LocalKms, issued: T | int, start: int | None, end: int | None, reason: str | None
) -> None:
    forger = replace(initiators(kms), issued=issued, start=start, end=end)
    if reason is None:
        assert participant(kms, BOBBY).receive(forger.send()).caller == ALICE
    else:
        assert refusal(forger).reason == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"mpk": with_spi(KeyType.MPK, b"m" * 8, b"", b"mpk")},
        {"mpk": with_spi(KeyType.MPK, b"m" * 64, b"", b"mpk"), "rand": b"r" * 64},
        {"mpk": TGK},
        {"mpk": KeyData(KeyType.MPK, b"m" * 32)},
        {"keys": (with_spi(KeyType.TGK, bytes(64), b"", b"\1"),)},
        {"keys": (with_spi(KeyType.TGK, bytes(8), b"", b"\1"),)},
        {"keys": (with_spi(KeyType.TGK_SALT, bytes(32), bytes(33), b"\1"),)},
        {"keys": (KeyData(KeyType.TGK, bytes(32)),)},
        {"keys": (TGK, TGK)},
        {"keys": (TGK, with_spi(KeyType.MPK, bytes(32), b"", b"\2"))},
        {"keys": tuple(with_spi(KeyType.TGK, bytes(32), b"", bytes((i,))) for i in range(17))},
        {"rand": b"r" * 16},
        {"algorithms": 0},
        {"prf": 0, "algorithms": 0, "keys": (TGK,)},
    ],
    ids=lambda c: " ".join(f"{k}={str(v)[:24]}" for k, v in c.items()),
)
def test_whatever_is_in_its_tickets_ends_in_a_refusal(kms: LocalKms, changes: dict[str, Any]) -> None:
    """Authentic, and still nothing to let near the token: each is refused, none is a fault of the engine."""
    suite = 128 if changes.get("prf") == 0 else 256
    forger = replace(initiators(kms, suite=suite), **changes)
    assert refusal(forger).reason in ("INVALID_TICKET", "INVALID_TICKET_POLICY", "MALFORMED_MESSAGE")


def test_a_tpk_is_of_one_suite(kms: LocalKms) -> None:
    forger = replace(initiators(kms), prf=0, algorithms=0, keys=(replace(TGK, key=bytes(16)),))
    assert refusal(forger).reason == "TICKET_NOT_AUTHENTIC"


def test_a_ticket_is_no_good_for_who_did_not_make_it(kms: LocalKms) -> None:
    """Mallory, who may resolve it too and so has MPKi, sends Alice's ticket to Bobby: she has not MPKr, for Vr."""
    alice = participant(kms, kms.enrol(ALICE, tpk_roles=[TpkRole.INITIATOR]))
    mallory, bobby = participant(kms, MALLORY), participant(kms, BOBBY)
    ticket = alice.make_ticket([MALLORY, BOBBY])
    received = mallory.receive(alice.offer(ticket, MALLORY).message)
    resolution = received._transfer._resolution
    assert resolution is not None
    stolen = GrantedTicket(ticket.ticket, resolution.mpki, resolution.mpkr, ())
    transfer = OutgoingTransfer(
        replace(mallory._party, identity=ALICE.encode()), stolen, BOBBY.encode(), *encode([Stream()])
    )
    with pytest.raises(Refused) as refused:
        bobby.receive(transfer.message.raw)
    assert refused.value.reason == "INITIATOR_NOT_AUTHENTIC"


# -- an owner that is one no more --------------------------------------------------------------------------------------


def test_a_revoked_initiator_makes_no_tickets(kms: LocalKms) -> None:
    old = initiators(kms)
    kms.directory.revoke(ALICE.encode())
    bobby = participant(kms, BOBBY)
    refused = refusal(old, bobby)
    assert refused.reason == "TICKET_NOT_AUTHENTIC"
    assert "revoked or enrolled anew" in refused.message
    new = initiators(kms)
    assert new.tpk.tpk != old.tpk.tpk
    assert refusal(old, bobby).reason == "TICKET_NOT_AUTHENTIC"
    assert bobby.receive(new.send()).caller == ALICE


def test_a_tpk_that_was_not_shared_is_worth_nothing(kms: LocalKms) -> None:
    """Every subscriber has all keys, as every name has a PSK: what counts is the enrolment."""
    kms.enrol(ALICE)
    tpk_id, tpk = kms.tpks.release(TpkRole.INITIATOR, Enrolment(ALICE.encode(), 1), PrfFunc(1))
    forger = Forger(kms, SharedTpk(256, "initiator", tpk_id, tpk))
    assert refusal(forger).reason == "TICKET_NOT_AUTHENTIC"


def test_a_revoked_responder_gets_no_tickets_and_a_new_one_has_a_new_key(kms: LocalKms) -> None:
    alice, flags = participant(kms, ALICE), MODE_2_FLAGS
    old = kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    ticket = alice.request_ticket([BOBBY], flags=flags, kind=BASE_TICKET)
    kms.directory.revoke(BOBBY.encode())
    new = kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    assert tpk_of(new, TpkRole.RESPONDER).tpk != tpk_of(old, TpkRole.RESPONDER).tpk
    bobby = participant(kms, new, ANY)
    with pytest.raises(Refused, match="revoked or enrolled anew"):
        bobby.receive(alice.offer(ticket, BOBBY).message)
    ticket = alice.request_ticket([BOBBY], flags=flags, kind=BASE_TICKET)
    assert bobby.receive(alice.offer(ticket, BOBBY).message).caller == ALICE
    assert asked(bobby) == 1
    with pytest.raises((MikeyError, Refused)):  # the KMS does not know the old one either
        participant(kms, old, ANY).receive(alice.offer(ticket, BOBBY).message)


# -- mode 4, between the parties ---------------------------------------------------------------------------------------


def pair(kms: LocalKms) -> tuple[Credential, Credential]:
    return kms.enrol(ALICE, tpk_peers=[BOBBY]), kms.enrol(BOBBY, tpk_peers=[ALICE])


def _error(resolver: Participant, forger: Forger) -> Exception:
    with pytest.raises((MikeyError, Refused)) as error:
        resolver.receive(forger.send())
    return error.value


def test_both_names_must_fit_the_key(software: LocalKms) -> None:
    """Bobby shares TPKs with Alice and with Mallory: neither can be the other."""
    kms = software
    kms.enrol(ALICE, tpk_peers=[BOBBY])
    mallory = kms.enrol(MALLORY, tpk_peers=[BOBBY])
    bobby = participant(kms, kms.enrol(BOBBY, tpk_peers=[ALICE, MALLORY]), ANY)
    forger = Forger(kms, tpk_of(mallory, TpkRole.INITIATOR, peer=BOBBY), MODE_4_FLAGS, initiator=MALLORY)
    assert bobby.receive(forger.send()).caller == MALLORY
    assert "does not share the ticket's TPK" in str(_error(bobby, replace(forger, initiator=ALICE)))


def test_a_pair_of_names_has_a_key_for_each_direction(software: LocalKms) -> None:
    """What Alice sent to Bobby is not reflected to her as a call from Bobby."""
    alice, bobby = pair(software)
    keys = [
        tpk_of(c, role, peer=peer).tpk
        for c, peer in ((alice, BOBBY), (bobby, ALICE))
        for role in (TpkRole.INITIATOR, TpkRole.RESPONDER)
    ]
    assert keys[0] == keys[3]
    assert keys[1] == keys[2]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("flags", [MODE_2_FLAGS, MODE_3_FLAGS, CALL_FLAGS], ids=["D", "E, I", "D, E, I"])
def test_a_tpk_of_two_parties_is_for_mode_4_alone(kms: LocalKms, flags: Flags) -> None:
    """The KMS opens no ticket with it, the peer none that the KMS is said to have made."""
    alice, bobby = pair(kms)
    forger = Forger(kms, tpk_of(alice, TpkRole.INITIATOR, peer=BOBBY), flags)
    error = _error(participant(kms, bobby, ANY), forger)
    assert "D flag" in str(error) or getattr(error, "reason", "") == "TICKET_NOT_AUTHENTIC"


def test_the_kms_opens_no_ticket_of_mode_4(kms: LocalKms) -> None:
    alice, bobby = pair(kms)
    forger = Forger(kms, tpk_of(alice, TpkRole.INITIATOR, peer=BOBBY), MODE_4_FLAGS)
    resolver = participant(kms, replace(bobby, tpks=()), ANY)
    assert refusal(forger, resolver).reason == "TICKET_NOT_AUTHENTIC"


def test_a_responders_tpk_opens_no_tickets_that_an_initiator_made(software: LocalKms) -> None:
    kms = software
    bobby = kms.enrol(BOBBY, tpk_roles=[TpkRole.RESPONDER])
    forger = Forger(kms, tpk_of(bobby, TpkRole.RESPONDER), MODE_4_FLAGS)
    assert "only the KMS makes" in str(_error(participant(kms, bobby, ANY), forger))


# -- making tickets ----------------------------------------------------------------------------------------------------


def test_what_no_initiator_makes(software: LocalKms) -> None:
    kms = software
    alice = participant(kms, kms.enrol(ALICE, tpk_roles=BOTH, tpk_peers=[BOBBY]))
    for flags, text in (
        (CALL_FLAGS, "D = 0"),
        (MODE_3_FLAGS & ~Flags.L, "NOT D implies L"),
        (MODE_3_FLAGS | Flags.K, "K implies D"),
        (MODE_3_FLAGS & ~(Flags.F | Flags.G | Flags.M), "F must be set"),
    ):
        with pytest.raises(ProtocolError, match=text):
            alice.make_ticket([BOBBY], flags=flags)
    for mode, wrong in ((3, MODE_4_FLAGS), (4, MODE_3_FLAGS), (2, None), (1, None)):
        with pytest.raises(ValueError, match="mode"):
            alice.make_ticket([BOBBY], mode=mode, flags=wrong)
    for responders in ([CAROL], [BOBBY, CAROL], []):
        with pytest.raises(ProtocolError):
            alice.make_ticket(responders, mode=4)
    data = rules.tp_data(kms=b"sip:kms@example.com", initiator=CAROL.encode(), responders=[BOBBY.encode()])
    with pytest.raises(ProtocolError, match="who makes it"):
        make_ticket(alice._party, TicketPolicy(*BASE_TICKET, 1, MODE_3_FLAGS, data), [TGK])


def test_each_ticket_has_keys_of_its_own(software: LocalKms) -> None:
    alice = participant(software, software.enrol(ALICE, tpk_roles=[TpkRole.INITIATOR]))
    made = [
        alice.make_ticket([BOBBY], keys=[TGK, replace(TGK, kv=KeyData(KeyType.TGK, b"").kv)]) for _ in "12"
    ]
    values = [key.key for ticket in made for key in ticket.session_keys]
    assert len(set(values)) == 4
    assert bytes(32) not in values
    assert len({ticket.ticket.ticket_data for ticket in made}) == 2


# -- ids ---------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda b: b"\2" + b))
def test_any_id_names_a_tpk_or_none(psk_id: bytes) -> None:
    ops = SoftwareKeys()
    tpks = DiversifiedTpks(ops, lambda _version: ops.load(bytes(32), Use.BRANCH))
    found = tpks.shared_tpk(psk_id, PrfFunc(1))
    if found is not None:
        released = tpks.release(found.role, found.owner, PrfFunc(1))[0]
        assert (released[:2], released[4:]) == (psk_id[:2], psk_id[4:])


@pytest.mark.parametrize(
    "change", ["cut", "longer", "mode", "master", "identity", "version", "format", "none"]
)
def test_a_ticket_with_a_changed_id(kms: LocalKms, change: str) -> None:
    forger = initiators(kms)
    old = forger.tpk.tpk_id
    new = {
        "cut": old[:-1],
        "longer": old + b"x",
        "mode": old[:1] + b"\2" + old[2:],
        "master": old[:2] + b"\0\2" + old[4:],
        "identity": old[:-1] + b"X",
        "version": old[:7] + b"\2" + old[8:],
        "format": b"\3" + old[1:],
        "none": b"",
    }[change]
    assert refusal(replace(forger, tpk=replace(forger.tpk, tpk_id=new))).reason == "TICKET_NOT_AUTHENTIC"
