"""The replay cache: no MIKEY message is answered twice."""

import hashlib
import threading
import time
from typing import Protocol

# Clocks that are being slewed, and engines whose clock differs from this one's pace.
_MARGIN_SECONDS = 60
MAX_ENTRIES = 2**19


class Replayed(Exception):
    """The message was answered before, or is being answered."""


class CacheFull(Exception):
    """There is no room to remember one more message, so none may be answered."""


class ReplayCache(Protocol):
    """Reserve before an engine is asked, then commit (it answered) or release (it refused). All calls are atomic."""

    def reserve(self, digest: bytes) -> None:
        """Raises Replayed, CacheFull."""

    def commit(self, digest: bytes) -> None:
        """The message was authentic and answered: remember it."""

    def release(self, digest: bytes) -> None:
        """The message was refused: it may be sent again."""

    def __len__(self) -> int:
        """Number of messages remembered."""


def digest_of(message: bytes) -> bytes:
    """What stands for a message in the cache: SHA-256, 32 bytes."""
    return hashlib.sha256(message).digest()


class MemoryReplayCache:
    """A replay cache for one process. A process that starts anew has forgotten the messages of the last minutes.

    clock_skew: seconds that a message's timestamp may be off. A message is remembered for twice that and a margin:
    the engines refuse it by its timestamp afterwards.
    """

    def __init__(self, clock_skew: float, max_entries: int = MAX_ENTRIES) -> None:
        self._lifetime = 2 * clock_skew + _MARGIN_SECONDS
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._reserved: set[bytes] = set()
        # Digest to the time it is forgotten, in the order of commit, which is the order of that time.
        self._committed: dict[bytes, float] = {}

    def reserve(self, digest: bytes) -> None:
        with self._lock:
            self._forget_expired()
            if digest in self._reserved or digest in self._committed:
                raise Replayed
            if len(self._reserved) + len(self._committed) >= self._max_entries:
                raise CacheFull
            self._reserved.add(digest)

    def commit(self, digest: bytes) -> None:
        with self._lock:
            self._reserved.remove(digest)
            # From now, not from the reservation: the engine looked at its clock in between.
            self._committed[digest] = self._now() + self._lifetime

    def release(self, digest: bytes) -> None:
        with self._lock:
            self._reserved.remove(digest)

    def __len__(self) -> int:
        with self._lock:
            return len(self._reserved) + len(self._committed)

    def _forget_expired(self) -> None:
        now = self._now()
        while self._committed:
            oldest = next(iter(self._committed))
            if self._committed[oldest] > now:
                return
            del self._committed[oldest]

    def _now(self) -> float:
        # Goes on while the machine sleeps, and no one can set it back.
        return time.clock_gettime(time.CLOCK_BOOTTIME)
