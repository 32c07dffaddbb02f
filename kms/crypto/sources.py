"""Where a party's time and random values come from: one object, so that a test vector can be replayed exactly."""

import os
import threading
import time
from collections.abc import Callable

from kms.mikey import timestamps
from kms.mikey.payloads import T


class Sources:
    """Clock and randomness of one party. Thread-safe.

    `purpose` names what a random value is for, in the RFC's words.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._clock = clock
        self._random = random
        self._last = 0
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    def random(self, length: int, purpose: str) -> bytes:
        """`length` random bytes."""
        return self._random(length)

    def timestamp(self) -> T:
        """A fresh T payload of type NTP-UTC, later than every one this object gave before.

        Two messages under one encr_key must never have the same T: it enters the IV (RFC 3830 4.2.3).
        """
        with self._lock:
            stamp = max(int(self.now() * (1 << 32)), self._last + 1)
            self._last = stamp
        return timestamps.ntp_utc_exact(stamp >> 32, stamp & 0xFFFFFFFF)

    def timestamp_in_lane(self, lane: int) -> T:
        """As `timestamp`, with `lane` (0 or 1) as its lowest bit.

        For two parties that send under the same encr_key (CSB update): in different lanes they never have the same T.
        """
        while True:
            t = self.timestamp()
            if t.value[-1] & 1 == lane:
                return t
