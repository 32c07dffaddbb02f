"""Playing the parties of the exchanges in tests/vectors with the real code, byte for byte.

A party's clock, timestamps and random values are scripted from the message that it must send next. The KMS's messages
are taken from the vector, or from any `Kms` that is given instead.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kms.crypto.interface import Use
from kms.crypto.public_key import EnvelopeCertificate, SignatureKey
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.crypto.suite import suite_of
from kms.mikey.exchange import Role
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, GenericIdSession, KeyData, Pke, Randr, Sp, T, Tp
from kms.mikey.registry import IdRole, RandRole
from kms.party.acceptance import Acceptance
from kms.party.initiator import OutgoingTransfer
from kms.party.memory import ResolutionCache
from kms.party.party import KmsKey, Party, SigningKey, SuiteKey
from kms.party.requesting import GrantedTicket, TicketRequest
from kms.party.responder import IncomingTransfer
from kms.party.session import Session
from tests.mikey.vectors import build

Json = dict[str, Any]
Kms = Callable[[bytes], bytes]

_RANDS = {RandRole.INITIATOR: "RANDRi", RandRole.RESPONDER: "RANDRr"}


class ScriptedSources(Sources):
    """Gives what `script` took from a message; anything that the message does not have is an error.

    `kms_key` opens the envelope key of a message, for its sender to choose again.
    """

    def __init__(self, clock: float, kms_key: RSAPrivateKey | None = None) -> None:
        super().__init__(clock=lambda: self.clock)
        self.clock = clock
        self.kms_key = kms_key
        self.pke = b""
        self.values: dict[str, bytes] = {}
        self.stamps: list[T] = []

    def script(self, message: Message) -> None:
        """Make the next message sent have this one's CSB ID, T, RANDRs, and envelope key as encrypted there."""
        self.values = {"CSB ID": message.hdr.csb_id.to_bytes(4, "big")}
        for randr in message.find_all(Randr):
            if randr.role in _RANDS:
                self.values[_RANDS[RandRole(randr.role)]] = randr.rand
        self.stamps = [message.get(T)]
        if (pke := message.find(Pke)) is not None:
            assert self.kms_key
            self.pke, self.values["envelope key"] = pke.data, self.kms_key.decrypt(pke.data, PKCS1v15())

    def random(self, length: int, purpose: str) -> bytes:
        return self.values.pop(purpose)

    def timestamp(self) -> T:
        return self.stamps.pop()

    def timestamp_in_lane(self, lane: int) -> T:
        return self.timestamp()


class ScriptedEnvelope(EnvelopeCertificate):
    """Encrypts the vector's envelope key as the vector did: the padding of PKE is random."""

    def __init__(self, certificate: bytes, sources: ScriptedSources) -> None:
        super().__init__(certificate)
        self._sources = sources

    def encrypt(self, envelope_key: bytes) -> bytes:
        """See EnvelopeCertificate."""
        kms_key = self._sources.kms_key
        assert kms_key
        assert kms_key.decrypt(super().encrypt(envelope_key), PKCS1v15()) == envelope_key
        assert kms_key.decrypt(self._sources.pke, PKCS1v15()) == envelope_key
        return self._sources.pke


def vector_party(config: Json, identity: str) -> tuple[Party, ScriptedSources]:
    """A subscriber of the vector's KMS: with a certificate if the vector has certificates, else with a PSK."""
    suite, ops = suite_of(config["suite"]["prf"]), SoftwareKeys()
    key: KmsKey
    if "certs" in config:
        sources = ScriptedSources(config["clock_unix"], vector_key(config, "kms"))
        name = identity.removeprefix("sip:").partition("@")[0]
        signer = SignatureKey([bytes.fromhex(config["certs"][name])], vector_key(config, name))
        key = SigningKey(suite, signer, ScriptedEnvelope(bytes.fromhex(config["certs"]["kms"]), sources))
    else:
        sources, entry = ScriptedSources(config["clock_unix"]), config["psk"][identity]
        psk = ops.load(bytes.fromhex(entry["psk"]), Use.PRF)
        key = SuiteKey(suite, bytes.fromhex(entry["psk_id"]), psk)
    return Party(identity.encode(), bytes.fromhex(config["kms_id"]), (key,), ops, sources), sources


