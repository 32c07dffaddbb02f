"""A scene to write vectors from: a KMS and its subscribers, their keys and random values drawn from a seed."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from kms.cli.vectors import forms
from kms.cli.vectors.entries import Json
from kms.cli.vectors.exchanges import describe_session
from kms.cli.vectors.kms_role import KmsRefused, VectorKms
from kms.cli.vectors.setting import ScriptedSources, read_setting
from kms.crypto.interface import Key, Use
from kms.crypto.software import SoftwareKeys
from kms.crypto.suite import Suite
from kms.engine.psk import PSK_LENGTH, encode_psk_id
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, GenericIdSession, KeyData, Sp, SrtpSessionData, TicketPolicy
from kms.mikey.registry import ErrorNo, IdRole, PrfFunc
from kms.mikey.srtp import SrtpPolicy
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.acceptance import Acceptance
from kms.party.credential import SharedTpk
from kms.party.initiator import OutgoingTransfer
from kms.party.making import make_ticket
from kms.party.party import Party, SuiteKey
from kms.party.requesting import GrantedTicket, TicketRequest
from kms.party.responder import IncomingTransfer
from kms.party.session import Session

START = 1_700_000_000
"""When every scene starts, in Unix seconds."""
KMS = b"sip:kms@example.com"
ALICE, BOB, CAROL, FOCUS = (
    f"sip:{name}@example.com".encode() for name in ("alice", "bob", "carol", "conf-focus")
)
SUBSCRIBERS = (ALICE, BOB, CAROL, FOCUS)
EPOCH = START // 86400
"""The number of the TPK epoch at START."""
LIFETIME = 3600


class Draw:
    """Random bytes that follow from a seed and a name."""

    def __init__(self, seed: str, name: str) -> None:
        self._prefix = f"{seed}\0{name}\0".encode()
        self._count = 0

    def __call__(self, length: int) -> bytes:
        """The next `length` bytes."""
        self._count += 1
        return hashlib.shake_256(self._prefix + self._count.to_bytes(4, "big")).digest(length)


class RecordingKeys(SoftwareKeys):
    """SoftwareKeys that write down every derivation, of the RFC's PRF and of the own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.prf_calls: list[Json] = []
        self.own_calls: list[Json] = []

    def branch(self, parent: Key, label: bytes) -> Key:
        """See KeyOperations."""
        self._own(parent, label, 32)
        return super().branch(parent, label)

    def leaf(self, parent: Key, label: bytes, length: int, use: Use) -> Key:
        """See KeyOperations."""
        self._own(parent, label, length)
        return super().leaf(parent, label, length, use)

    def release(self, parent: Key, label: bytes, length: int) -> bytes:
        """See KeyOperations."""
        self._own(parent, label, length)
        return super().release(parent, label, length)

    def prf_key(self, key: Key, prf: PrfFunc, label: bytes, length: int, use: Use) -> Key:
        """See KeyOperations."""
        self._prf(key, prf, label, length)
        return super().prf_key(key, prf, label, length, use)

    def prf_release(self, key: Key, prf: PrfFunc, label: bytes, length: int) -> bytes:
        """See KeyOperations."""
        self._prf(key, prf, label, length)
        return super().prf_release(key, prf, label, length)

    def _own(self, parent: Key, label: bytes, length: int) -> None:
        outkey = super().release(parent, label, length)
        call = {
            "aes_key": self._value(parent, Use.BRANCH).hex(),
            "label": label.hex(),
            "outkey": outkey.hex(),
        }
        if call not in self.own_calls:
            self.own_calls.append(call)

    def _prf(self, key: Key, prf: PrfFunc, label: bytes, length: int) -> None:
        outkey = super().prf_release(key, prf, label, length)
        call: Json = {"prf": int(prf), "inkey": self._value(key, Use.PRF).hex(), "label": label.hex()}
        call |= {"outkey_bits": 8 * length, "outkey": outkey.hex()}
        if call not in self.prf_calls:
            self.prf_calls.append(call)


@dataclass(frozen=True, slots=True)
class Call:
    """What an Initiator holds of a ticket, and the last Transfer with it on both sides."""

    granted: GrantedTicket
    outgoing: OutgoingTransfer
    incoming: IncomingTransfer
    resolve_init: Message | None


