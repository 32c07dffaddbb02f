"""The engine pool over real socket pairs, with the other ends in the test's hands."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from kms import link
from kms.engine.v1.link_pb2 import EngineReply, EngineRequest, Outcome, Refusal
from kms.frontend.answering import Answering, Call
from kms.frontend.metrics import Metrics
from kms.frontend.peers import Peers
from kms.frontend.pool import EngineLink, EngineLost, EnginePool, NoIdleEngine
from kms.frontend.replay import MemoryReplayCache, Replayed, digest_of
from kms.frontend.services import CLIENT, REQUEST_TICKET

REQUEST = EngineRequest(mikey_messages=[b"message"])
REPLY = EngineReply(outcomes=[Outcome(mikey_message=b"response")])


def soon() -> float:
    return time.monotonic() + 20.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def add_engine(stack: ExitStack, pool: EnginePool, index: int, pid: int = 1) -> socket.socket:
    """Link an engine to the pool; the engine's end."""
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    pool.add(EngineLink(index, pid, theirs))
    return ours


def test_a_request_and_its_reply(stack: ExitStack, threads: ThreadPoolExecutor) -> None:
    pool = EnginePool(20.0)
    engine = add_engine(stack, pool, 0)
    asked = threads.submit(pool.exchange, REQUEST, soon())
    assert link.receive(engine, EngineRequest) == REQUEST
    assert pool.counts() == (1, 0)
    link.send(engine, REPLY)
    assert asked.result() == REPLY
    assert pool.counts() == (1, 1)


def test_no_engine_until_the_deadline_and_one_that_comes_in_time(
    stack: ExitStack, threads: ThreadPoolExecutor
) -> None:
    pool = EnginePool(20.0)
    with pytest.raises(NoIdleEngine):
        pool.exchange(REQUEST, time.monotonic() + 0.01)
    asked = threads.submit(pool.exchange, REQUEST, soon())
    engine = add_engine(stack, pool, 0)
    link.receive(engine, EngineRequest)
    link.send(engine, REPLY)
    assert asked.result() == REPLY


def test_an_engine_that_died_idle_costs_no_attempt(stack: ExitStack, threads: ThreadPoolExecutor) -> None:
    pool = EnginePool(20.0)
    add_engine(stack, pool, 0).close()
    engine = add_engine(stack, pool, 1)
    asked = threads.submit(pool.exchange, REQUEST, soon())
    link.receive(engine, EngineRequest)
    link.send(engine, REPLY)
    assert asked.result() == REPLY
    assert pool.counts() == (1, 1)


def test_an_engine_that_does_not_answer_is_reported_and_gone(stack: ExitStack) -> None:
    reported: list[EngineLink] = []
    changes: list[int] = []
    pool = EnginePool(0.05, on_timeout=reported.append)
    pool.on_change = changes.append
    engine = add_engine(stack, pool, 3, pid=77)
    with pytest.raises(EngineLost):
        pool.exchange(REQUEST, soon())
    assert [(each.engine, each.engine_pid) for each in reported] == [(3, 77)]
    assert changes == [1, 0]
    link.receive(engine, EngineRequest)
    # Its late answer reaches nobody, least of all the next caller.
    with pytest.raises(link.LinkClosed):
        link.send(engine, REPLY)


def test_a_new_link_replaces_the_old_one_of_its_engine(stack: ExitStack, threads: ThreadPoolExecutor) -> None:
    pool = EnginePool(20.0)
    first = add_engine(stack, pool, 0, pid=1)
    asked = threads.submit(pool.exchange, REQUEST, soon())
    link.receive(first, EngineRequest)
    add_engine(stack, pool, 0, pid=2)
    assert pool.counts() == (1, 1)
    # The old one finishes what it has and is not used again.
    link.send(first, REPLY)
    assert asked.result() == REPLY
    with pytest.raises(link.LinkClosed):
        link.receive(first, EngineRequest)
    assert pool.counts() == (1, 1)
    third = add_engine(stack, pool, 0, pid=3)
    assert pool.counts() == (1, 1)
    asked = threads.submit(pool.exchange, REQUEST, soon())
    link.receive(third, EngineRequest)
    link.send(third, REPLY)
    assert asked.result() == REPLY


