"""Who may send what, when, and with which payloads: RFC 6043 4.2 and 5.2 as tables.

`RULES` says which payloads a message has. `TRANSITIONS` says which message may follow in which state of a party.
`check_message` and `check_response` judge a decoded message by them; nothing here touches a key.
"""

from dataclasses import dataclass
from enum import Enum

from kms.mikey.errors import ProtocolError
from kms.mikey.message import Message
from kms.mikey.payloads import Cert, Chash, Err, Idr, Kemac, Payload, Pke, Randr, Sign, Sp, T, Ticket, Tp, V
from kms.mikey.registry import DataType, EncrAlg, ErrorNo, IdRole, MacAlg, MapType, PrfFunc, RandRole

D = DataType

# -- payloads of each message ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """A payload with its role: `role` is an IdRole for IDR, a RandRole for RANDR, else None."""

    kind: type[Payload]
    role: int | None = None

    def __str__(self) -> str:
        return self.kind.NAME if self.role is None else f"{self.kind.NAME} (role {self.role})"

    def holds(self, payload: Payload) -> bool:
        """Whether `payload` belongs into this slot."""
        if not isinstance(payload, self.kind):
            return False
        return self.role is None or (isinstance(payload, Idr | Randr) and payload.role == self.role)


IDR_I, IDR_R, IDR_KMS, IDR_PSK = (Slot(Idr, role) for role in (1, 2, 3, 4))
RAND_I, RAND_R, RAND_KMS = (Slot(Randr, role) for role in (1, 2, 3))
assert (IdRole.INITIATOR, IdRole.PSK, RandRole.KMS) == (1, 4, 3)


def _slots(*kinds: type[Payload] | Slot) -> tuple[Slot, ...]:
    return tuple(k if isinstance(k, Slot) else Slot(k) for k in kinds)


@dataclass(frozen=True, slots=True)
class Rule:
    """A message: `mandatory` once, `optional` at most once, `repeated` any number, `several` once or more.

    `last` is the payload at its end, if one is prescribed; `empty_map` says that it may not have crypto sessions.
    """

    mandatory: tuple[Slot, ...]
    optional: tuple[Slot, ...] = ()
    repeated: tuple[Slot, ...] = ()
    last: type[Payload] | None = V
    empty_map: bool = False
    several: tuple[Slot, ...] = ()


RULES: dict[DataType, Rule] = {
    D.REQUEST_INIT_PSK: Rule(_slots(T, RAND_I, Tp, V), (IDR_I, IDR_KMS, IDR_PSK), empty_map=True),
    D.REQUEST_INIT_PK: Rule(
        _slots(T, RAND_I, Tp, Pke, Sign), _slots(IDR_I, IDR_KMS, Chash), _slots(Cert), Sign, empty_map=True
    ),
    D.REQUEST_RESP: Rule(_slots(T, Ticket, Kemac, V), (IDR_KMS,), empty_map=True),
    D.TRANSFER_INIT: Rule(_slots(T, RAND_I, Ticket, V), _slots(IDR_I, IDR_R, Kemac), _slots(Sp)),
    D.TRANSFER_RESP: Rule(_slots(T, V), _slots(RAND_R, IDR_R, RAND_KMS, Kemac), _slots(Sp)),
    D.RESOLVE_INIT_PSK: Rule(_slots(T, RAND_R, Ticket, V), (IDR_R, IDR_KMS, IDR_PSK), empty_map=True),
    D.RESOLVE_INIT_PK: Rule(
        _slots(T, RAND_R, Ticket, Pke, Sign),
        _slots(IDR_R, IDR_KMS, Chash),
        _slots(Cert),
        Sign,
        empty_map=True,
    ),
    D.RESOLVE_RESP: Rule(_slots(T, Kemac, V), _slots(IDR_KMS, IDR_R, RAND_KMS), empty_map=True),
    D.ERROR: Rule(_slots(T), _slots(V, Sign), _slots(Sp), None, several=_slots(Err)),
}
"""Payloads of each message (4.2.1, 4.2.2, 4.2.3, 5.4)."""

