"""Negatives of derived tickets: altered ones, ones whose epoch is gone, ones that somebody else sends.

The RESOLVE_INIT that brings a bad ticket is sent by a real subscriber: its own MAC is right, so that only the ticket
is judged.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kms.cli.vectors.derived_exchanges import REUSED, key
from kms.cli.vectors.entries import Json
from kms.cli.vectors.scene import (
    ALICE,
    BOB,
    CAROL,
    EPOCH,
    FOCUS,
    LIFETIME,
    START,
    Call,
    Scene,
    epoch_id,
    negative_entry,
)
from kms.crypto.interface import Use
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import SUITE_128, SUITE_256, Suite
from kms.mikey import labels, timestamps
from kms.mikey.labels import INITIAL
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Flags,
    Idr,
    InitiatorData,
    Payload,
    Rand,
    T,
    Ticket,
    TicketPolicy,
    Tr,
    V,
)
from kms.mikey.registry import ErrorNo, IdRole, IdType, KeyType, MacAlg, RandRole, TsRole
from kms.mikey.ticket_data import (
    BASE_TICKET,
    KeyEntry,
    TicketData,
    read_key_list,
    write_key_list,
)

_BRANCH = "docs/ticket-type.md: every granted field enters the ticket branch, and the ticket's MAC covers it"
_MAC = "docs/ticket-type.md: the ticket's MAC covers it"
_FORKING = "RFC 6043 6.10: Vr is keyed from MPKr"


def ticket_negatives(suite: Suite, seed: str, folder: Path) -> list[Json]:
    """RESOLVE_INITs of one suite. `folder` is for the KMS's directory."""
    play = _Play.of(f"{suite.bits}", suite, seed, folder)
    return [
        *_altered_policies(play),
        *_altered_data(play),
        *_epochs(play),
        *_initiator_data(play),
        *_unfit(play),
    ]


@dataclass(frozen=True, slots=True)
class _Play:
    """A forked call up to TRANSFER_INIT, from which bad RESOLVE_INITs are made."""

    name: str
    scene: Scene
    call: Call
    other: Call

    @classmethod
    def of(cls, name: str, suite: Suite, seed: str, folder: Path) -> "_Play":
        scene = Scene(f"negatives-{name}", suite, seed, folder)
        calls = []
        for _ in range(2):  # the second ticket lends what the first must not have
            keys = [key(scene, KeyType.TGK, 1), key(scene, KeyType.TEK, 2)]
            granted = scene.request(FOCUS, scene.policy(FOCUS, [BOB], REUSED, keys))
            calls.append(scene.transfer(FOCUS, granted, BOB))
        scene.kms.close()
        return cls(name, scene, *calls)

    @property
    def ticket(self) -> Ticket:
        """The ticket as the Responder has it, with Initiator Data."""
        return self.call.incoming.ticket

    @property
    def data(self) -> TicketData:
        """Its Ticket Data."""
        return TicketData.decode(self.ticket.ticket_data)

    def negative(
        self,
        name: str,
        ticket: Ticket,
        rule: str,
        error_no: ErrorNo,
        text: str,
        *,
        certain: bool = True,
        sender: bytes = BOB,
        suite: Suite | None = None,
        clock: int | None = None,
        config: Json | None = None,
    ) -> Json:
        """A RESOLVE_INIT of `sender` with `ticket`, its own MAC right."""
        now = START + 3 if clock is None else clock
        bad = self._resolve_init(ticket, sender, suite or self.scene.suite, now)
        return negative_entry(
            f"derived-{name}-{self.name}", bad, rule, error_no, text,
            certain=certain, config=self.scene.config | (config or {}), clock=now,
            context=self.scene.messages[:3],
        )  # fmt: skip

    def _resolve_init(self, ticket: Ticket, sender: bytes, suite: Suite, now: int) -> bytes:
        party, psk = self.scene.party(sender), self.scene.setting.psks[sender]
        sent = self.call.resolve_init
        assert sent is not None
        payloads: list[Payload] = []
        for p in sent.payloads[:-1]:
            if isinstance(p, Idr) and p.role in (IdRole.RESPONDER, IdRole.PSK):
                data = sender if p.role == IdRole.RESPONDER else psk[1]
                payloads.append(replace(p, data=data))
            elif isinstance(p, T):
                payloads.append(timestamps.ntp_utc(now))
            else:
                payloads.append(ticket if isinstance(p, Ticket) else p)
        hdr = replace(sent.hdr, prf=suite.prf)
        draft = Message.build(hdr, [*payloads, unsigned_v(suite.mac_alg)])
        loaded = self.scene.ops.load(psk[0], Use.PRF)
        randr_r = sent.rand(RandRole.RESPONDER)
        protection = MessageProtection(
            self.scene.ops, loaded, suite.prf, hdr.csb_id, INITIAL, randr_r=randr_r
        )
        return protection.sign(draft, sender, party.kms_identity).raw

    def with_data(self, data: TicketData) -> Ticket:
        """The ticket with other Ticket Data."""
        return replace(self.ticket, ticket_data=data.encode())

    def with_payload(self, old: Payload, new: Payload | None) -> Ticket:
        """The ticket with one payload of its Ticket Data replaced or removed."""
        kept = (new if p is old or p == old else p for p in self.data.payloads)
        return self.with_data(replace(self.data, payloads=tuple(p for p in kept if p is not None)))

    def with_keys(self, change: Callable[[list[KeyEntry]], list[KeyEntry]]) -> Ticket:
        """The ticket with another list of keys."""
        entries = change(list(read_key_list(self.data.thdr_data)))
        return self.with_data(replace(self.data, thdr_data=write_key_list(entries)))

    def with_policy(self, change: Callable[[TicketPolicy], TicketPolicy]) -> Ticket:
        """The ticket with another Ticket Policy."""
        return replace(self.ticket, policy=change(self.ticket.policy))