@dataclass
class Scene:
    """The KMS and the subscribers of one vector. Every message is one second after the one before it."""

    name: str
    suite: Suite
    seed: str
    folder: Path
    groups: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    clients: tuple[bytes, ...] = ()
    max_lifetime: int = 86400
    shared_tpk: bool = False

    def __post_init__(self) -> None:
        self.ops = RecordingKeys()
        self.draw = Draw(self.seed, self.name)
        self.config = self._config()
        self.messages: list[Json] = []
        self.sessions: list[Session] = []
        self.setting = read_setting(self.config)
        self._sources = {
            n: ScriptedSources(START, Draw(self.seed, f"{self.name} {n!r}")) for n in SUBSCRIBERS
        }
        self._parties: dict[bytes, Party] = {}
        self.folder.mkdir()
        sources = ScriptedSources(START, Draw(self.seed, f"{self.name} kms"))
        arguments = self.setting, self.folder
        self.kms = VectorKms(*arguments, ops=self.ops, sources=sources, max_lifetime=self.max_lifetime)

    @property
    def now(self) -> int:
        """The time of the next message, in Unix seconds."""
        return START + len(self.messages)

    def _config(self) -> Json:
        suite = self.suite
        master = self.draw(32)
        psks = {identity.decode(): self.psk(master, identity) for identity in SUBSCRIBERS}
        current = epoch_id(EPOCH).hex()
        config: Json = {
            "suite": {
                "prf": int(suite.prf),
                "encr": int(suite.encr_alg),
                "mac": int(suite.mac_alg),
                "size": suite.key_length,
            },
            "clock_unix": START,
            "kms_id": KMS.hex(),
            "psk_master": master.hex(),
            "psk": psks,
            "tpk_epochs": {current: self.draw(32).hex()},
            "current_epoch": current,
        }
        if self.shared_tpk:
            config |= {"tpk": self.draw(32).hex(), "tpk_id": b"shared TPK".hex()}
        if self.groups:
            config["groups"] = {g.decode(): [m.decode() for m in ms] for g, ms in self.groups.items()}
        if self.clients:
            config["roles"] = {identity.decode(): "client" for identity in self.clients}
        return config

    def psk(self, master: bytes, identity: bytes) -> Json:
        """PSK and IDRpsk of a subscriber of the KMS that has this PSK master key."""
        label = labels.user_branch(identity, 1, self.suite.prf)
        branch = self.ops.branch(self.ops.load(master, Use.BRANCH), label)
        psk = self.ops.release(branch, labels.psk(), PSK_LENGTH)
        return {"psk": psk.hex(), "psk_id": encode_psk_id(identity, 1).hex()}

    def party(self, identity: bytes) -> Party:
        """A subscriber."""
        if identity not in self._parties:
            home = self.setting.home(identity)
            psk, psk_id = home.psks[identity]
            key = SuiteKey(self.suite, psk_id, self.ops.load(psk, Use.PRF))
            self._parties[identity] = Party(
                identity, home.kms_identity, (key,), self.ops, self._sources[identity]
            )
        self._sources[identity].clock = self.now
        return self._parties[identity]

    def policy(
        self,
        initiator: bytes,
        responders: Iterable[bytes],
        flags: Flags = rules.FORKED_MODE_1,
        keys: Iterable[KeyData] | None = None,
        kind: tuple[int, int, int] = DERIVED_TICKET,
        lifetime: int = LIFETIME,
    ) -> TicketPolicy:
        """A desired Ticket Policy."""
        data = rules.tp_data(
            kms=KMS, initiator=initiator, responders=responders, start=START, end=START + lifetime, keys=keys
        )
        return TicketPolicy(*kind, self.suite.prf, flags, data)

    # -- exchanges -----------------------------------------------------------------------------------------------------

    def request(self, initiator: bytes, policy: TicketPolicy) -> GrantedTicket:
        """Ticket Request."""
        request = TicketRequest(self.party(initiator), policy)
        self._note("REQUEST_INIT", request.message.raw)
        answer = self._note("REQUEST_RESP", self._ask(request.message))
        self.party(initiator)
        return request.complete(answer)

    def make(self, initiator: bytes, policy: TicketPolicy, keys: Iterable[KeyData]) -> GrantedTicket:
        """A ticket that the Initiator makes with the shared TPK (modes 3 and 4)."""
        assert self.setting.tpk is not None
        peer = None if policy.flags & Flags.E else rules.responders(policy)[0].decode()
        tpk = SharedTpk(self.suite.bits, "initiator", self.setting.tpk_id, self.setting.tpk, peer)
        return make_ticket(replace(self.party(initiator), tpks=(tpk,)), policy, tuple(keys))

    def offer(
        self, initiator: bytes, granted: GrantedTicket, called: bytes, responder: bytes | None = None
    ) -> Call:
        """TRANSFER_INIT with one SRTP session, and Ticket Resolve; with E = 0 the Responder opens the ticket itself."""
        srtp = SrtpPolicy(encr_key_len=self.suite.key_length)
        spi = granted.session_keys[0].spi if granted.session_keys else b""
        session = GenericIdSession(1, (0,), SrtpSessionData(0x1234_5678).body(), spi)
        answerer = responder or called
        acceptance = Acceptance(Flags(0), groups=frozenset({called} - {answerer}), srtp=(srtp,))
        arguments = self.party(initiator), granted, called, [session], [srtp.sp(0)]
        outgoing = OutgoingTransfer(*arguments, acceptance=acceptance)
        self._note("TRANSFER_INIT", outgoing.message.raw)
        incoming = IncomingTransfer(self.party(answerer), outgoing.message.raw, acceptance)
        return Call(granted, outgoing, incoming, self._resolve(incoming, answerer))

    def transfer(
        self,
        initiator: bytes,
        granted: GrantedTicket,
        called: bytes,
        responder: bytes | None = None,
        keys: Iterable[KeyData] = (),
        randr_r: bytes | None = None,
    ) -> Call:
        """As `offer`, and TRANSFER_RESP. `keys` and `randr_r` are the Responder's."""
        call = self.offer(initiator, granted, called, responder)
        transfer_resp = call.incoming.answer(keys=keys, randr_r=randr_r)
        self._note("TRANSFER_RESP", transfer_resp.raw)
        self.party(initiator)
        self.sessions.append(call.outgoing.complete(transfer_resp.raw))
        assert call.incoming.session is not None
        self.sessions.append(call.incoming.session)
        return call

    def refuse(self, call: Call, error_no: ErrorNo, policies: Iterable[Sp] = ()) -> None:
        """The Responder answers with an Error message."""
        self._note("ERROR", call.incoming.refuse(error_no, policies).raw)

    def refused_request(self, initiator: bytes, policy: TicketPolicy) -> None:
        """Ticket Request that the KMS answers with an Error message."""
        request = TicketRequest(self.party(initiator), policy)
        self._note("REQUEST_INIT", request.message.raw)
        try:
            self._ask(request.message)
        except KmsRefused as refused:
            self._note("ERROR", refused.answer)

    def _resolve(self, incoming: IncomingTransfer, responder: bytes) -> Message | None:
        policy = incoming.ticket.policy
        if not policy.flags & Flags.E:
            assert self.setting.tpk is not None
            maker = None if policy.flags & Flags.D else rules.identity(policy, IdRole.INITIATOR)
            incoming.resolve_locally(self.setting.tpk, self.setting.tpk_id, initiator=maker)
            return None
        resolve_init = incoming.resolve_init()
        self._note("RESOLVE_INIT", resolve_init.raw)
        answer = self._note("RESOLVE_RESP", self._ask(resolve_init))
        self.party(responder)
        incoming.resolved(answer)
        return resolve_init

    def _ask(self, message: Message) -> bytes:
        return self.kms.answer(message.raw, self.now)

    def _note(self, name: str, raw: bytes) -> bytes:
        decoded = forms.describe_message(Message.decode(raw))
        self.messages.append({"name": name, "unix_time": self.now, "hex": raw.hex(), "decoded": decoded})
        return raw

    def exchange(self) -> Json:
        """All of it, as an entry of `exchanges`."""
        self.kms.close()
        return {
            "name": self.name,
            "config": self.config,
            "messages": self.messages,
            "prf_calls": self.ops.prf_calls,
            "own_calls": self.ops.own_calls,
            "sessions": [describe_session(session) for session in self.sessions],
        }


def epoch_id(number: int) -> bytes:
    """ID Data of IDRpsk of a TPK epoch (docs/ticket-type.md)."""
    return b"\x01" + number.to_bytes(4, "big")


def negative_entry(
    name: str,
    bad: bytes,
    rule: str,
    error_no: ErrorNo,
    text: str,
    *,
    certain: bool,
    config: Json,
    clock: int,
    context: list[Json] | None = None,
    target: str = "KMS",
) -> Json:
    """An entry of `negatives`."""
    messages = [{k: m[k] for k in ("name", "unix_time", "hex")} for m in context or []]
    expected = {"outcome": "reject", "error_no": int(error_no), "text": text, "certain": certain}
    return {
        "name": name,
        "target": target,
        "rule": rule,
        "bad": bad.hex(),
        "clock_unix": clock,
        "config": config,
        "context": messages,
        "expected": expected,
    }