def test_a_reply_that_is_no_message_is_a_lost_engine(stack: ExitStack, threads: ThreadPoolExecutor) -> None:
    pool = EnginePool(20.0)
    engine = add_engine(stack, pool, 0)
    asked = threads.submit(pool.exchange, REQUEST, soon())
    link.receive(engine, EngineRequest)
    engine.sendall(b"\x00\x00\x00\x02\xff\xff")
    with pytest.raises(EngineLost):
        asked.result()
    assert pool.counts() == (0, 0)


def test_each_request_gets_its_own_reply(stack: ExitStack, threads: ThreadPoolExecutor) -> None:
    pool = EnginePool(20.0)

    def serve(engine: socket.socket) -> None:
        try:
            while True:
                request = link.receive(engine, EngineRequest)
                link.send(engine, EngineReply(outcomes=[Outcome(mikey_message=request.mikey_messages[0])]))
        except link.LinkClosed:
            return

    engines = [add_engine(stack, pool, index) for index in range(3)]
    servers = [threading.Thread(target=serve, args=(engine,)) for engine in engines]
    for server in servers:
        server.start()
    requests = [EngineRequest(mikey_messages=[b"%d" % number]) for number in range(500)]
    replies = list(threads.map(lambda request: pool.exchange(request, soon()), requests))
    assert [reply.outcomes[0].mikey_message for reply in replies] == [b"%d" % number for number in range(500)]
    assert pool.counts() == (3, 3)
    for engine in engines:
        engine.shutdown(socket.SHUT_RDWR)
    for server in servers:
        server.join()


# --- what the replay cache remembers of each way a message can end


def ask_one(
    stack: ExitStack, threads: ThreadPoolExecutor, reply: EngineReply | None
) -> tuple[Outcome, MemoryReplayCache]:
    """Answer one message with an engine that replies so, or dies twice; the outcome and the cache."""
    pool = EnginePool(20.0)
    cache = MemoryReplayCache(60)
    answering = Answering(pool, cache, Metrics(), threads, Peers({}, Metrics()))
    call = Call.start(CLIENT, REQUEST_TICKET, ["sip:alice@example.com"], None)
    engines = [add_engine(stack, pool, index) for index in range(2)]
    asked: Future[list[Outcome]] = threads.submit(answering.answer, call, [b"message"])
    for engine in engines:
        link.receive(engine, EngineRequest)
        with pytest.raises(Replayed):
            cache.reserve(digest_of(b"message"))
        if reply is not None:
            link.send(engine, reply)
            break
        engine.close()
    (outcome,) = asked.result()
    return outcome, cache


def test_an_answered_message_is_remembered(stack: ExitStack, threads: ThreadPoolExecutor) -> None:
    outcome, cache = ask_one(stack, threads, REPLY)
    assert outcome.mikey_message == b"response"
    assert len(cache) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            EngineReply(outcomes=[Outcome(refusal=Refusal(code=16, reason="AUTHENTICATION_FAILED"))]),
            "AUTHENTICATION_FAILED",
        ),
        (EngineReply(), "ENGINE_FAULT"),
        (EngineReply(outcomes=[Outcome(), Outcome()]), "ENGINE_FAULT"),
        (EngineReply(outcomes=[Outcome()]), "ENGINE_FAULT"),
        (None, "ENGINE_LOST"),
    ],
)
def test_a_message_without_an_answer_is_not_remembered(
    stack: ExitStack, threads: ThreadPoolExecutor, reply: EngineReply | None, reason: str
) -> None:
    outcome, cache = ask_one(stack, threads, reply)
    assert outcome.refusal.reason == reason
    assert len(cache) == 0


def test_a_full_cache_fails_closed(threads: ThreadPoolExecutor) -> None:
    cache = MemoryReplayCache(60, max_entries=0)
    answering = Answering(EnginePool(20.0), cache, Metrics(), threads, Peers({}, Metrics()))
    (outcome,) = answering.answer(
        Call.start(CLIENT, REQUEST_TICKET, ["sip:alice@example.com"], None), [b"message"]
    )
    assert outcome.refusal.reason == "REPLAY_CACHE_FULL"
