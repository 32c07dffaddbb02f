"""Initiators, Responders and a KMS on a network that loses, repeats, reorders, damages and misdelivers; clocks wander.

Every call must end in equal keys on both sides or in a refusal that changes nothing, and what was not disturbed must
succeed: the model knows which. The KMS is the real engine, the subscribers are the real SDK.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from kms.client import Stream
from kms.client.participant import Offer
from kms.mikey.errors import MikeyError, ProtocolError, ReceivedError
from kms.mikey.exchange import Role
from kms.mikey.payloads import Flags, GenericIdSession, KeyData, SrtpSessionData, with_spi
from kms.mikey.registry import ErrorNo, KeyType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80
from kms.party.initiator import OutgoingTransfer
from kms.sdk.streams import encode
from tests.kms.callers import ALICE, BOBBY
from tests.kms.faulty_network import (
    ANY,
    FAULTS,
    NAMES,
    SKEW_MARGIN,
    Call,
    Damage,
    Held,
    Packet,
    Policy,
    Refusal,
    Subscriber,
    covered,
    damages,
    faults,
    other,
)
from tests.kms.local_kms import LocalKms
from tests.kms.test_party_machine import policies


class Calls(RuleBasedStateMachine):
    """Three subscribers of one KMS, who call one another."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.kms = LocalKms(Path(self._folder.name))
        self.subscribers = {name: Subscriber(self.kms, name) for name in NAMES}
        self.calls: list[Call] = []
        self.packets: list[Packet] = []
        self.count = 0

    def teardown(self) -> None:
        self.kms.directory.close()
        self._folder.cleanup()

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def calm(self) -> bool:
        """Whether all clocks agree."""
        return all(s.ahead == 0 for s in self.subscribers.values())

    @rule(seconds=st.sampled_from([1, 1, 5, 5, 10, 10, 20, 100, 5000]))
    def time_passes(self, seconds: int) -> None:
        self.kms.clock.now += seconds

    @precondition(lambda self: self.calm)
    @rule(name=st.sampled_from(NAMES), seconds=st.sampled_from([20, 200, 5000]))
    def a_clock_jumps(self, name: str, seconds: int) -> None:
        self.subscribers[name].ahead += seconds

    @precondition(lambda self: not self.calm)
    @rule()
    def clocks_are_set(self) -> None:
        """To the one that is furthest ahead: no clock ever goes back, which replay caches rely on."""
        most = max(s.ahead for s in self.subscribers.values())
        self.kms.clock.now += max(most, 0)
        for subscriber in self.subscribers.values():
            subscriber.ahead = 0

    # -- tickets -------------------------------------------------------------------------------------------------------

    @initialize(target=tickets, owner=st.sampled_from(NAMES), policy=policies(), first=st.integers(0, 1))
    def first_ticket(self, owner: str, policy: Policy, first: int) -> Any:
        return self._ticket(owner, policy, first, several=False, fault=None)

    @rule(
        target=tickets,
        owner=st.sampled_from(NAMES),
        policy=policies(),
        first=st.integers(0, 1),
        several=st.booleans(),
        fault=faults,
        damage=damages,
    )
    def another_ticket(
        self, owner: str, policy: Policy, first: int, several: bool, fault: str | None, damage: Damage
    ) -> Any:
        self.subscribers[owner].endpoint.damage = damage
        return self._ticket(owner, policy, first, several=several, fault=fault)

    def _ticket(self, owner: str, policy: Policy, first: int, *, several: bool, fault: str | None) -> Any:
        flags, kind, suite, keys = policy
        who = self.subscribers[owner]
        others = [n for n in NAMES if n != owner]
        # A TPK is shared with one responder: modes 2 and 4 have no other.
        shared = not flags & Flags.E
        responders = others if several and not shared else [others[first]]
        who.endpoint.fault = fault
        try:
            if flags & Flags.D:
                granted = who.sdk.request_ticket(responders, flags=flags, kind=kind, suite=suite, keys=keys)
            else:
                mode = 3 if flags & Flags.E else 4
                granted = who.sdk.make_ticket(responders, mode=mode, flags=flags, suite=suite, keys=keys)
                fault = None
        except Refusal:
            assert fault is not None or who.ahead, "an undisturbed Ticket Request was refused"
            return multiple()
        finally:
            who.endpoint.fault = None
        assert fault is None, "a disturbed Ticket Request succeeded"
        return Held(who, granted, tuple(responders), keys, suite)

    # -- calls ---------------------------------------------------------------------------------------------------------

    @rule(
        held=tickets,
        to=st.integers(0, 1),
        streams=st.integers(1, 3),
        own_key=st.none() | st.sampled_from([KeyType.TEK_SALT, KeyType.TGK, KeyType.GTGK_SALT]),
        choice=st.booleans(),
    )
    def call(self, held: Held, to: int, streams: int, own_key: KeyType | None, choice: bool) -> None:
        if len(self.packets) > 12:
            return
        callee = held.responders[to % len(held.responders)]
        flags, now = held.granted.policy.flags, self.kms.clock() + held.owner.ahead
        supplied = [self._key(own_key)] if own_key is not None and flags & Flags.L else []
        srtp = [AES_CM_128_HMAC_SHA1_80]
        if choice and held.suite == 256:
            srtp.insert(0, AES_CM_256_HMAC_SHA1_80)
        proposed = [Stream(n if n % 2 else None, tuple(srtp)) for n in range(1, streams + 1)]
        if not flags & Flags.F:  # nobody answers: the offer itself must be complete
            proposed = [Stream(n, tuple(srtp[:1])) for n in range(1, streams + 1)]
        sessions, sps = encode(proposed)
        if not flags & Flags.F:
            sessions = [replace(s, spi=held.keys[0].spi) for s in sessions]
        try:
            transfer = OutgoingTransfer(
                held.owner.sdk._party,
                held.granted,
                callee.encode(),
                sessions,
                sps,
                keys=supplied,
                acceptance=ANY,
            )
        except MikeyError:
            assert held.granted.expires is not None
            assert self._spent(held) or now > held.granted.expires, "a valid ticket cannot be used"
            return
        assert not self._spent(held), "a ticket was reused without J"
        call = Call(held, self.subscribers[callee], Offer(transfer, callee, group=False))
        if transfer.session is not None:
            call.sessions[Role.INITIATOR] = transfer.session
        self.calls.append(call)
        self._sent(call, "init", transfer.message.raw, Role.RESPONDER)

    def _spent(self, held: Held) -> bool:
        """Whether the Initiator has a session from a ticket that must not be reused."""
        used = any(c.held is held and Role.INITIATOR in c.sessions for c in self.calls)
        return used and not held.granted.policy.flags & Flags.J

    def _sent(self, call: Call, kind: str, raw: bytes, to: Role, update: int = 0) -> None:
        sent = self.kms.clock() + call.subscriber(other(to)).ahead
        self.packets.append(Packet(call, kind, raw, to, sent, update))

    def _key(self, kind: KeyType) -> KeyData:
        self.count += 1
        salt = b"s" * 14 if kind in (KeyType.TEK_SALT, KeyType.GTGK_SALT) else b""
        spi = self.count.to_bytes(4, "big")
        return with_spi(kind, spi * 4, salt, spi)

    # -- the network ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.packets)
    @rule(at=st.integers(0, 50), own_key=st.none() | st.just(KeyType.TEK_SALT), keep=st.booleans())
    def deliver(self, at: int, own_key: KeyType | None, keep: bool) -> None:
        """Any packet on its way, in any order; kept, it comes again."""
        self._deliver(at, own_key=own_key, keep=keep)

    @precondition(lambda self: self.packets)
    @rule(own_key=st.none() | st.just(KeyType.TEK_SALT), refuse=st.integers(0, 9).map(lambda n: n == 9))
    def deliver_latest(self, own_key: KeyType | None, refuse: bool) -> None:
        """The last one: so that calls come about. The callee may refuse."""
        self._deliver(-1, own_key=own_key, refuse=refuse)

    @precondition(lambda self: self.packets)
    @rule(at=st.integers(0, 50), damage=damages)
    def deliver_damaged(self, at: int, damage: Damage) -> None:
        self._deliver(at, damage=damage, keep=True)

    @precondition(lambda self: any(p.kind == "init" for p in self.packets))
    @rule(at=st.integers(0, 50), fault=st.sampled_from(FAULTS), damage=damages, keep=st.booleans())
    def deliver_while_the_kms_is_disturbed(self, at: int, fault: str, damage: Damage, keep: bool) -> None:
        places = [i for i, p in enumerate(self.packets) if p.kind == "init"]
        place = places[at % len(places)]
        self.packets[place].call.callee.endpoint.damage = damage
        self._deliver(place, fault=fault, keep=keep)

    def _deliver(
        self,
        at: int,
        *,
        damage: Damage | None = None,
        fault: str | None = None,
        own_key: KeyType | None = None,
        refuse: bool = False,
        keep: bool = False,
    ) -> None:
        packet = self.packets[at % len(self.packets)]
        call = packet.call
        raw = packet.raw if damage is None else damage.of(packet.raw)
        endpoint = call.subscriber(packet.to).endpoint
        endpoint.fault = fault
        must_accept = damage is None and self._undisturbed(packet, fault)
        before, refused = call.state(), None
        try:
            self._receive(packet, raw, refuse=refuse, own_key=own_key)
        except Refusal as refusal:
            refused = refusal
        endpoint.fault = None
        if refused is None:
            assert raw == packet.raw or call.altered, f"a damaged {packet.kind} was accepted"
            assert not packet.accepted, f"a replayed {packet.kind} was accepted"
            packet.accepted = True
        else:
            assert call.state() == before, "a refused message changed something"
            assert not must_accept, f"an undisturbed {packet.kind} was refused: {refused}"
        if not keep:
            self.packets.remove(packet)

    @precondition(lambda self: self.packets)
    @rule(at=st.integers(0, 50))
    def lose(self, at: int) -> None:
        self.packets.pop(at % len(self.packets))

    @precondition(lambda self: self.packets and len(self.calls) > 1)
    @rule(at=st.integers(0, 50), wrong=st.integers(0, 50), role=st.sampled_from(list(Role)))
    def misdeliver(self, at: int, wrong: int, role: Role) -> None:
        """To a side of another call, or to the sender itself: never accepted."""
        packet = self.packets[at % len(self.packets)]
        call = self.calls[wrong % len(self.calls)]
        if (call, role) == (packet.call, packet.to):
            return
        before = call.state()
        try:
            if packet.kind == "init":
                subscriber = call.subscriber(role)
                if subscriber is packet.call.callee:
                    return
                subscriber.sdk.receive(packet.raw)
            elif role is Role.INITIATOR and Role.INITIATOR not in call.sessions:
                call.offer.complete(packet.raw)
            elif role in call.sessions:
                session = call.sessions[role]
                (session.answer_update if packet.kind == "update" else session.complete_update)(packet.raw)
            else:
                return
        except Refusal:
            assert call.state() == before
            return
        raise AssertionError(f"a misdelivered {packet.kind} was accepted")

    def _undisturbed(self, packet: Packet, fault: str | None) -> bool:
        """Whether the receiver has no reason to refuse a packet that arrives as it was sent."""
        call, role = packet.call, packet.to
        if packet.accepted:
            return False
        if packet.kind in ("resp", "error"):
            spent = packet.kind == "resp" and self._spent(call.held)
            return role not in call.sessions and not call.refused and not call.altered and not spent
        if call.half - {
            packet.update
        }:  # an answer was lost: what it brought is missing on one side from now on
            return False
        if packet.kind == "updated":
            return call.pending.get(role) == packet.update
        receiver = call.subscriber(role)
        fresh = abs(self.kms.clock() + receiver.ahead - packet.sent) < SKEW_MARGIN
        if packet.kind == "update":
            return fresh and role not in call.pending and packet.update > call.newest.get(role, 0)
        granted = call.held.granted
        assert granted.expires is not None
        valid = self.kms.clock() + receiver.ahead < granted.expires
        usable = bool(granted.policy.flags & Flags.J) or granted.ticket.ticket_data not in receiver.used
        return fresh and valid and usable and receiver.ahead < SKEW_MARGIN and fault is None

    def _receive(self, packet: Packet, raw: bytes, *, refuse: bool, own_key: KeyType | None) -> None:
        call = packet.call
        match packet.kind:
            case "init":
                self._receive_init(packet, raw, refuse=refuse, own_key=own_key)
            case "resp":
                call.sessions[Role.INITIATOR] = call.offer.complete(raw)
            case "error":
                self._receive_error(packet, raw)
            case "update":
                self._receive_update(packet, raw, own_key)
            case "updated":
                call.sessions[packet.to].complete_update(raw)
                del call.pending[packet.to]
                call.half.discard(packet.update)

    def _receive_init(self, packet: Packet, raw: bytes, *, refuse: bool, own_key: KeyType | None) -> None:
        call, granted = packet.call, packet.call.held.granted
        incoming = call.callee.sdk.receive(raw)
        assert incoming.caller == call.held.owner.name
        first = granted.ticket.ticket_data not in call.callee.used
        assert first or granted.policy.flags & Flags.J, "a ticket was reused without J"
        if raw != packet.raw:
            # Initiator Data is for the KMS, which is not asked again about a ticket that is reused (AMBIGUITIES A-40).
            assert not first
            assert covered(raw) == covered(packet.raw), "a damaged TRANSFER_INIT was accepted"
            call.altered = True
        call.callee.used.add(granted.ticket.ticket_data)
        if refuse and granted.policy.flags & Flags.F:
            self._sent(call, "error", incoming.refuse(ErrorNo.UNSPECIFIED), Role.INITIATOR)
            return
        keys = [self._key(own_key)] if own_key is not None and granted.policy.flags & Flags.M else []
        answer = incoming.answer(keys=keys)
        call.sessions[Role.RESPONDER] = answer.session
        if answer.message is not None:
            self._sent(call, "resp", answer.message, Role.INITIATOR)

    def _receive_error(self, packet: Packet, raw: bytes) -> None:
        """An Error message is told by an exception; only an authentic one ends the call, once."""
        try:
            packet.call.offer.complete(raw)
        except ReceivedError as received:
            if not received.authenticated:
                raise
            packet.call.refused = True

    # -- CSB updates ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(c.established for c in self.calls))
    @rule(
        at=st.integers(0, 50),
        role=st.sampled_from(list(Role)),
        new_key=st.booleans(),
        answered=st.booleans(),
    )
    def update(self, at: int, role: Role, new_key: bool, answered: bool) -> None:
        established = [c for c in self.calls if c.established]
        call = established[at % len(established)]
        session = call.sessions[role]
        may_supply = Flags.L if role is Role.INITIATOR else Flags.M
        if role in call.pending or len(self.packets) > 12:
            return
        keys = [self._key(KeyType.TEK_SALT)] if new_key and session.static.flags & may_supply else []
        self.count += 1
        number = min(session.sessions[0].policies)
        spi = keys[0].spi if keys else session.sessions[0].spi
        changed = GenericIdSession(4 + self.count % 250, (number,), SrtpSessionData(self.count).body(), spi)
        if keys and session.srtp[0].policy != AES_CM_128_HMAC_SHA1_80:
            changed = GenericIdSession(
                changed.cs_id, (number,), changed.session_data, session.sessions[0].spi
            )
        message = session.start_update([changed], keys, response=answered)
        if answered:
            call.pending[role] = self.count
        else:
            call.half.add(self.count)
        self._sent(call, "update", message.raw, other(role), self.count)

    def _receive_update(self, packet: Packet, raw: bytes, own_key: KeyType | None) -> None:
        call, role = packet.call, packet.to
        session = call.sessions[role]
        may_supply = Flags.L if role is Role.INITIATOR else Flags.M
        keys = [self._key(own_key)] if own_key is not None and session.static.flags & may_supply else []
        answer = session.answer_update(raw, keys=keys)
        call.newest[role] = packet.update
        if answer is None:
            call.half.discard(packet.update)
        else:
            call.half.add(packet.update)
            self._sent(call, "updated", answer.raw, other(role), packet.update)

    @precondition(lambda self: self._waiting())
    @rule(at=st.integers(0, 50), impatient=st.integers(0, 5).map(lambda n: n == 5))
    def give_up(self, at: int, impatient: bool) -> None:
        """Of an update whose messages are lost, or may come yet."""
        waiting = self._waiting()
        call, role = waiting[at % len(waiting)]
        coming = any(p.call is call and p.update == call.pending[role] for p in self.packets)
        if coming and not impatient:
            return
        call.sessions[role].give_up_update()
        del call.pending[role]

    def _waiting(self) -> list[tuple[Call, Role]]:
        return [(c, role) for c in self.calls for role in c.pending]

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def both_sides_have_equal_keys(self) -> None:
        for call in self.calls:
            if call.established and not call.half:
                one, two = call.sessions[Role.INITIATOR], call.sessions[Role.RESPONDER]
                assert one.srtp == two.srtp
                assert {k.spi: k for k in one.keys} == {k.spi: k for k in two.keys}
                assert one.srtp

    @invariant()
    def no_two_calls_share_keys(self) -> None:
        """Neither those that are derived, by RANDs and CS ID, nor those that the parties brought, which are all new."""
        owners: dict[bytes, Call] = {}
        for call in self.calls:
            for session in call.sessions.values():
                for keys in session.srtp:
                    assert owners.setdefault(keys.master_key, call) is call


TestCalls = Calls.TestCase
TestCalls.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_answer_of_a_transfer_comes_once_even_while_an_update_waits(tmp_path: Path) -> None:
    """Found by the machine above: transfer and session share their progress, which waits for a TRANSFER_RESP again."""
    kms = LocalKms(tmp_path)
    alice, bobby = (Subscriber(kms, name).sdk for name in (ALICE, BOBBY))
    offer = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    answer = bobby.answer(offer.message)
    assert answer.message is not None
    session = offer.complete(answer.message)
    added = GenericIdSession(9, (0,), SrtpSessionData(9).body(), session.sessions[0].spi)
    update = session.start_update([added])
    with pytest.raises(ProtocolError, match="established already"):
        offer.complete(answer.message)
    assert offer.session is session
    updated = answer.session.answer_update(update.raw)
    assert updated is not None
    session.complete_update(updated.raw)
    assert session.srtp == answer.session.srtp
    assert len(session.srtp) == 2
    kms.directory.close()
