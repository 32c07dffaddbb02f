"""Whole calls with random legal policies and random faults: both sides end with equal keys, or refuse cleanly."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kms.client import Acceptance, KmsError, Participant, Stream
from kms.engine.directory import TpkRole
from kms.mikey.errors import MikeyError
from kms.mikey.exchange import Role
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, GenericIdSession, KeyData, SrtpSessionData, T, with_spi
from kms.mikey.policy import check
from kms.mikey.registry import KeyType
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET
from kms.party.initiator import OutgoingTransfer
from kms.party.session import Session
from kms.sdk.streams import encode
from tests.kms.callers import ALICE, BOBBY, participant
from tests.kms.local_kms import LocalKms

_ANY = Acceptance(required_flags=Flags(0))


@contextmanager
def _pair() -> Iterator[tuple[Participant, Participant]]:
    with tempfile.TemporaryDirectory() as folder:
        kms = LocalKms(Path(folder))
        try:
            files = [
                kms.enrol(who, tpk_roles=list(TpkRole), tpk_peers=[other])
                for who, other in ((ALICE, BOBBY), (BOBBY, ALICE))
            ]
            yield participant(kms, files[0], _ANY), participant(kms, files[1], _ANY)
        finally:
            kms.directory.close()


@st.composite
def policies(draw: st.DrawFn) -> tuple[Flags, tuple[int, int, int], int, list[KeyData]]:
    """Flags, Ticket Type, suite and keys that RFC 6043 6.10 and 12.1 allow together, in all four modes."""
    flags = Flags.N | Flags.O
    for flag in (Flags.D, Flags.E, Flags.F, Flags.G, Flags.H, Flags.I, Flags.J, Flags.L, Flags.M):
        if draw(st.booleans()):
            flags |= flag
    if not flags & Flags.G:
        flags |= Flags.H
    if flags & (Flags.G | Flags.M):
        flags |= Flags.F
    if flags & Flags.I:
        flags |= Flags.E | Flags.F
    kind = draw(st.sampled_from([BASE_TICKET, DERIVED_TICKET]))
    if not flags & Flags.D:
        flags |= Flags.L
        kind = BASE_TICKET
    if kind == DERIVED_TICKET:
        flags |= Flags.E
    suite = draw(st.sampled_from([128, 256]))
    lengths = st.sampled_from([16, 32] if suite == 256 else [16])
    salts = st.sampled_from([KeyType.TGK, KeyType.TGK_SALT])
    kinds = draw(st.lists(salts, min_size=1, max_size=3))
    keys = [
        with_spi(k, bytes(draw(lengths)), bytes(14 if k == KeyType.TGK_SALT else 0), bytes((i + 1,)))
        for i, k in enumerate(kinds)
    ]
    return flags, kind, suite, keys


def _supplied(spi: bytes, kind: KeyType) -> KeyData:
    salted = kind in (KeyType.TEK_SALT, KeyType.TGK_SALT, KeyType.GTGK_SALT)
    return with_spi(kind, spi.ljust(16, b"k"), b"s" * (14 if salted else 0), spi)


@given(
    policy=policies(),
    fault=st.none() | st.tuples(st.sampled_from(["init", "resp"]), st.integers(0, 5000), st.integers(1, 255)),
    own_key=st.sampled_from([KeyType.TEK_SALT, KeyType.TGK, KeyType.GTGK_SALT]),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_call_ends_in_equal_keys_or_a_refusal(
    policy: tuple[Flags, tuple[int, int, int], int, list[KeyData]],
    fault: tuple[str, int, int] | None,
    own_key: KeyType,
) -> None:
    flags, kind, suite, keys = policy
    with _pair() as (alice, bobby):
        if flags & Flags.D:
            ticket = alice.request_ticket([BOBBY], flags=flags, kind=kind, suite=suite, keys=keys)
        else:
            mode = 3 if flags & Flags.E else 4
            ticket = alice.make_ticket([BOBBY], mode=mode, flags=flags, suite=suite, keys=keys)
        check(ticket.policy)
        initiators = [_supplied(b"i", own_key)] if flags & Flags.L else []
        responders = [_supplied(b"r", own_key)] if flags & Flags.M else []
        sessions, sps = encode([Stream(1), Stream(2)])
        spi = initiators[0].spi if initiators else keys[0].spi
        named = [GenericIdSession(s.cs_id, s.policies, s.session_data, spi) for s in sessions]
        outgoing = OutgoingTransfer(
            alice._party, ticket, BOBBY.encode(), named, sps, keys=initiators, acceptance=_ANY
        )
        raw = _damaged(outgoing.message.raw, "init", fault)
        try:
            call = bobby.receive(raw)
            answer = call.answer(keys=responders) if flags & Flags.F else call.answer()
        except (MikeyError, KmsError):
            assert fault is not None
            assert fault[0] == "init"
            return
        assert raw == outgoing.message.raw, "a changed TRANSFER_INIT was accepted"
        if answer.message is not None:
            resp = _damaged(answer.message, "resp", fault)
            try:
                outgoing.complete(resp)
            except MikeyError:
                assert resp != answer.message
                return
            assert resp == answer.message, "a changed TRANSFER_RESP was accepted"
        assert outgoing.session is not None
        assert outgoing.session.srtp == answer.session.srtp
        assert outgoing.session.keys == answer.session.keys


def _damaged(raw: bytes, which: str, fault: tuple[str, int, int] | None) -> bytes:
    if fault is None or fault[0] != which:
        return raw
    place = fault[1] % len(raw)
    return raw[:place] + bytes((raw[place] ^ fault[2],)) + raw[place + 1 :]


class Updates(RuleBasedStateMachine):
    """CSB updates of an established bundle, delivered, lost, replayed, damaged and crossing."""

    def __init__(self) -> None:
        super().__init__()
        self._context = _pair()
        alice, bobby = self._context.__enter__()
        flags = (
            Flags.D | Flags.E | Flags.F | Flags.G | Flags.H | Flags.I | Flags.L | Flags.M | Flags.N | Flags.O
        )
        offer = alice.offer(alice.request_ticket([BOBBY], flags=flags), BOBBY, [Stream(1), Stream(2)])
        answer = bobby.answer(offer.message)
        self.sides: dict[Role, Session] = {
            Role.INITIATOR: offer.complete(answer.message or b""),
            Role.RESPONDER: answer.session,
        }
        self.stamps = [Message.decode(m).get(T) for m in (offer.message, answer.message or b"")]
        self.old: list[tuple[Role, bytes]] = []  # delivered updates, by their sender
        self.count = 0
        self.agreed = True

    def teardown(self) -> None:
        self._context.__exit__(None, None, None)

    @rule(role=st.sampled_from(list(Role)), new_key=st.booleans(), both=st.booleans())
    def update(self, role: Role, new_key: bool, both: bool) -> None:
        starter, other = self._sides(role)
        message = self._start(starter, new_key)
        self.count += 1
        spi = b"b%d" % self.count
        answer = other.answer_update(message.raw, keys=[_supplied(spi, KeyType.TEK_SALT)] if both else ())
        assert answer is not None
        starter.complete_update(answer.raw)
        self.stamps += [message.get(T), answer.get(T)]
        self.old.append((role, message.raw))

    @rule(role=st.sampled_from(list(Role)))
    def lost(self, role: Role) -> None:
        starter, _ = self._sides(role)
        self.stamps.append(self._start(starter, True).get(T))
        starter.give_up_update()

    @rule(role=st.sampled_from(list(Role)), place=st.integers(0, 5000), bit=st.integers(0, 7))
    def damaged(self, role: Role, place: int, bit: int) -> None:
        starter, other = self._sides(role)
        raw = self._start(starter, True).raw
        bad = _damaged(raw, "x", ("x", place, 1 << bit))
        try:
            other.answer_update(bad)
        except MikeyError:
            pass
        else:
            raise AssertionError("a damaged update was accepted")
        starter.give_up_update()

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def replayed(self, data: st.DataObject) -> None:
        role, raw = data.draw(st.sampled_from(self.old))
        for session in self._sides(role):
            try:
                session.answer_update(raw)
            except MikeyError:
                continue
            raise AssertionError("a replayed update was accepted")

    @invariant()
    def both_sides_agree(self) -> None:
        initiator, responder = self.sides[Role.INITIATOR], self.sides[Role.RESPONDER]
        assert initiator.srtp == responder.srtp
        assert initiator.keys == responder.keys

    @invariant()
    def no_timestamp_twice(self) -> None:
        """T enters the IV of every KEMAC under the bundle's one encr_key; only TRANSFER_INIT had another."""
        assert len(set(self.stamps[1:])) == len(self.stamps) - 1

    def _sides(self, role: Role) -> tuple[Session, Session]:
        other = Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR
        return self.sides[role], self.sides[other]

    def _start(self, starter: Session, new_key: bool) -> Message:
        self.count += 1
        spi = b"a%d" % self.count
        added = GenericIdSession(
            1 + self.count % 20,
            (0,),
            SrtpSessionData(self.count).body(),
            spi if new_key else starter.sessions[0].spi,
        )
        return starter.start_update([added], [_supplied(spi, KeyType.TEK_SALT)] if new_key else ())


TestUpdates = Updates.TestCase
TestUpdates.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
