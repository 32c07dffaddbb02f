"""The engines as a frontend sees them: one link each, and a queue of those that are idle."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kms import link
from kms.engine.v1.link_pb2 import EngineReply, EngineRequest


class EngineLost(Exception):
    """The engine died, or did not answer in time, with a request in its hands."""


class NoIdleEngine(Exception):
    """No engine became idle before the deadline."""


@dataclass(frozen=True)
class EngineLink:
    """A link to one life of one engine."""

    engine: int
    engine_pid: int
    socket: socket.socket


class EnginePool:
    """Exchanges requests and replies with idle engines. Thread-safe.

    answer_seconds: how long an engine may take for one request.
    on_timeout: called with the link of an engine that took longer; the link is closed by then.

    Attribute on_change: called with the number of linked engines whenever it changes; must not call the pool.
    """

    def __init__(
        self,
        answer_seconds: float,
        on_timeout: Callable[[EngineLink], None] = lambda _link: None,
    ) -> None:
        self._answer_seconds = answer_seconds
        self._on_timeout = on_timeout
        self.on_change: Callable[[int], None] = lambda _count: None
        self._condition = threading.Condition()
        self._links: dict[int, EngineLink] = {}
        self._idle: deque[EngineLink] = deque()

    def add(self, new: EngineLink) -> None:
        """Take a link into use, in place of the one to that engine's previous life."""
        link.limit_waiting(new.socket, self._answer_seconds)
        with self._condition:
            old = self._links.get(new.engine)
            self._links[new.engine] = new
            if old is not None and old in self._idle:
                self._idle.remove(old)
                old.socket.close()
            self._idle.append(new)
            self._condition.notify()
            self.on_change(len(self._links))

    def exchange(self, request: EngineRequest, deadline: float) -> EngineReply:
        """Send a request to an idle engine and return its reply. Tries one engine only.

        deadline (time.monotonic) is for finding an idle engine; once an engine has the request it is given
        answer_seconds, whatever the caller's deadline: its answer decides what the replay cache remembers.
        Raises NoIdleEngine, EngineLost.
        """
        while True:
            chosen = self._take(deadline)
            try:
                link.send(chosen.socket, request)
                break
            except link.LinkClosed:
                # It died while idle: it never saw the request.
                self._drop(chosen)
            except link.LinkError:
                self._drop(chosen)
                self._on_timeout(chosen)
        try:
            reply = link.receive(chosen.socket, EngineReply)
        except link.LinkTimeout:
            self._drop(chosen)
            self._on_timeout(chosen)
            raise EngineLost from None
        except link.LinkError:
            self._drop(chosen)
            raise EngineLost from None
        self._give_back(chosen)
        return reply

    def counts(self) -> tuple[int, int]:
        """How many engines are linked, and how many of them are idle."""
        with self._condition:
            return len(self._links), len(self._idle)

    def _take(self, deadline: float) -> EngineLink:
        with self._condition:
            while not self._idle:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._condition.wait(remaining):
                    raise NoIdleEngine
            return self._idle.popleft()

    def _give_back(self, used: EngineLink) -> None:
        with self._condition:
            if self._links.get(used.engine) is used:
                self._idle.append(used)
                self._condition.notify()
                return
        # Replaced while it answered its last request.
        used.socket.close()

    def _drop(self, dead: EngineLink) -> None:
        dead.socket.close()
        with self._condition:
            if self._links.get(dead.engine) is dead:
                del self._links[dead.engine]
                self.on_change(len(self._links))
