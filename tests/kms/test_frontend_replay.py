"""The replay cache against a model, its expiry, its bound and its atomicity."""

import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kms.frontend.replay import CacheFull, MemoryReplayCache, Replayed, digest_of

SKEW = 60
LIFETIME = 2 * SKEW + 60
DIGESTS = [digest_of(bytes([n])) for n in range(6)]
ROOM = 4


class Clocked(MemoryReplayCache):
    """A cache whose clock the test moves."""

    clock = 0.0

    def _now(self) -> float:
        return self.clock


class ReplayCacheMachine(RuleBasedStateMachine):
    """Every order of calls and every passage of time."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Clocked(SKEW, max_entries=ROOM)
        self.reserved: set[bytes] = set()
        self.committed: dict[bytes, float] = {}

    def remembered(self) -> set[bytes]:
        return self.reserved | {d for d, until in self.committed.items() if until > self.cache.clock}

    @rule(digest=st.sampled_from(DIGESTS))
    def reserve(self, digest: bytes) -> None:
        if digest in self.remembered():
            with pytest.raises(Replayed):
                self.cache.reserve(digest)
        elif len(self.remembered()) >= ROOM:
            with pytest.raises(CacheFull):
                self.cache.reserve(digest)
        else:
            self.cache.reserve(digest)
            self.committed.pop(digest, None)
            self.reserved.add(digest)

    @rule(digest=st.sampled_from(DIGESTS), answered=st.booleans())
    def settle(self, digest: bytes, answered: bool) -> None:
        if digest not in self.reserved:
            return
        self.reserved.remove(digest)
        if answered:
            self.cache.commit(digest)
            self.committed[digest] = self.cache.clock + LIFETIME
        else:
            self.cache.release(digest)

    @rule(seconds=st.sampled_from([1, SKEW, LIFETIME - 1, LIFETIME]))
    def wait(self, seconds: float) -> None:
        self.cache.clock += seconds

    @invariant()
    def bounded(self) -> None:
        assert len(self.remembered()) <= len(self.cache) <= ROOM


TestReplayCache = ReplayCacheMachine.TestCase


def test_one_of_many_threads_reserves() -> None:
    cache = MemoryReplayCache(SKEW)
    start = threading.Barrier(8)
    won: list[int] = []

    def reserve(number: int) -> None:
        start.wait()
        try:
            cache.reserve(DIGESTS[0])
        except Replayed:
            return
        won.append(number)

    threads = [threading.Thread(target=reserve, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
