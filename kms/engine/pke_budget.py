"""How often one certificate may send a PKE that does not open, before its public-key messages are refused for a while.

A PKE that does not open is refused like a bad signature. A subscriber learns from it that this one did not open, and
Bleichenbacher's attack on somebody else's recorded PKE needs many thousands of such answers: the budget ends it early.
An honest sender never needs it: CHASH tells it when it has an old certificate of the KMS.
"""

from collections.abc import Hashable

BUDGET = 32
"""PKEs that may fail, per certificate and engine, within LOCK_SECONDS of the last one."""
LOCK_SECONDS = 86400


class PkeBudget:
    """Counts failures by certificate, in one engine. Only enrolled users' certificates come here: it is bounded."""

    def __init__(self) -> None:
        self._failures: dict[Hashable, tuple[int, float]] = {}

    def exhausted(self, certificate: Hashable, now: float) -> bool:
        """Whether this certificate's messages are to be refused. Looking does not count."""
        count, last = self._failures.get(certificate, (0, now))
        if now - last > LOCK_SECONDS:
            del self._failures[certificate]
            return False
        return count >= BUDGET

    def spend(self, certificate: Hashable, now: float) -> None:
        """Note a PKE that did not open."""
        count, _ = self._failures.get(certificate, (0, now))
        self._failures[certificate] = (count + 1, now)