def vector_key(config: Json, name: str) -> RSAPrivateKey:
    """A private key of a vector's config."""
    key = load_pem_private_key(config["private_keys_pem"][name].encode(), None)
    assert isinstance(key, RSAPrivateKey)
    return key


@dataclass
class Call:
    """One Initiator and one Responder, from the request to the sessions."""

    request: TicketRequest | None = None
    granted: GrantedTicket | None = None
    outgoing: OutgoingTransfer | None = None
    incoming: IncomingTransfer | None = None
    resolved: bool = False
    update: tuple[Session, Message] | None = None


@dataclass
class Player:
    """Plays the messages of one exchange in order. `expected` are the vector's sessions, the source of supplied keys.

    `sent` collects what the parties sent, as (what the vector says, what the code made).
    """

    config: Json
    messages: list[Json]
    expected: list[Json] = field(default_factory=list)
    acceptance: Acceptance = field(
        default_factory=lambda: Acceptance(Flags(0), skew=600, counter=True, same_initiator=False)
    )
    call: Call = field(default_factory=Call)
    sessions: dict[tuple[str, int], Session] = field(default_factory=dict)
    sent: list[tuple[str, str]] = field(default_factory=list)
    _parties: dict[str, tuple[Party, ScriptedSources]] = field(default_factory=dict)
    _cache: ResolutionCache = field(default_factory=ResolutionCache)
    _clock: float = 0

    def play(self) -> None:
        """Play every message."""
        for index in range(len(self.messages)):
            self.step(index)

    def step(self, index: int) -> None:
        """Play one message: sent by the party that must send it, received by the one that must accept it."""
        entry = self.messages[index]
        self._clock = float(entry.get("unix_time") or self.config["clock_unix"])
        name, raw = entry["name"].split(" by ")[0], bytes.fromhex(entry["hex"])
        handler = getattr(self, "_" + name.lower().replace(" ", "_").removeprefix("original_"))
        handler(index, raw, Message.decode(raw))

    # -- one method for each message -----------------------------------------------------------------------------------

    def _request_init(self, _index: int, raw: bytes, message: Message) -> None:
        party = self._sender(message, message.idr(IdRole.INITIATOR) or b"")
        self.call = Call(TicketRequest(party, message.get(Tp).policy))
        assert self.call.request
        self._send(raw, self.call.request.message)

    def _request_resp(self, _index: int, raw: bytes, _message: Message) -> None:
        assert self.call.request
        self.call.granted = self.call.request.complete(raw)

    def _transfer_init(self, index: int, raw: bytes, message: Message) -> None:
        assert self.call.granted
        party = self._sender(message, message.idr(IdRole.INITIATOR) or b"")
        called = message.idr(IdRole.RESPONDER) or b""
        known = [k.spi for k in self.call.granted.session_keys]
        keys = self._supplied("I", message, known)
        arguments = party, self.call.granted, called, sessions_of(message), message.find_all(Sp)
        outgoing = OutgoingTransfer(*arguments, keys=keys, acceptance=self.acceptance)
        self._send(raw, outgoing.message)
        self.call = Call(self.call.request, self.call.granted, outgoing)
        self.call.incoming = self.receive(raw, self._responder(index, called))
        self._note()

    def receive(self, raw: bytes, identity: str) -> IncomingTransfer:
        """The responder's view of a TRANSFER_INIT."""
        party, sources = self._party(identity)
        sources.clock = self._clock
        called = Message.decode(raw).idr(IdRole.RESPONDER)
        groups = frozenset([called] if called and called != party.identity else [])
        return IncomingTransfer(party, raw, replace(self.acceptance, groups=groups))

    def resolve_init(self, incoming: IncomingTransfer) -> Message:
        """A RESOLVE_INIT that is in no vector, with real random values."""
        _, sources = self._party(incoming.identity.decode())
        plain = Sources(clock=lambda: self._clock)
        sources.values = {name: plain.random(size, name) for name, size in (("CSB ID", 4), ("RANDRr", 32))}
        sources.stamps = [plain.timestamp()]
        return incoming.resolve_init()

    def _resolve_init(self, _index: int, raw: bytes, message: Message) -> None:
        assert self.call.incoming
        self._sender(message, message.idr(IdRole.RESPONDER) or b"")
        self._send(raw, self.call.incoming.resolve_init())

    def _resolve_resp(self, _index: int, raw: bytes, _message: Message) -> None:
        incoming = self.call.incoming
        assert incoming
        self._cache.keep(incoming.ticket, incoming.identity, incoming.resolved(raw))
        self.call.resolved = True
        self._note()

    def _transfer_resp(self, _index: int, raw: bytes, message: Message) -> None:
        incoming, outgoing = self.call.incoming, self.call.outgoing
        assert incoming
        assert outgoing
        self._sender(message, incoming.identity)
        if not self.call.resolved:
            self._resolve_without_kms(incoming)
        keys = self._supplied("R", message, [k.spi for k in incoming.session_keys])
        answer = incoming.answer(sessions_of(message), keys, policies=message.find_all(Sp))
        self._send(raw, answer)
        outgoing.complete(raw)
        self._note()

    def _resolve_without_kms(self, incoming: IncomingTransfer) -> None:
        earlier = self._cache.find(incoming.ticket)
        if earlier is not None:
            incoming.reuse(earlier)
        else:
            incoming.resolve_locally(bytes.fromhex(self.config["tpk"]), bytes.fromhex(self.config["tpk_id"]))

    def _update_transfer_init(self, _index: int, raw: bytes, message: Message) -> None:
        first = next(p for p in message.payloads if getattr(p, "role", None) in (1, 2))
        session = self.sessions[
            "I" if getattr(first, "role", 0) == IdRole.INITIATOR else "R", message.hdr.csb_id
        ]
        self._sender(message, getattr(first, "data", b""))
        keys = self._supplied("I", message, [k.spi for k in session.keys])
        update = session.start_update(sessions_of(message), keys, policies=message.find_all(Sp))
        self._send(raw, update)
        self.call.update = session, update

    def _update_transfer_resp(self, _index: int, raw: bytes, message: Message) -> None:
        assert self.call.update
        starter, update = self.call.update
        other = "R" if starter.static.role is Role.INITIATOR else "I"
        session = self.sessions[other, message.hdr.csb_id]
        static = session.static
        self._sender(message, static.identity_i if other == "I" else static.identity_r)
        answer = session.answer_update(update.raw)
        assert answer
        self._send(raw, answer)
        starter.complete_update(raw)

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _party(self, identity: str) -> tuple[Party, ScriptedSources]:
        if identity not in self._parties:
            self._parties[identity] = vector_party(self.config, identity)
        return self._parties[identity]

    def _sender(self, message: Message, identity: bytes) -> Party:
        party, sources = self._party(identity.decode())
        for _, others in self._parties.values():
            others.clock = self._clock
        sources.script(message)
        return party

    def _responder(self, index: int, called: bytes) -> str:
        """Who answers: IDRr of the RESOLVE_INIT that follows, else the one who was called."""
        for entry in self.messages[index + 1 :]:
            if entry["name"] == "RESOLVE_INIT":
                return (Message.decode(bytes.fromhex(entry["hex"])).idr(IdRole.RESPONDER) or called).decode()
            if "TRANSFER" in entry["name"]:
                break
        return called.decode()

    def _supplied(self, role: str, message: Message, known: Iterable[bytes]) -> list[KeyData]:
        """The keys that the message's KEMAC must bring: named by an SPI of its map, and not known yet."""
        wanted = dict.fromkeys(s.spi for s in sessions_of(message) if s.spi and s.spi not in set(known))
        for session in self.expected:
            if (session["role"], session["csb_id"]) == (role, message.hdr.csb_id):
                keys = [build(k) for k in session["keys"]]
                return [k for k in keys if isinstance(k, KeyData) and k.spi in wanted]
        return []

    def _send(self, expected: bytes, made: Message) -> None:
        self.sent.append((expected.hex(), made.raw.hex()))

    def _note(self) -> None:
        """Collect the sessions that were established."""
        for role, transfer in (("I", self.call.outgoing), ("R", self.call.incoming)):
            if transfer is not None and transfer.session is not None:
                self.sessions[role, transfer.message.hdr.csb_id] = transfer.session


def sessions_of(message: Message) -> list[GenericIdSession]:
    """The GENERIC-ID map of a message."""
    return [s for s in message.hdr.sessions if isinstance(s, GenericIdSession)]
