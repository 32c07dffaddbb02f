"""What a party remembers between calls: which TRANSFER_INITs it saw, and resolutions of tickets that may be reused."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Flags, Ticket
from kms.mikey.registry import ErrorNo
from kms.party.responder import Resolution


class ReplayCache(Protocol):
    """Which messages were seen (RFC 3830 5.4, RFC 6043 12.4). May be shared by several processes of a focus."""

    def reserve(self, digest: bytes, expires: float) -> None:
        """Atomically note a message; raise ProtocolError (Invalid TS) if it is already there.

        `expires` is in seconds since 1970: from then on the message is refused for its age.
        """

    def release(self, digest: bytes) -> None:
        """Forget a message that turned out not to be authentic, or could not be served."""


class InMemoryReplayCache:
    """A ReplayCache in this process. It holds messages for as long as the clock skew lets them be fresh."""

    def __init__(self, clock: Callable[[], float], limit: int = 1_000_000) -> None:
        """`limit` bounds how many messages are held; beyond it new ones are refused, never old ones forgotten."""
        self._clock = clock
        self._limit = limit
        self._seen: dict[bytes, float] = {}
        self._next_sweep = 0.0
        self._lock = threading.Lock()

    def reserve(self, digest: bytes, expires: float) -> None:
        """See ReplayCache."""
        now = self._clock()
        with self._lock:
            if now >= self._next_sweep or len(self._seen) >= self._limit:
                self._seen = {d: until for d, until in self._seen.items() if until >= now}
                self._next_sweep = now + 10.0
            if digest in self._seen:
                raise ProtocolError("the message was received before (replay)", ErrorNo.INVALID_TS)
            if len(self._seen) >= self._limit:
                raise ProtocolError(f"the replay cache is full ({self._limit} messages)", ErrorNo.INVALID_TS)
            self._seen[digest] = expires

    def release(self, digest: bytes) -> None:
        """See ReplayCache."""
        with self._lock:
            self._seen.pop(digest, None)


class ResolutionCache:
    """Resolutions that may be used again without asking the KMS (RFC 6043 5.3), and tickets that may not be reused.

    Nobody verifies Vr when the KMS is not asked (A-40). So a resolution is used again only if this party itself, by
    its own identity, is the only responder in the ticket: then only the Initiator and this party know MPKi, and V,
    which is always verified, proves the Initiator. With several responders, or a group, any of them could have made V.
    """

    def __init__(self, limit: int = 10_000) -> None:
        """`limit` bounds how many tickets are remembered; the oldest is forgotten first, and then resolved anew."""
        self._limit = limit
        self._tickets: OrderedDict[bytes, Resolution | None] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, ticket: Ticket) -> Resolution | None:
        """A resolution to use again, or None: ask the KMS.

        Raises ProtocolError (Invalid TICKET) if the ticket was used here before and must not be reused (J flag).
        """
        digest = _digest(ticket)
        with self._lock:
            if digest not in self._tickets:
                return None
            found = self._tickets[digest]
        if not ticket.policy.flags & Flags.J:
            raise ProtocolError(
                "the ticket was used before and must not be reused (J flag)", ErrorNo.INVALID_TICKET
            )
        return found

    def keep(self, ticket: Ticket, identity: bytes, resolution: Resolution) -> None:
        """Remember a ticket after the TRANSFER_INIT that brought it was verified. `identity` is the responder's."""
        reusable = ticket.policy.flags & Flags.J and rules.responders(ticket.policy) == (identity,)
        with self._lock:
            self._tickets[_digest(ticket)] = resolution if reusable else None
            while len(self._tickets) > self._limit:
                self._tickets.popitem(last=False)


def _digest(ticket: Ticket) -> bytes:
    """A ticket without Initiator Data, which is another in every TRANSFER_INIT."""
    return hashlib.sha256(ticket.without_initiator_data()).digest()
