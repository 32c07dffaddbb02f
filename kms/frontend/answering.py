"""From MIKEY messages to outcomes: limits, replay reservation, an engine, and a second one if the first was lost."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from kms.engine.v1.link_pb2 import CalledService, EngineRequest, Operation, Outcome, PeerAnswer
from kms.frontend.errors import refusal
from kms.frontend.metrics import Metrics
from kms.frontend.peers import Peers
from kms.frontend.pool import EngineLost, EnginePool, NoIdleEngine
from kms.frontend.replay import CacheFull, ReplayCache, Replayed, digest_of

MAX_MESSAGE = 65536
# So many messages go to an engine at once: enough that the link costs little, few enough that a batch does not keep
# an engine from other callers for long.
_CHUNK = 16
# How long a caller waits for an idle engine, unless its own deadline is shorter.
_IDLE_SECONDS = 10.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class Call:
    """What the messages of one call have in common.

    tls_identities: URIs of the TLS client certificate. deadline: the caller's own, in time.monotonic, infinite without
    one. idle_deadline: until when an idle engine is waited for.
    """

    called_service: CalledService.ValueType
    operation: Operation.ValueType
    tls_identities: Sequence[str]
    deadline: float
    idle_deadline: float

    @classmethod
    def start(
        cls,
        called_service: CalledService.ValueType,
        operation: Operation.ValueType,
        tls_identities: Sequence[str],
        time_remaining: float | None,
    ) -> "Call":
        """A call that begins now. time_remaining: seconds to the caller's own deadline, None without one."""
        now = time.monotonic()
        deadline = math.inf if time_remaining is None else now + time_remaining
        idle_deadline = min(deadline, now + _IDLE_SECONDS)
        return cls(called_service, operation, tls_identities, deadline, idle_deadline)


class Answering:
    """Answers MIKEY messages. Thread-safe; each message ends as a response or as a refusal of its own.

    executor: runs the parts of a batch side by side.
    """

    def __init__(
        self, pool: EnginePool, replay_cache: ReplayCache, metrics: Metrics, executor: Executor, peers: Peers
    ) -> None:
        self._pool = pool
        self._replay_cache = replay_cache
        self._metrics = metrics
        self._executor = executor
        self._peers = peers

    def answer(self, call: Call, messages: Sequence[bytes]) -> list[Outcome]:
        """One outcome for each message, in order: a response or a refusal."""
        digests = [digest_of(message) for message in messages]
        outcomes = [self._admit(message, digest) for message, digest in zip(messages, digests, strict=True)]
        reserved = [position for position, outcome in enumerate(outcomes) if outcome is None]
        try:
            answers = self._ask_all(call, [messages[position] for position in reserved])
            for position, answer in zip(reserved, answers, strict=True):
                outcomes[position] = answer
        finally:
            for position in reserved:
                self._settle(digests[position], outcomes[position])
        return [outcome for outcome in outcomes if outcome is not None]

    def _admit(self, message: bytes, digest: bytes) -> Outcome | None:
        """Reserve a message in the replay cache, or say why it goes no further."""
        if not message:
            return _refused("MESSAGE_EMPTY")
        if len(message) > MAX_MESSAGE:
            return _refused("MESSAGE_TOO_LARGE")
        try:
            self._replay_cache.reserve(digest)
        except Replayed:
            self._metrics.replays.inc()
            return _refused("REPLAYED")
        except CacheFull:
            return _refused("REPLAY_CACHE_FULL")
        return None

    def _settle(self, digest: bytes, outcome: Outcome | None) -> None:
        """Only a message that was authentic and answered stays in the replay cache."""
        if outcome is not None and outcome.WhichOneof("outcome") == "mikey_message":
            self._replay_cache.commit(digest)
        else:
            self._replay_cache.release(digest)

    def _ask_all(self, call: Call, messages: Sequence[bytes]) -> Sequence[Outcome]:
        """Ask engines, in chunks side by side, and peers where an engine says so."""
        if len(messages) <= _CHUNK:
            outcomes = self._ask(call, messages) if messages else []
        else:
            chunks = [messages[start : start + _CHUNK] for start in range(0, len(messages), _CHUNK)]
            results = self._executor.map(lambda chunk: self._ask(call, chunk), chunks)
            outcomes = [outcome for result in results for outcome in result]
        forwarded = [position for position, outcome in enumerate(outcomes) if outcome.HasField("forward")]
        return self._forward(call, messages, outcomes, forwarded) if forwarded else outcomes

    def _forward(
        self, call: Call, messages: Sequence[bytes], outcomes: Sequence[Outcome], forwarded: Sequence[int]
    ) -> Sequence[Outcome]:
        """Take what is at these positions to the peers. No engine waits meanwhile; one opens each answer afterwards."""
        peer_answers = self._peers.ask([outcomes[position].forward for position in forwarded], call.deadline)

        def finish(position: int, peer_answer: PeerAnswer | None) -> Outcome:
            if peer_answer is None:
                return _refused("PEER_UNAVAILABLE")
            (outcome,) = self._ask(call, [messages[position]], peer_answer)
            return _refused("ENGINE_FAULT") if outcome.HasField("forward") else outcome

        # One after the other for a single call, which has a thread already.
        run = map if len(forwarded) == 1 else self._executor.map
        finished = dict(zip(forwarded, run(finish, forwarded, peer_answers), strict=True))
        return [finished.get(position, outcome) for position, outcome in enumerate(outcomes)]

    def _ask(
        self, call: Call, messages: Sequence[bytes], peer_answer: PeerAnswer | None = None
    ) -> Sequence[Outcome]:
        """Ask an engine. If it is lost, ask once more, one by one: one of the messages may be what killed it."""
        try:
            return self._exchange(call, messages, peer_answer)
        except NoIdleEngine:
            return [_refused("NO_IDLE_ENGINE")] * len(messages)
        except EngineLost:
            self._metrics.engine_losses.inc()
            return [self._ask_again(call, message, peer_answer) for message in messages]

    def _ask_again(self, call: Call, message: bytes, peer_answer: PeerAnswer | None) -> Outcome:
        try:
            return self._exchange(call, [message], peer_answer)[0]
        except NoIdleEngine:
            return _refused("NO_IDLE_ENGINE")
        except EngineLost:
            self._metrics.engine_losses.inc()
            return _refused("ENGINE_LOST")

    def _exchange(
        self, call: Call, messages: Sequence[bytes], peer_answer: PeerAnswer | None
    ) -> Sequence[Outcome]:
        request = EngineRequest(
            called_service=call.called_service,
            operation=call.operation,
            tls_identities=call.tls_identities,
            mikey_messages=messages,
            peer_answer=peer_answer,
        )
        outcomes = self._pool.exchange(request, call.idle_deadline).outcomes
        if len(outcomes) != len(messages) or not all(outcome.WhichOneof("outcome") for outcome in outcomes):
            _log.error("engine answered with other than one outcome for each message")
            return [_refused("ENGINE_FAULT")] * len(messages)
        return outcomes


def _refused(reason: str) -> Outcome:
    return Outcome(refusal=refusal(reason))