# -- tickets in RESOLVE_INIT -------------------------------------------------------------------------------------------


def _altered_policies(play: _Play) -> list[Json]:
    def tre(policy: TicketPolicy) -> TicketPolicy:
        later = timestamps.tr(TsRole.END, START + 10 * LIFETIME)
        return _tp_data(policy, lambda p: later if isinstance(p, Tr) and p.role == TsRole.END else p)

    def responder(policy: TicketPolicy) -> TicketPolicy:
        other = Idr(IdRole.RESPONDER, IdType.URI, CAROL)
        return _tp_data(policy, lambda p: other if isinstance(p, Idr) and p.role == IdRole.RESPONDER else p)

    def added(policy: TicketPolicy) -> TicketPolicy:
        return replace(policy, tp_data=(*policy.tp_data, Idr(IdRole.RESPONDER, IdType.URI, CAROL)))

    def initiator(policy: TicketPolicy) -> TicketPolicy:
        other = Idr(IdRole.INITIATOR, IdType.URI, ALICE)
        return _tp_data(policy, lambda p: other if isinstance(p, Idr) and p.role == IdRole.INITIATOR else p)

    unforked = replace(play.with_policy(lambda p: replace(p, flags=p.flags & ~Flags.I)), initiator_data=b"")
    cases = (
        ("TRe-extended", play.with_policy(tre), BOB),
        ("IDRr-replaced", play.with_policy(responder), CAROL),
        ("IDRr-added", play.with_policy(added), CAROL),
        ("IDRi-replaced", play.with_policy(initiator), BOB),
        ("forking-switched-off", unforked, BOB),
        ("reuse-switched-off", play.with_policy(lambda p: replace(p, flags=p.flags & ~Flags.J)), BOB),
        ("reserved-bit-set", play.with_policy(lambda p: replace(p, res=1)), BOB),
    )
    return [_altered(play, f"policy-{name}", ticket, _BRANCH, sender) for name, ticket, sender in cases]


