"""A network that damages and loses messages, and the subscribers, tickets, messages and calls on it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from kms.client import Acceptance, Participant
from kms.client.participant import Offer
from kms.crypto.sources import Sources
from kms.engine.directory import TpkRole
from kms.mikey.errors import MikeyError
from kms.mikey.exchange import Role
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, KeyData
from kms.party.credential import Credential
from kms.party.requesting import GrantedTicket
from kms.party.session import Session
from kms.sdk.errors import KmsError, TimedOut
from tests.kms.callers import ALICE, BOBBY, CAROL
from tests.kms.local_kms import LocalEndpoint, LocalKms

NAMES = (ALICE, BOBBY, CAROL)
ANY = Acceptance(required_flags=Flags(0))
SKEW_MARGIN = 40  # seconds, of the 60 that are allowed
Refusal = (MikeyError, KmsError)
Policy = tuple[Flags, tuple[int, int, int], int, list[KeyData]]


@dataclass(frozen=True)
class Damage:
    """What happens to a message: bits flipped in one byte, or its end cut off, or bytes added."""

    kind: str
    place: int
    bits: int

    def of(self, raw: bytes) -> bytes:
        """The damaged message: never the same."""
        if self.kind == "cut":
            return raw[: self.place % len(raw)]
        if self.kind == "add":
            return raw + bytes((self.bits,))
        place = self.place % len(raw)
        return raw[:place] + bytes((raw[place] ^ self.bits,)) + raw[place + 1 :]


damages = st.builds(
    Damage, st.sampled_from(["flip", "flip", "cut", "add"]), st.integers(0, 5000), st.integers(1, 255)
)


class FaultyEndpoint(LocalEndpoint):
    """The connection to the KMS. `fault` strikes the next call, once."""

    def __init__(self, kms: LocalKms, credential: Credential) -> None:
        super().__init__(kms, credential)
        self.fault: str | None = None
        self.damage = Damage("flip", 0, 1)
        self._last = b""

    def request_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        return self._through(super().request_ticket, message)

    def resolve_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        return self._through(super().resolve_ticket, message)

    def _through(self, call: Callable[[bytes], bytes], message: bytes) -> bytes:
        fault, self.fault = self.fault, None
        earlier = self._last
        if fault == "request lost":
            raise TimedOut("lost")
        answer = call(self.damage.of(message) if fault == "request damaged" else message)
        self._last = answer
        if fault == "answer lost" or (fault == "earlier answer" and not earlier):
            raise TimedOut("lost")
        if fault == "earlier answer":
            return earlier
        return self.damage.of(answer) if fault == "answer damaged" else answer


FAULTS = ("request lost", "request damaged", "answer lost", "answer damaged", "earlier answer")
faults = st.none() | st.none() | st.none() | st.sampled_from(FAULTS)


class Subscriber:
    """A participant with a clock of its own, which is `ahead` of the KMS's by some seconds."""

    def __init__(self, kms: LocalKms, name: str) -> None:
        self.name = name
        self.ahead = 0.0
        others = [n for n in NAMES if n != name]
        credential = kms.enrol(name, tpk_roles=list(TpkRole), tpk_peers=others)
        self.endpoint = FaultyEndpoint(kms, credential)
        sources = Sources(clock=lambda: kms.clock() + self.ahead)
        self.sdk = Participant(credential, endpoint=self.endpoint, sources=sources, acceptance=ANY)
        self.used: set[bytes] = set()  # Ticket Data of the calls it has accepted


@dataclass(eq=False)
class Held:
    """A ticket and who has it."""

    owner: Subscriber
    granted: GrantedTicket
    responders: tuple[str, ...]
    keys: list[KeyData]
    suite: int


@dataclass(eq=False)
class Packet:
    """A message on the network. Genuine messages are accepted at most once; `update` numbers a CSB update."""

    call: "Call"
    kind: str
    raw: bytes
    to: Role
    sent: float
    update: int = 0
    accepted: bool = False


@dataclass(eq=False)
class Call:
    """One Ticket Transfer and its bundle.

    `half` are the updates that only one side has applied, `newest` the last update that a side was sent and accepted,
    `altered` says that the Responder got a TRANSFER_INIT with other Initiator Data than was sent.
    """

    held: Held
    callee: Subscriber
    offer: Offer
    sessions: dict[Role, Session] = field(default_factory=dict)
    pending: dict[Role, int] = field(default_factory=dict)
    half: set[int] = field(default_factory=set)
    newest: dict[Role, int] = field(default_factory=dict)
    refused: bool = False
    altered: bool = False

    @property
    def established(self) -> bool:
        """Whether both sides have a session."""
        return len(self.sessions) == 2

    def subscriber(self, role: Role) -> Subscriber:
        """Who plays a role."""
        return self.held.owner if role is Role.INITIATOR else self.callee

    def state(self) -> list[object]:
        """What a refused message must leave as it is."""
        return [(role, s.srtp, s.keys, s.sessions) for role, s in self.sessions.items()]


def covered(raw: bytes) -> bytes:
    """What V of a TRANSFER_INIT covers: all but Initiator Data; and V."""
    message = Message.decode(raw)
    return message.coverage(message.v.mac)


def other(role: Role) -> Role:
    """The other side."""
    return Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR
