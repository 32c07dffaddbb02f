"""Requests that are on their way: from its headers on, a call has a thread of the server to wait for its request in.

Headers alone cost a client nothing. So no call waits for long, and few of one client longer than a moment.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import structlog

from kms.frontend.errors import Refused, refusal

# For the largest batch over a slow line.
ARRIVAL_SECONDS = 20.0
# A request that is sent right behind its headers is here by then, also when very many come at once.
_MOMENT_SECONDS = 2.0
# Of the server's threads: so many of one client's calls may wait for longer than a moment.
_PATIENT = 8
# For so long a client that had more may not have more calls than that waiting at all.
_HELD_SECONDS = 60.0
_SWEEP_SECONDS = 0.5

_log = structlog.get_logger()


class Arrivals:
    """Receives the requests of calls. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Each waiting call with its client and since when, in the order of that time.
        self._waiting: dict[grpc.ServicerContext, tuple[object, float]] = {}
        self._counts: Counter[object] = Counter()
        self._held: dict[object, float] = {}
        threading.Thread(target=self._sweep_for_ever, name="arrivals", daemon=True).start()

    def receive(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """The request of a call. Raises Refused, or grpc.RpcError if the call ended before its request came."""
        client = tuple(context.peer_identities() or ())
        with self._lock:
            if client in self._held and self._counts[client] >= _PATIENT:
                raise Refused(refusal("TOO_MANY_WAITING"))
            self._counts[client] += 1
            self._waiting[context] = client, time.monotonic()
        try:
            return next(requests)
        except StopIteration:
            raise Refused(refusal("REQUEST_MISSING")) from None
        finally:
            with self._lock:
                del self._waiting[context]
                self._counts[client] -= 1
                if not self._counts[client]:
                    del self._counts[client]

    def _sweep_for_ever(self) -> None:
        while True:
            time.sleep(_SWEEP_SECONDS)
            for context in self._late(time.monotonic()):
                context.cancel()

    def _late(self, now: float) -> list[grpc.ServicerContext]:
        """The calls to end now."""
        late, waited = [], Counter[object]()
        with self._lock:
            self._held = {client: until for client, until in self._held.items() if until > now}
            for context, (client, since) in self._waiting.items():
                if now - since < _MOMENT_SECONDS:
                    break
                waited[client] += 1
                if waited[client] > _PATIENT:
                    self._held[client] = now + _HELD_SECONDS
                if waited[client] > _PATIENT or now - since >= ARRIVAL_SECONDS:
                    late.append(context)
        if late:
            _log.warning("calls ended whose request did not arrive", calls=len(late))
        return late
