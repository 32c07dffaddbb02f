"""The engine process' loop over real sockets: what one peer does to its link is no matter to the others."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kms import link
from kms.engine import process
from kms.engine.v1.link_pb2 import ControlMessage, EngineReply, EngineRequest, LinkAdded, Outcome
from tests.kms.fault_engine import PIN, FaultEngine

LIMIT = 20.0


class Loop:
    """process.run in a thread, and the supervisor's end of its control channel."""

    def __init__(self, home: Path) -> None:
        self.control, theirs = socket.socketpair()
        self.codes: list[int] = []
        admin = link.listen_path(home / "admin.sock")
        engine = FaultEngine(home, PIN, 0)
        self._thread = threading.Thread(
            target=lambda: self.codes.append(process.run(engine, theirs, admin)), daemon=True
        )
        self._thread.start()
        self._sockets = [self.control]

    def add_link(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        link.limit_waiting(ours, LIMIT)
        with theirs:
            link.send(self.control, ControlMessage(link_added=LinkAdded(engine=0)), [theirs.fileno()])
        self._sockets.append(ours)
        return ours

    def end(self) -> int:
        for sock in self._sockets:
            sock.close()
        self._thread.join(LIMIT)
        (code,) = self.codes
        return code


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(tmp_path)
    yield loop
    loop.end()


def ask(sock: socket.socket, *messages: bytes) -> list[Outcome]:
    link.send(sock, EngineRequest(mikey_messages=messages))
    return list(link.receive(sock, EngineReply).outcomes)


def test_the_end_of_the_control_channel_ends_the_loop(loop: Loop) -> None:
    loop.add_link()
    assert loop.end() == 0


def test_a_peer_that_sends_half_a_frame_holds_up_nobody(loop: Loop) -> None:
    slow, other = loop.add_link(), loop.add_link()
    slow.sendall(b"\x00\x00\x00\x10half")
    assert ask(other, b"message")[0].WhichOneof("outcome") == "mikey_message"


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\xff\xff"])
def test_a_peer_that_sends_garbage_loses_its_link_alone(loop: Loop, garbage: bytes) -> None:
    bad, other = loop.add_link(), loop.add_link()
    bad.sendall(garbage)
    with pytest.raises(link.LinkClosed):
        link.receive(bad, EngineReply)
    assert ask(other, b"message")[0].WhichOneof("outcome") == "mikey_message"


def test_a_peer_that_goes_away_with_a_request_open(loop: Loop) -> None:
    leaving, other = loop.add_link(), loop.add_link()
    link.send(leaving, EngineRequest(mikey_messages=[b"message"]))
    leaving.close()
    assert ask(other, b"message")[0].WhichOneof("outcome") == "mikey_message"


def test_a_bug_costs_the_outcome_of_its_message_alone(loop: Loop) -> None:
    outcomes = ask(loop.add_link(), b"one", b"bug", b"refuse", b"two")
    assert [each.WhichOneof("outcome") for each in outcomes] == [
        "mikey_message",
        "refusal",
        "refusal",
        "mikey_message",
    ]
    assert [outcomes[1].refusal.reason, outcomes[2].refusal.reason] == [
        "ENGINE_FAULT",
        "AUTHENTICATION_FAILED",
    ]


def test_a_token_that_is_gone_ends_the_loop_without_a_reply(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    sock = loop.add_link()
    link.send(sock, EngineRequest(mikey_messages=[b"one", b"gone"]))
    loop._thread.join(LIMIT)
    assert loop.codes == [process.EXIT_TOKEN_GONE]
    loop.end()