def _altered_data(play: _Play) -> list[Json]:
    data = play.data
    t = timestamps.ntp_utc(START + 2)
    mac, rand = _flipped(data.v.mac), next(p for p in data.payloads if isinstance(p, Rand))
    other = TicketData.decode(play.other.incoming.ticket.ticket_data)

    def entry(index: int, **changes: object) -> Callable[[list[KeyEntry]], list[KeyEntry]]:
        return lambda entries: [
            replace(e, **changes) if i == index else e  # type: ignore[arg-type]
            for i, e in enumerate(entries)
        ]

    length = 16 if play.scene.suite.key_length == 32 else 32
    cases = (
        ("T", play.with_payload(data.t, t), _MAC),
        ("RAND", play.with_payload(rand, Rand(_flipped(rand.rand))), _BRANCH),
        ("RAND-of-another-ticket", play.with_payload(rand, Rand(other.rand)), _BRANCH),
        ("MAC", play.with_payload(data.v, V(data.v.auth_alg, mac)), _MAC),
        ("MAC-of-another-ticket", play.with_payload(data.v, other.v), _MAC),
        ("key-type", play.with_keys(entry(1, key_type=KeyType.TEK)), _BRANCH),
        ("key-length", play.with_keys(entry(1, length=length)), _BRANCH),
        ("key-salt-length", play.with_keys(entry(1, salt_length=14)), _BRANCH),
        ("key-SPI", play.with_keys(entry(1, spi=b"\xff\xff\xff\xff")), _BRANCH),
        ("MPK-length", play.with_keys(entry(0, length=16)), _BRANCH),
        ("key-removed", play.with_keys(lambda entries: entries[:-1]), _BRANCH),
        ("key-added", play.with_keys(lambda entries: [*entries, replace(entries[1], spi=b"more")]), _BRANCH),
        ("keys-exchanged", play.with_keys(lambda e: [e[0], e[2], e[1]]), _BRANCH),
    )
    return [_altered(play, f"{name}-altered", ticket, rule) for name, ticket, rule in cases]


def _epochs(play: _Play) -> list[Json]:
    data, scene = play.data, play.scene
    idr = next(p for p in data.payloads if isinstance(p, Idr) and p.role == IdRole.PSK)
    unknown = play.with_payload(idr, replace(idr, data=epoch_id(EPOCH + 1)))
    foreign = play.with_payload(idr, replace(idr, data=b"some other KMS's TPK"))
    later = epoch_id(EPOCH + 1).hex()
    destroyed = {"tpk_epochs": {later: scene.draw(32).hex()}, "current_epoch": later}
    replaced = {"tpk_epochs": {epoch_id(EPOCH).hex(): scene.draw(32).hex()}}
    rule = "docs/ticket-type.md: an unknown epoch, a destroyed one and a wrong MAC are one refusal"
    no, text = ErrorNo.AUTH_FAILURE, "the key of the ticket is not there"
    return [
        play.negative("epoch-unknown", unknown, rule, no, text),
        play.negative("epoch-of-another-KMS", foreign, rule, no, text),
        play.negative("epoch-not-named", play.with_payload(idr, None), rule, no, text),
        play.negative("epoch-destroyed", play.ticket, rule, no, text, config=destroyed) | {"context": []},
        play.negative("epoch-key-is-another", play.ticket, rule, no, text, config=replaced) | {"context": []},
    ]


