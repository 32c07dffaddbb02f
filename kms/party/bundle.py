"""What the two parties agreed on in a crypto session bundle: crypto sessions, SRTP policies and keys.

Ticket Transfer and CSB update negotiate alike (RFC 6043 4.2.2, 5.2, 6.1.1): the initial message proposes, the response
concludes, and where both name a policy number or a CS ID the response wins (A-42).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from kms.crypto.protection import MessageProtection
from kms.mikey import srtp
from kms.mikey.errors import DecodeError, ProtocolError
from kms.mikey.message import Message
from kms.mikey.payloads import GenericIdSession, Kemac, KeyData, Sp, SrtpSessionData
from kms.mikey.policy import check_spis
from kms.mikey.registry import ErrorNo, KeyType, PrfFunc, ProtType
from kms.mikey.srtp import SrtpPolicy
from kms.party.acceptance import Acceptance
from kms.party.receiving import check_key_length, open_kemac


@dataclass(frozen=True, slots=True)
class Bundle:
    """Crypto sessions by CS ID, SRTP policies by number, and all session keys, in the order they arrived."""

    sessions: Mapping[int, GenericIdSession] = field(default_factory=dict)
    policies: Mapping[int, SrtpPolicy] = field(default_factory=dict)
    keys: tuple[KeyData, ...] = field(default=(), repr=False)

    def key(self, spi: bytes) -> KeyData | None:
        """The key with this SPI, or None."""
        return next((k for k in self.keys if k.spi == spi), None)

    def extended(self, message: Message, keys: Iterable[KeyData] = ()) -> "Bundle":
        """This bundle with what `message` says, and `keys` added. Raises ProtocolError or DecodeError.

        Judges the form alone: each CS ID once, SRTP only, Session Data of the right length, policy numbers known.
        """
        policies = {**self.policies, **srtp.policies(message.find_all(Sp))}
        sessions: dict[int, GenericIdSession] = {}
        for session in map_of(message):
            where = f"{message.name}: CS {session.cs_id}"
            if session.cs_id in sessions:
                raise ProtocolError(f"{where} appears twice", ErrorNo.INVALID_SPPAR)
            if session.prot_type != ProtType.SRTP:
                raise ProtocolError(
                    f"{where}: Prot type {session.prot_type} is not supported", ErrorNo.INVALID_SP
                )
            if any(number not in policies for number in session.policies):
                raise ProtocolError(
                    f"{where} names a policy that no SP payload defines", ErrorNo.INVALID_SPPAR
                )
            if session.session_data:
                _session_data(session)
            sessions[session.cs_id] = session
        added = (*self.keys, *keys)
        check_spis(added)
        return Bundle({**self.sessions, **sessions}, policies, added)

    def check_choice(self, acceptance: Acceptance) -> None:
        """Raise ProtocolError unless each crypto session leaves an acceptable SRTP policy to choose."""
        for session in self.sessions.values():
            if session.policies and not self.acceptable(session, acceptance):
                raise ProtocolError(
                    f"CS {session.cs_id}: none of its SRTP policies is acceptable", ErrorNo.INVALID_SPPAR
                )

    def acceptable(self, session: GenericIdSession, acceptance: Acceptance) -> list[int]:
        """The numbers of the policies proposed for a crypto session that are acceptable, in its order."""
        return [number for number in session.policies if self.policies[number] in acceptance.srtp]

    def confirmed(
        self, session: GenericIdSession, acceptance: Acceptance, new_ssrc: Callable[[], int], spi: bytes = b""
    ) -> GenericIdSession:
        """`session` as a response says it: its first acceptable policy, and an SSRC and SPI if it has none.

        The key is the one that the session names, else the one with this `spi`, else the first of the bundle.
        """
        numbers = session.policies if len(session.policies) == 1 else self.acceptable(session, acceptance)[:1]
        data = session.session_data or SrtpSessionData(new_ssrc()).body()
        first = self.keys[0].spi if self.keys else b""
        return replace(session, policies=tuple(numbers), session_data=data, spi=session.spi or spi or first)

    def profiled(
        self, sessions: dict[int, GenericIdSession], acceptance: Acceptance, taken: Iterable[int] = ()
    ) -> tuple[dict[int, GenericIdSession], "Bundle", list[Sp]]:
        """Crypto sessions without a policy (#P = 0) get the preferred acceptable one, as a response must bring (6.1.1).

        Also gives this bundle with that policy and the SP payload to send. `taken` are policy numbers used otherwise.
        Raises ProtocolError if there is no such policy, or no number left for it.
        """
        if all(session.policies for session in sessions.values()):
            return sessions, self, []
        preferred = next(iter(acceptance.srtp), None)
        number = next(iter(set(range(256)) - {*self.policies, *taken}), None)
        if preferred is None or number is None:
            raise ProtocolError("no SRTP policy can be chosen for a crypto session", ErrorNo.INVALID_SPPAR)
        filled = {i: s if s.policies else replace(s, policies=(number,)) for i, s in sessions.items()}
        return filled, replace(self, policies={**self.policies, number: preferred}), [preferred.sp(number)]

    def check_complete(self, acceptance: Acceptance) -> None:
        """Raise ProtocolError unless each crypto session has one acceptable policy, Session Data and a known key.

        This is what a response must bring (6.1.1, 5.2).
        """
        for session in self.sessions.values():
            where = f"CS {session.cs_id}"
            if len(session.policies) != 1:
                raise ProtocolError(
                    f"{where}: #P must be exactly 1, not {len(session.policies)}", ErrorNo.INVALID_SPPAR
                )
            acceptance.check_srtp(self.policies[session.policies[0]])
            if not session.session_data:
                raise ProtocolError(f"{where}: Session Data is missing", ErrorNo.INVALID_SPPAR)
            if not session.spi:
                raise ProtocolError(f"{where}: SPI is missing", ErrorNo.INVALID_SPPAR)
            if self.key(session.spi) is None:
                raise ProtocolError(f"{where}: no key has its SPI", ErrorNo.INVALID_SPPAR)


def map_of(message: Message) -> tuple[GenericIdSession, ...]:
    """The crypto sessions of a GENERIC-ID map; none for an Empty map. `check_message` has refused SRTP-ID."""
    return tuple(s for s in message.hdr.sessions if isinstance(s, GenericIdSession))


def check_answered(initial: Message, response: Message) -> None:
    """Raise ProtocolError unless the response's map has every crypto session of the initial message's."""
    missing = {s.cs_id for s in map_of(initial)} - {s.cs_id for s in map_of(response)}
    if missing:
        raise ProtocolError(
            f"{response.name}: CS {', '.join(map(str, sorted(missing)))} not answered", ErrorNo.INVALID_SPPAR
        )


def _session_data(session: GenericIdSession) -> SrtpSessionData:
    try:
        return SrtpSessionData.of(session)
    except DecodeError as error:
        raise ProtocolError(str(error), ErrorNo.INVALID_SPPAR) from None


def open_keys(message: Message, protection: MessageProtection, *, allowed: bool) -> tuple[KeyData, ...]:
    """The session keys in the KEMAC of a verified Transfer message; none without KEMAC.

    `allowed` is the flag that lets the sender supply keys, L or M. Raises ProtocolError or DecodeError.
    """
    if message.find(Kemac) is None:
        return ()
    if not allowed:
        raise ProtocolError(
            f"{message.name}: KEMAC although the L or M flag forbids it", ErrorNo.INVALID_TPPAR
        )
    keys = open_kemac(message, protection)
    check_supplied(keys, message.hdr.prf)
    return keys


def check_supplied(keys: Iterable[KeyData], prf: int) -> None:
    """Raise ProtocolError unless session keys that a party supplies have types, lengths (12.1) and SPIs they may."""
    items = tuple(keys)
    for key in items:
        if key.key_type == KeyType.MPK:
            raise ProtocolError("an MPK must not be sent as a session key")
        check_key_length(key)
        if len(key.key) > 16 and prf == PrfFunc.MIKEY_1:
            raise ProtocolError(
                f"the 128-bit suite must not be used with a session key of {len(key.key)} bytes (12.1)"
            )
    check_spis(items)