UPDATE_RULES: dict[DataType, Rule] = {
    D.TRANSFER_INIT: Rule(_slots(T, V), _slots(IDR_I, IDR_R, Kemac, RAND_I, RAND_R, Ticket), _slots(Sp)),
    D.TRANSFER_RESP: Rule(_slots(T, V), _slots(IDR_I, IDR_R, Kemac, RAND_I, RAND_R, RAND_KMS), _slots(Sp)),
}
"""Payloads of the messages of a CSB update (5.2)."""


def check_message(message: Message, *allowed: DataType, update: bool = False) -> None:
    """Raise ProtocolError unless `message` is one of the `allowed` types and has the payloads of its rule.

    Known payloads that the rule does not name are ignored; a second copy of one that it names once is refused
    (AMBIGUITIES A-21). Also checks the CS ID map type and that the algorithms are known, not NULL and of one suite.
    `update` is for the Ticket Transfer messages of a CSB update (5.2).
    """
    kind = message.hdr.data_type
    rule = (UPDATE_RULES if update else RULES).get(kind)
    if kind not in allowed or rule is None:
        names = " or ".join(a.name for a in allowed)
        raise ProtocolError(f"{message.name} where {names} is expected", ErrorNo.INVALID_DT)
    for slot in rule.mandatory + rule.optional + rule.several:
        count = sum(slot.holds(p) for p in message.payloads)
        if count > 1 and slot not in rule.several:
            raise ProtocolError(f"{message.name}: {slot} appears {count} times")
        if count == 0 and slot not in rule.optional:
            raise ProtocolError(f"{message.name}: mandatory payload {slot} is missing")
    if rule.last is not None and not isinstance(message.payloads[-1], rule.last):
        raise ProtocolError(f"{message.name}: {rule.last.NAME} must come last")
    if rule.empty_map and (message.hdr.map_type != MapType.EMPTY or message.hdr.cs_count):
        raise ProtocolError(f"{message.name}: #CS must be 0 and the CS ID map type the Empty map")
    if message.hdr.map_type == MapType.SRTP_ID:
        raise ProtocolError(f"{message.name}: the CS ID map type SRTP-ID must not be used (6.1)")
    # HDR of an Error message repeats the PRF func of the failed message, which may be what was refused
    if kind != D.ERROR or message.find(V) is not None:
        _check_algorithms(message)


_STRENGTH: dict[int, int] = {
    PrfFunc.MIKEY_1: 128,
    PrfFunc.PRF_HMAC_SHA_256: 256,
}
_MAC_STRENGTH = {MacAlg.HMAC_SHA_1_160: 128, MacAlg.HMAC_SHA_256_256: 256}
_ENCR_STRENGTH: dict[int, int] = {EncrAlg.AES_CM_128: 128, EncrAlg.AES_KW_128: 128, EncrAlg.AES_CM_256: 256}


def _check_algorithms(message: Message) -> None:
    """NULL is refused (A-15), unknown is refused by its error number, and suites are not mixed (12.1)."""
    suite = _STRENGTH.get(message.hdr.prf)
    if suite is None:
        raise ProtocolError(
            f"{message.name}: PRF func {message.hdr.prf} is not supported", ErrorNo.INVALID_PRF
        )
    for payload in message.payloads:
        if isinstance(payload, V):
            strength = _MAC_STRENGTH.get(payload.auth_alg)
            if strength is None:
                raise ProtocolError(
                    f"{message.name}: V with {payload.auth_alg.name} authentication", ErrorNo.INVALID_MAC
                )
            if strength != suite:
                raise ProtocolError(
                    f"{message.name}: {payload.auth_alg.name} must not be mixed with PRF func {message.hdr.prf}",
                    ErrorNo.INVALID_MAC,
                )
        elif isinstance(payload, Kemac):
            check_kemac(payload, suite, message.name)