def _initiator_data(play: _Play) -> list[Json]:
    ticket = play.ticket
    sent = InitiatorData.decode(ticket.initiator_data)
    other = InitiatorData.decode(play.other.incoming.ticket.initiator_data)

    def vr(signed_with: Callable[[bytes], bytes]) -> Ticket:
        draft = replace(sent, vr=unsigned_v(sent.vi.auth_alg))
        made = replace(sent, vr=V(sent.vi.auth_alg, signed_with(draft.vr_coverage())))
        return replace(ticket, initiator_data=made.encode())

    def by_mpki(covered: bytes) -> bytes:
        """As any Responder of the ticket could: it has MPKi, but not MPKr."""
        ops, suite = play.scene.ops, play.scene.suite
        auth = ops.prf_key(
            play.call.granted.mpki, suite.prf, labels.vr_key(), suite.auth_key_length, Use.SIGN
        )
        return ops.mac(auth, suite.mac_alg, covered)

    no, text = ErrorNo.AUTH_FAILURE, "Vr does not verify"
    tampered = replace(
        ticket, initiator_data=replace(sent, vr=V(sent.vr.auth_alg, _flipped(sent.vr.mac))).encode()
    )
    vi = replace(ticket, initiator_data=replace(sent, vi=V(sent.vi.auth_alg, _flipped(sent.vi.mac))).encode())
    foreign = replace(ticket, initiator_data=other.encode())
    return [
        play.negative("Vr-altered", tampered, _FORKING, no, text),
        play.negative("Vi-altered", vi, "RFC 6043 6.10: Vr covers Vi", no, text),
        play.negative("Vr-keyed-from-MPKi", vr(by_mpki), _FORKING, no, text),
        play.negative("Initiator-Data-of-another-ticket", foreign, _FORKING, no, text),
        play.negative(
            "Initiator-Data-missing",
            replace(ticket, initiator_data=b""),
            "RFC 6043 6.10: Initiator Data if and only if the I flag is set",
            ErrorNo.INVALID_TICKET,
            "no Initiator Data",
            certain=False,
        ),
    ]  # fmt: skip


def _unfit(play: _Play) -> list[Json]:
    suite = play.scene.suite
    other_suite = SUITE_128 if suite is SUITE_256 else SUITE_256
    data, other_alg = play.data, other_suite.mac_alg
    other_v = play.with_payload(
        data.v, V(other_alg, play.scene.draw(20 if other_alg == MacAlg.HMAC_SHA_1_160 else 32))
    )
    invalid = ErrorNo.INVALID_TICKET
    return [
        play.negative("other-suite", play.ticket, "RFC 6043 12.1: suites are not mixed", invalid,
                      "HDR is of another suite than the ticket", certain=False, suite=other_suite),
        play.negative("V-of-the-other-suite", other_v, "docs/ticket-type.md: V is of the ticket's suite",
                      ErrorNo.AUTH_FAILURE, "another algorithm"),
        play.negative("version-unknown", play.with_policy(lambda p: replace(p, version=2)),
                      "RFC 6043 6.9: Invalid TICKET", invalid, "version 2", certain=False),
        play.negative("subtype-unknown", play.with_policy(lambda p: replace(p, subtype=9)),
                      "RFC 6043 6.9: Invalid TICKET", invalid, "subtype 9", certain=False),
        play.negative("expired", play.ticket, "RFC 6043 6.10: TRe", invalid, "the ticket has expired",
                      certain=False, clock=START + LIFETIME + 1) | {"context": []},
        play.negative("not-named", play.ticket, "RFC 6043 4.2.3.4", ErrorNo.INVALID_ID,
                      "the ticket does not name this responder", certain=False, sender=CAROL),
        play.negative("KEMAC-less-base-ticket", play.with_policy(lambda p: replace(p, ticket_type=BASE_TICKET[0])),
                      "RFC 6043 A.1: a base ticket has a KEMAC", ErrorNo.AUTH_FAILURE, "not a base ticket of this KMS"),
    ]  # fmt: skip


def _altered(play: _Play, name: str, ticket: Ticket, rule: str, sender: bytes = BOB) -> Json:
    return play.negative(
        name, ticket, rule, ErrorNo.AUTH_FAILURE, "the MAC of the ticket does not verify", sender=sender
    )


# -- helpers -----------------------------------------------------------------------------------------------------------


def _tp_data(policy: TicketPolicy, change: Callable[[Payload], Payload]) -> TicketPolicy:
    return replace(policy, tp_data=tuple(map(change, policy.tp_data)))


def _flipped(value: bytes) -> bytes:
    return value[:-1] + bytes((value[-1] ^ 1,))