def check_kemac(kemac: Kemac, suite: int, where: str) -> None:
    """Raise ProtocolError unless a KEMAC is encrypted by a known algorithm of the suite (128 or 256), without MAC."""
    if kemac.mac_alg != MacAlg.NULL:
        raise ProtocolError(
            f"{where}: KEMAC must use NULL authentication, V has the MAC", ErrorNo.INVALID_MAC
        )
    strength = _ENCR_STRENGTH.get(kemac.encr_alg)
    if strength is None:
        raise ProtocolError(f"{where}: KEMAC with Encr alg {kemac.encr_alg}", ErrorNo.INVALID_EA)
    if strength != suite:
        raise ProtocolError(
            f"{where}: {EncrAlg(kemac.encr_alg).name} must not be mixed with the {suite}-bit suite (12.1)",
            ErrorNo.INVALID_EA,
        )


def check_response(initial: Message, response: Message) -> None:
    """Raise ProtocolError unless HDR of `response` repeats what it must of `initial` (4.2.1.5, 4.2.2.3, A-19)."""
    sent, got = initial.hdr, response.hdr
    same = (sent.prf, sent.csb_id) == (got.prf, got.csb_id)
    if response.hdr.data_type in (D.REQUEST_RESP, D.RESOLVE_RESP):
        same = same and (sent.cs_count, sent.map_type) == (got.cs_count, got.map_type)
    if not same:
        raise ProtocolError(f"{response.name}: HDR does not repeat the fields of {initial.name}")


# -- states of a party -----------------------------------------------------------------------------------------------


class Role(Enum):
    """A party of RFC 6043, in one exchange after the other."""

    INITIATOR = "Initiator"
    RESPONDER = "Responder"


class State(Enum):
    """Where a party is with one crypto session bundle."""

    START = "start"
    REQUESTED = "ticket requested"
    TICKET = "ticket granted"
    OFFERED = "offered"
    RECEIVED = "offer received"
    RESOLVING = "ticket being resolved"
    RESOLVED = "ticket resolved"
    ESTABLISHED = "established"
    UPDATING = "update sent"
    UPDATED = "update received"
    REFUSED = "refused"


SEND, RECEIVE = "send", "receive"
_I, _R, _S = Role.INITIATOR, Role.RESPONDER, State

TRANSITIONS: dict[tuple[Role, State, str, DataType], State] = {
    # Ticket Request (4.2.1)
    (_I, _S.START, SEND, D.REQUEST_INIT_PSK): _S.REQUESTED,
    (_I, _S.START, SEND, D.REQUEST_INIT_PK): _S.REQUESTED,
    (_I, _S.REQUESTED, RECEIVE, D.REQUEST_RESP): _S.TICKET,
    (_I, _S.REQUESTED, RECEIVE, D.ERROR): _S.REFUSED,
    # Ticket Transfer (4.2.2)
    (_I, _S.TICKET, SEND, D.TRANSFER_INIT): _S.OFFERED,
    (_I, _S.OFFERED, RECEIVE, D.TRANSFER_RESP): _S.ESTABLISHED,
    (_I, _S.OFFERED, RECEIVE, D.ERROR): _S.REFUSED,
    (_R, _S.START, RECEIVE, D.TRANSFER_INIT): _S.RECEIVED,
    (_R, _S.RECEIVED, SEND, D.ERROR): _S.REFUSED,
    # Ticket Resolve (4.2.3)
    (_R, _S.RECEIVED, SEND, D.RESOLVE_INIT_PSK): _S.RESOLVING,
    (_R, _S.RECEIVED, SEND, D.RESOLVE_INIT_PK): _S.RESOLVING,
    (_R, _S.RESOLVING, SEND, D.RESOLVE_INIT_PSK): _S.RESOLVING,  # no answer came: the KMS is asked anew
    (_R, _S.RESOLVING, SEND, D.RESOLVE_INIT_PK): _S.RESOLVING,
    (_R, _S.RESOLVING, RECEIVE, D.RESOLVE_RESP): _S.RESOLVED,
    (_R, _S.RESOLVING, RECEIVE, D.ERROR): _S.REFUSED,
    (_R, _S.RESOLVED, SEND, D.TRANSFER_RESP): _S.ESTABLISHED,
    (_R, _S.RESOLVED, SEND, D.ERROR): _S.REFUSED,
    (_R, _S.REFUSED, SEND, D.ERROR): _S.REFUSED,  # the KMS refused: the Initiator is told
    # CSB update, by either side (5.2)
    (_I, _S.ESTABLISHED, SEND, D.TRANSFER_INIT): _S.UPDATING,
    (_R, _S.ESTABLISHED, SEND, D.TRANSFER_INIT): _S.UPDATING,
    (_I, _S.UPDATING, RECEIVE, D.TRANSFER_RESP): _S.ESTABLISHED,
    (_R, _S.UPDATING, RECEIVE, D.TRANSFER_RESP): _S.ESTABLISHED,
    (_I, _S.UPDATING, RECEIVE, D.ERROR): _S.ESTABLISHED,
    (_R, _S.UPDATING, RECEIVE, D.ERROR): _S.ESTABLISHED,
    (_I, _S.ESTABLISHED, RECEIVE, D.TRANSFER_INIT): _S.UPDATED,
    (_R, _S.ESTABLISHED, RECEIVE, D.TRANSFER_INIT): _S.UPDATED,
    (_I, _S.UPDATED, SEND, D.TRANSFER_RESP): _S.ESTABLISHED,
    (_R, _S.UPDATED, SEND, D.TRANSFER_RESP): _S.ESTABLISHED,
    (_I, _S.UPDATED, SEND, D.ERROR): _S.ESTABLISHED,
    (_R, _S.UPDATED, SEND, D.ERROR): _S.ESTABLISHED,
}
"""(role, state, direction, message) -> next state. What is not listed is not allowed."""

SETTLEMENTS: frozenset[tuple[Role, State, State]] = frozenset(
    {
        (_I, _S.START, _S.TICKET),  # the ticket is at hand: reused (5.3), or made by the Initiator
        (_I, _S.OFFERED, _S.ESTABLISHED),  # F = 0: no TRANSFER_RESP
        (_R, _S.RECEIVED, _S.RESOLVED),  # the Responder resolves the ticket itself, or has resolved it before
        (_R, _S.RESOLVED, _S.ESTABLISHED),  # F = 0
        (
            _R,
            _S.RESOLVED,
            _S.REFUSED,
        ),  # the TRANSFER_INIT does not verify with the keys of its ticket (4.2.3.6)
        (_I, _S.UPDATING, _S.ESTABLISHED),  # V = 0: no TRANSFER_RESP in the CSB update
        (_R, _S.UPDATING, _S.ESTABLISHED),
        (_I, _S.UPDATED, _S.ESTABLISHED),
        (_R, _S.UPDATED, _S.ESTABLISHED),
    }
)
"""Steps that need no message: (role, state, next state)."""


class Progress:
    """Where one party is with one bundle; moves only along TRANSITIONS and SETTLEMENTS."""

    def __init__(self, role: Role, state: State = State.START) -> None:
        self.role = role
        self.state = state

    def check(self, direction: str, data_type: DataType) -> State:
        """The state that the message leads to. Raises ProtocolError if it is not allowed now."""
        following = TRANSITIONS.get((self.role, self.state, direction, data_type))
        if following is None:
            raise ProtocolError(
                f"{self.role.value} cannot {direction} {data_type.name} in the state '{self.state.value}'",
                ErrorNo.INVALID_DT,
            )
        return following

    def move(self, direction: str, data_type: DataType) -> None:
        """Check and take the transition. Raises ProtocolError.

        Call it once a received message is authenticated; a TRANSFER_INIT, once it is found acceptable (4.2.2.2).
        """
        self.state = self.check(direction, data_type)

    def settle(self, state: State) -> None:
        """Take a step of SETTLEMENTS. Raises ProtocolError if it is none."""
        if (self.role, self.state, state) not in SETTLEMENTS:
            raise ProtocolError(f"{self.role.value} cannot go from '{self.state.value}' to '{state.value}'")
        self.state = state
